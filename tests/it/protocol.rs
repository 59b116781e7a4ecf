//! The wire protocol: what drivers do, and what no driver would.

use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{Client, NoTls};

use crate::harness::{
    Cluster, DATABASE, Proxy, ProxyOptions, Raw, connect_with, failure, message, poll, rows, startup, text, value, with_length,
};

const PROTOCOL_3_0: u32 = 0x0003_0000;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// COPY … FROM STDIN of this text.
pub(crate) async fn copy_in(client: &Client, sql: &str, rows: &str) -> Result<u64, tokio_postgres::Error> {
    let mut sink = pin!(client.copy_in::<_, Bytes>(sql).await?);
    // Small pieces: rows span messages.
    for piece in rows.as_bytes().chunks(37) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

async fn start(n_shards: usize) -> (Cluster, Proxy) {
    let cluster = Cluster::start(n_shards).await;
    let proxy = cluster.proxy().await;
    (cluster, proxy)
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

/// Parse, Bind and Execute of unnamed statement and portal, without parameters.
fn extended(sql: &str) -> Vec<u8> {
    let parse = message(b'P', &[text(""), text(sql), vec![0, 0]].concat());
    let bind = message(b'B', &[text(""), text(""), vec![0, 0, 0, 0, 0, 0]].concat());
    let execute = message(b'E', &[text(""), vec![0, 0, 0, 0]].concat());
    [parse, bind, execute].concat()
}

fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// The log-in that every client makes, with `more` parameters.
fn log_in(version: u32, more: &[(&str, &str)]) -> Vec<u8> {
    startup(version, &[&[("user", "postgres"), ("database", DATABASE)], more].concat())
}

#[tokio::test]
async fn startup_negotiates_version_and_options() {
    let (_cluster, proxy) = start(1).await;
    for version in [PROTOCOL_3_0, PROTOCOL_3_0 + 2, PROTOCOL_3_0 + 9] {
        let mut raw = Raw::open(proxy.port).await;
        raw.send(&log_in(version, &[("_pq_.first", "1"), ("_pq_.second", "x")])).await;
        let negotiation = raw.next().await.unwrap();
        assert_eq!(negotiation.tag, b'v', "{negotiation:?}");
        assert_eq!(negotiation.body[4..8], [0, 0, 0, 2]);
        let names = String::from_utf8(negotiation.body[8..].to_vec()).unwrap();
        let mut names: Vec<&str> = names.split_terminator('\0').collect();
        names.sort_unstable();
        assert_eq!(names, ["_pq_.first", "_pq_.second"]);
        let rest = raw.until(b'Z').await;
        let keys: Vec<usize> = rest.iter().filter(|m| m.tag == b'K').map(|m| m.body.len()).collect();
        assert_eq!(keys.len(), 1);
        assert!(keys[0] >= 8, "{keys:?}");
        raw.send(&query("SELECT 1")).await;
        assert_eq!(raw.tags().await, "TDCZ");
    }
    let mut plain = Raw::open(proxy.port).await;
    plain.send(&log_in(PROTOCOL_3_0, &[])).await;
    assert_eq!(plain.next().await.unwrap().tag, b'R', "nothing to negotiate");
    let mut future = Raw::open(proxy.port).await;
    future.send(&log_in(0x0004_0000, &[])).await;
    let refusal = future.next().await.unwrap();
    assert_eq!((refusal.tag, refusal.field(b'C')), (b'E', "0A000".to_owned()));
    assert!(future.is_closed().await);
}

#[tokio::test]
async fn encryption_is_declined_and_the_log_in_goes_on() {
    let (_cluster, proxy) = start(1).await;
    let mut raw = Raw::open(proxy.port).await;
    for request in [GSSENC_REQUEST, SSL_REQUEST] {
        raw.send(&with_length(&request.to_be_bytes())).await;
        assert_eq!(raw.read_byte().await, Some(b'N'));
    }
    raw.send(&log_in(PROTOCOL_3_0, &[])).await;
    raw.until(b'Z').await;
}

#[tokio::test]
async fn bad_startups_close_the_socket() {
    let (_cluster, mut proxy) = start(1).await;
    let oversized = log_in(PROTOCOL_3_0, &[("options", &"x".repeat(10_001))]);
    let unterminated = with_length(&[&PROTOCOL_3_0.to_be_bytes()[..], b"user\0postgres"].concat());
    let without_user = startup(PROTOCOL_3_0, &[("database", DATABASE)]);
    let cases: [&[u8]; 6] = [&oversized, &unterminated, &without_user, b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 3], &[0xff; 64]];
    for (idx, bytes) in cases.into_iter().enumerate() {
        let mut raw = Raw::open(proxy.port).await;
        raw.try_send(bytes).await;
        assert!(raw.is_closed().await, "case {idx}");
    }
    assert!(proxy.is_running());
    assert_eq!(value(&proxy.connect().await, "SELECT 1").await, "1");
}

#[tokio::test]
async fn an_unknown_database_is_refused() {
    let (_cluster, proxy) = start(1).await;
    let target = format!("host=127.0.0.1 port={} user=postgres dbname=nowhere", proxy.port);
    assert_eq!(connect_with(&target).await.err().unwrap().code().unwrap().code(), "3D000");
}

#[tokio::test]
async fn scram_lets_in_only_who_knows_the_password() {
    let cluster = Cluster::start(2).await;
    let users = "[[users]]\nname = \"ada\"\npassword = \"open sesame\"\nbackend_user = \"postgres\"\n";
    let file = cluster.scratch.write("users.toml", users);
    let auth = format!("method = \"scram-sha-256\"\nfile = \"{}\"", file.display());
    let proxy = cluster.proxy_with(ProxyOptions { auth: &auth, ..ProxyOptions::default() }).await;
    let client = connect_with(&format!("{} password='open sesame'", proxy.target("ada"))).await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
    for target in [format!("{} password=wrong", proxy.target("ada")), format!("{} password=x", proxy.target("mallory"))] {
        let error = connect_with(&target).await.expect_err("let in");
        assert_eq!(error.code().unwrap().code(), "28P01", "{target}");
    }
    // A message beyond the limit of the unauthenticated is not read to its end.
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&startup(PROTOCOL_3_0, &[("user", "ada"), ("database", DATABASE)])).await;
    assert_eq!(raw.next().await.unwrap().tag, b'R');
    raw.try_send(&message(b'p', &[b'x'; 70_000])).await;
    assert!(raw.is_closed().await);
}

