//! Prepared statements that outlive DDL, and their limits.

use crate::harness::{Cluster, Message, Proxy, ProxyOptions, QUICK_HEALTH, Raw, extended, message, text};

fn parse(name: &str, sql: &str) -> Vec<u8> {
    extended::parse(name, sql, &[])
}

fn bind(statement: &str) -> Vec<u8> {
    message(b'B', &[text(""), text(statement), vec![0, 0, 0, 0, 0, 0]].concat())
}

fn describe_portal() -> Vec<u8> {
    extended::describe(b'P', "")
}

fn execute() -> Vec<u8> {
    extended::execute(0)
}

/// Sends these messages and a Sync; the tags of the answer and the SQLSTATE of an error.
async fn ask(raw: &mut Raw, messages: &[Vec<u8>]) -> (String, String) {
    raw.send(&[messages.concat(), message(b'S', &[])].concat()).await;
    tags(&raw.until(b'Z').await)
}

async fn query(raw: &mut Raw, sql: &str) -> (String, String) {
    raw.send(&message(b'Q', &text(sql))).await;
    tags(&raw.until(b'Z').await)
}

fn tags(messages: &[Message]) -> (String, String) {
    let code = messages.iter().find(|message| message.tag == b'E').map(|error| error.field(b'C')).unwrap_or_default();
    (messages.iter().map(|message| char::from(message.tag)).collect(), code)
}

/// An error, and nothing before it.
fn failed(sqlstate: &str) -> (String, String) {
    ("EZ".to_owned(), sqlstate.to_owned())
}

fn ok(tags: &str) -> (String, String) {
    (tags.to_owned(), String::new())
}

/// One server connection for all clients: what one prepares there the other meets.
async fn one_connection(n_shards: usize) -> (Cluster, Proxy) {
    let cluster = Cluster::start(n_shards).await;
    let sections = format!("{QUICK_HEALTH}[pool]\nmax_per_node = 1\nreserve = 0\n");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    (cluster, proxy)
}

const ALL_COLUMNS: &str = "SELECT * FROM audit";

#[tokio::test]
async fn a_statement_parsed_after_ddl_has_the_new_columns() {
    for n_shards in [1, 3] {
        let (_cluster, proxy) = one_connection(n_shards).await;
        let (mut old, mut new) = (Raw::log_in(proxy.port).await, Raw::log_in(proxy.port).await);
        assert_eq!(query(&mut old, "INSERT INTO audit VALUES (1, 'a', 'b', '2024-01-01')").await, ok("CZ"));
        assert_eq!(ask(&mut old, &[parse("s", ALL_COLUMNS), bind("s"), execute()]).await, ok("12DCZ"));
        assert_eq!(query(&mut old, "ALTER TABLE audit ADD COLUMN note text").await, ok("CZ"));
        // The other client's Parse comes after the DDL: Postgres would plan it anew.
        assert_eq!(ask(&mut new, &[parse("s", ALL_COLUMNS)]).await, ok("1Z"));
        assert_eq!(ask(&mut new, &[bind("s"), execute()]).await, ok("2DCZ"));
        // That of the first came before, and its columns are those that it knows.
        assert_eq!(ask(&mut old, &[bind("s"), execute()]).await, failed("0A000"));
        assert_eq!(ask(&mut old, &[parse("again", ALL_COLUMNS), bind("again"), execute()]).await, ok("12DCZ"));
    }
}

