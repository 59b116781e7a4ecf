//! DDL under a default shard: tables, views and copies are where they are looked for, and what would part rows from their
//! placement is refused.

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, ProxyOptions, Single, check_refused, failure, load_both, rows, value};

const SHARDED: &str = "\
[[databases.shop.tables]]\nname = \"readings\"\nkey = { hash = \"k\" }\n\
[[databases.shop.tables]]\nname = \"parted\"\nkey = { hash = \"k\" }\n";

async fn start() -> (Cluster, Single, Proxy, Client, Client) {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let options = ProxyOptions { database: "default_shard = \"shard1\"", ..ProxyOptions::default() };
    let proxy = Proxy::start(&cluster.scratch, &(cluster.config(&options) + SHARDED)).await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    (cluster, single, proxy, client, direct)
}

async fn load(client: &Client, direct: &Client, statements: &[&str]) {
    let statements: Vec<String> = statements.iter().map(|sql| (*sql).to_owned()).collect();
    load_both(client, direct, &statements).await;
}

async fn compare(client: &Client, direct: &Client, statements: &[&str]) {
    for sql in statements {
        let (mut given, mut wanted) = (rows(client, sql).await, rows(direct, sql).await);
        given.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(given, wanted, "{sql}");
    }
}

/// How many shards have a relation of this name.
async fn n_shards_with(cluster: &Cluster, name: &str) -> usize {
    let mut n = 0;
    for shard_idx in 0..3 {
        let sql = format!("SELECT count(*) FROM pg_class WHERE relname = '{name}'");
        n += value(&cluster.direct(shard_idx).await, &sql).await.parse::<usize>().unwrap();
    }
    n
}

const MADE: &[&str] = &[
    "CREATE TABLE readings (k bigint, v text)",
    "CREATE TABLE parted (k bigint, day int, v text) PARTITION BY RANGE (day)",
    "CREATE TABLE stray (id bigserial PRIMARY KEY, user_id bigint, v text)",
    "INSERT INTO stray (user_id, v) SELECT n, 's' || n FROM generate_series(1, 12) n",
];

#[tokio::test]
async fn children_are_where_their_parents_are() {
    let (cluster, _single, _proxy, client, direct) = start().await;
    load(&client, &direct, MADE).await;
    load(
        &client,
        &direct,
        &[
            "CREATE TABLE parted_a PARTITION OF parted FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE IF NOT EXISTS parted_b PARTITION OF public.parted DEFAULT",
            "CREATE TABLE more (extra int) INHERITS (readings)",
            "INSERT INTO parted VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 12, 'd'), (5, 13, 'e')",
        ],
    )
    .await;
    load(
        &client,
        &direct,
        &[
            "INSERT INTO readings VALUES (1, 'a'), (2, 'b'), (3, 'c')",
            "INSERT INTO more VALUES (4, 'd', 1), (5, 'e', 2), (6, 'f', 3)",
        ],
    )
    .await;
    compare(
        &client,
        &direct,
        &[
            "SELECT * FROM readings",
            "SELECT * FROM readings WHERE k = 5",
            "SELECT * FROM more",
            "SELECT * FROM parted_a",
            "SELECT count(*) FROM parted_b",
            "SELECT * FROM parted WHERE k = 4",
        ],
    )
    .await;
    for name in ["parted_a", "parted_b", "more"] {
        assert_eq!(n_shards_with(&cluster, name).await, 3, "{name}");
    }
    // In one transaction with its first rows, and dropped again.
    client.batch_execute("BEGIN; CREATE TABLE most () INHERITS (readings)").await.unwrap();
    let (sqlstate, _) = failure(&client, "INSERT INTO most SELECT user_id, v FROM stray").await;
    assert_eq!(sqlstate, "0A000");
    client.batch_execute("ROLLBACK; DROP TABLE more; DROP TABLE parted_b").await.unwrap();
    assert_eq!(n_shards_with(&cluster, "more").await + n_shards_with(&cluster, "most").await, 0);
    check_refused(
        &client,
        "TL065",
        &[
            "ALTER TABLE stray INHERIT readings",
            "CREATE TABLE both () INHERITS (readings, stray)",
            "CREATE TABLE order_items PARTITION OF parted FOR VALUES FROM (20) TO (30)",
        ],
    )
    .await;
    check_refused(&client, "TL047", &["ALTER TABLE parted DETACH PARTITION parted_a"]).await;
    assert_eq!(value(&client, "SELECT count(*) FROM stray").await, "12");
}

