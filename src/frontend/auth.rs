//! Client authentication: trust and SCRAM-SHA-256 (RFC 5802, RFC 7677) as a state machine without sockets.
//!
//! The arithmetic of SCRAM is pgwire's. What a client sees of a malformed exchange follows src/backend/libpq/auth-sasl.c and
//! auth-scram.c of Postgres: its words and its SQLSTATEs.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use pgwire::api::auth::sasl::SCRAM_SHA_256_METHOD;
use pgwire::api::auth::sasl::scram::{
    SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, ScramServerAuthWaitingForClientFinal, gen_salted_password, random_nonce,
};
use pgwire::error::PgWireError;
use pgwire::messages::Message;
use pgwire::messages::startup::Authentication;

use crate::config::{AuthConfig, AuthMethod, ScramVerifier, UserConfig, UserSecret};
use crate::sqlstate::{Report, SqlState};

/// Who a client is, and as whom it comes to the servers.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub backend_user: String,
    /// None: the servers must let the user in without one.
    pub backend_password: Option<String>,
}

/// What to do after a step.
#[derive(Debug)]
pub enum AuthStep {
    /// Send these messages, and give the payload of the client's next message of type `p` to [`Authenticator::step`].
    Send(BytesMut),
    /// Send these messages, of which the last is AuthenticationOk: the client is who it says.
    Done { send: BytesMut, identity: Identity },
    /// Send this with severity FATAL and close.
    Fail(Report),
}

/// One client's authentication, from after its StartupMessage until AuthenticationOk.
#[derive(Debug)]
pub struct Authenticator {
    identity: Identity,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing to prove.
    Trusted,
    /// The mechanisms are not offered yet.
    Unoffered(Proof),
    /// Waiting for SASLInitialResponse.
    Offered(Proof),
    /// The client chose the mechanism without a first message of its own, and was asked for it.
    Chosen(Proof),
    /// Waiting for client-final-message.
    Challenged(Box<ScramServerAuthWaitingForClientFinal>),
    Over,
}

/// What the client's password is held against.
#[derive(Debug)]
struct Proof(ScramSecret);

/// Salts of plain passwords and of unknown users follow from this and the user's name: they stay the same from login to
/// login, and nothing in them says which users exist. It must not follow from the users file, because salts are told to
/// anyone: whoever could compute one would try passwords against it.
static SALT_KEY: LazyLock<String> = LazyLock::new(random_nonce);

/// Postgres's own length: src/include/common/scram-common.h, SCRAM_DEFAULT_SALT_LEN.
const SALT_LENGTH: usize = 16;

impl Authenticator {
    /// Starts the authentication of a client that says it is `user`.
    ///
    /// A user that is not in the users file sees the same exchange under SCRAM, and fails at its end. A plain password is
    /// stretched at its user's first login: about a millisecond of work.
    pub fn begin(user: &str, config: &AuthConfig) -> Self {
        let known = config.users.get(user);
        let phase = match config.method {
            AuthMethod::Trust => Phase::Trusted,
            AuthMethod::ScramSha256 => {
                let verifier = known.and_then(|known| known.verifier(|| salt_of(user))).cloned();
                Phase::Unoffered(Proof::from(verifier.unwrap_or_else(|| unknown_verifier(user))))
            }
        };
        Self { identity: identity_of(user, known), phase }
    }

    /// Goes one step: first with `None`, then with the payload of each `p` message, which follows its length word.
    ///
    /// # Errors
    /// `Fail` carries 28P01 for a wrong password or an unknown user, 08P01 for a message that is no SCRAM, 0A000 for an
    /// authorization identity or extension of SCRAM.
    pub fn step(&mut self, payload: Option<&[u8]>) -> AuthStep {
        let outcome = match (std::mem::replace(&mut self.phase, Phase::Over), payload) {
            (Phase::Trusted, None) => self.done(None),
            (Phase::Unoffered(proof), None) => self.offer(proof),
            (Phase::Offered(proof), Some(payload)) => self.on_initial(proof, payload),
            (Phase::Chosen(proof), Some(payload)) => self.on_client_first(proof, payload),
            (Phase::Challenged(challenge), Some(payload)) => self.on_client_final(&challenge, payload),
            (_, _) => Err(Report::new(SqlState::PROTOCOL_VIOLATION, "unexpected message in authentication")),
        };
        outcome.unwrap_or_else(AuthStep::Fail)
    }

