//! State that lives in a server's session: it ties the client to its connection until it is gone.

use crate::harness::{Cluster, Proxy, ProxyOptions, Raw, connect_with, failure, message, poll, text, value};

/// Two connections for each node, of which clients may pin one.
const ONE_PINNED: &str = "[pool]\nmax_per_node = 2\nmax_pinned = 1\n";

async fn proxy_with(cluster: &Cluster, sections: &str) -> Proxy {
    cluster.proxy_with(ProxyOptions { sections, ..ProxyOptions::default() }).await
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

#[tokio::test]
async fn state_pins_until_it_is_gone() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, ONE_PINNED).await;
    let client = proxy.connect().await;
    for (make, end, reason) in [
        ("LISTEN a", "UNLISTEN a", "listen"),
        ("LISTEN a; LISTEN b", "UNLISTEN *", "listen"),
        ("CREATE TEMP TABLE t (n int)", "DROP TABLE t", "temporary"),
        ("SELECT 1 AS n INTO TEMP t", "DISCARD TEMP", "temporary"),
        ("CREATE TABLE pg_temp.t (n int)", "DISCARD ALL", "temporary"),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION pg_temp.f()", "temporary"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)", "advisory_lock"),
        ("SELECT pg_try_advisory_lock_shared(1, 2)", "SELECT pg_advisory_unlock_all()", "advisory_lock"),
        ("BEGIN; SELECT pg_advisory_lock(1); ROLLBACK", "SELECT pg_advisory_unlock(1)", "advisory_lock"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "cursor"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL", "cursor"),
        ("DO $$BEGIN SET work_mem TO '5MB'; END$$", "RESET ALL", "settings"),
        ("DO $$BEGIN SET work_mem TO '5MB'; LISTEN a; END$$", "DISCARD ALL", "listen, settings"),
    ] {
        client.batch_execute(make).await.unwrap_or_else(|error| panic!("{make}: {error:?}"));
        proxy.wait_for_pins(&[reason]).await;
        client.batch_execute(end).await.unwrap_or_else(|error| panic!("{end}: {error:?}"));
        proxy.wait_for_pins(&[]).await;
    }
}

#[tokio::test]
async fn what_did_not_come_about_pins_nobody() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, ONE_PINNED).await;
    let (client, other) = (proxy.connect().await, proxy.connect().await);
    for sql in [
        "BEGIN; LISTEN a; ROLLBACK",
        "BEGIN; CREATE TEMP TABLE t (n int); ROLLBACK",
        "BEGIN; CREATE TEMP TABLE t (n int); DROP TABLE t; COMMIT",
        "CREATE TEMP TABLE t (n int) ON COMMIT DROP",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; CLOSE c; COMMIT",
        "BEGIN; DO $$BEGIN SET work_mem TO '5MB'; END$$; ROLLBACK",
        "SELECT pg_advisory_xact_lock(1)",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        proxy.wait_for_pins(&[]).await;
    }
    for sql in ["LISTEN a b", "CREATE TEMP TABLE t (n none)", "SELECT pg_advisory_lock(1 / 0)"] {
        failure(&client, sql).await;
        proxy.wait_for_pins(&[]).await;
    }
    // The one place is free as soon as the failed statement's server was asked what it left.
    poll("the other may pin", async || other.batch_execute("SELECT pg_advisory_lock(1)").await.is_ok()).await;
    assert_eq!(value(&client, "SELECT pg_try_advisory_xact_lock(1)").await, "f");
    // A lock stays although its statement fails.
    failure(&other, "SELECT pg_advisory_lock(2), 1 / (SELECT count(*) FROM users)").await;
    other.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    proxy.wait_for_pins(&["advisory_lock"]).await;
    assert_eq!(value(&client, "SELECT pg_try_advisory_xact_lock(2)").await, "f");
}

#[tokio::test]
async fn only_so_many_connections_are_pinned() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, ONE_PINNED).await;
    let (first, second) = (proxy.connect().await, proxy.connect().await);
    first.batch_execute("LISTEN a").await.unwrap();
    let error = second.simple_query("CREATE TEMP TABLE t (n int)").await.unwrap_err();
    let report = error.as_db_error().unwrap();
    assert_eq!((report.code().code(), report.detail()), ("53300", Some("Reason code TL080.")));
    assert_eq!(failure(&second, "LISTEN a").await.0, "53300");
    // What the first has it may have more of, and the second its other statements.
    first.batch_execute("CREATE TEMP TABLE t (n int)").await.unwrap();
    assert_eq!(value(&second, "SELECT 1").await, "1");
    drop(first);
    poll("the place is free", async || second.batch_execute("LISTEN a").await.is_ok()).await;
}

#[tokio::test]
async fn nobody_is_pinned_where_the_limit_is_none() {
    let cluster = Cluster::start(1).await;
    for sections in ["[pool]\nmax_pinned = 0\n", "[pool]\nmode = \"statement\"\n"] {
        let proxy = proxy_with(&cluster, sections).await;
        let client = proxy.connect().await;
        for sql in [
            "LISTEN a",
            "CREATE TEMP TABLE t (n int)",
            "SELECT pg_advisory_lock(1)",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "LOAD 'x'",
        ] {
            let error = client.simple_query(sql).await.unwrap_err();
            let report = error.as_db_error().unwrap();
            assert_eq!((report.code().code(), report.detail()), ("0A000", Some("Reason code TL090.")), "{sql}");
        }
        client.batch_execute("UNLISTEN *; DISCARD TEMP; NOTIFY a").await.unwrap();
    }
}

