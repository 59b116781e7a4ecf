//! Cursors of SQL over several shards, as programs use them: rows, memory, what is left behind, and what ends them.

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::harness::{Cluster, Single, failure, load_both, poll, rows, sqlstate_of, value};

const N_ROWS_PER_SHARD: u64 = 100_000;

fn users(numbers: impl Iterator<Item = i64>) -> Vec<String> {
    let one = |n: i64| {
        let country = ["us", "uk", "jp"][usize::try_from(n % 3).unwrap()];
        format!("INSERT INTO users (user_id, name, email, country) VALUES ({n}, 'n{}', 'e', '{country}')", n % 17)
    };
    numbers.map(one).collect()
}

/// All rows of a cursor by FETCHes of this size, as text.
async fn fetched(client: &Client, name: &str, step: usize) -> Vec<Vec<Option<String>>> {
    let mut all = Vec::new();
    loop {
        let portion = rows(client, &format!("FETCH FORWARD {step} FROM {name}")).await;
        let is_last = portion.len() < step;
        all.extend(portion);
        if is_last {
            return all;
        }
    }
}

const QUERIES: [&str; 6] = [
    "SELECT user_id, name FROM users ORDER BY user_id",
    "SELECT user_id, name, country FROM users ORDER BY country DESC, user_id LIMIT 40 OFFSET 7",
    "SELECT name, count(*), avg(user_id) FROM users GROUP BY name ORDER BY name",
    "SELECT country, string_agg(name, ',' ORDER BY user_id) FROM users GROUP BY country ORDER BY 1",
    "SELECT a.user_id, b.name FROM users a JOIN users b ON b.user_id = a.user_id + 1 ORDER BY a.user_id",
    "SELECT user_id, sum(user_id) OVER (ORDER BY user_id) FROM users ORDER BY user_id DESC",
];

