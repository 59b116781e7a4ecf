//! Functions whose effect is one for all sessions of the database, or one server's alone: where a statement that calls them runs.
//!
//! Advisory locks, notifications, large objects and transaction numbers are a server's own. One Postgres has one of each, so
//! with several shards all sessions use those of the home shard.

use super::collect::Collected;
use super::contract::{Access, Context, Plan};
use super::names::{Target, relation_of, resolve, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::text::tokens_of;
use crate::sql::fold_identifier;
use crate::topology::{RelationKind, Topology};

/// What a call needs of the shard that it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// The home shard, where all sessions meet.
    Home,
    /// The shard of a sequence: it is told by nothing but a default shard.
    Sequence,
    /// The session's last values of sequences, which may come from any shard.
    SequenceState,
    /// One server that the client names.
    Named,
}

/// Whether a system function of this name is one that all sessions must call on one server.
pub fn is_met_at_home(name: &str) -> bool {
    const STARTS: [&str; 6] =
        ["pg_advisory_", "pg_try_advisory_", "lo_", "txid_current", "pg_current_xact_id", "pg_current_snapshot"];
    const NAMES: [&str; 7] = [
        "pg_notify",
        "pg_listening_channels",
        "pg_notification_queue_usage",
        "loread",
        "lowrite",
        "txid_status",
        "pg_xact_status",
    ];
    STARTS.iter().any(|start| name.starts_with(start)) || NAMES.contains(&name)
}

fn need_of(name: &str) -> Option<Need> {
    const NAMED: [&str; 13] = [
        "pg_create_",
        "pg_drop_",
        "pg_export_snapshot",
        "pg_logical_",
        "pg_promote",
        "pg_reload_conf",
        "pg_replication_",
        "pg_rotate_logfile",
        "pg_stat_reset",
        "pg_switch_wal",
        "pg_wal_replay_",
        "pg_backup_",
        "pg_start_backup",
    ];
    match name {
        "nextval" | "setval" => Some(Need::Sequence),
        "currval" | "lastval" => Some(Need::SequenceState),
        name if is_met_at_home(name) => Some(Need::Home),
        name if NAMED.iter().any(|start| name.starts_with(start)) => Some(Need::Named),
        _ => None,
    }
}

/// The calls of a statement that need a certain shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    need: Need,
    function: String,
    /// The sequence that the call names by a literal: what it is for routing, and its name.
    sequence: Option<(Target, String)>,
}

impl Needs {
    /// Whether a literal may say where the statement runs.
    pub(super) fn may_name_sequence(&self) -> bool {
        self.need == Need::Sequence
    }

    /// The plan of a statement over no table that must run somewhere: on `plan`'s shard, or for a session's last value where it is.
    pub(super) fn without_table(&self, plan: Plan, context: &Context<'_>) -> Result<Plan, Refusal> {
        match self.need {
            Need::SequenceState => Ok(Plan::AnyOne { access: Access::Write }),
            Need::Sequence => match &self.sequence {
                Some((Target::Fixed(shard), _)) => Ok(Plan::Route { shard: *shard, access: Access::Write }),
                // Each shard counts for itself.
                Some((Target::Unconfigured(_), _)) if self.function == "setval" => {
                    Ok(Plan::Everywhere { shards: context.topology.all_shards() })
                }
                _ => placed(self, plan, context),
            },
            _ => placed(self, plan, context),
        }
    }
}

/// What the system functions of a statement need, the strictest first.
pub(super) fn needs(sql: &str, collected: &Collected, context: &Context<'_>) -> Option<Needs> {
    let system = |call: &&super::functions::FunctionCall| match call.name.as_slice() {
        [_] => !context.schema.user_functions.contains_key(call.short_name()),
        [.., schema, _] => schema == "pg_catalog",
        [] => false,
    };
    let calls = collected.functions.iter().filter(system);
    let needs = |call: &super::functions::FunctionCall| {
        let (need, function) = (need_of(call.short_name())?, call.short_name().to_owned());
        let sequence = (need == Need::Sequence).then(|| sequence_of(sql, call.start, context)).flatten();
        Some(Needs { need, function, sequence })
    };
    calls.filter_map(needs).max_by_key(|needs| needs.need)
}

