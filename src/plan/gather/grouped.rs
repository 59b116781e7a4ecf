//! GROUP BY that leans on a primary key: columns outside of aggregates that are in no group, but depend on one which has the key.
//!
//! A server knows of the key by its constraint, so a relation of gathered rows must have the same one.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, GroupByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, Visit, Visitor};

use crate::plan::contract::{Context, GatherInput};
use crate::plan::functions::{FunctionCall, Nature};
use crate::plan::names::folded_parts;
use crate::plan::predicate::unnested;
use crate::plan::select::Many;

/// Notes the primary keys that the relations of a statement are to have: where it names a column outside of aggregates and groups.
pub(super) fn note_primary_keys(many: &Many<'_>, inputs: &mut [GatherInput]) {
    let known = &many.context.schema.primary_keys;
    if known.is_empty() || !leans(many) {
        return;
    }
    for input in inputs {
        let Some(key) = known.get(&input.table).filter(|_| input.columns.iter().all(|column| !column.is_text)) else { continue };
        let place = |name: &String| input.columns.iter().position(|column| column.name == *name);
        // One of which a column is not named groups nothing.
        input.primary_key = key.iter().map(place).collect::<Option<_>>().unwrap_or_default();
    }
}

fn leans(many: &Many<'_>) -> bool {
    let mut queries = Queries { context: many.context, leans: false };
    let flow = many.parsed.statement.visit(&mut queries);
    debug_assert!(flow.is_continue());
    queries.leans
}

struct Queries<'a> {
    context: &'a Context<'a>,
    leans: bool,
}

impl Queries<'_> {
    fn look(&mut self, select: &Select, query: Option<&Query>) {
        let GroupByExpr::Expressions(groups, _) = &select.group_by else { return };
        if groups.is_empty() {
            return;
        }
        let mut outside =
            Outside { context: self.context, groups: groups.iter().map(unnested).collect(), n_inside: 0, found: false };
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => outside.look(expr),
                _ => outside.found = true,
            }
        }
        outside.look(&select.having);
        if let Some(OrderByKind::Expressions(items)) = query.and_then(|query| query.order_by.as_ref()).map(|order| &order.kind) {
            outside.look(items);
        }
        self.leans |= outside.found;
    }
}

impl Visitor for Queries<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = &*query.body {
            self.look(select, Some(query));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.look(select, None);
        ControlFlow::Continue(())
    }
}

/// Looks for a column outside of aggregates and groups. A group that is told by its position or name is not known here: that costs
/// an index which nobody needs.
struct Outside<'a> {
    context: &'a Context<'a>,
    groups: Vec<&'a Expr>,
    /// In how many aggregates and groups the walk is.
    n_inside: usize,
    found: bool,
}

impl Outside<'_> {
    fn look(&mut self, part: &impl Visit) {
        let flow = part.visit(self);
        debug_assert!(flow.is_continue());
    }

    fn is_inside(&self, expr: &Expr) -> bool {
        let is_aggregate = || match expr {
            Expr::Function(function) if function.over.is_none() => {
                let nature = FunctionCall::named(folded_parts(&function.name)).nature(self.context);
                matches!(nature, Nature::SplitAggregate | Nature::OtherAggregate)
            }
            _ => false,
        };
        self.groups.contains(&expr) || is_aggregate()
    }
}

impl Visitor for Outside<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.n_inside += usize::from(self.is_inside(expr));
        self.found |= self.n_inside == 0 && matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.n_inside -= usize::from(self.is_inside(expr));
        ControlFlow::Continue(())
    }
}
