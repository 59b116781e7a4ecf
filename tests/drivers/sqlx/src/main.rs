//! sqlx as an application uses it, with its defaults: a pool, everything prepared, results in binary.

mod checks;

use std::env;
use std::error::Error;

use sqlx::postgres::{PgPool, PgPoolOptions};

/// Why a check does not hold.
type Fault = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Fault> {
    let url = env::var("DATABASE_URL")?;
    let n_shards: usize = env::var("SHARDS")?.parse()?;
    let pool = PgPoolOptions::new().max_connections(8).connect(&url).await?;
    let mut has_failed = false;
    let mut told = |name: &str, outcome: Result<(), Fault>| match outcome {
        Ok(()) => println!("ok {name}"),
        Err(fault) => {
            has_failed = true;
            println!("FAILED {name}: {fault:?}");
        }
    };
    told("schema_is_made", checks::schema_is_made(&pool).await);
    told("types_go_both_ways", checks::types_go_both_ways(&pool).await);
    told("own_types_go_both_ways", checks::own_types_go_both_ways(&pool).await);
    told("statements_are_prepared", checks::statements_are_prepared(&pool).await);
    told("transactions_and_savepoints", checks::transactions_and_savepoints(&pool).await);
    told("errors_have_their_sqlstate", checks::errors_have_their_sqlstate(&pool).await);
    told("rows_are_streamed", checks::rows_are_streamed(&pool).await);
    told("copies", checks::copies(&pool).await);
    told("many_clients_take_turns", checks::many_clients_take_turns(&pool).await);
    told("connections_have_their_settings", checks::connections_have_their_settings(&url).await);
    if n_shards == 1 {
        told("notifications_come", checks::notifications_come(&url, &pool).await);
    }
    told("servers_restart", servers_restart(&pool).await);
    if has_failed { Err("a check has failed".into()) } else { Ok(()) }
}

/// At most one statement on each connection fails.
async fn servers_restart(pool: &PgPool) -> Result<(), Fault> {
    let mut line = String::new();
    println!("> restart");
    tokio::io::AsyncBufReadExt::read_line(&mut tokio::io::BufReader::new(tokio::io::stdin()), &mut line).await?;
    checks::equal(line.trim(), "done")?;
    let mut connection = pool.acquire().await?;
    let label = "SELECT label FROM items WHERE id = $1";
    let found: String = match sqlx::query_scalar(label).bind(1_i64).fetch_one(&mut *connection).await {
        Ok(found) => found,
        Err(_) => sqlx::query_scalar(label).bind(1_i64).fetch_one(&mut *connection).await?,
    };
    checks::equal(found.as_str(), "outer")
}
