//! What `trunkline explain` prints, and EXPLAIN of a statement on several shards.

mod formats;
mod outline;
mod report;

use std::collections::HashMap;
use std::sync::Arc;

use super::contract::{Access, Context, CopyPlan, CopyRows, Params, Plan, PlanSettings, Values};
use super::refusal::Refusal;
use super::template::analyze;
use crate::sql::Fingerprint;
use crate::topology::{
    Collation, Column, ColumnDefault, KeyMap, Placement, Relation, RelationKind, Schema, ShardSet, TableName, Topology, Transfer,
};

pub use outline::{Outline, OutlinePart, outline};
pub use report::{ExplainReport, Figures, ShardReport};

use outline::names;

/// The plan of a statement in words: its rung, the shards, what each gets, the final statement; or why it is refused.
///
/// Without a schema snapshot the types of key columns are assumed: hash keys bigint, list keys text, age keys timestamptz.
/// `now_micros`: microseconds since 2000-01-01 UTC.
pub fn explain(sql: &str, context: &Context<'_>, now_micros: i64) -> String {
    explain_with(sql, Params::default(), context, now_micros)
}

/// The same without a session or a server: default settings, and the first watermarks that the age policies would get now.
pub fn explain_offline(topology: &Topology, sql: &str, now_micros: i64) -> String {
    let marks = topology.tables.iter().filter_map(|(name, table)| match &table.placement {
        Placement::Sharded(key) => key.age_policy().map(|policy| (name.clone(), policy.initial_watermarks(now_micros))),
        Placement::Reference | Placement::Pinned(_) => None,
    });
    let topology = topology.with_watermarks(&marks.collect());
    explain(sql, &Context { topology: &topology, schema: &Schema::default(), settings: &PlanSettings::default() }, now_micros)
}

/// The same with parameters.
pub(super) fn explain_with(sql: &str, params: Params<'_>, context: &Context<'_>, now_micros: i64) -> String {
    let assumed = context.schema.relations.is_empty().then(|| assumed_schema(context.topology));
    let context = Context { schema: assumed.as_ref().unwrap_or(context.schema), ..*context };
    let shape = Fingerprint::of(sql, context.settings.has_standard_strings);
    let values = Values { sql, literals: &shape.literals, params, now_micros };
    match analyze(sql, &shape.literals, &context).and_then(|template| template.bind(&values, &context)) {
        Ok(plan) => described(&plan, &context),
        Err(refusal) => refused(&refusal),
    }
}

/// The rung and the shards of a plan in one line; `None` for what the session acts on.
pub fn route_in_words(plan: &Plan, topology: &Topology) -> Option<String> {
    let on = |rung: &str, shards: ShardSet| Some(format!("{rung}: {}", names(shards, topology)));
    match plan {
        Plan::Route { shard, access } => Some(format!("route: {} ({})", topology.shard(*shard).name, access_word(*access))),
        Plan::AnyOne { access } => Some(format!("route: any one shard ({})", access_word(*access))),
        Plan::Merge(plan) => on("merge", plan.shards),
        Plan::Combine(plan) => on("combine", plan.shards),
        Plan::Gather(plan) => on("gather", plan.shards),
        Plan::Insert(plan) => on("insert", plan.statements.iter().map(|statement| statement.shard).collect()),
        Plan::Everywhere { shards } => on("everywhere", *shards),
        Plan::CopyIn(plan) => on("copy", plan.shards),
        Plan::CopyOut(plan) => match &plan.rows {
            CopyRows::Each { shards, .. } => on("copy out", *shards),
            CopyRows::Answer { plan, .. } => route_in_words(plan, topology).map(|words| format!("copy out of {words}")),
        },
        Plan::Explain(plan) => route_in_words(&plan.plan, topology).map(|words| format!("explain {words}")),
        Plan::Cursor(plan) => route_in_words(&plan.rows, topology).map(|words| format!("cursor over {words}")),
        Plan::Command(_) => None,
    }
}

fn access_word(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
    }
}

