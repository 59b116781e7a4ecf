//! Rows end on the shard that their key names, and nowhere else, whichever client writes them.

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, pgbench, poll, psql, rows, sqlstate_of, try_rows, value};

/// Equal shares of 4096 buckets: the bounds are certain.
const N_SHARDS: usize = 4;

/// How many rows of `table` shard `shard_idx` holds, and how many of them belong to another shard.
///
/// Postgres itself is asked: a row of bucket b is one of partition `MODULUS 4096, REMAINDER b`, and a shard has an equal,
/// contiguous range of buckets.
async fn count_placed(shard: &Client, shard_idx: usize, table: &str, column: &str) -> (usize, usize) {
    let share = 4096 / N_SHARDS;
    let (first, last) = (shard_idx * share, (shard_idx + 1) * share - 1);
    let column_type = value(
        shard,
        &format!("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = '{column}'"),
    )
    .await;
    let parent = format!("check_{table}");
    let create = format!("CREATE TABLE IF NOT EXISTS {parent} (k {column_type}) PARTITION BY HASH (k)");
    shard.batch_execute(&create).await.unwrap();
    let n_rows = value(shard, &format!("SELECT count(*) FROM {table}")).await.parse().unwrap();
    let misplaced = format!(
        "SELECT count(*) FROM {table} t WHERE NOT EXISTS (SELECT FROM generate_series({first}, {last}) r \
         WHERE satisfies_hash_partition('{parent}'::regclass, 4096, r, t.{column}))"
    );
    (n_rows, value(shard, &misplaced).await.parse().unwrap())
}

/// Every row of `table` stands once, on its own shard, and more than one shard has some.
async fn check_hash_placement(cluster: &Cluster, table: &str, column: &str, n_expected: usize) {
    let mut counts = Vec::new();
    for shard_idx in 0..N_SHARDS {
        let shard = cluster.direct(shard_idx).await;
        let (n_rows, n_misplaced) = count_placed(&shard, shard_idx, table, column).await;
        assert_eq!(n_misplaced, 0, "{table} on shard {shard_idx}");
        counts.push(n_rows);
    }
    assert_eq!(counts.iter().sum::<usize>(), n_expected, "{table}: {counts:?}");
    assert!(counts.iter().filter(|n| **n > 0).count() > 1, "{table}: {counts:?}");
}

/// Counts of a table's rows on each shard.
async fn counts(cluster: &Cluster, table: &str) -> Vec<String> {
    let mut counts = Vec::new();
    for shard_idx in 0..cluster.shards.len() {
        counts.push(value(&cluster.direct(shard_idx).await, &format!("SELECT count(*) FROM {table}")).await);
    }
    counts
}

async fn start(n_shards: usize) -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(n_shards).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    (cluster, proxy, client)
}

#[tokio::test]
async fn hash_keys_of_each_type_go_where_postgres_would_put_them() {
    let (cluster, proxy, client) = start(N_SHARDS).await;
    let insert_user =
        client.prepare("INSERT INTO users (user_id, name, email, country) VALUES ($1, $2, '', 'us')").await.unwrap();
    let insert_part = client.prepare("INSERT INTO parts (part_id, name) VALUES ($1, $2)").await.unwrap();
    let insert_doc = client.prepare("INSERT INTO docs (slug, body) VALUES ($1, $2)").await.unwrap();
    for number in 0..40_i32 {
        // The driver sends these parameters in binary.
        let user_id = i64::from(number) * 1_000_003 - 7;
        assert_eq!(client.execute(&insert_user, &[&user_id, &"bound"]).await.unwrap(), 1);
        assert_eq!(client.execute(&insert_part, &[&(number - 20), &"bound"]).await.unwrap(), 1);
        assert_eq!(client.execute(&insert_doc, &[&format!("page-{number}-ß"), &"bound"]).await.unwrap(), 1);
        let visit = format!("INSERT INTO visits VALUES ('00000000-0000-4000-8000-{number:012x}', '/')");
        client.batch_execute(&visit).await.unwrap();
    }
    // As literals, by psql.
    let literals: Vec<String> = (0..20).map(|n| format!("INSERT INTO docs VALUES ('it''s {n}', 'literal')")).collect();
    psql(proxy.port, &literals.iter().map(String::as_str).collect::<Vec<_>>()).await;
    check_hash_placement(&cluster, "users", "user_id", 40).await;
    check_hash_placement(&cluster, "parts", "part_id", 40).await;
    check_hash_placement(&cluster, "docs", "slug", 60).await;
    check_hash_placement(&cluster, "visits", "visit_id", 40).await;
}

