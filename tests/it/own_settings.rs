//! `trunkline.…`: the settings that the proxy acts on itself, and what becomes of statements under them.

use tokio_postgres::Client;

use crate::harness::{
    Cluster, Proxy, ProxyOptions, QUICK_HEALTH, Raw, connect_with, failure, message, sqlstate_of, startup, text, value,
};

async fn fill(client: &Client) {
    let users: Vec<String> = (1..=30).map(|n| format!("({n}, 'n{n}', 'e', 'us')")).collect();
    client.batch_execute(&format!("INSERT INTO users VALUES {}", users.join(", "))).await.unwrap();
    client.batch_execute("INSERT INTO countries VALUES ('us', 'United States', 'americas')").await.unwrap();
}

async fn start(sections: &str) -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(2).await;
    let sections = format!("{sections}{QUICK_HEALTH}");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    (cluster, proxy, client)
}

/// Messages of the notices of a query by the simple protocol, and the tags of all messages.
async fn notices(raw: &mut Raw, sql: &str) -> (Vec<String>, String) {
    raw.send(&message(b'Q', &text(sql))).await;
    told(raw).await
}

async fn told(raw: &mut Raw) -> (Vec<String>, String) {
    let answer = raw.until(b'Z').await;
    let notices = answer.iter().filter(|message| message.tag == b'N').map(|notice| notice.field(b'M')).collect();
    (notices, answer.iter().map(|message| char::from(message.tag)).collect())
}

/// A statement without parameters by the extended protocol.
fn extended(sql: &str) -> Vec<u8> {
    let parse = [&b"\0"[..], &text(sql), &[0, 0]].concat();
    let parts = [(b'P', &parse[..]), (b'B', &[0, 0, 0, 0, 0, 0, 0, 0]), (b'D', b"P\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")];
    parts.iter().flat_map(|(tag, body)| message(*tag, body)).collect()
}

#[tokio::test]
async fn wrong_values_are_refused_in_postgres_own_words() {
    let (cluster, proxy, client) = start("").await;
    let direct = cluster.direct(0).await;
    // A setting of Postgres's own of the same kind says what the words are.
    for (own, likeness, wrong) in [
        ("trunkline.explain_route", "enable_seqscan", "maybe"),
        ("trunkline.partial_results", "enable_seqscan", "''"),
        ("trunkline.allow_scatter", "xmlbinary", "sometimes"),
        ("trunkline.max_gather_bytes", "track_activity_query_size", "'many'"),
        ("trunkline.max_gather_bytes", "temp_file_limit", "'64mb'"),
        ("trunkline.allow_scatter", "xmlbinary", "on, off"),
    ] {
        let of = async |client: &Client, name: &str| {
            let error = client.batch_execute(&format!("SET {name} TO {wrong}")).await.unwrap_err();
            let report = error.as_db_error().unwrap().clone();
            (report.code().clone(), report.message().replace(name, "NAME"), report.hint().map(str::to_owned))
        };
        let (state, words, hint) = of(&client, own).await;
        let (expected_state, expected_words, expected_hint) = of(&direct, likeness).await;
        if likeness == "track_activity_query_size" {
            // That one is set at the start only; how a bad value is told stands in guc.c.
            assert_eq!((state.code(), words.as_str()), ("22023", "invalid value for parameter \"NAME\": \"many\""));
            continue;
        }
        assert_eq!((state, words), (expected_state, expected_words), "{own} {wrong}");
        match (hint, expected_hint) {
            (Some(hint), Some(_)) if likeness == "xmlbinary" => assert_eq!(hint, "Available values: on, notice, off."),
            (hint, expected_hint) => assert_eq!(hint, expected_hint, "{own} {wrong}"),
        }
    }
    for sql in
        ["SET trunkline.shards = shard0", "RESET trunkline.alow_scatter", "SHOW trunkline.x", "SET LOCAL trunkline.explain TO on"]
    {
        let error = client.batch_execute(sql).await.unwrap_err();
        let report = error.as_db_error().unwrap();
        assert_eq!(report.code().code(), "42704", "{sql}");
        assert!(report.hint().unwrap().contains("trunkline.allow_scatter"), "{report:?}");
    }
    assert_eq!(failure(&client, "SET trunkline.shard = nowhere").await.0, "22023");
    assert_eq!(failure(&client, "SELECT set_config('trunkline.allow_scatter', 'sometimes', false)").await.0, "22023");
    assert_eq!(failure(&client, "SELECT set_config('trunkline.explain', 'on', false)").await.0, "42704");
    assert_eq!(failure(&client, "SELECT set_config('trunkline.explain_route', 'o' || 'n', false)").await.0, "0A000");
    for (options, sqlstate) in [("-c trunkline.allow_scatter=never", "22023"), ("-c trunkline.nothing=1", "42704")] {
        let error = connect_with(&format!("{} options='{options}'", proxy.target("postgres"))).await.err().unwrap();
        assert_eq!(sqlstate_of(&error).0, sqlstate, "{options}");
    }
}

