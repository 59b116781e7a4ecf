//! Reading `[auth]`, and what of it contradicts itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::fault::Source;
use super::super::raw::{Section, Value};
use super::super::topology::read_password;
use super::super::users::{SecretNeed, load_users, read_name};
use super::super::{ClientTls, ServerConfig, UserConfig};
use super::{AuthConfig, AuthMethod, AuthQueryConfig, AuthRule, FailureConfig, NameSet, Network, Transport};

/// As in PgBouncer 1.24, whose users it serves as it did: names are qualified, and a password that has expired is none.
const DEFAULT_QUERY: &str = "SELECT usename, CASE WHEN valuntil < pg_catalog.now() THEN NULL ELSE passwd END \
                             FROM pg_catalog.pg_shadow WHERE usename OPERATOR(pg_catalog.=) $1";

/// What the section is judged against.
pub(in super::super) struct Around<'a> {
    pub dir: &'a Path,
    pub server: &'a ServerConfig,
    /// Names of the configured databases.
    pub databases: &'a [String],
    pub tls: &'a ClientTls,
    pub has_client_ca: bool,
}

pub(in super::super) fn read_auth(mut section: Section<'_>, around: &Around<'_>) -> AuthConfig {
    let source = section.source();
    let method = section.take("method");
    let given = section.take("rules");
    let is_forced = section.boolean("force");
    let rules = match (&method, given) {
        (Some(method), Some(_)) => {
            method.fault("auth.rules say the method of each client; only one of the two can hold");
            Vec::new()
        }
        (method, None) => {
            let method = method.as_ref().and_then(read_method).unwrap_or(AuthMethod::ScramSha256);
            judge_for_all(source, method, around, is_forced);
            vec![AuthRule::of_method(method)]
        }
        (None, Some(given)) => read_rules(&given, around, is_forced),
    };
    let query = section.take("query").and_then(|value| value.table()).map(|section| read_query(section, around));
    let users = read_users(&mut section, &rules, query.is_some(), around.dir);
    let failures = FailureConfig {
        burst: section.integer("failed_logins", 0..=1_000_000, FailureConfig::default().burst),
        interval: section.positive_duration("failed_login_interval", FailureConfig::default().interval),
    };
    section.finish();
    AuthConfig { rules, users, query, failures }
}

fn read_method(value: &Value<'_>) -> Option<AuthMethod> {
    value.one_of(AuthMethod::ALL, AuthMethod::as_str, ("a method of authentication", "methods"))
}

/// What the short form must not say: it fits whoever reaches a listen address.
fn judge_for_all(source: &Source, method: AuthMethod, around: &Around<'_>, is_forced: bool) {
    match method {
        AuthMethod::Trust if !is_forced => {
            // The admin port judges for itself: its console takes clients of the same machine only, and its HTTP only shows.
            for address in around.server.listen.iter().filter(|address| !address.ip().is_loopback()) {
                let message = format!(
                    "server.listen: auth.method \"trust\" lets anyone in as any user, and {address} is reachable from other \
                     machines; listen on 127.0.0.1, use \"scram-sha-256\", or set auth.force = true"
                );
                source.fault_of_key(&["server.listen", "auth.method"], message);
            }
        }
        AuthMethod::Cert => {
            if let Some(lack) = lack_of_tls(&AuthRule::of_method(method), around) {
                source.fault_of_key(&["auth.method"], format!("auth.method: {lack}"));
            }
        }
        AuthMethod::Reject => source.fault_of_key(&["auth.method"], "auth.method: \"reject\" would let nobody in"),
        _ => {}
    }
}

