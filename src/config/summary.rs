//! What `trunkline check` prints when all is well.

use std::fmt::Write;

use crate::topology::{Engine, HashFunction, Key, KeyMap, KeyValue, Placement, Shard, ShardId, ShardSet, Topology};

use super::units::{show_duration, show_size};
use super::{AuthRule, Config, DatabaseConfig};

/// Listed values shown per branch; more are counted.
const MAX_VALUES_SHOWN: usize = 8;

impl Config {
    /// A summary for a person: where it listens, its limits, and for each database the shards and where each table is.
    pub fn summary(&self) -> String {
        let listen: Vec<_> = self.server.listen.iter().map(ToString::to_string).collect();
        let method = match &self.auth.rules[..] {
            [rule] if *rule == AuthRule::of_method(rule.method) => rule.method.as_str().to_owned(),
            rules => format!("{} rules of authentication", rules.len()),
        };
        let mut text = format!(
            "clients   {} ({method}, {} named users, at most {} clients, {} workers)\nadmin     {}\ntls       clients {}, servers {}\nlimits    statement {}, \
             partial rows {}, message {}\n",
            listen.join(", "),
            self.auth.users.len(),
            self.server.max_clients,
            self.server.workers,
            self.admin.listen,
            self.tls.clients.mode.as_str(),
            self.tls.server.mode.as_str(),
            show_duration(self.query.timeout),
            show_size(self.query.max_gather_bytes),
            show_size(self.query.max_message_bytes as u64),
        );
        if self.auth.rules.len() > 1 {
            text.extend(self.auth.rules.iter().map(|rule| format!("  rule {rule}\n")));
        }
        for (name, database) in &self.databases {
            text.push_str(&database_summary(name, database));
        }
        text
    }
}

