//! Utility statements: by the placement of the objects that their first words name.

mod alter;
mod place;
mod view;

use std::ops::Range;

pub use self::place::families_apart;
use self::place::{Standing, configured_standing, name_of, parts, standing};
pub(super) use self::place::{check_family, shards_of};

use super::contract::{Access, Context, Plan};
use super::names::{Target, resolve};
use super::refusal::{Refusal, RefusalCode};
use super::text::{nesting, tokens_of};
use crate::sql::{Classified, Token, TokenKind, UtilityKind, other_relations, sequence_owner, view_parts};
use crate::topology::{ShardId, ShardSet, TEMPORARY_SCHEMA, TableName};

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
        // Planned as the query in it.
        UtilityKind::CreateTableAs { .. } => home_of_copy(kind, objects, context).map(|shard| route(ShardSet::only(shard))),
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
    let shards = match objects {
        [] => without_table(sql, tokens, context)?,
        [child, parents @ ..] if is_word(0, "create") && !parents.is_empty() => of_family(child, parents, context)?,
        [table, ..] => {
            alter::check(sql, table, context)?;
            common(objects.iter().map(|object| shards_of(object, context)))?
        }
    };
    let plan = route(shards);
    if !objects.is_empty() && objects.iter().all(|object| is_temporary(object, context)) {
        return Ok(plan);
    }
    check_temporaries(sql, tokens, plan, context)
}

fn route(shards: ShardSet) -> Plan {
    match shards.single() {
        Some(shard) => Plan::Route { shard, access: Access::Write },
        None => Plan::Everywhere { shards },
    }
}

/// The shards of DDL that names no table: those of the view, the sequence or the index that it names, else all.
fn without_table(sql: &str, tokens: &[Token], context: &Context<'_>) -> Result<ShardSet, Refusal> {
    let (bytes, has_standard_strings) = (sql.as_bytes(), context.settings.has_standard_strings);
    if let Some(view) = view_parts(bytes, has_standard_strings) {
        return view::shards(sql, &view, context);
    }
    let words: Vec<_> = tokens.iter().take(6).filter_map(|token| sql.get(token.start..token.end)).collect();
    let words: Vec<_> = words.into_iter().map(crate::sql::fold_identifier).collect();
    alter::check_schema(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>(), context)?;
    if let Some(table) = sequence_owner(bytes, has_standard_strings) {
        return shards_of(&table, context);
    }
    let others = other_relations(bytes, has_standard_strings);
    if others.is_empty() {
        return Ok(context.topology.all_shards());
    }
    if let [other] = others.as_slice() {
        alter::check(sql, other, context)?;
    }
    common(others.iter().map(|object| Ok(place::shards_of_other(object, context))))
}

/// The shards that all objects of a statement are on.
fn common(homes: impl Iterator<Item = Result<ShardSet, Refusal>>) -> Result<ShardSet, Refusal> {
    let mut found: Option<ShardSet> = None;
    for home in homes {
        let home = home?;
        if found.is_some_and(|found| found != home) {
            return Err(Refusal::new(RefusalCode::MixedDdl, "one statement over tables of different placement is not supported"));
        }
        found = Some(home);
    }
    Ok(found.unwrap_or(ShardSet::EMPTY))
}

/// The shards of a table that is made as a partition, or inherits: those of its parents, by whose rule its rows are placed.
fn of_family(
    child: &(Option<String>, String),
    parents: &[(Option<String>, String)],
    context: &Context<'_>,
) -> Result<ShardSet, Refusal> {
    let name = name_of(child, context);
    let mut found = configured_standing(&name, context);
    for parent in parents {
        let rule = standing(parent, context)?;
        if found.as_ref().is_some_and(|found| *found != rule) {
            return Err(alter::apart(&name, &name_of(parent, context)));
        }
        found = Some(rule);
    }
    Ok(found.map_or(ShardSet::EMPTY, |found| found.shards(context)))
}

/// A relation that the running transaction has made, and that its own name would not yet tell the place of; with the table by whose
/// placement it goes, if it is a table.
pub fn made(sql: &str, class: &Classified, context: &Context<'_>) -> Option<(TableName, Option<TableName>)> {
    let Classified::Utility { kind: UtilityKind::Ddl, objects } = class else { return None };
    let has_standard_strings = context.settings.has_standard_strings;
    if let Some(view) = view_parts(sql.as_bytes(), has_standard_strings) {
        let name = name_of(&view.name, context);
        let is_known = configured_standing(&name, context).is_some() || view::is_at_home(sql, &view, context);
        return (!is_known).then_some((name, None));
    }
    let [child, parent, ..] = objects.as_slice() else { return None };
    let is_created = tokens_of(sql, has_standard_strings).first().is_some_and(|first| first.is_word(sql.as_bytes(), "create"));
    let is_at_home = standing(parent, context).is_ok_and(|rule| rule == Standing::On(context.topology.home_shard()));
    (is_created && !is_at_home).then(|| (name_of(child, context), Some(name_of(parent, context))))
}

/// Whether a utility statement is about temporary tables alone.
pub fn is_about_temporaries(class: &Classified, context: &Context<'_>) -> bool {
    let Classified::Utility { objects, .. } = class else { return false };
    !objects.is_empty() && objects.iter().all(|object| is_temporary(object, context))
}

/// Whether the name means a temporary relation.
fn is_temporary(object: &(Option<String>, String), context: &Context<'_>) -> bool {
    name_of(object, context).schema == TEMPORARY_SCHEMA
}

/// The shard of a table that CREATE TABLE AS or CREATE MATERIALIZED VIEW makes: all that its query reads must be there.
///
/// # Errors
/// TL038 for a table that is not on one shard.
pub(super) fn home_of_copy(
    kind: UtilityKind,
    objects: &[(Option<String>, String)],
    context: &Context<'_>,
) -> Result<ShardId, Refusal> {
    if kind == (UtilityKind::CreateTableAs { is_temporary: true }) {
        return Ok(context.topology.home_shard());
    }
    match on_one(objects, RefusalCode::CreateAs, "CREATE TABLE AS", context) {
        Ok(Plan::Route { shard, .. }) => Ok(shard),
        _ => Err(Refusal::new(RefusalCode::CreateAs, "CREATE TABLE AS across shards is not supported")),
    }
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
