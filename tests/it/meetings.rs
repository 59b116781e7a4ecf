//! What sessions of one database do with each other: advisory locks, notifications; and the last values of sequences.

use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, ProxyOptions, Raw, beside, connect_with, failure, message, poll, text, try_rows, value};

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

/// A user of each shard, inserted through the proxy.
async fn users_by_shard(cluster: &Cluster, client: &Client) -> Vec<i64> {
    for id in 1..=40 {
        client
            .batch_execute(&format!("INSERT INTO users (user_id, name, email, country) VALUES ({id}, 'u{id}', '{id}@x', '0')"))
            .await
            .unwrap();
    }
    let mut found = Vec::new();
    for idx in 0..cluster.shards.len() {
        found.push(value(&cluster.direct(idx).await, "SELECT min(user_id) FROM users").await.parse().unwrap());
    }
    found
}

async fn reason_of(client: &Client, sql: &str) -> (String, String) {
    let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql}: succeeded"));
    let report = error.as_db_error().unwrap();
    assert!(report.hint().is_some(), "{sql}");
    (report.code().code().to_owned(), report.detail().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn two_clients_never_have_one_advisory_lock() {
    for n_shards in [1, 3] {
        let cluster = Cluster::start(n_shards).await;
        let proxy = cluster.proxy().await;
        let (first, second) = (proxy.connect().await, proxy.connect().await);
        let users = users_by_shard(&cluster, &first).await;
        // In a block after rows of any shard, and outside of one.
        for user in &users {
            first.batch_execute(&format!("BEGIN; UPDATE users SET country = '1' WHERE user_id = {user}")).await.unwrap();
            first.batch_execute("SELECT pg_advisory_xact_lock(7)").await.unwrap();
            assert_eq!(value(&second, "SELECT pg_try_advisory_lock(7)").await, "f");
            assert_eq!(value(&second, "SELECT pg_try_advisory_xact_lock(7) FROM countries UNION ALL SELECT false").await, "f");
            first.batch_execute("COMMIT").await.unwrap();
            assert_eq!(value(&second, "SELECT pg_try_advisory_xact_lock(7)").await, "t");
        }
        first.batch_execute("SELECT pg_advisory_lock(8)").await.unwrap();
        assert_eq!(value(&second, "SELECT pg_try_advisory_lock(8)").await, "f");
        // Together with rows: on their shard it is refused, unless that is where all sessions lock.
        for (idx, user) in users.iter().enumerate() {
            let sql = format!("SELECT pg_try_advisory_xact_lock(8) FROM users WHERE user_id = {user}");
            if idx == 0 {
                assert_eq!(value(&second, &sql).await, "f");
                assert_eq!(value(&first, &sql).await, "t");
            } else {
                assert_eq!(reason_of(&second, &sql).await, ("0A000".to_owned(), "Reason code TL068.".to_owned()));
            }
        }
        first.batch_execute("SELECT pg_advisory_unlock(8)").await.unwrap();
        assert_eq!(value(&second, "SELECT pg_try_advisory_lock(8)").await, "t");
    }
}

#[tokio::test]
async fn what_a_lock_protects_is_seen_by_who_has_it_next() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let users = users_by_shard(&cluster, &client).await;
    // Of one other shard, of two others, and of all.
    for written in [&users[1..2], &users[1..], &users[..]] {
        for user in written {
            client.batch_execute(&format!("UPDATE users SET country = '0' WHERE user_id = {user}")).await.unwrap();
        }
        let mut workers = Vec::new();
        for _ in 0..4 {
            let (client, written) = (proxy.connect().await, written.to_vec());
            workers.push(beside(async move {
                for _ in 0..25 {
                    client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1)").await.unwrap();
                    let mut scores = Vec::new();
                    for user in &written {
                        let score = value(&client, &format!("SELECT country FROM users WHERE user_id = {user}")).await;
                        let score: i32 = score.parse().unwrap();
                        let set = format!("UPDATE users SET country = '{}' WHERE user_id = {user}", score + 1);
                        client.batch_execute(&set).await.unwrap();
                        scores.push(score);
                    }
                    assert!(scores.iter().all(|score| *score == scores[0]), "{scores:?}");
                    client.batch_execute("COMMIT").await.unwrap();
                }
            }));
        }
        for worker in workers {
            worker.await.unwrap();
        }
        for user in written {
            let sql = format!("SELECT country FROM users WHERE user_id = {user}");
            assert_eq!(value(&client, &sql).await, "100");
        }
    }
}

