//! `[databases.NAME]` → [`Topology`]: shards, groups, engine and tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::tls::Connector;
use crate::topology::{Engine, HashFunction, MAX_SHARDS, NodeAddress, Placement, Shard, ShardId, Table, TableName, Topology};

use super::key::{HashDefaults, read_function, read_key, read_n_buckets, read_ranges};
use super::raw::{Section, Value};
use super::settings::{judge_checkout, read_pool, read_query};
use super::tls::read_server_tls;
use super::users::read_name;
use super::{ControlConfig, DatabaseConfig, PoolConfig, QueryConfig};

const DEFAULT_BUCKETS: usize = 4096;
const DEFAULT_PORT: u32 = 5432;
/// The user whom initdb makes.
const DEFAULT_CONTROL_USER: &str = "postgres";

/// What a database takes from the rest of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Where relative paths start.
    pub(super) dir: &'a Path,
    pub(super) pool: &'a PoolConfig,
    pub(super) query: &'a QueryConfig,
    pub(super) tls: &'a Connector,
}

/// The names that a placement may use.
#[derive(Debug)]
pub(super) struct Names {
    shards: Vec<String>,
    groups: BTreeMap<String, Vec<ShardId>>,
}

/// One or more shards as a placement named them.
#[derive(Debug, Clone)]
pub(super) struct Target<'d> {
    pub(super) name: String,
    pub(super) shards: Vec<ShardId>,
    pub(super) at: Value<'d>,
}

impl Names {
    pub(super) fn all(&self) -> Vec<ShardId> {
        (0..self.shards.len()).map(|idx| ShardId(idx as u8)).collect()
    }

    pub(super) fn shard_name(&self, shard: ShardId) -> &str {
        &self.shards[shard.index()]
    }

    fn shard(&self, name: &str) -> Option<ShardId> {
        self.shards.iter().position(|shard| shard == name).map(|idx| ShardId(idx as u8))
    }

    /// The shard that a value names. A group will not do.
    fn shard_at(&self, value: &Value<'_>) -> Option<ShardId> {
        let name = value.string()?;
        let shard = self.shard(name);
        if shard.is_none() {
            self.unknown(value, name);
        }
        shard
    }

    /// The shards of a shard's or group's name.
    pub(super) fn target<'d>(&self, name: &str, at: &Value<'d>) -> Option<Target<'d>> {
        let shards = self.shard(name).map(|shard| vec![shard]).or_else(|| self.groups.get(name).cloned());
        if shards.is_none() {
            self.unknown(at, name);
        }
        Some(Target { name: name.to_owned(), shards: shards?, at: at.clone() })
    }

    fn unknown(&self, value: &Value<'_>, name: &str) {
        let what = if self.groups.contains_key(name) { "a group, not a shard" } else { "no shard of this database" };
        value.fault(format!("\"{name}\" is {what}; shards are {}", self.shards.join(", ")));
    }
}

/// Reads one `[databases.NAME]`.
pub(super) fn read_database(value: &Value<'_>, surroundings: Surroundings<'_>) -> Option<DatabaseConfig> {
    let name = value.name.as_str();
    if name.is_empty() || name.len() > 63 {
        value.fault("a database's name has 1 to 63 bytes");
    }
    let mut section = value.table()?;
    let shards = read_shards(&mut section, name);
    let shard_names = shards.iter().map(|shard| shard.name.clone()).collect();
    let mut names = Names { shards: shard_names, groups: BTreeMap::new() };
    names.groups = read_groups(&mut section, &names);
    let hash = read_hash_defaults(&mut section, &names);
    let default_shard = section.take("default_shard").and_then(|value| names.shard_at(&value));
    let engine = section.take("engine").and_then(|value| read_engine(&value, &names, name)).unwrap_or(Engine::Any);
    let safe_functions = section.take("safe_functions").map(|value| read_safe_functions(&value)).unwrap_or_default();
    let tables = read_tables(&mut section, &names, &hash);
    let control = read_control(&mut section, surroundings.dir);
    let pool = read_pool(section.section("pool"), surroundings.pool);
    let query = read_query(section.section("query"), surroundings.query);
    let (pool_path, query_path) = (format!("{}.pool", value.path), format!("{}.query", value.path));
    // Where both are inherited, the fault is told once, of the sections that they come from.
    let is_own = |key: String| section.source().has_key(&key);
    if is_own(format!("{pool_path}.checkout_timeout")) || is_own(format!("{query_path}.timeout")) {
        judge_checkout(section.source(), &pool_path, &pool, &query);
    }
    let tls = read_server_tls(section.section("tls"), surroundings.tls, surroundings.dir);
    section.finish();
    let topology = Topology { database: name.to_owned(), shards, tables, default_shard, engine, safe_functions, epoch: 1 };
    Some(DatabaseConfig { topology, control, pool, query, tls })
}

