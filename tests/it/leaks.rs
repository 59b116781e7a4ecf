//! What one client leaves behind, holds, or sends must not harm another.

use crate::harness::{Cluster, ProxyOptions, Raw, message, poll, text, value};

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

/// What a client makes its session's and still has afterwards, and another client that uses the same connection never sees.
const KEPT: &[(&str, &str, &str, &str)] = &[
    ("SET work_mem = '5MB'", "SHOW work_mem", "5MB", "4MB"),
    ("SELECT set_config('work_mem', '6MB', false)", "SHOW work_mem", "6MB", "4MB"),
    (
        "SELECT set_config('app.user', 'ann', false), set_config('app.org', 'x', false)",
        "SELECT current_setting('app.user', true)",
        "ann",
        "",
    ),
    ("SELECT set_config('work_mem', '7' || 'MB', false)", "SHOW work_mem", "7MB", "4MB"),
    ("SELECT set_config(name, '8MB', false) FROM pg_settings WHERE name = 'work_mem'", "SHOW work_mem", "8MB", "4MB"),
    ("SELECT set_config('role', 'low', false)", "SELECT current_user", "low", "postgres"),
    ("SET ROLE low", "SELECT current_user", "low", "postgres"),
    ("SET SESSION AUTHORIZATION low", "SELECT session_user", "low", "postgres"),
    ("SET search_path TO evil", "SHOW search_path", "evil", "\"$user\", public"),
    ("SET default_transaction_read_only = on", "SHOW transaction_read_only", "on", "off"),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW transaction_isolation",
        "serializable",
        "read committed",
    ),
    ("BEGIN; SET work_mem = '9MB'; SAVEPOINT s; SET work_mem = '1MB'; ROLLBACK TO s; COMMIT", "SHOW work_mem", "9MB", "4MB"),
    (
        "BEGIN; SELECT set_config('work_mem', '9MB', false); SAVEPOINT s; SELECT set_config('work_mem', '1MB', false); ROLLBACK TO s; COMMIT",
        "SHOW work_mem",
        "9MB",
        "4MB",
    ),
    ("DO $$BEGIN SET work_mem TO '5MB'; END$$", "SHOW work_mem", "5MB", "4MB"),
    ("DO $$BEGIN PERFORM set_config('app.user', 'bob', false); END$$", "SELECT current_setting('app.user', true)", "bob", ""),
    ("SELECT sneak()", "SELECT current_setting('app.user', true)", "sly", ""),
    ("CALL sneak_too()", "SHOW work_mem", "5MB", "4MB"),
    ("INSERT INTO trapped VALUES (1)", "SHOW work_mem", "3MB", "4MB"),
    ("CREATE TEMP TABLE mine (n int)", "SELECT coalesce(to_regclass('mine')::text, '-')", "mine", "-"),
    (
        "SELECT pg_advisory_lock(3)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "1",
        "0",
    ),
    ("LISTEN news", "SELECT coalesce(min(c), '-') FROM pg_listening_channels() c", "news", "-"),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT coalesce(min(name), '-') FROM pg_cursors", "c", "-"),
    ("SELECT setseed(0.5)", "SELECT 'seeded'", "seeded", "seeded"),
];

/// What leaves nothing behind: the first client is as before, and so is the second.
const GONE: &[(&str, &str, &str)] = &[
    ("BEGIN; SET LOCAL work_mem = '5MB'; COMMIT", "SHOW work_mem", "4MB"),
    ("BEGIN; SELECT set_config('work_mem', '5MB', true); COMMIT", "SHOW work_mem", "4MB"),
    ("SELECT set_config('work_mem', '5MB', true)", "SHOW work_mem", "4MB"),
    ("BEGIN; SET work_mem = '5MB'; ROLLBACK", "SHOW work_mem", "4MB"),
    ("BEGIN; SELECT set_config('work_mem', '5MB', false); ROLLBACK", "SHOW work_mem", "4MB"),
    ("BEGIN; DO $$BEGIN SET work_mem TO '5MB'; END$$; ROLLBACK", "SHOW work_mem", "4MB"),
    ("BEGIN; SET ROLE low; ROLLBACK", "SELECT current_user", "postgres"),
    ("SET work_mem = '5MB'; RESET work_mem", "SHOW work_mem", "4MB"),
    ("DO $$BEGIN SET work_mem TO '5MB'; END$$; RESET ALL", "SHOW work_mem", "4MB"),
    ("SELECT set_config('work_mem', '5MB', false); RESET ALL", "SHOW work_mem", "4MB"),
    ("BEGIN; LISTEN a; ROLLBACK", "SELECT count(*) FROM pg_listening_channels()", "0"),
    ("BEGIN; CREATE TEMP TABLE gone (n int) ON COMMIT DROP; COMMIT", "SELECT coalesce(to_regclass('gone')::text, '-')", "-"),
];

