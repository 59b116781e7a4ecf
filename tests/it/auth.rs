//! Logins of clients, and with what the proxy logs in to servers for them.

use tokio_postgres::Client;

use crate::harness::{
    Cluster, DATABASE, Proxy, ProxyOptions, Raw, Single, connect_with, installation, message, poll, sqlstate_of, startup,
    try_rows, value,
};

const PROTOCOL_3_0: u32 = 0x0003_0000;

/// How the servers let in everybody but their superuser.
async fn ask_for(cluster: &Cluster, method: &str) {
    let rules = format!("local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 {method}\n");
    for (idx, shard) in cluster.shards.iter().enumerate() {
        std::fs::write(cluster.scratch.path().join(format!("shard{idx}/pg_hba.conf")), &rules).unwrap();
        let direct = cluster.direct(idx).await;
        direct.batch_execute("CREATE ROLE probe LOGIN; SELECT pg_reload_conf()").await.unwrap();
        let target = format!("host=127.0.0.1 port={} user=probe dbname={DATABASE}", shard.port());
        poll("the server asks for a password", async || connect_with(&target).await.is_err()).await;
    }
}

/// Runs the same on every shard.
async fn on_all(cluster: &Cluster, sql: &str) {
    for idx in 0..cluster.shards.len() {
        cluster.direct(idx).await.batch_execute(sql).await.unwrap();
    }
}

async fn secret_of(cluster: &Cluster, role: &str) -> String {
    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
    value(&cluster.direct(0).await, &sql).await
}

/// A proxy with these users and these lines of `[auth]`, and what comes after them.
async fn proxy_of(cluster: &Cluster, users: &str, auth: &str) -> Proxy {
    let file = cluster.scratch.write("users.toml", users);
    let auth = format!("file = \"{}\"\n{auth}", file.display());
    cluster.proxy_with(ProxyOptions { auth: &auth, ..ProxyOptions::default() }).await
}

async fn log_in(proxy: &Proxy, user: &str, password: &str) -> Result<Client, (String, String)> {
    let target = format!("{} password='{password}'", proxy.target(user));
    connect_with(&target).await.map_err(|error| sqlstate_of(&error))
}

async fn refused(proxy: &Proxy, user: &str, password: &str) -> (String, String) {
    log_in(proxy, user, password).await.err().unwrap_or_else(|| panic!("{user} is let in"))
}

fn wrong_password(user: &str) -> (String, String) {
    ("28P01".to_owned(), format!("password authentication failed for user \"{user}\""))
}

/// What psql prints for `SELECT current_user`, or its error.
async fn psql(port: u16, user: &str, password: &str) -> String {
    let beside_server = installation().program("psql");
    let program = if beside_server.is_file() { beside_server } else { "psql".into() };
    let mut command = tokio::process::Command::new(program);
    command.args(["-X", "-A", "-t", "-w", "-h", "127.0.0.1", "-d", DATABASE, "-c", "SELECT current_user", "-U", user]);
    command.args(["-p", &port.to_string()]).env("PGPASSWORD", password).kill_on_drop(true);
    let output = command.output().await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}

