//! What is checked, one function for each check.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgConnectOptions, PgConnection, PgHasArrayType, PgListener, PgPool, PgTypeInfo, PgValueRef, Postgres,
};
use sqlx::{Acquire, Connection, Decode, Encode, Executor, Row, Type};

use crate::Fault;

pub fn equal<A: PartialEq<B> + Debug, B: Debug>(found: A, expected: B) -> Result<(), Fault> {
    if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}").into()) }
}

/// The SQLSTATE of a statement that must fail.
fn sqlstate<T>(outcome: Result<T, sqlx::Error>) -> Result<String, Fault> {
    let error = outcome.err().ok_or("it succeeds")?;
    let code = error.as_database_error().and_then(|error| error.code()).ok_or_else(|| format!("no SQLSTATE: {error:?}"))?;
    Ok(code.into_owned())
}

pub async fn schema_is_made(pool: &PgPool) -> Result<(), Fault> {
    pool.execute(
        "CREATE TABLE items (id bigint PRIMARY KEY, small smallint, n integer, ratio float8, label text, raw bytea, flag boolean,
            tags text[], scores integer[])",
    )
    .await?;
    Ok(())
}

pub async fn types_go_both_ways(pool: &PgPool) -> Result<(), Fault> {
    let (label, raw): (_, Vec<u8>) = ("Zoë, 名前, 🐘, it's \\ \"quoted\"", (0..=255).collect());
    let (tags, scores) = (vec![Some("a".to_owned()), Some("b,c".to_owned()), None], vec![1, 2, 3]);
    for id in 1..=8_i64 {
        let insert =
            "INSERT INTO items (id, small, n, ratio, label, raw, flag, tags, scores) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let done = sqlx::query(insert)
            .bind(id)
            .bind(-7_i16)
            .bind(i32::MAX)
            .bind(0.1_f64)
            .bind(label)
            .bind(&raw)
            .bind(true)
            .bind(&tags)
            .bind(&scores)
            .execute(pool)
            .await?;
        equal(done.rows_affected(), 1)?;
        let select = "SELECT small, n, ratio, label, raw, flag, tags, scores FROM items WHERE id = $1";
        let row = sqlx::query(select).bind(id).fetch_one(pool).await?;
        equal((row.get(0), row.get(1), row.get(2)), (-7_i16, i32::MAX, 0.1_f64))?;
        equal((row.get::<&str, _>(3), row.get::<Vec<u8>, _>("raw"), row.get::<bool, _>(5)), (label, raw.clone(), true))?;
        equal((row.get::<Vec<Option<String>>, _>(6), row.get::<Vec<i32>, _>(7)), (tags.clone(), scores.clone()))?;
    }
    sqlx::query("INSERT INTO items (id, label) VALUES ($1, $2)").bind(9_i64).bind(None::<&str>).execute(pool).await?;
    let label: Option<String> = sqlx::query_scalar("SELECT label FROM items WHERE id = 9").fetch_one(pool).await?;
    equal(label, None::<String>)
}

/// A value of the user's enum.
#[derive(Debug, Clone, PartialEq)]
struct Mood(String);

impl Type<Postgres> for Mood {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("mood")
    }
}

impl PgHasArrayType for Mood {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_mood")
    }
}

impl Encode<'_, Postgres> for Mood {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode(&self.0, buffer)
    }
}

impl Decode<'_, Postgres> for Mood {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self(value.as_str()?.to_owned()))
    }
}

