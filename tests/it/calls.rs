//! Functions called by their OID, without a text.

use crate::harness::{Cluster, Message, Proxy, ProxyOptions, Raw, message, text, value};

/// A FunctionCall with values as text and a result as text.
fn call(oid: u32, values: &[&str]) -> Vec<u8> {
    let mut body = [&oid.to_be_bytes()[..], &[0, 0]].concat();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

/// What a call gives, or the SQLSTATE and detail of its error.
async fn result_of(raw: &mut Raw, oid: u32, values: &[&str]) -> Result<String, (String, String)> {
    raw.send(&call(oid, values)).await;
    let answer: Vec<Message> = raw.until(b'Z').await;
    let first = &answer[0];
    match first.tag {
        b'V' => Ok(String::from_utf8_lossy(&first.body[4..]).into_owned()),
        _ => Err((first.field(b'C'), first.field(b'D'))),
    }
}

async fn proxy_of_functions(cluster: &Cluster, database: &str) -> Proxy {
    // On each server the functions have other OIDs.
    for idx in 0..cluster.shards.len() {
        let direct = cluster.direct(idx).await;
        for n in 0..idx {
            direct.batch_execute(&format!("CREATE FUNCTION pad_{n}() RETURNS int LANGUAGE sql AS 'SELECT 1'")).await.unwrap();
        }
        let functions = "CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
             CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM audit';
             CREATE FUNCTION hold(bigint) RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock($1)'";
        direct.batch_execute(functions).await.unwrap();
    }
    cluster.proxy_with(ProxyOptions { database, ..ProxyOptions::default() }).await
}

async fn oid_of(client: &tokio_postgres::Client, name: &str) -> u32 {
    value(client, &format!("SELECT '{name}'::regproc::oid")).await.parse().unwrap()
}

#[tokio::test]
async fn functions_of_users_run_where_their_oid_is_known() {
    for (n_shards, database) in [(1, ""), (3, ""), (3, "default_shard = \"shard2\"")] {
        let cluster = Cluster::start(n_shards).await;
        let proxy = proxy_of_functions(&cluster, database).await;
        let client = proxy.connect().await;
        let (twice, how_many) = (oid_of(&client, "twice").await, oid_of(&client, "how_many").await);
        let mut raw = Raw::log_in(proxy.port).await;
        for _ in 0..3 {
            assert_eq!(result_of(&mut raw, twice, &["21"]).await, Ok("42".to_owned()), "{n_shards} {database}");
        }
        let refused = Err(("0A000".to_owned(), "Reason code TL098.".to_owned()));
        // Without a default shard the OID is the first shard's, and what the function reads is on the last.
        let is_elsewhere = n_shards > 1 && database.is_empty();
        let expected = if is_elsewhere { refused } else { Ok("0".to_owned()) };
        assert_eq!(result_of(&mut raw, how_many, &[]).await, expected, "{n_shards} {database}");
        assert_eq!(value(&client, "SELECT how_many()").await, "0", "{n_shards} {database}");
        assert_eq!(result_of(&mut raw, 1397, &["-7"]).await, Ok("7".to_owned()));
    }
}

#[tokio::test]
async fn a_call_pins_as_a_statement_does() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_of_functions(&cluster, "").await;
    let client = proxy.connect().await;
    let hold = oid_of(&client, "hold").await;
    let mut raw = Raw::log_in(proxy.port).await;
    for (oid, lock) in [(hold, 5), (2880, 6)] {
        result_of(&mut raw, oid, &[&lock.to_string()]).await.unwrap();
        assert_eq!(value(&client, &format!("SELECT pg_try_advisory_lock({lock})")).await, "f");
        proxy.wait_for_pins(&["advisory_lock"]).await;
        raw.send(&message(b'Q', &text(&format!("SELECT pg_advisory_unlock({lock})")))).await;
        raw.until(b'Z').await;
    }
    // set_config(text, text, boolean): what it has changed stays with its client.
    result_of(&mut raw, 2078, &["work_mem", "5MB", "f"]).await.unwrap();
    for _ in 0..3 {
        raw.send(&message(b'Q', &text("SHOW work_mem"))).await;
        assert!(raw.until(b'Z').await[1].body.ends_with(b"5MB"));
        assert_eq!(value(&client, "SHOW work_mem").await, "4MB");
    }
    drop(raw);
    proxy.wait_for_pins(&[]).await;
    assert_eq!(value(&client, "SHOW work_mem").await, "4MB");
}
