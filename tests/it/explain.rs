//! EXPLAIN of statements on several shards.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::harness::{Cluster, Proxy, Raw, failure, message, rows, text, value};

async fn start() -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let users: Vec<String> = (1..=40).map(|n| format!("({n}, 'n{}', 'e', 'us')", n % 4)).collect();
    client.batch_execute(&format!("INSERT INTO users VALUES {}", users.join(", "))).await.unwrap();
    client.batch_execute("INSERT INTO countries VALUES ('us', 'United States', 'americas')").await.unwrap();
    (cluster, proxy, client)
}

/// The lines of the answer.
async fn plan(client: &Client, sql: &str) -> Vec<String> {
    rows(client, sql).await.into_iter().map(|row| row.into_iter().next().flatten().unwrap()).collect()
}

/// The figure behind `name=` in a line.
fn figure(line: &str, name: &str) -> f64 {
    let rest = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{line}: no {name}")).1;
    rest.split([' ', ')']).next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_shard_tells_its_own_plan_of_what_it_gets() {
    let (cluster, _proxy, client) = start().await;
    let sql = "SELECT name FROM users WHERE name <> 'n1' ORDER BY user_id DESC LIMIT 3";
    let lines = plan(&client, &format!("EXPLAIN (COSTS OFF) {sql}")).await;
    assert_eq!(lines[..3], ["Merge  (shards: shard0, shard1)", "  Sort: hidden column 0 DESC NULLS FIRST", "  Limit: 3"]);
    let query = lines.iter().find_map(|line| line.trim_start().strip_prefix("Query: ")).unwrap().to_owned();
    assert!(query.contains("LIMIT 3") && query.contains("name <> 'n1'"), "{query}");
    // The rest is what the shards say, each below its name.
    let mut expected = Vec::new();
    for shard_idx in 0..2 {
        expected.push(format!("  ->  shard{shard_idx}"));
        expected.push(format!("        Query: {query}"));
        let own = plan(&cluster.direct(shard_idx).await, &format!("EXPLAIN (COSTS OFF) {query}")).await;
        for (idx, line) in own.iter().enumerate() {
            expected.push(format!("        {}{line}", if idx == 0 { "->  " } else { "    " }));
        }
    }
    assert_eq!(lines[3..], expected);
    // Options are the shards' to take: with costs, and more words.
    let lines = plan(&client, &format!("EXPLAIN VERBOSE {sql}")).await;
    assert!(lines.iter().any(|line| line.contains("(cost=")) && lines.iter().any(|line| line.contains("Output: ")), "{lines:#?}");
    // Nothing has run, and a statement of one shard is the shard's own affair.
    let one = plan(&client, "EXPLAIN (COSTS OFF) SELECT name FROM users WHERE user_id = 7").await;
    assert!(!one[0].contains("shard"), "{one:?}");
}

#[tokio::test]
async fn every_rung_shows_its_final_statement() {
    let (_cluster, _proxy, client) = start().await;
    let lines = plan(&client, "EXPLAIN SELECT name, avg(user_id) FROM users GROUP BY name").await;
    assert_eq!(lines[0], "Combine  (shards: shard0, shard1)");
    assert!(lines[1].starts_with("  Final Query: SELECT ") && lines[1].contains("unnest($1::"), "{lines:#?}");
    let sql =
        "SELECT u.name, c.name, count(DISTINCT u.user_id) FROM users u JOIN countries c ON u.country = c.code GROUP BY 1, 2";
    let lines = plan(&client, &format!("EXPLAIN {sql}")).await;
    assert_eq!(lines[0], "Gather  (shards: shard0, shard1)");
    assert!(lines.iter().any(|line| line == "  Read on the Engine: countries"), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("Final Query: ") && line.contains("pg_temp.trunkline_0")), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "  ->  users on shard1"), "{lines:#?}");
    // A sort key without a proven order is gathered, and EXPLAIN says so.
    let lines = plan(&client, "EXPLAIN SELECT '1 day'::interval * user_id AS i FROM users ORDER BY i").await;
    assert_eq!(lines[0], "Gather  (shards: shard0, shard1)");
    let lines = plan(&client, "EXPLAIN INSERT INTO users VALUES (101, 'n', 'e', 'us'), (102, 'n', 'e', 'us'), (103, 'n', 'e', 'us'), (104, 'n', 'e', 'us')").await;
    assert_eq!(lines[0], "Insert  (shards: shard0, shard1)");
    let lines = plan(&client, "EXPLAIN UPDATE countries SET name = 'x'").await;
    assert_eq!(lines[0], "Everywhere  (shards: shard0, shard1)");
    assert!(lines.iter().any(|line| line.contains("->  Update on countries")), "{lines:#?}");
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "40");
    assert_eq!(value(&client, "SELECT name FROM countries").await, "United States");
}

