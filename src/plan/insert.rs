//! INSERT: the shard of each row by its key, and the split of several rows.

use std::sync::Arc;

use sqlparser::ast::{
    Assignment, AssignmentTarget, ConflictTarget, Expr, Insert, ObjectNamePart, OnConflictAction, OnInsert, SetExpr, TableObject,
};

use super::bind::{StatementTemplate, shard_sets, union};
use super::collect::{Collected, Collector};
use super::columns::key_type;
use super::contract::{Access, Context, InsertPlan, Plan, ShardStatement, Values};
use super::dml;
use super::functions::Nature;
use super::names::{Target, folded_parts, last_part, relation_of, table_name};
use super::predicate;
use super::reader::{Parsed, parse};
use super::refusal::{Refusal, RefusalCode};
use super::selected;
use super::shape;
use super::slot::{Binding, Operand, Slot, SlotValue, TimeOperand, string_content};
use super::text::{after_closing, byte_range, split_commas, tokens_of};
use crate::sql::{KeyType, Literal, LiteralKind};
use crate::topology::{Collation, Column, ColumnDefault, Key, KeyValue, PlacementError, Relation, ShardId, ShardSet, TableName};

/// An INSERT into a sharded table with the keys of its rows.
#[derive(Debug)]
pub(super) struct InsertTemplate {
    table: TableName,
    key: Key,
    columns: Vec<Column>,
    /// For each row a value for each key column.
    rows: Vec<Vec<Slot>>,
    /// They are of different lengths.
    is_uneven: bool,
    target_idx: usize,
}

/// Where one row goes.
enum RowShard {
    On(ShardId),
    /// Postgres refuses the row on any shard.
    Invalid,
}

/// The template of an INSERT into a sharded table; `None` for other targets, which are planned as other writes are.
///
/// # Errors
/// A missing key, a key that is an expression, a key column set by ON CONFLICT, INSERT … SELECT.
pub(super) fn analyze(
    insert: &Insert,
    parsed: &Parsed,
    collected: &mut Collected,
    literals: &[Literal],
    context: &Context<'_>,
) -> Result<Option<InsertTemplate>, Refusal> {
    let TableObject::TableName(name) = &insert.table else {
        return Err(Refusal::new(RefusalCode::Unparsed, "the planner does not know this form of INSERT"));
    };
    let Some(target_idx) = collected.refs.iter().position(|table_ref| table_ref.is_written) else { return Ok(None) };
    let target = collected.refs[target_idx].clone();
    let parts = folded_parts(name);
    let table = table_name(&parts, context);
    let Some(key) = target.key() else {
        if matches!(target.target, Target::Reference(_)) {
            refuse_diverging_defaults(insert, &table, relation_of(&parts, context).as_ref())?;
        }
        return Ok(None);
    };
    refuse_key_update(insert, key, &table)?;
    refuse_far_conflicts(insert, key, &table, context)?;
    let Some(relation) = relation_of(&parts, context) else {
        return Err(
            Refusal::new(RefusalCode::UnknownColumns, format!("the columns of table \"{table}\" are not known")).at(&table, None)
        );
    };
    let rows = match insert.source.as_ref().map(|source| &*source.body) {
        Some(SetExpr::Values(rows)) if insert.source.as_ref().is_some_and(|source| source.with.is_none()) => {
            rows.rows.iter().map(|row| row.content.as_slice()).collect()
        }
        Some(body) => {
            let places = key_places(insert, key, &relation, &table)?;
            // The scope of a WITH query must not be taken for the source's own.
            if insert.source.as_ref().is_some_and(|source| source.with.is_none()) {
                let mut collector = Collector::bare(parsed, literals, context);
                selected::bind_target(body, &places, &mut collector, collected, target_idx);
            }
            return Ok(None);
        }
        None => vec![&[] as &[Expr]],
    };
    let places = key_places(insert, key, &relation, &table)?;
    let mut collector = Collector::bare(parsed, literals, context);
    // Any server says that the lists must all be of one length.
    let is_uneven = rows.windows(2).any(|pair| matches!(pair, [a, b] if a.len() != b.len()));
    let rows = rows.iter().map(|row| key_slots(&mut collector, row, &places, &table)).collect::<Result<Vec<_>, _>>()?;
    let columns = places.into_iter().map(|place| place.column).collect();
    Ok(Some(InsertTemplate { table, key: key.clone(), columns, rows, is_uneven, target_idx }))
}