#[tokio::test]
async fn simple_queries_of_many_statements() {
    let (_cluster, proxy) = start(2).await;
    let mut raw = Raw::log_in(proxy.port).await;
    for (sql, tags) in [
        ("SELECT 1", "TDCZ"),
        ("SELECT 1; SELECT 2", "TDCTDCZ"),
        ("", "IZ"),
        (" ; -- nothing\n ;", "IZ"),
        ("SELECT 1;; SELECT count(*) FROM users;", "TDCTDCZ"),
        ("SELECT 1; SELEKT 2; SELECT 3", "EZ"),
        ("BEGIN; SELECT count(*) FROM users; COMMIT", "CTDCCZ"),
        ("SELECT name FROM users WHERE user_id = 1", "TCZ"),
    ] {
        raw.send(&query(sql)).await;
        assert_eq!(raw.tags().await, tags, "{sql}");
    }
}

#[tokio::test]
async fn ready_for_query_tells_the_transaction_status() {
    for n_shards in [1, 2] {
        let (_cluster, proxy) = start(n_shards).await;
        check_statuses(&mut Raw::log_in(proxy.port).await).await;
    }
}

async fn check_statuses(raw: &mut Raw) {
    for (sql, status) in [
        ("BEGIN", b'T'),
        ("SELECT count(*) FROM users", b'T'),
        ("SELECT * FROM nowhere", b'E'),
        ("SELECT 1", b'E'),
        ("ROLLBACK", b'I'),
        ("SELECT * FROM nowhere", b'I'),
        ("COMMIT", b'I'),
        ("BEGIN; SELECT 1", b'T'),
        ("SELECT count(*) FROM users; ROLLBACK", b'I'),
        ("SELECT 1; BEGIN; SELECT * FROM nowhere", b'E'),
        ("ROLLBACK; BEGIN", b'T'),
        ("COMMIT; SELECT count(*) FROM users", b'I'),
    ] {
        raw.send(&query(sql)).await;
        assert_eq!(raw.until(b'Z').await.last().unwrap().body, [status], "{sql}");
    }
}

