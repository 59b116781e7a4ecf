//! The certificate for clients is replaced while the proxy runs.

use rustix::process::Signal;

use super::certificates::{Authority, Claim};
use super::peers::{certificate_in, client_config, open_asking};
use super::{complaint_of, rows_of, tls_section};
use crate::harness::{Cluster, ProxyOptions, Scratch, message, poll, sqlstate_of, text};

#[tokio::test]
async fn certificates_for_clients_are_reloaded() {
    let scratch = Scratch::new();
    let authority = Authority::new("ours");
    let ca = authority.write(&scratch, "ca");
    let files = authority.issue(&scratch, "proxy", Claim::host());
    let old = certificate_in(&files.cert);
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: &tls_section(&files, ""), ..ProxyOptions::default() }).await;
    let config = client_config(&[]);
    let mut early = open_asking(proxy.port, &config).await;
    early.log_in_by_tls().await;
    assert_eq!(early.certificate(), old);

    // Same names, other contents.
    authority.issue(&scratch, "proxy", Claim { common_name: "renewed", ..Claim::host() });
    let new = certificate_in(&files.cert);
    assert_ne!(new, old);
    proxy.signal(Signal::HUP);
    poll("the new certificate is shown", async || open_asking(proxy.port, &config).await.certificate() == new).await;
    poll("the reload is told", async || proxy.log().contains("changed: tls")).await;

    // A key that is not the certificate's, and a file that is none: what was good stays.
    std::fs::copy(&files.key, scratch.path().join("good.key")).unwrap();
    let other = authority.issue(&scratch, "other", Claim::host());
    std::fs::copy(&other.key, &files.key).unwrap();
    let admin = proxy.admin().await;
    let error = admin.simple_query("RELOAD").await.err().unwrap();
    let detail = error.as_db_error().unwrap().detail().unwrap_or_default().to_owned();
    assert_eq!(sqlstate_of(&error).0, "22023");
    assert!(detail.contains("tls.key: the key does not belong to the certificate"), "{detail}");
    std::fs::write(&files.key, "not a key").unwrap();
    proxy.signal(Signal::HUP);
    poll("the fault is told", async || proxy.log().contains("holds no private key")).await;
    assert_eq!(open_asking(proxy.port, &config).await.certificate(), new);
    // Nobody was dropped.
    early.send(&message(b'Q', &text("SELECT 1"))).await;
    assert_eq!(early.tags().await, "TDCZ");

    // From now on clients need a certificate; those without one are told so.
    std::fs::copy(scratch.path().join("good.key"), &files.key).unwrap();
    let text = std::fs::read_to_string(&proxy.config_file).unwrap();
    let stricter = text.replace("[tls]\n", &format!("[tls]\nmode = \"verify-ca\"\nclient_ca = \"{}\"\n", ca.display()));
    std::fs::write(&proxy.config_file, stricter).unwrap();
    admin.simple_query("RELOAD").await.unwrap();
    let told = complaint_of(proxy.port, "user=postgres sslmode=require").await;
    assert!(told.contains("connection requires a valid client certificate"), "{told}");
    let own = authority.issue(&scratch, "client", Claim::user("somebody"));
    let with = format!("user=postgres sslmode=require sslcert={} sslkey={}", own.cert.display(), own.key.display());
    assert_eq!(rows_of(proxy.port, &with, "SELECT 1").await, "1");
}
