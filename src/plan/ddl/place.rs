//! Where tables, views, sequences and indexes are, and whether two tables' rows are placed alike.

use std::collections::HashMap;

use crate::plan::contract::{Context, PlanSettings};
use crate::plan::names::{Target, resolve, table_name};
use crate::plan::refusal::{Refusal, RefusalCode};
use crate::plan::views::is_view;
use crate::topology::{Placement, RelationKind, Schema, ShardId, ShardSet, TableName, Topology};

/// An object's name as a statement has it: schema and name, folded.
pub(super) type Object = (Option<String>, String);

/// By what rule a table's rows are where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    By(Placement),
    On(ShardId),
}

impl Standing {
    /// The same rule. Each table by age has watermarks of its own, which move.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::By(Placement::Sharded(one)), Self::By(Placement::Sharded(other))) if one.age_policy().is_some() => {
                one.columns == other.columns && one.age_policy() == other.age_policy()
            }
            _ => self == other,
        }
    }

    pub(super) fn shards(&self, context: &Context<'_>) -> ShardSet {
        match self {
            Self::By(Placement::Pinned(shard)) | Self::On(shard) => ShardSet::only(*shard),
            Self::By(_) => context.topology.all_shards(),
        }
    }
}

pub(super) fn parts(object: &Object) -> Vec<String> {
    object.0.iter().chain([&object.1]).cloned().collect()
}

pub(super) fn name_of(object: &Object, context: &Context<'_>) -> TableName {
    table_name(&parts(object), context)
}

fn unconfigured(object: &Object, context: &Context<'_>) -> Refusal {
    Refusal::unconfigured(&name_of(object, context), &context.topology.database, RefusalCode::UnconfiguredDdl)
}

/// The shards that have a table or view.
///
/// # Errors
/// For a name that is not known.
pub(in crate::plan) fn shards_of(object: &Object, context: &Context<'_>) -> Result<ShardSet, Refusal> {
    let all = context.topology.all_shards();
    let name = name_of(object, context);
    if is_view(&name, context) {
        return Ok(context.schema.place_of(&name, all));
    }
    match resolve(&parts(object), context) {
        Target::Sharded(_) | Target::Reference(_) | Target::System | Target::Cte | Target::View(_) => Ok(all),
        Target::Fixed(shard) => Ok(ShardSet::only(shard)),
        Target::Unconfigured(_) | Target::Missing => Err(unconfigured(object, context)),
    }
}

/// The shards that have a view, a sequence or an index; one that is not known is taken to be everywhere.
pub(super) fn shards_of_other(object: &Object, context: &Context<'_>) -> ShardSet {
    let all = context.topology.all_shards();
    let place = |name: &TableName| context.schema.place_of(name, all);
    let path = &context.settings.search_path;
    match &object.0 {
        Some(schema) => place(&TableName::new(schema, &object.1)),
        None => {
            let names = path.iter().map(|schema| TableName::new(schema, &object.1));
            let known = |name: &TableName| context.schema.places.contains_key(name) || context.relation(name).is_some();
            names.into_iter().find(known).map_or(all, |name| place(&name))
        }
    }
}

/// By what rule the rows of a table are placed.
///
/// # Errors
/// For a name that is not known.
pub(super) fn standing(object: &Object, context: &Context<'_>) -> Result<Standing, Refusal> {
    match resolve(&parts(object), context) {
        Target::Sharded(table) | Target::Reference(table) => Ok(Standing::By(table.placement.clone())),
        Target::Fixed(shard) => Ok(Standing::On(shard)),
        Target::System | Target::Cte | Target::View(_) => Ok(Standing::By(Placement::Reference)),
        Target::Unconfigured(_) | Target::Missing => Err(unconfigured(object, context)),
    }
}

/// The tables that are read with rows of a child which are placed by another rule, or that are such a child and have no rule of their
/// own: tables that were made past the proxy, which refuses to.
pub fn families_apart(topology: &Topology, schema: &Schema) -> HashMap<TableName, (TableName, TableName)> {
    let settings = PlanSettings::default();
    let context = Context { topology, schema, settings: &settings };
    let standing = |name: &TableName| standing(&(Some(name.schema.clone()), name.name.clone()), &context).ok();
    let edges = || schema.parents.iter().chain(schema.other_parents.iter().map(|(child, parent)| (child, parent)));
    let mut apart = HashMap::new();
    for (child, parent) in edges() {
        let (of_child, of_parent) = (standing(child), standing(parent));
        let (Some(of_child), Some(of_parent)) = (of_child, of_parent) else { continue };
        if of_child.is_like(&of_parent) {
            continue;
        }
        let mut reading = vec![parent];
        if configured_standing(child, &context).is_none() {
            // Which of its parents it goes by nobody has said.
            reading.push(child);
        }
        while let Some(name) = reading.pop() {
            if apart.insert(name.clone(), (child.clone(), parent.clone())).is_none() {
                reading.extend(edges().filter(|(child, _)| *child == name).map(|(_, parent)| parent));
            }
        }
    }
    apart
}

/// Refuses what reads or writes such a table.
///
/// # Errors
/// TL065.
pub(in crate::plan) fn check_family(parts: &[String], context: &Context<'_>) -> Result<(), Refusal> {
    let known = &context.schema.apart;
    match (!known.is_empty()).then(|| known.get(&table_name(parts, context))).flatten() {
        Some((child, parent)) => Err(super::alter::apart(child, parent)),
        None => Ok(()),
    }
}

/// The rule that the configuration gives a name, whatever is there now.
pub(super) fn configured_standing(name: &TableName, context: &Context<'_>) -> Option<Standing> {
    context.topology.tables.get(name).map(|table| match &table.placement {
        Placement::Pinned(shard) => Standing::On(*shard),
        placement => Standing::By(placement.clone()),
    })
}

/// Whether a name is that of a table, as far as the snapshot knows: what it does not know may be one.
pub(super) fn may_be_table(name: &TableName, context: &Context<'_>) -> bool {
    context.topology.tables.contains_key(name)
        || context.relation(name).is_none_or(|relation| {
            matches!(relation.kind, RelationKind::Table | RelationKind::PartitionedTable | RelationKind::ForeignTable)
        })
}
