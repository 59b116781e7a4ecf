//! The rung *combine*: partial rows of an aggregate query from each shard, and the final SELECT over them.
//!
//! Requires: what [`super::shape`] checks; every expression is made of group keys, count, sum, min, max, avg, constants and
//! functions that are the same everywhere.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::{Expr, GroupByExpr, OrderBySort, Value};

use super::contract::{CombinePlan, FinalPiece, Plan};
use super::finish::{Finish, Partial};
use super::layout::sort_expression;
use super::merge::{TextOrder, item_expression, text_order};
use super::names::folded;
use super::output::item_name;
use super::predicate::unnested;
use super::refusal::{Refusal, RefusalCode};
use super::select::{Many, Plain, item_expr, order_exprs};
use super::text::{byte_range, quoted, text_of};
use crate::sql::TokenKind;

/// A key of GROUP BY.
#[derive(Debug, Clone)]
pub(super) struct GroupKey {
    pub(super) column_idx: usize,
    /// The expression's tokens in a form that equal expressions share.
    pub(super) canonical: Vec<String>,
}

/// The plan of a grouped SELECT on several shards.
pub(super) fn plan(many: &Many<'_>, plain: &Plain<'_>) -> Result<Plan, Refusal> {
    let mut partial = Partial::default();
    let keys = group_keys(many, plain, &mut partial)?;
    let mut finish = Finish::new(many, plain, &keys, partial);
    finish.text("SELECT ");
    for (item_idx, item) in plain.select.projection.iter().enumerate() {
        let (Some(_), Some(name)) = (item_expr(item), item_name(item)) else {
            return Err(Refusal::new(RefusalCode::NotGrouped, "* in a grouped SELECT across shards is not supported"));
        };
        finish.text(if item_idx > 0 { ", " } else { "" });
        finish.expression(&item_expression(plain, many, item_idx))?;
        finish.text(&format!(" AS {}", quoted(&name)));
    }
    finish.text(" FROM ");
    finish.pieces.push(FinalPiece::Source);
    if !keys.is_empty() {
        let columns: Vec<String> = keys.iter().map(|key| format!("p.c{}", key.column_idx)).collect();
        finish.text(&format!(" GROUP BY {}", columns.join(", ")));
    }
    if let Some(having) = &plain.layout.having {
        finish.text(" HAVING ");
        finish.expression(having)?;
    }
    order_by(many, plain, &mut finish)?;
    if let Some(limit) = plain.limit.limit {
        finish.text(&format!(" LIMIT {limit}"));
    }
    if plain.limit.offset > 0 {
        finish.text(&format!(" OFFSET {}", plain.limit.offset));
    }
    let (pieces, mut partial) = finish.done();
    if partial.columns.is_empty() {
        partial.add("count(*)".to_owned(), TextOrder::Default);
    }
    let text = partial_text(many, plain, &partial, keys.len());
    let plan = CombinePlan {
        shards: many.shards,
        text,
        n_columns: partial.columns.len(),
        c_columns: partial.ordered(TextOrder::Bytes),
        odd_columns: partial.ordered(TextOrder::Other),
        finish: pieces,
    };
    Ok(Plan::Combine(Arc::new(plan)))
}

/// `SELECT key AS c0, count(*) AS c1 FROM … WHERE … GROUP BY 1`.
fn partial_text(many: &Many<'_>, plain: &Plain<'_>, partial: &Partial, n_keys: usize) -> String {
    let columns: Vec<String> =
        partial.columns.iter().enumerate().map(|(idx, column)| format!("{} AS c{idx}", column.text)).collect();
    let body = plain.edits.apply(many.sql(), byte_range(&many.tokens, &plain.layout.body));
    let mut text = format!("SELECT {} {body}", columns.join(", "));
    if n_keys > 0 {
        let ordinals: Vec<String> = (1..=n_keys).map(|n| n.to_string()).collect();
        text.push_str(&format!(" GROUP BY {}", ordinals.join(", ")));
    }
    // A condition without columns ends the statement before any row is looked at, which might give an error.
    if let Some(having) = plain.layout.having.as_ref().filter(|range| is_constant(many, range)) {
        text.push_str(&format!(" HAVING {}", text_of(many.sql(), &many.tokens, having)));
    }
    text
}

/// Whether an expression has nothing but numbers, operators and the words of truth values.
fn is_constant(many: &Many<'_>, range: &Range<usize>) -> bool {
    const WORDS: &[&str] = &["and", "false", "is", "not", "null", "or", "true"];
    let tokens = many.tokens.get(range.clone()).unwrap_or_default();
    tokens.iter().all(|token| match token.kind {
        TokenKind::Word => WORDS.iter().any(|word| token.is_word(many.sql().as_bytes(), word)),
        TokenKind::Number | TokenKind::Operator | TokenKind::Punctuation(b'(' | b')') => true,
        _ => false,
    })
}

