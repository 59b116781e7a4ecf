//! What writes several shards happens on all of them or on none.

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, ProxyOptions, failure, poll, rows, value};

async fn start(n_shards: usize) -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(n_shards).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    (cluster, proxy, client)
}

fn insert_users(ids: impl Iterator<Item = u32>) -> String {
    let values: Vec<String> = ids.map(|n| format!("({n}, 'n', 'e', 'us')")).collect();
    format!("INSERT INTO users (user_id, name, email, country) VALUES {}", values.join(", "))
}

/// Users on each shard, past the proxy.
async fn n_users(cluster: &Cluster) -> Vec<u32> {
    let mut counts = Vec::new();
    for shard_idx in 0..cluster.shards.len() {
        counts.push(value(&cluster.direct(shard_idx).await, "SELECT count(*) FROM users").await.parse().unwrap());
    }
    counts
}

/// No prepared transaction is left on any shard.
async fn check_none_prepared(cluster: &Cluster) {
    for shard_idx in 0..cluster.shards.len() {
        let shard = cluster.direct(shard_idx).await;
        poll("prepared transactions are resolved", async || value(&shard, "SELECT count(*) FROM pg_prepared_xacts").await == "0")
            .await;
    }
}

#[tokio::test]
async fn an_insert_over_shards_is_atomic() {
    let (cluster, _proxy, client) = start(3).await;
    client.batch_execute(&insert_users(1..=100)).await.unwrap();
    let before = n_users(&cluster).await;
    assert!(before.iter().all(|n| *n > 0) && before.iter().sum::<u32>() == 100, "{before:?}");
    check_none_prepared(&cluster).await;
    // One row of these is there already: on one shard a unique violation, on the others nothing wrong.
    let (sqlstate, message) = failure(&client, &insert_users(100..=200)).await;
    assert_eq!(sqlstate, "23505", "{message}");
    assert_eq!(n_users(&cluster).await, before);
    check_none_prepared(&cluster).await;
    client.batch_execute(&insert_users(101..=200)).await.unwrap();
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 200);
}

#[tokio::test]
async fn copy_over_shards_is_atomic() {
    let (cluster, proxy, client) = start(3).await;
    let lines = |ids: std::ops::RangeInclusive<u32>| ids.map(|n| format!("{n}\tn\te\tus\n")).collect::<String>();
    crate::protocol::copy_in(&client, "COPY users (user_id, name, email, country) FROM STDIN", &lines(1..=50)).await.unwrap();
    let twice = lines(51..=90) + &lines(1..=1);
    let error =
        crate::protocol::copy_in(&client, "COPY users (user_id, name, email, country) FROM STDIN", &twice).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 50);
    check_none_prepared(&cluster).await;
    assert_eq!(value(&proxy.connect().await, "SELECT count(*) FROM users").await, "50");
}

#[tokio::test]
async fn a_transaction_over_two_shards_commits_as_one() {
    let (cluster, _proxy, client) = start(3).await;
    client.batch_execute("BEGIN").await.unwrap();
    for user_id in 1..=30 {
        client.batch_execute(&insert_users(user_id..=user_id)).await.unwrap();
    }
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "30", "a transaction sees its own writes on every shard");
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 0, "and others do not");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 30);
    check_none_prepared(&cluster).await;
}

#[tokio::test]
async fn rollback_undoes_all_shards() {
    let (cluster, _proxy, client) = start(3).await;
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&insert_users(1..=30)).await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(n_users(&cluster).await, [0, 0, 0]);
    check_none_prepared(&cluster).await;
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
}

#[tokio::test]
async fn an_error_fails_the_transaction_until_rollback() {
    let (cluster, _proxy, client) = start(3).await;
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&insert_users(1..=20)).await.unwrap();
    assert_eq!(failure(&client, &insert_users(20..=20)).await.0, "23505");
    assert_eq!(failure(&client, "SELECT count(*) FROM users").await.0, "25P02");
    // COMMIT of a failed transaction rolls back, without an error.
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(n_users(&cluster).await, [0, 0, 0]);
    client.batch_execute(&insert_users(1..=20)).await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "20");
}

#[tokio::test]
async fn a_refused_statement_fails_the_transaction_too() {
    let (_cluster, _proxy, client) = start(2).await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(failure(&client, "SELECT name FROM users FOR UPDATE").await.0, "0A000");
    assert_eq!(failure(&client, "SELECT 1").await.0, "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    client.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn savepoints_reach_every_shard() {
    let (cluster, _proxy, client) = start(3).await;
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&insert_users(1..=10)).await.unwrap();
    client.batch_execute("SAVEPOINT here").await.unwrap();
    client.batch_execute(&insert_users(11..=40)).await.unwrap();
    client.batch_execute("ROLLBACK TO here").await.unwrap();
    client.batch_execute(&insert_users(41..=50)).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 20);
    assert_eq!(value(&client, "SELECT count(*) FROM users WHERE user_id BETWEEN 11 AND 40").await, "0");
}

