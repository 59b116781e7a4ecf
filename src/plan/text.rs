//! A statement's text: from the parser's lines and columns to bytes, its tokens, and edits at byte positions.

use std::borrow::Cow;
use std::ops::Range;

use sqlparser::ast::Statement;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span};

use super::{Refusal, RefusalCode};
use crate::sql::{Token, TokenKind, tokens};

/// Byte offsets of the parser's locations: lines and columns from 1, columns counted in characters.
#[derive(Debug)]
pub(super) struct Positions {
    line_starts: Vec<usize>,
    is_ascii: bool,
}

impl Positions {
    pub(super) fn of(sql: &str) -> Self {
        let ends = sql.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(idx, _)| idx + 1);
        Self { line_starts: std::iter::once(0).chain(ends).collect(), is_ascii: sql.is_ascii() }
    }

    /// The byte offset of a location; `None` for one that the parser left empty.
    pub(super) fn offset(&self, sql: &str, location: Location) -> Option<usize> {
        let line_idx = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let n_chars = usize::try_from(location.column).ok()?.checked_sub(1)?;
        let line_start = *self.line_starts.get(line_idx)?;
        if self.is_ascii {
            return Some(line_start + n_chars);
        }
        let line = sql.get(line_start..)?;
        line.char_indices().map(|(idx, _)| idx).chain([line.len()]).nth(n_chars).map(|idx| line_start + idx)
    }

    pub(super) fn start(&self, sql: &str, span: Span) -> Option<usize> {
        self.offset(sql, span.start)
    }
}

/// A statement with its syntax tree.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) sql: String,
    pub(super) statement: Statement,
}

/// Whether the parser reads a statement.
pub fn is_readable(sql: &str, has_standard_strings: bool) -> bool {
    parse(sql, has_standard_strings).is_ok()
}

/// Parses one statement.
///
/// # Errors
/// `Unparsed`, with the parser's words and position.
pub(super) fn parse(sql: &str, has_standard_strings: bool) -> Result<Parsed, Refusal> {
    if !has_standard_strings && sql.contains('\\') {
        return Err(Refusal::new(
            RefusalCode::Unparsed,
            "backslashes under standard_conforming_strings = off across shards are not supported",
        ));
    }
    let unparsed = |error: ParserError| {
        let words = match error {
            ParserError::TokenizerError(words) | ParserError::ParserError(words) => words,
            ParserError::RecursionLimitExceeded => "the statement is nested too deep".to_owned(),
        };
        let position = error_position(sql, &words);
        Refusal::new(RefusalCode::Unparsed, format!("the planner cannot read this statement: {words}")).with_position(position)
    };
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, &readable(sql, has_standard_strings)).map_err(unparsed)?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => Ok(Parsed { sql: sql.to_owned(), statement }),
        _ => Err(Refusal::new(RefusalCode::Unparsed, "the planner expects one statement")),
    }
}

