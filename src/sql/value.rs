//! Key values from literals and parameters, made canonical by the type of their column.

use std::borrow::Cow;

use crate::topology::{KeyValue, TypeOid};

use super::timestamp;
use super::{Literal, LiteralKind};

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

// OIDs of src/include/catalog/pg_type.dat.
const INT8: TypeOid = 20;
const INT2: TypeOid = 21;
const INT4: TypeOid = 23;
const TEXT: TypeOid = 25;
const UNKNOWN: TypeOid = 705;
const BPCHAR: TypeOid = 1042;
const VARCHAR: TypeOid = 1043;
const DATE: TypeOid = 1082;
const TIMESTAMP: TypeOid = 1114;
const TIMESTAMPTZ: TypeOid = 1184;
const NUMERIC: TypeOid = 1700;
const UUID: TypeOid = 2950;

impl KeyType {
    /// The key type of a column's type; `None` for types that cannot be keys.
    pub fn of(type_oid: TypeOid) -> Option<Self> {
        Some(match type_oid {
            INT2 => Self::Int2,
            INT4 => Self::Int4,
            INT8 => Self::Int8,
            TEXT | VARCHAR => Self::Text,
            BPCHAR => Self::Bpchar,
            UUID => Self::Uuid,
            DATE => Self::Date,
            TIMESTAMP => Self::Timestamp,
            TIMESTAMPTZ => Self::Timestamptz,
            _ => return None,
        })
    }

    /// Whether a text parameter declared as `param_type` (0: not declared) may be read by [`canonical_text`] for a column
    /// of this type: its text then means to Postgres what it would mean as a value of the column.
    ///
    /// False for a timestamptz given to a date column, a float given to an integer column, and the like.
    pub fn reads_text_of(self, param_type: TypeOid) -> bool {
        match (self, param_type) {
            (_, 0 | UNKNOWN) => true,
            (Self::Int2 | Self::Int4 | Self::Int8, INT2 | INT4 | INT8 | NUMERIC) => true,
            (Self::Text, TEXT | VARCHAR) => true,
            // Under `=` with text, a bpchar loses its padding, and a text that has some equals no row.
            (Self::Bpchar, BPCHAR | TEXT | VARCHAR) => true,
            (Self::Uuid, UUID) | (Self::Date, DATE) => true,
            (Self::Timestamp, TIMESTAMP) | (Self::Timestamptz, TIMESTAMPTZ) => true,
            _ => false,
        }
    }

    fn integer(self, value: i128) -> Result<KeyValue, ValueError> {
        let is_in_range = match self {
            Self::Int2 => i16::try_from(value).is_ok(),
            Self::Int4 => i32::try_from(value).is_ok(),
            _ => true,
        };
        match i64::try_from(value) {
            Ok(value) if is_in_range => Ok(KeyValue::Int(value)),
            _ => Err(ValueError::OutOfRange),
        }
    }
}

/// Canonical form of a literal of `sql`, possibly negated, for a column of `key_type`.
///
/// `time_zone` is the session's: a timestamptz text without an offset is local to it. A fraction for an integer column is
/// `OutOfRange`: no row equals it, but an INSERT would round it.
pub fn canonical_literal(
    sql: &[u8],
    literal: Literal,
    is_negated: bool,
    key_type: KeyType,
    time_zone: &str,
) -> Result<KeyValue, ValueError> {
    let text = sql.get(literal.start..literal.end).ok_or(ValueError::NotUnderstood)?;
    let text = std::str::from_utf8(text).map_err(|_| ValueError::NotUnderstood)?;
    match literal.kind {
        LiteralKind::Integer | LiteralKind::Decimal => number_literal(text, is_negated, literal.kind, key_type),
        LiteralKind::PlainString | LiteralKind::OtherString if is_negated => Err(ValueError::NotUnderstood),
        LiteralKind::PlainString | LiteralKind::OtherString => {
            let content = string_content(text, literal.kind).ok_or(ValueError::NotUnderstood)?;
            canonical_text(&content, key_type, time_zone)
        }
    }
}

