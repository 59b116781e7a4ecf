//! Finding bytes eight at a time.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The position of the first byte at or after `from` that is one of `wanted`.
pub(super) fn find_any<const N: usize>(bytes: &[u8], from: usize, wanted: [u8; N]) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let mut at = from;
    let mut words = rest.chunks_exact(8);
    for word in words.by_ref() {
        let Ok(eight) = <[u8; 8]>::try_from(word) else { break };
        let value = u64::from_le_bytes(eight);
        let hits = wanted.iter().fold(0, |hits, byte| {
            let difference = value ^ (ONES * u64::from(*byte));
            hits | (difference.wrapping_sub(ONES) & !difference & HIGHS)
        });
        if hits != 0 {
            // The lowest marked byte is exact: a borrow can only spoil higher ones.
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    words.remainder().iter().position(|byte| wanted.contains(byte)).map(|idx| at + idx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_plain_search() {
        let text: Vec<u8> = (0..400u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for from in 0..text.len() + 2 {
            for pair in [[b'\n', b'\\'], [0, 255], [b'a', b'b']] {
                let plain =
                    text.get(from..).and_then(|rest| rest.iter().position(|byte| pair.contains(byte))).map(|idx| from + idx);
                assert_eq!(find_any(&text, from, pair), plain, "{from} {pair:?}");
            }
        }
    }
}
