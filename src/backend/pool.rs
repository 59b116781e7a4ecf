//! Pools: per user and node. Waiting is bounded and first come, first served.

mod node;
mod slots;

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use super::connect::Endpoint;
use super::pins::PinCounter;
use super::{ConnectError, Connection, Credentials};
use crate::config::PoolConfig;
use crate::deadline::Deadline;
use crate::observe::{PoolStatus, Registry};
use crate::sqlstate::{Report, SqlState};
use crate::tls::Connector;
use crate::topology::{Shard, ShardId, Topology};
use node::{NodePool, Target};
use slots::Request;

pub use node::Alarm;
pub use slots::Rank;

/// Users with pools above which those of users without a client are given up early.
const MANY_USERS: usize = 1_000;

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
            // As from one server: which one it was stands in the log.
            Self::Connect { error: ConnectError::Server(report), .. } => report.clone(),
            Self::Connect { .. } => Report::new(SqlState::CONNECTION_FAILURE, self.to_string()),
            Self::NoNode { .. } => Report::new(SqlState::CANNOT_CONNECT_NOW, self.to_string()),
            Self::Closed => Report::new(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command"),
        }
    }
}

/// What a client asks of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub shard: ShardId,
    /// Index in the shard's nodes.
    pub node_idx: usize,
    pub rank: Rank,
    pub now: Instant,
    pub deadline: Deadline,
    /// Whether a pause after failed attempts to connect is waited out; without it the last failure is the answer.
    pub waits_out_pause: bool,
}

/// All pools of one database.
#[derive(Debug)]
pub struct Pools {
    database: String,
    shards: Vec<Shard>,
    config: PoolConfig,
    tls: Connector,
    registry: Arc<Registry>,
    by_user: RwLock<HashMap<Credentials, Arc<UserPools>>>,
}

/// The pools of one server-side user, by shard and node.
#[derive(Debug)]
pub struct UserPools {
    /// As whom the pools' connections log in.
    pub credentials: Credentials,
    by_shard: Vec<Vec<Arc<NodePool>>>,
    pins: Vec<Vec<PinCounter>>,
}

/// A pool in which connections are missing to `pool.min_per_node`.
#[derive(Debug)]
pub struct Spares(Arc<NodePool>);

impl Spares {
    /// Opens them. Their sockets belong to the runtime that this runs on.
    pub async fn open(self) {
        self.0.open_spares().await;
    }
}

/// Figures of one pool, for `SHOW POOLS`.
pub type PoolFigures = PoolStatus;

impl Pools {
    pub fn new(topology: &Topology, config: &PoolConfig, tls: &Connector, registry: Arc<Registry>) -> Self {
        Self {
            database: topology.database.clone(),
            shards: topology.shards.iter().cloned().chain(topology.dedicated_engine().map(|(_, engine)| engine)).collect(),
            config: config.clone(),
            tls: tls.clone(),
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
        if by_user.len() >= MANY_USERS {
            // Their idle connections are closed with them.
            by_user.retain(|_, pools| Arc::strong_count(pools) > 1);
        }
        Arc::clone(by_user.entry(credentials.clone()).or_insert_with(|| Arc::new(self.make(credentials))))
    }

    fn make(&self, credentials: &Credentials) -> UserPools {
        let pool = |shard: &Shard, address| {
            let target = Target {
                endpoint: Endpoint { address, dbname: shard.dbname.clone(), tls: self.tls.clone() },
                shard_name: shard.name.clone(),
                database: self.database.clone(),
                credentials: credentials.clone(),
            };
            Arc::new(NodePool::new(target, &self.config, Arc::clone(&self.registry)))
        };
        let pools = |shard: &Shard| shard.nodes.iter().map(|address| pool(shard, address.clone())).collect();
        UserPools {
            credentials: credentials.clone(),
            by_shard: self.shards.iter().map(pools).collect(),
            pins: self.shards.iter().map(|shard| shard.nodes.iter().map(|_| PinCounter::default()).collect()).collect(),
        }
    }

    /// Figures of every pool.
    pub fn figures(&self) -> Vec<PoolFigures> {
        let now = Instant::now();
        self.all().iter().map(|pool| self.figures_of(pool, now)).collect()
    }

    fn figures_of(&self, pool: &NodePool, now: Instant) -> PoolFigures {
        let figures = pool.figures(now);
        PoolStatus {
            database: self.database.clone(),
            shard: pool.target.shard_name.clone(),
            node: pool.target.endpoint.address.to_string(),
            user: pool.target.credentials.user.clone(),
            n_max: self.config.max_per_node,
            n_open: figures.n_open,
            n_idle: figures.n_idle,
            n_leased: figures.n_leased,
            n_reserve: figures.n_leased.saturating_sub(self.config.max_per_node),
            n_waiting: figures.n_waiting,
            longest_wait: figures.longest_wait,
            backoff_left: figures.pause_left,
        }
    }

    /// Closes idle connections that are not to be kept, and forgets users that have neither clients nor connections.
    /// Gives the pools in which connections are missing to `pool.min_per_node`.
    pub fn keep_up(&self) -> Vec<Spares> {
        let now = Instant::now();
        let pools = self.all();
        for pool in &pools {
            pool.close_idle(now);
        }
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        by_user.retain(|_, pools| Arc::strong_count(pools) > 1 || pools.all().any(|pool| pool.n_open() > 0));
        drop(by_user);
        pools.into_iter().filter(|pool| pool.lacks_spares()).map(Spares).collect()
    }

    /// Closes what is idle, and every lease when it comes back: the pools of another configuration have taken over. Clients
    /// in a transaction are still served.
    pub fn retire(&self) {
        for pool in self.all() {
            pool.retire();
        }
    }

    /// Fails all waiting and further checkouts; leases out are closed when they come back.
    pub fn close(&self) {
        for pool in self.all() {
            pool.close();
        }
    }

    fn all(&self) -> Vec<Arc<NodePool>> {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        by_user.values().flat_map(|pools| pools.all()).cloned().collect()
    }
}

impl UserPools {
    /// How many connections to a node are pinned to clients.
    pub fn pins_of(&self, shard: ShardId, node_idx: usize) -> Option<&PinCounter> {
        self.pins.get(shard.index())?.get(node_idx)
    }