#[tokio::test]
async fn a_lock_alone_makes_no_second_writer() {
    let cluster = Cluster::start_without_prepared(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let users = users_by_shard(&cluster, &client).await;
    for user in users {
        let update = format!("UPDATE users SET country = '1' WHERE user_id = {user}");
        client.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock(hashtext('x')); {update}; COMMIT")).await.unwrap();
        client.batch_execute(&format!("BEGIN; SELECT pg_advisory_lock(5); {update}; COMMIT")).await.unwrap();
        client.batch_execute("SELECT pg_advisory_unlock(5)").await.unwrap();
    }
}

/// Reads one notification, or fails.
async fn hears(listener: &mut Raw, payload: &str) {
    let heard = listener.next().await.unwrap();
    assert_eq!(heard.tag, b'A', "{heard:?}");
    assert!(heard.body.ends_with(&[&b"news\0"[..], payload.as_bytes(), b"\0"].concat()), "{payload}: {heard:?}");
}

#[tokio::test]
async fn a_notification_reaches_every_listener() {
    for n_shards in [1, 3] {
        for sections in ["", "[pool]\nmode = \"session\"\n"] {
            let cluster = Cluster::start(n_shards).await;
            let proxy = cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await;
            let speaker = proxy.connect().await;
            let users = users_by_shard(&cluster, &speaker).await;
            let (mut one, mut two) = (Raw::log_in(proxy.port).await, Raw::log_in(proxy.port).await);
            for listener in [&mut one, &mut two] {
                listener.send(&query("LISTEN news")).await;
                listener.until(b'Z').await;
            }
            let mut said = vec!["NOTIFY news, 'plain'".to_owned(), "SELECT pg_notify('news', 'plain')".to_owned()];
            for user in &users {
                said.push(format!("BEGIN; UPDATE users SET country = '2' WHERE user_id = {user}; NOTIFY news, 'plain'; COMMIT"));
                said.push(format!("BEGIN; NOTIFY news, 'plain'; UPDATE users SET country = '3' WHERE user_id = {user}; COMMIT"));
            }
            for sql in said {
                speaker.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
                hears(&mut one, "plain").await;
                hears(&mut two, "plain").await;
            }
            for (idx, user) in users.iter().enumerate() {
                let sql = format!("SELECT pg_notify('news', name) FROM users WHERE user_id = {user}");
                if idx == 0 {
                    speaker.batch_execute(&sql).await.unwrap();
                    hears(&mut one, &format!("u{user}")).await;
                    hears(&mut two, &format!("u{user}")).await;
                } else {
                    assert_eq!(reason_of(&speaker, &sql).await.1, "Reason code TL068.");
                }
            }
            // One that is rolled back is not heard, and the next is.
            speaker.batch_execute("BEGIN; NOTIFY news, 'never'; ROLLBACK; NOTIFY news, 'last'").await.unwrap();
            hears(&mut one, "last").await;
        }
    }
}

#[tokio::test]
async fn code_that_notifies_or_locks_is_not_run_where_nobody_meets() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let users = users_by_shard(&cluster, &client).await;
    client
        .batch_execute(
            "CREATE FUNCTION claim(n bigint) RETURNS boolean LANGUAGE plpgsql AS
               $$BEGIN RETURN pg_try_advisory_xact_lock(n); END$$",
        )
        .await
        .unwrap();
    for (idx, user) in users.iter().enumerate() {
        let sql = format!("SELECT claim(user_id) FROM users WHERE user_id = {user}");
        match idx {
            0 => assert_eq!(value(&client, &sql).await, "t"),
            _ => assert_eq!(reason_of(&client, &sql).await.1, "Reason code TL068."),
        }
    }
    client
        .batch_execute(
            "CREATE FUNCTION ring() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN PERFORM pg_notify('news', NEW.name); RETURN NEW; END$$",
        )
        .await
        .unwrap();
    client.batch_execute("CREATE TRIGGER ring AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION ring()").await.unwrap();
    let mut listener = Raw::log_in(proxy.port).await;
    listener.send(&query("LISTEN news")).await;
    listener.until(b'Z').await;
    for (idx, user) in users.iter().enumerate() {
        // Reads run no trigger.
        assert_eq!(value(&client, &format!("SELECT count(*) FROM users WHERE user_id = {user}")).await, "1");
        let sql = format!("UPDATE users SET country = '1' WHERE user_id = {user}");
        if idx == 0 {
            client.batch_execute(&sql).await.unwrap();
            hears(&mut listener, &format!("u{user}")).await;
        } else {
            assert_eq!(reason_of(&client, &sql).await.1, "Reason code TL068.");
        }
    }
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "40");
    client.batch_execute("DROP TRIGGER ring ON users").await.unwrap();
    client.batch_execute(&format!("UPDATE users SET country = '1' WHERE user_id = {}", users[2])).await.unwrap();
}

