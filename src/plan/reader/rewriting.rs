//! The parser's tokens of a text, and what is said to it instead of some.

use std::collections::BTreeMap;

use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// Words after which an operand begins, so that a token which follows them does not follow an operand.
const BEFORE_OPERAND: &[&str] = &[
    "all",
    "and",
    "any",
    "as",
    "asymmetric",
    "between",
    "by",
    "case",
    "default",
    "distinct",
    "else",
    "escape",
    "except",
    "for",
    "from",
    "having",
    "ilike",
    "in",
    "intersect",
    "is",
    "like",
    "limit",
    "not",
    "offset",
    "on",
    "or",
    "returning",
    "select",
    "set",
    "similar",
    "some",
    "symmetric",
    "then",
    "to",
    "union",
    "using",
    "values",
    "variadic",
    "when",
    "where",
];

/// Tokens without white space, each of which may be left out, replaced, or have others before it.
#[derive(Debug)]
pub(super) struct Rewriting {
    tokens: Vec<TokenWithSpan>,
    instead: BTreeMap<usize, Vec<Token>>,
    before: BTreeMap<usize, Vec<Token>>,
    pub(super) is_loose: bool,
    /// Where TABLE was read as `SELECT * FROM`.
    pub(super) table_commands: Vec<Location>,
}

