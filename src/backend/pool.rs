//! Pools: per node and user, by `deadpool::managed`. Waiting is bounded and first come, first served.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, Timeouts};

use super::connect::open;
use super::{CancelHandle, ConnectError, Connection, Credentials};
use crate::config::PoolConfig;
use crate::deadline::Deadline;
use crate::observe::{PoolStatus, Registry, ServerDescription};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{NodeAddress, Shard, ShardId, Topology};

/// Ages at which a connection is not handed out again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetimes {
    pub max_lifetime: Duration,
    pub idle_timeout: Duration,
}

/// Opens and checks the connections of one pool.
#[derive(Debug)]
pub(super) struct NodeManager {
    address: NodeAddress,
    shard_name: String,
    dbname: String,
    database: String,
    credentials: Credentials,
    lifetimes: Lifetimes,
    n_prepared: usize,
    registry: Arc<Registry>,
}

impl managed::Manager for NodeManager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        let opened = open(&self.address, &self.dbname, &self.credentials).await?;
        let entry = self.registry.add_server(ServerDescription {
            database: self.database.clone(),
            shard: self.shard_name.clone(),
            node: self.address.to_string(),
            user: self.credentials.user.clone(),
            pid: opened.process_id,
        });
        let cancel = CancelHandle::new(self.address.clone(), opened.process_id, opened.secret.clone());
        Ok(Connection::new(opened, cancel, self.n_prepared, entry, Arc::clone(&self.registry)))
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<ConnectError> {
        connection.check(&self.lifetimes).map_err(RecycleError::Backend)
    }
}

type Pool = managed::Pool<NodeManager>;

/// Why no connection was handed out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckoutError {
    #[error("no server connection came free in time for shard \"{shard}\"")]
    Timeout { shard: String },
    #[error("cannot connect to shard \"{shard}\" at {node}: {error}")]
    Connect { shard: String, node: String, error: ConnectError },
    #[error("shard \"{shard}\" has no server that can take the statement")]
    NoNode { shard: String },
    #[error("the pool is closed")]
    Closed,
}

impl CheckoutError {
    /// The words and the SQLSTATE for the client: 53300, 08006, 57P03, 57P01, or the server's own.
    pub fn report(&self) -> Report {
        match self {
            Self::Timeout { .. } => Report::new(SqlState::TOO_MANY_CONNECTIONS, self.to_string())
                .with_hint("Raise pool.max_per_node, or have clients hold transactions for less time."),
            Self::Connect { error: ConnectError::Server(report), shard, .. } => {
                Report { detail: Some(format!("Shard \"{shard}\" refused the connection.")), ..report.clone() }
            }
            Self::Connect { .. } => Report::new(SqlState::CONNECTION_FAILURE, self.to_string()),
            Self::NoNode { .. } => Report::new(SqlState::CANNOT_CONNECT_NOW, self.to_string()),
            Self::Closed => Report::new(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command"),
        }
    }
}

/// All pools of one database.
#[derive(Debug)]
pub struct Pools {
    database: String,
    shards: Vec<Shard>,
    config: PoolConfig,
    registry: Arc<Registry>,
    by_user: RwLock<HashMap<Credentials, Arc<UserPools>>>,
}

/// The pools of one server-side user, by shard and node.
#[derive(Debug)]
pub struct UserPools {
    by_shard: Vec<Vec<Pool>>,
    shard_names: Vec<String>,
    connect_timeout: Duration,
}

/// Figures of one pool, for `SHOW POOLS`.
pub type PoolFigures = PoolStatus;

impl Pools {
    pub fn new(topology: &Topology, config: &PoolConfig, registry: Arc<Registry>) -> Self {
        Self {
            database: topology.database.clone(),
            shards: topology.shards.iter().cloned().chain(topology.dedicated_engine().map(|(_, engine)| engine)).collect(),
            config: config.clone(),
            registry,
            by_user: RwLock::default(),
        }
    }

    /// The pools of a user, made at its first login. No connection is opened.
    pub fn of_user(&self, credentials: &Credentials) -> Arc<UserPools> {
        if let Some(pools) = self.by_user.read().unwrap_or_else(PoisonError::into_inner).get(credentials) {
            return Arc::clone(pools);
        }
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(by_user.entry(credentials.clone()).or_insert_with(|| Arc::new(self.make(credentials))))
    }

    fn make(&self, credentials: &Credentials) -> UserPools {
        let pool = |shard: &Shard, address: &NodeAddress| {
            let manager = NodeManager {
                address: address.clone(),
                shard_name: shard.name.clone(),
                dbname: shard.dbname.clone(),
                database: self.database.clone(),
                credentials: credentials.clone(),
                lifetimes: Lifetimes { max_lifetime: self.config.max_lifetime, idle_timeout: self.config.idle_timeout },
                n_prepared: self.config.max_prepared_statements,
                registry: Arc::clone(&self.registry),
            };
            let mut config = managed::PoolConfig::new(self.config.max_per_node);
            config.queue_mode = QueueMode::Lifo;
            Pool::builder(manager).config(config).runtime(Runtime::Tokio1).build()
        };
        UserPools {
            // Building fails only for timeouts without a runtime, and there is one.
            by_shard: self
                .shards
                .iter()
                .map(|shard| shard.nodes.iter().filter_map(|node| pool(shard, node).ok()).collect())
                .collect(),
            shard_names: self.shards.iter().map(|shard| shard.name.clone()).collect(),
            connect_timeout: self.config.connect_timeout,
        }
    }

