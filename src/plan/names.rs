//! Names in a statement: folding, and which relation a name means under the session's search path.

use std::sync::Arc;

use sqlparser::ast::{Ident, ObjectName, ObjectNamePart};

use super::Context;
use super::views;
use crate::sql::fold_identifier;
use crate::topology::{Placement, Relation, RelationKind, ShardId, TEMPORARY_SCHEMA, Table, TableName, is_temporary_schema};

/// What a table reference means for routing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Sharded(Arc<Table>),
    Reference(Arc<Table>),
    /// Pinned, or at home on the default shard.
    Fixed(ShardId),
    /// A system catalog: every shard has one.
    System,
    /// A view whose query must take its place: shards cannot run it each for itself.
    View(TableName),
    Unconfigured(TableName),
    /// In no shard's catalog: Postgres will say 42P01.
    Missing,
    /// The name of a WITH query.
    Cte,
}

/// An identifier as Postgres stores it.
pub(super) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        None => fold_identifier(&ident.value).into_owned(),
        Some(_) => ident.value.clone(),
    }
}

/// Whether an identifier, folded, is this name.
pub(super) fn is_named(ident: &Ident, name: &str) -> bool {
    match ident.quote_style {
        None => fold_identifier(&ident.value) == name,
        Some(_) => ident.value == name,
    }
}

/// The parts of a dotted name, folded.
pub(super) fn folded_parts(name: &ObjectName) -> Vec<String> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => folded(ident),
            ObjectNamePart::Function(function) => folded(&function.name),
        })
        .collect()
}

/// The last part of a dotted name, folded.
pub(super) fn last_part(name: &ObjectName) -> String {
    folded_parts(name).pop().unwrap_or_default()
}

/// What the table `parts` (`[[catalog,] schema,] name`) means.
pub(super) fn resolve(parts: &[String], context: &Context<'_>) -> Target {
    match qualify(parts, context) {
        Qualified::System => Target::System,
        Qualified::Known(name) => placed(name, context),
        // The parser may have taken a word of Postgres's syntax for a name: such a statement is not sent anywhere.
        Qualified::Nowhere(name) if RESERVED.contains(&name.name.as_str()) => Target::Missing,
        Qualified::Nowhere(name) => match context.topology.default_shard {
            Some(shard) => Target::Fixed(shard),
            None if context.schema.relations.is_empty() => Target::Unconfigured(name),
            None => Target::Missing,
        },
    }
}

/// The snapshot's relation of the table `parts`.
pub(super) fn relation_of(parts: &[String], context: &Context<'_>) -> Option<Arc<Relation>> {
    match qualify(parts, context) {
        Qualified::Known(name) => context.relation(&name).cloned(),
        Qualified::System | Qualified::Nowhere(_) => None,
    }
}

/// A table's name with its schema, found or not.
pub(super) fn table_name(parts: &[String], context: &Context<'_>) -> TableName {
    match qualify(parts, context) {
        Qualified::Known(name) | Qualified::Nowhere(name) => name,
        Qualified::System => TableName::new("pg_catalog", parts.last().cloned().unwrap_or_default()),
    }
}

/// Words that Postgres reserves and that stand near table names.
const RESERVED: &[&str] = &[
    "all",
    "and",
    "as",
    "asc",
    "case",
    "cross",
    "default",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "fetch",
    "for",
    "from",
    "full",
    "group",
    "having",
    "in",
    "inner",
    "intersect",
    "into",
    "is",
    "join",
    "lateral",
    "left",
    "like",
    "limit",
    "natural",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "returning",
    "right",
    "rows",
    "select",
    "some",
    "table",
    "tablesample",
    "then",
    "to",
    "union",
    "unique",
    "using",
    "values",
    "when",
    "where",
    "window",
    "with",
];

enum Qualified {
    System,
    Known(TableName),
    Nowhere(TableName),
}

