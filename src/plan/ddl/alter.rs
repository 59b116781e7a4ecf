//! ALTER TABLE: what would put rows where nobody looks for them is refused.

use std::ops::Range;

use super::place::{Object, Standing, configured_standing, may_be_table, name_of, parts, standing};
use crate::plan::contract::Context;
use crate::plan::functions::{FunctionCall, Nature, time_cast};
use crate::plan::names::{Target, relation_of, resolve};
use crate::plan::refusal::{Refusal, RefusalCode};
use crate::plan::text::tokens_of;
use crate::sql::{KeyType, TableChange, fold_identifier, table_changes};
use crate::topology::{Placement, TableName};

/// Refuses changes after which rows would not be where their table's placement says.
///
/// # Errors
/// TL047, and TL019 for values that would differ between the copies of a reference table.
pub(super) fn check(sql: &str, table: &Object, context: &Context<'_>) -> Result<(), Refusal> {
    let changes = table_changes(sql.as_bytes(), context.settings.has_standard_strings);
    let name = name_of(table, context);
    if changes.is_empty() || !may_be_table(&name, context) {
        return Ok(());
    }
    for change in &changes {
        match change {
            TableChange::Rename(new) => moved(table, &TableName::new(&name.schema, new), context)?,
            TableChange::SetSchema(schema) => moved(table, &TableName::new(schema, &name.name), context)?,
            TableChange::RenameColumn(column) => key_column(table, column, "RENAME of", context)?,
            TableChange::DropColumn(column) => key_column(table, column, "DROP of", context)?,
            TableChange::ColumnType { column, type_words, using } => {
                if using.is_some() || !is_alike(table, column, type_words, context) {
                    key_column(table, column, "another type or value for", context)?;
                }
                let using = using.as_ref().map(|range| (sql, range.clone()));
                using.map_or(Ok(()), |text| diverging(text, table, context))?;
            }
            TableChange::AddColumn(range) => diverging((sql, range.clone()), table, context)?,
            TableChange::Join(other) => joined(table, other, context)?,
            TableChange::Leave { other, is_child: true } => left(other, context)?,
            TableChange::Leave { is_child: false, .. } => left(table, context)?,
        }
    }
    Ok(())
}

/// A new name means what the configuration says of it.
fn moved(table: &Object, new: &TableName, context: &Context<'_>) -> Result<(), Refusal> {
    let old = name_of(table, context);
    let now = standing(table, context)?;
    let by_parent = || {
        let parent = context.schema.parents.get(&old)?;
        standing(&(Some(parent.schema.clone()), parent.name.clone()), context).ok()
    };
    let by_default = || context.topology.default_shard.map(Standing::On);
    let then = configured_standing(new, context).or_else(by_parent).or_else(by_default);
    if then.as_ref() == Some(&now) {
        return Ok(());
    }
    let message = format!("table \"{old}\" cannot become \"{new}\", which the configuration places otherwise");
    let hint =
        format!("Give \"{new}\" in the configuration the placement that \"{old}\" has, and reload it; then rename the table.");
    Err(Refusal::new(RefusalCode::PlacementDdl, message).at(&old, None).with_hint(hint))
}

fn key_column(table: &Object, column: &str, what: &str, context: &Context<'_>) -> Result<(), Refusal> {
    let Target::Sharded(placed) = resolve(&parts(table), context) else { return Ok(()) };
    match &placed.placement {
        Placement::Sharded(key) if key.columns.iter().any(|key_column| key_column == column) => {
            let name = name_of(table, context);
            let message =
                format!("{what} key column \"{column}\" of table \"{name}\" is not supported: its rows are placed by it");
            Err(Refusal::new(RefusalCode::PlacementDdl, message).at(&name, Some(column)))
        }
        _ => Ok(()),
    }
}

/// Whether the values of a key column are placed under another type as they are now.
fn is_alike(table: &Object, column: &str, type_words: &[String], context: &Context<'_>) -> bool {
    let relation = relation_of(&parts(table), context);
    let now = relation.and_then(|relation| crate::plan::columns::key_type(relation.column(column)?));
    let words: Vec<&str> = type_words.iter().map(String::as_str).filter(|word| *word != "pg_catalog").collect();
    match now {
        Some(KeyType::Int2 | KeyType::Int4 | KeyType::Int8) => {
            matches!(words.as_slice(), ["smallint" | "int2" | "integer" | "int" | "int4" | "bigint" | "int8"])
        }
        Some(KeyType::Text) => matches!(words.as_slice(), ["text" | "varchar"] | ["character", "varying"]),
        Some(KeyType::Uuid) => words == ["uuid"],
        Some(KeyType::Date) => words == ["date"],
        Some(KeyType::Timestamp | KeyType::Timestamptz | KeyType::Bpchar) | None => false,
    }
}

