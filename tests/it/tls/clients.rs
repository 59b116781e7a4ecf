//! Clients over TLS.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::certificates::{Authority, Claim};
use super::peers::{GSS_REQUEST, SSL_REQUEST, client_config, open_asking, open_direct};
use super::{columns, complaint_of, psql, rows_of, tls_section};
use crate::harness::{
    Cluster, ClusterOptions, DATABASE, Message, ProxyOptions, Raw, Scratch, beside, message, poll, rows, startup, text,
    with_length,
};
use trunkline::demo::postgres::Login;

fn report(message: &Message) -> (u8, String, String, String) {
    (message.tag, message.field(b'S'), message.field(b'C'), message.field(b'M'))
}

#[tokio::test]
async fn psql_connects_in_each_sslmode() {
    let scratch = Scratch::new();
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let (ca, other_ca) = (authority.write(&scratch, "ca"), other.write(&scratch, "other"));
    let files = authority.issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: &tls_section(&files, ""), ..ProxyOptions::default() }).await;
    let (ca, other_ca) = (ca.display(), other_ca.display());

    for (parameters, is_encrypted) in [
        ("sslmode=disable".to_owned(), false),
        ("sslmode=prefer".to_owned(), true),
        ("sslmode=require gssencmode=disable".to_owned(), true),
        (format!("sslmode=verify-ca sslrootcert={ca}"), true),
        (format!("sslmode=verify-full sslrootcert={ca}"), true),
        (format!("sslmode=verify-full sslrootcert={ca} ssl_max_protocol_version=TLSv1.2"), true),
    ] {
        let sleeping = format!("user=postgres application_name=it {parameters}");
        let answer = rows_of(proxy.port, &sleeping, "SELECT 6 * 7").await;
        assert_eq!(answer, "42", "{parameters}");
        let port = proxy.port;
        let session = beside(async move { psql(port, &sleeping, "SELECT pg_sleep(1)").await });
        let admin = proxy.admin().await;
        let mut shown = String::new();
        poll("the client is shown", async || {
            let clients = columns(&admin, "SHOW CLIENTS", ["application_name", "state", "tls"]).await;
            let found = clients.into_iter().find(|[name, state, _]| name == "it" && state == "active");
            found.map(|[_, _, tls]| shown = tls).is_some()
        })
        .await;
        let expected = match (is_encrypted, parameters.contains("TLSv1.2")) {
            (false, _) => shown.is_empty(),
            (true, false) => shown.starts_with("TLSv1.3 TLS_"),
            (true, true) => shown.starts_with("TLSv1.2 TLS_ECDHE"),
        };
        assert!(expected, "{parameters}: shown as {shown:?}");
        assert!(session.await.unwrap().status.success());
    }
    let told = complaint_of(proxy.port, &format!("user=postgres sslmode=verify-ca sslrootcert={other_ca}")).await;
    assert!(told.contains("certificate verify failed"), "{told}");
    let named = format!("user=postgres host=db.example hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={ca}");
    let told = complaint_of(proxy.port, &named).await;
    assert!(told.contains("does not match host name \"db.example\""), "{told}");
}

