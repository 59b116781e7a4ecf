//! Merging answers of shards: a pure state machine that says which shard to read next.

mod compare;
mod numeric;
mod ordered;

pub use compare::Comparator;
pub use ordered::{MalformedRow, MergeSpec, OrderedMerge, ResolvedKey, Step};
