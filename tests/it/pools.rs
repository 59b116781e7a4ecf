//! Pools of server connections: who gets one, who waits, what is told when none can be had.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::admin::column;
use crate::harness::{
    Cluster, Fake, Manner, Proxy, ProxyOptions, QUICK_HEALTH, Raw, Scratch, beside, connect_with, failure, message, poll, rows,
    sqlstate_of, text, try_rows, value,
};

/// A proxy whose pools have these lines.
async fn proxy_with_pool(cluster: &Cluster, pool: &str) -> Proxy {
    let sections = format!("[pool]\n{pool}\n{QUICK_HEALTH}");
    cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await
}

async fn sessions(proxy: &Proxy, n: usize) -> Vec<Client> {
    let mut sessions = Vec::new();
    for _ in 0..n {
        sessions.push(proxy.connect().await);
    }
    sessions
}

/// The one value of a column of SHOW POOLS.
async fn pool_figure(admin: &Client, name: &str) -> String {
    column(admin, "SHOW POOLS", name).await.remove(0)
}

/// A proxy before one node that is sound for its probes, and has manners of its own towards user app.
async fn proxy_before(fake: &Fake, cluster: &Cluster, pool: &str) -> Proxy {
    let sections = format!("[pool]\n{pool}\n{QUICK_HEALTH}");
    let config = cluster.config(&ProxyOptions { sections: &sections, ..ProxyOptions::default() });
    let config = config.replace(&format!("port = {}", cluster.shards[0].port()), &format!("port = {}", fake.port));
    Proxy::start(&cluster.scratch, &config).await
}

