//! The shell around the state machine: reads and writes the messages, stretches passwords, counts failures.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::rules::rule_for;
use super::{AuthInput, AuthStep, Authenticator, Expected, Identity, Login, salting_of};
use crate::backend::{Socket, stretch};
use crate::config::{AuthConfig, AuthMethod, AuthRule, UserConfig, UserSecret};
use crate::frontend::gate::{Gate, Served};
use crate::frontend::peer::Peer;
use crate::frontend::startup::{StartupEnd, unknown_database};
use crate::observe::ProcessCounters;
use crate::session::scram::Verifier;
use crate::session::startup::Startup;
use crate::session::wire;
use crate::sqlstate::{Report, SqlState};

/// Longest message with a password: PG_MAX_AUTH_TOKEN_LENGTH in src/backend/libpq/auth.c.
const MAX_PASSWORD_MESSAGE_LEN: usize = 65_535;

/// Longest message of SASL: PG_MAX_SASL_MESSAGE_LENGTH in src/backend/libpq/auth-sasl.c.
const MAX_SASL_MESSAGE_LEN: usize = 1_024;

/// Authenticates a client by the first rule that fits it.
///
/// Not cancel safe: the socket is to be dropped with the future.
pub(in crate::frontend) async fn log_in(
    socket: &mut Socket,
    startup: &Startup,
    peer: &Peer,
    gate: &Gate,
) -> Result<Identity, StartupEnd> {
    let served = gate.served();
    let config = &served.config;
    let rule = rule_for(&config.auth, &startup.database, &startup.user, peer)?;
    let address = peer.address.map(|address| address.ip());
    let limit = &config.auth.failures;
    if rule.method.takes_password() {
        let admission = gate.failed_logins.admit(address, &startup.user, limit, Instant::now());
        admission.inspect_err(|_| gate.registry.process.n_logins_limited.increment())?;
    }
    let known = known_user(&served, rule, startup, &gate.registry.process).await?;
    let login = Login { user: &startup.user, peer, rule, known, unknown_by_md5: is_unknown_by_md5(&config.auth, rule) };
    let outcome = converse(socket, Authenticator::begin(login)).await;
    match &outcome {
        Ok(_) if rule.method.takes_password() => gate.failed_logins.clear(address, &startup.user),
        Err(StartupEnd::Refused(report)) if report.sqlstate == SqlState::INVALID_PASSWORD => {
            gate.failed_logins.count(address, &startup.user, limit, Instant::now());
            tracing::info!(user = startup.user, database = startup.database, %peer, "a login failed: {}", report.message);
        }
        _ => {}
    }
    outcome
}

/// What is known of the user: from the users file, else from the database's server.
async fn known_user(
    served: &Served,
    rule: &AuthRule,
    startup: &Startup,
    counters: &ProcessCounters,
) -> Result<Option<Arc<UserConfig>>, Report> {
    let auth = &served.config.auth;
    let known = auth.users.get(&startup.user).cloned();
    if known.is_some() || auth.query.is_none() || !rule.method.takes_password() {
        return Ok(known);
    }
    match served.lookups.get(&startup.database) {
        Some(lookup) => lookup.find(&startup.user, counters).await,
        // Nobody can be asked who the user is.
        None => Err(unknown_database(&startup.database)),
    }
}

/// Whether those who are known would be asked for MD5: at least one of them.
fn is_unknown_by_md5(auth: &AuthConfig, rule: &AuthRule) -> bool {
    let has_no_scram_secret = |user: &Arc<UserConfig>| matches!(user.secret, UserSecret::Password(_) | UserSecret::Md5(_));
    rule.method == AuthMethod::Md5 && auth.users.values().any(has_no_scram_secret)
}

async fn converse(socket: &mut Socket, mut authenticator: Authenticator) -> Result<Identity, StartupEnd> {
    let mut step = authenticator.step(AuthInput::Begin);
    loop {
        step = match step {
            AuthStep::Send(bytes) => {
                socket.output.extend_from_slice(&bytes);
                socket.flush().await?;
                match read_message(socket, authenticator.expected()).await? {
                    Some(payload) => authenticator.step(AuthInput::Message(&payload)),
                    None => AuthStep::Fail(authenticator.wrong_password()),
                }
            }
            AuthStep::Stretch { salting, password } => match stretch(salting, password).await {
                Some(salted) => authenticator.step(AuthInput::Stretched(salted)),
                None => return Err(StartupEnd::Silent),
            },
            AuthStep::Done { send, identity } => {
                socket.output.extend_from_slice(&send);
                return Ok(identity);
            }
            AuthStep::Fail(report) => return Err(report.into()),
        };
    }
}

/// The payload of the next message of type `p`; `None` for one that is too long for SASL, which Postgres calls a wrong password.
async fn read_message(socket: &mut Socket, expected: Expected) -> Result<Option<BytesMut>, StartupEnd> {
    let (max_len, noun) = match expected {
        Expected::Password => (MAX_PASSWORD_MESSAGE_LEN, "password"),
        Expected::Sasl => (MAX_SASL_MESSAGE_LEN, "SASL"),
    };
    loop {
        if let Some(header) = wire::header(&socket.input).map_err(|_| StartupEnd::Silent)? {
            if header.tag != b'p' {
                let message = format!("expected {noun} response, got message type {}", header.tag);
                return Err(Report::new(SqlState::PROTOCOL_VIOLATION, message).into());
            }
            if header.len > max_len + 1 {
                return if expected == Expected::Sasl { Ok(None) } else { Err(StartupEnd::Silent) };
            }
            if socket.input.len() >= header.len {
                let mut message = socket.input.split_to(header.len);
                message.advance(wire::HEADER_LEN);
                return Ok(Some(message));
            }
        }
        if socket.fill().await? == 0 {
            return Err(StartupEnd::Silent);
        }
    }
}

/// Derives the verifiers of all plain passwords before their users come, so that no first login takes longer than others.
///
/// Cancel safe.
pub async fn derive_ahead(auth: &AuthConfig) {
    for (name, user) in &auth.users {
        if let UserSecret::Password(password) = &user.secret
            && user.verifier().is_none()
        {
            let salting = salting_of(name);
            let Some(salted) = stretch(salting.clone(), password.clone().into_bytes()).await else { return };
            user.remember(Verifier::of_salted(salting, &salted));
        }
    }
}
