//! Drivers and tools as applications use them, in transaction pooling, on one shard and on three.
//!
//! Each is a program below `tests/drivers` in the driver's own language. It finds the proxy by `DATABASE_URL` or by libpq's
//! variables, and knows by `SHARDS` how many shards there are, and the first one's own port by `DIRECT_PORT`. It prints `ok NAME` or `FAILED NAME` for each check and exits
//! with 0 if all hold. With a line `> restart` it asks for a restart of all servers, which the line `done` answers.

mod rust;

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{Cluster, DATABASE, Proxy, ProxyOptions, installation};

/// Longest time of one program.
const PATIENCE: Duration = Duration::from_secs(100);
const USERS: &str = "[[users]]\nname = \"app\"\npassword = \"secret\"\nbackend_user = \"postgres\"\n";
/// A busy machine may take its time for the catalog, which is read anew after each program's DDL.
const PATIENT_HEALTH: &str = "[health]\ninterval = \"1s\"\ntimeout = \"1s\"\nfall = 3\nrise = 1\n";
/// Fewer server connections than the programs have clients, so that these take turns.
const POOL: &str = "[pool]\nmax_per_node = 5\n";

/// For each program its command, and a command that succeeds if what the first one needs is installed.
macro_rules! programs {
    ($($name:ident: $command:literal, $probe:literal;)*) => {
        mod one_shard {
            $(#[tokio::test] async fn $name() { super::run($command, $probe, 1).await })*
        }
        mod three_shards {
            $(#[tokio::test] async fn $name() { super::run($command, $probe, 3).await })*
        }
    };
}

programs! {
    asyncpg: "target/drivers/python/bin/python tests/drivers/asyncpg/suite.py", "test -e target/drivers/python/.made-from";
    dbd_pg: "perl tests/drivers/dbd_pg/suite.pl", "perl -MDBD::Pg -e 1";
    django: "target/drivers/python/bin/python tests/drivers/django/suite.py", "test -e target/drivers/python/.made-from";
    jdbc: "java -cp /usr/share/java/postgresql.jar tests/drivers/jdbc/Suite.java",
        "test -e /usr/share/java/postgresql.jar && command -v javac";
    node_postgres: "node tests/drivers/pg/suite.js", "test -e target/drivers/node/.made-from && command -v node";
    pdo: "php tests/drivers/pdo/suite.php", "php -r 'exit(extension_loaded(\"pdo_pgsql\") ? 0 : 1);'";
    pg_dump: "tests/drivers/pg_dump/suite.sh", "command -v pg_dump";
    pgbench: "tests/drivers/pgbench/suite.sh", "command -v pgbench";
    postgres_js: "node tests/drivers/postgresjs/suite.js", "test -e target/drivers/node/.made-from && command -v node";
    psql: "tests/drivers/psql/suite.sh", "command -v psql";
    psycopg: "target/drivers/python/bin/python tests/drivers/psycopg/suite.py", "test -e target/drivers/python/.made-from";
    ruby_pg: "ruby tests/drivers/ruby/suite.rb", "ruby -e 'require \"pg\"'";
    sqlx: "target/drivers/rust/debug/sqlx-suite", "test -x target/drivers/rust/debug/sqlx-suite";
    sqlalchemy: "target/drivers/python/bin/python tests/drivers/sqlalchemy/suite.py", "test -e target/drivers/python/.made-from";
}

/// Runs a program through a proxy before `n_shards` servers, and panics with its output if it fails.
async fn run(command: &str, probe: &str, n_shards: usize) {
    let mut cluster = Cluster::start(n_shards).await;
    part_oids(&cluster).await;
    let proxy = start_proxy(&cluster).await;
    let mut child = spawn(command, &proxy, &cluster);
    let talk = tokio::time::timeout(PATIENCE, talk(&mut child, &mut cluster)).await;
    let Ok((is_successful, output)) = talk else {
        panic!("{command}: not finished after {PATIENCE:?}");
    };
    let is_installed = is_successful || is_successful_probe(probe).await;
    assert!(is_installed, "{command}: what it needs is not installed; `make deps` does that\n{output}");
    assert!(is_successful, "{command} on {n_shards} shards:\n{output}");
}

/// Has the types that a program makes get another OID on each shard.
async fn part_oids(cluster: &Cluster) {
    for shard_idx in 1..cluster.shards.len() {
        for n in 0..shard_idx * 3 {
            cluster.direct(shard_idx).await.batch_execute(&format!("CREATE TYPE junk{n} AS ENUM ('x')")).await.unwrap();
        }
    }
}

/// `items`, `authors`, `books` and the tables of pgbench are sharded; the first shard has all others.
async fn start_proxy(cluster: &Cluster) -> Proxy {
    cluster.scratch.write("users.toml", USERS);
    let table = |name: &str, column: &str| {
        format!("[[databases.{DATABASE}.tables]]\nname = \"{name}\"\nkey = {{ hash = \"{column}\" }}\n")
    };
    let tables = [
        ("items", "id"),
        ("authors", "author_id"),
        ("books", "author_id"),
        ("pgbench_accounts", "aid"),
        ("pgbench_tellers", "tid"),
        ("pgbench_branches", "bid"),
        ("pgbench_history", "tid"),
    ];
    let tables: String = tables.iter().map(|(name, column)| table(name, column)).collect();
    let database = match cluster.shards.len() {
        1 => tables,
        _ => format!("default_shard = \"shard0\"\n{tables}"),
    };
    let options = ProxyOptions {
        auth: "method = \"scram-sha-256\"\nfile = \"users.toml\"",
        sections: &format!("{PATIENT_HEALTH}{POOL}"),
        database: &database,
        ..ProxyOptions::default()
    };
    cluster.proxy_with(options).await
}

fn spawn(command: &str, proxy: &Proxy, cluster: &Cluster) -> Child {
    let programs = installation().program("psql");
    let inherited = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new("bash");
    child
        .args(["-c", &format!("exec {command} 2>&1")])
        .env("PATH", format!("{}:{inherited}", programs.parent().unwrap().display()))
        .env("DATABASE_URL", format!("postgres://app:secret@127.0.0.1:{}/{DATABASE}", proxy.port))
        .env("SHARDS", cluster.shards.len().to_string())
        .env("DIRECT_PORT", cluster.shards[0].port().to_string())
        .envs([("PGHOST", "127.0.0.1"), ("PGPORT", &proxy.port.to_string()), ("PGDATABASE", DATABASE)])
        .envs([("PGUSER", "app"), ("PGPASSWORD", "secret")])
        .envs([
            ("PYTHONPATH", "tests/drivers"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("NODE_PATH", "target/drivers/node/node_modules"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Answers the program until it ends: whether it succeeded, and all that it printed.
async fn talk(child: &mut Child, cluster: &mut Cluster) -> (bool, String) {
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut output = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line == "> restart" {
            for shard in &mut cluster.shards {
                shard.restart().await;
            }
            stdin.write_all(b"done\n").await.unwrap();
        }
        output.push_str(&line);
        output.push('\n');
    }
    (child.wait().await.unwrap().success(), output)
}

async fn is_successful_probe(probe: &str) -> bool {
    let output = Command::new("bash").args(["-c", probe]).stdin(Stdio::null()).output().await.unwrap();
    output.status.success()
}
