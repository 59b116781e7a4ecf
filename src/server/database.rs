//! Databases from their configuration: probers, pools, watermarks, the schema snapshot; and their upkeep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::control::{ControlError, ControlNode};
use crate::backend::watermarks::{ensure_control_schema, load_or_create};
use crate::config::{Config, DatabaseConfig};
use crate::deadline::Deadline;
use crate::executor::{Database, DatabaseParts, DeadlockSearch, Waits, now_micros};
use crate::frontend::{Databases, Gate};
use crate::health::{Board, first_round, spawn_probers};
use crate::observe::Registry;
use crate::topology::{Placement, ShardId};

/// How old what is known of the servers' schemas may become.
const SCHEMA_INTERVAL: Duration = Duration::from_secs(60);

/// Time between two rounds of upkeep.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Longest wait for a primary during preparation.
const PRIMARY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a database of the configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Makes databases.
#[derive(Debug)]
pub(super) struct Builder {
    pub registry: Arc<Registry>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Builder {
    /// Every database of a configuration, with probers running; nothing was asked of a server yet.
    pub(super) fn build_all(&self, config: &Config) -> Result<Databases, (String, DatabaseError)> {
        let build = |(name, database): (&String, &DatabaseConfig)| {
            self.build(config, database, None).map(|built| (name.clone(), Arc::new(built))).map_err(|error| (name.clone(), error))
        };
        config.databases.iter().map(build).collect()
    }

    /// One database; `predecessor` is the one that it takes the place of.
    pub(super) fn build(
        &self,
        config: &Config,
        database: &DatabaseConfig,
        predecessor: Option<&Database>,
    ) -> Result<Database, DatabaseError> {
        let board = Arc::new(Board::new(&database.topology));
        // Probers end with the process, or with the last user of a database that a reload has replaced.
        let probing = self.stop.child_token();
        spawn_probers(&board, database, &config.health, &self.tasks, &probing)?;
        let control = database.topology.shards.iter().map(|shard| {
            let node =
                |address| ControlNode::new(address, &shard.dbname, &database.control, &database.tls, config.health.timeout);
            shard.nodes.iter().map(node).collect::<Result<Vec<_>, _>>()
        });
        let waits = Arc::<Waits>::default();
        if database.topology.only_shard().is_none() {
            let search = DeadlockSearch::new(Arc::clone(&waits), database, config.health.timeout)?;
            let stop = probing.clone();
            self.tasks
                .spawn(async move { stop.run_until_cancelled_owned(search.run()).await.map_or((), |never| match never {}) });
        }
        let parts = DatabaseParts {
            query: database.query.clone(),
            board,
            control: control.collect::<Result<_, _>>()?,
            registry: Arc::clone(&self.registry),
            n_workers: config.server.workers,
            waits,
            probing: probing.drop_guard(),
        };
        Ok(Database::new(database.clone(), parts, predecessor))
    }
}

/// Waits for the first probes and reads what planning needs. What fails is tried again by [`maintain`].
pub(super) async fn prepare_all(databases: &Databases, limit: Duration) {
    let deadline = Instant::now() + limit;
    for database in databases.values() {
        first_round(&database.board, deadline.saturating_duration_since(Instant::now())).await;
        prepare(database, SCHEMA_INTERVAL).await;
    }
}

/// Makes sure that a database of several shards has its control tables, watermarks and schema snapshot.
///
/// One that has them reads its schema again, and has sessions begin as servers say now, if that was read before `age`: what was
/// changed past the proxy is noticed late. A database with one shard is a plain pooler: nothing of the kind is needed, and no right
/// to make it.
pub(super) async fn prepare(database: &Database, age: Duration) {
    if let Err(error) = database.refresh_old_code().await {
        tracing::debug!(database = database.name, %error, "functions could not be read");
    }
    if database.config.topology.only_shard().is_some() {
        return;
    }
    if database.is_prepared() {
        if let Err(error) = database.refresh_old_schema(age).await {
            tracing::debug!(database = database.name, %error, "the schema could not be read again");
        }
        return;
    }
    if let Err(error) = try_prepare(database).await {
        tracing::warn!(database = database.name, %error, "the database is not fully prepared; trying again");
        return;
    }
    database.set_prepared();
}

async fn try_prepare(database: &Database) -> Result<(), ControlError> {
    let topology = &database.config.topology;
    database.refresh_schema().await?;
    for shard in topology.shard_ids() {
        let mut client = primary_client(database, shard).await?;
        ensure_control_schema(&mut client).await?;
        if shard == ShardId(0) && has_age_table(database) {
            let watermarks = load_or_create(&mut client, topology, now_micros()).await?;
            database.set_watermarks(&watermarks);
        }
    }
    Ok(())
}

fn has_age_table(database: &Database) -> bool {
    let tables = &database.config.topology.tables;
    tables.values().any(|table| matches!(&table.placement, Placement::Sharded(key) if key.age_policy().is_some()))
}

async fn primary_client(database: &Database, shard: ShardId) -> Result<crate::backend::control::ControlClient, ControlError> {
    let deadline = Deadline::after(Instant::now(), PRIMARY_TIMEOUT);
    let node_idx =
        database.board.wait_for_primary(shard, deadline).await.map_err(|report| ControlError::Mismatch(report.message))?;
    let node = database.control.get(shard.index()).and_then(|nodes| nodes.get(node_idx));
    node.ok_or_else(|| ControlError::Mismatch("no such node".to_owned()))?.client().await
}

/// What is looked after while the process runs.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub gate: Arc<Gate>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// Of the workers: connections that are opened ahead belong to them.
    pub runtimes: Vec<Handle>,
}

impl Upkeep {
    /// Closes idle connections, opens missing ones and prepares what could not be prepared before, until `stop`.
    pub(super) async fn run(self) {
        let mut runtimes = self.runtimes.iter().cycle();
        while self.stop.run_until_cancelled(tokio::time::sleep(UPKEEP_INTERVAL)).await.is_some() {
            for database in self.gate.served().databases.values() {
                for (spares, runtime) in database.pools.keep_up().into_iter().zip(runtimes.by_ref()) {
                    let stop = self.stop.clone();
                    self.tasks.spawn_on(async move { stop.run_until_cancelled(spares.open()).await }, runtime);
                }
                prepare(database, SCHEMA_INTERVAL).await;
            }
        }
    }
}
