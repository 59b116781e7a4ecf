//! Opening a connection to a server: startup, authentication, parameters.
//!
//! Manual: "Message Flow", start-up. SCRAM is in [`super::scram`].

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::scram::scram;
use super::secure::secure;
use super::{Credentials, Secret, Socket, Stream};
use crate::session::md5::Md5Secret;
use crate::session::wire::{self, BodyReader};
use crate::sqlstate::{Report, SqlState};
use crate::tls::Connector;
use crate::topology::NodeAddress;

/// Longest message a server may send before it is ready.
const MAX_LOGIN_MESSAGE: usize = 64 * 1024;

/// Why a server connection did not come about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error("{0}")]
    Io(String),
    #[error("timed out")]
    Timeout,
    /// The server's own words.
    #[error("{}", .0.message)]
    Server(Report),
    #[error("{0}")]
    Protocol(&'static str),
    /// The handshake failed, or the server's certificate is not believed.
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    #[error("the server asks for a password and none is configured for user \"{0}\"")]
    NoPassword(String),
    #[error("the server's SCRAM secret of user \"{0}\" is not the one by which the client logged in")]
    OtherSecret(String),
}

impl ConnectError {
    /// Whether the node is to blame, and not the user that logs in or the number of its connections.
    pub fn is_evidence_against_node(&self) -> bool {
        match self {
            Self::Io(_) | Self::Timeout | Self::Protocol(_) | Self::Tls(_) => true,
            Self::Server(report) => report.sqlstate.0.starts_with(b"57P"),
            Self::NoPassword(_) | Self::OtherSecret(_) => false,
        }
    }

    /// Whether the server lives and has no connection left.
    pub(super) fn is_server_full(&self) -> bool {
        matches!(self, Self::Server(report) if report.sqlstate == SqlState::TOO_MANY_CONNECTIONS)
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// A connection that is ready for its first statement.
#[derive(Debug)]
pub(super) struct Opened {
    pub socket: Socket,
    pub process_id: i32,
    pub secret: Bytes,
    pub parameters: BTreeMap<String, String>,
}

/// Where a connection goes, and how.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub address: NodeAddress,
    pub dbname: String,
    pub tls: Connector,
}

/// Connects, encrypted if both sides want it, and logs in.
///
/// Cancel safe: dropping the future closes the socket.
pub(super) async fn open(endpoint: &Endpoint, credentials: &Credentials) -> Result<Opened, ConnectError> {
    let stream = Stream::connect(&endpoint.address).await?;
    let socket = Socket::new(secure(stream, &endpoint.address.host, &endpoint.tls).await?);
    let mut opened = Opened { socket, process_id: 0, secret: Bytes::new(), parameters: BTreeMap::new() };
    startup(&mut opened.socket.output, &endpoint.dbname, &credentials.user);
    opened.socket.flush().await?;
    authenticate(&mut opened.socket, credentials).await?;
    loop {
        let (tag, body) = next_message(&mut opened.socket).await?;
        match tag {
            b'S' => drop(parameter_status(&body).map(|(name, value)| opened.parameters.insert(name, value))),
            b'K' => {
                let mut reader = BodyReader(&body);
                opened.process_id = reader.i32().ok_or(ConnectError::Protocol("malformed BackendKeyData"))?;
                opened.secret = Bytes::copy_from_slice(reader.0);
            }
            b'Z' => return Ok(opened),
            b'E' => return Err(ConnectError::Server(server_report(&body))),
            b'N' => {}
            _ => return Err(ConnectError::Protocol("unexpected message during start-up")),
        }
    }
}

fn startup(buffer: &mut BytesMut, dbname: &str, user: &str) {
    let mut body = BytesMut::new();
    body.put_i32(196_608);
    // No application_name: what a client does not give is empty, as on a server of its own.
    for text in ["user", user, "database", dbname] {
        body.put_slice(text.as_bytes());
        body.put_u8(0);
    }
    body.put_u8(0);
    buffer.put_i32(i32::try_from(body.len() + 4).unwrap_or(i32::MAX));
    buffer.put_slice(&body);
}

async fn authenticate(socket: &mut Socket, credentials: &Credentials) -> Result<(), ConnectError> {
    let no_password = || ConnectError::NoPassword(credentials.user.clone());
    loop {
        let (tag, body) = next_message(socket).await?;
        match tag {
            b'E' => return Err(ConnectError::Server(server_report(&body))),
            b'N' | b'v' => continue,
            b'R' => {}
            _ => return Err(ConnectError::Protocol("unexpected message during authentication")),
        }
        let mut reader = BodyReader(&body);
        match reader.i32() {
            Some(0) => return Ok(()),
            Some(3) => {
                let Secret::Password(password) = &credentials.secret else { return Err(no_password()) };
                password_message(&mut socket.output, password.text().as_bytes());
            }
            Some(5) => {
                let salt = reader.bytes(4).and_then(|b| <[u8; 4]>::try_from(b).ok());
                let salt = salt.ok_or(ConnectError::Protocol("malformed salt"))?;
                let secret = match &credentials.secret {
                    Secret::Password(password) => Md5Secret::of_password(password.text().as_bytes(), &credentials.user),
                    Secret::Md5(secret) => secret.clone(),
                    Secret::None | Secret::Scram(_) => return Err(no_password()),
                };
                password_message(&mut socket.output, secret.answer(salt).as_bytes());
            }
            Some(10) => scram(socket, reader, credentials).await?,
            _ => return Err(ConnectError::Protocol("the server asks for an authentication method that is not supported")),
        }
        socket.flush().await?;
    }
}

fn password_message(buffer: &mut BytesMut, secret: &[u8]) {
    wire::message(buffer, b'p', |b| {
        b.put_slice(secret);
        b.put_u8(0);
    });
}

pub(super) async fn next_message(socket: &mut Socket) -> Result<(u8, Bytes), ConnectError> {
    loop {
        if let Some(header) = wire::header(&socket.input).map_err(|_| ConnectError::Protocol("malformed message"))? {
            if header.len > MAX_LOGIN_MESSAGE {
                return Err(ConnectError::Protocol("message too long during start-up"));
            }
            if socket.input.len() >= header.len {
                let mut message = socket.input.split_to(header.len).freeze();
                message.advance(wire::HEADER_LEN);
                return Ok((header.tag, message));
            }
        }
        if socket.fill().await? == 0 {
            return Err(ConnectError::Io("server closed the connection unexpectedly".to_owned()));
        }
    }
}

/// Name and value of a ParameterStatus body.
pub fn parameter_status(body: &[u8]) -> Option<(String, String)> {
    let mut reader = BodyReader(body);
    let mut text = || reader.c_string().map(|b| String::from_utf8_lossy(b).into_owned());
    Some((text()?, text()?))
}

/// An ErrorResponse's body as a report.
pub fn server_report(body: &[u8]) -> Report {
    let text = |code| wire::report_field(body, code).map(|b| String::from_utf8_lossy(b).into_owned());
    let sqlstate = wire::report_field(body, b'C').and_then(|code| <[u8; 5]>::try_from(code).ok());
    Report {
        detail: text(b'D'),
        hint: text(b'H'),
        ..Report::new(sqlstate.map_or(SqlState::INTERNAL_ERROR, SqlState), text(b'M').unwrap_or_default())
    }
}
