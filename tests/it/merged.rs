//! An answer put together from shards is the answer that one Postgres with all rows gives.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{Cluster, Proxy, Single, load_both, psql};

struct Both {
    _cluster: Cluster,
    _single: Single,
    proxy: Proxy,
    sharded: Client,
    oracle: Client,
}

async fn start(n_shards: usize) -> Both {
    let (cluster, single) = (Cluster::start(n_shards).await, Single::start().await);
    let proxy = cluster.proxy().await;
    let (sharded, oracle) = (proxy.connect().await, single.connect().await);
    load_both(&sharded, &oracle, &shop_rows()).await;
    Both { _cluster: cluster, _single: single, proxy, sharded, oracle }
}

/// Few rows with many equal values, NULLs, negative numbers and text that collations and bytes order differently.
fn shop_rows() -> Vec<String> {
    let mut statements = Vec::new();
    let users: Vec<String> = (1..=60)
        .map(|n| {
            let name = ["Ada", "ada", "Zoë", "émile", "O''Neil", "", "Ångström"][n % 7];
            format!(
                "({n}, '{name}', 'user{n}@example.com', '{}', '2024-01-01 00:00:00+00'::timestamptz + interval '{} hours')",
                ["us", "uk", "jp"][n % 3],
                n * 5 % 17
            )
        })
        .collect();
    statements.push(format!("INSERT INTO users (user_id, name, email, country, created_at) VALUES {}", users.join(", ")));
    let orders: Vec<String> = (1..=200)
        .map(|n| {
            let (user_id, total) = (1 + n * 7 % 60, (n * 7919 % 1000) - 300);
            format!(
                "({n}, {user_id}, '{}', {total}, '2024-02-01 00:00:00+00'::timestamptz + interval '{n} minutes')",
                ["new", "paid", "shipped"][(n % 3) as usize]
            )
        })
        .collect::<Vec<String>>();
    statements
        .push(format!("INSERT INTO orders (order_id, user_id, status, total_cents, ordered_at) VALUES {}", orders.join(", ")));
    let parts: Vec<String> = (1..=80)
        .map(|n: i32| {
            let weight = if n % 9 == 0 { "NULL".to_owned() } else { format!("{}.{:02}", n % 11 - 5, n * 37 % 100) };
            let made = if n % 7 == 0 { "NULL".to_owned() } else { format!("'2024-03-{:02}'", 1 + n % 28) };
            let ratio = match n % 10 {
                0 => "'NaN'".to_owned(),
                1 => "'-Infinity'".to_owned(),
                2 => "NULL".to_owned(),
                _ => format!("{}", f64::from(n % 13) / 4.0 - 1.5),
            };
            format!("({n}, 'part {}', {weight}, {made}, {}, {ratio})", n % 5, n % 4 == 0)
        })
        .collect();
    statements.push(format!("INSERT INTO parts VALUES {}", parts.join(", ")));
    statements.push("INSERT INTO countries VALUES ('us', 'United States', 'americas'), ('uk', 'United Kingdom', 'europe'), ('jp', 'Japan', 'asia')".into());
    statements
}

/// Everything a simple query answers, as text: names of columns, rows, NULLs, counts.
async fn transcript(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages
        .iter()
        .map(|message| match message {
            SimpleQueryMessage::RowDescription(columns) => columns.iter().map(|c| c.name()).collect::<Vec<_>>().join("|"),
            SimpleQueryMessage::Row(row) => {
                (0..row.len()).map(|idx| row.get(idx).unwrap_or("NULL")).collect::<Vec<_>>().join("|")
            }
            SimpleQueryMessage::CommandComplete(count) => format!("= {count}"),
            _ => "?".to_owned(),
        })
        .collect()
}

impl Both {
    /// The answers are equal, in order.
    async fn check(&self, sql: &str) {
        assert_eq!(transcript(&self.sharded, sql).await, transcript(&self.oracle, sql).await, "{sql}");
    }

    /// The answers are equal as bags of rows.
    async fn check_unordered(&self, sql: &str) {
        let sorted = async |client: &Client| {
            let mut lines = transcript(client, sql).await;
            lines.sort();
            lines
        };
        assert_eq!(sorted(&self.sharded).await, sorted(&self.oracle).await, "{sql}");
    }
}

#[tokio::test]
async fn plain_reads() {
    let both = start(3).await;
    for sql in [
        "SELECT user_id, name FROM users",
        "SELECT * FROM orders WHERE total_cents > 100",
        "SELECT DISTINCT ON (user_id) user_id FROM users WHERE user_id = 5",
        "SELECT u.name, o.order_id FROM users u JOIN orders o ON o.user_id = u.user_id WHERE o.total_cents < 0",
        "SELECT u.name, o.order_id FROM users u LEFT JOIN orders o ON o.user_id = u.user_id AND o.status = 'paid'",
        "SELECT u.user_id, c.name FROM users u JOIN countries c ON c.code = u.country",
    ] {
        both.check_unordered(sql).await;
    }
    both.check("SELECT order_id FROM orders WHERE user_id = 8 ORDER BY order_id DESC").await;
    both.check("SELECT name FROM users WHERE user_id = 1 AND user_id = 2").await;
    both.check("SELECT 1 AS one, 'x' AS x").await;
}

