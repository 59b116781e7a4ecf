//! The users file: who may log in, and as whom towards the servers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, gen_salted_password};
use toml::de::DeTable;

use super::fault::{Fault, Source};
use super::raw::{Section, Value};

/// A user of the users file.
#[derive(Clone)]
pub struct UserConfig {
    pub secret: UserSecret,
    /// User and password towards the servers; the client's own name and password when left out.
    pub backend_user: Option<String>,
    pub backend_password: Option<String>,
    verifier: OnceLock<ScramVerifier>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum UserSecret {
    None,
    Password(String),
    /// `SCRAM-SHA-256$…` as in pg_authid.
    Scram(String),
}

/// What a server must know to check a SCRAM proof: RFC 5802, section 3. The password cannot be read from it.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    pub salt: Vec<u8>,
    pub iterations: usize,
    pub stored_key: Vec<u8>,
    pub server_key: Vec<u8>,
}

/// Length of SHA-256's output in bytes.
const KEY_LENGTH: usize = 32;
/// More would make each login of a client a burden of seconds: its own work, by the server's number.
const MAX_ITERATIONS: usize = 10_000_000;

impl UserConfig {
    pub fn new(secret: UserSecret, backend_user: Option<String>, backend_password: Option<String>) -> Self {
        Self { secret, backend_user, backend_password, verifier: OnceLock::new() }
    }

    /// The user's SCRAM verifier; `None` for a user without a password.
    ///
    /// A plain password is stretched on the first call only (thousands of hashes) with the salt that `salt` gives.
    pub fn verifier(&self, salt: impl FnOnce() -> Vec<u8>) -> Option<&ScramVerifier> {
        if let Some(known) = self.verifier.get() {
            return Some(known);
        }
        let verifier = match &self.secret {
            UserSecret::None => return None,
            UserSecret::Password(password) => ScramVerifier::derive(password, salt()),
            UserSecret::Scram(secret) => ScramVerifier::parse(secret)?,
        };
        Some(self.verifier.get_or_init(|| verifier))
    }
}

/// Without the verifier, which only follows from the secret.
impl PartialEq for UserConfig {
    fn eq(&self, other: &Self) -> bool {
        (&self.secret, &self.backend_user, &self.backend_password)
            == (&other.secret, &other.backend_user, &other.backend_password)
    }
}

impl Eq for UserConfig {}

/// Names without secrets.
impl std::fmt::Debug for UserConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserConfig").field("backend_user", &self.backend_user).finish_non_exhaustive()
    }
}

impl ScramVerifier {
    /// Reads a secret of pg_authid: `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`
    /// (src/backend/libpq/auth-scram.c, `parse_scram_secret`).
    pub fn parse(secret: &str) -> Option<Self> {
        let (iterations_and_salt, keys) = secret.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = iterations_and_salt.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let verifier = Self {
            salt: STANDARD.decode(salt).ok()?,
            iterations: iterations.parse().ok().filter(|n| (1..=MAX_ITERATIONS).contains(n))?,
            stored_key: STANDARD.decode(stored_key).ok()?,
            server_key: STANDARD.decode(server_key).ok()?,
        };
        let is_sound =
            !verifier.salt.is_empty() && verifier.stored_key.len() == KEY_LENGTH && verifier.server_key.len() == KEY_LENGTH;
        is_sound.then_some(verifier)
    }

    /// Stretches a password with Postgres's own number of iterations.
    pub fn derive(password: &str, salt: Vec<u8>) -> Self {
        let salted_password = gen_salted_password(password, &salt, SCRAM_ITERATIONS);
        match ScramSecret::verifier_from_salted_password(salt, salted_password, SCRAM_ITERATIONS) {
            ScramSecret::Verifier { salt, iterations, stored_key, server_key } => {
                Self { salt, iterations, stored_key, server_key }
            }
            // That function makes no other kind; a verifier without keys matches no proof.
            ScramSecret::SaltedPassword { salt, .. } => {
                Self { salt, iterations: SCRAM_ITERATIONS, stored_key: Vec::new(), server_key: Vec::new() }
            }
        }
    }
}

/// Reads the users file at `path`.
///
/// # Errors
/// All its faults, with its own lines.
pub(super) fn load_users(path: &Path, is_password_needed: bool) -> Result<BTreeMap<String, UserConfig>, Vec<Fault>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the users file: {error}");
        vec![Fault { file: path.to_owned(), line: None, message }]
    })?;
    parse_users(&text, path, is_password_needed)
}

