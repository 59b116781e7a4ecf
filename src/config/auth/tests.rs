use std::path::Path;

use expect_test::{Expect, expect};

use super::*;
use crate::config::Config;

/// A certificate that has signed itself, its key, and itself once more as the clients' authority. The files go with it.
struct Files(std::path::PathBuf);

impl Files {
    fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("trunkline-auth-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(dir.join("cert"), made.cert.pem()).expect("written");
        std::fs::write(dir.join("key"), made.signing_key.serialize_pem()).expect("written");
        Self(dir)
    }

    fn section(&self) -> String {
        let dir = self.0.display();
        format!("[tls]\ncert = \"{dir}/cert\"\nkey = \"{dir}/key\"\nclient_ca = \"{dir}/cert\"\n")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The faults of a file that has TLS as well.
fn faults_over_tls(text: &str) -> String {
    let files = Files::new();
    parse(&format!("{text}\n{}", files.section())).err().unwrap_or_default()
}

const SHARD: &str = "[[databases.shop.shards]]\nname = \"a\"\nnodes = [{ host = \"h\" }]\n";

fn parse(text: &str) -> Result<Config, String> {
    let outcome = Config::parse(&format!("{}\n{SHARD}", text.trim()), Path::new("t.toml"));
    outcome.map_err(|faults| faults.iter().map(|fault| format!("{fault}\n")).collect())
}

fn check(text: &str, faults: &Expect) {
    faults.assert_eq(&parse(text).err().unwrap_or_default());
}

fn auth(text: &str) -> AuthConfig {
    parse(text).unwrap_or_else(|faults| panic!("{faults}")).auth
}

const QUERY: &str = "[auth.query]\nuser = \"lookup\"\n";

#[test]
fn the_first_rule_that_fits_counts() {
    let files = Files::new();
    let auth = auth(&format!(
        r#"
{QUERY}
[[auth.rules]]
transport = "unix"
method = "trust"
[[auth.rules]]
user = ["eve", "mallory"]
method = "reject"
[[auth.rules]]
database = "sameuser"
address = ["10.0.0.0/8", "::1"]
method = "md5"
[[auth.rules]]
database = "shop"
address = "all"
transport = "tls"
method = "cert"
map = {{ "robot 7" = ["ann", "bob"], other = "eve" }}
[[auth.rules]]
user = "ann"
method = "plain"
{}
"#,
        files.section()
    ));
    let fit = |database, user, address: &str, transport| {
        let asking = Asking { database, user, address: address.parse().ok(), transport };
        auth.rule_for(&asking).map_or("none", |rule| rule.method.as_str())
    };
    assert_eq!(fit("shop", "eve", "", Transport::Unix), "trust");
    assert_eq!(fit("shop", "eve", "10.0.0.1", Transport::Clear), "reject");
    assert_eq!(fit("dan", "dan", "10.0.0.1", Transport::Clear), "md5");
    assert_eq!(fit("dan", "dan", "11.0.0.1", Transport::Tls), "none");
    assert_eq!(fit("shop", "dan", "192.0.2.1", Transport::Tls), "cert");
    assert_eq!(fit("shop", "ann", "127.0.0.1", Transport::Clear), "plain");
    assert_eq!(fit("other", "ann", "192.0.2.1", Transport::Tls), "plain");
    assert_eq!(fit("shop", "ann", "192.0.2.1", Transport::Clear), "none", "a password would be read on its way");
    assert_eq!(auth.rules[2].to_string(), "any sameuser all 10.0.0.0/8,::1/128 md5");
    assert_eq!(auth.rules[3].map.as_ref().expect("a map")["other"], ["eve"]);
}

#[test]
fn faults_of_rules_with_their_lines() {
    check(
        r#"
[server]
listen = "0.0.0.0:6432"
[auth]
method = "md5"
[[auth.rules]]
method = "md5"
"#,
        &expect![[r#"
            t.toml:4: auth.method: auth.rules say the method of each client; only one of the two can hold
        "#]],
    );
    check(
        &format!(
            r#"
[server]
listen = ["127.0.0.1:6432", "0.0.0.0:6434"]
{QUERY}
[[auth.rules]]
database = ["shop", "ship"]
user = ["all", "ann"]
address = ["10.0.0.1/8", "nowhere"]
transport = "ssl"
method = "scram"
[[auth.rules]]
colour = "red"
method = "trust"
[[auth.rules]]
transport = "unix"
address = "10.0.0.0/8"
method = "trust"
[[auth.rules]]
transport = "clear"
method = "plain"
[[auth.rules]]
transport = "clear"
method = "cert"
[[auth.rules]]
user = "ann"
method = "md5"
map = {{ a = "b" }}
[[auth.rules]]
user = []
address = []
"#
        ),
        &expect![[r#"
            t.toml:7: auth.rules.database: database "ship" is not configured
            t.toml:8: auth.rules.user: "all" leaves nothing for the other names to add
            t.toml:9: auth.rules.address: "10.0.0.1/8" has bits set behind its prefix; the network is "10.0.0.0/8"
            t.toml:9: auth.rules.address: "nowhere" is no network; write "all", an address, or a network such as "10.0.0.0/8" or "fd00::/8"
            t.toml:10: auth.rules.transport: "ssl" is not a transport; transports are tls, clear, unix
            t.toml:11: auth.rules.method: "scram" is not a method of authentication; methods are scram-sha-256, md5, plain, cert, trust, reject
            t.toml:12: auth.rules: method "trust" lets anyone in, and 0.0.0.0:6434 is reachable from other machines; say transport = "unix" or address = ["127.0.0.1", "::1"], use another method, or set auth.force = true
            t.toml:13: unknown key "colour" in auth.rules; known are database, user, address, transport, method, map
            t.toml:15: auth.rules: a client of the unix socket has no address
            t.toml:15: auth.rules: rule 3 is never reached: rule 2 takes all of its clients
            t.toml:19: auth.rules: method "plain" would show passwords to whoever can read the network of 0.0.0.0:6434; say transport = "tls"
            t.toml:19: auth.rules: rule 4 is never reached: rule 2 takes all of its clients
            t.toml:22: auth.rules: method "cert" needs transport "tls"
            t.toml:22: auth.rules: method "cert" needs tls.client_ca, the authorities of the clients' certificates
            t.toml:22: auth.rules: rule 5 is never reached: rule 2 takes all of its clients
            t.toml:25: auth.rules: rule 6 is never reached: rule 2 takes all of its clients
            t.toml:28: auth.rules.map: only method "cert" has names to map
            t.toml:29: auth.rules: key "method" is missing
            t.toml:30: auth.rules.user: needs at least one name
            t.toml:31: auth.rules.address: needs at least one network
        "#]],
    );
}

#[test]
fn a_rule_behind_one_that_takes_all_its_clients_is_a_fault() {
    let faults = |rules: &[&str]| {
        let rules: String = rules.iter().map(|rule| format!("[[auth.rules]]\n{rule}\n")).collect();
        faults_over_tls(&format!("{QUERY}{rules}"))
    };
    let hidden: [&[&str]; 6] = [
        &["method = \"md5\"", "user = \"ann\"\nmethod = \"scram-sha-256\""],
        &["user = [\"ann\", \"bob\"]\nmethod = \"md5\"", "user = \"bob\"\ntransport = \"tls\"\nmethod = \"cert\""],
        &["address = \"10.0.0.0/8\"\nmethod = \"md5\"", "address = [\"10.1.0.0/16\", \"10.2.3.4\"]\nmethod = \"reject\""],
        &["method = \"cert\"", "transport = \"tls\"\nmethod = \"md5\""],
        &["method = \"plain\"", "transport = \"unix\"\nmethod = \"md5\""],
        &["transport = \"unix\"\nmethod = \"trust\"", "transport = \"unix\"\nuser = \"ann\"\nmethod = \"md5\""],
    ];
    for rules in hidden {
        let told = faults(rules);
        assert!(told.contains("auth.rules: rule 2 is never reached: rule 1 takes all of its clients"), "{rules:?}: {told}");
    }
    let reached: [&[&str]; 5] = [
        &["user = \"ann\"\nmethod = \"md5\"", "method = \"scram-sha-256\""],
        &["address = \"10.0.0.0/8\"\nmethod = \"md5\"", "method = \"scram-sha-256\""],
        &["method = \"cert\"", "method = \"scram-sha-256\""],
        &["method = \"plain\"", "transport = \"clear\"\nmethod = \"md5\""],
        &["transport = \"tls\"\nmethod = \"md5\"", "transport = \"clear\"\nmethod = \"md5\""],
    ];
    for rules in reached {
        assert_eq!(faults(rules), "", "{rules:?}");
    }
}

#[test]
fn trust_by_rule_is_judged_by_who_can_reach_it() {
    let outside = "[server]\nlisten = \"0.0.0.0:6432\"\n";
    for rule in ["transport = \"unix\"", "address = [\"127.0.0.1\", \"::1\", \"127.1.0.0/16\"]"] {
        auth(&format!("{outside}[[auth.rules]]\n{rule}\nmethod = \"trust\""));
    }
    auth(&format!("{outside}[auth]\nforce = true\n[[auth.rules]]\nmethod = \"trust\""));
    check(
        &format!("{outside}[[auth.rules]]\naddress = \"10.0.0.0/8\"\nmethod = \"trust\""),
        &expect![[r#"
        t.toml:3: auth.rules: method "trust" lets anyone in, and 0.0.0.0:6432 is reachable from other machines; say transport = "unix" or address = ["127.0.0.1", "::1"], use another method, or set auth.force = true
    "#]],
    );
}

#[test]
fn the_query_is_judged_too() {
    let query = auth(QUERY).query.expect("a query");
    assert!(query.sql.contains("pg_catalog.pg_shadow") && query.cache_size == 10_000);
    assert!(!format!("{query:?}").contains("password"));
    check(
        "[auth.query]\nsql = \"SELECT 1\"\ntimeout = \"1min\"\ncache_time = \"1h\"\npassword = \"x\"\npassword_env = \"Y\"\nsize = 1",
        &expect![[r#"
            t.toml:1: auth.query: key "user" is missing
            t.toml:2: auth.query.sql: has no $1, which stands for the user's name
            t.toml:3: auth.query.timeout: must not exceed server.login_timeout, which ends the whole login
            t.toml:4: auth.query.stale_time: must not be less than auth.query.cache_time
            t.toml:6: auth.query.password_env: only one of password, password_file and password_env can hold
            t.toml:7: unknown key "size" in auth.query; known are user, password, password_file, password_env, sql, cache_time, stale_time, cache_size, timeout
        "#]],
    );
}

#[test]
fn a_method_needs_users() {
    check(
        "[auth]\nmethod = \"plain\"",
        &expect![[r#"
        t.toml:2: auth.file: method "plain" needs a users file, or [auth.query]
    "#]],
    );
    check(
        "[[auth.rules]]\ntransport = \"unix\"\nmethod = \"trust\"\n[[auth.rules]]\nmethod = \"md5\"",
        &expect![[r#"
        t.toml:1: auth.file: method "md5" needs a users file, or [auth.query]
    "#]],
    );
    check(
        "[auth]\nmethod = \"reject\"",
        &expect![[r#"
        t.toml:2: auth.method: "reject" would let nobody in
    "#]],
    );
    check(
        "[auth]\nrules = []",
        &expect![[r#"
        t.toml:2: auth.rules: name at least one rule, or nobody is let in
    "#]],
    );
    let files = Files::new();
    assert_eq!(auth(&format!("[auth]\nmethod = \"cert\"\n{}", files.section())).users.len(), 0);
}

#[test]
fn rules_over_tls_need_tls() {
    let rules = "[[auth.rules]]\ntransport = \"tls\"\nmethod = \"md5\"\n[[auth.rules]]\nmethod = \"cert\"";
    check(
        &format!("{QUERY}{rules}"),
        &expect![[r#"
            t.toml:3: auth.rules: no client comes over TLS: it needs tls.cert and tls.key
            t.toml:6: auth.rules: method "cert" needs tls.client_ca, the authorities of the clients' certificates
        "#]],
    );
    check(
        "[auth]\nmethod = \"cert\"",
        &expect![[r#"
            t.toml:2: auth.method: method "cert" needs tls.client_ca, the authorities of the clients' certificates
        "#]],
    );
}

#[test]
fn verifiers_of_unchanged_passwords_are_kept() {
    use crate::session::scram::{DEFAULT_ITERATIONS, Salting, Verifier};
    let with = |password: &str| {
        let user = UserConfig::new(UserSecret::Password(password.to_owned()), None, None);
        AuthConfig { users: BTreeMap::from([("ann".to_owned(), Arc::new(user))]), ..AuthConfig::of_method(AuthMethod::Md5) }
    };
    let (before, same, other) = (with("a"), with("a"), with("b"));
    let salting = Salting { salt: vec![1; 16], iterations: DEFAULT_ITERATIONS };
    before.users["ann"].remember(Verifier::of_salted(salting, &[1; 32]));
    same.inherit(&before);
    other.inherit(&before);
    assert!(same.users["ann"].verifier() == before.users["ann"].verifier() && other.users["ann"].verifier().is_none());
}
