//! Which schema a name is looked for in: planning must agree with the servers, or rows come from the wrong table.

use tokio_postgres::Client;

use crate::harness::{Cluster, Proxy, failure, value};

/// Every shard has a second table `users`, in a schema that the configuration knows nothing of.
async fn start() -> (Cluster, Proxy, Client) {
    let cluster = Cluster::start(3).await;
    for shard_idx in 0..3 {
        let server = cluster.direct(shard_idx).await;
        server
            .batch_execute("CREATE SCHEMA \"Other\"; CREATE TABLE \"Other\".users (LIKE public.users INCLUDING DEFAULTS)")
            .await
            .unwrap();
        server
            .batch_execute("INSERT INTO \"Other\".users (user_id, name, email, country) VALUES (7, 'x', 'y', 'us')")
            .await
            .unwrap();
    }
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    (cluster, proxy, client)
}

const COUNT: &str = "SELECT count(*) FROM users";

/// The other table is not configured: nothing of it may be told as if it were the sharded one.
async fn check_refused(client: &Client) {
    let (sqlstate, message) = failure(client, COUNT).await;
    assert_eq!(sqlstate, "0A000", "{message}");
    assert!(message.contains("Other.users"), "{message}");
}

#[tokio::test]
async fn set_and_set_local_of_search_path_decide_which_table_is_meant() {
    let (_cluster, _proxy, client) = start().await;
    assert_eq!(value(&client, COUNT).await, "0");
    client.batch_execute("BEGIN; SET LOCAL search_path TO \"Other\", public").await.unwrap();
    check_refused(&client).await;
    client.batch_execute("ROLLBACK; BEGIN; SAVEPOINT s; SET LOCAL search_path TO 'Other'; ROLLBACK TO s").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
    client.batch_execute("COMMIT; SET search_path TO Other").await.unwrap();
    // An unquoted name is folded: there is no schema of that name.
    assert_eq!(failure(&client, COUNT).await.0, "42P01");
    client.batch_execute("SET search_path TO 'Other', public; BEGIN; SET LOCAL search_path TO public").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
    client.batch_execute("COMMIT").await.unwrap();
    check_refused(&client).await;
    client.batch_execute("BEGIN; RESET search_path").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
    client.batch_execute("ROLLBACK").await.unwrap();
    check_refused(&client).await;
    client.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
}

#[tokio::test]
async fn the_path_of_the_role_and_its_own_schema_count() {
    let (cluster, proxy, client) = start().await;
    for shard_idx in 0..3 {
        let server = cluster.direct(shard_idx).await;
        server.batch_execute("CREATE ROLE \"Other\"; GRANT ALL ON SCHEMA \"Other\" TO \"Other\"").await.unwrap();
    }
    client.batch_execute("SET ROLE \"Other\"").await.unwrap();
    check_refused(&client).await;
    client.batch_execute("RESET ROLE").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
    for shard_idx in 0..3 {
        let server = cluster.direct(shard_idx).await;
        server.batch_execute("ALTER ROLE postgres SET search_path TO \"Other\", public").await.unwrap();
    }
    // Connections that are open keep the old path: another proxy has none of them.
    drop((client, proxy));
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    check_refused(&client).await;
    client.batch_execute("SET search_path TO public").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
}

#[tokio::test]
async fn set_config_decides_as_set_does() {
    let (_cluster, _proxy, client) = start().await;
    client.batch_execute("BEGIN; SELECT set_config('search_path', '\"Other\", public', true)").await.unwrap();
    check_refused(&client).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
    client.query("SELECT set_config('search_path', $1, false)", &[&"\"Other\""]).await.unwrap();
    check_refused(&client).await;
    client.batch_execute("BEGIN; SELECT set_config('search_path', 'public', false); ROLLBACK").await.unwrap();
    check_refused(&client).await;
    client.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(value(&client, COUNT).await, "0");
    // Other shards would not have it, whatever its name turns out to be.
    let (sqlstate, _) = failure(&client, "SELECT set_config('search' || '_path', '\"Other\"', false)").await;
    assert_eq!(sqlstate, "0A000");
    assert_eq!(value(&client, COUNT).await, "0");
}
