//! The placement map: from key values to shards, level by level.

use std::collections::HashMap;
use std::sync::Arc;

use super::{AgePolicy, Bound, HashFunction, KeyPredicate, KeyValue, ShardId, ShardSet, Watermarks};

/// A sharded table's key: its columns and the tree of levels over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// One per level, outermost first; identifiers folded.
    pub columns: Vec<String>,
    pub map: KeyMap,
}

/// One level of a key's placement. `Shard` is the end of a path; other variants name the level's column by its index in
/// [`Key::columns`], which equals the level's depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMap {
    Shard(ShardId),
    Hash(HashMapLevel),
    List(ListMap),
    Age(AgeMap),
}

/// Bucket → branch. `buckets.len()` is the number of buckets, a power of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashMapLevel {
    pub column_idx: usize,
    pub function: HashFunction,
    /// For each bucket the index of its branch.
    pub buckets: Arc<[u16]>,
    pub branches: Vec<KeyMap>,
}

/// Listed value → branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListMap {
    pub column_idx: usize,
    pub values: HashMap<KeyValue, usize>,
    pub branches: Vec<KeyMap>,
    /// Branch of unlisted values and NULL.
    pub default: Option<usize>,
}

/// Time range → branch, youngest first. Rows at or after `watermarks[i]` and before `watermarks[i-1]` are in branch `i`;
/// the last branch has the rest, so `branches.len() == watermarks.len() + 1` once watermarks are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgeMap {
    pub column_idx: usize,
    pub policy: AgePolicy,
    /// Empty until loaded from the control table. While they do not fit the branches every predicate is unknown and writes
    /// have no shard.
    pub watermarks: Watermarks,
    pub branches: Vec<KeyMap>,
}

/// Why a row has no shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("null value in key column \"{column}\" has no shard")]
    Null { column: String },
    #[error("value of key column \"{column}\" is mapped to no shard")]
    Unmapped { column: String },
    #[error("the watermarks of key column \"{column}\" are not known yet")]
    NoWatermarks { column: String },
}

/// Where the rows with one value in a level's column are.
#[derive(Debug, Clone, Copy)]
enum BranchOf<'a> {
    One(&'a KeyMap),
    /// No row can have the value.
    None,
    /// The level cannot tell: watermarks that are not loaded, a value of a type that it does not place.
    Unknown,
}

impl<'a> BranchOf<'a> {
    fn at(branches: &'a [KeyMap], branch_idx: Option<usize>) -> Self {
        branch_idx.and_then(|branch_idx| branches.get(branch_idx)).map_or(Self::Unknown, Self::One)
    }
}

impl Key {
    /// Returns the shards that may hold a row whose key columns satisfy `predicates`, one per column.
    ///
    /// Over-approximates: an extra shard costs latency, a missing shard loses rows.
    pub fn shards_for(&self, predicates: &[KeyPredicate]) -> ShardSet {
        self.map.shards_for(predicates)
    }

    /// Returns the shard of the row whose key columns have these values.
    pub fn shard_of(&self, values: &[KeyValue]) -> Result<ShardId, PlacementError> {
        let mut map = &self.map;
        loop {
            let column_idx = match map {
                KeyMap::Shard(shard) => return Ok(*shard),
                KeyMap::Hash(HashMapLevel { column_idx, .. })
                | KeyMap::List(ListMap { column_idx, .. })
                | KeyMap::Age(AgeMap { column_idx, .. }) => *column_idx,
            };
            let value = &values[column_idx];
            map = match map.branch_of(value) {
                BranchOf::One(branch) => branch,
                BranchOf::None | BranchOf::Unknown => return Err(self.no_shard(map, value, column_idx)),
            };
        }
    }

    fn no_shard(&self, map: &KeyMap, value: &KeyValue, column_idx: usize) -> PlacementError {
        let column = self.columns[column_idx].clone();
        match (map, value) {
            (KeyMap::Age(level), _) if !level.has_watermarks() => PlacementError::NoWatermarks { column },
            (_, KeyValue::Null) => PlacementError::Null { column },
            _ => PlacementError::Unmapped { column },
        }
    }

    #[must_use]
    pub(super) fn with_watermarks(&self, watermarks: &Watermarks) -> Self {
        Self { columns: self.columns.clone(), map: self.map.with_watermarks(watermarks) }
    }

    /// Every shard that holds rows of the table.
    pub fn all_shards(&self) -> ShardSet {
        self.map.all_shards()
    }

    /// The policy of the key's age level, if it has one.
    pub fn age_policy(&self) -> Option<&AgePolicy> {
        self.map.age_policy()
    }
}