#[tokio::test]
async fn a_pipeline_answers_in_order_and_skips_after_an_error() {
    let (_cluster, proxy) = start(2).await;
    let mut raw = Raw::log_in(proxy.port).await;
    let counting = "SELECT count(*) FROM users";
    raw.send(&[extended("SELECT 1"), extended(counting), extended("SELECT 2"), sync()].concat()).await;
    assert_eq!(raw.tags().await, "12DC12DC12DCZ");
    // Two pipelines at once, the first with an error in its midst.
    raw.send(&[extended("SELECT 1"), extended("SELEKT"), extended("SELECT 2"), sync(), extended(counting), sync()].concat())
        .await;
    assert_eq!(raw.tags().await, "12DCEZ");
    assert_eq!(raw.tags().await, "12DCZ");
    // Flush brings what is ready, without ending the pipeline.
    let parse = message(b'P', &[text("named"), text("SELECT name FROM users WHERE user_id = $1"), vec![0, 0]].concat());
    let describe = message(b'D', &[vec![b'S'], text("named")].concat());
    raw.send(&[parse, describe, message(b'H', &[])].concat()).await;
    for tag in [b'1', b't', b'T'] {
        assert_eq!(raw.next().await.unwrap().tag, tag);
    }
    raw.send(&[message(b'C', &[vec![b'S'], text("named")].concat()), sync()].concat()).await;
    assert_eq!(raw.tags().await, "3Z");
}

#[tokio::test]
async fn wrong_messages_get_their_errors() {
    let (_cluster, mut proxy) = start(2).await;
    let mut raw = Raw::log_in(proxy.port).await;
    let bind = message(b'B', &[text(""), text("missing"), vec![0, 0, 0, 0, 0, 0]].concat());
    raw.send(&[bind, sync()].concat()).await;
    assert_eq!(raw.until(b'Z').await[0].field(b'C'), "26000");
    let execute = message(b'E', &[text("missing"), vec![0, 0, 0, 0]].concat());
    raw.send(&[execute, sync()].concat()).await;
    assert_eq!(raw.until(b'Z').await[0].field(b'C'), "34000");
    for bytes in [message(b'!', b"what"), message(b'B', b"\0"), message(b'Q', b"SELECT 1")] {
        let mut raw = Raw::log_in(proxy.port).await;
        raw.send(&bytes).await;
        // What follows a malformed message of a pipeline need not be answered before the pipeline's end.
        raw.try_send(&sync()).await;
        let report = raw.next().await.unwrap();
        assert_eq!((report.tag, report.field(b'C')), (b'E', "08P01".to_owned()), "{bytes:?}");
    }
    // A length below its own four bytes: Postgres says nothing more, since the stream cannot be read on.
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&[b'Q', 0, 0, 0, 1]).await;
    assert!(raw.is_closed().await);
    let mut half = Raw::log_in(proxy.port).await;
    half.send(&query("SELECT 1")[..7]).await;
    drop(half);
    assert!(proxy.is_running());
    assert_eq!(value(&proxy.connect().await, "SELECT 1").await, "1");
}