/// Reads the text of a users file.
pub(super) fn parse_users(text: &str, path: &Path, is_password_needed: bool) -> Result<BTreeMap<String, UserConfig>, Vec<Fault>> {
    let source = Source::new(path, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        source.fault(&error.span().unwrap_or_default(), error.message());
    }
    let mut root = Section::root(&source, &document);
    let mut users = BTreeMap::new();
    for value in root.take("users").and_then(|value| value.list()).unwrap_or_default() {
        let Some((name, user)) = value.table().and_then(|section| read_user(section, is_password_needed)) else { continue };
        if users.contains_key(&name) {
            value.fault(format!("user \"{name}\" is named twice"));
        }
        users.insert(name, user);
    }
    root.finish();
    if users.is_empty() && is_password_needed {
        source.fault_of_file("the users file names no user");
    }
    let faults = source.into_faults();
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

fn read_user(mut section: Section<'_>, is_password_needed: bool) -> Option<(String, UserConfig)> {
    let name = section.need("name").and_then(|value| read_name(&value));
    let password = section.take("password");
    let scram_secret = section.take("scram_secret");
    let secret = match (&password, &scram_secret) {
        (Some(_), Some(value)) => {
            value.fault("a user has a password or a scram_secret, not both");
            UserSecret::None
        }
        (Some(value), None) => read_password(value),
        (None, Some(value)) => read_scram_secret(value),
        (None, None) => UserSecret::None,
    };
    if is_password_needed && password.is_none() && scram_secret.is_none() {
        section.fault("users: auth.method \"scram-sha-256\" needs a password or a scram_secret for each user");
    }
    let backend_user = section.take("backend_user").and_then(|value| read_name(&value));
    let backend_password = section.string("backend_password");
    section.finish();
    Some((name?, UserConfig::new(secret, backend_user, backend_password)))
}

/// A role's name as Postgres stores it: at most 63 bytes.
pub(super) fn read_name(value: &Value<'_>) -> Option<String> {
    let name = value.string()?;
    if name.is_empty() || name.len() > 63 || name.contains('\0') {
        value.fault("must be a name of 1 to 63 bytes");
    }
    Some(name.to_owned())
}

fn read_password(value: &Value<'_>) -> UserSecret {
    match value.string() {
        Some("") => value.fault("must not be empty"),
        Some(text) if text.starts_with("SCRAM-SHA-256$") => value.fault("is a SCRAM secret: say scram_secret"),
        Some(text) => return UserSecret::Password(text.to_owned()),
        None => {}
    }
    UserSecret::None
}

fn read_scram_secret(value: &Value<'_>) -> UserSecret {
    let Some(text) = value.string() else { return UserSecret::None };
    if ScramVerifier::parse(text).is_none() {
        value.fault("is not a SCRAM secret; it looks like SCRAM-SHA-256$4096:SALT$STORED_KEY:SERVER_KEY, see pg_authid");
    }
    UserSecret::Scram(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, faults: &Expect) {
        let outcome = parse_users(text, Path::new("users.toml"), true);
        let lines: Vec<_> = outcome.err().unwrap_or_default().iter().map(|fault| format!("{fault}\n")).collect();
        faults.assert_eq(&lines.concat());
    }

    #[test]
    fn all_faults_with_their_lines() {
        check(
            r#"
[[users]]
name = "a"
password = "x"
scram_secret = "y"
[[users]]
name = "a"
scram_secret = "SCRAM-SHA-256$0:AA==$AA==:AA=="
colour = "red"
[[users]]
password = "SCRAM-SHA-256$4096:AA==$AA==:AA=="
[[users]]
name = "b"
"#,
            &expect![[r#"
                users.toml:5: users.scram_secret: a user has a password or a scram_secret, not both
                users.toml:6: users: user "a" is named twice
                users.toml:8: users.scram_secret: is not a SCRAM secret; it looks like SCRAM-SHA-256$4096:SALT$STORED_KEY:SERVER_KEY, see pg_authid
                users.toml:9: unknown key "colour" in users; known are name, password, scram_secret, backend_user, backend_password
                users.toml:10: users: key "name" is missing
                users.toml:11: users.password: is a SCRAM secret: say scram_secret
                users.toml:12: users: auth.method "scram-sha-256" needs a password or a scram_secret for each user
            "#]],
        );
    }

    #[test]
    fn a_secret_of_postgres_is_read() {
        let password = "pencil";
        let secret = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let stored = ScramVerifier::parse(&secret).expect("a secret");
        assert!(stored == ScramVerifier::derive(password, stored.salt.clone()));
    }

    #[test]
    fn debug_output_has_no_secret() {
        let user = UserConfig::new(UserSecret::Password("pencil".into()), None, Some("pencil".into()));
        assert!(!format!("{user:?}").contains("pencil"));
    }
}
