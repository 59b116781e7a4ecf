//! From WHERE and ON terms to conditions on key columns, and to equalities between keys of joined tables.

use std::cmp::Ordering;
use std::ops::Range;

use sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, DataType, Expr, FromTable, Ident, JoinConstraint, Statement, TableFactor, TableObject,
    TableWithJoins, TimezoneInfo, UnaryOperator, UpdateTableFromKind, Value,
};

use super::collect::{Collector, Edge, KeyColumn, Seen};
use super::condition::{Condition, Test};
use super::functions::time_cast;
use super::interval::{Offset, Unit};
use super::links;
use super::names::{folded, last_part};
use super::scope::{Item, Side, constraint, find_column, items_of, side, table_item};
use super::slot::{Arithmetic, Cast, Operand, Slot, TimeOperand};

/// The terms that AND joins.
pub(super) fn conjuncts(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Nested(inner) => conjuncts(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            let mut all = conjuncts(left);
            all.extend(conjuncts(right));
            all
        }
        other => vec![other],
    }
}

/// An expression without the parentheses around it.
pub(super) fn unnested(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => unnested(inner),
        other => other,
    }
}

/// The parts of the name of the column that an expression is.
pub(super) fn column_idents(expr: &Expr) -> Option<&[Ident]> {
    match unnested(expr) {
        Expr::Identifier(ident) => Some(std::slice::from_ref(ident)),
        Expr::CompoundIdentifier(idents) => Some(idents),
        _ => None,
    }
}

/// The key column of table reference `ref_idx` of the innermost scope that `expr` is.
fn key_column_of(collector: &Collector<'_>, expr: &Expr, ref_idx: usize) -> Option<usize> {
    key_columns(collector, expr)
        .into_iter()
        .find(|(column, is_outer)| column.ref_idx == ref_idx && !is_outer)
        .map(|(column, _)| column.column_idx)
}

/// The key columns that `expr` is, and whether they belong to a scope further out.
fn key_columns(collector: &Collector<'_>, expr: &Expr) -> Vec<(KeyColumn, bool)> {
    let Some(idents) = column_idents(expr) else { return Vec::new() };
    let Some(name) = idents.last().map(folded) else { return Vec::new() };
    let innermost = collector.scopes.len().saturating_sub(1);
    find_column(&collector.scopes, idents)
        .into_iter()
        .flat_map(|at| {
            let item = collector.scopes.get(at.scope_idx).and_then(|scope| scope.items.get(at.item_idx));
            let keys = item.map(|item| item.keys_named(&name)).unwrap_or_default();
            keys.into_iter().map(move |key| (key, at.scope_idx != innermost))
        })
        .collect()
}

/// What `expr` says of the key of table reference `ref_idx`, for rows that satisfy it.
pub(super) fn condition(collector: &mut Collector<'_>, expr: &Expr, ref_idx: usize, is_nullable: bool) -> Condition {
    let both = |collector: &mut Collector<'_>, left: &Expr, right: &Expr| {
        [condition(collector, left, ref_idx, is_nullable), condition(collector, right, ref_idx, is_nullable)]
    };
    match expr {
        Expr::Nested(inner) => condition(collector, inner, ref_idx, is_nullable),
        Expr::Value(value) if matches!(value.value, Value::Boolean(false) | Value::Null) => Condition::Never,
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => match both(collector, left, right) {
            [Condition::Unknown, other] | [other, Condition::Unknown] => other,
            parts => Condition::All(parts.into()),
        },
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => match both(collector, left, right) {
            [Condition::Unknown, _] | [_, Condition::Unknown] => Condition::Unknown,
            parts => Condition::Any(parts.into()),
        },
        Expr::BinaryOp { left, op, right } => comparison(collector, (left, op, right), ref_idx),
        Expr::InList { expr, list, negated: false } => in_list(collector, expr, list, ref_idx),
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => match unnested(right) {
            Expr::Array(array) => in_list(collector, left, &array.elem, ref_idx),
            array => match (key_column_of(collector, left, ref_idx), array_slot(collector, array)) {
                (Some(column_idx), Some(slot)) => Condition::Column { column_idx, test: Test::InArray(slot) },
                _ => Condition::Unknown,
            },
        },
        Expr::Between { expr, negated: false, low, high } => {
            let Some(column_idx) = key_column_of(collector, expr, ref_idx) else { return Condition::Unknown };
            let (Some(low), Some(high)) = (slot(collector, low), slot(collector, high)) else { return Condition::Unknown };
            let test = |test| Condition::Column { column_idx, test };
            Condition::All(vec![
                test(Test::Above { slot: low, is_included: true }),
                test(Test::Below { slot: high, is_included: true }),
            ])
        }
        Expr::IsNull(inner) if !is_nullable => match key_column_of(collector, inner, ref_idx) {
            Some(column_idx) => Condition::Column { column_idx, test: Test::IsNull },
            None => Condition::Unknown,
        },
        _ => Condition::Unknown,
    }
}

