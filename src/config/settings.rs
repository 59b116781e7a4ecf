//! The sections that are the same for all databases, and the contradictions between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::fault::Source;
use super::raw::{Section, Value};
use super::{AdminConfig, HealthConfig, PoolConfig, PoolMode, QueryConfig, ServerConfig, TcpConfig, TwoPhase};
use crate::session::own_settings::AllowScatter;

/// Most client connections, runtimes, servers' connections: far above use, far below what would overflow a sum.
const MAX_COUNT: u32 = 1_000_000;

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 6432))],
            unix_socket_dir: None,
            unix_socket_permissions: 0o777,
            reuse_port: false,
            listen_backlog: 4_096,
            tcp: TcpConfig::default(),
            max_clients: 10_000,
            max_handshakes: 10_000,
            max_clients_per_user: 0,
            max_clients_per_database: 0,
            login_timeout: Duration::from_secs(10),
            workers: default_workers(),
            shutdown_grace: Duration::from_secs(30),
            client_write_timeout: Duration::from_secs(300),
            half_closed_grace: Duration::from_secs(10),
        }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            keepalive_idle: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(10),
            keepalive_count: 6,
            user_timeout: Duration::ZERO,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6433)), users: vec!["admin".to_owned()] }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            max_per_node: 20,
            min_per_node: 0,
            reserve: 2,
            reserve_after: Duration::from_secs(3),
            connect_backoff: Duration::from_secs(1),
            wait_notice: Duration::from_secs(5),
            max_pinned: 10,
            keep_sequences: false,
            checkout_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            tcp: TcpConfig::default(),
            max_prepared_statements: 500,
        }
    }
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            shard_timeout: Duration::from_secs(30),
            copy_data_timeout: Duration::from_secs(30),
            transaction_timeout: Duration::ZERO,
            idle_in_transaction_timeout: Duration::ZERO,
            idle_session_timeout: Duration::ZERO,
            max_gather_bytes: 256 << 20,
            max_gather_rows: 10_000_000,
            max_all_gather_bytes: 1 << 30,
            max_gather_array_bytes: 512 << 10,
            max_all_gather_rows: 40_000_000,
            allow_scatter: AllowScatter::On,
            allow_partial_results: true,
            self_check_ratio: 0.0,
            max_message_bytes: 64 << 20,
            max_client_statements: 10_000,
            max_client_statement_bytes: 64 << 20,
            two_phase: TwoPhase::Required,
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(2), timeout: Duration::from_secs(1), fall: 3, rise: 2 }
    }
}

impl PoolMode {
    /// The word of the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Statement => "statement",
        }
    }
}

/// One runtime per core; on two cores and fewer a single one leaves the servers beside it their share.
fn default_workers() -> usize {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        0..=2 => 1,
        n_cores => n_cores,
    }
}

pub(super) fn read_server(mut section: Section<'_>) -> ServerConfig {
    let default = ServerConfig::default();
    let listen = section.take("listen").map(|value| (read_listen(&value), value));
    let mut count = |key, least, default: usize| section.integer(key, least..=MAX_COUNT, default as u32) as usize;
    let max_clients = count("max_clients", 1, default.max_clients);
    let max_handshakes = count("max_handshakes", 1, max_clients);
    let max_clients_per_user = count("max_clients_per_user", 0, default.max_clients_per_user);
    let max_clients_per_database = count("max_clients_per_database", 0, default.max_clients_per_database);
    let server = ServerConfig {
        unix_socket_dir: section.take("unix_socket_dir").and_then(|value| read_socket_dir(&value)),
        unix_socket_permissions: section
            .take("unix_socket_permissions")
            .and_then(|value| read_permissions(&value))
            .unwrap_or(default.unix_socket_permissions),
        reuse_port: section.boolean("reuse_port"),
        listen_backlog: section.integer("listen_backlog", 1..=65_535, default.listen_backlog),
        tcp: read_tcp(section.section("tcp"), &default.tcp),
        max_clients,
        max_handshakes,
        max_clients_per_user,
        max_clients_per_database,
        login_timeout: section.positive_duration("login_timeout", default.login_timeout),
        workers: section.integer("workers", 1..=1024, default.workers as u32) as usize,
        shutdown_grace: section.duration("shutdown_grace", default.shutdown_grace),
        client_write_timeout: section.duration("client_write_timeout", default.client_write_timeout),
        half_closed_grace: section.duration("half_closed_grace", default.half_closed_grace),
        listen: listen.as_ref().map_or(default.listen, |(addresses, _)| addresses.clone()),
    };
    if let Some((addresses, value)) = &listen {
        judge_listen(addresses, value);
    }
    section.finish();
    server
}

