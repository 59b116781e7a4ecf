//! UPDATE, DELETE, MERGE, writes of reference tables, and writes inside WITH.

use sqlparser::ast::{MergeAction, MergeUpdateKind, Statement};

use super::bind::{StatementTemplate, shard_sets, union};
use super::collect::TableRef;
use super::contract::{Access, Context, Plan, Values};
use super::functions::{FunctionCall, Nature, refuse_hidden_calls};
use super::gather::OBJECT_TYPES;
use super::insert::assigned;
use super::names::{Target, relation_of, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::select::Many;
use super::shape::{clock_word, is_clock_word};
use super::text::tokens_of;
use crate::topology::ShardSet;

/// Binds a write that is not an INSERT into a sharded table.
pub(super) fn bind(statement: &StatementTemplate, values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
    let written: Vec<&TableRef> = statement.collected.refs.iter().filter(|table_ref| table_ref.is_written).collect();
    refuse_key_updates(&statement.parsed.statement, &written, context)?;
    let sets = shard_sets(&statement.collected, values, context);
    let shards = union(&sets);
    let is_placed =
        |(table_ref, set): (&TableRef, &ShardSet)| !table_ref.is_written || table_ref.key().is_none() || !set.is_empty();
    if matches!(statement.parsed.statement, Statement::Insert(_)) && !statement.collected.refs.iter().zip(&sets).all(is_placed) {
        // A NULL or unmapped key has no shard: sent to any one, the row would be lost there.
        return Err(Refusal::new(RefusalCode::InsertSelect, "INSERT … SELECT of a key that has no shard is not supported"));
    }
    if written.iter().any(|table_ref| matches!(table_ref.target, Target::Reference(_))) {
        return reference(statement, &written, values, !shards.is_empty(), context);
    }
    match (shards.single(), shards.is_empty()) {
        (Some(shard), _) => Ok(Plan::Route { shard, access: Access::Write }),
        (None, true) => Ok(Plan::AnyOne { access: Access::Write }),
        (None, false) if statement.collected.facts.nested_write.is_yes() || written.len() > 1 => {
            Err(Refusal::new(RefusalCode::WritingCte, "a data-modifying WITH query on more than one shard is not supported"))
        }
        (None, false) => Err(on_many(&statement.parsed.statement, &written, context)),
    }
}

fn on_many(statement: &Statement, written: &[&TableRef], context: &Context<'_>) -> Refusal {
    let (code, verb) = match statement {
        Statement::Insert(_) => (RefusalCode::InsertSelect, "INSERT … SELECT on more than one shard"),
        Statement::Update(_) => (RefusalCode::WriteOnManyShards, "UPDATE on more than one shard"),
        Statement::Delete(_) => (RefusalCode::WriteOnManyShards, "DELETE on more than one shard"),
        _ => (RefusalCode::WriteOnManyShards, "MERGE on more than one shard"),
    };
    let refusal = Refusal::new(code, format!("{verb} is not supported"));
    match written.first() {
        Some(table_ref) => refusal.at(&table_name(&table_ref.name, context), None),
        None => refusal,
    }
}

/// A reference table is written on every shard, with values that are the same everywhere.
fn reference(
    statement: &StatementTemplate,
    written: &[&TableRef],
    values: &Values<'_>,
    reads_shards: bool,
    context: &Context<'_>,
) -> Result<Plan, Refusal> {
    let name = written.first().map(|table_ref| table_name(&table_ref.name, context).to_string()).unwrap_or_default();
    let facts = &statement.collected.facts;
    if written.len() > 1 || facts.nested_write.is_yes() {
        return Err(Refusal::new(
            RefusalCode::WritingCte,
            format!("a data-modifying WITH query on reference table \"{name}\" is not supported"),
        ));
    }
    if reads_shards {
        let message = format!("a write of reference table \"{name}\" that reads tables of certain shards is not supported");
        return Err(Refusal::new(RefusalCode::ReferenceReadsShards, message));
    }
    if facts.nested_limit.is_yes() || has_limit(&statement.parsed.statement) {
        let message = format!("LIMIT in a write of reference table \"{name}\" may choose other rows on each shard");
        return Err(Refusal::new(RefusalCode::ReferenceDiverges, message));
    }
    refuse_server_words(statement, written, values, context)?;
    for call in &statement.collected.functions {
        match call.nature(context) {
            Nature::Pure | Nature::SplitAggregate => {}
            Nature::Time | Nature::Server | Nature::Volatile | Nature::Writing | Nature::User | Nature::OtherAggregate => {
                let message =
                    format!("function {} may differ between the copies of reference table \"{name}\"", call.short_name());
                return Err(Refusal::new(RefusalCode::ReferenceDiverges, message));
            }
        }
    }
    Ok(Plan::Everywhere { shards: context.topology.all_shards() })
}

/// Refuses what means something else on each server: system columns and catalogs, names of objects, and words for the time.
fn refuse_server_words(
    statement: &StatementTemplate,
    written: &[&TableRef],
    values: &Values<'_>,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let Some(target) = written.first() else { return Ok(()) };
    let name = table_name(&target.name, context);
    let refuse = |what: &str| {
        let message = format!("{what} may differ between the copies of reference table \"{name}\"");
        Err(Refusal::new(RefusalCode::ReferenceDiverges, message).at(&name, None))
    };
    let collected = &statement.collected;
    if collected.facts.system_column.is_yes() {
        return refuse("a system column (ctid, xmin, tableoid, …)");
    }
    if let Some(table_ref) = collected.refs.iter().find(|table_ref| table_ref.target == Target::System) {
        return refuse(&format!("system catalog \"{}\"", table_ref.name.join(".")));
    }
    let tokens = tokens_of(values.sql, context.settings.has_standard_strings);
    if let Some(word) = OBJECT_TYPES.iter().find(|word| tokens.iter().any(|token| token.is_word(values.sql.as_bytes(), word))) {
        return refuse(&format!("{word}, which names an object of one server,"));
    }
    let keeps_time = relation_of(&target.name, context)
        .is_some_and(|relation| relation.columns.iter().any(|column| is_time(&column.type_name)));
    if let Some(word) = clock_word(values.sql, &tokens, keeps_time) {
        return refuse(&format!("the date/time string '{word}'"));
    }
    let is_clock = |value: &&[u8]| value.len() < 16 && std::str::from_utf8(value).is_ok_and(is_clock_word);
    if keeps_time && values.params.values.iter().flatten().any(is_clock) {
        return refuse("a parameter that is a date/time word");
    }
    refuse_hidden_calls(&Many::new(&statement.parsed, collected, ShardSet::EMPTY, values, context))
}

fn is_time(type_name: &str) -> bool {
    type_name.starts_with("time") || type_name == "date"
}

fn has_limit(statement: &Statement) -> bool {
    match statement {
        Statement::Insert(insert) => {
            insert.source.as_ref().is_some_and(|source| source.limit_clause.is_some() || source.fetch.is_some())
        }
        _ => false,
    }
}

fn refuse_key_updates(statement: &Statement, written: &[&TableRef], context: &Context<'_>) -> Result<(), Refusal> {
    let columns = updated_columns(statement);
    for table_ref in written {
        let Some(key) = table_ref.key() else { continue };
        if let Some(column) = columns.iter().find(|column| key.columns.contains(column)) {
            let table = table_name(&table_ref.name, context);
            let message = format!("UPDATE of key column \"{column}\" of table \"{table}\" is not supported");
            return Err(Refusal::new(RefusalCode::UpdatesKey, message).at(&table, Some(column)));
        }
    }
    Ok(())
}

/// Every column that an UPDATE anywhere in the statement sets.
fn updated_columns(statement: &Statement) -> Vec<String> {
    struct Updates(Vec<String>);
    impl sqlparser::ast::Visitor for Updates {
        type Break = ();

        fn pre_visit_statement(&mut self, statement: &Statement) -> std::ops::ControlFlow<()> {
            match statement {
                Statement::Update(update) => self.0.extend(assigned(&update.assignments)),
                Statement::Merge(merge) => {
                    for clause in &merge.clauses {
                        if let MergeAction::Update(update) = &clause.action
                            && let MergeUpdateKind::Set(assignments) = &update.kind
                        {
                            self.0.extend(assigned(assignments));
                        }
                    }
                }
                _ => {}
            }
            std::ops::ControlFlow::Continue(())
        }
    }
    let mut updates = Updates(Vec::new());
    let flow = sqlparser::ast::Visit::visit(statement, &mut updates);
    debug_assert!(flow.is_continue());
    updates.0
}

/// The refusal of a function on more than one shard.
pub(super) fn function_refusal(call: &FunctionCall, context: &Context<'_>) -> Refusal {
    let name = call.short_name();
    match call.nature(context) {
        Nature::Volatile | Nature::Writing => {
            Refusal::new(RefusalCode::VolatileFunction, format!("volatile function {name} across shards is not supported"))
        }
        Nature::User => Refusal::new(
            RefusalCode::UserFunction,
            format!("function {name}, which is not of the system and may read tables, across shards is not supported"),
        ),
        Nature::OtherAggregate => {
            Refusal::new(RefusalCode::Aggregate, format!("aggregate {name} across shards is not supported"))
        }
        Nature::Server | Nature::Pure | Nature::Time | Nature::SplitAggregate => Refusal::new(
            RefusalCode::ServerFunction,
            format!("function {name} depends on its server; across shards it is not supported"),
        ),
    }
}
