//! Statements that go to more than one shard because nothing binds them to one: what `trunkline.allow_scatter` is about.

use super::collect::collect;
use super::contract::{Context, CopyRows, Plan};
use super::names::table_name;
use super::reader::parse;
use super::refusal::{Refusal, RefusalCode};
use crate::sql::Literal;

impl Plan {
    /// Whether rows of more than one shard are read, or rows are written to more than one because of their keys. What every shard
    /// must get, whatever a statement says, is not meant: DDL, and writes of a reference table.
    pub fn is_scattered(&self) -> bool {
        match self {
            Self::Merge(plan) => plan.shards.len() > 1,
            Self::Combine(plan) => plan.shards.len() > 1,
            Self::Gather(plan) => plan.shards.len() > 1,
            Self::Insert(plan) => plan.statements.len() > 1,
            Self::CopyIn(plan) => plan.split.is_some() && plan.shards.len() > 1,
            Self::CopyOut(plan) => match &plan.rows {
                CopyRows::Each { shards, .. } => shards.len() > 1,
                CopyRows::Answer { plan, .. } => plan.is_scattered(),
            },
            Self::Cursor(plan) => plan.rows.is_scattered(),
            Self::Explain(explain) => explain.options.is_analyze && explain.plan.is_scattered(),
            Self::Route { .. } | Self::AnyOne { .. } | Self::Everywhere { .. } | Self::Command(_) => false,
        }
    }
}

/// The refusal of such a statement, which names the key columns that would bind it.
pub fn scatter_refusal(sql: &str, literals: &[Literal], context: &Context<'_>) -> Refusal {
    let collected = parse(sql, context.settings.has_standard_strings).ok().map(|parsed| collect(&parsed, literals, context));
    let mut keys: Vec<String> = Vec::new();
    for of in collected.iter().flat_map(|collected| &collected.refs) {
        let Some(key) = of.key() else { continue };
        let key = format!("\"{}\" by {}", table_name(&of.name, context), key.columns.join(", "));
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let refusal = Refusal::new(RefusalCode::ScatterForbidden, "the statement goes to more than one shard");
    match keys.as_slice() {
        [] => refusal,
        keys => refusal.with_hint(format!(
            "Bind it to one shard by its key columns: {}; or SET trunkline.allow_scatter = on.",
            keys.join("; ")
        )),
    }
}