#[tokio::test]
async fn own_settings_behave_as_any_other() {
    let (_cluster, proxy, client) = start("").await;
    const SHOW: &str = "SHOW trunkline.allow_scatter";
    assert_eq!(value(&client, SHOW).await, "on");
    // By the extended protocol too, with its column.
    let row = client.query_one(SHOW, &[]).await.unwrap();
    assert_eq!((row.columns()[0].name(), row.get::<_, &str>(0)), ("trunkline.allow_scatter", "on"));
    client.batch_execute("SET trunkline.allow_scatter TO NOTICE").await.unwrap();
    assert_eq!(value(&client, "SELECT current_setting('trunkline.allow_scatter')").await, "notice");
    client.batch_execute("BEGIN; SET LOCAL trunkline.allow_scatter = off").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "off");
    assert_eq!(value(&client, "SELECT current_setting('trunkline.allow_scatter')").await, "off");
    client.batch_execute("SAVEPOINT a; SET trunkline.allow_scatter = on; SET trunkline.max_gather_bytes = '64MB'").await.unwrap();
    assert_eq!(
        (value(&client, SHOW).await.as_str(), value(&client, "SHOW trunkline.max_gather_bytes").await.as_str()),
        ("on", "64MB")
    );
    client.batch_execute("ROLLBACK TO a").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "off", "a savepoint takes it back");
    assert_eq!(value(&client, "SHOW trunkline.max_gather_bytes").await, "256MB");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "notice", "SET LOCAL ends with its transaction");
    client.batch_execute("BEGIN; SET trunkline.allow_scatter = off; ROLLBACK").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "notice", "a rollback takes it back");
    client.batch_execute("BEGIN; SET trunkline.allow_scatter = off; COMMIT").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "off");
    client.batch_execute("SET trunkline.allow_scatter TO DEFAULT").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "on");
    // As code does it, by a literal and by a parameter.
    assert_eq!(value(&client, "SELECT set_config('trunkline.allow_scatter', 'FALSE', false)").await, "FALSE");
    assert_eq!(value(&client, SHOW).await, "off");
    assert_eq!(value(&client, "SELECT current_setting('trunkline.allow_scatter')").await, "off");
    client.query("SELECT set_config('trunkline.allow_scatter', $1, false)", &[&"notice"]).await.unwrap();
    assert_eq!(value(&client, SHOW).await, "notice");
    client.batch_execute("BEGIN; SELECT set_config('trunkline.allow_scatter', 'off', true)").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "off");
    client.batch_execute("ROLLBACK; RESET ALL").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "on");
    client.batch_execute("SET trunkline.shard = shard1; SET trunkline.explain_route = on").await.unwrap();
    client.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(
        (value(&client, "SHOW trunkline.shard").await, value(&client, "SHOW trunkline.explain_route").await),
        (String::new(), "off".to_owned())
    );
    // What the client begins with is what RESET returns to.
    let target =
        format!("{} options='-c trunkline.allow_scatter=off -c trunkline.max_gather_bytes=1MB'", proxy.target("postgres"));
    let other = connect_with(&target).await.unwrap();
    assert_eq!(
        (value(&other, SHOW).await.as_str(), value(&other, "SHOW trunkline.max_gather_bytes").await.as_str()),
        ("off", "1MB")
    );
    other.batch_execute("SET trunkline.allow_scatter = on; RESET trunkline.allow_scatter").await.unwrap();
    assert_eq!(value(&other, SHOW).await, "off");
    // A connection of the pool that had them is as new for the next client.
    let next = proxy.connect().await;
    assert_eq!(value(&next, "SELECT coalesce(current_setting('trunkline.allow_scatter', true), '')").await, "");
    let mut raw = Raw::log_in(proxy.port).await;
    let (warnings, tags) = notices(&mut raw, "SET LOCAL trunkline.explain_route = on").await;
    assert_eq!((warnings, tags.as_str()), (vec!["SET LOCAL can only be used in transaction blocks".to_owned()], "NCZ"));
}

#[tokio::test]
async fn a_hint_for_the_session_ends_with_its_savepoint() {
    let (cluster, _proxy, client) = start("").await;
    fill(&client).await;
    let on_second = value(&cluster.direct(1).await, "SELECT count(*) FROM users").await;
    client.batch_execute("BEGIN; SAVEPOINT a; SET LOCAL trunkline.shard = shard1").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, on_second);
    client.batch_execute("ROLLBACK TO a").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "30");
    client.batch_execute("COMMIT").await.unwrap();
    client.query("SELECT set_config('trunkline.shard', 'shard1', false)", &[]).await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, on_second);
}