/// The same bytes to a server whose pg_hba.conf knows encrypted connections only.
#[tokio::test]
async fn clear_text_is_refused_in_postgres_words_when_tls_is_required() {
    let scratch = Scratch::new();
    let authority = Authority::new("ours");
    let files = authority.issue(&scratch, "proxy", Claim::host());
    let hba = scratch.write("hba", "host all postgres 127.0.0.1/32 trust\nhostssl all all all trust\n");
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    let settings = [("ssl", "on"), ("ssl_cert_file", &cert), ("ssl_key_file", &key), ("hba_file", &hba.display().to_string())];
    let login = Login::Trust;
    let cluster = Cluster::start_with(ClusterOptions { n_shards: 1, has_replicas: false, login, settings: &settings }).await;
    let sections = tls_section(&files, "mode = \"require\"");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let startups = [
        startup(0x0003_0000, &[("user", "somebody"), ("database", DATABASE)]),
        startup(0x0003_0000, &[("user", "somebody"), ("database", "nowhere")]),
        startup(0x0003_0000, &[("user", "somebody"), ("database", DATABASE), ("replication", "true")]),
    ];
    for bytes in startups {
        let mut answers = Vec::new();
        for port in [cluster.shards[0].port(), proxy.port] {
            let mut raw = Raw::open(port).await;
            raw.send(&bytes).await;
            answers.push(report(&raw.next().await.unwrap()));
            assert!(raw.is_closed().await);
        }
        assert_eq!(answers[0], answers[1]);
        assert_eq!((answers[1].1.as_str(), answers[1].2.as_str()), ("FATAL", "28000"));
    }
    assert_eq!(rows_of(proxy.port, "user=postgres sslmode=require", "SELECT 1").await, "1");
    // A cancel request needs no encryption, as on a server.
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&with_length(&[4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 1])).await;
    assert_eq!(raw.next().await, None);
}

#[tokio::test]
async fn client_certificates_are_demanded_and_must_name_the_user() {
    let scratch = Scratch::new();
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let ca = authority.write(&scratch, "ca");
    let files = authority.issue(&scratch, "proxy", Claim::host());
    let postgres = authority.issue(&scratch, "postgres", Claim::user("postgres"));
    let ann = authority.issue(&scratch, "ann", Claim::user("ann"));
    let stranger = other.issue(&scratch, "stranger", Claim::user("postgres"));
    let late = authority.issue(&scratch, "late", Claim { is_expired: true, ..Claim::user("postgres") });
    let cluster = Cluster::start(1).await;
    let with = |files: &super::Files| {
        format!("user=postgres sslmode=require sslcert={} sslkey={}", files.cert.display(), files.key.display())
    };
    let none = "user=postgres sslmode=require";
    for mode in ["require", "verify-ca", "verify-full"] {
        let sections = tls_section(&files, &format!("mode = \"{mode}\"\nclient_ca = \"{}\"", ca.display()));
        let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
        assert_eq!(rows_of(proxy.port, &with(&postgres), "SELECT 1").await, "1", "{mode}");
        for wrong in [&stranger, &late] {
            let told = complaint_of(proxy.port, &with(wrong)).await;
            // libpq hears of it only when it reads: the handshake of TLS 1.3 is over for it by then.
            assert!(told.contains("unknown ca") || told.contains("certificate expired"), "{mode}: {told}");
        }
        if mode == "require" {
            assert_eq!(rows_of(proxy.port, none, "SELECT 1").await, "1");
        } else {
            let told = complaint_of(proxy.port, none).await;
            assert!(told.contains("FATAL:  connection requires a valid client certificate"), "{told}");
        }
        if mode == "verify-full" {
            let told = complaint_of(proxy.port, &with(&ann)).await;
            assert!(told.contains("FATAL:  certificate authentication failed for user \"postgres\""), "{told}");
        } else {
            assert_eq!(rows_of(proxy.port, &with(&ann), "SELECT 1").await, "1", "{mode}");
        }
    }
}

#[tokio::test]
async fn direct_tls_needs_alpn() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: &tls_section(&files, ""), ..ProxyOptions::default() }).await;
    let postgresql = client_config(&["postgresql"]);

    let mut raw = open_direct(proxy.port, &postgresql).await.unwrap();
    raw.log_in_by_tls().await;
    raw.send(&message(b'Q', &text("SELECT 1"))).await;
    assert_eq!(raw.tags().await, "TDCZ");
    // Asking again, now over TLS, is answered with N.
    let mut raw = open_direct(proxy.port, &postgresql).await.unwrap();
    raw.send(&SSL_REQUEST).await;
    assert_eq!(raw.read_byte().await, Some(b'N'));
    raw.log_in_by_tls().await;

    let mut silent = open_direct(proxy.port, &client_config(&[])).await.unwrap();
    silent.try_send(&startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE)])).await;
    assert_eq!(silent.next().await, None);
    let refused = open_direct(proxy.port, &client_config(&["http/1.1"])).await.err().unwrap();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");

    // Whoever asks first need not name a protocol, but not another one either.
    open_asking(proxy.port, &client_config(&[])).await.log_in_by_tls().await;
    let without = cluster.proxy().await;
    assert!(open_direct(without.port, &postgresql).await.is_err());
}