/// The text with what the parser does not know blanked out, so that positions stay: `OVERRIDING SYSTEM VALUE`, ONLY before a
/// table's name, all but the `=` of `OPERATOR(pg_catalog.=) ANY`, NO KEY and KEY of locking clauses, and the subscripts of columns that
/// SET sets. None of it changes which rows' keys a statement speaks of. `BETWEEN SYMMETRIC` is read as NOT BETWEEN, which says nothing
/// of keys either. The blanked text is never sent anywhere.
fn readable(sql: &str, has_standard_strings: bool) -> Cow<'_, str> {
    let bytes = sql.as_bytes();
    let contains = |word: &[u8]| bytes.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    if ![&b"overriding"[..], b"only", b"operator", b"key", b"[", b"symmetric"].into_iter().any(contains) {
        return Cow::Borrowed(sql);
    }
    let tokens = tokens_of(sql, has_standard_strings);
    let is = |token: &Token, words: &[&str]| words.iter().any(|word| token.is_word(bytes, word));
    let mut text = sql.to_owned();
    for (idx, token) in tokens.iter().enumerate() {
        let next = |n: usize, words: &[&str]| tokens.get(idx + n).is_some_and(|token| is(token, words));
        if is(token, &["operator"])
            && let Some([open, schema, dot, equal, close, quantifier, ..]) = tokens.get(idx + 1..)
            && open.is_punctuation(b'(')
            && is(schema, &["pg_catalog"])
            && dot.is_punctuation(b'.')
            && equal.text(bytes) == b"="
            && close.is_punctuation(b')')
            && is(quantifier, &["any", "all", "some"])
        {
            text.replace_range(token.start..equal.start, &" ".repeat(equal.start - token.start));
            text.replace_range(close.start..close.end, " ");
            continue;
        }
        let is_negated = |idx: usize| idx > 0 && is(&tokens[idx - 1], &["not"]);
        if is(token, &["between"]) && next(1, &["symmetric"]) && !is_negated(idx) {
            let range = token.start..tokens[idx + 1].end;
            text.replace_range(range.clone(), &format!("{:1$}", "NOT BETWEEN", range.len()));
            continue;
        }
        let follows_between = idx > 0 && is(&tokens[idx - 1], &["between"]);
        let range = if follows_between && (is(token, &["asymmetric"]) || is(token, &["symmetric"]) && is_negated(idx - 1)) {
            token.start..token.end
        } else if is(token, &["for"]) && next(1, &["no"]) && next(2, &["key"]) && next(3, &["update"]) {
            tokens[idx + 1].start..tokens[idx + 2].end
        } else if is(token, &["for"]) && next(1, &["key"]) && next(2, &["share"]) {
            tokens[idx + 1].start..tokens[idx + 1].end
        } else if let Some(end) = subscript_end(sql, &tokens, idx) {
            token.start..end
        } else if is(token, &["overriding"]) && next(1, &["system", "user"]) && next(2, &["value"]) {
            token.start..tokens[idx + 2].end
        } else if is(token, &["only"])
            && idx > 0
            && !is(&tokens[idx - 1], &["row", "rows", "as"])
            && !tokens[idx - 1].is_punctuation(b'.')
        {
            token.start..token.end
        } else {
            continue;
        };
        text.replace_range(range.clone(), &" ".repeat(range.len()));
    }
    Cow::Owned(text)
}

/// Where the subscripts end that begin at a token, if they are those of a column which SET sets: `SET a[1] = 2, b['x'] = 3`. What calls
/// or reads something within them is left to the parser.
fn subscript_end(sql: &str, tokens: &[Token], start_idx: usize) -> Option<usize> {
    if !tokens[start_idx].is_punctuation(b'[') || start_idx < 2 {
        return None;
    }
    let bytes = sql.as_bytes();
    let is_column = matches!(tokens[start_idx - 1].kind, TokenKind::Word | TokenKind::QuotedIdentifier);
    // Back to SET, past whole assignments.
    let mut depth = 0;
    let set_idx = tokens[..start_idx].iter().rposition(|token| {
        depth += nesting(*token);
        let clauses = ["set", "where", "from", "returning", "select", "on", "when"];
        depth == 0 && clauses.iter().any(|word| token.is_word(bytes, word))
    })?;
    let begins = set_idx == start_idx - 2 || tokens[start_idx - 2].is_punctuation(b',');
    if !is_column || !begins || !tokens[set_idx].is_word(bytes, "set") {
        return None;
    }
    let end_idx = start_idx + tokens[start_idx..].iter().position(|token| token.text(bytes) == b"=")?;
    let within = &tokens[start_idx..end_idx];
    let is_plain =
        within.iter().all(|token| !token.is_punctuation(b'(') && !token.is_punctuation(b',') && token.text(bytes).is_ascii());
    let end = within.last()?;
    (is_plain && end.is_punctuation(b']')).then_some(end.end)
}

