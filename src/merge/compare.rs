//! Comparators over the binary format, only for types where they are proven equal to Postgres's.

use std::cmp::Ordering;

use crate::topology::TypeOid;

/// How two binary values of one type compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparator {
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bytes,
}

impl Comparator {
    /// The comparator of a type; `None` when there is no proven one (text under another collation than C).
    pub fn of(type_oid: TypeOid, is_collation_c: bool) -> Option<Self> {
        let _ = (type_oid, is_collation_c);
        None
    }

    /// Compares two non-null values as the type's default btree operator class does.
    pub fn compare(self, left: &[u8], right: &[u8]) -> Ordering {
        match self.kind {
            Kind::Bytes => left.cmp(right),
        }
    }
}