/// Where a key column's value stands in a row.
pub(super) struct KeyPlace {
    pub(super) column: Column,
    /// `None`: left out.
    pub(super) value_idx: Option<usize>,
}

fn key_places(insert: &Insert, key: &Key, relation: &Relation, table: &TableName) -> Result<Vec<KeyPlace>, Refusal> {
    let names: Vec<String> = if insert.columns.is_empty() {
        relation.columns.iter().map(|column| column.name.clone()).collect()
    } else {
        insert.columns.iter().map(last_part).collect()
    };
    key.columns
        .iter()
        .map(|name| {
            let column = relation.column(name).ok_or_else(|| {
                Refusal::new(RefusalCode::UnknownColumns, format!("table \"{table}\" has no key column \"{name}\""))
                    .at(table, Some(name))
            })?;
            Ok(KeyPlace { column: column.clone(), value_idx: names.iter().position(|other| other == name) })
        })
        .collect()
}

fn key_slots(collector: &mut Collector<'_>, row: &[Expr], places: &[KeyPlace], table: &TableName) -> Result<Vec<Slot>, Refusal> {
    places
        .iter()
        .map(|place| match place.value_idx.and_then(|idx| row.get(idx)) {
            Some(value) if !is_default(value) => predicate::slot(collector, value).ok_or_else(|| {
                let message = format!("key column \"{}\" of table \"{table}\" is given by an expression", place.column.name);
                Refusal::new(RefusalCode::OpaqueKey, message).at(table, Some(&place.column.name))
            }),
            _ => default_slot(&place.column, table),
        })
        .collect()
}

/// The value of a key column that a row leaves to its default.
pub(super) fn default_slot(column: &Column, table: &TableName) -> Result<Slot, Refusal> {
    match &column.default {
        ColumnDefault::Now => {
            Ok(Slot { operand: Operand::Time(TimeOperand { is_date: false, offsets: Vec::new() }), cast: None })
        }
        ColumnDefault::None => Ok(Slot { operand: Operand::Null, cast: None }),
        ColumnDefault::Volatile(_) | ColumnDefault::Immutable(_) | ColumnDefault::Generated => {
            let message = format!("INSERT into \"{table}\" must set its shard key column \"{}\"", column.name);
            Err(Refusal::new(RefusalCode::MissingKey, message).at(table, Some(&column.name)))
        }
    }
}

