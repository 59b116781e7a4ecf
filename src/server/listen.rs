//! Listening for clients and dealing their sockets to the workers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::worker::{Accepted, Inbox};
use crate::config::ServerConfig;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: i32 = 4_096;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    /// The path is removed when the listener is dropped.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, address))
            }
            Self::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody else may have removed it.
            drop(std::fs::remove_file(path));
        }
    }
}

/// The listeners of the configuration. The unix socket takes the number of the first TCP port.
pub(super) fn client_listeners(config: &ServerConfig) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for &address in &config.listen {
        listeners.push(Listener::Tcp(tcp(address).map_err(|error| StartError::Listen { address: address.to_string(), error })?));
    }
    if let Some(dir) = &config.unix_socket_dir {
        let port = listeners.first().and_then(Listener::address).map_or(0, |address| address.port());
        let path = dir.join(format!(".s.PGSQL.{port}"));
        listeners.push(unix(&path).map_err(|error| StartError::Listen { address: path.display().to_string(), error })?);
    }
    Ok(listeners)
}

fn tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// A unix socket; one that a dead process left behind is replaced.
fn unix(path: &std::path::Path) -> std::io::Result<Listener> {
    if std::os::unix::net::UnixStream::connect(path).is_err() && path.exists() {
        std::fs::remove_file(path)?;
    }
    Ok(Listener::Unix(UnixListener::bind(path)?, path.to_owned()))
}

pub(super) async fn admin_listener(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = tcp(address)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error| StartError::Listen { address: address.to_string(), error })
}

/// Takes sockets from one listener and deals each to the worker with the fewest clients.
pub(super) struct Acceptor {
    pub listener: Listener,
    pub inboxes: Vec<Inbox>,
    pub stop: CancellationToken,
}

impl Acceptor {
    pub(super) async fn run(self) {
        while let Some(accepted) = self.stop.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok(accepted) => self.deal(accepted).await,
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn deal(&self, accepted: Accepted) {
        let Some(inbox) = self.inboxes.iter().min_by_key(|inbox| inbox.n_clients.load(Ordering::Relaxed)) else { return };
        inbox.n_clients.fetch_add(1, Ordering::Relaxed);
        if inbox.sender.send(accepted).await.is_err() {
            // The worker has ended: the socket is closed.
            inbox.n_clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
