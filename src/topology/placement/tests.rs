use proptest::prelude::*;

use super::*;

fn text(value: &str) -> KeyValue {
    KeyValue::Text(value.to_owned())
}

fn shards(ids: &[u8]) -> ShardSet {
    ids.iter().map(|&id| ShardId(id)).collect()
}

fn shard(id: u8) -> KeyMap {
    KeyMap::Shard(ShardId(id))
}

/// Buckets in equal contiguous ranges over the branches.
fn hash(column_idx: usize, function: HashFunction, branches: Vec<KeyMap>) -> KeyMap {
    let n_buckets = 64;
    let buckets = (0..n_buckets).map(|bucket| (bucket * branches.len() / n_buckets) as u16).collect();
    KeyMap::Hash(HashMapLevel { column_idx, function, buckets, branches })
}

fn list(values: &[(&str, usize)], branches: Vec<KeyMap>, default: Option<usize>) -> KeyMap {
    let values = values.iter().map(|(value, branch_idx)| (text(value), *branch_idx)).collect();
    KeyMap::List(ListMap { column_idx: 0, values, branches, default })
}

fn age(watermarks: &[i64], branches: Vec<KeyMap>) -> KeyMap {
    let watermarks = Watermarks(watermarks.to_vec());
    KeyMap::Age(AgeMap { column_idx: 0, policy: AgePolicy::default(), watermarks, branches })
}

fn key(columns: &[&str], map: KeyMap) -> Key {
    Key { columns: columns.iter().map(|&column| column.to_owned()).collect(), map }
}

/// Region, and inside europe a hash of the user.
fn events() -> Key {
    let europe = hash(1, HashFunction::Postgres, vec![shard(1), shard(2)]);
    key(&["region", "user_id"], list(&[("us", 0), ("de", 1), ("fr", 1)], vec![shard(0), europe], None))
}

fn metrics(watermarks: &[i64]) -> Key {
    key(&["at"], age(watermarks, vec![shard(0), shard(1), shard(2)]))
}

fn range(lower: Bound, upper: Bound) -> [KeyPredicate; 1] {
    [KeyPredicate::Range { lower, upper }]
}

fn at(micros: i64) -> KeyValue {
    KeyValue::Timestamp(micros)
}

#[test]
fn each_level_prunes_on_its_own() {
    use KeyPredicate::{AnyOf, Equal, Never, Unknown};
    let key = events();
    let user = |id| Equal(KeyValue::Int(id));
    let in_bucket_of_shard =
        |id: u8| (0..).find(|&user| key.shard_of(&[text("de"), KeyValue::Int(user)]) == Ok(ShardId(id))).unwrap();
    assert_eq!(key.shards_for(&[Unknown, Unknown]), shards(&[0, 1, 2]));
    assert_eq!(key.shards_for(&[Equal(text("us")), Unknown]), shards(&[0]));
    assert_eq!(key.shards_for(&[Equal(text("de")), Unknown]), shards(&[1, 2]));
    assert_eq!(key.shards_for(&[Equal(text("de")), user(in_bucket_of_shard(2))]), shards(&[2]));
    assert_eq!(key.shards_for(&[Unknown, user(in_bucket_of_shard(1))]), shards(&[0, 1]));
    assert_eq!(key.shards_for(&[AnyOf(vec![text("us"), text("nowhere")]), Unknown]), shards(&[0]));
    assert_eq!(key.shards_for(&[Equal(text("nowhere")), Unknown]), ShardSet::EMPTY);
    assert_eq!(key.shards_for(&[Equal(text("de")), Never]), ShardSet::EMPTY);
}

#[test]
fn rows_without_a_shard_name_their_column() {
    let key = events();
    let unmapped = PlacementError::Unmapped { column: "region".to_owned() };
    assert_eq!(key.shard_of(&[text("nowhere"), KeyValue::Int(1)]), Err(unmapped.clone()));
    assert_eq!(key.shard_of(&[KeyValue::Null, KeyValue::Int(1)]), Err(PlacementError::Null { column: "region".to_owned() }));
    assert_eq!(key.shard_of(&[text("de"), KeyValue::Null]), Err(PlacementError::Null { column: "user_id".to_owned() }));
    assert_eq!(key.shard_of(&[text("us"), KeyValue::Null]), Ok(ShardId(0)));
}

#[test]
fn a_list_default_takes_unlisted_values_and_null() {
    let key = key(&["region"], list(&[("us", 0)], vec![shard(0), shard(1)], Some(1)));
    assert_eq!(key.shard_of(&[text("nowhere")]), Ok(ShardId(1)));
    assert_eq!(key.shard_of(&[KeyValue::Null]), Ok(ShardId(1)));
    assert_eq!(key.shards_for(&[KeyPredicate::IsNull]), shards(&[1]));
}

#[test]
fn null_is_in_no_bucket() {
    let key = key(&["id"], hash(0, HashFunction::Postgres, vec![shard(0), shard(1)]));
    assert_eq!(key.shards_for(&[KeyPredicate::IsNull]), ShardSet::EMPTY);
}