fn read_listen(value: &Value<'_>) -> Vec<SocketAddr> {
    value.one_or_many().iter().filter_map(read_address).collect()
}

fn judge_listen(addresses: &[SocketAddr], value: &Value<'_>) {
    if value.one_or_many().is_empty() {
        value.fault("needs at least one address");
    }
    for (idx, address) in addresses.iter().enumerate() {
        if let Some(earlier) = addresses[..idx].iter().find(|earlier| is_same_socket(earlier, address)) {
            value.fault(format!("{address} and {earlier} would listen on the same port"));
        }
    }
}

fn read_address(value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.string()?;
    value.understood(text.parse().map_err(|_| {
        format!("\"{text}\" is not an IP address with a port, such as \"127.0.0.1:6432\", \"0.0.0.0:6432\" or \"[::1]:6432\"")
    }))
}

fn read_socket_dir(value: &Value<'_>) -> Option<PathBuf> {
    let dir = PathBuf::from(value.string()?);
    if !dir.is_absolute() {
        value.fault("must be an absolute path");
    }
    Some(dir)
}

/// Mode bits as chmod takes them.
fn read_permissions(value: &Value<'_>) -> Option<u32> {
    let text = value.string()?;
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    value.understood(mode.ok_or_else(|| format!("\"{text}\" is not a mode such as \"0770\"")))
}

fn read_tcp(mut section: Section<'_>, default: &TcpConfig) -> TcpConfig {
    // The kernel counts most of them in seconds, and in few of them.
    let mut seconds = |key: &'static str, default: Duration| {
        let duration = section.duration(key, default);
        if duration.subsec_nanos() != 0 || duration > Duration::from_secs(32_767) {
            let path = format!("{}.{key}", section.shown_path());
            section.source().fault_of_key(&[&path], format!("{path}: must be whole seconds, at most 32767"));
        }
        duration
    };
    let (keepalive_idle, keepalive_interval) =
        (seconds("keepalive_idle", default.keepalive_idle), seconds("keepalive_interval", default.keepalive_interval));
    let tcp = TcpConfig {
        keepalive_idle,
        keepalive_interval,
        keepalive_count: section.integer("keepalive_count", 0..=127, default.keepalive_count),
        user_timeout: section.duration("user_timeout", default.user_timeout),
    };
    section.finish();
    tcp
}

/// Whether both cannot be listened on: one port, and an address that is the same or covers the other.
fn is_same_socket(a: &SocketAddr, b: &SocketAddr) -> bool {
    let covers = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && wide.is_ipv4() == other.is_ipv4();
    let (first, second) = (a.ip(), b.ip());
    // Port 0 asks the system for any free port.
    a.port() == b.port() && a.port() != 0 && (first == second || covers(first, second) || covers(second, first))
}

/// Reads `[admin]`; `client_addresses` must not be listened on twice.
pub(super) fn read_admin(mut section: Section<'_>, client_addresses: &[SocketAddr]) -> AdminConfig {
    let default = AdminConfig::default();
    let listen = section.take("listen").and_then(|value| read_address(&value)).unwrap_or(default.listen);
    if let Some(client) = client_addresses.iter().find(|client| is_same_socket(client, &listen)) {
        let message = format!("admin.listen: {listen} is already taken by server.listen ({client})");
        section.source().fault_of_key(&["admin.listen", "server.listen"], message);
    }
    let users = section.take("users").map_or(default.users, |value| read_names(&value));
    section.finish();
    AdminConfig { listen, users }
}