#[tokio::test]
async fn a_statement_whose_columns_changed_behind_the_proxy_is_prepared_again() {
    let (cluster, proxy) = one_connection(1).await;
    let direct = cluster.direct(0).await;
    let (mut a, mut b) = (Raw::log_in(proxy.port).await, Raw::log_in(proxy.port).await);
    assert_eq!(query(&mut a, "INSERT INTO audit VALUES (1, 'a', 'b', '2024-01-01')").await, ok("CZ"));
    assert_eq!(ask(&mut a, &[parse("s", ALL_COLUMNS), bind("s"), execute()]).await, ok("12DCZ"));
    direct.batch_execute("ALTER TABLE audit ADD COLUMN first text").await.unwrap();
    // Another client's first use: nothing shows that the server had the statement already.
    let whole = [parse("t", ALL_COLUMNS), bind("t"), describe_portal(), execute()];
    assert_eq!(ask(&mut b, &whole).await, ok("12TDCZ"));
    direct.batch_execute("ALTER TABLE audit ADD COLUMN second text").await.unwrap();
    // A statement of which this client was told something else, with and without a Describe: as on one server.
    let outdated = failed("0A000");
    for _ in 0..2 {
        assert_eq!(ask(&mut b, &[bind("t"), describe_portal(), execute()]).await, outdated);
        assert_eq!(ask(&mut b, &[bind("t"), execute()]).await, outdated);
    }
    // One that it has only named, before the columns changed once more.
    assert_eq!(ask(&mut b, &[parse("v", ALL_COLUMNS)]).await, ok("1Z"));
    direct.batch_execute("ALTER TABLE audit ADD COLUMN third text").await.unwrap();
    assert_eq!(ask(&mut b, &[bind("v"), describe_portal(), execute()]).await, ok("2TDCZ"));
    direct.batch_execute("ALTER TABLE audit ADD COLUMN fourth text").await.unwrap();
    // Writes before it in the same pipeline are done once.
    let insert = "INSERT INTO audit (audit_id, actor, action, at) VALUES (2, 'a', 'b', '2024-01-01')";
    let pipeline = [parse("", insert), bind(""), execute(), parse("u", ALL_COLUMNS), bind("u"), describe_portal(), execute()];
    assert_eq!(ask(&mut b, &pipeline).await, ok("12C12TDDCZ"));
    assert_eq!(ask(&mut b, &[parse("first", ALL_COLUMNS)]).await, ok("1Z"));
    direct.batch_execute("ALTER TABLE audit ADD COLUMN fifth text").await.unwrap();
    // The first statement of a block; the session goes on in the block.
    assert_eq!(query(&mut b, "BEGIN").await, ok("CZ"));
    assert_eq!(ask(&mut b, &[bind("first"), describe_portal(), execute()]).await, ok("2TDDCZ"));
    assert_eq!(query(&mut b, "DELETE FROM audit WHERE audit_id = 2").await, ok("CZ"));
    direct.batch_execute("SET lock_timeout = '5s'").await.unwrap();
    assert_eq!(query(&mut b, "COMMIT").await, ok("CZ"));
    // A later one fails as the block does, and works in the next.
    assert_eq!(ask(&mut b, &[parse("later", ALL_COLUMNS)]).await, ok("1Z"));
    assert_eq!(query(&mut b, "BEGIN; SELECT 1").await, ok("CTDCZ"));
    direct.batch_execute("ALTER TABLE audit ADD COLUMN sixth text").await.unwrap();
    let failed = ask(&mut b, &[bind("later"), describe_portal(), execute()]).await;
    assert_eq!(failed, outdated);
    assert_eq!(query(&mut b, "ROLLBACK").await, ok("CZ"));
    assert_eq!(ask(&mut b, &[bind("later"), describe_portal(), execute()]).await, ok("2TDCZ"));
}

