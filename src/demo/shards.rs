//! The demo's six servers: three shards, each a primary and its streaming replica.

use tokio_postgres::NoTls;

use super::DemoError;
use super::layout::{DATABASE, Layout, Role, SHARDS};
use super::postgres::{Installation, Login, SUPERUSER, Server, ServerSpec, THROWAWAY_SETTINGS, stop_leftover};

const SCHEMA: &str = include_str!("../../sql/demo/schema.sql");

/// Running servers. Dropping them kills them; [`Shards::stop`] is the quiet way.
#[derive(Debug)]
pub(super) struct Shards(Vec<Server>);

impl Shards {
    /// Makes all clusters from nothing, with the demo's schema, and starts them.
    pub(super) async fn create(installation: &Installation, layout: &Layout) -> Result<Self, DemoError> {
        std::fs::create_dir_all(&layout.servers_dir)?;
        let make = |shard_idx| create_shard(installation, layout, shard_idx);
        let (first, second, third) = tokio::try_join!(make(0), make(1), make(2))?;
        Ok(Self([first, second, third].into_iter().flatten().collect()))
    }

    /// Starts clusters that [`Self::create`] made in an earlier run.
    pub(super) async fn start(installation: &Installation, layout: &Layout) -> Result<Self, DemoError> {
        let start = |shard_idx| start_shard(installation, layout, shard_idx);
        let (first, second, third) = tokio::try_join!(start(0), start(1), start(2))?;
        Ok(Self([first, second, third].into_iter().flatten().collect()))
    }

    /// Stops replicas and primaries.
    pub(super) async fn stop(self) {
        for server in self.0.into_iter().rev() {
            server.stop().await;
        }
    }
}

/// Stops servers that an earlier run left behind, as a kill of the proxy with no time to tidy up may do.
pub(super) async fn stop_leftovers(layout: &Layout) -> Result<(), DemoError> {
    for shard_idx in 0..SHARDS.len() {
        for role in [Role::Replica, Role::Primary] {
            stop_leftover(&layout.data_dir(shard_idx, role)).await?;
        }
    }
    Ok(())
}

/// Whether all six clusters are there and of the version of `installation`.
pub(super) fn are_present(installation: &Installation, layout: &Layout) -> bool {
    let version_of = |shard_idx, role| {
        let text = std::fs::read_to_string(layout.data_dir(shard_idx, role).join("PG_VERSION")).ok()?;
        text.trim().parse::<u32>().ok()
    };
    let is_current = |shard_idx, role| version_of(shard_idx, role) == Some(installation.version);
    (0..SHARDS.len()).all(|idx| is_current(idx, Role::Primary) && is_current(idx, Role::Replica))
}

async fn create_shard(installation: &Installation, layout: &Layout, shard_idx: usize) -> Result<[Server; 2], DemoError> {
    installation.initdb(&layout.data_dir(shard_idx, Role::Primary), &Login::Trust).await?;
    let primary = Server::start(installation, spec(layout, shard_idx, Role::Primary)).await?;
    execute_directly(primary.port(), "postgres", &format!("CREATE DATABASE {DATABASE}")).await?;
    execute_directly(primary.port(), DATABASE, SCHEMA).await?;
    installation.base_backup(&primary, &layout.data_dir(shard_idx, Role::Replica)).await?;
    let replica = Server::start(installation, spec(layout, shard_idx, Role::Replica)).await?;
    Ok([primary, replica])
}

async fn start_shard(installation: &Installation, layout: &Layout, shard_idx: usize) -> Result<[Server; 2], DemoError> {
    let primary = Server::start(installation, spec(layout, shard_idx, Role::Primary)).await?;
    let replica = Server::start(installation, spec(layout, shard_idx, Role::Replica)).await?;
    Ok([primary, replica])
}

fn spec(layout: &Layout, shard_idx: usize, role: Role) -> ServerSpec {
    let mut settings: Vec<(String, String)> =
        THROWAWAY_SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    if role == Role::Replica {
        // Said at each start, so that the ports may differ from those of the run that made the cluster.
        let primary = layout.server_port(shard_idx, Role::Primary);
        settings.push(("primary_conninfo".into(), format!("host=127.0.0.1 port={primary} user={SUPERUSER}")));
    }
    let data_dir = layout.data_dir(shard_idx, role);
    ServerSpec { data_dir, port: layout.server_port(shard_idx, role), settings, scratch_dir: None }
}

/// Runs `sql` on the server itself, past the proxy.
async fn execute_directly(port: u16, dbname: &str, sql: &str) -> Result<(), DemoError> {
    let target = format!("host=127.0.0.1 port={port} user={SUPERUSER} dbname={dbname}");
    let (client, connection) = tokio_postgres::connect(&target, NoTls).await?;
    tokio::select! {
        done = client.batch_execute(sql) => Ok(done?),
        ended = connection => Err(ended.err().map_or(DemoError::ConnectionEnded, DemoError::from)),
    }
}
