//! Handshakes that are unusual but right, and one that is not, and streams that come in pieces or end early.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::AsyncWriteExt;
use trunkline::demo::postgres::Login;

use super::certificates::{Authority, Claim, Files};
use super::peers::{Credulous, certificate_in, client_config, dripping, forwarding, intercepting, open_asking, open_direct};
use super::{complaint_of, rows_of, tls_section};
use crate::harness::{Cluster, ClusterOptions, Proxy, ProxyOptions, Scratch, message, text};

/// Somebody on the way with a certificate of its own cannot pass a login by SCRAM on.
#[tokio::test]
async fn clients_find_out_who_reads_along() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let users = "[[users]]\nname = \"ada\"\npassword = \"open sesame\"\nbackend_user = \"postgres\"\n";
    let auth = format!("method = \"scram-sha-256\"\nfile = \"{}\"", scratch.write("users.toml", users).display());
    let cluster = Cluster::start(1).await;
    let options = ProxyOptions { sections: &tls_section(&files, ""), auth: &auth, ..ProxyOptions::default() };
    let proxy = cluster.proxy_with(options).await;
    let user = "user=ada password='open sesame' sslmode=require";
    let passing = forwarding(proxy.port).await;
    assert_eq!(rows_of(passing.port, user, "SELECT 1").await, "1");
    let thief = intercepting(proxy.port, &Authority::new("theirs").issue(&scratch, "thief", Claim::host())).await;
    let told = complaint_of(thief.port, user).await;
    assert!(told.contains("FATAL:  SCRAM channel binding check failed"), "{told}");
}

#[tokio::test]
async fn a_client_takes_up_its_session_by_a_ticket() {
    let scratch = Scratch::new();
    let authority = Authority::new("ours");
    let ca = authority.write(&scratch, "ca");
    let files = authority.issue(&scratch, "proxy", Claim::host());
    let own = authority.issue(&scratch, "postgres", Claim::user("postgres"));
    let cluster = Cluster::start(1).await;
    let plain = tls_section(&files, "");
    let verifying = tls_section(&files, &format!("mode = \"verify-full\"\nclient_ca = \"{}\"", ca.display()));
    for (sections, config) in [(plain, client_config(&[])), (verifying, with_certificate(&own))] {
        let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
        for is_resumed in [false, true] {
            let mut raw = open_asking(proxy.port, &config).await;
            raw.log_in_by_tls().await;
            raw.send(&message(b'Q', &text("SELECT 1"))).await;
            assert_eq!(raw.tags().await, "TDCZ");
            assert_eq!(raw.is_resumed(), is_resumed);
        }
    }
}

/// Handshakes and messages in pieces of one byte, on both legs.
#[tokio::test]
async fn single_bytes_make_a_handshake_too() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    let settings = [("ssl", "on"), ("ssl_cert_file", cert.as_str()), ("ssl_key_file", key.as_str())];
    let login = Login::Trust;
    let cluster = Cluster::start_with(ClusterOptions { n_shards: 1, has_replicas: false, login, settings: &settings }).await;
    let port = cluster.shards[0].port();
    let before_server = dripping(port).await;
    let sections = tls_section(&files, "[tls.server]\nmode = \"require\"");
    let sections =
        sections.replace("timeout = \"250ms\"", "timeout = \"5s\"").replace("interval = \"250ms\"", "interval = \"5s\"");
    let config = cluster.config(&ProxyOptions { sections: &sections, ..ProxyOptions::default() });
    let config = config.replace(&format!("port = {port}"), &format!("port = {}", before_server.port));
    let proxy = Proxy::start(&cluster.scratch, &config).await;
    let before_proxy = dripping(proxy.port).await;
    for mut raw in [
        open_asking(before_proxy.port, &client_config(&[])).await,
        open_direct(before_proxy.port, &client_config(&["postgresql"])).await.unwrap(),
    ] {
        raw.log_in_by_tls().await;
        raw.send(&message(b'Q', &text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))).await;
        let row = raw.until(b'Z').await.into_iter().find(|message| message.tag == b'D').unwrap();
        assert_eq!(row.body, b"\0\x01\0\0\0\x01t");
    }
}

/// A client that has said all it has to say, by TLS's farewell and the socket's, still gets its answer.
#[tokio::test]
async fn a_half_closed_client_gets_its_answer() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: &tls_section(&files, ""), ..ProxyOptions::default() }).await;
    let mut raw = open_asking(proxy.port, &client_config(&[])).await;
    raw.log_in_by_tls().await;
    raw.send(&message(b'Q', &text("SELECT pg_sleep(0.3)"))).await;
    raw.send(&message(b'Q', &text("SELECT 1"))).await;
    raw.stream.shutdown().await.unwrap();
    assert_eq!(raw.tags().await, "TDCZ");
    assert_eq!(raw.tags().await, "TDCZ");
    assert_eq!(raw.next().await, None);
}

fn with_certificate(files: &Files) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous));
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    Arc::new(builder.with_client_auth_cert(vec![certificate_in(&files.cert)], key).unwrap())
}