fn number_literal(text: &str, is_negated: bool, kind: LiteralKind, key_type: KeyType) -> Result<KeyValue, ValueError> {
    let value = integral_number(text).map(|magnitude| if is_negated { -magnitude } else { magnitude });
    match (key_type, value) {
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, value) => key_type.integer(value?),
        // An INSERT casts an integer to text; a numeric would keep its scale. A comparison is Postgres's to refuse.
        (KeyType::Text | KeyType::Bpchar, Ok(value)) if kind == LiteralKind::Integer => Ok(KeyValue::Text(value.to_string())),
        _ => Err(ValueError::NotUnderstood),
    }
}

/// As many digits are below the largest bigint, whatever they are.
const MAX_PLAIN_DIGITS: usize = 18;

/// The value of an unsigned number that is a whole one, of at most 19 digits.
fn integral_number(text: &str) -> Result<i128, ValueError> {
    if text.len() <= MAX_PLAIN_DIGITS
        && let Some(value) =
            text.bytes().try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
    {
        return Ok(i128::from(value));
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().map_err(|_| ValueError::NotUnderstood)?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(ValueError::NotUnderstood);
    }
    let n_digits = whole.len() + fraction.len();
    let digits = || whole.bytes().chain(fraction.bytes());
    let n_leading = digits().take_while(|&digit| digit == b'0').count();
    if n_leading == n_digits {
        return Ok(0);
    }
    let n_trailing = digits().rev().take_while(|&digit| digit == b'0').count();
    let n_significant = n_digits - n_leading - n_trailing;
    let scale = i64::from(exponent) - fraction.len() as i64 + n_trailing as i64;
    if scale < 0 || n_significant as i64 + scale > 19 {
        return Err(ValueError::OutOfRange);
    }
    let significant = digits().skip(n_leading).take(n_significant);
    let zeros = std::iter::repeat_n(b'0', scale as usize);
    Ok(significant.chain(zeros).fold(0, |value, digit| value * 10 + i128::from(digit - b'0')))
}

/// What a string literal of a statement holds, under standard_conforming_strings; `None` where escapes or several pieces stand
/// in the way.
pub fn string_text(text: &str) -> Option<Cow<'_, str>> {
    string_content(text, if text.starts_with('\'') { LiteralKind::PlainString } else { LiteralKind::OtherString })
}

/// What a string literal holds; `None` where escapes, several pieces, or another type than unknown stand in the way.
fn string_content(text: &str, kind: LiteralKind) -> Option<Cow<'_, str>> {
    if let Some(rest) = text.strip_prefix('$') {
        let delimiter = &text[..rest.find('$')? + 2];
        return Some(Cow::Borrowed(text.strip_prefix(delimiter)?.strip_suffix(delimiter)?));
    }
    let quoted = text.strip_prefix(['E', 'e']).unwrap_or(text);
    let inner = quoted.strip_prefix('\'')?.strip_suffix('\'')?;
    if kind == LiteralKind::OtherString && inner.contains('\\') {
        return None;
    }
    if !inner.contains('\'') {
        return Some(Cow::Borrowed(inner));
    }
    // A quote that is not doubled closes one piece of several.
    let has_pieces = inner.split("''").any(|part| part.contains('\''));
    (!has_pieces).then(|| Cow::Owned(inner.replace("''", "'")))
}

/// Canonical form of a value in Postgres's text format (a text parameter, a COPY field, a string literal's content).
pub fn canonical_text(text: &str, key_type: KeyType, time_zone: &str) -> Result<KeyValue, ValueError> {
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => key_type.integer(integer_text(text)?),
        KeyType::Text => Ok(KeyValue::Text(text.to_owned())),
        KeyType::Bpchar => Ok(unpadded(text)),
        KeyType::Uuid => uuid_text(text).map(KeyValue::Uuid).ok_or(ValueError::NotUnderstood),
        KeyType::Date => timestamp::date_micros(text).map(KeyValue::Timestamp).ok_or(ValueError::NotUnderstood),
        KeyType::Timestamp => timestamp::local_micros(text).map(KeyValue::Timestamp).ok_or(ValueError::NotUnderstood),
        KeyType::Timestamptz => timestamp::utc_micros(text, time_zone).map(KeyValue::Timestamp).ok_or(ValueError::NotUnderstood),
    }
}

