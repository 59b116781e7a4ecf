//! SHOW CONFIG: the configuration as names and values, without secrets.

use std::time::Duration;

use super::tables::Cell;
use crate::config::{Config, DatabaseConfig, PoolConfig, PoolMode, TcpConfig, TwoPhase};
use crate::topology::Engine;

/// One row per setting, in the order of the file.
pub(super) fn rows(config: &Config) -> Vec<Vec<Cell>> {
    let mut rows = server_rows(config);
    rows.extend(pool_rows("pool", &config.pool));
    rows.extend(query_rows(config));
    rows.push(row("tls.mode", config.tls.clients.mode.as_str()));
    rows.push(row("tls.server.mode", config.tls.server.mode.as_str()));
    for (name, database) in &config.databases {
        rows.extend(database_rows(name, database, &config.pool));
    }
    rows.into_iter().map(|(name, value)| vec![name.into(), value.into()]).collect()
}

type Row = (String, String);

fn row(name: impl Into<String>, value: impl ToString) -> Row {
    (name.into(), value.to_string())
}

fn server_rows(config: &Config) -> Vec<Row> {
    let server = &config.server;
    let listen: Vec<_> = server.listen.iter().map(ToString::to_string).collect();
    let socket_dir = server.unix_socket_dir.as_ref().map(|path| path.display().to_string());
    vec![
        row("server.listen", listen.join(", ")),
        row("server.unix_socket_dir", socket_dir.unwrap_or_default()),
        row("server.unix_socket_permissions", format!("0{:o}", server.unix_socket_permissions)),
        row("server.reuse_port", server.reuse_port),
        row("server.listen_backlog", server.listen_backlog),
        row("server.tcp", tcp(&server.tcp)),
        row("server.max_clients", server.max_clients),
        row("server.max_handshakes", server.max_handshakes),
        row("server.max_clients_per_user", server.max_clients_per_user),
        row("server.max_clients_per_database", server.max_clients_per_database),
        row("server.login_timeout", duration(server.login_timeout)),
        row("server.workers", server.workers),
        row("server.shutdown_grace", duration(server.shutdown_grace)),
        row("server.client_write_timeout", duration(server.client_write_timeout)),
        row("server.half_closed_grace", duration(server.half_closed_grace)),
        row("admin.listen", config.admin.listen),
        row("admin.users", config.admin.users.join(", ")),
    ]
}

fn pool_rows(section: &str, pool: &PoolConfig) -> Vec<Row> {
    let mode = match pool.mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
        PoolMode::Statement => "statement",
    };
    let values = [
        ("mode", mode.to_owned()),
        ("max_per_node", pool.max_per_node.to_string()),
        ("min_per_node", pool.min_per_node.to_string()),
        ("reserve", pool.reserve.to_string()),
        ("reserve_after", duration(pool.reserve_after)),
        ("connect_backoff", duration(pool.connect_backoff)),
        ("wait_notice", duration(pool.wait_notice)),
        ("max_pinned", pool.max_pinned.to_string()),
        ("keep_sequences", pool.keep_sequences.to_string()),
        ("checkout_timeout", duration(pool.checkout_timeout)),
        ("connect_timeout", duration(pool.connect_timeout)),
        ("idle_timeout", duration(pool.idle_timeout)),
        ("max_lifetime", duration(pool.max_lifetime)),
        ("tcp", tcp(&pool.tcp)),
        ("max_prepared_statements", pool.max_prepared_statements.to_string()),
    ];
    values.map(|(name, value)| row(format!("{section}.{name}"), value)).into()
}

fn tcp(config: &TcpConfig) -> String {
    let TcpConfig { keepalive_idle, keepalive_interval, keepalive_count, user_timeout } = config;
    let [idle, interval, user] = [keepalive_idle, keepalive_interval, user_timeout].map(|time| duration(*time));
    format!("keepalive after {idle}, {keepalive_count} times every {interval}, user timeout {user}")
}

fn query_rows(config: &Config) -> Vec<Row> {
    let (query, health) = (&config.query, &config.health);
    let two_phase = match query.two_phase {
        TwoPhase::Required => "required",
    };
    vec![
        row("query.timeout", duration(query.timeout)),
        row("query.shard_timeout", duration(query.shard_timeout)),
        row("query.copy_data_timeout", duration(query.copy_data_timeout)),
        row("query.transaction_timeout", duration(query.transaction_timeout)),
        row("query.idle_in_transaction_timeout", duration(query.idle_in_transaction_timeout)),
        row("query.idle_session_timeout", duration(query.idle_session_timeout)),
        row("query.max_gather_bytes", query.max_gather_bytes),
        row("query.allow_scatter", query.allow_scatter.as_str()),
        row("query.allow_partial_results", query.allow_partial_results),
        row("query.max_message_bytes", query.max_message_bytes),
        row("query.max_client_statements", query.max_client_statements),
        row("query.max_client_statement_bytes", query.max_client_statement_bytes),
        row("query.two_phase", two_phase),
        row("auth.rules", config.auth.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        row("auth.users", config.auth.users.keys().cloned().collect::<Vec<_>>().join(", ")),
        row("auth.query.user", config.auth.query.as_ref().map(|query| query.user.clone()).unwrap_or_default()),
        row("auth.failed_logins", config.auth.failures.burst),
        row("auth.failed_login_interval", duration(config.auth.failures.interval)),
        row("health.interval", duration(health.interval)),
        row("health.timeout", duration(health.timeout)),
        row("health.fall", health.fall),
        row("health.rise", health.rise),
    ]
}

/// A database's pool settings are shown where they differ from `[pool]`.
fn database_rows(name: &str, database: &DatabaseConfig, pool: &PoolConfig) -> Vec<Row> {
    let topology = &database.topology;
    let section = format!("databases.{name}");
    let engine = match &topology.engine {
        Engine::Any => "any".to_owned(),
        Engine::Shard(shard) => topology.shard(*shard).name.clone(),
        Engine::Dedicated { node, dbname } => format!("{node}/{dbname}"),
    };
    let default_shard = topology.default_shard.map(|shard| topology.shard(shard).name.clone());
    let mut rows = vec![
        row(format!("{section}.engine"), engine),
        row(format!("{section}.default_shard"), default_shard.unwrap_or_default()),
        row(format!("{section}.control.user"), &database.control.user),
        row(format!("{section}.epoch"), topology.epoch),
    ];
    rows.extend(topology.shards.iter().map(|shard| {
        let nodes: Vec<_> = shard.nodes.iter().map(ToString::to_string).collect();
        row(format!("{section}.shards.{}", shard.name), format!("{} on {}", shard.dbname, nodes.join(", ")))
    }));
    rows.push(row(format!("{section}.tls.mode"), database.tls.mode.as_str()));
    if database.pool != *pool {
        rows.extend(pool_rows(&format!("{section}.pool"), &database.pool));
    }
    rows
}

/// In the largest unit that leaves no rest, as the file takes it.
fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let fitting = units.iter().find(|(size, _)| millis > 0 && millis.is_multiple_of(*size));
    fitting.map_or_else(|| format!("{millis}ms"), |(size, unit)| format!("{}{unit}", millis / size))
}
