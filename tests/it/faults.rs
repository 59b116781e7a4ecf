//! Servers that stall, die and come back.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use trunkline::demo::postgres::Login;

use crate::harness::{
    Cluster, ClusterOptions, Proxy, ProxyOptions, QUICK_HEALTH, beside, connect_with, failure, poll, rows, try_rows, value,
};

async fn fill(client: &Client) {
    let values: Vec<String> = (1..=100).map(|n| format!("({n}, 'n{n}', 'e', 'us')")).collect();
    let sql = format!("INSERT INTO users (user_id, name, email, country) VALUES {}", values.join(", "));
    client.batch_execute(&sql).await.unwrap();
}

/// A user of each shard, found past the proxy.
async fn user_of(cluster: &Cluster, shard_idx: usize) -> String {
    value(&cluster.direct(shard_idx).await, "SELECT min(user_id) FROM users").await
}

/// Connections of the proxy's clients that do anything on this shard.
async fn n_active(cluster: &Cluster, shard_idx: usize) -> String {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    value(&cluster.direct(shard_idx).await, sql).await
}

/// All leases are back: no pool counts a connection in use.
async fn wait_until_free(proxy: &Proxy) {
    let admin = proxy.admin().await;
    poll("leases are back", async || crate::admin::column(&admin, "SHOW POOLS", "leased").await.iter().all(|n| n == "0")).await;
}

#[tokio::test]
async fn a_stalled_shard_times_out_and_frees_its_connections() {
    let cluster = Cluster::start(3).await;
    let sections = format!(
        "[pool]\ncheckout_timeout = \"500ms\"\nconnect_timeout = \"500ms\"\n[query]\ntimeout = \"1s\"\nshard_timeout = \"1s\"\n{QUICK_HEALTH}"
    );
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    fill(&client).await;
    let (stalled, sound) = (user_of(&cluster, 1).await, user_of(&cluster, 0).await);
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "100");
    cluster.shards[1].pause();
    let started = Instant::now();
    let (sqlstate, message) = failure(&client, "SELECT name FROM users ORDER BY user_id").await;
    assert_eq!(sqlstate, "57014", "{message}");
    assert!(message.contains("shard1"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // The session goes on, with the shards that answer.
    assert_eq!(rows(&client, &format!("SELECT user_id FROM users WHERE user_id = {sound}")).await, [[Some(sound.clone())]]);
    // Single-shard reads of the stalled one get an error and no hang.
    let failed = try_rows(&client, &format!("SELECT name FROM users WHERE user_id = {stalled}")).await.unwrap_err();
    assert!(["57014", "57P03", "08006", "53300"].contains(&failed.code().unwrap().code()), "{failed:?}");
    wait_until_free(&proxy).await;
    cluster.shards[1].resume();
    poll("the shard is served again", async || {
        try_rows(&client, "SELECT count(*) FROM users").await.is_ok_and(|rows| rows == [[Some("100".to_owned())]])
    })
    .await;
    for shard_idx in 0..3 {
        poll("no statement is left behind", async || n_active(&cluster, shard_idx).await == "0").await;
    }
}

#[tokio::test]
async fn a_killed_shard_gives_one_error_that_names_it_and_the_others_go_on() {
    let mut cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    fill(&client).await;
    let users = [user_of(&cluster, 0).await, user_of(&cluster, 1).await, user_of(&cluster, 2).await];
    cluster.shards[2].kill();
    for _ in 0..5 {
        let (sqlstate, message) = failure(&client, "SELECT count(*) FROM users").await;
        assert!(["08006", "57P03", "57P01", "08001"].contains(&sqlstate.as_str()), "{sqlstate} {message}");
        assert!(message.contains("shard2"), "{message}");
        for user in &users[..2] {
            let found = rows(&client, &format!("SELECT user_id FROM users WHERE user_id = {user}")).await;
            assert_eq!(found, [[Some(user.clone())]]);
        }
    }
    let error = try_rows(&client, &format!("SELECT 1 FROM users WHERE user_id = {}", users[2])).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("shard2"), "{error:?}");
    cluster.shards[2].restart().await;
    poll("the shard is served again", async || try_rows(&client, "SELECT count(*) FROM users").await.is_ok()).await;
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "100");
}