/// The sequence that the call at `start` names by a literal, if it is a known one.
fn sequence_of(sql: &str, start: usize, context: &Context<'_>) -> Option<(Target, String)> {
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let open_idx = tokens.iter().position(|token| token.start >= start && token.is_punctuation(b'('))?;
    let text = sql.get(tokens.get(open_idx + 1)?.start..tokens.get(open_idx + 1)?.end)?;
    let name = text.strip_prefix('\'')?.strip_suffix('\'')?;
    let parts: Vec<String> = name.split('.').map(|part| fold_identifier(part).into_owned()).collect();
    let relation = relation_of(&parts, context)?;
    let target = resolve(&parts, context);
    let is_owned = context.schema.sequence_owners.contains_key(&table_name(&parts, context));
    (relation.kind == RelationKind::Sequence && (is_owned || matches!(target, Target::Fixed(_))))
        .then(|| (target, name.to_owned()))
}

/// The plan of a statement whose functions need a certain shard.
///
/// # Errors
/// TL068 and TL067 where the statement's tables are elsewhere, TL032 for what the client must name the shard for.
pub(super) fn placed(needs: &Needs, plan: Plan, context: &Context<'_>) -> Result<Plan, Refusal> {
    let topology = context.topology;
    let name = &needs.function;
    match needs.need {
        Need::Home => at_home(plan, &format!("function {name}"), topology),
        Need::Sequence if needs.sequence.is_some() => match (&needs.sequence, plan) {
            (Some((Target::Fixed(own), _)), plan @ Plan::Route { shard, .. }) if *own == shard => Ok(plan),
            (Some((Target::Fixed(own), _)), Plan::AnyOne { .. }) => Ok(Plan::Route { shard: *own, access: Access::Write }),
            (Some((Target::Unconfigured(_), sequence)), _) => Err(Refusal::new(
                RefusalCode::Homeless,
                format!("sequence \"{sequence}\" counts on each shard for itself, so {name} of it has no shard of its own"),
            )
            .with_hint("Insert rows and leave the column to its default; setval in a statement of its own is for all shards.")),
            _ => Err(homeless(name)),
        },
        Need::Sequence if topology.default_shard.is_some() => match at_home(plan, name, topology) {
            Err(_) => Err(homeless(name)),
            placed => placed,
        },
        Need::Sequence => Err(homeless(name)),
        // The session knows where it has drawn last.
        Need::SequenceState => Ok(plan),
        Need::Named => Err(Refusal::new(RefusalCode::ServerFunction, format!("function {name} acts on one server only"))
            .with_hint("Name the shard with /* trunkline: shard=NAME */.")),
    }
}

/// The plan of a statement that must run on the home shard, for `what`.
///
/// # Errors
/// TL068 where its tables are elsewhere.
pub fn at_home(plan: Plan, what: &str, topology: &Topology) -> Result<Plan, Refusal> {
    let home = topology.home_shard();
    match plan {
        Plan::AnyOne { .. } => Ok(Plan::Route { shard: home, access: Access::Write }),
        Plan::Route { shard, .. } if shard == home => Ok(Plan::Route { shard, access: Access::Write }),
        Plan::Command(command) => Ok(Plan::Command(command)),
        _ => Err(off_home(what, topology)),
    }
}

/// The refusal of a statement that would do elsewhere what all sessions do on the home shard.
pub fn off_home(what: &str, topology: &Topology) -> Refusal {
    let home = topology.shard_name(topology.home_shard());
    let message = format!("{what} is for all sessions on shard \"{home}\", and the statement's rows are not there");
    Refusal::new(RefusalCode::OffHome, message)
}

/// The refusal of a sequence's function.
pub(super) fn homeless(function: &str) -> Refusal {
    Refusal::new(RefusalCode::Homeless, format!("function {function} has no shard of its own"))
}
