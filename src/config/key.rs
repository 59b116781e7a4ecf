//! `key = …` → [`Key`]: the levels of a path, and the tree of placements that they make over the shards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::topology::{AgeMap, AgePolicy, HashFunction, HashMapLevel, Key, KeyMap, KeyValue, ListMap, ShardId, Watermarks};

use super::raw::{Section, Value};
use super::topology::{Names, Target};

/// Buckets are 16-bit numbers.
const MAX_BUCKETS: usize = 65_536;

/// What hash levels have when they do not say otherwise.
#[derive(Debug)]
pub(super) struct HashDefaults<'d> {
    pub(super) n_buckets: usize,
    pub(super) function: HashFunction,
    pub(super) ranges: Option<Vec<BucketRange<'d>>>,
}

/// Buckets `first..=last` belong to `target`.
#[derive(Debug, Clone)]
pub(super) struct BucketRange<'d> {
    first: usize,
    last: usize,
    target: Target<'d>,
    at: Value<'d>,
}

#[derive(Debug)]
struct Level<'d> {
    column: String,
    at: Value<'d>,
    kind: LevelKind<'d>,
}

#[derive(Debug)]
enum LevelKind<'d> {
    Hash { n_buckets: usize, function: HashFunction, spread: Spread<'d> },
    List { branches: Vec<Target<'d>>, values: HashMap<KeyValue, usize>, default: Option<usize> },
    Age { branches: Vec<Target<'d>>, policy: AgePolicy },
}

/// How buckets find their branch.
#[derive(Debug, Clone)]
enum Spread<'d> {
    /// Evenly over every shard that the level has.
    Every,
    /// Evenly over these.
    Over(Vec<Target<'d>>),
    Ranges(Vec<BucketRange<'d>>),
}

/// Reads a table's key: one level, or an array of them, outermost first.
pub(super) fn read_key<'d>(value: &Value<'d>, names: &Names, defaults: &HashDefaults<'d>) -> Option<Key> {
    let elements = value.one_or_many();
    if elements.is_empty() {
        value.fault("needs at least one level");
    }
    let n_levels = elements.len();
    let read: Vec<_> = elements.iter().map(|element| read_level(element, names, defaults, n_levels)).collect();
    let levels: Vec<Level<'d>> = read.into_iter().collect::<Option<_>>()?;
    judge_path(&levels);
    let tree = Tree { levels: &levels, names };
    let map = tree.grow(0, &names.all(), value)?;
    Some(Key { columns: levels.into_iter().map(|level| level.column).collect(), map })
}

/// The levels of one key differ in their columns, and only one of them goes by age: a table has one list of watermarks.
fn judge_path(levels: &[Level<'_>]) {
    let mut columns = HashSet::new();
    for level in levels {
        if !columns.insert(&level.column) {
            level.at.fault(format!("column \"{}\" is a level of this key already", level.column));
        }
    }
    let mut ages = levels.iter().filter(|level| matches!(level.kind, LevelKind::Age { .. }));
    if let Some(second) = ages.nth(1) {
        second.at.fault("a key has at most one level by age");
    }
}

fn read_level<'d>(value: &Value<'d>, names: &Names, defaults: &HashDefaults<'d>, n_levels: usize) -> Option<Level<'d>> {
    let mut section = value.table()?;
    let kinds = ["hash", "list", "age"].map(|key| section.take(key));
    if kinds.iter().flatten().count() != 1 {
        value.fault("a level of a key has exactly one of hash = \"column\", list = \"column\", age = \"column\"");
        return None;
    }
    let column = kinds.iter().flatten().find_map(read_column);
    let kind = match kinds {
        [Some(_), _, _] => read_hash(&mut section, names, defaults, n_levels),
        [_, Some(_), _] => read_list(&mut section, names),
        _ => read_age(&mut section, names),
    };
    section.finish();
    Some(Level { column: column?, at: value.clone(), kind: kind? })
}

fn read_column(value: &Value<'_>) -> Option<String> {
    let column = value.string()?;
    if !(1..=63).contains(&column.len()) || column.contains(['"', '\0']) {
        value.fault("must be a column's name as Postgres stores it, without quotes");
    }
    Some(column.to_owned())
}

fn read_hash<'d>(
    section: &mut Section<'d>,
    names: &Names,
    defaults: &HashDefaults<'d>,
    n_levels: usize,
) -> Option<LevelKind<'d>> {
    let function = section.take("function").map_or(Some(defaults.function), |value| read_function(&value));
    let n_buckets = section.take("buckets").map_or(Some(defaults.n_buckets), |value| read_n_buckets(&value));
    let ranges = section.take("ranges");
    let shards = section.take("shards");
    if let (Some(ranges), Some(_)) = (&ranges, &shards) {
        ranges.fault("says which shards the level has already: leave shards out");
    }
    if let Some(ranges) = ranges.as_ref().filter(|_| n_levels > 1) {
        ranges.fault("is for keys of one level; a level inside of a path spreads its buckets evenly");
    }
    let spread = match (ranges, shards, &defaults.ranges) {
        (Some(ranges), _, _) => Spread::Ranges(read_ranges(&ranges, names)),
        (None, Some(shards), _) => Spread::Over(read_targets(&shards, names)?),
        (None, None, Some(ranges)) if n_levels == 1 => Spread::Ranges(ranges.clone()),
        (None, None, _) => Spread::Every,
    };
    Some(LevelKind::Hash { n_buckets: n_buckets?, function: function?, spread })
}

fn read_targets<'d>(value: &Value<'d>, names: &Names) -> Option<Vec<Target<'d>>> {
    let elements = value.list()?;
    if elements.is_empty() {
        value.fault("needs at least one shard");
        return None;
    }
    let mut targets: Vec<Target<'d>> = Vec::new();
    for element in &elements {
        let target = names.target(element.string()?, element)?;
        if targets.iter().any(|known| known.shards.iter().any(|shard| target.shards.contains(shard))) {
            element.fault("names a shard twice");
        }
        targets.push(target);
    }
    Some(targets)
}

