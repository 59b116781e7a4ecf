//! Comparators over the binary format, only for types where they are proven equal to Postgres's.
//!
//! Left out on purpose: interval (compares by an estimate of its length), time with time zone, enums (their binary form is
//! the label), arrays, ranges, and text under other collations than C.

use std::cmp::Ordering;

use crate::topology::TypeOid;

use super::numeric;

/// How two binary values of one type compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparator {
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Unsigned bytes of any length, a prefix before what it begins.
    Bytes,
    /// bpchar: as `Bytes`, without the spaces at the end.
    PaddedBytes,
    /// Unsigned bytes of this length: bool, oid, uuid, `"char"`.
    Unsigned(usize),
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
}

impl Comparator {
    /// The comparator of a type; `None` when there is no proven one (text under another collation than C).
    ///
    /// Text must come in the server's own encoding: a conversion may change the order of its bytes.
    pub fn of(type_oid: TypeOid, is_collation_c: bool) -> Option<Self> {
        // OIDs of src/include/catalog/pg_type.dat.
        let kind = match type_oid {
            // bool, "char".
            16 | 18 => Kind::Unsigned(1),
            // oid.
            26 => Kind::Unsigned(4),
            // uuid.
            2950 => Kind::Unsigned(16),
            21 => Kind::Int2,
            // int4, date.
            23 | 1082 => Kind::Int4,
            // int8, time, timestamp, timestamptz.
            20 | 1083 | 1114 | 1184 => Kind::Int8,
            700 => Kind::Float4,
            701 => Kind::Float8,
            1700 => Kind::Numeric,
            // bytea.
            17 => Kind::Bytes,
            // name, text, varchar.
            19 | 25 | 1043 if is_collation_c => Kind::Bytes,
            // bpchar.
            1042 if is_collation_c => Kind::PaddedBytes,
            _ => return None,
        };
        Some(Self { kind })
    }

    /// Compares two non-null values as the type's default btree operator class does.
    ///
    /// What is no value of the type ([`Self::is_valid`]) compares in some order, and never panics.
    pub fn compare(self, left: &[u8], right: &[u8]) -> Ordering {
        match self.kind {
            Kind::Bytes | Kind::Unsigned(_) => left.cmp(right),
            Kind::PaddedBytes => unpadded(left).cmp(unpadded(right)),
            Kind::Int2 => by(left, right, i16::from_be_bytes, Ord::cmp),
            Kind::Int4 => by(left, right, i32::from_be_bytes, Ord::cmp),
            Kind::Int8 => by(left, right, i64::from_be_bytes, Ord::cmp),
            Kind::Float4 => by(left, right, |bytes| f64::from(f32::from_be_bytes(bytes)), compare_floats),
            Kind::Float8 => by(left, right, f64::from_be_bytes, compare_floats),
            Kind::Numeric => numeric::compare(left, right),
        }
    }

    /// Whether the bytes are a value of the type.
    pub fn is_valid(self, value: &[u8]) -> bool {
        match self.kind {
            Kind::Bytes | Kind::PaddedBytes => true,
            Kind::Unsigned(length) => value.len() == length,
            Kind::Int2 => value.len() == 2,
            Kind::Int4 | Kind::Float4 => value.len() == 4,
            Kind::Int8 | Kind::Float8 => value.len() == 8,
            Kind::Numeric => numeric::is_valid(value),
        }
    }
}

fn by<const N: usize, T>(
    left: &[u8],
    right: &[u8],
    decode: impl Fn([u8; N]) -> T,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Ordering {
    match (left.try_into(), right.try_into()) {
        (Ok(left), Ok(right)) => compare(&decode(left), &decode(right)),
        _ => left.cmp(right),
    }
}

/// float8_cmp_internal of src/include/utils/float.h: NaN equals itself and is above all, -0 equals 0.
fn compare_floats(left: &f64, right: &f64) -> Ordering {
    left.partial_cmp(right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

fn unpadded(text: &[u8]) -> &[u8] {
    let n_padding = text.iter().rev().take_while(|&&byte| byte == b' ').count();
    &text[..text.len() - n_padding]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines of type, OID, whether the value equals the one before it, and the value in the binary format as hexadecimal,
    /// in the order of PostgreSQL 15's ORDER BY under collation C. Made by compare_golden.sql.
    const GOLDEN: &str = include_str!("compare_golden.tsv");

    /// A type's values in order, with their ranks: equal values have equal ranks.
    fn golden_of(type_oid: u32) -> Vec<(usize, Vec<u8>)> {
        let mut values = Vec::new();
        let mut rank = 0;
        for line in GOLDEN.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            let [_, oid, is_same, hex] = fields[..] else { panic!("{line}") };
            if oid.parse::<u32>().unwrap() == type_oid {
                rank += usize::from(is_same == "f");
                let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                values.push((rank, bytes.collect()));
            }
        }
        values
    }

    const TYPES: [u32; 19] = [16, 17, 18, 19, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950];

    #[test]
    fn every_type_sorts_as_on_the_server() {
        for type_oid in TYPES {
            let comparator = Comparator::of(type_oid, true).unwrap();
            let values = golden_of(type_oid);
            assert!(values.len() >= 2, "{type_oid}");
            for (left_rank, left) in &values {
                assert!(comparator.is_valid(left), "{type_oid} {left:x?}");
                for (right_rank, right) in &values {
                    let ours = comparator.compare(left, right);
                    assert_eq!(ours, left_rank.cmp(right_rank), "{type_oid}: {left:x?} and {right:x?}");
                }
            }
        }
    }

    #[test]
    fn other_types_and_collations_have_none() {
        let (interval, text, int4_array) = (1186, 25, 1007);
        assert_eq!(Comparator::of(text, false), None);
        assert_eq!(Comparator::of(interval, true), None);
        assert_eq!(Comparator::of(int4_array, true), None);
        assert!(Comparator::of(23, false).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_compare_without_panic(
            type_oid in prop::sample::select(&TYPES[..]),
            left in prop::collection::vec(any::<u8>(), 0..20),
            right in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let comparator = Comparator::of(type_oid, true).unwrap();
            comparator.compare(&left, &right);
            comparator.is_valid(&left);
        }

        #[test]
        fn integers_and_floats_sort_as_numbers(left in any::<i64>(), right in any::<i64>(), x in any::<f64>(), y in any::<f64>()) {
            let int8 = Comparator::of(20, false).unwrap();
            prop_assert_eq!(int8.compare(&left.to_be_bytes(), &right.to_be_bytes()), left.cmp(&right));
            let float8 = Comparator::of(701, false).unwrap();
            prop_assert_eq!(Some(float8.compare(&x.to_be_bytes(), &y.to_be_bytes())), x.partial_cmp(&y));
        }
    }
}
