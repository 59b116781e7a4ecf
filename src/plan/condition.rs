//! What must hold for a table's key columns: built from WHERE and ON once, evaluated for each execution.

use std::cmp::Ordering;

use super::slot::{Binding, Operand, Slot, SlotValue};
use crate::sql::KeyType;
use crate::topology::{Bound, Key, KeyMap, KeyPredicate, KeyValue, ShardSet};

/// A condition over one table reference's key columns. `Unknown` holds for every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Unknown,
    Never,
    Column {
        column_idx: usize,
        test: Test,
    },
    /// Two whole numbers that the statement gives must be so to each other.
    Numbers {
        left: Operand,
        right: Operand,
        orders: &'static [Ordering],
    },
    All(Vec<Self>),
    Any(Vec<Self>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    In(Vec<Slot>),
    /// The column's value is an element of the array that the slot's value is.
    InArray(Slot),
    IsNull,
    /// `column > slot`, `column >= slot`.
    Above {
        slot: Slot,
        is_included: bool,
    },
    Below {
        slot: Slot,
        is_included: bool,
    },
}

/// Alternatives; a row satisfies one of them at least. Each has one predicate per key column.
pub(super) type Alternatives = Vec<Vec<KeyPredicate>>;

/// More alternatives than these count as "nothing is known".
const MAX_ALTERNATIVES: usize = 64;

impl Condition {
    /// Evaluates the condition for one execution.
    pub(super) fn alternatives(&self, key_types: &[Option<KeyType>], binding: Binding<'_>) -> Alternatives {
        let unknown = || vec![vec![KeyPredicate::Unknown; key_types.len()]];
        match self {
            Self::Unknown => unknown(),
            Self::Never => Vec::new(),
            Self::Column { column_idx, test } => {
                let Some(Some(key_type)) = key_types.get(*column_idx) else { return unknown() };
                let mut alternatives = unknown();
                alternatives[0][*column_idx] = test.predicate(*key_type, binding);
                alternatives
            }
            Self::Numbers { left, right, orders } => match left.integer(binding).zip(right.integer(binding)) {
                Some((left, right)) if !orders.contains(&left.cmp(&right)) => Vec::new(),
                _ => unknown(),
            },
            Self::All(parts) => parts.iter().fold(unknown(), |all, part| meet(&all, &part.alternatives(key_types, binding))),
            Self::Any(parts) => {
                let all: Alternatives = parts.iter().flat_map(|part| part.alternatives(key_types, binding)).collect();
                if all.len() > MAX_ALTERNATIVES { unknown() } else { all }
            }
        }
    }
}

/// The shards that may hold a row which satisfies one of `alternatives`.
pub(super) fn shards_of(key: &Key, alternatives: &Alternatives) -> ShardSet {
    if lacks_watermarks(&key.map) {
        return key.all_shards();
    }
    alternatives.iter().fold(ShardSet::EMPTY, |set, predicates| set.union(key.shards_for(predicates)))
}

/// Whether an age level waits for its watermarks: until then nothing is known of where its rows are.
pub(super) fn lacks_watermarks(map: &KeyMap) -> bool {
    match map {
        KeyMap::Shard(_) => false,
        KeyMap::Hash(level) => level.branches.iter().any(lacks_watermarks),
        KeyMap::List(level) => level.branches.iter().any(lacks_watermarks),
        KeyMap::Age(level) => level.watermarks.0.is_empty() || level.branches.iter().any(lacks_watermarks),
    }
}

/// Both must hold.
fn meet(left: &Alternatives, right: &Alternatives) -> Alternatives {
    if left.len() * right.len() > MAX_ALTERNATIVES {
        // Dropping one side is an over-approximation.
        return if left.len() <= right.len() { left.clone() } else { right.clone() };
    }
    let mut both = Vec::with_capacity(left.len() * right.len());
    for a in left {
        for b in right {
            both.push(a.iter().zip(b).map(|(a, b)| intersect(a, b)).collect());
        }
    }
    both
}

impl Test {
    fn predicate(&self, key_type: KeyType, binding: Binding<'_>) -> KeyPredicate {
        match self {
            Self::IsNull => KeyPredicate::IsNull,
            Self::In(slots) => one_of(slots, key_type, binding),
            Self::InArray(slot) => match slot.elements(key_type, binding) {
                Some(elements) => any_exact(elements),
                None => KeyPredicate::Unknown,
            },
            Self::Above { slot, is_included } => match slot.value(key_type, binding).lower(*is_included) {
                None => KeyPredicate::Never,
                Some(Bound::Unbounded) => KeyPredicate::Unknown,
                Some(lower) => KeyPredicate::Range { lower, upper: Bound::Unbounded },
            },
            Self::Below { slot, is_included } => match slot.value(key_type, binding).upper(*is_included) {
                None => KeyPredicate::Never,
                Some(Bound::Unbounded) => KeyPredicate::Unknown,
                Some(upper) => KeyPredicate::Range { lower: Bound::Unbounded, upper },
            },
        }
    }
}

