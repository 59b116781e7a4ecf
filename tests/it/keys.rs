//! Keys under indexes, collations and operators that are not like them.

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, ProxyOptions, Single, check_refused, load_both, rows, value};

const TABLES: &str = "\
[[databases.shop.tables]]\nname = \"members\"\nkey = { hash = \"k\" }\n\
[[databases.shop.tables]]\nname = \"folks\"\nkey = { hash = \"name\" }\n";

async fn start() -> (Cluster, Single, Proxy, Client, Client) {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let proxy = Proxy::start(&cluster.scratch, &(cluster.config(&ProxyOptions::default()) + TABLES)).await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    (cluster, single, proxy, client, direct)
}

#[tokio::test]
async fn conflicts_are_looked_for_where_all_rows_of_the_index_are() {
    let (_cluster, _single, _proxy, client, direct) = start().await;
    let statements = [
        "CREATE TABLE members (k bigint PRIMARY KEY, u text, n int, UNIQUE (u, k))",
        "INSERT INTO members VALUES (1, 'u1', 1), (2, 'u2', 2), (3, 'u3', 3)",
        "INSERT INTO members VALUES (2, 'v2', 9), (4, 'u4', 4) ON CONFLICT DO NOTHING",
        "INSERT INTO members VALUES (3, 'u3', 9) ON CONFLICT (u, k) DO UPDATE SET n = 30",
        "INSERT INTO members VALUES (1, 'w', 9) ON CONFLICT ON CONSTRAINT members_pkey DO UPDATE SET n = 10",
    ];
    load_both(&client, &direct, &statements.map(str::to_owned)).await;
    let sql = "SELECT * FROM members ORDER BY k";
    assert_eq!(rows(&client, sql).await, rows(&direct, sql).await);
    check_refused(&client, "TL049", &["INSERT INTO members VALUES (9, 'u2', 5) ON CONFLICT (u) DO UPDATE SET n = 99"]).await;
    client.batch_execute("CREATE UNIQUE INDEX by_u ON members (u)").await.unwrap();
    check_refused(
        &client,
        "TL049",
        &[
            "INSERT INTO members VALUES (9, 'u2', 5) ON CONFLICT DO NOTHING",
            "INSERT INTO members VALUES (9, 'u2', 5), (10, 'u3', 5) ON CONFLICT DO NOTHING",
            "INSERT INTO members SELECT 9, 'u2', 5 WHERE true ON CONFLICT DO NOTHING",
        ],
    )
    .await;
    client.batch_execute("INSERT INTO members VALUES (4, 'u4', 44) ON CONFLICT (k) DO UPDATE SET n = excluded.n").await.unwrap();
    assert_eq!(value(&client, "SELECT n FROM members WHERE k = 4").await, "44");
}

#[tokio::test]
async fn texts_that_are_equal_by_collation_are_not_told_apart_by_shard() {
    let (cluster, _single, _proxy, client, direct) = start().await;
    let made = "CREATE COLLATION fuzzy (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                CREATE TABLE folks (name text COLLATE fuzzy, n int)";
    load_both(&client, &direct, &[made.to_owned()]).await;
    // As another tool has placed them: by bytes.
    for (idx, name) in ["abc", "ABC", "Abc", "aBC", "xyz", "XYZ"].iter().enumerate() {
        let sql = format!("INSERT INTO folks VALUES ('{name}', {idx})");
        cluster.direct(idx % 3).await.batch_execute(&sql).await.unwrap();
        direct.batch_execute(&sql).await.unwrap();
    }
    for sql in [
        "SELECT n FROM folks WHERE name = 'abc' ORDER BY n",
        "SELECT count(*) FROM folks a JOIN folks b USING (name)",
        "SELECT count(*) FROM folks a JOIN folks b ON a.name = b.name AND a.n < b.n WHERE a.name = 'XYZ'",
        "SELECT count(DISTINCT name) FROM folks",
    ] {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
    check_refused(&client, "TL013", &["INSERT INTO folks VALUES ('abc', 7)", "COPY folks FROM STDIN"]).await;
    check_refused(&client, "TL015", &["UPDATE folks SET n = 9 WHERE name = 'abc'", "DELETE FROM folks WHERE name = 'abc'"]).await;
}

#[tokio::test]
async fn operators_of_extensions_do_not_hide_those_of_the_system() {
    let (_cluster, _single, _proxy, client, direct) = start().await;
    let users: Vec<String> = (1..=9).map(|n| format!("({n}, 'ann{n}', 'e', 'us')")).collect();
    let statements = [
        "CREATE EXTENSION pg_trgm".to_owned(),
        format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")),
    ];
    load_both(&client, &direct, &statements).await;
    for sql in
        ["SELECT user_id % 3 AS m, count(*) FROM users GROUP BY m ORDER BY m", "SELECT count(*) FROM users WHERE name % 'ann3'"]
    {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
}

#[tokio::test]
async fn copies_of_a_reference_table_take_nothing_that_differs() {
    let (cluster, _single, _proxy, client, _direct) = start().await;
    client.batch_execute("INSERT INTO countries VALUES ('us', 'States', 'americas')").await.unwrap();
    check_refused(
        &client,
        "TL019",
        &[
            "INSERT INTO countries VALUES ('n1', 'now'::timestamptz::text, 'x')",
            "UPDATE countries SET name = xmin::text WHERE code = 'us'",
            "UPDATE countries SET name = (SELECT oid::text FROM pg_class WHERE relname = 'users')",
            "UPDATE countries SET name = 'users'::regclass::oid::text",
        ],
    )
    .await;
    check_refused(&client, "TL040", &["SET transform_null_equals = on", "SET array_nulls = off"]).await;
    client.batch_execute("SET transform_null_equals = off; UPDATE countries SET name = 'now'").await.unwrap();
    for shard_idx in 0..3 {
        assert_eq!(value(&cluster.direct(shard_idx).await, "SELECT name FROM countries").await, "now");
    }
}

#[tokio::test]
async fn one_shard_runs_what_the_parser_does_not_know() {
    let (_cluster, _single, _proxy, client, direct) = start().await;
    let statements = [
        "ALTER TABLE users ADD COLUMN tags text[] DEFAULT '{a,b,c}', ADD COLUMN meta jsonb DEFAULT '{}'",
        "INSERT INTO users (user_id, name, email, country) VALUES (7, 'n', 'e', 'us'), (8, 'n', 'e', 'us')",
        "UPDATE users SET tags[2] = 'z', meta['k'] = '1', name = 'x' WHERE user_id = 7",
    ];
    load_both(&client, &direct, &statements.map(str::to_owned)).await;
    for sql in [
        "SELECT user_id, name, tags, meta FROM users ORDER BY user_id",
        "SELECT name FROM users WHERE user_id = 7 FOR NO KEY UPDATE SKIP LOCKED",
        "SELECT name FROM users u WHERE u.user_id = 8 FOR KEY SHARE OF u",
        "SELECT count(*) FROM users WHERE tags[2] = 'z'",
    ] {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
    check_refused(&client, "TL030", &["SELECT name FROM users FOR NO KEY UPDATE"]).await;
}