fn qualify(parts: &[String], context: &Context<'_>) -> Qualified {
    let (schema, name) = match parts {
        [.., schema, name] => (Some(schema), name),
        [name] => (None, name),
        [] => return Qualified::System,
    };
    if let Some(schema) = schema {
        if schema == "pg_catalog" || schema == "information_schema" || schema.starts_with("pg_toast") {
            return Qualified::System;
        }
        let schema = if is_temporary_schema(schema) { TEMPORARY_SCHEMA } else { schema };
        let name = TableName::new(schema, name);
        return if is_known(&name, context) { Qualified::Known(name) } else { Qualified::Nowhere(name) };
    }
    let path = &context.settings.search_path;
    // Before all others, even the system's, unless the path gives it another place: src/backend/catalog/namespace.c.
    if !path.iter().any(|schema| schema == TEMPORARY_SCHEMA) && context.settings.temporaries.relations.contains_key(name) {
        return Qualified::Known(TableName::new(TEMPORARY_SCHEMA, name));
    }
    if !path.iter().any(|schema| schema == "pg_catalog") && is_system_relation(name, context) {
        return Qualified::System;
    }
    for schema in path {
        if schema == "pg_catalog" && is_system_relation(name, context) {
            return Qualified::System;
        }
        let name = TableName::new(schema, name);
        if is_known(&name, context) {
            return Qualified::Known(name);
        }
    }
    Qualified::Nowhere(TableName::new(creation_schema(context), name))
}

/// The schema in which a new table would be made: the first of the search path that exists, as far as the snapshot tells.
fn creation_schema<'a>(context: &Context<'a>) -> &'a str {
    let holds_something = |schema: &str| context.schema.relations.keys().any(|name| name.schema == schema);
    let path = &context.settings.search_path;
    path.iter().find(|schema| *schema == "public" || holds_something(schema)).map_or("public", |schema| schema)
}

fn is_known(name: &TableName, context: &Context<'_>) -> bool {
    context.relation(name).is_some() || context.topology.tables.contains_key(name) || context.settings.made.contains_key(name)
}

fn is_system_relation(name: &str, context: &Context<'_>) -> bool {
    let known = &context.schema.system_relations;
    if known.is_empty() { name.starts_with("pg_") } else { known.contains(name) }
}

/// The placement that the configuration gives a table. A partition's rows are where those of the table are that it is a part of.
fn configured<'a>(name: &TableName, context: &Context<'a>) -> Option<&'a Arc<Table>> {
    let mut name = name;
    // Longer than any chain; catalogs have no circles.
    for _ in 0..32 {
        if let Some(table) = context.topology.tables.get(name) {
            return Some(table);
        }
        name = context.schema.parents.get(name).or_else(|| context.settings.made.get(name)?.as_ref())?;
    }
    None
}

fn placed(name: TableName, context: &Context<'_>) -> Target {
    if let Some(table) = configured(&name, context) {
        return match &table.placement {
            Placement::Sharded(_) => Target::Sharded(Arc::clone(table)),
            Placement::Reference => Target::Reference(Arc::clone(table)),
            Placement::Pinned(shard) => Target::Fixed(*shard),
        };
    }
    if context.settings.made.contains_key(&name) {
        return Target::View(name);
    }
    let relation = context.relation(&name);
    if name.schema == TEMPORARY_SCHEMA {
        let is_table = |kind| matches!(kind, RelationKind::Table | RelationKind::PartitionedTable | RelationKind::Sequence);
        return match relation {
            Some(relation) if !is_table(relation.kind) => Target::Unconfigured(name),
            _ => Target::Fixed(context.topology.home_shard()),
        };
    }
    match (relation, context.topology.default_shard) {
        (Some(relation), _) if matches!(relation.kind, RelationKind::View | RelationKind::MaterializedView) => {
            views::target(&name, relation, context)
        }
        (Some(relation), _) if relation.kind == RelationKind::Sequence => sequence(name, context),
        (_, Some(shard)) => Target::Fixed(shard),
        (_, None) => Target::Unconfigured(name),
    }
}

/// A sequence is where its table is: one of a table with rows on every shard counts on each for itself. Others are the default
/// shard's.
fn sequence(name: TableName, context: &Context<'_>) -> Target {
    let owner = context.schema.sequence_owners.get(&name);
    let of_owner = owner.map(|owner| placed(owner.clone(), context));
    match (of_owner, context.topology.default_shard) {
        (Some(Target::Fixed(shard)), _) => Target::Fixed(shard),
        (None, Some(shard)) => Target::Fixed(shard),
        _ => Target::Unconfigured(name),
    }
}
