//! Who may log in, from where, and how it is proved: rules in the manner of pg_hba.conf, of which the first that fits counts.

mod network;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{UserConfig, UserSecret};

pub use network::Network;
pub(super) use read::{Around, read_auth};

#[derive(Debug, Clone, PartialEq)]
pub struct AuthConfig {
    /// The first that fits a client counts; a client that none fits is refused. `auth.method` is one that fits all.
    pub rules: Vec<AuthRule>,
    /// By client user name. Under trust and cert a user that is not here logs in too, and uses its own name towards the
    /// servers.
    pub users: BTreeMap<String, Arc<UserConfig>>,
    /// Where users are looked up that are not in `users`.
    pub query: Option<AuthQueryConfig>,
    pub failures: FailureConfig,
}

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// With channel binding where the connection is encrypted.
    ScramSha256,
    /// SCRAM instead where the user's stored secret is one.
    Md5,
    /// The password as it is. Fits encrypted and local connections only.
    Plain,
    /// A client certificate. Fits encrypted connections only.
    Cert,
    Trust,
    Reject,
}

/// One rule. What is `None` or `All` fits everything.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthRule {
    pub databases: NameSet,
    pub users: NameSet,
    /// A client of the unix socket is in no network.
    pub networks: Option<Vec<Network>>,
    pub transport: Option<Transport>,
    pub method: AuthMethod,
    /// For [`AuthMethod::Cert`]: a certificate's CN to the users that it may log in as. `None`: the user of that name.
    pub map: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameSet {
    All,
    /// The database with the user's name.
    SameUser,
    Listed(Vec<String>),
}

/// What a client's connection is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tls,
    /// TCP without encryption.
    Clear,
    Unix,
}

/// A client as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    pub database: &'a str,
    pub user: &'a str,
    /// `None` for the unix socket.
    pub address: Option<IpAddr>,
    pub transport: Transport,
}

/// `[auth.query]`: how users are looked up in a database's own server.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthQueryConfig {
    /// The query's user and password towards the server.
    pub user: String,
    pub password: Option<String>,
    /// Has the user's name as its only parameter and gives no row, or one of name and stored secret.
    pub sql: String,
    /// How long an answer is good for.
    pub cache_time: Duration,
    /// How old an answer may be while the server cannot be asked.
    pub stale_time: Duration,
    /// Most answers kept for each database.
    pub cache_size: usize,
    pub timeout: Duration,
}

/// How many logins may fail for one user from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureConfig {
    /// In a row, before further ones have to wait; zero: no limit.
    pub burst: u32,
    /// Time after which one more is free.
    pub interval: Duration,
}

impl Default for FailureConfig {
    fn default() -> Self {
        Self { burst: 10, interval: Duration::from_secs(1) }
    }
}

impl AuthConfig {
    /// One rule that fits all.
    pub fn of_method(method: AuthMethod) -> Self {
        Self { rules: vec![AuthRule::of_method(method)], users: BTreeMap::new(), query: None, failures: FailureConfig::default() }
    }

    /// Takes over what was derived from passwords that are still the same.
    pub fn inherit(&self, before: &Self) {
        for (name, user) in &self.users {
            let same = before.users.get(name).filter(|before| *before == user && matches!(user.secret, UserSecret::Password(_)));
            if let Some(verifier) = same.and_then(|before| before.verifier()) {
                user.remember(verifier.clone());
            }
        }
    }

    /// The first rule that fits.
    pub fn rule_for(&self, asking: &Asking<'_>) -> Option<&AuthRule> {
        self.rules.iter().find(|rule| rule.fits(asking))
    }
}

impl AuthMethod {
    pub const ALL: [Self; 6] = [Self::ScramSha256, Self::Md5, Self::Plain, Self::Cert, Self::Trust, Self::Reject];

