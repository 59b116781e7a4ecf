//! Startup of a console connection.

use std::io;
use std::net::SocketAddr;

use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};

use super::AdminState;
use super::console::send_fatal;
use super::wire::{Fields, Incoming, Wire};
use crate::sqlstate::{Report, SqlState};

/// Request codes in place of a protocol version: src/include/libpq/pqcomm.h.
const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSS_ENC_REQUEST: i32 = 80_877_104;

/// The newest minor version of protocol 3 that the console speaks.
const NEWEST_MINOR: i32 = 2;

/// Told to drivers. Those that look only want to see a number that they know.
const PARAMETERS: [(&str, &str); 7] = [
    ("server_version", concat!("15.0 (Trunkline ", env!("CARGO_PKG_VERSION"), ")")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
];

/// Takes a client from its first packet to ReadyForQuery. False when it was turned away or left.
pub(super) async fn log_in(wire: &mut Wire, peer: SocketAddr, state: &AdminState) -> io::Result<bool> {
    // One refused SSLRequest and one refused GSSENCRequest may come before the startup packet.
    for _ in 0..3 {
        let body = match wire.read_startup().await? {
            Incoming::Message(_, body) => body,
            Incoming::Malformed(fault) => {
                send_fatal(wire, &Report::new(SqlState::PROTOCOL_VIOLATION, fault)).await?;
                return Ok(false);
            }
            Incoming::Closed => return Ok(false),
        };
        let mut fields = Fields(&body);
        match fields.int32() {
            Some(SSL_REQUEST | GSS_ENC_REQUEST) => {
                wire.push_byte(b'N');
                wire.flush().await?;
            }
            Some(CANCEL_REQUEST) | None => return Ok(false),
            Some(version) => {
                return match check(version, &mut fields, peer, state) {
                    Ok(unknown) => welcome(wire, version, unknown).await.map(|()| true),
                    Err(report) => send_fatal(wire, &report).await.map(|()| false),
                };
            }
        }
    }
    Ok(false)
}

/// Returns the protocol options that the console does not know.
fn check(version: i32, fields: &mut Fields<'_>, peer: SocketAddr, state: &AdminState) -> Result<Vec<String>, Report> {
    if version >> 16 != 3 {
        let told = format!("unsupported frontend protocol {}.{}: server supports 3.0 to 3.2", version >> 16, version & 0xffff);
        return Err(Report::new(SqlState::FEATURE_NOT_SUPPORTED, told));
    }
    let (mut user, mut unknown) = (None, Vec::new());
    loop {
        match fields.text() {
            Some("") => break,
            Some("user") => user = fields.text(),
            Some(name) => {
                let value = fields.text();
                if value.is_some() && name.starts_with("_pq_.") {
                    unknown.push(name.to_owned());
                }
            }
            None => {
                return Err(Report::new(SqlState::PROTOCOL_VIOLATION, "invalid startup packet layout"));
            }
        }
    }
    let Some(user) = user.filter(|user| !user.is_empty()) else {
        return Err(Report::new(SqlState::INVALID_AUTHORIZATION, "no user name specified in startup packet"));
    };
    if !state.current().config.admin.users.iter().any(|known| known == user) {
        return Err(Report::new(SqlState::INVALID_AUTHORIZATION, format!("user \"{user}\" may not use the admin console"))
            .with_hint("The users of the console are those of admin.users in the configuration."));
    }
    if !peer.ip().to_canonical().is_loopback() {
        return Err(Report::new(SqlState::INVALID_AUTHORIZATION, "the admin console takes no connection from another machine")
            .with_hint("The console asks for no password, so it must be reached through this machine's loopback address."));
    }
    Ok(unknown)
}

async fn welcome(wire: &mut Wire, version: i32, unknown: Vec<String>) -> io::Result<()> {
    if version & 0xffff > NEWEST_MINOR || !unknown.is_empty() {
        let newest = (version & 0xffff).min(NEWEST_MINOR);
        wire.push(&NegotiateProtocolVersion::new((3 << 16) | newest, unknown))?;
    }
    wire.push(&Authentication::Ok)?;
    for (name, value) in PARAMETERS {
        wire.push(&ParameterStatus::new(name.to_owned(), value.to_owned()))?;
    }
    // Nothing here can be cancelled, so the key opens nothing.
    wire.push(&BackendKeyData::new(0, SecretKey::I32(0)))?;
    wire.push(&ReadyForQuery::new(TransactionStatus::Idle))?;
    wire.flush().await
}