#[tokio::test]
async fn encryption_is_negotiated_once_and_in_order() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(1).await;
    let sections = tls_section(&files, "");
    let server = format!("unix_socket_dir = \"{}\"", scratch.path().display());
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, server: &server, ..ProxyOptions::default() }).await;
    let config = client_config(&[]);

    // GSSAPI is refused, and TLS may follow; after that, neither.
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&GSS_REQUEST).await;
    assert_eq!(raw.read_byte().await, Some(b'N'));
    raw.send(&SSL_REQUEST).await;
    assert_eq!(raw.read_byte().await, Some(b'S'));
    for (request, minor) in [(SSL_REQUEST, 5679), (GSS_REQUEST, 5680)] {
        let mut raw = open_asking(proxy.port, &config).await;
        raw.send(&request).await;
        let (tag, severity, sqlstate, told) = report(&raw.next().await.unwrap());
        assert_eq!((tag, severity.as_str(), sqlstate.as_str()), (b'E', "FATAL", "0A000"));
        assert!(told.starts_with(&format!("unsupported frontend protocol 1234.{minor}: server supports 3.0 to ")), "{told}");
    }
    // What comes with a request was not waited for its answer with.
    let stuffed = [SSL_REQUEST.to_vec(), startup(0x0003_0000, &[("user", "postgres")])].concat();
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&stuffed).await;
    let (_, severity, sqlstate, told) = report(&raw.next().await.unwrap());
    assert_eq!((severity.as_str(), sqlstate.as_str()), ("FATAL", "08P01"));
    assert_eq!(told, "received unencrypted data after SSL request");
    assert!(raw.is_closed().await);
    // No TLS over unix sockets.
    let mut unix = UnixStream::connect(scratch.path().join(format!(".s.PGSQL.{}", proxy.port))).await.unwrap();
    unix.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(unix.read_u8().await.unwrap(), b'N');
    // What is no handshake is told so by TLS and closed.
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&SSL_REQUEST).await;
    assert_eq!(raw.read_byte().await, Some(b'S'));
    raw.send(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(raw.is_closed().await);
    assert!(proxy.metrics().await.contains("\ntrunkline_tls_handshakes_total 2\n"));
    // The socket may be closed a moment before it is counted.
    poll("the failure is counted", async || !proxy.metrics().await.contains("\ntrunkline_tls_handshake_failures_total 0\n"))
        .await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_closed_after_the_login_timeout() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(1).await;
    let sections = tls_section(&files, "");
    let server = "login_timeout = \"300ms\"";
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, server, ..ProxyOptions::default() }).await;
    for beginning in [&SSL_REQUEST[..], &[0x16, 3, 1]] {
        let mut raw = Raw::open(proxy.port).await;
        raw.send(beginning).await;
        assert!(raw.is_closed().await, "{beginning:?}");
    }
}

