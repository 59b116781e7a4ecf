//! The proxy's own connections to a node: probes, catalog reads, watermarks. Never a client's statement.

use std::time::Duration;

use deadpool_postgres::{Manager, Object, Pool, PoolError, Runtime, Timeouts};
use tokio_postgres::Client;
use tokio_postgres::config::SslMode;

use super::secure::ControlTls;
use crate::config::ControlConfig;
use crate::sqlstate::SqlState;
use crate::tls::{Connector, TlsMode};
use crate::topology::NodeAddress;

/// Most control connections to one node at a time from one [`ControlNode`].
const MAX_CONNECTIONS: usize = 2;

/// Keeps a few connections to one database of one node as the control user.
///
/// The driver's task of a connection runs on the runtime that opened it: use one `ControlNode` from one runtime.
#[derive(Debug, Clone)]
pub struct ControlNode {
    address: NodeAddress,
    pool: Pool,
    /// Bounds the wait for a connection and each statement.
    timeout: Duration,
}

/// A borrowed connection. Goes back when dropped, unless it is closed or [`ControlClient::close`]d.
#[derive(Debug)]
pub struct ControlClient {
    object: Object,
    address: NodeAddress,
}

/// Why the control plane could not do its work on a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("{node}: cannot connect: {message}")]
    Unreachable { node: String, message: String },
    #[error("{node}: no answer within {} ms", .after.as_millis())]
    Timeout { node: String, after: Duration },
    /// Both control connections are busy.
    #[error("{node}: no control connection came free within {} ms", .after.as_millis())]
    Busy { node: String, after: Duration },
    /// The server answered with an error.
    #[error("{node}: {message} (SQLSTATE {sqlstate})")]
    Server { node: String, sqlstate: SqlState, message: String },
    /// The servers and the configuration do not fit together.
    #[error("{0}")]
    Mismatch(String),
}

impl ControlNode {
    /// Opens nothing yet. `timeout` bounds the wait for a connection, and each statement on the server's side.
    ///
    /// # Errors
    /// `Mismatch` when the connection settings make no pool.
    pub fn new(
        address: &NodeAddress,
        dbname: &str,
        control: &ControlConfig,
        tls: &Connector,
        timeout: Duration,
    ) -> Result<Self, ControlError> {
        let mut settings = tokio_postgres::Config::new();
        settings
            .host(&address.host)
            .port(address.port)
            .dbname(dbname)
            .user(&control.user)
            .application_name("trunkline control")
            .options(options(timeout))
            .ssl_mode(ssl_mode(address, tls.mode))
            .connect_timeout(timeout);
        if let Some(password) = &control.password {
            settings.password(password);
        }
        let timeouts = Timeouts { wait: Some(timeout), create: Some(timeout), recycle: Some(timeout) };
        let pool = Pool::builder(Manager::new(settings, ControlTls(tls.clone())))
            .max_size(MAX_CONNECTIONS)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|fault| ControlError::Mismatch(format!("{address}: {fault}")))?;
        Ok(Self { address: address.clone(), pool, timeout })
    }

    /// Borrows a connection, or opens one.
    ///
    /// # Errors
    /// `Unreachable`, `Timeout`, `Busy`, or `Server` when the login is refused.
    ///
    /// Cancel safe.
    pub async fn client(&self) -> Result<ControlClient, ControlError> {
        let object = self.pool.get().await.map_err(|fault| self.pool_error(fault))?;
        Ok(ControlClient { object, address: self.address.clone() })
    }

    pub fn address(&self) -> &NodeAddress {
        &self.address
    }

    /// Closes idle connections and lets no new ones be opened.
    pub fn close(&self) {
        self.pool.close();
    }

    fn pool_error(&self, fault: PoolError) -> ControlError {
        let node = self.address.to_string();
        match fault {
            PoolError::Backend(fault) => error_at(&self.address, &fault),
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => ControlError::Busy { node, after: self.timeout },
            PoolError::Timeout(_) => ControlError::Timeout { node, after: self.timeout },
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                ControlError::Unreachable { node, message: fault.to_string() }
            }
        }
    }
}

impl ControlClient {
    pub fn connection(&self) -> &Client {
        &self.object
    }

    /// For transactions.
    pub fn connection_mut(&mut self) -> &mut Client {
        &mut self.object
    }

    /// Names the node in an error of this connection.
    pub fn error(&self, fault: &tokio_postgres::Error) -> ControlError {
        error_at(&self.address, fault)
    }

    /// Closes the connection instead of giving it back: it may be in the middle of an answer.
    pub fn close(self) {
        drop(Object::take(self.object));
    }
}

impl ControlError {
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::Unreachable { .. } => SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH,
            Self::Timeout { .. } => SqlState::CONNECTION_FAILURE,
            Self::Busy { .. } => SqlState::TOO_MANY_CONNECTIONS,
            Self::Server { sqlstate, .. } => *sqlstate,
            Self::Mismatch(_) => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }
}

/// The error of a statement or of a login on `address`.
pub(super) fn error_at(address: &NodeAddress, fault: &tokio_postgres::Error) -> ControlError {
    let node = address.to_string();
    match fault.as_db_error() {
        Some(told) => {
            ControlError::Server { node, sqlstate: sqlstate_of(told.code().code()), message: told.message().to_owned() }
        }
        None => ControlError::Unreachable { node, message: with_sources(fault) },
    }
}

/// Settings of a control session, whatever the server's defaults are: the catalog prints stored expressions by them. They
/// reach the server as one string, so no value may hold a space.
fn options(timeout: Duration) -> String {
    format!(
        "-c statement_timeout={} -c default_transaction_read_only=off -c datestyle=ISO -c intervalstyle=postgres \
         -c timezone=UTC -c extra_float_digits=1 -c standard_conforming_strings=on",
        timeout.as_millis()
    )
}

/// As the connections for clients' statements: see `secure`, which says how far the server is then believed.
fn ssl_mode(address: &NodeAddress, mode: TlsMode) -> SslMode {
    match mode {
        TlsMode::Off => SslMode::Disable,
        _ if address.host.starts_with('/') => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    }
}

fn sqlstate_of(code: &str) -> SqlState {
    code.as_bytes().try_into().map_or(SqlState::INTERNAL_ERROR, SqlState)
}

/// The driver keeps what the operating system said in the error's source.
fn with_sources(fault: &dyn std::error::Error) -> String {
    let mut text = fault.to_string();
    let mut source = fault.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_unreachable_and_a_mute_one_times_out() {
        let control = ControlConfig { user: "u".into(), password: None };
        let closed = NodeAddress { host: "127.0.0.1".into(), port: 1 };
        let node = ControlNode::new(&closed, "db", &control, &Connector::off(), Duration::from_secs(5)).unwrap();
        let error = node.client().await.unwrap_err();
        assert!(matches!(&error, ControlError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");

        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mute_address = NodeAddress { host: "127.0.0.1".into(), port: mute.local_addr().unwrap().port() };
        let node = ControlNode::new(&mute_address, "db", &control, &Connector::off(), Duration::from_millis(20)).unwrap();
        assert!(matches!(node.client().await, Err(ControlError::Timeout { .. })));
    }
}
