//! What the code of functions, triggers and rules reaches beyond the shard that runs it.
//!
//! Code on one shard sees that shard's rows. A statement that a key binds to one shard may call what it likes: that is how code over
//! co-located rows is meant to be used. One that is on a shard for want of a key would give that shard's answer for all rows.

use std::collections::BTreeSet;

use sqlparser::ast::Statement;

use super::collect::{Collected, TableRef};
use super::contract::Context;
use super::functions::{FunctionCall, Nature};
use super::names::{Target, resolve, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::text::tokens_of;
use crate::sql::{Token, TokenKind};
use crate::topology::{CalledBy, Manner, Mention, Placement, ShardId, ShardSet, TableName, Trigger};

/// The tables that code names, followed through functions and views.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Where they are, but for those that are alike everywhere.
    pub(super) shards: ShardSet,
    /// One of those.
    pub(super) table: Option<TableName>,
    /// A function that runs SQL which it puts together.
    composed: Option<TableName>,
    /// A reference table that is written.
    written_copy: Option<TableName>,
    seen: BTreeSet<TableName>,
}

impl Reach {
    /// What a function's code reaches; nothing if the configuration declares it safe.
    pub(super) fn of_function(name: &TableName, context: &Context<'_>) -> Self {
        let mut reach = Self::default();
        reach.add_function(name, context);
        reach
    }

    /// Whether each shard has all of it, as far as its code tells.
    pub(super) fn is_everywhere(&self) -> bool {
        self.shards.is_empty() && self.composed.is_none()
    }

    fn add_function(&mut self, name: &TableName, context: &Context<'_>) {
        if context.topology.safe_functions.contains(name) || !self.seen.insert(name.clone()) {
            return;
        }
        for mention in context.schema.code.get(name).into_iter().flatten() {
            match mention.manner {
                Manner::Called if takes_query(&mention.name) => self.note_composed(name),
                Manner::Called => {
                    let named = context.schema.user_functions.get(&mention.name).into_iter().flatten();
                    let meant = named.filter(|function| mention.schema.as_ref().is_none_or(|schema| *schema == function.schema));
                    for function in meant {
                        self.add_function(&TableName::new(&function.schema, &mention.name), context);
                    }
                }
                Manner::Read | Manner::Written => {
                    for table in meant(mention, context) {
                        self.add_relation(&table, mention.manner, context);
                    }
                }
                Manner::Composed => self.note_composed(name),
                Manner::Assigned => {}
            }
        }
    }

    fn note_composed(&mut self, name: &TableName) {
        self.composed.get_or_insert_with(|| name.clone());
    }

    fn add_relation(&mut self, name: &TableName, manner: Manner, context: &Context<'_>) {
        if let Some(view) = context.schema.views.get(name).filter(|_| !context.topology.tables.contains_key(name)) {
            if self.seen.insert(name.clone()) {
                view.reads.iter().for_each(|read| self.add_relation(read, manner, context));
            }
            return;
        }
        let shards = match resolve(&[name.schema.clone(), name.name.clone()], context) {
            Target::Sharded(_) | Target::View(_) => context.topology.all_shards(),
            Target::Fixed(shard) => ShardSet::only(shard),
            Target::Reference(_) if manner == Manner::Written => {
                self.written_copy.get_or_insert_with(|| name.clone());
                return;
            }
            _ => return,
        };
        self.shards = self.shards.union(shards);
        self.table.get_or_insert_with(|| name.clone());
    }
}