async fn n_waiting_for_locks(shards: &[Client]) -> i32 {
    let mut n_waiting = 0;
    for shard in shards {
        let counting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        n_waiting += value(shard, counting).await.parse::<i32>().unwrap();
    }
    n_waiting
}

#[tokio::test]
async fn a_cancel_request_ends_a_statement_on_one_shard_and_on_all() {
    let (cluster, proxy) = start(3).await;
    let client = proxy.connect().await;
    let prepared = client.prepare("SELECT user_id FROM users").await.unwrap();
    // Those who look are not those who lock: within a transaction pg_stat_activity does not change.
    let (mut lockers, mut watchers) = (Vec::new(), Vec::new());
    for shard_idx in 0..3 {
        watchers.push(cluster.direct(shard_idx).await);
        let locker = cluster.direct(shard_idx).await;
        locker.batch_execute("BEGIN; LOCK TABLE users, audit").await.unwrap();
        lockers.push(locker);
    }
    for sql in ["SELECT count(*) FROM users", "SELECT name FROM users WHERE user_id = 1", "SELECT * FROM audit"] {
        let cancel = async {
            // On many shards the proxy may have one describe the statement before it asks all.
            poll("a server waits for a lock", async || n_waiting_for_locks(&watchers).await > 0).await;
            client.cancel_token().cancel_query(NoTls).await.unwrap();
        };
        let ((sqlstate, message), ()) = tokio::join!(failure(&client, sql), cancel);
        assert_eq!(sqlstate, "57014", "{sql}: {message}");
        assert_eq!(value(&client, "SELECT 1").await, "1");
    }
    // Nothing is left to describe: all three are asked, and all three are cancelled.
    let cancel = async {
        poll("all servers wait for a lock", async || n_waiting_for_locks(&watchers).await == 3).await;
        client.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (failed, ()) = tokio::join!(client.query(&prepared, &[]), cancel);
    assert_eq!(failed.unwrap_err().code().unwrap().code(), "57014");
    poll("no server waits any more", async || n_waiting_for_locks(&watchers).await == 0).await;
    // A token that names no session harms nobody.
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&with_length(&[80_877_102_u32.to_be_bytes(), 77_u32.to_be_bytes(), 78_u32.to_be_bytes()].concat())).await;
    assert!(raw.is_closed().await);
    for locker in lockers {
        locker.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
}

#[tokio::test]
async fn prepared_statements_survive_sharing_a_connection() {
    let cluster = Cluster::start(2).await;
    let sections = "[pool]\nmax_per_node = 1\n";
    let proxy = cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await;
    let (first, second) = (proxy.connect().await, proxy.connect().await);
    let insert = "INSERT INTO users (user_id, name, email, country) VALUES ($1, $2, '', 'us')";
    // The driver numbers statements: both clients have an `s0`, with different texts.
    let add = first.prepare(insert).await.unwrap();
    let find = second.prepare("SELECT name FROM users WHERE user_id = $1").await.unwrap();
    for user_id in 1..=40_i64 {
        assert_eq!(first.execute(&add, &[&user_id, &format!("u{user_id}")]).await.unwrap(), 1);
        assert_eq!(second.query_one(&find, &[&user_id]).await.unwrap().get::<_, String>(0), format!("u{user_id}"));
    }
    let find_too = first.prepare("SELECT user_id FROM users WHERE user_id = $1 AND name = $2").await.unwrap();
    assert_eq!(first.query(&find_too, &[&3_i64, &"u3"]).await.unwrap().len(), 1);
    drop(add);
    first.simple_query("SELECT 1").await.unwrap();
    assert_eq!(second.query_one(&find, &[&7_i64]).await.unwrap().get::<_, String>(0), "u7");
}

#[tokio::test]
async fn copy_goes_in_and_out() {
    let (_cluster, proxy) = start(3).await;
    let client = proxy.connect().await;
    let lines: String = (1..=1000).map(|n| format!("{n}\tname {n}\\t\\\\\te\tus\n")).collect();
    assert_eq!(copy_in(&client, "COPY users (user_id, name, email, country) FROM STDIN", &lines).await.unwrap(), 1000);
    assert_eq!(value(&client, "SELECT name FROM users WHERE user_id = 999").await, "name 999\t\\");
    let csv = "2,\"export, all\",2024-01-01,ada\n3,,2024-01-01,\"a\"\"b\"\n";
    assert_eq!(
        copy_in(&client, "COPY audit (audit_id, action, at, actor) FROM STDIN WITH (FORMAT csv, FORCE_NOT_NULL (action))", csv)
            .await
            .unwrap(),
        2
    );
    assert_eq!(copy_in(&client, "COPY countries FROM STDIN", "us\tUnited States\tamericas\n").await.unwrap(), 1);
    let mut out = pin!(client.copy_out("COPY (SELECT audit_id, actor FROM audit ORDER BY audit_id) TO STDOUT").await.unwrap());
    let mut text = Vec::new();
    while let Some(chunk) = futures_util::StreamExt::next(&mut out).await {
        text.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(String::from_utf8(text).unwrap(), "2\tada\n3\ta\"b\n");
}

#[tokio::test]
async fn copy_faults_leave_the_session_usable() {
    let (_cluster, proxy) = start(3).await;
    let client = proxy.connect().await;
    let copy = "COPY users (user_id, name, email, country) FROM STDIN";
    // A key that is no number has no shard: the proxy's refusal may come before the server's error.
    let cases: [(&str, &[&str]); 3] = [
        ("1\tn\te\tus\n\\N\tn\te\tus\n", &["23502"]),
        ("1\tn\te\tus\nx\tn\te\tus\n", &["22P02", "0A000"]),
        ("1\tn\te\tus\n2\tn\n", &["22P04"]),
    ];
    for (lines, sqlstates) in cases {
        let error = copy_in(&client, copy, lines).await.unwrap_err();
        assert!(sqlstates.contains(&error.code().unwrap().code()), "{lines}: {error:?}");
        assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
    }
    // CopyFail.
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&query(copy)).await;
    assert_eq!(raw.until(b'G').await.len(), 1);
    raw.send(&[message(b'd', b"1\tn\te\tus\n"), message(b'f', &text("changed my mind"))].concat()).await;
    let answer = raw.until(b'Z').await;
    assert_eq!((answer[0].tag, answer[0].field(b'C')), (b'E', "57014".to_owned()));
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
}

#[tokio::test]
async fn large_values_and_many_rows_pass() {
    let (_cluster, proxy) = start(3).await;
    let client = proxy.connect().await;
    let long = "ß".repeat(2_000_000);
    client.execute("INSERT INTO docs VALUES ($1, $2)", &[&"long", &long]).await.unwrap();
    assert!(client.query_one("SELECT body FROM docs WHERE slug = 'long'", &[]).await.unwrap().get::<_, String>(0) == long);
    assert!(client.query_one("SELECT body FROM docs ORDER BY slug", &[]).await.unwrap().get::<_, String>(0) == long);
    let lines: String = (1..=50_000).map(|n| format!("{n}\tn\te\tus\n")).collect();
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY users (user_id, name, email, country) FROM STDIN").await.unwrap());
    sink.send(Bytes::from(lines)).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 50_000);
    let ordered = client.query("SELECT user_id FROM users ORDER BY user_id", &[]).await.unwrap();
    assert!(ordered.iter().map(|row| row.get::<_, i64>(0)).eq(1..=50_000));
    // A client that leaves in the midst of its answer harms nobody.
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&query("SELECT * FROM users ORDER BY user_id")).await;
    raw.next().await.unwrap();
    drop(raw);
    assert_eq!(rows(&client, "SELECT count(*) FROM users").await, [[Some("50000".to_owned())]]);
}
