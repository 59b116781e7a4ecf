//! A TCP or unix socket, encrypted or not, with its buffers: the same for clients and for servers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep_until};

use super::encrypted::Encrypted;
use crate::config::TcpConfig;
use crate::topology::NodeAddress;

/// Most that one read brings.
const READ_CHUNK: usize = 16 * 1024;

/// Output beyond this is written out before more is added.
pub const OUTPUT_HIGH_WATER: usize = 64 * 1024;

/// Most that an idle socket keeps of each buffer, in bytes: most statements fit.
const KEPT_LEN: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_CHUNK].into_boxed_slice());
}

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
        SockRef::from(&stream).set_keepalive(true)?;
        Ok(Self::Tcp(stream))
    }

    /// TLS version and cipher suite; `None` for a plain socket.
    pub fn tls_description(&self) -> Option<String> {
        match self {
            Self::Tls(stream) => Some(stream.description()),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Sets when TCP gives up on a peer that does not answer. A unix socket needs none of it.
    pub fn tune(&self, config: &TcpConfig) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => tune(&SockRef::from(stream), config),
            Self::Tls(stream) => stream.with_tcp(|stream| tune(&SockRef::from(stream), config)),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Ready when there may be something to read, or the stream has ended. Nothing is read.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let readable = match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_readable(cx),
        };
        // Who reads meets the error.
        readable.map(drop)
    }

    /// What the runtime has heard of the peer so far. No system call, and nothing is read.
    pub fn peer(&self) -> PeerState {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let mut cx = Context::from_waker(Waker::noop());
        let readiness = match self {
            Self::Tcp(stream) => std::pin::pin!(stream.ready(interest)).poll(&mut cx),
            Self::Unix(stream) => std::pin::pin!(stream.ready(interest)).poll(&mut cx),
            Self::Tls(stream) => stream.with_tcp(|stream| std::pin::pin!(stream.ready(interest)).poll(&mut cx)),
        };
        match readiness {
            Poll::Ready(Ok(ready)) if ready.is_write_closed() => PeerState::Gone,
            Poll::Ready(Ok(ready)) if ready.is_read_closed() => PeerState::HalfClosed,
            Poll::Ready(_) | Poll::Pending => PeerState::Open,
        }
    }

    /// Asks the system what the runtime may not have heard yet: whether the peer has closed the socket, or a plain one has
    /// something to be read.
    fn is_disturbed(&self) -> bool {
        let peek = |socket: SockRef<'_>| socket.peek(&mut [MaybeUninit::uninit()]);
        let (outcome, is_plain) = match self {
            Self::Tcp(stream) => (peek(SockRef::from(stream)), true),
            Self::Unix(stream) => (peek(SockRef::from(stream)), true),
            Self::Tls(stream) => (stream.with_tcp(|stream| peek(SockRef::from(stream))), false),
        };
        match outcome {
            Ok(0) => true,
            // Under TLS it may be one of its own messages.
            Ok(_) => is_plain,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
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

/// What is known of the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    Open,
    /// It will send no more, and may still read.
    HalfClosed,
    /// It has closed the connection, or broken it.
    Gone,
}

/// A stream with what was read and not yet used, and what is to be written.
#[derive(Debug)]
pub struct Socket {
    pub stream: Stream,
    pub input: BytesMut,
    pub output: BytesMut,
    /// How often something was written while a statement ran.
    n_flushes: u32,
    patience: Patience,
}

impl Socket {
    pub fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new(), output: BytesMut::new(), n_flushes: 0, patience: Patience::default() }
    }

    /// Changes with each [`Self::flush`] and [`Self::write_through`]: what was in `output` before it cannot be taken back.
    pub fn n_flushes(&self) -> u32 {
        self.n_flushes
    }

    /// From here on [`Self::flush`] and [`Self::write_through`] fail with `TimedOut` when the peer takes nothing for so long;
    /// zero: never.
    pub fn limit_writes(&mut self, limit: Duration) {
        self.patience.limit = limit;
    }

    /// Reads what is there into `input`; 0 at the end of the stream.
    ///
    /// Cancel safe: bytes are either in `input` or still in the socket.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The same as a poll, for reading from several sockets at once.
    ///
    /// Little is read by way of a buffer that all sockets of the thread share, so that an idle one has none of its own; where
    /// much comes, it is read to where it stays.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() >= READ_CHUNK / 2 {
            return std::pin::pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let n_read = buffer.filled().len();
            self.input.extend_from_slice(buffer.filled());
            if n_read == READ_CHUNK {
                self.input.reserve(READ_CHUNK);
            }
            Poll::Ready(Ok(n_read))
        })
    }

    /// Writes all of `output`.
    ///
    /// Not cancel safe: part of it may be written.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.n_flushes = self.n_flushes.wrapping_add(1);
        write_all(&mut self.stream, &self.output, &mut self.patience).await?;
        self.output.clear();
        Ok(())
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
            self.n_flushes = self.n_flushes.wrapping_add(1);
            return write_all(&mut self.stream, bytes, &mut self.patience).await;
        }
        self.output.extend_from_slice(bytes);
        self.flush().await
    }

    /// Whether nothing is buffered in either direction.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty() && self.output.is_empty()
    }

    /// Gives large buffers back.
    pub fn shrink(&mut self) {
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.is_empty() && buffer.capacity() > KEPT_LEN {
                *buffer = BytesMut::new();
            }
        }
    }

    /// Whether an idle socket is to be closed: the peer closed it, or sent what nobody asked for. By what the runtime has heard,
    /// without a system call.
    pub fn has_news(&self) -> bool {
        !self.input.is_empty() || self.stream.has_news()
    }

    /// The same as the system has it at this moment.
    pub fn is_disturbed(&self) -> bool {
        self.has_news() || self.stream.is_disturbed()
    }
}

