//! Routing hints: `/* trunkline: shard=NAME */`, `/* trunkline: key=VALUE */`.

use super::collect::{Collected, collect};
use super::columns::key_type;
use super::contract::{Access, Context, Plan};
use super::insert::placement_refusal;
use super::names::table_name;
use super::reader::parse;
use super::refusal::{Refusal, RefusalCode};
use super::text::tokens_of;
use crate::sql::{Literal, canonical_text};
use crate::topology::{Key, Placement, ShardId, TableName};

const MARK: &str = "trunkline:";

/// What a hint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hint {
    Shard(ShardId),
    /// One value per key column.
    Key(Vec<String>),
}

/// The hint in the statement's comments.
///
/// # Errors
/// `BadHint` for a comment that begins with `trunkline:` and says nothing known, and for two hints.
pub(super) fn find(sql: &str, context: &Context<'_>) -> Result<Option<Hint>, Refusal> {
    if !sql.contains(MARK) {
        return Ok(None);
    }
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let starts = tokens.iter().map(|token| token.start).chain([sql.len()]);
    let ends = std::iter::once(0).chain(tokens.iter().map(|token| token.end));
    let mut found = None;
    for (from, to) in ends.zip(starts) {
        let gap = sql.get(from..to).unwrap_or_default();
        for words in hints_in(gap) {
            let hint = read(words, context)?;
            if found.replace(hint).is_some() {
                return Err(Refusal::new(RefusalCode::BadHint, "a statement takes one routing hint"));
            }
        }
    }
    Ok(found)
}

/// The words after `trunkline:` of each comment that begins with it.
fn hints_in(gap: &str) -> Vec<&str> {
    let mut all = Vec::new();
    for (at, _) in gap.match_indices(MARK) {
        let before = gap.get(..at).unwrap_or_default().trim_end();
        let rest = gap.get(at + MARK.len()..).unwrap_or_default();
        if before.ends_with("/*") {
            all.push(rest.split("*/").next().unwrap_or_default().trim());
        } else if before.ends_with("--") {
            all.push(rest.lines().next().unwrap_or_default().trim());
        }
    }
    all
}

fn read(words: &str, context: &Context<'_>) -> Result<Hint, Refusal> {
    let bad = |what: String| Refusal::new(RefusalCode::BadHint, what);
    let (name, value) = words.split_once('=').ok_or_else(|| bad(format!("routing hint \"{words}\" is not understood")))?;
    let value = value.trim();
    match name.trim() {
        "shard" => {
            let unknown = || {
                let known: Vec<&str> = context.topology.shards.iter().map(|shard| shard.name.as_str()).collect();
                bad(format!("routing hint names unknown shard \"{value}\""))
                    .with_hint(format!("Shards are {}.", known.join(", ")))
            };
            context.topology.shard_named(value).map(Hint::Shard).ok_or_else(unknown)
        }
        "key" if !value.is_empty() => Ok(Hint::Key(key_values(value))),
        other => Err(bad(format!("routing hint \"{other}\" is not known"))),
    }
}

/// The values of a key, with commas between.
fn key_values(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().trim_matches('\'').to_owned()).collect()
}

/// Whether the statement has a hint of its own, which goes before those of the session.
pub fn has_hint(sql: &str, context: &Context<'_>) -> bool {
    !matches!(find(sql, context), Ok(None))
}

/// The shard of a key that the session has set; `None` for a statement without a table of such a key.
///
/// # Errors
/// `BadHint` for what is no value of the tables' keys, and where they mean different shards.
pub fn shard_of_key(key: &str, sql: &str, literals: &[Literal], context: &Context<'_>) -> Result<Option<ShardId>, Refusal> {
    let values = key_values(key);
    let Ok(parsed) = parse(sql, context.settings.has_standard_strings) else { return Ok(None) };
    let collected = collect(&parsed, literals, context);
    let has_such_key = collected.refs.iter().filter_map(|of| of.key()).any(|key| key.columns.len() == values.len());
    if has_such_key { shard_of(&values, sql, literals, context).map(Some) } else { Ok(None) }
}

