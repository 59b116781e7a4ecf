//! The rung *merge*: the same SELECT on several shards, its rows concatenated or merged by hidden sort columns.
//!
//! Requires: what [`super::shape`] checks, no aggregates. Each shard gets the original text with `, (expr) AS trunkline_sN`
//! after the select list for every sort item, and LIMIT raised by OFFSET.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::{DataType, Expr, OrderByExpr, OrderBySort, SelectItem, Value, Visit, Visitor};

use super::contract::{Access, MergePlan, Plan, SortKey};
use super::layout::sort_expression;
use super::names::folded;
use super::output::{OutputSource, expression_name, item_name, output_columns};
use super::predicate::unnested;
use super::refusal::{Refusal, RefusalCode};
use super::scope::Scope;
use super::select::{Many, Plain, item_expr, order_exprs};
use super::text::{byte_range, quoted};
use crate::topology::Collation;

/// What a sort item sorts by.
struct Sorted<'a> {
    text: String,
    /// `None` for a column that `*` stands for.
    expr: Option<&'a Expr>,
    star: Option<(usize, String)>,
}

/// The plan of an ungrouped SELECT on several shards.
pub(super) fn plan(many: &Many<'_>, plain: &Plain<'_>) -> Result<Plan, Refusal> {
    let exprs = order_exprs(plain.query);
    if exprs.is_empty() && plain.query.order_by.is_some() {
        return Err(Refusal::new(RefusalCode::OrderBy, "ORDER BY ALL is not supported"));
    }
    let (mut hidden, mut order) = (String::new(), Vec::with_capacity(exprs.len()));
    for (column_idx, (expr, range)) in exprs.iter().zip(&plain.layout.order_by).enumerate() {
        let Some(sorted) = sorted(many, plain, expr, range)? else {
            // ORDER BY a position that the select list does not have: Postgres says so.
            return Ok(Plan::AnyOne { access: Access::Read });
        };
        hidden.push_str(&format!(", ({}) AS trunkline_s{column_idx}", sorted.text));
        order.push(sort_key(column_idx, expr, &sorted, many));
    }
    let text = text(many, plain, &hidden);
    let plan = MergePlan {
        shards: many.shards,
        text,
        n_hidden: order.len(),
        order,
        limit: plain.limit.limit,
        offset: plain.limit.offset,
    };
    Ok(Plan::Merge(Arc::new(plan)))
}

/// DESC sorts NULLs first unless told otherwise.
fn sort_key(column_idx: usize, expr: &OrderByExpr, sorted: &Sorted<'_>, many: &Many<'_>) -> SortKey {
    let is_descending = matches!(expr.options.sort, Some(OrderBySort::Desc));
    let is_nulls_first = expr.options.nulls_first.unwrap_or(is_descending);
    let scope = many.collected.top.as_ref();
    let is_collation_c = match (&sorted.star, sorted.expr, scope) {
        (Some((item_idx, column)), _, Some(scope)) => column_collation(scope, *item_idx, column) == Some(Collation::C),
        (None, Some(expr), Some(scope)) => compares_by_bytes(expr, scope),
        _ => false,
    };
    SortKey { column_idx, is_descending, is_nulls_first, is_collation_c }
}

fn column_collation(scope: &Scope, item_idx: usize, column: &str) -> Option<Collation> {
    Some(scope.items.get(item_idx)?.relation.as_ref()?.column(column)?.collation)
}

/// How text that an expression gives compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextOrder {
    /// As the database has it by itself.
    Default,
    /// Under collation C.
    Bytes,
    /// Under another collation, or nobody here can tell under which.
    Other,
}

/// Whether text that `expr` gives compares under collation C: all its text columns do, and there is one, or it says so itself.
pub(super) fn compares_by_bytes(expr: &Expr, scope: &Scope) -> bool {
    text_order(expr, scope) == TextOrder::Bytes
}

/// How text that `expr` gives compares: as all its text columns do, if they agree, or as it says itself.
pub(super) fn text_order(expr: &Expr, scope: &Scope) -> TextOrder {
    struct Columns<'a> {
        scope: &'a Scope,
        n_c: usize,
        n_default: usize,
        n_other: usize,
    }
    impl Columns<'_> {
        fn see(&mut self, names: &[String]) {
            let column = names.last().map_or("", String::as_str);
            let found = self.scope.find(names);
            let collation = found.first().and_then(|item_idx| column_collation(self.scope, *item_idx, column));
            match collation {
                Some(Collation::C) => self.n_c += 1,
                Some(Collation::None) => {}
                Some(Collation::Default) => self.n_default += 1,
                Some(Collation::Other | Collation::Nondeterministic) | None => self.n_other += 1,
            }
        }
    }
    impl Visitor for Columns<'_> {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> std::ops::ControlFlow<()> {
            match expr {
                Expr::Identifier(ident) => self.see(&[folded(ident)]),
                Expr::CompoundIdentifier(idents) => self.see(&idents.iter().map(folded).collect::<Vec<_>>()),
                Expr::Collate { .. } | Expr::Subquery(_) => self.n_other += 1,
                // A domain may have a collation of its own.
                Expr::Cast { data_type: DataType::Custom(..), .. } => self.n_other += 1,
                _ => {}
            }
            std::ops::ControlFlow::Continue(())
        }
    }
    if let Expr::Nested(inner) = expr {
        return text_order(inner, scope);
    }
    if let Expr::Collate { collation, .. } = expr {
        return match super::names::last_part(collation).as_str() {
            "C" | "POSIX" => TextOrder::Bytes,
            "default" => TextOrder::Default,
            _ => TextOrder::Other,
        };
    }
    let mut columns = Columns { scope, n_c: 0, n_default: 0, n_other: 0 };
    let flow = expr.visit(&mut columns);
    debug_assert!(flow.is_continue());
    match columns {
        Columns { n_c: 0, n_other: 0, .. } => TextOrder::Default,
        Columns { n_default: 0, n_other: 0, .. } => TextOrder::Bytes,
        _ => TextOrder::Other,
    }
}

