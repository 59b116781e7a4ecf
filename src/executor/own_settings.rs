//! Settings that the proxy keeps and acts on itself: `trunkline.…`, and how long a client may be idle.

use super::Conversation;
use super::failure::Failure;
use crate::session::row_description;
use crate::session::time_setting::{milliseconds, shown};
use crate::session::wire;
use crate::sql::SetScope;
use crate::sqlstate::{Report, SqlState};

/// Servers must not act on it: between two transactions a client has no connection, and a pool's idle ones would be closed.
pub(super) use crate::session::settings::IDLE_SESSION_TIMEOUT;

impl Conversation {
    /// `SET trunkline.…`: the proxy's own settings.
    pub(super) fn set_own(&mut self, name: &str, value: Option<&String>, scope: SetScope) -> Result<(), Failure> {
        if name != "trunkline.shard" {
            return Err(unknown_setting(name));
        }
        let before = self.hinted_shard;
        let value = value.map(|value| value.trim().trim_matches(['\'', '"']));
        self.hinted_shard = match value.filter(|value| !value.is_empty() && !value.eq_ignore_ascii_case("default")) {
            None => None,
            Some(shard) => match self.view.topology.shard_named(shard) {
                Some(shard) => Some(shard),
                None => {
                    let message = format!("invalid value for parameter \"trunkline.shard\": \"{shard}\"");
                    let names = self.view.topology.shards.iter().map(|shard| shard.name.as_str()).collect::<Vec<_>>().join(", ");
                    let report = Report::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(format!("Shards: {names}."));
                    return Err(Failure::client(report));
                }
            },
        };
        if self.transaction.is_open() {
            // The first value is the one to return to; a later SET for the session outlasts a SET LOCAL.
            let (first, _) = self.block.hint_before.unwrap_or((before, scope));
            self.block.hint_before = Some((first, scope));
        } else if scope == SetScope::Transaction {
            self.hinted_shard = before;
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "SET LOCAL can only be used in transaction blocks");
        }
        self.complete(if value.is_some() { "SET" } else { "RESET" });
        Ok(())
    }

    /// The row of `SHOW trunkline.shard`: the shard's name, or nothing.
    pub(super) fn show_own_shard(&mut self) {
        let shard = self.hinted_shard.map(|shard| self.view.topology.shard_name(shard).to_owned()).unwrap_or_default();
        row_description::write_text_column(&mut self.client.output, "trunkline.shard");
        wire::text_row(&mut self.client.output, &shard);
        self.complete("SHOW");
    }

    /// How long the client's own setting lets it be idle; zero: for ever.
    pub(super) fn own_idle_limit(&self) -> std::time::Duration {
        let value = self.settings.value(IDLE_SESSION_TIMEOUT).and_then(milliseconds);
        std::time::Duration::from_millis(value.unwrap_or(0))
    }

    /// The row of `SHOW idle_session_timeout` where the client has set it; false where it has not.
    pub(super) fn show_idle_limit(&mut self) -> bool {
        let Some(value) = self.settings.value(IDLE_SESSION_TIMEOUT).and_then(milliseconds) else { return false };
        row_description::write_text_column(&mut self.client.output, IDLE_SESSION_TIMEOUT);
        wire::text_row(&mut self.client.output, &shown(value));
        self.complete("SHOW");
        true
    }
}

pub(super) fn unknown_setting(name: &str) -> Failure {
    let message = format!("unrecognized configuration parameter \"{name}\"");
    Failure::client(Report::new(SqlState::UNDEFINED_OBJECT, message).with_hint("The proxy's own setting is trunkline.shard."))
}
