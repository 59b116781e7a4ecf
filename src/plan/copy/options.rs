//! The words of a COPY statement, in the form of today and that of before 9.0 and 7.3.

use std::str::Chars;

use super::super::refusal::{Refusal, RefusalCode};
use super::super::slot::string_content;
use super::super::text::{after_closing, tokens_of};
use super::Format;
use crate::sql::{Literal, LiteralKind, StringKind, Token, TokenKind, fold_identifier};

/// A COPY statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CopyStatement {
    pub(super) relation: Relation,
    pub(super) columns: Vec<String>,
    /// `None`: binary.
    pub(super) format: Option<Format>,
    pub(super) encoding: Option<String>,
    /// Names of columns; `*` for all.
    force_quote: Vec<String>,
}

/// How the data of a COPY … TO is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFormat {
    pub layout: Layout,
    /// The first line of the data has the columns' names.
    pub has_header: bool,
    pub delimiter: u8,
    pub null: Vec<u8>,
    pub quote: u8,
    pub escape: u8,
    /// Names of columns; `*` for all.
    pub force_quote: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Text,
    Csv,
    Binary,
}

impl CopyStatement {
    /// An ENCODING other than UTF-8.
    pub(super) fn foreign_encoding(&self) -> Option<&str> {
        let is_utf8 = |name: &str| name.eq_ignore_ascii_case("utf8") || name.eq_ignore_ascii_case("utf-8");
        self.encoding.as_deref().filter(|name| !is_utf8(name))
    }