#[tokio::test]
async fn the_statements_own_hint_goes_before_the_sessions() {
    let (cluster, _proxy, client) = start("").await;
    fill(&client).await;
    let count = async |shard_idx: usize| value(&cluster.direct(shard_idx).await, "SELECT count(*) FROM users").await;
    let (on_first, on_second) = (count(0).await, count(1).await);
    assert_ne!(on_first, on_second, "or the test would show nothing");
    let of_second = value(&cluster.direct(1).await, "SELECT min(user_id) FROM users").await;
    client.batch_execute("SET trunkline.shard = shard0").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, on_first);
    assert_eq!(value(&client, "/* trunkline: shard=shard1 */ SELECT count(*) FROM users").await, on_second);
    assert_eq!(value(&client, &format!("/* trunkline: key={of_second} */ SELECT count(*) FROM users")).await, on_second);
    client.batch_execute(&format!("RESET trunkline.shard; SET trunkline.key = {of_second}")).await.unwrap();
    assert_eq!(value(&client, "SHOW trunkline.key").await, of_second);
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, on_second);
    assert_eq!(
        client.query_one("SELECT count(*) FROM users WHERE name <> $1", &[&""]).await.unwrap().get::<_, i64>(0).to_string(),
        on_second
    );
    // Statements without such a key go where they would; a write does not misplace rows.
    assert_eq!(value(&client, "SELECT name FROM countries").await, "United States");
    let of_first = value(&cluster.direct(0).await, "SELECT min(user_id) FROM users").await;
    let (sqlstate, message) = failure(&client, &format!("UPDATE users SET name = 'x' WHERE user_id = {of_first}")).await;
    assert_eq!(sqlstate, "22023", "{message}");
    client.batch_execute("SET trunkline.key = 'no number'").await.unwrap();
    assert_eq!(failure(&client, "SELECT count(*) FROM users").await.0, "22023");
    client.batch_execute("BEGIN; SET LOCAL trunkline.key = ''").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "30");
    client.batch_execute("COMMIT; RESET trunkline.key").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "30");
}