/// INHERIT and ATTACH PARTITION: a parent's rows are those of its children.
fn joined(table: &Object, other: &Object, context: &Context<'_>) -> Result<(), Refusal> {
    if standing(table, context)? == standing(other, context)? {
        return Ok(());
    }
    Err(apart(&name_of(table, context), &name_of(other, context)))
}

/// The refusal of a parent and a child whose rows are placed by different rules.
pub(super) fn apart(table: &TableName, other: &TableName) -> Refusal {
    let message =
        format!("tables \"{table}\" and \"{other}\" are placed differently, and the rows of one would be rows of the other");
    Refusal::new(RefusalCode::MixedDdl, message)
        .with_hint("Make the child with CREATE TABLE … PARTITION OF or INHERITS, or give both the same key in the configuration.")
}

/// NO INHERIT and DETACH PARTITION: a child that the configuration does not name has been placed by its parent.
fn left(child: &Object, context: &Context<'_>) -> Result<(), Refusal> {
    let name = name_of(child, context);
    let now = standing(child, context)?;
    let is_lost = context.topology.default_shard.is_some_and(|shard| now != Standing::On(shard));
    if configured_standing(&name, context).is_some() || !is_lost {
        return Ok(());
    }
    let message = format!("table \"{name}\" is placed by its parent, and alone would count as one of the default shard");
    let hint = format!("Name \"{name}\" in the configuration with its parent's key, and reload it; or drop it with DROP TABLE.");
    Err(Refusal::new(RefusalCode::PlacementDdl, message).at(&name, None).with_hint(hint))
}

/// Refuses what would fill a column of a reference table with other values in each copy.
fn diverging((sql, range): (&str, Range<usize>), table: &Object, context: &Context<'_>) -> Result<(), Refusal> {
    if !matches!(resolve(&parts(table), context), Target::Reference(_)) {
        return Ok(());
    }
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let within: Vec<_> = tokens.iter().filter(|token| range.contains(&token.start)).collect();
    let word = |idx: usize| within.get(idx).and_then(|token| sql.get(token.start..token.end)).map(fold_identifier);
    let is_serial = |word: &str| matches!(word, "serial" | "serial2" | "serial4" | "serial8" | "smallserial" | "bigserial");
    for idx in 0..within.len() {
        let Some(word) = word(idx) else { continue };
        let is_call = within.get(idx + 1).is_some_and(|next| next.is_punctuation(b'('));
        let is_diverging = match word.as_ref() {
            "identity" => true,
            word if idx == 0 && is_serial(word) => true,
            word if is_call => may_differ(word, context),
            word => {
                word != "now" && !matches!(word, "transaction_timestamp" | "statement_timestamp") && time_cast(word).is_some()
            }
        };
        if is_diverging {
            let name = name_of(table, context);
            let message = format!("{word} would fill the column with other values in each copy of reference table \"{name}\"");
            return Err(Refusal::new(RefusalCode::ReferenceDiverges, message).at(&name, None).with_hint(
                "Add the column without a default, fill it by UPDATE with literals or parameters, and set the default then.",
            ));
        }
    }
    Ok(())
}

/// Whether a function may give another value on each shard.
fn may_differ(name: &str, context: &Context<'_>) -> bool {
    let call = FunctionCall::named(vec![name.to_owned()]);
    match call.nature(context) {
        Nature::Time | Nature::Server | Nature::Volatile | Nature::Writing => true,
        Nature::User => call.may_be_changing(context),
        Nature::Pure | Nature::SplitAggregate | Nature::OtherAggregate => false,
    }
}

/// Refuses to rename a schema in which the configuration places tables, or that it gives tables by its new name.
///
/// # Errors
/// TL047.
pub(super) fn check_schema(words: &[&str], context: &Context<'_>) -> Result<(), Refusal> {
    let ["alter", "schema", old, "rename", "to", new] = words else { return Ok(()) };
    let is_named = |schema: &str| context.topology.tables.keys().any(|name| name.schema == schema);
    if !is_named(old) && !is_named(new) {
        return Ok(());
    }
    let message = format!("schema \"{old}\" cannot become \"{new}\": the configuration names tables by it");
    Err(Refusal::new(RefusalCode::PlacementDdl, message)
        .with_hint("Leave the schema's name; or make the new schema, with tables that the configuration names in it."))
}