fn comparison(collector: &mut Collector<'_>, term: (&Expr, &BinaryOperator, &Expr), ref_idx: usize) -> Condition {
    let (left, op, right) = term;
    if let (Expr::Tuple(lefts), Expr::Tuple(rights), BinaryOperator::Eq) = (unnested(left), unnested(right), op) {
        return tuple_equal(collector, lefts, rights, ref_idx);
    }
    let (column_idx, value, is_flipped) = if let Some(column_idx) = key_column_of(collector, left, ref_idx) {
        (column_idx, right, false)
    } else if let Some(column_idx) = key_column_of(collector, right, ref_idx) {
        (column_idx, left, true)
    } else {
        return constant(collector, term);
    };
    let Some(slot) = slot(collector, value) else { return Condition::Unknown };
    let test = match (op, is_flipped) {
        (BinaryOperator::Eq, _) => Test::In(vec![slot]),
        (BinaryOperator::Gt, false) | (BinaryOperator::Lt, true) => Test::Above { slot, is_included: false },
        (BinaryOperator::GtEq, false) | (BinaryOperator::LtEq, true) => Test::Above { slot, is_included: true },
        (BinaryOperator::Lt, false) | (BinaryOperator::Gt, true) => Test::Below { slot, is_included: false },
        (BinaryOperator::LtEq, false) | (BinaryOperator::GtEq, true) => Test::Below { slot, is_included: true },
        _ => return Condition::Unknown,
    };
    Condition::Column { column_idx, test }
}

/// A comparison of whole numbers, such as `1 = 0`.
fn constant(collector: &mut Collector<'_>, (left, op, right): (&Expr, &BinaryOperator, &Expr)) -> Condition {
    let orders: &[Ordering] = match op {
        BinaryOperator::Eq => &[Ordering::Equal],
        BinaryOperator::NotEq => &[Ordering::Less, Ordering::Greater],
        BinaryOperator::Lt => &[Ordering::Less],
        BinaryOperator::LtEq => &[Ordering::Less, Ordering::Equal],
        BinaryOperator::Gt => &[Ordering::Greater],
        BinaryOperator::GtEq => &[Ordering::Greater, Ordering::Equal],
        _ => return Condition::Unknown,
    };
    let is_number = |expr: &Expr| match unnested(expr) {
        Expr::Value(value) => matches!(value.value, Value::Number(..)),
        Expr::UnaryOp { .. } | Expr::BinaryOp { .. } => true,
        _ => false,
    };
    if !is_number(left) || !is_number(right) {
        return Condition::Unknown;
    }
    match (slot(collector, left), slot(collector, right)) {
        (Some(Slot { operand: left, cast: None }), Some(Slot { operand: right, cast: None })) => {
            Condition::Numbers { left, right, orders }
        }
        _ => Condition::Unknown,
    }
}