#[tokio::test]
async fn every_method_lets_in_who_knows_the_password() {
    let cluster = Cluster::start(1).await;
    on_all(
        &cluster,
        "CREATE ROLE stored LOGIN PASSWORD 'pencil'; SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'pencil'",
    )
    .await;
    let (scram, md5) = (secret_of(&cluster, "stored").await, secret_of(&cluster, "old").await);
    let mut users = String::new();
    let mut rules = String::new();
    for method in ["scram-sha-256", "md5", "plain"] {
        for (kind, key, secret) in
            [("text", "password", "pencil"), ("scram", "scram_secret", &scram), ("md5", "md5_secret", &md5)]
        {
            // An MD5 secret holds the user's name, and proves nothing to SCRAM.
            if kind == "md5" && method == "scram-sha-256" {
                continue;
            }
            let name = if kind == "md5" { "old".to_owned() } else { format!("{kind}_{method}") };
            let backend = if kind == "md5" { "" } else { "backend_user = \"postgres\"\n" };
            if !users.contains("name = \"old\"") || kind != "md5" {
                users += &format!("[[users]]\nname = \"{name}\"\n{key} = \"{secret}\"\n{backend}");
            }
            if kind != "md5" {
                rules += &format!("[[auth.rules]]\nuser = \"{name}\"\nmethod = \"{method}\"\n");
            }
        }
    }
    rules += "[[auth.rules]]\nuser = [\"old\", \"nobody\"]\nmethod = \"md5\"\n";
    let proxy = proxy_of(&cluster, &users, &rules).await;
    let names = ["text_scram-sha-256", "scram_scram-sha-256", "text_md5", "scram_md5", "text_plain", "scram_plain", "old"];
    for name in names {
        let client = log_in(&proxy, name, "pencil").await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(value(&client, "SELECT 1").await, "1", "{name}");
        assert_eq!(refused(&proxy, name, "pen").await, wrong_password(name));
        assert_eq!(psql(proxy.port, name, "pencil").await, if name == "old" { "old" } else { "postgres" });
        assert!(psql(proxy.port, name, "pen").await.ends_with(&format!("FATAL:  {}", wrong_password(name).1)), "{name}");
    }
    assert_eq!(refused(&proxy, "nobody", "pencil").await, wrong_password("nobody"));
    let none = refused(&proxy, "stranger", "pencil").await;
    assert_eq!(none.0, "28000");
    assert!(none.1.starts_with("no pg_hba.conf entry for host \"127.0.0.1\", user \"stranger\", database \"shop\""), "{none:?}");
}

/// The same rules on a server and in the proxy: the same words.
#[tokio::test]
async fn refusals_are_worded_as_the_servers_own() {
    let cluster = Cluster::start(1).await;
    on_all(&cluster, "CREATE ROLE ann LOGIN PASSWORD 'pencil'; CREATE ROLE idle PASSWORD 'pencil'; CREATE ROLE evil LOGIN").await;
    let own = "host all postgres 127.0.0.1/32 trust\nhost all evil 0.0.0.0/0 reject\nhost all ann,ghost 127.0.0.0/8 scram-sha-256\n\
               host all idle,nemo 127.0.0.1/32 trust\n";
    std::fs::write(cluster.scratch.path().join("shard0/pg_hba.conf"), own).unwrap();
    cluster.direct(0).await.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let port = cluster.shards[0].port();
    let direct = async |user: &str, dbname: &str, password: &str| {
        let target = format!("host=127.0.0.1 port={port} user={user} dbname={dbname} password='{password}'");
        fields_of(&connect_with(&target).await.expect_err("let in"))
    };
    poll("the rules are loaded", async || direct("evil", DATABASE, "x").await[3].contains("rejects")).await;
    let proxy = proxy_of(
        &cluster,
        "[[users]]\nname = \"ann\"\npassword = \"pencil\"\nbackend_user = \"postgres\"\n",
        "[[auth.rules]]\nuser = \"evil\"\nmethod = \"reject\"\n[[auth.rules]]\nuser = [\"ann\", \"ghost\"]\naddress = \"127.0.0.0/8\"\n\
         method = \"scram-sha-256\"\n[[auth.rules]]\nuser = [\"idle\", \"nemo\"]\nmethod = \"trust\"\n",
    )
    .await;
    for (user, dbname, password) in [
        ("evil", DATABASE, "x"),
        ("other", DATABASE, "x"),
        ("other", "nowhere", "x"),
        ("ann", DATABASE, "pen"),
        ("ann", "nowhere", "pencil"),
        ("ann", "nowhere", "pen"),
        ("ghost", DATABASE, "pencil"),
        ("idle", DATABASE, "x"),
        ("nemo", DATABASE, "x"),
    ] {
        let target = format!("host=127.0.0.1 port={} user={user} dbname={dbname} password='{password}'", proxy.port);
        let told = fields_of(&connect_with(&target).await.expect_err("let in"));
        assert_eq!(told, direct(user, dbname, password).await, "{user} {dbname} {password}");
    }
}

