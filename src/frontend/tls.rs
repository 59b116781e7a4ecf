//! TLS with clients: the request for it, the handshake, and who is let in over what.
//!
//! As src/backend/tcop/backend_startup.c and src/backend/libpq/auth.c.

use std::io;

use bytes::BufMut;
use rustls::ServerConnection;
use tokio_rustls::TlsAcceptor;

use super::gate::Gate;
use super::peer::{ClientCertificate, Peer, TlsPeer};
use super::startup::{Arrival, StartupEnd};
use crate::backend::{Encrypted, Socket, Stream};
use crate::session::startup::Startup;
use crate::sqlstate::{Report, SqlState};
use crate::tls::{ALPN_PROTOCOL, Acceptor, TlsMode, subject_names};

/// First byte of a connection that begins with a TLS handshake. A startup packet begins with the high byte of its length: zero.
pub(super) const HANDSHAKE_RECORD: u8 = 0x16;

/// Answers SSLRequest: `S` and the handshake, or `N`. True when the connection is encrypted now.
///
/// # Errors
/// 08P01 when the client did not wait for the answer; `Silent` when the handshake failed, which TLS itself has told the client.
pub(super) async fn answer_request(arrival: &mut Arrival, gate: &Gate) -> Result<bool, StartupEnd> {
    let socket = arrival.socket.as_mut().ok_or(StartupEnd::Silent)?;
    let Some(acceptor) = acceptor_for(&arrival.peer, gate) else {
        refuse_request(socket).await?;
        return Ok(false);
    };
    judge_input(socket)?;
    socket.output.put_u8(b'S');
    socket.flush().await?;
    encrypt(arrival, &acceptor, gate).await?;
    Ok(true)
}

/// Answers a request for encryption with `N`.
///
/// # Errors
/// 08P01 when the client did not wait for the answer.
pub(super) async fn refuse_request(socket: &mut Socket) -> Result<(), StartupEnd> {
    judge_input(socket)?;
    socket.output.put_u8(b'N');
    Ok(socket.flush().await?)
}

/// What was sent after a request without waiting for the answer was not meant to be read in clear.
fn judge_input(socket: &Socket) -> Result<(), Report> {
    if socket.input.is_empty() {
        return Ok(());
    }
    let detail = "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.";
    let message = "received unencrypted data after SSL request";
    Err(Report::new(SqlState::PROTOCOL_VIOLATION, message).with_detail(detail))
}

/// Takes up the handshake of a client that has begun without asking. Its protocol must be named by ALPN, so that nobody can
/// make a client of another protocol speak to a database.
///
/// # Errors
/// `Silent`, as Postgres 17: where TLS is off, when the handshake fails or names no protocol.
pub(super) async fn accept_direct(arrival: &mut Arrival, gate: &Gate) -> Result<(), StartupEnd> {
    let acceptor = acceptor_for(&arrival.peer, gate).ok_or(StartupEnd::Silent)?;
    encrypt(arrival, &acceptor, gate).await?;
    match arrival.socket.as_ref().map(|socket| &socket.stream) {
        Some(Stream::Tls(stream)) if stream.alpn_protocol().as_deref() == Some(ALPN_PROTOCOL) => Ok(()),
        _ => {
            tracing::info!(client = %arrival.peer, "a direct TLS connection without ALPN was closed");
            Err(StartupEnd::Silent)
        }
    }
}

/// `None` where there is no TLS: when it is off, and for unix sockets.
fn acceptor_for(peer: &Peer, gate: &Gate) -> Option<Acceptor> {
    let is_possible = peer.address.is_some() && peer.tls.is_none();
    gate.served().config.tls.clients.acceptor.clone().filter(|_| is_possible)
}

/// Does the handshake; what was read already is its beginning.
async fn encrypt(arrival: &mut Arrival, acceptor: &Acceptor, gate: &Gate) -> Result<(), StartupEnd> {
    let Some(Socket { stream: Stream::Tcp(stream), input, .. }) = arrival.socket.take() else {
        return Err(StartupEnd::Silent);
    };
    let handshake = TlsAcceptor::from(acceptor.config.clone()).accept_with(stream, |session| {
        if let Err(error) = feed(session, &input) {
            // The handshake comes to the same end, after it has told the client.
            tracing::debug!(%error, "a TLS handshake began badly");
        }
    });
    let stream = match handshake.await {
        Ok(stream) => Encrypted::new(stream.into()),
        Err(error) => {
            gate.registry.process.n_tls_failures.increment();
            tracing::info!(client = %arrival.peer, %error, "a TLS handshake failed");
            return Err(StartupEnd::Silent);
        }
    };
    gate.registry.process.n_tls_handshakes.increment();
    let names = stream.peer_certificate().and_then(|leaf| subject_names(&leaf));
    arrival.peer.tls = Some(TlsPeer {
        server_end_point: acceptor.server_end_point.clone(),
        certificate: names
            .map(|names| ClientCertificate { common_name: names.common_name, distinguished_name: names.distinguished_name }),
    });
    arrival.socket = Some(Socket::new(Stream::Tls(Box::new(stream))));
    Ok(())
}

fn feed(session: &mut ServerConnection, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        session.read_tls(&mut bytes)?;
        session.process_new_packets().map_err(io::Error::other)?;
    }
    Ok(())
}

/// Refuses who came otherwise than `tls.mode` demands. Unix sockets are exempt, as they are from `hostssl` rules.
///
/// # Errors
/// 28000, in the words that Postgres has for a connection that no rule of pg_hba.conf lets in.
pub(super) fn judge(startup: &Startup, peer: &Peer, mode: TlsMode) -> Result<(), Report> {
    let Some(address) = peer.address.filter(|_| mode >= TlsMode::Require) else { return Ok(()) };
    let refused = |message| Err(Report::new(SqlState::INVALID_AUTHORIZATION, message));
    let (host, user) = (address.ip(), &startup.user);
    let Some(tls) = &peer.tls else {
        return refused(if startup.is_replication {
            format!("no pg_hba.conf entry for replication connection from host \"{host}\", user \"{user}\", no encryption")
        } else {
            let database = &startup.database;
            format!("no pg_hba.conf entry for host \"{host}\", user \"{user}\", database \"{database}\", no encryption")
        });
    };
    match &tls.certificate {
        None if mode.is_verifying() => refused("connection requires a valid client certificate".to_owned()),
        Some(certificate) if mode == TlsMode::VerifyFull && certificate.common_name.as_ref() != Some(user) => {
            refused(format!("certificate authentication failed for user \"{user}\""))
        }
        _ => Ok(()),
    }
}
