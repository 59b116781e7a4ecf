//! Utility statements: by the placement of the objects that their first words name.

use std::ops::Range;

use super::contract::{Access, Context, Plan};
use super::names::{Target, resolve, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::text::{nesting, tokens_of};
use crate::sql::{Classified, Token, TokenKind, UtilityKind};
use crate::topology::{ShardId, ShardSet, TEMPORARY_SCHEMA};

/// Where an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Everywhere,
    On(ShardId),
}

/// Plans a utility statement of a database with several shards.
pub(super) fn analyze(
    sql: &str,
    kind: UtilityKind,
    objects: &[(Option<String>, String)],
    context: &Context<'_>,
) -> Result<Plan, Refusal> {
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    match kind {
        UtilityKind::Ddl if objects.is_empty() && names_large_object(sql, &tokens) => {
            Ok(Plan::Route { shard: context.topology.home_shard(), access: Access::Write })
        }
        UtilityKind::Ddl => ddl(sql, &tokens, objects, context),
        UtilityKind::CreateTableAs { is_temporary: false } => create_as(sql, &tokens, objects, context),
        // Planned as the query in it.
        UtilityKind::CreateTableAs { is_temporary: true } => Ok(on_home(context)),
        UtilityKind::NonTransactional => on_one(objects, RefusalCode::NonTransactional, &first_words(sql, &tokens), context),
        UtilityKind::SessionState => session_state(sql, &tokens, objects, context),
        UtilityKind::Procedure => on_one(&[], RefusalCode::Procedure, &first_words(sql, &tokens), context),
        UtilityKind::Maintenance => on_one(objects, RefusalCode::Maintenance, &first_words(sql, &tokens), context),
    }
}

/// The statement's first word in capitals, with what it creates, alters or drops.
fn first_words(sql: &str, tokens: &[Token]) -> String {
    let word = |token: &Token| sql.get(token.start..token.end).map(str::to_ascii_uppercase);
    let is_word = |token: &&Token| token.kind == crate::sql::TokenKind::Word;
    let n_words =
        if tokens.first().is_some_and(|token| ["create", "drop", "alter"].iter().any(|verb| token.is_word(sql.as_bytes(), verb)))
        {
            2
        } else {
            1
        };
    tokens.iter().take(n_words).take_while(is_word).filter_map(word).collect::<Vec<_>>().join(" ")
}

/// ALTER, COMMENT, GRANT … ON LARGE OBJECT: these are on the home shard, where their functions run.
fn names_large_object(sql: &str, tokens: &[Token]) -> bool {
    tokens.windows(2).any(|pair| pair[0].is_word(sql.as_bytes(), "large") && pair[1].is_word(sql.as_bytes(), "object"))
}

fn on_home(context: &Context<'_>) -> Plan {
    Plan::Route { shard: context.topology.home_shard(), access: Access::Write }
}

/// Temporary tables live on the home shard, in the backend that is the client's own. What is no table is refused: a view of
/// them would see that shard's rows of sharded tables only.
fn session_state(
    sql: &str,
    tokens: &[Token],
    objects: &[(Option<String>, String)],
    context: &Context<'_>,
) -> Result<Plan, Refusal> {
    let is_word = |word: &str| tokens.iter().any(|token| token.is_word(sql.as_bytes(), word));
    let words = first_words(sql, tokens);
    let refuse =
        |what: &str| Err(Refusal::new(RefusalCode::SessionState, format!("{what} on more than one shard is not supported")));
    match objects {
        [] => refuse(&words),
        // Its rows would be rows of the parent, on one shard.
        _ if is_word("inherits") => refuse(&format!("{words} with INHERITS")),
        [_, others @ ..] if others.iter().all(|object| is_at_home(object, context)) => Ok(on_home(context)),
        _ => refuse(&words),
    }
}

fn is_at_home(object: &(Option<String>, String), context: &Context<'_>) -> bool {
    resolve(&parts(object), context) == Target::Fixed(context.topology.home_shard())
}