fn read_rules(given: &Value<'_>, around: &Around<'_>, is_forced: bool) -> Vec<AuthRule> {
    let values = given.list().unwrap_or_default();
    if values.is_empty() {
        given.fault("name at least one rule, or nobody is let in");
    }
    let mut rules: Vec<(usize, AuthRule)> = Vec::new();
    for (idx, value) in values.iter().enumerate() {
        let Some(rule) = value.table().and_then(|section| read_rule(section, around)) else { continue };
        judge_rule(value, &rule, around, is_forced);
        if let Some((earlier_idx, _)) = rules.iter().find(|(_, earlier)| earlier.covers(&rule)) {
            let (number, earlier) = (idx + 1, earlier_idx + 1);
            value.fault(format!("rule {number} is never reached: rule {earlier} takes all of its clients"));
        }
        rules.push((idx, rule));
    }
    rules.into_iter().map(|(_, rule)| rule).collect()
}

fn read_rule(mut section: Section<'_>, around: &Around<'_>) -> Option<AuthRule> {
    let databases = section.take("database").map_or(NameSet::All, |value| read_databases(&value, around.databases));
    let users = section.take("user").map_or(NameSet::All, |value| read_names(&value));
    let networks = section.take("address").and_then(|value| read_networks(&value));
    let transport = section.take("transport").and_then(|value| read_transport(&value));
    let method = section.need("method").and_then(|value| read_method(&value));
    let map = section.take("map").and_then(|value| read_map(&value, method));
    section.finish();
    Some(AuthRule { databases, users, networks, transport, method: method?, map })
}

fn read_databases(value: &Value<'_>, known: &[String]) -> NameSet {
    if value.one_or_many().len() == 1 && value.one_or_many().iter().all(|one| one.is_string() && one.string() == Some("sameuser"))
    {
        return NameSet::SameUser;
    }
    let names = read_names(value);
    if let NameSet::Listed(names) = &names {
        for name in names.iter().filter(|name| !known.contains(name)) {
            value.fault(format!("database \"{name}\" is not configured"));
        }
    }
    names
}

/// One name, an array of names, or `"all"`.
fn read_names(value: &Value<'_>) -> NameSet {
    let names: Vec<String> = value.one_or_many().iter().filter_map(read_name).collect();
    match names.iter().any(|name| name == "all") {
        true if names.len() > 1 => value.fault("\"all\" leaves nothing for the other names to add"),
        true => return NameSet::All,
        false if names.is_empty() => value.fault("needs at least one name"),
        false => {}
    }
    NameSet::Listed(names)
}

fn read_networks(value: &Value<'_>) -> Option<Vec<Network>> {
    let elements = value.one_or_many();
    if let [one] = &elements[..]
        && one.is_string()
        && one.string() == Some("all")
    {
        return None;
    }
    if elements.is_empty() {
        value.fault("needs at least one network");
    }
    let parsed = elements.iter().filter_map(|element| element.understood(Network::parse(element.string()?)));
    Some(parsed.collect())
}

fn read_transport(value: &Value<'_>) -> Option<Transport> {
    value.one_of(Transport::ALL, Transport::as_str, ("a transport", "transports"))
}

fn read_map(value: &Value<'_>, method: Option<AuthMethod>) -> Option<BTreeMap<String, Vec<String>>> {
    if method.is_some_and(|method| method != AuthMethod::Cert) {
        value.fault("only method \"cert\" has names to map");
    }
    let entries = value.table()?.into_entries();
    let users = |entry: &Value<'_>| entry.one_or_many().iter().filter_map(read_name).collect();
    Some(entries.iter().map(|entry| (entry.name.clone(), users(entry))).collect())
}

fn judge_rule(value: &Value<'_>, rule: &AuthRule, around: &Around<'_>, is_forced: bool) {
    if rule.transport == Some(Transport::Unix) && rule.networks.is_some() {
        value.fault("a client of the unix socket has no address");
    }
    if rule.method == AuthMethod::Cert && rule.transport.is_some_and(|transport| transport != Transport::Tls) {
        value.fault("method \"cert\" needs transport \"tls\"");
    }
    if let Some(lack) = lack_of_tls(rule, around) {
        value.fault(lack);
    }
    let Some(address) = reachable_from_outside(rule, around.server) else { return };
    match (rule.method, rule.transport) {
        (AuthMethod::Trust, _) if !is_forced => value.fault(format!(
            "method \"trust\" lets anyone in, and {address} is reachable from other machines; say transport = \"unix\" or \
             address = [\"127.0.0.1\", \"::1\"], use another method, or set auth.force = true"
        )),
        (AuthMethod::Plain, Some(Transport::Clear)) => value.fault(format!(
            "method \"plain\" would show passwords to whoever can read the network of {address}; say transport = \"tls\""
        )),
        _ => {}
    }
}

