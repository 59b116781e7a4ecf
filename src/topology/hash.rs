//! Bucket hashes: Postgres's own partition hash, and XXH64 for data already placed by it.

use std::io::Write as _;

use twox_hash::XxHash64;

use super::KeyValue;

/// How a key value becomes a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashFunction {
    /// The row hash of `PARTITION BY HASH`: src/backend/partitioning/partbounds.c, `compute_partition_hash_value`.
    ///
    /// Text hashes by its bytes, as under every deterministic collation.
    Postgres,
    /// XXH64 with seed 0 over the value's text form. Cannot be evaluated in SQL.
    Xxh64,
}

/// `HASH_PARTITION_SEED` of src/include/catalog/partition.h.
const PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// What `hash_combine64(0, hash)` adds to the hash of a partition key's only column.
const COMBINE_ADDEND: u64 = 0x49A0_F4DD_15E5_A8E3;

impl HashFunction {
    /// The bucket of `value` among `n_buckets` (a power of two); `None` for NULL and for types that are never hashed
    /// (timestamps by XXH64, as their text form hangs on the session).
    pub fn bucket(self, value: &KeyValue, n_buckets: usize) -> Option<usize> {
        let mask = n_buckets.checked_sub(1)?;
        let hash = match self {
            Self::Postgres => partition_hash(value)?,
            Self::Xxh64 => text_xxh64(value)?,
        };
        // Only the low bits count, so the cut to usize loses nothing.
        Some(hash as usize & mask)
    }
}

fn partition_hash(value: &KeyValue) -> Option<u64> {
    let hash = match value {
        KeyValue::Null => return None,
        KeyValue::Int(value) | KeyValue::Timestamp(value) => hash_int8_extended(*value, PARTITION_SEED),
        KeyValue::Text(text) => hash_bytes_extended(text.as_bytes(), PARTITION_SEED),
        KeyValue::Uuid(uuid) => hash_bytes_extended(uuid, PARTITION_SEED),
    };
    Some(hash.wrapping_add(COMBINE_ADDEND))
}

fn text_xxh64(value: &KeyValue) -> Option<u64> {
    let mut text = [0; 36];
    let mut rest = &mut text[..];
    match value {
        KeyValue::Null | KeyValue::Timestamp(_) => return None,
        KeyValue::Text(text) => return Some(XxHash64::oneshot(0, text.as_bytes())),
        KeyValue::Int(value) => write!(rest, "{value}").ok()?,
        KeyValue::Uuid(uuid) => {
            for (byte_idx, byte) in uuid.iter().enumerate() {
                let hyphen = if matches!(byte_idx, 4 | 6 | 8 | 10) { "-" } else { "" };
                write!(rest, "{hyphen}{byte:02x}").ok()?;
            }
        }
    }
    let n_unused = rest.len();
    Some(XxHash64::oneshot(0, &text[..text.len() - n_unused]))
}

/// `hashint8extended(value, seed)` of Postgres: src/backend/access/hash/hashfunc.c. Equal for equal int2, int4 and int8.
pub fn hash_int8_extended(value: i64, seed: u64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    let folded = low ^ if value >= 0 { high } else { !high };
    let mut state = State::new(size_of::<u32>(), seed);
    state.a = state.a.wrapping_add(folded);
    state.finish()
}

/// `hash_any_extended`: Bob Jenkins's lookup3 as in src/common/hashfn.c, for little-endian servers.
pub fn hash_bytes_extended(bytes: &[u8], seed: u64) -> u64 {
    let mut state = State::new(bytes.len(), seed);
    let blocks = bytes.chunks_exact(12);
    let rest = blocks.remainder();
    for block in blocks {
        state.add(block);
        state.mix();
    }
    // The lowest byte of the last word is kept for the length, so the tail's ninth byte is the second of `c`.
    let mut tail = [0; 12];
    let (whole, short) = rest.split_at(rest.len().min(8));
    tail[..whole.len()].copy_from_slice(whole);
    tail[9..9 + short.len()].copy_from_slice(short);
    state.add(&tail);
    state.finish()
}