/// An array of names, each once.
pub(super) fn read_names(value: &Value<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for element in value.list().unwrap_or_default() {
        match element.string() {
            Some("") => element.fault("a name must not be empty"),
            Some(name) if names.iter().any(|known| known == name) => element.fault(format!("\"{name}\" is named twice")),
            Some(name) => names.push(name.to_owned()),
            None => {}
        }
    }
    names
}

/// Reads a `[pool]`, or one database's own over `default`.
pub(super) fn read_pool(mut section: Section<'_>, default: &PoolConfig) -> PoolConfig {
    let mut count = |key, least, default: usize| section.integer(key, least..=MAX_COUNT, default as u32) as usize;
    let max_per_node = count("max_per_node", 1, default.max_per_node);
    let min_per_node = count("min_per_node", 0, default.min_per_node.min(max_per_node));
    let half = if max_per_node == default.max_per_node { default.max_pinned } else { max_per_node / 2 };
    let max_pinned = count("max_pinned", 0, half);
    let reserve = count("reserve", 0, default.reserve);
    let max_prepared_statements = count("max_prepared_statements", 1, default.max_prepared_statements);
    for (key, n) in [("min_per_node", min_per_node), ("max_pinned", max_pinned)] {
        if n > max_per_node {
            let key = format!("{}.{key}", section.shown_path());
            section.source().fault_of_key(&[&key], format!("{key}: must not exceed max_per_node"));
        }
    }
    let pool = PoolConfig {
        mode: section.take("mode").and_then(|value| read_mode(&value)).unwrap_or(default.mode),
        max_per_node,
        min_per_node,
        max_pinned,
        keep_sequences: section.boolean_or("keep_sequences", default.keep_sequences),
        reserve,
        reserve_after: section.duration("reserve_after", default.reserve_after),
        connect_backoff: section.positive_duration("connect_backoff", default.connect_backoff),
        wait_notice: section.duration("wait_notice", default.wait_notice),
        checkout_timeout: section.positive_duration("checkout_timeout", default.checkout_timeout),
        connect_timeout: section.positive_duration("connect_timeout", default.connect_timeout),
        idle_timeout: section.duration("idle_timeout", default.idle_timeout),
        max_lifetime: section.duration("max_lifetime", default.max_lifetime),
        tcp: read_tcp(section.section("tcp"), &default.tcp),
        max_prepared_statements,
    };
    section.finish();
    pool
}

fn read_mode(value: &Value<'_>) -> Option<PoolMode> {
    let modes = [PoolMode::Transaction, PoolMode::Session, PoolMode::Statement];
    value.one_of(modes, PoolMode::as_str, ("a pool mode", "modes"))
}

