//! COPY … TO STDOUT over several shards: the bytes of one server.

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use crate::harness::{Cluster, Single, load_both, sqlstate_of, value};

/// Values that every format has to treat with care.
const NAMES: [&str; 12] = [
    "plain",
    "",
    "\\N",
    "\\.",
    "tab\there",
    "line\nbreak",
    "return\r",
    "comma,semi;pipe|",
    "quote\"d'",
    "back\\slash",
    "grüße 日本",
    "\u{1}\u{8}\u{b}\u{c}\u{7f}",
];

fn statements() -> Vec<String> {
    let mut all = vec!["ALTER TABLE users ADD COLUMN score numeric".to_owned()];
    all.extend((1..=36).map(|n| {
            let name = NAMES[n % NAMES.len()].replace('\'', "''").replace('\\', "\\\\");
            let score = if n % 5 == 0 { "NULL".to_owned() } else { format!("{n}.50") };
            format!("INSERT INTO users (user_id, name, email, country, score, created_at) VALUES ({n}, E'{name}', 'e{n}', 'us', {score}, '2024-01-02')")
        }));
    all.push("INSERT INTO users (user_id, name, email, country, created_at) VALUES (99, '', '', '', '2024-01-01')".to_owned());
    all
}

async fn copied(client: &Client, sql: &str) -> Vec<u8> {
    let stream = client.copy_out(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let chunks: Vec<_> = stream.try_collect().await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    chunks.concat()
}

/// The tuples of data in binary format, behind the signature and before the trailer.
fn tuples(data: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = data.strip_prefix(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0").expect("the signature stands once, at the start");
    let mut all = Vec::new();
    loop {
        let n_fields = i16::from_be_bytes(rest[..2].try_into().unwrap());
        if n_fields == -1 {
            assert_eq!(rest.len(), 2, "something stands behind the trailer");
            all.sort();
            return all;
        }
        let mut end = 2;
        for _ in 0..n_fields {
            let length = i32::from_be_bytes(rest[end..end + 4].try_into().unwrap());
            end += 4 + usize::try_from(length).unwrap_or(0);
        }
        all.push(rest[..end].to_vec());
        rest = &rest[end..];
    }
}

fn sorted_lines(data: &[u8], n_header_lines: usize) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = data.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    lines[n_header_lines..].sort();
    lines
}

const OPTIONS: [&str; 12] = [
    "",
    "(NULL 'x', DELIMITER '|')",
    "(FORMAT csv)",
    "(FORMAT csv, HEADER)",
    "(FORMAT csv, HEADER, DELIMITER ';', NULL 'plain', QUOTE '''', ESCAPE '\\')",
    "(FORMAT csv, FORCE_QUOTE *)",
    "(FORMAT csv, FORCE_QUOTE (\"Na me\"), NULL '-')",
    "(FORMAT binary)",
    "(ENCODING 'utf8')",
    "WITH CSV HEADER QUOTE AS '^' FORCE QUOTE user_id",
    "WITH BINARY",
    "WITH DELIMITER ',' NULL AS ''",
];

#[tokio::test]
async fn sorted_grouped_and_gathered_rows_are_copied_as_by_one_server() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let proxy = cluster.proxy().await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    load_both(&client, &direct, &statements()).await;
    for query in [
        "SELECT user_id, name AS \"Na me\", score, email FROM users ORDER BY user_id",
        "SELECT name AS \"Na me\", user_id FROM users ORDER BY user_id DESC LIMIT 20 OFFSET 3",
        "SELECT user_id, max(name) AS \"Na me\", sum(score) FROM users GROUP BY user_id ORDER BY user_id",
        "SELECT count(*) AS user_id, NULL::text AS \"Na me\", avg(score) FROM users",
        "SELECT user_id, lag(name) OVER (ORDER BY user_id) AS \"Na me\", ARRAY[name, email] FROM users ORDER BY 1",
        "SELECT a.user_id, b.name AS \"Na me\" FROM users a JOIN users b ON b.user_id = a.user_id + 1 ORDER BY 1",
        "SELECT user_id, name AS \"Na me\" FROM users WHERE user_id > 1000 ORDER BY 1",
        "VALUES (1)",
    ] {
        for options in OPTIONS.iter().filter(|options| !query.starts_with("VALUES") || !options.contains("FORCE")) {
            let sql = format!("COPY ({query}) TO STDOUT {options}");
            assert_eq!(
                copied(&client, &sql).await.escape_ascii().to_string(),
                copied(&direct, &sql).await.escape_ascii().to_string(),
                "{sql}"
            );
        }
    }
    // One column: what would end the data is quoted.
    let sql = "COPY (SELECT name FROM users ORDER BY user_id) TO STDOUT (FORMAT csv)";
    assert_eq!(copied(&client, sql).await, copied(&direct, sql).await);
}

