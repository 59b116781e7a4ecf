//! Clients that say nothing, read nothing, or are gone: what they held is free again.

use std::time::{Duration, Instant};

use crate::admin::column;
use crate::harness::{Cluster, Message, Proxy, ProxyOptions, QUICK_HEALTH, Raw, connect_to, failure, message, poll, text, value};

async fn proxy_with(cluster: &Cluster, server: &str, sections: &str) -> Proxy {
    let sections = format!("{sections}\n{QUICK_HEALTH}");
    cluster.proxy_with(ProxyOptions { server, sections: &sections, ..ProxyOptions::default() }).await
}

/// Statements of the proxy's clients that run on a shard.
async fn n_running(cluster: &Cluster, shard_idx: usize) -> String {
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    value(&cluster.direct(shard_idx).await, sql).await
}

async fn wait_until_free(proxy: &Proxy) {
    let admin = proxy.admin().await;
    poll("leases are back", async || column(&admin, "SHOW POOLS", "leased").await.iter().all(|n| n == "0")).await;
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

/// The fields that Postgres always sends, but for where in its source it was.
fn fields(report: &Message) -> [String; 4] {
    [b'S', b'V', b'C', b'M'].map(|code| report.field(code))
}

/// The last words of a server to a session that has sent these.
async fn last_words(port: u16, queries: &[&str]) -> Message {
    let mut raw = Raw::log_in(port).await;
    for sql in queries {
        raw.send(&query(sql)).await;
        raw.until(b'Z').await;
    }
    let words = raw.next().await.unwrap();
    assert_eq!(words.tag, b'E');
    assert!(raw.next().await.is_none(), "the socket is closed behind it");
    words
}

#[tokio::test]
async fn a_silent_client_is_sent_away_in_postgres_s_words() {
    let cluster = Cluster::start(1).await;
    let limits = "[query]\nidle_session_timeout = \"300ms\"\nidle_in_transaction_timeout = \"300ms\"";
    let proxy = proxy_with(&cluster, "", limits).await;
    let direct = cluster.shards[0].port();
    let set = "SET idle_session_timeout = '300ms'; SET idle_in_transaction_session_timeout = '300ms'";
    for (begin, sqlstate) in [("SELECT 1", "57P05"), ("BEGIN", "25P03"), ("BEGIN; SELECT 1/0", "25P03")] {
        let expected = last_words(direct, &[set, begin]).await;
        let words = last_words(proxy.port, &[begin]).await;
        assert_eq!((fields(&words), words.field(b'C').as_str()), (fields(&expected), sqlstate), "{begin}");
    }
    // A client that says something now and then stays.
    let mut raw = Raw::log_in(proxy.port).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(900) {
        raw.send(&query("SELECT pg_sleep(0.1)")).await;
        assert_eq!(raw.tags().await, "TDCZ");
    }
}

#[tokio::test]
async fn a_silent_transaction_is_rolled_back_and_its_connection_free() {
    let cluster = Cluster::start(1).await;
    let database = "[databases.shop.query]\nidle_in_transaction_timeout = \"300ms\"";
    let proxy = cluster.proxy_with(ProxyOptions { database, ..ProxyOptions::default() }).await;
    let words = last_words(proxy.port, &["BEGIN; INSERT INTO users VALUES (1, 'n', 'e', 'us')"]).await;
    assert_eq!(words.field(b'C'), "25P03");
    wait_until_free(&proxy).await;
    assert_eq!(value(&proxy.connect().await, "SELECT count(*) FROM users").await, "0");
    let direct = cluster.direct(0).await;
    let in_transaction = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    poll("no transaction is open", async || value(&direct, in_transaction).await == "0").await;
}

#[tokio::test]
async fn a_transaction_s_time_ends_the_session_wherever_it_stands() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, "", "[query]\ntransaction_timeout = \"600ms\"").await;
    for sql in ["BEGIN; INSERT INTO users VALUES (1, 'n', 'e', 'us')", "BEGIN; SELECT 1"] {
        let words = last_words(proxy.port, &[sql]).await;
        assert_eq!((words.field(b'S').as_str(), words.field(b'C').as_str()), ("FATAL", "25P04"));
        assert_eq!(words.field(b'M'), "terminating connection due to transaction timeout");
    }
    // In the middle of a statement, with or without BEGIN; statements before it do not begin the time anew.
    for begin in ["BEGIN; SELECT pg_sleep(0.3)", "SELECT 1"] {
        let mut raw = Raw::log_in(proxy.port).await;
        raw.send(&query(begin)).await;
        raw.until(b'Z').await;
        raw.send(&query("SELECT pg_sleep(600)")).await;
        let words = raw.until(b'E').await.pop().unwrap();
        assert_eq!((words.field(b'S').as_str(), words.field(b'C').as_str()), ("FATAL", "25P04"), "{begin}");
        assert!(raw.next().await.is_none());
    }
    poll("nothing runs", async || n_running(&cluster, 0).await == "0").await;
    wait_until_free(&proxy).await;
    // Transactions that end in time are not counted together.
    let client = proxy.connect().await;
    for _ in 0..4 {
        client.batch_execute("BEGIN; SELECT pg_sleep(0.2); COMMIT").await.unwrap();
    }
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let cluster = Cluster::start(2).await;
    let proxy = proxy_with(&cluster, "client_write_timeout = \"500ms\"", "").await;
    let wide = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";
    let one = format!("/* trunkline: shard=shard0 */ {wide}");
    let both = "SELECT repeat('x', 1000), u.user_id FROM users u ORDER BY user_id";
    let filler = connect_to(proxy.port, crate::harness::DATABASE).await;
    let rows: Vec<String> = (1..=20_000).map(|n| format!("({n}, 'n', 'e', 'us')")).collect();
    filler.batch_execute(&format!("INSERT INTO users VALUES {}", rows.join(", "))).await.unwrap();
    let before = proxy.peak_memory_kb();
    for sql in [one.as_str(), both] {
        let mut raw = Raw::log_in(proxy.port).await;
        raw.send(&query(sql)).await;
        let admin = proxy.admin().await;
        poll("it runs", async || column(&admin, "SHOW POOLS", "leased").await.iter().any(|n| n != "0")).await;
        wait_until_free(&proxy).await;
        let clients = async || column(&admin, "SHOW CLIENTS", "state").await.len();
        poll("the client is out", async || clients().await == 1).await;
        let direct = cluster.direct(0).await;
        let active =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%repeat%' AND pid <> pg_backend_pid()";
        poll("the server is free", async || value(&direct, active).await == "0").await;
        drop(raw);
    }
    // The answers have a gigabyte, and 20 megabytes.
    let grown = proxy.peak_memory_kb() - before;
    assert!(grown < 8 << 10, "what was not read has taken {grown} kB");
}