#[tokio::test]
async fn a_key_value_means_the_same_in_every_form() {
    let (_cluster, proxy, client) = start(N_SHARDS).await;
    for user_id in 1..=30_i64 {
        let sql = format!("INSERT INTO users (user_id, name, email, country) VALUES ({user_id}, 'u{user_id}', '', 'us')");
        client.batch_execute(&sql).await.unwrap();
    }
    for user_id in 1..=30_i64 {
        let wanted = Some(format!("u{user_id}"));
        for literal in [format!("{user_id}"), format!("'{user_id}'"), format!("{user_id}::int8"), format!("'{user_id}'::bigint")]
        {
            let found = rows(&client, &format!("SELECT name FROM users WHERE user_id = {literal}")).await;
            assert_eq!(found, [[wanted.clone()]], "{literal}");
        }
        let found = client.query_one("SELECT name FROM users WHERE user_id = $1", &[&user_id]).await.unwrap();
        assert_eq!(found.get::<_, Option<String>>(0), wanted);
        let narrow = i32::try_from(user_id).unwrap();
        let found = client.query_one("SELECT name FROM users WHERE user_id = $1::int4", &[&narrow]).await.unwrap();
        assert_eq!(found.get::<_, Option<String>>(0), wanted);
    }
    let listed = psql(proxy.port, &["SELECT name FROM users WHERE user_id IN (3, 4, 5) ORDER BY user_id"]).await;
    assert_eq!(listed, "u3\nu4\nu5\n");
}

#[tokio::test]
async fn list_keys_go_to_the_shard_that_lists_them() {
    let (cluster, _proxy, client) = start(3).await;
    for region in ["us", "uk", "uk", "jp", "jp", "jp"] {
        let day = counts(&cluster, "regional_metrics").await.iter().map(|n| n.parse::<i32>().unwrap()).sum::<i32>() + 1;
        let sql = format!("INSERT INTO regional_metrics VALUES ('{region}', '2024-01-{day:02}', 'web', 1, 2)");
        client.batch_execute(&sql).await.unwrap();
    }
    assert_eq!(counts(&cluster, "regional_metrics").await, ["1", "2", "3"]);
    assert_eq!(value(&client, "SELECT count(*) FROM regional_metrics WHERE region IN ('uk', 'jp')").await, "5");
    assert_eq!(value(&client, "SELECT count(*) FROM regional_metrics WHERE region = 'jp'").await, "3");
    // On a read an unmapped value is in no row; on a write it is an error.
    assert_eq!(value(&client, "SELECT count(*) FROM regional_metrics WHERE region = 'atlantis'").await, "0");
    let report = |sql: &'static str| {
        let client = &client;
        async move { client.batch_execute(sql).await.unwrap_err() }
    };
    let unmapped = report("INSERT INTO regional_metrics VALUES ('atlantis', '2024-01-01', 'web', 1, 2)").await;
    let null = report("INSERT INTO regional_metrics VALUES (NULL, '2024-01-01', 'web', 1, 2)").await;
    for (error, sqlstate) in [(unmapped, "22023"), (null, "23502")] {
        let report = error.as_db_error().unwrap();
        assert_eq!((report.code().code(), report.table(), report.column()), (sqlstate, Some("regional_metrics"), Some("region")));
    }
    assert_eq!(counts(&cluster, "regional_metrics").await, ["1", "2", "3"]);
}

#[tokio::test]
async fn age_keys_go_to_the_tier_of_their_time() {
    let (cluster, _proxy, client) = start(3).await;
    for (metric_id, age) in [(1, "0 days"), (2, "3 days"), (3, "12 days"), (4, "25 days"), (5, "60 days")] {
        let at = value(&cluster.direct(0).await, &format!("SELECT now() - interval '{age}'")).await;
        client.batch_execute(&format!("INSERT INTO metrics VALUES ({metric_id}, 'm', 1, '{at}')")).await.unwrap();
    }
    client.batch_execute("INSERT INTO metrics (metric_id, name, value) VALUES (6, 'm', 1)").await.unwrap();
    client.batch_execute("INSERT INTO metrics VALUES (7, 'm', 1, now())").await.unwrap();
    assert_eq!(counts(&cluster, "metrics").await, ["4", "2", "1"]);
    let recent = "SELECT count(*) FROM metrics WHERE recorded_at >= now() - interval '5 days'";
    assert_eq!(value(&client, recent).await, "4");
    assert_eq!(value(&client, "SELECT count(*) FROM metrics WHERE recorded_at < now() - interval '20 days'").await, "2");
    assert_eq!(value(&client, "SELECT count(*) FROM metrics").await, "7");
}

#[tokio::test]
async fn watermarks_outlive_the_proxy() {
    let cluster = Cluster::start(3).await;
    let read = async || rows(&cluster.direct(0).await, "SELECT * FROM trunkline.watermarks ORDER BY 1, 2, 3").await;
    let proxy = cluster.proxy().await;
    let first = read().await;
    assert!(!first.is_empty());
    assert!(proxy.stop().await.success());
    let _again = cluster.proxy().await;
    assert_eq!(read().await, first);
}

