//! Rows of several shards in portions, as drivers with a fetch size ask for them.

use crate::harness::{Cluster, Raw, message, text, value};

const N_ROWS_PER_SHARD: u64 = 100_000;

/// Fills `parts` on every shard past the proxy: what is merged is not looked at for its place. Each row has some 250 bytes.
async fn fill_parts(cluster: &Cluster) {
    for shard_idx in 0..cluster.shards.len() {
        let n_shards = cluster.shards.len();
        let sql = format!(
            "INSERT INTO parts (part_id, name, weight) \
             SELECT i * {n_shards} + {shard_idx}, repeat('n', 240), 1.5 FROM generate_series(0, {N_ROWS_PER_SHARD} - 1) i"
        );
        cluster.direct(shard_idx).await.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test]
async fn a_suspended_portal_over_many_rows_needs_little_memory() {
    let cluster = Cluster::start(3).await;
    fill_parts(&cluster).await;
    let proxy = cluster.proxy().await;
    let mut client = proxy.connect().await;
    assert_eq!(value(&client, "SELECT count(*) FROM parts").await, (3 * N_ROWS_PER_SHARD).to_string());
    let before = proxy.peak_memory_kb();
    let transaction = client.transaction().await.unwrap();
    let sorted = transaction.prepare("SELECT part_id, name FROM parts ORDER BY part_id").await.unwrap();
    let sorted = transaction.bind(&sorted, &[]).await.unwrap();
    // Rows as they come from the shards, opened now and read last.
    let plain = transaction.prepare("SELECT part_id FROM parts").await.unwrap();
    let plain = transaction.bind(&plain, &[]).await.unwrap();
    let mut next_id = 0;
    loop {
        let rows = transaction.query_portal(&sorted, 10_000).await.unwrap();
        for row in &rows {
            assert_eq!(row.get::<_, i32>(0), next_id);
            next_id += 1;
        }
        if rows.len() < 10_000 {
            break;
        }
        // Between two portions the backends are at rest.
        let counted = transaction.query_one("SELECT count(*) FROM parts WHERE part_id < 100", &[]).await.unwrap();
        assert_eq!(counted.get::<_, i64>(0), 100);
    }
    assert_eq!(u64::try_from(next_id).unwrap(), 3 * N_ROWS_PER_SHARD);
    let (mut n_rows, mut sum) = (0, 0);
    loop {
        let rows = transaction.query_portal(&plain, 777).await.unwrap();
        n_rows += rows.len() as u64;
        sum += rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).sum::<i64>();
        if rows.len() < 777 {
            break;
        }
    }
    assert_eq!((n_rows, sum), (300_000, 299_999 * 300_000 / 2));
    let grown = proxy.peak_memory_kb() - before;
    assert!(grown < 24 * 1024, "the proxy grew by {grown} kB for 75 MB of rows");
    transaction.rollback().await.unwrap();
    // Nothing is left on the shards.
    drop(client);
    for shard_idx in 0..3 {
        let direct = cluster.direct(shard_idx).await;
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        assert_eq!(value(&direct, sql).await, "0");
    }
}

#[tokio::test]
async fn a_portal_whose_shard_was_lost_fails_and_the_session_goes_on() {
    let mut cluster = Cluster::start(2).await;
    for shard_idx in 0..2 {
        let sql = format!("INSERT INTO parts (part_id) SELECT 2 * i + {shard_idx} FROM generate_series(1, 5000) i");
        cluster.direct(shard_idx).await.batch_execute(&sql).await.unwrap();
    }
    let proxy = cluster.proxy().await;
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&message(b'Q', &text("BEGIN"))).await;
    raw.until(b'Z').await;
    let parse = message(b'P', &[text("s"), text("SELECT part_id FROM parts ORDER BY part_id"), vec![0, 0]].concat());
    let bind = message(b'B', &[text("p"), text("s"), vec![0, 0, 0, 0, 0, 0]].concat());
    let execute = message(b'E', &[text("p"), vec![0, 0, 0, 3]].concat());
    let sync = message(b'S', &[]);
    raw.send(&[&parse[..], &bind, &execute, &sync].concat()).await;
    assert_eq!(raw.tags().await, "12DDDsZ");
    cluster.shards[1].kill();
    // What is there already can still be given; the first that needs the shard fails.
    let mut answer = String::new();
    for _ in 0..1000 {
        raw.send(&[&execute[..], &sync].concat()).await;
        let messages = raw.until(b'Z').await;
        if let Some(error) = messages.iter().find(|message| message.tag == b'E') {
            answer = error.field(b'C');
            break;
        }
    }
    // The server may have had the time to say so itself.
    assert!(answer == "08006" || answer == "57P01", "{answer}");
    raw.send(&message(b'Q', &text("ROLLBACK"))).await;
    assert_eq!(raw.tags().await, "CZ");
    raw.send(&message(b'Q', &text("SELECT 1"))).await;
    assert_eq!(raw.tags().await, "TDCZ");
}