/// Resolves a sort item as Postgres does: a position, a bare name of an output column, else an expression over input columns.
fn sorted<'a>(
    many: &Many<'_>,
    plain: &Plain<'a>,
    item: &'a OrderByExpr,
    range: &Range<usize>,
) -> Result<Option<Sorted<'a>>, Refusal> {
    if item.with_fill.is_some() || !matches!(item.options.sort, None | Some(OrderBySort::Asc | OrderBySort::Desc)) {
        return Err(Refusal::new(RefusalCode::OrderBy, "this form of ORDER BY is not supported"));
    }
    match unnested(&item.expr) {
        Expr::Value(value) if matches!(value.value, Value::Number(..)) => {
            let Value::Number(digits, _) = &value.value else { return Ok(None) };
            let Some(columns) = output_columns(plain, many.collected) else {
                let message = "ORDER BY a position with * needs the table's columns, which are not known";
                return Err(Refusal::new(RefusalCode::UnknownColumns, message));
            };
            let column = digits.parse::<usize>().ok().and_then(|n| columns.get(n.checked_sub(1)?).cloned());
            column.map(|column| of_output(many, plain, &column)).transpose()
        }
        Expr::Identifier(ident) => {
            let name = folded(ident);
            let named = |select_item: &SelectItem| item_name(select_item).is_some_and(|other| other == name);
            match plain.select.projection.iter().position(named) {
                Some(item_idx) => of_output(many, plain, &OutputSource::Item(item_idx)).map(Some),
                None => Ok(Some(of_text(many, plain, &item.expr, range))),
            }
        }
        expr => Ok(Some(of_text(many, plain, expr, range))),
    }
}

fn of_text<'a>(many: &Many<'_>, plain: &Plain<'a>, expr: &'a Expr, range: &Range<usize>) -> Sorted<'a> {
    let range = sort_expression(many.sql(), &many.tokens, range);
    Sorted { text: plain.edits.apply(many.sql(), byte_range(&many.tokens, &range)), expr: Some(expr), star: None }
}

fn of_output<'a>(many: &Many<'_>, plain: &Plain<'a>, column: &OutputSource) -> Result<Sorted<'a>, Refusal> {
    match column {
        OutputSource::Star { item_idx, column } => {
            let alias = many.collected.top.as_ref().and_then(|scope| scope.items.get(*item_idx)).map_or("", |item| &item.alias);
            let text = format!("{}.{}", quoted(alias), quoted(column));
            Ok(Sorted { text, expr: None, star: Some((*item_idx, column.clone())) })
        }
        OutputSource::Item(item_idx) => {
            let range = item_expression(plain, many, *item_idx);
            let expr = plain.select.projection.get(*item_idx).and_then(item_expr);
            Ok(Sorted { text: plain.edits.apply(many.sql(), byte_range(&many.tokens, &range)), expr, star: None })
        }
    }
}

/// A select item's tokens without its alias.
pub(super) fn item_expression(plain: &Plain<'_>, many: &Many<'_>, item_idx: usize) -> Range<usize> {
    let Some(range) = plain.layout.items.get(item_idx).cloned() else { return 0..0 };
    match plain.select.projection.get(item_idx) {
        Some(SelectItem::ExprWithAlias { .. }) => {
            let before = range.end.saturating_sub(2);
            let has_as = before > range.start && many.tokens[before].is_word(many.sql().as_bytes(), "as");
            range.start..range.end - if has_as { 2 } else { 1 }
        }
        _ => range,
    }
}

fn text(many: &Many<'_>, plain: &Plain<'_>, hidden: &str) -> String {
    let (sql, tokens, layout) = (many.sql(), &many.tokens, &plain.layout);
    let mut edits = plain.edits.clone();
    for (item, range) in plain.select.projection.iter().zip(&layout.items) {
        let bytes = byte_range(tokens, range);
        // A time function's literal would name its column otherwise.
        if let SelectItem::UnnamedExpr(expr) = item
            && plain.edits.touches(&bytes)
        {
            edits.insert(bytes.end, format!(" AS {}", quoted(&expression_name(expr))));
        }
    }
    if let (Some(last), false) = (layout.items.last(), hidden.is_empty()) {
        edits.insert(byte_range(tokens, last).end, hidden);
    }
    let end = tokens.last().map_or(sql.len(), |token| token.end);
    if !layout.tail.is_empty() {
        let tail = byte_range(tokens, &layout.tail);
        let pushed =
            plain.limit.limit.and_then(|limit| limit.checked_add(plain.limit.offset)).filter(|n| i64::try_from(*n).is_ok());
        edits.replace(tail.start..end, pushed.map(|n| format!("LIMIT {n}")).unwrap_or_default());
    }
    let text = edits.apply(sql, 0..end);
    text.trim_end().to_owned()
}