#[tokio::test]
async fn a_cancel_request_over_tls_ends_the_statement() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: &tls_section(&files, ""), ..ProxyOptions::default() }).await;
    let config = client_config(&[]);
    let mut raw = open_asking(proxy.port, &config).await;
    let key = raw.log_in_by_tls().await;
    let request = with_length(&[&[4, 210, 22, 46], &key[..]].concat());
    let admin = proxy.admin().await;
    for is_encrypted in [true, false] {
        raw.send(&message(b'Q', &text("SELECT pg_sleep(60)"))).await;
        poll("the statement runs", async || {
            rows(&cluster.direct(0).await, "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'").await.len() == 1
        })
        .await;
        if is_encrypted {
            let mut cancel = open_asking(proxy.port, &config).await;
            cancel.send(&request).await;
            assert_eq!(cancel.next().await, None);
        } else {
            let mut cancel = Raw::open(proxy.port).await;
            cancel.send(&GSS_REQUEST).await;
            assert_eq!(cancel.read_byte().await, Some(b'N'));
            cancel.send(&request).await;
            assert_eq!(cancel.next().await, None);
        }
        let error = raw.until(b'Z').await.into_iter().find(|message| message.tag == b'E').unwrap();
        assert_eq!(error.field(b'C'), "57014", "{error:?}");
    }
    drop(admin);
}

/// Over one shard and over two, in both directions, more than any buffer holds.
#[tokio::test]
async fn megabytes_go_through_unchanged() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: &tls_section(&files, ""), ..ProxyOptions::default() }).await;
    let secure = "user=postgres sslmode=require";
    let long = rows_of(proxy.port, secure, "SELECT repeat('0123456789', 1000000) /* trunkline: shard=shard0 */").await;
    assert!(long.len() == 10_000_000 && long.as_bytes().chunks(10).all(|chunk| chunk == b"0123456789"));
    // A long statement, a long COPY in, and both read back.
    let mut raw = open_asking(proxy.port, &client_config(&[])).await;
    raw.log_in_by_tls().await;
    let body = "äöü,".repeat(500_000);
    raw.send(&message(b'Q', &text(&format!("INSERT INTO docs (slug, body) VALUES ('long', '{body}')")))).await;
    assert_eq!(raw.tags().await, "CZ");
    raw.send(&message(b'Q', &text("SELECT body FROM docs WHERE slug = 'long'"))).await;
    let row = raw.until(b'Z').await.into_iter().find(|message| message.tag == b'D').unwrap();
    assert!(row.body[6..] == *body.as_bytes());
    let lines: String = (0..200_000).map(|idx| format!("slug{idx}\tbody of number {idx}\n")).collect();
    let file = scratch.write("lines", &lines);
    rows_of(proxy.port, secure, &format!("\\copy docs FROM '{}'", file.display())).await;
    let mut back = Vec::new();
    for shard in ["shard0", "shard1"] {
        let sql = format!("COPY docs TO STDOUT /* trunkline: shard={shard} */");
        let copied = rows_of(proxy.port, secure, &sql).await;
        back.extend(copied.lines().filter(|line| line.starts_with("slug")).map(str::to_owned));
    }
    back.sort();
    let mut expected: Vec<&str> = lines.lines().collect();
    expected.sort_unstable();
    assert!(back == expected, "{} of {} lines came back", back.len(), expected.len());
    // The same rows merged from both shards.
    let merged = rows_of(proxy.port, secure, "SELECT slug, body FROM docs WHERE slug LIKE 'slug%'").await;
    let mut merged: Vec<String> = merged.lines().map(|line| line.replace('|', "\t")).collect();
    merged.sort();
    assert!(merged == expected, "{} of {} rows came back", merged.len(), expected.len());
}

/// The proxy gives up what only a busy client needs, and looks at the socket below TLS until there is more.
#[tokio::test]
async fn a_silent_client_is_heard_when_it_speaks_again() {
    let scratch = Scratch::new();
    let files = Authority::new("ours").issue(&scratch, "proxy", Claim::host());
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: &tls_section(&files, ""), ..ProxyOptions::default() }).await;
    let mut raw = open_asking(proxy.port, &client_config(&[])).await;
    raw.log_in_by_tls().await;
    for _ in 0..2 {
        proxy.wait_until_silent(1).await;
        raw.send(&message(b'Q', &text("SELECT 42"))).await;
        assert_eq!(raw.tags().await, "TDCZ");
    }
}
