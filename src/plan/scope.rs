//! The tables that a SELECT's expressions can name.

use std::ops::Range;
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
    /// The names of a subquery's columns, where it tells all.
    pub(super) named: Option<Vec<String>>,
    /// Whether an outer join may fill it with NULLs.
    pub(super) is_nullable: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) items: Vec<Item>,
    /// Columns merged by USING, those of inner joins before those of the joins around them.
    pub(super) usings: Vec<Using>,
    /// Whether names that are not here may mean the query around it.
    pub(super) sees_outer: bool,
}

/// A column that a join's USING merges.
#[derive(Debug, Clone)]
pub(super) struct Using {
    pub(super) column: String,
    pub(super) side: Side,
    /// The join's items.
    pub(super) items: Range<usize>,
    /// Items of its left side whose own column has the merged value in every row that the side gives.
    pub(super) left: Vec<usize>,
    pub(super) right: Vec<usize>,
}

impl Using {
    /// Items whose own column has the merged value in every row of the join: of an outer join the side that it preserves. What
    /// FULL merges is of neither.
    fn carriers(&self) -> Vec<usize> {
        match self.side {
            Side::Inner => [self.left.as_slice(), &self.right].concat(),
            Side::Left => self.left.clone(),
            Side::Right => self.right.clone(),
            Side::Full | Side::Other => Vec::new(),
        }
    }
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

    /// Whether a column is to be had under this name; `None`: not known.
    pub(super) fn shows(&self, column: &str) -> Option<bool> {
        match &self.named {
            Some(named) => Some(named.iter().any(|name| name == column)),
            None => self.has(column),
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
    /// The items whose column `idents` names; several for a column merged by USING, whose value all of them have.
    pub(super) fn find(&self, idents: &[String]) -> Vec<usize> {
        let position = |alias: &str| self.items.iter().position(|item| item.alias == alias);
        match idents {
            [column] => match self.usings.iter().rfind(|using| using.column == *column) {
                Some(using) => using.carriers(),
                None => Some(owners(&self.items, 0..self.items.len(), column)).filter(|all| all.len() == 1).unwrap_or_default(),
            },
            [.., table, _column] => position(table).into_iter().collect(),
            [] => Vec::new(),
        }
    }

    /// Whether USING merges columns of this name.
    pub(super) fn is_merged(&self, column: &str) -> bool {
        self.usings.iter().any(|using| using.column == column)
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

/// The items in `range` that certainly have the column.
fn owners(items: &[Item], range: Range<usize>, column: &str) -> Vec<usize> {
    range.filter(|&idx| items.get(idx).is_some_and(|item| item.has(column) == Some(true))).collect()
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
pub(super) fn items_of<'a>(
    collector: &mut Collector<'_>,
    from: impl IntoIterator<Item = &'a TableWithJoins>,
) -> (Vec<Item>, Vec<Using>) {
    let (mut items, mut usings) = (Vec::new(), Vec::new());
    for tree in from {
        add_tree(collector, tree, &mut items, &mut usings);
    }
    (items, usings)
}

fn add_tree(collector: &mut Collector<'_>, tree: &TableWithJoins, items: &mut Vec<Item>, usings: &mut Vec<Using>) {
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
        if let Some(JoinConstraint::Using(columns)) = constraint(&join.join_operator) {
            for column in columns.iter().map(last_part) {
                let (left, right) =
                    (carriers(items, usings, start..right, &column), carriers(items, usings, right..items.len(), &column));
                usings.push(Using { column, side: side(&join.join_operator), items: start..items.len(), left, right });
            }
        }
    }
}

/// The items of one side of a join whose own column has that side's value of it.
fn carriers(items: &[Item], usings: &[Using], range: Range<usize>, column: &str) -> Vec<usize> {
    let is_within = |using: &&Using| using.column == column && range.start <= using.items.start && using.items.end <= range.end;
    match usings.iter().rfind(is_within) {
        Some(using) => using.carriers(),
        None => owners(items, range, column),
    }
}

fn add_factor(collector: &mut Collector<'_>, factor: &TableFactor, items: &mut Vec<Item>, usings: &mut Vec<Using>) {
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => {
            let item = table_item(collector, name, alias.as_ref());
            items.push(item);
        }
        TableFactor::NestedJoin { table_with_joins, alias: None } => add_tree(collector, table_with_joins, items, usings),
        TableFactor::Derived { subquery, alias, .. } => {
            let exposed = derived::of_subquery(collector, subquery, alias.as_ref());
            let named = derived::names(subquery).map(|names| renamed(alias.as_ref(), names));
            items.push(Item { exposed, named, ..opaque_item(alias.as_ref()) });
        }
        TableFactor::Table { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::XmlTable { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => items.push(opaque_item(alias.as_ref())),
        _ => items.push(opaque_item(None)),
    }
}

/// The names of columns under a list of column aliases.
fn renamed(alias: Option<&TableAlias>, names: Vec<String>) -> Vec<String> {
    let listed: Vec<String> = alias.iter().flat_map(|alias| &alias.columns).map(|column| folded(&column.name)).collect();
    let n_listed = listed.len();
    listed.into_iter().chain(names.into_iter().skip(n_listed)).collect()
}

fn opaque_item(alias: Option<&TableAlias>) -> Item {
    Item {
        ref_idx: None,
        alias: alias.map(|alias| folded(&alias.name)).unwrap_or_default(),
        relation: None,
        key_columns: Vec::new(),
        exposed: Vec::new(),
        named: None,
        is_nullable: false,
    }
}

/// The item of a table; a list of column aliases hides its key.
pub(super) fn table_item(collector: &mut Collector<'_>, name: &ObjectName, alias: Option<&TableAlias>) -> Item {
    let ref_idx = collector.table_ref(name);
    let is_renamed = alias.is_some_and(|alias| !alias.columns.is_empty());
    let is_cte = collector.found.refs[ref_idx].target == super::names::Target::Cte;
    let known = if is_cte { None } else { relation_of(&folded_parts(name), collector.context) };
    let (relation, named) = if is_renamed {
        let names = |relation: Arc<Relation>| relation.columns.iter().map(|column| column.name.clone()).collect();
        (None, known.map(|relation| renamed(alias, names(relation))))
    } else {
        (known, None)
    };
    let key_columns = match collector.found.refs[ref_idx].key() {
        Some(key) if !is_renamed => key.columns.clone(),
        _ => Vec::new(),
    };
    let exposed = if is_cte && !is_renamed { collector.exposed_by_cte(&last_part(name)) } else { Vec::new() };
    let alias = alias.map_or_else(|| last_part(name), |alias| folded(&alias.name));
    Item { ref_idx: Some(ref_idx), alias, relation, key_columns, exposed, named, is_nullable: false }
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