#[tokio::test]
async fn statements_on_several_shards_can_be_refused() {
    let (_cluster, proxy, client) = start("").await;
    fill(&client).await;
    client
        .batch_execute("PREPARE p AS SELECT name FROM users ORDER BY user_id; SET trunkline.allow_scatter = off")
        .await
        .unwrap();
    for sql in [
        "SELECT count(*) FROM users",
        "SELECT name FROM users u JOIN countries c ON u.country = c.code",
        "SELECT count(DISTINCT name) FROM users",
        "INSERT INTO users VALUES (101, 'n', 'e', 'us'), (102, 'n', 'e', 'us'), (103, 'n', 'e', 'us'), (104, 'n', 'e', 'us')",
        "COPY users TO STDOUT",
        "COPY (SELECT count(*) FROM users) TO STDOUT",
        "COPY users FROM STDIN",
        "EXECUTE p",
        "SELECT 1; SELECT count(*) FROM users",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        let report = error.as_db_error().unwrap();
        assert_eq!((report.code().code(), report.detail()), ("0A000", Some("Reason code TL070.")), "{sql}");
    }
    let error = client.query("SELECT o.* FROM orders o JOIN users u ON o.order_id = u.user_id", &[]).await.unwrap_err();
    let report = error.as_db_error().unwrap();
    assert_eq!(report.detail(), Some("Reason code TL070."));
    let hint = report.hint().unwrap();
    assert!(hint.contains("\"orders\" by user_id; \"users\" by user_id"), "{hint}");
    // One shard, any shard, every copy: what no key would make less of.
    for sql in [
        "SELECT * FROM users WHERE user_id = 7",
        "SELECT * FROM countries",
        "SELECT 1",
        "SELECT relname FROM pg_class LIMIT 1",
        "INSERT INTO countries VALUES ('jp', 'Japan', 'asia')",
        "CREATE INDEX ON users (name)",
        "SELECT count(*) FROM users WHERE user_id = 1 AND user_id = 2",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    client.batch_execute("BEGIN; SET LOCAL trunkline.allow_scatter = on; SELECT count(*) FROM users; COMMIT").await.unwrap();
    let mut raw = Raw::log_in(proxy.port).await;
    notices(&mut raw, "SET trunkline.allow_scatter = notice").await;
    let (told, tags) = notices(&mut raw, "SELECT count(*) FROM users").await;
    assert_eq!((told, tags.as_str()), (vec!["combine: shard0, shard1".to_owned()], "NTDCZ"));
    assert_eq!(notices(&mut raw, "SELECT * FROM countries").await.1, "TDDCZ");
}

#[tokio::test]
async fn the_configuration_says_what_holds_by_itself_and_what_a_session_may_ask_for() {
    let sections = "[query]\nallow_scatter = \"off\"\nallow_partial_results = false\nmax_gather_bytes = \"1MB\"\n";
    let (_cluster, _proxy, client) = start(sections).await;
    assert_eq!(failure(&client, "SELECT count(*) FROM users").await.0, "0A000");
    client.batch_execute("SET trunkline.allow_scatter = on; SELECT count(*) FROM users; RESET ALL").await.unwrap();
    assert_eq!(failure(&client, "SELECT count(*) FROM users").await.0, "0A000");
    assert_eq!(failure(&client, "SET trunkline.partial_results = on").await.0, "42501");
    client.batch_execute("SET trunkline.partial_results = off").await.unwrap();
    let (sqlstate, words) = failure(&client, "SET trunkline.max_gather_bytes = '2MB'").await;
    assert_eq!(sqlstate, "22023");
    assert_eq!(words, "2097152 B is outside the valid range for parameter \"trunkline.max_gather_bytes\" (1 B .. 1048576 B)");
}

#[tokio::test]
async fn a_session_lowers_what_its_statements_may_gather() {
    let (_cluster, _proxy, client) = start("").await;
    fill(&client).await;
    client.batch_execute("SET trunkline.max_gather_bytes = '100B'").await.unwrap();
    for sql in ["SELECT count(DISTINCT name) FROM users", "SELECT name, count(*) FROM users GROUP BY name"] {
        let error = client.batch_execute(sql).await.unwrap_err();
        let report = error.as_db_error().unwrap();
        assert_eq!((report.code().code(), report.detail()), ("54000", Some("Reason code TL093.")), "{sql}");
        assert!(report.message().contains("100 bytes"), "{report:?}");
        assert!(report.hint().unwrap().contains("trunkline.max_gather_bytes"), "{report:?}");
    }
    client.batch_execute("RESET trunkline.max_gather_bytes").await.unwrap();
    assert_eq!(value(&client, "SELECT count(DISTINCT name) FROM users").await, "30");
}

#[tokio::test]
async fn each_statement_tells_its_route_before_its_rows() {
    let (_cluster, proxy, client) = start("").await;
    fill(&client).await;
    let mut raw = Raw::open(proxy.port).await;
    let parameters = [("user", "postgres"), ("database", crate::harness::DATABASE), ("options", "-c trunkline.explain_route=1")];
    raw.send(&startup(0x0003_0000, &parameters)).await;
    raw.until(b'Z').await;
    let routes = [
        ("SELECT name FROM users ORDER BY user_id LIMIT 1", "merge: shard0, shard1", "TDC"),
        ("SELECT count(*) FROM users", "combine: shard0, shard1", "TDC"),
        ("SELECT count(DISTINCT name) FROM users", "gather: shard0, shard1", "TDC"),
        ("SELECT code FROM countries", "route: any one shard (read)", "TDC"),
        ("UPDATE users SET name = 'x' WHERE user_id = 0", "route: shard", "C"),
        ("UPDATE countries SET name = 'x' WHERE code = 'xx'", "everywhere: shard0, shard1", "C"),
        (
            "INSERT INTO users VALUES (201, 'n', 'e', 'us'), (202, 'n', 'e', 'us'), (203, 'n', 'e', 'us'), (204, 'n', 'e', 'us')",
            "insert: shard0, shard1",
            "C",
        ),
    ];
    for (sql, route, expected) in routes {
        let (told, tags) = notices(&mut raw, sql).await;
        assert!(told.len() == 1 && told[0].starts_with(route), "{sql}: {told:?}");
        assert_eq!(tags, format!("N{expected}Z"), "{sql}");
    }
    client.batch_execute("DELETE FROM users WHERE user_id = 201; DELETE FROM users WHERE user_id = 202; DELETE FROM users WHERE user_id = 203; DELETE FROM users WHERE user_id = 204").await.unwrap();
    for (sql, route, expected) in routes {
        raw.send(&extended(sql)).await;
        let (notices, tags) = told(&mut raw).await;
        assert!(notices.len() == 1 && notices[0].starts_with(route), "{sql}: {notices:?}");
        assert!(tags.starts_with("N1") || tags.starts_with("1N"), "{sql}: {tags}");
        assert!(tags.ends_with(&format!("{}Z", expected.replace('T', ""))), "{sql}: {tags}");
    }
    let (told, _) = notices(&mut raw, "SELECT 1; SELECT count(*) FROM users").await;
    assert_eq!(told, ["route: any one shard (read)", "combine: shard0, shard1"]);
    let (told, tags) = notices(&mut raw, "BEGIN; SET trunkline.explain_route = off; SELECT count(*) FROM users; COMMIT").await;
    assert_eq!((told.len(), tags.as_str()), (0, "CCTDCCZ"));
    assert_eq!(notices(&mut raw, "SELECT count(*) FROM users").await.1, "TDCZ");
}
