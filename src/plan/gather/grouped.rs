//! GROUP BY that may lean on a primary key: a column that is in no group depends on one which has the key.
//!
//! A server knows of the key by its constraint, so a relation of gathered rows must have the same one.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{Expr, GroupByExpr, Select, SelectItem, Value, Visit, Visitor};

use crate::plan::contract::GatherInput;
use crate::plan::names::folded;
use crate::plan::predicate::unnested;
use crate::plan::select::Many;

/// Notes the primary keys of which the statement groups by all columns.
pub(super) fn note_primary_keys(many: &Many<'_>, inputs: &mut [GatherInput]) {
    let known = &many.context.schema.primary_keys;
    if known.is_empty() {
        return;
    }
    let mut groups = Groups::default();
    let flow = many.parsed.statement.visit(&mut groups);
    debug_assert!(flow.is_continue());
    for input in inputs {
        // Through a cast of what travels as text no column depends on another.
        let is_plain = input.columns.iter().all(|column| !column.is_text);
        let Some(key) = known.get(&input.table).filter(|key| is_plain && key.is_subset(&groups.names)) else { continue };
        let place = |name: &String| input.columns.iter().position(|column| column.name == *name);
        input.primary_key = key.iter().map(place).collect::<Option<_>>().unwrap_or_default();
    }
}

/// The names of columns by which a statement may group, of whichever tables.
#[derive(Default)]
struct Groups {
    names: BTreeSet<String>,
}

impl Visitor for Groups {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let GroupByExpr::Expressions(groups, _) = &select.group_by else { return ControlFlow::Continue(()) };
        let mut names = Names(&mut self.names);
        let mut flow = groups.visit(&mut names);
        let names_output = |group: &Expr| match unnested(group) {
            Expr::Value(value) => matches!(value.value, Value::Number(..)),
            Expr::Identifier(name) => select.projection.iter().any(|item| is_called(item, &folded(name))),
            _ => false,
        };
        if groups.iter().any(names_output) {
            flow = select.projection.visit(&mut names);
        }
        debug_assert!(flow.is_continue());
        ControlFlow::Continue(())
    }
}

fn is_called(item: &SelectItem, name: &str) -> bool {
    matches!(item, SelectItem::ExprWithAlias { alias, .. } if folded(alias) == name)
}

/// Takes the last parts of columns' names.
struct Names<'a>(&'a mut BTreeSet<String>);

impl Visitor for Names<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr {
            self.0.insert(folded(name));
        } else if let Expr::CompoundIdentifier(parts) = expr {
            self.0.extend(parts.last().map(folded));
        }
        ControlFlow::Continue(())
    }
}
