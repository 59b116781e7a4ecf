//! A lexer for Postgres's SQL: src/backend/parser/scan.l told in one pass, without copying.
//!
//! It follows PostgreSQL 16's rules (`0x1F`, `1_000`), which older servers refuse. Text must be in an encoding whose
//! multi-byte characters have no ASCII bytes, as every server encoding is; the client encodings SJIS, BIG5, GBK, UHC,
//! GB18030, JOHAB and SHIFT_JIS_2004 are not, and their text cannot be told apart here.

use std::borrow::Cow;

use super::scan::{self, Class, class_of};

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
    /// Any of these in several pieces with line ends between: `'a'⏎'b'`.
    Continued,
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
    /// Operator characters run together, `::`, `:=`, `..`, `=>` too.
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

    #[inline]
    fn next(&mut self) -> Option<Token> {
        let (start, is_closed) = scan::skip_gap(self.sql, self.position);
        let first = *self.sql.get(start)?;
        Some(self.take(start, first, is_closed))
    }
}

/// What stands next in a text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    /// A word, which is [`TokenKind::Word`] and nothing else, begins here. The caller finds its end.
    Word(usize),
    Token(Token),
    End,
}

impl Tokens<'_> {
    /// The next token, unless it is a word: only its beginning is then known, and [`Self::go_on_at`] is to be called.
    #[inline]
    pub(super) fn next_unless_word(&mut self) -> Next {
        let (start, is_closed) = scan::skip_gap(self.sql, self.position);
        match self.sql.get(start) {
            Some(&first) if is_closed && class_of(first) == Class::Word && !self.has_prefix(start) => Next::Word(start),
            Some(&first) => Next::Token(self.take(start, first, is_closed)),
            None => Next::End,
        }
    }

    /// Goes on behind the word that [`Self::next_unless_word`] has found.
    pub(super) fn go_on_at(&mut self, position: usize) {
        self.position = position;
    }

    /// Whether a quote may belong to the letter at `start`, as in `E'…'` and `U&"…"`.
    #[inline]
    fn has_prefix(&self, start: usize) -> bool {
        matches!(self.sql.get(start + 1), Some(b'\'' | b'&'))
    }

    /// Takes the token that starts at `start` with byte `first`; what does not close is invalid up to the text's end.
    #[inline]
    fn take(&mut self, start: usize, first: u8, is_closed: bool) -> Token {
        let scanned = if is_closed { self.scan_token(start, first) } else { None };
        let (kind, end) = scanned.unwrap_or((TokenKind::Invalid, self.sql.len()));
        self.position = end;
        Token { kind, start, end }
    }

    /// The token that starts at `start` with byte `first`, and where it ends; `None` for what scan.l would refuse.
    #[inline]
    fn scan_token(&self, start: usize, first: u8) -> Option<(TokenKind, usize)> {
        let sql = self.sql;
        match class_of(first) {
            Class::Word => self.word(start, first),
            Class::Digit => Some((TokenKind::Number, scan::number_end(sql, start))),
            Class::Dot => Some(match sql.get(start + 1) {
                Some(b'0'..=b'9') => (TokenKind::Number, scan::number_end(sql, start)),
                Some(b'.') => (TokenKind::Operator, start + 2),
                _ => (TokenKind::Punctuation(first), start + 1),
            }),
            Class::Colon => Some(match sql.get(start + 1) {
                Some(b':' | b'=') => (TokenKind::Operator, start + 2),
                _ => (TokenKind::Punctuation(first), start + 1),
            }),
            Class::Punctuation => Some((TokenKind::Punctuation(first), start + 1)),
            Class::Operator => Some((TokenKind::Operator, scan::operator_end(sql, start))),
            Class::Quote => {
                let kind = if self.has_standard_strings { StringKind::Plain } else { StringKind::Escape };
                self.string(start, kind)
            }
            Class::DoubleQuote => Some((TokenKind::QuotedIdentifier, scan::quoted_identifier_end(sql, start)?)),
            Class::Dollar => self.dollar(start),
            Class::Space | Class::Stray => None,
        }
    }

    /// A word, or a literal or identifier with a letter before its quote.
    #[inline]
    fn word(&self, start: usize, first: u8) -> Option<(TokenKind, usize)> {
        let second = self.sql.get(start + 1).copied();
        match (first, second) {
            (b'e' | b'E', Some(b'\'')) => self.string(start + 1, StringKind::Escape),
            (b'b' | b'B' | b'x' | b'X', Some(b'\'')) => self.string(start + 1, StringKind::Bit),
            (b'n' | b'N', Some(b'\'')) => self.string(start + 1, StringKind::National),
            (b'u' | b'U', Some(b'&')) => match self.sql.get(start + 2) {
                // Postgres refuses U&'…' while standard_conforming_strings is off.
                Some(b'\'') if !self.has_standard_strings => None,
                Some(b'\'') => self.string(start + 2, StringKind::Unicode),
                Some(b'"') => Some((TokenKind::QuotedIdentifier, scan::quoted_identifier_end(self.sql, start + 2)?)),
                _ => Some((TokenKind::Word, start + 1)),
            },
            _ => Some((TokenKind::Word, scan::word_end(self.sql, start))),
        }
    }

    /// A string whose opening quote is at `open`.
    fn string(&self, open: usize, kind: StringKind) -> Option<(TokenKind, usize)> {
        let body = match kind {
            StringKind::Escape => scan::Body::Escapes,
            StringKind::National if !self.has_standard_strings => scan::Body::Escapes,
            StringKind::Bit => scan::Body::Bare,
            _ => scan::Body::Doubling,
        };
        let (end, is_continued) = scan::string_end(self.sql, open, body)?;
        Some((TokenKind::String(if is_continued { StringKind::Continued } else { kind }), end))
    }

    fn dollar(&self, start: usize) -> Option<(TokenKind, usize)> {
        if !self.sql.get(start + 1)?.is_ascii_digit() {
            return Some((TokenKind::String(StringKind::Dollar), scan::dollar_string_end(self.sql, start)?));
        }
        let mut end = start + 1;
        let mut number: u16 = 0;
        while let Some(digit @ b'0'..=b'9') = self.sql.get(end) {
            // A message has at most 65535 parameters, so a larger number names none.
            number = number.checked_mul(10)?.checked_add(u16::from(digit - b'0'))?;
            end += 1;
        }
        Some((TokenKind::Parameter(number), end))
    }
}

