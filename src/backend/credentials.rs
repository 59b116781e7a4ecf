//! Who logs in to a server, and with what.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use super::stretch::stretch;
use crate::session::md5::Md5Secret;
use crate::session::scram::{ClientKeys, Salting};

/// Who logs in, towards a server.
///
/// Pools are kept by it, secret included: a client that proved another secret never gets a connection of this one's.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub user: String,
    pub secret: Secret,
}

/// What a user proves itself by.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Secret {
    /// The server must let the user in without one.
    None,
    Password(Password),
    /// A stored MD5 secret: as good as the password where the server asks for MD5, and nowhere else.
    Md5(Md5Secret),
    /// Keys learnt from a client's proof: as good as the password where the server keeps the very same SCRAM secret.
    Scram(Arc<ClientKeys>),
}

/// Most keys kept of one password: each shard has a salt of its own.
const MAX_KEPT_KEYS: usize = 64;

/// A password, with the keys that were made of it: opening many connections costs one stretching for each salt.
#[derive(Clone)]
pub struct Password(Arc<PasswordParts>);

struct PasswordParts {
    text: String,
    /// The newest last.
    keys: Mutex<Vec<Arc<ClientKeys>>>,
}

impl Password {
    pub fn new(text: String) -> Self {
        Self(Arc::new(PasswordParts { text, keys: Mutex::default() }))
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The password's SCRAM keys, computed beside the runtime unless they are known. `None` while the process ends.
    ///
    /// Cancel safe.
    pub async fn keys(&self, salting: &Salting) -> Option<Arc<ClientKeys>> {
        if let Some(known) = self.known(salting) {
            return Some(known);
        }
        let salted = stretch(salting.clone(), self.0.text.clone().into_bytes()).await?;
        let keys = Arc::new(ClientKeys::of_salted(salting.clone(), &salted));
        let mut kept = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|known| known.salting != *salting);
        if kept.len() >= MAX_KEPT_KEYS {
            kept.remove(0);
        }
        kept.push(Arc::clone(&keys));
        Some(keys)
    }

    fn known(&self, salting: &Salting) -> Option<Arc<ClientKeys>> {
        let kept = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|known| known.salting == *salting).cloned()
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Password {}

impl Hash for Password {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

/// Without the password.
impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Password").finish_non_exhaustive()
    }
}

/// The kind without the secret.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password(_) => "Password",
            Self::Md5(_) => "Md5",
            Self::Scram(_) => "Scram",
        })
    }
}

/// Without the secret.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::scram::DEFAULT_ITERATIONS;

    #[tokio::test]
    async fn keys_are_made_once_for_a_salt() {
        let password = Password::new("pencil".to_owned());
        let salting = |byte| Salting { salt: vec![byte; 16], iterations: DEFAULT_ITERATIONS };
        let first = password.keys(&salting(1)).await.expect("keys");
        assert!(Arc::ptr_eq(&first, &password.clone().keys(&salting(1)).await.expect("keys")));
        let other = password.keys(&salting(2)).await.expect("keys");
        assert!(first != other && other.salting == salting(2));
        assert!(Arc::ptr_eq(&first, &password.keys(&salting(1)).await.expect("keys")), "each shard has its own salt");
        for byte in 3..100 {
            let cheap = Salting { iterations: std::num::NonZeroU32::MIN, ..salting(byte) };
            password.keys(&cheap).await.expect("keys");
        }
        assert_eq!(password.0.keys.lock().expect("no panic").len(), MAX_KEPT_KEYS);
    }

    #[test]
    fn what_is_proved_by_another_secret_is_another() {
        let secret =
            |text: &str| Credentials { user: "ann".to_owned(), secret: Secret::Password(Password::new(text.to_owned())) };
        assert!(secret("a") == secret("a") && secret("a") != secret("b"));
        assert!(secret("a") != Credentials { user: "ann".to_owned(), secret: Secret::None });
        let salting = Salting { salt: vec![1; 16], iterations: DEFAULT_ITERATIONS };
        let keys = |password: &[u8]| Secret::Scram(Arc::new(ClientKeys::of_salted(salting.clone(), &salting.stretch(password))));
        assert!(keys(b"a") == keys(b"a") && keys(b"a") != keys(b"b"));
        assert_eq!(format!("{:?} {:?}", secret("pencil"), secret("pencil").secret), "Credentials { user: \"ann\", .. } Password");
    }
}
