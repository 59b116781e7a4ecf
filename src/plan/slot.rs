//! Values in a predicate that an execution fills in: literals, parameters and the transaction's time.

use super::interval::{Offset, Span};
use super::{Params, Values};
use crate::sql::{KeyType, Literal, LiteralKind, ParamFormat, ValueError, canonical_binary, canonical_literal, canonical_text};
use crate::topology::{Bound, KeyValue, TypeOid};

/// A type that a value is cast to, as far as keys care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cast {
    Integer,
    Text,
    Uuid,
    Date,
    Timestamp,
    Timestamptz,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand {
    /// The literal with this index, with a minus sign before it or not.
    Literal {
        literal_idx: usize,
        is_negated: bool,
    },
    /// `$n`, from 1.
    Param(usize),
    Null,
    Time(TimeOperand),
    /// Whole numbers added, subtracted, multiplied, divided.
    Arithmetic(Box<Arithmetic>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arithmetic {
    pub(super) left: Operand,
    /// `+`, `-`, `*`, `/` or `%`.
    pub(super) sign: char,
    pub(super) right: Operand,
}

impl Operand {
    /// The whole number that a literal of type integer is, or the sum of such; `None` for others, and where the server would
    /// find it out of range.
    pub(super) fn integer(&self, binding: Binding<'_>) -> Option<i64> {
        let number = match self {
            Self::Literal { literal_idx, is_negated } => {
                let literal = binding.values.literals.get(*literal_idx).filter(|literal| literal.kind == LiteralKind::Integer)?;
                match canonical_literal(binding.values.sql.as_bytes(), *literal, *is_negated, KeyType::Int8, "UTC") {
                    Ok(KeyValue::Int(number)) => number,
                    _ => return None,
                }
            }
            Self::Arithmetic(arithmetic) => {
                let (left, right) = (arithmetic.left.integer(binding)?, arithmetic.right.integer(binding)?);
                match arithmetic.sign {
                    '+' => left.checked_add(right)?,
                    '-' => left.checked_sub(right)?,
                    '*' => left.checked_mul(right)?,
                    // Both cut towards zero, as the server does.
                    '/' => left.checked_div(right)?,
                    _ => left.checked_rem(right)?,
                }
            }
            Self::Param(_) | Self::Null | Self::Time(_) => return None,
        };
        i32::try_from(number).ok().map(i64::from)
    }
}

/// The transaction's time, moved by intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimeOperand {
    /// CURRENT_DATE rather than now().
    pub(super) is_date: bool,
    pub(super) offsets: Vec<Offset>,
}

/// A value of a statement, known once it is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) operand: Operand,
    pub(super) cast: Option<Cast>,
}

/// A slot's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SlotValue {
    Null,
    Exact(KeyValue),
    /// Somewhere between these timestamps, both included.
    Between(i64, i64),
    /// No row's value is equal to it.
    OutOfRange,
    Unknown,
}

/// What a statement may read to fill its slots, and the session's time zone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding<'a> {
    pub(super) values: &'a Values<'a>,
    pub(super) time_zone: &'a str,
}

impl Slot {
    /// The slot's value for comparison with a column of `key_type`.
    pub(super) fn value(&self, key_type: KeyType, binding: Binding<'_>) -> SlotValue {
        match &self.operand {
            Operand::Null => SlotValue::Null,
            Operand::Arithmetic(_) if matches!(key_type, KeyType::Int2 | KeyType::Int4 | KeyType::Int8) => {
                match self.operand.integer(binding) {
                    Some(number) => exact(canonical_text(&number.to_string(), key_type, "UTC")),
                    None => SlotValue::Unknown,
                }
            }
            Operand::Arithmetic(_) => SlotValue::Unknown,
            Operand::Time(time) => time.value(key_type, binding),
            Operand::Literal { literal_idx, is_negated } => match binding.values.literals.get(*literal_idx) {
                Some(literal) => self.of_literal(*literal, *is_negated, key_type, binding),
                None => SlotValue::Unknown,
            },
            Operand::Param(number) => self.of_param(*number, key_type, binding),
        }
    }

    fn of_literal(&self, literal: Literal, is_negated: bool, key_type: KeyType, binding: Binding<'_>) -> SlotValue {
        let sql = binding.values.sql.as_bytes();
        if self.cast.is_some() {
            let text = match literal.kind {
                LiteralKind::Integer | LiteralKind::Decimal => {
                    binding.values.sql.get(literal.start..literal.end).map(str::to_owned)
                }
                LiteralKind::PlainString | LiteralKind::OtherString => string_content(sql, literal),
            };
            if !text.is_some_and(|text| self.cast_keeps(&text, key_type)) {
                return SlotValue::Unknown;
            }
        }
        exact(canonical_literal(sql, literal, is_negated, key_type, binding.time_zone))
    }

    fn of_param(&self, number: usize, key_type: KeyType, binding: Binding<'_>) -> SlotValue {
        let params: Params<'_> = binding.values.params;
        let Some(value) = number.checked_sub(1).and_then(|idx| params.values.get(idx)) else {
            return SlotValue::Unknown;
        };
        let Some(bytes) = value else { return SlotValue::Null };
        let type_oid = params.types.get(number - 1).copied().unwrap_or(0);
        let format = params.formats.get(number - 1).copied().unwrap_or(ParamFormat::Text);
        if !param_fits(type_oid, key_type) {
            return SlotValue::Unknown;
        }
        match format {
            ParamFormat::Binary if self.cast.is_some_and(|cast| cast != Cast::of(key_type)) => SlotValue::Unknown,
            ParamFormat::Binary => exact(canonical_binary(bytes, type_oid, key_type)),
            ParamFormat::Text => match std::str::from_utf8(bytes) {
                Ok(text) if self.cast.is_some() && !self.cast_keeps(text, key_type) => SlotValue::Unknown,
                Ok(text) => exact(canonical_text(text, key_type, binding.time_zone)),
                Err(_) => SlotValue::Unknown,
            },
        }
    }