fn tune(socket: &SockRef<'_>, config: &TcpConfig) -> io::Result<()> {
    let given = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
    let mut keepalive = TcpKeepalive::new();
    if let Some(idle) = given(config.keepalive_idle) {
        keepalive = keepalive.with_time(idle);
    }
    if let Some(interval) = given(config.keepalive_interval) {
        keepalive = keepalive.with_interval(interval);
    }
    if config.keepalive_count > 0 {
        keepalive = keepalive.with_retries(config.keepalive_count);
    }
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(given(config.user_timeout))?;
    Ok(())
}

/// How long a write waits for a peer that takes nothing.
#[derive(Debug, Default)]
struct Patience {
    /// Zero: for ever.
    limit: Duration,
    /// When the peer has last taken something before it stopped.
    since: Option<Instant>,
    /// Armed when a write first has to wait, and moved only when it fires.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Ready with `TimedOut` once the peer has taken nothing for the limit.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.limit.is_zero() {
            return Poll::Pending;
        }
        let at = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        while sleep.as_mut().poll(cx).is_ready() {
            if at <= Instant::now() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read what it asked for")));
            }
            sleep.as_mut().reset(at.into());
        }
        Poll::Pending
    }
}

/// Writes all of `bytes`. Not cancel safe: part of it may be written.
async fn write_all(stream: &mut Stream, bytes: &[u8], patience: &mut Patience) -> io::Result<()> {
    let mut n_written = 0;
    poll_fn(|cx| {
        while n_written < bytes.len() {
            match Pin::new(&mut *stream).poll_write(cx, &bytes[n_written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    n_written += n;
                    patience.since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return patience.poll(cx),
            }
        }
        match Pin::new(&mut *stream).poll_flush(cx) {
            Poll::Pending => patience.poll(cx),
            outcome => outcome,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tcp_s_patience_is_set() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = Stream::tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()).unwrap();
        let config = TcpConfig {
            keepalive_idle: Duration::from_secs(77),
            keepalive_interval: Duration::from_secs(7),
            keepalive_count: 3,
            user_timeout: Duration::from_millis(12_345),
        };
        stream.tune(&config).unwrap();
        let Stream::Tcp(stream) = &stream else { panic!("not TCP") };
        let socket = SockRef::from(stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), config.keepalive_idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), config.keepalive_interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(config.user_timeout));
    }

    #[tokio::test]
    async fn a_peer_is_seen_to_leave() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Stream::tcp(listener.accept().await.unwrap().0).unwrap();
        assert_eq!(stream.peer(), PeerState::Open);
        let seen = async |wanted| {
            while stream.peer() != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::io::AsyncWriteExt::write_all(&mut peer, b"unread").await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut peer).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), seen(PeerState::HalfClosed)).await.unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        tokio::time::timeout(Duration::from_secs(10), seen(PeerState::Gone)).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_s_end_is_seen_before_the_runtime_hears_of_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(Stream::tcp(listener.accept().await.unwrap().0).unwrap());
        assert!(!socket.is_disturbed());
        drop(peer);
        // The runtime has had no turn since.
        assert!(!socket.has_news() && socket.is_disturbed());
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(Stream::tcp(listener.accept().await.unwrap().0).unwrap());
        socket.limit_writes(Duration::from_millis(50));
        let error = socket.write_through(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