/// S, V, C and M of an error at a login.
fn fields_of(error: &tokio_postgres::Error) -> [String; 4] {
    let report = error.as_db_error().unwrap_or_else(|| panic!("not a server's report: {error:?}"));
    let words = report.parsed_severity().map(|severity| format!("{severity:?}").to_uppercase()).unwrap_or_default();
    [report.severity().to_owned(), words, report.code().code().to_owned(), report.message().to_owned()]
}

/// A server and proxies with as few places: for a user, for a database, for all clients.
#[tokio::test]
async fn full_houses_are_told_as_by_the_server() {
    let cluster = Cluster::start(1).await;
    let single = Single::start_with(&[("max_connections", "5"), ("superuser_reserved_connections", "1")]).await;
    let roles = "CREATE ROLE few LOGIN; CREATE ROLE more LOGIN; CREATE ROLE other LOGIN";
    on_all(&cluster, roles).await;
    let own = single.connect().await;
    own.batch_execute(&format!("{roles}; ALTER ROLE few CONNECTION LIMIT 1; ALTER DATABASE {DATABASE} CONNECTION LIMIT 3"))
        .await
        .unwrap();
    let proxy_of = async |server| cluster.proxy_with(ProxyOptions { server, ..ProxyOptions::default() }).await;
    let by_owner = proxy_of("max_clients_per_user = 1\nmax_clients_per_database = 2\n").await;
    let small = proxy_of("max_clients = 2\n").await;
    let enter =
        async |port: u16, user: &str| connect_with(&format!("host=127.0.0.1 port={port} user={user} dbname={DATABASE}")).await;
    let refused = async |port: u16, user: &str| fields_of(&enter(port, user).await.expect_err("let in"));
    let full = |whose: &str| ["FATAL", "FATAL", "53300", whose].map(str::to_owned);
    let mut held = Vec::new();
    for port in [single.server.port(), by_owner.port] {
        held.push(enter(port, "few").await.unwrap());
        assert_eq!(refused(port, "few").await, full("too many connections for role \"few\""));
        held.push(enter(port, "more").await.unwrap());
        assert_eq!(refused(port, "other").await, full(&format!("too many connections for database \"{DATABASE}\"")));
    }
    // On the server these come to the two from before and to the test's own.
    for port in [single.server.port(), small.port] {
        held.push(enter(port, "postgres").await.unwrap());
        held.push(enter(port, "postgres").await.unwrap());
        assert_eq!(refused(port, "postgres").await, full("sorry, too many clients already"));
    }
}

#[tokio::test]
async fn keys_learnt_at_the_login_open_the_servers() {
    let cluster = Cluster::start(1).await;
    on_all(&cluster, "CREATE ROLE ann LOGIN PASSWORD 'pencil'").await;
    ask_for(&cluster, "scram-sha-256").await;
    let secret = secret_of(&cluster, "ann").await;
    let users = format!("[[users]]\nname = \"ann\"\nscram_secret = \"{secret}\"\n");
    let proxy = proxy_of(&cluster, &users, "[[auth.rules]]\nmethod = \"scram-sha-256\"").await;
    let client = log_in(&proxy, "ann", "pencil").await.unwrap();
    assert_eq!(value(&client, "SELECT current_user").await, "ann");
    assert_eq!(refused(&proxy, "ann", "pen").await, wrong_password("ann"));

    // The same password under another salt: the proxy's secret is right for the client, and of no use to the server.
    on_all(
        &cluster,
        "ALTER ROLE ann PASSWORD 'pencil'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ann'",
    )
    .await;
    let client = log_in(&proxy, "ann", "pencil").await.unwrap();
    let told = async || try_rows(&client, "SELECT 1").await.err().map(|error| sqlstate_of(&error)).unwrap_or_default();
    poll("the server is asked anew", async || told().await.1.contains("SCRAM secret of user \"ann\" is not the one")).await;
    assert_eq!(told().await.0, "08006");

    // With the new secret in the file, new keys are learnt.
    let secret = secret_of(&cluster, "ann").await;
    cluster.scratch.write("users.toml", &format!("[[users]]\nname = \"ann\"\nscram_secret = \"{secret}\"\n"));
    proxy.admin().await.batch_execute("RELOAD").await.unwrap();
    let client = log_in(&proxy, "ann", "pencil").await.unwrap();
    assert_eq!(value(&client, "SELECT current_user").await, "ann");
}

