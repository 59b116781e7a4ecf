//! A statement's shape: its text with the literals taken out.

/// What stands in a literal's place in the fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiteralKind {
    /// Digits only.
    Integer,
    /// Any other number.
    Decimal,
    /// `'…'` without escapes to interpret.
    PlainString,
    /// `E'…'`, `$$…$$`, `B'…'` and the rest: read by [`super::canonical_literal`], which may not know them.
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
/// hold a routing hint (`/* trunkline: … */`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint {
    pub hash: u64,
    pub literals: Vec<Literal>,
    /// False where the lexer met something invalid: then the text must not be cached.
    pub is_complete: bool,
}

/// Takes the fingerprint of one statement. `into` is cleared and its buffer used again: no allocation once it has grown.
pub fn fingerprint(sql: &[u8], has_standard_strings: bool, into: &mut Fingerprint) {
    let _ = (sql, has_standard_strings);
    into.hash = 0;
    into.literals.clear();
    into.is_complete = false;
}
