//! tokio-postgres as an application uses it, with its defaults: everything is prepared, results are binary.

use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
use tokio_postgres::{AsyncMessage, Client, NoTls, error::SqlState};

use super::{part_oids, start_proxy};
use crate::harness::{Cluster, DATABASE, Proxy, beside, connect_with};

#[tokio::test]
async fn tokio_postgres_on_one_shard() {
    let mut cluster = Cluster::start(1).await;
    let proxy = start_proxy(&cluster).await;
    life(&proxy, 1).await;
    notifications_come(&proxy).await;
    servers_restart(&proxy, &mut cluster).await;
}

#[tokio::test]
async fn tokio_postgres_on_three_shards() {
    let mut cluster = Cluster::start(3).await;
    part_oids(&cluster).await;
    let proxy = start_proxy(&cluster).await;
    life(&proxy, 3).await;
    servers_restart(&proxy, &mut cluster).await;
}

fn target(proxy: &Proxy) -> String {
    format!("host=127.0.0.1 port={} user=app password=secret dbname={DATABASE}", proxy.port)
}

async fn connect(proxy: &Proxy) -> Client {
    connect_with(&target(proxy)).await.unwrap()
}

async fn life(proxy: &Proxy, n_shards: usize) {
    let client = connect(proxy).await;
    client
        .batch_execute(
            "CREATE TABLE items (id bigint PRIMARY KEY, small smallint, n integer, ratio float8, label text, raw bytea, flag boolean,
                at timestamptz, tags text[], scores integer[], addr inet)",
        )
        .await
        .unwrap();
    types_go_both_ways(&client).await;
    own_types_go_both_ways(&client).await;
    statements_are_prepared(&client, &connect(proxy).await).await;
    transactions_and_savepoints(connect(proxy).await).await;
    errors_have_their_sqlstate(&client).await;
    copies(&client, n_shards).await;
    portals_give_rows_in_steps(connect(proxy).await).await;
    a_statement_is_cancelled(&client).await;
}

async fn types_go_both_ways(client: &Client) {
    let (label, raw): (_, Vec<u8>) = ("Zoë, 名前, 🐘, it's \\ \"quoted\"", (0..=255).collect());
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_709_208_000_654_321);
    let (tags, scores) = (vec![Some("a"), Some("b,c"), None, Some("")], vec![1, 2, 3]);
    let addr: IpAddr = "10.1.2.3".parse().unwrap();
    let insert = client
        .prepare(
            "INSERT INTO items (id, small, n, ratio, label, raw, flag, at, tags, scores, addr)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .await
        .unwrap();
    for id in 1..=8i64 {
        let count = client
            .execute(&insert, &[&id, &-7i16, &i32::MAX, &0.1f64, &label, &raw, &true, &at, &tags, &scores, &addr])
            .await
            .unwrap();
        assert_eq!(count, 1);
        let row = client
            .query_one("SELECT small, n, ratio, label, raw, flag, at, tags, scores, addr FROM items WHERE id = $1", &[&id])
            .await
            .unwrap();
        assert_eq!((row.get::<_, i16>(0), row.get::<_, i32>(1), row.get::<_, f64>(2)), (-7, i32::MAX, 0.1));
        assert_eq!((row.get::<_, &str>(3), row.get::<_, Vec<u8>>(4), row.get::<_, bool>(5)), (label, raw.clone(), true));
        assert_eq!((row.get::<_, SystemTime>(6), row.get::<_, Vec<Option<&str>>>(7)), (at, tags.clone()));
        assert_eq!((row.get::<_, Vec<i32>>(8), row.get::<_, IpAddr>(9)), (scores.clone(), addr));
    }
    client.execute("INSERT INTO items (id, label) VALUES ($1, $2)", &[&9i64, &None::<&str>]).await.unwrap();
    let row = client.query_one("SELECT label FROM items WHERE id = 9", &[]).await.unwrap();
    assert_eq!(row.get::<_, Option<&str>>(0), None);
}