/// The driver looks up each type that it knows by name only, and its OID.
pub async fn own_types_go_both_ways(pool: &PgPool) -> Result<(), Fault> {
    pool.execute("CREATE TYPE mood AS ENUM ('sad', 'happy'); ALTER TABLE items ADD feeling mood, ADD feelings mood[]").await?;
    let feelings = vec![Mood("happy".to_owned()), Mood("sad".to_owned())];
    for id in 1..=8_i64 {
        let update = "UPDATE items SET feeling = $2, feelings = $3 WHERE id = $1";
        sqlx::query(update).bind(id).bind(&feelings[1]).bind(&feelings).execute(pool).await?;
        let row = sqlx::query("SELECT feeling, feelings FROM items WHERE id = $1").bind(id).fetch_one(pool).await?;
        equal((row.try_get::<Mood, _>(0)?, row.try_get::<Vec<Mood>, _>(1)?), (feelings[1].clone(), feelings.clone()))?;
    }
    let all = "SELECT feelings FROM items WHERE feeling = $1 ORDER BY id";
    for found in sqlx::query_scalar::<_, Vec<Mood>>(all).bind(&feelings[1]).fetch_all(pool).await? {
        equal(found, feelings.clone())?;
    }
    Ok(())
}

/// Two connections in turn, one of them in transactions, so that statements meet server connections that do not know them.
pub async fn statements_are_prepared(pool: &PgPool) -> Result<(), Fault> {
    let (mut one, mut other) = (pool.acquire().await?, pool.acquire().await?);
    for n in 0..20_i64 {
        let mut block = other.begin().await?;
        equal(sqlx::query_scalar::<_, i64>("SELECT $1::bigint").bind(n).fetch_one(&mut *block).await?, n)?;
        let id: i64 = sqlx::query_scalar("SELECT id FROM items WHERE id = $1").bind(n % 8 + 1).fetch_one(&mut *one).await?;
        equal(id, n % 8 + 1)?;
        // Not kept: closed by the protocol after use.
        let once = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM items WHERE id < $1").persistent(false);
        equal(once.bind(10_i64).fetch_one(&mut *one).await?, 9)?;
        block.commit().await?;
    }
    // More statements than the driver keeps: the oldest are closed.
    for n in 0..150 {
        let sql = format!("SELECT {n} + $1::integer");
        equal(sqlx::query_scalar::<_, i32>(&sql).bind(1).fetch_one(&mut *one).await?, n + 1)?;
    }
    one.clear_cached_statements().await?;
    equal(sqlx::query_scalar::<_, i32>("SELECT 0 + $1::integer").bind(1).fetch_one(&mut *one).await?, 1)
}

pub async fn transactions_and_savepoints(pool: &PgPool) -> Result<(), Fault> {
    let mut outer = pool.begin().await?;
    outer.execute("UPDATE items SET label = 'outer' WHERE id = 1").await?;
    let mut inner = outer.begin().await?;
    inner.execute("UPDATE items SET label = 'inner' WHERE id = 1").await?;
    equal(sqlstate(inner.execute("INSERT INTO items (id) VALUES (1)").await)?, "23505")?;
    equal(sqlstate(sqlx::query("SELECT 1").fetch_one(&mut *inner).await)?, "25P02")?;
    inner.rollback().await?;
    sqlx::query("UPDATE items SET n = 5 WHERE id = $1").bind(2_i64).execute(&mut *outer).await?;
    outer.commit().await?;
    let mut lost = pool.begin().await?;
    lost.execute("UPDATE items SET label = 'lost' WHERE id = 1").await?;
    drop(lost);
    equal(sqlx::query_scalar::<_, String>("SELECT label FROM items WHERE id = 1").fetch_one(pool).await?, "outer")?;
    equal(sqlx::query_scalar::<_, i32>("SELECT n FROM items WHERE id = 2").fetch_one(pool).await?, 5)
}

pub async fn errors_have_their_sqlstate(pool: &PgPool) -> Result<(), Fault> {
    let mut connection = pool.acquire().await?;
    for (sql, expected) in [
        ("SELECT 1/0", "22012"),
        ("SELECT * FROM nothing_here", "42P01"),
        ("SELEC 1", "42601"),
        ("INSERT INTO items (id) VALUES (1)", "23505"),
    ] {
        equal(sqlstate(sqlx::query(sql).execute(&mut *connection).await)?, expected)?;
        equal(sqlstate(connection.execute(sql).await)?, expected)?;
        equal(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&mut *connection).await?, 1)?;
    }
    connection.ping().await?;
    Ok(())
}

