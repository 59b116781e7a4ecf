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
    /// Empty until loaded from the control table: then every predicate is unknown and writes have no shard.
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
            map = match map {
                KeyMap::Shard(shard) => return Ok(*shard),
                KeyMap::Hash(level) => {
                    level.branch_of(&values[level.column_idx]).ok_or_else(|| self.null_at(level.column_idx))?
                }
                KeyMap::List(level) => {
                    level.branch_of(&values[level.column_idx]).ok_or_else(|| match values[level.column_idx] {
                        KeyValue::Null => self.null_at(level.column_idx),
                        _ => PlacementError::Unmapped { column: self.columns[level.column_idx].clone() },
                    })?
                }
                KeyMap::Age(level) if level.watermarks.0.is_empty() => {
                    return Err(PlacementError::NoWatermarks { column: self.columns[level.column_idx].clone() });
                }
                KeyMap::Age(level) => match &values[level.column_idx] {
                    KeyValue::Null => return Err(self.null_at(level.column_idx)),
                    KeyValue::Timestamp(at) => &level.branches[level.tier_of(*at)],
                    _ => return Err(PlacementError::Unmapped { column: self.columns[level.column_idx].clone() }),
                },
            }
        }
    }

    fn null_at(&self, column_idx: usize) -> PlacementError {
        PlacementError::Null { column: self.columns[column_idx].clone() }
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
        let wanted = match &predicates[column_idx] {
            KeyPredicate::Never => return ShardSet::EMPTY,
            KeyPredicate::Unknown => return self.union_of(branches.iter(), predicates),
            KeyPredicate::Equal(value) => return self.union_of(self.branch_of(value).into_iter(), predicates),
            KeyPredicate::AnyOf(values) => return self.union_of(values.iter().filter_map(|v| self.branch_of(v)), predicates),
            KeyPredicate::IsNull => return self.union_of(self.branch_of(&KeyValue::Null).into_iter(), predicates),
            KeyPredicate::Range { lower, upper } => (lower, upper),
        };
        match self {
            Self::Age(level) => {
                let branches = level.branches_in(wanted.0, wanted.1);
                self.union_of(branches.into_iter(), predicates)
            }
            _ => self.union_of(branches.iter(), predicates),
        }
    }

    fn union_of<'a>(&self, branches: impl Iterator<Item = &'a Self>, predicates: &[KeyPredicate]) -> ShardSet {
        branches.fold(ShardSet::EMPTY, |set, branch| set.union(branch.shards_for(predicates)))
    }

    /// The branch whose rows have `value` in this level's column; `None` if no row can.
    ///
    /// NULL never satisfies `=`, so a predicate of equality with NULL names the branch that IS NULL would.
    fn branch_of(&self, value: &KeyValue) -> Option<&Self> {
        match self {
            Self::Shard(_) => Some(self),
            Self::Hash(level) => level.branch_of(value),
            Self::List(level) => level.branch_of(value),
            Self::Age(level) => match value {
                KeyValue::Timestamp(at) if !level.watermarks.0.is_empty() => level.branches.get(level.tier_of(*at)),
                _ => None,
            },
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

    fn branch_of(&self, value: &KeyValue) -> Option<&KeyMap> {
        let bucket = self.bucket_of(value)?;
        self.branches.get(usize::from(*self.buckets.get(bucket)?))
    }
}

impl ListMap {
    fn branch_of(&self, value: &KeyValue) -> Option<&KeyMap> {
        let branch = self.values.get(value).copied().or(self.default)?;
        self.branches.get(branch)
    }
}

impl AgeMap {
    fn tier_of(&self, at: i64) -> usize {
        self.watermarks.0.iter().position(|&mark| at >= mark).unwrap_or(self.watermarks.0.len())
    }

    fn branches_in<'a>(&'a self, lower: &Bound, upper: &Bound) -> Vec<&'a KeyMap> {
        if self.watermarks.0.is_empty() {
            return self.branches.iter().collect();
        }
        let tier = |bound: &Bound| match bound {
            Bound::Included(KeyValue::Timestamp(at)) | Bound::Excluded(KeyValue::Timestamp(at)) => Some(self.tier_of(*at)),
            _ => None,
        };
        let oldest = tier(lower).unwrap_or(self.branches.len().saturating_sub(1));
        let youngest = tier(upper).unwrap_or(0);
        self.branches.iter().enumerate().filter(|(idx, _)| (youngest..=oldest).contains(idx)).map(|(_, b)| b).collect()
    }
}
