//! A statement's text: from the parser's lines and columns to bytes, its tokens, and edits at byte positions.

use std::ops::Range;

use sqlparser::tokenizer::{Location, Span};

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
