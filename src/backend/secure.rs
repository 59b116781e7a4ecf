//! TLS towards servers: the request for it, the server's answer, the handshake.
//!
//! Manual: "SSL Session Encryption" under "Message Flow".

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::{TlsConnector, client};

use super::encrypted::Encrypted;
use super::{ConnectError, Stream};
use crate::tls::{Connector, TlsMode, end_point_hash};

/// SSLRequest, with its length.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Room for the server's answer and for what must not come with it.
const ANSWER_ROOM: usize = 64;

/// Encrypts a new connection to a server as far as `connector` and the server want it. Unix sockets stay as they are.
///
/// # Errors
/// `Protocol` when the server will not and must, or answers otherwise than it may; `Tls` when the handshake fails or the server
/// is not believed.
///
/// Cancel safe: dropping the future closes the socket.
pub(super) async fn secure(mut stream: Stream, host: &str, connector: &Connector) -> Result<Stream, ConnectError> {
    let Some(config) = connector.config.as_ref().filter(|_| matches!(stream, Stream::Tcp(_))) else { return Ok(stream) };
    stream.write_all(&SSL_REQUEST).await?;
    let mut answer = [0; ANSWER_ROOM];
    let n_read = stream.read(&mut answer).await?;
    match answer[..n_read] {
        [] => return Err(ConnectError::Io("server closed the connection unexpectedly".to_owned())),
        [b'S'] => {}
        [b'N'] if connector.mode == TlsMode::Prefer => return Ok(stream),
        [b'N'] => return Err(ConnectError::Protocol("server does not support SSL, but SSL was required")),
        // Read as if it had come encrypted, it would be a third party's words in the server's mouth.
        [b'S' | b'N', ..] => return Err(ConnectError::Protocol("received unencrypted data after SSL response")),
        // Not shown: nobody knows yet whose words these are.
        [b'E', ..] => return Err(ConnectError::Protocol("server sent an error response during SSL exchange")),
        _ => return Err(ConnectError::Protocol("received invalid response to SSL negotiation")),
    }
    let Stream::Tcp(socket) = stream else { return Ok(stream) };
    let name = connector.server_name(host).map_err(ConnectError::Tls)?;
    let encrypted = TlsConnector::from(Arc::clone(config)).connect(name, socket).await;
    let encrypted = encrypted.map_err(|error| ConnectError::Tls(error.to_string()))?;
    Ok(Stream::Tls(Box::new(Encrypted::new(encrypted.into()))))
}

/// TLS for tokio-postgres, which asks the server itself.
#[derive(Debug, Clone)]
pub(super) struct ControlTls(pub(super) Connector);

/// TLS towards one host.
pub(super) struct HostTls {
    config: Option<Arc<ClientConfig>>,
    name: Result<ServerName<'static>, String>,
}

/// An encrypted stream of tokio-postgres.
#[derive(Debug)]
pub(super) struct ControlStream<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for ControlTls {
    type Stream = ControlStream<S>;
    type TlsConnect = HostTls;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<HostTls> {
        Ok(HostTls { config: self.0.config.clone(), name: self.0.server_name(host) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for HostTls {
    type Stream = ControlStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<ControlStream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let config = self.config.ok_or_else(|| io::Error::other("TLS is off"))?;
            let name = self.name.map_err(io::Error::other)?;
            TlsConnector::from(config).connect(name, stream).await.map(ControlStream)
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for ControlStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        let hash = certificates.and_then(<[_]>::first).and_then(|leaf| end_point_hash(leaf));
        hash.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ControlStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ControlStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