/// Reads `hash = "…"` of a database or `function = "…"` of a key.
pub(super) fn read_function(value: &Value<'_>) -> Option<HashFunction> {
    match value.string()? {
        "postgres" => Some(HashFunction::Postgres),
        "xxh64" => Some(HashFunction::Xxh64),
        unknown => {
            value.fault(format!("\"{unknown}\" is no hash function; functions are postgres, xxh64"));
            None
        }
    }
}

/// Reads a number of buckets.
pub(super) fn read_n_buckets(value: &Value<'_>) -> Option<usize> {
    let n_buckets = value.any_integer().and_then(|number| usize::try_from(number).ok());
    let sound = n_buckets.filter(|number| number.is_power_of_two() && *number <= MAX_BUCKETS);
    if sound.is_none() {
        value.fault(format!("must be a power of two up to {MAX_BUCKETS}"));
    }
    sound
}

/// Reads `ranges = { shard = ["0-1365", 4095], … }`.
pub(super) fn read_ranges<'d>(value: &Value<'d>, names: &Names) -> Vec<BucketRange<'d>> {
    let entries = value.table().map(Section::into_entries).unwrap_or_default();
    let mut ranges = Vec::new();
    for entry in entries {
        let Some(target) = names.target(&entry.name, &entry) else { continue };
        for element in entry.one_or_many() {
            match read_range(&element) {
                Some((first, last)) => ranges.push(BucketRange { first, last, target: target.clone(), at: element }),
                None => element.fault("must be a bucket such as 17 or a range of them such as \"0-1365\""),
            }
        }
    }
    ranges
}

fn read_range(value: &Value<'_>) -> Option<(usize, usize)> {
    if !value.is_string() {
        let bucket = usize::try_from(value.any_integer()?).ok()?;
        return Some((bucket, bucket));
    }
    let text = value.string()?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

fn read_list<'d>(section: &mut Section<'d>, names: &Names) -> Option<LevelKind<'d>> {
    let shards = section.need("shards");
    let default_value = section.take("default");
    let mut branches: Vec<Target<'d>> = Vec::new();
    let mut values: HashMap<KeyValue, usize> = HashMap::new();
    for entry in shards?.table()?.into_entries() {
        let Some(target) = names.target(&entry.name, &entry) else { continue };
        let elements = entry.list().unwrap_or_default();
        if elements.is_empty() {
            entry.fault("needs at least one value");
        }
        for element in elements {
            add_value(&element, &mut values, (branches.len(), &branches, &target.name));
        }
        branches.push(target);
    }
    let default = default_value.and_then(|value| {
        let name = value.string()?;
        let known = branches.iter().position(|branch| branch.name == name);
        known.or_else(|| {
            branches.push(names.target(name, &value)?);
            Some(branches.len() - 1)
        })
    });
    Some(LevelKind::List { branches, values, default })
}

