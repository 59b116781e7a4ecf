//! A statement's shape: its text with the literals taken out.

use std::hash::Hasher;

use twox_hash::XxHash3_64;
use twox_hash::xxhash3_64::{DEFAULT_SECRET_LENGTH, RawHasher, SecretBuffer};

use super::lexer::{Next, StringKind, Token, TokenKind, tokens};
use super::scan::folded_in_word;

/// What stands in a literal's place in the fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// Digits only.
    Integer,
    /// Any other number.
    Decimal,
    /// `'…'` without escapes to interpret.
    PlainString,
    /// `E'…'`, `$$…$$`, `B'…'`, `'…'` in several pieces and the rest: read by [`super::canonical_literal`], which may not
    /// know them.
    OtherString,
}

/// A literal's place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    pub kind: LiteralKind,
    pub start: usize,
    pub end: usize,
}

/// A hash of a statement's tokens without its literals' values, and where those stand.
///
/// Two texts of one fingerprint have the same tokens but for the values of literals of the same kind. `TRUE`, `FALSE`,
/// `NULL` and a minus sign are tokens, not parts of literals. White space and comments do not count, except comments that
/// hold a routing hint (`/* trunkline: … */`): any that names Trunkline counts, byte by byte.
///
/// The hash is XXH3 without a seed: it spreads, but does not withstand someone who looks for two texts of one hash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint {
    pub hash: u64,
    pub literals: Vec<Literal>,
    /// False where the lexer met something invalid, or something whose meaning a literal's value may change in other ways
    /// (strings in several pieces, `U&"…"`, `1a`): then the text must not be cached.
    pub is_complete: bool,
}

impl Fingerprint {
    /// The fingerprint of one statement. Where many are taken, [`fingerprint`] uses one's buffer again.
    pub fn of(sql: &str, has_standard_strings: bool) -> Self {
        let mut taken = Self::default();
        fingerprint(sql.as_bytes(), has_standard_strings, &mut taken);
        taken
    }
}

/// Takes the fingerprint of one statement. `into` is cleared and its buffer used again: no allocation once it has grown.
pub fn fingerprint(sql: &[u8], has_standard_strings: bool, into: &mut Fingerprint) {
    take(sql, has_standard_strings, into, AtSemicolon::GoOn);
}