/// A client that proved the new password must not get a connection that the old one opened, and nobody can still open one.
#[tokio::test]
async fn a_changed_password_has_pools_of_its_own() {
    let cluster = Cluster::start(1).await;
    on_all(&cluster, "CREATE ROLE ann LOGIN PASSWORD 'old'").await;
    ask_for(&cluster, "scram-sha-256").await;
    let proxy =
        proxy_of(&cluster, "[[users]]\nname = \"ann\"\npassword = \"old\"\n", "[[auth.rules]]\nmethod = \"scram-sha-256\"").await;
    let before = log_in(&proxy, "ann", "old").await.unwrap();
    let pid = value(&before, "SELECT pg_backend_pid()").await;
    on_all(&cluster, "ALTER ROLE ann PASSWORD 'new'").await;
    cluster.scratch.write("users.toml", "[[users]]\nname = \"ann\"\npassword = \"new\"\n");
    proxy.admin().await.batch_execute("RELOAD").await.unwrap();
    let after = log_in(&proxy, "ann", "new").await.unwrap();
    assert_ne!(value(&after, "SELECT pg_backend_pid()").await, pid);
    assert_eq!(refused(&proxy, "ann", "old").await, wrong_password("ann"));
    assert_eq!(value(&before, "SELECT pg_backend_pid()").await, pid, "who is connected stays so");
}

#[tokio::test]
async fn an_md5_secret_is_enough_for_servers_that_ask_for_md5() {
    let cluster = Cluster::start(1).await;
    on_all(&cluster, "SET password_encryption = 'md5'; CREATE ROLE ann LOGIN PASSWORD 'pencil'").await;
    ask_for(&cluster, "md5").await;
    let secret = secret_of(&cluster, "ann").await;
    assert!(secret.starts_with("md5"));
    let users = format!("[[users]]\nname = \"ann\"\nmd5_secret = \"{secret}\"\n");
    let proxy = proxy_of(&cluster, &users, "[[auth.rules]]\nmethod = \"md5\"").await;
    let client = log_in(&proxy, "ann", "pencil").await.unwrap();
    assert_eq!(value(&client, "SELECT current_user").await, "ann");
    assert_eq!(refused(&proxy, "ann", "pen").await, wrong_password("ann"));
}

