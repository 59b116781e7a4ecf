//! Clients that say nothing: the proxy folds their sessions up, and they do not notice.

use rustix::process::Signal;

use crate::harness::{Cluster, DATABASE, ProxyOptions, Raw, connect_with, message, poll, startup, text, value};

/// Clients whose memory is looked at.
const N_CLIENTS: u64 = 800;

/// Most bytes that the process may have grown by for one of them.
const MAX_BYTES: u64 = 3 * 1024;

#[tokio::test]
async fn a_silent_client_finds_its_session_as_it_left_it() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let target = format!("{} application_name=first options='-c search_path=public,other'", proxy.target("postgres"));
    let client = connect_with(&target).await.unwrap();
    client.batch_execute("INSERT INTO users VALUES (1, 'one', 'e', 'us')").await.unwrap();
    let named = client.prepare("SELECT name FROM users WHERE user_id = $1").await.unwrap();
    client
        .batch_execute("PREPARE told AS SELECT 7; SET timezone = 'Asia/Tokyo'; SET trunkline.allow_scatter = off")
        .await
        .unwrap();
    for _ in 0..2 {
        proxy.wait_until_silent(1).await;
        assert_eq!(client.query_one(&named, &[&1_i64]).await.unwrap().get::<_, String>(0), "one");
        for (sql, expected) in [
            ("EXECUTE told", "7"),
            ("SHOW timezone", "Asia/Tokyo"),
            ("SHOW search_path", "public,other"),
            ("SHOW application_name", "first"),
            ("SHOW trunkline.allow_scatter", "off"),
        ] {
            assert_eq!(value(&client, sql).await, expected, "{sql}");
        }
    }
    proxy.wait_until_silent(1).await;
    client.batch_execute("RESET ALL").await.unwrap();
    assert_ne!(value(&client, "SHOW timezone").await, "Asia/Tokyo");
    assert_eq!(value(&client, "SHOW search_path").await, "public,other");
}

/// Whoever holds a server connection is not folded: it hears what the server says.
#[tokio::test]
async fn a_client_with_a_connection_of_its_own_hears_its_notifications() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut listener = Raw::log_in(proxy.port).await;
    listener.send(&message(b'Q', &text("LISTEN news"))).await;
    listener.until(b'Z').await;
    let mut open = Raw::log_in(proxy.port).await;
    open.send(&message(b'Q', &text("BEGIN; INSERT INTO users VALUES (2, 'n', 'e', 'us')"))).await;
    open.until(b'Z').await;
    let mut half = Raw::log_in(proxy.port).await;
    half.send(&message(b'Q', &text("SELECT 1"))[..4]).await;
    let teller = proxy.connect().await;
    teller.batch_execute("SELECT 1").await.unwrap();
    // The others have said nothing for longer.
    proxy.wait_until_silent(1).await;
    teller.batch_execute("NOTIFY news").await.unwrap();
    assert_eq!(listener.next().await.unwrap().tag, b'A');
    open.send(&message(b'Q', &text("COMMIT"))).await;
    open.until(b'Z').await;
    assert_eq!(value(&teller, "SELECT count(*) FROM users").await, "1");
    half.send(&message(b'Q', &text("SELECT 1"))[4..]).await;
    assert_eq!(half.tags().await, "TDCZ");
}

#[tokio::test]
async fn a_silent_client_is_told_of_its_end() {
    let cluster = Cluster::start(1).await;
    let sections = "[query]\nidle_session_timeout = \"4s\"";
    let proxy = cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await;
    let mut raw = Raw::log_in(proxy.port).await;
    proxy.wait_until_silent(1).await;
    assert_eq!(raw.next().await.unwrap().field(b'C'), "57P05");
    assert!(raw.is_closed().await);
    let mut raw = Raw::log_in(proxy.port).await;
    proxy.wait_until_silent(1).await;
    proxy.signal(Signal::TERM);
    assert_eq!(raw.next().await.unwrap().field(b'C'), "57P01");
    assert!(raw.is_closed().await);
}

/// A statement that comes together with the startup packet is not waited for.
#[tokio::test]
async fn a_client_that_does_not_wait_for_its_login_is_served() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut raw = Raw::open(proxy.port).await;
    let login = startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE)]);
    raw.send(&[login, message(b'Q', &text("SELECT 42"))].concat()).await;
    raw.until(b'Z').await;
    assert_eq!(raw.tags().await, "TDCZ");
    proxy.wait_until_silent(1).await;
}

#[tokio::test]
async fn a_silent_client_takes_little_memory() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    assert_eq!(value(&proxy.connect().await, "SELECT 1").await, "1");
    proxy.wait_until_silent(0).await;
    let before = proxy.memory_bytes();
    let mut clients = Vec::new();
    for _ in 0..N_CLIENTS {
        clients.push(Raw::log_in(proxy.port).await);
    }
    proxy.wait_until_silent(clients.len()).await;
    let grown = || proxy.memory_bytes().saturating_sub(before) / N_CLIENTS;
    assert!(grown() <= MAX_BYTES, "{} bytes per client", grown());
    // All at once, so that each waits for a connection.
    for client in &mut clients {
        client.send(&message(b'Q', &text("SELECT 1"))).await;
    }
    for client in &mut clients {
        client.until(b'Z').await;
    }
    poll("what they needed is given back", async || grown() <= MAX_BYTES).await;
}
