//! The configuration file: strict TOML on disk ([`raw`]), typed and checked after. All faults at once, with their lines.

mod auth;
mod fault;
mod key;
mod raw;
mod reload;
mod settings;
mod summary;
#[cfg(test)]
mod tests;
mod tls;
mod topology;
mod units;
mod users;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use crate::session::own_settings::AllowScatter;
use crate::tls::{Acceptor, Connector, TlsMode};
use crate::topology::Topology;
use auth::{Around, read_auth};
use fault::Source;
use raw::Section;
use topology::{Surroundings, read_database};

pub use auth::{Asking, AuthConfig, AuthMethod, AuthQueryConfig, AuthRule, FailureConfig, NameSet, Network, Transport};
pub use fault::Fault;
pub use reload::Changes;
pub use users::{UserConfig, UserSecret};

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub pool: PoolConfig,
    pub query: QueryConfig,
    pub auth: AuthConfig,
    pub health: HealthConfig,
    pub tls: TlsConfig,
    pub databases: BTreeMap<String, DatabaseConfig>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Addresses for clients.
    pub listen: Vec<SocketAddr>,
    /// Directory of the socket `.s.PGSQL.PORT`, PORT being the first listen address's.
    pub unix_socket_dir: Option<PathBuf>,
    /// Mode bits of that socket: who may write to it may connect.
    pub unix_socket_permissions: u32,
    /// Whether another process may listen on the same addresses beside this one: SO_REUSEPORT.
    pub reuse_port: bool,
    /// Connections that the kernel may hold before they are accepted.
    pub listen_backlog: u32,
    /// Of the clients' sockets.
    pub tcp: TcpConfig,
    pub max_clients: usize,
    /// Most clients that have not finished their login.
    pub max_handshakes: usize,
    /// Most clients per user, and per database; zero: no limit of their own.
    pub max_clients_per_user: usize,
    pub max_clients_per_database: usize,
    pub login_timeout: Duration,
    /// Current-thread runtimes; default one per core, one on two cores and fewer.
    pub workers: usize,
    /// How long running transactions may take after SIGTERM.
    pub shutdown_grace: Duration,
    /// A client that takes nothing of what is sent to it for so long is cut off; zero: never.
    pub client_write_timeout: Duration,
    /// How long a statement goes on for a client that has closed its sending half.
    pub half_closed_grace: Duration,
}

