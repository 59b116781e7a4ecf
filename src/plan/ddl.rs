//! Utility statements: by the placement of the objects that their first words name.

use super::contract::{Access, Context, Plan};
use super::names::{Target, resolve, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::text::tokens_of;
use crate::sql::{Token, UtilityKind};
use crate::topology::ShardId;

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
        UtilityKind::Ddl => ddl(objects, context),
        UtilityKind::CreateTableAs { is_temporary: false } => create_as(sql, &tokens, objects, context),
        UtilityKind::CreateTableAs { is_temporary: true } => {
            on_one(objects, RefusalCode::SessionState, "CREATE TEMPORARY TABLE AS", context)
        }
        UtilityKind::NonTransactional => on_one(objects, RefusalCode::NonTransactional, &first_words(sql, &tokens), context),
        UtilityKind::SessionState => on_one(objects, RefusalCode::SessionState, &first_words(sql, &tokens), context),
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

fn ddl(objects: &[(Option<String>, String)], context: &Context<'_>) -> Result<Plan, Refusal> {
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
