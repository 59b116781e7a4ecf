//! Order of numeric values in the binary format: numeric_send of src/backend/utils/adt/numeric.c.
//!
//! Four 16-bit words (digit count, weight, sign, display scale), then digits to the base 10,000. The display scale does
//! not count: 1.0 equals 1.00.

use std::cmp::Ordering;

const HEADER_BYTES: usize = 8;
const MAX_DIGIT: u16 = 9_999;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const POSITIVE_INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// A value's parts, in the order in which they decide.
struct Numeric<'a> {
    class: Class,
    /// Power of 10,000 of the first digit. Zero has no digits and the smallest weight.
    weight: i32,
    /// Without zeros at either end, so that their bytes compare as the fraction that they are.
    digits: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    NegativeInfinity,
    Negative,
    Positive,
    PositiveInfinity,
    /// Postgres sorts it above all, and equal to itself.
    NaN,
}

pub(super) fn is_valid(bytes: &[u8]) -> bool {
    let Some((header, digits)) = bytes.split_at_checked(HEADER_BYTES) else { return false };
    let is_sign = matches!(word(header, 4), 0 | NEGATIVE | NAN | POSITIVE_INFINITY | NEGATIVE_INFINITY);
    is_sign && digits.len() == 2 * usize::from(word(header, 0)) && digits.chunks_exact(2).all(|digit| word(digit, 0) <= MAX_DIGIT)
}

/// cmp_numerics, over valid values.
pub(super) fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let (left, right) = (parts(left), parts(right));
    let by_size = || left.weight.cmp(&right.weight).then_with(|| left.digits.cmp(right.digits));
    left.class.cmp(&right.class).then_with(|| match left.class {
        Class::Positive => by_size(),
        Class::Negative => by_size().reverse(),
        Class::NegativeInfinity | Class::PositiveInfinity | Class::NaN => Ordering::Equal,
    })
}

fn parts(bytes: &[u8]) -> Numeric<'_> {
    let zero = Numeric { class: Class::Positive, weight: i32::MIN, digits: &[] };
    let Some((header, mut digits)) = bytes.split_at_checked(HEADER_BYTES) else { return zero };
    let class = match word(header, 4) {
        NEGATIVE => Class::Negative,
        NAN => Class::NaN,
        POSITIVE_INFINITY => Class::PositiveInfinity,
        NEGATIVE_INFINITY => Class::NegativeInfinity,
        _ => Class::Positive,
    };
    let mut weight = i32::from(word(header, 2) as i16);
    while let [0, 0, rest @ ..] = digits {
        digits = rest;
        weight -= 1;
    }
    while let [rest @ .., 0, 0] = digits {
        digits = rest;
    }
    match class {
        // Zero has no sign.
        Class::Positive | Class::Negative if digits.is_empty() => zero,
        class => Numeric { class, weight, digits },
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}
