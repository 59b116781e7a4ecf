//! A small set of shards, copied without allocation.

use super::ShardId;

/// Most shards one database may have.
pub const MAX_SHARDS: usize = 256;

/// A set of shards of one topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ShardSet([u64; MAX_SHARDS / 64]);

impl ShardSet {
    pub const EMPTY: Self = Self([0; MAX_SHARDS / 64]);

    /// The shards with index below `n`.
    pub fn first(n: usize) -> Self {
        (0..n.min(MAX_SHARDS)).map(|idx| ShardId(idx as u8)).collect()
    }

    pub fn only(shard: ShardId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(shard);
        set
    }

    pub fn insert(&mut self, shard: ShardId) {
        self.0[shard.index() / 64] |= 1 << (shard.index() % 64);
    }

    pub fn contains(&self, shard: ShardId) -> bool {
        self.0[shard.index() / 64] & (1 << (shard.index() % 64)) != 0
    }

    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }

    #[must_use]
    pub fn intersection(mut self, other: Self) -> Self {
        for (word, keep) in self.0.iter_mut().zip(other.0) {
            *word &= keep;
        }
        self
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; MAX_SHARDS / 64]
    }

    /// The one shard of a set of one.
    pub fn single(&self) -> Option<ShardId> {
        let mut shards = self.iter();
        match (shards.next(), shards.next()) {
            (Some(shard), None) => Some(shard),
            _ => None,
        }
    }

    /// In ascending order: the order in which leases are taken.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + use<> {
        let words = self.0;
        words.into_iter().enumerate().flat_map(|(word_idx, mut word)| {
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(ShardId((word_idx * 64) as u8 + bit as u8))
            })
        })
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::EMPTY;
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterates_in_order_over_word_boundaries() {
        let set: ShardSet = [ShardId(255), ShardId(0), ShardId(64), ShardId(63)].into_iter().collect();
        assert_eq!(set.iter().map(|s| s.0).collect::<Vec<_>>(), [0, 63, 64, 255]);
        assert_eq!((set.len(), set.single(), ShardSet::first(3).len()), (4, None, 3));
    }
}