/// What the proxy refuses to make, servers and tools make all the same.
#[tokio::test]
async fn children_made_past_the_proxy_with_rows_of_other_places_are_refused() {
    let (cluster, _single, proxy, client, direct) = start().await;
    load(&client, &direct, MADE).await;
    client.batch_execute("INSERT INTO readings VALUES (1, 'a'), (2, 'b')").await.unwrap();
    let everywhere = async |sql: &str| {
        for shard_idx in 0..3 {
            cluster.direct(shard_idx).await.batch_execute(sql).await.unwrap();
        }
        proxy.admin().await.batch_execute("RELOAD").await.unwrap();
    };
    everywhere("CREATE TABLE shared () INHERITS (countries, readings)").await;
    for sql in ["SELECT * FROM countries", "SELECT * FROM readings WHERE k = 1", "DELETE FROM shared", "COPY shared TO STDOUT"] {
        check_refused(&client, "TL065", &[sql]).await;
    }
    check_refused(&client, "TL065", &["INSERT INTO readings VALUES (3, 'c')", "COPY readings FROM STDIN"]).await;
    assert_eq!(value(&client, "SELECT count(*) FROM stray").await, "12");
    everywhere("DROP TABLE shared; CREATE TABLE roots (k bigint, v text); ALTER TABLE readings INHERIT roots").await;
    // The parent is the default shard's, with the rows that the child has on all.
    check_refused(&client, "TL065", &["SELECT * FROM roots"]).await;
    assert_eq!(value(&client, "SELECT count(*) FROM readings").await, "2");
    everywhere("ALTER TABLE readings NO INHERIT roots").await;
    assert_eq!(value(&client, "SELECT count(*) FROM roots").await, "0");
}

#[tokio::test]
async fn rows_stay_where_the_configuration_looks_for_them() {
    let (_cluster, _single, _proxy, client, direct) = start().await;
    load(&client, &direct, MADE).await;
    load(&client, &direct, &["INSERT INTO readings VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')"]).await;
    check_refused(
        &client,
        "TL047",
        &[
            "ALTER TABLE readings RENAME TO readings_old",
            "ALTER TABLE stray RENAME TO order_items",
            "ALTER TABLE readings ALTER COLUMN k TYPE text",
            "ALTER TABLE readings ALTER k TYPE bigint USING k + 1",
            "ALTER TABLE readings DROP COLUMN k",
            "ALTER TABLE readings RENAME k TO l",
            "ALTER SCHEMA public RENAME TO other",
        ],
    )
    .await;
    check_refused(&client, "TL019", &["ALTER TABLE countries ADD COLUMN uid uuid DEFAULT gen_random_uuid()"]).await;
    load(
        &client,
        &direct,
        &[
            "ALTER TABLE readings ALTER k TYPE int",
            "ALTER TABLE readings RENAME v TO w",
            "ALTER TABLE readings ADD COLUMN n int DEFAULT 7, ALTER w TYPE varchar(20) USING upper(w)",
            "ALTER TABLE stray RENAME TO strayed",
        ],
    )
    .await;
    compare(&client, &direct, &["SELECT * FROM readings", "SELECT * FROM readings WHERE k = 3", "SELECT count(*) FROM strayed"])
        .await;
}

#[tokio::test]
async fn views_are_where_all_that_they_read_is() {
    let (cluster, _single, _proxy, client, direct) = start().await;
    load(&client, &direct, MADE).await;
    load(
        &client,
        &direct,
        &[
            "INSERT INTO users (user_id, name, email, country) VALUES (1, 'a', 'e', 'us'), (2, 'b', 'e', 'us'), (3, 'c', 'e', 'us'), (4, 'd', 'e', 'us')",
            "CREATE VIEW n_stray AS SELECT count(*) AS n FROM stray",
            "CREATE VIEW mixed AS SELECT s.id, u.name, u.user_id FROM stray s JOIN users u USING (user_id)",
            "CREATE VIEW named AS SELECT user_id, name FROM users",
            "CREATE VIEW over AS SELECT name, count(*) FROM mixed GROUP BY name",
            "CREATE MATERIALIZED VIEW kept AS SELECT user_id, v FROM stray",
            "CREATE INDEX kept_v ON kept (v)",
            "COMMENT ON VIEW mixed IS 'joined'",
            "COMMENT ON MATERIALIZED VIEW kept IS 'copied'",
            "GRANT SELECT ON kept, n_stray TO PUBLIC",
            "INSERT INTO stray (user_id, v) VALUES (3, 'again')",
            "REFRESH MATERIALIZED VIEW kept",
        ],
    )
    .await;
    let reads = [
        "SELECT * FROM n_stray",
        "SELECT * FROM mixed",
        "SELECT * FROM mixed WHERE user_id = 3",
        "SELECT * FROM mixed WHERE id < 0",
        "SELECT * FROM named",
        "SELECT * FROM over",
        "SELECT count(*) FROM kept",
        "SELECT k.v, u.name FROM kept k JOIN users u USING (user_id)",
        "SELECT n, name FROM n_stray, users WHERE user_id = 2",
    ];
    compare(&client, &direct, &reads).await;
    for (name, n) in [("n_stray", 1), ("mixed", 1), ("over", 1), ("kept", 1), ("named", 3)] {
        assert_eq!(n_shards_with(&cluster, name).await, n, "{name}");
    }
    check_refused(
        &client,
        "TL065",
        &["CREATE OR REPLACE VIEW named AS SELECT user_id, v AS name FROM stray", "DROP VIEW named, n_stray"],
    )
    .await;
    load(
        &client,
        &direct,
        &[
            "ALTER MATERIALIZED VIEW kept RENAME TO held",
            "ALTER INDEX kept_v RENAME TO held_v",
            "DROP INDEX held_v",
            "DROP MATERIALIZED VIEW held",
            "ALTER SEQUENCE stray_id_seq RESTART WITH 100",
            "INSERT INTO stray (user_id, v) VALUES (1, 'late')",
            "DROP VIEW over, mixed",
            "DROP VIEW named",
        ],
    )
    .await;
    compare(&client, &direct, &["SELECT max(id) FROM stray"]).await;
    assert_eq!(n_shards_with(&cluster, "held").await + n_shards_with(&cluster, "named").await, 0);
}

