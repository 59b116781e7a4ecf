//! SELECT on several shards: which rung takes it, and the parts that the rungs share.

use sqlparser::ast::{DataType, Expr, GroupByExpr, LimitClause, Query, Select, SelectItem, Statement, UnaryOperator, Value};

use super::collect::Collected;
use super::columns::{ColumnUse, column_uses};
use super::contract::{Access, Context, Plan, Values};
use super::functions::Nature;
use super::layout::{Layout, layout};
use super::merge::TextOrder;
use super::predicate::unnested;
use super::reader::Parsed;
use super::refusal::{Refusal, RefusalCode};
use super::text::{Edits, tokens_of};
use super::{combine, gather, merge, shape};
use crate::sql::{KeyType, ParamFormat, Token, ValueError, canonical_binary, canonical_text};
use crate::topology::{KeyValue, ShardSet};

/// One execution of a statement on several shards.
pub(super) struct Many<'a> {
    pub(super) parsed: &'a Parsed,
    pub(super) collected: &'a Collected,
    pub(super) shards: ShardSet,
    pub(super) values: &'a Values<'a>,
    pub(super) context: &'a Context<'a>,
    pub(super) tokens: Vec<Token>,
    pub(super) columns: Vec<ColumnUse>,
    /// Where calls start, and how their first argument compares if it is text.
    pub(super) call_orders: Vec<(usize, TextOrder)>,
}

/// A plain SELECT with the places of its clauses.
pub(super) struct Plain<'a> {
    pub(super) query: &'a Query,
    pub(super) select: &'a Select,
    pub(super) layout: Layout,
    /// The transaction's time in place of time functions.
    pub(super) edits: Edits,
    pub(super) limit: Limit,
}

/// LIMIT and OFFSET as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Limit {
    pub(super) limit: Option<u64>,
    pub(super) offset: u64,
}

impl<'a> Many<'a> {
    pub(super) fn new(
        parsed: &'a Parsed,
        collected: &'a Collected,
        shards: ShardSet,
        values: &'a Values<'a>,
        context: &'a Context<'a>,
    ) -> Self {
        let tokens = tokens_of(&parsed.sql, context.settings.has_standard_strings);
        let (columns, call_orders) = column_uses(parsed, collected, &tokens);
        Self { parsed, collected, shards, values, context, tokens, columns, call_orders }
    }

    pub(super) fn sql(&self) -> &'a str {
        &self.parsed.sql
    }
}

/// The plan of a SELECT on several shards: on the first rung that takes it.
///
/// # Errors
/// Those of the last rung.
pub(super) fn plan(many: &Many<'_>) -> Result<Plan, Refusal> {
    merged(many).or_else(|_| gather::plan(many))
}

/// The plan on the last rung, for a statement whose plan on another turned out not to be exact.
///
/// # Errors
/// Those of this rung.
pub(super) fn gathered(many: &Many<'_>) -> Result<Plan, Refusal> {
    gather::plan(many)
}

/// The plan on the rungs that bring no rows but those of the answer.
fn merged(many: &Many<'_>) -> Result<Plan, Refusal> {
    let Statement::Query(query) = &many.parsed.statement else {
        return Err(Refusal::new(RefusalCode::Unparsed, "the planner expects a SELECT"));
    };
    if many.parsed.is_loose {
        return Err(Refusal::new(RefusalCode::Clause, "a clause that the planner does not read in full is not supported here"));
    }
    if many.collected.facts.changing_row_call.is_yes() {
        return Err(Refusal::new(RefusalCode::Clause, "a function called as a column of its row is not supported here"));
    }
    let select = shape::check(query, many)?;
    let groups = match &select.group_by {
        GroupByExpr::Expressions(exprs, _) => exprs.as_slice(),
        GroupByExpr::All(_) => &[],
    };
    let is_row = |expr: &Expr| matches!(unnested(expr), Expr::QualifiedWildcard(..));
    if order_exprs(query).iter().map(|item| &item.expr).chain(groups).any(is_row) {
        return Err(Refusal::new(RefusalCode::Clause, "rows as a whole, to sort or group by, are not supported here"));
    }
    let edits = shape::time_edits(many.collected, &many.tokens, many.values.now_micros, many.context)?;
    let Some(limit) = limit_of(query, many)? else {
        // A negative or malformed number: Postgres says so, on any shard.
        return Ok(Plan::AnyOne { access: Access::Read });
    };
    let layout =
        layout(many.sql(), &many.tokens).filter(|layout| agrees(layout, query, select) && tail_agrees(layout, query, many));
    let Some(layout) = layout else {
        return Err(Refusal::new(RefusalCode::Clause, "this arrangement of clauses across shards is not supported"));
    };
    let plain = Plain { query, select, layout, edits, limit };
    if is_grouped(select, many) { combine::plan(many, &plain) } else { merge::plan(many, &plain) }
}

/// Whether the clauses that the lexer sees are those that the parser sees.
fn agrees(layout: &Layout, query: &Query, select: &Select) -> bool {
    let n_groups = match &select.group_by {
        GroupByExpr::Expressions(exprs, _) => exprs.len(),
        GroupByExpr::All(_) => return false,
    };
    layout.items.len() == select.projection.len()
        && layout.group_by.len() == n_groups
        && layout.having.is_some() == select.having.is_some()
        && layout.order_by.len() == order_exprs(query).len()
}