/// The slot of an array: a string or a parameter, as it is or cast to an array of integers, text or uuid.
fn array_slot(collector: &mut Collector<'_>, expr: &Expr) -> Option<Slot> {
    let value = match expr {
        Expr::Value(value) => value,
        Expr::Cast { expr, data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(element, None)), format: None, .. } => {
            match (unnested(expr), cast_of(element)?) {
                (Expr::Value(value), Cast::Integer | Cast::Text | Cast::Uuid) => value,
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Slot { operand: operand(collector, value, false)?, cast: None })
}

fn tuple_equal(collector: &mut Collector<'_>, lefts: &[Expr], rights: &[Expr], ref_idx: usize) -> Condition {
    if lefts.len() != rights.len() {
        return Condition::Unknown;
    }
    let pairs = lefts.iter().zip(rights).map(|(left, right)| comparison(collector, (left, &BinaryOperator::Eq, right), ref_idx));
    let known: Vec<Condition> = pairs.filter(|part| *part != Condition::Unknown).collect();
    if known.is_empty() { Condition::Unknown } else { Condition::All(known) }
}

fn in_list(collector: &mut Collector<'_>, expr: &Expr, list: &[Expr], ref_idx: usize) -> Condition {
    if let Expr::Tuple(columns) = unnested(expr) {
        let rows: Vec<Condition> = list
            .iter()
            .map(|row| match unnested(row) {
                Expr::Tuple(values) => tuple_equal(collector, columns, values, ref_idx),
                _ => Condition::Unknown,
            })
            .collect();
        return if rows.contains(&Condition::Unknown) { Condition::Unknown } else { Condition::Any(rows) };
    }
    let Some(column_idx) = key_column_of(collector, expr, ref_idx) else { return Condition::Unknown };
    let slots: Option<Vec<Slot>> = list.iter().map(|value| slot(collector, value)).collect();
    slots.map_or(Condition::Unknown, |slots| Condition::Column { column_idx, test: Test::In(slots) })
}

/// The slot that a value expression is; `None` for anything but a literal, a parameter or the transaction's time.
pub(super) fn slot(collector: &mut Collector<'_>, expr: &Expr) -> Option<Slot> {
    if let Some(time) = time_operand(collector, expr) {
        return Some(Slot { operand: Operand::Time(time), cast: None });
    }
    match expr {
        Expr::Nested(inner) => slot(collector, inner),
        Expr::Value(value) => Some(Slot { operand: operand(collector, value, false)?, cast: None }),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match &**expr {
            Expr::Value(value) if matches!(value.value, Value::Number(..)) => {
                Some(Slot { operand: operand(collector, value, true)?, cast: None })
            }
            _ => None,
        },
        Expr::Cast { expr, data_type, format: None, .. } => {
            let cast = cast_of(data_type)?;
            let inner = slot(collector, expr)?;
            match (inner.cast, &inner.operand) {
                (None, Operand::Literal { .. } | Operand::Param(_) | Operand::Null) => Some(Slot { cast: Some(cast), ..inner }),
                _ => None,
            }
        }
        Expr::BinaryOp { left, op, right } if is_arithmetic(op) => {
            let (left, right) = (slot(collector, left)?, slot(collector, right)?);
            let is_plain =
                |slot: &Slot| slot.cast.is_none() && matches!(slot.operand, Operand::Literal { .. } | Operand::Arithmetic(_));
            let sign = op.to_string().chars().next()?;
            let arithmetic = Arithmetic { left: left.operand.clone(), sign, right: right.operand.clone() };
            (is_plain(&left) && is_plain(&right)).then(|| Slot { operand: Operand::Arithmetic(Box::new(arithmetic)), cast: None })
        }
        Expr::TypedString(typed) => {
            let cast = cast_of(&typed.data_type)?;
            Some(Slot { operand: operand(collector, &typed.value, false)?, cast: Some(cast) })
        }
        _ => None,
    }
}

fn is_arithmetic(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
    matches!(op, Plus | Minus | Multiply | Divide | Modulo)
}

fn operand(collector: &mut Collector<'_>, value: &sqlparser::ast::ValueWithSpan, is_negated: bool) -> Option<Operand> {
    match &value.value {
        Value::Null => Some(Operand::Null),
        Value::Placeholder(name) => name.strip_prefix('$')?.parse().ok().map(Operand::Param),
        Value::Boolean(_) => None,
        _ => Some(Operand::Literal { literal_idx: literal_idx(collector, value)?, is_negated }),
    }
}

/// The lexer's literal that begins where the parser's does.
fn literal_idx(collector: &mut Collector<'_>, value: &sqlparser::ast::ValueWithSpan) -> Option<usize> {
    let start = collector.positions.start(collector.sql, value.span);
    let found = start.and_then(|start| collector.literals.binary_search_by_key(&start, |literal| literal.start).ok());
    if found.is_none() {
        collector.found.facts.misplaced = Seen::Yes;
    }
    found
}

fn cast_of(data_type: &DataType) -> Option<Cast> {
    Some(match data_type {
        DataType::SmallInt(None)
        | DataType::Int2(None)
        | DataType::Int(None)
        | DataType::Integer(None)
        | DataType::Int4(None)
        | DataType::BigInt(None)
        | DataType::Int8(None) => Cast::Integer,
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) => Cast::Text,
        DataType::Uuid => Cast::Uuid,
        DataType::Date => Cast::Date,
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => Cast::Timestamp,
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => Cast::Timestamptz,
        _ => return None,
    })
}

