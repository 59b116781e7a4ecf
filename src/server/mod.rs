//! The process: configuration to databases, listeners, workers, reload and shutdown. Handles are built here and passed down.

mod database;
mod listen;
mod memory;
mod notify;
mod reload;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{AdminState, AdminView};
use crate::backend::control::ControlError;
use crate::config::Config;
use crate::frontend::{Gate, Served, derive_ahead};
use crate::observe::Registry;

pub use database::DatabaseError;
use listen::{Acceptor, admin_listener, client_listeners};
pub use notify::{Notice, Supervisor};
use reload::Reloader;
use worker::Worker;

/// Requests to reload that may wait.
const RELOAD_QUEUE: usize = 4;

/// Longest wait for the first probe of every node before clients are let in.
const FIRST_PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Longest wait, after the grace time, for clients in a transaction to be told that it is over.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Open files besides clients and servers' connections: runtimes, listeners, the log, the console.
const OTHER_DESCRIPTORS: usize = 64;

/// Longest wait for a worker to show that it lives.
const WORKER_PULSE_LIMIT: Duration = Duration::from_secs(5);

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: std::io::Error },
    #[error("database \"{database}\": {error}")]
    Database { database: String, error: DatabaseError },
    #[error("auth.query: {0}")]
    Lookups(ControlError),
    #[error("cannot start a worker: {0}")]
    Worker(std::io::Error),
}

/// A running proxy. Dropped without [`Running::shutdown`] it goes on until the process ends.
#[derive(Debug)]
pub struct Running {
    client_addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    gate: Arc<Gate>,
    is_accepting: Arc<AtomicBool>,
    /// Ends everything: listeners, probers, the admin port, clients.
    stop: CancellationToken,
    tasks: TaskTracker,
    workers: Vec<Worker>,
    reload: mpsc::Sender<crate::admin::ReloadRequest>,
}

/// Starts the proxy: databases first, then the admin port, then clients. `source` is the file that a reload reads again.
///
/// To be called in a Tokio runtime, which carries the listeners, the probers and the admin port; clients have threads of
/// their own.
///
/// # Errors
/// An address that cannot be listened on, a database whose settings cannot be used. Servers that are down are no error.
pub async fn start(config: Config, source: PathBuf) -> Result<Running, StartError> {
    raise_descriptor_limit(&config);
    let config = Arc::new(config);
    let registry = Arc::new(Registry::default());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let builder = database::Builder { registry: Arc::clone(&registry), tasks: tasks.clone(), stop: stop.clone() };
    let databases = builder.build_all(&config).map_err(|(database, error)| StartError::Database { database, error })?;
    let listeners = client_listeners(&config.server)?;
    let (admin, admin_address) = admin_listener(config.admin.listen, &config.server).await?;
    database::prepare_all(&databases, FIRST_PROBE_LIMIT).await;
    let view = watch::Sender::new(Arc::new(admin_view(&config, &databases)));
    let served = Served::new(Arc::clone(&config), databases, None).map_err(StartError::Lookups)?;
    let gate = Arc::new(Gate::new(registry, stop.child_token(), served));
    let is_accepting = Arc::new(AtomicBool::new(true));
    let (reload, requests) = mpsc::channel(RELOAD_QUEUE);
    let pools_of = Arc::clone(&gate);
    let state = Arc::new(AdminState {
        registry: Arc::clone(&gate.registry),
        view: view.subscribe(),
        pools: Arc::new(move || pools_of.served().databases.values().flat_map(|database| database.pools.figures()).collect()),
        reload: reload.clone(),
        is_accepting: Arc::clone(&is_accepting),
        started_at: SystemTime::now(),
    });
    tasks.spawn(crate::admin::serve(admin, state, stop.clone()));
    tasks.spawn(Reloader { gate: Arc::clone(&gate), builder, view, source, requests, stop: stop.clone() }.run());
    spawn_derivation(&tasks, &stop, &config);
    let workers = (0..config.server.workers)
        .map(|idx| Worker::start(idx, &gate))
        .collect::<Result<Vec<_>, _>>()
        .map_err(StartError::Worker)?;
    let runtimes = workers.iter().map(Worker::runtime).collect();
    tasks.spawn(database::Upkeep { gate: Arc::clone(&gate), tasks: tasks.clone(), stop: stop.clone(), runtimes }.run());
    tasks.spawn(memory::keep_small(Arc::clone(&gate), stop.clone()));
    let mut client_addresses = Vec::new();
    for listener in listeners {
        client_addresses.extend(listener.address());
        let acceptor = Acceptor { listener, inboxes: workers.iter().map(Worker::inbox).collect(), stop: gate.draining.clone() };
        tasks.spawn(acceptor.run());
    }
    Ok(Running { client_addresses, admin_address, gate, is_accepting, stop, tasks, workers, reload })
}

