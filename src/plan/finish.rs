//! Expressions of a grouped SELECT as pieces of the final statement: aggregates over partial columns, group keys, constants.

use std::ops::Range;

use super::combine::GroupKey;
use super::contract::FinalPiece;
use super::functions::{FunctionCall, Nature};
use super::merge::TextOrder;
use super::refusal::{Refusal, RefusalCode};
use super::select::{Many, Plain};
use super::text::{after_closing, byte_range};
use crate::sql::{Token, TokenKind};

/// The columns that each shard returns.
#[derive(Debug, Default)]
pub(super) struct Partial {
    pub(super) columns: Vec<PartialColumn>,
}

#[derive(Debug)]
pub(super) struct PartialColumn {
    pub(super) text: String,
    /// Of its text, if it is that and is compared.
    pub(super) order: TextOrder,
}

impl Partial {
    /// The index of the column with this text, new or known.
    pub(super) fn add(&mut self, text: String, order: TextOrder) -> usize {
        if let Some(idx) = self.columns.iter().position(|column| column.text == text) {
            return idx;
        }
        self.columns.push(PartialColumn { text, order });
        self.columns.len() - 1
    }

    /// The columns whose text compares so.
    pub(super) fn ordered(&self, order: TextOrder) -> Vec<usize> {
        self.columns.iter().enumerate().filter(|(_, column)| column.order == order).map(|(idx, _)| idx).collect()
    }
}

/// One token, or one column reference as a whole, in a form that equal ones share.
struct Unit {
    text: String,
    tokens: Range<usize>,
    is_column: bool,
}

/// The canonical form of an expression's tokens.
pub(super) fn canonical(many: &Many<'_>, range: &Range<usize>) -> Vec<String> {
    units(many, range).into_iter().map(|unit| unit.text).collect()
}

fn units(many: &Many<'_>, range: &Range<usize>) -> Vec<Unit> {
    let (mut units, mut idx) = (Vec::with_capacity(range.len()), range.start);
    while idx < range.end {
        let token = many.tokens[idx];
        if let Some(column) = many.columns.iter().find(|column| column.start == token.start) {
            units.push(Unit { text: column.canonical.clone(), tokens: idx..idx + column.n_tokens, is_column: true });
            idx += column.n_tokens;
            continue;
        }
        let text = many.sql().get(token.start..token.end).unwrap_or_default();
        let text = if token.kind == TokenKind::Word { text.to_ascii_lowercase() } else { text.to_owned() };
        units.push(Unit { text, tokens: idx..idx + 1, is_column: false });
        idx += 1;
    }
    units
}

/// The final statement while it is made.
pub(super) struct Finish<'a> {
    many: &'a Many<'a>,
    plain: &'a Plain<'a>,
    keys: &'a [GroupKey],
    partial: Partial,
    pub(super) pieces: Vec<FinalPiece>,
}

impl<'a> Finish<'a> {
    pub(super) fn new(many: &'a Many<'a>, plain: &'a Plain<'a>, keys: &'a [GroupKey], partial: Partial) -> Self {
        Self { many, plain, keys, partial, pieces: Vec::new() }
    }

    pub(super) fn done(self) -> (Vec<FinalPiece>, Partial) {
        (self.pieces, self.partial)
    }

    /// Adds text; text after text makes one piece.
    pub(super) fn text(&mut self, more: &str) {
        if more.is_empty() {
            return;
        }
        match self.pieces.last_mut() {
            Some(FinalPiece::Text(text)) => text.push_str(more),
            _ => self.pieces.push(FinalPiece::Text(more.to_owned())),
        }
    }

    /// Adds the expression that the tokens of `range` are.
    ///
    /// # Errors
    /// `NotGrouped` for a column outside aggregates that is not a group key.
    pub(super) fn expression(&mut self, range: &Range<usize>) -> Result<(), Refusal> {
        let units = units(self.many, range);
        let (mut idx, mut is_adjacent) = (0, None::<usize>);
        while idx < units.len() {
            let start = units[idx].tokens.start;
            // White space stays as it was between what is copied and what is not.
            if let Some(end) = is_adjacent
                && self.many.tokens[start].start > end
            {
                self.text(" ");
            }
            idx = self.step(&units, idx)?;
            is_adjacent =
                units.get(idx.wrapping_sub(1)).and_then(|unit| self.many.tokens.get(unit.tokens.end - 1)).map(|token| token.end);
        }
        Ok(())
    }

    /// Adds what begins at unit `idx` and returns where the next begins.
    fn step(&mut self, units: &[Unit], idx: usize) -> Result<usize, Refusal> {
        let token = self.many.tokens[units[idx].tokens.start];
        let calls = &self.many.collected.functions;
        if let Some(call) =
            calls.iter().find(|call| call.start == token.start && call.nature(self.many.context) == Nature::SplitAggregate)
        {
            let end = self.aggregate(call, units[idx].tokens.start)?;
            return Ok(units.iter().position(|unit| unit.tokens.start >= end).unwrap_or(units.len()));
        }
        if let Some((key, n_units)) = self.key_at(units, idx) {
            self.text(&format!("p.c{key}"));
            return Ok(idx + n_units);
        }
        if units[idx].is_column {
            let words = self.many.sql().get(byte_range(&self.many.tokens, &units[idx].tokens)).unwrap_or_default();
            let message = format!("column {words} is neither in GROUP BY nor in an aggregate");
            return Err(Refusal::new(RefusalCode::NotGrouped, message));
        }
        if token.is_word(self.many.sql().as_bytes(), "select") {
            return Err(Refusal::new(RefusalCode::Subquery, "a subquery in a grouped SELECT across shards is not supported"));
        }
        if units[idx].text == "." && units.get(idx + 1).is_some_and(|next| next.text == "*") {
            return Err(Refusal::new(RefusalCode::NotGrouped, "a whole row is neither in GROUP BY nor in an aggregate"));
        }
        if let TokenKind::Parameter(number) = token.kind {
            let column_idx = self.partial.add(format!("${number}"), TextOrder::Default);
            self.text(&format!("(array_agg(p.c{column_idx}))[1]"));
            return Ok(idx + 1);
        }
        self.copied(units, idx, token)
    }

