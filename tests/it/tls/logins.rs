//! What TLS changes about logins: channel binding, certificates as proof, and which rules fit.

use super::certificates::{Authority, Claim, Files};
use super::{complaint_of, rows_of, tls_section};
use crate::harness::{Cluster, Proxy, ProxyOptions};

/// A proxy with TLS, with `server.crt` for itself and `clients.crt` as the clients' authority, and the certificate of a client.
async fn proxy_with(cluster: &Cluster, common_name: &str, users: &str, auth: &str) -> (Proxy, Files) {
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let files = authority.issue(&cluster.scratch, "server", Claim::host());
    let client = clients.issue(&cluster.scratch, "client", Claim::user(common_name));
    let client_ca = clients.write(&cluster.scratch, "clients");
    let sections = tls_section(&files, &format!("client_ca = \"{}\"", client_ca.display()));
    let users = cluster.scratch.write("users.toml", users);
    let auth = format!("file = \"{}\"\n{auth}", users.display());
    let server = format!("unix_socket_dir = \"{}\"", cluster.scratch.path().display());
    let options = ProxyOptions { auth: &auth, sections: &sections, server: &server, ..ProxyOptions::default() };
    (cluster.proxy_with(options).await, client)
}

const ANN: &str = "[[users]]\nname = \"ann\"\npassword = \"pencil\"\nbackend_user = \"postgres\"\n";

#[tokio::test]
async fn scram_is_bound_to_the_certificate() {
    let cluster = Cluster::start(1).await;
    let (proxy, _) = proxy_with(&cluster, "x", ANN, "[[auth.rules]]\nmethod = \"scram-sha-256\"").await;
    let login = "user=ann password=pencil sslmode=require";
    for binding in ["require", "prefer", "disable"] {
        let parameters = format!("{login} channel_binding={binding}");
        assert_eq!(rows_of(proxy.port, &parameters, "SELECT current_user").await, "postgres", "{binding}");
    }
    let wrong = complaint_of(proxy.port, "user=ann password=pen sslmode=require channel_binding=require").await;
    assert!(wrong.contains("FATAL:  password authentication failed for user \"ann\""), "{wrong}");
    let clear = complaint_of(proxy.port, "user=ann password=pencil sslmode=disable channel_binding=require").await;
    assert!(clear.contains("channel binding"), "{clear}");
}

#[tokio::test]
async fn a_certificate_logs_in_the_users_that_it_may() {
    let cluster = Cluster::start(1).await;
    cluster.direct(0).await.batch_execute("CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN").await.unwrap();
    let rules =
        "[[auth.rules]]\nuser = \"ann\"\nmethod = \"cert\"\nmap = { \"robot 7\" = \"ann\" }\n[[auth.rules]]\nmethod = \"cert\"";
    let (proxy, client) = proxy_with(&cluster, "robot 7", ANN, rules).await;
    let shown = format!("sslmode=require sslcert='{}' sslkey='{}'", client.cert.display(), client.key.display());
    let mapped = rows_of(proxy.port, &format!("user=ann {shown}"), "SELECT current_user").await;
    assert_eq!(mapped, "postgres", "the users file says as whom");
    let other = complaint_of(proxy.port, &format!("user=bob {shown}")).await;
    assert!(other.contains("FATAL:  certificate authentication failed for user \"bob\""), "{other}");
    let none = complaint_of(proxy.port, "user=ann sslmode=require").await;
    assert!(none.contains("FATAL:  connection requires a valid client certificate"), "{none}");
    let clear = complaint_of(proxy.port, "user=ann sslmode=disable").await;
    let words = "FATAL:  no pg_hba.conf entry for host \"127.0.0.1\", user \"ann\", database \"shop\", no encryption";
    assert!(clear.contains(words), "{clear}");
}

#[tokio::test]
async fn rules_tell_transports_apart() {
    let cluster = Cluster::start(1).await;
    let rules = "[[auth.rules]]\ntransport = \"unix\"\nmethod = \"trust\"\n[[auth.rules]]\ntransport = \"tls\"\nmethod = \"plain\"\n\
                 [[auth.rules]]\ntransport = \"clear\"\nmethod = \"reject\"";
    let (proxy, _) = proxy_with(&cluster, "x", ANN, rules).await;
    assert_eq!(rows_of(proxy.port, "user=ann password=pencil sslmode=require", "SELECT 1").await, "1");
    let wrong = complaint_of(proxy.port, "user=ann password=pen sslmode=require").await;
    assert!(wrong.contains("FATAL:  password authentication failed for user \"ann\""), "{wrong}");
    let clear = complaint_of(proxy.port, "user=ann password=pencil sslmode=disable").await;
    let words = "FATAL:  pg_hba.conf rejects connection for host \"127.0.0.1\", user \"ann\", database \"shop\", no encryption";
    assert!(clear.contains(words), "{clear}");
    let unix = format!("host={} user=ann", cluster.scratch.path().display());
    assert_eq!(rows_of(proxy.port, &unix, "SELECT 1").await, "1", "psql takes the last host");
}
