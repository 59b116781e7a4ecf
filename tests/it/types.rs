//! Types that users made have other OIDs on each shard: a client sees those of the first, in every message and value.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::harness::extended::{self, describe, execute, parse};
use crate::harness::{Cluster, Message, Proxy, ProxyOptions, Raw, failure, message, poll, rows, text, value};

const ITEMS: &str = "[[databases.shop.tables]]\nname = \"items\"\nkey = { hash = \"id\" }\n";
const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN brief AS text CHECK (length(VALUE) < 10);
    CREATE TYPE pair AS (n int, feeling mood, said brief);
    CREATE TYPE moodrange AS RANGE (subtype = mood);
    CREATE TABLE items (id bigint PRIMARY KEY, feeling mood, feelings mood[], said brief, couple pair, pairs pair[], span moodrange)";

/// Three shards of which each has had another number of objects before.
async fn start() -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(3).await;
    for shard_idx in 1..3 {
        let junk: String = (0..shard_idx * 5).map(|n| format!("CREATE TYPE junk{n} AS ENUM ('x');")).collect();
        cluster.direct(shard_idx).await.batch_execute(&junk).await.unwrap();
    }
    let proxy = cluster.proxy_with(ProxyOptions { database: ITEMS, ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    client.batch_execute(TYPES).await.unwrap();
    for id in 1..=8 {
        let values = "'happy', '{sad,happy}', 'hm', ROW(1, 'sad', 'x'), ARRAY[ROW(2, 'happy', NULL)::pair], '[sad,happy]'";
        client.batch_execute(&format!("INSERT INTO items VALUES ({id}, {values})")).await.unwrap();
    }
    let oids: BTreeSet<u32> = [oid(&cluster.direct(0).await, "mood").await, oid(&cluster.direct(1).await, "mood").await].into();
    assert_eq!(oids.len(), 2, "the test needs OIDs that differ");
    (cluster, proxy, client)
}

async fn oid(client: &Client, name: &str) -> u32 {
    value(client, &format!("SELECT '{name}'::regtype::oid")).await.parse().unwrap()
}

/// Parameters as text, all results in one format.
fn bind(statement: &str, values: &[&str], format: u8) -> Vec<u8> {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    extended::bind(statement, (&values, 0), format)
}

/// The messages of an answer that carry OIDs or rows, or an error; all up to ReadyForQuery.
async fn ask(raw: &mut Raw, messages: &[Vec<u8>]) -> Vec<Message> {
    raw.send(&[messages.concat(), message(b'S', &[])].concat()).await;
    let answer = raw.until(b'Z').await;
    answer.into_iter().filter(|message| b"tTDE".contains(&message.tag)).collect()
}

/// A raw session, and one with the first shard, for the answer that there would be if it had all rows.
async fn sessions(cluster: &Cluster, proxy: &Proxy) -> (Raw, Raw) {
    let home = cluster.direct(0).await;
    home.batch_execute("CREATE SCHEMA whole; CREATE TABLE whole.items (LIKE items)").await.unwrap();
    for shard_idx in 0..3 {
        let shard = cluster.direct(shard_idx).await;
        for row in rows(&shard, "SELECT quote_literal(items) FROM items").await {
            home.batch_execute(&format!("INSERT INTO whole.items SELECT ({}::items).*", row[0].as_ref().unwrap())).await.unwrap();
        }
    }
    let mut home = Raw::log_in(cluster.shards[0].port()).await;
    home.send(&message(b'Q', &text("SET search_path TO whole, public"))).await;
    home.until(b'Z').await;
    (Raw::log_in(proxy.port).await, home)
}

/// Bodies without what is about the table and not about types: its OID in a RowDescription.
fn comparable(messages: Vec<Message>) -> Vec<Message> {
    let without_table = |mut message: Message| {
        if message.tag != b'T' {
            return message;
        }
        let mut position = 2;
        while let Some(len) = message.body[position..].iter().position(|byte| *byte == 0) {
            position += len + 1;
            message.body[position..position + 4].fill(0);
            position += 18;
        }
        message
    };
    messages.into_iter().map(without_table).collect()
}

const COLUMNS: &str = "feeling, feelings, said, couple, pairs, span, ROW(id, feeling) AS r, ARRAY[ROW(id, feelings)] AS rs";

#[tokio::test]
async fn descriptions_and_binary_values_have_one_set_of_oids() {
    let (cluster, proxy, _client) = start().await;
    let (mut raw, mut home) = sessions(&cluster, &proxy).await;
    for id in 1..=8 {
        for (name, format) in [("", 1), ("named", 1), ("", 0)] {
            let sql = format!("SELECT {COLUMNS} FROM items WHERE id = $1 AND feeling = $2 AND {id} = {id}");
            let name = if name.is_empty() { String::new() } else { format!("{name}{id}") };
            let id = id.to_string();
            let bound = bind(&name, &[&id, "happy"], format);
            for messages in [
                vec![parse(&name, &sql, &[]), describe(b'S', &name)],
                // Without a description, with that of the portal, and two in a row.
                vec![parse("", "SELECT 1", &[]), bind("", &[], 1), execute(0), bound.clone(), execute(0)],
                vec![parse("", &sql, &[]), bind("", &[&id, "happy"], format), describe(b'P', ""), execute(0)],
                vec![parse("", &sql, &[]), bind("", &[&id, "happy"], format), execute(0), bind("", &[&id, "sad"], 1), execute(1)],
            ] {
                let messages = if name.is_empty() && messages.len() == 5 { messages[..3].to_vec() } else { messages };
                let answer = comparable(ask(&mut raw, &messages).await);
                assert_eq!(answer, comparable(ask(&mut home, &messages).await), "{sql} format {format}");
                assert!(!answer.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn statements_over_several_shards_have_them_too() {
    let (cluster, proxy, client) = start().await;
    client.batch_execute("UPDATE items SET feelings = '{happy}' WHERE id = 3").await.unwrap();
    let (mut raw, mut home) = sessions(&cluster, &proxy).await;
    for sql in [
        format!("SELECT id, {COLUMNS} FROM items ORDER BY id"),
        format!("SELECT {COLUMNS} FROM items WHERE id > 0 AND id < 100 ORDER BY id LIMIT 5 OFFSET 2"),
        "SELECT ROW(feeling), feelings FROM items WHERE feelings = '{sad,happy}'".to_owned(),
        "SELECT feeling, count(*) FROM items GROUP BY feeling".to_owned(),
        "SELECT DISTINCT feelings, span FROM items ORDER BY feelings".to_owned(),
        "SELECT array_agg(feeling ORDER BY id) FROM items".to_owned(),
    ] {
        for (format, n_rows) in [(1, 0), (0, 0), (1, 3)] {
            let messages = [parse("", &sql, &[]), describe(b'S', ""), bind("", &[], format), describe(b'P', ""), execute(n_rows)];
            let answer = comparable(ask(&mut raw, &messages).await);
            assert_eq!(answer, comparable(ask(&mut home, &messages).await), "{sql} format {format}");
            assert!(answer.iter().any(|message| message.tag == b'D'));
        }
    }
}

#[tokio::test]
async fn parameters_are_given_types_by_those_oids() {
    let (cluster, proxy, client) = start().await;
    let home = cluster.direct(0).await;
    let (mood, moods, brief) = (oid(&home, "mood").await, oid(&home, "mood[]").await, oid(&home, "brief").await);
    let mut raw = Raw::log_in(proxy.port).await;
    let insert = "INSERT INTO items (id, feeling, feelings, said) VALUES ($1, $2, $3, $4)";
    for id in 10..=20 {
        let bound = |name| bind(name, &[&id.to_string(), "sad", "{happy}", "well"], 0);
        let answer = match id % 2 {
            0 => ask(&mut raw, &[parse("", insert, &[20, mood, moods, brief]), bound(""), execute(0)]).await,
            _ if id == 11 => {
                ask(&mut raw, &[parse("s", insert, &[20, mood, moods, brief]), bound("s"), describe(b'S', "s"), execute(0)]).await
            }
            _ => ask(&mut raw, &[bound("s"), execute(0)]).await,
        };
        assert!(answer.iter().all(|message| message.tag != b'E'), "{answer:?}");
    }
    // Over several shards, and by SQL's own PREPARE.
    let answer =
        ask(&mut raw, &[parse("", "SELECT count(*) FROM items WHERE feeling = $1", &[mood]), bind("", &["sad"], 0), execute(0)])
            .await;
    assert_eq!(answer[0].body, [&[0, 1, 0, 0, 0, 2][..], b"11"].concat());
    client.batch_execute("PREPARE p (bigint, mood) AS UPDATE items SET feeling = $2 WHERE id = $1").await.unwrap();
    client.batch_execute("PREPARE q AS UPDATE items SET feeling = $2 WHERE id = $1").await.unwrap();
    for id in 1..=8 {
        client.batch_execute(&format!("EXECUTE {}({id}, 'sad')", if id % 2 == 0 { "p" } else { "q" })).await.unwrap();
    }
    assert_eq!(value(&client, "SELECT count(*) FROM items WHERE feeling = 'sad'").await, "19");
    // An OID of nothing is refused wherever the statement goes.
    for id in 10..=12 {
        let answer = ask(&mut raw, &[parse("", insert, &[20, 4_000_000]), bind("", &[&id.to_string()], 0), execute(0)]).await;
        let code = answer[0].field(b'C');
        assert_eq!((answer[0].tag, code.as_str()), (b'E', "XX000"));
    }
}

#[tokio::test]
async fn types_that_come_later_are_known() {
    let (cluster, proxy, client) = start().await;
    // Behind the proxy, under other OIDs on each shard.
    for shard_idx in 0..3 {
        let shard = cluster.direct(shard_idx).await;
        shard
            .batch_execute("CREATE TYPE grade AS ENUM ('good', 'bad'); ALTER TABLE items ADD COLUMN grades grade[]")
            .await
            .unwrap();
        shard.batch_execute("UPDATE items SET grades = '{good}'").await.unwrap();
    }
    let grade = oid(&cluster.direct(0).await, "grade").await;
    let mut raw = Raw::log_in(proxy.port).await;
    for id in 1..=8 {
        let sql = "SELECT grades FROM items WHERE id = $1";
        let answer = ask(&mut raw, &[parse("", sql, &[]), bind("", &[&id.to_string()], 1), describe(b'P', ""), execute(0)]).await;
        let row = answer.iter().find(|message| message.tag == b'D').unwrap();
        assert_eq!(row.body[14..18], grade.to_be_bytes(), "item {id}");
    }
    // Through the proxy it is known to all sessions at once.
    client.batch_execute("CREATE TYPE colour AS ENUM ('red'); ALTER TABLE items ADD COLUMN paint colour").await.unwrap();
    let colour = oid(&cluster.direct(0).await, "colour").await;
    let mut other = Raw::log_in(proxy.port).await;
    for id in 1..=8 {
        let sql = "UPDATE items SET paint = $2 WHERE id = $1 RETURNING paint";
        let messages = [parse("", sql, &[20, colour]), bind("", &[&id.to_string(), "red"], 1), describe(b'P', ""), execute(0)];
        let answer = ask(&mut other, &messages).await;
        assert_eq!(answer[0].body[14..18], colour.to_be_bytes(), "item {id}: {answer:?}");
    }
    // In the transaction that creates a type only its text is of use to drivers; nothing is taken for another type.
    client.batch_execute("BEGIN; CREATE TYPE fresh AS ENUM ('x')").await.unwrap();
    for id in 1..=8 {
        assert_eq!(value(&client, &format!("SELECT 'x'::fresh FROM items WHERE id = {id}")).await, "x");
    }
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_stand_in_is_not_asked_for_types() {
    let (mut cluster, _proxy, client) = start().await;
    let of_home = oid(&cluster.direct(0).await, "mood").await.to_string();
    assert_eq!(value(&client, "SELECT oid FROM pg_type WHERE typname = 'mood'").await, of_home);
    cluster.shards[0].kill();
    // What has no OIDs of types is told by another.
    poll("another answers", async || client.simple_query("SELECT name FROM pg_settings").await.is_ok()).await;
    let (sqlstate, _) = failure(&client, "SELECT oid FROM pg_type WHERE typname = 'mood'").await;
    assert!(["08006", "57P03", "08001"].contains(&sqlstate.as_str()), "{sqlstate}");
}

/// Types of extensions: the driver knows them by their names, which it asks for by the OIDs that it is told.
#[tokio::test]
async fn types_of_extensions_go_both_ways() {
    let (cluster, _proxy, client) = start().await;
    client
        .batch_execute(
            "CREATE EXTENSION citext; CREATE EXTENSION hstore; ALTER TABLE items ADD COLUMN word citext, ADD COLUMN attrs hstore",
        )
        .await
        .unwrap();
    let (citext, hstore) = (oid(&cluster.direct(0).await, "citext").await, oid(&cluster.direct(0).await, "hstore").await);
    assert_ne!(citext, oid(&cluster.direct(1).await, "citext").await, "the test needs OIDs that differ");
    let update = client.prepare("UPDATE items SET word = $2, attrs = $3 WHERE id = $1").await.unwrap();
    assert_eq!(update.params().iter().map(Type::oid).collect::<Vec<_>>()[1..], [citext, hstore]);
    for id in 1..=8_i64 {
        let attrs = HashMap::from([("id".to_owned(), Some(id.to_string())), ("none".to_owned(), None)]);
        let word = if id % 2 == 0 { "Hello" } else { "hELLO" };
        assert_eq!(client.execute(&update, &[&id, &word, &attrs]).await.unwrap(), 1);
        let row = client.query_one("SELECT word, attrs FROM items WHERE id = $1", &[&id]).await.unwrap();
        assert_eq!(row.columns().iter().map(|column| column.type_().oid()).collect::<Vec<_>>(), [citext, hstore]);
        assert_eq!((row.get::<_, &str>(0), row.get::<_, HashMap<String, Option<String>>>(1)), (word, attrs));
    }
    // Over all shards, compared and sorted without regard to case.
    let found = client.query("SELECT id, word, attrs FROM items WHERE word = 'HELLO' ORDER BY word, id", &[]).await.unwrap();
    assert_eq!(found.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    for row in &found {
        let attrs: HashMap<String, Option<String>> = row.get(2);
        assert_eq!((row.columns()[1].type_().oid(), attrs["id"].clone()), (citext, Some(row.get::<_, i64>(0).to_string())));
    }
    assert_eq!(value(&client, "SELECT count(*) FROM items WHERE attrs -> 'id' = '3'").await, "1");
    assert_eq!(value(&client, "SELECT count(DISTINCT word) FROM items").await, "1");
}
