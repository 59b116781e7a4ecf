use std::path::Path;

use expect_test::{Expect, expect};

use super::*;
use crate::topology::{Engine, HashFunction, Key, KeyMap, KeyValue, Placement, ShardId, TableName};

/// Three shards, trust: the shortest head of a sound file.
const HEAD: &str = r#"
[auth]
method = "trust"
[[databases.shop.shards]]
name = "a"
nodes = [{ host = "h1" }]
[[databases.shop.shards]]
name = "b"
nodes = [{ host = "h2" }]
[[databases.shop.shards]]
name = "c"
nodes = [{ host = "h3" }]
"#;

fn faults_of(text: &str) -> String {
    let outcome = Config::parse(text, Path::new("t.toml"));
    outcome.err().unwrap_or_default().iter().map(|fault| format!("{fault}\n")).collect()
}

fn check(text: &str, faults: &Expect) {
    faults.assert_eq(&faults_of(text));
}

/// Faults of lines after [`HEAD`]; line 13 is their first.
fn check_rest(rest: &str, faults: &Expect) {
    check(&format!("{HEAD}{}", rest.trim_start()), faults);
}

fn sound(rest: &str) -> DatabaseConfig {
    let text = format!("{HEAD}{rest}");
    let config = Config::parse(&text, Path::new("t.toml"));
    let config = config.unwrap_or_else(|faults| panic!("{faults:?}"));
    config.databases["shop"].clone()
}