#[tokio::test]
async fn a_client_may_name_so_many_statements() {
    let cluster = Cluster::start(1).await;
    let sections = format!("{QUICK_HEALTH}[query]\nmax_client_statements = 3\nmax_client_statement_bytes = \"1kB\"\n");
    let proxy = cluster.proxy_with(ProxyOptions { sections: &sections, ..ProxyOptions::default() }).await;
    let mut raw = Raw::log_in(proxy.port).await;
    assert_eq!(ask(&mut raw, &[parse("a", "SELECT 1"), parse("b", "SELECT 2")]).await, ok("11Z"));
    assert_eq!(query(&mut raw, "PREPARE c AS SELECT 3").await, ok("CZ"));
    for one_more in [ask(&mut raw, &[parse("d", "SELECT 4")]).await, query(&mut raw, "PREPARE d AS SELECT 4").await] {
        assert_eq!(one_more, failed("54000"));
    }
    assert_eq!(query(&mut raw, "DEALLOCATE a").await, ok("CZ"));
    let long = format!("SELECT '{}'", "x".repeat(1024));
    assert_eq!(ask(&mut raw, &[parse("d", &long)]).await, failed("54000"));
    assert_eq!(ask(&mut raw, &[parse("", &long), bind(""), execute()]).await, ok("12DCZ"));
    assert_eq!(query(&mut raw, "EXECUTE c").await, ok("TDCZ"));
}

#[tokio::test]
async fn a_bind_with_too_many_values_is_told_so_before_the_rest_is_read() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let mut answers = Vec::new();
    for port in [cluster.shards[0].port(), proxy.port] {
        let mut raw = Raw::log_in(port).await;
        let too_many = message(b'B', &[text(""), text(""), vec![0, 0, 0, 1, 0, 0, 0, 1], b"2 and more".to_vec()].concat());
        raw.send(&[parse("", "RESET TimeZone"), too_many, message(b'S', &[])].concat()).await;
        let answer = raw.until(b'Z').await;
        answers.push(answer.iter().map(|message| (message.tag, message.field(b'M'))).collect::<Vec<_>>());
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[1][1].1.starts_with("bind message supplies 1 parameters"), "{answers:?}");
}

/// The first field of the only row.
async fn value(raw: &mut Raw, messages: &[Vec<u8>]) -> String {
    raw.send(&[messages.concat(), message(b'S', &[])].concat()).await;
    let answer = raw.until(b'Z').await;
    let row = answer.iter().find(|message| message.tag == b'D');
    row.map_or_else(|| format!("{:?}", tags(&answer)), |row| String::from_utf8_lossy(&row.body[6..]).into_owned())
}

#[tokio::test]
async fn constants_of_a_statement_are_read_by_the_settings_of_its_client() {
    let settings = [
        ("SET DateStyle = 'SQL, DMY'", "SELECT ('01/02/2024'::date)::timestamp - '2024-01-01'::timestamp", "1 day", "31 days"),
        (
            "SET TimeZone = 'Asia/Tokyo'",
            "SELECT extract(epoch FROM timestamptz '2024-01-01')::bigint",
            "1704067200",
            "1704034800",
        ),
        ("SET IntervalStyle = 'sql_standard'", "SELECT extract(minute FROM interval '-1 2:03:04')::int", "3", "-3"),
        ("SET client_encoding = 'LATIN1'", "SELECT length('é')", "1", "2"),
        ("SET array_nulls = off", "SELECT ('{NULL}'::text[])[1] IS NULL", "t", "f"),
        ("SET standard_conforming_strings = off", r"SELECT length('\\')", "2", "1"),
        ("SET xmloption = document", "SELECT ('a'::xml)::text", "a", "2200M"),
    ];
    for n_shards in [1, 3] {
        let (_cluster, proxy) = one_connection(n_shards).await;
        for (set, sql, usual, other) in settings {
            let (mut plain, mut set_up) = (Raw::log_in(proxy.port).await, Raw::log_in(proxy.port).await);
            let answer = query(&mut set_up, set).await;
            assert!(answer.1.is_empty() || n_shards > 1, "{set}: {answer:?}");
            if !answer.1.is_empty() {
                continue;
            }
            let whole = [parse("s", sql), bind("s"), execute()];
            for turn in 0..2 {
                assert_eq!(value(&mut plain, &whole[usize::min(turn, 1)..]).await, usual, "{set}, {sql}, {n_shards} shards");
                let given = value(&mut set_up, &whole[usize::min(turn, 1)..]).await;
                let is_refused = n_shards > 1 && given.contains("0A000");
                assert!(is_refused || given.contains(other), "{set}, {sql}, {n_shards} shards: {given}, not {other}");
                if given.contains('(') {
                    break;
                }
            }
        }
    }
}