    fn offer(&mut self, proof: Proof) -> Result<AuthStep, Report> {
        self.phase = Phase::Offered(proof);
        Ok(AuthStep::Send(encoded(&[Authentication::SASL(vec![SCRAM_SHA_256_METHOD.to_owned()])])?))
    }

    fn on_initial(&mut self, proof: Proof, payload: &[u8]) -> Result<AuthStep, Report> {
        let initial = SaslInitial::decode(payload)?;
        if initial.mechanism != SCRAM_SHA_256_METHOD.as_bytes() {
            return Err(violation("client selected an invalid SASL authentication mechanism"));
        }
        let Some(message) = initial.message else {
            self.phase = Phase::Chosen(proof);
            return Ok(AuthStep::Send(encoded(&[Authentication::SASLContinue(Bytes::new())])?));
        };
        self.on_client_first(proof, message)
    }

    fn on_client_first(&mut self, proof: Proof, message: &[u8]) -> Result<AuthStep, Report> {
        judge_client_first(message)?;
        let (server_first, challenge) =
            ScramServerAuth::new().on_client_first_message_with_secret(message, proof.0).map_err(|error| self.report(&error))?;
        self.phase = Phase::Challenged(Box::new(challenge));
        Ok(AuthStep::Send(encoded(&[Authentication::SASLContinue(server_first.into())])?))
    }

    fn on_client_final(&self, challenge: &ScramServerAuthWaitingForClientFinal, message: &[u8]) -> Result<AuthStep, Report> {
        judge_text(message)?;
        let server_final = challenge.on_client_final_message(message).map_err(|error| self.report(&error))?;
        self.done(Some(Authentication::SASLFinal(server_final.into())))
    }

    fn done(&self, last_word: Option<Authentication>) -> Result<AuthStep, Report> {
        let messages: Vec<_> = last_word.into_iter().chain([Authentication::Ok]).collect();
        Ok(AuthStep::Done { send: encoded(&messages)?, identity: self.identity.clone() })
    }

    fn report(&self, error: &PgWireError) -> Report {
        match error {
            PgWireError::InvalidPassword(_) => {
                let message = format!("password authentication failed for user \"{}\"", self.identity.user);
                Report::new(SqlState::INVALID_PASSWORD, message)
            }
            PgWireError::InvalidScramMessage(detail) if detail == "Nonce mismatch" => {
                violation("invalid SCRAM response").with_detail("Nonce does not match.")
            }
            PgWireError::InvalidScramMessage(detail) if detail == "Channel binding mismatch" => {
                violation("unexpected SCRAM channel-binding attribute in client-final-message")
            }
            _ => violation("malformed SCRAM message"),
        }
    }
}

/// Names without the password.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("user", &self.user).field("backend_user", &self.backend_user).finish_non_exhaustive()
    }
}

impl From<ScramVerifier> for Proof {
    fn from(verifier: ScramVerifier) -> Self {
        let ScramVerifier { salt, iterations, stored_key, server_key } = verifier;
        Self(ScramSecret::Verifier { salt, iterations, stored_key, server_key })
    }
}

/// The body of SASLInitialResponse. pgwire's own decoder takes its lengths on trust.
struct SaslInitial<'a> {
    mechanism: &'a [u8],
    message: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    fn decode(payload: &'a [u8]) -> Result<Self, Report> {
        let end = payload.iter().position(|byte| *byte == 0).ok_or_else(|| violation("invalid string in message"))?;
        let (mechanism, rest) = (&payload[..end], &payload[end + 1..]);
        let short = || violation("insufficient data left in message");
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = i32::from_be_bytes(*length);
        let (message, rest) = match usize::try_from(length) {
            Ok(length) => {
                let (message, rest) = rest.split_at_checked(length).ok_or_else(short)?;
                (Some(message), rest)
            }
            Err(_) if length == -1 => (None, rest),
            Err(_) => return Err(short()),
        };
        if rest.is_empty() { Ok(Self { mechanism, message }) } else { Err(violation("invalid message format")) }
    }
}

