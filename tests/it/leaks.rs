//! What one client leaves behind, holds, or sends must not harm another.

use crate::harness::{Cluster, ProxyOptions, Raw, message, text, value};

const ONE_CONNECTION: &str = "[pool]\nmax_per_node = 1\n";

#[tokio::test]
async fn settings_that_nobody_saw_do_not_reach_the_next_client() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy_with(ProxyOptions { sections: ONE_CONNECTION, ..ProxyOptions::default() }).await;
    let (first, second) = (proxy.connect().await, proxy.connect().await);
    for sql in [
        "BEGIN; SELECT set_config('search_path', 'evil', false); SET work_mem = '5MB'; COMMIT",
        "DO $$BEGIN SET search_path TO evil; SET work_mem TO '5MB'; END$$",
        "SET search_path TO evil; SET work_mem = '5MB'",
        "BEGIN; SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SET work_mem = '5MB'; COMMIT",
    ] {
        first.batch_execute(sql).await.unwrap();
        assert_eq!(value(&second, "SHOW search_path").await, "\"$user\", public", "{sql}");
        assert_eq!(value(&second, "SHOW work_mem").await, "4MB", "{sql}");
        assert_eq!(value(&second, "SHOW transaction_read_only").await, "off", "{sql}");
    }
}

#[tokio::test]
async fn a_long_pipeline_with_long_answers_does_not_stand_still() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut raw = Raw::log_in(proxy.port).await;
    let parse = message(b'P', &[text(""), text("SELECT repeat('x', 30000000), length($1)"), vec![0, 0]].concat());
    let bind = |value: &[u8]| {
        let length = u32::try_from(value.len()).unwrap().to_be_bytes();
        message(b'B', &[&b"\0\0\0\0\0\x01"[..], &length, value, &[0, 0]].concat())
    };
    let execute = message(b'E', &[0, 0, 0, 0, 0]);
    let long = vec![b'y'; 30_000_000];
    raw.send(&[parse, bind(b"y"), execute.clone(), bind(&long), execute, message(b'S', &[])].concat()).await;
    assert_eq!(raw.tags().await, "12DC2DCZ");
}

#[tokio::test]
async fn a_client_may_name_only_so_many_statements() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut raw = Raw::log_in(proxy.port).await;
    let parse = |n: usize| message(b'P', &[text(&format!("s{n}")), text("SELECT 1"), vec![0, 0]].concat());
    let all: Vec<u8> = (0..10_000).flat_map(parse).chain(message(b'S', &[])).collect();
    raw.send(&all).await;
    assert_eq!(raw.until(b'Z').await.len(), 10_001);
    raw.send(&[parse(10_000), message(b'S', &[])].concat()).await;
    assert_eq!(raw.until(b'Z').await[0].field(b'C'), "54000");
    raw.send(&[message(b'C', &text("Ss7")), parse(10_000), message(b'S', &[])].concat()).await;
    assert_eq!(raw.tags().await, "31Z");
}

#[tokio::test]
async fn deep_statements_harm_nobody() {
    for n_shards in [1, 2] {
        let cluster = Cluster::start(n_shards).await;
        let mut proxy = cluster.proxy().await;
        for sql in [
            format!("SELECT 1{}", "+1".repeat(100_000)),
            format!("SELECT 1{}", "+1".repeat(5_000)),
            format!("SELECT count(*) FROM users WHERE user_id = 1{}", " OR user_id = 1".repeat(2_400)),
            format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
            format!("SELECT count(*) FROM users WHERE {}user_id = 1", "user_id = 1 OR ".repeat(50_000)),
            format!("SELECT {}true", "NOT ".repeat(100_000)),
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(20_000)),
        ] {
            let client = proxy.connect().await;
            // Refused or answered: only the process must live.
            drop(client.simple_query(&sql).await);
            assert!(proxy.is_running(), "{sql:.40}");
            assert_eq!(value(&proxy.connect().await, "SELECT 1").await, "1");
        }
    }
}