#[tokio::test]
async fn a_plain_password_is_given_on_whatever_the_salts_are() {
    let cluster = Cluster::start(1).await;
    on_all(&cluster, "CREATE ROLE ann LOGIN PASSWORD 'pencil'").await;
    let secret = secret_of(&cluster, "ann").await;
    on_all(&cluster, "ALTER ROLE ann PASSWORD 'pencil'").await;
    ask_for(&cluster, "scram-sha-256").await;
    let users = format!("[[users]]\nname = \"ann\"\nscram_secret = \"{secret}\"\n");
    let proxy = proxy_of(&cluster, &users, "[[auth.rules]]\nmethod = \"plain\"").await;
    let client = log_in(&proxy, "ann", "pencil").await.unwrap();
    assert_eq!(value(&client, "SELECT current_user").await, "ann");
    ask_for_cleartext(&cluster).await;
    on_all(&cluster, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ann'").await;
    poll("the server asks for the password as it is", async || log_in(&proxy, "ann", "pencil").await.is_ok()).await;
}

async fn ask_for_cleartext(cluster: &Cluster) {
    let rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 password\n";
    std::fs::write(cluster.scratch.path().join("shard0/pg_hba.conf"), rules).unwrap();
    on_all(cluster, "SELECT pg_reload_conf()").await;
}

/// The function through which a user without rights looks users up, as the documentation has it.
fn lookup_of_the_docs() -> String {
    let text = std::fs::read_to_string("docs/operations.md").unwrap();
    let blocks = text.split("```");
    let found = blocks.into_iter().filter_map(|block| block.strip_prefix("sql")).find(|sql| sql.contains("user_lookup"));
    found.unwrap().to_owned()
}

const LOOKUP_LINES: &str = "[auth.query]\nuser = \"trunkline_auth\"\npassword = \"change me\"\n\
     sql = \"SELECT usename, passwd FROM trunkline_auth.user_lookup($1)\"\n";

#[tokio::test]
async fn users_are_looked_up_in_the_server() {
    let cluster = Cluster::start(2).await;
    on_all(&cluster, &lookup_of_the_docs()).await;
    // A secret is a text: the shards must have the same one for its keys to open both.
    on_all(&cluster, "CREATE ROLE ann LOGIN PASSWORD 'pencil'; CREATE ROLE gone LOGIN PASSWORD 'pencil' VALID UNTIL '2001-01-01'; CREATE ROLE mute LOGIN").await;
    on_all(&cluster, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO ann").await;
    let secret = secret_of(&cluster, "ann").await;
    on_all(&cluster, &format!("ALTER ROLE ann PASSWORD '{secret}'")).await;
    ask_for(&cluster, "scram-sha-256").await;
    let auth = format!("{LOOKUP_LINES}cache_time = \"0s\"\n");
    let proxy = cluster.proxy_with(ProxyOptions { auth: &auth, ..ProxyOptions::default() }).await;
    let client = log_in(&proxy, "ann", "pencil").await.unwrap();
    assert_eq!(value(&client, "SELECT current_user").await, "ann");
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0", "on both shards");
    assert_eq!(psql(proxy.port, "ann", "pencil").await, "ann");
    for (user, password) in
        [("ann", "pen"), ("gone", "pencil"), ("mute", ""), ("nobody", "pencil"), ("o'ann", "x"), ("postgres", "x")]
    {
        let target =
            format!("{} password=x", proxy.target("ann")).replace("user=ann", &format!("user='{}'", user.replace('\'', "\\'")));
        let told = match user {
            "o'ann" => sqlstate_of(&connect_with(&target).await.expect_err("let in")),
            _ => refused(&proxy, user, if password.is_empty() { "x" } else { password }).await,
        };
        assert_eq!(told, wrong_password(user));
    }
    // A password that expires, and one that changes, count from the next question on.
    on_all(&cluster, "ALTER ROLE ann VALID UNTIL '2001-01-01'").await;
    assert_eq!(refused(&proxy, "ann", "pencil").await, wrong_password("ann"));
    on_all(&cluster, "ALTER ROLE ann VALID UNTIL 'infinity' PASSWORD 'chalk'").await;
    assert_eq!(refused(&proxy, "ann", "pencil").await, wrong_password("ann"));
    log_in(&proxy, "ann", "chalk").await.unwrap();
    // No client's statement ever ran on the connection of the lookup, nor one of its on theirs.
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'trunkline_auth' AND query NOT LIKE '%trunkline_auth.user_lookup($1)%' AND query <> ''";
    assert_eq!(value(&cluster.direct(0).await, sql).await, "0");
}

#[tokio::test]
async fn the_default_query_reads_pg_shadow() {
    let cluster = Cluster::start(1).await;
    on_all(
        &cluster,
        "CREATE ROLE ann LOGIN PASSWORD 'pencil'; CREATE ROLE gone LOGIN PASSWORD 'pencil' VALID UNTIL '2001-01-01'",
    )
    .await;
    ask_for(&cluster, "scram-sha-256").await;
    let proxy = cluster.proxy_with(ProxyOptions { auth: "[auth.query]\nuser = \"postgres\"", ..ProxyOptions::default() }).await;
    let client = log_in(&proxy, "ann", "pencil").await.unwrap();
    assert_eq!(value(&client, "SELECT current_user").await, "ann");
    assert_eq!(refused(&proxy, "gone", "pencil").await, wrong_password("gone"));
    let nowhere = proxy.target("ann").replace(&format!("dbname={DATABASE}"), "dbname=nowhere password=pencil");
    assert_eq!(sqlstate_of(&connect_with(&nowhere).await.expect_err("let in")).0, "3D000");
}

#[tokio::test]
async fn answers_outlive_the_server_and_questions_do_not() {
    let mut cluster = Cluster::start(1).await;
    on_all(&cluster, &lookup_of_the_docs()).await;
    on_all(&cluster, "CREATE ROLE ann LOGIN PASSWORD 'pencil'").await;
    // The servers of tests commit without a flush: what is not on disk is gone with the server.
    on_all(&cluster, "CHECKPOINT").await;
    let auth = format!("{LOOKUP_LINES}cache_time = \"0s\"\n");
    let proxy = cluster.proxy_with(ProxyOptions { auth: &auth, ..ProxyOptions::default() }).await;
    log_in(&proxy, "ann", "pencil").await.unwrap();
    cluster.shards[0].kill();
    // The kept answer tells a wrong password from a right one; a user that was never asked for cannot be judged.
    assert_eq!(refused(&proxy, "ann", "pen").await, wrong_password("ann"));
    log_in(&proxy, "ann", "pencil").await.unwrap();
    let (sqlstate, told) = refused(&proxy, "bob", "pencil").await;
    assert_eq!((sqlstate.as_str(), told.as_str()), ("08006", "cannot look up users of database \"shop\""));
    cluster.shards[0].restart().await;
    poll("ann is let in again", async || log_in(&proxy, "ann", "pencil").await.is_ok()).await;
    poll("bob is asked for again", async || refused(&proxy, "bob", "pencil").await == wrong_password("bob")).await;
}

#[tokio::test]
async fn a_query_that_the_server_refuses_is_the_configurations_fault() {
    let cluster = Cluster::start(1).await;
    on_all(&cluster, &lookup_of_the_docs()).await;
    let auth = "[auth.query]\nuser = \"trunkline_auth\"\npassword = \"change me\"";
    let proxy = cluster.proxy_with(ProxyOptions { auth, ..ProxyOptions::default() }).await;
    let (sqlstate, told) = refused(&proxy, "ann", "pencil").await;
    assert_eq!((sqlstate.as_str(), told.as_str()), ("F0000", "cannot look up users of database \"shop\""));
    poll("the log says why", async || proxy.log().contains("permission denied")).await;
}

#[tokio::test]
async fn who_fails_too_often_is_refused_for_a_while() {
    let cluster = Cluster::start(1).await;
    let users = "[[users]]\nname = \"ann\"\npassword = \"pencil\"\nbackend_user = \"postgres\"\n\
                 [[users]]\nname = \"bob\"\npassword = \"pencil\"\nbackend_user = \"postgres\"\n";
    let limit = "failed_logins = 3\nfailed_login_interval = \"1h\"\n[[auth.rules]]\nmethod = \"scram-sha-256\"";
    let proxy = proxy_of(&cluster, users, limit).await;
    // A login that succeeds is not counted, and clears the count.
    for _ in 0..5 {
        assert_eq!(refused(&proxy, "ann", "pen").await, wrong_password("ann"));
        log_in(&proxy, "ann", "pencil").await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(refused(&proxy, "ann", "pen").await, wrong_password("ann"));
    }
    let too_many = ("53400".to_owned(), "too many failed logins for user \"ann\" from this address".to_owned());
    assert_eq!(refused(&proxy, "ann", "pen").await, too_many);
    assert_eq!(refused(&proxy, "ann", "pencil").await, too_many, "before the password is looked at");
    log_in(&proxy, "bob", "pencil").await.unwrap();
    // Unknown users are limited alike.
    for _ in 0..3 {
        assert_eq!(refused(&proxy, "nobody", "pen").await, wrong_password("nobody"));
    }
    assert_eq!(refused(&proxy, "nobody", "pen").await.0, "53400");
}

/// Messages and salt of one login of a user that may or may not exist.
async fn exchange_of(proxy: &Proxy, user: &str) -> (Vec<u8>, String) {
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&startup(PROTOCOL_3_0, &[("user", user), ("database", DATABASE)])).await;
    let mut tags = vec![raw.next().await.unwrap().tag];
    raw.send(&message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc")).await;
    let challenge = raw.next().await.unwrap();
    let text = String::from_utf8(challenge.body[4..].to_vec()).unwrap();
    let (nonce, salt) = text.split_once(',').unwrap();
    tags.push(challenge.tag);
    raw.send(&message(b'p', format!("c=biws,{nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").as_bytes())).await;
    let end = raw.next().await.unwrap();
    assert_eq!((end.tag, end.field(b'C').as_str(), end.field(b'S').as_str()), (b'E', "28P01", "FATAL"));
    assert!(raw.is_closed().await);
    (tags, salt.to_owned())
}

#[tokio::test]
async fn unknown_users_see_the_same_exchange() {
    let cluster = Cluster::start(1).await;
    on_all(&cluster, &lookup_of_the_docs()).await;
    let users = "[[users]]\nname = \"ann\"\npassword = \"pencil\"\n";
    let proxy = proxy_of(&cluster, users, LOOKUP_LINES).await;
    let (known, unknown) = (exchange_of(&proxy, "ann").await, exchange_of(&proxy, "nobody").await);
    assert_eq!(known.0, unknown.0);
    assert_eq!(known.1.len(), unknown.1.len(), "{known:?} {unknown:?}");
    assert_eq!((exchange_of(&proxy, "ann").await, exchange_of(&proxy, "nobody").await), (known, unknown), "the salts stay");
}

/// The answers of a Postgres server to the same bytes.
#[tokio::test]
async fn what_is_no_answer_ends_the_login() {
    let cluster = Cluster::start(1).await;
    let users = "[[users]]\nname = \"ann\"\npassword = \"pencil\"\n[[users]]\nname = \"bob\"\npassword = \"pencil\"\n";
    let rules = "[[auth.rules]]\nuser = \"bob\"\nmethod = \"plain\"\n[[auth.rules]]\nmethod = \"scram-sha-256\"";
    let proxy = proxy_of(&cluster, users, rules).await;
    let told = async |user: &str, bytes: &[u8]| {
        let mut raw = Raw::open(proxy.port).await;
        raw.send(&startup(PROTOCOL_3_0, &[("user", user), ("database", DATABASE)])).await;
        assert_eq!(raw.next().await.unwrap().tag, b'R');
        raw.try_send(bytes).await;
        let end = raw.next().await;
        end.map(|end| format!("{} {} {}", end.field(b'S'), end.field(b'C'), end.field(b'M'))).unwrap_or_default()
    };
    assert_eq!(told("ann", &message(b'Q', b"x\0")).await, "FATAL 08P01 expected SASL response, got message type 81");
    assert_eq!(told("bob", &message(b'Q', b"x\0")).await, "FATAL 08P01 expected password response, got message type 81");
    let wrong = |user| format!("FATAL 28P01 {}", wrong_password(user).1);
    assert_eq!(told("ann", &message(b'p', &[b'x'; 1_200])).await, wrong("ann"));
    assert_eq!(told("bob", &message(b'p', &[&[b'x'; 1_995][..], b"\0"].concat())).await, wrong("bob"));
    assert_eq!(told("bob", &message(b'p', &[b'x'; 70_000])).await, "", "closed without a word");
}
