//! The configuration file: strict TOML on disk ([`raw`]), typed and checked after. All faults at once, with their lines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::topology::Topology;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub pool: PoolConfig,
    pub query: QueryConfig,
    pub auth: AuthConfig,
    pub health: HealthConfig,
    pub databases: BTreeMap<String, DatabaseConfig>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Addresses for clients.
    pub listen: Vec<SocketAddr>,
    /// Directory of the socket `.s.PGSQL.PORT`, PORT being the first listen address's.
    pub unix_socket_dir: Option<PathBuf>,
    pub max_clients: usize,
    pub login_timeout: Duration,
    /// Current-thread runtimes; default one per core, one on two cores and fewer.
    pub workers: usize,
    /// How long running transactions may take after SIGTERM.
    pub shutdown_grace: Duration,
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
    pub checkout_timeout: Duration,
    pub connect_timeout: Duration,
    /// An unused connection is closed after this long.
    pub idle_timeout: Duration,
    /// A connection is closed after this long, once it is idle.
    pub max_lifetime: Duration,
    /// Prepared statements kept per server connection.
    pub max_prepared_statements: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct QueryConfig {
    /// Per statement; zero: none.
    pub timeout: Duration,
    /// Per shard of a statement on many.
    pub shard_timeout: Duration,
    /// Most bytes of partial rows that one statement may hold in the proxy.
    pub max_gather_bytes: u64,
    /// Most bytes of one message from an authenticated client that must be read whole (query text, Parse, Bind).
    pub max_message_bytes: usize,
    /// Whether a second written shard is allowed where prepared transactions are off.
    pub two_phase: TwoPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TwoPhase {
    /// What writes more than one shard commits by PREPARE TRANSACTION; refused where servers do not allow it.
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    ScramSha256,
    Trust,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AuthConfig {
    pub method: AuthMethod,
    /// By client user name. Under trust a user that is not here logs in too, and uses its own name towards the servers.
    pub users: BTreeMap<String, UserConfig>,
}

/// A user of the users file.
#[derive(Clone, PartialEq, Eq)]
pub struct UserConfig {
    pub secret: UserSecret,
    /// User and password towards the servers; the client's own name and password when left out.
    pub backend_user: Option<String>,
    pub backend_password: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum UserSecret {
    None,
    Password(String),
    /// `SCRAM-SHA-256$…` as in pg_authid.
    Scram(String),
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
pub struct DatabaseConfig {
    /// Without watermarks: those are loaded at start.
    pub topology: Topology,
    pub control: ControlConfig,
    /// `[databases.NAME.pool]` may change these for one database.
    pub pool: PoolConfig,
}

/// The proxy's own user towards the servers: probes, catalog, watermarks.
#[derive(Clone, PartialEq, Eq)]
pub struct ControlConfig {
    pub user: String,
    pub password: Option<String>,
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// One-based; `None` where something is missing from the whole file.
    pub line: Option<usize>,
    pub message: String,
}

/// Names without secrets.
impl std::fmt::Debug for UserConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserConfig").field("backend_user", &self.backend_user).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlConfig").field("user", &self.user).finish_non_exhaustive()
    }
}