/// A value of the user's enum.
#[derive(Debug, Clone, PartialEq)]
struct Mood(&'static str);

impl ToSql for Mood {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(accepted: &Type) -> bool {
        accepted.name() == "mood" && *accepted.kind() == Kind::Enum(vec!["sad".to_owned(), "happy".to_owned()])
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Mood {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(if raw == b"sad" { "sad" } else { "happy" }))
    }

    fn accepts(accepted: &Type) -> bool {
        <Self as ToSql>::accepts(accepted)
    }
}

/// The driver looks up each OID that it does not know.
async fn own_types_go_both_ways(client: &Client) {
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN brief AS text;
             ALTER TABLE items ADD feeling mood, ADD feelings mood[], ADD said brief",
        )
        .await
        .unwrap();
    let update = client.prepare("UPDATE items SET feeling = $2, feelings = $3, said = $4::text WHERE id = $1").await.unwrap();
    let feelings = vec![Mood("happy"), Mood("sad")];
    for id in 1..=8i64 {
        assert_eq!(client.execute(&update, &[&id, &Mood("sad"), &feelings, &"hm"]).await.unwrap(), 1);
        let row = client.query_one("SELECT feeling, feelings, said FROM items WHERE id = $1", &[&id]).await.unwrap();
        assert_eq!(
            (row.get::<_, Mood>(0), row.get::<_, Vec<Mood>>(1), row.get::<_, &str>(2)),
            (Mood("sad"), feelings.clone(), "hm")
        );
    }
    for row in client.query("SELECT feelings FROM items WHERE feeling = $1 ORDER BY id", &[&Mood("sad")]).await.unwrap() {
        assert_eq!(row.get::<_, Vec<Mood>>(0), feelings);
    }
}

/// Two clients in turn, one of them in transactions, so that statements meet server connections that do not know them.
async fn statements_are_prepared(client: &Client, other: &Client) {
    let by_id = client.prepare("SELECT id FROM items WHERE id = $1").await.unwrap();
    for n in 0..20i64 {
        other.batch_execute("BEGIN").await.unwrap();
        other.query_one("SELECT $1::bigint", &[&n]).await.unwrap();
        let row = client.query_one(&by_id, &[&(n % 8 + 1)]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), n % 8 + 1);
        other.batch_execute("COMMIT").await.unwrap();
    }
    // Many in flight on one connection.
    let (one, two, three) = tokio::join!(
        client.query_one(&by_id, &[&1i64]),
        client.query_one("SELECT 2", &[]),
        client.query_one("SELECT count(*) FROM items", &[]),
    );
    assert_eq!((one.unwrap().get::<_, i64>(0), two.unwrap().get::<_, i32>(0), three.unwrap().get::<_, i64>(0)), (1, 2, 9));
}

