//! Servers over TLS.

use super::certificates::{Authority, Claim, Files, self_signed};
use super::peers::{SSL_REQUEST, forwarding, intercepting};
use super::{columns, complaint_of, psql, rows_of};
use crate::harness::{
    Cluster, ClusterOptions, DATABASE, PATIENCE, Postgres, Proxy, ProxyOptions, QUICK_HEALTH, Raw, Scratch, beside, connect_with,
    message, poll, rows, sqlstate_of, text, value,
};
use trunkline::demo::postgres::Login;

/// So that failed probes do not take the node away before a client has heard why.
const SLOW_HEALTH: &str = "[health]\ninterval = \"60s\"\ntimeout = \"5s\"\nfall = 1000\n";
const CLEAR: &str = "user=postgres sslmode=disable";
const OWN_SSL: &str = "SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// A server with TLS, its certificate in files that can be replaced.
struct TlsServer {
    cluster: Cluster,
    scratch: Scratch,
    authority: Authority,
    ca: String,
}

impl TlsServer {
    async fn start(hba: &str, login: Login, n_shards: usize) -> Self {
        let scratch = Scratch::new();
        let authority = Authority::new("ours");
        let ca = authority.write(&scratch, "ca").display().to_string();
        let files = authority.issue(&scratch, "server", Claim::host());
        let hba = scratch.write("hba", hba).display().to_string();
        let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
        let settings =
            [("ssl", "on"), ("ssl_cert_file", &*cert), ("ssl_key_file", &*key), ("ssl_ca_file", &*ca), ("hba_file", &*hba)];
        let cluster = Cluster::start_with(ClusterOptions { n_shards, has_replicas: false, login, settings: &settings }).await;
        Self { cluster, scratch, authority, ca }
    }

    /// One that trusts everybody.
    async fn trusting() -> Self {
        Self::start("host all all 127.0.0.1/32 trust\n", Login::Trust, 1).await
    }

    fn server(&self) -> &Postgres {
        &self.cluster.shards[0]
    }

    /// A proxy with these lines in `[tls.server]`.
    async fn proxy(&self, lines: &str) -> Proxy {
        let sections = format!("{QUICK_HEALTH}[tls.server]\n{lines}\n");
        self.cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await
    }

    fn identity(&self, name: &str, claim: Claim<'_>) -> String {
        let Files { cert, key } = self.authority.issue(&self.scratch, name, claim);
        format!("cert = \"{}\"\nkey = \"{}\"", cert.display(), key.display())
    }
}

/// A proxy before one node, which need not be a server of ours.
async fn proxy_before(scratch: &Scratch, host: &str, port: u16, tls: &str) -> Proxy {
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[auth]\nmethod = \"trust\"\n{SLOW_HEALTH}\
         [tls.server]\n{tls}\n[databases.{DATABASE}]\ncontrol = {{ user = \"postgres\" }}\n\
         [[databases.{DATABASE}.shards]]\nname = \"one\"\nnodes = [{{ host = \"{host}\", port = {port} }}]\n"
    );
    Proxy::start(scratch, &config).await
}

#[tokio::test]
async fn servers_are_reached_in_each_mode() {
    let servers = TlsServer::trusting().await;
    let direct = servers.cluster.direct(0).await;
    let with_ca = |mode: &str| format!("mode = \"{mode}\"\nca = \"{}\"", servers.ca);
    for (lines, is_encrypted) in [
        ("mode = \"off\"".to_owned(), false),
        (String::new(), true),
        ("mode = \"require\"".to_owned(), true),
        (with_ca("verify-ca"), true),
        (with_ca("verify-full"), true),
    ] {
        let proxy = servers.proxy(&lines).await;
        let expected = if is_encrypted { "t|" } else { "f|" };
        assert_eq!(rows_of(proxy.port, CLEAR, OWN_SSL).await, expected, "{lines}");
        let [[told]] = &columns(&proxy.admin().await, "SHOW SERVERS", ["tls"]).await[..] else { panic!("not one server") };
        assert!(if is_encrypted { told.starts_with("TLSv1.3 TLS_") } else { told.is_empty() }, "{lines}: {told}");
        let control = "SELECT coalesce(string_agg(DISTINCT ssl::text, ','), '') FROM pg_stat_ssl \
                       JOIN pg_stat_activity USING (pid) WHERE application_name = 'trunkline control'";
        poll("the probes are seen", async || value(&direct, control).await == is_encrypted.to_string()).await;
        drop(proxy);
        poll("the proxy's connections are gone", async || value(&direct, control).await.is_empty()).await;
    }
    // One database may differ.
    let options = ProxyOptions { database: "tls = { mode = \"off\" }", ..ProxyOptions::default() };
    let proxy = servers.cluster.proxy_with(options).await;
    assert_eq!(rows_of(proxy.port, CLEAR, OWN_SSL).await, "f|");
}

