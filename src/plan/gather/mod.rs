//! The rung *gather*: the columns and rows that a SELECT needs of each table are brought to the engine, and the statement runs
//! there as it is, with other names for its tables.
//!
//! Requires: nothing in the statement depends on which server evaluates it, and every table's name stands where the parser says.
//! Where something cannot be told, more is brought: all columns, all shards, no filter.

mod filter;
mod grouped;
mod needs;
mod places;
mod semi;
mod splice;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bind::{shard_sets, union};
use super::collect::{Collected, TableRef, collect_scopes};
use super::contract::{Context, GatherColumn, GatherInput, GatherPlan, GatherSource, Plan, RowValues};
use super::dml::function_refusal;
use super::functions::{Nature, refuse_hidden_calls};
use super::names::{Target, relation_of, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::select::Many;
use super::shape;
use crate::topology::{ShardId, ShardSet};
pub(super) use needs::{Needs, of as needs};
pub(super) use splice::places;

/// The plan of a SELECT that neither merge nor combine takes.
///
/// # Errors
/// What cannot be answered right on any rung: see [`check`].
pub(super) fn plan(many: &Many<'_>) -> Result<Plan, Refusal> {
    let collected = collect_scopes(many.parsed, many.values.literals, many.context);
    let needs = needs::of(many, &collected);
    check(many, &collected, &needs)?;
    let places = splice::places(many, &collected)?;
    let mut edits = shape::time_edits(&collected, &many.tokens, many.values.now_micros, many.context)?;
    many.parsed.spell_tables(&mut edits);
    let filters = filter::of(many, &collected, &edits);
    let sets = shard_sets(&collected, many.values, many.context);
    let mut inputs: Vec<GatherInput> = Vec::new();
    let mut input_of_ref: BTreeMap<usize, usize> = BTreeMap::new();
    for (ref_idx, table_ref) in collected.refs.iter().enumerate() {
        if table_ref.target == Target::Cte {
            continue;
        }
        let table = table_name(&table_ref.name, many.context);
        let source = match &table_ref.target {
            Target::Reference(_) => GatherSource::AnyOne,
            _ => GatherSource::Shards(sets.get(ref_idx).copied().unwrap_or(ShardSet::EMPTY)),
        };
        let filter = filters.get(&ref_idx).cloned();
        let is_only = places.iter().any(|place| place.ref_idx == ref_idx && place.is_only);
        match inputs.iter().position(|input| input.table == table && input.is_only == is_only) {
            Some(input_idx) => {
                widen(&mut inputs[input_idx], source, filter);
                input_of_ref.insert(ref_idx, input_idx);
            }
            None => {
                input_of_ref.insert(ref_idx, inputs.len());
                let columns = columns(table_ref, &needs, many.context)?;
                let is_whole = needs.all_of(&table);
                let (looked_up, primary_key) = (Vec::new(), Vec::new());
                inputs.push(GatherInput { table, is_only, source, columns, is_whole, filter, looked_up, primary_key });
            }
        }
    }
    let finish = splice::finish(many, &places, &edits, &input_of_ref);
    let links = semi::links(&collected, &inputs, &input_of_ref);
    semi::note_look_ups(&collected, &mut inputs, &input_of_ref);
    grouped::note_primary_keys(many, &mut inputs);
    let row_values = match (needs.has_row_values(), many.context.schema.user_functions.is_empty()) {
        (false, _) => RowValues::None,
        (true, true) => RowValues::Alike,
        (true, false) => RowValues::Typed,
    };
    let (describe_shard, shards) = (pinned(&collected)?, union(&sets));
    let plan = GatherPlan { inputs, finish, links, row_values, shards, describe_shard, views: Vec::new() };
    Ok(Plan::Gather(Arc::new(plan)))
}

/// One relation serves all references to a table: it holds the rows that any of them needs.
fn widen(input: &mut GatherInput, source: GatherSource, filter: Option<String>) {
    input.source = match (input.source, source) {
        (GatherSource::Shards(a), GatherSource::Shards(b)) => GatherSource::Shards(a.union(b)),
        (any, _) => any,
    };
    input.filter = match (input.filter.take(), filter) {
        (Some(a), Some(b)) if a == b => Some(a),
        (Some(a), Some(b)) => Some(format!("({a}) OR ({b})")),
        _ => None,
    };
}

/// The columns that the statement can name, in the table's order; at least one.
fn columns(table_ref: &TableRef, needs: &Needs, context: &Context<'_>) -> Result<Vec<GatherColumn>, Refusal> {
    let name = table_name(&table_ref.name, context);
    let unknown = || {
        let message = format!("the columns of \"{name}\" are not known; a statement over several shards needs them");
        Refusal::new(RefusalCode::UnknownColumns, message).at(&name, None)
    };
    let Some(relation) = relation_of(&table_ref.name, context) else {
        return if context.schema.is_assumed { Ok(Vec::new()) } else { Err(unknown()) };
    };
    let is_needed = |column: &str| needs.all_of(&name) || needs.names(column);
    let mut chosen: Vec<GatherColumn> =
        relation.columns.iter().filter(|column| is_needed(&column.name)).map(GatherColumn::of).collect();
    if chosen.is_empty() {
        chosen.extend(relation.columns.first().map(GatherColumn::of));
    }
    if chosen.is_empty() { Err(unknown()) } else { Ok(chosen) }
}

/// The shard that has the pinned tables, where the statement reads any: no other can describe it.
fn pinned(collected: &Collected) -> Result<Option<ShardId>, Refusal> {
    let mut homes = collected.refs.iter().filter_map(|table_ref| match table_ref.target {
        Target::Fixed(shard) => Some(shard),
        _ => None,
    });
    let first = homes.next();
    if homes.any(|shard| Some(shard) != first) {
        let message = "a statement over tables that are pinned to different shards is not supported";
        return Err(Refusal::new(RefusalCode::PinnedApart, message));
    }
    Ok(first)
}

/// Refuses what would not give one server's answer on the engine.
fn check(many: &Many<'_>, collected: &Collected, needs: &Needs) -> Result<(), Refusal> {
    let refuse = |code: RefusalCode, what: &str| Err(Refusal::new(code, format!("{what} across shards is not supported")));
    if collected.facts.locks.is_yes() {
        return refuse(RefusalCode::Locking, "FOR UPDATE and its kin");
    }
    if collected.facts.select_into.is_yes() {
        return refuse(RefusalCode::CreateAs, "SELECT INTO");
    }
    if collected.facts.system_column.is_yes() {
        return refuse(RefusalCode::SystemColumn, "a system column (ctid, xmin, tableoid, …)");
    }
    if let Some(table_ref) = collected.refs.iter().find(|table_ref| table_ref.target == Target::System) {
        return refuse(RefusalCode::SystemColumn, &format!("system catalog \"{}\"", table_ref.name.join(".")));
    }
    for call in &collected.functions {
        match call.nature(many.context) {
            Nature::Pure | Nature::Time | Nature::SplitAggregate | Nature::OtherAggregate => {}
            Nature::Server | Nature::Volatile | Nature::Writing | Nature::User => {
                return Err(function_refusal(call, many.context));
            }
        }
        if call.short_name() == "pg_typeof" && needs.has_whole_rows() {
            return refuse(RefusalCode::ServerFunction, "pg_typeof beside a whole row");
        }
    }
    shape::clock_literals(many)?;
    refuse_hidden_calls(many)?;
    let is_object_type = |word: &str| OBJECT_TYPES.contains(&word);
    if let Some(word) = needs.words().find(|word| is_object_type(word)) {
        return refuse(RefusalCode::SystemColumn, &format!("{word}, which names an object of one server,"));
    }
    Ok(())
}

/// Types whose values are OIDs of one server's catalog.
pub(super) const OBJECT_TYPES: &[&str] = &[
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
];