#[tokio::test]
async fn every_rung_gives_a_cursor_the_rows_of_one_server() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let proxy = cluster.proxy().await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    load_both(&client, &direct, &users(1..=100)).await;
    for query in QUERIES {
        let expected = rows(&direct, query).await;
        for words in ["", "NO SCROLL", "SCROLL", "INSENSITIVE SCROLL"] {
            client.batch_execute(&format!("BEGIN; DECLARE c {words} CURSOR FOR {query}")).await.unwrap();
            assert_eq!(fetched(&client, "c", 7).await, expected, "{words} {query}");
            if words.ends_with("SCROLL") && !words.starts_with("NO") {
                let mut back = rows(&client, "FETCH BACKWARD ALL FROM c").await;
                back.reverse();
                assert_eq!(back, expected, "{query}");
            }
            client.batch_execute("COMMIT").await.unwrap();
        }
        client.batch_execute(&format!("DECLARE h CURSOR WITH HOLD FOR {query}")).await.unwrap();
        assert_eq!(fetched(&client, "h", 9).await, expected, "held: {query}");
        client.batch_execute("CLOSE h").await.unwrap();
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn cursors_take_parameters_and_binary_results() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let mut client = proxy.connect().await;
    for sql in users(1..=30) {
        client.batch_execute(&sql).await.unwrap();
    }
    for (words, query) in [
        ("", "SELECT user_id, name FROM users WHERE user_id > $1 AND country <> $2 ORDER BY user_id"),
        ("SCROLL", "SELECT user_id, name FROM users WHERE user_id > $1 AND country <> $2 ORDER BY user_id"),
        ("", "SELECT DISTINCT user_id, name FROM users WHERE user_id > $1 AND country <> $2 ORDER BY user_id"),
        ("", "SELECT max(user_id), min(name) FROM users WHERE user_id > $1 AND country <> $2 GROUP BY user_id ORDER BY 1"),
    ] {
        let params: [&(dyn ToSql + Sync); 2] = [&10_i64, &"uk"];
        let expected: Vec<i64> = (11..=30).filter(|n| n % 3 != 1).collect();
        let transaction = client.transaction().await.unwrap();
        transaction.execute(&format!("DECLARE c {words} CURSOR FOR {query}"), &params).await.unwrap();
        let fetch = transaction.prepare("FETCH 4 FROM c").await.unwrap();
        assert_eq!(fetch.columns().len(), 2);
        let mut got: Vec<i64> = Vec::new();
        loop {
            let portion = transaction.query(&fetch, &[]).await.unwrap();
            got.extend(portion.iter().map(|row| row.get::<_, i64>(0)));
            if portion.len() < 4 {
                break;
            }
        }
        assert_eq!(got, expected, "{words} {query}");
        assert_eq!(transaction.execute("MOVE 5 FROM c", &[]).await.unwrap(), 0);
        transaction.execute("CLOSE c", &[]).await.unwrap();
        transaction.commit().await.unwrap();
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn a_cursor_over_many_rows_needs_little_memory() {
    let cluster = Cluster::start(3).await;
    for shard_idx in 0..3 {
        let sql = format!(
            "INSERT INTO parts (part_id, name, weight) \
             SELECT i * 3 + {shard_idx}, repeat('n', 240), 1.5 FROM generate_series(0, {N_ROWS_PER_SHARD} - 1) i"
        );
        cluster.direct(shard_idx).await.batch_execute(&sql).await.unwrap();
    }
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    assert_eq!(value(&client, "SELECT count(*) FROM parts").await, (3 * N_ROWS_PER_SHARD).to_string());
    let before = proxy.peak_memory_kb();
    // Merged as it is read; gathered on the engine; and over rows that are moved across one by one.
    for words in ["CURSOR", "SCROLL CURSOR"] {
        client
            .batch_execute(&format!("BEGIN; DECLARE c {words} FOR SELECT part_id, name FROM parts ORDER BY part_id"))
            .await
            .unwrap();
        let mut next_id = 0;
        loop {
            let portion = client.query("FETCH 5000 FROM c", &[]).await.unwrap();
            for row in &portion {
                assert_eq!(row.get::<_, i32>(0), next_id);
                next_id += 1;
            }
            if portion.len() < 5000 {
                break;
            }
        }
        assert_eq!(u64::try_from(next_id).unwrap(), 3 * N_ROWS_PER_SHARD);
        client.batch_execute("COMMIT").await.unwrap();
    }
    client.batch_execute("BEGIN; DECLARE c NO SCROLL CURSOR FOR SELECT part_id, name FROM parts").await.unwrap();
    assert_eq!(client.batch_execute("MOVE FORWARD ALL IN c").await.map(|()| 0).unwrap(), 0);
    assert_eq!(rows(&client, "FETCH 1 FROM c").await.len(), 0);
    client.batch_execute("COMMIT").await.unwrap();
    let grown = proxy.peak_memory_kb() - before;
    assert!(grown < 24 * 1024, "the proxy grew by {grown} kB for 75 MB of rows");
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn a_held_cursor_pins_until_it_is_closed_and_its_connection_goes_back() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let (client, other) = (proxy.connect().await, proxy.connect().await);
    for sql in users(1..=20) {
        client.batch_execute(&sql).await.unwrap();
    }
    client
        .batch_execute("BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT user_id FROM users ORDER BY user_id; FETCH 2 FROM h; COMMIT")
        .await
        .unwrap();
    other.batch_execute("DELETE FROM users WHERE user_id = 5").await.unwrap();
    assert_eq!(value(&client, "FETCH ABSOLUTE 5 FROM h").await, "5");
    let (code, _) = failure(&other, "FETCH 1 FROM h").await;
    assert_eq!(code, "34000");
    proxy.wait_for_pins(&["cursor"]).await;
    client.batch_execute("CLOSE h").await.unwrap();
    proxy.wait_for_pins(&[]).await;
    // One whose client leaves goes as well.
    client.batch_execute("DECLARE h CURSOR WITH HOLD FOR SELECT user_id FROM users ORDER BY user_id").await.unwrap();
    drop(client);
    for shard_idx in 0..2 {
        let direct = cluster.direct(shard_idx).await;
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%HOLD%' AND pid <> pg_backend_pid()";
        poll("the cursor's connection is gone", async || value(&direct, sql).await == "0").await;
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn what_a_cursor_was_on_may_be_lost() {
    let mut cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    for sql in users(1..=40) {
        client.batch_execute(&sql).await.unwrap();
    }
    client.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT user_id FROM users ORDER BY user_id; FETCH 2 FROM c").await.unwrap();
    cluster.shards[1].kill();
    let error = client.simple_query("FETCH ALL FROM c").await.unwrap_err();
    let (code, _) = sqlstate_of(&error);
    assert!(code == "08006" || code == "57P01", "{code}");
    client.batch_execute("ROLLBACK").await.unwrap();
    let (code, _) = failure(&client, "FETCH 1 FROM c").await;
    assert_eq!(code, "34000");
}