#[tokio::test]
async fn analyze_runs_the_statement_and_counts_what_each_shard_gives() {
    let (cluster, _proxy, client) = start().await;
    let mut on_shards = Vec::new();
    for shard_idx in 0..2 {
        on_shards.push(value(&cluster.direct(shard_idx).await, "SELECT count(*) FROM users").await.parse::<f64>().unwrap());
    }
    for (sql, n_rows) in [
        ("SELECT name FROM users", 40.0),
        ("SELECT name FROM users ORDER BY user_id", 40.0),
        ("SELECT DISTINCT user_id FROM users", 40.0),
    ] {
        let lines = plan(&client, &format!("EXPLAIN ANALYZE {sql}")).await;
        assert_eq!(figure(&lines[0], "rows"), n_rows, "{lines:#?}");
        assert!(figure(&lines[0], "time") > 0.0 && figure(&lines[0], "bytes") > 40.0, "{lines:#?}");
        let shards: Vec<&String> = lines.iter().filter(|line| line.starts_with("  ->  ")).collect();
        assert_eq!(shards.iter().map(|line| figure(line, "rows")).collect::<Vec<_>>(), on_shards, "{lines:#?}");
        assert!(shards.iter().all(|line| figure(line, "time") > 0.0 && figure(line, "bytes") > 0.0), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("actual time=")), "{lines:#?}");
    }
    let lines = plan(&client, "EXPLAIN (ANALYZE, TIMING OFF) SELECT name, count(*) FROM users GROUP BY name").await;
    assert_eq!(figure(&lines[0], "rows"), 4.0);
    let engine = lines.iter().find(|line| line.starts_with("  Engine: shard")).unwrap();
    assert!(figure(engine, "rows") == 4.0 && !lines[0].contains("time="), "{lines:#?}");
    cluster.wait_until_clean().await;
    // Writes are done, once, and undone with their transaction.
    client.batch_execute("BEGIN").await.unwrap();
    let insert =
        "INSERT INTO users VALUES (101, 'n', 'e', 'us'), (102, 'n', 'e', 'us'), (103, 'n', 'e', 'us'), (104, 'n', 'e', 'us')";
    let lines = plan(&client, &format!("EXPLAIN ANALYZE {insert}")).await;
    assert!(lines.iter().any(|line| line.contains("Insert on users")), "{lines:#?}");
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "44");
    let lines = plan(&client, "EXPLAIN ANALYZE SELECT name FROM users").await;
    assert_eq!(figure(&lines[0], "rows"), 44.0, "it sees what the transaction has written");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "40");
    plan(&client, &format!("EXPLAIN ANALYZE {insert}")).await;
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "44", "outside of a transaction it is kept");
    plan(&client, "EXPLAIN ANALYZE UPDATE countries SET name = 'x'").await;
    for shard_idx in 0..2 {
        assert_eq!(value(&cluster.direct(shard_idx).await, "SELECT name FROM countries").await, "x");
    }
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn json_is_one_value_with_the_shards_own() {
    let (_cluster, _proxy, client) = start().await;
    for sql in ["SELECT name FROM users ORDER BY user_id", "SELECT count(*) FROM users", "SELECT DISTINCT name FROM users"] {
        let lines = plan(&client, &format!("EXPLAIN (ANALYZE, FORMAT JSON) {sql}")).await;
        assert_eq!(lines.len(), 1);
        // A server reads it, and finds what is in it.
        let quoted = lines[0].replace('\'', "''");
        let of = async |path: &str| value(&client, &format!("SELECT '{quoted}'::json #>> '{{{path}}}'")).await;
        assert_eq!(of("0,Plan,Shards,1").await, "shard1");
        assert_eq!(of("0,Plan,Plans,1,Shard Name").await, "shard1");
        assert!(of("0,Plan,Plans,0,Query").await.starts_with("SELECT"));
        assert!(!of("0,Plan,Plans,0,Explain,0,Plan,Node Type").await.is_empty());
        assert!(of("0,Plan,Actual Rows").await.parse::<u64>().unwrap() > 0);
    }
    let prepared = client.prepare("EXPLAIN (FORMAT JSON) SELECT name FROM users").await.unwrap();
    assert_eq!((prepared.columns()[0].name(), prepared.columns()[0].type_()), ("QUERY PLAN", &Type::JSON));
    let (state, message) = failure(&client, "EXPLAIN (FORMAT PROSE) SELECT name FROM users").await;
    assert_eq!((state.as_str(), message.as_str()), ("22023", "unrecognized value for EXPLAIN option \"format\": \"prose\""));
}