#[tokio::test]
async fn a_waiting_client_is_told_so_and_served_in_its_turn() {
    let cluster = Cluster::start(1).await;
    let proxy =
        proxy_with_pool(&cluster, "max_per_node = 1\nreserve = 0\nwait_notice = \"200ms\"\ncheckout_timeout = \"20s\"").await;
    let holder = proxy.connect().await;
    let (mut first, mut second) = (Raw::log_in(proxy.port).await, Raw::log_in(proxy.port).await);
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    first.send(&message(b'Q', &text("SELECT 'first'"))).await;
    let notice = first.next().await.unwrap();
    assert_eq!((notice.tag, notice.field(b'S').as_str(), notice.field(b'C').as_str()), (b'N', "NOTICE", "00000"));
    assert!(notice.field(b'M').contains("shard0"), "{notice:?}");
    // The extended protocol is told as well.
    second.send(&[message(b'P', b"\0SELECT 2\0\0\0"), message(b'B', b"\0\0\0\0\0\0\0\0")].concat()).await;
    second.send(&[message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat()).await;
    assert_eq!(second.next().await.unwrap().tag, b'N');
    let admin = proxy.admin().await;
    assert_eq!(pool_figure(&admin, "waiting").await, "2");
    assert!(pool_figure(&admin, "longest_wait_millis").await.parse::<u64>().unwrap() >= 200);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(first.tags().await, "TDCZ");
    assert_eq!(second.tags().await, "12DCZ");
    poll("nobody waits", async || pool_figure(&admin, "waiting").await == "0").await;
}

#[tokio::test]
async fn the_reserve_serves_who_has_waited() {
    let cluster = Cluster::start(1).await;
    let pool = "max_per_node = 1\nreserve = 1\nreserve_after = \"300ms\"\ncheckout_timeout = \"1500ms\"";
    let proxy = proxy_with_pool(&cluster, pool).await;
    let clients = sessions(&proxy, 3).await;
    let admin = proxy.admin().await;
    clients[0].batch_execute("BEGIN; SELECT 1").await.unwrap();
    assert_eq!(pool_figure(&admin, "reserve").await, "0");
    let started = Instant::now();
    clients[1].batch_execute("BEGIN; SELECT 1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(pool_figure(&admin, "reserve").await, "1");
    assert_eq!(failure(&clients[2], "SELECT 1 FROM users").await.0, "53300");
    for client in &clients[..2] {
        client.batch_execute("COMMIT").await.unwrap();
    }
    assert_eq!(pool_figure(&admin, "reserve").await, "0");
    // What is left above the limit is closed after a while.
    poll("one connection is kept", async || pool_figure(&admin, "open").await == "1").await;
}

#[tokio::test]
async fn clients_that_wait_for_each_other_are_served_from_the_reserve() {
    let cluster = Cluster::start(2).await;
    let proxy = proxy_with_pool(&cluster, "max_per_node = 1\nreserve = 1").await;
    let [a, b] = <[Client; 2]>::try_from(sessions(&proxy, 2).await).unwrap();
    let on = |shard: usize| format!("/* trunkline: shard=shard{shard} */ SELECT 1 FROM users");
    a.batch_execute(&format!("BEGIN; {}", on(0))).await.unwrap();
    b.batch_execute(&format!("BEGIN; {}", on(1))).await.unwrap();
    let (there, back) = (on(1), on(0));
    let (a_outcome, b_outcome) = tokio::join!(a.batch_execute(&there), b.batch_execute(&back));
    a_outcome.unwrap();
    b_outcome.unwrap();
}

#[tokio::test]
async fn a_server_s_own_connection_limit_is_waited_for_and_then_told() {
    let cluster = Cluster::start(1).await;
    cluster.direct(0).await.batch_execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 1").await.unwrap();
    let proxy = proxy_with_pool(&cluster, "max_per_node = 5\ncheckout_timeout = \"600ms\"").await;
    let target = proxy.target("narrow");
    let (holder, other) = (connect_with(&target).await.unwrap(), connect_with(&target).await.unwrap());
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let (sqlstate, message) = failure(&other, "SELECT 1").await;
    assert_eq!((sqlstate.as_str(), message.as_str()), ("53300", "too many connections for role \"narrow\""));
    let waiting = beside(async move { other.simple_query("SELECT 1").await.map(|_| other) });
    let admin = proxy.admin().await;
    poll("the other waits", async || column(&admin, "SHOW POOLS", "waiting").await.contains(&"1".to_owned())).await;
    holder.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_s_refusal_reaches_the_client_in_its_own_words() {
    let cluster = Cluster::start(1).await;
    cluster.direct(0).await.batch_execute("CREATE ROLE barred NOLOGIN").await.unwrap();
    let proxy = cluster.proxy().await;
    let refusal = async |user: &str| sqlstate_of(&connect_with(&proxy.target(user)).await.err().unwrap());
    assert_eq!(refusal("nobody").await, ("28000".to_owned(), "role \"nobody\" does not exist".to_owned()));
    assert_eq!(refusal("barred").await, ("28000".to_owned(), "role \"barred\" is not permitted to log in".to_owned()));
    let config = cluster.config(&ProxyOptions::default()).replace("dbname = \"shop\"", "dbname = \"absent\"");
    let other = Proxy::start(&Scratch::new(), &config).await;
    let error = connect_with(&other.target("postgres")).await.err().unwrap();
    assert_eq!(sqlstate_of(&error), ("3D000".to_owned(), "database \"absent\" does not exist".to_owned()));
}

#[tokio::test]
async fn a_node_that_refuses_is_not_hammered() {
    let cluster = Cluster::start(1).await;
    let fake = Fake::start(Manner::Close, cluster.shards[0].port()).await;
    let proxy = proxy_before(&fake, &cluster, "max_per_node = 50\ncheckout_timeout = \"2s\"").await;
    let started = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let target = proxy.target("app");
        clients.push(beside(async move { connect_with(&target).await.err().map(|error| sqlstate_of(&error)) }));
    }
    for client in clients {
        let (sqlstate, message) = client.await.unwrap().unwrap();
        assert_eq!(sqlstate, "08006", "{message}");
    }
    // Those that came together have tried together; from then on one tries for all.
    let n_first = fake.n_startups("app");
    let mut n_rounds = 0;
    while started.elapsed() < Duration::from_secs(3) {
        let round = (0..10).map(|_| {
            let target = proxy.target("app");
            beside(async move { connect_with(&target).await.err().map(|error| sqlstate_of(&error).0) })
        });
        for client in round.collect::<Vec<_>>() {
            assert_eq!(client.await.unwrap().as_deref(), Some("08006"));
        }
        n_rounds += 1;
    }
    let n_later = fake.n_startups("app") - n_first;
    assert!(n_later <= 10, "{n_later} attempts in {n_rounds} rounds of 10 clients");
    let admin = proxy.admin().await;
    poll("the pause is over", async || column(&admin, "SHOW POOLS", "backoff_millis").await.iter().all(|millis| millis == "0"))
        .await;
}

#[tokio::test]
async fn a_node_that_never_answers_costs_a_client_its_deadline_and_no_more() {
    let cluster = Cluster::start(1).await;
    let fake = Fake::start(Manner::Silence, cluster.shards[0].port()).await;
    let proxy = proxy_before(&fake, &cluster, "connect_timeout = \"20s\"\ncheckout_timeout = \"400ms\"").await;
    let started = Instant::now();
    let error = connect_with(&proxy.target("app")).await.err().unwrap();
    let (sqlstate, message) = sqlstate_of(&error);
    assert_eq!(sqlstate, "08006", "{message}");
    assert!(message.contains("timed out"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_busy_pool_is_no_dead_server() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with_pool(&cluster, "max_per_node = 1\nreserve = 0\ncheckout_timeout = \"50ms\"").await;
    let clients = sessions(&proxy, 2).await;
    let admin = proxy.admin().await;
    poll("the node is up", async || column(&admin, "SHOW NODES", "state").await == ["up"]).await;
    clients[0].batch_execute("BEGIN; SELECT 1").await.unwrap();
    for _ in 0..20 {
        assert_eq!(failure(&clients[1], "SELECT 1").await.0, "53300");
        assert_eq!(column(&admin, "SHOW NODES", "state").await, ["up"]);
    }
    clients[0].batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&clients[1], "SELECT 1").await, "1");
}

#[tokio::test]
async fn users_without_clients_and_connections_are_forgotten() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    for n in 0..20 {
        let error = connect_with(&proxy.target(&format!("stranger{n}"))).await.err().unwrap();
        assert_eq!(sqlstate_of(&error).0, "28000");
    }
    let admin = proxy.admin().await;
    assert!(column(&admin, "SHOW POOLS", "user").await.len() > 1);
    poll("strangers are forgotten", async || column(&admin, "SHOW POOLS", "user").await == ["postgres"]).await;
    assert_eq!(value(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn the_minimum_is_kept_open_and_never_expires_by_zero() {
    let cluster = Cluster::start(1).await;
    let pool = "min_per_node = 3\nmax_lifetime = \"0s\"\nidle_timeout = \"100ms\"";
    let proxy = proxy_with_pool(&cluster, pool).await;
    let client = proxy.connect().await;
    let pid = value(&client, "SELECT pg_backend_pid()").await;
    let admin = proxy.admin().await;
    poll("connections are opened ahead", async || pool_figure(&admin, "idle").await == "3").await;
    let pids =
        rows(&cluster.direct(0).await, "SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'client backend'").await;
    assert!(pids.contains(&vec![Some(pid)]), "a lifetime of zero is none at all");
}

#[tokio::test]
async fn a_server_s_restart_is_not_seen_between_two_statements() {
    let mut cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let before = value(&client, "SELECT pg_backend_pid()").await;
    cluster.shards[0].restart().await;
    let admin = proxy.admin().await;
    poll("the node is up", async || column(&admin, "SHOW NODES", "state").await == ["up"]).await;
    let after = value(&client, "SELECT pg_backend_pid()").await;
    assert_ne!(before, after);
}

#[tokio::test]
async fn session_mode_keeps_a_connection_until_the_client_leaves() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with_pool(&cluster, "mode = \"session\"\nmax_per_node = 1\nreserve = 0\ncheckout_timeout = \"20s\"").await;
    let first = proxy.connect().await;
    first
        .batch_execute("CREATE TEMP TABLE own (n int); PREPARE mine AS SELECT 1; SET work_mem = '5MB'; LISTEN here")
        .await
        .unwrap();
    let pid = value(&first, "SELECT pg_backend_pid()").await;
    assert_eq!(value(&first, "SELECT pg_backend_pid()").await, pid);
    let target = proxy.target("postgres");
    let second = beside(async move {
        let second = connect_with(&target).await.unwrap();
        let setting = value(&second, "SHOW work_mem").await;
        (try_rows(&second, "SELECT * FROM own").await.is_err(), try_rows(&second, "EXECUTE mine").await.is_err(), setting)
    });
    let admin = proxy.admin().await;
    poll("the second waits", async || pool_figure(&admin, "waiting").await == "1").await;
    drop(first);
    assert_eq!(second.await.unwrap(), (true, true, "4MB".to_owned()));
}

#[tokio::test]
async fn statement_mode_refuses_a_transaction_block_and_goes_on() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with_pool(&cluster, "mode = \"statement\"").await;
    let client = proxy.connect().await;
    for begin in ["BEGIN", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE"] {
        let (sqlstate, message) = failure(&client, begin).await;
        assert_eq!(sqlstate, "0A000");
        assert_eq!(message, "a transaction block is not allowed under statement pooling");
    }
    assert_eq!(value(&client, "SELECT 1").await, "1");
    assert_eq!(failure(&client, "SELECT 1; BEGIN; SELECT 2").await.0, "0A000");
    assert_eq!(value(&client, "SELECT 2").await, "2");
}

#[tokio::test]
async fn a_server_that_starts_up_says_so_itself() {
    let words = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
    let cluster = Cluster::start(1).await;
    let fake = Fake::start(Manner::Say(message(b'E', words)), cluster.shards[0].port()).await;
    let proxy = proxy_before(&fake, &cluster, "checkout_timeout = \"1s\"").await;
    let error = connect_with(&proxy.target("app")).await.err().unwrap();
    assert_eq!(sqlstate_of(&error), ("57P03".to_owned(), "the database system is starting up".to_owned()));
}

#[tokio::test]
async fn a_reload_closes_the_connections_of_the_pools_before_it() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with_pool(&cluster, "max_per_node = 5").await;
    let (idle, busy, admin) = (proxy.connect().await, proxy.connect().await, proxy.admin().await);
    let before = value(&idle, "SELECT pg_backend_pid()").await;
    busy.batch_execute("BEGIN; INSERT INTO users VALUES (1, 'n', 'e', 'us')").await.unwrap();
    value(&idle, "SELECT pg_backend_pid()").await;
    let text = std::fs::read_to_string(&proxy.config_file).unwrap();
    std::fs::write(&proxy.config_file, text.replace("max_per_node = 5", "max_per_node = 6")).unwrap();
    admin.simple_query("RELOAD").await.unwrap();
    let direct = cluster.direct(0).await;
    let n_in = async |state: &str| {
        let of_clients = "backend_type = 'client backend' AND application_name = '' AND pid <> pg_backend_pid()";
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backend_pid()' AND {of_clients} AND state = '{state}'"
        );
        value(&direct, &sql).await
    };
    poll("the idle one is closed", async || n_in("idle").await == "0").await;
    busy.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&busy, "SELECT count(*) FROM users").await, "1");
    assert_eq!(column(&admin, "SHOW POOLS", "max").await[0], "6");
    assert_ne!(value(&idle, "SELECT pg_backend_pid()").await, before);
}