    /// Checks out a connection to a node, waiting at most until the deadline.
    ///
    /// Holds one of `pool.max_per_node`, or of `pool.reserve`, until the lease is dropped. An idle connection is handed out
    /// without waiting.
    ///
    /// # Errors
    /// `Timeout` (53300) if none came free in time; `Connect` (08006 or the server's own) if one had to be opened.
    ///
    /// Cancel safe: dropping the future gives its place in the queue away. It has no timer: it is to be polled again when
    /// `alarm` says.
    pub async fn checkout(&self, wish: Wish, alarm: &Alarm) -> Result<Lease, CheckoutError> {
        let Wish { shard, node_idx, rank, now, deadline, waits_out_pause } = wish;
        let pool = self.by_shard.get(shard.index()).and_then(|nodes| nodes.get(node_idx)).ok_or(CheckoutError::Closed)?;
        let connection = pool.checkout(Request { rank, now, deadline, waits_out_pause }, alarm).await?;
        Ok(Lease { connection: Some(connection), pool: Arc::clone(pool), shard, node_idx, released_at: None })
    }

    /// An idle connection to a node that is fit for use, where nobody waits for one.
    pub fn checkout_idle(&self, wish: &Wish) -> Option<Lease> {
        let Wish { shard, node_idx, rank, now, deadline, waits_out_pause } = *wish;
        let pool = self.by_shard.get(shard.index())?.get(node_idx)?;
        let connection = pool.checkout_idle(&Request { rank, now, deadline, waits_out_pause })?;
        Some(Lease { connection: Some(connection), pool: Arc::clone(pool), shard, node_idx, released_at: None })
    }

    fn all(&self) -> impl Iterator<Item = &Arc<NodePool>> {
        self.by_shard.iter().flatten()
    }
}

/// A checked-out connection. Dropped clean it goes back to its pool, else it is closed.
#[derive(Debug)]
pub struct Lease {
    /// `None` only while being dropped.
    connection: Option<Box<Connection>>,
    pool: Arc<NodePool>,
    pub shard: ShardId,
    pub node_idx: usize,
    /// When it is given back, where that is known before the drop: a clock read less.
    pub released_at: Option<Instant>,
}

impl Deref for Lease {
    type Target = Connection;

    #[allow(clippy::expect_used, reason = "the option is empty only inside drop")]
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a lease holds its connection until it is dropped")
    }
}

impl DerefMut for Lease {
    #[allow(clippy::expect_used, reason = "the option is empty only inside drop")]
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease holds its connection until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.entry().release();
        let now = self.released_at.unwrap_or_else(Instant::now);
        if connection.is_clean && !connection.has_ended && connection.socket.input.is_empty() && !connection.cancel.is_in_flight()
        {
            connection.idle_since = now;
            connection.socket.shrink();
            self.pool.give_back(connection, now);
        } else {
            drop(connection);
            self.pool.lost(now);
        }
    }
}