#[tokio::test]
async fn yaml_and_xml_hold_the_shards_own() {
    let (_cluster, _proxy, client) = start().await;
    let sql = "SELECT name FROM users WHERE name < 'n2' ORDER BY user_id";
    let lines = plan(&client, &format!("EXPLAIN (COSTS OFF, FORMAT YAML) {sql}")).await;
    assert_eq!(lines.len(), 1);
    let has = |line: &str| lines[0].lines().any(|given| given == line);
    for line in
        ["- Plan: ", "      - \"shard1\"", "      - Node Type: \"Shard\"", "        Shard Name: \"shard1\"", "          - Plan: "]
    {
        assert!(has(line), "{line}\n{}", lines[0]);
    }
    assert!(has("              Node Type: \"Sort\""), "{}", lines[0]);
    let lines = plan(&client, &format!("EXPLAIN (ANALYZE, FORMAT XML) {sql}")).await;
    assert_eq!(lines.len(), 1);
    // A server reads it, and finds what is in it.
    let quoted = lines[0].replace('\'', "''");
    let of = async |path: &str| {
        let within = path.replace('/', "/e:");
        let call =
            format!("xpath('{within}/text()', '{quoted}'::xml, ARRAY[ARRAY['e', 'http://www.postgresql.org/2009/explain']])");
        value(&client, &format!("SELECT ({call})[1]::text")).await
    };
    assert_eq!(of("/explain/Query/Plan/Shards/Item[2]").await, "shard1");
    assert_eq!(of("/explain/Query/Plan/Plans/Plan[2]/Explain/explain/Query/Plan/Node-Type").await, "Sort");
    assert!(of("/explain/Query/Plan/Plans/Plan[1]/Query").await.contains("name &lt; 'n2'"));
    let prepared = client.prepare("EXPLAIN (FORMAT XML) SELECT name FROM users").await.unwrap();
    assert_eq!((prepared.columns()[0].name(), prepared.columns()[0].type_()), ("QUERY PLAN", &Type::XML));
}

#[tokio::test]
async fn a_cursor_is_explained_by_its_query() {
    let (cluster, _proxy, client) = start().await;
    for sql in ["SELECT name FROM users ORDER BY user_id", "SELECT count(*) FROM users", "SELECT DISTINCT name FROM users"] {
        let plain = plan(&client, &format!("EXPLAIN (COSTS OFF) {sql}")).await;
        let declared = plan(&client, &format!("EXPLAIN (COSTS OFF) DECLARE c NO SCROLL CURSOR FOR {sql}")).await;
        assert_eq!(declared, plain);
    }
    // It is not declared: there is nothing that a block would keep.
    let lines = plan(&client, "EXPLAIN ANALYZE DECLARE c CURSOR WITH HOLD FOR SELECT name FROM users").await;
    assert_eq!(figure(&lines[0], "rows"), 40.0);
    assert_eq!(failure(&client, "FETCH 1 FROM c").await.0, "34000");
    let lines = plan(&client, "EXPLAIN (COSTS OFF) DECLARE c CURSOR FOR SELECT name FROM users WHERE user_id = 7").await;
    assert!(lines.iter().all(|line| !line.contains("shards")), "{lines:#?}");
    cluster.wait_until_clean().await;
}