/// `now()`, `CURRENT_DATE`, and those plus or minus intervals.
fn time_operand(collector: &mut Collector<'_>, expr: &Expr) -> Option<TimeOperand> {
    match expr {
        Expr::Nested(inner) => time_operand(collector, inner),
        Expr::Function(function) => {
            let name = function.name.0.len().eq(&1).then(|| last_part(&function.name))?;
            let has_args = matches!(&function.args, sqlparser::ast::FunctionArguments::List(list) if !list.args.is_empty());
            match (time_cast(&name)?, has_args) {
                ("", false) => Some(TimeOperand { is_date: false, offsets: Vec::new() }),
                ("date", false) => Some(TimeOperand { is_date: true, offsets: Vec::new() }),
                _ => None,
            }
        }
        Expr::BinaryOp { left, op: op @ (BinaryOperator::Minus | BinaryOperator::Plus), right } => {
            let mut time = time_operand(collector, left)?;
            let is_minus = *op == BinaryOperator::Minus;
            let bare_unit = (time.is_date && time.offsets.is_empty()).then_some(Unit::Day);
            let offset = offset(collector, right, is_minus, bare_unit)?;
            time.offsets.push(offset);
            Some(time)
        }
        _ => None,
    }
}

/// An interval; a bare number too where `bare_unit` says what it counts.
fn offset(collector: &mut Collector<'_>, expr: &Expr, is_minus: bool, bare_unit: Option<Unit>) -> Option<Offset> {
    let (value, unit) = match expr {
        Expr::Nested(inner) => return offset(collector, inner, is_minus, bare_unit),
        Expr::Interval(interval) if interval.last_field.is_none() && interval.leading_precision.is_none() => {
            let unit = match &interval.leading_field {
                Some(field) => Some(Unit::named(&field.to_string())?),
                None => None,
            };
            (unnested(&interval.value), unit)
        }
        Expr::Cast { expr, data_type: DataType::Interval { .. }, .. } => (unnested(expr), None),
        Expr::Value(value) if bare_unit.is_some() && matches!(value.value, Value::Number(..)) => (expr, bare_unit),
        _ => return None,
    };
    let Expr::Value(value) = value else { return None };
    if !matches!(value.value, Value::SingleQuotedString(_) | Value::Number(..)) {
        return None;
    }
    Some(Offset { is_minus, literal_idx: literal_idx(collector, value)?, unit })
}

/// Adds what the joins of a FROM list say. The list's scope is the innermost one.
pub(super) fn from_terms(collector: &mut Collector<'_>, from: &[TableWithJoins]) {
    let mut item_idx = 0;
    for tree in from {
        tree_terms(collector, tree, &mut item_idx);
    }
}