/// Longest identifier, in bytes: NAMEDATALEN less its terminator.
const MAX_IDENTIFIER_BYTES: usize = 63;

/// An identifier as Postgres stores it: unquoted ones lower-cased (ASCII), quoted ones unquoted; cut to 63 bytes.
///
/// `U&"…"` is read with the default escape character.
pub fn fold_identifier(text: &str) -> Cow<'_, str> {
    if let Some(inner) = text.strip_prefix('"') {
        return cut(unquoted(inner));
    }
    if let Some(inner) = text.strip_prefix("U&\"").or_else(|| text.strip_prefix("u&\"")) {
        let unquoted = unquoted(inner);
        return cut(scan::unicode_unescaped(&unquoted).map_or(unquoted, Cow::Owned));
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return cut(Cow::Owned(text.to_ascii_lowercase()));
    }
    cut(Cow::Borrowed(text))
}

/// What stands between double quotes; `inner` starts after the opening one.
fn unquoted(inner: &str) -> Cow<'_, str> {
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    if inner.contains("\"\"") { Cow::Owned(inner.replace("\"\"", "\"")) } else { Cow::Borrowed(inner) }
}

fn cut(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.len() <= MAX_IDENTIFIER_BYTES {
        return name;
    }
    let end = (0..=MAX_IDENTIFIER_BYTES).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(&name[..end]),
        Cow::Owned(mut name) => {
            name.truncate(end);
            Cow::Owned(name)
        }
    }
}

