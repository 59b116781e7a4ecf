//! COPY: where its rows go, and how they are split.

mod csv;
mod options;
mod scan;
mod splitter;

use std::ops::Range;
use std::sync::Arc;

pub use options::{CopyFormat, Layout};
use options::{CopyStatement, Relation as CopyRelation};
pub use splitter::{CopySplitter, MAX_COPY_ROW_BYTES};

use super::bind::{Body, refuse_unplaced};
use super::columns::key_type;
use super::contract::{Access, Context, CopyOutPlan, CopyPlan, CopyRows, Plan};
use super::ddl::check_family;
use super::insert::default_slot;
use super::names::{Target, relation_of, resolve, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::slot::Operand;
use super::template::inner;
use super::text::quoted;
use super::{policy, reach, views};
use crate::sql::{CopyDirection, KeyType, Literal};
use crate::topology::{Column, Key, Placement, ShardSet, TableName, Trigger};

/// How to read rows of COPY data and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct CopySplit {
    pub(super) table: TableName,
    pub(super) key: Key,
    pub(super) fields: Vec<KeyField>,
    pub(super) format: Format,
}

/// A key column's place in the data.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeyField {
    pub(super) column: Column,
    pub(super) key_type: KeyType,
    /// `None`: left out, and its default is the transaction's time.
    pub(super) field_idx: Option<usize>,
}

/// The data's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) is_csv: bool,
    pub(super) has_header: bool,
    pub(super) delimiter: u8,
    pub(super) null: Vec<u8>,
    pub(super) quote: u8,
    pub(super) escape: u8,
    /// Names of columns of FORCE_NULL and FORCE_NOT_NULL; `*` for all.
    pub(super) force_null: Vec<String>,
    pub(super) force_not_null: Vec<String>,
}

/// Analyses a COPY statement of a database with several shards.
pub(super) fn analyze(sql: &str, literals: &[Literal], direction: CopyDirection, context: &Context<'_>) -> Result<Body, Refusal> {
    let statement = options::read(sql, context.settings.has_standard_strings)?;
    match (&statement.relation, direction) {
        (CopyRelation::Query { start, end }, CopyDirection::Out) => {
            inner(sql, literals, *start..*end, RefusalCode::CopyOut, context)
        }
        (CopyRelation::Query { .. }, _) => {
            Err(Refusal::new(RefusalCode::CopyServer, "COPY of a query to the server's files is not supported"))
        }
        (CopyRelation::Table(parts), direction) => {
            let (target, name) = (resolve(parts, context), table_name(parts, context));
            if views::is_view(&name, context) && !matches!(target, Target::Fixed(_)) {
                return view(&name, direction, context).map(Body::Fixed);
            }
            refuse_unplaced(&target, parts, context)?;
            policy::check(parts, &target, context)?;
            check_family(parts, context)?;
            if direction == CopyDirection::In {
                reach::written(&name, &target, Trigger::INSERT, context)?;
            }
            match (&target, direction) {
                (Target::Sharded(table), CopyDirection::Out) => {
                    Ok(Body::Fixed(table_out((sql, &name), &statement, &table.placement, context)))
                }
                _ => table(&statement, &name, &target, direction, context).map(Body::Fixed),
            }
        }
    }
}

/// Servers refuse COPY of a view, but for one into a view whose triggers take the rows.
fn view(name: &TableName, direction: CopyDirection, context: &Context<'_>) -> Result<Plan, Refusal> {
    match direction {
        CopyDirection::Out => Ok(Plan::AnyOne { access: Access::Read }),
        _ if context.schema.views.get(name).is_some_and(|view| !view.has_write_rules) => {
            Ok(Plan::AnyOne { access: Access::Write })
        }
        _ => Err(views::write_refusal(name)),
    }
}

fn table(
    statement: &CopyStatement,
    name: &TableName,
    target: &Target,
    direction: CopyDirection,
    context: &Context<'_>,
) -> Result<Plan, Refusal> {
    let access = if direction == CopyDirection::Out { Access::Read } else { Access::Write };
    match (target, direction) {
        (Target::Fixed(shard), _) => Ok(Plan::Route { shard: *shard, access }),
        (Target::System | Target::Missing | Target::Cte, _) => Ok(Plan::AnyOne { access: Access::Write }),
        (_, CopyDirection::Server) => {
            Err(Refusal::new(RefusalCode::CopyServer, "COPY of the server's files across shards is not supported").at(name, None))
        }
        (Target::Reference(_), CopyDirection::Out) => Ok(Plan::AnyOne { access }),
        (Target::Reference(_), CopyDirection::In) => {
            refuse_diverging(statement, name, context)?;
            Ok(Plan::CopyIn(Arc::new(CopyPlan { shards: context.topology.all_shards(), split: None })))
        }
        (Target::Sharded(table), _) => match &table.placement {
            Placement::Sharded(key) => split(statement, name, key, context),
            Placement::Reference | Placement::Pinned(_) => {
                Err(Refusal::new(RefusalCode::CopyOption, "COPY of this table is not supported"))
            }
        },
        (Target::View(_) | Target::Unconfigured(_), _) => {
            Err(Refusal::new(RefusalCode::UnconfiguredTable, "table is not in the configuration"))
        }
    }
}