fn database_summary(name: &str, database: &DatabaseConfig) -> String {
    let topology = &database.topology;
    let mut lines = vec![String::new(), database_line(name, database)];
    lines.extend(topology.shards.iter().map(shard_line));
    let mut tables: Vec<_> = topology.tables.values().collect();
    tables.sort_by_key(|table| &table.name);
    let width = tables.iter().map(|table| table.name.to_string().len()).max().unwrap_or_default();
    for table in &tables {
        let shown = table.name.to_string();
        lines.push(format!("  table {shown:width$}  {}", placement_text(topology, &table.placement)));
    }
    if let Some(home) = topology.default_shard {
        lines.push(format!("  other tables are on {}", topology.shard(home).name));
    } else if topology.only_shard().is_none() {
        lines.push("  other tables are refused: there is no default_shard".to_owned());
    }
    let unverifiable: Vec<_> = tables.iter().filter(|table| has_xxh64(&table.placement)).collect();
    if !unverifiable.is_empty() {
        let names: Vec<_> = unverifiable.iter().map(|table| table.name.to_string()).collect();
        lines.push(format!("  note: hash \"xxh64\" cannot be verified in SQL (tables {})", names.join(", ")));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn database_line(name: &str, database: &DatabaseConfig) -> String {
    let topology = &database.topology;
    let engine = match &topology.engine {
        Engine::Any => "any".to_owned(),
        Engine::Shard(shard) => topology.shard(*shard).name.clone(),
        Engine::Dedicated { node, dbname } => format!("{node}/{dbname}"),
    };
    let (pool, n_shards) = (&database.pool, topology.shards.len());
    let noun = if n_shards == 1 { "shard" } else { "shards" };
    format!(
        "database {name}: {n_shards} {noun}, pool {} with at most {} connections per node, engine {engine}, control user {}",
        pool.mode.as_str(),
        pool.max_per_node,
        database.control.user
    )
}

fn shard_line(shard: &Shard) -> String {
    let nodes: Vec<_> = shard.nodes.iter().map(ToString::to_string).collect();
    format!("  shard {}: {} (dbname {})", shard.name, nodes.join(", "), shard.dbname)
}

fn placement_text(topology: &Topology, placement: &Placement) -> String {
    match placement {
        Placement::Reference => "reference: a copy on every shard".to_owned(),
        Placement::Pinned(shard) => format!("pinned to {}", topology.shard(*shard).name),
        Placement::Sharded(key) => key_text(topology, key, &key.map),
    }
}

/// One line for a level and, where there are further levels, those of each of its branches.
fn key_text(topology: &Topology, key: &Key, map: &KeyMap) -> String {
    let mut text = String::new();
    match map {
        KeyMap::Shard(shard) => text.push_str(&topology.shard(*shard).name),
        KeyMap::Hash(level) => {
            let function = if level.function == HashFunction::Xxh64 { "xxh64 " } else { "" };
            let column = &key.columns[level.column_idx];
            let over = level.branches.iter().map(|branch| shard_names(topology, branch)).collect::<Vec<_>>().join(", ");
            // Writing to a string does not fail.
            write!(text, "{function}hash of {column}, {} buckets over {over}", level.buckets.len()).unwrap_or_default();
        }
        KeyMap::List(level) => {
            write!(text, "list of {}: ", key.columns[level.column_idx]).unwrap_or_default();
            let branches = level.branches.iter().enumerate().map(|(branch_idx, branch)| {
                let mut values: Vec<_> = level.values.iter().filter(|(_, idx)| **idx == branch_idx).map(|(v, _)| v).collect();
                values.sort();
                let default = if level.default == Some(branch_idx) { " and all else" } else { "" };
                format!("{}{default} → {}", value_list(&values), inner(topology, key, branch))
            });
            text.push_str(&branches.collect::<Vec<_>>().join("; "));
        }
        KeyMap::Age(level) => {
            write!(text, "age of {}: ", key.columns[level.column_idx]).unwrap_or_default();
            let ages = level.policy.younger_than.iter().map(|age| format!("under {}", show_duration(*age)));
            let tiers = ages.chain(["the rest".to_owned()]).zip(&level.branches);
            let tiers: Vec<_> = tiers.map(|(age, branch)| format!("{age} → {}", inner(topology, key, branch))).collect();
            text.push_str(&tiers.join("; "));
        }
    }
    text
}

fn inner(topology: &Topology, key: &Key, branch: &KeyMap) -> String {
    match branch {
        KeyMap::Shard(shard) => topology.shard(*shard).name.clone(),
        _ => format!("({})", key_text(topology, key, branch)),
    }
}

fn value_list(values: &[&KeyValue]) -> String {
    let shown: Vec<_> = values
        .iter()
        .take(MAX_VALUES_SHOWN)
        .map(|value| match value {
            KeyValue::Text(text) => text.clone(),
            KeyValue::Int(number) => number.to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    match values.len().saturating_sub(MAX_VALUES_SHOWN) {
        0 => shown.join(" "),
        n_more => format!("{} and {n_more} more", shown.join(" ")),
    }
}

fn shard_names(topology: &Topology, map: &KeyMap) -> String {
    let shards: Vec<ShardId> = shards_of(map).iter().collect();
    let names: Vec<_> = shards.iter().map(|shard| topology.shard(*shard).name.as_str()).collect();
    if names.len() == 1 { names.concat() } else { format!("({})", names.join(" ")) }
}

fn branches_of(map: &KeyMap) -> &[KeyMap] {
    match map {
        KeyMap::Shard(_) => &[],
        KeyMap::Hash(level) => &level.branches,
        KeyMap::List(level) => &level.branches,
        KeyMap::Age(level) => &level.branches,
    }
}

fn shards_of(map: &KeyMap) -> ShardSet {
    match map {
        KeyMap::Shard(shard) => ShardSet::only(*shard),
        _ => branches_of(map).iter().fold(ShardSet::EMPTY, |set, branch| set.union(shards_of(branch))),
    }
}

fn has_xxh64(placement: &Placement) -> bool {
    fn is_in(map: &KeyMap) -> bool {
        let is_here = matches!(map, KeyMap::Hash(level) if level.function == HashFunction::Xxh64);
        is_here || branches_of(map).iter().any(is_in)
    }
    matches!(placement, Placement::Sharded(key) if is_in(&key.map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::path::Path;

    #[test]
    fn summary_says_where_each_table_is() {
        let text = r#"
[server]
workers = 2
[auth]
method = "trust"
[databases.shop]
groups = { eu = ["b", "c"] }
[[databases.shop.shards]]
name = "a"
nodes = [{ host = "h1" }, { host = "h2" }]
[[databases.shop.shards]]
name = "b"
nodes = [{ host = "h3" }]
[[databases.shop.shards]]
name = "c"
nodes = [{ host = "/run/pg", port = 6000 }]
[[databases.shop.tables]]
name = "users"
key = { hash = "id", function = "xxh64" }
[[databases.shop.tables]]
name = "events"
key = [{ list = "region", shards = { a = ["us", "ca"], eu = ["de"] }, default = "a" }, { hash = "user_id" }]
[[databases.shop.tables]]
name = "metrics"
key = { age = "at", tiers = [{ shard = "a", younger_than = "12h" }, { shard = "b" }] }
[[databases.shop.tables]]
name = "ops.audit"
shard = "c"
[[databases.shop.tables]]
name = "countries"
reference = true
"#;
        let config = Config::parse(text, Path::new("t.toml")).expect("a sound file");
        expect![[r#"
            clients   127.0.0.1:6432 (trust, 0 named users, at most 10000 clients, 2 workers)
            admin     127.0.0.1:6433
            tls       clients off, servers prefer
            limits    statement 30s, partial rows 256MB, message 64MB

            database shop: 3 shards, pool transaction with at most 20 connections per node, engine any, control user postgres
              shard a: h1:5432, h2:5432 (dbname shop)
              shard b: h3:5432 (dbname shop)
              shard c: /run/pg:6000 (dbname shop)
              table ops.audit  pinned to c
              table countries  reference: a copy on every shard
              table events     list of region: ca us and all else → (hash of user_id, 4096 buckets over a); de → (hash of user_id, 4096 buckets over b, c)
              table metrics    age of at: under 12h → a; the rest → b
              table users      xxh64 hash of id, 4096 buckets over a, b, c
              other tables are refused: there is no default_shard
              note: hash "xxh64" cannot be verified in SQL (tables users)
        "#]].assert_eq(&config.summary());
    }
}
