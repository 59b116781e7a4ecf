//! The tables that a SELECT's expressions can name.

use std::sync::Arc;

use sqlparser::ast::{Ident, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor, TableWithJoins};

use super::collect::{Collector, KeyColumn};
use super::derived::{self, Exposed};
use super::names::{folded, folded_parts, last_part, relation_of};
use crate::topology::Relation;

/// One entry of FROM.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// `None`: a function, a subquery, a WITH query.
    pub(super) ref_idx: Option<usize>,
    pub(super) alias: String,
    /// Its columns, where the snapshot knows them and no alias renames them.
    pub(super) relation: Option<Arc<Relation>>,
    /// Names of its key columns.
    pub(super) key_columns: Vec<String>,
    /// Of a subquery or a WITH query: columns that are keys of the tables inside.
    pub(super) exposed: Exposed,
    /// Whether an outer join may fill it with NULLs.
    pub(super) is_nullable: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) items: Vec<Item>,
    /// Columns merged by USING in joins that are not FULL.
    pub(super) usings: Vec<String>,
    /// Whether names that are not here may mean the query around it.
    pub(super) sees_outer: bool,
}

/// A column of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ItemColumn {
    pub(super) scope_idx: usize,
    pub(super) item_idx: usize,
}

impl Item {
    /// Whether the item has the column; `None`: not known.
    pub(super) fn has(&self, column: &str) -> Option<bool> {
        match &self.relation {
            Some(relation) => Some(relation.column(column).is_some()),
            None if self.key_columns.iter().any(|key| key == column) => Some(true),
            None if self.exposed.iter().any(|(name, _)| name == column) => Some(true),
            None => None,
        }
    }

    pub(super) fn key_column(&self, column: &str) -> Option<KeyColumn> {
        let column_idx = self.key_columns.iter().position(|key| key == column)?;
        Some(KeyColumn { ref_idx: self.ref_idx?, column_idx })
    }

    /// The keys that a column is: the table's own, or those that show through a subquery.
    pub(super) fn keys_named(&self, column: &str) -> Vec<KeyColumn> {
        let inner = self.exposed.iter().filter(|(name, _)| name == column).map(|(_, key)| *key);
        self.key_column(column).into_iter().chain(inner).collect()
    }

    /// The table references that conditions on the item's columns can restrict, with whether NULLs may stand for their rows.
    pub(super) fn restricted_refs(&self) -> Vec<(usize, bool)> {
        let mut refs: Vec<(usize, bool)> = self.ref_idx.into_iter().map(|ref_idx| (ref_idx, self.is_nullable)).collect();
        for (_, key) in &self.exposed {
            if !refs.iter().any(|(ref_idx, _)| *ref_idx == key.ref_idx) {
                // An outer join inside may fill the column with NULLs.
                refs.push((key.ref_idx, true));
            }
        }
        refs
    }
}

impl Scope {
    /// The items whose column `idents` names; several for a column merged by USING.
    pub(super) fn find(&self, idents: &[String]) -> Vec<usize> {
        let position = |alias: &str| self.items.iter().position(|item| item.alias == alias);
        match idents {
            [column] => {
                let all: Vec<usize> = self
                    .items
                    .iter()
                    .enumerate()
                    .filter(|(_, item)| item.has(column) == Some(true))
                    .map(|(idx, _)| idx)
                    .collect();
                if all.len() > 1 && !self.usings.contains(column) { Vec::new() } else { all }
            }
            [.., table, _column] => position(table).into_iter().collect(),
            [] => Vec::new(),
        }
    }

    /// Whether `idents` certainly name nothing of this scope.
    fn certainly_lacks(&self, idents: &[String]) -> bool {
        match idents {
            [column] => self.items.iter().all(|item| item.has(column) == Some(false)),
            [.., table, _column] => self.items.iter().all(|item| item.alias != *table),
            [] => false,
        }
    }
}