/// When TCP gives up on a peer that does not answer. Zero: as the system has it.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpConfig {
    /// Silence after which the peer is asked whether it is there.
    pub keepalive_idle: Duration,
    /// Time between two such questions.
    pub keepalive_interval: Duration,
    /// Questions without an answer until the connection counts as lost.
    pub keepalive_count: u32,
    /// How long what was sent may stay without acknowledgement.
    pub user_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    pub listen: SocketAddr,
    pub users: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    Transaction,
    Session,
    Statement,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PoolConfig {
    pub mode: PoolMode,
    /// Most connections per node and user.
    pub max_per_node: usize,
    /// Connections that are kept open per node and user, once they were used.
    pub min_per_node: usize,
    /// Connections above `max_per_node` for clients that hold others already, or have waited for `reserve_after`.
    pub reserve: usize,
    pub reserve_after: Duration,
    /// Longest pause between two attempts to connect to a node that refuses.
    pub connect_backoff: Duration,
    /// A client that waits for a connection is told so after this long; zero: never.
    pub wait_notice: Duration,
    /// Most of them that clients may keep beyond their transactions for state of their session; zero: none.
    pub max_pinned: usize,
    /// Whether clients keep their connections for `currval` and `lastval` from the start on, and not only once some client has
    /// used these.
    pub keep_sequences: bool,
    pub checkout_timeout: Duration,
    pub connect_timeout: Duration,
    /// An unused connection is closed after this long.
    pub idle_timeout: Duration,
    /// A connection is closed after this long, once it is idle.
    pub max_lifetime: Duration,
    /// Of the servers' sockets.
    pub tcp: TcpConfig,
    /// Prepared statements kept per server connection.
    pub max_prepared_statements: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct QueryConfig {
    /// Per statement; zero: none.
    pub timeout: Duration,
    /// Per shard of a statement on many.
    pub shard_timeout: Duration,
    /// Longest wait for the next data of a COPY FROM STDIN; zero: any.
    pub copy_data_timeout: Duration,
    /// Per transaction, from its first statement on; zero: none.
    pub transaction_timeout: Duration,
    /// Longest silence of a client inside and outside of a transaction; zero: any.
    pub idle_in_transaction_timeout: Duration,
    pub idle_session_timeout: Duration,
    /// Most bytes of partial rows that one statement may hold in the proxy.
    pub max_gather_bytes: u64,
    /// Most rows that one statement may have the engine hold.
    pub max_gather_rows: u64,
    /// Most bytes and rows that the engines may hold for all statements of a database together.
    pub max_all_gather_bytes: u64,
    /// Most bytes of a gathered table that go to the engine as arrays; more make it a temporary table there.
    pub max_gather_array_bytes: usize,
    pub max_all_gather_rows: u64,
    /// What becomes of statements on several shards where the session says nothing else.
    pub allow_scatter: AllowScatter,
    /// Whether a session may ask for answers without the rows of shards that are down.
    pub allow_partial_results: bool,
    /// The share of merged and combined answers that are run again over gathered rows, from 0 to 1.
    pub self_check_ratio: f64,
    /// Most bytes of one message from an authenticated client that must be read whole (query text, Parse, Bind).
    pub max_message_bytes: usize,
    /// Most prepared statements that one client may name, and most portals.
    pub max_client_statements: usize,
    /// Most bytes that the texts of a client's named statements, or the values of its portals, may need together.
    pub max_client_statement_bytes: u64,
    /// Whether a second written shard is allowed where prepared transactions are off.
    pub two_phase: TwoPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TwoPhase {
    /// What writes more than one shard commits by PREPARE TRANSACTION; refused where servers do not allow it.
    Required,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HealthConfig {
    pub interval: Duration,
    pub timeout: Duration,
    /// A node is down after this many failed probes in a row, up after `rise` good ones.
    pub fall: u32,
    pub rise: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TlsConfig {
    pub clients: ClientTls,
    /// Towards servers, for databases that say nothing of their own.
    pub server: Connector,
}

/// TLS towards clients.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientTls {
    pub mode: TlsMode,
    /// `None` when the mode is off.
    pub acceptor: Option<Acceptor>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// Without watermarks: those are loaded at start.
    pub topology: Topology,
    pub control: ControlConfig,
    /// `[databases.NAME.pool]` may change these for one database.
    pub pool: PoolConfig,
    /// Towards its servers; `[databases.NAME.tls]` may change it for one database.
    pub tls: Connector,
    /// `[databases.NAME.query]` may change these for one database.
    pub query: QueryConfig,
}

/// The proxy's own user towards the servers: probes, catalog, watermarks.
#[derive(Clone, PartialEq, Eq)]
pub struct ControlConfig {
    pub user: String,
    pub password: Option<String>,
}

/// The user without the password.
impl std::fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlConfig").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Reads and checks the configuration file at `path`, and the users file that it names.
///
/// # Errors
/// Every fault of both files, in the order of their lines.
pub fn load(path: &Path) -> Result<Config, Vec<Fault>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration: {error}");
        vec![Fault { file: path.to_owned(), line: None, message }]
    })?;
    Config::parse(&text, path)
}

impl Config {
    /// Checks the text of a configuration file. Relative paths in it start from the directory of `path`.
    ///
    /// # Errors
    /// Every fault, in the order of their lines.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Vec<Fault>> {
        let source = Source::new(path, text);
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            source.fault(&error.span().unwrap_or_default(), error.message());
        }
        let config = read_config(Section::root(&source, &document));
        let faults = source.into_faults();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }
}

fn read_config(mut root: Section<'_>) -> Config {
    let dir = root.source().path().parent().unwrap_or(Path::new("")).to_owned();
    let server = settings::read_server(root.section("server"));
    let admin = settings::read_admin(root.section("admin"), &server.listen);
    let pool = settings::read_pool(root.section("pool"), &PoolConfig::default());
    let query = settings::read_query(root.section("query"), &QueryConfig::default());
    settings::judge_checkout(root.source(), "pool", &pool, &query);
    let health = settings::read_health(root.section("health"));
    let auth = root.section("auth");
    let tls = tls::read_tls(root.section("tls"), &dir);
    let surroundings = Surroundings { dir: &dir, pool: &pool, query: &query, tls: &tls.server };
    let entries = root.section("databases").into_entries();
    if entries.is_empty() {
        root.source().fault_of_file("no database is configured: add [databases.NAME]");
    }
    let names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
    let client_ca = root.source().has_key("tls.client_ca");
    let around = Around { dir: &dir, server: &server, databases: &names, tls: &tls.clients, has_client_ca: client_ca };
    let auth = read_auth(auth, &around);
    let named = entries.iter().filter_map(|entry| Some((entry.name.clone(), read_database(entry, surroundings)?)));
    let databases = named.collect();
    root.finish();
    Config { server, admin, pool, query, auth, health, tls, databases }
}