/// Reads a `[query]`, or one database's own over `default`.
pub(super) fn read_query(mut section: Section<'_>, default: &QueryConfig) -> QueryConfig {
    let path = section.shown_path().to_owned();
    let source = section.source();
    let fault = |key: &str, message: &str| source.fault_of_key(&[&format!("{path}.{key}")], format!("{path}.{key}: {message}"));
    let timeout = section.duration("timeout", default.timeout);
    let has_own = source.has_key(&format!("{path}.timeout"));
    let shard_timeout = section.duration("shard_timeout", if has_own { timeout } else { default.shard_timeout });
    let copy_data_timeout = section.duration("copy_data_timeout", if has_own { timeout } else { default.copy_data_timeout });
    if !timeout.is_zero() && (shard_timeout > timeout || shard_timeout.is_zero()) {
        fault("shard_timeout", "must not exceed query.timeout, which ends the whole statement");
    }
    let transaction_timeout = section.duration("transaction_timeout", default.transaction_timeout);
    let idle_in_transaction_timeout = section.duration("idle_in_transaction_timeout", default.idle_in_transaction_timeout);
    let idle_session_timeout = section.duration("idle_session_timeout", default.idle_session_timeout);
    let max_gather_bytes = section.size("max_gather_bytes", default.max_gather_bytes);
    if max_gather_bytes == 0 {
        fault("max_gather_bytes", "must be more than zero");
    }
    let mut rows = |key, default: u64| u64::from(section.integer(key, 1..=u32::MAX, u32::try_from(default).unwrap_or(u32::MAX)));
    let max_gather_rows = rows("max_gather_rows", default.max_gather_rows);
    let max_all_gather_rows = rows("max_all_gather_rows", default.max_all_gather_rows.max(max_gather_rows));
    let max_all_gather_bytes = section.size("max_all_gather_bytes", default.max_all_gather_bytes.max(max_gather_bytes));
    let max_gather_array_bytes = section.size("max_gather_array_bytes", default.max_gather_array_bytes as u64);
    if max_gather_array_bytes > 64 << 20 {
        fault("max_gather_array_bytes", "must not be more than 64MB");
    }
    for (key, is_less) in [
        ("max_all_gather_bytes", max_all_gather_bytes < max_gather_bytes),
        ("max_all_gather_rows", max_all_gather_rows < max_gather_rows),
    ] {
        if is_less {
            fault(key, "must not be less than what one statement may gather");
        }
    }
    let allow_scatter = section.take("allow_scatter").and_then(|value| read_scatter(&value)).unwrap_or(default.allow_scatter);
    let allow_partial_results = section.boolean_or("allow_partial_results", default.allow_partial_results);
    let self_check_ratio = section.ratio("self_check_ratio", default.self_check_ratio);
    let max_message_bytes = section.size("max_message_bytes", default.max_message_bytes as u64);
    // src/include/libpq/libpq.h: PQ_LARGE_MESSAGE_LIMIT is just under 1 GB; below 64 kB ordinary statements would not fit.
    if !(64 << 10..1 << 30).contains(&max_message_bytes) {
        fault("max_message_bytes", "must be at least 64kB and less than 1GB");
    }
    let max_client_statements =
        section.integer("max_client_statements", 1..=MAX_COUNT, default.max_client_statements as u32) as usize;
    let max_client_statement_bytes = section.size("max_client_statement_bytes", default.max_client_statement_bytes);
    if let Some(value) = section.take("two_phase")
        && value.string().is_some_and(|word| word != "required")
    {
        value.fault("must be \"required\": what writes more than one shard commits in two phases");
    }
    section.finish();
    QueryConfig {
        timeout,
        shard_timeout,
        copy_data_timeout,
        transaction_timeout,
        idle_in_transaction_timeout,
        idle_session_timeout,
        max_gather_bytes,
        max_gather_rows,
        max_all_gather_bytes,
        max_gather_array_bytes: usize::try_from(max_gather_array_bytes).unwrap_or(usize::MAX),
        max_all_gather_rows,
        allow_scatter,
        allow_partial_results,
        self_check_ratio,
        max_message_bytes: usize::try_from(max_message_bytes).unwrap_or(default.max_message_bytes),
        max_client_statements,
        max_client_statement_bytes,
        two_phase: TwoPhase::Required,
    }
}

fn read_scatter(value: &Value<'_>) -> Option<AllowScatter> {
    let words = [AllowScatter::On, AllowScatter::Notice, AllowScatter::Off];
    value.one_of(words, AllowScatter::as_str, ("known", "words"))
}

pub(super) fn read_health(mut section: Section<'_>) -> HealthConfig {
    let default = HealthConfig::default();
    let health = HealthConfig {
        interval: section.positive_duration("interval", default.interval),
        timeout: section.positive_duration("timeout", default.timeout),
        fall: section.integer("fall", 1..=1000, default.fall),
        rise: section.integer("rise", 1..=1000, default.rise),
    };
    if health.timeout > health.interval {
        let message = "health.timeout: must not exceed health.interval, or probes of one node would overlap";
        section.source().fault_of_key(&["health.timeout", "health.interval"], message);
    }
    section.finish();
    health
}

/// A client that waits longer for a connection than its statement may take would be told of the wrong limit.
pub(super) fn judge_checkout(source: &Source, pool_path: &str, pool: &PoolConfig, query: &QueryConfig) {
    if !query.timeout.is_zero() && pool.checkout_timeout > query.timeout {
        let key = format!("{pool_path}.checkout_timeout");
        source.fault_of_key(&[&key, "query.timeout"], format!("{key}: must not exceed query.timeout, which counts the wait too"));
    }
}