#[tokio::test]
async fn nested_keys_choose_level_by_level() {
    let (cluster, _proxy, client) = start(3).await;
    for user_id in 1..=60 {
        client.batch_execute(&format!("INSERT INTO events VALUES ({user_id}, 'us', {user_id}, 'click')")).await.unwrap();
        client.batch_execute(&format!("INSERT INTO events VALUES ({user_id}, 'jp', {user_id}, 'click')")).await.unwrap();
    }
    let mut n_us = Vec::new();
    for shard_idx in 0..3 {
        let shard = cluster.direct(shard_idx).await;
        n_us.push(value(&shard, "SELECT count(*) FROM events WHERE region = 'us'").await.parse::<usize>().unwrap());
        let n_jp = value(&shard, "SELECT count(*) FROM events WHERE region = 'jp'").await;
        assert_eq!(n_jp, if shard_idx == 2 { "60" } else { "0" }, "shard {shard_idx}");
    }
    assert_eq!(n_us.iter().sum::<usize>(), 60);
    assert!(n_us.iter().all(|n| *n > 0), "the group's hash level spreads its rows: {n_us:?}");
    for user_id in 1..=60 {
        let sql = format!("SELECT count(*) FROM events WHERE user_id = {user_id}");
        assert_eq!(value(&client, &sql).await, "2");
        assert_eq!(value(&client, &format!("{sql} AND region = 'us'")).await, "1");
    }
}

#[tokio::test]
async fn reference_rows_are_on_every_shard_and_pinned_rows_on_one() {
    let (cluster, _proxy, client) = start(3).await;
    let inserted =
        client.execute("INSERT INTO countries VALUES ('us', 'United States', 'americas'), ('jp', 'Japan', 'asia')", &[]).await;
    assert_eq!(inserted.unwrap(), 2, "copies are not counted");
    assert_eq!(client.execute("UPDATE countries SET name = 'Nippon' WHERE code = $1", &[&"jp"]).await.unwrap(), 1);
    assert_eq!(counts(&cluster, "countries").await, ["2", "2", "2"]);
    assert_eq!(counts(&cluster, "countries WHERE name = 'Nippon'").await, ["1", "1", "1"]);
    assert_eq!(value(&client, "SELECT count(*) FROM countries").await, "2");
    client.batch_execute("INSERT INTO audit VALUES (1, 'ada', 'login'), (2, 'alan', 'export')").await.unwrap();
    assert_eq!(counts(&cluster, "audit").await, ["0", "0", "2"]);
    assert_eq!(value(&client, "SELECT max(audit_id) OVER () FROM audit LIMIT 1").await, "2", "any SQL goes to the one shard");
}

#[tokio::test]
async fn rows_of_one_insert_and_of_copy_are_split() {
    let (cluster, proxy, client) = start(N_SHARDS).await;
    let values: Vec<String> = (1..=500).map(|n| format!("({n}, 'n{n}', 'e', 'us')")).collect();
    let sql = format!("INSERT INTO users (user_id, name, email, country) VALUES {}", values.join(", "));
    assert_eq!(client.execute(&sql, &[]).await.unwrap(), 500);
    check_hash_placement(&cluster, "users", "user_id", 500).await;
    // A quoted field may hold a comma and a line break.
    let csv: String = (501..=900).map(|n| format!("\"n, {n}\n\",{n},e,us\n")).collect();
    let file = cluster.scratch.write("users.csv", &csv);
    let copy = format!("\\copy users (name, user_id, email, country) FROM '{}' WITH (FORMAT csv)", file.display());
    psql(proxy.port, &[&copy]).await;
    check_hash_placement(&cluster, "users", "user_id", 900).await;
    assert_eq!(value(&client, "SELECT name FROM users WHERE user_id = 777").await, "n, 777\n");
}

#[tokio::test]
async fn update_and_delete_by_key_touch_one_row() {
    let (_cluster, _proxy, client) = start(N_SHARDS).await;
    let values: Vec<String> = (1..=20).map(|n| format!("({n}, 'n', 'e', 'us')")).collect();
    let sql = format!("INSERT INTO users (user_id, name, email, country) VALUES {}", values.join(", "));
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(client.execute("UPDATE users SET name = 'renamed' WHERE user_id = $1", &[&7_i64]).await.unwrap(), 1);
    assert_eq!(client.execute("DELETE FROM users WHERE user_id = 8", &[]).await.unwrap(), 1);
    assert_eq!(client.execute("DELETE FROM users WHERE user_id = 8", &[]).await.unwrap(), 0);
    assert_eq!(rows(&client, "SELECT user_id FROM users WHERE name = 'renamed'").await, [[Some("7".to_owned())]]);
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "19");
    // The row would have to move, which is not done yet.
    let error = client.batch_execute("UPDATE users SET user_id = 1000 WHERE user_id = 7").await.unwrap_err();
    assert_eq!(sqlstate_of(&error).0, "0A000");
}

