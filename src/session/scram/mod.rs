//! SCRAM-SHA-256 in both roles (RFC 5802, RFC 7677): a server's towards clients, a client's towards servers. No sockets and no
//! randomness: nonces are given.
//!
//! Both roles are here because the keys that a client's proof tells to one are what the other proves itself with. No library
//! gives them out.

mod client;
mod server;

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

pub use client::{ClientBinding, ClientExchange, ServerChallenge, ServerProof};
pub use server::{Challenge, Mechanism, Proven, challenge};

/// The mechanism's name, without and with channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Length of SHA-256's output in bytes.
pub const KEY_LEN: usize = 32;

/// Postgres's own: SCRAM_SHA_256_DEFAULT_ITERATIONS in src/include/common/scram-common.h.
pub const DEFAULT_ITERATIONS: NonZeroU32 = match NonZeroU32::new(4096) {
    Some(iterations) => iterations,
    None => NonZeroU32::MIN,
};

/// Most iterations of a stored secret: each login is that much work for the client, seconds of it.
const MAX_STORED_ITERATIONS: u32 = 10_000_000;

/// A key of SCRAM.
pub type Key = [u8; KEY_LEN];

/// How a password is stretched. Not secret: it is told to anyone who names the user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Salting {
    pub salt: Vec<u8>,
    pub iterations: NonZeroU32,
}

/// What a server must know to check a proof: RFC 5802, section 3. Neither the password nor a proof can be made from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub salting: Salting,
    pub stored_key: Key,
    pub server_key: Key,
}

/// What a client needs to prove itself wherever the password is stretched in the same way.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientKeys {
    pub salting: Salting,
    pub client_key: Key,
    pub server_key: Key,
}

impl Salting {
    /// SaltedPassword of RFC 5802: thousands of hashes, about a millisecond for Postgres's own number of iterations.
    ///
    /// The password is normalised as in src/common/saslprep.c where it can be, and else taken as it is.
    pub fn stretch(&self, password: &[u8]) -> Key {
        let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
        let password = prepared.as_deref().map_or(password, str::as_bytes);
        let mut salted = [0; KEY_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, self.iterations, &self.salt, password, &mut salted);
        salted
    }
}

impl Verifier {
    /// Reads a secret of pg_authid: `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`
    /// (src/backend/libpq/auth-scram.c, `parse_scram_secret`).
    pub fn parse(secret: &str) -> Option<Self> {
        let (iterations_and_salt, keys) = secret.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = iterations_and_salt.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse::<NonZeroU32>().ok().filter(|n| n.get() <= MAX_STORED_ITERATIONS)?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        let key = |text| STANDARD.decode(text).ok().and_then(|bytes: Vec<u8>| Key::try_from(bytes).ok());
        Some(Self { salting: Salting { salt, iterations }, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    /// The verifier of a password, from [`Salting::stretch`].
    pub fn of_salted(salting: Salting, salted_password: &Key) -> Self {
        ClientKeys::of_salted(salting, salted_password).verifier()
    }

    /// Whether a stretched password is this verifier's.
    pub fn is_of_salted(&self, salted_password: &Key) -> bool {
        let given = Self::of_salted(self.salting.clone(), salted_password);
        is_equal_in_constant_time(&given.stored_key, &self.stored_key)
    }
}

impl ClientKeys {
    /// The keys of a password, from [`Salting::stretch`].
    pub fn of_salted(salting: Salting, salted_password: &Key) -> Self {
        let (client_key, server_key) = (hmac(salted_password, b"Client Key"), hmac(salted_password, b"Server Key"));
        Self { salting, client_key, server_key }
    }

    /// What a server keeps of them.
    pub fn verifier(&self) -> Verifier {
        Verifier { salting: self.salting.clone(), stored_key: sha256(&self.client_key), server_key: self.server_key }
    }
}

/// The salting without the keys.
impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("salting", &self.salting).finish_non_exhaustive()
    }
}

/// The salting without the keys.
impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientKeys").field("salting", &self.salting).finish_non_exhaustive()
    }
}

/// HMAC-SHA-256.
pub fn hmac(key: &[u8], message: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut bytes = [0; KEY_LEN];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// Compares secrets so that the time does not tell where they differ.
pub fn is_equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

fn sha256(message: &[u8]) -> Key {
    let mut bytes = [0; KEY_LEN];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    bytes
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|idx| a[idx] ^ b[idx])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_postgres_is_read() {
        let secret = postgres_protocol::password::scram_sha_256(b"pencil");
        let stored = Verifier::parse(&secret).expect("a secret");
        assert!(stored == Verifier::of_salted(stored.salting.clone(), &stored.salting.stretch(b"pencil")));
        assert!(stored.is_of_salted(&stored.salting.stretch(b"pencil")));
        assert!(!stored.is_of_salted(&stored.salting.stretch(b"pen")));
        for wrong in ["", "md5", "SCRAM-SHA-256$0:AA==$AA==:AA==", "SCRAM-SHA-256$4096:AA==$AA==:AA=="] {
            assert!(Verifier::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Verifier::parse(&secret.replace("$4096:", "$4294967295:")).is_none(), "an hour for every client");
    }

    /// RFC 4013: a soft hyphen is nothing, a non-breaking space is a space; what is prohibited stays as it is.
    #[test]
    fn passwords_are_prepared_as_postgres_does() {
        let salting = Salting { salt: vec![1; 16], iterations: NonZeroU32::MIN };
        assert_eq!(salting.stretch("I\u{ad}X".as_bytes()), salting.stretch(b"IX"));
        assert_eq!(salting.stretch("a\u{a0}b".as_bytes()), salting.stretch(b"a b"));
        assert_ne!(salting.stretch(b"a\x07"), salting.stretch(b"a"));
        assert_ne!(salting.stretch(b"a\xff"), salting.stretch(b"a"));
    }

    #[test]
    fn debug_output_has_no_key() {
        let keys = ClientKeys {
            salting: Salting { salt: vec![7], iterations: NonZeroU32::MIN },
            client_key: [9; 32],
            server_key: [9; 32],
        };
        assert!(!format!("{keys:?} {:?}", keys.verifier()).contains("9, 9"));
    }
}