fn is_default(value: &Expr) -> bool {
    matches!(value, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// ON CONFLICT DO UPDATE may set a key column only to the value that it has.
fn refuse_key_update(insert: &Insert, key: &Key, table: &TableName) -> Result<(), Refusal> {
    let Some(OnInsert::OnConflict(conflict)) = &insert.on else { return Ok(()) };
    let OnConflictAction::DoUpdate(update) = &conflict.action else { return Ok(()) };
    let in_target = |column: &String| match &conflict.conflict_target {
        Some(ConflictTarget::Columns(columns)) => columns.iter().any(|ident| super::names::folded(ident) == *column),
        _ => false,
    };
    for column in assigned(&update.assignments) {
        if key.columns.contains(&column) && !(in_target(&column) && sets_excluded(&update.assignments, &column)) {
            return Err(Refusal::new(
                RefusalCode::UpdatesKey,
                format!("ON CONFLICT DO UPDATE may not set key column \"{column}\""),
            )
            .at(table, Some(&column)));
        }
    }
    Ok(())
}

/// ON CONFLICT finds the rows of its shard: those of an index over the key are all there. Others could be anywhere.
fn refuse_far_conflicts(insert: &Insert, key: &Key, table: &TableName, context: &Context<'_>) -> Result<(), Refusal> {
    let Some(OnInsert::OnConflict(conflict)) = &insert.on else { return Ok(()) };
    let unique = context.schema.unique.get(table);
    let refuse = |what: String| {
        let message =
            format!("ON CONFLICT by {what} of table \"{table}\", which does not contain its shard key, is not supported");
        Err(Refusal::new(RefusalCode::FarConflict, message).at(table, None))
    };
    match &conflict.conflict_target {
        Some(ConflictTarget::Columns(columns)) => {
            let names: Vec<String> = columns.iter().map(super::names::folded).collect();
            if key.columns.iter().all(|column| names.contains(column)) {
                Ok(())
            } else {
                refuse(format!("({})", names.join(", ")))
            }
        }
        target => {
            let named = match target {
                Some(ConflictTarget::OnConstraint(name)) => Some(last_part(name)),
                _ => None,
            };
            let mut meant = unique.into_iter().flatten().filter(|(name, _)| named.as_ref().is_none_or(|named| named == *name));
            match meant.find(|(_, columns)| !key.columns.iter().all(|column| columns.contains(column))) {
                Some((name, _)) => refuse(format!("index \"{name}\"")),
                None => Ok(()),
            }
        }
    }
}

/// The columns that assignments set, folded.
pub(super) fn assigned(assignments: &[Assignment]) -> Vec<String> {
    assignments
        .iter()
        .flat_map(|assignment| match &assignment.target {
            AssignmentTarget::ColumnName(name) => name.0.first().into_iter().map(part_name).collect::<Vec<_>>(),
            AssignmentTarget::Tuple(names) => names.iter().map(last_part).collect(),
        })
        .collect()
}

fn part_name(part: &ObjectNamePart) -> String {
    match part {
        ObjectNamePart::Identifier(ident) => super::names::folded(ident),
        ObjectNamePart::Function(function) => super::names::folded(&function.name),
    }
}

fn sets_excluded(assignments: &[Assignment], column: &str) -> bool {
    assignments.iter().all(|assignment| match (&assignment.target, &assignment.value) {
        (AssignmentTarget::ColumnName(name), Expr::CompoundIdentifier(idents)) if last_part(name) == column => {
            matches!(idents.as_slice(), [table, from] if super::names::folded(table) == "excluded" && super::names::folded(from) == column)
        }
        (AssignmentTarget::ColumnName(name), _) => last_part(name) != column,
        (AssignmentTarget::Tuple(_), _) => false,
    })
}

/// A reference table's copies must get the same values: no sequence, no clock, no randomness in what is left out.
fn refuse_diverging_defaults(insert: &Insert, table: &TableName, relation: Option<&Arc<Relation>>) -> Result<(), Refusal> {
    let Some(relation) = relation else { return Ok(()) };
    let named: Vec<String> = insert.columns.iter().map(last_part).collect();
    let rows: Vec<&[Expr]> = match insert.source.as_ref().map(|source| &*source.body) {
        Some(SetExpr::Values(values)) => values.rows.iter().map(|row| row.content.as_slice()).collect(),
        _ => Vec::new(),
    };
    for (idx, column) in relation.columns.iter().enumerate() {
        let value_idx = if insert.columns.is_empty() { Some(idx) } else { named.iter().position(|name| *name == column.name) };
        let is_given = |row: &&[Expr]| value_idx.and_then(|idx| row.get(idx)).is_some_and(|value| !is_default(value));
        let is_always_given = match insert.source {
            Some(_) if rows.is_empty() => value_idx.is_some(),
            Some(_) => rows.iter().all(is_given),
            None => false,
        };
        if !is_always_given && matches!(column.default, ColumnDefault::Volatile(_) | ColumnDefault::Now) {
            let message = format!("the default of column \"{}\" would differ between the copies of \"{table}\"", column.name);
            return Err(Refusal::new(RefusalCode::ReferenceDiverges, message).at(table, Some(&column.name)));
        }
    }
    Ok(())
}

/// Binds an INSERT into a sharded table.
pub(super) fn bind(
    statement: &StatementTemplate,
    template: &InsertTemplate,
    values: &Values<'_>,
    context: &Context<'_>,
) -> Result<Plan, Refusal> {
    if template.is_uneven {
        return Ok(Plan::AnyOne { access: Access::Write });
    }
    let mut shards = Vec::with_capacity(template.rows.len());
    for row in &template.rows {
        match template.shard_of(row, values, context)? {
            RowShard::On(shard) => shards.push(shard),
            RowShard::Invalid => return Ok(Plan::AnyOne { access: Access::Write }),
        }
    }
    let targets: ShardSet = shards.iter().copied().collect();
    let mut sets = shard_sets(&statement.collected, values, context);
    sets[template.target_idx] = targets;
    match (union(&sets).single(), targets.single()) {
        (Some(shard), _) => Ok(Plan::Route { shard, access: statement.access() }),
        (None, Some(_)) => {
            Err(Refusal::new(RefusalCode::InsertSelect, "INSERT that reads rows of another shard is not supported"))
        }
        (None, None) => {
            sets[template.target_idx] = ShardSet::EMPTY;
            if !union(&sets).is_empty() {
                return Err(Refusal::new(
                    RefusalCode::InsertSelect,
                    "INSERT on several shards that reads sharded tables is not supported",
                ));
            }
            split(&shards, values, context)
        }
    }
}

impl InsertTemplate {
    fn shard_of(&self, row: &[Slot], values: &Values<'_>, context: &Context<'_>) -> Result<RowShard, Refusal> {
        let binding = Binding { values, time_zone: &context.settings.time_zone };
        let (mut low, mut high) = (Vec::with_capacity(row.len()), Vec::with_capacity(row.len()));
        for (slot, column) in row.iter().zip(&self.columns) {
            let Some(key_type) = key_type(column) else { return Err(self.opaque(column)) };
            match slot.value(key_type, binding) {
                SlotValue::Null => (low.push(KeyValue::Null), high.push(KeyValue::Null)),
                SlotValue::Exact(value) if is_stored_as_is(&value, column) => (low.push(value.clone()), high.push(value)),
                SlotValue::Between(..) if is_now(slot) => {
                    let now = KeyValue::Timestamp(values.now_micros);
                    (low.push(now.clone()), high.push(now))
                }
                SlotValue::Between(from, to) => (low.push(KeyValue::Timestamp(from)), high.push(KeyValue::Timestamp(to))),
                SlotValue::OutOfRange if !is_decimal(slot, values) => return Ok(RowShard::Invalid),
                SlotValue::Unknown if is_surely_invalid(slot, key_type, values) => return Ok(RowShard::Invalid),
                SlotValue::Exact(_) | SlotValue::OutOfRange | SlotValue::Unknown => return Err(self.opaque(column)),
            };
        }
        let (first, last) = (self.placed(&low)?, self.placed(&high)?);
        if first == last { Ok(RowShard::On(first)) } else { Err(self.opaque(&self.columns[0])) }
    }

    fn placed(&self, row: &[KeyValue]) -> Result<ShardId, Refusal> {
        self.key.shard_of(row).map_err(|error| placement_refusal(&error, &self.table))
    }

    fn opaque(&self, column: &Column) -> Refusal {
        let why = match column.collation {
            Collation::Nondeterministic => ": its collation is not deterministic",
            _ => "",
        };
        let message = format!("the value of key column \"{}\" of table \"{}\" cannot be placed{why}", column.name, self.table);
        Refusal::new(RefusalCode::OpaqueKey, message).at(&self.table, Some(&column.name))
    }
}

/// The words for a row that has no shard.
pub(super) fn placement_refusal(error: &PlacementError, table: &TableName) -> Refusal {
    let (code, column) = match error {
        PlacementError::Null { column } => (RefusalCode::NullKey, column),
        PlacementError::Unmapped { column } => (RefusalCode::UnmappedKey, column),
        PlacementError::NoWatermarks { column } => (RefusalCode::NoWatermarks, column),
    };
    Refusal::new(code, format!("{error} in table \"{table}\"")).at(table, Some(column))
}

fn is_now(slot: &Slot) -> bool {
    matches!(&slot.operand, Operand::Time(time) if time.offsets.is_empty())
}

/// Whether the column's length or precision leaves the value as it is.
pub(super) fn is_stored_as_is(value: &KeyValue, column: &Column) -> bool {
    let Some(limit) = column.type_name.split_once('(').and_then(|(_, rest)| rest.split(')').next()?.parse::<usize>().ok()) else {
        return true;
    };
    match value {
        KeyValue::Text(text) => text.chars().count() <= limit,
        KeyValue::Timestamp(micros) => micros % 1_000_000 == 0 || limit >= 6,
        KeyValue::Null | KeyValue::Int(_) | KeyValue::Uuid(_) => true,
    }
}

fn is_decimal(slot: &Slot, values: &Values<'_>) -> bool {
    match slot.operand {
        Operand::Literal { literal_idx, .. } => {
            slot.cast.is_some() || values.literals.get(literal_idx).is_none_or(|literal| literal.kind == LiteralKind::Decimal)
        }
        _ => false,
    }
}

/// Whether Postgres surely refuses the literal as a value of the column's type.
fn is_surely_invalid(slot: &Slot, key_type: KeyType, values: &Values<'_>) -> bool {
    let Operand::Literal { literal_idx, .. } = slot.operand else { return false };
    let Some(literal) = values.literals.get(literal_idx).filter(|literal| literal.kind == LiteralKind::PlainString) else {
        return false;
    };
    let Some(text) = string_content(values.sql.as_bytes(), *literal) else { return false };
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => !text.bytes().any(|byte| byte.is_ascii_digit()),
        KeyType::Uuid => text.bytes().any(|byte| !byte.is_ascii_hexdigit() && !b"{}- \t\n".contains(&byte)),
        KeyType::Text | KeyType::Bpchar | KeyType::Date | KeyType::Timestamp | KeyType::Timestamptz => false,
    }
}

/// One statement per shard, made of the rows that go there.
fn split(shards: &[ShardId], values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
    let sql = values.sql;
    let parsed = parse(sql, context.settings.has_standard_strings)?;
    let sqlparser::ast::Statement::Insert(insert) = &parsed.statement else {
        return Err(Refusal::new(RefusalCode::Unparsed, "the planner expects an INSERT"));
    };
    if insert.returning.is_some() {
        return Err(Refusal::new(
            RefusalCode::ReturningOnManyShards,
            "RETURNING of an INSERT on several shards is not supported",
        ));
    }
    let has_more = insert.source.as_ref().is_some_and(|source| source.order_by.is_some() || source.limit_clause.is_some());
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let rows = row_tokens(sql, &tokens).filter(|rows| rows.len() == shards.len() && !has_more);
    let Some(rows) = rows else {
        return Err(Refusal::new(RefusalCode::Clause, "this form of VALUES on several shards is not supported"));
    };
    let collected = super::collect::collect(&parsed, values.literals, context);
    refuse_clock(&collected, context)?;
    let edits = shape::time_edits(&collected, &tokens, values.now_micros, context)?;
    let bytes: Vec<_> = rows.iter().map(|row| byte_range(&tokens, row)).collect();
    let (head, tail) = match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => (edits.apply(sql, 0..first.start), edits.apply(sql, last.end..sql.len())),
        _ => return Err(Refusal::new(RefusalCode::Clause, "VALUES without rows")),
    };
    let targets: ShardSet = shards.iter().copied().collect();
    let statements = targets
        .iter()
        .map(|shard| {
            let own = bytes.iter().zip(shards).filter(|(_, on)| **on == shard).map(|(row, _)| edits.apply(sql, row.clone()));
            let text = format!("{head}{}{tail}", own.collect::<Vec<_>>().join(", "));
            ShardStatement { shard, text }
        })
        .collect();
    Ok(Plan::Insert(Arc::new(InsertPlan { statements })))
}

/// Functions that would write elsewhere than on the row's shard, or read tables there.
fn refuse_clock(collected: &Collected, context: &Context<'_>) -> Result<(), Refusal> {
    for call in &collected.functions {
        match call.nature(context) {
            Nature::Writing | Nature::Server | Nature::User => return Err(dml::function_refusal(call, context)),
            Nature::Pure | Nature::Time | Nature::SplitAggregate | Nature::OtherAggregate | Nature::Volatile => {}
        }
    }
    Ok(())
}

/// The token ranges of the rows of VALUES, parentheses included.
fn row_tokens(sql: &str, tokens: &[crate::sql::Token]) -> Option<Vec<std::ops::Range<usize>>> {
    let mut depth = 0;
    let values = tokens.iter().position(|token| {
        depth += super::text::nesting(*token);
        depth == 0 && token.is_word(sql.as_bytes(), "values")
    })?;
    let mut end = values + 1;
    loop {
        end = after_closing(tokens, end).filter(|_| tokens[end].is_punctuation(b'('))?;
        match tokens.get(end) {
            Some(token) if token.is_punctuation(b',') => end += 1,
            _ => break,
        }
    }
    Some(split_commas(tokens, values + 1..end))
}