/// pg_strtoint64: digits with a sign, white space around. PostgreSQL 16's `0x1F` and `1_000` are left to Postgres.
fn integer_text(text: &str) -> Result<i128, ValueError> {
    let text = trimmed(text);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ValueError::NotUnderstood);
    }
    let magnitude = integral_number(digits)?;
    Ok(if text.starts_with('-') { -magnitude } else { magnitude })
}

/// Without what C's isspace() calls white space at its ends.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

fn unpadded(text: &str) -> KeyValue {
    KeyValue::Text(text.trim_end_matches(' ').to_owned())
}

/// string_to_uuid of src/backend/utils/adt/uuid.c: a hyphen may follow each group of four digits, braces may surround.
fn uuid_text(text: &str) -> Option<[u8; 16]> {
    let digits = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut digits = digits.as_bytes();
    let mut uuid = [0; 16];
    for (byte_idx, byte) in uuid.iter_mut().enumerate() {
        let (pair, rest) = digits.split_at_checked(2)?;
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        digits = match rest {
            [b'-', rest @ ..] if byte_idx % 2 == 1 && byte_idx < 15 => rest,
            rest => rest,
        };
    }
    digits.is_empty().then_some(uuid)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Canonical form of a binary parameter of type `param_type` (0: the column's own) for a column of `key_type`.
pub fn canonical_binary(bytes: &[u8], param_type: TypeOid, key_type: KeyType) -> Result<KeyValue, ValueError> {
    let not_understood = || ValueError::NotUnderstood;
    let param_type = if param_type == 0 { UNKNOWN } else { param_type };
    match (key_type, param_type) {
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8, INT2 | INT4 | INT8 | UNKNOWN) => {
            key_type.integer(i128::from(integer_bytes(bytes, param_type).ok_or_else(not_understood)?))
        }
        (KeyType::Text, TEXT | VARCHAR | UNKNOWN) => text_bytes(bytes).map(|text| KeyValue::Text(text.to_owned())),
        (KeyType::Bpchar, BPCHAR | TEXT | VARCHAR | UNKNOWN) => text_bytes(bytes).map(unpadded),
        (KeyType::Uuid, UUID | UNKNOWN) => bytes.try_into().map(KeyValue::Uuid).map_err(|_| ValueError::NotUnderstood),
        // A date and a timestamp compare as the date's midnight, without regard to a time zone.
        (KeyType::Date, DATE | UNKNOWN) | (KeyType::Timestamp, DATE) => {
            date_bytes(bytes).map(KeyValue::Timestamp).ok_or_else(not_understood)
        }
        (KeyType::Timestamp, TIMESTAMP | UNKNOWN)
        | (KeyType::Date, TIMESTAMP)
        | (KeyType::Timestamptz, TIMESTAMPTZ | UNKNOWN) => {
            timestamp_bytes(bytes).map(KeyValue::Timestamp).ok_or_else(not_understood)
        }
        _ => Err(ValueError::NotUnderstood),
    }
}

/// An integer of its declared type, or of its length where no type is declared.
fn integer_bytes(bytes: &[u8], param_type: TypeOid) -> Option<i64> {
    let value = match bytes.len() {
        2 => i64::from(i16::from_be_bytes(bytes.try_into().ok()?)),
        4 => i64::from(i32::from_be_bytes(bytes.try_into().ok()?)),
        8 => i64::from_be_bytes(bytes.try_into().ok()?),
        _ => return None,
    };
    let is_of_type = match param_type {
        INT2 => bytes.len() == 2,
        INT4 => bytes.len() == 4,
        INT8 => bytes.len() == 8,
        _ => true,
    };
    is_of_type.then_some(value)
}

fn text_bytes(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map_err(|_| ValueError::NotUnderstood)
}

/// Days since 2000-01-01 as microseconds; infinities are the type's smallest and largest values.
fn date_bytes(bytes: &[u8]) -> Option<i64> {
    let days = i32::from_be_bytes(bytes.try_into().ok()?);
    if matches!(days, i32::MIN | i32::MAX) { None } else { i64::from(days).checked_mul(timestamp::MICROS_PER_DAY) }
}

fn timestamp_bytes(bytes: &[u8]) -> Option<i64> {
    let micros = i64::from_be_bytes(bytes.try_into().ok()?);
    if matches!(micros, i64::MIN | i64::MAX) { None } else { Some(micros) }
}

#[cfg(test)]
mod tests;