/// Maps one value to the branch `place.0`; `place.2` is that branch's name, not yet among `place.1`.
fn add_value(element: &Value<'_>, values: &mut HashMap<KeyValue, usize>, place: (usize, &[Target<'_>], &str)) {
    let (branch_idx, branches, name) = place;
    let key = match element.any_integer() {
        Some(number) => KeyValue::Int(number),
        None if element.is_string() => KeyValue::Text(element.string().unwrap_or_default().to_owned()),
        None => return element.fault("a value is a string or an integer"),
    };
    if values.keys().any(|known| std::mem::discriminant(known) != std::mem::discriminant(&key)) {
        element.fault("the values of one column are all strings or all integers");
    }
    let shown = match &key {
        KeyValue::Text(text) => format!("\"{text}\""),
        _ => format!("{}", element.any_integer().unwrap_or_default()),
    };
    if let Some(earlier_idx) = values.insert(key, branch_idx) {
        let earlier = branches.get(earlier_idx).map_or(name, |branch| branch.name.as_str());
        element.fault(format!("value {shown} is mapped to {earlier} already"));
    }
}

fn read_age<'d>(section: &mut Section<'d>, names: &Names) -> Option<LevelKind<'d>> {
    let tiers = section.need("tiers")?;
    let list = tiers.list()?;
    if list.len() < 2 {
        tiers.fault("needs at least two tiers, youngest first");
        return None;
    }
    let mut branches = Vec::new();
    let mut younger_than: Vec<Duration> = Vec::new();
    for (tier_idx, value) in list.iter().enumerate() {
        let mut tier = value.table()?;
        let target = tier.need("shard").and_then(|shard| names.target(shard.string()?, &shard));
        let age = tier.take("younger_than").map(|age| age.duration());
        tier.finish();
        let is_last = tier_idx + 1 == list.len();
        match age {
            Some(_) if is_last => value.fault("the last tier takes all that is older: it has no younger_than"),
            None if !is_last => value.fault("needs younger_than = \"…\": only the last tier has none"),
            Some(Some(age)) if younger_than.last().is_some_and(|younger| age <= *younger) => {
                value.fault("younger_than must grow from tier to tier, youngest first");
            }
            Some(Some(Duration::ZERO)) => value.fault("younger_than must be more than zero"),
            Some(Some(age)) => younger_than.push(age),
            Some(None) | None => {}
        }
        branches.push(target);
    }
    let branches = branches.into_iter().collect::<Option<_>>()?;
    Some(LevelKind::Age { branches, policy: AgePolicy { younger_than } })
}

/// Grows the map from the levels: each branch of a level carries the further levels over its own shards.
struct Tree<'t, 'd> {
    levels: &'t [Level<'d>],
    names: &'t Names,
}