/// Takes the fingerprint of the only statement of `sql` and tells where it ends: before a semicolon that nothing but white
/// space and comments follows, or at the text's end. `None` if there may be several statements, or none.
pub fn fingerprint_of_only(sql: &[u8], has_standard_strings: bool, into: &mut Fingerprint) -> Option<usize> {
    take(sql, has_standard_strings, into, AtSemicolon::End)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtSemicolon {
    GoOn,
    End,
}

fn take(sql: &[u8], has_standard_strings: bool, into: &mut Fingerprint, at_semicolon: AtSemicolon) -> Option<usize> {
    into.literals.clear();
    let mut is_complete = true;
    let mut shape = Shape::new();
    let mut previous = Token { kind: TokenKind::Punctuation(b';'), start: 0, end: 0 };
    let mut tokens = tokens(sql, has_standard_strings);
    loop {
        // Most bytes of a text are in words: each is looked at once, and copied as it is looked at.
        let token = match tokens.next_unless_word() {
            Next::Word(start) => {
                shape.gap(&sql[previous.end..start]);
                let end = start + shape.word(&sql[start..]);
                tokens.go_on_at(end);
                is_complete &= start > previous.end || !runs_on(previous);
                Token { kind: TokenKind::Word, start, end }
            }
            Next::Token(token) => {
                shape.gap(&sql[previous.end..token.start]);
                if at_semicolon == AtSemicolon::End && token.is_punctuation(b';') {
                    let is_only = previous.end > 0 && tokens.next().is_none();
                    (into.hash, into.is_complete) = (shape.finish(), is_complete);
                    return is_only.then_some(token.start);
                }
                match literal_kind(sql, token) {
                    Some(kind) => {
                        shape.separator(mark_of(kind));
                        into.literals.push(Literal { kind, start: token.start, end: token.end });
                    }
                    None => shape.token(token.kind, token.text(sql)),
                }
                is_complete &= is_shareable(sql, previous, token);
                token
            }
            Next::End => break,
        };
        previous = token;
    }
    shape.gap(&sql[previous.end..]);
    (into.hash, into.is_complete) = (shape.finish(), is_complete);
    (previous.end > 0).then_some(sql.len())
}

fn literal_kind(sql: &[u8], token: Token) -> Option<LiteralKind> {
    match token.kind {
        TokenKind::Number if token.text(sql).iter().all(u8::is_ascii_digit) => Some(LiteralKind::Integer),
        TokenKind::Number => Some(LiteralKind::Decimal),
        TokenKind::String(StringKind::Plain) => Some(LiteralKind::PlainString),
        TokenKind::String(_) => Some(LiteralKind::OtherString),
        _ => None,
    }
}

/// Whether the token, after the one before it, leaves the text's shape independent of its literals' values.
fn is_shareable(sql: &[u8], previous: Token, token: Token) -> bool {
    match token.kind {
        TokenKind::Invalid | TokenKind::String(StringKind::Continued) => false,
        // U&"…" may be followed by UESCAPE and a string that changes the name.
        TokenKind::QuotedIdentifier => sql.get(token.start) == Some(&b'"'),
        // `1a` and `$1a` are two tokens up to PostgreSQL 14 and an error since.
        TokenKind::Word | TokenKind::Number => token.start > previous.end || !runs_on(previous),
        _ => true,
    }
}

/// Whether a word or number right behind the token would be a part of it for some servers.
fn runs_on(token: Token) -> bool {
    matches!(token.kind, TokenKind::Number | TokenKind::Parameter(_))
}

// Bytes that begin no token, so that no two sequences of tokens write the same.
const TOKEN: u8 = 0;
const COMMENT: u8 = 1;

const fn mark_of(kind: LiteralKind) -> u8 {
    match kind {
        LiteralKind::Integer => 2,
        LiteralKind::Decimal => 3,
        LiteralKind::PlainString => 4,
        LiteralKind::OtherString => 5,
    }
}

const PENDING_BYTES: usize = 256;

/// XXH3 over the normal form of a text, which is gathered piece by piece.
struct Shape {
    pending: [u8; PENDING_BYTES],
    n_pending: usize,
    /// Made when the normal form does not fit into `pending`.
    hasher: Option<Box<RawHasher<&'static [u8; DEFAULT_SECRET_LENGTH]>>>,
}

impl Shape {
    fn new() -> Self {
        Self { pending: [0; PENDING_BYTES], n_pending: 0, hasher: None }
    }

    #[inline]
    fn separator(&mut self, mark: u8) {
        if self.n_pending == PENDING_BYTES {
            self.flush();
        }
        self.pending[self.n_pending] = mark;
        self.n_pending += 1;
    }

    #[inline]
    fn token(&mut self, kind: TokenKind, text: &[u8]) {
        match kind {
            TokenKind::Word => {
                self.word(text);
            }
            TokenKind::Punctuation(byte) => {
                self.separator(TOKEN);
                self.separator(byte);
            }
            _ => {
                self.separator(TOKEN);
                match text {
                    // No call of memcpy for an operator.
                    &[byte] => self.separator(byte),
                    text => self.append(text),
                }
            }
        }
    }

    /// Adds the word that `text` begins with, in lower case, and gives its length.
    #[inline(always)]
    fn word(&mut self, text: &[u8]) -> usize {
        self.separator(TOKEN);
        let mut n_taken = 0;
        loop {
            let room = &mut self.pending[self.n_pending..];
            let n_before = n_taken;
            for (place, &byte) in room.iter_mut().zip(&text[n_before..]) {
                let Some(byte) = folded_in_word(byte) else { break };
                *place = byte;
                n_taken += 1;
            }
            self.n_pending += n_taken - n_before;
            if self.n_pending < PENDING_BYTES {
                return n_taken;
            }
            self.flush();
        }
    }

    /// White space and comments: they count only where they name Trunkline.
    #[inline]
    fn gap(&mut self, gap: &[u8]) {
        if gap.len() >= HINT_WORD.len() {
            self.long_gap(gap);
        }
    }

    #[cold]
    fn long_gap(&mut self, gap: &[u8]) {
        if gap.windows(HINT_WORD.len()).any(|word| word.eq_ignore_ascii_case(HINT_WORD)) {
            self.separator(COMMENT);
            self.append(gap);
        }
    }

    #[inline]
    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.n_pending == PENDING_BYTES {
                self.flush();
            }
            let room = &mut self.pending[self.n_pending..];
            let (taken, rest) = bytes.split_at(room.len().min(bytes.len()));
            room[..taken.len()].copy_from_slice(taken);
            self.n_pending += taken.len();
            bytes = rest;
        }
    }

    #[cold]
    fn flush(&mut self) {
        let hasher = self.hasher.get_or_insert_with(|| Box::new(RawHasher::new(SecretBuffer::default())));
        hasher.write(&self.pending[..self.n_pending]);
        self.n_pending = 0;
    }

    /// By reference: it is large.
    fn finish(&mut self) -> u64 {
        if self.hasher.is_none() {
            return XxHash3_64::oneshot(&self.pending[..self.n_pending]);
        }
        self.flush();
        self.hasher.as_ref().map_or(0, |hasher| hasher.finish())
    }
}