/// The tables that a name in code may mean: its search path is not known.
fn meant(mention: &Mention, context: &Context<'_>) -> Vec<TableName> {
    let is_it = |name: &TableName| {
        name.name.to_lowercase() == mention.name
            && mention.schema.as_ref().is_none_or(|schema| name.schema.to_lowercase() == *schema)
    };
    let configured = context.topology.tables.keys().filter(|name| is_it(name)).cloned();
    let path = mention.schema.iter().chain(context.settings.search_path.iter().filter(|_| mention.schema.is_none()));
    let known = path.map(|schema| TableName::new(schema, &mention.name)).filter(|name| context.relation(name).is_some());
    configured.chain(known).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Functions that run a query which they are given as text, or read tables by name: those of the system, and of tablefunc.
fn runs_text(call: &FunctionCall) -> bool {
    let name = call.short_name();
    takes_query(name) || name == "ts_rewrite" && call.n_args == 2
}

fn takes_query(name: &str) -> bool {
    if name.starts_with("crosstab") || name == "connectby" {
        return true;
    }
    let gives_xml = ["_to_xml", "_to_xmlschema", "_to_xml_and_xmlschema"].iter().any(|end| name.ends_with(end));
    let reads = ["table_", "query_", "cursor_", "schema_", "database_"].iter().any(|start| name.starts_with(start));
    gives_xml && reads || name == "ts_stat"
}

/// The functions outside the system schemas that a call may mean.
pub(super) fn functions_of(call: &FunctionCall, context: &Context<'_>) -> Vec<TableName> {
    let name = call.short_name();
    let schema = call.name.len().checked_sub(2).map(|idx| &call.name[idx]);
    let is_meant = |own: &String| match schema {
        Some(schema) => schema == own,
        None => context.settings.search_path.contains(own),
    };
    let functions = context.schema.user_functions.get(name).into_iter().flatten();
    functions.filter(|function| is_meant(&function.schema)).map(|function| TableName::new(&function.schema, name)).collect()
}

/// Refuses a statement whose functions, triggers or rules reach rows that its shard does not have; else gives the one shard that
/// its functions need, if they need one and no key binds it.
///
/// # Errors
/// TL019, TL032, TL033, TL048.
pub(super) fn check(
    (statement, sql): (&Statement, &str),
    collected: &Collected,
    context: &Context<'_>,
) -> Result<Option<ShardId>, Refusal> {
    let is_bound = collected.refs.iter().any(|table_ref| table_ref.key().is_some());
    let fixed = collected.refs.iter().filter_map(|table_ref| match table_ref.target {
        Target::Fixed(shard) => Some(shard),
        _ => None,
    });
    let (mut needed, mut is_needed): (ShardSet, bool) = (fixed.collect(), false);
    for call in &collected.functions {
        if runs_text(call) && !is_bound {
            let message = format!(
                "function {}, which reads tables that its arguments name, is not supported on several shards",
                call.short_name()
            );
            return Err(Refusal::new(RefusalCode::ServerFunction, message));
        }
        for function in functions_of(call, context) {
            let reach = Reach::of_function(&function, context);
            if let Some(copy) = &reach.written_copy {
                return Err(writes_copy(&format!("function {function}"), copy));
            }
            needed = needed.union(reach.shards);
            is_needed |= !reach.shards.is_empty();
            if !is_bound && needed.len() > 1 && !reach.shards.is_empty() {
                let table = reach.table.as_ref().map(|table| format!("\"{table}\"")).unwrap_or_default();
                return Err(reads_elsewhere(&function, &format!("names table {table}")));
            }
            if let Some(composed) = reach.composed.filter(|_| !is_bound && context.topology.only_shard().is_none()) {
                let by = if composed == function { String::new() } else { format!(", by way of {composed},") };
                return Err(reads_elsewhere(&function, &format!("runs{by} SQL that it puts together")));
            }
        }
    }
    if !is_bound && context.topology.only_shard().is_none() {
        check_operators(sql, context)?;
    }
    for table_ref in collected.refs.iter().filter(|table_ref| table_ref.is_written) {
        check_written(table_ref, events_of(statement), context)?;
    }
    Ok(needed.single().filter(|_| is_needed && !is_bound))
}

/// The same for the functions of operators, which are no calls in the text. Those of types of users are left alone: whether an `=` is
/// theirs the text does not tell.
fn check_operators(sql: &str, context: &Context<'_>) -> Result<(), Refusal> {
    for hidden in context.schema.hidden_calls.iter().filter(|hidden| hidden.types.is_empty()) {
        let CalledBy::Operator(operator) = &hidden.by else { continue };
        if Reach::of_function(&hidden.function, context).is_everywhere() {
            continue;
        }
        let is_it = |token: &Token| token.kind == TokenKind::Operator && sql.get(token.start..token.end) == Some(operator);
        if tokens_of(sql, context.settings.has_standard_strings).iter().any(is_it) {
            return Err(reads_elsewhere(&hidden.function, &format!("of operator {operator} may read any table")));
        }
    }
    Ok(())
}

fn reads_elsewhere(function: &TableName, why: &str) -> Refusal {
    let message = format!("function {function} {why}, and one shard alone would run it, over its own rows");
    Refusal::new(RefusalCode::UserFunction, message).with_hint(
        "Call it in a statement that is bound to one shard by key, name the shard with /* trunkline: shard=NAME */, or name the \
         function in the database's safe_functions if it reads no rows of other shards.",
    )
}

fn writes_copy(what: &str, copy: &TableName) -> Refusal {
    let message = format!("{what} writes reference table \"{copy}\", of which every shard has a copy, on one shard");
    Refusal::new(RefusalCode::CodeReach, message).at(copy, None)
}

/// What a statement may fire.
fn events_of(statement: &Statement) -> u8 {
    match statement {
        Statement::Insert(insert) if insert.on.is_none() => Trigger::INSERT,
        Statement::Update(_) => Trigger::UPDATE,
        Statement::Delete(_) => Trigger::DELETE,
        _ => Trigger::ALL,
    }
}

fn check_written(table_ref: &TableRef, events: u8, context: &Context<'_>) -> Result<(), Refusal> {
    written(&table_name(&table_ref.name, context), &table_ref.target, events, context)
}

/// Refuses the write of a table whose triggers or rules reach what the shard of the row does not have, or give the row another key.
///
/// # Errors
/// TL048; TL019 for what would differ between the copies of a reference table.
pub(super) fn written(name: &TableName, target: &Target, events: u8, context: &Context<'_>) -> Result<(), Refusal> {
    let schema = context.schema;
    if schema.triggers.is_empty() && schema.rules.is_empty() {
        return Ok(());
    }
    for table in family(name, context) {
        for trigger in schema.triggers.get(table).into_iter().flatten() {
            if trigger.events & events == 0 || context.topology.safe_functions.contains(&trigger.function) {
                continue;
            }
            let what = format!("trigger function {} of table \"{name}\"", trigger.function);
            reaches(&what, &Reach::of_function(&trigger.function, context), target, name)?;
            if trigger.is_before_row && trigger.events & events != Trigger::DELETE {
                changes_row(&what, &trigger.function, target, context)?;
            }
        }
        for other in schema.rules.get(table).into_iter().flatten() {
            let mut reach = Reach::default();
            reach.add_relation(other, Manner::Written, context);
            let what = format!("a rule of table \"{name}\"");
            if let (Target::Sharded(_), Some(table)) = (target, &reach.table) {
                return Err(elsewhere(&what, table));
            }
            reaches(&what, &reach, target, name)?;
        }
    }
    Ok(())
}

/// A table and all that are a part of it.
fn family<'a>(name: &'a TableName, context: &Context<'a>) -> Vec<&'a TableName> {
    let parents = &context.schema.parents;
    let mut family = vec![name];
    let mut idx = 0;
    while let Some(parent) = family.get(idx).copied() {
        let children = parents.iter().filter(|(child, of)| *of == parent && !family.contains(child)).map(|(child, _)| child);
        let children: Vec<_> = children.collect();
        family.extend(children);
        idx += 1;
    }
    family
}

fn reaches(what: &str, reach: &Reach, target: &Target, name: &TableName) -> Result<(), Refusal> {
    let is_far = match target {
        // Each shard's code is about rows of that shard.
        Target::Sharded(_) => false,
        Target::Fixed(shard) => reach.shards.union(ShardSet::only(*shard)).len() > 1,
        // Every shard runs it: what it writes elsewhere it would write several times.
        _ => !reach.shards.is_empty(),
    };
    match (&reach.written_copy, &reach.table) {
        (Some(copy), _) if !matches!(target, Target::Reference(_)) => Err(writes_copy(what, copy)),
        (_, Some(table)) if is_far && table != name => Err(elsewhere(what, table)),
        _ => Ok(()),
    }
}

fn elsewhere(what: &str, table: &TableName) -> Refusal {
    let message = format!("{what} names table \"{table}\", whose rows are placed otherwise");
    Refusal::new(RefusalCode::CodeReach, message).at(table, None)
}

/// A trigger that gives the row another key, or other values in each copy.
fn changes_row(what: &str, function: &TableName, target: &Target, context: &Context<'_>) -> Result<(), Refusal> {
    let mentions = || context.schema.code.get(function).into_iter().flatten();
    match target {
        Target::Sharded(table) => {
            let Placement::Sharded(key) = &table.placement else { return Ok(()) };
            let is_key = |mention: &&Mention| mention.manner == Manner::Assigned && key.columns.contains(&mention.name);
            match mentions().find(is_key) {
                Some(column) => {
                    let message = format!("{what} sets key column \"{}\", by which the row has been placed", column.name);
                    Err(Refusal::new(RefusalCode::CodeReach, message).at(&table.name, Some(&column.name)))
                }
                None => Ok(()),
            }
        }
        Target::Reference(table) => {
            let differs = |mention: &&Mention| {
                let call = || FunctionCall::named(vec![mention.name.clone()]);
                mention.manner == Manner::Called
                    && !context.schema.user_functions.contains_key(&mention.name)
                    && matches!(call().nature(context), Nature::Time | Nature::Volatile | Nature::Writing)
            };
            let sets_columns = mentions().any(|mention| mention.manner == Manner::Assigned);
            match mentions().find(differs).filter(|_| sets_columns) {
                Some(mention) => {
                    let message = format!(
                        "{what} calls {}, which may differ between the copies of reference table \"{}\"",
                        mention.name, table.name
                    );
                    Err(Refusal::new(RefusalCode::ReferenceDiverges, message).at(&table.name, None).with_hint(
                        "Set the value in the application; or name the function in the database's safe_functions if it gives the same everywhere.",
                    ))
                }
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
