//! Statements over gathered rows: what they see, what they may hold, and how they end when something is amiss.

use tokio_postgres::Client;

use crate::harness::{
    Cluster, ProxyOptions, QUICK_HEALTH, Raw, Single, check_refused, failure, load_both, message, poll, rows, text, value,
};

async fn fill(client: &Client) {
    let users: Vec<String> = (1..=60).map(|n| format!("({n}, 'n{}', 'e', 'us')", n % 7)).collect();
    let orders: Vec<String> = (1..=90).map(|n| format!("({n}, {}, 'new', {})", 1 + n * 7 % 60, n % 10)).collect();
    for sql in [
        format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")),
        format!("INSERT INTO orders (order_id, user_id, status, total_cents) VALUES {}", orders.join(", ")),
    ] {
        client.batch_execute(&sql).await.unwrap();
    }
}

const APART: &str = "SELECT count(*) FROM users u JOIN orders o ON u.user_id = o.total_cents";

#[tokio::test]
async fn a_transaction_sees_its_own_writes_and_the_engine_leaves_no_trace() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let (client, other) = (proxy.connect().await, proxy.connect().await);
    fill(&client).await;
    client.batch_execute("INSERT INTO countries VALUES ('us', 'United States', 'americas')").await.unwrap();
    let before: i64 = value(&client, APART).await.parse().unwrap();
    client
        .batch_execute("BEGIN; DELETE FROM users WHERE user_id = 1; INSERT INTO countries VALUES ('jp', 'Japan', 'asia')")
        .await
        .unwrap();
    client
        .batch_execute("INSERT INTO users (user_id, name, email, country) VALUES (100, 'a', 'e', 'jp'), (101, 'b', 'e', 'jp')")
        .await
        .unwrap();
    assert_eq!(value(&client, APART).await, (before - 9).to_string());
    let by_country =
        "SELECT c.code, count(u.user_id) FROM countries c LEFT JOIN users u ON u.country = c.code GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&client, by_country).await, [[Some("jp".into()), Some("2".into())], [Some("us".into()), Some("59".into())]]);
    assert_eq!(rows(&other, by_country).await, [[Some("us".to_owned()), Some("60".to_owned())]]);
    // SET LOCAL holds for the engine as well.
    client.batch_execute("SET LOCAL DateStyle TO 'SQL, DMY'").await.unwrap();
    let day = "SELECT DISTINCT date '2024-02-29'::text FROM users";
    assert_eq!(value(&client, day).await, "29/02/2024");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, day).await, "2024-02-29");
    assert_eq!(value(&client, APART).await, (before - 9).to_string());
    cluster.wait_until_clean().await;
}

/// How many rows of a table the shards gave, as EXPLAIN ANALYZE tells.
async fn n_read(client: &Client, table: &str, sql: &str) -> usize {
    let lines = rows(client, &format!("EXPLAIN (ANALYZE, TIMING OFF) {sql}")).await;
    let mut n_rows = 0;
    for line in lines.into_iter().map(|row| row[0].clone().unwrap()) {
        if line.contains(&format!("->  {table} on shard")) {
            n_rows += line.split_once("rows=").unwrap().1.split([' ', ')']).next().unwrap().parse::<usize>().unwrap();
        }
    }
    n_rows
}