#[tokio::test]
async fn a_table_that_the_configuration_does_not_name_is_refused_with_the_lines_to_add() {
    let (cluster, _proxy, client) = start(2).await;
    for shard_idx in 0..2 {
        cluster.direct(shard_idx).await.batch_execute("CREATE TABLE strangers (n int)").await.unwrap();
    }
    // The first error has the proxy read the catalog again: these tables were made behind its back.
    let refusal = async || {
        let error = try_rows(&client, "SELECT * FROM strangers").await.unwrap_err();
        let report = error.as_db_error().unwrap();
        (report.code().code().to_owned(), report.hint().unwrap_or_default().to_owned())
    };
    poll("the tables are known to exist", async || refusal().await.0 == "0A000").await;
    assert!(refusal().await.1.contains("[[databases.shop.tables]]"), "{:?}", refusal().await);
}

#[tokio::test]
async fn pgbench_runs_in_each_protocol_and_misplaces_nothing() {
    let (cluster, proxy, client) = start(N_SHARDS).await;
    let values: Vec<String> = (1..=5000).map(|n| format!("({n}, 'n', 'e', 'us')")).collect();
    let sql = format!("INSERT INTO users (user_id, name, email, country) VALUES {}", values.join(", "));
    client.batch_execute(&sql).await.unwrap();
    for protocol in ["simple", "extended", "prepared"] {
        for script in ["select_user", "update_user", "insert_order"] {
            let file = format!("{}/sql/pgbench/{script}.sql", env!("CARGO_MANIFEST_DIR"));
            let report = pgbench(proxy.port, &["-M", protocol, "-c", "4", "-t", "100", "-f", &file]).await;
            assert!(report.contains("actually processed: 400/400"), "{report}");
        }
    }
    check_hash_placement(&cluster, "users", "user_id", 5000).await;
    check_hash_placement(&cluster, "orders", "user_id", 1200).await;
    poll("leases are back", async || value(&client, "SELECT 1").await == "1").await;
}

#[tokio::test]
async fn a_shard_setting_leads_reads_and_misplaces_no_row() {
    let (cluster, _proxy, client) = start(2).await;
    client.batch_execute("INSERT INTO users SELECT 1, 'n', 'e', 'us'").await.unwrap();
    let values: Vec<String> = (2..=40).map(|n| format!("({n}, 'n', 'e', 'us')")).collect();
    client.batch_execute(&format!("INSERT INTO users VALUES {}", values.join(","))).await.unwrap();
    let on_first = value(&cluster.direct(0).await, "SELECT count(*) FROM users").await;
    let its_user = value(&cluster.direct(0).await, "SELECT min(user_id) FROM users").await;
    client.batch_execute("SET trunkline.shard = 'shard0'").await.unwrap();
    assert_eq!(value(&client, "SHOW trunkline.shard").await, "shard0");
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, on_first, "a read sees that shard's rows");
    client.batch_execute("SET trunkline.shard = 'shard1'").await.unwrap();
    for sql in [
        format!("INSERT INTO users VALUES ({its_user}, 'n', 'e', 'us')"),
        format!("DELETE FROM users WHERE user_id = {its_user}"),
        "INSERT INTO users VALUES (101, 'n', 'e', 'us'), (102, 'n', 'e', 'us'), (103, 'n', 'e', 'us'), (104, 'n', 'e', 'us')"
            .to_owned(),
    ] {
        assert_eq!(sqlstate_of(&client.batch_execute(&sql).await.unwrap_err()).0, "22023", "{sql}");
    }
    client.batch_execute("RESET trunkline.shard").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "40");
    client.batch_execute("BEGIN; SET LOCAL trunkline.shard = 'shard0'").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, on_first);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "40", "SET LOCAL ends with its transaction");
}

#[tokio::test]
async fn what_is_no_sql_gets_the_servers_own_error() {
    let (_cluster, _proxy, client) = start(2).await;
    for sql in ["SELEC 1 FROM users", "SELECT name FROM users WHERE user_id = ", "UPDATE users SET"] {
        assert_eq!(sqlstate_of(&client.batch_execute(sql).await.unwrap_err()).0, "42601", "{sql}");
    }
    let refused = client.batch_execute("CREATE TEMP VIEW scratch AS SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate_of(&refused).0, "0A000");
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "0");
}