/// What Postgres refuses with words of its own, before the message is parsed.
fn judge_client_first(message: &[u8]) -> Result<(), Report> {
    judge_text(message)?;
    let mut fields = message.split(|byte| *byte == b',');
    let flag = fields.next().unwrap_or_default();
    if flag.starts_with(b"p=") {
        return Err(violation("malformed SCRAM message").with_detail(
            "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
        ));
    }
    if fields.next().is_some_and(|field| field.starts_with(b"a=")) {
        let message = "client uses authorization identity, but it is not supported";
        return Err(Report::new(SqlState::FEATURE_NOT_SUPPORTED, message));
    }
    if fields.next().is_some_and(|field| field.starts_with(b"m=")) {
        let message = "client requires an unsupported SCRAM extension";
        return Err(Report::new(SqlState::FEATURE_NOT_SUPPORTED, message));
    }
    if fields.next().is_some_and(|nonce| !nonce.iter().all(u8::is_ascii_graphic)) {
        return Err(violation("non-printable characters in SCRAM nonce"));
    }
    Ok(())
}

fn judge_text(message: &[u8]) -> Result<(), Report> {
    let detail = match message {
        [] => "The message is empty.",
        _ if message.contains(&0) => "Message length does not match input length.",
        _ => return Ok(()),
    };
    Err(violation("malformed SCRAM message").with_detail(detail))
}

fn violation(message: &str) -> Report {
    Report::new(SqlState::PROTOCOL_VIOLATION, message)
}

fn identity_of(user: &str, known: Option<&UserConfig>) -> Identity {
    let backend_user = known.and_then(|known| known.backend_user.clone()).unwrap_or_else(|| user.to_owned());
    let backend_password = known.and_then(|known| match (&known.backend_password, &known.secret) {
        (Some(password), _) => Some(password.clone()),
        // Another user's servers would not take this user's password.
        (None, UserSecret::Password(password)) if backend_user == user => Some(password.clone()),
        (None, _) => None,
    });
    Identity { user: user.to_owned(), backend_user, backend_password }
}

fn salt_of(user: &str) -> Vec<u8> {
    // One round of PBKDF2 is an HMAC with the name as its key: the salt of one name says nothing about another's.
    let mut salt = gen_salted_password(user, SALT_KEY.as_bytes(), 1);
    salt.truncate(SALT_LENGTH);
    salt
}

/// A verifier that no password fits: its keys are drawn, not derived, so a proof would be a preimage of SHA-256.
fn unknown_verifier(user: &str) -> ScramVerifier {
    let key = gen_salted_password(&random_nonce(), SALT_KEY.as_bytes(), 1);
    ScramVerifier { salt: salt_of(user), iterations: SCRAM_ITERATIONS, stored_key: key.clone(), server_key: key }
}

