//! A TCP or unix socket, encrypted or not, with its buffers: the same for clients and for servers.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::encrypted::Encrypted;
use crate::topology::NodeAddress;

/// Room that a read is given at least, and the size an idle buffer may keep.
const READ_CHUNK: usize = 16 * 1024;

/// Output beyond this is written out before more is added.
pub const OUTPUT_HIGH_WATER: usize = 64 * 1024;

/// A stream socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS over TCP. Boxed: its state is large, and a plain socket pays nothing for it.
    Tls(Box<Encrypted>),
}

impl Stream {
    /// Connects to a server's address; a host that begins with `/` is the directory of its unix socket.
    ///
    /// Cancel safe: dropping the future closes the socket.
    pub async fn connect(address: &NodeAddress) -> io::Result<Self> {
        if address.host.starts_with('/') {
            let path: PathBuf = Path::new(&address.host).join(format!(".s.PGSQL.{}", address.port));
            return UnixStream::connect(path).await.map(Self::Unix);
        }
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        Self::tcp(stream)
    }

    /// A TCP stream with Nagle's algorithm off and keepalive on.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_keepalive(true)?;
        Ok(Self::Tcp(stream))
    }

    /// TLS version and cipher suite; `None` for a plain socket.
    pub fn tls_description(&self) -> Option<String> {
        match self {
            Self::Tls(stream) => Some(stream.description()),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether the peer has closed the socket or sent something unasked: true for a socket not to be used again.
    fn has_news(&self) -> bool {
        let mut byte = [0];
        let outcome = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            Self::Tls(stream) => return stream.has_news(),
        };
        !matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => stream.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
        }
    }
}

/// A stream with what was read and not yet used, and what is to be written.
#[derive(Debug)]
pub struct Socket {
    pub stream: Stream,
    pub input: BytesMut,
    pub output: BytesMut,
}

impl Socket {
    pub fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Reads what is there into `input`; 0 at the end of the stream.
    ///
    /// Cancel safe: bytes are either in `input` or still in the socket.
    pub async fn fill(&mut self) -> io::Result<usize> {
        if self.input.capacity() - self.input.len() < READ_CHUNK / 2 {
            self.input.reserve(READ_CHUNK);
        }
        self.stream.read_buf(&mut self.input).await
    }

    /// The same as a poll, for reading from several sockets at once.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let fill = std::pin::pin!(self.fill());
        fill.poll(cx)
    }

    /// Writes all of `output`.
    ///
    /// Not cancel safe: part of it may be written.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        self.stream.flush().await
    }

    /// Writes what the socket takes of `output`; ready once that is all.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let n_written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if n_written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(n_written);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Writes `output` if it has grown large.
    pub async fn flush_if_large(&mut self) -> io::Result<()> {
        if self.output.len() >= OUTPUT_HIGH_WATER { self.flush().await } else { Ok(()) }
    }

    /// Writes `bytes` after `output`, without a copy when there is no output.
    pub async fn write_through(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.output.is_empty() {
            self.stream.write_all(bytes).await?;
            return self.stream.flush().await;
        }
        self.output.extend_from_slice(bytes);
        self.flush().await
    }

    /// Gives large buffers back.
    pub fn shrink(&mut self) {
        if self.input.is_empty() && self.input.capacity() > READ_CHUNK {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.capacity() > READ_CHUNK {
            self.output = BytesMut::new();
        }
    }

    /// Whether an idle socket is to be closed: the peer closed it, or sent what nobody asked for.
    pub fn has_news(&self) -> bool {
        !self.input.is_empty() || self.stream.has_news()
    }
}
