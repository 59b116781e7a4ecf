//! Client authentication as a state machine without sockets and without a clock, one file for each kind of exchange.
//!
//! What a client sees, its order, words and SQLSTATEs, follows src/backend/libpq/auth.c and auth-scram.c of Postgres.

mod failures;
mod login;
mod lookup;
mod password;
mod rules;
mod scram;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::startup::Authentication;

use super::peer::{ClientCertificate, Peer};
use crate::backend::{Credentials, Password, Secret};
use crate::config::{AuthMethod, AuthRule, UserConfig, UserSecret};
use crate::session::scram::{ClientKeys, DEFAULT_ITERATIONS, Key, Salting, Verifier, hmac};
use crate::sqlstate::{Report, SqlState};

pub use failures::FailedLogins;
pub use login::derive_ahead;
pub(super) use login::log_in;
pub use lookup::{Lookups, UserLookup, lookups};
use password::PasswordLogin;
use scram::ScramLogin;

/// Who a client is, and as whom it comes to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub credentials: Credentials,
}

/// What an authentication starts from.
#[derive(Debug)]
pub struct Login<'a> {
    pub user: &'a str,
    pub peer: &'a Peer,
    pub rule: &'a AuthRule,
    /// What is known of the user; `None` for one that does not exist, who sees the same exchange.
    pub known: Option<Arc<UserConfig>>,
    /// Under method `md5`: whether a user that does not exist is asked for MD5, as those that do are.
    pub unknown_by_md5: bool,
}

/// What [`Authenticator::step`] is given.
#[derive(Debug)]
pub enum AuthInput<'a> {
    Begin,
    /// The payload of the client's next message of type `p`, which follows its length word.
    Message(&'a [u8]),
    /// What [`AuthStep::Stretch`] asked for.
    Stretched(Key),
}

/// What to do after a step.
#[derive(Debug)]
pub enum AuthStep {
    /// Send these messages, and give the client's next one to [`Authenticator::step`].
    Send(BytesMut),
    /// Compute this, which takes about a millisecond, beside the runtime.
    Stretch { salting: Salting, password: Vec<u8> },
    /// Send these messages, of which the last is AuthenticationOk: the client is who it says.
    Done { send: BytesMut, identity: Identity },
    /// Send this with severity FATAL and close.
    Fail(Report),
}

/// What kind of message the client is to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Password,
    Sasl,
}

/// One client's authentication, from after its StartupMessage until AuthenticationOk.
#[derive(Debug)]
pub struct Authenticator {
    user: String,
    known: Option<Arc<UserConfig>>,
    exchange: Exchange,
}

#[derive(Debug)]
enum Exchange {
    Trust,
    Certificate(Result<(), Report>),
    Scram(Box<ScramLogin>),
    Password(PasswordLogin),
    Over,
}

/// What an exchange wants next.
enum Turn<E> {
    Send(Authentication, E),
    Stretch(Salting, Vec<u8>, E),
    Proven(Option<Authentication>, Proof),
}

/// What a client's proof has told of its password.
enum Proof {
    Nothing,
    Keys(ClientKeys),
    Password(String),
}

/// Salts of plain passwords and of unknown users follow from this and the user's name: they stay the same from login to
/// login, and nothing in them says which users exist. It must not follow from the users file, because salts are told to
/// anyone: whoever could compute one would try passwords against it.
static SALT_KEY: LazyLock<String> = LazyLock::new(pgwire::api::auth::sasl::scram::random_nonce);

/// Postgres's own length: src/include/common/scram-common.h, SCRAM_DEFAULT_SALT_LEN.
const SALT_LENGTH: usize = 16;

impl Authenticator {
    /// Starts the authentication of a client that says it is `login.user`. The rule fits it.
    ///
    /// A user that is not known sees the same exchange as one that is, and fails at its end.
    pub fn begin(login: Login<'_>) -> Self {
        let Login { user, peer, rule, known, unknown_by_md5 } = login;
        let has_scram_secret = match &known {
            Some(known) => matches!(known.secret, UserSecret::Scram(_) | UserSecret::None),
            None => !unknown_by_md5,
        };
        let exchange = match rule.method {
            AuthMethod::Trust => Exchange::Trust,
            AuthMethod::Cert => Exchange::Certificate(judge_certificate(user, peer, rule)),
            AuthMethod::Plain => Exchange::Password(PasswordLogin::plain()),
            AuthMethod::Md5 if !has_scram_secret => Exchange::Password(PasswordLogin::md5()),
            AuthMethod::ScramSha256 | AuthMethod::Md5 => {
                let end_point = peer.tls.as_ref().map(|tls| tls.server_end_point.clone()).filter(|hash| !hash.is_empty());
                Exchange::Scram(Box::new(ScramLogin::new(end_point)))
            }
            AuthMethod::Reject => Exchange::Over,
        };
        Self { user: user.to_owned(), known, exchange }
    }

    /// Goes one step, first with `Begin`.
    ///
    /// # Errors
    /// `Fail` carries 28P01 for a wrong password or an unknown user, 28000 for a wrong certificate and wrong channel binding,
    /// 08P01 for a malformed message, 0A000 for an authorization identity or extension of SCRAM.
    pub fn step(&mut self, input: AuthInput<'_>) -> AuthStep {
        let subject = Subject { user: &self.user, known: self.known.as_deref() };
        let turn = match (std::mem::replace(&mut self.exchange, Exchange::Over), input) {
            (Exchange::Trust, AuthInput::Begin) => Ok(Turn::Proven(None, Proof::Nothing)),
            (Exchange::Certificate(verdict), AuthInput::Begin) => verdict.map(|()| Turn::Proven(None, Proof::Nothing)),
            (Exchange::Scram(login), input) => login.step(&subject, input).map(|turn| turn.then(Exchange::Scram)),
            (Exchange::Password(login), input) => login.step(&subject, input).map(|turn| turn.then(Exchange::Password)),
            (_, _) => Err(Report::new(SqlState::PROTOCOL_VIOLATION, "unexpected message in authentication")),
        };
        match turn {
            Ok(Turn::Send(message, exchange)) => {
                self.exchange = exchange;
                encoded(&[message]).map_or_else(AuthStep::Fail, AuthStep::Send)
            }
            Ok(Turn::Stretch(salting, password, exchange)) => {
                self.exchange = exchange;
                AuthStep::Stretch { salting, password }
            }
            Ok(Turn::Proven(last_word, proof)) => self.done(last_word, proof),
            Err(report) => AuthStep::Fail(report),
        }
    }