impl KeyMap {
    fn shards_for(&self, predicates: &[KeyPredicate]) -> ShardSet {
        let (column_idx, branches) = match self {
            Self::Shard(shard) => return ShardSet::only(*shard),
            Self::Hash(level) => (level.column_idx, &level.branches),
            Self::List(level) => (level.column_idx, &level.branches),
            Self::Age(level) => (level.column_idx, &level.branches),
        };
        let all = || self.union_of(branches.iter(), predicates);
        let of = |value: &KeyValue| match self.branch_of(value) {
            BranchOf::One(branch) => branch.shards_for(predicates),
            BranchOf::None => ShardSet::EMPTY,
            BranchOf::Unknown => all(),
        };
        match (&predicates[column_idx], self) {
            (KeyPredicate::Never, _) => ShardSet::EMPTY,
            (KeyPredicate::Equal(value), _) => of(value),
            (KeyPredicate::AnyOf(values), _) => values.iter().fold(ShardSet::EMPTY, |set, value| set.union(of(value))),
            (KeyPredicate::IsNull, _) => of(&KeyValue::Null),
            (KeyPredicate::Range { lower, upper }, Self::Age(level)) => {
                self.union_of(level.branches_in(lower, upper).iter(), predicates)
            }
            (KeyPredicate::Unknown | KeyPredicate::Range { .. }, _) => all(),
        }
    }

    fn union_of<'a>(&self, branches: impl Iterator<Item = &'a Self>, predicates: &[KeyPredicate]) -> ShardSet {
        branches.fold(ShardSet::EMPTY, |set, branch| set.union(branch.shards_for(predicates)))
    }

    /// The branch whose rows have `value` in this level's column.
    ///
    /// NULL never satisfies `=`, so a predicate of equality with NULL names the branch that IS NULL would.
    fn branch_of(&self, value: &KeyValue) -> BranchOf<'_> {
        match (self, value) {
            (Self::Shard(_), _) => BranchOf::One(self),
            (Self::List(level), value) => match level.values.get(value).copied().or(level.default) {
                None => BranchOf::None,
                branch_idx => BranchOf::at(&level.branches, branch_idx),
            },
            (Self::Age(level), _) if !level.has_watermarks() => BranchOf::Unknown,
            // A row with NULL there has no shard, so there is none.
            (Self::Hash(_) | Self::Age(_), KeyValue::Null) => BranchOf::None,
            (Self::Hash(level), value) => BranchOf::at(&level.branches, level.branch_idx_of(value)),
            (Self::Age(level), KeyValue::Timestamp(at)) => BranchOf::at(&level.branches, Some(level.tier_of(*at))),
            (Self::Age(_), _) => BranchOf::Unknown,
        }
    }

    fn with_watermarks(&self, watermarks: &Watermarks) -> Self {
        let each = |branches: &[Self]| branches.iter().map(|b| b.with_watermarks(watermarks)).collect();
        match self {
            Self::Shard(shard) => Self::Shard(*shard),
            Self::Hash(level) => Self::Hash(HashMapLevel { branches: each(&level.branches), ..level.clone() }),
            Self::List(level) => Self::List(ListMap { branches: each(&level.branches), ..level.clone() }),
            Self::Age(level) => {
                Self::Age(AgeMap { branches: each(&level.branches), watermarks: watermarks.clone(), ..level.clone() })
            }
        }
    }

    fn all_shards(&self) -> ShardSet {
        match self {
            Self::Shard(shard) => ShardSet::only(*shard),
            Self::Hash(HashMapLevel { branches, .. })
            | Self::List(ListMap { branches, .. })
            | Self::Age(AgeMap { branches, .. }) => {
                branches.iter().fold(ShardSet::EMPTY, |set, branch| set.union(branch.all_shards()))
            }
        }
    }

    fn age_policy(&self) -> Option<&AgePolicy> {
        match self {
            Self::Shard(_) => None,
            Self::Age(level) => Some(&level.policy),
            Self::Hash(HashMapLevel { branches, .. }) | Self::List(ListMap { branches, .. }) => {
                branches.iter().find_map(Self::age_policy)
            }
        }
    }
}

impl HashMapLevel {
    /// The bucket of a value: Postgres's row hash of it, or XXH64, reduced by the mask.
    pub fn bucket_of(&self, value: &KeyValue) -> Option<usize> {
        self.function.bucket(value, self.buckets.len())
    }

    fn branch_idx_of(&self, value: &KeyValue) -> Option<usize> {
        self.buckets.get(self.bucket_of(value)?).copied().map(usize::from)
    }
}

impl AgeMap {
    fn has_watermarks(&self) -> bool {
        self.watermarks.0.len() + 1 == self.branches.len()
    }

    fn tier_of(&self, at: i64) -> usize {
        self.watermarks.0.iter().position(|&mark| at >= mark).unwrap_or(self.watermarks.0.len())
    }

    /// The tiers that may hold timestamps between the bounds. An excluded bound is the next microsecond.
    fn branches_in(&self, lower: &Bound, upper: &Bound) -> &[KeyMap] {
        if !self.has_watermarks() {
            return &self.branches;
        }
        let oldest = match lower {
            Bound::Included(KeyValue::Timestamp(at)) => self.tier_of(*at),
            Bound::Excluded(KeyValue::Timestamp(at)) => self.tier_of(at.saturating_add(1)),
            _ => self.branches.len() - 1,
        };
        let youngest = match upper {
            Bound::Included(KeyValue::Timestamp(at)) => self.tier_of(*at),
            Bound::Excluded(KeyValue::Timestamp(at)) => self.tier_of(at.saturating_sub(1)),
            _ => 0,
        };
        self.branches.get(youngest..=oldest).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