#[tokio::test]
async fn a_client_that_vanishes_has_its_statement_cancelled() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&query("SELECT pg_sleep(600)")).await;
    poll("it runs", async || n_running(&cluster, 0).await == "1").await;
    raw.reset();
    let started = Instant::now();
    poll("nothing runs", async || n_running(&cluster, 0).await == "0").await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    wait_until_free(&proxy).await;
}

#[tokio::test]
async fn a_client_that_vanishes_has_its_statement_cancelled_on_every_shard() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let mut raw = Raw::log_in(proxy.port).await;
    let direct = [cluster.direct(0).await, cluster.direct(1).await];
    let n_waiting = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%count(%'";
        [value(&cluster.direct(0).await, sql).await, value(&cluster.direct(1).await, sql).await]
    };
    for shard in &direct {
        shard.batch_execute("BEGIN; LOCK TABLE users").await.unwrap();
    }
    raw.send(&query("SELECT count(*) FROM users")).await;
    // Where its columns are not known yet, one shard is asked for them first.
    poll("it waits", async || n_waiting().await.contains(&"1".to_owned())).await;
    raw.reset();
    poll("it waits on none", async || n_waiting().await == ["0", "0"]).await;
    for shard in &direct {
        shard.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(value(&proxy.connect().await, "SELECT count(*) FROM users").await, "0");
    for shard in &direct {
        shard.batch_execute("BEGIN; LOCK TABLE users").await.unwrap();
    }
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&query("SELECT count(*) FROM users")).await;
    poll("it waits on both", async || n_waiting().await == ["1", "1"]).await;
    raw.reset();
    poll("it waits on none", async || n_waiting().await == ["0", "0"]).await;
    wait_until_free(&proxy).await;
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer_within_the_grace() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, "half_closed_grace = \"20s\"", "").await;
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&query("SELECT pg_sleep(2.5)")).await;
    raw.half_close().await;
    assert_eq!(raw.tags().await, "TDCZ");
    assert!(raw.next().await.is_none());
}

