//! LOCK TABLE over several shards.

use crate::harness::{Cluster, beside, failure, poll, value};

const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND mode = 'ExclusiveLock' AND granted";

#[tokio::test]
async fn a_table_is_locked_where_it_is_until_the_transaction_ends() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let (holder, other) = (proxy.connect().await, proxy.connect().await);
    assert_eq!(failure(&holder, "LOCK TABLE users").await.0, "25P01");
    holder.batch_execute("BEGIN; LOCK TABLE users, ONLY public.audit IN EXCLUSIVE MODE").await.unwrap();
    for shard_idx in 0..3 {
        let direct = cluster.direct(shard_idx).await;
        assert_eq!(value(&direct, LOCKS).await, "1", "shard {shard_idx}");
        let of_audit = LOCKS.replace("'users'", "'audit'");
        assert_eq!(value(&direct, &of_audit).await, if shard_idx == 2 { "1" } else { "0" }, "shard {shard_idx}");
    }
    assert_eq!(failure(&other, "BEGIN; LOCK users IN ROW EXCLUSIVE MODE NOWAIT").await.0, "55P03");
    other.batch_execute("ROLLBACK").await.unwrap();
    // Reading is not in its way; a writer waits for its end.
    assert_eq!(value(&other, "SELECT count(*) FROM users").await, "0");
    let write =
        "INSERT INTO users (user_id, name, email, country) VALUES (1, 'a', '', 'us'), (2, 'b', '', 'us'), (3, 'c', '', 'us')";
    let waiting = beside(async move { other.batch_execute(write).await.map(|()| other) });
    let direct = cluster.direct(0).await;
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted";
    poll("a writer waits", async || value(&direct, waits).await != "0").await;
    assert_eq!(value(&holder, "SELECT count(*) FROM users").await, "0");
    holder.batch_execute("COMMIT").await.unwrap();
    let other = waiting.await.unwrap().unwrap();
    assert_eq!(value(&other, "SELECT count(*) FROM users").await, "3");
}

#[tokio::test]
async fn a_lock_is_refused_as_the_server_refuses_it() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    for (sql, sqlstate) in [("LOCK TABLE users IN NO MODE", "42601"), ("LOCK TABLE nowhere", "0A000"), ("LOCK TABLE", "42601")] {
        client.batch_execute("BEGIN").await.unwrap();
        assert_eq!(failure(&client, sql).await.0, sqlstate, "{sql}");
        assert_eq!(failure(&client, "SELECT 1").await.0, "25P02");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE users IN ACCESS SHARE MODE").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
    client.batch_execute("COMMIT").await.unwrap();
    cluster.wait_until_clean().await;
}
