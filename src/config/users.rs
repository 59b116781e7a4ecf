//! The users file: who may log in, and as whom towards the servers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use toml::de::DeTable;

use super::fault::{Fault, Source};
use super::raw::{Section, Value};
use crate::session::md5::Md5Secret;
use crate::session::scram::Verifier;

/// A user of the users file.
#[derive(Clone)]
pub struct UserConfig {
    pub secret: UserSecret,
    /// User and password towards the servers; the client's own name and password when left out.
    pub backend_user: Option<String>,
    pub backend_password: Option<String>,
    derived: OnceLock<Verifier>,
}

/// What is known of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub enum UserSecret {
    None,
    Password(String),
    /// `md5…` as in pg_authid.
    Md5(Md5Secret),
    /// `SCRAM-SHA-256$…` as in pg_authid.
    Scram(Verifier),
}

/// Which secrets the methods of the rules can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretNeed {
    /// A user may log in without any.
    None,
    Any,
    /// MD5 secrets are of no use.
    Scram,
}

impl UserSecret {
    /// What a server keeps of a password; what is neither of its two forms is taken for the password itself.
    pub fn of_stored(text: &str) -> Self {
        if let Some(verifier) = Verifier::parse(text) {
            return Self::Scram(verifier);
        }
        Md5Secret::parse(text).map_or_else(|| Self::Password(text.to_owned()), Self::Md5)
    }
}

impl UserConfig {
    pub fn new(secret: UserSecret, backend_user: Option<String>, backend_password: Option<String>) -> Self {
        Self { secret, backend_user, backend_password, derived: OnceLock::new() }
    }

    /// The user's SCRAM verifier, if it is stored or was derived already.
    pub fn verifier(&self) -> Option<&Verifier> {
        match &self.secret {
            UserSecret::Scram(verifier) => Some(verifier),
            UserSecret::Password(_) => self.derived.get(),
            UserSecret::None | UserSecret::Md5(_) => None,
        }
    }

    /// Keeps a verifier that was derived from the user's password. The first one stays.
    pub fn remember(&self, verifier: Verifier) -> &Verifier {
        self.derived.get_or_init(|| verifier)
    }
}

/// Without the derived verifier, which only follows from the secret.
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

/// Reads the users file at `path`.
///
/// # Errors
/// All its faults, with its own lines.
pub(super) fn load_users(
    path: &Path,
    need: SecretNeed,
    may_be_empty: bool,
) -> Result<BTreeMap<String, Arc<UserConfig>>, Vec<Fault>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the users file: {error}");
        vec![Fault { file: path.to_owned(), line: None, message }]
    })?;
    parse_users(&text, path, need, may_be_empty)
}

/// Reads the text of a users file.
fn parse_users(
    text: &str,
    path: &Path,
    need: SecretNeed,
    may_be_empty: bool,
) -> Result<BTreeMap<String, Arc<UserConfig>>, Vec<Fault>> {
    let source = Source::new(path, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        source.fault(&error.span().unwrap_or_default(), error.message());
    }
    let mut root = Section::root(&source, &document);
    let mut users = BTreeMap::new();
    for value in root.take("users").and_then(|value| value.list()).unwrap_or_default() {
        let Some((name, user)) = value.table().and_then(|section| read_user(section, need)) else { continue };
        if users.contains_key(&name) {
            value.fault(format!("user \"{name}\" is named twice"));
        }
        users.insert(name, Arc::new(user));
    }
    root.finish();
    if users.is_empty() && need != SecretNeed::None && !may_be_empty {
        source.fault_of_file("the users file names no user");
    }
    let faults = source.into_faults();
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

fn read_user(mut section: Section<'_>, need: SecretNeed) -> Option<(String, UserConfig)> {
    let name = section.need("name").and_then(|value| read_name(&value));
    let given = ["password", "scram_secret", "md5_secret"].map(|key| section.take(key));
    if let Some(second) = given.iter().flatten().nth(1) {
        second.fault("a user has one of password, scram_secret and md5_secret");
    }
    if need != SecretNeed::None && given.iter().all(Option::is_none) {
        section.fault("users: auth.method asks for a password: a user needs a password, scram_secret or md5_secret");
    }
    let [password, scram_secret, md5_secret] = &given;
    if let Some(value) = md5_secret
        && need == SecretNeed::Scram
    {
        value.fault("proves nothing under \"scram-sha-256\"; use method \"md5\", or a scram_secret");
    }
    let secret = match (password, scram_secret, md5_secret) {
        (Some(value), None, None) => read_password(value),
        (None, Some(value), None) => read_scram_secret(value),
        (None, None, Some(value)) => read_md5_secret(value),
        (_, _, _) => UserSecret::None,
    };
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
    let Some(text) = value.string() else { return UserSecret::None };
    match UserSecret::of_stored(text) {
        _ if text.is_empty() => value.fault("must not be empty"),
        UserSecret::Md5(_) => value.fault("is an MD5 secret: say md5_secret"),
        _ if text.starts_with("SCRAM-SHA-256$") => value.fault("is a SCRAM secret: say scram_secret"),
        secret => return secret,
    }
    UserSecret::None
}

fn read_scram_secret(value: &Value<'_>) -> UserSecret {
    let Some(text) = value.string() else { return UserSecret::None };
    let verifier = Verifier::parse(text);
    if verifier.is_none() {
        value.fault("is not a SCRAM secret; it looks like SCRAM-SHA-256$4096:SALT$STORED_KEY:SERVER_KEY, see pg_authid");
    }
    verifier.map_or(UserSecret::None, UserSecret::Scram)
}

fn read_md5_secret(value: &Value<'_>) -> UserSecret {
    let Some(text) = value.string() else { return UserSecret::None };
    let secret = Md5Secret::parse(text);
    if secret.is_none() {
        value.fault("is not an MD5 secret; it is md5 and 32 digits from 0 to f, see pg_authid");
    }
    secret.map_or(UserSecret::None, UserSecret::Md5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, faults: &Expect) {
        let outcome = parse_users(text, Path::new("users.toml"), SecretNeed::Scram, false);
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
                users.toml:5: users.scram_secret: a user has one of password, scram_secret and md5_secret
                users.toml:6: users: user "a" is named twice
                users.toml:8: users.scram_secret: is not a SCRAM secret; it looks like SCRAM-SHA-256$4096:SALT$STORED_KEY:SERVER_KEY, see pg_authid
                users.toml:9: unknown key "colour" in users; known are name, password, scram_secret, md5_secret, backend_user, backend_password
                users.toml:10: users: key "name" is missing
                users.toml:11: users.password: is a SCRAM secret: say scram_secret
                users.toml:12: users: auth.method asks for a password: a user needs a password, scram_secret or md5_secret
            "#]],
        );
    }

    #[test]
    fn debug_output_has_no_secret() {
        let user = UserConfig::new(UserSecret::Password("pencil".into()), None, Some("pencil".into()));
        assert!(!format!("{user:?}").contains("pencil"));
    }
}