#[tokio::test]
async fn notifications_come_while_the_client_is_idle() {
    let cluster = Cluster::start(1).await;
    for mode in ["transaction", "session"] {
        let proxy = proxy_with(&cluster, &format!("[pool]\nmode = \"{mode}\"\n")).await;
        let mut listener = Raw::log_in(proxy.port).await;
        listener.send(&query("LISTEN news")).await;
        listener.until(b'Z').await;
        let speaker = proxy.connect().await;
        speaker.batch_execute("NOTIFY news, 'one'; NOTIFY news, 'two'").await.unwrap();
        for payload in ["one", "two"] {
            let heard = listener.next().await.unwrap();
            assert_eq!(heard.tag, b'A', "{mode}");
            assert!(heard.body.ends_with(&[&b"news\0"[..], payload.as_bytes(), b"\0"].concat()), "{mode}");
        }
        // Inside of a transaction they wait for its end, as with one server.
        listener.send(&query("BEGIN")).await;
        listener.until(b'Z').await;
        listener.send(&query("SELECT 1")).await;
        listener.until(b'Z').await;
        speaker.batch_execute("SELECT pg_notify('news', 'three')").await.unwrap();
        listener.send(&query("COMMIT")).await;
        let tags: Vec<u8> = listener.until(b'Z').await.iter().map(|message| message.tag).collect();
        assert_eq!(tags, b"CAZ", "{mode}");
    }
}

#[tokio::test]
async fn a_client_knows_its_own_notifications_by_its_process() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut raw = Raw::open(proxy.port).await;
    raw.send(&crate::harness::startup(0x0003_0000, &[("user", "postgres"), ("database", "shop")])).await;
    let greeting = raw.until(b'Z').await;
    let own = greeting.iter().find(|message| message.tag == b'K').unwrap().body[..4].to_vec();
    for sql in ["LISTEN a", "NOTIFY a"] {
        raw.send(&query(sql)).await;
    }
    raw.until(b'Z').await;
    let answer = raw.until(b'Z').await;
    let heard = answer.iter().find(|message| message.tag == b'A').unwrap();
    assert_eq!(heard.body[..4], own);
    let other = proxy.connect().await;
    let other_pid: i32 = value(&other, "SELECT pg_backend_pid() FROM pg_notify('a', '')").await.parse().unwrap();
    let heard = raw.next().await.unwrap();
    assert_eq!((heard.tag, &heard.body[..4]), (b'A', &other_pid.to_be_bytes()[..]));
}

#[tokio::test]
async fn a_pinned_client_ends_with_its_backend() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let direct = cluster.direct(0).await;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pinned'";
    // Idle, and in the middle of a statement.
    for is_busy in [false, true] {
        let mut raw = Raw::log_in(proxy.port).await;
        raw.send(&query("SET application_name = 'pinned'")).await;
        raw.until(b'Z').await;
        raw.send(&query("LISTEN a")).await;
        raw.until(b'Z').await;
        proxy.wait_for_pins(&["listen"]).await;
        if is_busy {
            raw.send(&query("SELECT pg_sleep(60)")).await;
            let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
            poll("the statement runs", async || value(&direct, running).await == "1").await;
        }
        direct.simple_query(terminate).await.unwrap();
        let end = raw.until(b'E').await.pop().unwrap();
        assert_eq!((end.field(b'S').as_str(), end.field(b'C').as_str()), ("FATAL", "57P01"));
        assert!(raw.next().await.is_none(), "busy: {is_busy}");
        proxy.wait_for_pins(&[]).await;
    }
}

#[tokio::test]
async fn an_unpinned_client_outlives_a_backend_of_several() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let direct = cluster.direct(1).await;
    let client = proxy.connect().await;
    client.batch_execute("BEGIN; SELECT count(*) FROM users").await.unwrap();
    direct
        .simple_query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        .await
        .unwrap();
    let error = client.simple_query("SELECT count(*) FROM users").await.unwrap_err();
    let report = error.as_db_error().unwrap();
    assert_eq!((report.code().code(), report.severity()), ("57P01", "ERROR"));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
}

#[tokio::test]
async fn the_state_of_a_client_that_leaves_is_gone() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, "[pool]\nmax_per_node = 1\nmax_pinned = 1\n").await;
    let other = proxy.connect().await;
    for sql in
        ["SELECT pg_advisory_lock(1)", "CREATE TEMP TABLE users (n int)", "LISTEN a", "DO $$BEGIN SET work_mem = '5MB'; END$$"]
    {
        let client = connect_with(&proxy.target("postgres")).await.unwrap();
        client.batch_execute(sql).await.unwrap();
        proxy
            .wait_for_pins(&[["advisory_lock", "temporary", "listen", "settings"]
                [["SELECT", "CREATE", "LISTEN", "DO"].iter().position(|word| sql.starts_with(word)).unwrap()]])
            .await;
        drop(client);
        // A server notices at its own pace that the connection was closed.
        poll("the lock is free", async || value(&other, "SELECT pg_try_advisory_xact_lock(1)").await == "t").await;
        assert_eq!(value(&other, "SELECT count(*) FROM users").await, "0", "{sql}");
        assert_eq!(value(&other, "SELECT count(*) FROM pg_listening_channels()").await, "0", "{sql}");
        assert_eq!(value(&other, "SHOW work_mem").await, "4MB", "{sql}");
    }
}
