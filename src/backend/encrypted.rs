//! A TCP socket under TLS, as one end of it or the other.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, ConnectionCommon, ProtocolVersion, SideData};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// An encrypted stream, its handshake done.
///
/// The lock is for [`Encrypted::has_news`] alone, which must decrypt what has come to know what it is; who reads or writes has the
/// stream to itself and takes no lock.
#[derive(Debug)]
pub struct Encrypted(Mutex<TlsStream<TcpStream>>);

impl Encrypted {
    pub fn new(stream: TlsStream<TcpStream>) -> Self {
        Self(Mutex::new(stream))
    }

    /// Version and cipher suite, as `TLSv1.3 TLS_AES_256_GCM_SHA384`.
    pub fn description(&self) -> String {
        self.with_state(|state| {
            let version = match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLS",
            };
            let suite = state.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
            // rustls spells the suites of TLS 1.3 in a way of its own.
            let suite = suite.unwrap_or_default().replace("TLS13_", "TLS_");
            format!("{version} {suite}")
        })
    }

    /// The certificate that the other side has shown, in DER.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        self.with_state(|state| state.peer_certificates()?.first().cloned().map(CertificateDer::into_owned))
    }

    /// The application protocol that both sides named.
    pub fn alpn_protocol(&self) -> Option<Vec<u8>> {
        self.with_state(|state| state.alpn_protocol().map(<[u8]>::to_vec))
    }

    fn with_state<T>(&self, look: impl FnOnce(&CommonState) -> T) -> T {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, session) = stream.get_ref();
        look(session)
    }

    /// Looks at the socket below.
    pub(super) fn with_tcp<T>(&self, look: impl FnOnce(&TcpStream) -> T) -> T {
        look(self.0.lock().unwrap_or_else(PoisonError::into_inner).get_ref().0)
    }

    /// Whether the other side has closed the connection, or sent something that is more than TLS's own affairs: session tickets
    /// and new keys are dealt with here, and an idle connection stays fit for use.
    pub(super) fn has_news(&self) -> bool {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            TlsStream::Client(stream) => {
                let (socket, session) = stream.get_mut();
                is_disturbed(socket, session)
            }
            TlsStream::Server(stream) => {
                let (socket, session) = stream.get_mut();
                is_disturbed(socket, session)
            }
        }
    }

    fn stream(&mut self) -> Pin<&mut TlsStream<TcpStream>> {
        Pin::new(self.0.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads, and sends on what was written and did not fit into the socket: a peer that waits for the rest would send nothing.
    ///
    /// A stream that ends without TLS's own farewell is at its end like another: messages tell their length, so nothing that was
    /// cut off is taken for whole.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream();
        if stream.get_ref().1.wants_write() && stream.as_mut().poll_flush(cx).is_ready() {
            // What failed will fail again where it is written; here the peer's last words may still be read.
        }
        match stream.poll_read(cx, buffer) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            outcome => outcome,
        }
    }

    /// Ready when there may be something to read, if [`Self::poll_read`] had nothing before. Sends on what did not fit, as that
    /// does.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream();
        if stream.get_ref().1.wants_write()
            && let Poll::Ready(Err(error)) = stream.as_mut().poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        stream.get_ref().0.poll_read_ready(cx)
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    /// Ready once all that was written has gone into the socket.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

/// Says farewell, as TLS wants it and OpenSSL's clients miss it, as far as the socket takes it at once.
impl Drop for Encrypted {
    fn drop(&mut self) {
        match self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            TlsStream::Client(stream) => {
                let (socket, session) = stream.get_mut();
                say_farewell(socket, session);
            }
            TlsStream::Server(stream) => {
                let (socket, session) = stream.get_mut();
                say_farewell(socket, session);
            }
        }
    }
}

fn is_disturbed<S: SideData>(socket: &TcpStream, session: &mut ConnectionCommon<S>) -> bool {
    loop {
        match session.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
            Ok(_) | Err(_) => return true,
        }
        match session.read_tls(&mut Immediate(socket)) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

fn say_farewell<S: SideData>(socket: &TcpStream, session: &mut ConnectionCommon<S>) {
    session.send_close_notify();
    while session.wants_write() {
        match session.write_tls(&mut Immediate(socket)) {
            Ok(n_written) if n_written > 0 => {}
            Ok(_) | Err(_) => break,
        }
    }
}

/// Reads and writes what can be done without waiting.
struct Immediate<'a>(&'a TcpStream);

impl io::Read for Immediate<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Write for Immediate<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Acceptor, Connector, Identity, TlsMode};
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio::io::AsyncWriteExt;
    use tokio_rustls::{TlsAcceptor, TlsConnector, server};

    /// Our end, and the peer's.
    async fn pair() -> (Encrypted, server::TlsStream<TcpStream>) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let identity = Identity::new(vec![cert.der().clone()], key).expect("they fit");
        let acceptor = TlsAcceptor::from(Acceptor::new(identity, Vec::new()).expect("usable").config);
        let connector = Connector::new(TlsMode::Require, Vec::new(), None).expect("usable").config.expect("not off");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (peer_socket, _) = listener.accept().await.expect("accepted");
        let name = ServerName::try_from("localhost").expect("a name");
        let (ours, theirs) = tokio::join!(TlsConnector::from(connector).connect(name, socket), acceptor.accept(peer_socket));
        (Encrypted::new(ours.expect("a handshake").into()), theirs.expect("a handshake"))
    }

    /// Waits until there is something to look at.
    async fn arrival(stream: &mut Encrypted) {
        let (socket, _) = stream.stream().get_mut().get_ref();
        let readable = tokio::time::timeout(std::time::Duration::from_secs(10), socket.readable()).await;
        readable.expect("something came").expect("a socket");
    }

    #[tokio::test]
    async fn tickets_and_new_keys_are_no_news() {
        let (mut ours, mut theirs) = pair().await;
        // The tickets of the handshake have not been read yet.
        arrival(&mut ours).await;
        assert!(!ours.has_news());
        theirs.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
        theirs.flush().await.expect("sent");
        arrival(&mut ours).await;
        assert!(!ours.has_news());
        theirs.write_all(b"E").await.expect("sent");
        theirs.flush().await.expect("sent");
        arrival(&mut ours).await;
        assert!(ours.has_news());
        assert!(ours.has_news(), "and stays so");
    }

    #[tokio::test]
    async fn a_farewell_and_a_cut_are_news() {
        let (mut ours, mut theirs) = pair().await;
        arrival(&mut ours).await;
        assert!(!ours.has_news());
        theirs.get_mut().1.send_close_notify();
        theirs.flush().await.expect("sent");
        arrival(&mut ours).await;
        assert!(ours.has_news());

        let (mut ours, theirs) = pair().await;
        arrival(&mut ours).await;
        assert!(!ours.has_news());
        let (socket, _) = theirs.into_inner();
        drop(socket);
        arrival(&mut ours).await;
        assert!(ours.has_news());
    }
}
