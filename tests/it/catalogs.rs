//! Tables that change under statements: by DDL of the same transaction, past the proxy, or by another search path. Neither a row on
//! the wrong shard nor a value read as another type's.

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, ProxyOptions, Raw, extended, failure, message, poll, rows, text, value};
use bytes::Bytes;
use futures_util::SinkExt;

const TABLES: &str = "\n[[databases.shop.tables]]\nname = 'fresh'\nkey = { hash = 'k' }\n\
    [[databases.shop.tables]]\nname = 't1.acc'\nkey = { hash = 'k' }\n\
    [[databases.shop.tables]]\nname = 't2.acc'\nkey = { hash = 'k' }\n";

async fn start() -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy_with(ProxyOptions { database: TABLES, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE fresh (n int, k int, v bigint)").await.unwrap();
    client.batch_execute("INSERT INTO fresh VALUES (1, 11, 110), (2, 12, 120), (3, 13, 130), (4, 14, 140)").await.unwrap();
    (cluster, proxy, client)
}

/// Each row is found by its key: it lies where it belongs.
async fn check_keys(client: &Client, keys: &[&str]) {
    for key in keys {
        assert_eq!(value(client, &format!("SELECT count(*) FROM fresh WHERE k = {key}")).await, "1", "{key}");
    }
    assert_eq!(value(client, "SELECT count(*) FROM fresh").await, keys.len().to_string());
}

#[tokio::test]
async fn rows_go_by_the_table_that_their_own_transaction_has_made() {
    let (_cluster, proxy, client) = start().await;
    // Another order of the columns.
    client.batch_execute("BEGIN; DROP TABLE fresh; CREATE TABLE fresh (k int, n int)").await.unwrap();
    client.batch_execute("INSERT INTO fresh VALUES (101, 1), (102, 2), (103, 3), (104, 4)").await.unwrap();
    check_keys(&client, &["101", "102", "103", "104"]).await;
    // Others see what is committed.
    let other = proxy.connect().await;
    client.batch_execute("COMMIT").await.unwrap();
    check_keys(&other, &["101", "102", "103", "104"]).await;
    check_keys(&client, &["101", "102", "103", "104"]).await;
    // Another type of the key, in one string without a block.
    client
        .batch_execute("DROP TABLE fresh; CREATE TABLE fresh (n int, k text); INSERT INTO fresh VALUES (1, '1'), (2, '2'), (3, '3'), (4, '4')")
        .await
        .unwrap();
    check_keys(&other, &["'1'", "'2'", "'3'", "'4'"]).await;
    // By COPY, and back by ROLLBACK.
    client.batch_execute("BEGIN; ALTER TABLE fresh DROP COLUMN n").await.unwrap();
    let sink = client.copy_in::<_, Bytes>("COPY fresh FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send(Bytes::from_static(b"5\n6\n7\n")).await.unwrap();
    sink.finish().await.unwrap();
    check_keys(&client, &["'1'", "'2'", "'3'", "'4'", "'5'", "'6'", "'7'"]).await;
    client.batch_execute("SAVEPOINT s; ALTER TABLE fresh ADD COLUMN m int; ROLLBACK TO s").await.unwrap();
    assert_eq!(rows(&client, "SELECT * FROM fresh ORDER BY k LIMIT 1").await, [[Some("1".to_owned())]]);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(rows(&client, "SELECT * FROM fresh ORDER BY k LIMIT 1").await, [[Some("1".to_owned()), Some("1".to_owned())]]);
    check_keys(&client, &["'1'", "'2'", "'3'", "'4'"]).await;
    // A view and a function that nobody else knows yet.
    client.batch_execute("BEGIN; CREATE VIEW seen AS SELECT k FROM fresh").await.unwrap();
    assert_eq!(value(&client, "SELECT count(DISTINCT k) FROM seen").await, "4");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_pipeline_goes_by_what_is_before_it() {
    let (_cluster, proxy, client) = start().await;
    let mut raw = Raw::log_in(proxy.port).await;
    let mut bytes = Vec::new();
    for sql in ["ALTER TABLE fresh DROP COLUMN n", "INSERT INTO fresh VALUES (21, 210), (22, 220), (23, 230), (24, 240)"] {
        bytes.extend(message(b'P', &[text(""), text(sql), vec![0, 0]].concat()));
        bytes.extend(message(b'B', &[text(""), text(""), vec![0; 6]].concat()));
        bytes.extend(message(b'E', &[text(""), vec![0; 4]].concat()));
    }
    bytes.extend(message(b'S', &[]));
    raw.send(&bytes).await;
    let answer = raw.until(b'Z').await;
    assert!(answer.iter().all(|message| message.tag != b'E'), "{answer:?}");
    check_keys(&client, &["11", "12", "13", "14", "21", "22", "23", "24"]).await;
}

const GROUPS: &str = "SELECT v, count(*) FROM fresh GROUP BY v ORDER BY v";
const ENDS: &str = "SELECT max(v), min(v) FROM fresh";

fn texts(words: &[&str]) -> Vec<Option<String>> {
    words.iter().map(|word| Some((*word).to_owned())).collect()
}

#[tokio::test]
async fn types_that_were_rolled_back_are_nobodys() {
    let (_cluster, proxy, client) = start().await;
    client.batch_execute("BEGIN; ALTER TABLE fresh ALTER COLUMN v TYPE float8 USING v + 0.5").await.unwrap();
    assert_eq!(rows(&client, ENDS).await, [texts(&["140.5", "110.5"])]);
    assert_eq!(rows(&client, GROUPS).await[0], texts(&["110.5", "1"]));
    client.batch_execute("ROLLBACK").await.unwrap();
    for client in [&client, &proxy.connect().await] {
        assert_eq!(rows(client, ENDS).await, [texts(&["140", "110"])]);
        assert_eq!(rows(client, GROUPS).await[0], texts(&["110", "1"]));
    }
    // A statement that was known before.
    client.batch_execute("BEGIN; ALTER TABLE fresh DROP COLUMN n").await.unwrap();
    assert_eq!(rows(&client, "SELECT * FROM fresh ORDER BY k LIMIT 1").await, [texts(&["11", "110"])]);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(rows(&client, "SELECT * FROM fresh ORDER BY k LIMIT 1").await, [texts(&["1", "11", "110"])]);
}

#[tokio::test]
async fn types_that_change_past_the_proxy_are_told_and_then_known() {
    let (cluster, _proxy, client) = start().await;
    let distinct = "SELECT count(DISTINCT v), max(v) FROM fresh";
    let sorted = "SELECT v FROM fresh ORDER BY v LIMIT 1";
    let all = [
        (ENDS, texts(&["140.5", "110.5"])),
        (GROUPS, texts(&["110.5", "1"])),
        (sorted, texts(&["110.5"])),
        (distinct, texts(&["4", "140.5"])),
    ];
    for (sql, _) in &all {
        rows(&client, sql).await;
    }
    for shard_idx in 0..3 {
        let server = cluster.direct(shard_idx).await;
        server.batch_execute("ALTER TABLE fresh ALTER COLUMN v TYPE float8 USING v + 0.5").await.unwrap();
    }
    // Refused as a server refuses a plan of its own that is out of date, or right: nothing between.
    for (sql, expected) in &all {
        for attempt in 0..2 {
            match client.simple_query(sql).await {
                Ok(_) => assert_eq!(rows(&client, sql).await[0], *expected, "{sql}"),
                Err(error) => {
                    let report = error.as_db_error().unwrap();
                    assert_eq!((report.code().code(), attempt), ("0A000", 0), "{sql}: {report:?}");
                    assert_eq!(report.message(), "cached plan must not change result type");
                }
            }
        }
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn a_schema_for_each_tenant_has_types_of_its_own() {
    let (_cluster, proxy, client) = start().await;
    client.batch_execute("CREATE SCHEMA t1; CREATE SCHEMA t2").await.unwrap();
    client
        .batch_execute("CREATE TABLE t1.acc (k bigint, v bigint, w text); CREATE TABLE t2.acc (k bigint, v float8)")
        .await
        .unwrap();
    client.batch_execute("INSERT INTO t1.acc VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 30, 'c'), (4, 40, 'd')").await.unwrap();
    client.batch_execute("INSERT INTO t2.acc VALUES (1, 1.5), (2, 2.5), (3, 3.5), (4, 4.5)").await.unwrap();
    let other = proxy.connect().await;
    for client in [&client, &other, &client] {
        client.batch_execute("SET search_path TO t1").await.unwrap();
        assert_eq!(rows(client, "SELECT max(v), min(v) FROM acc").await, [texts(&["40", "10"])]);
        assert_eq!(rows(client, "SELECT v, count(*) FROM acc GROUP BY v ORDER BY v").await[0], texts(&["10", "1"]));
        assert_eq!(rows(client, "SELECT * FROM acc ORDER BY k").await[0], texts(&["1", "10", "a"]));
        client.batch_execute("SET search_path TO t2").await.unwrap();
        assert_eq!(rows(client, "SELECT max(v), min(v) FROM acc").await, [texts(&["4.5", "1.5"])]);
        assert_eq!(rows(client, "SELECT v, count(*) FROM acc GROUP BY v ORDER BY v").await[0], texts(&["1.5", "1"]));
        assert_eq!(rows(client, "SELECT * FROM acc ORDER BY k").await[0], texts(&["1", "1.5"]));
    }
    assert_eq!(failure(&client, "SELECT w FROM acc ORDER BY k").await.0, "42703");
}

#[tokio::test]
async fn columns_that_move_past_the_proxy_are_known_after_a_reload() {
    let (cluster, proxy, client) = start().await;
    for shard_idx in 0..3 {
        cluster.direct(shard_idx).await.batch_execute("ALTER TABLE fresh DROP COLUMN n").await.unwrap();
    }
    proxy.admin().await.batch_execute("RELOAD").await.unwrap();
    client.batch_execute("INSERT INTO fresh VALUES (21, 210), (22, 220), (23, 230), (24, 240)").await.unwrap();
    check_keys(&client, &["11", "12", "13", "14", "21", "22", "23", "24"]).await;
}

/// Runs a text with one column by one batch, values in binary: the type that was told and the first value, or the SQLSTATE.
async fn told_and_given(raw: &mut Raw, sql: &str) -> Result<(u32, Bytes), String> {
    let (parse, bind) = (extended::parse("", sql, &[]), extended::bind("", (&[], 0), 1));
    let batch = [parse, bind, extended::describe(b'P', ""), extended::execute(0), message(b'S', b"")];
    raw.send(&batch.concat()).await;
    let answer = raw.until(b'Z').await;
    if let Some(error) = answer.iter().find(|message| message.tag == b'E') {
        return Err(error.field(b'C'));
    }
    let of =
        |tag: u8| answer.iter().find(|message| message.tag == tag).unwrap_or_else(|| panic!("{sql}: no {}", char::from(tag)));
    let told = u32::from_be_bytes(of(b'T').body[10..14].try_into().unwrap());
    Ok((told, Bytes::copy_from_slice(&of(b'D').body[6..])))
}

#[tokio::test]
async fn what_is_told_of_relayed_rows_is_what_they_are() {
    let (cluster, proxy, client) = start().await;
    client.batch_execute("ALTER TABLE countries ADD COLUMN v bigint DEFAULT 110").await.unwrap();
    client.batch_execute("INSERT INTO countries VALUES ('us', 'United States', 'us')").await.unwrap();
    let mut raw = Raw::log_in(proxy.port).await;
    let all =
        ["SELECT v FROM fresh", "SELECT v FROM fresh WHERE k IN (11, 12, 13)", "UPDATE countries SET name = 'x' RETURNING v"];
    for sql in all {
        assert_eq!(told_and_given(&mut raw, sql).await.unwrap().0, 20, "{sql}");
    }
    for shard_idx in 0..3 {
        let server = cluster.direct(shard_idx).await;
        server.batch_execute("ALTER TABLE fresh ALTER COLUMN v TYPE float8 USING v + 0.5").await.unwrap();
        server.batch_execute("ALTER TABLE countries ALTER COLUMN v TYPE float8 USING v + 0.5").await.unwrap();
    }
    for sql in all {
        match told_and_given(&mut raw, sql).await {
            Err(sqlstate) => assert_eq!(sqlstate, "0A000", "{sql}"),
            Ok((told, given)) => {
                assert_eq!((told, f64::from_be_bytes(given[..].try_into().unwrap()).fract()), (701, 0.5), "{sql}")
            }
        }
        let (told, given) = told_and_given(&mut raw, sql).await.unwrap();
        assert_eq!((told, f64::from_be_bytes(given[..].try_into().unwrap()).fract()), (701, 0.5), "{sql}");
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn a_configured_table_that_was_made_past_the_proxy_is_known_at_its_first_use() {
    let cluster = Cluster::start(3).await;
    let database = "\n[[databases.shop.tables]]\nname = 'late'\nkey = { hash = 'k' }\n\n[[databases.shop.tables]]\nname = 'later'\nkey = { hash = 'k' }\n";
    let proxy = cluster.proxy_with(ProxyOptions { database, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    for name in ["late", "later"] {
        for shard_idx in 0..3 {
            let sql = format!("CREATE TABLE {name} (k bigint, v int); INSERT INTO {name} VALUES ({shard_idx}, 7)");
            cluster.direct(shard_idx).await.batch_execute(&sql).await.unwrap();
        }
        // Gathered: the columns are to be known. By both protocols.
        let sql = format!("SELECT DISTINCT v FROM {name}");
        poll("the table is known", async || match name {
            "late" => client.simple_query(&sql).await.is_ok(),
            _ => client.query(&sql, &[]).await.is_ok(),
        })
        .await;
        assert_eq!(value(&client, &sql).await, "7");
    }
    cluster.wait_until_clean().await;
}

/// What fails by a catalog that others have changed since is run once more, by the new one.
#[tokio::test]
async fn a_read_knows_columns_that_were_renamed_past_the_proxy() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let insert = "INSERT INTO users (user_id, name, email, country) VALUES (1, 'a', 'b', 'c'), (2, 'a', 'b', 'c')";
    client.batch_execute(insert).await.unwrap();
    let reads = [
        "SELECT to_jsonb(r)::text FROM (SELECT *, count(*) OVER () AS n FROM users) r ORDER BY user_id LIMIT 1",
        "SELECT DISTINCT ON (u.email) to_jsonb(u)::text FROM users u ORDER BY u.email, u.user_id",
    ];
    for sql in reads {
        assert!(value(&client, sql).await.contains("\"country\": \"c\""));
    }
    for (idx, (old, new)) in [("country", "land"), ("land", "nation")].into_iter().enumerate() {
        for shard in 0..2 {
            cluster.direct(shard).await.batch_execute(&format!("ALTER TABLE users RENAME {old} TO {new}")).await.unwrap();
        }
        // The catalogs are read for this twice a second at most.
        poll("the read knows the column", async || client.simple_query(reads[idx]).await.is_ok()).await;
        let answer = value(&client, reads[idx]).await;
        assert!(answer.contains(&format!("\"{new}\": \"c\"")), "{answer}");
    }
}
