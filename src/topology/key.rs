//! Key values in canonical form, and what a statement says of them.

/// One value of a key column, canonical by the column's type: `42`, `'42'`, int2, int4 and int8 are all `Int(42)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue {
    Null,
    /// smallint, integer, bigint.
    Int(i64),
    /// text, varchar; and bpchar with its padding removed.
    Text(String),
    Uuid([u8; 16]),
    /// timestamp and timestamptz: microseconds since 2000-01-01 (UTC for timestamptz). A date is its midnight.
    Timestamp(i64),
}

/// One end of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Unbounded,
    Included(KeyValue),
    Excluded(KeyValue),
}

/// What must hold for a key column in every row of a table that a statement can touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPredicate {
    /// Nothing is known.
    Unknown,
    /// No row can satisfy it.
    Never,
    Equal(KeyValue),
    AnyOf(Vec<KeyValue>),
    Range {
        lower: Bound,
        upper: Bound,
    },
    IsNull,
}