    /// Figures of every pool that was used.
    pub fn figures(&self) -> Vec<PoolFigures> {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        let mut figures = Vec::new();
        for (credentials, pools) in by_user.iter() {
            for (shard, nodes) in self.shards.iter().zip(&pools.by_shard) {
                for (node, pool) in shard.nodes.iter().zip(nodes) {
                    figures.push(self.figures_of(credentials, shard, node, &pool.status()));
                }
            }
        }
        figures
    }

    fn figures_of(&self, credentials: &Credentials, shard: &Shard, node: &NodeAddress, status: &managed::Status) -> PoolFigures {
        PoolStatus {
            database: self.database.clone(),
            shard: shard.name.clone(),
            node: node.to_string(),
            user: credentials.user.clone(),
            n_max: status.max_size,
            n_open: status.size,
            n_idle: status.available,
            n_leased: status.size.saturating_sub(status.available),
            n_waiting: status.waiting,
        }
    }

    /// Closes connections that are idle for too long.
    pub fn close_idle(&self) {
        let lifetimes = Lifetimes { max_lifetime: self.config.max_lifetime, idle_timeout: self.config.idle_timeout };
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        for pool in by_user.values().flat_map(|pools| pools.by_shard.iter().flatten()) {
            pool.retain(|connection, _| connection.check(&lifetimes).is_ok());
        }
    }

    /// Fails all waiting and further checkouts; leases out are closed when they come back.
    pub fn close(&self) {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        for pool in by_user.values().flat_map(|pools| pools.by_shard.iter().flatten()) {
            pool.close();
        }
    }
}

impl UserPools {
    /// Checks out a connection to a node, waiting at most until `deadline`.
    ///
    /// Holds one of `pool.max_per_node` until the lease is dropped. An idle connection is handed out without waiting.
    ///
    /// # Errors
    /// `Timeout` (53300) if none came free in time; `Connect` (08006 or the server's own) if one had to be opened.
    ///
    /// Cancel safe: dropping the future gives its place in the queue away.
    pub async fn checkout(&self, shard: ShardId, node_idx: usize, deadline: Deadline) -> Result<Lease, CheckoutError> {
        let pool = self.by_shard.get(shard.index()).and_then(|nodes| nodes.get(node_idx)).ok_or(CheckoutError::Closed)?;
        let mut timeouts = Timeouts { wait: Some(Duration::ZERO), create: Some(self.connect_timeout), recycle: None };
        let mut outcome = pool.timeout_get(&timeouts).await;
        if matches!(outcome, Err(PoolError::Timeout(managed::TimeoutType::Wait))) {
            timeouts.wait = deadline.instant().map(|at| at.saturating_duration_since(Instant::now()));
            outcome = pool.timeout_get(&timeouts).await;
        }
        let name = || self.shard_names.get(shard.index()).cloned().unwrap_or_default();
        let connect = |error| CheckoutError::Connect { shard: name(), node: pool.manager().address.to_string(), error };
        match outcome {
            Ok(object) => Ok(Lease { object: Some(object), shard, node_idx }),
            Err(PoolError::Backend(error)) => Err(connect(error)),
            Err(PoolError::Timeout(managed::TimeoutType::Create)) => Err(connect(ConnectError::Timeout)),
            Err(PoolError::Timeout(_)) => Err(CheckoutError::Timeout { shard: name() }),
            Err(PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => Err(CheckoutError::Closed),
        }
    }
}

/// A checked-out connection. Dropped clean it goes back to its pool, else it is closed.
#[derive(Debug)]
pub struct Lease {
    /// `None` only while being dropped.
    object: Option<Object<NodeManager>>,
    pub shard: ShardId,
    pub node_idx: usize,
}

impl Deref for Lease {
    type Target = Connection;

    #[allow(clippy::expect_used, reason = "the option is empty only inside drop")]
    fn deref(&self) -> &Connection {
        self.object.as_ref().expect("a lease holds its connection until it is dropped")
    }
}

impl DerefMut for Lease {
    #[allow(clippy::expect_used, reason = "the option is empty only inside drop")]
    fn deref_mut(&mut self) -> &mut Connection {
        self.object.as_mut().expect("a lease holds its connection until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else { return };
        object.entry().release();
        if object.is_clean && object.socket.input.is_empty() && !object.cancel.is_in_flight() {
            object.idle_since = Instant::now();
            object.socket.shrink();
        } else {
            drop(Object::take(object));
        }
    }
}
