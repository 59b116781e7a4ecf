//! Equalities between columns of tables: what the rows of one table are restricted to once those of another are known.
//!
//! Unlike [`Edge`](super::collect::Edge)s they are between any columns, and of use only where a table's rows are read before
//! another's: on the rung *gather*.

use std::collections::HashMap;

use sqlparser::ast::{Expr, GroupByExpr, Query, Select, SelectItem, SetExpr};

use super::collect::{Collector, address};
use super::names::folded;
use super::predicate::{column_idents, conjuncts, equal_pairs};
use super::scope::{Using, find_column};
use super::select::item_expr;

/// A column of a table reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnAt {
    pub(super) ref_idx: usize,
    pub(super) name: String,
}

/// Rows of `to` that matter have in this column a value that a row of `from` has in that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) from: ColumnAt,
    pub(super) to: ColumnAt,
}

/// The links of a statement, and the subqueries that will make some when the walk comes to them.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) all: Vec<Link>,
    /// Columns of a subquery's tables that are to equal one from outside of it: looked for once for each row there.
    pub(super) looked_up: Vec<ColumnAt>,
    awaited: HashMap<usize, Awaited>,
}

/// A subquery that rows of the query around it must satisfy.
#[derive(Debug)]
enum Awaited {
    /// `column IN (SELECT …)`.
    In(ColumnAt),
    /// `EXISTS (SELECT …)`, with a row for each that its FROM and WHERE let through.
    Exists,
}

/// Adds what the WHERE of a SELECT says, and what its subqueries will. Its scope is the innermost one.
pub(super) fn of_where(collector: &mut Collector<'_>, select: &Select) {
    let Some(links) = &mut collector.found.links else { return };
    let awaited = links.awaited.remove(&address(select));
    for term in select.selection.iter().flat_map(conjuncts) {
        // What must exist for a row of the query around this one restricts that, too.
        of_term(collector, term, |_| true, matches!(awaited, Some(Awaited::Exists)));
        await_subquery(collector, term);
    }
    if let (Some(Awaited::In(to)), [item]) = (awaited, select.projection.as_slice()) {
        let from = item_expr(item).and_then(|expr| column(collector, expr)).filter(|(_, n_out)| *n_out == 0);
        add(collector, from.map(|(from, _)| Link { from, to }));
    }
}

/// Adds what a term of ON says that binds the table references for which `may_restrict` holds.
pub(super) fn of_on(collector: &mut Collector<'_>, term: &Expr, may_restrict: impl Fn(usize) -> bool) {
    if collector.found.links.is_some() {
        of_term(collector, term, may_restrict, false);
    }
}

fn of_term(collector: &mut Collector<'_>, term: &Expr, may_restrict: impl Fn(usize) -> bool, binds_outer: bool) {
    for (left, right) in equal_pairs(term) {
        note_look_up(collector, left, right);
        note_look_up(collector, right, left);
        let (Some((left, left_out)), Some((right, right_out))) = (column(collector, left), column(collector, right)) else {
            continue;
        };
        let is_bound = |column: &ColumnAt, n_out: usize| match n_out {
            0 => may_restrict(column.ref_idx),
            1 => binds_outer,
            _ => false,
        };
        let to_left = is_bound(&left, left_out).then(|| Link { from: right.clone(), to: left.clone() });
        let to_right = is_bound(&right, right_out).then_some(Link { from: left, to: right });
        add(collector, to_left.into_iter().chain(to_right));
    }
}

/// Notes a column of the innermost query that is to equal one from outside of it.
fn note_look_up(collector: &mut Collector<'_>, inside: &Expr, outside: &Expr) {
    let is_outside = |(_, n_out): &(ColumnAt, usize)| *n_out > 0;
    if collector.query_depth < 2
        || column_idents(outside).is_none()
        || !column(collector, outside).as_ref().is_none_or(is_outside)
    {
        return;
    }
    let found = column(collector, inside).filter(|found| !is_outside(found));
    if let (Some((column, _)), Some(links)) = (found, &mut collector.found.links)
        && !links.looked_up.contains(&column)
    {
        links.looked_up.push(column);
    }
}

/// Adds what a join's USING says of the items of the innermost scope: whether the left side's rows are restricted by it, and
/// the right side's.
pub(super) fn of_using(collector: &mut Collector<'_>, using: &Using, (restricts_left, restricts_right): (bool, bool)) {
    let Some(scope) = collector.scopes.last() else { return };
    let columns = |idxs: &[usize]| -> Vec<ColumnAt> {
        let items = idxs.iter().filter_map(|&idx| scope.items.get(idx)).filter(|item| item.relation.is_some());
        items.filter_map(|item| Some(ColumnAt { ref_idx: item.ref_idx?, name: using.column.clone() })).collect()
    };
    let (lefts, rights) = (columns(&using.left), columns(&using.right));
    let mut found = Vec::new();
    for left in &lefts {
        for right in &rights {
            found.extend(restricts_left.then(|| Link { from: right.clone(), to: left.clone() }));
            found.extend(restricts_right.then(|| Link { from: left.clone(), to: right.clone() }));
        }
    }
    add(collector, found);
}

/// Notes a subquery whose rows will restrict those of this query.
fn await_subquery(collector: &mut Collector<'_>, term: &Expr) {
    let awaited = match term {
        Expr::InSubquery { expr, subquery, negated: false } => match (column(collector, expr), &*subquery.body) {
            (Some((column, 0)), SetExpr::Select(select)) => Some((address(&**select), Awaited::In(column))),
            _ => None,
        },
        Expr::Exists { subquery, negated: false } => plain_select(subquery).map(|select| (address(select), Awaited::Exists)),
        _ => None,
    };
    if let (Some(links), Some((select, awaited))) = (&mut collector.found.links, awaited) {
        links.awaited.insert(select, awaited);
    }
}

fn add(collector: &mut Collector<'_>, found: impl IntoIterator<Item = Link>) {
    let Some(links) = &mut collector.found.links else { return };
    for link in found {
        if link.from.ref_idx != link.to.ref_idx && !links.all.contains(&link) {
            links.all.push(link);
        }
    }
}

/// The table's column that `expr` is, with how many scopes further out it is than the innermost.
fn column(collector: &Collector<'_>, expr: &Expr) -> Option<(ColumnAt, usize)> {
    let idents = column_idents(expr)?;
    let name = idents.last().map(folded)?;
    let [at] = find_column(&collector.scopes, idents)[..] else { return None };
    let item = collector.scopes.get(at.scope_idx)?.items.get(at.item_idx)?;
    item.relation.as_ref()?.column(&name)?;
    Some((ColumnAt { ref_idx: item.ref_idx?, name }, collector.scopes.len() - 1 - at.scope_idx))
}

/// A SELECT that gives a row for each that its FROM and WHERE let through, whatever is in it.
fn plain_select(query: &Query) -> Option<&Select> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let is_grouped =
        !matches!(&select.group_by, GroupByExpr::Expressions(exprs, modifiers) if exprs.is_empty() && modifiers.is_empty());
    let is_plain = |item: &SelectItem| match item {
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => true,
        item => {
            item_expr(item).is_some_and(|expr| matches!(expr, Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_)))
        }
    };
    let is_cut = query.limit_clause.is_some() || query.fetch.is_some() || is_grouped || select.having.is_some();
    (!is_cut && select.projection.iter().all(is_plain)).then_some(select)
}