#[test]
fn values_that_a_level_cannot_place_prune_nothing() {
    let key = key(&["id"], hash(0, HashFunction::Xxh64, vec![shard(0), shard(1)]));
    assert_eq!(key.shards_for(&[KeyPredicate::Equal(at(5))]), shards(&[0, 1]));
    assert_eq!(key.shard_of(&[at(5)]), Err(PlacementError::Unmapped { column: "id".to_owned() }));
    assert_eq!(metrics(&[100, 50]).shards_for(&[KeyPredicate::Equal(KeyValue::Int(5))]), shards(&[0, 1, 2]));
}

#[test]
fn ranges_prune_tiers() {
    let key = metrics(&[100, 50]);
    let of = |lower, upper| key.shards_for(&range(lower, upper));
    let (from, after) = (|micros| Bound::Included(at(micros)), |micros| Bound::Excluded(at(micros)));
    assert_eq!(of(from(100), Bound::Unbounded), shards(&[0]));
    assert_eq!(of(from(99), Bound::Unbounded), shards(&[0, 1]));
    assert_eq!(of(after(99), Bound::Unbounded), shards(&[0]));
    assert_eq!(of(Bound::Unbounded, after(50)), shards(&[2]));
    assert_eq!(of(Bound::Unbounded, from(50)), shards(&[1, 2]));
    assert_eq!(of(from(60), from(70)), shards(&[1]));
    assert_eq!(of(from(120), from(10)), ShardSet::EMPTY);
    assert_eq!(of(Bound::Included(KeyValue::Null), Bound::Unbounded), shards(&[0, 1, 2]));
    assert_eq!(key.shards_for(&[KeyPredicate::Equal(at(49))]), shards(&[2]));
}

#[test]
fn tiers_without_watermarks_that_fit_prune_nothing() {
    for watermarks in [&[][..], &[100], &[100, 50, 20]] {
        let key = metrics(watermarks);
        let predicates =
            [range(Bound::Included(at(200)), Bound::Unbounded), [KeyPredicate::Equal(at(200))], [KeyPredicate::IsNull]];
        for predicate in predicates {
            assert_eq!(key.shards_for(&predicate), shards(&[0, 1, 2]), "{predicate:?}");
        }
        assert_eq!(key.shard_of(&[at(200)]), Err(PlacementError::NoWatermarks { column: "at".to_owned() }));
    }
    let single_tier = key(&["at"], age(&[], vec![shard(0)]));
    assert_eq!(single_tier.shard_of(&[at(200)]), Ok(ShardId(0)));
}

#[test]
fn new_watermarks_reach_every_level() {
    let key = metrics(&[]).with_watermarks(&Watermarks(vec![100, 50]));
    assert_eq!(key.shard_of(&[at(100)]), Ok(ShardId(0)));
    assert_eq!(key.shard_of(&[at(99)]), Ok(ShardId(1)));
}

fn any_value() -> impl Strategy<Value = KeyValue> {
    prop_oneof![(-5..125_i64).prop_map(at), Just(KeyValue::Null)]
}

fn any_bound() -> impl Strategy<Value = Bound> {
    prop_oneof![
        Just(Bound::Unbounded),
        (-5..125_i64).prop_map(|micros| Bound::Included(at(micros))),
        (-5..125_i64).prop_map(|micros| Bound::Excluded(at(micros))),
    ]
}

fn any_predicate() -> impl Strategy<Value = KeyPredicate> {
    prop_oneof![
        Just(KeyPredicate::Unknown),
        Just(KeyPredicate::IsNull),
        any_value().prop_map(KeyPredicate::Equal),
        prop::collection::vec(any_value(), 0..4).prop_map(KeyPredicate::AnyOf),
        (any_bound(), any_bound()).prop_map(|(lower, upper)| KeyPredicate::Range { lower, upper }),
    ]
}

fn holds(predicate: &KeyPredicate, value: &KeyValue) -> bool {
    let is_null = *value == KeyValue::Null;
    match predicate {
        KeyPredicate::Unknown => true,
        KeyPredicate::Never => false,
        KeyPredicate::IsNull => is_null,
        KeyPredicate::Equal(wanted) => !is_null && wanted == value,
        KeyPredicate::AnyOf(wanted) => !is_null && wanted.contains(value),
        KeyPredicate::Range { lower, upper } => {
            let is_above = match lower {
                Bound::Unbounded => true,
                Bound::Included(bound) => value >= bound,
                Bound::Excluded(bound) => value > bound,
            };
            let is_below = match upper {
                Bound::Unbounded => true,
                Bound::Included(bound) => value <= bound,
                Bound::Excluded(bound) => value < bound,
            };
            !is_null && is_above && is_below
        }
    }
}

proptest! {
    /// The law: a shard that holds a matching row is never left out.
    #[test]
    fn matching_rows_are_on_the_shards_of_the_predicate(value in any_value(), predicate in any_predicate()) {
        let tiers = |branch: fn(u8) -> KeyMap| (0..3).map(branch).collect::<Vec<_>>();
        let hashed = |first: u8| hash(0, HashFunction::Postgres, vec![shard(first * 2), shard(first * 2 + 1)]);
        for map in [age(&[100, 50], tiers(shard)), age(&[100, 50], tiers(hashed)), hashed(1)] {
            let key = key(&["at"], map);
            if let (Ok(shard), true) = (key.shard_of(std::slice::from_ref(&value)), holds(&predicate, &value)) {
                prop_assert!(key.shards_for(std::slice::from_ref(&predicate)).contains(shard));
            }
        }
    }
}