/// The columns that `idents` name, searched from the innermost scope outwards.
pub(super) fn find_column(scopes: &[Scope], idents: &[Ident]) -> Vec<ItemColumn> {
    let names: Vec<String> = idents.iter().map(folded).collect();
    for (scope_idx, scope) in scopes.iter().enumerate().rev() {
        let found = scope.find(&names);
        if !found.is_empty() {
            return found.into_iter().map(|item_idx| ItemColumn { scope_idx, item_idx }).collect();
        }
        if !scope.sees_outer || !scope.certainly_lacks(&names) {
            break;
        }
    }
    Vec::new()
}

/// The items of a FROM list, and the columns that USING merges.
pub(super) fn items_of(collector: &mut Collector<'_>, from: &[TableWithJoins]) -> (Vec<Item>, Vec<String>) {
    let (mut items, mut usings) = (Vec::new(), Vec::new());
    for tree in from {
        add_tree(collector, tree, &mut items, &mut usings);
    }
    (items, usings)
}

fn add_tree(collector: &mut Collector<'_>, tree: &TableWithJoins, items: &mut Vec<Item>, usings: &mut Vec<String>) {
    let start = items.len();
    add_factor(collector, &tree.relation, items, usings);
    for join in &tree.joins {
        let right = items.len();
        add_factor(collector, &join.relation, items, usings);
        let nullable = match side(&join.join_operator) {
            Side::Inner => 0..0,
            Side::Left => right..items.len(),
            Side::Right => start..right,
            Side::Full | Side::Other => start..items.len(),
        };
        for item in items.get_mut(nullable).unwrap_or_default() {
            item.is_nullable = true;
        }
        if let (Some(JoinConstraint::Using(columns)), true) =
            (constraint(&join.join_operator), side(&join.join_operator) != Side::Full)
        {
            usings.extend(columns.iter().map(last_part));
        }
    }
}

fn add_factor(collector: &mut Collector<'_>, factor: &TableFactor, items: &mut Vec<Item>, usings: &mut Vec<String>) {
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => {
            let item = table_item(collector, name, alias.as_ref());
            items.push(item);
        }
        TableFactor::NestedJoin { table_with_joins, alias: None } => add_tree(collector, table_with_joins, items, usings),
        TableFactor::Derived { subquery, alias, .. } => {
            let exposed = derived::of_subquery(collector, subquery, alias.as_ref());
            items.push(Item { exposed, ..opaque_item(alias.as_ref()) });
        }
        TableFactor::Table { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => items.push(opaque_item(alias.as_ref())),
        _ => items.push(opaque_item(None)),
    }
}

fn opaque_item(alias: Option<&TableAlias>) -> Item {
    Item {
        ref_idx: None,
        alias: alias.map(|alias| folded(&alias.name)).unwrap_or_default(),
        relation: None,
        key_columns: Vec::new(),
        exposed: Vec::new(),
        is_nullable: false,
    }
}

/// The item of a table; a list of column aliases hides its key.
pub(super) fn table_item(collector: &mut Collector<'_>, name: &ObjectName, alias: Option<&TableAlias>) -> Item {
    let ref_idx = collector.table_ref(name);
    let is_renamed = alias.is_some_and(|alias| !alias.columns.is_empty());
    let is_cte = collector.found.refs[ref_idx].target == super::names::Target::Cte;
    let relation = if is_renamed || is_cte { None } else { relation_of(&folded_parts(name), collector.context) };
    let key_columns = match collector.found.refs[ref_idx].key() {
        Some(key) if !is_renamed => key.columns.clone(),
        _ => Vec::new(),
    };
    let exposed = if is_cte && !is_renamed { collector.exposed_by_cte(&last_part(name)) } else { Vec::new() };
    let alias = alias.map_or_else(|| last_part(name), |alias| folded(&alias.name));
    Item { ref_idx: Some(ref_idx), alias, relation, key_columns, exposed, is_nullable: false }
}

/// Which side of a join may be filled with NULLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Inner,
    /// LEFT JOIN: the right side may be.
    Left,
    Right,
    Full,
    /// Not Postgres's.
    Other,
}

pub(super) fn side(operator: &JoinOperator) -> Side {
    match operator {
        JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => Side::Inner,
        JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => Side::Left,
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) => Side::Right,
        JoinOperator::FullOuter(_) => Side::Full,
        _ => Side::Other,
    }
}

pub(super) fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::CrossJoin(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}
