//! Row-level security whose policies read other rows: each shard would judge a row by what it has itself.
//!
//! A policy is local to a table's shards if its subqueries read reference tables, or rows of the same key. Whether they do is asked as a
//! statement would be: with one key for the table, all that it reads must be on that key's shard.

use std::collections::BTreeSet;

use super::bind::{shard_sets, union};
use super::collect::collect;
use super::columns::key_type;
use super::contract::{Context, Params, PlanSettings, Values};
use super::functions::Nature;
use super::names::{Target, resolve, table_name};
use super::reach::{Reach, functions_of};
use super::reader::parse;
use super::refusal::{Refusal, RefusalCode};
use super::text::quoted;
use crate::sql::{Fingerprint, KeyType};
use crate::topology::{Key, KeyMap, KeyValue, Placement, ShardSet, TableName};

/// Views that read views that read views: so many levels are followed.
const MAX_DEPTH: usize = 16;

/// Refuses a table with a policy that reads rows beyond those of the shard.
///
/// # Errors
/// TL048.
pub(super) fn check(parts: &[String], target: &Target, context: &Context<'_>) -> Result<(), Refusal> {
    if context.schema.policies.is_empty() {
        return Ok(());
    }
    let name = table_name(parts, context);
    for read in tables_of_view(&name, context, MAX_DEPTH) {
        let parts = [read.schema.clone(), read.name.clone()];
        of_table(&read, &resolve(&parts, context), context)?;
    }
    of_table(&name, target, context)
}

/// The tables that a view reads, through others; none of what is no view.
fn tables_of_view(name: &TableName, context: &Context<'_>, depth: usize) -> BTreeSet<TableName> {
    let mut tables = BTreeSet::new();
    for read in context.schema.views.get(name).filter(|_| depth > 0).into_iter().flat_map(|view| &view.reads) {
        tables.extend(tables_of_view(read, context, depth - 1));
        tables.insert(read.clone());
    }
    tables
}

fn of_table(name: &TableName, target: &Target, context: &Context<'_>) -> Result<(), Refusal> {
    let Some(policies) = context.schema.policies.get(name) else { return Ok(()) };
    if policies.iter().all(|policy| is_local(policy, name, target, context).unwrap_or(false)) {
        return Ok(());
    }
    let message = format!("a row-level security policy of table \"{name}\" reads rows that its shards do not have");
    Err(Refusal::new(RefusalCode::CodeReach, message).at(name, None).with_hint(
        "Let the policy read reference tables or rows of the same key, and call functions that read no tables: IMMUTABLE ones, or those \
         that safe_functions names.",
    ))
}

/// Whether a policy's expression can be judged by each shard for itself; `None` if that cannot be told.
fn is_local(policy: &str, name: &TableName, target: &Target, context: &Context<'_>) -> Option<bool> {
    let settings = PlanSettings { search_path: Vec::new(), ..PlanSettings::default() };
    let context = &Context { settings: &settings, ..*context };
    let keys = match target {
        Target::Sharded(table) => match &table.placement {
            Placement::Sharded(key) => sample(key, name, context)?,
            Placement::Reference | Placement::Pinned(_) => String::new(),
        },
        _ => String::new(),
    };
    let sql = format!("SELECT 1 FROM {}.{} WHERE {keys}({policy})", quoted(&name.schema), quoted(&name.name));
    let parsed = parse(&sql, true).ok()?;
    let literals = Fingerprint::of(&sql, true).literals;
    let collected = collect(&parsed, &literals, context);
    let is_known = |target: &Target| !matches!(target, Target::View(_) | Target::Unconfigured(_) | Target::Missing);
    let reads_tables = collected.functions.iter().any(|call| {
        let reach = |function: &TableName| !Reach::of_function(function, context).is_everywhere();
        call.nature(context) == Nature::User && functions_of(call, context).iter().any(reach)
    });
    let values = Values { sql: &sql, literals: &literals, params: Params::default(), now_micros: 0 };
    let shards = union(&shard_sets(&collected, &values, context));
    let own = match target {
        Target::Fixed(shard) => ShardSet::only(*shard),
        Target::Sharded(_) => shards,
        _ => ShardSet::EMPTY,
    };
    let is_on_own = shards == own && shards.len() <= 1;
    Some(is_on_own && !reads_tables && collected.refs.iter().all(|table_ref| is_known(&table_ref.target)))
}

/// Terms by which the table has one key, each followed by AND.
fn sample(key: &Key, name: &TableName, context: &Context<'_>) -> Option<String> {
    let relation = context.schema.relation(name)?;
    let mut terms = String::new();
    let mut map = &key.map;
    for column in &key.columns {
        let (literal, next) = match map {
            KeyMap::Hash(level) => (any_value(key_type(relation.column(column)?)?)?.to_owned(), level.branches.first()?),
            KeyMap::List(level) => {
                let (value, branch) = level.values.iter().min_by_key(|(value, _)| format!("{value:?}"))?;
                let literal = match value {
                    KeyValue::Text(text) => format!("'{}'", text.replace('\'', "''")),
                    KeyValue::Int(number) => number.to_string(),
                    _ => return None,
                };
                (literal, level.branches.get(*branch)?)
            }
            KeyMap::Age(_) | KeyMap::Shard(_) => return None,
        };
        terms.push_str(&format!("{}.{} = {literal} AND ", quoted(&name.name), quoted(column)));
        map = next;
    }
    Some(terms)
}

fn any_value(key_type: KeyType) -> Option<&'static str> {
    Some(match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => "1",
        KeyType::Text => "'a'",
        KeyType::Uuid => "'00000000-0000-4000-8000-000000000001'",
        KeyType::Date => "'2000-01-01'",
        KeyType::Bpchar | KeyType::Timestamp | KeyType::Timestamptz => return None,
    })
}