/// Where the query of a CREATE TABLE AS stands, without WITH [NO] DATA.
pub(super) fn query_of_create_as(sql: &str, context: &Context<'_>) -> Option<Range<usize>> {
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let is = |token: &Token, word: &str| token.is_word(sql.as_bytes(), word);
    let mut depth = 0;
    let as_idx = tokens.iter().position(|token| {
        depth += nesting(*token);
        depth == 0 && is(token, "as")
    })?;
    let start = tokens.get(as_idx + 1)?.start;
    let end = match tokens.as_slice() {
        [.., last, with, no, data] if is(with, "with") && is(no, "no") && is(data, "data") => last.end,
        [.., last, with, data] if is(with, "with") && is(data, "data") => last.end,
        [.., last] => last.end,
        [] => return None,
    };
    (start < end).then_some(start..end)
}

/// Refuses to send a statement to one shard by a hint where it names a temporary table, which is on another.
///
/// # Errors
/// TL062.
pub fn check_hint(shard: ShardId, sql: &str, context: &Context<'_>) -> Result<(), Refusal> {
    if context.settings.temporaries.is_empty() || shard == context.topology.home_shard() {
        return Ok(());
    }
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    match temporary_names(sql, &tokens, context).is_empty() {
        true => Ok(()),
        false => Err(Refusal::new(RefusalCode::SessionState, "a temporary table is not on the shard that the hint names")
            .with_hint("Leave the hint out, or qualify the names of ordinary tables by their schema.")),
    }
}

/// Where names of the client's temporary relations stand without a schema.
fn temporary_names(sql: &str, tokens: &[Token], context: &Context<'_>) -> Vec<usize> {
    let text = |token: &Token| sql.get(token.start..token.end).unwrap_or_default();
    let name_of = |token: &Token| match token.kind {
        TokenKind::QuotedIdentifier => text(token).trim_matches('"').to_owned(),
        _ => crate::sql::fold_identifier(text(token)).into_owned(),
    };
    let is_qualified = |idx: usize| idx > 0 && tokens[idx - 1].is_punctuation(b'.');
    let is_named = |(idx, token): &(usize, &Token)| !is_qualified(*idx) && context.settings.temporaries.contains(&name_of(token));
    tokens.iter().enumerate().filter(is_named).map(|(idx, _)| idx).collect()
}

/// Refuses DDL for other shards in which a name of the client's own temporary relations stands: on the home shard it would be
/// about those. DROP and ALTER of one such relation that is no table are the home's.
fn check_temporaries(sql: &str, tokens: &[Token], plan: Plan, context: &Context<'_>) -> Result<Plan, Refusal> {
    if context.settings.temporaries.is_empty() {
        return Ok(plan);
    }
    let named = temporary_names(sql, tokens, context);
    let Some(&first_idx) = named.first() else { return Ok(plan) };
    let is_only = named.len() == 1;
    let text = |token: &Token| sql.get(token.start..token.end).unwrap_or_default();
    let before: Vec<String> = tokens[..first_idx].iter().map(|token| text(token).to_ascii_lowercase()).collect();
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let is_one = matches!(
        before.as_slice(),
        ["drop" | "alter", "index" | "sequence"]
            | ["drop" | "alter", "index" | "sequence", "if", "exists"]
            | ["reindex", "index"]
    );
    let is_alone = tokens.get(first_idx + 1).is_none_or(|next| !next.is_punctuation(b','));
    if is_only && is_one && is_alone {
        return Ok(on_home(context));
    }
    let message = format!("{} that names a temporary table is not supported on other shards", first_words(sql, tokens));
    Err(Refusal::new(RefusalCode::SessionState, message)
        .with_hint("Qualify the names of ordinary tables by their schema, or drop the temporary table first."))
}

fn ddl(sql: &str, tokens: &[Token], objects: &[(Option<String>, String)], context: &Context<'_>) -> Result<Plan, Refusal> {
    let is_word = |idx: usize, word: &str| tokens.get(idx).is_some_and(|token| token.is_word(sql.as_bytes(), word));
    let is_missing = |object: &(Option<String>, String)| resolve(&parts(object), context) == Target::Missing;
    // The server says that there is none, and goes on.
    if is_word(0, "drop") && is_word(2, "if") && !objects.is_empty() && objects.iter().all(is_missing) {
        return Ok(on_home(context));
    }
    let plan = placed(objects, context)?;
    if !objects.is_empty() && objects.iter().all(|object| is_temporary(object, context)) {
        return Ok(plan);
    }
    check_temporaries(sql, tokens, plan, context)
}