    /// Adds a token as it is, or the transaction's time in the place of a time function.
    fn copied(&mut self, units: &[Unit], idx: usize, token: Token) -> Result<usize, Refusal> {
        let sql = self.many.sql();
        let end = self.plain.edits.end_of_edit_at(token.start).unwrap_or(token.end);
        let text = self.plain.edits.apply(sql, token.start..end);
        self.text(&text);
        Ok(units.iter().position(|unit| self.many.tokens[unit.tokens.start].start >= end).unwrap_or(units.len()).max(idx + 1))
    }

    /// The group key that stands at unit `idx`, with the number of units that it takes.
    fn key_at(&self, units: &[Unit], idx: usize) -> Option<(usize, usize)> {
        let mut found: Option<(usize, usize)> = None;
        for key in self.keys {
            let n_units = key.canonical.len();
            let Some(here) = units.get(idx..idx + n_units) else { continue };
            let is_equal = here.iter().zip(&key.canonical).all(|(unit, text)| unit.text == *text);
            if is_equal && found.is_none_or(|(_, longest)| n_units > longest) && is_whole(units, idx, n_units) {
                found = Some((key.column_idx, n_units));
            }
        }
        found
    }

    /// Adds the aggregate at token `first` and returns the token after it.
    fn aggregate(&mut self, call: &FunctionCall, first: usize) -> Result<usize, Refusal> {
        let (tokens, sql) = (&self.many.tokens, self.many.sql());
        let odd =
            || Refusal::new(RefusalCode::Aggregate, format!("this form of {} across shards is not supported", call.short_name()));
        let open = first + 2 * (call.name.len() - 1) + 1;
        let close = after_closing(tokens, open).filter(|_| tokens[open].is_punctuation(b'(')).ok_or_else(odd)?;
        let mut end = close;
        if tokens.get(close).is_some_and(|token| token.is_word(sql.as_bytes(), "filter")) {
            end = after_closing(tokens, close + 1).ok_or_else(odd)?;
        }
        let text = |range: Range<usize>| self.plain.edits.apply(sql, byte_range(tokens, &range));
        let order_of = |start| self.many.call_orders.iter().find(|(call, _)| *call == start).map(|(_, order)| *order);
        let piece = match call.short_name() {
            "avg" => {
                let (args, filter) =
                    (text(open..close), if end > close { format!(" {}", text(close..end)) } else { String::new() });
                let sum_idx = self.partial.add(format!("sum{args}{filter}"), TextOrder::Default);
                let count_idx = self.partial.add(format!("count{args}{filter}"), TextOrder::Default);
                FinalPiece::Avg { sum_idx, count_idx }
            }
            name => {
                let column_idx = match name {
                    "min" | "max" => self.partial.add(text(first..end), order_of(call.start).unwrap_or(TextOrder::Other)),
                    _ => self.partial.add(text(first..end), TextOrder::Default),
                };
                match name {
                    "count" => FinalPiece::Count { column_idx },
                    "sum" => FinalPiece::Sum { column_idx },
                    "min" => FinalPiece::Min { column_idx },
                    "max" => FinalPiece::Max { column_idx },
                    _ => return Err(odd()),
                }
            }
        };
        self.pieces.push(piece);
        Ok(end)
    }
}

/// Whether the units from `idx` on are an operand of their own there: a column, a call, or what commas, parentheses or the words
/// of CASE enclose.
fn is_whole(units: &[Unit], idx: usize, n_units: usize) -> bool {
    let text = |at: Option<usize>| at.and_then(|at| units.get(at)).map(|unit| unit.text.as_str());
    let (before, after) = (text(idx.checked_sub(1)), text(Some(idx + n_units)));
    if before == Some(".") {
        return false;
    }
    if n_units == 1 && units[idx].is_column {
        return true;
    }
    let opens = matches!(before, None | Some("(" | "," | "case" | "when" | "then" | "else"));
    let closes = matches!(after, None | Some(")" | "," | "when" | "then" | "else" | "end"));
    (opens && closes) || is_call(&units[idx..idx + n_units])
}

/// `name(…)`.
fn is_call(units: &[Unit]) -> bool {
    let [name, open, .., last] = units else { return false };
    let is_name = !name.is_column && name.text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !is_name || open.text != "(" || last.text != ")" {
        return false;
    }
    let mut depth = 0;
    let closing = units.iter().position(|unit| {
        depth += match unit.text.as_str() {
            "(" => 1,
            ")" => -1,
            _ => 0,
        };
        depth == 0 && unit.text == ")"
    });
    closing == Some(units.len() - 1)
}
