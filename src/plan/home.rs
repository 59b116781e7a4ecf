//! Functions whose effect is one for all sessions of the database, or one server's alone: where a statement that calls them runs.
//!
//! Advisory locks, notifications, large objects and transaction numbers are a server's own. One Postgres has one of each, so
//! with several shards all sessions use those of the home shard.

use super::collect::Collected;
use super::contract::{Access, Context, Plan};
use super::refusal::{Refusal, RefusalCode};
use crate::topology::Topology;

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
}

impl Needs {
    /// The plan of a statement over no table that must run somewhere: on `plan`'s shard, or for a session's last value where it is.
    pub(super) fn without_table(&self, plan: Plan, context: &Context<'_>) -> Result<Plan, Refusal> {
        match self.need {
            Need::SequenceState => Ok(Plan::AnyOne { access: Access::Write }),
            _ => placed(self, plan, context),
        }
    }
}

/// What the system functions of a statement need, the strictest first.
pub(super) fn needs(collected: &Collected, context: &Context<'_>) -> Option<Needs> {
    let system = |call: &&super::functions::FunctionCall| match call.name.as_slice() {
        [_] => !context.schema.user_functions.contains_key(call.short_name()),
        [.., schema, _] => schema == "pg_catalog",
        [] => false,
    };
    let calls = collected.functions.iter().filter(system);
    let found =
        calls.filter_map(|call| Some(Needs { need: need_of(call.short_name())?, function: call.short_name().to_owned() }));
    found.max_by_key(|needs| needs.need)
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
