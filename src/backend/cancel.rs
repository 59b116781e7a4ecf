//! CancelRequest to servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Stream;
use crate::topology::NodeAddress;

/// Longest wait for a server to take a CancelRequest.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What it takes to cancel the statement of one connection.
#[derive(Debug, Clone)]
pub struct CancelHandle(Arc<CancelKey>);

#[derive(Debug)]
struct CancelKey {
    address: NodeAddress,
    process_id: i32,
    secret: Bytes,
    n_in_flight: AtomicUsize,
}

impl CancelHandle {
    pub fn new(address: NodeAddress, process_id: i32, secret: Bytes) -> Self {
        Self(Arc::new(CancelKey { address, process_id, secret, n_in_flight: AtomicUsize::new(0) }))
    }

    /// Announces a cancel: until the returned request is dropped, the connection is not reused.
    ///
    /// To be called while the connection is known to be leased.
    pub fn announce(&self) -> AnnouncedCancel {
        self.0.n_in_flight.fetch_add(1, Ordering::SeqCst);
        AnnouncedCancel { handle: self.clone() }
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
        let outcome = timeout(CANCEL_TIMEOUT, cancel_request(&key.address, key.process_id, &key.secret)).await;
        if !matches!(outcome, Ok(Ok(()))) {
            tracing::info!(node = %key.address, "a cancel request did not reach its server");
        }
    }
}

impl Drop for AnnouncedCancel {
    fn drop(&mut self) {
        self.handle.0.n_in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sends one CancelRequest and waits until the server closes the socket.
pub async fn cancel_request(address: &NodeAddress, process_id: i32, secret: &[u8]) -> std::io::Result<()> {
    let mut stream = Stream::connect(address).await?;
    let mut request = BytesMut::new();
    request.put_i32(i32::try_from(12 + secret.len()).unwrap_or(16));
    request.put_i32(80_877_102);
    request.put_i32(process_id);
    request.put_slice(secret);
    stream.write_all(&request).await?;
    stream.read(&mut [0]).await.map(drop)
}