/// Whether a utility statement is about temporary tables alone.
pub fn is_about_temporaries(class: &Classified, context: &Context<'_>) -> bool {
    let Classified::Utility { objects, .. } = class else { return false };
    !objects.is_empty() && objects.iter().all(|object| is_temporary(object, context))
}

/// Whether the name means a temporary relation.
fn is_temporary(object: &(Option<String>, String), context: &Context<'_>) -> bool {
    table_name(&parts(object), context).schema == TEMPORARY_SCHEMA
}

fn placed(objects: &[(Option<String>, String)], context: &Context<'_>) -> Result<Plan, Refusal> {
    let mut homes = Vec::with_capacity(objects.len());
    for object in objects {
        homes.push(home(object, context)?);
    }
    let Some(first) = homes.first().copied() else { return Ok(Plan::Everywhere { shards: context.topology.all_shards() }) };
    if homes.iter().any(|home| *home != first) {
        return Err(Refusal::new(RefusalCode::MixedDdl, "one statement over tables of different placement is not supported"));
    }
    Ok(match first {
        Home::Everywhere => Plan::Everywhere { shards: context.topology.all_shards() },
        Home::On(shard) => Plan::Route { shard, access: Access::Write },
    })
}

/// The new table must be on the default shard, and so must all that the query reads.
fn create_as(sql: &str, tokens: &[Token], objects: &[(Option<String>, String)], context: &Context<'_>) -> Result<Plan, Refusal> {
    match (on_one(objects, RefusalCode::CreateAs, "CREATE TABLE AS", context), context.topology.default_shard) {
        (Ok(plan), Some(_)) if !reads_configured(sql, tokens, objects, context) => Ok(plan),
        _ => Err(Refusal::new(RefusalCode::CreateAs, "CREATE TABLE AS across shards is not supported")),
    }
}

/// The shards that have a table or view.
///
/// # Errors
/// For a name that is not known.
pub(super) fn shards_of(object: &(Option<String>, String), context: &Context<'_>) -> Result<ShardSet, Refusal> {
    Ok(match home(object, context)? {
        Home::Everywhere => context.topology.all_shards(),
        Home::On(shard) => ShardSet::only(shard),
    })
}

/// Where a table is.
fn home(object: &(Option<String>, String), context: &Context<'_>) -> Result<Home, Refusal> {
    let parts = parts(object);
    match resolve(&parts, context) {
        Target::Sharded(_) | Target::Reference(_) | Target::System | Target::Cte => Ok(Home::Everywhere),
        Target::Fixed(shard) => Ok(Home::On(shard)),
        // Every shard has the view.
        Target::View(_) => Ok(Home::Everywhere),
        Target::Unconfigured(_) | Target::Missing => {
            let name = table_name(&parts, context);
            Err(Refusal::unconfigured(&name, &context.topology.database, RefusalCode::UnconfiguredDdl))
        }
    }
}

fn parts(object: &(Option<String>, String)) -> Vec<String> {
    object.0.iter().chain([&object.1]).cloned().collect()
}

/// Whether any word of the statement but its object's name is a table that the configuration names.
fn reads_configured(sql: &str, tokens: &[Token], objects: &[(Option<String>, String)], context: &Context<'_>) -> bool {
    tokens.iter().filter_map(|token| sql.get(token.start..token.end)).any(|word| {
        let name = crate::sql::fold_identifier(word);
        let is_object = objects.iter().any(|(_, object)| *object == name);
        !is_object && context.topology.tables.keys().any(|table| table.name == name)
    })
}

/// For statements that one shard alone may run: where all their objects are.
fn on_one(objects: &[(Option<String>, String)], code: RefusalCode, words: &str, context: &Context<'_>) -> Result<Plan, Refusal> {
    let mut homes = objects.iter().map(|object| match resolve(&parts(object), context) {
        Target::Fixed(shard) => Some(shard),
        _ => None,
    });
    let first = homes.next().flatten();
    match first {
        Some(shard) if homes.all(|home| home == Some(shard)) && code != RefusalCode::SessionState => {
            Ok(Plan::Route { shard, access: Access::Write })
        }
        _ => Err(Refusal::new(code, format!("{words} on more than one shard is not supported"))),
    }
}
