//! Deadlocks that several servers have together: one transaction is ended as by one Postgres, the others go on.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tokio_postgres::{Client, Error, Row};

use crate::harness::extended::{bind, describe, execute, parse};
use crate::harness::{Cluster, Proxy, ProxyOptions, QUICK_HEALTH, Raw, beside, failure, message, poll, value};

/// A deadlock ends within this time; statements may take 30 s by default.
const MUCH: Duration = Duration::from_secs(10);

/// A read of a client's.
type Read = Pin<Box<dyn Future<Output = Result<Vec<Row>, Error>> + Send>>;

/// A proxy in front of some shards, and a user of each.
async fn start(n_shards: usize, sections: &str) -> (Cluster, Proxy, Vec<i64>) {
    let cluster = Cluster::start(n_shards).await;
    let sections = format!("{sections}\n{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    let rows: Vec<String> = (1..=40).map(|id| format!("({id}, 'u', 'e', '0')")).collect();
    let insert = format!("INSERT INTO users (user_id, name, email, country) VALUES {}", rows.join(", "));
    client.batch_execute(&insert).await.unwrap();
    let mut users = Vec::new();
    for idx in 0..n_shards {
        users.push(value(&cluster.direct(idx).await, "SELECT min(user_id) FROM users").await.parse().unwrap());
    }
    (cluster, proxy, users)
}

fn update(user: i64, country: &str) -> String {
    format!("UPDATE users SET country = '{country}' WHERE user_id = {user}")
}

async fn country(client: &Client, user: i64) -> String {
    value(client, &format!("SELECT country FROM users WHERE user_id = {user}")).await
}

async fn n_deadlocks(proxy: &Proxy) -> String {
    let metrics = proxy.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with("trunkline_deadlocks_total{")).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

/// Runs a statement of each client at the same time. Gives the client that got 40P01, and those that went on, with their indexes.
/// Who goes on commits, for another may wait for it.
async fn collide(clients: Vec<Client>, statements: Vec<String>) -> ((usize, Client), Vec<(usize, Client)>) {
    let began = Instant::now();
    let run = |(idx, (client, sql)): (usize, (Client, String))| {
        beside(async move {
            let outcome = client.batch_execute(&sql).await;
            if outcome.is_ok() {
                client.batch_execute("COMMIT").await.unwrap();
            }
            (idx, client, outcome)
        })
    };
    let tasks: Vec<_> = clients.into_iter().zip(statements).enumerate().map(run).collect();
    let (mut victims, mut others) = (Vec::new(), Vec::new());
    for task in tasks {
        let (idx, client, outcome) = task.await.unwrap();
        match outcome {
            Ok(()) => others.push((idx, client)),
            Err(error) => {
                check_words(&error);
                victims.push((idx, client));
            }
        }
    }
    assert!(began.elapsed() < MUCH, "{:?}", began.elapsed());
    assert_eq!(victims.len(), 1, "one has to give up");
    (victims.remove(0), others)
}

/// As one Postgres says it, but for the locks' names.
fn check_words(error: &Error) {
    let report = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(
        (report.code().code(), report.message(), report.severity()),
        ("40P01", "deadlock detected", "ERROR"),
        "{report:?}"
    );
    let detail = report.detail().unwrap();
    assert!(detail.lines().count() >= 2, "{detail}");
    for line in detail.lines() {
        assert!(
            line.starts_with("Process ") && line.contains(" waits on shard \"shard") && line.contains("; blocked by process "),
            "{line}"
        );
    }
}

/// The block of one that had to give up is failed, and can be run again.
async fn check_victim(client: &Client, again: &[String]) {
    assert_eq!(failure(client, "SELECT 1").await.0, "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    for sql in again {
        client.batch_execute(sql).await.unwrap();
    }
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn of_two_transactions_one_gives_up_and_one_goes_on() {
    // Without a timeout nothing else would end it.
    let (cluster, proxy, users) = start(2, "[query]\ntimeout = \"0s\"\nshard_timeout = \"0s\"").await;
    let observer = proxy.connect().await;
    for round in 0..2 {
        let clients = vec![proxy.connect().await, proxy.connect().await];
        for (idx, client) in clients.iter().enumerate() {
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute(&update(users[idx], &format!("{round}{idx}"))).await.unwrap();
        }
        let statements = vec![update(users[1], &format!("{round}0")), update(users[0], &format!("{round}1"))];
        let ((lost, victim), others) = collide(clients, statements).await;
        let won = others[0].0;
        assert_ne!(lost, won);
        // Nothing is left of it on either shard, and all is there of the other.
        for user in &users {
            assert_eq!(country(&observer, *user).await, format!("{round}{won}"));
        }
        check_victim(&victim, &[update(users[0], "x"), update(users[1], "x")]).await;
        assert_eq!(country(&observer, users[0]).await, "x");
        assert_eq!(n_deadlocks(&proxy).await, (round + 1).to_string());
    }
    assert!(proxy.log().contains("a deadlock across shards"));
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn prepared_statements_meet_the_same_way() {
    let (cluster, proxy, users) = start(2, "").await;
    let mut tasks = Vec::new();
    let both = std::sync::Arc::new(tokio::sync::Barrier::new(2));
    for idx in 0..2_usize {
        let (mut client, users, both) = (proxy.connect().await, users.clone(), both.clone());
        tasks.push(beside(async move {
            let statement = client.prepare("UPDATE users SET country = $1 WHERE user_id = $2").await.unwrap();
            let word = format!("p{idx}");
            let block = client.transaction().await.unwrap();
            assert_eq!(block.execute(&statement, &[&word, &users[idx]]).await.unwrap(), 1);
            both.wait().await;
            let outcome = block.execute(&statement, &[&word, &users[1 - idx]]).await;
            match outcome {
                Ok(n_rows) => {
                    block.commit().await.unwrap();
                    assert_eq!(n_rows, 1);
                    None
                }
                Err(error) => {
                    check_words(&error);
                    let error = block.execute(&statement, &[&word, &users[idx]]).await.unwrap_err();
                    assert_eq!(error.code().unwrap().code(), "25P02");
                    block.rollback().await.unwrap();
                    assert_eq!(client.execute(&statement, &[&word, &users[idx]]).await.unwrap(), 1);
                    Some(idx)
                }
            }
        }));
    }
    let mut victims = Vec::new();
    for task in tasks {
        victims.extend(task.await.unwrap());
    }
    assert_eq!(victims.len(), 1);
    let lost = victims[0];
    let observer = proxy.connect().await;
    // What it ran again came last; the other's stands on the other's shard.
    assert_eq!(country(&observer, users[1 - lost]).await, format!("p{}", 1 - lost));
    assert_eq!(n_deadlocks(&proxy).await, "1");
    cluster.wait_until_clean().await;
}

/// What the victim has locked is free before its client says ROLLBACK: the others of the ring end by themselves.
#[tokio::test]
async fn of_a_ring_over_three_shards_one_gives_up() {
    let (cluster, proxy, users) = start(3, "").await;
    let mut clients = Vec::new();
    for (idx, user) in users.iter().enumerate() {
        let client = proxy.connect().await;
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(&update(*user, &format!("r{idx}"))).await.unwrap();
        clients.push(client);
    }
    let statements = (0..3).map(|idx| update(users[(idx + 1) % 3], &format!("r{idx}"))).collect();
    let ((lost, victim), others) = collide(clients, statements).await;
    assert_eq!(others.len(), 2);
    let again: Vec<String> = [lost, (lost + 1) % 3].map(|idx| update(users[idx], "again")).to_vec();
    check_victim(&victim, &again).await;
    assert_eq!(country(&victim, users[(lost + 1) % 3]).await, "again");
    assert_eq!(n_deadlocks(&proxy).await, "1");
    cluster.wait_until_clean().await;
}

/// A client past the proxy, which one server knows, waits between two of the proxy's.
#[tokio::test]
async fn others_may_stand_in_the_ring() {
    let (cluster, proxy, users) = start(2, "").await;
    let (first, second, between) = (proxy.connect().await, proxy.connect().await, cluster.direct(0).await);
    second.batch_execute(&format!("BEGIN; {}", update(users[0], "s"))).await.unwrap();
    // It holds a second row of the first shard, and waits there.
    let own = value(&cluster.direct(0).await, "SELECT max(user_id) FROM users").await.parse().unwrap();
    between.batch_execute("BEGIN").await.unwrap();
    between.batch_execute(&update(own, "b")).await.unwrap();
    let sql = update(users[0], "b");
    let between = beside(async move {
        between.batch_execute(&sql).await.unwrap();
        between.batch_execute("COMMIT").await.unwrap();
    });
    first.batch_execute("BEGIN").await.unwrap();
    first.batch_execute(&update(users[1], "f")).await.unwrap();
    let ((_, victim), _) = collide(vec![first, second], vec![update(own, "f"), update(users[1], "s")]).await;
    between.await.unwrap();
    check_victim(&victim, &[update(users[1], "x")]).await;
    cluster.wait_until_clean().await;
}

/// The ring is closed by a statement over all shards, long after the other has begun to wait.
#[tokio::test]
async fn a_statement_on_all_shards_gives_up_on_all() {
    let (cluster, proxy, users) = start(2, "").await;
    let (first, second) = (proxy.connect().await, proxy.connect().await);
    let rename = |name: &str| format!("UPDATE countries SET name = '{name}' WHERE code = 'us'");
    first.batch_execute("INSERT INTO countries (code, name, region) VALUES ('us', 'a', 'r')").await.unwrap();
    first.batch_execute(&format!("BEGIN; {}", rename("first"))).await.unwrap();
    second.batch_execute("BEGIN").await.unwrap();
    second.batch_execute(&update(users[1], "s")).await.unwrap();
    let sql = update(users[1], "f");
    let waiting = beside(async move {
        first.batch_execute(&sql).await.unwrap();
        first.batch_execute("COMMIT").await.unwrap();
    });
    let direct = cluster.direct(1).await;
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND now() - query_start > interval '2500 ms'";
    poll("the first has waited for long", async || value(&direct, waits).await == "1").await;
    let error = second.batch_execute(&rename("second")).await.unwrap_err();
    check_words(&error);
    waiting.await.unwrap();
    check_victim(&second, &[rename("second"), update(users[1], "again")]).await;
    for shard_idx in 0..2 {
        assert_eq!(value(&cluster.direct(shard_idx).await, "SELECT name FROM countries").await, "second");
    }
    assert_eq!(country(&second, users[1]).await, "again");
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn table_locks_meet_as_rows_do() {
    let (cluster, proxy, _) = start(2, "").await;
    let lock = |idx: usize| format!("SET LOCAL trunkline.shard = 'shard{idx}'; LOCK TABLE users");
    let clients = vec![proxy.connect().await, proxy.connect().await];
    for (idx, client) in clients.iter().enumerate() {
        client.batch_execute(&format!("BEGIN; {}", lock(idx))).await.unwrap();
    }
    let ((_, victim), _) = collide(clients, vec![lock(1), lock(0)]).await;
    check_victim(&victim, &[lock(0)]).await;
    cluster.wait_until_clean().await;
}

/// As on one Postgres, what came before the savepoint stays, with its locks.
#[tokio::test]
async fn a_savepoint_keeps_what_came_before_it() {
    let (cluster, proxy, users) = start(2, "").await;
    let clients = vec![proxy.connect().await, proxy.connect().await];
    let mut kept: Vec<i64> = Vec::new();
    for (idx, client) in clients.iter().enumerate() {
        kept.push(value(&cluster.direct(idx).await, "SELECT max(user_id) FROM users").await.parse().unwrap());
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(&update(kept[idx], "kept")).await.unwrap();
        client.batch_execute("SAVEPOINT a").await.unwrap();
        client.batch_execute(&update(users[idx], "lost")).await.unwrap();
    }
    let ((lost, victim), _) = collide(clients, vec![update(users[1], "won"), update(users[0], "won")]).await;
    assert_eq!(failure(&victim, "SELECT 1").await.0, "25P02");
    victim.batch_execute("ROLLBACK TO SAVEPOINT a").await.unwrap();
    assert_eq!(country(&victim, kept[lost]).await, "kept");
    assert_eq!(country(&victim, users[lost]).await, "won");
    assert_eq!(country(&victim, users[1 - lost]).await, "lost");
    victim.batch_execute("COMMIT").await.unwrap();
    assert_eq!(country(&proxy.connect().await, kept[lost]).await, "kept");
    cluster.wait_until_clean().await;
}

/// Time itself is the subject: who waits for one that only takes its time is left alone, though the servers are asked.
#[tokio::test]
async fn a_long_wait_is_no_deadlock() {
    let (cluster, proxy, users) = start(2, "").await;
    let (holder, waiter, third) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    for client in [&holder, &waiter, &third] {
        client.batch_execute("BEGIN").await.unwrap();
        // All have a connection to both shards.
        assert_eq!((country(client, users[0]).await, country(client, users[1]).await), ("0".to_owned(), "0".to_owned()));
    }
    holder.batch_execute(&update(users[1], "h")).await.unwrap();
    waiter.batch_execute(&update(users[0], "w")).await.unwrap();
    let wait = |client: Client, sql: String| {
        beside(async move {
            client.batch_execute(&sql).await.unwrap();
            client.batch_execute("COMMIT").await.unwrap();
        })
    };
    let waiter = wait(waiter, update(users[1], "w"));
    let third = wait(third, update(users[0], "t"));
    let direct = cluster.direct(0).await;
    let asking =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trunkline control' AND query LIKE '%pg_blocking_pids%'";
    poll("the servers are asked", async || value(&direct, asking).await == "1").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!waiter.is_finished() && !third.is_finished());
    holder.batch_execute("COMMIT").await.unwrap();
    waiter.await.unwrap();
    third.await.unwrap();
    assert_eq!((country(&holder, users[0]).await, country(&holder, users[1]).await), ("t".to_owned(), "w".to_owned()));
    assert_eq!(n_deadlocks(&proxy).await, "0");
    poll("nobody asks any more", async || value(&direct, asking).await == "0").await;
}

/// Clients that change the same rows in orders of their own and run again what had to give up: the oldest transaction goes on always, so
/// all of them come to their end.
#[tokio::test]
async fn who_tries_again_gets_through() {
    const N_CLIENTS: usize = 3;
    const N_ROUNDS: usize = 2;
    let (cluster, proxy, users) = start(3, "[query]\ntimeout = \"0s\"\nshard_timeout = \"0s\"").await;
    let mut tasks = Vec::new();
    for idx in 0..N_CLIENTS {
        let (client, users) = (proxy.connect().await, users.clone());
        tasks.push(beside(async move {
            for round in 0..N_ROUNDS {
                loop {
                    client.batch_execute("BEGIN").await.unwrap();
                    let mut outcome = Ok(());
                    for step in 0..3 {
                        let place = if idx % 2 == 0 { (idx + round + step) % 3 } else { (idx + round + 5 - step) % 3 };
                        let sql = format!("UPDATE users SET country = (country::int + 1)::text WHERE user_id = {}", users[place]);
                        outcome = client.batch_execute(&sql).await;
                        if outcome.is_err() {
                            break;
                        }
                    }
                    match outcome {
                        Ok(()) => {
                            client.batch_execute("COMMIT").await.unwrap();
                            break;
                        }
                        Err(error) => {
                            assert_eq!(error.code().unwrap().code(), "40P01", "{error:?}");
                            client.batch_execute("ROLLBACK").await.unwrap();
                        }
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let client = proxy.connect().await;
    for user in users {
        assert_eq!(country(&client, user).await, (N_CLIENTS * N_ROUNDS).to_string());
    }
    cluster.wait_until_clean().await;
}

/// Waits until so many processes of the first shard wait for a lock on a table.
async fn wait_for_waiters(cluster: &Cluster, table: &str, n: usize) {
    let direct = cluster.direct(0).await;
    let waiting = format!("SELECT count(*) = {n} FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass");
    poll("who is to wait waits", async || value(&direct, &waiting).await == "t").await;
}

/// Waits until a read has the rows of `users` on the second shard.
async fn wait_for_rows_of_second(cluster: &Cluster) {
    let direct = cluster.direct(1).await;
    let has_lock = "SELECT count(*) > 0 FROM pg_locks WHERE granted AND relation = 'users'::regclass";
    poll("a read has the second shard's rows", async || value(&direct, has_lock).await == "t").await;
}

/// Reads of these clients wait on the first shard for DDL that waits for them on the second. Gives what became of each.
async fn meet_ddl(cluster: &Cluster, proxy: &Proxy, reads: Vec<Read>, ddl: &'static str) -> Vec<Result<Vec<Row>, Error>> {
    let holder = cluster.direct(0).await;
    holder.batch_execute("BEGIN; LOCK TABLE users IN ACCESS SHARE MODE").await.unwrap();
    let altering = proxy.connect().await;
    let altering = beside(async move { altering.batch_execute(ddl).await });
    wait_for_waiters(cluster, "users", 1).await;
    let n_reads = reads.len();
    let reads: Vec<_> = reads.into_iter().map(beside).collect();
    wait_for_waiters(cluster, "users", 1 + n_reads).await;
    wait_for_rows_of_second(cluster).await;
    // The DDL gets the first shard now and asks for the second, whose rows the reads have.
    holder.batch_execute("COMMIT").await.unwrap();
    altering.await.unwrap().unwrap();
    let mut outcomes = Vec::new();
    for read in reads {
        outcomes.push(read.await.unwrap());
    }
    outcomes
}

/// One server has such reads wait for the DDL. What is a transaction by itself is begun anew, by the new catalog.
#[tokio::test]
async fn a_read_that_meets_ddl_is_begun_anew() {
    let (cluster, proxy, _) = start(2, "[query]\ntimeout = \"0s\"\nshard_timeout = \"0s\"").await;
    let sql = "SELECT DISTINCT country, count(*) OVER () FROM users";
    let (simple, named) = (proxy.connect().await, proxy.connect().await);
    let statement = named.prepare(sql).await.unwrap();
    // The proxy knows the statement, and asks both shards at once.
    assert_eq!(named.query(&statement, &[]).await.unwrap().len(), 1);
    let reads: Vec<Read> = vec![
        Box::pin(async move {
            assert_eq!(value(&simple, sql).await, "0");
            Ok(Vec::new())
        }),
        Box::pin(async move { named.query(&statement, &[]).await }),
    ];
    let outcomes = meet_ddl(&cluster, &proxy, reads, "ALTER TABLE users ADD COLUMN note text DEFAULT 'n'").await;
    let rows = outcomes.into_iter().last().unwrap().unwrap();
    assert_eq!((rows[0].get::<_, &str>(0), rows[0].get::<_, i64>(1)), ("0", 40));
    assert!(proxy.log().contains("a deadlock across shards"), "nobody was in the way of another");
    assert_eq!(n_deadlocks(&proxy).await, "0");
    assert_eq!(value(&proxy.connect().await, "SELECT count(DISTINCT note) FROM users").await, "1");
    cluster.wait_until_clean().await;
}

/// In the simple protocol rows come with their columns, whatever these are by now; others hold what they were told.
#[tokio::test]
async fn what_was_told_of_a_read_holds_when_it_is_begun_anew() {
    let (cluster, proxy, _) = start(2, "[query]\ntimeout = \"0s\"\nshard_timeout = \"0s\"").await;
    let sql = "SELECT DISTINCT country, count(*) OVER () FROM users";
    let (simple, named, copying) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    let mut unnamed = Raw::log_in(proxy.port).await;
    let batch = [parse("", sql, &[]), bind("", (&[], 0), 0), describe(b'P', ""), execute(0), message(b'S', b"")].concat();
    let statement = named.prepare(sql).await.unwrap();
    assert_eq!(named.query(&statement, &[]).await.unwrap().len(), 1);
    let reads: Vec<Read> = vec![
        Box::pin(async move {
            assert_eq!(value(&simple, sql).await, "0");
            Ok(Vec::new())
        }),
        Box::pin(async move {
            unnamed.send(&batch).await;
            let answer = unnamed.until(b'Z').await;
            let tags: String = answer.iter().map(|message| char::from(message.tag)).collect();
            assert_eq!(tags, "12TDCZ");
            // The type of the first column: an int4 by now.
            assert!(answer[2].body.windows(4).any(|bytes| bytes == 23u32.to_be_bytes()), "{:?}", answer[2].body);
            Ok(Vec::new())
        }),
        Box::pin(async move {
            let data = copying.copy_out(&format!("COPY ({sql}) TO STDOUT")).await?;
            let data: Vec<_> = data.try_collect().await?;
            assert_eq!(data.concat(), b"0\t40\n");
            Ok(Vec::new())
        }),
        Box::pin(async move { named.query(&statement, &[]).await }),
    ];
    let ddl = "ALTER TABLE users ALTER COLUMN country TYPE int USING country::int";
    let outcomes = meet_ddl(&cluster, &proxy, reads, ddl).await;
    let error = outcomes.into_iter().find_map(Result::err).unwrap();
    let report = error.as_db_error().unwrap();
    assert_eq!((report.code().code(), report.message()), ("0A000", "cached plan must not change result type"));
    cluster.wait_until_clean().await;
}

/// Of a read that can be begun anew and DDL that cannot, the read gives up, though it began before.
#[tokio::test]
async fn a_read_that_began_first_gives_up_all_the_same() {
    let (cluster, proxy, _) = start(2, "[query]\ntimeout = \"0s\"\nshard_timeout = \"0s\"").await;
    let (holder, second) = (cluster.direct(0).await, cluster.direct(0).await);
    let reader = proxy.connect().await;
    let read =
        "SELECT count(DISTINCT o.order_id) + count(DISTINCT u.country) FROM orders o FULL JOIN users u ON o.order_id = u.user_id";
    assert_eq!(value(&reader, read).await, "1");
    holder.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    second.batch_execute("BEGIN; LOCK TABLE users IN ACCESS SHARE MODE").await.unwrap();
    let reading = beside(async move { value(&reader, read).await });
    wait_for_waiters(&cluster, "orders", 1).await;
    let altering = proxy.connect().await;
    let altering = beside(async move { altering.batch_execute("ALTER TABLE users ADD COLUMN note text").await });
    wait_for_waiters(&cluster, "users", 1).await;
    holder.batch_execute("COMMIT").await.unwrap();
    wait_for_waiters(&cluster, "users", 2).await;
    wait_for_rows_of_second(&cluster).await;
    second.batch_execute("COMMIT").await.unwrap();
    altering.await.unwrap().unwrap();
    assert_eq!(reading.await.unwrap(), "1");
    assert!(proxy.log().contains("a deadlock across shards"), "nobody was in the way of another");
    cluster.wait_until_clean().await;
}