#[tokio::test]
async fn ordered_reads() {
    let both = start(3).await;
    for sql in [
        "SELECT order_id, total_cents FROM orders ORDER BY total_cents, order_id",
        "SELECT order_id FROM orders ORDER BY total_cents DESC, order_id LIMIT 10",
        "SELECT order_id FROM orders ORDER BY total_cents DESC, order_id LIMIT 10 OFFSET 25",
        "SELECT order_id FROM orders ORDER BY order_id OFFSET 190",
        "SELECT order_id FROM orders ORDER BY 1 LIMIT 0",
        "SELECT order_id AS n FROM orders ORDER BY n DESC FETCH FIRST 3 ROWS ONLY",
        "SELECT user_id, created_at FROM users ORDER BY created_at DESC, user_id",
        "SELECT part_id, weight FROM parts ORDER BY weight, part_id",
        "SELECT part_id, weight FROM parts ORDER BY weight DESC NULLS LAST, part_id DESC",
        "SELECT part_id, made FROM parts ORDER BY made NULLS FIRST, part_id",
        "SELECT part_id, ratio FROM parts ORDER BY ratio DESC, part_id",
        "SELECT part_id FROM parts ORDER BY is_new DESC, part_id LIMIT 30",
        "SELECT name, user_id FROM users ORDER BY name, user_id",
        "SELECT name, user_id FROM users ORDER BY name COLLATE \"C\" DESC, user_id",
        "SELECT user_id FROM users ORDER BY email LIMIT 7",
    ] {
        both.check(sql).await;
    }
    both.sharded.batch_execute("DELETE FROM orders WHERE user_id = 8").await.unwrap();
    both.oracle.batch_execute("DELETE FROM orders WHERE user_id = 8").await.unwrap();
    both.check("SELECT order_id FROM orders ORDER BY order_id LIMIT 40").await;
}

#[tokio::test]
async fn aggregates() {
    let both = start(3).await;
    for sql in [
        "SELECT count(*) FROM orders",
        "SELECT count(*) AS n, sum(total_cents), min(total_cents), max(total_cents) FROM orders",
        "SELECT avg(total_cents) FROM orders",
        "SELECT count(weight), sum(weight), avg(weight), min(weight), max(weight) FROM parts",
        "SELECT min(made), max(made), min(name), max(name) FROM parts",
        "SELECT avg(part_id), sum(part_id) FROM parts",
        "SELECT count(*), sum(total_cents), avg(total_cents), max(total_cents) FROM orders WHERE total_cents > 1000000",
        "SELECT status, count(*) FROM orders GROUP BY status ORDER BY status",
        "SELECT status, count(*) AS n, sum(total_cents), avg(total_cents) FROM orders GROUP BY status ORDER BY sum(total_cents) DESC",
        "SELECT user_id, count(*) FROM orders GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 5",
        "SELECT name, count(weight), avg(weight) FROM parts GROUP BY name ORDER BY name",
        "SELECT c.name, count(*) FROM users u JOIN countries c ON c.code = u.country GROUP BY c.name ORDER BY c.name",
    ] {
        both.check(sql).await;
    }
    both.check_unordered("SELECT is_new, name, max(weight) FROM parts GROUP BY is_new, name").await;
}

#[tokio::test]
async fn the_extended_protocol_and_binary_results() {
    let both = start(3).await;
    // tokio-postgres asks for binary results and binds parameters in binary.
    let ask = async |client: &Client| {
        let top = client.query(
            "SELECT order_id, total_cents FROM orders WHERE total_cents > $1 ORDER BY total_cents DESC, order_id LIMIT $2",
            &[&0_i64, &9_i64],
        );
        let top: Vec<(i64, i64)> = top.await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
        let groups =
            client.query("SELECT status, count(*), sum(total_cents)::text FROM orders GROUP BY status ORDER BY status", &[]);
        let groups: Vec<(String, i64, String)> =
            groups.await.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let all = client.query_one("SELECT count(*), min(user_id), max(total_cents) FROM orders", &[]).await.unwrap();
        let wanted = vec![3_i64, 5, 9];
        let few = client.query("SELECT name FROM users WHERE user_id = ANY($1) ORDER BY user_id", &[&wanted]).await;
        let few: Vec<String> = few.unwrap().iter().map(|row| row.get(0)).collect();
        (top, groups, (all.get::<_, i64>(0), all.get::<_, i64>(1), all.get::<_, i64>(2)), few)
    };
    assert_eq!(ask(&both.sharded).await, ask(&both.oracle).await);
    // The same statement again: cached, with other values.
    let statement = both.sharded.prepare("SELECT count(*) FROM orders WHERE user_id = $1").await.unwrap();
    let reference = both.oracle.prepare("SELECT count(*) FROM orders WHERE user_id = $1").await.unwrap();
    for user_id in 0..60_i64 {
        let (given, wanted) =
            (both.sharded.query_one(&statement, &[&user_id]).await, both.oracle.query_one(&reference, &[&user_id]).await);
        assert_eq!(given.unwrap().get::<_, i64>(0), wanted.unwrap().get::<_, i64>(0), "{user_id}");
    }
}

