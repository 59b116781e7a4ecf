//! Which shards answer a statement: asked of the planner, without a server.

use std::collections::HashMap;
use std::path::Path;

use super::DemoError;
use super::layout::DATABASE;
use crate::config;
use crate::plan::{Context, Params, Plan, PlanSettings, Values, analyze};
use crate::sql::{Fingerprint, fingerprint};
use crate::topology::{Placement, Schema, Topology};

/// Microseconds from 1970 to 2000: where Postgres begins to count.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The shards that `sql` touches and how their answers become one, in words.
///
/// # Errors
/// The configuration cannot be read, or the planner refuses `sql`.
pub(super) fn touched_shards(config_file: &Path, sql: &str) -> Result<String, DemoError> {
    let config = config::load(config_file).map_err(|faults| DemoError::faults(&faults))?;
    let Some(database) = config.databases.get(DATABASE) else {
        return Err(DemoError::Proxy(format!("{} has no database {DATABASE}", config_file.display())));
    };
    let now_micros = jiff::Timestamp::now().as_microsecond() - POSTGRES_EPOCH_MICROS;
    let topology = with_first_watermarks(&database.topology, now_micros);
    let settings = PlanSettings { search_path: vec!["public".into()], has_standard_strings: true, time_zone: "UTC".into() };
    let context = Context { topology: &topology, schema: &Schema::default(), settings: &settings };
    let mut shape = Fingerprint::default();
    fingerprint(sql.as_bytes(), true, &mut shape);
    let values = Values { sql, literals: &shape.literals, params: Params::default(), now_micros };
    let plan = analyze(sql, &shape.literals, &context).and_then(|template| template.bind(&values, &context));
    let plan = plan.map_err(|refusal| DemoError::Refused(refusal.message.clone()))?;
    Ok(describe(&plan, &topology))
}

/// As if the proxy had been started now for the first time. Watermarks of an earlier start are older, which moves no
/// question of the demo to another shard.
fn with_first_watermarks(topology: &Topology, now_micros: i64) -> Topology {
    let aged = topology.tables.iter().filter_map(|(name, table)| match &table.placement {
        Placement::Sharded(key) => key.age_policy().map(|policy| (name.clone(), policy.initial_watermarks(now_micros))),
        Placement::Reference | Placement::Pinned(_) => None,
    });
    topology.with_watermarks(&aged.collect::<HashMap<_, _>>())
}

fn describe(plan: &Plan, topology: &Topology) -> String {
    let names = |shards: crate::topology::ShardSet| {
        let names: Vec<&str> = shards.iter().map(|shard| topology.shard(shard).name.as_str()).collect();
        names.join(", ")
    };
    match plan {
        Plan::Route { shard, .. } => format!("{}: forwarded verbatim", topology.shard(*shard).name),
        Plan::AnyOne { .. } => "any one shard: forwarded verbatim".to_owned(),
        Plan::Merge(merge) => format!("{}: merged as the rows stream", names(merge.shards)),
        Plan::Combine(combine) => format!("{}: partial rows combined by one of them", names(combine.shards)),
        Plan::Insert(insert) => format!("{}: split by row", names(insert.statements.iter().map(|s| s.shard).collect())),
        Plan::Everywhere { shards } => format!("{}: on each", names(*shards)),
        Plan::CopyIn(copy) => format!("{}: split by row", names(copy.shards)),
        Plan::Command(_) => "no shard: the session's own business".to_owned(),
    }
}
