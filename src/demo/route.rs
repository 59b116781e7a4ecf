//! Where a statement goes: asked of the planner with what the proxy itself plans with.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::DemoError;
use super::layout::DATABASE;
use crate::backend::control::ControlNode;
use crate::backend::{catalog, watermarks};
use crate::config;
use crate::plan::{Context, PlanSettings, explain};
use crate::topology::{Placement, Schema, Topology};

/// Microseconds from 1970 to 2000: where Postgres begins to count.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// The plan of `sql` in words, without any server: watermarks are those of a first start now, the types of key columns are
/// assumed.
pub fn explain_offline(topology: &Topology, sql: &str) -> String {
    let now_micros = now_micros();
    let aged = topology.tables.iter().filter_map(|(name, table)| match &table.placement {
        Placement::Sharded(key) => key.age_policy().map(|policy| (name.clone(), policy.initial_watermarks(now_micros))),
        Placement::Reference | Placement::Pinned(_) => None,
    });
    let topology = topology.with_watermarks(&aged.collect::<HashMap<_, _>>());
    explain(sql, &Context { topology: &topology, schema: &Schema::default(), settings: &settings() }, now_micros)
}

/// The topology with its watermarks, and the catalog of the first shard.
pub(super) struct Planner {
    topology: Topology,
    schema: Schema,
}

impl Planner {
    /// Reads the configuration and, from the first shard, what the proxy has read there.
    pub(super) async fn load(config_file: &Path) -> Result<Self, DemoError> {
        let mut config = config::load(config_file).map_err(|faults| DemoError::faults(&faults))?;
        let found = config.databases.remove(DATABASE).and_then(|database| {
            let shard = database.topology.shards.first()?;
            Some((shard.nodes.first()?.clone(), shard.dbname.clone(), database))
        });
        let Some((node, dbname, database)) = found else {
            return Err(DemoError::Proxy(format!("{} has no shard of {DATABASE}", config_file.display())));
        };
        let node = ControlNode::new(&node, &dbname, &database.control, CONTROL_TIMEOUT)?;
        let mut client = node.client().await?;
        let marks = watermarks::load_or_create(&mut client, &database.topology, now_micros()).await?;
        let schema = catalog::load_schema(&client, 1).await?;
        client.close();
        Ok(Self { topology: database.topology.with_watermarks(&marks), schema })
    }

    /// The rung and the shards of `sql`, in one line.
    pub(super) fn route(&self, sql: &str) -> String {
        let plan = explain(sql, &Context { topology: &self.topology, schema: &self.schema, settings: &settings() }, now_micros());
        plan.lines().next().unwrap_or_default().to_owned()
    }
}

/// Those of a session that has set nothing.
fn settings() -> PlanSettings {
    PlanSettings { search_path: vec!["public".into()], has_standard_strings: true, time_zone: "UTC".into() }
}

fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond() - POSTGRES_EPOCH_MICROS
}