/// Bytes with many of those that the lexer looks at.
#[cfg(test)]
pub(super) fn sqlish() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let bytes = prop::sample::select(b"'\"$\\/*-\n eEbxuUnN&_01.:;,()=+?@a".as_slice());
    prop::collection::vec(prop_oneof![6 => bytes, 1 => any::<u8>()], 0..40)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn shown(sql: &str, has_standard_strings: bool) -> String {
        let show = |token: Token| {
            let kind = match token.kind {
                TokenKind::Word => "w".to_owned(),
                TokenKind::QuotedIdentifier => "q".to_owned(),
                TokenKind::Number => "n".to_owned(),
                TokenKind::String(kind) => format!("{kind:?}"),
                TokenKind::Parameter(number) => format!("p{number}"),
                TokenKind::Operator => "o".to_owned(),
                TokenKind::Punctuation(_) => "".to_owned(),
                TokenKind::Invalid => "INVALID".to_owned(),
            };
            format!("{kind}⟨{}⟩", String::from_utf8_lossy(token.text(sql.as_bytes())))
        };
        tokens(sql.as_bytes(), has_standard_strings).map(show).collect::<Vec<_>>().join(" ")
    }

    fn check(texts: &[&str], expected: Expect) {
        let all: Vec<_> = texts.iter().map(|sql| shown(sql, true) + "\n").collect();
        expected.assert_eq(&all.concat());
    }

    #[test]
    fn words_and_identifiers() {
        check(
            &["select a_1$b, Ünder FROM \"Q\"\"x\".y", "u&x U&\"d\\0061t\" u&", "\"\"", "\"open"],
            expect![[r#"
            w⟨select⟩ w⟨a_1$b⟩ ⟨,⟩ w⟨Ünder⟩ w⟨FROM⟩ q⟨"Q""x"⟩ ⟨.⟩ w⟨y⟩
            w⟨u⟩ o⟨&⟩ w⟨x⟩ q⟨U&"d\0061t"⟩ w⟨u⟩ o⟨&⟩
            INVALID⟨""⟩
            INVALID⟨"open⟩
        "#]],
        );
    }

    #[test]
    fn numbers() {
        check(
            &["1 1.5 .5 1. 1e5 1.e-5 1e 1e+ 1.2.3", "1..10", "0x1F 0b101 0o17 0x_1 1_000.5_0 1__0 0x", "1from 12.a"],
            expect![[r#"
                n⟨1⟩ n⟨1.5⟩ n⟨.5⟩ n⟨1.⟩ n⟨1e5⟩ n⟨1.e-5⟩ n⟨1⟩ w⟨e⟩ n⟨1⟩ w⟨e⟩ o⟨+⟩ n⟨1.2⟩ n⟨.3⟩
                n⟨1⟩ o⟨..⟩ n⟨10⟩
                n⟨0x1F⟩ n⟨0b101⟩ n⟨0o17⟩ n⟨0x_1⟩ n⟨1_000.5_0⟩ n⟨1⟩ w⟨__0⟩ n⟨0⟩ w⟨x⟩
                n⟨1⟩ w⟨from⟩ n⟨12.⟩ w⟨a⟩
            "#]],
        );
    }

    #[test]
    fn strings() {
        check(
            &[
                r"'a''b' '\' E'a\'b' e'\\' n'x' B'01' x'1F' U&'\0061'",
                "'a'\n'b' 'c' 'd'",
                "'a' -- x 'y'\n -- z\n 'b'",
                "'a' /* no */\n 'b'",
                "B'0''1'",
                "$$a$b$$ $t$ $$ $T$ $t$ $1 $12 $65536",
                "$a b$",
                "'open",
                r"E'open\'",
            ],
            expect![[r#"
                Plain⟨'a''b'⟩ Plain⟨'\'⟩ Escape⟨E'a\'b'⟩ Escape⟨e'\\'⟩ National⟨n'x'⟩ Bit⟨B'01'⟩ Bit⟨x'1F'⟩ Unicode⟨U&'\0061'⟩
                Continued⟨'a'
                'b'⟩ Plain⟨'c'⟩ Plain⟨'d'⟩
                Continued⟨'a' -- x 'y'
                 -- z
                 'b'⟩
                Plain⟨'a'⟩ Plain⟨'b'⟩
                Bit⟨B'0'⟩ Plain⟨'1'⟩
                Dollar⟨$$a$b$$⟩ Dollar⟨$t$ $$ $T$ $t$⟩ p1⟨$1⟩ p12⟨$12⟩ INVALID⟨$65536⟩
                INVALID⟨$a b$⟩
                INVALID⟨'open⟩
                INVALID⟨E'open\'⟩
            "#]],
        );
    }

    #[test]
    fn strings_while_standard_conforming_strings_is_off() {
        let all = [r"'a\'b' x", r"N'a\'b' x", "U&'a' x", "U&\"a\" x"].map(|sql| shown(sql, false) + "\n");
        expect![[r#"
            Escape⟨'a\'b'⟩ w⟨x⟩
            National⟨N'a\'b'⟩ w⟨x⟩
            INVALID⟨U&'a' x⟩
            q⟨U&"a"⟩ w⟨x⟩
        "#]]
        .assert_eq(&all.concat());
    }

    #[test]
    fn operators() {
        check(
            &["a=-1 a@-1 a+-+b a<=-b", "a--b\n+/*c*/d *-/**/e", "a::int b:=c d=>e f:g a[1:2] x||y ->> #>", "?-", "+/*open"],
            expect![[r#"
                w⟨a⟩ o⟨=⟩ o⟨-⟩ n⟨1⟩ w⟨a⟩ o⟨@-⟩ n⟨1⟩ w⟨a⟩ o⟨+⟩ o⟨-⟩ o⟨+⟩ w⟨b⟩ w⟨a⟩ o⟨<=⟩ o⟨-⟩ w⟨b⟩
                w⟨a⟩ o⟨+⟩ w⟨d⟩ o⟨*⟩ o⟨-⟩ w⟨e⟩
                w⟨a⟩ o⟨::⟩ w⟨int⟩ w⟨b⟩ o⟨:=⟩ w⟨c⟩ w⟨d⟩ o⟨=>⟩ w⟨e⟩ w⟨f⟩ ⟨:⟩ w⟨g⟩ w⟨a⟩ ⟨[⟩ n⟨1⟩ ⟨:⟩ n⟨2⟩ ⟨]⟩ w⟨x⟩ o⟨||⟩ w⟨y⟩ o⟨->>⟩ o⟨#>⟩
                o⟨?-⟩
                o⟨+⟩ INVALID⟨/*open⟩
            "#]],
        );
    }

    #[test]
    fn comments() {
        check(
            &["a/* x /* y */ z */b -- c\r d /**/ e /***/ f", "a /* /* */", "a \u{1} b"],
            expect![[r#"
            w⟨a⟩ w⟨b⟩ w⟨d⟩ w⟨e⟩ w⟨f⟩
            w⟨a⟩ INVALID⟨/* /* */⟩
            w⟨a⟩ INVALID⟨ b⟩
        "#]],
        );
    }

    #[test]
    fn identifiers_fold_as_postgres_stores_them() {
        let long = "A".repeat(70);
        let umlauts = "ä".repeat(40);
        let names = ["Orders", "orders", "\"Or\"\"ders\"", "ÄB", "U&\"d\\0061t\\+000061\"", "U&\"\\zz\"", &long, &umlauts];
        let folded = names.map(|name| format!("{}\n", fold_identifier(name)));
        expect![[r#"
            orders
            orders
            Or"ders
            Äb
            data
            \zz
            aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
            äääääääääääääääääääääääääääääää
        "#]]
        .assert_eq(&folded.concat());
    }

    proptest! {
        #[test]
        fn tokens_are_in_order_and_end(sql in sqlish(), has_standard_strings in any::<bool>()) {
            let mut end = 0;
            let mut is_over = false;
            for token in tokens(&sql, has_standard_strings) {
                prop_assert!(!is_over, "a token after an invalid one");
                prop_assert!(end <= token.start && token.start < token.end && token.end <= sql.len());
                end = token.end;
                is_over = token.kind == TokenKind::Invalid;
            }
        }
    }
}