/// A sequence and a table that draws from one.
const SEQUENCES: &str = "CREATE SEQUENCE numbers; CREATE TABLE tickets (id serial PRIMARY KEY, name text)";

async fn proxy_of_sequences(cluster: &Cluster, sections: &str) -> Proxy {
    cluster.direct(0).await.batch_execute(SEQUENCES).await.unwrap();
    cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await
}

#[tokio::test]
async fn the_last_value_of_a_sequence_is_the_clients_own() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_of_sequences(&cluster, "[pool]\nmax_per_node = 4\nmax_pinned = 3\nkeep_sequences = true\n").await;
    let (mut first, second) = (proxy.connect().await, proxy.connect().await);
    // Others have drawn on every connection.
    for client in [&first, &second] {
        client.batch_execute("BEGIN; SELECT nextval('numbers')").await.unwrap();
    }
    for client in [&first, &second] {
        client.batch_execute("ROLLBACK; DISCARD SEQUENCES").await.unwrap();
    }
    assert_eq!(failure(&first, "SELECT currval('numbers')").await.0, "55000");
    assert_eq!(failure(&first, "SELECT lastval()").await.0, "55000");
    let drawn = value(&first, "SELECT nextval('numbers')").await;
    value(&second, "SELECT nextval('numbers')").await;
    second.batch_execute("INSERT INTO tickets (name) VALUES ('theirs')").await.unwrap();
    assert_eq!(value(&first, "SELECT currval('numbers')").await, drawn);
    assert_eq!(value(&first, "SELECT lastval()").await, drawn);
    let own = value(&first, "INSERT INTO tickets (name) VALUES ('mine') RETURNING id").await;
    second.batch_execute("INSERT INTO tickets (name) VALUES ('theirs')").await.unwrap();
    assert_eq!(value(&first, "SELECT lastval()").await, own);
    assert_eq!(value(&first, "SELECT currval('tickets_id_seq')").await, own);
    // By the extended protocol, in a block, and after a block that was rolled back.
    let transaction = first.transaction().await.unwrap();
    let own: i32 = transaction.query_one("INSERT INTO tickets (name) VALUES ($1) RETURNING id", &[&"x"]).await.unwrap().get(0);
    assert_eq!(transaction.query_one("SELECT lastval()", &[]).await.unwrap().get::<_, i64>(0), i64::from(own));
    transaction.rollback().await.unwrap();
    assert_eq!(first.query_one("SELECT lastval()", &[]).await.unwrap().get::<_, i64>(0), i64::from(own));
    proxy.wait_for_pins(&["sequence", "sequence"]).await;
    first.batch_execute("DISCARD SEQUENCES").await.unwrap();
    assert_eq!(failure(&first, "SELECT lastval()").await.0, "55000");
}