fn described(plan: &Plan, context: &Context<'_>) -> String {
    let topology = context.topology;
    match plan {
        Plan::Route { shard, access } => format!("route: {} ({})", topology.shard(*shard).name, access_word(*access)),
        Plan::AnyOne { access } => format!("route: any one shard ({})", access_word(*access)),
        Plan::Merge(_) | Plan::Combine(_) | Plan::Gather(_) | Plan::Insert(_) | Plan::Everywhere { .. } => {
            let has_reference_tables = topology.dedicated_engine().is_none();
            outline(plan, "", None, has_reference_tables, context).map(|outline| outline.lines(topology)).unwrap_or_default()
        }
        Plan::Explain(explain) => format!("explain {}", described(&explain.plan, context)),
        Plan::CopyIn(copy) => copy_lines(copy, topology),
        Plan::CopyOut(copy) => match &copy.rows {
            CopyRows::Each { shards, text, .. } => format!("copy out: {}\n  each: {text}", names(*shards, topology)),
            CopyRows::Answer { plan, .. } => format!("copy out of {}", described(plan, context)),
        },
        Plan::Cursor(cursor) => format!("cursor over {}", described(&cursor.rows, context)),
        Plan::Command(command) => format!("command: {command:?}"),
    }
}

fn copy_lines(copy: &CopyPlan, topology: &Topology) -> String {
    let shards = names(copy.shards, topology);
    match &copy.split {
        None => format!("copy: every row to {shards}"),
        Some(split) => {
            let place = |idx: Option<usize>| idx.map_or_else(|| "its default".to_owned(), |idx| format!("field {}", idx + 1));
            let fields: Vec<String> =
                split.fields.iter().map(|field| format!("\"{}\" in {}", field.column.name, place(field.field_idx))).collect();
            let format = if split.format.is_csv { "csv" } else { "text" };
            format!("copy: rows of {format} split by {} over {shards}", fields.join(", "))
        }
    }
}

fn refused(refusal: &Refusal) -> String {
    let place = match (&refusal.table, &refusal.column) {
        (Some(table), Some(column)) => format!(" [{table}.{column}]"),
        (Some(table), None) => format!(" [{table}]"),
        _ => String::new(),
    };
    format!("refused: {} {}: {}{place}\n  hint: {}", refusal.code.sqlstate(), refusal.code.code(), refusal.message, refusal.hint)
}

/// Key columns of the configured tables with the types that such keys have most often.
pub fn assumed_schema(topology: &Topology) -> Schema {
    let relation = |name: &TableName| {
        let Placement::Sharded(key) = &topology.tables.get(name)?.placement else { return None };
        let columns = key.columns.iter().enumerate().map(|(idx, column)| assumed_column(column, &key.map, idx)).collect();
        Some((name.clone(), Arc::new(Relation { kind: RelationKind::Table, columns })))
    };
    let relations: HashMap<_, _> = topology.tables.keys().filter_map(relation).collect();
    Schema { relations, is_assumed: true, ..Schema::default() }
}

fn assumed_column(name: &str, map: &KeyMap, column_idx: usize) -> Column {
    let (type_oid, type_name, collation) = match level(map, column_idx) {
        Some(KeyMap::List(_)) => (25, "text", Collation::Other),
        Some(KeyMap::Age(_)) => (1184, "timestamp with time zone", Collation::None),
        _ => (20, "bigint", Collation::None),
    };
    let (name, type_name) = (name.to_owned(), type_name.to_owned());
    let (declaration, transfer, default) = (type_name.clone(), Transfer::Binary, ColumnDefault::None);
    Column { name, type_oid, type_name, declaration, transfer, collation, is_not_null: true, default }
}

/// The level of a key's map that reads column `column_idx`.
fn level(map: &KeyMap, column_idx: usize) -> Option<&KeyMap> {
    let (own_idx, branches) = match map {
        KeyMap::Shard(_) => return None,
        KeyMap::Hash(level) => (level.column_idx, &level.branches),
        KeyMap::List(level) => (level.column_idx, &level.branches),
        KeyMap::Age(level) => (level.column_idx, &level.branches),
    };
    if own_idx == column_idx { Some(map) } else { branches.iter().find_map(|branch| level(branch, column_idx)) }
}