fn tree_terms(collector: &mut Collector<'_>, tree: &TableWithJoins, item_idx: &mut usize) {
    let start = *item_idx;
    factor_terms(collector, &tree.relation, item_idx);
    for join in &tree.joins {
        let right = *item_idx;
        factor_terms(collector, &join.relation, item_idx);
        let restricted = match side(&join.join_operator) {
            Side::Inner => start..*item_idx,
            Side::Left => right..*item_idx,
            Side::Right => start..right,
            Side::Full | Side::Other => 0..0,
        };
        let is_full = side(&join.join_operator) == Side::Full;
        let n_edges = collector.found.edges.len();
        match constraint(&join.join_operator) {
            Some(JoinConstraint::On(on)) if is_full => {
                let sides = (refs_in(collector, start..right), refs_in(collector, right..*item_idx));
                for term in conjuncts(on) {
                    add_edges(collector, term, |_| true);
                }
                keep_pairs(collector, n_edges, &sides);
            }
            Some(JoinConstraint::On(on)) => {
                for term in conjuncts(on) {
                    restrict(collector, term, restricted.clone());
                }
            }
            Some(JoinConstraint::Using(columns)) => {
                for column in columns {
                    using_edges(collector, &last_part(column), &(start..*item_idx));
                }
                if is_full {
                    let sides = (refs_in(collector, start..right), refs_in(collector, right..*item_idx));
                    keep_pairs(collector, n_edges, &sides);
                }
            }
            _ => {}
        }
    }
}

/// The table references of items of the innermost scope.
fn refs_in(collector: &Collector<'_>, items: Range<usize>) -> Vec<usize> {
    let scope = collector.scopes.last();
    scope.and_then(|scope| scope.items.get(items)).unwrap_or_default().iter().filter_map(|item| item.ref_idx).collect()
}

/// Makes the edges from `n_edges` on pairs of a FULL JOIN: those between its two sides.
fn keep_pairs(collector: &mut Collector<'_>, n_edges: usize, sides: &(Vec<usize>, Vec<usize>)) {
    let pairs = collector.found.edges.split_off(n_edges);
    let spans = |edge: &Edge| sides.0.contains(&edge.from.ref_idx) && sides.1.contains(&edge.to.ref_idx);
    collector.found.full_pairs.extend(pairs.into_iter().filter(spans));
}

fn factor_terms(collector: &mut Collector<'_>, factor: &TableFactor, item_idx: &mut usize) {
    match factor {
        TableFactor::NestedJoin { table_with_joins, alias: None } => tree_terms(collector, table_with_joins, item_idx),
        _ => *item_idx += 1,
    }
}

/// Adds what one ON term says of the items `restricted` of the innermost scope.
fn restrict(collector: &mut Collector<'_>, term: &Expr, restricted: Range<usize>) {
    let Some(scope) = collector.scopes.last() else { return };
    let items = scope.items.get(restricted).unwrap_or_default();
    let ref_idxs: Vec<(usize, bool)> = items.iter().flat_map(Item::restricted_refs).collect();
    for (ref_idx, is_nullable) in &ref_idxs {
        match condition(collector, term, *ref_idx, *is_nullable) {
            Condition::Unknown => {}
            condition => collector.found.refs[*ref_idx].conditions.push(condition),
        }
    }
    let may_restrict = |ref_idx: usize| ref_idxs.iter().any(|(restricted, _)| *restricted == ref_idx);
    add_edges(collector, term, may_restrict);
    links::of_on(collector, term, may_restrict);
}

/// Adds the equalities between keys that the terms of a WHERE say.
pub(super) fn where_edges(collector: &mut Collector<'_>, selection: &Expr) {
    for term in conjuncts(selection) {
        add_edges(collector, term, |_| true);
    }
}

