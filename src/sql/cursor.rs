//! A place in a statement's tokens, for reading first words.

use super::lexer::{Token, TokenKind, Tokens, fold_identifier, tokens};

/// A possibly qualified name: schema and name, folded. A catalog before them is dropped.
pub(super) type ObjectName = (Option<String>, String);

#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    sql: &'a [u8],
    tokens: Tokens<'a>,
    current: Option<Token>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(sql: &'a [u8], has_standard_strings: bool) -> Self {
        let mut tokens = tokens(sql, has_standard_strings);
        let current = tokens.next();
        Self { sql, tokens, current }
    }

    pub(super) fn current(&self) -> Option<Token> {
        self.current
    }

    pub(super) fn advance(&mut self) -> Option<Token> {
        std::mem::replace(&mut self.current, self.tokens.next())
    }

    /// Whether the statement is over.
    pub(super) fn is_at_end(&self) -> bool {
        self.current.is_none_or(|token| token.is_punctuation(b';'))
    }

    /// The current word in lower case; empty when it is no word.
    pub(super) fn word(&self) -> String {
        match self.current {
            Some(token) if token.kind == TokenKind::Word => String::from_utf8_lossy(token.text(self.sql)).to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    pub(super) fn is_at(&self, word: &str) -> bool {
        self.current.is_some_and(|token| token.is_word(self.sql, word))
    }

    pub(super) fn take(&mut self, word: &str) -> bool {
        let is_taken = self.is_at(word);
        if is_taken {
            self.advance();
        }
        is_taken
    }

    /// Takes these words in this order, or nothing.
    pub(super) fn take_all(&mut self, words: &[&str]) -> bool {
        let mut ahead = self.clone();
        let is_taken = words.iter().all(|word| ahead.take(word));
        if is_taken {
            *self = ahead;
        }
        is_taken
    }

    /// Takes the first of these words that is there.
    pub(super) fn take_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.take(word))
    }

    pub(super) fn is_at_punctuation(&self, byte: u8) -> bool {
        self.current.is_some_and(|token| token.is_punctuation(byte))
    }

    pub(super) fn take_punctuation(&mut self, byte: u8) -> bool {
        let is_taken = self.is_at_punctuation(byte);
        if is_taken {
            self.advance();
        }
        is_taken
    }

    pub(super) fn take_operator(&mut self, operator: &str) -> bool {
        let is_taken =
            self.current.is_some_and(|token| token.kind == TokenKind::Operator && token.text(self.sql) == operator.as_bytes());
        if is_taken {
            self.advance();
        }
        is_taken
    }

    pub(super) fn is_at_string(&self) -> bool {
        self.current.is_some_and(|token| matches!(token.kind, TokenKind::String(_)))
    }

    /// Takes an identifier, folded.
    pub(super) fn name(&mut self) -> Option<String> {
        let token = self.current?;
        if !matches!(token.kind, TokenKind::Word | TokenKind::QuotedIdentifier) {
            return None;
        }
        self.advance();
        Some(fold_identifier(&String::from_utf8_lossy(token.text(self.sql))).into_owned())
    }

    /// Takes the parts of a dotted name; empty when there is none.
    pub(super) fn name_parts(&mut self) -> Vec<String> {
        let mut parts = Vec::new();
        while let Some(part) = self.name() {
            parts.push(part);
            if !self.take_punctuation(b'.') {
                break;
            }
        }
        parts
    }

    pub(super) fn object_name(&mut self) -> Option<ObjectName> {
        object_name_of(self.name_parts())
    }

    /// Takes a balanced pair of parentheses with what is in it.
    pub(super) fn skip_parentheses(&mut self) -> bool {
        if !self.is_at_punctuation(b'(') {
            return false;
        }
        let mut depth = 0usize;
        while let Some(token) = self.advance() {
            match token.kind {
                TokenKind::Punctuation(b'(') => depth += 1,
                TokenKind::Punctuation(b')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return true;
            }
        }
        false
    }

    /// Goes past the next of this word outside parentheses. False, and at the end, if there is none.
    pub(super) fn skip_past(&mut self, word: &str) -> bool {
        while !self.is_at_end() {
            if self.take(word) {
                return true;
            }
            if !self.skip_parentheses() {
                self.advance();
            }
        }
        false
    }

    /// The text from here to the last token, verbatim.
    pub(super) fn rest(&self) -> String {
        let mut ahead = self.clone();
        let start = self.current.map_or(0, |token| token.start);
        let mut end = start;
        while !ahead.is_at_end() {
            end = ahead.advance().map_or(end, |token| token.end);
        }
        String::from_utf8_lossy(&self.sql[start..end]).into_owned()
    }
}

/// The last two parts of a dotted name.
pub(super) fn object_name_of(mut parts: Vec<String>) -> Option<ObjectName> {
    let name = parts.pop()?;
    Some((parts.pop(), name))
}
