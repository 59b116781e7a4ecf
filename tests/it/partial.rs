//! Answers without the rows of shards that are down or late, for sessions that have asked for them.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::harness::{
    Cluster, Message, Proxy, ProxyOptions, QUICK_HEALTH, Raw, beside, failure, message, poll, rows, sqlstate_of, text, value,
};

const ON: &str = "SET trunkline.partial_results = on";

/// The rungs that may leave a shard out: concatenation, an ordered merge, combine.
const READS: [&str; 4] = [
    "SELECT user_id FROM users",
    "SELECT user_id FROM users ORDER BY user_id",
    "SELECT user_id FROM users ORDER BY user_id DESC OFFSET 0 LIMIT 1000",
    "SELECT user_id, count(*) FROM users GROUP BY user_id",
];

async fn start(sections: &str) -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(3).await;
    let sections = format!("{sections}{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    let users: Vec<String> = (1..=60).map(|n| format!("({n}, 'n{n}', 'e', 'us')")).collect();
    client.batch_execute(&format!("INSERT INTO users VALUES {}", users.join(", "))).await.unwrap();
    for shard_idx in 0..3 {
        keep(&cluster, shard_idx).await;
    }
    (cluster, proxy, client)
}

/// Tests' servers commit asynchronously: rows are to outlast a kill.
async fn keep(cluster: &Cluster, shard_idx: usize) {
    cluster.direct(shard_idx).await.batch_execute("CHECKPOINT").await.unwrap();
}

/// The users of these shards, found past the proxy.
async fn users_of(cluster: &Cluster, shard_idxs: &[usize]) -> Vec<i64> {
    let mut all = Vec::new();
    for shard_idx in shard_idxs {
        let found = rows(&cluster.direct(*shard_idx).await, "SELECT user_id FROM users").await;
        all.extend(found.into_iter().map(|row| row[0].as_ref().unwrap().parse::<i64>().unwrap()));
    }
    all.sort_unstable();
    all
}

/// What a query gives by the simple protocol.
struct Answer {
    warnings: Vec<Message>,
    users: Vec<i64>,
    error: Option<Message>,
}

async fn ask(raw: &mut Raw, sql: &str) -> Answer {
    raw.send(&message(b'Q', &text(sql))).await;
    let answer = raw.until(b'Z').await;
    let user = |row: &Message| {
        let len = usize::try_from(i32::from_be_bytes(row.body[2..6].try_into().unwrap())).unwrap();
        String::from_utf8_lossy(&row.body[6..6 + len]).parse().unwrap()
    };
    let mut users: Vec<i64> = answer.iter().filter(|message| message.tag == b'D').map(user).collect();
    users.sort_unstable();
    let of = |tag: u8| answer.iter().filter(move |message| message.tag == tag).cloned();
    Answer { warnings: of(b'N').collect(), users, error: of(b'E').next() }
}

/// Checks that an answer is that of the other shards, with one warning that names the one that is missing.
#[track_caller]
fn check(answer: &Answer, sql: &str, expected: &[i64], shard: &str) {
    assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
    assert_eq!(answer.users, expected, "{sql}");
    assert_eq!(answer.warnings.len(), 1, "{sql}: {:?}", answer.warnings);
    let warning = &answer.warnings[0];
    assert_eq!((warning.field(b'S').as_str(), warning.field(b'C').as_str()), ("WARNING", "01000"), "{sql}");
    assert!(warning.field(b'M').contains(&format!("\"{shard}\"")), "{sql}: {warning:?}");
}

