//! The proxy runs a share of its answers again over gathered rows: what differs is told, counted and not answered so again.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{Cluster, Proxy, ProxyOptions, poll, rows, value};

/// The counts of checks: equal, differs, skipped.
fn checks(proxy: &Proxy) -> [u64; 3] {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.admin_port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    ["equal", "differs", "skipped"].map(|outcome| {
        let label = format!("trunkline_self_checks_total{{database=\"shop\",outcome=\"{outcome}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&label)).unwrap().parse().unwrap()
    })
}

const JOINED: &str = "SELECT count(*) FROM users u JOIN countries c ON c.code = u.country WHERE u.user_id < 100";

#[tokio::test]
async fn an_answer_that_differs_is_told_counted_and_not_given_again() {
    let cluster = Cluster::start(3).await;
    let sections = "[query]\nself_check_ratio = 1.0\n";
    let proxy = cluster.proxy_with(ProxyOptions { sections, database: "engine = \"shard0\"", ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    let users: Vec<String> = (1..=60).map(|n| format!("({n}, 'n{}', 'e', 'us')", n % 7)).collect();
    client
        .batch_execute(&format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")))
        .await
        .unwrap();
    client.batch_execute("INSERT INTO countries VALUES ('us', 'United States', 'americas')").await.unwrap();
    let sound = [
        "SELECT user_id, name FROM users",
        "SELECT name FROM users ORDER BY user_id DESC LIMIT 7",
        "SELECT name, count(*), avg(user_id), sum(user_id::float8) FROM users GROUP BY name ORDER BY name",
        "SELECT max(created_at) FROM users",
        "SELECT user_id FROM users WHERE user_id > 1000",
        JOINED,
    ];
    for sql in sound {
        rows(&client, sql).await;
    }
    assert_eq!(client.query("SELECT name FROM users WHERE user_id > $1", &[&50_i64]).await.unwrap().len(), 10);
    assert_eq!(checks(&proxy), [sound.len() as u64 + 1, 0, 0]);
    // Larger than what is kept of an answer, and in a transaction of the client's.
    rows(&client, "SELECT repeat(name, 2000) FROM users").await;
    client.batch_execute("BEGIN; SELECT user_id FROM users; COMMIT").await.unwrap();
    assert_eq!(checks(&proxy), [sound.len() as u64 + 1, 0, 1]);
    // The fault: one copy of a reference table has lost a row, past the proxy.
    cluster.direct(2).await.batch_execute("DELETE FROM countries").await.unwrap();
    let wrong: i64 = value(&client, JOINED).await.parse().unwrap();
    assert!((1..60).contains(&wrong), "{wrong}");
    assert_eq!(checks(&proxy)[1], 1);
    let is_told = |line: &&str| line.contains("ERROR") && line.contains("differs from the same");
    poll("the log has it", async || proxy.log().lines().any(|line| is_told(&line))).await;
    let log = proxy.log();
    let told: Vec<&str> = log.lines().filter(is_told).collect();
    assert!(told.len() == 1 && told[0].contains("combine") && !told[0].contains("country"), "{log}");
    // Other literals are the same kind of statement, another text is not.
    assert_eq!(value(&client, &JOINED.replace("100", "999")).await, "60");
    assert_eq!(value(&client, JOINED).await, "60");
    assert_eq!(checks(&proxy)[1], 1);
    proxy.admin().await.batch_execute("RELOAD").await.unwrap();
    assert_eq!(value(&client, JOINED).await, wrong.to_string());
    assert_eq!(checks(&proxy)[1], 2);
    // The session is none the worse for it.
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "60");
}
