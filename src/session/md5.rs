//! MD5 passwords: what a server stores of one, and what a client answers to a salt. Manual: "Password Authentication".
//!
//! Whoever has the stored secret can log in with it, so it is to be kept like a password.

use md5::{Digest, Md5};

/// What precedes the digits in `pg_authid`, and in a client's answer.
const PREFIX: &str = "md5";

/// The 32 hexadecimal digits that a server stores of a password, after `md5`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Md5Secret(String);

impl Md5Secret {
    /// Reads a secret of pg_authid: src/backend/libpq/crypt.c, `get_password_type`.
    pub fn parse(secret: &str) -> Option<Self> {
        let digits = secret.strip_prefix(PREFIX)?;
        let is_sound = digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_sound.then(|| Self(digits.to_owned()))
    }

    pub fn of_password(password: &[u8], user: &str) -> Self {
        Self(digits_of(&[password, user.as_bytes()]))
    }

    /// The PasswordMessage for an AuthenticationMD5Password with `salt`, without the zero byte at its end.
    pub fn answer(&self, salt: [u8; 4]) -> String {
        format!("{PREFIX}{}", digits_of(&[self.0.as_bytes(), &salt]))
    }
}

/// Nothing of the secret.
impl std::fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Md5Secret").finish_non_exhaustive()
    }
}

fn digits_of(parts: &[&[u8]]) -> String {
    let mut hash = Md5::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_drivers_compute_it() {
        let secret = Md5Secret::of_password(b"password", "md5_user");
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        assert_eq!(secret.answer(salt), postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt));
        assert!(Md5Secret::parse(&postgres_protocol::password::md5(b"password", "md5_user")) == Some(secret));
        for wrong in ["md5", "md5AB", "SCRAM-SHA-256$", "md5zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"] {
            assert!(Md5Secret::parse(wrong).is_none(), "{wrong}");
        }
        assert!(!format!("{:?}", Md5Secret::of_password(b"x", "y")).contains('"'));
    }
}