/// The keys of GROUP BY as the first partial columns. A position or an output name stands for a select item; a bare name is an
/// input column first.
fn group_keys(many: &Many<'_>, plain: &Plain<'_>, partial: &mut Partial) -> Result<Vec<GroupKey>, Refusal> {
    let exprs = match &plain.select.group_by {
        GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => exprs.as_slice(),
        _ => return Err(Refusal::new(RefusalCode::GroupingSets, "this form of GROUP BY across shards is not supported")),
    };
    let mut keys = Vec::with_capacity(exprs.len());
    for (expr, range) in exprs.iter().zip(&plain.layout.group_by) {
        if matches!(expr, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_) | Expr::Tuple(_)) {
            return Err(Refusal::new(
                RefusalCode::GroupingSets,
                "GROUPING SETS, CUBE, ROLLUP and rows in GROUP BY across shards are not supported",
            ));
        }
        let (expr, range) = group_expression(many, plain, expr, range)?;
        let canonical = super::finish::canonical(many, &range);
        if keys.iter().any(|key: &GroupKey| key.canonical == canonical) {
            continue;
        }
        let text = plain.edits.apply(many.sql(), byte_range(&many.tokens, &range));
        let order = many.collected.top.as_ref().map_or(TextOrder::Other, |scope| text_order(expr, scope));
        let column_idx = partial.add(text, order);
        keys.push(GroupKey { column_idx, canonical });
    }
    Ok(keys)
}

fn group_expression<'a>(
    many: &Many<'_>,
    plain: &Plain<'a>,
    expr: &'a Expr,
    range: &Range<usize>,
) -> Result<(&'a Expr, Range<usize>), Refusal> {
    let item = |item_idx: usize| {
        let expr = plain.select.projection.get(item_idx).and_then(item_expr)?;
        Some((expr, item_expression(plain, many, item_idx)))
    };
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => {
                let found = digits.parse::<usize>().ok().and_then(|n| item(n.checked_sub(1)?));
                found.ok_or_else(|| {
                    Refusal::new(RefusalCode::NotGrouped, format!("GROUP BY position {digits} is not in the select list"))
                })
            }
            _ => Err(Refusal::new(RefusalCode::NotGrouped, "a constant in GROUP BY across shards is not supported")),
        },
        Expr::Identifier(ident) => {
            let name = folded(ident);
            let aliased = plain.select.projection.iter().position(|item| item_name(item).is_some_and(|other| other == name));
            let has_column = many.collected.top.as_ref().map(|scope| {
                let known: Vec<Option<bool>> = scope.items.iter().map(|item| item.has(&name)).collect();
                if known.contains(&Some(true)) {
                    Some(true)
                } else if known.contains(&None) {
                    None
                } else {
                    Some(false)
                }
            });
            match (aliased, has_column.flatten()) {
                (None, _) | (_, Some(true)) => Ok((expr, range.clone())),
                (Some(item_idx), Some(false)) => {
                    item(item_idx).ok_or_else(|| Refusal::new(RefusalCode::NotGrouped, "* in GROUP BY"))
                }
                (Some(_), None) => Err(Refusal::new(
                    RefusalCode::UnknownColumns,
                    format!("whether \"{name}\" in GROUP BY is a column of a table is not known"),
                )),
            }
        }
        Expr::Nested(inner) if range.len() > 2 => group_expression(many, plain, inner, &(range.start + 1..range.end - 1)),
        _ => Ok((expr, range.clone())),
    }
}

/// ORDER BY of the final statement: positions stay, output names become positions, the rest is translated.
fn order_by(many: &Many<'_>, plain: &Plain<'_>, finish: &mut Finish<'_>) -> Result<(), Refusal> {
    for (idx, (item, range)) in order_exprs(plain.query).iter().zip(&plain.layout.order_by).enumerate() {
        finish.text(if idx == 0 { " ORDER BY " } else { ", " });
        let expression = sort_expression(many.sql(), &many.tokens, range);
        if !matches!(item.options.sort, None | Some(OrderBySort::Asc | OrderBySort::Desc)) {
            return Err(Refusal::new(RefusalCode::OrderBy, "ORDER BY … USING across shards is not supported"));
        }
        let output = match unnested(&item.expr) {
            Expr::Identifier(ident) => {
                let name = folded(ident);
                plain.select.projection.iter().position(|item| item_name(item).is_some_and(|other| other == name))
            }
            _ => None,
        };
        match (unnested(&item.expr), output) {
            (_, Some(item_idx)) => finish.text(&(item_idx + 1).to_string()),
            // A number is a position; a parameter is a constant of the shards' statement.
            (Expr::Value(value), None) if !matches!(value.value, Value::Placeholder(_)) => {
                finish.text(text_of(many.sql(), &many.tokens, &expression))
            }
            _ => finish.expression(&expression)?,
        }
        let rest = text_of(many.sql(), &many.tokens, &(expression.end..range.end));
        if !rest.is_empty() {
            finish.text(&format!(" {rest}"));
        }
    }
    Ok(())
}
