//! CREATE VIEW: on the shards that have all that it reads.

use super::place::{Object, configured_standing, name_of, shards_of};
use crate::plan::collect::{Collected, collect};
use crate::plan::contract::Context;
use crate::plan::names::{Target, table_name};
use crate::plan::reader::parse;
use crate::plan::refusal::{Refusal, RefusalCode};
use crate::plan::views::is_view;
use crate::sql::{Fingerprint, ViewParts};
use crate::topology::ShardSet;

/// The shards on which a view is made.
///
/// # Errors
/// TL065 where no shard has all the tables that it reads, or where the view that it replaces is on others.
pub(super) fn shards(sql: &str, parts: &ViewParts, context: &Context<'_>) -> Result<ShardSet, Refusal> {
    let name = name_of(&parts.name, context);
    let all = context.topology.all_shards();
    let mut shards = configured_standing(&name, context).map_or(all, |standing| standing.shards(context));
    for object in read(sql, parts, context) {
        // What no shard has is the servers' to refuse.
        shards = shards.intersection(shards_of(&object, context).unwrap_or(all));
    }
    if shards.is_empty() {
        let message = format!("view \"{name}\" reads tables of which no shard has all");
        return Err(Refusal::new(RefusalCode::MixedDdl, message)
            .with_hint("Pin the tables to one shard in the configuration, or write the view's query in the statements."));
    }
    if is_view(&name, context) && context.schema.place_of(&name, all) != shards {
        let message = format!("view \"{name}\" is on other shards than those that have the tables of its new query");
        return Err(Refusal::new(RefusalCode::MixedDdl, message).with_hint("Drop the view first."));
    }
    Ok(shards)
}

/// Whether a view reads nothing but tables of the default shard: then its own name, not known yet, is rightly taken for one.
pub(super) fn is_at_home(sql: &str, parts: &ViewParts, context: &Context<'_>) -> bool {
    let Some(collected) = collected(sql, parts, context) else { return false };
    let home = Target::Fixed(context.topology.home_shard());
    context.topology.default_shard.is_some()
        && !collected.refs.is_empty()
        && collected
            .refs
            .iter()
            .all(|table_ref| table_ref.target == home && !is_view(&table_name(&table_ref.name, context), context))
}

fn collected(sql: &str, parts: &ViewParts, context: &Context<'_>) -> Option<Collected> {
    let text = sql.get(parts.query.clone())?;
    let parsed = parse(text, context.settings.has_standard_strings).ok()?;
    let literals = Fingerprint::of(text, context.settings.has_standard_strings).literals;
    Some(collect(&parsed, &literals, context))
}

/// The relations that a view reads, without itself.
fn read(sql: &str, parts: &ViewParts, context: &Context<'_>) -> Vec<Object> {
    let own = name_of(&parts.name, context);
    let Some(collected) = collected(sql, parts, context) else {
        let text = sql.get(parts.query.clone()).unwrap_or_default();
        return crate::sql::mentions(text).into_iter().map(|mention| (mention.schema, mention.name)).collect();
    };
    let is_read = |target: &Target| !matches!(target, Target::Cte | Target::System);
    let named = collected.refs.iter().filter(|table_ref| is_read(&table_ref.target));
    let objects = named.filter(|table_ref| table_name(&table_ref.name, context) != own);
    let object = |parts: &[String]| match parts {
        [.., schema, name] => Some((Some(schema.clone()), name.clone())),
        [name] => Some((None, name.clone())),
        [] => None,
    };
    objects.filter_map(|table_ref| object(&table_ref.name)).collect()
}
