//! Many clients over few connections, some of which vanish or cancel: no answer reaches another client, and nothing stays behind.
//! Many startups: memory is afterwards where it was.
//!
//! `TRUNKLINE_SOAK_MINUTES` says how long (`make soak`); without it these are short. `TRUNKLINE_SEED` chooses another course.

mod guest;

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::admin::column;
use crate::harness::random::{Random, setting};
use crate::harness::{
    Cluster, DATABASE, Proxy, ProxyOptions, QUICK_HEALTH, Raw, beside, message, poll, startup, value, with_length,
};
use guest::Guest;

const SEED: u64 = 20_250;
const N_GUESTS: usize = 48;
/// How long the guests stay in a short run.
const SHORT: Duration = Duration::from_secs(6);
/// What a process may hold more than after its warm-up: allocators keep some.
const MAX_GROWTH: u64 = 24 << 20;

fn duration() -> Duration {
    match setting("TRUNKLINE_SOAK_MINUTES", 0) {
        0 => SHORT,
        minutes => Duration::from_secs(60 * minutes),
    }
}

#[tokio::test]
async fn no_answer_reaches_another_client() {
    let seed = setting("TRUNKLINE_SEED", SEED);
    eprintln!("seed {seed}");
    let cluster = Cluster::start(3).await;
    let sections = format!("[pool]\nmax_per_node = 4\nreserve = 4\ncheckout_timeout = \"30s\"\n{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    let rows: Vec<String> = (1..=N_GUESTS).map(|id| format!("({id}, 'u{id}', '', 'us', '2024-01-01')")).collect();
    client.batch_execute(&format!("INSERT INTO users VALUES {}", rows.join(", "))).await.unwrap();
    drop(client);
    // The first turns fill caches and pools.
    visit(&proxy, seed, Duration::from_secs(2)).await;
    let before = proxy.memory_bytes();
    let n_answers = visit(&proxy, seed ^ 1, duration()).await;
    assert!(n_answers > 200, "only {n_answers}");
    check_that_nothing_is_left(&cluster, &proxy).await;
    let after = proxy.memory_bytes();
    eprintln!("{n_answers} answers; memory {before} bytes, then {after}");
    assert!(after < before + MAX_GROWTH, "memory has grown from {before} to {after} bytes");
}

/// All guests for some time. Gives how many answers were checked.
async fn visit(proxy: &Proxy, seed: u64, stay: Duration) -> usize {
    let end = Instant::now() + stay;
    let guests = (1..=N_GUESTS).map(|id| beside(Guest::new(id, proxy.port, seed).stay_until(end)));
    join_all(guests).await.into_iter().map(|n_answers| n_answers.unwrap_or_else(|error| panic!("{error}"))).sum()
}

async fn check_that_nothing_is_left(cluster: &Cluster, proxy: &Proxy) {
    let admin = proxy.admin().await;
    for name in ["leased", "waiting"] {
        poll("pools are whole", async || column(&admin, "SHOW POOLS", name).await.iter().all(|n| n == "0")).await;
    }
    poll("all clients are gone", async || column(&admin, "SHOW CLIENTS", "user").await.is_empty()).await;
    for shard_idx in 0..cluster.shards.len() {
        let direct = cluster.direct(shard_idx).await;
        let busy = "SELECT count(*) FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()";
        poll("no server is in a transaction", async || value(&direct, busy).await == "0").await;
        poll("no transaction is left prepared", async || value(&direct, "SELECT count(*) FROM pg_prepared_xacts").await == "0")
            .await;
        assert_eq!(value(&direct, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await, "0");
    }
    // Whoever comes now is served, all at a time.
    let late = join_all((0..8).map(|_| proxy.connect())).await;
    for client in &late {
        assert_eq!(value(client, "SELECT count(*) FROM users").await, N_GUESTS.to_string());
    }
}

#[tokio::test]
async fn startups_leave_memory_where_it_was() {
    let n_startups: u64 = if setting("TRUNKLINE_SOAK_MINUTES", 0) > 0 { 100_000 } else { 3_000 };
    let seed = setting("TRUNKLINE_SEED", SEED);
    eprintln!("seed {seed}, {n_startups} startups");
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut random = Random::new(seed);
    let mut number = 0;
    let mut knock = async |n: u64| {
        for _ in 0..n / 20 {
            let knocks: Vec<(usize, u64)> = (0..20).map(|idx| (random.below(12), number + idx)).collect();
            number += 20;
            join_all(knocks.into_iter().map(|(kind, number)| knock_once(proxy.port, kind, number))).await;
        }
    };
    knock(n_startups / 4).await;
    let before = proxy.memory_bytes();
    knock(n_startups).await;
    let admin = proxy.admin().await;
    poll("all clients are gone", async || column(&admin, "SHOW CLIENTS", "user").await.is_empty()).await;
    let after = proxy.memory_bytes();
    eprintln!("memory {before} bytes, then {after}");
    assert!(after < before + (4 << 20), "memory has grown from {before} to {after} bytes in {n_startups} startups");
    assert_eq!(value(&proxy.connect().await, "SELECT 1").await, "1");
}

/// One connection of those that come to an open port, up to its end.
async fn knock_once(port: u16, kind: usize, number: u64) {
    let log_in = |user: &str, database: &str| startup(0x0003_0000, &[("user", user), ("database", database)]);
    let quit = message(b'X', &[]);
    let bytes = match kind {
        0..=2 => [log_in("postgres", DATABASE), quit].concat(),
        3 => [log_in("postgres", DATABASE), message(b'Q', b"SELECT 1\0"), quit].concat(),
        4 => log_in("postgres", "nowhere"),
        // Always another one: nothing may be kept for those who were never let in.
        5 => log_in(&format!("nobody{number}"), DATABASE),
        6 => startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE), ("options", &format!("-c no.way{number}"))]),
        7 => with_length(&80_877_103_u32.to_be_bytes()),
        8 => vec![0xff; 64],
        9 => with_length(&[80_877_102_u32.to_be_bytes(), (number as u32).to_be_bytes(), [7; 4]].concat()),
        10 => log_in("postgres", DATABASE)[..20].to_vec(),
        _ => with_length(&vec![b'x'; 9_000]),
    };
    let mut raw = Raw::open(port).await;
    raw.try_send(&bytes).await;
    raw.finish_sending().await;
    assert!(raw.is_closed().await, "kind {kind}");
}