    /// Whether the cast, applied to `text`, gives what the column's own type would.
    fn cast_keeps(&self, text: &str, key_type: KeyType) -> bool {
        let Some(cast) = self.cast else { return true };
        match (cast, key_type) {
            (Cast::Integer, KeyType::Int2 | KeyType::Int4 | KeyType::Int8) => {
                let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
                !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
            }
            (Cast::Text, KeyType::Text) | (Cast::Uuid, KeyType::Uuid) | (Cast::Timestamptz, KeyType::Timestamptz) => true,
            (Cast::Date, KeyType::Date | KeyType::Timestamp | KeyType::Timestamptz) => {
                is_plain_timestamp(text) && text.len() == 10
            }
            (Cast::Timestamp, KeyType::Timestamp | KeyType::Timestamptz) => is_plain_timestamp(text),
            _ => false,
        }
    }
}

impl Cast {
    fn of(key_type: KeyType) -> Self {
        match key_type {
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => Self::Integer,
            KeyType::Text | KeyType::Bpchar => Self::Text,
            KeyType::Uuid => Self::Uuid,
            KeyType::Date => Self::Date,
            KeyType::Timestamp => Self::Timestamp,
            KeyType::Timestamptz => Self::Timestamptz,
        }
    }
}

/// A string literal's content.
pub(super) fn string_content(sql: &[u8], literal: Literal) -> Option<String> {
    match canonical_literal(sql, literal, false, KeyType::Text, "UTC") {
        Ok(KeyValue::Text(text)) => Some(text),
        _ => None,
    }
}

pub(super) fn exact(value: Result<KeyValue, ValueError>) -> SlotValue {
    match value {
        Ok(KeyValue::Null) => SlotValue::Null,
        Ok(value) => SlotValue::Exact(value),
        Err(ValueError::OutOfRange) => SlotValue::OutOfRange,
        Err(ValueError::NotUnderstood) => SlotValue::Unknown,
    }
}

/// Whether a parameter of a declared type is compared with the column as a value of the column's own type.
fn param_fits(type_oid: TypeOid, key_type: KeyType) -> bool {
    const UNKNOWN: TypeOid = 705;
    if type_oid == 0 || type_oid == UNKNOWN {
        return true;
    }
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => matches!(type_oid, 20 | 21 | 23),
        KeyType::Text => matches!(type_oid, 25 | 1043),
        KeyType::Bpchar => type_oid == 1042,
        KeyType::Uuid => type_oid == 2950,
        KeyType::Date => type_oid == 1082,
        KeyType::Timestamp => type_oid == 1114,
        KeyType::Timestamptz => type_oid == 1184,
    }
}

/// `YYYY-MM-DD`, with or without `HH:MM[:SS[.F]]`, and without a zone.
fn is_plain_timestamp(text: &str) -> bool {
    let shape = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern.bytes())
                .all(|(byte, wanted)| if wanted == b'0' { byte.is_ascii_digit() } else { byte == wanted })
    };
    let Some((date, time)) = text.split_at_checked(10) else { return false };
    if !shape(date, "0000-00-00") {
        return false;
    }
    let Some(time) = time.strip_prefix([' ', 'T']) else { return time.is_empty() };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    fraction.bytes().all(|byte| byte.is_ascii_digit()) && (shape(whole, "00:00") || shape(whole, "00:00:00"))
}

impl TimeOperand {
    /// The span of time in which the expression's value lies, with a margin for clocks that differ.
    fn value(&self, key_type: KeyType, binding: Binding<'_>) -> SlotValue {
        const MARGIN: i64 = 5 * 60 * 1_000_000;
        const HOUR: i64 = 3_600_000_000;
        let mut span = Span { low: binding.values.now_micros - MARGIN, high: binding.values.now_micros + MARGIN };
        // A column without time zone holds local times: their distance from UTC is not known here.
        let local = match key_type {
            KeyType::Timestamptz => 0,
            KeyType::Timestamp => 15 * HOUR,
            KeyType::Date => 40 * HOUR,
            _ => return SlotValue::Unknown,
        };
        if self.is_date {
            span.low -= 25 * HOUR;
        }
        for offset in &self.offsets {
            match offset.applied(span, binding.values) {
                Some(moved) => span = moved,
                None => return SlotValue::Unknown,
            }
        }
        SlotValue::Between(span.low.saturating_sub(local), span.high.saturating_add(local))
    }
}

impl SlotValue {
    /// The value as the lower end of a range; `None`: no row can be above it or below it.
    pub(super) fn lower(self, is_included: bool) -> Option<Bound> {
        match self {
            Self::Null => None,
            Self::Between(low, _) => Some(Bound::Included(KeyValue::Timestamp(low))),
            Self::Exact(value) if is_included => Some(Bound::Included(value)),
            Self::Exact(value) => Some(Bound::Excluded(value)),
            Self::OutOfRange | Self::Unknown => Some(Bound::Unbounded),
        }
    }

    /// The value as the upper end of a range, likewise.
    pub(super) fn upper(self, is_included: bool) -> Option<Bound> {
        match self {
            Self::Between(_, high) => Some(Bound::Included(KeyValue::Timestamp(high))),
            other => other.lower(is_included),
        }
    }
}