/// Why a rule over TLS would fit nobody.
fn lack_of_tls(rule: &AuthRule, around: &Around<'_>) -> Option<&'static str> {
    let is_cert = rule.method == AuthMethod::Cert;
    if is_cert && !around.has_client_ca {
        return Some("method \"cert\" needs tls.client_ca, the authorities of the clients' certificates");
    }
    let is_over_tls = is_cert || rule.transport == Some(Transport::Tls);
    (is_over_tls && around.tls.acceptor.is_none()).then_some("no client comes over TLS: it needs tls.cert and tls.key")
}

/// A listen address through which clients of other machines can come under this rule.
fn reachable_from_outside(rule: &AuthRule, server: &ServerConfig) -> Option<SocketAddr> {
    let is_local = rule.networks.as_ref().is_some_and(|networks| networks.iter().all(Network::is_loopback));
    if is_local || rule.transport == Some(Transport::Unix) {
        return None;
    }
    server.listen.iter().copied().find(|address| !address.ip().is_loopback())
}

fn read_users(section: &mut Section<'_>, rules: &[AuthRule], has_query: bool, dir: &Path) -> BTreeMap<String, Arc<UserConfig>> {
    let source = section.source();
    let needs_password = |rule: &AuthRule| rule.method.takes_password();
    let need = match () {
        () if rules.is_empty() || !rules.iter().all(needs_password) => SecretNeed::None,
        () if rules.iter().all(|rule| rule.method == AuthMethod::ScramSha256) => SecretNeed::Scram,
        () => SecretNeed::Any,
    };
    match section.take("file") {
        Some(value) => {
            let users = value.string().map(|file| load_users(&dir.join(file), need, has_query));
            users.and_then(|read| read.map_err(|faults| source.absorb(faults)).ok()).unwrap_or_default()
        }
        None => {
            if let Some(rule) = rules.iter().find(|rule| needs_password(rule) && !has_query) {
                let message = format!("auth.file: method \"{}\" needs a users file, or [auth.query]", rule.method.as_str());
                source.fault_of_key(&["auth.method", "auth.rules"], message);
            }
            BTreeMap::new()
        }
    }
}

fn read_query(mut section: Section<'_>, around: &Around<'_>) -> AuthQueryConfig {
    let user = section.need("user").and_then(|value| read_name(&value)).unwrap_or_default();
    let password = read_password(&mut section, around.dir);
    let sql = section.take("sql");
    let query = AuthQueryConfig {
        user,
        password,
        sql: sql.as_ref().and_then(|value| value.string()).unwrap_or(DEFAULT_QUERY).to_owned(),
        cache_time: section.duration("cache_time", Duration::from_secs(10)),
        stale_time: section.duration("stale_time", Duration::from_secs(600)),
        cache_size: section.integer("cache_size", 1..=1_000_000, 10_000) as usize,
        timeout: section.positive_duration("timeout", Duration::from_secs(3)),
    };
    if let Some(value) = sql.filter(|_| !query.sql.contains("$1")) {
        value.fault("has no $1, which stands for the user's name");
    }
    if query.timeout > around.server.login_timeout {
        let message = "auth.query.timeout: must not exceed server.login_timeout, which ends the whole login";
        section.source().fault_of_key(&["auth.query.timeout", "server.login_timeout"], message);
    }
    if query.stale_time < query.cache_time {
        let message = "auth.query.stale_time: must not be less than auth.query.cache_time";
        section.source().fault_of_key(&["auth.query.stale_time", "auth.query.cache_time"], message);
    }
    section.finish();
    query
}
