//! LOCK TABLE over several shards: each is told of the tables that it has.

use std::ops::Range;

use super::contract::Context;
use super::ddl::shards_of;
use super::refusal::{Refusal, RefusalCode};
use super::text::tokens_of;
use crate::sql::{Token, TokenKind, fold_identifier};
use crate::topology::{ShardId, ShardSet};

/// The statement for each shard that a LOCK TABLE is about, in the order of the shards. All clients lock in this order.
///
/// # Errors
/// Those of DDL about tables that are not known; `Unparsed` for what is no LOCK TABLE.
pub fn lock_statements(sql: &str, context: &Context<'_>) -> Result<Vec<(ShardId, String)>, Refusal> {
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let Some((tables, rest)) = tables(sql, &tokens) else {
        return Err(Refusal::new(RefusalCode::Unparsed, "the planner does not know this form of LOCK TABLE"));
    };
    let mut placed = Vec::with_capacity(tables.len());
    for table in tables {
        placed.push((shards_of(&table.name, context)?, table.text));
    }
    let all: ShardSet = placed.iter().flat_map(|(shards, _)| shards.iter()).collect();
    if placed.iter().all(|(shards, _)| *shards == all) {
        return Ok(all.iter().map(|shard| (shard, sql.to_owned())).collect());
    }
    let statement = |shard: ShardId| {
        let here = placed.iter().filter(|(shards, _)| shards.contains(shard)).map(|(_, text)| &sql[text.clone()]);
        format!("LOCK TABLE {} {}", here.collect::<Vec<_>>().join(", "), &sql[rest.clone()])
    };
    Ok(all.iter().map(|shard| (shard, statement(shard))).collect())
}

/// A table of the list: its name's parts, folded, and where it stands with ONLY and the asterisk.
struct Listed {
    name: (Option<String>, String),
    text: Range<usize>,
}

/// The tables, and where the mode stands.
fn tables(sql: &str, tokens: &[Token]) -> Option<(Vec<Listed>, Range<usize>)> {
    let is = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.is_word(sql.as_bytes(), word));
    let is_mark = |at: usize, mark: u8| tokens.get(at).is_some_and(|token| token.is_punctuation(mark));
    let mut at = if is(0, "lock") { 1 } else { return None };
    at += usize::from(is(at, "table"));
    let mut listed = Vec::new();
    loop {
        let first = at;
        at += usize::from(is(at, "only"));
        let mut parts = vec![identifier(sql, tokens.get(at)?)?];
        at += 1;
        while is_mark(at, b'.') {
            parts.push(identifier(sql, tokens.get(at + 1)?)?);
            at += 2;
        }
        at += usize::from(tokens.get(at).is_some_and(|token| token.text(sql.as_bytes()) == b"*"));
        let name = parts.pop()?;
        listed.push(Listed { name: (parts.pop(), name), text: tokens[first].start..tokens[at - 1].end });
        if !is_mark(at, b',') {
            break;
        }
        at += 1;
    }
    let end = tokens[at..].iter().find(|token| token.is_punctuation(b';')).map_or(sql.len(), |token| token.start);
    Some((listed, tokens.get(at).map_or(end, |token| token.start.min(end))..end))
}

fn identifier(sql: &str, token: &Token) -> Option<String> {
    let is_name = matches!(token.kind, TokenKind::Word | TokenKind::QuotedIdentifier);
    is_name.then(|| fold_identifier(&sql[token.start..token.end]).into_owned())
}