/// The data of a whole table: that of each shard.
fn table_out((sql, name): (&str, &TableName), statement: &CopyStatement, placement: &Placement, context: &Context<'_>) -> Plan {
    let shards = match placement {
        Placement::Sharded(key) => key.all_shards(),
        Placement::Pinned(shard) => ShardSet::only(*shard),
        Placement::Reference => ShardSet::EMPTY,
    };
    match shards.single() {
        Some(shard) => Plan::Route { shard, access: Access::Read },
        None if shards.is_empty() => Plan::AnyOne { access: Access::Read },
        None => {
            let columns = copied_columns(statement, name, context).iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            let query = format!("SELECT {columns} FROM ONLY {}.{}", quoted(&name.schema), quoted(&name.name));
            each(shards, (sql.to_owned(), query), statement)
        }
    }
}

/// The columns in the order of the data. Without a list they are those of the table, but for generated ones.
fn copied_columns(statement: &CopyStatement, name: &TableName, context: &Context<'_>) -> Vec<String> {
    if !statement.columns.is_empty() {
        return statement.columns.clone();
    }
    let is_copied = |column: &&Column| column.default != crate::topology::ColumnDefault::Generated;
    let relation = relation_of(&[name.schema.clone(), name.name.clone()], context);
    relation.iter().flat_map(|relation| relation.columns.iter()).filter(is_copied).map(|column| column.name.clone()).collect()
}

fn each(shards: ShardSet, (text, query): (String, String), statement: &CopyStatement) -> Plan {
    let rows = CopyRows::Each { shards, text, query };
    Plan::CopyOut(Arc::new(CopyOutPlan { rows, format: statement.out_format() }))
}

/// The data of a query on several shards, which stands in this part of the text and has this plan. Where shards need only be
/// read one after the other, each of them writes the data.
pub(super) fn answer(sql: &str, query: Range<usize>, plan: Plan, context: &Context<'_>) -> Result<Plan, Refusal> {
    let statement = options::read(sql, context.settings.has_standard_strings)?;
    if let Plan::Merge(merge) = &plan
        && merge.n_hidden == 0
        && (merge.limit, merge.offset) == (None, 0)
    {
        let (before, after) = (sql.get(..query.start).unwrap_or_default(), sql.get(query.end..).unwrap_or_default());
        // A comment may stand at its end.
        return Ok(each(merge.shards, (format!("{before}{}\n{after}", merge.text), merge.text.clone()), &statement));
    }
    if let Some(encoding) = statement.foreign_encoding() {
        let message = format!("COPY TO with ENCODING '{encoding}' of sorted, grouped or gathered rows is not supported");
        return Err(Refusal::new(RefusalCode::CopyOption, message).with_hint("SET client_encoding instead."));
    }
    let rows = CopyRows::Answer { query, plan: Box::new(plan) };
    Ok(Plan::CopyOut(Arc::new(CopyOutPlan { rows, format: statement.out_format() })))
}

/// Columns that COPY leaves out are filled on each shard by itself.
fn refuse_diverging(statement: &CopyStatement, name: &TableName, context: &Context<'_>) -> Result<(), Refusal> {
    use crate::topology::ColumnDefault::{Now, Volatile};
    let Some(relation) = context.relation(name) else { return Ok(()) };
    let left_out = |column: &&Column| !statement.columns.is_empty() && !statement.columns.contains(&column.name);
    match relation.columns.iter().filter(left_out).find(|column| matches!(column.default, Volatile(_) | Now)) {
        Some(column) => {
            let message = format!("the default of column \"{}\" would differ between the copies of \"{name}\"", column.name);
            Err(Refusal::new(RefusalCode::ReferenceDiverges, message).at(name, Some(&column.name)))
        }
        None => Ok(()),
    }
}

fn split(statement: &CopyStatement, name: &TableName, key: &Key, context: &Context<'_>) -> Result<Plan, Refusal> {
    if let Some(shard) = key.all_shards().single() {
        return Ok(Plan::Route { shard, access: Access::Write });
    }
    let Some(format) = statement.format.clone() else {
        return Err(
            Refusal::new(RefusalCode::CopyOption, "COPY in binary format into a sharded table is not supported").at(name, None)
        );
    };
    if statement.foreign_encoding().is_some() {
        return Err(
            Refusal::new(RefusalCode::CopyOption, "COPY with an ENCODING into a sharded table is not supported").at(name, None)
        );
    }
    let Some(relation) = relation_of(&[name.schema.clone(), name.name.clone()], context) else {
        return Err(
            Refusal::new(RefusalCode::UnknownColumns, format!("the columns of table \"{name}\" are not known")).at(name, None)
        );
    };
    let names = copied_columns(statement, name, context);
    let mut fields = Vec::with_capacity(key.columns.len());
    for column_name in &key.columns {
        let refuse = |code, what: &str| {
            let message = format!("key column \"{column_name}\" of table \"{name}\" {what}");
            Refusal::new(code, message).at(name, Some(column_name))
        };
        let column = relation.column(column_name).ok_or_else(|| refuse(RefusalCode::UnknownColumns, "is not known"))?;
        let key_type = key_type(column)
            .ok_or_else(|| refuse(RefusalCode::OpaqueKey, "is of a type or collation by which rows cannot be placed"))?;
        let field_idx = names.iter().position(|other| other == column_name);
        if field_idx.is_none() && default_slot(column, name)?.operand == Operand::Null {
            let message = format!("COPY into \"{name}\" must set its shard key column \"{column_name}\"");
            return Err(Refusal::new(RefusalCode::MissingKey, message).at(name, Some(column_name)));
        }
        fields.push(KeyField { column: column.clone(), key_type, field_idx });
    }
    let split = CopySplit { table: name.clone(), key: key.clone(), fields, format };
    Ok(Plan::CopyIn(Arc::new(CopyPlan { shards: key.all_shards(), split: Some(split) })))
}
