//! From an accepted socket to a session: opening packets, version, authentication, first backend.
//!
//! Order and errors as in src/backend/tcop/backend_startup.c and src/backend/libpq/auth.c.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};

use super::auth::{Identity, log_in};
use super::gate::Gate;
use super::peer::Peer;
use super::tls;
use crate::backend::Socket;
use crate::executor::{Conversation, Failure};
use crate::observe::{ClientDescription, ClientEntry, ClientState};
use crate::session::startup::{MAX_STARTUP_LEN, Opening, Startup, opening, unsupported_protocol};
use crate::session::wire::{self, Severity};
use crate::sqlstate::{Report, SqlState};

/// Bytes of a cancel key's secret, by protocol 3.0 and from 3.2 on.
const SHORT_SECRET_LEN: usize = 4;
const LONG_SECRET_LEN: usize = 32;

/// Why no session came about.
#[derive(Debug)]
pub(super) enum StartupEnd {
    /// Nothing more is said: the peer left, sent garbage, or wanted only to cancel.
    Silent,
    /// FATAL, then the socket is closed.
    Refused(Box<Report>),
    /// A server's own ErrorResponse.
    Relayed(BytesMut),
}

impl From<std::io::Error> for StartupEnd {
    fn from(_: std::io::Error) -> Self {
        Self::Silent
    }
}

impl From<Report> for StartupEnd {
    fn from(report: Report) -> Self {
        Self::Refused(Box::new(report))
    }
}

/// A connection on its way to a session. The socket is `None` once a handshake has failed with it.
#[derive(Debug)]
pub(super) struct Arrival {
    pub socket: Option<Socket>,
    pub peer: Peer,
}

/// Reads opening packets until one asks for a session; answers the others, and encrypts the connection when the client wants it.
///
/// Encryption of either kind may be asked for once: by TLS, and before or instead of that by GSSAPI, which there is none of. A
/// client may also begin with TLS itself, without asking.
///
/// Not cancel safe: the socket is to be dropped with the future.
pub(super) async fn read_startup(arrival: &mut Arrival, gate: &Gate) -> Result<Startup, StartupEnd> {
    let (mut may_ask_tls, mut may_ask_gss) = (true, true);
    if has_begun_tls(arrival).await? {
        tls::accept_direct(arrival, gate).await?;
        may_ask_gss = false;
    }
    loop {
        let socket = arrival.socket.as_mut().ok_or(StartupEnd::Silent)?;
        let packet = read_packet(socket).await?;
        match opening(&packet)? {
            Opening::Ssl if may_ask_tls => {
                let is_accepted = tls::answer_request(arrival, gate).await?;
                (may_ask_tls, may_ask_gss) = (false, may_ask_gss && !is_accepted);
            }
            Opening::GssEncryption if may_ask_gss => {
                tls::refuse_request(socket).await?;
                may_ask_gss = false;
            }
            Opening::Ssl => return Err(unsupported_protocol(1234, 5679).into()),
            Opening::GssEncryption => return Err(unsupported_protocol(1234, 5680).into()),
            Opening::Cancel { pid, secret } => {
                gate.registry.process.n_cancel_requests.increment();
                for cancel in gate.cancels.cancels(pid, &secret) {
                    cancel.send().await;
                }
                return Err(StartupEnd::Silent);
            }
            Opening::Startup(startup) => return Ok(startup),
        }
    }
}

/// Whether the client speaks TLS from its first byte on.
async fn has_begun_tls(arrival: &mut Arrival) -> Result<bool, StartupEnd> {
    let socket = arrival.socket.as_mut().ok_or(StartupEnd::Silent)?;
    while socket.input.is_empty() {
        if socket.fill().await? == 0 {
            return Err(StartupEnd::Silent);
        }
    }
    Ok(socket.input[0] == tls::HANDSHAKE_RECORD)
}

async fn read_packet(socket: &mut Socket) -> Result<BytesMut, StartupEnd> {
    loop {
        if let [a, b, c, d, ..] = socket.input[..] {
            let len = usize::try_from(i32::from_be_bytes([a, b, c, d])).unwrap_or(0);
            if !(8..=MAX_STARTUP_LEN).contains(&len) {
                // Postgres logs "invalid length of startup packet" and closes without a word.
                return Err(StartupEnd::Silent);
            }
            if socket.input.len() >= len {
                let mut packet = socket.input.split_to(len);
                packet.advance(4);
                return Ok(packet);
            }
        }
        if socket.fill().await? == 0 {
            return Err(StartupEnd::Silent);
        }
    }
}