    /// The word of the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Plain => "plain",
            Self::Cert => "cert",
            Self::Trust => "trust",
            Self::Reject => "reject",
        }
    }

    /// Whether a client proves that it knows a password.
    pub fn takes_password(self) -> bool {
        match self {
            Self::ScramSha256 | Self::Md5 | Self::Plain => true,
            Self::Cert | Self::Trust | Self::Reject => false,
        }
    }
}

impl AuthRule {
    /// Fits everyone.
    pub fn of_method(method: AuthMethod) -> Self {
        Self { databases: NameSet::All, users: NameSet::All, networks: None, transport: None, method, map: None }
    }

    pub fn fits(&self, asking: &Asking<'_>) -> bool {
        self.databases.has(asking.database, asking.user)
            && self.users.has(asking.user, asking.user)
            && self.transport.is_none_or(|transport| transport == asking.transport)
            && self.networks.as_ref().is_none_or(|networks| {
                asking.address.is_some_and(|address| networks.iter().any(|network| network.contains(address)))
            })
            && self.method_fits(asking)
    }

    /// A password is not sent where it could be read on its way, and a certificate is shown over TLS only.
    fn method_fits(&self, asking: &Asking<'_>) -> bool {
        let is_local = asking.address.is_none_or(|address| address.to_canonical().is_loopback());
        match self.method {
            AuthMethod::Plain => is_local || asking.transport == Transport::Tls,
            AuthMethod::Cert => asking.transport == Transport::Tls,
            AuthMethod::ScramSha256 | AuthMethod::Md5 | AuthMethod::Trust | AuthMethod::Reject => true,
        }
    }

    /// Whether no client that `other` fits is left over by this rule.
    fn covers(&self, other: &Self) -> bool {
        self.databases.covers(&other.databases)
            && self.users.covers(&other.users)
            && self.covers_networks(other)
            && match (self.method, self.transport) {
                (AuthMethod::Cert, _) => other.transport == Some(Transport::Tls) || other.method == AuthMethod::Cert,
                (AuthMethod::Plain, None) => {
                    matches!(other.transport, Some(Transport::Tls | Transport::Unix))
                        || matches!(other.method, AuthMethod::Plain | AuthMethod::Cert)
                }
                (_, None) => true,
                (AuthMethod::Plain, Some(Transport::Clear)) => false,
                (_, transport) => transport == other.transport,
            }
    }

    fn covers_networks(&self, other: &Self) -> bool {
        match (&self.networks, &other.networks) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs.iter().all(|their| mine.iter().any(|my| my.covers(their))),
        }
    }
}

impl NameSet {
    fn has(&self, name: &str, user: &str) -> bool {
        match self {
            Self::All => true,
            Self::SameUser => name == user,
            Self::Listed(names) => names.iter().any(|listed| listed == name),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) | (Self::SameUser, Self::SameUser) => true,
            (Self::Listed(mine), Self::Listed(theirs)) => theirs.iter().all(|name| mine.contains(name)),
            (Self::Listed(_) | Self::SameUser, _) => false,
        }
    }
}

impl fmt::Display for NameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::SameUser => f.write_str("sameuser"),
            Self::Listed(names) => f.write_str(&names.join(",")),
        }
    }
}

impl Transport {
    const ALL: [Self; 3] = [Self::Tls, Self::Clear, Self::Unix];

    /// The word of the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Clear => "clear",
            Self::Unix => "unix",
        }
    }
}

/// In the order of the columns of pg_hba.conf: transport, databases, users, addresses, method.
impl fmt::Display for AuthRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks =
            self.networks.as_ref().map(|networks| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        let (transport, networks) = (self.transport.map_or("any", Transport::as_str), networks.as_deref().unwrap_or("all"));
        write!(f, "{transport} {} {} {networks} {}", self.databases, self.users, self.method.as_str())
    }
}

/// The user without the password.
impl fmt::Debug for AuthQueryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthQueryConfig").field("user", &self.user).field("sql", &self.sql).finish_non_exhaustive()
    }
}