fn read_hash_defaults<'d>(section: &mut Section<'d>, names: &Names) -> HashDefaults<'d> {
    HashDefaults {
        n_buckets: section.take("buckets").and_then(|value| read_n_buckets(&value)).unwrap_or(DEFAULT_BUCKETS),
        function: section.take("hash").and_then(|value| read_function(&value)).unwrap_or(HashFunction::Postgres),
        ranges: section.take("ranges").map(|value| read_ranges(&value, names)),
    }
}

fn read_shards(section: &mut Section<'_>, database: &str) -> Vec<Shard> {
    let Some(list) = section.need("shards") else { return Vec::new() };
    let mut shards: Vec<Shard> = Vec::new();
    for value in list.list().unwrap_or_default() {
        let Some(shard) = value.table().and_then(|table| read_shard(table, database)) else { continue };
        for earlier in &shards {
            judge_shards(&value, earlier, &shard);
        }
        shards.push(shard);
    }
    if list.list().is_some_and(|list| list.is_empty()) {
        list.fault("needs at least one shard");
    }
    if shards.len() > MAX_SHARDS {
        list.fault(format!("a database has at most {MAX_SHARDS} shards, here are {}", shards.len()));
        shards.truncate(MAX_SHARDS);
    }
    shards
}

/// Two shards share neither a name nor a database on a server: rows of one would show up as rows of the other.
fn judge_shards(value: &Value<'_>, earlier: &Shard, shard: &Shard) {
    if earlier.name == shard.name {
        value.fault(format!("shard \"{}\" is named twice", shard.name));
    }
    let shared = shard.nodes.iter().find(|node| earlier.dbname == shard.dbname && earlier.nodes.contains(node));
    if let Some(node) = shared {
        let (first, second) = (&earlier.name, &shard.name);
        value.fault(format!("shards \"{first}\" and \"{second}\" are the same database \"{}\" on {node}", shard.dbname));
    }
}

fn read_shard(mut section: Section<'_>, database: &str) -> Option<Shard> {
    let name = section.need("name").and_then(|value| read_shard_name(&value));
    let mut nodes: Vec<NodeAddress> = Vec::new();
    let list = section.need("nodes");
    for value in list.as_ref().and_then(Value::list).unwrap_or_default() {
        let Some(node) = value.table().and_then(read_node) else { continue };
        if nodes.contains(&node) {
            value.fault(format!("node {node} is named twice"));
        }
        nodes.push(node);
    }
    if let Some(list) = list.filter(|list| list.list().is_some_and(|list| list.is_empty())) {
        list.fault("needs at least one node");
    }
    let dbname = section.take("dbname").and_then(|value| read_name(&value)).unwrap_or_else(|| database.to_owned());
    section.finish();
    Some(Shard { name: name?, dbname, nodes })
}

/// A name that a routing hint can say: letters, digits, `_` and `-`.
fn read_shard_name(value: &Value<'_>) -> Option<String> {
    let name = value.string()?;
    if name == "any" || !is_plain_name(name) {
        value.fault("must be of letters, digits, _ and -, at most 63, and not the word \"any\"");
    }
    Some(name.to_owned())
}

fn is_plain_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn read_node(mut section: Section<'_>) -> Option<NodeAddress> {
    let node = take_node(&mut section);
    section.finish();
    node
}

fn take_node(section: &mut Section<'_>) -> Option<NodeAddress> {
    let host = section.need("host").and_then(|value| read_host(&value));
    let port = section.integer("port", 1..=65535, DEFAULT_PORT);
    Some(NodeAddress { host: host?, port: port as u16 })
}

fn read_host(value: &Value<'_>) -> Option<String> {
    let host = value.string()?;
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == ',') {
        value.fault("must be one host name, IP address, or the absolute path of a socket's directory");
    }
    Some(host.to_owned())
}

fn read_groups(section: &mut Section<'_>, names: &Names) -> BTreeMap<String, Vec<ShardId>> {
    let mut groups = BTreeMap::new();
    for value in section.section("groups").into_entries() {
        if names.shard(&value.name).is_some() {
            value.fault("is a shard's name already");
        } else if !is_plain_name(&value.name) {
            value.fault("a group's name is of letters, digits, _ and -, at most 63");
        }
        let mut shards: Vec<ShardId> = Vec::new();
        for element in value.list().unwrap_or_default() {
            match names.shard_at(&element) {
                Some(shard) if shards.contains(&shard) => element.fault("names a shard twice"),
                Some(shard) => shards.push(shard),
                None => {}
            }
        }
        if value.list().is_some_and(|list| list.is_empty()) {
            value.fault("needs at least one shard");
        }
        groups.insert(value.name.clone(), shards);
    }
    groups
}

