//! Where a statement goes: asked of the planner with what the proxy itself plans with.

use std::path::Path;
use std::time::Duration;

use super::DemoError;
use super::layout::DATABASE;
use crate::backend::control::ControlNode;
use crate::backend::{catalog, watermarks};
use crate::config;
use crate::executor::now_micros;
use crate::plan::{Context, PlanSettings, explain};
use crate::topology::{Schema, Topology};

const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

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
        let node = ControlNode::new(&node, &dbname, &database.control, &database.tls, CONTROL_TIMEOUT)?;
        let mut client = node.client().await?;
        let marks = watermarks::load_or_create(&mut client, &database.topology, now_micros()).await?;
        let schema = catalog::load_schema(&client, 1).await?;
        client.close();
        Ok(Self { topology: database.topology.with_watermarks(&marks), schema })
    }

    /// The rung and the shards of `sql`, in one line.
    pub(super) fn route(&self, sql: &str) -> String {
        let plan = explain(
            sql,
            &Context { topology: &self.topology, schema: &self.schema, settings: &PlanSettings::default() },
            now_micros(),
        );
        plan.lines().next().unwrap_or_default().to_owned()
    }
}