#[tokio::test]
async fn described_columns_are_those_of_one_server() {
    let both = start(2).await;
    for sql in [
        "SELECT order_id, total_cents FROM orders ORDER BY ordered_at LIMIT 3",
        "SELECT status, avg(total_cents), sum(total_cents), count(*) FROM orders GROUP BY status",
        "SELECT u.name, u.created_at FROM users u WHERE u.user_id = $1",
        "SELECT max(made) AS latest, avg(weight) FROM parts",
    ] {
        let describe = async |client: &Client| {
            let statement = client.prepare(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            let columns: Vec<_> = statement.columns().iter().map(|c| (c.name().to_owned(), c.type_().clone())).collect();
            (columns, statement.params().to_vec())
        };
        assert_eq!(describe(&both.sharded).await, describe(&both.oracle).await, "{sql}");
    }
}

#[tokio::test]
async fn one_shard_is_a_plain_pooler() {
    let both = start(1).await;
    // What no planner here takes apart still passes.
    for sql in [
        "SELECT name, row_number() OVER (ORDER BY user_id) FROM users ORDER BY user_id",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT * FROM n",
        "SELECT status, grouping(status), count(*) FROM orders GROUP BY ROLLUP (status) ORDER BY 1",
        "SELECT count(DISTINCT u.name) FROM users u CROSS JOIN orders o",
    ] {
        both.check(sql).await;
    }
}

#[tokio::test]
async fn psql_shows_the_same_table() {
    let both = start(3).await;
    let answer = psql(both.proxy.port, &["SELECT status, count(*) FROM orders GROUP BY status ORDER BY status"]).await;
    assert_eq!(answer, "new|66\npaid|67\nshipped|67\n");
}

#[tokio::test]
async fn what_cannot_be_answered_right_is_refused() {
    let both = start(3).await;
    for sql in [
        "SELECT * FROM orders FOR UPDATE",
        "SELECT random(), order_id FROM orders",
        "SELECT ctid, count(*) OVER () FROM orders",
        "SELECT count(DISTINCT order_id) FROM orders TABLESAMPLE system (50)",
        "SELECT user_id FROM users WHERE name IN (SELECT relname FROM pg_class)",
        "SELECT DISTINCT 'orders'::regclass, order_id FROM orders",
    ] {
        let error = both.sharded.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql}: not refused"));
        let report = error.as_db_error().unwrap();
        assert_eq!(report.code().code(), "0A000", "{sql}: {report:?}");
        assert!(report.hint().is_some() && report.detail().is_some_and(|d| d.contains("TL")), "{sql}: {report:?}");
    }
}

#[tokio::test]
async fn what_neither_merges_nor_combines_is_gathered() {
    let both = start(3).await;
    for sql in [
        "SELECT order_id, row_number() OVER (ORDER BY order_id) FROM orders ORDER BY order_id",
        "SELECT count(DISTINCT total_cents) FROM orders",
        "SELECT u.user_id, o.order_id FROM orders o JOIN users u ON u.user_id = o.total_cents ORDER BY 1, 2",
        "SELECT name FROM users UNION SELECT status FROM orders ORDER BY 1",
        "SELECT c.code, u.user_id FROM countries c LEFT JOIN users u ON u.country = c.code ORDER BY 1, 2",
        "SELECT user_id FROM users WHERE user_id NOT IN (SELECT user_id FROM orders WHERE total_cents > 0) ORDER BY 1",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n JOIN users ON user_id = i WHERE i < 40) SELECT max(i) FROM n",
        "SELECT status, country, grouping(status), count(*), avg(total_cents) FROM orders JOIN users USING (user_id)
           GROUP BY CUBE (status, country) ORDER BY 1, 2, 3",
        "SELECT DISTINCT ON (user_id) user_id, order_id FROM orders ORDER BY user_id, total_cents DESC, order_id",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total_cents), mode() WITHIN GROUP (ORDER BY status) FROM orders",
        "SELECT a.part_id, b.weight, a FROM parts a JOIN parts b ON b.part_id = a.part_id + 1 WHERE a.part_id < 30 AND b.weight > 0 ORDER BY 1",
    ] {
        both.check(sql).await;
    }
}