    /// What the client is to send, once a step said `Send`.
    pub fn expected(&self) -> Expected {
        if matches!(self.exchange, Exchange::Scram(_)) { Expected::Sasl } else { Expected::Password }
    }

    /// What a client is told that cannot be who it says.
    fn wrong_password(&self) -> Report {
        Subject { user: &self.user, known: None }.wrong_password()
    }

    fn done(&self, last_word: Option<Authentication>, proof: Proof) -> AuthStep {
        let messages: Vec<_> = last_word.into_iter().chain([Authentication::Ok]).collect();
        let identity =
            Identity { user: self.user.clone(), credentials: credentials_of(&self.user, self.known.as_deref(), proof) };
        encoded(&messages).map_or_else(AuthStep::Fail, |send| AuthStep::Done { send, identity })
    }
}

impl<E> Turn<E> {
    fn then<T>(self, wrap: impl FnOnce(E) -> T) -> Turn<T> {
        match self {
            Self::Send(message, exchange) => Turn::Send(message, wrap(exchange)),
            Self::Stretch(salting, password, exchange) => Turn::Stretch(salting, password, wrap(exchange)),
            Self::Proven(last_word, proof) => Turn::Proven(last_word, proof),
        }
    }
}

/// Who is to be proved.
struct Subject<'a> {
    user: &'a str,
    known: Option<&'a UserConfig>,
}

impl Subject<'_> {
    /// As src/backend/libpq/auth.c, `auth_failed`: the same for a wrong password and an unknown user.
    fn wrong_password(&self) -> Report {
        Report::new(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{}\"", self.user))
    }

    /// How the password is stretched, as far as anybody may know: an unknown user has a salt like the others.
    fn salting(&self) -> Salting {
        self.known.and_then(UserConfig::verifier).map_or_else(|| salting_of(self.user), |verifier| verifier.salting.clone())
    }
}

/// As whom an authenticated client comes to the servers.
fn credentials_of(user: &str, known: Option<&UserConfig>, proof: Proof) -> Credentials {
    let backend_user = known.and_then(|known| known.backend_user.clone()).unwrap_or_else(|| user.to_owned());
    let password = |text: &String| Secret::Password(Password::new(text.clone()));
    let secret = match (known.and_then(|known| known.backend_password.as_ref()), known.map(|known| &known.secret), proof) {
        (Some(given), _, _) => password(given),
        // Another user's servers would not take this user's password.
        _ if backend_user != user => Secret::None,
        (None, Some(UserSecret::Password(own)), _) => password(own),
        (None, _, Proof::Password(own)) => password(&own),
        (None, _, Proof::Keys(keys)) => Secret::Scram(Arc::new(keys)),
        (None, Some(UserSecret::Md5(stored)), Proof::Nothing) => Secret::Md5(stored.clone()),
        (None, _, Proof::Nothing) => Secret::None,
    };
    Credentials { user: backend_user, secret }
}

/// As src/backend/libpq/auth.c, `ClientAuthentication` and `CheckCertAuth`.
fn judge_certificate(user: &str, peer: &Peer, rule: &AuthRule) -> Result<(), Report> {
    let certificate = peer.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
    let certificate = certificate
        .ok_or_else(|| Report::new(SqlState::INVALID_AUTHORIZATION, "connection requires a valid client certificate"))?;
    if may_log_in(certificate, user, rule) {
        return Ok(());
    }
    Err(Report::new(SqlState::INVALID_AUTHORIZATION, format!("certificate authentication failed for user \"{user}\"")))
}

fn may_log_in(certificate: &ClientCertificate, user: &str, rule: &AuthRule) -> bool {
    let Some(common_name) = &certificate.common_name else { return false };
    match &rule.map {
        None => common_name == user,
        Some(map) => map.get(common_name).is_some_and(|users| users.iter().any(|allowed| allowed == user)),
    }
}

/// The salting of a user whose secret is not stretched yet, or who does not exist.
fn salting_of(user: &str) -> Salting {
    let salt = hmac(SALT_KEY.as_bytes(), user.as_bytes())[..SALT_LENGTH].to_vec();
    Salting { salt, iterations: DEFAULT_ITERATIONS }
}

/// A verifier that no password fits: its keys are drawn, not derived, so a proof would be a preimage of SHA-256.
fn unknown_verifier(salting: Salting) -> Verifier {
    let key = hmac(SALT_KEY.as_bytes(), pgwire::api::auth::sasl::scram::random_nonce().as_bytes());
    Verifier { salting, stored_key: key, server_key: key }
}

fn violation(message: impl Into<String>) -> Report {
    Report::new(SqlState::PROTOCOL_VIOLATION, message)
}

/// The messages' bytes. Fails where a client's nonce, which is sent back, makes one longer than pgwire sends.
fn encoded(messages: &[Authentication]) -> Result<BytesMut, Report> {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.encode(&mut bytes).map_err(|_| violation("malformed SCRAM message"))?;
    }
    Ok(bytes)
}