fn one_of(slots: &[Slot], key_type: KeyType, binding: Binding<'_>) -> KeyPredicate {
    if let [slot] = slots {
        return match slot.value(key_type, binding) {
            SlotValue::Null | SlotValue::OutOfRange => KeyPredicate::Never,
            SlotValue::Exact(value) => KeyPredicate::Equal(value),
            SlotValue::Between(low, high) => KeyPredicate::Range {
                lower: Bound::Included(KeyValue::Timestamp(low)),
                upper: Bound::Included(KeyValue::Timestamp(high)),
            },
            SlotValue::Unknown => KeyPredicate::Unknown,
        };
    }
    any_exact(slots.iter().map(|slot| slot.value(key_type, binding)))
}

/// Equal to one of these values.
fn any_exact(all: impl IntoIterator<Item = SlotValue>) -> KeyPredicate {
    let mut values = Vec::new();
    for value in all {
        match value {
            SlotValue::Null | SlotValue::OutOfRange => {}
            SlotValue::Exact(value) => values.push(value),
            SlotValue::Between(..) | SlotValue::Unknown => return KeyPredicate::Unknown,
        }
    }
    any_of(values)
}

fn any_of(mut values: Vec<KeyValue>) -> KeyPredicate {
    values.sort_unstable();
    values.dedup();
    match values.len() {
        0 => KeyPredicate::Never,
        1 => values.pop().map_or(KeyPredicate::Never, KeyPredicate::Equal),
        _ => KeyPredicate::AnyOf(values),
    }
}

/// A predicate that every row satisfying both also satisfies.
pub(super) fn intersect(left: &KeyPredicate, right: &KeyPredicate) -> KeyPredicate {
    use KeyPredicate::{AnyOf, Equal, IsNull, Never, Range, Unknown};
    match (left, right) {
        (Unknown, other) | (other, Unknown) => other.clone(),
        (Never, _) | (_, Never) => Never,
        (IsNull, IsNull) => IsNull,
        (IsNull, _) | (_, IsNull) => Never,
        (Equal(value), other) | (other, Equal(value)) => {
            if may_hold(other, value) {
                Equal(value.clone())
            } else {
                Never
            }
        }
        (AnyOf(values), other) | (other, AnyOf(values)) => {
            any_of(values.iter().filter(|value| may_hold(other, value)).cloned().collect())
        }
        (Range { lower: l1, upper: u1 }, Range { lower: l2, upper: u2 }) => {
            Range { lower: tighter(l1, l2, true), upper: tighter(u1, u2, false) }
        }
    }
}

fn may_hold(predicate: &KeyPredicate, value: &KeyValue) -> bool {
    match predicate {
        KeyPredicate::Unknown => true,
        KeyPredicate::Never | KeyPredicate::IsNull => false,
        KeyPredicate::Equal(other) => other == value,
        KeyPredicate::AnyOf(values) => values.contains(value),
        KeyPredicate::Range { lower, upper } => {
            let Some(at) = number(value) else { return true };
            let above = match lower {
                Bound::Unbounded => true,
                Bound::Included(bound) => number(bound).is_none_or(|bound| at >= bound),
                Bound::Excluded(bound) => number(bound).is_none_or(|bound| at > bound),
            };
            let below = match upper {
                Bound::Unbounded => true,
                Bound::Included(bound) => number(bound).is_none_or(|bound| at <= bound),
                Bound::Excluded(bound) => number(bound).is_none_or(|bound| at < bound),
            };
            above && below
        }
    }
}

/// Values whose order is that of their numbers; the order of text is a matter of its collation.
fn number(value: &KeyValue) -> Option<i64> {
    match value {
        KeyValue::Int(number) | KeyValue::Timestamp(number) => Some(*number),
        KeyValue::Null | KeyValue::Text(_) | KeyValue::Uuid(_) => None,
    }
}

fn tighter(left: &Bound, right: &Bound, is_lower: bool) -> Bound {
    let at = |bound: &Bound| match bound {
        Bound::Unbounded => None,
        Bound::Included(value) => number(value).map(|n| (n, 0)),
        Bound::Excluded(value) => number(value).map(|n| (n, if is_lower { 1 } else { -1 })),
    };
    match (at(left), at(right)) {
        (None, None) => left.clone(),
        (None, Some(_)) => right.clone(),
        (Some(_), None) => left.clone(),
        (Some(l), Some(r)) => {
            if (l >= r) == is_lower {
                left.clone()
            } else {
                right.clone()
            }
        }
    }
}

/// What every alternative says of one column, as one predicate.
pub(super) fn summary(alternatives: &Alternatives, column_idx: usize) -> KeyPredicate {
    let mut values = Vec::new();
    for predicates in alternatives {
        match &predicates[column_idx] {
            KeyPredicate::Never => {}
            KeyPredicate::Equal(value) => values.push(value.clone()),
            KeyPredicate::AnyOf(more) => values.extend(more.iter().cloned()),
            other if alternatives.len() == 1 => return other.clone(),
            _ => return KeyPredicate::Unknown,
        }
    }
    any_of(values)
}