impl<'d> Tree<'_, 'd> {
    /// The map from level `level_idx` on, over the shards of `scope`, which `at` named.
    fn grow(&self, level_idx: usize, scope: &[ShardId], at: &Value<'d>) -> Option<KeyMap> {
        let Some(level) = self.levels.get(level_idx) else { return self.end(scope, at) };
        match &level.kind {
            LevelKind::Hash { n_buckets, function, spread } => {
                let (branches, buckets) = self.spread(level, spread, (*n_buckets, level_idx), scope)?;
                let (column_idx, function) = (level_idx, *function);
                Some(KeyMap::Hash(HashMapLevel { column_idx, function, buckets, branches }))
            }
            LevelKind::List { branches, values, default } => {
                let branches = self.grow_each(level_idx, branches, scope)?;
                Some(KeyMap::List(ListMap { column_idx: level_idx, values: values.clone(), branches, default: *default }))
            }
            LevelKind::Age { branches, policy } => {
                let branches = self.grow_each(level_idx, branches, scope)?;
                let policy = policy.clone();
                Some(KeyMap::Age(AgeMap { column_idx: level_idx, policy, watermarks: Watermarks::default(), branches }))
            }
        }
    }

    fn end(&self, scope: &[ShardId], at: &Value<'d>) -> Option<KeyMap> {
        match scope {
            [shard] => Some(KeyMap::Shard(*shard)),
            // A group without a sound member, of which is told where it stands.
            [] => None,
            _ => {
                let names: Vec<_> = scope.iter().map(|shard| self.names.shard_name(*shard)).collect();
                at.fault(format!("names several shards ({}), and no further level of the key tells which", names.join(", ")));
                None
            }
        }
    }

    fn grow_each(&self, level_idx: usize, targets: &[Target<'d>], scope: &[ShardId]) -> Option<Vec<KeyMap>> {
        // All are grown before one may fail, so that the faults of each are told.
        let grown: Vec<_> = targets.iter().map(|target| self.grow_target(level_idx, target, scope)).collect();
        grown.into_iter().collect()
    }

    fn grow_target(&self, level_idx: usize, target: &Target<'d>, scope: &[ShardId]) -> Option<KeyMap> {
        if let Some(stray) = target.shards.iter().find(|shard| !scope.contains(shard)) {
            let (name, outer) = (self.names.shard_name(*stray), level_idx);
            target.at.fault(format!("shard \"{name}\" is not among those that level {outer} of the key leaves here"));
            return None;
        }
        self.grow(level_idx + 1, &target.shards, &target.at)
    }

    /// Branches of a hash level, and for each bucket the index of its branch.
    fn spread(
        &self,
        level: &Level<'d>,
        spread: &Spread<'d>,
        (n_buckets, level_idx): (usize, usize),
        scope: &[ShardId],
    ) -> Option<(Vec<KeyMap>, Arc<[u16]>)> {
        let branches = match spread {
            Spread::Ranges(ranges) => return self.spread_ranges(level, ranges, (n_buckets, level_idx), scope),
            Spread::Over(targets) => self.grow_each(level_idx, targets, scope)?,
            Spread::Every => {
                let grown: Vec<_> = scope.iter().map(|shard| self.grow(level_idx + 1, &[*shard], &level.at)).collect();
                grown.into_iter().collect::<Option<_>>()?
            }
        };
        let n_branches = branches.len();
        if n_buckets < n_branches {
            level.at.fault(format!("{n_buckets} buckets are fewer than the {n_branches} shards that they are spread over"));
            return None;
        }
        let buckets = (0..n_buckets).map(|bucket| (bucket * n_branches / n_buckets) as u16).collect();
        Some((branches, buckets))
    }

    fn spread_ranges(
        &self,
        level: &Level<'d>,
        ranges: &[BucketRange<'d>],
        (n_buckets, level_idx): (usize, usize),
        scope: &[ShardId],
    ) -> Option<(Vec<KeyMap>, Arc<[u16]>)> {
        let mut targets: Vec<Target<'d>> = Vec::new();
        let mut owners: Vec<Option<u16>> = vec![None; n_buckets];
        for range in ranges {
            let known = targets.iter().position(|target| target.name == range.target.name);
            let target_idx = known.unwrap_or_else(|| {
                targets.push(range.target.clone());
                targets.len() - 1
            });
            let Some(buckets) = owners.get_mut(range.first..=range.last) else {
                range.at.fault(format!("buckets go from 0 to {}", n_buckets - 1));
                continue;
            };
            if buckets.iter().any(Option::is_some) {
                range.at.fault("gives away a bucket that another range has");
            }
            buckets.fill(Some(target_idx as u16));
        }
        if let Some(free) = owners.iter().position(Option::is_none) {
            let at = ranges.first().map_or(&level.at, |range| &range.target.at);
            at.fault(format!("the ranges leave bucket {free} without a shard"));
        }
        let branches = self.grow_each(level_idx, &targets, scope)?;
        let buckets: Arc<[u16]> = owners.into_iter().collect::<Option<Vec<u16>>>()?.into();
        Some((branches, buckets))
    }
}
