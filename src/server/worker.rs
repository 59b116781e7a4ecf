//! A worker: one thread with a current-thread runtime that serves the clients dealt to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Stream;
use crate::frontend::{self, Counted, Gate, Peer, serve};

/// Stack of a worker, in bytes: the parser and the planner walk syntax trees by recursion. Only what is touched takes memory.
const STACK_SIZE: usize = 64 << 20;

/// Accepted sockets that may wait for their worker.
const INBOX_LEN: usize = 1_024;

/// An accepted socket, not yet in any runtime.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// Where a worker takes sockets, and how many clients it has.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    pub sender: mpsc::Sender<Accepted>,
    pub n_clients: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(super) struct Worker {
    inbox: Inbox,
    clients: TaskTracker,
    stop: CancellationToken,
    runtime: Handle,
    thread: JoinHandle<()>,
}

impl Worker {
    pub(super) fn start(worker_idx: usize, gate: &Arc<Gate>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, receiver) = mpsc::channel(INBOX_LEN);
        let inbox = Inbox { sender, n_clients: Arc::default() };
        let (clients, stop) = (TaskTracker::new(), CancellationToken::new());
        let room = Room { worker_idx, gate: Arc::clone(gate), clients: clients.clone(), n_clients: Arc::clone(&inbox.n_clients) };
        let stopped = stop.clone();
        let handle = runtime.handle().clone();
        let thread =
            std::thread::Builder::new().name(format!("worker-{worker_idx}")).stack_size(STACK_SIZE).spawn(move || {
                // Dropping the runtime at the end cuts the clients that are left.
                runtime.block_on(async { stopped.run_until_cancelled(room.serve_all(receiver)).await });
            })?;
        Ok(Self { inbox, clients, stop, runtime: handle, thread })
    }

    pub(super) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Waits until the last client has left. Cancel safe.
    pub(super) async fn drained(&self) {
        self.clients.close();
        self.clients.wait().await;
    }

    /// Ends the thread and whatever runs on it.
    pub(super) fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("a worker ended by a panic");
        }
    }
}

struct Room {
    worker_idx: usize,
    gate: Arc<Gate>,
    clients: TaskTracker,
    n_clients: Arc<AtomicUsize>,
}

impl Room {
    async fn serve_all(self, mut receiver: mpsc::Receiver<Accepted>) {
        while let Some(accepted) = receiver.recv().await {
            let counted = Counted(Arc::clone(&self.n_clients));
            match into_stream(accepted) {
                Ok((stream, peer)) => {
                    let accepted = frontend::Accepted { stream, peer, worker_idx: self.worker_idx, counted };
                    self.clients.spawn(serve(Box::new(accepted), Arc::clone(&self.gate)));
                }
                Err(error) => tracing::info!(%error, "a client left while it was let in"),
            }
        }
    }
}

fn into_stream(accepted: Accepted) -> std::io::Result<(Stream, Peer)> {
    match accepted {
        Accepted::Tcp(stream, address) => Ok((Stream::tcp(tokio::net::TcpStream::from_std(stream)?)?, Peer::tcp(address))),
        Accepted::Unix(stream) => Ok((Stream::Unix(tokio::net::UnixStream::from_std(stream)?), Peer::unix())),
    }
}
