//! Keys that show through subqueries in FROM and WITH queries: what holds for such a column holds for the key inside.
//!
//! A column of a subquery is *exposed* as a key if leaving out all of a table's rows whose key has another value changes only such
//! rows of the subquery in which the column has another value, too. Then a condition on the column that NULL does not satisfy
//! restricts the table.

use std::ops::ControlFlow;

use sqlparser::ast::{Distinct, Expr, GroupByExpr, ObjectName, Query, Select, SelectItem, SetExpr, TableAlias, Visit, Visitor};

use super::collect::{Collector, KeyColumn};
use super::functions::{FunctionCall, Nature};
use super::names::{folded, folded_parts};
use super::predicate::column_idents;
use super::scope::{Scope, items_of};
use super::select::item_expr;

/// A column of a subquery, by its name there, and the key that it is.
pub(super) type Exposed = Vec<(String, KeyColumn)>;

/// What a subquery in FROM exposes under its alias.
pub(super) fn of_subquery(collector: &mut Collector<'_>, query: &Query, alias: Option<&TableAlias>) -> Exposed {
    match alias {
        Some(alias) if alias.columns.is_empty() => exposed(collector, query),
        _ => Vec::new(),
    }
}

/// The names of a subquery's columns; `None` where not all are told by words of their own.
pub(super) fn names(query: &Query) -> Option<Vec<String>> {
    let select = match &*query.body {
        SetExpr::Select(select) => select,
        SetExpr::Values(values) => {
            let n_columns = values.rows.first().map_or(0, |row| row.len());
            return Some((1..=n_columns).map(|n| format!("column{n}")).collect());
        }
        _ => return None,
    };
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(folded(ident)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(idents)) => idents.last().map(folded),
        _ => None,
    };
    select.projection.iter().map(name).collect()
}

/// What a WITH query exposes where it is named; nothing if that is in more than one place of `around`: what restricts it in one
/// need not hold in the other.
pub(super) fn of_cte(collector: &mut Collector<'_>, query: &Query, alias: &TableAlias, around: &Query) -> Exposed {
    if n_uses(&folded(&alias.name), around) > 1 { Vec::new() } else { of_subquery(collector, query, Some(alias)) }
}

fn n_uses(name: &str, query: &Query) -> usize {
    struct Uses<'a>(&'a str, usize);
    impl Visitor for Uses<'_> {
        type Break = ();

        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            self.1 += usize::from(folded_parts(relation) == [self.0]);
            ControlFlow::Continue(())
        }
    }
    let mut uses = Uses(name, 0);
    let flow = query.visit(&mut uses);
    debug_assert!(flow.is_continue());
    uses.1
}

fn exposed(collector: &mut Collector<'_>, query: &Query) -> Exposed {
    let SetExpr::Select(select) = &*query.body else { return Vec::new() };
    let is_cut = query.with.is_some() || query.limit_clause.is_some() || query.fetch.is_some() || !query.locks.is_empty();
    let is_plain = matches!(select.distinct, None | Some(Distinct::All | Distinct::Distinct)) && select.into.is_none();
    if is_cut || !is_plain {
        return Vec::new();
    }
    let groups = match &select.group_by {
        GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => exprs.as_slice(),
        _ => return Vec::new(),
    };
    let calls = Calls::of(select);
    let is_aggregate = |call: &FunctionCall| {
        matches!(call.nature(collector.context), Nature::SplitAggregate | Nature::OtherAggregate | Nature::User)
    };
    let is_one_group = groups.is_empty() && (select.having.is_some() || calls.all.iter().any(is_aggregate));
    if calls.has_window || is_one_group {
        return Vec::new();
    }
    // The tables are one query further in than where they are looked at.
    collector.query_depth += 1;
    let (items, usings) = items_of(collector, &select.from);
    collector.query_depth -= 1;
    let scope = Scope { items, usings, sees_outer: false };
    let columns = columns(select, &scope);
    if groups.is_empty() {
        return columns;
    }
    let grouped: Vec<KeyColumn> = groups.iter().flat_map(|group| group_keys(group, select, &scope)).collect();
    columns.into_iter().filter(|(_, key)| grouped.contains(key)).collect()
}

/// The functions that a SELECT calls where it may aggregate.
#[derive(Default)]
struct Calls {
    all: Vec<FunctionCall>,
    has_window: bool,
}

impl Calls {
    fn of(select: &Select) -> Self {
        let mut calls = Self::default();
        // What a subquery in FROM calls is its own affair.
        let flow = match select.projection.visit(&mut calls) {
            ControlFlow::Continue(()) => select.having.visit(&mut calls),
            flow => flow,
        };
        debug_assert!(flow.is_continue());
        calls
    }
}

impl Visitor for Calls {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            self.all.push(FunctionCall::named(folded_parts(&function.name)));
            self.has_window |= function.over.is_some();
        }
        ControlFlow::Continue(())
    }
}

/// The select list's columns that are keys.
fn columns(select: &Select, scope: &Scope) -> Exposed {
    let mut columns = Vec::new();
    for item in &select.projection {
        match item {
            SelectItem::ExprWithAlias { expr, alias } => {
                columns.extend(keys_of(expr, scope).into_iter().map(|key| (folded(alias), key)));
            }
            SelectItem::UnnamedExpr(expr) => {
                let name = match expr {
                    Expr::Identifier(ident) => folded(ident),
                    Expr::CompoundIdentifier(idents) => idents.last().map(folded).unwrap_or_default(),
                    _ => continue,
                };
                columns.extend(keys_of(expr, scope).into_iter().map(|key| (name.clone(), key)));
            }
            SelectItem::Wildcard(_) => columns.extend(all_keys(scope)),
            _ => {}
        }
    }
    columns
}

/// The keys among the columns of `*`, but for those whose name several tables may have.
fn all_keys(scope: &Scope) -> Exposed {
    let names = scope.items.iter().flat_map(|item| item.key_columns.iter().chain(item.exposed.iter().map(|(name, _)| name)));
    let mut columns = Vec::new();
    for name in names {
        let owners: Vec<_> = scope.items.iter().filter(|item| item.has(name) != Some(false)).collect();
        if let ([owner], false) = (owners.as_slice(), columns.iter().any(|(known, _)| known == name)) {
            columns.extend(owner.keys_named(name).into_iter().map(|key| (name.clone(), key)));
        }
    }
    columns
}

/// The keys that an expression is.
fn keys_of(expr: &Expr, scope: &Scope) -> Vec<KeyColumn> {
    let Some(idents) = column_idents(expr) else { return Vec::new() };
    let names: Vec<String> = idents.iter().map(folded).collect();
    let Some(name) = names.last() else { return Vec::new() };
    scope.find(&names).into_iter().filter_map(|idx| scope.items.get(idx)).flat_map(|item| item.keys_named(name)).collect()
}

/// The keys that an item of GROUP BY is: a column of the tables, a position, or a name of the select list.
fn group_keys(group: &Expr, select: &Select, scope: &Scope) -> Vec<KeyColumn> {
    let direct = keys_of(group, scope);
    if !direct.is_empty() {
        return direct;
    }
    let position = match group {
        Expr::Value(value) => value.to_string().parse::<usize>().ok().and_then(|position| position.checked_sub(1)),
        Expr::Identifier(ident) => select
            .projection
            .iter()
            .position(|item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if folded(alias) == folded(ident))),
        _ => None,
    };
    let item = position.and_then(|position| select.projection.get(position));
    item.and_then(item_expr).map(|expr| keys_of(expr, scope)).unwrap_or_default()
}