#[tokio::test]
async fn a_value_that_may_be_anothers_is_not_told() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_of_sequences(&cluster, "[pool]\nmax_per_node = 2\nmax_pinned = 1\n").await;
    let (first, second) = (proxy.connect().await, proxy.connect().await);
    // Nobody has asked yet: clients that draw share their connections.
    for client in [&first, &second] {
        client.batch_execute("SELECT nextval('numbers')").await.unwrap();
    }
    let refused = ("0A000".to_owned(), "Reason code TL106.".to_owned());
    assert_eq!(reason_of(&first, "SELECT currval('numbers')").await, refused);
    assert_eq!(reason_of(&first, "SELECT lastval()").await, refused);
    // From now on they keep them, as many as may.
    let own = value(&first, "SELECT nextval('numbers')").await;
    assert_eq!(value(&first, "SELECT currval('numbers')").await, own);
    second.batch_execute("INSERT INTO tickets (name) VALUES ('theirs')").await.unwrap();
    assert_eq!(reason_of(&second, "SELECT lastval()").await, refused);
    assert_eq!(value(&first, "SELECT lastval()").await, own);
    // A client that has drawn nothing hears what one server says to it.
    drop(first);
    let third = connect_with(&proxy.target("postgres")).await.unwrap();
    assert_eq!(failure(&third, "SELECT currval('numbers')").await.0, "55000");
    poll("the place is free", async || {
        third.batch_execute("INSERT INTO tickets (name) VALUES ('x')").await.unwrap();
        try_rows(&third, "SELECT lastval()").await.is_ok()
    })
    .await;
    let own = value(&third, "SELECT max(id) FROM tickets").await;
    assert_eq!(value(&third, "SELECT lastval()").await, own);
}

#[tokio::test]
async fn in_a_block_the_last_value_is_that_of_the_block() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_of_sequences(&cluster, "[pool]\nmax_per_node = 1\nmax_pinned = 0\nreserve = 0\n").await;
    let (mut first, second) = (proxy.connect().await, proxy.connect().await);
    for sql in ["SELECT nextval('numbers')", "INSERT INTO tickets (name) VALUES ('x')"] {
        second.batch_execute(sql).await.unwrap();
    }
    // Before anything is drawn there is none, though the server has the other client's; later its own is lost.
    for expected in ["55000", "0A000"] {
        assert_eq!(failure(&first, "BEGIN; SELECT lastval()").await.0, expected);
        first.batch_execute("ROLLBACK; BEGIN; INSERT INTO tickets (id, name) VALUES (-1, 'by hand')").await.unwrap();
        assert_eq!(failure(&first, "SELECT lastval()").await.0, "55000");
        first.batch_execute("ROLLBACK; BEGIN").await.unwrap();
        let own = value(&first, "INSERT INTO tickets (name) VALUES ('y') RETURNING id").await;
        assert_eq!(value(&first, "SELECT lastval()").await, own);
        assert_eq!(value(&first, "SELECT currval('tickets_id_seq')").await, own);
        first.batch_execute("COMMIT").await.unwrap();
        second.batch_execute("SELECT nextval('numbers')").await.unwrap();
        assert_eq!(reason_of(&first, "SELECT lastval()").await.1, "Reason code TL106.");
        let transaction = first.transaction().await.unwrap();
        transaction.query_one("SELECT 1::int8", &[]).await.unwrap();
        let own: i64 = transaction.query_one("SELECT nextval('numbers')", &[]).await.unwrap().get(0);
        assert_eq!(transaction.query_one("SELECT lastval()", &[]).await.unwrap().get::<_, i64>(0), own);
        transaction.commit().await.unwrap();
        second.batch_execute("SELECT nextval('numbers')").await.unwrap();
        let string = "INSERT INTO tickets (name) VALUES ('z'); SELECT lastval() = max(id) FROM tickets";
        assert_eq!(value(&first, string).await, "t");
    }
}

