//! Listening for clients and dealing their sockets to the workers.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::worker::{Accepted, Inbox};
use crate::config::ServerConfig;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

impl Listener {
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix { .. } => None,
        }
    }

    async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, address))
            }
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

/// The file of a unix socket, removed when dropped unless another process has put its own in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device_and_inode: Option<(u64, u64)>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), device_and_inode: device_and_inode(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if device_and_inode(&self.path) == self.device_and_inode {
            // Somebody else may have removed it.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn device_and_inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The listeners of the configuration. The unix socket takes the number of the first TCP port.
pub(super) fn client_listeners(config: &ServerConfig) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::new();
    for &address in &config.listen {
        listeners.push(Listener::Tcp(
            tcp(address, config).map_err(|error| StartError::Listen { address: address.to_string(), error })?,
        ));
    }
    if let Some(dir) = &config.unix_socket_dir {
        let port = listeners.first().and_then(Listener::address).map_or(0, |address| address.port());
        let path = dir.join(format!(".s.PGSQL.{port}"));
        listeners.push(unix(&path, config).map_err(|error| StartError::Listen { address: path.display().to_string(), error })?);
    }
    Ok(listeners)
}

fn tcp(address: SocketAddr, config: &ServerConfig) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(config.reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(config.listen_backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// A unix socket; one that a dead process left behind is replaced, and with `reuse_port` that of a living one too, which
/// keeps the clients that it has.
fn unix(path: &Path, config: &ServerConfig) -> std::io::Result<Listener> {
    let is_taken = std::os::unix::net::UnixStream::connect(path).is_ok();
    if is_taken && !config.reuse_port {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    // Made beside it and put in its place, so that at no moment there is none, or one that anybody may open.
    let unfinished = path.with_extension(format!("{}.new", std::process::id()));
    if unfinished.exists() {
        std::fs::remove_file(&unfinished)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&unfinished)?)?;
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(config.unix_socket_permissions))?;
    socket.listen(i32::try_from(config.listen_backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    std::fs::rename(&unfinished, path)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))?;
    Ok(Listener::Unix { listener, _file: SocketFile::new(path) })
}

pub(super) async fn admin_listener(address: SocketAddr, config: &ServerConfig) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = tcp(address, config)?;
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