#[tokio::test]
async fn a_server_that_dies_under_a_statement_ends_it_with_one_error() {
    let mut cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    fill(&client).await;
    let user = user_of(&cluster, 1).await;
    let sleeping = beside(async move {
        let failed = client.simple_query(&format!("SELECT pg_sleep(60) FROM users WHERE user_id = {user}")).await.unwrap_err();
        (failed.code().map(|code| code.code().to_owned()), client)
    });
    poll("the statement runs", async || n_active(&cluster, 1).await == "1").await;
    cluster.shards[1].kill();
    let (sqlstate, client) = sleeping.await.unwrap();
    assert!(["08006", "57P01", "57P02"].contains(&sqlstate.as_deref().unwrap()), "{sqlstate:?}");
    poll("the session goes on", async || try_rows(&client, "SELECT 1").await.is_ok()).await;
    wait_until_free(&proxy).await;
}

#[tokio::test]
async fn reads_go_to_the_replica_while_the_primary_is_down() {
    let options = ClusterOptions { n_shards: 2, has_replicas: true, login: Login::Trust, settings: &[] };
    let mut cluster = Cluster::start_with(options).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    fill(&client).await;
    let on_first = user_of(&cluster, 0).await;
    for replica in &cluster.replicas {
        let reader = crate::harness::connect_to(replica.port(), crate::harness::DATABASE).await;
        poll("the replica has the rows", async || value(&reader, "SELECT count(*) > 0 FROM users").await == "t").await;
    }
    cluster.shards[0].kill();
    let read = format!("SELECT user_id FROM users WHERE user_id = {on_first}");
    poll("reads are served", async || try_rows(&client, &read).await.is_ok_and(|rows| rows == [[Some(on_first.clone())]])).await;
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "100");
    let (sqlstate, message) = failure(&client, &format!("UPDATE users SET name = 'x' WHERE user_id = {on_first}")).await;
    assert!(["57P03", "08006", "25006"].contains(&sqlstate.as_str()), "{sqlstate} {message}");
    cluster.shards[0].restart().await;
    let write = format!("UPDATE users SET name = 'x' WHERE user_id = {on_first}");
    poll("writes are served", async || client.simple_query(&write).await.is_ok()).await;
}

#[tokio::test]
async fn a_full_pool_waits_and_then_refuses() {
    let cluster = Cluster::start(1).await;
    let sections = format!("[pool]\nmax_per_node = 2\ncheckout_timeout = \"300ms\"\n{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let holders = [proxy.connect().await, proxy.connect().await];
    // Logged in while there is room: a login may need a server's connection too.
    let late = proxy.connect().await;
    for holder in &holders {
        holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    }
    assert_eq!(failure(&late, "SELECT 1 FROM users").await.0, "53300");
    holders[0].batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&late, "SELECT count(*) FROM users").await, "0");
}

#[tokio::test]
async fn sigterm_lets_a_transaction_finish() {
    let cluster = Cluster::start(1).await;
    let mut proxy = cluster.proxy_with(ProxyOptions { server: "shutdown_grace = \"20s\"", ..ProxyOptions::default() }).await;
    let (client, idle) = (proxy.connect().await, proxy.connect().await);
    client.batch_execute("BEGIN; INSERT INTO users VALUES (1, 'n', 'e', 'us')").await.unwrap();
    let target = proxy.target("postgres");
    proxy.signal(rustix::process::Signal::TERM);
    poll("no client is let in", async || connect_with(&target).await.is_err()).await;
    poll("an idle client is sent away", async || idle.is_closed()).await;
    client.batch_execute("COMMIT").await.unwrap();
    poll("the proxy ends", async || !proxy.is_running()).await;
    assert_eq!(value(&cluster.direct(0).await, "SELECT count(*) FROM users").await, "1");
}