async fn code(cluster: &Cluster) {
    let direct = cluster.direct(0).await;
    direct
        .batch_execute(
            "CREATE ROLE low; GRANT ALL ON SCHEMA public TO low; CREATE TABLE trapped (n int);
             CREATE FUNCTION sneak() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('app.user', 'sly', false); END$$;
             CREATE PROCEDURE sneak_too() LANGUAGE plpgsql AS $$BEGIN SET work_mem TO '5MB'; END$$;
             CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN SET work_mem TO '3MB'; RETURN NEW; END$$;
             CREATE TRIGGER trap BEFORE INSERT ON trapped FOR EACH ROW EXECUTE FUNCTION trap()",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn each_kind_of_state_stays_with_its_client() {
    let cluster = Cluster::start(1).await;
    code(&cluster).await;
    // Two connections: the second client may get the one that the first has left, or another one if that is pinned.
    let sections = "[pool]\nmax_per_node = 2\nmax_pinned = 1\nreserve = 0\n";
    let proxy = cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await;
    let second = proxy.connect().await;
    for (make, ask, own, other) in KEPT {
        let first = proxy.connect().await;
        first.batch_execute(make).await.unwrap_or_else(|error| panic!("{make}: {error:?}"));
        assert_eq!(value(&second, &format!("SELECT coalesce(({}), '')", shown(ask))).await, *other, "{make}: the other client");
        assert_eq!(value(&first, ask).await, *own, "{make}: the client itself");
        assert_eq!(value(&second, &format!("SELECT coalesce(({}), '')", shown(ask))).await, *other, "{make}: the other client");
        drop(first);
        poll("the connection is free", async || second.batch_execute("LISTEN x; UNLISTEN x").await.is_ok()).await;
        // Both connections are looked at, for the first client has left one.
        second.batch_execute("BEGIN").await.unwrap();
        let third = proxy.connect().await;
        for client in [&second, &third] {
            assert_eq!(value(client, &format!("SELECT coalesce(({}), '')", shown(ask))).await, *other, "{make}: afterwards");
        }
        second.batch_execute("COMMIT").await.unwrap();
    }
}

/// SHOW as a query.
fn shown(ask: &str) -> String {
    match ask.strip_prefix("SHOW ") {
        Some(name) => format!("SELECT current_setting('{name}')"),
        None => format!("({ask})::text"),
    }
}

#[tokio::test]
async fn what_a_transaction_takes_back_is_gone() {
    let cluster = Cluster::start(1).await;
    code(&cluster).await;
    let sections = "[pool]\nmax_per_node = 1\nmax_pinned = 1\nreserve = 0\n";
    let proxy = cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await;
    let (first, second) = (proxy.connect().await, proxy.connect().await);
    for (sql, ask, expected) in GONE {
        first.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(value(&second, ask).await, *expected, "{sql}");
        assert_eq!(value(&first, ask).await, *expected, "{sql}");
    }
}

#[tokio::test]
async fn set_config_by_parameters_follows_the_client() {
    let cluster = Cluster::start(1).await;
    let sections = "[pool]\nmax_per_node = 1\nreserve = 0\n";
    let proxy = cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await;
    let (mut first, second) = (proxy.connect().await, proxy.connect().await);
    let set = "SELECT set_config($1, $2, $3)";
    first.query(set, &[&"app.user", &"it's", &false]).await.unwrap();
    assert_eq!(value(&second, "SELECT coalesce(current_setting('app.user', true), '')").await, "");
    assert_eq!(value(&first, "SELECT current_setting('app.user')").await, "it's");
    let transaction = first.transaction().await.unwrap();
    transaction.query(set, &[&"app.user", &"local", &true]).await.unwrap();
    let row = transaction.query_one("SELECT current_setting($1)", &[&"app.user"]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "local");
    transaction.commit().await.unwrap();
    assert_eq!(value(&second, "SELECT coalesce(current_setting('app.user', true), '')").await, "");
    assert_eq!(value(&first, "SELECT current_setting('app.user')").await, "it's");
}

#[tokio::test]
async fn settings_by_function_reach_every_shard_of_the_transaction() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let on = |n: usize| format!("/* trunkline: shard=shard{n} */ SELECT coalesce(current_setting('app.user', true), '')");
    // One shard is enlisted before, the others after.
    client.batch_execute("BEGIN").await.unwrap();
    value(&client, &on(1)).await;
    client.batch_execute("SELECT set_config('app.user', 'ann', true)").await.unwrap();
    for n in [0, 1, 2] {
        assert_eq!(value(&client, &on(n)).await, "ann", "shard {n}");
    }
    client.batch_execute("COMMIT; BEGIN; SELECT set_config('app.user', 'bob', false)").await.unwrap();
    for n in [0, 1, 2] {
        assert_eq!(value(&client, &on(n)).await, "bob", "shard {n}");
    }
    client.batch_execute("COMMIT").await.unwrap();
    for n in [2, 1, 0] {
        assert_eq!(value(&client, &on(n)).await, "bob", "shard {n}");
        assert_eq!(value(&proxy.connect().await, &on(n)).await, "", "shard {n}");
    }
}