#[tokio::test]
async fn a_copy_has_all_rows_or_is_not_made() {
    let (_cluster, _single, _proxy, client, direct) = start().await;
    load(&client, &direct, MADE).await;
    let pairs: Vec<String> = (1..=12).map(|n| format!("({n}, 'r{n}')")).collect();
    let filled = format!("INSERT INTO readings VALUES {}", pairs.join(", "));
    load(
        &client,
        &direct,
        &[
            &filled,
            "CREATE TABLE more () INHERITS (readings)",
            "INSERT INTO more VALUES (20, 'm'), (21, 'm'), (22, 'm')",
            "CREATE VIEW seen AS SELECT k, v FROM readings",
            "CREATE VIEW totals AS SELECT count(*) AS n FROM seen",
        ],
    )
    .await;
    check_refused(
        &client,
        "TL038",
        &[
            "CREATE TABLE copy AS SELECT * FROM seen",
            "CREATE TABLE copy AS SELECT * FROM more",
            "CREATE TABLE copy AS SELECT * FROM totals",
            "CREATE MATERIALIZED VIEW copy AS SELECT * FROM seen",
            "CREATE TABLE copy AS WITH x AS (SELECT * FROM readings) SELECT * FROM x",
        ],
    )
    .await;
    load(
        &client,
        &direct,
        &[
            "CREATE TABLE copy AS SELECT user_id AS k, v FROM stray",
            "CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM copy",
        ],
    )
    .await;
    compare(&client, &direct, &["SELECT * FROM copy", "SELECT n FROM m", "SELECT count(*) FROM seen s JOIN copy c USING (k)"])
        .await;
    // What a transaction has made on all shards is not taken for a table of the default shard.
    client.batch_execute("BEGIN; CREATE VIEW fresh AS SELECT k FROM readings").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM fresh").await, "15");
    client.batch_execute("ROLLBACK; BEGIN; CREATE VIEW fresh AS SELECT v FROM stray").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM fresh").await, "12");
    client
        .batch_execute(
            "ROLLBACK; BEGIN; CREATE VIEW fresh AS SELECT k FROM readings; CREATE VIEW over AS SELECT * FROM fresh; COMMIT",
        )
        .await
        .unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM over").await, "15");
}

#[tokio::test]
async fn sequences_are_where_their_tables_are() {
    let (cluster, _single, _proxy, client, direct) = start().await;
    load(
        &client,
        &direct,
        &[
            "CREATE TABLE readings (k bigint, id bigserial)",
            "DROP TABLE audit",
            "CREATE TABLE audit (audit_id bigserial, actor text)",
            "CREATE TABLE stray (id serial, v text)",
            "CREATE SEQUENCE loose",
        ],
    )
    .await;
    let answers = [
        "SELECT pg_catalog.setval('public.readings_id_seq', 1000, true)",
        "SELECT setval('audit_audit_id_seq', 50)",
        "INSERT INTO audit (actor) VALUES ('x') RETURNING audit_id",
        "SELECT nextval('audit_audit_id_seq'::regclass)",
        "SELECT last_value FROM audit_audit_id_seq",
        "SELECT setval('stray_id_seq', 7)",
        "INSERT INTO stray (v) VALUES ('a') RETURNING id",
        "SELECT nextval('loose')",
        "SELECT setval('loose', 20)",
        "SELECT nextval('loose')",
    ];
    for sql in answers {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
    let set = client.query_one("SELECT setval('readings_id_seq', $1)", &[&2000_i64]).await.unwrap();
    assert_eq!(set.get::<_, i64>(0), 2000);
    for shard_idx in 0..3 {
        let shard = cluster.direct(shard_idx).await;
        assert_eq!(value(&shard, "SELECT last_value FROM readings_id_seq").await, "2000");
    }
    for k in 1..=4 {
        let id = value(&client, &format!("INSERT INTO readings (k) VALUES ({k}) RETURNING id")).await;
        assert!(id.parse::<i64>().unwrap() > 2000, "{id}");
    }
    check_refused(&client, "TL067", &["SELECT nextval('readings_id_seq')"]).await;
    check_refused(&client, "TL002", &["SELECT last_value FROM readings_id_seq"]).await;
}
