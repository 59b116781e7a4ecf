//! Bringing a backend's settings to the client's.

use std::borrow::Cow;

use super::Conversation;
use super::commit::all_taken;
use super::failure::Failure;
use super::timer::WaitError;
use crate::backend::Connection;
use crate::observe::ErrorKind;
use crate::session::own_settings::PREFIX;
use crate::session::set_config::{BoundParams, SettingChange, setting_changes};
use crate::session::settings::{SettingValue, Settings, quote_literal};
use crate::session::unpooled::{Leftover, SettingsTrace};
use crate::session::wire;
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Resets everything, for a backend whose settings are not known.
const RESET_EVERYTHING: &str = "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;";

/// Fails a transaction block.
const NO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT trunkline_none";

impl Conversation {
    /// The settings that a statement will change by `set_config`, and what else it leaves: settings unseen where the arguments
    /// do not tell.
    ///
    /// # Errors
    /// Those of [`Self::check_changes`].
    pub(super) fn changes_of(
        &self,
        sql: &[u8],
        leftover: Leftover,
        params: BoundParams<'_>,
    ) -> Result<(Leftover, Vec<SettingChange>), Failure> {
        if leftover.settings != SettingsTrace::Calls {
            return Ok((leftover, Vec::new()));
        }
        Ok(match setting_changes(sql, self.plan_settings.has_standard_strings, params) {
            Some(mut changes) => {
                self.check_changes(&mut changes)?;
                (leftover, changes)
            }
            None => (leftover.and(Leftover::making_settings()), Vec::new()),
        })
    }

    /// Has the session, and the other backends that it holds, follow what a statement has changed by `set_config` on one.
    pub(super) async fn follow_settings(&mut self, idx: usize, changes: &[SettingChange]) {
        if changes.is_empty() {
            return;
        }
        let shard = self.enlisted[idx].lease.shard;
        if Box::pin(self.try_to_follow(shard, changes)).await.is_err() {
            // Not known any more: they are made anew before another client has the backend.
            for enlisted in &mut self.enlisted {
                enlisted.lease.settings = None;
            }
        }
        self.derive_plan_settings();
    }

    async fn try_to_follow(&mut self, shard: ShardId, changes: &[SettingChange]) -> Result<(), Failure> {
        for change in changes {
            let is_local = change.is_local || change.name.starts_with("transaction_");
            if is_local && !self.transaction.is_open() {
                continue;
            }
            let value = match &change.value {
                Some(value) => value.clone(),
                None => match self.read_back(shard, &change.name).await? {
                    Some(value) => value,
                    None => continue,
                },
            };
            let (name, text) = (quote_literal(&change.name), quote_literal(&value));
            let sql = format!("SELECT pg_catalog.set_config({name}, {text}, {is_local})");
            self.tell_others(shard, &sql).await?;
            if change.name.starts_with(PREFIX)
                && let Some(idx) = self.index_of(shard)
            {
                // The value may have been given in other words.
                self.tell(idx, &sql).await.taken()?;
            }
            if is_local {
                self.transaction.note_change(&change.name, Some(SettingValue::Text(value)));
                if self.view.topology.only_shard().is_none() {
                    self.transaction.local_sets.push(sql);
                }
                continue;
            }
            if change.name == "session_authorization" {
                self.settings = self.settings.with_reset("role", &Settings::default());
            }
            self.settings = self.settings.with(&change.name, SettingValue::Text(value));
            self.note_change(&change.name);
            for enlisted in self.enlisted.iter_mut().filter(|enlisted| enlisted.lease.settings.is_some()) {
                enlisted.lease.settings = Some(self.settings.clone());
            }
        }
        Ok(())
    }

    async fn read_back(&mut self, shard: ShardId, name: &str) -> Result<Option<String>, Failure> {
        let Some(idx) = self.index_of(shard) else { return Ok(None) };
        let sql = format!("SELECT pg_catalog.current_setting({}, true)", quote_literal(name));
        let rows = self.ask(idx, &sql).await?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Has the backends of a transaction that the proxy itself has failed fail too, where settings were changed in it: the client
    /// is told at once what they are again.
    pub(super) async fn undo_settings(&mut self) {
        let has_settings = self.transaction.has_changes() || !self.transaction.local_sets.is_empty();
        if has_settings && self.enlisted.iter().all(|held| held.is_ready) {
            self.fail_backends().await;
        }
    }

    /// Has all backends fail as far as one server would: what was locked since the last savepoint, or in the whole transaction if
    /// it has none, is free.
    pub(super) async fn fail_backends(&mut self) {
        self.tell_all(NO_SAVEPOINT).await;
        self.tell_parameters();
    }

    /// Runs a query on the other backends that are held.
    async fn tell_others(&mut self, shard: ShardId, sql: &str) -> Result<(), Failure> {
        let others = self.enlisted.iter().map(|enlisted| enlisted.lease.shard).filter(|other| *other != shard);
        let told: Vec<_> = others.map(|other| (other, Cow::Borrowed(sql))).collect();
        all_taken(self.tell_each(&told).await)
    }

    /// Makes the backend's settings the client's, from which they differ, in one round trip.
    ///
    /// # Errors
    /// The server's own error for a setting that it does not take: the statement is not run without it.
    pub(super) async fn sync_settings(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let sql = match &connection.settings {
            Some(applied) => self.settings.statements_from(applied),
            None => format!("{RESET_EVERYTHING}{}", self.settings.statements_from(&Settings::default())),
        };
        connection.is_clean = false;
        connection.write_query(sql.as_bytes());
        let lost = |error: WaitError| {
            let text = match error {
                WaitError::Lost(lost) => lost.0,
                WaitError::DeadlinePassed | WaitError::ClientLeft | WaitError::Deadlock(_) => {
                    "timed out while replaying settings".to_owned()
                }
            };
            Failure::statement(Report::new(SqlState::CONNECTION_FAILURE, text), ErrorKind::Connection)
        };
        connection.socket.flush().await.map_err(|error| lost(error.into()))?;
        let mut rejection = None;
        let status = loop {
            let header = self.timer.next_header(connection, Some(&self.client)).await.map_err(lost)?;
            let message = connection.socket.input.split_to(header.len);
            let body = &message[wire::HEADER_LEN..];
            match header.tag {
                b'E' if rejection.is_none() => {
                    connection.has_ended |= wire::is_fatal(body);
                    rejection = Some(crate::backend::server_report(body));
                }
                b'S' => connection.note_parameter(body),
                b'Z' => break body.first().copied(),
                _ => {}
            }
        };
        // Within a block it is not clean, and its rejection not undone.
        connection.is_clean = status == Some(b'I');
        // The string was one transaction: after an error nothing of it holds.
        match rejection {
            None => {
                connection.settings = Some(self.settings.clone());
                Ok(())
            }
            Some(report) => Err(Failure::statement(report, ErrorKind::Shard)),
        }
    }
}
