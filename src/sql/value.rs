//! Key values from literals and parameters, made canonical by the type of their column.

use crate::topology::{KeyValue, TypeOid};

use super::Literal;

/// Types that a key column may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    Int2,
    Int4,
    Int8,
    /// text and varchar.
    Text,
    Bpchar,
    Uuid,
    Date,
    Timestamp,
    Timestamptz,
}

/// Wire format of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamFormat {
    Text,
    Binary,
}

/// Why a value has no canonical form here. It need not be wrong: Postgres may still accept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No row of the column's type can equal it (out of range, or a fraction for an integer column).
    #[error("the value is outside the column's type")]
    OutOfRange,
    /// A form that is left to Postgres: `now`, `infinity`, a local time in an unknown zone, …
    #[error("the value's form is not understood")]
    NotUnderstood,
}

impl KeyType {
    /// The key type of a column's type; `None` for types that cannot be keys.
    pub fn of(type_oid: TypeOid) -> Option<Self> {
        let _ = type_oid;
        None
    }
}

/// Canonical form of a literal of `sql`, possibly negated, for a column of `key_type`.
///
/// `time_zone` is the session's: a timestamptz text without an offset is local to it.
pub fn canonical_literal(
    sql: &[u8],
    literal: Literal,
    is_negated: bool,
    key_type: KeyType,
    time_zone: &str,
) -> Result<KeyValue, ValueError> {
    let _ = (sql, literal, is_negated, key_type, time_zone);
    Err(ValueError::NotUnderstood)
}

/// Canonical form of a value in Postgres's text format (a text parameter, a COPY field, a string literal's content).
pub fn canonical_text(text: &str, key_type: KeyType, time_zone: &str) -> Result<KeyValue, ValueError> {
    let _ = (text, key_type, time_zone);
    Err(ValueError::NotUnderstood)
}

/// Canonical form of a binary parameter of type `param_type` (0: the column's own) for a column of `key_type`.
pub fn canonical_binary(bytes: &[u8], param_type: TypeOid, key_type: KeyType) -> Result<KeyValue, ValueError> {
    let _ = (bytes, param_type, key_type);
    Err(ValueError::NotUnderstood)
}
