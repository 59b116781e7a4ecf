//! A TLS client that sends what it is told, and servers that do what no Postgres would.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificates::Files;
use crate::harness::{DATABASE, Raw, beside, startup};

pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
pub(crate) const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Believes everyone.
#[derive(Debug)]
pub(crate) struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client's settings, with `alpn` as its protocols.
pub(crate) fn client_config(alpn: &[&str]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous)).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub(crate) type RawTls = Raw<TlsStream<TcpStream>>;

/// Begins with TLS itself.
pub(crate) async fn open_direct(port: u16, config: &Arc<ClientConfig>) -> io::Result<RawTls> {
    handshake(TcpStream::connect(("127.0.0.1", port)).await?, config).await
}

/// Asks for TLS first, and expects `S`.
pub(crate) async fn open_asking(port: u16, config: &Arc<ClientConfig>) -> RawTls {
    let mut raw = Raw::open(port).await;
    raw.send(&SSL_REQUEST).await;
    assert_eq!(raw.read_byte().await, Some(b'S'));
    handshake(raw.stream, config).await.unwrap()
}

async fn handshake(stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<RawTls> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map(|stream| Raw { stream })
}

impl RawTls {
    /// Logs in as `postgres` and returns the body of BackendKeyData.
    pub(crate) async fn log_in_by_tls(&mut self) -> Vec<u8> {
        self.send(&startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE)])).await;
        let messages = self.until(b'Z').await;
        messages.into_iter().find(|message| message.tag == b'K').unwrap().body
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

/// The first certificate of a PEM file.
pub(crate) fn certificate_in(path: &std::path::Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// Something that listens where a node should.
pub(crate) struct Listener {
    pub(crate) port: u16,
    /// The first eight bytes of each connection.
    openings: Arc<Mutex<Vec<[u8; 8]>>>,
    answer: Answer,
}

/// What is said to the next connections instead of what would be.
type Answer = Arc<Mutex<Option<&'static [u8]>>>;

impl Listener {
    pub(crate) fn openings(&self) -> Vec<[u8; 8]> {
        self.openings.lock().unwrap().clone()
    }

    /// Answers the first packet of each new connection with this and nothing else.
    pub(crate) fn answer_from_now_on(&self, answer: &'static [u8]) {
        *self.answer.lock().unwrap() = Some(answer);
    }
}

/// Passes every byte between its clients and the server on `port`.
pub(crate) async fn forwarding(port: u16) -> Listener {
    listening(move |mut stream, opening| async move {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        server.write_all(&opening).await?;
        copy_bidirectional(&mut stream, &mut server).await.map(drop)
    })
    .await
}

/// Passes every byte between its clients and the server on `port`, each by itself.
pub(crate) async fn dripping(port: u16) -> Listener {
    listening(move |stream, opening| async move {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
        server.set_nodelay(true)?;
        stream.set_nodelay(true)?;
        server.write_all(&opening).await?;
        let ((from_client, to_client), (from_server, to_server)) = (stream.into_split(), server.into_split());
        tokio::try_join!(drip(from_client, to_server), drip(from_server, to_client)).map(drop)
    })
    .await
}

async fn drip(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let n_read = from.read(&mut buffer).await?;
        if n_read == 0 {
            return to.shutdown().await;
        }
        for byte in &buffer[..n_read] {
            to.write_all(&[*byte]).await?;
            tokio::task::yield_now().await;
        }
    }
}

/// Ends the TLS of its clients with a certificate of its own and begins another towards the server: who reads along does this.
pub(crate) async fn intercepting(port: u16, files: &Files) -> Listener {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![certificate_in(&files.cert)];
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
    listening(move |mut stream, _| {
        let acceptor = TlsAcceptor::from(Arc::clone(&config));
        async move {
            stream.write_all(b"S").await?;
            let mut client = acceptor.accept(stream).await?;
            let mut server = open_asking(port, &client_config(&[])).await;
            copy_bidirectional(&mut client, &mut server.stream).await.map(drop)
        }
    })
    .await
}

async fn listening<F>(serve: impl Fn(TcpStream, [u8; 8]) -> F + Clone + Send + 'static) -> Listener
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let openings: Arc<Mutex<Vec<[u8; 8]>>> = Arc::default();
    let answer = Answer::default();
    let (seen, spoken) = (Arc::clone(&openings), Arc::clone(&answer));
    beside(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (serve, seen, spoken) = (serve.clone(), Arc::clone(&seen), Arc::clone(&spoken));
            beside(async move {
                let mut opening = [0; 8];
                if stream.read_exact(&mut opening).await.is_ok() {
                    seen.lock().unwrap().push(opening);
                    let answer = *spoken.lock().unwrap();
                    // A connection that breaks is what some tests are about.
                    drop(match answer {
                        Some(answer) => say(stream, answer).await,
                        None => serve(stream, opening).await,
                    });
                }
            });
        }
    });
    Listener { port, openings, answer }
}

/// Says this, and closes once the other side does.
async fn say(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}