async fn transactions_and_savepoints(mut client: Client) {
    let mut outer = client.transaction().await.unwrap();
    outer.execute("UPDATE items SET label = 'outer' WHERE id = 1", &[]).await.unwrap();
    let inner = outer.savepoint("inside").await.unwrap();
    inner.execute("UPDATE items SET label = 'inner' WHERE id = 1", &[]).await.unwrap();
    let error = inner.execute("INSERT INTO items (id) VALUES (1)", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    let error = inner.query_one("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    inner.rollback().await.unwrap();
    outer.execute("UPDATE items SET n = 5 WHERE id = 2", &[]).await.unwrap();
    outer.commit().await.unwrap();
    let lost = client.transaction().await.unwrap();
    lost.execute("UPDATE items SET label = 'lost' WHERE id = 1", &[]).await.unwrap();
    drop(lost);
    let row = client.query_one("SELECT label FROM items WHERE id = 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "outer");
    let row = client.query_one("SELECT n FROM items WHERE id = 2", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 5);
}

async fn errors_have_their_sqlstate(client: &Client) {
    for (sql, sqlstate) in [
        ("SELECT 1/0", SqlState::DIVISION_BY_ZERO),
        ("SELECT * FROM nothing_here", SqlState::UNDEFINED_TABLE),
        ("SELEC 1", SqlState::SYNTAX_ERROR),
        ("INSERT INTO items (id) VALUES (1)", SqlState::UNIQUE_VIOLATION),
    ] {
        assert_eq!(client.query(sql, &[]).await.unwrap_err().code(), Some(&sqlstate), "{sql}");
        assert_eq!(client.simple_query(sql).await.unwrap_err().code(), Some(&sqlstate), "{sql}");
        assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    }
}

async fn copies(client: &Client, n_shards: usize) {
    let sink = client.copy_in("COPY items (id, label) FROM STDIN").await.unwrap();
    pin_mut!(sink);
    for id in 1000..2000 {
        sink.send(bytes::Bytes::from(format!("{id}\tlabel {id}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 1000);
    let sink = client.copy_in("COPY items (id) FROM STDIN").await.unwrap();
    pin_mut!(sink);
    sink.send(bytes::Bytes::from_static(b"1\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap_err().code(), Some(&SqlState::UNIQUE_VIOLATION));
    if n_shards == 1 {
        let rows = client.copy_out("COPY (SELECT id FROM items WHERE id >= 1000 ORDER BY id) TO STDOUT").await.unwrap();
        let rows: Vec<bytes::Bytes> = rows.try_collect().await.unwrap();
        assert_eq!((rows.len(), &rows[999][..]), (1000, &b"1999\n"[..]));
    }
}

async fn portals_give_rows_in_steps(mut client: Client) {
    let transaction = client.transaction().await.unwrap();
    for (sql, n_rows) in [("SELECT n FROM generate_series(1, 130) AS n", 130), ("SELECT id FROM items WHERE id >= 1000", 1000)] {
        let portal = transaction.bind(sql, &[]).await.unwrap();
        let mut n_seen = 0;
        loop {
            let rows = transaction.query_portal(&portal, 50).await.unwrap();
            n_seen += rows.len();
            if rows.len() < 50 {
                break;
            }
        }
        assert_eq!(n_seen, n_rows, "{sql}");
    }
    transaction.commit().await.unwrap();
}

async fn a_statement_is_cancelled(client: &Client) {
    let token = client.cancel_token();
    let sleep = client.batch_execute("SELECT pg_sleep(60)");
    pin_mut!(sleep);
    let error = loop {
        // Again and again: the first may come before the statement.
        match tokio::time::timeout(Duration::from_millis(50), &mut sleep).await {
            Ok(outcome) => break outcome.unwrap_err(),
            Err(_) => token.cancel_query(NoTls).await.unwrap(),
        }
    };
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    client.query_one("SELECT 1", &[]).await.unwrap();
}

/// On one shard: a notification goes through one server.
async fn notifications_come(proxy: &Proxy) {
    let (listener, mut connection) = tokio_postgres::connect(&target(proxy), NoTls).await.unwrap();
    let (tell, mut heard) = tokio::sync::mpsc::channel(1);
    let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
    beside(async move {
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                tell.send(notification.payload().to_owned()).await.unwrap();
            }
        }
    });
    listener.batch_execute("LISTEN till").await.unwrap();
    connect(proxy).await.batch_execute("NOTIFY till, 'open'").await.unwrap();
    let payload = tokio::time::timeout(crate::harness::PATIENCE, heard.recv()).await.expect("no notification came");
    assert_eq!(payload.as_deref(), Some("open"));
}

async fn servers_restart(proxy: &Proxy, cluster: &mut Cluster) {
    let client = connect(proxy).await;
    let label = client.prepare("SELECT label FROM items WHERE id = $1").await.unwrap();
    client.query_one(&label, &[&1i64]).await.unwrap();
    for shard in &mut cluster.shards {
        shard.restart().await;
    }
    let row = match client.query_one(&label, &[&1i64]).await {
        Ok(row) => row,
        Err(_) => client.query_one(&label, &[&1i64]).await.unwrap(),
    };
    assert_eq!(row.get::<_, &str>(0), "outer");
    assert_eq!(client.query_one("SELECT count(*) FROM items WHERE id < 10", &[]).await.unwrap().get::<_, i64>(0), 9);
}