#[tokio::test]
async fn the_extended_protocol_describes_one_column_and_takes_parameters() {
    let (_cluster, proxy, client) = start().await;
    let prepared = client.prepare("EXPLAIN (COSTS OFF) SELECT name FROM users WHERE name = $1 AND user_id > $2").await.unwrap();
    assert_eq!((prepared.columns()[0].name(), prepared.columns()[0].type_()), ("QUERY PLAN", &Type::TEXT));
    assert_eq!(prepared.params(), [Type::TEXT, Type::INT8]);
    let found = client.query(&prepared, &[&"n1", &5_i64]).await.unwrap();
    assert_eq!(found[0].get::<_, &str>(0), "Merge  (shards: shard0, shard1)");
    assert!(found.iter().any(|row| row.get::<_, &str>(0).contains("Filter: ")), "{found:?}");
    let found = client.query("EXPLAIN ANALYZE SELECT count(*) FROM users WHERE name = $1", &[&"n1"]).await.unwrap();
    assert_eq!(figure(found[0].get(0), "rows"), 1.0);
    // In portions, as any answer of the proxy's own.
    let mut raw = Raw::log_in(proxy.port).await;
    let sql = "EXPLAIN (COSTS OFF) SELECT name FROM users ORDER BY user_id LIMIT 3";
    let parse = [&b"\0"[..], &text(sql), &[0, 0]].concat();
    let execute = |n: u8| message(b'E', &[0, 0, 0, 0, n]);
    let parts = [message(b'P', &parse), message(b'B', &[0; 8]), execute(2), execute(0), message(b'S', b"")];
    raw.send(&parts.concat()).await;
    let tags = raw.tags().await;
    assert!(tags.starts_with("12DDsD") && tags.ends_with("DCZ"), "{tags}");
    // SQL's own PREPARE.
    client.batch_execute("PREPARE p(bigint) AS SELECT name FROM users WHERE user_id > $1 ORDER BY 1").await.unwrap();
    let lines = plan(&client, "EXPLAIN (COSTS OFF) EXECUTE p(10)").await;
    assert!(lines[0].contains("(shards: shard0, shard1)"), "{lines:#?}");
    let lines = plan(&client, "EXPLAIN ANALYZE EXECUTE p(10)").await;
    assert_eq!(figure(&lines[0], "rows"), 30.0);
}

#[tokio::test]
async fn what_cannot_be_run_cannot_be_explained_and_bad_options_are_postgres_own_errors() {
    let (cluster, _proxy, client) = start().await;
    let direct = cluster.direct(0).await;
    for options in ["(NONSENSE)", "(TIMING)", "(ANALYZE perhaps)", "(FORMAT)", "(WAL)", "(BUFFERS 2)"] {
        let sql = format!("EXPLAIN {options} SELECT name FROM users");
        assert_eq!(failure(&client, &sql).await, failure(&direct, &sql).await, "{sql}");
    }
    for (sql, code) in [
        ("EXPLAIN SELECT name FROM users FOR UPDATE", "TL030"),
        ("EXPLAIN SELECT random() FROM users", "TL031"),
        ("EXPLAIN DELETE FROM users", "TL015"),
        ("EXPLAIN SELECT ctid FROM users", "TL039"),
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        let detail = error.as_db_error().unwrap().detail().unwrap().to_owned();
        assert_eq!(detail, format!("Reason code {code}."), "{sql}");
    }
    assert_eq!(failure(&client, "EXPLAIN SELECT nothing FROM users").await.0, "42703");
    // The statement's own error ends ANALYZE.
    assert_eq!(failure(&client, "EXPLAIN ANALYZE SELECT 1 / (user_id - user_id) FROM users").await.0, "22012");
    // A hint makes it a statement of one shard; a view is looked through.
    let lines = plan(&client, "/* trunkline: shard=shard1 */ EXPLAIN (COSTS OFF) SELECT name FROM users").await;
    assert_eq!(lines, ["Seq Scan on users"]);
    client.batch_execute("SET trunkline.allow_scatter = off").await.unwrap();
    plan(&client, "EXPLAIN SELECT name FROM users").await;
    assert_eq!(failure(&client, "EXPLAIN ANALYZE SELECT name FROM users").await.0, "0A000");
    client.batch_execute("SET trunkline.allow_scatter = on").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    failure(&client, "EXPLAIN (NONSENSE) SELECT name FROM users").await;
    assert_eq!(failure(&client, "SELECT 1").await.0, "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    cluster.wait_until_clean().await;
}
