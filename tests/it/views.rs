//! Views over sharded and reference tables: what is read through them is what one server would give, and their rights hold.

use tokio_postgres::Client;

use crate::harness::{Cluster, DATABASE, Single, connect_with, failure, load_both, poll, rows, sqlstate_of, value};

const VIEWS: &[&str] = &[
    "CREATE VIEW open_orders AS SELECT o.order_id AS number, o.user_id AS who, o.status, u.name \
     FROM orders o JOIN users u USING (user_id) WHERE o.status = 'new'",
    "CREATE VIEW keyless AS SELECT total_cents * 2 AS twice, status FROM orders",
    "CREATE VIEW spending(who, spent, n) AS SELECT who, sum(number), count(*) FROM open_orders GROUP BY who",
    "CREATE VIEW big AS SELECT s.*, u.country FROM spending s LEFT JOIN users u ON u.user_id = s.who WHERE s.spent > 30",
    "CREATE VIEW last AS SELECT order_id, user_id FROM orders ORDER BY order_id DESC LIMIT 5",
    "CREATE VIEW everyone AS SELECT name FROM users UNION SELECT status FROM orders",
    "CREATE VIEW ranked AS SELECT order_id, rank() OVER (PARTITION BY status ORDER BY total_cents) AS place FROM orders",
    "CREATE RECURSIVE VIEW chain(n) AS SELECT 1::bigint UNION ALL SELECT n + 1 FROM chain JOIN orders ON order_id = n WHERE n < 40",
    "CREATE VIEW week AS SELECT user_id, created_at > now() - interval '7 days' AS is_new FROM users",
    "CREATE VIEW fenced WITH (security_barrier) AS SELECT order_id, status FROM orders WHERE status <> 'odd' ORDER BY 1",
    "CREATE VIEW codes AS SELECT code, upper(name) AS name FROM countries",
    "CREATE VIEW nested AS SELECT w.who, c.name FROM open_orders w JOIN users u ON u.user_id = w.who JOIN codes c ON c.code = u.country",
    "CREATE VIEW kinds AS SELECT CASE WHEN total_cents > 4 THEN 'much' ELSE 'little' END AS kind, coalesce(status, '-') || '!' AS s, \
     position('e' IN status) AS at, extract(year FROM ordered_at) AS y, user_id IN (1, 2, 3) AS few FROM orders",
];

async fn fill(cluster: &Cluster, single: &Single) -> (crate::harness::Proxy, Client, Client) {
    let proxy = cluster.proxy().await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    let users: Vec<String> = (1..=40).map(|n| format!("({n}, 'n{}', 'e', '{}')", n % 7, ["us", "uk"][n % 2])).collect();
    let orders: Vec<String> =
        (1..=60).map(|n| format!("({n}, {}, '{}', {})", 1 + n * 7 % 40, ["new", "old", "odd"][n % 3], n % 10)).collect();
    let mut statements = vec![
        "INSERT INTO countries VALUES ('us', 'United States', 'americas'), ('uk', 'Kingdom', 'europe')".to_owned(),
        format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")),
        format!("INSERT INTO orders (order_id, user_id, status, total_cents) VALUES {}", orders.join(", ")),
    ];
    statements.extend(VIEWS.iter().map(|sql| (*sql).to_owned()));
    load_both(&client, &direct, &statements).await;
    (proxy, client, direct)
}

const READS: &[&str] = &[
    "SELECT * FROM open_orders",
    "SELECT number FROM open_orders WHERE who = 8",
    "SELECT number, name FROM open_orders ORDER BY number LIMIT 4",
    "SELECT status, count(*), sum(number) FROM open_orders GROUP BY status",
    "SELECT count(DISTINCT name) FROM open_orders",
    "SELECT w.number, u.email FROM open_orders w JOIN users u ON u.user_id = w.who AND u.name = 'n1'",
    "SELECT a.number, b.number FROM open_orders a JOIN open_orders b ON a.number = b.who",
    "SELECT * FROM keyless WHERE twice = 8",
    "SELECT max(twice) FROM keyless",
    "SELECT * FROM spending",
    "SELECT who FROM spending WHERE spent > 20 ORDER BY spent DESC, who LIMIT 3",
    "SELECT x.a, x.c FROM spending AS x(a, b, c)",
    "SELECT * FROM big",
    "SELECT country, avg(spent) FROM big GROUP BY country",
    "SELECT row_to_json(s) FROM spending s",
    "SELECT * FROM last",
    "SELECT name FROM users WHERE user_id IN (SELECT user_id FROM last)",
    "SELECT * FROM everyone",
    "SELECT * FROM ranked WHERE place = 1",
    "SELECT count(*) FROM chain",
    "SELECT count(*) FROM week WHERE is_new",
    "SELECT * FROM fenced WHERE order_id < 9",
    "SELECT * FROM codes",
    "SELECT c.name, count(*) FROM codes c JOIN users u ON u.country = c.code GROUP BY 1",
    "SELECT * FROM nested",
    "SELECT * FROM kinds",
    "SELECT kind, count(*) FROM kinds GROUP BY kind",
    "WITH s AS (SELECT * FROM spending), w AS (SELECT * FROM open_orders) SELECT count(*) FROM s, w WHERE s.who = w.number",
    "SELECT (SELECT count(*) FROM spending) + (SELECT count(*) FROM last)",
    "SELECT * FROM public.spending WHERE spending.n > 1",
];