#[tokio::test]
async fn without_prepared_transactions_a_second_shard_is_refused() {
    let cluster = Cluster::start_without_prepared(2).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let error = client.batch_execute(&insert_users(1..=50)).await.unwrap_err();
    let report = error.as_db_error().unwrap();
    assert!(["0A000", "55000"].contains(&report.code().code()), "{report:?}");
    assert!(report.hint().is_some_and(|hint| hint.contains("max_prepared_transactions")), "{report:?}");
    assert_eq!(n_users(&cluster).await, [0, 0]);
    // One shard needs no second phase.
    client.batch_execute(&insert_users(1..=1)).await.unwrap();
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 1);
}

#[tokio::test]
async fn an_implicit_transaction_spans_a_multi_statement_string() {
    let (cluster, _proxy, client) = start(3).await;
    let statements: Vec<String> = (1..=12).map(|n| insert_users(n..=n)).collect();
    client.batch_execute(&statements.join("; ")).await.unwrap();
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 12);
    // The last one fails: none of the string stays.
    let failing = format!("{}; {}; {}", insert_users(20..=20), insert_users(21..=21), insert_users(1..=1));
    assert_eq!(failure(&client, &failing).await.0, "23505");
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 12);
    assert_eq!(rows(&client, "SELECT 1; SELECT 2").await.len(), 2);
    check_none_prepared(&cluster).await;
}

#[tokio::test]
async fn settings_of_a_transaction_reach_its_shards() {
    let (_cluster, proxy, client) = start(2).await;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.unwrap();
    assert_eq!(failure(&client, &insert_users(1..=1)).await.0, "25006");
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("SET application_name = 'one'; SET DateStyle = 'German'").await.unwrap();
    let other = proxy.connect().await;
    for _ in 0..5 {
        assert_eq!(rows(&client, "SELECT current_setting('datestyle')").await, [[Some("German, DMY".to_owned())]]);
        assert_eq!(rows(&other, "SELECT current_setting('datestyle')").await, [[Some("ISO, MDY".to_owned())]]);
    }
}

/// Makes COMMIT on this shard wait for advisory lock 42, through every cancel.
const STUBBORN_COMMIT: &str = "
CREATE FUNCTION stubborn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  LOOP
    BEGIN
      PERFORM pg_advisory_xact_lock(42);
      RETURN NULL;
    EXCEPTION WHEN query_canceled THEN NULL;
    END;
  END LOOP;
END $$;
CREATE CONSTRAINT TRIGGER stubborn AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stubborn()";

#[tokio::test]
async fn a_commit_that_nobody_answers_for_is_undone_nowhere() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster
        .proxy_with(ProxyOptions {
            sections: "[pool]\ncheckout_timeout = \"1s\"\n[query]\ntimeout = \"1s\"\n",
            ..ProxyOptions::default()
        })
        .await;
    let client = proxy.connect().await;
    let (coordinator, other) = (cluster.direct(0).await, cluster.direct(1).await);
    coordinator.batch_execute(STUBBORN_COMMIT).await.unwrap();
    coordinator.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let (sqlstate, message) = failure(&client, &insert_users(1..=50)).await;
    assert_eq!(sqlstate, "08007", "{message}");
    assert_eq!(value(&other, "SELECT count(*) FROM pg_prepared_xacts").await, "1");
    coordinator.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    poll("the coordinator commits", async || value(&coordinator, "SELECT count(*) FROM trunkline.commits").await == "1").await;
    // What a person does then.
    let gid = value(&other, "SELECT gid FROM pg_prepared_xacts").await;
    assert!(gid.starts_with(&value(&coordinator, "SELECT gid FROM trunkline.commits").await), "{gid}");
    other.batch_execute(&format!("COMMIT PREPARED '{gid}'")).await.unwrap();
    assert_eq!(n_users(&cluster).await.iter().sum::<u32>(), 50);
}

/// Raises at the end of a transaction that has inserted a user named `bad`.
const DEFERRED_CHECK: &str = "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS \
     $$BEGIN RAISE EXCEPTION 'too late' USING ERRCODE = '23514'; END$$; \
     CREATE CONSTRAINT TRIGGER late AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
     WHEN (NEW.name = 'bad') EXECUTE FUNCTION public.refuse()";

#[tokio::test]
async fn a_check_that_fails_at_the_end_undoes_every_shard_whichever_has_it() {
    let (cluster, _proxy, client) = start(3).await;
    for shard_idx in 0..3 {
        cluster.direct(shard_idx).await.batch_execute(DEFERRED_CHECK).await.unwrap();
    }
    for bad in 0..12 {
        client.batch_execute("BEGIN").await.unwrap();
        // Rows of all shards; the first written coordinates, so the fault meets coordinator and participants in turn.
        for id in 0..12 {
            let name = if id == bad { "bad" } else { "good" };
            let insert = format!("INSERT INTO users (user_id, name, email, country) VALUES ({id}, '{name}', 'e', 'us')");
            client.batch_execute(&insert).await.unwrap();
        }
        assert_eq!(failure(&client, "COMMIT").await.0, "23514", "user {bad}");
        assert_eq!(n_users(&cluster).await, [0, 0, 0], "user {bad}");
        check_none_prepared(&cluster).await;
    }
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
}

