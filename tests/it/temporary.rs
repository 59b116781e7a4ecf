//! Temporary tables on a database of several shards: on the home shard, in a connection that is the client's own.

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, failure, message, rows, text, value};
use crate::harness::{Message, Raw};

async fn start() -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    client
        .batch_execute("INSERT INTO countries (code, name, region) VALUES ('de', 'Germany', 'eu'), ('us', 'USA', 'us')")
        .await
        .unwrap();
    let users: Vec<String> = (1..=30).map(|id| format!("({id}, 'u{id}', 'e', 'de', '2024-01-01')")).collect();
    client.batch_execute(&format!("INSERT INTO users VALUES {}", users.join(", "))).await.unwrap();
    (cluster, proxy, client)
}

async fn check(client: &Client, sql: &str, expected: &str) {
    let rows = rows(client, sql).await;
    let texts = rows.iter().map(|row| row.iter().map(|field| field.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(","));
    assert_eq!(texts.collect::<Vec<_>>().join(" "), expected, "{sql}");
}

async fn check_code(client: &Client, sql: &str, code: &str) {
    let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql}: succeeded"));
    let report = error.as_db_error().unwrap();
    assert_eq!(report.detail(), Some(format!("Reason code {code}.").as_str()), "{sql}: {report:?}");
}

#[tokio::test]
async fn a_temporary_table_has_its_usual_life() {
    let (_cluster, proxy, client) = start().await;
    client.batch_execute("DROP TABLE IF EXISTS t; CREATE TEMP TABLE t (n int PRIMARY KEY, s text)").await.unwrap();
    proxy.wait_for_pins(&["temporary"]).await;
    client.batch_execute("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'); UPDATE t SET s = 'z' WHERE n = 3").await.unwrap();
    client.execute("INSERT INTO t VALUES ($1, $2)", &[&4, &"d"]).await.unwrap();
    client
        .batch_execute("DELETE FROM t WHERE n = 1; CREATE INDEX t_s ON t (s); ALTER TABLE t ADD COLUMN k int DEFAULT 7")
        .await
        .unwrap();
    check(&client, "SELECT * FROM t ORDER BY n", "2,b,7 3,z,7 4,d,7").await;
    assert_eq!(client.query_one("SELECT k FROM t WHERE n = $1", &[&2]).await.unwrap().get::<_, i32>(0), 7);
    let sink = client.copy_in("COPY t (n, s) FROM STDIN").await.unwrap();
    futures_util::pin_mut!(sink);
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from_static(b"5\te\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1);
    check(&client, "SELECT count(*), max(s) FROM pg_temp.t", "4,z").await;
    // With reference tables, and with those of all shards.
    check(&client, "SELECT s, name FROM t JOIN countries ON code = 'de' WHERE n = 2", "b,Germany").await;
    check(&client, "SELECT name, s FROM users JOIN t ON user_id = n ORDER BY n", "u2,b u3,z u4,d u5,e").await;
    check(&client, "SELECT count(*) FROM users WHERE user_id NOT IN (SELECT n FROM t)", "26").await;
    check(&client, "WITH x AS (SELECT n FROM t) SELECT sum(n), (SELECT count(*) FROM users) FROM x", "14,30").await;
    client.batch_execute("DROP INDEX t_s; TRUNCATE t").await.unwrap();
    check(&client, "SELECT count(*) FROM t", "0").await;
    // It is nobody else's.
    let other = proxy.connect().await;
    assert_eq!(failure(&other, "SELECT * FROM t").await.0, "42P01");
    other.batch_execute("CREATE TEMP TABLE t (other text); INSERT INTO t VALUES ('mine')").await.unwrap();
    check(&other, "SELECT * FROM t", "mine").await;
    check(&client, "SELECT count(*) FROM t WHERE s IS NULL", "0").await;
    for (end, who) in [("DROP TABLE t", &client), ("DISCARD TEMP", &other)] {
        who.batch_execute(end).await.unwrap();
        assert_eq!(failure(who, "SELECT * FROM t").await.0, "42P01");
    }
    proxy.wait_for_pins(&[]).await;
}

#[tokio::test]
async fn it_hides_a_table_of_the_configuration() {
    let (cluster, _proxy, client) = start().await;
    let by_id = client.prepare("SELECT name FROM users WHERE user_id = $1").await.unwrap();
    let all = client.prepare("SELECT count(*) FROM users").await.unwrap();
    client
        .batch_execute("CREATE TEMP TABLE users (user_id bigint, name text); INSERT INTO users VALUES (1, 'temp')")
        .await
        .unwrap();
    check(&client, "SELECT name FROM users", "temp").await;
    check(&client, "SELECT count(*) FROM public.users", "30").await;
    check(&client, "SELECT count(*) FROM public.users u JOIN users t USING (user_id)", "1").await;
    for id in 1..=6i64 {
        let names: Vec<String> = client.query(&by_id, &[&id]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(names, if id == 1 { vec!["temp".to_owned()] } else { Vec::new() });
    }
    assert_eq!(client.query_one(&all, &[]).await.unwrap().get::<_, i64>(0), 1);
    client.batch_execute("SET search_path TO public, pg_temp").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "30").await;
    client
        .batch_execute("RESET search_path; UPDATE users SET name = 'changed'; ALTER TABLE users ADD COLUMN x int")
        .await
        .unwrap();
    check_code(&client, "/* trunkline: shard=shard1 */ SELECT * FROM users", "TL062").await;
    check_code(&client, "SET trunkline.shard = shard1; SELECT * FROM users", "TL062").await;
    client.batch_execute("RESET trunkline.shard").await.unwrap();
    // What would be about it on one shard and about the real one on the others.
    check_code(&client, "CREATE TABLE copy_of (LIKE users)", "TL060").await;
    check_code(&client, "CREATE VIEW v AS SELECT * FROM users", "TL062").await;
    client.batch_execute("DROP TABLE users").await.unwrap();
    check(&client, "SELECT count(*), count(DISTINCT name) FROM users", "30,30").await;
    assert_eq!(client.query_one(&all, &[]).await.unwrap().get::<_, i64>(0), 30);
    for shard_idx in 0..3 {
        assert_ne!(value(&cluster.direct(shard_idx).await, "SELECT count(*) FROM public.users").await, "0");
    }
}

#[tokio::test]
async fn what_a_transaction_made_goes_with_it() {
    let (_cluster, proxy, client) = start().await;
    client.batch_execute("BEGIN; CREATE TEMP TABLE users (n int); INSERT INTO users VALUES (1)").await.unwrap();
    check(&client, "SELECT * FROM users", "1").await;
    client.batch_execute("ROLLBACK").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "30").await;
    client.batch_execute("BEGIN; SAVEPOINT s; CREATE TEMP TABLE users (n int)").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "0").await;
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "30").await;
    client.batch_execute("COMMIT; BEGIN; CREATE TEMP TABLE users (n int) ON COMMIT DROP").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "0").await;
    client.batch_execute("COMMIT").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "30").await;
    client
        .batch_execute("CREATE TEMP TABLE users (n int) ON COMMIT DELETE ROWS; BEGIN; INSERT INTO users VALUES (1)")
        .await
        .unwrap();
    check(&client, "SELECT * FROM users", "1").await;
    client.batch_execute("COMMIT").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "0").await;
    // A drop that is undone.
    client.batch_execute("BEGIN; DROP TABLE users").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "30").await;
    client.batch_execute("ROLLBACK").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "0").await;
    failure(&client, "CREATE TEMP TABLE users (n int)").await;
    client.batch_execute("DISCARD ALL").await.unwrap();
    check(&client, "SELECT count(*) FROM users", "30").await;
    proxy.wait_for_pins(&[]).await;
    // A transaction with it that writes all shards: only one of them may not be prepared.
    client
        .batch_execute("CREATE TEMP TABLE t (n int); BEGIN; INSERT INTO t VALUES (1); UPDATE countries SET name = 'x'; COMMIT")
        .await
        .unwrap();
    client.batch_execute("BEGIN; UPDATE countries SET name = 'y'; DELETE FROM t; COMMIT").await.unwrap();
    check(&client, "SELECT count(*), (SELECT min(name) FROM countries) FROM t", "0,y").await;
}

