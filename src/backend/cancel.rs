//! CancelRequest to servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connect::{Endpoint, Opened};
use super::secure::secure;
use super::{ConnectError, Stream};
use crate::topology::NodeAddress;

/// Longest wait for a server to take a CancelRequest.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What it takes to cancel the statement of one connection.
#[derive(Debug, Clone)]
pub struct CancelHandle(Arc<CancelKey>);

#[derive(Debug)]
struct CancelKey {
    endpoint: Endpoint,
    /// Whether the connection is encrypted: its key then does not travel in clear.
    is_encrypted: bool,
    process_id: i32,
    secret: Bytes,
    n_in_flight: AtomicUsize,
}

impl CancelHandle {
    pub(super) fn new(endpoint: Endpoint, opened: &Opened) -> Self {
        Self(Arc::new(CancelKey {
            endpoint,
            is_encrypted: matches!(opened.socket.stream, Stream::Tls(_)),
            process_id: opened.process_id,
            secret: opened.secret.clone(),
            n_in_flight: AtomicUsize::new(0),
        }))
    }

    /// Announces a cancel: until the returned request is dropped, the connection is not reused.
    ///
    /// To be called while the connection is known to be leased.
    pub fn announce(&self) -> AnnouncedCancel {
        self.0.n_in_flight.fetch_add(1, Ordering::SeqCst);
        AnnouncedCancel { handle: self.clone() }
    }

    /// Whether both are of one connection.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The server process of the connection: its server, the database there, and the process id.
    pub fn process(&self) -> (&NodeAddress, &str, i32) {
        (&self.0.endpoint.address, &self.0.endpoint.dbname, self.0.process_id)
    }

    /// Whether a cancel is under way that could hit the next statement.
    pub fn is_in_flight(&self) -> bool {
        self.0.n_in_flight.load(Ordering::SeqCst) > 0
    }
}

/// A cancel that will be sent.
#[derive(Debug)]
pub struct AnnouncedCancel {
    handle: CancelHandle,
}

impl AnnouncedCancel {
    /// Sends the request and waits, at most 5 s, until the server has closed the socket: it has then acted on it.
    ///
    /// Failures are ignored, as libpq's PQcancel would only report them: the statement's deadline stands anyway.
    pub async fn send(self) {
        let key = &self.handle.0;
        let outcome = timeout(CANCEL_TIMEOUT, key.send()).await;
        if !matches!(outcome, Ok(Ok(()))) {
            tracing::info!(node = %key.endpoint.address, "a cancel request did not reach its server");
        }
    }
}

impl Drop for AnnouncedCancel {
    fn drop(&mut self) {
        self.handle.0.n_in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl CancelKey {
    /// Sends one CancelRequest and waits until the server closes the socket.
    async fn send(&self) -> Result<(), ConnectError> {
        let mut stream = Stream::connect(&self.endpoint.address).await?;
        if self.is_encrypted {
            stream = secure(stream, &self.endpoint.address.host, &self.endpoint.tls).await?;
            if !matches!(stream, Stream::Tls(_)) {
                return Err(ConnectError::Protocol("server does not support SSL, but the connection to cancel uses it"));
            }
        }
        let mut request = BytesMut::new();
        request.put_i32(i32::try_from(12 + self.secret.len()).unwrap_or(16));
        request.put_i32(80_877_102);
        request.put_i32(self.process_id);
        request.put_slice(&self.secret);
        stream.write_all(&request).await?;
        stream.flush().await?;
        Ok(stream.read(&mut [0]).await.map(drop)?)
    }
}