fn tail_agrees(layout: &Layout, query: &Query, many: &Many<'_>) -> bool {
    let has_tail = query.limit_clause.is_some() || query.fetch.is_some();
    // The parser keeps nothing of LIMIT ALL.
    has_tail != layout.tail.is_empty()
        || super::text::text_of(many.sql(), &many.tokens, &layout.tail)
            .split_whitespace()
            .map(str::to_ascii_lowercase)
            .eq(["limit", "all"])
}

/// The sort items; none for ORDER BY ALL, which is not Postgres's.
pub(super) fn order_exprs(query: &Query) -> &[sqlparser::ast::OrderByExpr] {
    match query.order_by.as_ref().map(|order| &order.kind) {
        Some(sqlparser::ast::OrderByKind::Expressions(exprs)) => exprs,
        _ => &[],
    }
}

fn is_grouped(select: &Select, many: &Many<'_>) -> bool {
    let has_group = match &select.group_by {
        GroupByExpr::Expressions(exprs, modifiers) => !exprs.is_empty() || !modifiers.is_empty(),
        GroupByExpr::All(_) => true,
    };
    let is_aggregate =
        |call: &super::functions::FunctionCall| call.depth == 1 && call.nature(many.context) == Nature::SplitAggregate;
    has_group || select.having.is_some() || many.collected.functions.iter().any(is_aggregate)
}

/// The expression of a select item; `None` for `*`.
pub(super) fn item_expr(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

/// The limit and the offset; `None` where Postgres would raise an error.
fn limit_of(query: &Query, many: &Many<'_>) -> Result<Option<Limit>, Refusal> {
    let (limit, offset) = match &query.limit_clause {
        None => (None, None),
        Some(LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
            (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
        }
        Some(_) => return Err(Refusal::new(RefusalCode::Limit, "this form of LIMIT across shards is not supported")),
    };
    let fetch = match &query.fetch {
        None => None,
        Some(fetch) => match &fetch.quantity {
            Some(quantity) => count_of(quantity, KeyType::Int8, many)?,
            None => Some(Count::Some(1)),
        },
    };
    let limit = match limit {
        Some(limit) => count_of(limit, KeyType::Int8, many)?,
        None => fetch.or(Some(Count::All)).filter(|_| query.fetch.is_none() || fetch.is_some()),
    };
    let offset = match offset {
        Some(offset) => count_of(offset, KeyType::Int8, many)?,
        None => Some(Count::All),
    };
    Ok(limit.zip(offset).map(|(limit, offset)| Limit {
        limit: match limit {
            Count::All => None,
            Count::Some(n) => Some(n),
        },
        offset: match offset {
            Count::All => 0,
            Count::Some(n) => n,
        },
    }))
}

#[derive(Debug, Clone, Copy)]
enum Count {
    /// NULL, ALL or nothing.
    All,
    Some(u64),
}

/// A count's value as `count_type`; `None` where Postgres would raise an error.
fn count_of(expr: &Expr, count_type: KeyType, many: &Many<'_>) -> Result<Option<Count>, Refusal> {
    let refuse = || Refusal::new(RefusalCode::Limit, "LIMIT or OFFSET by an expression across shards is not supported");
    match expr {
        Expr::Nested(inner) => count_of(inner, count_type, many),
        // Postgres refuses negative counts, and takes -0.
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match count_of(expr, count_type, many)? {
            Some(Count::Some(0)) => Ok(Some(Count::Some(0))),
            Some(Count::Some(_)) => Ok(None),
            Some(Count::All) | None => Err(refuse()),
        },
        Expr::Value(value) => match &value.value {
            Value::Null => Ok(Some(Count::All)),
            Value::Number(text, _) => match canonical_text(text, count_type, "UTC") {
                Ok(KeyValue::Int(n)) => Ok(u64::try_from(n).ok().map(Count::Some)),
                Err(ValueError::OutOfRange) if count_type != KeyType::Int8 => Ok(None),
                _ => Err(refuse()),
            },
            Value::Placeholder(name) => {
                let number: usize = name.strip_prefix('$').and_then(|digits| digits.parse().ok()).ok_or_else(refuse)?;
                count_param(number, count_type, many).ok_or_else(refuse)
            }
            _ => Err(refuse()),
        },
        // Another cast may round, fail, or give what is no number at all.
        Expr::Cast { expr, data_type, .. } if matches!(&**expr, Expr::Value(_)) => match data_type {
            DataType::SmallInt(None) | DataType::Int2(None) => count_of(expr, KeyType::Int2, many),
            DataType::Integer(None) | DataType::Int(None) | DataType::Int4(None) => count_of(expr, KeyType::Int4, many),
            DataType::BigInt(None) | DataType::Int8(None) => count_of(expr, KeyType::Int8, many),
            _ => Err(refuse()),
        },
        _ => Err(refuse()),
    }
}

/// A count given by a parameter; the outer `None`: its form is not understood.
fn count_param(number: usize, count_type: KeyType, many: &Many<'_>) -> Option<Option<Count>> {
    let params = many.values.params;
    let value = params.values.get(number.checked_sub(1)?)?;
    let Some(bytes) = value else { return Some(Some(Count::All)) };
    let type_oid = params.types.get(number - 1).copied().unwrap_or(0);
    let value = match params.formats.get(number - 1).copied().unwrap_or(ParamFormat::Text) {
        ParamFormat::Text => canonical_text(std::str::from_utf8(bytes).ok()?, count_type, "UTC"),
        ParamFormat::Binary => canonical_binary(bytes, type_oid, count_type),
    };
    match value {
        Ok(KeyValue::Int(n)) => Some(u64::try_from(n).ok().map(Count::Some)),
        Err(ValueError::OutOfRange) => Some(None),
        _ => None,
    }
}