/// Tells the client the version and options that are not known here, if there are any.
fn negotiate(startup: &Startup, output: &mut BytesMut) {
    if !startup.is_newer && startup.unknown_options.is_empty() {
        return;
    }
    wire::message(output, b'v', |b| {
        b.put_u32((3 << 16) | u32::from(startup.minor));
        b.put_u32(u32::try_from(startup.unknown_options.len()).unwrap_or(u32::MAX));
        for name in &startup.unknown_options {
            b.put_slice(name.as_bytes());
            b.put_u8(0);
        }
    });
}

/// Authenticates the client.
pub(super) async fn authenticate(
    socket: &mut Socket,
    startup: &Startup,
    peer: &Peer,
    gate: &Gate,
) -> Result<Identity, StartupEnd> {
    tls::judge(startup, peer, gate.served().config.tls.clients.mode)?;
    if startup.is_replication {
        return Err(Report::new(SqlState::FEATURE_NOT_SUPPORTED, "replication connections are not supported").into());
    }
    negotiate(startup, &mut socket.output);
    log_in(socket, startup, peer, gate).await
}

/// Told after authentication, as by Postgres.
pub(super) fn unknown_database(name: &str) -> Report {
    Report::new(SqlState::INVALID_CATALOG_NAME, format!("database \"{name}\" does not exist"))
}

/// Makes the session of an authenticated client and tells it parameters, cancel key and readiness.
///
/// On success the answer is in the client's output.
pub(super) async fn open_session(
    socket: Socket,
    startup: &Startup,
    identity: Identity,
    gate: &Gate,
    entry: Arc<ClientEntry>,
) -> Result<Conversation, (Socket, StartupEnd)> {
    let Some(database) = gate.served().databases.get(&startup.database).cloned() else {
        return Err((socket, unknown_database(&startup.database).into()));
    };
    if let Some(fault) = &startup.fault {
        return Err((socket, StartupEnd::Refused(fault.clone())));
    }
    let pools = database.pools.of_user(&identity.credentials);
    let mut conversation = Conversation::new(socket, database, pools, entry, startup.session_settings());
    if let Err(failure) = conversation.open().await {
        let end = match failure {
            Failure::Statement { report, .. } | Failure::Fatal(report) => StartupEnd::Refused(report),
            Failure::Shard(message) => StartupEnd::Relayed(message),
            Failure::Reported | Failure::StalePlan | Failure::Ended | Failure::Client(_) => StartupEnd::Silent,
        };
        conversation.close().await;
        return Err((conversation.client, end));
    }
    conversation.process_id = give_cancel_key(&mut conversation, startup.minor, gate);
    wire::ready_for_query(&mut conversation.client.output, b'I');
    conversation.entry.enter(ClientState::Idle);
    Ok(conversation)
}

fn give_cancel_key(conversation: &mut Conversation, minor: u16, gate: &Gate) -> i32 {
    let secret_len = if minor >= 2 { LONG_SECRET_LEN } else { SHORT_SECRET_LEN };
    let mut random = [0; 4 + LONG_SECRET_LEN];
    loop {
        if rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).is_err() {
            // A key that can be guessed is worse than none: the client gets no BackendKeyData.
            return 0;
        }
        let (pid, secret) = random.split_at(4);
        let process_id = i32::from_be_bytes([pid[0] & 0x7f, pid[1], pid[2], pid[3]]).max(1);
        let secret = &secret[..secret_len];
        if gate.cancels.register(process_id, secret, Arc::clone(&conversation.cancel)) {
            wire::message(&mut conversation.client.output, b'K', |b| {
                b.put_i32(process_id);
                b.put_slice(secret);
            });
            return process_id;
        }
    }
}

/// Registers the client under what its startup packet says.
pub(super) fn register(startup: &Startup, socket: &Socket, peer: &Peer, gate: &Gate) -> Arc<ClientEntry> {
    gate.registry.add_client(ClientDescription {
        database: startup.database.clone(),
        user: startup.user.clone(),
        address: peer.address,
        application_name: startup.settings.get("application_name").cloned().unwrap_or_default(),
        tls: socket.stream.tls_description().unwrap_or_default(),
    })
}

/// Says FATAL as far as the socket still takes it.
pub(super) async fn say_end(socket: &mut Socket, end: StartupEnd) {
    match end {
        StartupEnd::Silent => return,
        StartupEnd::Refused(report) => wire::report(&mut socket.output, Severity::Fatal, &report),
        StartupEnd::Relayed(message) => {
            wire::fatal_report(&mut socket.output, message.get(wire::HEADER_LEN..).unwrap_or_default());
        }
    }
    // The peer may be gone.
    drop(socket.flush().await);
}