/// A stream that is left early: the driver reads the rest before its next statement.
pub async fn rows_are_streamed(pool: &PgPool) -> Result<(), Fault> {
    let mut connection = pool.acquire().await?;
    let mut rows = sqlx::query_scalar::<_, i64>("SELECT id FROM items ORDER BY id").fetch(&mut *connection);
    equal(rows.try_next().await?, Some(1))?;
    drop(rows);
    let all: Vec<i64> = sqlx::query_scalar("SELECT id FROM items ORDER BY id").fetch_all(&mut *connection).await?;
    equal(all, (1..=9).collect::<Vec<i64>>())?;
    // One row of many by a row limit of the protocol.
    let first: Option<i64> = sqlx::query_scalar("SELECT id FROM items ORDER BY id DESC").fetch_optional(&mut *connection).await?;
    equal(first, Some(9))
}

pub async fn copies(pool: &PgPool) -> Result<(), Fault> {
    let mut connection = pool.acquire().await?;
    let mut sink = connection.copy_in_raw("COPY items (id, label) FROM STDIN").await?;
    for id in 1000..2000 {
        sink.send(format!("{id}\tlabel {id}\n").as_bytes()).await?;
    }
    equal(sink.finish().await?, 1000)?;
    let mut sink = connection.copy_in_raw("COPY items (id) FROM STDIN").await?;
    sink.send(b"1\n".as_slice()).await?;
    equal(sqlstate(sink.finish().await)?, "23505")?;
    let sink = connection.copy_in_raw("COPY items (id) FROM STDIN").await?;
    sink.abort("no more").await?;
    let pieces: Vec<_> = connection.copy_out_raw("COPY items (id) TO STDOUT").await?.try_collect().await?;
    let text = String::from_utf8(pieces.concat())?;
    equal(text.lines().collect::<BTreeSet<_>>().len(), 1009)
}

/// More of them than there are server connections.
pub async fn many_clients_take_turns(pool: &PgPool) -> Result<(), Fault> {
    let one = async |client: i64| -> Result<(), Fault> {
        for n in 0..20_i64 {
            let mut block = pool.begin().await?;
            let sum: i64 =
                sqlx::query_scalar("SELECT $1::bigint + $2").bind(client * 1000).bind(n).fetch_one(&mut *block).await?;
            equal(sum, client * 1000 + n)?;
            let id: i64 =
                sqlx::query_scalar("SELECT id FROM items WHERE id = $1").bind(1000 + sum % 1000).fetch_one(&mut *block).await?;
            equal(id, 1000 + sum % 1000)?;
            block.commit().await?;
        }
        Ok(())
    };
    try_join_all((0..24).map(one)).await.map(drop)
}

pub async fn connections_have_their_settings(url: &str) -> Result<(), Fault> {
    let options = PgConnectOptions::from_str(url)?.application_name("till 7").options([("statement_timeout", "54321")]);
    let mut connection = PgConnection::connect_with(&options).await?;
    let row = sqlx::query("SELECT current_setting('application_name'), current_setting('statement_timeout')")
        .fetch_one(&mut connection)
        .await?;
    equal((row.get::<&str, _>(0), row.get::<&str, _>(1)), ("till 7", "54321ms"))?;
    connection.close().await?;
    let wrong = PgConnectOptions::from_str(url)?.password("wrong");
    equal(sqlstate(PgConnection::connect_with(&wrong).await)?, "28P01")
}

/// On one shard: a notification goes through one server.
pub async fn notifications_come(url: &str, pool: &PgPool) -> Result<(), Fault> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen_all(["till", "door"]).await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind("till").bind("open").execute(pool).await?;
    let heard = tokio::time::timeout(Duration::from_secs(20), listener.recv()).await??;
    equal((heard.channel(), heard.payload()), ("till", "open"))
}