#[tokio::test]
async fn views_are_read_as_on_one_server() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let (_proxy, client, direct) = fill(&cluster, &single).await;
    for sql in READS {
        let (mut given, mut wanted) = (rows(&client, sql).await, rows(&direct, sql).await);
        if !sql.contains("ORDER BY") {
            given.sort_unstable();
            wanted.sort_unstable();
        }
        assert_eq!(given, wanted, "{sql}");
        let columns = async |client: &Client| {
            let statement = client.prepare(sql).await.unwrap();
            statement
                .columns()
                .iter()
                .map(|column| (column.name().to_owned(), column.type_().name().to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(columns(&client).await, columns(&direct).await, "{sql}");
    }
    // The type of the view's rows is not that of its query's.
    assert_eq!(failure(&client, "SELECT spending FROM spending").await.0, "0A000");
    // Parameters, the writes of the transaction, and another search path.
    let sql = "SELECT count(*) FROM spending WHERE who > $1 AND spent > $2::bigint";
    let count = async |client: &Client| client.query_one(sql, &[&20_i64, &10_i64]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count(&client).await, count(&direct).await);
    let mut counts = Vec::new();
    for client in [&client, &direct] {
        client
            .batch_execute("BEGIN; UPDATE orders SET status = 'new' WHERE user_id = 8; SET LOCAL search_path = 'pg_catalog'")
            .await
            .unwrap();
        counts.push(value(client, "SELECT sum(n) FROM public.spending").await);
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(counts[0], counts[1]);
    assert_ne!(counts[0], value(&client, "SELECT sum(n) FROM spending").await);
    // A definition that changes is the new one at once.
    for client in [&client, &direct] {
        client
            .batch_execute("CREATE OR REPLACE VIEW last AS SELECT order_id, user_id FROM orders ORDER BY order_id LIMIT 2")
            .await
            .unwrap();
    }
    assert_eq!(rows(&client, "SELECT * FROM last").await, rows(&direct, "SELECT * FROM last").await);
}

#[tokio::test]
async fn views_are_written_where_their_rows_are_or_refused() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let (proxy, client, direct) = fill(&cluster, &single).await;
    let simple = "CREATE VIEW plain AS SELECT user_id AS who, name FROM users";
    load_both(&client, &direct, &[simple.to_owned(), "UPDATE plain SET name = 'changed' WHERE who = 7".to_owned()]).await;
    assert_eq!(value(&client, "SELECT count(*) FROM users WHERE name = 'changed'").await, "1");
    for sql in [
        "INSERT INTO plain VALUES (99, 'x')",
        "UPDATE plain SET who = 1 WHERE who = 7",
        "INSERT INTO codes VALUES ('zz', 'z')",
        "DELETE FROM last",
    ] {
        let error = client.simple_query(sql).await.unwrap_err();
        let report = error.as_db_error().unwrap();
        assert!(report.detail().is_some_and(|detail| detail.starts_with("Reason code TL")), "{sql}: {report:?}");
    }
    assert_eq!(failure(&client, "COPY plain TO STDOUT").await.0, "42809");
    // A materialized view holds what each shard has computed: it is not read as if it held everything.
    for shard_idx in 0..3 {
        cluster
            .direct(shard_idx)
            .await
            .batch_execute("CREATE MATERIALIZED VIEW counts AS SELECT count(*) FROM users")
            .await
            .unwrap();
    }
    client.batch_execute("CREATE VIEW one AS SELECT 1").await.unwrap();
    let (sqlstate, message) = failure(&client, "SELECT * FROM counts").await;
    assert!(sqlstate == "0A000" && message.contains("materialized view \"counts\""), "{message}");
    drop(proxy);
}

#[tokio::test]
async fn rights_on_a_view_are_its_own() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let (proxy, _client, _direct) = fill(&cluster, &single).await;
    let grants = "CREATE ROLE reader LOGIN; CREATE ROLE other LOGIN; CREATE ROLE auditor LOGIN; \
                  GRANT SELECT ON open_orders, spending TO reader; GRANT SELECT ON orders, users TO other; \
                  GRANT SELECT ON spending, open_orders, orders, users, plainly TO auditor";
    let invoker = "CREATE VIEW plainly WITH (security_invoker) AS SELECT status, count(*) FROM orders GROUP BY status";
    for server in [cluster.direct(0).await, cluster.direct(1).await, cluster.direct(2).await, single.connect().await] {
        // Options of PostgreSQL 15; before it a view is always read with its owner's rights.
        let version: i32 = value(&server, "SHOW server_version_num").await.parse().unwrap();
        let made = if version >= 150_000 { invoker.to_owned() } else { invoker.replace(" WITH (security_invoker)", "") };
        server.batch_execute(&format!("{made}; {grants}")).await.unwrap();
    }
    let log_in = async |user: &str| {
        connect_with(&format!("host=127.0.0.1 port={} user={user} dbname={DATABASE}", proxy.port)).await.unwrap()
    };
    let (reader, other, auditor) = (log_in("reader").await, log_in("other").await, log_in("auditor").await);
    // Each shard runs the view itself, with its owner's rights on the tables.
    assert_eq!(value(&reader, "SELECT count(*) FROM open_orders").await, "20");
    assert_eq!(value(&reader, "SELECT count(DISTINCT name) FROM open_orders").await, "7");
    assert_eq!(failure(&reader, "SELECT count(*) FROM orders").await.0, "42501");
    // Its rows would have to be gathered from what it reads: here a view that the client may read, there a table.
    assert_eq!(value(&reader, "SELECT count(*) > 0 FROM spending").await, "t");
    let (sqlstate, message) = failure(&reader, "SELECT * FROM last").await;
    assert_eq!((&*sqlstate, message.contains("permission denied for view last")), ("42501", true), "{message}");
    for server in 0..3 {
        cluster.direct(server).await.batch_execute("GRANT SELECT ON last TO reader").await.unwrap();
    }
    let error = reader.simple_query("SELECT * FROM last").await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().detail(), Some("Reason code TL086."), "{error:?}");
    assert_eq!(sqlstate_of(&error).0, "0A000");
    // Rights on the tables are none on the view.
    for sql in ["SELECT * FROM spending", "SELECT * FROM last", "SELECT * FROM open_orders", "SELECT count(*) FROM last, users"] {
        assert_eq!(failure(&other, sql).await.0, "42501", "{sql}");
    }
    // It was made past the proxy, which reads the catalog at most every half second.
    poll("the view is known", async || auditor.simple_query("SELECT count(*) FROM plainly").await.is_ok()).await;
    assert_eq!(value(&auditor, "SELECT count(*) FROM plainly").await, "3");
    // Row-level security that the owner does not see, and the reader would.
    for server in 0..3 {
        let guard = "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; GRANT SELECT ON last TO other";
        cluster.direct(server).await.batch_execute(guard).await.unwrap();
    }
    proxy.connect().await.batch_execute("CREATE VIEW any_view AS SELECT 1").await.unwrap();
    let (sqlstate, message) = failure(&other, "SELECT * FROM last").await;
    assert!(sqlstate == "0A000" && message.contains("row-level security"), "{message}");
}

#[tokio::test]
async fn a_part_of_a_table_is_where_the_table_is() {
    let cluster = Cluster::start(3).await;
    for shard_idx in 0..3 {
        let made = format!(
            "CREATE TABLE users_old () INHERITS (users); \
             INSERT INTO users_old (user_id, name, email, country) VALUES ({shard_idx}, 'n', 'e', 'us')"
        );
        cluster.direct(shard_idx).await.batch_execute(&made).await.unwrap();
    }
    // Other tables are on one shard: this one is not.
    let options = crate::harness::ProxyOptions { database: "default_shard = \"shard1\"", ..Default::default() };
    let proxy = cluster.proxy_with(options).await;
    let client = proxy.connect().await;
    assert_eq!(value(&client, "SELECT count(*) FROM users_old").await, "3");
    assert_eq!(value(&client, "SELECT count(*) FROM ONLY users").await, "0");
}