/// The one-based character position in the parser's "… at Line: 1, Column: 8".
fn error_position(sql: &str, words: &str) -> Option<usize> {
    let (_, rest) = words.rsplit_once("Line: ")?;
    let (line, column) = rest.split_once(", Column: ")?;
    let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
    let location = Location { line: line.parse().ok()?, column: digits.parse().ok()? };
    let offset = Positions::of(sql).offset(sql, location)?;
    Some(sql.get(..offset)?.chars().count() + 1)
}

/// The tokens of a statement, without a trailing semicolon.
pub(super) fn tokens_of(sql: &str, has_standard_strings: bool) -> Vec<Token> {
    let mut all: Vec<Token> = tokens(sql.as_bytes(), has_standard_strings).collect();
    while all.last().is_some_and(|token| token.is_punctuation(b';')) {
        all.pop();
    }
    all
}

/// Whether a token opens or closes a nesting: +1, -1 or 0.
pub(super) fn nesting(token: Token) -> i32 {
    match token.kind {
        TokenKind::Punctuation(b'(' | b'[') => 1,
        TokenKind::Punctuation(b')' | b']') => -1,
        _ => 0,
    }
}

/// Token ranges between commas that are not nested.
pub(super) fn split_commas(all: &[Token], range: Range<usize>) -> Vec<Range<usize>> {
    let (mut parts, mut start, mut depth) = (Vec::new(), range.start, 0);
    for idx in range.clone() {
        depth += nesting(all[idx]);
        if depth == 0 && all[idx].is_punctuation(b',') {
            parts.push(start..idx);
            start = idx + 1;
        }
    }
    parts.push(start..range.end);
    parts
}

/// The index after the parenthesis that closes the one at `open`.
pub(super) fn after_closing(all: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0;
    for (idx, token) in all.iter().enumerate().skip(open) {
        depth += nesting(*token);
        if depth == 0 {
            return Some(idx + 1);
        }
    }
    None
}

/// The bytes from the first to the last token of a range.
pub(super) fn byte_range(all: &[Token], range: &Range<usize>) -> Range<usize> {
    match all.get(range.clone()) {
        Some([first, .., last]) => first.start..last.end,
        Some([only]) => only.start..only.end,
        _ => 0..0,
    }
}

/// The text from the first to the last token of a range.
pub(super) fn text_of<'a>(sql: &'a str, all: &[Token], range: &Range<usize>) -> &'a str {
    sql.get(byte_range(all, range)).unwrap_or_default()
}

/// Replacements of byte ranges of one text.
#[derive(Debug, Default, Clone)]
pub(super) struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    pub(super) fn replace(&mut self, range: Range<usize>, text: impl Into<String>) {
        self.0.push((range, text.into()));
    }

    pub(super) fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.replace(at..at, text);
    }

    /// Where the part that an edit at `start` replaces ends.
    pub(super) fn end_of_edit_at(&self, start: usize) -> Option<usize> {
        self.0.iter().find(|(at, _)| at.start == start).map(|(at, _)| at.end)
    }

    /// Whether an edit falls into the range.
    pub(super) fn touches(&self, range: &Range<usize>) -> bool {
        self.0.iter().any(|(at, _)| at.start >= range.start && at.end <= range.end)
    }

    /// The part `range` of `sql` with the edits that fall into it. Of two edits that overlap the first one counts.
    pub(super) fn apply(&self, sql: &str, range: Range<usize>) -> String {
        let mut edits: Vec<&(Range<usize>, String)> =
            self.0.iter().filter(|(at, _)| at.start >= range.start && at.end <= range.end).collect();
        edits.sort_by_key(|(at, _)| at.start);
        let (mut text, mut position) = (String::with_capacity(range.len() + 64), range.start);
        for (at, new) in edits {
            if at.start < position {
                continue;
            }
            text.push_str(sql.get(position..at.start).unwrap_or_default());
            text.push_str(new);
            position = at.end;
        }
        text.push_str(sql.get(position..range.end).unwrap_or_default());
        text
    }
}

/// `name` as a quoted identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