fn read_engine(value: &Value<'_>, names: &Names, database: &str) -> Option<Engine> {
    if !value.is_table() {
        return match value.string()? {
            "any" => Some(Engine::Any),
            _ => names.shard_at(value).map(Engine::Shard),
        };
    }
    let mut section = value.table()?;
    let node = take_node(&mut section);
    let dbname = section.take("dbname").and_then(|value| read_name(&value)).unwrap_or_else(|| database.to_owned());
    section.finish();
    Some(Engine::Dedicated { node: node?, dbname })
}

fn read_control(section: &mut Section<'_>, dir: &Path) -> ControlConfig {
    let default = ControlConfig { user: DEFAULT_CONTROL_USER.to_owned(), password: None };
    let Some(mut control) = section.take("control").and_then(|value| value.table()) else { return default };
    let user = control.need("user").and_then(|value| read_name(&value)).unwrap_or(default.user);
    let password = read_password(&mut control, dir);
    control.finish();
    ControlConfig { user, password }
}

/// `password`, or where it stands: `password_file`, `password_env`.
pub(super) fn read_password(section: &mut Section<'_>, dir: &Path) -> Option<String> {
    let given = ["password", "password_file", "password_env"].map(|key| section.take(key));
    if let Some(second) = given.iter().flatten().nth(1) {
        second.fault("only one of password, password_file and password_env can hold");
    }
    let [password, file, variable] = given;
    password
        .and_then(|value| value.string().map(str::to_owned))
        .or_else(|| file.and_then(|value| read_password_file(&value, dir)))
        .or_else(|| variable.and_then(|value| read_password_variable(&value)))
}

fn read_password_file(value: &Value<'_>, dir: &Path) -> Option<String> {
    let path = dir.join(value.string()?);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let password = value.understood(text)?;
    Some(password.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_password_variable(value: &Value<'_>) -> Option<String> {
    let name = value.string()?;
    value.understood(std::env::var(name).map_err(|_| format!("the environment has no variable {name}")))
}

fn read_tables<'d>(section: &mut Section<'d>, names: &Names, hash: &HashDefaults<'d>) -> HashMap<TableName, Arc<Table>> {
    let mut tables = HashMap::new();
    for value in section.take("tables").and_then(|value| value.list()).unwrap_or_default() {
        let Some(mut table) = value.table() else { continue };
        let name = table.need("name").and_then(|value| read_table_name(&value));
        let placement = read_placement(&mut table, names, hash);
        table.finish();
        let Some(name) = name else { continue };
        if tables.contains_key(&name) {
            value.fault(format!("table \"{name}\" is named twice"));
        }
        // A table whose placement is faulty still takes its name: a second one is told of too.
        let placement = placement.unwrap_or(Placement::Reference);
        tables.insert(name.clone(), Arc::new(Table { name, placement }));
    }
    tables
}

/// Names of functions, with their schemas as those of tables.
fn read_safe_functions(value: &Value<'_>) -> HashSet<TableName> {
    let mut names = HashSet::new();
    for element in value.list().unwrap_or_default() {
        let Some(name) = read_table_name(&element) else { continue };
        if !names.insert(name.clone()) {
            element.fault(format!("\"{name}\" is named twice"));
        }
    }
    names
}

/// `name` (in schema public) or `schema.name`, spelt as Postgres stores them: `Orders` is the table `"Orders"`.
fn read_table_name(value: &Value<'_>) -> Option<TableName> {
    let text = value.string()?;
    let (schema, name) = text.split_once('.').unwrap_or(("public", text));
    let is_sound = |part: &str| (1..=63).contains(&part.len()) && !part.contains(['.', '"', '\0']);
    if !is_sound(schema) || !is_sound(name) {
        value.fault("must be NAME or SCHEMA.NAME as Postgres stores them, without quotes");
    }
    Some(TableName::new(schema, name))
}

fn read_placement<'d>(section: &mut Section<'d>, names: &Names, hash: &HashDefaults<'d>) -> Option<Placement> {
    let key = section.take("key");
    let shard = section.take("shard");
    let is_reference = section.boolean("reference");
    match (key, shard, is_reference) {
        (Some(key), None, false) => read_key(&key, names, hash).map(Placement::Sharded),
        (None, Some(shard), false) => names.shard_at(&shard).map(Placement::Pinned),
        (None, None, true) => Some(Placement::Reference),
        (None, None, false) => {
            section.fault("a table needs one of: key = …, shard = \"…\", reference = true");
            None
        }
        _ => {
            section.fault("a table has only one of key, shard and reference");
            None
        }
    }
}