/// The plan of a statement under a hint for `shard`, given its plan without one: reads go where the hint says, writes only if
/// no row comes to lie on another shard than its key says and no copy of a reference table is left out.
///
/// # Errors
/// `HintMisplaces`, and whatever is refused for another reason than that the statement is about several shards.
pub fn hinted(shard: ShardId, access: Access, sql: &str, outcome: Result<Plan, Refusal>) -> Result<Plan, Refusal> {
    let misplaced =
        |what: &str| Err(Refusal::new(RefusalCode::HintMisplaces, format!("the routing hint names a shard on which {what}")));
    match outcome {
        Ok(Plan::Command(command)) => Ok(Plan::Command(command)),
        Ok(Plan::Explain(explain)) => {
            let access = if explain.plan.writes_several() { Access::Write } else { Access::Read };
            hinted(shard, access, sql, Ok(explain.plan.clone()))
        }
        _ if access == Access::Read => Ok(Plan::Route { shard, access }),
        Ok(Plan::Route { shard: own, .. }) if own != shard => misplaced("the rows of the statement are not"),
        Ok(Plan::Insert(_) | Plan::CopyIn(_)) => misplaced("not all rows of the statement belong"),
        Ok(Plan::Everywhere { .. }) => misplaced("only one copy of the table is"),
        Ok(
            Plan::Route { .. }
            | Plan::AnyOne { .. }
            | Plan::Merge(_)
            | Plan::Combine(_)
            | Plan::Gather(_)
            | Plan::CopyOut(_)
            | Plan::Cursor(_),
        ) => Ok(Plan::Route { shard, access }),
        Err(refusal) if refusal.code == RefusalCode::WriteOnManyShards => Ok(Plan::Route { shard, access }),
        Err(refusal) if is_for_a_hint(refusal.code) && !places_rows(sql) => Ok(Plan::Route { shard, access }),
        Err(refusal) => Err(refusal),
    }
}

/// Whether a shard's name is what the statement lacks.
fn is_for_a_hint(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::Unparsed | RefusalCode::ServerFunction | RefusalCode::UserFunction | RefusalCode::Homeless)
}

/// Whether a text may put rows into tables.
fn places_rows(sql: &str) -> bool {
    let words = ["insert", "merge", "copy", "update"];
    tokens_of(sql, true).iter().any(|token| words.iter().any(|word| token.is_word(sql.as_bytes(), word)))
}

/// The shard that a key hint means: that of the statement's sharded tables, or of every sharded table where the statement cannot
/// be read. All of them must agree.
pub(super) fn shard_of(values: &[String], sql: &str, literals: &[Literal], context: &Context<'_>) -> Result<ShardId, Refusal> {
    let collected = parse(sql, context.settings.has_standard_strings).ok().map(|parsed| collect(&parsed, literals, context));
    let tables = tables(collected.as_ref(), context);
    let mut found = None;
    for (table, key) in tables.iter().filter(|(_, key)| key.columns.len() == values.len()) {
        let shard = place(table, key, values, context)?;
        if found.is_some_and(|other| other != shard) {
            return Err(Refusal::new(
                RefusalCode::BadHint,
                "the key of the routing hint means different shards for different tables",
            )
            .with_hint("Name the shard: /* trunkline: shard=NAME */."));
        }
        found = Some(shard);
    }
    found.ok_or_else(|| {
        Refusal::new(RefusalCode::BadHint, "no sharded table of the statement has a key of as many columns as the hint")
    })
}

fn tables<'a>(collected: Option<&'a Collected>, context: &Context<'a>) -> Vec<(TableName, &'a Key)> {
    let named: Vec<(TableName, &Key)> = collected
        .map(|collected| collected.refs.iter().filter_map(|of| Some((table_name(&of.name, context), of.key()?))).collect())
        .unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let all = context.topology.tables.values();
    all.filter_map(|table| match &table.placement {
        Placement::Sharded(key) => Some((table.name.clone(), key)),
        Placement::Reference | Placement::Pinned(_) => None,
    })
    .collect()
}

fn place(table: &TableName, key: &Key, values: &[String], context: &Context<'_>) -> Result<ShardId, Refusal> {
    let relation = context.schema.relation(table);
    let mut row = Vec::with_capacity(values.len());
    for (name, value) in key.columns.iter().zip(values) {
        let key_type = relation.and_then(|relation| key_type(relation.column(name)?));
        let value = key_type.and_then(|key_type| canonical_text(value, key_type, &context.settings.time_zone).ok());
        row.push(value.ok_or_else(|| {
            Refusal::new(
                RefusalCode::BadHint,
                format!("the key of the routing hint is no value of column \"{name}\" of \"{table}\""),
            )
        })?);
    }
    key.shard_of(&row).map_err(|error| placement_refusal(&error, table))
}