#[tokio::test]
async fn tables_have_one_header_and_one_signature() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let proxy = cluster.proxy().await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    for table in ["users", "users (name, user_id)", "(SELECT user_id, name FROM users WHERE user_id < 5)"] {
        // Without rows first.
        for sql in [format!("COPY {table} TO STDOUT (FORMAT csv, HEADER)"), format!("COPY {table} TO STDOUT (FORMAT binary)")] {
            assert_eq!(copied(&client, &sql).await, copied(&direct, &sql).await, "{sql}");
        }
    }
    load_both(&client, &direct, &statements()).await;
    for table in
        ["users", "public.users (user_id, name)", "(SELECT user_id, score, name FROM users WHERE user_id < 30)", "(TABLE users)"]
    {
        for (options, n_header_lines) in [("", 0), ("(FORMAT csv, HEADER)", 1), ("(FORMAT csv, DELIMITER ';', FORCE_QUOTE *)", 0)]
        {
            let sql = format!("COPY {table} TO STDOUT {options}");
            let (got, wanted) = (copied(&client, &sql).await, copied(&direct, &sql).await);
            assert_eq!(sorted_lines(&got, n_header_lines), sorted_lines(&wanted, n_header_lines), "{sql}");
        }
        let sql = format!("COPY {table} TO STDOUT (FORMAT binary)");
        assert_eq!(tuples(&copied(&client, &sql).await), tuples(&copied(&direct, &sql).await), "{sql}");
    }
    // What came out goes in.
    let data = copied(&client, "COPY users TO STDOUT (FORMAT csv, HEADER)").await;
    client.batch_execute("TRUNCATE users").await.unwrap();
    let sink = client.copy_in("COPY users FROM STDIN (FORMAT csv, HEADER)").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    futures_util::SinkExt::send(&mut sink, bytes::Bytes::from(data)).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 37);
    let sum = "SELECT md5(string_agg(u::text, '/' ORDER BY user_id)) FROM users u";
    assert_eq!(value(&client, sum).await, value(&direct, sum).await);
}

#[tokio::test]
async fn types_of_users_are_copied_in_binary_by_the_homes_oids() {
    let cluster = Cluster::start(2).await;
    // The types have other OIDs on the second shard.
    cluster.direct(1).await.batch_execute("CREATE TYPE other AS ENUM ('x'); CREATE TYPE another AS ENUM ('y')").await.unwrap();
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TYPE mood AS ENUM ('glad', 'sad')").await.unwrap();
    client.batch_execute("ALTER TABLE users ADD COLUMN moods mood[]").await.unwrap();
    for n in 1..=20 {
        let sql =
            format!("INSERT INTO users (user_id, name, email, country, moods) VALUES ({n}, 'n', 'e', 'us', '{{glad,sad}}')");
        client.batch_execute(&sql).await.unwrap();
    }
    let oid: u32 = value(&client, "SELECT 'mood'::regtype::oid").await.parse().unwrap();
    for sql in [
        "COPY (SELECT moods FROM users) TO STDOUT (FORMAT binary)",
        "COPY (SELECT moods FROM users ORDER BY user_id) TO STDOUT (FORMAT binary)",
        "COPY (SELECT DISTINCT user_id, moods FROM users) TO STDOUT (FORMAT binary)",
        "COPY users (user_id, moods) TO STDOUT (FORMAT binary)",
    ] {
        let found = tuples(&copied(&client, sql).await);
        assert_eq!(found.len(), 20, "{sql}");
        for tuple in found {
            // An array's elements' type stands behind its dimensions and flags.
            assert!(tuple.windows(4).any(|bytes| bytes == oid.to_be_bytes()), "{sql}: {}", tuple.escape_ascii());
        }
    }
}

#[tokio::test]
async fn much_data_needs_little_memory_and_a_late_error_ends_it() {
    let cluster = Cluster::start(3).await;
    for shard_idx in 0..3 {
        let sql = format!(
            "INSERT INTO parts (part_id, name, weight) \
             SELECT i * 3 + {shard_idx}, repeat('n', 240), 1.5 FROM generate_series(0, 99999) i"
        );
        cluster.direct(shard_idx).await.batch_execute(&sql).await.unwrap();
    }
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    assert_eq!(value(&client, "SELECT count(*) FROM parts").await, "300000");
    let before = proxy.peak_memory_kb();
    for sql in ["COPY parts TO STDOUT", "COPY (SELECT part_id, name FROM parts ORDER BY part_id) TO STDOUT (FORMAT csv)"] {
        let stream = client.copy_out(sql).await.unwrap();
        let n_lines = stream
            .try_fold(0, async |n, chunk: bytes::Bytes| Ok(n + chunk.iter().filter(|byte| **byte == b'\n').count()))
            .await
            .unwrap();
        assert_eq!(n_lines, 300_000, "{sql}");
    }
    let grown = proxy.peak_memory_kb() - before;
    assert!(grown < 24 * 1024, "the proxy grew by {grown} kB for 75 MB of data");
    for query in ["SELECT 1 / (part_id - 299000) FROM parts", "SELECT 1 / (part_id - 299000) FROM parts ORDER BY part_id"] {
        let stream = client.copy_out(&format!("COPY ({query}) TO STDOUT")).await.unwrap();
        let error = stream.try_fold((), async |(), _| Ok(())).await.unwrap_err();
        assert_eq!(sqlstate_of(&error).0, "22012", "{query}");
        assert_eq!(value(&client, "SELECT 1").await, "1");
    }
}
