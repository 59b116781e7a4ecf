//! One port for people and machines: a psql console and HTTP, told apart by the first byte.
//!
//! HTTP methods are ASCII letters; a Postgres startup packet begins with the high byte of its length, which is zero. What
//! stands here only reads; the one thing that it asks for is a reload.

mod commands;
mod config_rows;
mod console;
mod http;
mod login;
mod page;
mod tables;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::health::Board;
use crate::observe::{DatabaseCounters, PoolStatus, Registry};
use crate::topology::Topology;

/// Most connections at a time; one more is closed at once.
const MAX_CONNECTIONS: usize = 64;

/// Longest wait for a connection's first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after an accept that failed, for instance for lack of file descriptors: the listener would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Asks for a reload; the answer is a sentence for the person who asked, or the configuration's faults.
pub type ReloadRequest = oneshot::Sender<Result<String, Vec<String>>>;

/// What the admin port shows.
pub struct AdminState {
    pub registry: Arc<Registry>,
    /// The current view; a reload sends another one.
    pub view: watch::Receiver<Arc<AdminView>>,
    pub pools: Arc<dyn Fn() -> Vec<PoolStatus> + Send + Sync>,
    pub reload: mpsc::Sender<ReloadRequest>,
    /// Whether clients are let in: false at start and during shutdown.
    pub is_accepting: Arc<AtomicBool>,
    pub started_at: SystemTime,
}

/// What a reload changes.
#[derive(Debug)]
pub struct AdminView {
    pub config: Arc<Config>,
    pub databases: Vec<DatabaseView>,
}

/// One database.
#[derive(Debug, Clone)]
pub struct DatabaseView {
    /// With watermarks.
    pub topology: Arc<Topology>,
    pub board: Arc<Board>,
    pub counters: Arc<DatabaseCounters>,
}

/// Serves the admin port until `shutdown` is cancelled, which also ends open connections.
///
/// Serves at most 64 connections at a time.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(fault) => {
                tracing::warn!(%fault, "the admin port cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, "the admin port has {MAX_CONNECTIONS} connections; one more is closed");
            continue;
        };
        let (state, shutdown) = (Arc::clone(&state), shutdown.clone());
        connections.spawn(async move {
            shutdown.run_until_cancelled_owned(serve_connection(stream, peer, &state)).await;
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: TcpStream, peer: SocketAddr, state: &AdminState) {
    let mut first = [0];
    let ended = match timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0].is_ascii_alphabetic() => http::serve(stream, state).await,
        Ok(Ok(1)) => console::serve(stream, peer, state).await,
        // Closed or mute: port checks do this.
        Ok(Ok(_) | Err(_)) | Err(_) => Ok(()),
    };
    if let Err(fault) = ended {
        tracing::debug!(%peer, %fault, "admin connection broke");
    }
}

impl AdminState {
    fn current(&self) -> Arc<AdminView> {
        Arc::clone(&self.view.borrow())
    }

    /// Why the proxy cannot serve every table just now; `None` when it can.
    fn unready_reason(&self) -> Option<String> {
        if !self.is_accepting.load(Ordering::Relaxed) {
            return Some("clients are not let in: the proxy starts or stops".to_owned());
        }
        let view = self.current();
        view.databases.iter().find_map(|database| {
            let topology = &database.topology;
            let shard = topology.shard_ids().find(|&shard| database.board.reader_of(shard).is_none())?;
            let (name, database) = (&topology.shard(shard).name, &topology.database);
            Some(format!("shard \"{name}\" of database \"{database}\" has no node that answers"))
        })
    }
}

#[cfg(test)]
mod tests;