#[tokio::test]
async fn a_server_that_is_not_believed_is_refused_with_the_reason() {
    let mut servers = TlsServer::trusting().await;
    let scratch = Scratch::new();
    let port = servers.server().port();
    let here = Claim::host();
    let verify_ca = proxy_before(&scratch, "127.0.0.1", port, &format!("mode = \"verify-ca\"\nca = \"{}\"", servers.ca)).await;
    let lines = format!("mode = \"verify-full\"\nca = \"{}\"", servers.ca);
    let verify_full = proxy_before(&scratch, "localhost", port, &lines).await;
    let (ours, theirs) = (&servers.authority, &Authority::new("theirs"));
    let elsewhere = Claim { hosts: &["db.example"], ..here };
    let cases: [(&Authority, Claim<'_>, &Proxy, Option<&str>); 7] = [
        (ours, here, &verify_full, None),
        (theirs, here, &verify_ca, Some("UnknownIssuer")),
        (ours, Claim { is_expired: true, ..here }, &verify_ca, Some("expired")),
        (ours, elsewhere, &verify_ca, None),
        (ours, elsewhere, &verify_full, Some("not valid for name")),
        // The CN counts where there is nothing else.
        (ours, Claim::user("LOCALHOST"), &verify_full, None),
        (ours, Claim::user("elsewhere"), &verify_full, Some("not valid for")),
    ];
    for (authority, claim, proxy, expected) in cases {
        authority.issue(&servers.scratch, "server", claim);
        servers.cluster.shards[0].restart().await;
        // For a moment after a failure the pool tells that one again.
        let mut told = String::new();
        poll("the new certificate is judged", async || {
            let output = psql(proxy.port, CLEAR, OWN_SSL).await;
            told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            told.contains(expected.unwrap_or("t|"))
        })
        .await;
        assert_eq!(told.contains("cannot connect to shard \"one\" at "), expected.is_some(), "{told}");
        assert_eq!(told.contains("TLS handshake failed: invalid peer certificate: "), expected.is_some(), "{told}");
    }
    // The probes say it, too.
    let proxy = proxy_before(&scratch, "127.0.0.1", port, &lines).await;
    let nodes = columns(&proxy.admin().await, "SHOW NODES", ["fault"]).await;
    assert!(nodes[0][0].contains("not valid for"), "{nodes:?}");
    // A certificate that has signed itself is believed when it is the authority.
    let own = self_signed(&servers.scratch, "server");
    servers.cluster.shards[0].restart().await;
    let lines = format!("mode = \"verify-full\"\nca = \"{}\"", own.cert.display());
    let proxy = proxy_before(&scratch, "localhost", port, &lines).await;
    assert_eq!(rows_of(proxy.port, CLEAR, OWN_SSL).await, "t|");
}

/// A server that does what no Postgres would, once the probes have found it good.
#[tokio::test]
async fn odd_answers_to_the_request_close_the_connection() {
    let scratch = Scratch::new();
    let cluster = Cluster::start(1).await;
    // AuthenticationOk and ReadyForQuery, put in by somebody on the way.
    let cases: [(&'static [u8], &str); 4] = [
        (b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "received unencrypted data after SSL response"),
        (b"NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "received unencrypted data after SSL response"),
        (b"E\0\0\0\x10SFATAL\0Mno\0\0", "server sent an error response during SSL exchange"),
        (b"H", "received invalid response to SSL negotiation"),
    ];
    for (answer, expected) in cases {
        let listener = forwarding(cluster.shards[0].port()).await;
        let proxy = proxy_before(&scratch, "127.0.0.1", listener.port, "").await;
        listener.answer_from_now_on(answer);
        let error = connect_with(&proxy.target("postgres")).await.err().unwrap();
        let (sqlstate, told) = sqlstate_of(&error);
        assert_eq!(sqlstate, "08006", "{told}");
        assert!(told.ends_with(expected), "{told}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required() {
    let servers = TlsServer::trusting().await;
    let scratch = Scratch::new();
    let listener = forwarding(servers.server().port()).await;
    let proxy = proxy_before(&scratch, "127.0.0.1", listener.port, "mode = \"require\"").await;
    listener.answer_from_now_on(b"N");
    let error = connect_with(&proxy.target("postgres")).await.err().unwrap();
    let (sqlstate, told) = sqlstate_of(&error);
    assert_eq!(sqlstate, "08006");
    assert!(told.ends_with("server does not support SSL, but SSL was required"), "{told}");
    let clear = Cluster::start(1).await;
    let proxy = proxy_before(&scratch, "127.0.0.1", clear.shards[0].port(), "").await;
    assert_eq!(rows_of(proxy.port, CLEAR, OWN_SSL).await, "f|");
}

#[tokio::test]
async fn the_proxy_shows_its_certificate_to_servers() {
    let hba = "hostnossl all all 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 cert\n";
    let servers = TlsServer::start(hba, Login::Trust, 1).await;
    let own = servers.identity("proxy", Claim::user("postgres"));
    let proxy = servers.proxy(&format!("mode = \"require\"\n{own}")).await;
    assert_eq!(rows_of(proxy.port, CLEAR, OWN_SSL).await, "t|/CN=postgres/O=Acme\\, Inc.");
    let without = servers.proxy("mode = \"require\"").await;
    let told = complaint_of(without.port, CLEAR).await;
    assert!(told.contains("FATAL:  connection requires a valid client certificate"), "{told}");
}

/// Whoever reads along by a certificate of its own can pass a trusting login on, but not one by SCRAM.
#[tokio::test]
async fn scram_is_bound_to_the_servers_certificate() {
    let hba = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostnossl all all 127.0.0.1/32 trust\n";
    let servers = TlsServer::start(hba, Login::Scram { password: "open sesame".to_owned() }, 1).await;
    let users = "[[users]]\nname = \"postgres\"\npassword = \"open sesame\"\n";
    let auth = format!("method = \"trust\"\nfile = \"{}\"", servers.scratch.write("users.toml", users).display());
    let control = "{ user = \"postgres\", password = \"open sesame\" }";
    let sections = format!("{SLOW_HEALTH}[tls.server]\nmode = \"require\"\n");
    let options = ProxyOptions { auth: &auth, control, sections: &sections, ..ProxyOptions::default() };
    let config = servers.cluster.config(&options);
    let proxy = servers.cluster.proxy_with(options).await;
    assert_eq!(rows_of(proxy.port, CLEAR, OWN_SSL).await, "t|");
    assert_eq!(columns(&proxy.admin().await, "SHOW NODES", ["role"]).await, [["primary".to_owned()]]);

    let port = servers.server().port();
    let thief = intercepting(port, &Authority::new("theirs").issue(&servers.scratch, "thief", Claim::host())).await;
    let moved = config.replace(&format!("port = {port}"), &format!("port = {}", thief.port));
    let proxy = Proxy::start(&Scratch::new(), &moved).await;
    let told = complaint_of(proxy.port, CLEAR).await;
    assert!(told.contains("SCRAM channel binding check failed"), "{told}");
    assert!(!thief.openings().is_empty());
}

#[tokio::test]
async fn cancel_requests_are_encrypted_like_the_connection() {
    let servers = TlsServer::trusting().await;
    let scratch = Scratch::new();
    let on_the_way = forwarding(servers.server().port()).await;
    let proxy = proxy_before(&scratch, "127.0.0.1", on_the_way.port, "mode = \"require\"").await;
    let client = connect_with(&proxy.target("postgres")).await.unwrap();
    let token = client.cancel_token();
    let n_before = on_the_way.openings().len();
    let sleeping = beside(async move { client.batch_execute("SELECT pg_sleep(60)").await });
    let direct = servers.cluster.direct(0).await;
    let is_running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
    poll("the statement runs", async || value(&direct, is_running).await == "1").await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = sleeping.await.unwrap().err().unwrap();
    assert_eq!(sqlstate_of(&error).0, "57014");
    let openings = on_the_way.openings();
    assert!(openings.len() > n_before && openings.iter().all(|opening| *opening == SSL_REQUEST), "{openings:?}");
}

#[tokio::test]
async fn an_idle_encrypted_connection_is_used_again_and_a_dead_one_is_found() {
    let mut servers = TlsServer::trusting().await;
    let proxy = servers.proxy("mode = \"require\"").await;
    let pid = "SELECT pg_backend_pid()";
    let first = rows_of(proxy.port, CLEAR, pid).await;
    for _ in 0..3 {
        assert_eq!(rows_of(proxy.port, CLEAR, pid).await, first);
    }
    let client = connect_with(&proxy.target("postgres")).await.unwrap();
    assert_eq!(value(&client, pid).await, first);
    // One that the server ends by itself says farewell, by a message and by TLS.
    let direct = servers.cluster.direct(0).await;
    direct.batch_execute(&format!("SELECT pg_terminate_backend({first}, 10000)")).await.unwrap();
    let second = value(&client, pid).await;
    assert_ne!(second, first);
    drop(direct);
    servers.cluster.shards[0].kill();
    let admin = proxy.admin().await;
    poll("upkeep has closed what is dead", async || rows(&admin, "SHOW SERVERS").await.is_empty()).await;
    servers.cluster.shards[0].restart().await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while client.simple_query(pid).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the server is back and not used");
    }
    assert_ne!(value(&client, pid).await, second);
}

/// On every leg of the way encrypted, over one shard and over three, and in the middle of it the buffers of TLS.
#[tokio::test]
async fn megabytes_go_to_servers_and_back_unchanged() {
    let servers = TlsServer::start("host all all 127.0.0.1/32 trust\n", Login::Trust, 3).await;
    let proxy = servers.proxy("mode = \"require\"").await;
    let lines: String = (0..300_000).map(|idx| format!("slug{idx:06}\tbody of number {idx}\n")).collect();
    let file = servers.scratch.write("lines", &lines);
    rows_of(proxy.port, CLEAR, &format!("\\copy docs FROM '{}'", file.display())).await;
    let merged = rows_of(proxy.port, CLEAR, "SELECT slug, body FROM docs").await;
    let mut merged: Vec<String> = merged.lines().map(|line| line.replace('|', "\t")).collect();
    merged.sort();
    assert!(merged.iter().eq(lines.lines()), "{} rows came back", merged.len());
    // A statement of megabytes, and an answer of as many while the next statements are already on their way.
    let mut raw = Raw::log_in(proxy.port).await;
    let body = "äöü,".repeat(500_000);
    let insert = message(b'Q', &text(&format!("INSERT INTO docs (slug, body) VALUES ('long', '{body}')")));
    let select = message(b'Q', &text("SELECT body FROM docs WHERE slug = 'long'"));
    raw.send(&[insert, select.repeat(5)].concat()).await;
    assert_eq!(raw.tags().await, "CZ");
    for _ in 0..5 {
        let row = raw.until(b'Z').await.into_iter().find(|message| message.tag == b'D').unwrap();
        assert!(row.body[6..] == *body.as_bytes());
    }
    let shown = columns(&proxy.admin().await, "SHOW SERVERS", ["tls"]).await;
    assert!(shown.len() >= 3 && shown.iter().all(|[tls]| tls.starts_with("TLSv1.3")), "{shown:?}");
}

/// Replaced authorities are believed from the reload on, and clients that are connected go on.
#[tokio::test]
async fn authorities_of_servers_are_reloaded() {
    let mut servers = TlsServer::trusting().await;
    let ca = servers.authority.write(&servers.scratch, "proxy-ca");
    let proxy = servers.proxy(&format!("mode = \"verify-full\"\nca = \"{}\"", ca.display())).await;
    let client = connect_with(&proxy.target("postgres")).await.unwrap();
    let admin = proxy.admin().await;
    let next = Authority::new("next year's");
    next.issue(&servers.scratch, "server", Claim::host());
    // A faulty file changes nothing.
    std::fs::write(&ca, "no certificate").unwrap();
    let (sqlstate, _) = sqlstate_of(&admin.simple_query("RELOAD").await.err().unwrap());
    assert_eq!(sqlstate, "22023");
    assert_eq!(value(&client, "SELECT 1").await, "1");
    servers.cluster.shards[0].restart().await;
    let error = client.simple_query("SELECT 1").await.err().unwrap();
    assert!(["08006", "57P03"].contains(&sqlstate_of(&error).0.as_str()), "{error:?}");
    next.write(&servers.scratch, "proxy-ca");
    admin.simple_query("RELOAD").await.unwrap();
    assert_eq!(value(&client, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await, "t");
}