/// Stretches the passwords of the users file beside everything else.
fn spawn_derivation(tasks: &TaskTracker, stop: &CancellationToken, config: &Arc<Config>) {
    let (config, stop) = (Arc::clone(config), stop.clone());
    tasks.spawn(async move { stop.run_until_cancelled(derive_ahead(&config.auth)).await });
}

fn admin_view(config: &Arc<Config>, databases: &crate::frontend::Databases) -> AdminView {
    let databases = databases
        .values()
        .map(|database| crate::admin::DatabaseView {
            topology: Arc::clone(&database.view().topology),
            board: Arc::clone(&database.board),
            counters: Arc::clone(&database.counters),
        })
        .collect();
    AdminView { config: Arc::clone(config), databases }
}

/// As many sockets as the system allows: every client and every server connection is one.
fn raise_descriptor_limit(config: &Config) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        tracing::info!("the limit of open files stays as it was");
    }
    let (needed, allowed) = (descriptors_needed(config), getrlimit(Resource::Nofile).current);
    if allowed.is_some_and(|allowed| allowed < needed) {
        tracing::warn!(needed, allowed, "server.max_clients and the pools of one user need more open files than are allowed");
    }
}

/// Sockets of all clients, and of the pools of one user to every node.
fn descriptors_needed(config: &Config) -> u64 {
    let of_pools = config.databases.values().map(|database| {
        let n_nodes: usize = database.topology.shards.iter().map(|shard| shard.nodes.len()).sum();
        // Each node has its probe.
        n_nodes * (database.pool.max_per_node + database.pool.reserve + 1)
    });
    (OTHER_DESCRIPTORS + config.server.max_clients + of_pools.sum::<usize>()) as u64
}

impl Running {
    /// TCP addresses for clients, as bound.
    pub fn client_addresses(&self) -> &[SocketAddr] {
        &self.client_addresses
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Reads the configuration file again, as SIGHUP and RELOAD do.
    ///
    /// # Errors
    /// The file's faults; the old configuration stays.
    pub async fn reload(&self) -> Result<String, Vec<String>> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        if self.reload.send(answer).await.is_err() {
            return Err(vec!["the proxy is shutting down".to_owned()]);
        }
        answered.await.unwrap_or_else(|_| Err(vec!["the proxy is shutting down".to_owned()]))
    }

    /// Whether every worker gets to a task of its own within 5 s. Cancel safe.
    pub async fn is_alive(&self) -> bool {
        for worker in &self.workers {
            let beat = self.tasks.spawn_on(std::future::ready(()), &worker.runtime());
            if !matches!(timeout(WORKER_PULSE_LIMIT, beat).await, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    /// Lets no more clients in, closes idle ones with 57P01, waits for running transactions up to the grace time, and ends.
    ///
    /// Cancel safe in that dropping the future ends the waiting; clients are then cut with the process.
    pub async fn shutdown(self) {
        self.is_accepting.store(false, Ordering::Relaxed);
        self.gate.draining.cancel();
        let until = Instant::now() + self.gate.served().config.server.shutdown_grace;
        for worker in &self.workers {
            // Who is not done by then is cut.
            drop(timeout_at(until, worker.drained()).await);
        }
        self.gate.closing.cancel();
        for worker in &self.workers {
            drop(timeout(FAREWELL_TIMEOUT, worker.drained()).await);
        }
        self.stop.cancel();
        for database in self.gate.served().databases.values() {
            database.pools.close();
        }
        for worker in self.workers {
            worker.stop();
        }
        self.tasks.close();
        drop(timeout(Duration::from_secs(2), self.tasks.wait()).await);
    }
}