/// The expressions that a term says are equal.
pub(super) fn equal_pairs(term: &Expr) -> Vec<(&Expr, &Expr)> {
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = term else { return Vec::new() };
    match (unnested(left), unnested(right)) {
        (Expr::Tuple(lefts), Expr::Tuple(rights)) if lefts.len() == rights.len() => lefts.iter().zip(rights).collect(),
        (left, right) => vec![(left, right)],
    }
}

fn add_edges(collector: &mut Collector<'_>, term: &Expr, may_restrict: impl Fn(usize) -> bool) {
    for (left, right) in equal_pairs(term) {
        let (lefts, rights) = (key_columns(collector, left), key_columns(collector, right));
        for (a, a_outer) in &lefts {
            for (b, b_outer) in &rights {
                if !a_outer && may_restrict(a.ref_idx) {
                    collector.found.edges.push(Edge { from: *b, to: *a });
                }
                if !b_outer && may_restrict(b.ref_idx) {
                    collector.found.edges.push(Edge { from: *a, to: *b });
                }
            }
        }
    }
}

/// Adds what USING of the join of these items of the innermost scope says: the sides' values are equal where both have a row.
fn using_edges(collector: &mut Collector<'_>, column: &str, items: &Range<usize>) {
    let Some(scope) = collector.scopes.last() else { return };
    let Some(using) = scope.usings.iter().find(|using| using.column == column && using.items == *items) else { return };
    let using = using.clone();
    let keys = |idxs: &[usize]| -> Vec<KeyColumn> {
        idxs.iter().filter_map(|&idx| scope.items.get(idx)).flat_map(|item| item.keys_named(column)).collect()
    };
    let (restricts_left, restricts_right) = match using.side {
        Side::Inner | Side::Full => (true, true),
        Side::Left => (false, true),
        Side::Right => (true, false),
        Side::Other => (false, false),
    };
    let (lefts, rights) = (keys(&using.left), keys(&using.right));
    let mut edges = Vec::new();
    for &left in &lefts {
        for &right in &rights {
            edges.extend(restricts_left.then_some(Edge { from: right, to: left }));
            edges.extend(restricts_right.then_some(Edge { from: left, to: right }));
        }
    }
    collector.found.edges.extend(edges);
    if using.side != Side::Full {
        links::of_using(collector, &using, (restricts_left, restricts_right));
    }
}

/// Makes the scope of a write and adds what its WHERE says. Terms of MERGE do not bind the rows that it may insert.
pub(super) fn enter_write(collector: &mut Collector<'_>, statement: &Statement) {
    match statement {
        Statement::Insert(insert) => {
            let written = match &insert.table {
                TableObject::TableName(name) => Some(collector.table_ref(name)),
                TableObject::TableFunction(_) | TableObject::TableQuery(_) => None,
            };
            collector.enter(Vec::new(), Vec::new(), written);
        }
        Statement::Update(update) => {
            let from: &[TableWithJoins] = match &update.from {
                Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => from,
                None => &[],
            };
            enter_tables(collector, &[std::slice::from_ref(&update.table), from], update.selection.as_ref());
        }
        Statement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            let using = delete.using.as_deref().unwrap_or_default();
            enter_tables(collector, &[from, using], delete.selection.as_ref());
        }
        Statement::Merge(merge) => {
            let written = match &merge.table {
                TableFactor::Table { name, alias, args: None, .. } => table_item(collector, name, alias.as_ref()).ref_idx,
                _ => None,
            };
            collector.enter(Vec::new(), Vec::new(), written);
        }
        _ => {}
    }
}

fn enter_tables(collector: &mut Collector<'_>, lists: &[&[TableWithJoins]], selection: Option<&Expr>) {
    let (items, usings) = items_of(collector, lists.iter().copied().flatten());
    let written = items.first().and_then(|item| item.ref_idx);
    collector.enter(items, usings, written);
    let mut item_idx = 0;
    for tree in lists.iter().flat_map(|list| list.iter()) {
        tree_terms(collector, tree, &mut item_idx);
    }
    if let Some(selection) = selection {
        collector.add_conjuncts(&conjuncts(selection));
        where_edges(collector, selection);
    }
}