async fn n_left_out(proxy: &Proxy) -> u64 {
    let (_, metrics) = crate::admin::get(proxy, "/metrics").await;
    let line = metrics.lines().find(|line| line.starts_with("trunkline_shards_left_out_total")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_killed_shard_is_left_out_with_a_warning() {
    let (mut cluster, proxy, client) = start("[pool]\ncheckout_timeout = \"1s\"\n").await;
    let mut raw = Raw::log_in(proxy.port).await;
    ask(&mut raw, ON).await;
    let all = users_of(&cluster, &[0, 1, 2]).await;
    for sql in READS {
        let whole = ask(&mut raw, sql).await;
        assert!(whole.error.is_none() && whole.warnings.is_empty() && whole.users == all, "{sql}");
    }
    let rest = users_of(&cluster, &[1, 2]).await;
    cluster.shards[0].kill();
    // At once, and after the probes have noticed.
    for _ in 0..2 {
        for sql in READS {
            let before = n_left_out(&proxy).await;
            check(&ask(&mut raw, sql).await, sql, &rest, "shard0");
            assert_eq!(n_left_out(&proxy).await, before + 1, "{sql}");
        }
        let admin = proxy.admin().await;
        poll("the node is down", async || crate::admin::column(&admin, "SHOW NODES", "state").await.contains(&"down".to_owned()))
            .await;
    }
    // By the extended protocol, with a parameter.
    client.batch_execute(ON).await.unwrap();
    let found = client.query("SELECT user_id FROM users WHERE user_id > $1 ORDER BY user_id", &[&0_i64]).await.unwrap();
    assert_eq!(found.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), rest);
    assert_eq!(client.query_one("SELECT count(*) FROM users", &[]).await.unwrap().get::<_, i64>(0), rest.len() as i64);
    // In a transaction that has only read, which goes on and ends well.
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    for _ in 0..2 {
        assert_eq!(value(&client, "SELECT count(*) FROM users").await, rest.len().to_string());
    }
    client.batch_execute("COMMIT").await.unwrap();
    // Where nobody asked, nothing is left out.
    client.batch_execute("RESET trunkline.partial_results").await.unwrap();
    for sql in READS {
        assert!(["08006", "57P03"].contains(&failure(&client, sql).await.0.as_str()), "{sql}");
    }
    cluster.shards[0].restart().await;
    poll("it is served again", async || {
        let answer = ask(&mut raw, READS[0]).await;
        assert!(answer.users == all || answer.warnings.len() == 1, "{:?}", answer.error);
        answer.users == all
    })
    .await;
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn only_reads_that_merge_or_combine_leave_a_shard_out() {
    let (mut cluster, proxy, client) = start("[query]\ntimeout = \"5s\"\n[pool]\ncheckout_timeout = \"1s\"\n").await;
    let lost: Vec<i64> = users_of(&cluster, &[2]).await;
    let kept = users_of(&cluster, &[0]).await[0];
    client.batch_execute(ON).await.unwrap();
    cluster.shards[2].kill();
    for sql in [
        "SELECT DISTINCT user_id FROM users".to_owned(),
        "SELECT a.name FROM users a JOIN users b ON a.name = b.email".to_owned(),
        format!("SELECT name FROM users WHERE user_id = {}", lost[0]),
        format!("DELETE FROM users WHERE user_id = {}", lost[0]),
        "INSERT INTO countries VALUES ('us', 'United States', 'americas')".to_owned(),
        "BEGIN; DECLARE d CURSOR FOR SELECT user_id FROM users; FETCH ALL FROM d".to_owned(),
    ] {
        let error = client.batch_execute(&sql).await.unwrap_err();
        assert!(["08006", "57P03"].contains(&sqlstate_of(&error).0.as_str()), "{sql}: {error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(failure(&client, "SELECT user_id FROM users FOR UPDATE").await.0, "0A000");
    let mut raw = Raw::log_in(proxy.port).await;
    ask(&mut raw, ON).await;
    for sql in ["COPY users TO STDOUT", "COPY (SELECT user_id FROM users ORDER BY user_id) TO STDOUT"] {
        let answer = ask(&mut raw, sql).await;
        assert!(answer.warnings.is_empty() && ["08006", "57P03"].contains(&answer.error.unwrap().field(b'C').as_str()), "{sql}");
    }
    // A transaction that has written sees all of it or fails.
    client.batch_execute(&format!("BEGIN; UPDATE users SET name = 'x' WHERE user_id = {kept}")).await.unwrap();
    assert!(["08006", "57P03"].contains(&failure(&client, "SELECT count(*) FROM users").await.0.as_str()));
    client.batch_execute("ROLLBACK").await.unwrap();
    // Nothing at all is no answer.
    cluster.shards[0].kill();
    check_two(&ask(&mut raw, READS[1]).await, &users_of(&cluster, &[1]).await);
    cluster.shards[1].kill();
    for sql in READS {
        let error = ask(&mut raw, sql).await.error.unwrap_or_else(|| panic!("{sql}: no error"));
        assert!(["08006", "57P03"].contains(&error.field(b'C').as_str()), "{sql}: {error:?}");
    }
}

#[track_caller]
fn check_two(answer: &Answer, expected: &[i64]) {
    assert_eq!((answer.users.as_slice(), answer.warnings.len()), (expected, 2), "{:?}", answer.error);
}

#[tokio::test]
async fn a_stopped_shard_is_late_and_left_out() {
    let limits = "[query]\ntimeout = \"20s\"\nshard_timeout = \"1s\"\n[pool]\nconnect_timeout = \"500ms\"\n";
    let (cluster, proxy, _client) = start(limits).await;
    let (all, rest) = (users_of(&cluster, &[0, 1, 2]).await, users_of(&cluster, &[0, 2]).await);
    let mut raw = Raw::log_in(proxy.port).await;
    ask(&mut raw, ON).await;
    for sql in READS {
        // With connections that are idle in the pool, and with what is known of the statement.
        assert_eq!(ask(&mut raw, sql).await.users, all, "{sql}");
        cluster.shards[1].pause();
        let started = Instant::now();
        let answer = ask(&mut raw, sql).await;
        cluster.shards[1].resume();
        check(&answer, sql, &rest, "shard1");
        assert!(started.elapsed() < Duration::from_secs(10), "{sql}: {:?}", started.elapsed());
        poll("it is served again", async || ask(&mut raw, sql).await.users == all).await;
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn a_shard_that_dies_before_its_first_row_is_left_out() {
    let (mut cluster, proxy, _client) = start("").await;
    let rest = users_of(&cluster, &[0, 1]).await;
    let mut raw = Raw::log_in(proxy.port).await;
    ask(&mut raw, ON).await;
    for sql in READS {
        ask(&mut raw, sql).await;
        let holder = cluster.direct(2).await;
        holder.batch_execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let asked = beside(async move {
            let answer = ask(&mut raw, sql).await;
            (answer, raw)
        });
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'relation'";
        poll("the shard waits", async || value(&holder, waiting).await == "1").await;
        cluster.shards[2].kill();
        let (answer, socket) = asked.await.unwrap();
        raw = socket;
        check(&answer, sql, &rest, "shard2");
        cluster.shards[2].restart().await;
        poll("it is served again", async || ask(&mut raw, sql).await.users.len() == 60).await;
    }
}

#[tokio::test]
async fn a_shard_of_which_rows_were_sent_is_not_left_out() {
    let (mut cluster, proxy, _client) = start("").await;
    for shard_idx in 0..3 {
        let sql = format!(
            "INSERT INTO parts (part_id, name) SELECT 3 * i + {shard_idx}, repeat('n', 900) FROM generate_series(1, 60000) i"
        );
        cluster.direct(shard_idx).await.batch_execute(&sql).await.unwrap();
        keep(&cluster, shard_idx).await;
    }
    for sql in ["SELECT part_id, name FROM parts ORDER BY part_id", "SELECT part_id, name FROM parts"] {
        let mut raw = Raw::log_in(proxy.port).await;
        ask(&mut raw, ON).await;
        raw.send(&message(b'Q', &text(sql))).await;
        let mut seen = [false; 3];
        while seen != [true; 3] {
            let row = raw.next().await.unwrap();
            if row.tag == b'D' {
                let len = usize::try_from(i32::from_be_bytes(row.body[2..6].try_into().unwrap())).unwrap();
                let part: usize = String::from_utf8_lossy(&row.body[6..6 + len]).parse().unwrap();
                seen[part % 3] = true;
            }
        }
        cluster.shards[1].kill();
        let answer = raw.until(b'Z').await;
        let error = answer.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("{sql}: no error"));
        assert!(["08006", "57P01", "57P02"].contains(&error.field(b'C').as_str()), "{sql}: {error:?}");
        assert!(!answer.iter().any(|message| message.tag == b'C'), "{sql}: it ends as if it were whole");
        cluster.shards[1].restart().await;
        poll("it is served again", async || {
            value(&proxy.connect().await, "SELECT 1").await == "1" && ask(&mut raw, READS[0]).await.warnings.is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_shard_that_waits_too_long_is_left_out_and_its_statement_cancelled() {
    let (cluster, proxy, client) = start("[query]\ntimeout = \"20s\"\nshard_timeout = \"500ms\"\n").await;
    let rest = users_of(&cluster, &[0, 2]).await;
    let mut raw = Raw::log_in(proxy.port).await;
    ask(&mut raw, ON).await;
    let holder = cluster.direct(1).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    for sql in READS {
        holder.batch_execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
        check(&ask(&mut raw, sql).await, sql, &rest, "shard1");
        poll("it waits no more", async || value(&holder, waiting).await == "0").await;
        // Nobody else's answer lacks anything.
        assert_eq!(failure(&client, sql).await.0, "57014", "{sql}");
        holder.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(ask(&mut raw, sql).await.users.len(), 60, "{sql}");
    }
    // In a transaction: a shard that has no part in it yet is left out, and takes part later; one that has is not.
    let of_first = rest.iter().find(|user| **user > 0).unwrap();
    ask(&mut raw, &format!("BEGIN; SELECT user_id FROM users WHERE user_id = {of_first}")).await;
    holder.batch_execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
    check(&ask(&mut raw, READS[0]).await, READS[0], &rest, "shard1");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(ask(&mut raw, READS[0]).await.users.len(), 60);
    cluster.shards[1].pause();
    let answer = ask(&mut raw, READS[0]).await;
    cluster.shards[1].resume();
    assert_eq!((answer.error.unwrap().field(b'C').as_str(), answer.warnings.len()), ("57014", 0));
    assert!(ask(&mut raw, "COMMIT").await.error.is_none(), "the transaction is rolled back");
    poll("it is served again", async || ask(&mut raw, READS[0]).await.users.len() == 60).await;
    cluster.wait_until_clean().await;
}
