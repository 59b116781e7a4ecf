//! What a SELECT on several shards may hold at all, whichever rung it takes; and the transaction's time in its text.

use sqlparser::ast::{Query, Select, SetExpr};

use super::collect::Collected;
use super::contract::Context;
use super::dml::function_refusal;
use super::functions::{CallForm, Nature, refuse_hidden_calls, time_cast};
use super::joins;
use super::names::Target;
use super::refusal::{Refusal, RefusalCode};
use super::select::Many;
use super::text::{Edits, after_closing};
use crate::sql::{KeyType, StringKind, Token, TokenKind, canonical_text};

/// Checks what no rung for several shards takes, and returns the SELECT.
pub(super) fn check<'a>(query: &'a Query, many: &Many<'_>) -> Result<&'a Select, Refusal> {
    let refuse = |code: RefusalCode, what: &str| Err(Refusal::new(code, format!("{what} across shards is not supported")));
    let collected = many.collected;
    if query.with.is_some() {
        return refuse(RefusalCode::Cte, "WITH");
    }
    let select = match &*query.body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { op, .. } => return refuse(RefusalCode::SetOperation, &op.to_string()),
        SetExpr::Values(_) => return refuse(RefusalCode::SetOperation, "VALUES"),
        _ => return refuse(RefusalCode::SetOperation, "a parenthesised query"),
    };
    if collected.facts.locks.is_yes() {
        return refuse(RefusalCode::Locking, "FOR UPDATE and its kin");
    }
    if select.into.is_some() {
        return refuse(RefusalCode::CreateAs, "SELECT INTO");
    }
    if select.distinct.is_some() && !matches!(select.distinct, Some(sqlparser::ast::Distinct::All)) {
        return refuse(RefusalCode::Distinct, "DISTINCT");
    }
    if !select.named_window.is_empty() {
        return refuse(RefusalCode::Window, "WINDOW");
    }
    if query.fetch.as_ref().is_some_and(|fetch| fetch.with_ties || fetch.percent) {
        return refuse(RefusalCode::Limit, "FETCH FIRST … WITH TIES");
    }
    if collected.facts.system_column.is_yes() {
        return refuse(RefusalCode::SystemColumn, "a system column (ctid, xmin, tableoid, …)");
    }
    subqueries(collected)?;
    functions(collected, many.context)?;
    clock_literals(many)?;
    refuse_hidden_calls(many)?;
    joins::check(&select.from, collected, many.context)?;
    Ok(select)
}

/// Subqueries may read only what every shard has in full, and must give the same rows everywhere.
fn subqueries(collected: &Collected) -> Result<(), Refusal> {
    let is_far = |target: &Target| matches!(target, Target::Sharded(_) | Target::Fixed(_));
    let nested = || collected.refs.iter().filter(|table_ref| table_ref.depth > 1);
    if nested().any(|table_ref| is_far(&table_ref.target)) {
        return Err(Refusal::new(
            RefusalCode::Subquery,
            "a subquery over sharded or pinned tables across shards is not supported",
        ));
    }
    if nested().any(|table_ref| table_ref.target == Target::System) {
        return Err(Refusal::new(RefusalCode::SystemColumn, "a subquery over system catalogs across shards is not supported"));
    }
    if collected.facts.outer_aggregate.is_yes() {
        return Err(Refusal::new(
            RefusalCode::Subquery,
            "an aggregate in a subquery over columns of the query around it is not supported across shards",
        ));
    }
    if collected.facts.nested_limit.is_yes() {
        return Err(Refusal::new(
            RefusalCode::Subquery,
            "LIMIT in a subquery may choose other rows on each shard; it is not supported",
        ));
    }
    Ok(())
}

fn functions(collected: &Collected, context: &Context<'_>) -> Result<(), Refusal> {
    for call in &collected.functions {
        let name = call.short_name();
        if call.form == CallForm::Window {
            return Err(Refusal::new(RefusalCode::Window, format!("window function {name} across shards is not supported")));
        }
        match call.nature(context) {
            Nature::Pure | Nature::Time => {}
            Nature::SplitAggregate if call.form == CallForm::Distinct && !matches!(name, "min" | "max") => {
                return Err(Refusal::new(
                    RefusalCode::DistinctAggregate,
                    format!("{name}(DISTINCT …) across shards is not supported"),
                ));
            }
            Nature::SplitAggregate => {}
            Nature::OtherAggregate | Nature::Server | Nature::Volatile | Nature::Writing | Nature::User => {
                return Err(function_refusal(call, context));
            }
        }
    }
    Ok(())
}