    pub(super) fn out_format(&self) -> CopyFormat {
        let force_quote = self.force_quote.clone();
        match &self.format {
            Some(format) => CopyFormat {
                layout: if format.is_csv { Layout::Csv } else { Layout::Text },
                has_header: format.has_header,
                delimiter: format.delimiter,
                null: format.null.clone(),
                quote: format.quote,
                escape: format.escape,
                force_quote,
            },
            None => CopyFormat {
                layout: Layout::Binary,
                has_header: false,
                delimiter: 0,
                null: Vec::new(),
                quote: 0,
                escape: 0,
                force_quote,
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Relation {
    Table(Vec<String>),
    /// Byte range of the query inside of the parentheses.
    Query {
        start: usize,
        end: usize,
    },
}

/// Reads a COPY statement.
pub(super) fn read(sql: &str, has_standard_strings: bool) -> Result<CopyStatement, Refusal> {
    let tokens = tokens_of(sql, has_standard_strings);
    let mut reader = Reader { sql, tokens: &tokens, at: 1 };
    let is_old_binary = reader.take("binary");
    let relation = reader.relation()?;
    let columns = if reader.peek_punctuation(b'(') { reader.names()? } else { Vec::new() };
    // FROM STDIN, TO STDOUT, a file or a program: the class says which.
    reader.at += 1;
    reader.take("program");
    reader.at += 1;
    let kind = if is_old_binary { RawKind::Binary } else { RawKind::Text };
    let mut raw = Raw { kind, ..Raw::default() };
    if reader.take("delimiters") || reader.take("using") {
        return Err(odd("USING DELIMITERS"));
    }
    reader.take("with");
    if reader.peek_punctuation(b'(') {
        reader.new_options(&mut raw)?;
    } else {
        reader.old_options(&mut raw)?;
    }
    let (encoding, force_quote) = (raw.encoding.clone(), std::mem::take(&mut raw.force_quote));
    Ok(CopyStatement { relation, columns, format: raw.format()?, encoding, force_quote })
}

fn odd(what: &str) -> Refusal {
    Refusal::new(RefusalCode::CopyOption, format!("COPY option {what} is not understood"))
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum RawKind {
    #[default]
    Text,
    Csv,
    Binary,
}

/// Options as they were said.
#[derive(Debug, Default)]
struct Raw {
    kind: RawKind,
    has_header: bool,
    delimiter: Option<String>,
    null: Option<String>,
    quote: Option<String>,
    escape: Option<String>,
    encoding: Option<String>,
    force_null: Vec<String>,
    force_not_null: Vec<String>,
    force_quote: Vec<String>,
}

impl Raw {
    fn format(self) -> Result<Option<Format>, Refusal> {
        if self.kind == RawKind::Binary {
            return Ok(None);
        }
        let is_csv = self.kind == RawKind::Csv;
        let one = |text: Option<String>, default: u8, name: &str| match text {
            None => Ok(default),
            Some(text) => match text.as_bytes() {
                [byte] => Ok(*byte),
                _ => Err(odd(name)),
            },
        };
        let quote = one(self.quote, b'"', "QUOTE")?;
        Ok(Some(Format {
            is_csv,
            has_header: self.has_header,
            delimiter: one(self.delimiter, if is_csv { b',' } else { b'\t' }, "DELIMITER")?,
            null: self.null.unwrap_or_else(|| if is_csv { String::new() } else { "\\N".to_owned() }).into_bytes(),
            quote,
            escape: one(self.escape, quote, "ESCAPE")?,
            force_null: self.force_null,
            force_not_null: self.force_not_null,
        }))
    }
}

/// The content of an `E'…'` string of ASCII escapes: `E'\t'`, `E'\\N'`. `None` for what PostgreSQL's manual, "String Constants With
/// C-Style Escapes", has beyond them.
fn escaped(text: &str) -> Option<String> {
    let inner = text.strip_prefix(['E', 'e'])?.strip_prefix('\'')?.strip_suffix('\'')?;
    let mut content = String::new();
    let mut rest = inner.chars();
    while let Some(char) = rest.next() {
        match char {
            '\\' => content.push(escape(&mut rest)?),
            // Two of them stand for one.
            '\'' => content.push(rest.next()?),
            plain => content.push(plain),
        }
    }
    Some(content)
}

/// The character that stands behind a backslash.
fn escape(rest: &mut Chars<'_>) -> Option<char> {
    match rest.next()? {
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'x' => {
            let digits = rest.as_str().bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
            let byte = u8::from_str_radix(rest.as_str().get(..digits)?, 16).ok().filter(u8::is_ascii)?;
            rest.by_ref().take(digits).for_each(drop);
            Some(char::from(byte))
        }
        '0'..='7' | 'u' | 'U' => None,
        other => Some(other),
    }
}

struct Reader<'a> {
    sql: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<Token> {
        self.tokens.get(self.at).copied()
    }

    fn peek_punctuation(&self, byte: u8) -> bool {
        self.peek().is_some_and(|token| token.is_punctuation(byte))
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is_word(self.sql.as_bytes(), word));
        self.at += usize::from(found);
        found
    }

    fn take_punctuation(&mut self, byte: u8) -> bool {
        let found = self.peek_punctuation(byte);
        self.at += usize::from(found);
        found
    }

    fn name(&mut self) -> Result<String, Refusal> {
        let token = self.peek().filter(|token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedIdentifier));
        let token = token.ok_or_else(|| odd("list of names"))?;
        self.at += 1;
        Ok(fold_identifier(self.sql.get(token.start..token.end).unwrap_or_default()).into_owned())
    }

    fn relation(&mut self) -> Result<Relation, Refusal> {
        if let Some(open) = self.peek().filter(|token| token.is_punctuation(b'(')) {
            let after = after_closing(self.tokens, self.at).ok_or_else(|| odd("query"))?;
            self.at = after;
            return Ok(Relation::Query { start: open.end, end: self.tokens[after - 1].start });
        }
        let mut parts = vec![self.name()?];
        while self.take_punctuation(b'.') {
            parts.push(self.name()?);
        }
        Ok(Relation::Table(parts))
    }

    /// `(a, b)`.
    fn names(&mut self) -> Result<Vec<String>, Refusal> {
        let mut names = Vec::new();
        self.at += 1;
        loop {
            names.push(self.name()?);
            if self.take_punctuation(b')') {
                return Ok(names);
            }
            if !self.take_punctuation(b',') {
                return Err(odd("list of names"));
            }
        }
    }

    /// `(a, b)` or `*`.
    fn names_or_all(&mut self) -> Result<Vec<String>, Refusal> {
        if self.peek().is_some_and(|token| self.sql.get(token.start..token.end) == Some("*")) {
            self.at += 1;
            return Ok(vec!["*".to_owned()]);
        }
        self.names()
    }

    /// A string's content, or a word.
    fn text(&mut self) -> Result<String, Refusal> {
        let token = self.peek().ok_or_else(|| odd("value"))?;
        self.at += 1;
        match token.kind {
            TokenKind::String(kind) => {
                let kind = if kind == StringKind::Plain { LiteralKind::PlainString } else { LiteralKind::OtherString };
                let literal = Literal { kind, start: token.start, end: token.end };
                let content = string_content(self.sql.as_bytes(), literal);
                content.or_else(|| escaped(self.sql.get(token.start..token.end)?)).ok_or_else(|| odd("string"))
            }
            TokenKind::Word | TokenKind::QuotedIdentifier | TokenKind::Number => {
                Ok(fold_identifier(self.sql.get(token.start..token.end).unwrap_or_default()).into_owned())
            }
            _ => Err(odd("value")),
        }
    }

    /// A boolean option's value: nothing is true; MATCH is true too.
    fn flag(&mut self) -> Result<bool, Refusal> {
        if self.peek_punctuation(b',') || self.peek_punctuation(b')') {
            return Ok(true);
        }
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" | "match" => Ok(true),
            "false" | "off" | "0" => Ok(false),
            _ => Err(odd("HEADER")),
        }
    }

    fn new_options(&mut self, raw: &mut Raw) -> Result<(), Refusal> {
        self.at += 1;
        loop {
            let name = self.name()?;
            match name.as_str() {
                "format" => match self.text()?.as_str() {
                    "csv" => raw.kind = RawKind::Csv,
                    "text" => {}
                    "binary" => raw.kind = RawKind::Binary,
                    _ => return Err(odd("FORMAT")),
                },
                "header" => raw.has_header = self.flag()?,
                "delimiter" => raw.delimiter = Some(self.text()?),
                "null" => raw.null = Some(self.text()?),
                "quote" => raw.quote = Some(self.text()?),
                "escape" => raw.escape = Some(self.text()?),
                "encoding" => raw.encoding = Some(self.text()?),
                "force_null" => raw.force_null = self.names_or_all()?,
                "force_not_null" => raw.force_not_null = self.names_or_all()?,
                "force_quote" => raw.force_quote = self.names_or_all()?,
                "freeze" => drop(self.flag()?),
                "on_error" | "log_verbosity" => drop(self.text()?),
                _ => return Err(odd(&name.to_uppercase())),
            }
            if self.take_punctuation(b')') {
                return Ok(());
            }
            if !self.take_punctuation(b',') {
                return Err(odd("list"));
            }
        }
    }

    fn old_options(&mut self, raw: &mut Raw) -> Result<(), Refusal> {
        while let Some(token) = self.peek() {
            if token.is_word(self.sql.as_bytes(), "where") {
                return Ok(());
            }
            let name = self.name()?;
            match name.as_str() {
                "binary" => raw.kind = RawKind::Binary,
                "csv" => raw.kind = RawKind::Csv,
                "header" => raw.has_header = true,
                "freeze" => {}
                "delimiter" | "null" | "quote" | "escape" | "encoding" => {
                    self.take("as");
                    let text = Some(self.text()?);
                    match name.as_str() {
                        "delimiter" => raw.delimiter = text,
                        "null" => raw.null = text,
                        "quote" => raw.quote = text,
                        "escape" => raw.escape = text,
                        _ => raw.encoding = text,
                    }
                }
                "force" => self.old_force(raw)?,
                _ => return Err(odd(&name.to_uppercase())),
            }
        }
        Ok(())
    }

    fn old_force(&mut self, raw: &mut Raw) -> Result<(), Refusal> {
        let is_not = self.take("not");
        let list = if self.take("null") {
            if is_not { &mut raw.force_not_null } else { &mut raw.force_null }
        } else {
            self.take("quote");
            &mut raw.force_quote
        };
        loop {
            let token = self.peek().ok_or_else(|| odd("FORCE"))?;
            if self.sql.get(token.start..token.end) == Some("*") {
                self.at += 1;
                list.push("*".to_owned());
            } else {
                list.push(self.name()?);
            }
            if !self.take_punctuation(b',') {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_as_postgres_reads_them() {
        for (text, content) in [
            (r"E'\\N'", Some(r"\N")),
            (r"e'\\\\N'", Some(r"\\N")),
            (r"E'\t'", Some("\t")),
            (r"E'\x7c\x9'", Some("|\t")),
            (r"E'it''s \v'", Some("it's v")),
            (r"E'\x'", None),
            (r"E'\xff'", None),
            (r"E'\011'", None),
            (r"E'\u0041'", None),
            (r"U&'a'", None),
        ] {
            assert_eq!(escaped(text).as_deref(), content, "{text}");
        }
    }
}
