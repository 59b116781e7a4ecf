//! Where a statement's text names columns.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectNamePart, Visit, Visitor};

use super::collect::Collected;
use super::merge::{TextOrder, text_order};
use super::names::folded;
use super::reader::Parsed;
use super::text::Positions;
use crate::sql::{KeyType, Token};
use crate::topology::{Collation, Column};

/// The type by which a column's values are placed; `None` where equal values may have other bytes, or it is of no such type.
pub(super) fn key_type(column: &Column) -> Option<KeyType> {
    if column.collation == Collation::Nondeterministic { None } else { KeyType::of(column.type_oid) }
}

/// A column reference in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnUse {
    /// Byte offset of its first token.
    pub(super) start: usize,
    pub(super) n_tokens: usize,
    /// The same for references to the same column, whether qualified or not.
    pub(super) canonical: String,
}

/// The column references of a statement, and where calls start with how their first argument compares if it is text.
pub(super) fn column_uses(parsed: &Parsed, collected: &Collected, tokens: &[Token]) -> (Vec<ColumnUse>, Vec<(usize, TextOrder)>) {
    let mut uses =
        Uses { parsed, collected, tokens, positions: Positions::of(&parsed.sql), columns: Vec::new(), call_orders: Vec::new() };
    let flow = parsed.statement.visit(&mut uses);
    debug_assert!(flow.is_continue());
    (uses.columns, uses.call_orders)
}

struct Uses<'a> {
    parsed: &'a Parsed,
    collected: &'a Collected,
    tokens: &'a [Token],
    positions: Positions,
    columns: Vec<ColumnUse>,
    call_orders: Vec<(usize, TextOrder)>,
}

impl Uses<'_> {
    fn column(&mut self, idents: &[Ident]) {
        let Some(start) = idents.first().and_then(|ident| self.positions.start(&self.parsed.sql, ident.span)) else { return };
        if !self.tokens.iter().any(|token| token.start == start) {
            return;
        }
        let names: Vec<String> = idents.iter().map(folded).collect();
        let found = self.collected.top.as_ref().and_then(|scope| scope.find(&names).first().copied());
        let canonical = match (found, names.last()) {
            (Some(item_idx), Some(name)) => format!("{item_idx}.{name}"),
            _ => names.join("."),
        };
        self.columns.push(ColumnUse { start, n_tokens: 2 * idents.len() - 1, canonical });
    }
}

impl Visitor for Uses<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => self.column(std::slice::from_ref(ident)),
            Expr::CompoundIdentifier(idents) => self.column(idents),
            Expr::Function(function) => {
                let first = match &function.args {
                    FunctionArguments::List(list) => list.args.first(),
                    FunctionArguments::None | FunctionArguments::Subquery(_) => None,
                };
                if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))) = first
                    && let Some(scope) = &self.collected.top
                    && let Some(ObjectNamePart::Identifier(ident)) = function.name.0.first()
                    && let Some(start) = self.positions.start(&self.parsed.sql, ident.span)
                {
                    self.call_orders.push((start, text_order(arg, scope)));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