#[tokio::test]
async fn a_half_closed_client_s_statement_is_cancelled_after_the_grace() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, "half_closed_grace = \"500ms\"", "").await;
    let mut raw = Raw::log_in(proxy.port).await;
    // What it has sent behind the statement stays unread in its socket.
    raw.send(&[query("SELECT pg_sleep(600)"), query("SELECT 1")].concat()).await;
    poll("it runs", async || n_running(&cluster, 0).await == "1").await;
    raw.half_close().await;
    poll("nothing runs", async || n_running(&cluster, 0).await == "0").await;
    wait_until_free(&proxy).await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_the_queue() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, "", "[pool]\nmax_per_node = 1\nreserve = 0\ncheckout_timeout = \"25s\"").await;
    let holder = proxy.connect().await;
    let mut raw = Raw::log_in(proxy.port).await;
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    raw.send(&query("SELECT 1")).await;
    let admin = proxy.admin().await;
    let waiting = async || column(&admin, "SHOW POOLS", "waiting").await;
    poll("it waits", async || waiting().await == ["1"]).await;
    raw.reset();
    poll("nobody waits", async || waiting().await == ["0"]).await;
    holder.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_statement_s_own_timeout_leaves_the_session() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(
        &cluster,
        "",
        "[query]\ntimeout = \"400ms\"\ntransaction_timeout = \"20s\"\n[pool]\ncheckout_timeout = \"400ms\"",
    )
    .await;
    let client = proxy.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(failure(&client, "SELECT pg_sleep(600)").await.0, "57014");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT 1").await, "1");
}

/// CopyData whose header promises a hundred bytes, with three of them.
const BEGUN: &[u8] = b"d\0\0\0\x6891\t";

#[tokio::test]
async fn a_copy_whose_data_does_not_come_is_given_up() {
    for n_shards in [1, 3] {
        let cluster = Cluster::start(n_shards).await;
        let proxy =
            proxy_with(&cluster, "", "[pool]\nmax_per_node = 1\nreserve = 0\n[query]\ncopy_data_timeout = \"300ms\"").await;
        for table in ["audit", "users", "countries"] {
            // Silent between two messages: the COPY fails, and the session goes on.
            let mut raw = Raw::log_in(proxy.port).await;
            raw.send(&query(&format!("COPY {table} FROM STDIN"))).await;
            raw.until(b'G').await;
            let error = raw.until(b'E').await.pop().unwrap();
            assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("ERROR", "57014"), "{table}");
            raw.until(b'Z').await;
            raw.send(&query("SELECT 1")).await;
            raw.until(b'Z').await;
            // In the middle of a message: nothing can follow.
            raw.send(&query(&format!("COPY {table} FROM STDIN"))).await;
            raw.until(b'G').await;
            raw.send(BEGUN).await;
            let error = raw.until(b'E').await.pop().unwrap();
            assert_eq!((error.field(b'S').as_str(), error.field(b'C').as_str()), ("FATAL", "57014"), "{table}");
            assert!(raw.next().await.is_none());
            wait_until_free(&proxy).await;
            let client = proxy.connect().await;
            assert_eq!(value(&client, &format!("SELECT count(*) FROM {table}")).await, "0");
            assert_eq!(value(&cluster.direct(0).await, "SELECT count(*) FROM pg_prepared_xacts").await, "0");
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_copy_that_has_failed_is_not_waited_for_without_end() {
    for n_shards in [1, 3] {
        let cluster = Cluster::start(n_shards).await;
        let proxy = proxy_with(&cluster, "", "[query]\ncopy_data_timeout = \"300ms\"").await;
        let mut raw = Raw::log_in(proxy.port).await;
        raw.send(&query("COPY audit FROM STDIN")).await;
        raw.until(b'G').await;
        raw.send(&[&message(b'd', b"what\n")[..], BEGUN].concat()).await;
        let mut codes = Vec::new();
        while let Some(message) = raw.next().await {
            if message.tag == b'E' {
                codes.push(message.field(b'C'));
            }
        }
        assert_eq!(codes.last().map(String::as_str), Some("57014"), "{codes:?}");
        wait_until_free(&proxy).await;
    }
}