#[tokio::test]
async fn rows_of_a_small_table_say_which_of_a_large_one_are_read() {
    let cluster = Cluster::start(3).await;
    for array_bytes in ["512kB", "0B"] {
        let sections = format!("[query]\nmax_gather_array_bytes = \"{array_bytes}\"\n{QUICK_HEALTH}");
        let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
        let client = proxy.connect().await;
        if array_bytes == "512kB" {
            fill(&client).await;
            // More than go as arrays.
            let parts: Vec<String> = (1..=12_000).map(|n| format!("({n}, 'p{}')", n % 90)).collect();
            client.batch_execute(&format!("INSERT INTO parts (part_id, name) VALUES {}", parts.join(", "))).await.unwrap();
            for shard_idx in 0..3 {
                cluster.direct(shard_idx).await.batch_execute("ANALYZE").await.unwrap();
            }
        }
        assert_eq!(value(&client, "SELECT count(DISTINCT part_id) FROM parts").await, "12000");
        // Total is 1 to 9 for orders 1 to 9.
        let few = "SELECT p.name FROM parts p JOIN orders o ON o.total_cents = p.part_id WHERE o.order_id < 4 ORDER BY 1";
        assert_eq!(rows(&client, few).await, ["p1", "p2", "p3"].map(|name| [Some(name.to_owned())]));
        assert_eq!((n_read(&client, "orders", few).await, n_read(&client, "parts", few).await), (3, 3));
        // Rows that an outer join keeps are read all, those of its other side as they match.
        let kept = "SELECT count(*), count(p.part_id) FROM orders o LEFT JOIN parts p ON o.total_cents = p.part_id";
        assert_eq!(rows(&client, kept).await, [[Some("90".to_owned()), Some("81".to_owned())]]);
        assert_eq!((n_read(&client, "orders", kept).await, n_read(&client, "parts", kept).await), (90, 9));
        let other = "SELECT count(*), count(o.order_id) FROM parts p LEFT JOIN orders o ON o.total_cents = p.part_id";
        assert_eq!(rows(&client, other).await, [[Some("12072".to_owned()), Some("81".to_owned())]]);
        assert_eq!(n_read(&client, "parts", other).await, 12_000);
        // Subqueries that a row must meet.
        let within = "SELECT count(*) FROM parts WHERE part_id IN (SELECT total_cents FROM orders WHERE order_id < 4)";
        assert_eq!((value(&client, within).await.as_str(), n_read(&client, "parts", within).await), ("3", 3));
        let exists = "SELECT count(*) FROM parts p WHERE EXISTS (SELECT 1 FROM orders o WHERE o.total_cents = p.part_id AND o.order_id < 4)";
        assert_eq!((value(&client, exists).await.as_str(), n_read(&client, "parts", exists).await), ("3", 3));
        let without = "SELECT count(*) FROM parts p WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.total_cents = p.part_id)";
        assert_eq!((value(&client, without).await.as_str(), n_read(&client, "parts", without).await), ("11991", 12_000));
        // No row there: none is asked for.
        let none = "SELECT p.name FROM parts p JOIN orders o ON o.total_cents = p.part_id WHERE o.order_id < 0";
        assert_eq!((rows(&client, none).await.len(), n_read(&client, "parts", none).await), (0, 0));
        // Parameters of the client's own stay what they are.
        let statement = "SELECT p.name FROM parts p JOIN orders o ON o.total_cents = p.part_id WHERE o.order_id < $1 AND p.name <> $2 ORDER BY 1";
        let names = client.query(statement, &[&4i64, &"p2"]).await.unwrap();
        assert_eq!(names.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>(), ["p1", "p3"]);
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn too_many_bytes_end_the_statement_with_the_setting_that_lifts_the_limit() {
    let cluster = Cluster::start(2).await;
    let sections = format!("[query]\nmax_gather_bytes = \"64kB\"\n{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    for shard_idx in 0..2 {
        let sql = format!(
            "INSERT INTO parts (part_id, name) SELECT 2 * i + {shard_idx}, repeat('n', 90) FROM generate_series(1, 5000) i"
        );
        cluster.direct(shard_idx).await.batch_execute(&sql).await.unwrap();
    }
    let error = client.simple_query("SELECT DISTINCT name FROM parts").await.unwrap_err();
    let report = error.as_db_error().unwrap();
    assert_eq!((report.code().code(), report.detail()), ("54000", Some("Reason code TL093.")));
    assert!(report.message().contains("65536") && report.hint().unwrap().contains("query.max_gather_bytes"), "{report:?}");
    // Columns that the statement does not name, and rows that its terms rule out, do not count.
    assert_eq!(value(&client, "SELECT count(DISTINCT part_id) FROM parts WHERE part_id < 300").await, "298");
    assert_eq!(value(&client, "SELECT count(DISTINCT name) FROM parts WHERE part_id < 300").await, "1");
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn rows_are_limited_for_one_statement_and_for_all_and_half_is_told() {
    let cluster = Cluster::start(2).await;
    let limits = "[query]\nmax_gather_rows = 100\nmax_all_gather_rows = 150\n";
    let sections = format!("{limits}{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    fill(&client).await;
    let (sqlstate, words) = failure(&client, APART).await;
    assert!(sqlstate == "54000" && words.contains("100 rows"), "{words}");
    // 60 rows of 100: the client is told, and has its answer.
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&message(b'Q', &text("SELECT count(DISTINCT name) FROM users"))).await;
    let answer = raw.until(b'Z').await;
    let tags: Vec<u8> = answer.iter().map(|message| message.tag).collect();
    assert_eq!(tags, *b"NTDCZ");
    let notice = String::from_utf8_lossy(&answer[0].body).into_owned();
    assert!(notice.contains("half of the 100 rows") && notice.contains("query.max_gather_rows"), "{notice}");
    assert_eq!(value(&client, "SELECT count(DISTINCT name) FROM users WHERE user_id < 20").await, "7");
    // While others hold theirs: each alone stays below its own limit.
    let slow = "SELECT count(*) FROM (SELECT DISTINCT name FROM users) u, orders o, generate_series(1, 100000) g, generate_series(1, 100000) h WHERE o.order_id < 5";
    let (other, cancel) = (proxy.connect().await, client.cancel_token());
    // A server does not hear a cancel while it compiles.
    client.batch_execute("SET jit TO off").await.unwrap();
    let direct = [cluster.direct(0).await, cluster.direct(1).await];
    let (outcome, ()) = tokio::join!(client.simple_query(slow), async {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series%' AND pid <> pg_backend_pid()";
        poll("the engine runs", async || value(&direct[0], running).await != "0" || value(&direct[1], running).await != "0")
            .await;
        let (sqlstate, message) = failure(&other, "SELECT count(DISTINCT status) FROM orders").await;
        assert!(sqlstate == "54000" && message.contains("all statements") && message.contains("150 rows"), "{message}");
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    });
    assert_eq!(outcome.unwrap_err().code().unwrap().code(), "57014");
    assert_eq!(value(&other, "SELECT count(DISTINCT status) FROM orders").await, "1");
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn errors_of_the_engine_and_of_shards_are_the_clients_and_the_session_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let times = "[pool]\ncheckout_timeout = \"2s\"\n[query]\ntimeout = \"6s\"\nshard_timeout = \"6s\"\n";
    let sections = format!("{times}{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    fill(&client).await;
    // Only the engine meets the row for which this divides by zero; no position of the rewritten text is told.
    let error = client.simple_query("SELECT DISTINCT 1 / (u.user_id - o.user_id) FROM users u, orders o").await.unwrap_err();
    let report = error.as_db_error().unwrap();
    assert_eq!((report.code().code(), report.position()), ("22012", None), "{report:?}");
    // A term that is pushed fails on a shard, whose name is told.
    let error = client.simple_query("SELECT count(DISTINCT name) FROM users WHERE 1 / (user_id - 7) > 2").await.unwrap_err();
    let report = error.as_db_error().unwrap();
    assert!(
        report.code().code() == "22012" && report.where_().is_some_and(|context| context.contains("shard \"shard")),
        "{report:?}"
    );
    // Past the deadline.
    let slow = "SELECT count(*) FROM users a, users b, users c, users d, users e, users f WHERE a.name < b.name || c.name || d.name || e.name || f.name";
    assert_eq!(failure(&client, slow).await.0, "57014");
    cluster.wait_until_clean().await;
    assert_eq!(value(&client, "SELECT count(DISTINCT name) FROM users").await, "7");
    // A cancel reaches the engine; but not one that compiles.
    client.batch_execute("SET jit TO off").await.unwrap();
    let cancel = client.cancel_token();
    let (outcome, ()) = tokio::join!(client.simple_query(slow), async {
        let direct = cluster.direct(0).await;
        let running =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT count(*) FROM (SELECT%'";
        let n_running = async || {
            let mut n = value(&direct, running).await.parse::<i32>().unwrap();
            for shard_idx in 1..3 {
                n += value(&cluster.direct(shard_idx).await, running).await.parse::<i32>().unwrap();
            }
            n
        };
        poll("the engine runs", async || n_running().await > 0).await;
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    });
    assert_eq!(outcome.unwrap_err().code().unwrap().code(), "57014");
    cluster.wait_until_clean().await;
    // A shard that is down: an error, and no rows without its own.
    cluster.shards[2].kill();
    let (sqlstate, message) = failure(&client, APART).await;
    assert!(["08006", "57P01", "57P03", "57014"].contains(&&*sqlstate), "{sqlstate} {message}");
    assert_eq!(value(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn rows_in_portions_and_orders_that_only_a_server_knows() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    fill(&client).await;
    // Sorted by a collation, which shards tell only when they describe it.
    let sorted = rows(&client, "SELECT name || 'é' AS n, user_id FROM users ORDER BY 1, 2 LIMIT 3").await;
    assert_eq!(sorted.iter().map(|row| row[1].clone().unwrap()).collect::<Vec<_>>(), ["7", "14", "21"]);
    assert_eq!(rows(&client, "TABLE users").await.len(), 60);
    let mut raw = Raw::log_in(proxy.port).await;
    let sql = "SELECT DISTINCT total_cents FROM orders WHERE total_cents >= $1";
    let parse = message(b'P', &[text("s"), text(sql), vec![0, 0]].concat());
    let bind = message(b'B', &[text("p"), text("s"), vec![0, 0, 0, 1, 0, 0, 0, 1, b'3', 0, 0]].concat());
    let execute = message(b'E', &[text("p"), vec![0, 0, 0, 3]].concat());
    let describe = message(b'D', &text("Pp"));
    raw.send(&[&parse[..], &bind, &describe, &execute, &execute, &execute, &message(b'S', &[])].concat()).await;
    assert_eq!(raw.tags().await, "12TDDDsDDDsDCZ");
}

#[tokio::test]
async fn arrays_are_gathered_as_they_are() {
    let cluster = Cluster::start(3).await;
    let database = "\n[[databases.shop.tables]]\nname = 'tagged'\nkey = { hash = 'k' }\n";
    let proxy = cluster.proxy_with(ProxyOptions { database, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE tagged (k int, tags text[], grid int[], pair int2vector)").await.unwrap();
    let values: Vec<String> = (1..=9).map(|n| format!("({n}, '{{a,\"b c\",NULL}}', '{{{{{n}}},{{2}}}}', '1 {n}')")).collect();
    client.batch_execute(&format!("INSERT INTO tagged VALUES {}", values.join(", "))).await.unwrap();
    let sql = "SELECT a.tags, b.grid, a.pair FROM tagged a JOIN tagged b ON b.k = a.k + 1 WHERE a.k > 7";
    let row = ["{a,\"b c\",NULL}", "{{9},{2}}", "1 8"].map(|text| Some(text.to_owned()));
    assert_eq!(rows(&client, sql).await, [row]);
    assert_eq!(value(&client, "SELECT count(DISTINCT tags) FROM tagged").await, "1");
    // A server does not read an empty one as it sends it.
    client.batch_execute("INSERT INTO tagged (k, pair) VALUES (10, ''), (11, '')").await.unwrap();
    let sql = "SELECT pair, count(*) FROM tagged WHERE k > 8 GROUP BY pair ORDER BY 2";
    assert_eq!(rows(&client, sql).await, [["1 9", "1"], ["", "2"]].map(|row| row.map(|text| Some(text.to_owned()))));
}

#[tokio::test]
async fn a_read_that_waits_for_a_truncate_sees_what_came_after_it() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let (client, other) = (proxy.connect().await, proxy.connect().await);
    fill(&client).await;
    client.batch_execute("BEGIN; TRUNCATE orders").await.unwrap();
    client
        .batch_execute(
            "INSERT INTO orders (order_id, user_id, status, total_cents) VALUES (1, 1, 'a', 1), (2, 2, 'b', 1), (3, 3, 'c', 1)",
        )
        .await
        .unwrap();
    let (n_states, ()) = tokio::join!(value(&other, "SELECT count(DISTINCT status) FROM orders"), async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        poll("the read waits", async || value(&cluster.direct(0).await, waiting).await != "0").await;
        client.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(n_states, "3");
}

#[tokio::test]
async fn rows_that_a_subquery_looks_up_one_by_one_are_found_by_an_index() {
    let cluster = Cluster::start(3).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    // Some names are longer than what fits into an entry of a B-tree.
    for from in (1..=20_000).step_by(5_000) {
        let parts: Vec<String> = (from..from + 5_000)
            .map(|n| format!("({n}, '{}{}')", "x".repeat(if n % 50 == 0 { 3_000 } else { 3 }), n % 5000))
            .collect();
        client.batch_execute(&format!("INSERT INTO parts (part_id, name) VALUES {}", parts.join(", "))).await.unwrap();
    }
    // Each row beside each other row would take a server minutes.
    client.batch_execute("SET statement_timeout = '20s'").await.unwrap();
    let by_key = "SELECT count(*) FROM parts p WHERE part_id = (SELECT max(q.part_id) FROM parts q WHERE q.part_id = p.part_id)";
    assert_eq!(value(&client, by_key).await, "20000");
    let by_text = "SELECT count(*), sum((SELECT count(*) FROM parts q WHERE q.name = p.name)) FROM parts p";
    assert_eq!(rows(&client, by_text).await, [[Some("20000".to_owned()), Some("80000".to_owned())]]);
    let by_join =
        "SELECT count(*) FROM parts p, LATERAL (SELECT part_id FROM parts q WHERE p.name = q.name ORDER BY 1 LIMIT 1) l";
    assert_eq!(value(&client, by_join).await, "20000");
    cluster.wait_until_clean().await;
}

/// A primary key is each shard's own: where the statement does not lean on it, values that several shards have are in nobody's way.
#[tokio::test]
async fn groups_by_keys_that_several_shards_have() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let database = "\n[[databases.shop.tables]]\nname = 'dup'\nkey = { hash = 'user_id' }\n";
    let proxy = cluster.proxy_with(ProxyOptions { database, ..ProxyOptions::default() }).await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    let dups: Vec<String> = (1..=12).map(|n| format!("({n}, 'l{}')", n % 3)).collect();
    let users: Vec<String> = (1..=12).map(|n| format!("({n}, 'N{}', 'e', 'us')", n % 4)).collect();
    let statements = [
        "CREATE TABLE dup (id serial PRIMARY KEY, user_id bigint, label text)".to_owned(),
        format!("INSERT INTO dup (user_id, label) VALUES {}", dups.join(", ")),
        format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")),
    ];
    load_both(&client, &direct, &statements).await;
    for sql in [
        "SELECT d.label AS l, count(d.id) FROM dup d JOIN users u ON u.user_id = d.user_id + 1 GROUP BY l ORDER BY l",
        "SELECT d.label, count(d.id) AS n FROM dup d JOIN users u ON u.user_id = d.user_id + 1 GROUP BY 1 ORDER BY n, 1",
        "SELECT u.name, u.email, count(d.id) FROM dup d JOIN users u ON u.user_id = d.user_id + 1 GROUP BY u.user_id ORDER BY u.user_id",
        "SELECT count(*), row_number() OVER w FROM dup d JOIN users u ON u.user_id = d.user_id + 1 GROUP BY u.user_id \
         WINDOW w AS (ORDER BY u.email, u.user_id) ORDER BY 2",
        "SELECT DISTINCT ON (u.name) u.name, u.user_id FROM dup d JOIN users u ON u.user_id = d.user_id + 1 GROUP BY u.user_id ORDER BY 1, 2",
        "SELECT upper(u.name), sum(d.user_id) FROM dup d JOIN users u ON u.user_id = d.user_id + 1 GROUP BY u.user_id, u.email HAVING u.name > 'N0' ORDER BY u.user_id",
    ] {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
    // Which of several rows a group's label is the one of, nobody can say.
    check_refused(
        &client,
        "TL083",
        &["SELECT d.label, count(*) FROM dup d JOIN users u ON u.user_id = d.user_id + 1 GROUP BY d.id"],
    )
    .await;
}
