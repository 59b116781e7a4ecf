//! TLS on both sides of the proxy: psql and raw clients before it, real servers and fake ones behind it.

mod certificates;
mod clients;
mod handshakes;
mod logins;
mod peers;
mod reload;
mod servers;

use std::process::Output;

use tokio::process::Command;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{DATABASE, QUICK_HEALTH, installation};
use certificates::Files;

/// `[tls]` with a certificate for clients, and further lines.
fn tls_section(files: &Files, lines: &str) -> String {
    let (cert, key) = (files.cert.display(), files.key.display());
    format!("{QUICK_HEALTH}[tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n{lines}\n")
}

/// psql with a connection string after host, port and database.
async fn psql(port: u16, parameters: &str, sql: &str) -> Output {
    let target = format!("host=127.0.0.1 port={port} dbname={DATABASE} {parameters}");
    let mut command = Command::new(installation().program("psql"));
    // No certificates of the person who runs the tests.
    command.env("HOME", "/nonexistent").env("LC_ALL", "C");
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &target, "-c", sql]);
    command.kill_on_drop(true).output().await.unwrap()
}

/// What psql printed; it must have succeeded.
async fn rows_of(port: u16, parameters: &str, sql: &str) -> String {
    let output = psql(port, parameters, sql).await;
    assert!(output.status.success(), "{parameters}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// What psql complained of; it must have failed.
async fn complaint_of(port: u16, parameters: &str) -> String {
    let output = psql(port, parameters, "SELECT 1").await;
    assert!(!output.status.success(), "{parameters}: succeeded");
    String::from_utf8(output.stderr).unwrap()
}

/// Columns of an answer by their names; NULL is empty.
async fn columns<const N: usize>(client: &Client, sql: &str, names: [&str; N]) -> Vec<[String; N]> {
    let messages = client.simple_query(sql).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(names.map(|name| row.get(name).unwrap_or_default().to_owned())),
        _ => None,
    });
    rows.collect()
}