#[tokio::test]
async fn it_is_made_from_queries_of_one_shard() {
    let (_cluster, _proxy, client) = start().await;
    client.batch_execute("CREATE TEMP TABLE a AS SELECT code, name FROM countries WITH DATA; SELECT n INTO TEMP b FROM generate_series(1, 3) AS n").await.unwrap();
    client
        .batch_execute("CREATE TEMP TABLE c (x) ON COMMIT PRESERVE ROWS AS SELECT a.code FROM a, b WITH NO DATA")
        .await
        .unwrap();
    client.execute("CREATE TEMP TABLE d AS VALUES (1, 'x')", &[]).await.unwrap();
    client
        .batch_execute(
            "SELECT n + 1 AS m INTO TEMPORARY e FROM b WHERE n > 1; CREATE TEMP TABLE f (LIKE users INCLUDING DEFAULTS)",
        )
        .await
        .unwrap();
    check(&client, "SELECT (SELECT count(*) FROM a), (SELECT sum(n) FROM b), (SELECT count(*) FROM c)", "2,6,0").await;
    check(&client, "SELECT (SELECT count(*) FROM d), (SELECT sum(m) FROM e), (SELECT count(*) FROM f)", "1,7,0").await;
    for sql in ["CREATE TEMP TABLE g AS SELECT * FROM users", "SELECT count(*) INTO TEMP g FROM users"] {
        check_code(&client, sql, "TL038").await;
    }
    for sql in [
        "CREATE TEMP TABLE g () INHERITS (users)",
        "CREATE TEMP VIEW g AS SELECT 1",
        "/* trunkline: shard=shard1 */ CREATE TEMP TABLE g (n int)",
    ] {
        check_code(&client, sql, "TL062").await;
    }
    check_code(&client, "INSERT INTO b SELECT user_id FROM users", "TL016").await;
}

#[tokio::test]
async fn names_are_known_within_one_pipeline() {
    let (_cluster, proxy, _client) = start().await;
    let mut raw = Raw::log_in(proxy.port).await;
    let run = |sql: &str| {
        [
            message(b'P', &[text(""), text(sql), vec![0, 0]].concat()),
            message(b'B', &[text(""), text(""), vec![0, 0, 0, 0, 0, 0]].concat()),
            message(b'E', &[text(""), vec![0, 0, 0, 0]].concat()),
        ]
        .concat()
    };
    let pipeline = |all: &[&str]| [all.iter().map(|sql| run(sql)).collect::<Vec<_>>().concat(), message(b'S', &[])].concat();
    let tags = |all: &[Message]| -> String { all.iter().map(|message| char::from(message.tag)).collect() };
    raw.send(&pipeline(&["CREATE TEMP TABLE users (n int)", "INSERT INTO users VALUES (7)", "SELECT * FROM users"])).await;
    let answer = raw.until(b'Z').await;
    assert_eq!(tags(&answer), "12C12C12DCZ", "{answer:?}");
    raw.send(&pipeline(&["DROP TABLE users", "SELECT count(*) FROM users"])).await;
    let answer = raw.until(b'Z').await;
    assert_eq!(tags(&answer), "12C12DCZ", "{answer:?}");
    assert!(answer[5].body.ends_with(b"30"));
}