/// The messages' bytes. Fails where a client's nonce, which is sent back, makes one longer than pgwire sends.
fn encoded(messages: &[Authentication]) -> Result<BytesMut, Report> {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.encode(&mut bytes).map_err(|_| violation("malformed SCRAM message"))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    fn config(users: &[(&str, UserSecret)]) -> AuthConfig {
        let users = users.iter().map(|(name, secret)| ((*name).to_owned(), UserConfig::new(secret.clone(), None, None)));
        AuthConfig { method: AuthMethod::ScramSha256, users: users.collect() }
    }

    fn plain(password: &str) -> UserSecret {
        UserSecret::Password(password.to_owned())
    }

    fn sent(step: AuthStep) -> BytesMut {
        match step {
            AuthStep::Send(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn failed(step: AuthStep) -> String {
        match step {
            AuthStep::Fail(report) => report.detail.iter().fold(report.to_string(), |text, detail| format!("{text} ({detail})")),
            other => panic!("{other:?}"),
        }
    }

    fn initial(mechanism: &str, message: &[u8]) -> Vec<u8> {
        let length = i32::try_from(message.len()).expect("short").to_be_bytes();
        [mechanism.as_bytes(), b"\0", &length, message].concat()
    }

    fn first(message: &str) -> Vec<u8> {
        initial("SCRAM-SHA-256", message.as_bytes())
    }

    fn offered(user: &str, config: &AuthConfig) -> Authenticator {
        let mut authenticator = Authenticator::begin(user, config);
        assert_eq!(&sent(authenticator.step(None))[..], b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
        authenticator
    }

    /// A login by postgres_protocol's client, up to the step that ends it, and the salt it was told.
    fn log_in(user: &str, password: &str, config: &AuthConfig) -> (AuthStep, String) {
        let mut authenticator = offered(user, config);
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let challenge = sent(authenticator.step(Some(&initial("SCRAM-SHA-256", client.message()))));
        let text = std::str::from_utf8(&challenge[9..]).expect("ASCII").to_owned();
        client.update(&challenge[9..]).expect("a server-first-message");
        let end = authenticator.step(Some(client.message()));
        if let AuthStep::Done { send, .. } = &end {
            let (server_final, ok) = send.split_at(send.len() - 9);
            assert_eq!(ok, b"R\0\0\0\x08\0\0\0\0");
            client.finish(&server_final[9..]).expect("the server proves itself too");
        }
        (end, text.split(',').nth(1).expect("a salt").to_owned())
    }

    #[test]
    fn right_password() {
        let config = config(&[("ann", plain("pencil"))]);
        for _ in 0..2 {
            let (AuthStep::Done { identity, .. }, _) = log_in("ann", "pencil", &config) else { panic!("refused") };
            let expected =
                Identity { user: "ann".to_owned(), backend_user: "ann".to_owned(), backend_password: Some("pencil".to_owned()) };
            assert_eq!(identity, expected);
        }
    }

    #[test]
    fn wrong_password_and_unknown_user_look_alike() {
        let config = config(&[("ann", plain("pencil")), ("mute", UserSecret::None)]);
        for (user, password) in [("ann", "pen"), ("bob", "pencil"), ("mute", "x"), ("", "")] {
            let (end, salt) = log_in(user, password, &config);
            assert_eq!(failed(end), format!("28P01: password authentication failed for user \"{user}\""));
            assert_eq!(log_in(user, password, &config).1, salt, "the salt stays");
        }
        assert_ne!(log_in("bob", "", &config).1, log_in("ann", "", &config).1);
    }

    #[test]
    fn stored_secret_of_postgres() {
        let secret = postgres_protocol::password::scram_sha_256(b"pencil");
        let mut config = config(&[("ann", UserSecret::Scram(secret))]);
        assert!(matches!(log_in("ann", "pencil", &config).0, AuthStep::Done { .. }));
        assert!(failed(log_in("ann", "pen", &config).0).starts_with("28P01"));
        let app = UserConfig::new(plain("pencil"), Some("app".to_owned()), Some("secret".to_owned()));
        config.users.insert("ann".to_owned(), app);
        let (AuthStep::Done { identity, .. }, _) = log_in("ann", "pencil", &config) else { panic!("refused") };
        assert_eq!((identity.backend_user.as_str(), identity.backend_password.as_deref()), ("app", Some("secret")));
        assert!(!format!("{identity:?}").contains("secret"));
    }

    #[test]
    fn trust_lets_anyone_in() {
        let config = AuthConfig { method: AuthMethod::Trust, users: BTreeMap::new() };
        let step = Authenticator::begin("anyone", &config).step(None);
        let AuthStep::Done { send, identity } = step else { panic!("{step:?}") };
        assert_eq!(&send[..], b"R\0\0\0\x08\0\0\0\0");
        assert_eq!((identity.backend_user.as_str(), identity.backend_password), ("anyone", None));
    }

    /// The answers of a Postgres 15 server to the same bytes.
    #[test]
    fn malformed_initial_responses() {
        let config = config(&[("ann", plain("pencil"))]);
        let mechanism = "client selected an invalid SASL authentication mechanism";
        let malformed = "08P01: malformed SCRAM message";
        let cases: [(Vec<u8>, String); 15] = [
            (initial("FOO", b"x"), format!("08P01: {mechanism}")),
            (initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"), format!("08P01: {mechanism}")),
            (b"SCRAM-SHA-256".to_vec(), "08P01: invalid string in message".to_owned()),
            (b"SCRAM-SHA-256\0\0\0".to_vec(), "08P01: insufficient data left in message".to_owned()),
            (b"SCRAM-SHA-256\0\xff\xff\xff\xfe".to_vec(), "08P01: insufficient data left in message".to_owned()),
            (b"SCRAM-SHA-256\0\0\0\0\x32abc".to_vec(), "08P01: insufficient data left in message".to_owned()),
            ([first("n,,n=,r=abc"), b"zz".to_vec()].concat(), "08P01: invalid message format".to_owned()),
            (first(""), format!("{malformed} (The message is empty.)")),
            (first("n,,n=,r=a\0c"), format!("{malformed} (Message length does not match input length.)")),
            (first("n,a=joe,n=,r=abc"), "0A000: client uses authorization identity, but it is not supported".to_owned()),
            (first("n,,m=1,n=,r=abc"), "0A000: client requires an unsupported SCRAM extension".to_owned()),
            (initial("SCRAM-SHA-256", b"n,,n=,r=\x01\xff"), "08P01: non-printable characters in SCRAM nonce".to_owned()),
            (first("hello"), malformed.to_owned()),
            (initial("SCRAM-SHA-256", b"n,,n=\xff,r=abc"), malformed.to_owned()),
            (Vec::new(), "08P01: invalid string in message".to_owned()),
        ];
        for (payload, expected) in cases {
            assert_eq!(failed(offered("ann", &config).step(Some(&payload))), expected, "{payload:?}");
        }
        let long = first(&format!("n,,n=,r={}", "x".repeat(60_000)));
        assert!(matches!(offered("ann", &config).step(Some(&long)), AuthStep::Send(_) | AuthStep::Fail(_)));
        let bound = failed(offered("ann", &config).step(Some(&first("p=x,,n=,r=abc"))));
        assert!(bound.starts_with("08P01: malformed SCRAM message (The client selected SCRAM-SHA-256 without"), "{bound}");
    }

    #[test]
    fn malformed_final_messages() {
        let config = config(&[("ann", plain("pencil"))]);
        let proof = "p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let malformed = "08P01: malformed SCRAM message";
        let binding = "08P01: unexpected SCRAM channel-binding attribute in client-final-message";
        let cases = [
            (format!("c=biws,NONCE,{proof}"), "28P01: password authentication failed for user \"ann\""),
            (format!("c=biws,r=abc,{proof}"), "08P01: invalid SCRAM response (Nonce does not match.)"),
            (format!("c=eSws,NONCE,{proof}"), binding),
            ("c=biws,NONCE,p=AAAA".to_owned(), malformed),
            ("c=biws,NONCE,p=!!!!".to_owned(), malformed),
            ("c=biws,NONCE".to_owned(), malformed),
            ("hello".to_owned(), malformed),
            (String::new(), "08P01: malformed SCRAM message (The message is empty.)"),
            (",p=".to_owned(), malformed),
        ];
        for (message, expected) in cases {
            let mut authenticator = offered("ann", &config);
            let challenge = sent(authenticator.step(Some(&first("n,,n=,r=abc"))));
            let text = std::str::from_utf8(&challenge[9..]).expect("ASCII");
            let message = message.replace("NONCE", text.split(',').next().expect("a nonce"));
            assert_eq!(failed(authenticator.step(Some(message.as_bytes()))), expected, "{message}");
            assert!(failed(authenticator.step(Some(b"again"))).starts_with("08P01"), "over is over");
        }
    }

    #[test]
    fn a_mechanism_chosen_without_a_message_is_asked_for_it() {
        let config = config(&[("ann", plain("pencil"))]);
        let mut authenticator = offered("ann", &config);
        let asked = sent(authenticator.step(Some(b"SCRAM-SHA-256\0\xff\xff\xff\xff")));
        assert_eq!(&asked[..], b"R\0\0\0\x08\0\0\0\x0b");
        let challenge = sent(authenticator.step(Some(b"n,,n=,r=abc")));
        assert!(challenge[9..].starts_with(b"r=abc"));
    }
}