/// Parse of a statement with a name, and what a server says of it.
fn prepare(name: &str, sql: &str) -> Vec<Vec<u8>> {
    vec![parse(name, sql), extended::describe(b'S', name)]
}

/// A Bind whose values, and whose results, are in binary.
fn bind_binary(statement: &str, values: &[&[u8]]) -> Vec<u8> {
    extended::bind(statement, (values, 1), 1)
}

#[tokio::test]
async fn what_a_client_was_told_of_its_statement_holds_until_it_prepares_it_again() {
    let reads = [
        "SELECT v FROM fresh",
        "SELECT v FROM fresh ORDER BY k",
        "SELECT DISTINCT v FROM fresh",
        "SELECT max(v) FROM fresh",
        "SELECT v FROM fresh WHERE k = 1",
        "UPDATE fresh SET w = 'x' WHERE k = 2 RETURNING v",
    ];
    let refused = failed("0A000");
    let table = "\n[[databases.shop.tables]]\nname = 'fresh'\nkey = { hash = 'k' }\n";
    for n_shards in [1, 3] {
        let cluster = Cluster::start(n_shards).await;
        let proxy = cluster.proxy_with(ProxyOptions { database: table, ..ProxyOptions::default() }).await;
        let (mut raw, mut other) = (Raw::log_in(proxy.port).await, Raw::log_in(proxy.port).await);
        query(&mut raw, "CREATE TABLE fresh (k bigint, v bigint, w text)").await;
        query(&mut raw, "INSERT INTO fresh VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 30, 'c')").await;
        for (n, sql) in reads.iter().enumerate() {
            let name = format!("s{n}");
            assert_eq!(ask(&mut raw, &prepare(&name, sql)).await, ok("1tTZ"), "{sql}");
            let (_, sqlstate) = ask(&mut raw, &[bind_binary(&name, &[]), execute()]).await;
            assert_eq!(sqlstate, "", "{sql}");
        }
        let insert = "INSERT INTO fresh (k, v) VALUES ($1, $2)";
        assert_eq!(ask(&mut raw, &prepare("i", insert)).await, ok("1tnZ"));
        let row = |k: i64, v: i64| [bind_binary("i", &[&k.to_be_bytes(), &v.to_be_bytes()]), execute()];
        assert_eq!(ask(&mut raw, &row(4, 40)).await, ok("2CZ"));
        assert_eq!(query(&mut other, "ALTER TABLE fresh ALTER COLUMN v TYPE float8").await, ok("CZ"));
        // Each time, as one Postgres does.
        for _ in 0..3 {
            for (n, sql) in reads.iter().enumerate() {
                let given = ask(&mut raw, &[bind_binary(&format!("s{n}"), &[]), execute()]).await;
                assert_eq!(given, refused, "{n_shards} shards: {sql}");
            }
        }
        // The type of a parameter is what it was.
        for n in 5..9 {
            assert_eq!(ask(&mut raw, &row(n, 10 * n)).await, ok("2CZ"));
        }
        assert_eq!(value(&mut raw, &[parse("", "SELECT sum(v)::text FROM fresh"), bind(""), execute()]).await, "360");
        for (n, sql) in reads.iter().enumerate() {
            let name = format!("again{n}");
            assert_eq!(ask(&mut raw, &prepare(&name, sql)).await, ok("1tTZ"), "{sql}");
            let (_, sqlstate) = ask(&mut raw, &[bind_binary(&name, &[]), execute()]).await;
            assert_eq!(sqlstate, "", "{sql}");
        }
    }
}