const HINT_WORD: &[u8] = b"trunkline";

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::super::lexer::sqlish;
    use super::*;

    fn taken(sql: &[u8]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        super::fingerprint(sql, true, &mut fingerprint);
        fingerprint
    }

    fn is_same(left: &str, right: &str) -> bool {
        taken(left.as_bytes()).hash == taken(right.as_bytes()).hash
    }

    #[test]
    fn the_only_statement_of_a_string_ends_at_its_semicolon() {
        let end = |sql: &str| {
            let mut print = Fingerprint::default();
            let end = fingerprint_of_only(sql.as_bytes(), true, &mut print);
            if let Some(end) = end {
                assert_eq!(print, taken(&sql.as_bytes()[..end]), "{sql}");
            }
            end
        };
        assert_eq!(end(" select 1 ; -- done"), Some(10));
        assert_eq!(end("select ';', 2 /* ; */"), Some(21));
        assert_eq!(end("select 'open;"), Some(13));
        assert_eq!((end("select 1; select 2"), end(";select 1"), end(" -- ;"), end("")), (None, None, None, None));
    }

    #[test]
    fn literals_of_one_kind_white_space_and_case_do_not_count() {
        let model = "select a from t where b = 1 and c = 'x' and d = 1.5 and e = e'y'";
        assert!(is_same(model, "SELECT a\n FROM t /* c */ WHERE b = 22 AND c = '' AND d = .1e3 AND e=$$$$ -- end"));
        assert!(!is_same(model, &model.replace("1.5", "15")));
        assert!(!is_same(model, &model.replace("'x'", "n'x'")));
        assert!(!is_same(model, &model.replace("from t", "from \"t\"")));
        assert!(!is_same(model, &model.replace("= 1 ", "= -1 ")));
    }

    #[test]
    fn sequences_of_tokens_do_not_run_together() {
        for (left, right) in [("ab c", "a bc"), ("a.b", "a . b c"), ("$1 2", "$12"), ("\"a b\"", "a b"), ("1 'a'", "'a' 1")] {
            assert!(!is_same(left, right), "{left} and {right}");
        }
    }

    #[test]
    fn hints_count() {
        assert!(is_same("/* a */ select 1", "select 1"));
        assert!(!is_same("/* trunkline: shard=a */ select 1", "select 1"));
        assert!(!is_same("/* trunkline: shard=a */ select 1", "/* trunkline: shard=b */ select 1"));
        assert!(!is_same("select 1 -- Trunkline: key=4", "select 1"));
    }

    #[test]
    fn literals_are_given_in_order_with_their_places() {
        let sql = "VALUES (1, 'a', 2.0, E'b', true, -3)";
        let fingerprint = taken(sql.as_bytes());
        let shown = fingerprint.literals.iter().map(|l| format!("{:?} {}\n", l.kind, &sql[l.start..l.end]));
        expect![[r#"
            Integer 1
            PlainString 'a'
            Decimal 2.0
            OtherString E'b'
            Integer 3
        "#]]
        .assert_eq(&shown.collect::<String>());
    }

    #[test]
    fn odd_texts_are_not_shared() {
        for sql in ["select 'a", "select 'a'\n'b'", "select U&\"a\" UESCAPE '!'", "select 1a", "select $1a", "/*"] {
            assert!(!taken(sql.as_bytes()).is_complete, "{sql}");
        }
        assert!(taken(b"select \"a\", 1 a, 2.5 from b -- c").is_complete);
    }

    #[test]
    fn long_texts_hash_all_their_tokens() {
        let long = "select ".to_owned() + &"a, ".repeat(500);
        assert!(is_same(&format!("{long} b"), &format!("{long}\n B")));
        assert!(!is_same(&format!("{long} b"), &format!("{long} c")));
        assert!(!is_same(&format!("b, {long} b"), &format!("c, {long} b")));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_fingerprint_with_literals_in_order(sql in sqlish()) {
            let fingerprint = taken(&sql);
            let mut end = 0;
            for literal in &fingerprint.literals {
                prop_assert!(end <= literal.start && literal.start < literal.end && literal.end <= sql.len());
                end = literal.end;
            }
        }

        #[test]
        fn white_space_between_tokens_does_not_count(
            words in prop::collection::vec(prop::sample::select(&["select", "1", "'a'", "b", "\"C\"", "=", "(", "$1", "2.5"][..]), 0..20),
            gaps in prop::collection::vec(prop::sample::select(&[" ", "\n", "\t /* c */ ", " -- d\r", "/* e /* f */*/"][..]), 20),
        ) {
            // A comma between them, as strings with a line end between would be one.
            let plain = words.join(" , ");
            let spread: String = words.iter().zip(gaps).map(|(word, gap)| format!("{gap},{gap}{word}")).collect();
            let spread = spread.split_once(',').map_or("", |(_, rest)| rest);
            prop_assert!(is_same(&plain, spread), "{plain:?} and {spread:?}");
        }
    }
}