impl Rewriting {
    pub(super) fn of(mut tokens: Vec<TokenWithSpan>) -> Self {
        tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
        Self { tokens, instead: BTreeMap::new(), before: BTreeMap::new(), is_loose: false, table_commands: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn get(&self, idx: usize) -> Option<&Token> {
        self.tokens.get(idx).map(|token| &token.token)
    }

    pub(super) fn is(&self, idx: usize, token: &Token) -> bool {
        self.get(idx) == Some(token)
    }

    /// The unquoted word at a token.
    pub(super) fn word(&self, idx: usize) -> Option<&str> {
        match self.get(idx)? {
            Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    /// Whether unquoted words stand here one after the other; `|` separates those of which one may stand in a place.
    pub(super) fn has_words(&self, idx: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, alternatives)| {
            self.word(idx + n).is_some_and(|word| alternatives.split('|').any(|one| word.eq_ignore_ascii_case(one)))
        })
    }

    /// The same for the words that end before `idx`.
    pub(super) fn follows(&self, idx: usize, words: &[&str]) -> bool {
        idx.checked_sub(words.len()).is_some_and(|start| self.has_words(start, words))
    }

    /// Whether the token before is this one.
    pub(super) fn follows_token(&self, idx: usize, token: &Token) -> bool {
        idx.checked_sub(1).is_some_and(|before| self.is(before, token))
    }

    pub(super) fn is_string(&self, idx: usize) -> bool {
        matches!(
            self.get(idx),
            Some(Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_) | Token::UnicodeStringLiteral(_))
        )
    }

    /// Whether a token is of the characters of operators.
    pub(super) fn is_operator(&self, idx: usize) -> bool {
        match self.get(idx) {
            None | Some(Token::Word(_) | Token::Number(..) | Token::Placeholder(_) | Token::EOF) => false,
            Some(Token::LParen | Token::RParen | Token::Comma | Token::Period | Token::SingleQuotedString(_)) => false,
            Some(Token::Eq | Token::Mul | Token::Plus | Token::Minus) => true,
            Some(token) => token.to_string().bytes().all(|byte| b"+-*/<>=~!@#%^&|`?".contains(&byte)),
        }
    }

    /// A token with the one before.
    fn neighbours(&self, idx: usize) -> Option<(&TokenWithSpan, &TokenWithSpan)> {
        self.tokens.get(idx.checked_sub(1)?).zip(self.tokens.get(idx))
    }

    /// Whether nothing is between a token and the one before.
    pub(super) fn touches(&self, idx: usize) -> bool {
        self.neighbours(idx).is_some_and(|(before, token)| before.span.end == token.span.start)
    }

    /// Whether a token begins in a later line than the one before ends.
    pub(super) fn begins_line(&self, idx: usize) -> bool {
        self.neighbours(idx).is_some_and(|(before, token)| before.span.end.line < token.span.start.line)
    }

    /// Whether the token before ends an operand: what comes then cannot begin one.
    pub(super) fn follows_operand(&self, idx: usize) -> bool {
        let Some(before) = idx.checked_sub(1) else { return false };
        match self.get(before) {
            Some(Token::RParen | Token::RBracket | Token::Number(..) | Token::Placeholder(_) | Token::Period) => true,
            Some(Token::Word(word)) => {
                word.quote_style.is_some() || !BEFORE_OPERAND.iter().any(|known| word.value.eq_ignore_ascii_case(known))
            }
            Some(_) => self.is_string(before),
            None => false,
        }
    }

    /// The first token of the name, qualified or not, that ends before `end`.
    pub(super) fn start_of_name(&self, end: usize) -> Option<usize> {
        let start = end.checked_sub(1).filter(|&idx| matches!(self.get(idx), Some(Token::Word(_))))?;
        if self.follows_token(start, &Token::Period) { self.start_of_name(start - 1) } else { Some(start) }
    }

    /// The parenthesis that closes the one at `open`.
    pub(super) fn closing(&self, open: usize) -> Option<usize> {
        self.end_of_nesting(open..self.len())
    }

    /// The parenthesis that opens what the one at `close` closes.
    pub(super) fn opening(&self, close: usize) -> Option<usize> {
        self.end_of_nesting((0..=close).rev())
    }

    /// Where as many parentheses are closed as were opened, in either direction.
    fn end_of_nesting(&self, mut idxs: impl Iterator<Item = usize>) -> Option<usize> {
        let mut depth = 0_i32;
        idxs.find(|&idx| {
            depth += match self.get(idx) {
                Some(Token::LParen) => 1,
                Some(Token::RParen) => -1,
                _ => 0,
            };
            depth == 0
        })
    }

    /// The tokens right within the parentheses at `open`, not within others.
    pub(super) fn within(&self, open: usize) -> Vec<usize> {
        let Some(close) = self.closing(open) else { return Vec::new() };
        let (mut depth, mut direct) = (0_usize, Vec::new());
        for idx in open + 1..close {
            match self.get(idx) {
                Some(Token::LParen) => depth += 1,
                Some(Token::RParen) => depth = depth.saturating_sub(1),
                _ if depth == 0 => direct.push(idx),
                _ => {}
            }
        }
        direct
    }

    /// Whether the token was left out or replaced.
    pub(super) fn is_changed(&self, idx: usize) -> bool {
        self.instead.contains_key(&idx)
    }

    pub(super) fn replace(&mut self, idx: usize, tokens: impl Into<Vec<Token>>) {
        self.instead.insert(idx, tokens.into());
    }

    pub(super) fn leave_out(&mut self, range: std::ops::Range<usize>) {
        for idx in range {
            self.replace(idx, []);
        }
    }

    pub(super) fn insert(&mut self, idx: usize, tokens: impl IntoIterator<Item = Token>) {
        self.before.entry(idx).or_default().extend(tokens);
    }

    /// Says that a TABLE is `SELECT * FROM`.
    pub(super) fn read_as_select(&mut self, idx: usize) {
        self.replace(idx, [word("SELECT"), Token::Mul, word("FROM")]);
        self.table_commands.extend(self.tokens.get(idx).map(|token| token.span.start));
    }

    pub(super) fn is_rewritten(&self) -> bool {
        !self.instead.is_empty() || !self.before.is_empty()
    }

    /// Where words were left out or replaced.
    pub(super) fn unsaid(&self) -> impl Iterator<Item = Location> {
        let words = self.instead.keys().filter_map(|idx| self.tokens.get(*idx));
        words.filter(|token| matches!(token.token, Token::Word(_))).map(|token| token.span.start)
    }

    /// What the parser is given: tokens that were put in are at the places of those beside which they stand.
    pub(super) fn into_tokens(self) -> Vec<TokenWithSpan> {
        let Self { tokens, mut instead, mut before, .. } = self;
        if instead.is_empty() && before.is_empty() {
            return tokens;
        }
        let (n_tokens, end) = (tokens.len(), tokens.last().map(|token| token.span));
        let mut all = Vec::with_capacity(n_tokens + 8);
        for (idx, token) in tokens.into_iter().enumerate() {
            let span = token.span;
            let put = |new: Token| TokenWithSpan::new(new, span);
            all.extend(before.remove(&idx).into_iter().flatten().map(put));
            match instead.remove(&idx) {
                Some(others) => all.extend(others.into_iter().map(put)),
                None => all.push(token),
            }
        }
        if let Some(span) = end {
            all.extend(before.remove(&n_tokens).into_iter().flatten().map(|new| TokenWithSpan::new(new, span)));
        }
        all
    }
}

pub(super) fn word(text: &str) -> Token {
    Token::make_word(text, None)
}
