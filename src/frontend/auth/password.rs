//! The two older ways to ask for a password: MD5 with a salt, and the password as it is.

use pgwire::messages::startup::Authentication;

use super::{AuthInput, Proof, Subject, Turn, violation};
use crate::config::UserSecret;
use crate::session::md5::Md5Secret;
use crate::session::scram::{Key, is_equal_in_constant_time};
use crate::sqlstate::{Report, SqlState};

#[derive(Debug)]
pub(super) struct PasswordLogin(Phase);

enum Phase {
    Unasked(Kind),
    /// Waiting for PasswordMessage.
    Md5([u8; 4]),
    Plain,
    /// The client's password is stretched, whatever is known of the user: an unknown user takes as long as others.
    Stretching(Vec<u8>),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Md5,
    Plain,
}

type Outcome = Result<Turn<PasswordLogin>, Report>;

impl PasswordLogin {
    pub(super) fn md5() -> Self {
        Self(Phase::Unasked(Kind::Md5))
    }

    pub(super) fn plain() -> Self {
        Self(Phase::Unasked(Kind::Plain))
    }

    pub(super) fn step(self, subject: &Subject<'_>, input: AuthInput<'_>) -> Outcome {
        match (self.0, input) {
            (Phase::Unasked(Kind::Md5), AuthInput::Begin) => {
                let salt = random_salt()?;
                Ok(Turn::Send(Authentication::MD5Password(salt.to_vec()), Self(Phase::Md5(salt))))
            }
            (Phase::Unasked(Kind::Plain), AuthInput::Begin) => {
                Ok(Turn::Send(Authentication::CleartextPassword, Self(Phase::Plain)))
            }
            (Phase::Md5(salt), AuthInput::Message(payload)) => {
                let answer = password_of(payload)?;
                if is_md5_answer(subject, answer, salt) {
                    return Ok(Turn::Proven(None, Proof::Nothing));
                }
                Err(subject.wrong_password())
            }
            (Phase::Plain, AuthInput::Message(payload)) => {
                let password = password_of(payload)?.to_vec();
                Ok(Turn::Stretch(subject.salting(), password.clone(), Self(Phase::Stretching(password))))
            }
            (Phase::Stretching(password), AuthInput::Stretched(salted)) => {
                if is_password(subject, &password, &salted) {
                    // What is no UTF-8 could not be given on as text.
                    let proof = String::from_utf8(password).map_or(Proof::Nothing, Proof::Password);
                    return Ok(Turn::Proven(None, proof));
                }
                Err(subject.wrong_password())
            }
            (_, _) => Err(violation("unexpected message in authentication")),
        }
    }
}

/// The kind of phase, without the password.
impl std::fmt::Debug for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unasked(_) => "Unasked",
            Self::Md5(_) => "Md5",
            Self::Plain => "Plain",
            Self::Stretching(_) => "Stretching",
        })
    }
}

/// As src/backend/libpq/auth.c, `recv_password_packet`.
fn password_of(payload: &[u8]) -> Result<&[u8], Report> {
    match payload.split_last() {
        Some((0, password)) if !password.contains(&0) => match password {
            [] => Err(Report::new(SqlState::INVALID_PASSWORD, "empty password returned by client")),
            password => Ok(password),
        },
        _ => Err(violation("invalid password packet size")),
    }
}

fn is_md5_answer(subject: &Subject<'_>, answer: &[u8], salt: [u8; 4]) -> bool {
    let secret = match subject.known.map(|known| &known.secret) {
        Some(UserSecret::Md5(secret)) => secret.clone(),
        Some(UserSecret::Password(password)) => Md5Secret::of_password(password.as_bytes(), subject.user),
        Some(UserSecret::Scram(_) | UserSecret::None) | None => return false,
    };
    is_equal_in_constant_time(secret.answer(salt).as_bytes(), answer)
}

fn is_password(subject: &Subject<'_>, password: &[u8], salted: &Key) -> bool {
    match subject.known.map(|known| &known.secret) {
        Some(UserSecret::Password(known)) => is_equal_in_constant_time(known.as_bytes(), password),
        Some(UserSecret::Scram(verifier)) => verifier.is_of_salted(salted),
        Some(UserSecret::Md5(secret)) => *secret == Md5Secret::of_password(password, subject.user),
        Some(UserSecret::None) | None => false,
    }
}

fn random_salt() -> Result<[u8; 4], Report> {
    let mut salt = [0; 4];
    match rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty()) {
        Ok(4) => Ok(salt),
        _ => Err(Report::new(SqlState::INTERNAL_ERROR, "could not generate random MD5 salt")),
    }
}