fn key_of(rest: &str) -> Key {
    let database = sound(&format!("[[databases.shop.tables]]\nname = \"t\"\n{rest}"));
    match &database.topology.tables[&TableName::new("public", "t")].placement {
        Placement::Sharded(key) => key.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_kinds_of_faults_at_once() {
    check(
        r#"
[server]
listen = ["127.0.0.1:6432", "0.0.0.0:6432", "localhost:1"]
max_client = 10
login_timeout = 10
workers = 0
[admin]
listen = "127.0.0.1:6432"
[pool]
mode = "fast"
max_per_node = 0
checkout_timeout = "1min"
[query]
timeout = "30s"
max_gather_bytes = "256mb"
two_phase = "off"
[auth]
method = "md5"
[tls]
cert = "x"
[surprise]
[databases.shop]
buckets = 1000
"#,
        &expect![[r#"
            t.toml:3: server.listen: "localhost:1" is not an IP address with a port, such as "127.0.0.1:6432", "0.0.0.0:6432" or "[::1]:6432"
            t.toml:3: server.listen: 0.0.0.0:6432 and 127.0.0.1:6432 would listen on the same port
            t.toml:4: unknown key "max_client" in server; known are listen, max_clients, max_handshakes, max_clients_per_user, max_clients_per_database, unix_socket_dir, unix_socket_permissions, reuse_port, listen_backlog, tcp, login_timeout, workers, shutdown_grace, client_write_timeout, half_closed_grace
            t.toml:5: server.login_timeout: must be a duration such as "10s" (units: us, ms, s, min, h, d)
            t.toml:6: server.workers: must be an integer from 1 to 1024
            t.toml:8: admin.listen: 127.0.0.1:6432 is already taken by server.listen (127.0.0.1:6432)
            t.toml:10: pool.mode: "fast" is not a pool mode; modes are transaction, session, statement
            t.toml:11: pool.max_per_node: must be an integer from 1 to 1000000
            t.toml:12: pool.checkout_timeout: must not exceed query.timeout, which counts the wait too
            t.toml:15: query.max_gather_bytes: must be a size such as "256MB" (units: B, kB, MB, GB, TB; 1kB is 1024 bytes)
            t.toml:16: query.two_phase: must be "required": what writes more than one shard commits in two phases
            t.toml:18: auth.file: method "md5" needs a users file, or [auth.query]
            t.toml:20: tls.cert: needs its key beside it
            t.toml:20: tls.cert: cannot read x: No such file or directory (os error 2)
            t.toml:21: unknown key "surprise"; known are server, admin, pool, query, health, auth, tls, databases
            t.toml:22: databases.shop: key "shards" is missing
            t.toml:23: databases.shop.buckets: must be a power of two up to 65536
        "#]],
    );
}

#[test]
fn syntax_errors_do_not_hide_the_rest() {
    check(
        "[server]\nworkers = \n[pool]\nmode = 1\n",
        &expect![[r#"
            t.toml: no database is configured: add [databases.NAME]
            t.toml: auth.file: method "scram-sha-256" needs a users file, or [auth.query]
            t.toml:2: string values must be quoted, expected literal string
            t.toml:2: server.workers: must be an integer from 1 to 1024
            t.toml:4: pool.mode: must be a string
        "#]],
    );
}

#[test]
fn an_empty_file_lacks_a_database() {
    check(
        "[auth]\nmethod = \"trust\"",
        &expect![[r#"
        t.toml: no database is configured: add [databases.NAME]
    "#]],
    );
}

#[test]
fn trust_is_for_loopback() {
    let rest = "[server]\nlisten = \"0.0.0.0:6432\"\n[admin]\nlisten = \"[::]:6433\"\n";
    check_rest(
        rest,
        &expect![[r#"
            t.toml:14: server.listen: auth.method "trust" lets anyone in as any user, and 0.0.0.0:6432 is reachable from other machines; listen on 127.0.0.1, use "scram-sha-256", or set auth.force = true
        "#]],
    );
    let forced = format!("{HEAD}{rest}").replace("\"trust\"", "\"trust\"\nforce = true");
    assert_eq!(faults_of(&forced), "");
}

#[test]
fn users_file_tells_its_own_faults() {
    check_rest("[admin]\nusers = [\"root\"]", &expect![""]);
    let text = HEAD.replace("\"trust\"", "\"scram-sha-256\"\nfile = \"no/such/users.toml\"");
    check(
        &text,
        &expect![[r#"
        no/such/users.toml: cannot read the users file: No such file or directory (os error 2)
    "#]],
    );
}

#[test]
fn shards_and_names() {
    check_rest(
        r#"
[[databases.shop.shards]]
name = "a"
nodes = [{ host = "h2", port = 5432 }, { host = "h2" }]
[[databases.shop.shards]]
name = "d e"
nodes = []
dbname = ""
[databases.shop]
default_shard = "zzz"
engine = "eu"
[databases.shop.groups]
eu = ["a", "x", "a"]
b = ["c"]
[databases.shop.control]
password = "p"
password_env = "TRUNKLINE_NO_SUCH_VARIABLE"
[databases.shop.pool]
mode = "session"
checkout_timeout = "31s"
size = 3
"#,
        &expect![[r#"
            t.toml:13: databases.shop.shards: shard "a" is named twice
            t.toml:13: databases.shop.shards: shards "b" and "a" are the same database "shop" on h2:5432
            t.toml:15: databases.shop.shards.nodes: node h2:5432 is named twice
            t.toml:17: databases.shop.shards.name: must be of letters, digits, _ and -, at most 63, and not the word "any"
            t.toml:18: databases.shop.shards.nodes: needs at least one node
            t.toml:19: databases.shop.shards.dbname: must be a name of 1 to 63 bytes
            t.toml:21: databases.shop.default_shard: "zzz" is no shard of this database; shards are a, b, c, a, d e
            t.toml:22: databases.shop.engine: "eu" is a group, not a shard; shards are a, b, c, a, d e
            t.toml:24: databases.shop.groups.eu: "x" is no shard of this database; shards are a, b, c, a, d e
            t.toml:24: databases.shop.groups.eu: names a shard twice
            t.toml:25: databases.shop.groups.b: is a shard's name already
            t.toml:26: databases.shop.control: key "user" is missing
            t.toml:28: databases.shop.control.password_env: only one of password, password_file and password_env can hold
            t.toml:31: databases.shop.pool.checkout_timeout: must not exceed query.timeout, which counts the wait too
            t.toml:32: unknown key "size" in databases.shop.pool; known are max_per_node, min_per_node, max_pinned, reserve, max_prepared_statements, mode, keep_sequences, reserve_after, connect_backoff, wait_notice, checkout_timeout, connect_timeout, idle_timeout, max_lifetime, tcp
        "#]],
    );
}

#[test]
fn tables_and_keys() {
    check_rest(
        r#"
[[databases.shop.tables]]
name = "t"
reference = true
shard = "a"
[[databases.shop.tables]]
name = "public.t"
[[databases.shop.tables]]
name = "a.b.c"
shard = "q"
[[databases.shop.tables]]
name = "l"
key = { list = "region", shards = { a = ["x", "y"], b = ["y", 1], q = [] }, default = "r", deafult = 1 }
[[databases.shop.tables]]
name = "m"
key = { age = "at", tiers = [{ shard = "a", younger_than = "30d" }, { shard = "b", younger_than = "7d" }, { shard = "c", younger_than = "90d" }] }
[[databases.shop.tables]]
name = "n"
key = [{ list = "region", shards = { a = ["x"] } }, { hash = "id", function = "md5", buckets = 3 }]
[[databases.shop.tables]]
name = "o"
key = { hash = "id", list = "region" }
[[databases.shop.tables]]
name = "p"
key = { hash = "id", ranges = { a = ["0-1000", 17], b = "1001-4094", c = "x" } }
[[databases.shop.tables]]
name = "q"
key = [{ hash = "id" }, { list = "id", shards = { a = [1] } }]
"#,
        &expect![[r#"
            t.toml:13: a table has only one of key, shard and reference
            t.toml:17: a table needs one of: key = …, shard = "…", reference = true
            t.toml:17: databases.shop.tables: table "t" is named twice
            t.toml:20: databases.shop.tables.name: must be NAME or SCHEMA.NAME as Postgres stores them, without quotes
            t.toml:21: databases.shop.tables.shard: "q" is no shard of this database; shards are a, b, c
            t.toml:24: databases.shop.tables.key.shards.b: value "y" is mapped to a already
            t.toml:24: databases.shop.tables.key.shards.b: the values of one column are all strings or all integers
            t.toml:24: databases.shop.tables.key.shards.q: "q" is no shard of this database; shards are a, b, c
            t.toml:24: databases.shop.tables.key.default: "r" is no shard of this database; shards are a, b, c
            t.toml:24: unknown key "deafult" in databases.shop.tables.key; known are hash, list, age, shards, default
            t.toml:27: databases.shop.tables.key.tiers: younger_than must grow from tier to tier, youngest first
            t.toml:27: databases.shop.tables.key.tiers: the last tier takes all that is older: it has no younger_than
            t.toml:30: databases.shop.tables.key.function: "md5" is no hash function; functions are postgres, xxh64
            t.toml:30: databases.shop.tables.key.buckets: must be a power of two up to 65536
            t.toml:33: databases.shop.tables.key: a level of a key has exactly one of hash = "column", list = "column", age = "column"
            t.toml:36: databases.shop.tables.key.ranges.c: must be a bucket such as 17 or a range of them such as "0-1365"
            t.toml:36: databases.shop.tables.key.ranges.a: gives away a bucket that another range has
            t.toml:36: databases.shop.tables.key.ranges.a: the ranges leave bucket 4095 without a shard
            t.toml:39: databases.shop.tables.key: column "id" is a level of this key already
            t.toml:39: databases.shop.tables.key.shards.a: shard "a" is not among those that level 1 of the key leaves here
        "#]],
    );
}

#[test]
fn a_group_needs_a_further_level() {
    check_rest(
        r#"
[databases.shop]
groups = { eu = ["b", "c"] }
buckets = 2
[[databases.shop.tables]]
name = "t"
key = { list = "region", shards = { a = ["us"], eu = ["de"] } }
[[databases.shop.tables]]
name = "u"
key = { hash = "id" }
"#,
        &expect![[r#"
            t.toml:18: databases.shop.tables.key.shards.eu: names several shards (b, c), and no further level of the key tells which
            t.toml:21: databases.shop.tables.key: 2 buckets are fewer than the 3 shards that they are spread over
        "#]],
    );
}

#[test]
fn more_than_256_shards() {
    let shards: String =
        (0..257).map(|idx| format!("[[databases.big.shards]]\nname = \"s{idx}\"\nnodes = [{{ host = \"h{idx}\" }}]\n")).collect();
    check(
        &format!("[auth]\nmethod = \"trust\"\n{shards}"),
        &expect![[r#"
        t.toml:3: databases.big.shards: a database has at most 256 shards, here are 257
    "#]],
    );
}

#[test]
fn hash_buckets_are_spread_in_equal_ranges() {
    let key = key_of("key = { hash = \"id\" }");
    let KeyMap::Hash(level) = &key.map else { panic!("{key:?}") };
    let sizes = [0, 1, 2].map(|branch| level.buckets.iter().filter(|owner| **owner == branch).count());
    assert_eq!((level.buckets.len(), sizes, level.function), (4096, [1366, 1365, 1365], HashFunction::Postgres));
    assert!(level.buckets.is_sorted(), "contiguous");
    assert_eq!(key.columns, ["id"]);
}

#[test]
fn hash_over_given_shards_and_ranges() {
    let KeyMap::Hash(level) = key_of("key = { hash = \"id\", shards = [\"c\", \"a\"], buckets = 4, function = \"xxh64\" }").map
    else {
        panic!()
    };
    assert_eq!((&*level.buckets, level.function), (&[0, 0, 1, 1][..], HashFunction::Xxh64));
    assert_eq!(level.branches, [KeyMap::Shard(ShardId(2)), KeyMap::Shard(ShardId(0))]);
    let KeyMap::Hash(level) = key_of("key = { hash = \"id\", buckets = 4, ranges = { b = [\"0-1\", 3], a = 2 } }").map else {
        panic!()
    };
    assert_eq!(&*level.buckets, &[0, 0, 1, 0]);
    assert_eq!(level.branches, [KeyMap::Shard(ShardId(1)), KeyMap::Shard(ShardId(0))]);
}

#[test]
fn nested_path_over_groups() {
    let database = sound(
        r#"
[databases.shop]
groups = { eu = ["b", "c"] }
engine = { host = "engine", port = 5433 }
default_shard = "c"
[[databases.shop.tables]]
name = "Stats.Events"
key = [{ list = "region", shards = { a = ["us"], eu = ["de", "fr"] }, default = "a" }, { hash = "user_id" }]
"#,
    );
    let table = &database.topology.tables[&TableName::new("Stats", "Events")];
    let Placement::Sharded(key) = &table.placement else { panic!("{table:?}") };
    let KeyMap::List(list) = &key.map else { panic!("{key:?}") };
    assert_eq!((list.default, list.values[&KeyValue::Text("fr".into())], list.branches.len()), (Some(0), 1, 2));
    let inner: Vec<_> = list
        .branches
        .iter()
        .map(|branch| match branch {
            KeyMap::Hash(level) => (level.column_idx, level.branches.clone(), level.buckets.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    let shard = |id| KeyMap::Shard(ShardId(id));
    assert_eq!(inner, [(1, vec![shard(0)], 4096), (1, vec![shard(1), shard(2)], 4096)]);
    assert_eq!(database.topology.default_shard, Some(ShardId(2)));
    assert!(matches!(&database.topology.engine, Engine::Dedicated { dbname, .. } if dbname == "shop"));
}

#[test]
fn age_tiers() {
    let key = key_of(
        "key = { age = \"at\", tiers = [{ shard = \"a\", younger_than = \"7d\" }, { shard = \"b\", younger_than = \"30d\" }, { shard = \"c\" }] }",
    );
    let days = |n: u64| Duration::from_secs(n * 86_400);
    assert_eq!(key.age_policy().map(|policy| policy.younger_than.clone()), Some(vec![days(7), days(30)]));
}