#[tokio::test]
async fn what_ends_a_local_setting_ends_it_on_shards_enlisted_later() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let values: Vec<String> = (1..=12).map(|n| format!("({n}, 'n', 'e', 'us')")).collect();
    client
        .batch_execute(&format!("INSERT INTO users (user_id, name, email, country) VALUES {}", values.join(", ")))
        .await
        .unwrap();
    let seen = "SELECT DISTINCT current_setting('work_mem') FROM users WHERE user_id = ";
    for (end, expected) in
        [("RESET work_mem", "4MB"), ("SET work_mem TO DEFAULT", "4MB"), ("SET work_mem TO '7MB'", "7MB"), ("RESET ALL", "4MB")]
    {
        client.batch_execute(&format!("BEGIN; SET LOCAL work_mem TO '5MB'; {end}")).await.unwrap();
        for user_id in 1..=12 {
            assert_eq!(value(&client, &format!("{seen}{user_id}")).await, expected, "{end}, user {user_id}");
        }
        client.batch_execute("ROLLBACK").await.unwrap();
        for user_id in 1..=12 {
            assert_eq!(value(&client, &format!("{seen}{user_id}")).await, "4MB", "after {end}, user {user_id}");
        }
    }
    // A role that was given up stays given up.
    client.batch_execute("CREATE ROLE nobody").await.unwrap();
    client.batch_execute("BEGIN; SET LOCAL ROLE nobody; RESET ROLE").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "12");
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn constraints_are_set_on_every_shard_of_the_transaction() {
    let cluster = Cluster::start(3).await;
    let database = "\n[[databases.shop.tables]]\nname = 'held'\nkey = { hash = 'k' }\n";
    let proxy = cluster.proxy_with(ProxyOptions { database, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE held (k bigint, n int, UNIQUE (k) DEFERRABLE INITIALLY IMMEDIATE)").await.unwrap();
    let values: Vec<String> = (1..=12).map(|n| format!("({n}, 1)")).collect();
    client.batch_execute(&format!("INSERT INTO held VALUES {}", values.join(", "))).await.unwrap();
    // Each is a duplicate for as long as the transaction says that it may be.
    for (n, set) in [(1, "SET CONSTRAINTS ALL DEFERRED"), (2, "set constraints held_k_key deferred")] {
        client.batch_execute(&format!("BEGIN; {set}")).await.unwrap();
        for k in 1..=12 {
            client.batch_execute(&format!("INSERT INTO held VALUES ({k}, {})", n + 1)).await.unwrap();
            client.batch_execute(&format!("DELETE FROM held WHERE k = {k} AND n = {n}")).await.unwrap();
        }
        client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE; COMMIT").await.unwrap();
    }
    assert_eq!(value(&client, "SELECT count(*) FROM held").await, "12");
    // Checked at once when it says so.
    client.batch_execute("BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO held VALUES (3, 2), (4, 2), (5, 2)").await.unwrap();
    assert_eq!(failure(&client, "SET CONSTRAINTS ALL IMMEDIATE").await.0, "23505");
    client.batch_execute("ROLLBACK").await.unwrap();
    // The next transaction is as the table has it.
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(failure(&client, "INSERT INTO held VALUES (3, 3)").await.0, "23505");
    client.batch_execute("ROLLBACK").await.unwrap();
}

/// Clients that change the same rows of several shards, each some times, in statements of their own.
#[tokio::test]
async fn statements_that_meet_on_several_shards_wait_for_each_other() {
    let (_cluster, proxy, client) = start(3).await;
    client.batch_execute("INSERT INTO countries VALUES ('us', '', 'us')").await.unwrap();
    let upsert = insert_users(1..=20) + " ON CONFLICT (user_id) DO UPDATE SET name = users.name || '+'";
    let statements = [
        "UPDATE countries SET name = name || '+' WHERE code = 'us'".to_owned(),
        "INSERT INTO countries VALUES ('us', '', 'us') ON CONFLICT (code) DO UPDATE SET name = countries.name || '+'".to_owned(),
        upsert,
        "TRUNCATE orders".to_owned(),
        "ALTER TABLE orders ADD COLUMN IF NOT EXISTS seen boolean".to_owned(),
    ];
    let began = std::time::Instant::now();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(proxy.connect().await);
    }
    for sql in &statements {
        let tasks = clients.iter().map(|client| async move {
            for _ in 0..5 {
                client.batch_execute(sql).await.map_err(|error| format!("{sql}: {error:?}"))?;
            }
            Ok::<(), String>(())
        });
        let outcomes = futures_util::future::join_all(tasks).await;
        assert_eq!(outcomes, vec![Ok(()); 4]);
    }
    assert_eq!(value(&client, "SELECT length(name) FROM countries WHERE code = 'us'").await, "40");
    // A statement that nobody could end would have been given up after query.timeout, 30 s.
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
}