/// `'now'::timestamptz`, `DATE 'today'`: each shard would read them by its own clock.
pub(super) fn clock_literals(many: &Many<'_>) -> Result<(), Refusal> {
    match clock_word(many.sql(), &many.tokens, false) {
        Some(word) => {
            let message = format!("the date/time string '{word}' across shards is not supported");
            Err(Refusal::new(RefusalCode::ClockLiteral, message))
        }
        None => Ok(()),
    }
}

/// Whether a text is a date/time word that is read by a clock.
pub(super) fn is_clock_word(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "now" | "today" | "tomorrow" | "yesterday")
}

/// The first date/time string of a statement that is cast to a type which reads it by a clock, or is a value that may be.
pub(super) fn clock_word(sql: &str, tokens: &[Token], counts_uncast: bool) -> Option<String> {
    for (idx, token) in tokens.iter().enumerate() {
        let (TokenKind::String(StringKind::Plain | StringKind::Escape), Some(text)) =
            (token.kind, sql.get(token.start..token.end))
        else {
            continue;
        };
        let word = text.trim_matches(|c: char| c == '\'' || c == 'E' || c == 'e' || c.is_ascii_whitespace()).to_ascii_lowercase();
        if !is_clock_word(&word) {
            continue;
        }
        let is_type = |token: &Token| {
            ["date", "time", "timetz", "timestamp", "timestamptz", "zone"].iter().any(|word| token.is_word(sql.as_bytes(), word))
        };
        let is_cast = tokens
            .get(idx + 1)
            .is_some_and(|next| sql.get(next.start..next.end) == Some("::") || next.is_word(sql.as_bytes(), "as"));
        if counts_uncast || is_cast || idx.checked_sub(1).is_some_and(|before| is_type(&tokens[before])) {
            return Some(word);
        }
    }
    None
}

/// Whether `now()`, `CURRENT_DATE` or the like is called.
pub(super) fn tells_time(collected: &Collected, context: &Context<'_>) -> bool {
    collected.functions.iter().any(|call| call.nature(context) == Nature::Time)
}

/// Replacements of `now()`, `CURRENT_DATE` and the like by the transaction's time.
pub(super) fn time_edits(
    collected: &Collected,
    tokens: &[Token],
    now_micros: i64,
    context: &Context<'_>,
) -> Result<Edits, Refusal> {
    let mut edits = Edits::default();
    for call in collected.functions.iter().filter(|call| call.nature(context) == Nature::Time) {
        let refuse = || {
            Refusal::new(RefusalCode::TimeFunction, format!("{} in this form across shards is not supported", call.short_name()))
        };
        let cast =
            time_cast(call.short_name()).filter(|_| call.n_args == 0 && call.form == CallForm::Plain).ok_or_else(refuse)?;
        let first = tokens.iter().position(|token| token.start == call.start).ok_or_else(refuse)?;
        let mut last = first + 2 * (call.name.len() - 1);
        if tokens.get(last + 1).is_some_and(|token| token.is_punctuation(b'(')) {
            last = after_closing(tokens, last + 1).ok_or_else(refuse)? - 1;
        }
        let end = tokens.get(last).ok_or_else(refuse)?.end;
        let time = timestamp_text(now_micros).ok_or_else(refuse)?;
        let text = match cast {
            "" => format!("(TIMESTAMPTZ '{time}')"),
            cast => format!("((TIMESTAMPTZ '{time}')::{cast})"),
        };
        edits.replace(call.start..end, text);
    }
    Ok(edits)
}

/// `2026-01-02 03:04:05.678901+00`.
pub(super) fn timestamp_text(micros: i64) -> Option<String> {
    const SECONDS_TO_2000: i64 = 946_684_800;
    let at = jiff::Timestamp::from_microsecond(micros.checked_add(SECONDS_TO_2000 * 1_000_000)?).ok()?;
    let text = at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
    debug_assert!(canonical_text(&text, KeyType::Timestamptz, "UTC").is_ok());
    Some(text)
}