/// The three words of lookup3.
struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    fn new(n_bytes: usize, seed: u64) -> Self {
        let start = 0x9e37_79b9_u32.wrapping_add(n_bytes as u32).wrapping_add(3_923_095);
        let mut state = Self { a: start, b: start, c: start };
        if seed != 0 {
            state.a = state.a.wrapping_add((seed >> 32) as u32);
            state.b = state.b.wrapping_add(seed as u32);
            state.mix();
        }
        state
    }

    /// Adds twelve bytes, as three little-endian words.
    fn add(&mut self, block: &[u8]) {
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        self.a = self.a.wrapping_add(word(0));
        self.b = self.b.wrapping_add(word(4));
        self.c = self.c.wrapping_add(word(8));
    }

    fn mix(&mut self) {
        let Self { a, b, c } = self;
        let step = |x: &mut u32, y: &mut u32, z: &mut u32, rotation: u32| {
            *x = x.wrapping_sub(*z) ^ z.rotate_left(rotation);
            *z = z.wrapping_add(*y);
        };
        step(a, b, c, 4);
        step(b, c, a, 6);
        step(c, a, b, 8);
        step(a, b, c, 16);
        step(b, c, a, 19);
        step(c, a, b, 4);
    }

    fn finish(self) -> u64 {
        let Self { mut a, mut b, mut c } = self;
        let step = |x: &mut u32, y: u32, rotation: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(rotation));
        step(&mut c, b, 14);
        step(&mut a, c, 11);
        step(&mut b, a, 25);
        step(&mut c, b, 16);
        step(&mut a, c, 4);
        step(&mut b, a, 14);
        step(&mut c, b, 24);
        u64::from(b) << 32 | u64::from(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BUCKETS: usize = 65_536;

    /// Lines of type, value in hexadecimal bytes of UTF-8 text, and remainder modulo 65,536, for which PostgreSQL 15
    /// says `satisfies_hash_partition(table, 65536, remainder, value)`. Made by hash_golden.sql.
    const GOLDEN: &str = include_str!("hash_golden.tsv");

    fn value_of(type_name: &str, text: &str) -> KeyValue {
        match type_name {
            "int2" | "int4" | "int8" => KeyValue::Int(text.parse().unwrap()),
            "text" | "varchar" | "bpchar" => KeyValue::Text(text.to_owned()),
            "timestamp" | "timestamptz" => KeyValue::Timestamp(text.parse().unwrap()),
            "uuid" => {
                let digits = text.replace('-', "");
                KeyValue::Uuid(u128::from_str_radix(&digits, 16).unwrap().to_be_bytes())
            }
            other => panic!("no such type: {other}"),
        }
    }

    #[test]
    fn buckets_are_the_servers_own() {
        let mut n_checked = 0;
        for line in GOLDEN.lines().filter(|line| !line.starts_with("--")) {
            let fields: Vec<_> = line.split('\t').collect();
            let bytes = (0..fields[1].len()).step_by(2).map(|at| u8::from_str_radix(&fields[1][at..at + 2], 16).unwrap());
            let text = String::from_utf8(bytes.collect()).unwrap();
            let value = value_of(fields[0], &text);
            let remainder: usize = fields[2].parse().unwrap();
            for n_buckets in [1, 16, 4096, MAX_BUCKETS] {
                let bucket = HashFunction::Postgres.bucket(&value, n_buckets);
                assert_eq!(bucket, Some(remainder % n_buckets), "{} {text:?} of {n_buckets}", fields[0]);
            }
            n_checked += 1;
        }
        assert!(n_checked > 200, "{n_checked}");
    }

    #[test]
    fn null_has_no_bucket() {
        assert_eq!(HashFunction::Postgres.bucket(&KeyValue::Null, 4096), None);
        assert_eq!(HashFunction::Xxh64.bucket(&KeyValue::Null, 4096), None);
        assert_eq!(HashFunction::Xxh64.bucket(&KeyValue::Timestamp(0), 4096), None);
    }

    #[test]
    fn xxh64_reads_the_text_form() {
        let text = |text: &str| KeyValue::Text(text.to_owned());
        let same = [
            (KeyValue::Int(i64::MIN), "-9223372036854775808"),
            (KeyValue::Int(0), "0"),
            (value_of("uuid", "00ff0000-0000-0000-0000-00000000abcd"), "00ff0000-0000-0000-0000-00000000abcd"),
        ];
        for (value, form) in same {
            assert_eq!(text_xxh64(&value), text_xxh64(&text(form)), "{form}");
        }
        // The reference implementation's value for the empty input.
        assert_eq!(text_xxh64(&text("")), Some(0xef46_db37_51d8_e999));
    }
}
