//! The library that runs servers: what all other tests stand on.

use std::time::Duration;

use trunkline::demo::postgres::Login;

use crate::harness::{Postgres, Scratch, connect_to, poll};

#[tokio::test]
async fn a_paused_server_answers_after_it_is_resumed() {
    let scratch = Scratch::new();
    let mut postgres = Postgres::start(&scratch, "one", &Login::Trust, &[]).await;
    let client = connect_to(postgres.port(), "postgres").await;
    postgres.pause();
    let answer = tokio::time::timeout(Duration::from_millis(200), client.simple_query("SELECT 1")).await;
    assert!(answer.is_err(), "a paused server answered");
    postgres.resume();
    client.simple_query("SELECT 2").await.unwrap();
    postgres.kill();
    assert!(!postgres.is_running());
    poll("the connection ends", async || client.is_closed()).await;
    postgres.restart().await;
    connect_to(postgres.port(), "postgres").await.simple_query("SELECT 3").await.unwrap();
}

#[tokio::test]
async fn a_replica_follows_its_primary() {
    let scratch = Scratch::new();
    let primary = Postgres::start(&scratch, "primary", &Login::Trust, &[]).await;
    let replica = primary.replica(&scratch, "replica").await;
    let (writer, reader) = (connect_to(primary.port(), "postgres").await, connect_to(replica.port(), "postgres").await);
    writer.batch_execute("CREATE TABLE t AS SELECT 7 AS n").await.unwrap();
    poll("the table reaches the replica", async || reader.query_one("SELECT n FROM t", &[]).await.is_ok()).await;
    let is_replica: bool = reader.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get(0);
    assert!(is_replica);
}

#[tokio::test]
async fn scram_asks_for_the_password() {
    let scratch = Scratch::new();
    let login = Login::Scram { password: "open sesame".into() };
    let postgres = Postgres::start(&scratch, "one", &login, &[]).await;
    let target = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port());
    let attempt = async |password: &str| {
        let mut config: tokio_postgres::Config = target.parse().unwrap();
        config.password(password).connect(tokio_postgres::NoTls).await.map(drop)
    };
    assert!(attempt("open sesame").await.is_ok());
    assert_eq!(attempt("wrong").await.unwrap_err().code().unwrap().code(), "28P01");
}