/// Blocks by prepared statements, one like the other: then a connection forgets what others have drawn with its BEGIN.
#[tokio::test]
async fn a_block_like_the_one_before_has_only_its_own_last_values() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_of_sequences(&cluster, "[pool]\nmax_per_node = 1\nmax_pinned = 0\nreserve = 0\n").await;
    let (client, other) = (proxy.connect().await, proxy.connect().await);
    let begin = client.prepare("BEGIN").await.unwrap();
    let commit = client.prepare("COMMIT").await.unwrap();
    let insert = client.prepare("INSERT INTO tickets (name) VALUES ($1) RETURNING id").await.unwrap();
    let plain = client.prepare("SELECT 1").await.unwrap();
    for round in 0..3 {
        client.execute(&begin, &[]).await.unwrap();
        client.query(&plain, &[]).await.unwrap();
        let own: i32 = client.query_one(&insert, &[&"mine"]).await.unwrap().get(0);
        assert_eq!(value(&client, "SELECT lastval()").await, own.to_string(), "{round}");
        // Only a block of its own tells: outside of it the connection goes round.
        client.execute(&commit, &[]).await.unwrap();
        other.batch_execute("BEGIN; INSERT INTO tickets (name) VALUES ('theirs'); COMMIT").await.unwrap();
    }
    client.execute(&begin, &[]).await.unwrap();
    client.query(&plain, &[]).await.unwrap();
    assert_eq!(failure(&client, "SELECT currval('tickets_id_seq')").await.0, "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    // What is to be set before the first query still can be.
    client.execute(&begin, &[]).await.unwrap();
    client.batch_execute("INSERT INTO tickets (name) VALUES ('mine'); COMMIT").await.unwrap();
    client.execute(&begin, &[]).await.unwrap();
    client.batch_execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await.unwrap();
    client.query(&plain, &[]).await.unwrap();
    assert_eq!(value(&client, "SHOW transaction_isolation").await, "serializable");
    client.execute(&commit, &[]).await.unwrap();
}

#[tokio::test]
async fn sequences_of_several_shards_are_not_told_apart() {
    let cluster = Cluster::start(3).await;
    for idx in 0..3 {
        cluster.direct(idx).await.batch_execute(SEQUENCES).await.unwrap();
    }
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    assert_eq!(reason_of(&client, "SELECT nextval('numbers')").await.1, "Reason code TL067.");
    let on = |idx: usize| format!("/* trunkline: shard=shard{idx} */ SELECT nextval('numbers')");
    assert_eq!(value(&client, &on(1)).await, "1");
    assert_eq!(value(&client, &on(1)).await, "2");
    assert_eq!(reason_of(&client, "SELECT currval('numbers')").await.1, "Reason code TL106.");
    // From now on they are kept, and asked for where they were drawn.
    assert_eq!(value(&client, &on(1)).await, "3");
    assert_eq!(value(&client, "SELECT currval('numbers')").await, "3");
    assert_eq!(value(&client, "SELECT lastval()").await, "3");
    // One that was drawn on two shards has two last values: the last of all is known, that of one sequence is not.
    assert_eq!(value(&client, &on(2)).await, "1");
    assert_eq!(value(&client, "SELECT lastval()").await, "1");
    assert_eq!(reason_of(&client, "SELECT currval('numbers')").await.1, "Reason code TL106.");
    client.batch_execute("DISCARD SEQUENCES").await.unwrap();
    assert_eq!(failure(&client, "SELECT lastval()").await.0, "55000");
}

#[tokio::test]
async fn session_pooling_keeps_sequences_as_one_server_does() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_of_sequences(&cluster, "[pool]\nmode = \"session\"\n").await;
    let (first, second) = (proxy.connect().await, proxy.connect().await);
    assert_eq!(failure(&first, "SELECT lastval()").await.0, "55000");
    let own = value(&first, "SELECT nextval('numbers')").await;
    second.batch_execute("SELECT nextval('numbers')").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        assert_eq!(value(&first, "SELECT currval('numbers')").await, own);
    })
    .await
    .unwrap();
}
