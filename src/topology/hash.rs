//! Bucket hashes: Postgres's own partition hash, and XXH64 for data already placed by it.

use super::KeyValue;

/// How a key value becomes a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashFunction {
    /// The row hash of `PARTITION BY HASH`: src/backend/partitioning/partbounds.c, `compute_partition_hash_value`.
    Postgres,
    /// XXH64 with seed 0 over the value's text form. Cannot be evaluated in SQL.
    Xxh64,
}

impl HashFunction {
    /// The bucket of `value` among `n_buckets` (a power of two); `None` for NULL and for types that are never hashed.
    pub fn bucket(self, value: &KeyValue, n_buckets: usize) -> Option<usize> {
        let _ = (value, n_buckets);
        None
    }
}

/// `hashint8extended(value, seed)` of Postgres.
pub fn hash_int8_extended(value: i64, seed: u64) -> u64 {
    let _ = (value, seed);
    0
}

/// `hash_any_extended`: Bob Jenkins's lookup3 as in src/common/hashfn.c.
pub fn hash_bytes_extended(bytes: &[u8], seed: u64) -> u64 {
    let _ = (bytes, seed);
    0
}
