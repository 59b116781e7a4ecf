//! One port for the console and for HTTP.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{Cluster, Proxy, connect_with, poll, rows, value};

/// The values of one column of an admin command's answer.
pub(crate) async fn column(admin: &Client, command: &str, name: &str) -> Vec<String> {
    let messages = admin.simple_query(command).await.unwrap();
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let idx = row.columns().iter().position(|column| column.name() == name);
            let idx = idx.unwrap_or_else(|| panic!("{command} has no column {name}: {:?}", row.columns()));
            Some(row.get(idx).unwrap_or_default().to_owned())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// Status line and body of `GET path`.
pub(crate) async fn get(proxy: &Proxy, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.admin_port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn console_and_http_share_a_port() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    client.simple_query("SELECT count(*) FROM users").await.unwrap();
    let admin = proxy.admin().await;
    for command in ["POOLS", "SHARDS", "NODES", "CLIENTS", "SERVERS", "STATS", "CONFIG", "TABLES", "VERSION", "HELP"] {
        let answer = rows(&admin, &format!("SHOW {command}")).await;
        assert!(!answer.is_empty(), "SHOW {command} is empty");
    }
    let shards = rows(&admin, "SHOW SHARDS").await;
    assert!(shards.iter().flatten().flatten().any(|cell| cell.contains("shard1")), "{shards:?}");
    let error = admin.simple_query("SHOW NONSENSE").await.unwrap_err();
    assert!(error.as_db_error().is_some(), "{error:?}");
    let (status, metrics) = get(&proxy, "/metrics").await;
    assert!(status.contains("200"), "{status}");
    assert!(metrics.lines().any(|line| line.starts_with("# TYPE ")), "{metrics}");
    assert!(get(&proxy, "/healthz").await.0.contains("200"));
    poll("ready", async || get(&proxy, "/readyz").await.0.contains("200")).await;
    assert!(get(&proxy, "/nothing").await.0.contains("404"));
}

#[tokio::test]
async fn only_named_users_enter_the_console() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let target = format!("host=127.0.0.1 port={} user=mallory dbname=trunkline", proxy.admin_port);
    let error = connect_with(&target).await.expect_err("mallory was let in");
    assert!(error.code().unwrap().code().starts_with("28"), "{error:?}");
}

#[tokio::test]
async fn a_lost_shard_shows_in_nodes_and_readiness() {
    let mut cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    poll("ready", async || get(&proxy, "/readyz").await.0.contains("200")).await;
    cluster.shards[1].kill();
    poll("not ready", async || get(&proxy, "/readyz").await.0.contains("503")).await;
    assert!(get(&proxy, "/healthz").await.0.contains("200"), "the proxy itself is well");
    cluster.shards[1].restart().await;
    poll("ready again", async || get(&proxy, "/readyz").await.0.contains("200")).await;
}

#[tokio::test]
async fn reload_drops_no_client_and_refuses_a_wrong_file() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy().await;
    let (client, admin) = (proxy.connect().await, proxy.admin().await);
    client.batch_execute("BEGIN; INSERT INTO users VALUES (1, 'n', 'e', 'us')").await.unwrap();
    let before = std::fs::read_to_string(&proxy.config_file).unwrap();
    // A further pinned table, which is refused before the reload.
    for shard_idx in 0..2 {
        cluster.direct(shard_idx).await.batch_execute("CREATE TABLE notes (n int)").await.unwrap();
    }
    let other = proxy.connect().await;
    assert!(other.batch_execute("INSERT INTO notes VALUES (1)").await.is_err());
    std::fs::write(&proxy.config_file, format!("{before}\n[[databases.shop.tables]]\nname = \"notes\"\nshard = \"shard1\"\n"))
        .unwrap();
    admin.simple_query("RELOAD").await.unwrap();
    poll("the table is known", async || other.batch_execute("INSERT INTO notes VALUES (1)").await.is_ok()).await;
    assert_eq!(value(&cluster.direct(1).await, "SELECT count(*) > 0 FROM notes").await, "t");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "1");
    std::fs::write(&proxy.config_file, "nonsense = 1\n").unwrap();
    assert!(admin.simple_query("RELOAD").await.is_err());
    assert_eq!(value(&client, "SELECT count(*) FROM users").await, "1", "the old configuration holds");
}
