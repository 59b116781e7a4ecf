//! Statements about the session and the transaction.

use super::Conversation;
use super::commit::Answer;
use super::conversation::Origin;
use super::failure::Failure;
use super::merge::Description;
use super::own_schema::OwnSchema;
use super::own_settings::{IDLE_SESSION_TIMEOUT, Setting};
use super::relay::Ready;
use super::stored::Wanted;
use crate::config::PoolMode;
use crate::plan::Access;
use crate::session::own_settings::{OwnSetting, PREFIX};
use crate::session::settings::{SettingValue, Settings};
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire::{self, Severity};
use crate::sql::{Command, DeallocateTarget, DiscardTarget, SetScope};
use crate::sqlstate::{Report, SqlState};

/// How the client ends its transaction block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockEnd {
    Commit,
    Rollback,
}

impl Conversation {
    /// Acts on a command and writes its CommandComplete. True if ReadyForQuery is already with the client.
    pub(super) async fn run_command(&mut self, command: &Command, sql: &str, ready: Ready) -> Result<bool, Failure> {
        match command {
            Command::Begin { modes } => self.begin(modes, sql).await?,
            Command::Commit { and_chain } => self.end_block(BlockEnd::Commit, *and_chain).await?,
            Command::Rollback { and_chain } => self.end_block(BlockEnd::Rollback, *and_chain).await?,
            Command::Savepoint { .. } | Command::RollbackTo { .. } | Command::Release { .. } => {
                self.savepoint(command, sql).await?
            }
            Command::Set { name, value, scope } if name.starts_with(PREFIX) => {
                self.set_own(Setting { name, value: Some(value), scope: *scope }).await?
            }
            Command::Reset { name } if name.starts_with(PREFIX) => {
                self.set_own(Setting { name, value: None, scope: SetScope::Session }).await?
            }
            Command::Set { .. }
            | Command::SetCharacteristics { .. }
            | Command::SetTransaction { .. }
            | Command::SetConstraints => self.set(command, sql).await?,
            Command::Reset { .. } | Command::ResetAll => self.reset(command, sql).await?,
            Command::Discard(target) => self.discard(target, sql).await?,
            Command::Deallocate(target) => self.deallocate(target)?,
            Command::Show { name } if self.is_shown_here(name) => self.show_own(name, Description::Send)?,
            Command::Show { .. } => {
                let shard = self.any_shard();
                return self.forward((shard, Access::Read), sql.as_bytes(), Leftover::NOTHING, ready).await;
            }
            Command::Fetch { name } | Command::Close { name: Some(name) } => {
                return self.run_cursor_command(command, (name, sql), ready).await;
            }
            Command::Close { name: None } => {
                self.close_all_cursors().await;
                self.tell_held(sql, Leftover::of_command(command)).await?;
                self.complete("CLOSE CURSOR ALL");
            }
            // Not as the grammar has it.
            Command::Declare { .. } => return Err(self.not_understood(sql).await),
            Command::Prepare { name } => self.prepare_named(name, sql).await?,
            Command::Execute { .. } => {
                let wanted = Wanted { description: Description::Send, result_formats: &[] };
                return self.execute_named(sql, wanted, ready).await;
            }
            // Who is not pinned listens to nothing.
            Command::Unlisten if self.enlisted.iter().all(|held| held.pin.is_none()) && !self.transaction.is_open() => {
                self.complete("UNLISTEN");
            }
            Command::Listen | Command::Unlisten | Command::Notify | Command::Load => {
                let shard = self.view.topology.home_shard();
                return self.forward((shard, Access::Write), sql.as_bytes(), Leftover::of_command(command), ready).await;
            }
            Command::LockTable => return self.lock_tables(sql, ready).await,
            Command::TwoPhase => {
                return Err(Failure::refused(
                    "TL096",
                    "a prepared transaction of the client's own is not supported",
                    "Connect to the server itself to prepare transactions.",
                ));
            }
        }
        Ok(false)
    }

    pub(super) fn complete(&mut self, tag: &str) {
        wire::command_complete(&mut self.client.output, tag.as_bytes());
    }

    pub(super) fn warn(&mut self, sqlstate: SqlState, message: &str) {
        wire::report(&mut self.client.output, Severity::Warning, &Report::new(sqlstate, message));
    }

    /// Begins a block where there is none, or ends the one that is open and whole, as [`Self::run_command`] does.
    pub(super) async fn take_turn(&mut self, command: &Command, sql: &str) -> Result<(), Failure> {
        if let Command::Commit { .. } = command {
            self.commit().await?;
            self.complete("COMMIT");
            return Ok(());
        }
        Box::pin(self.run_command(command, sql, Ready::Swallow)).await.map(drop)
    }

    /// Sends a statement to every backend that the client holds.
    async fn tell_held(&mut self, sql: &str, leftover: Leftover) -> Result<(), Failure> {
        for idx in (0..self.enlisted.len()).rev() {
            self.note_temporaries(self.enlisted[idx].lease.shard, leftover)?;
            self.reserve_pin(idx, leftover)?;
            self.tell(idx, sql).await.taken()?;
        }
        if !self.transaction.is_open() {
            self.settle_pins(true).await;
            self.release();
        }
        Ok(())
    }

    async fn begin(&mut self, modes: &str, sql: &str) -> Result<(), Failure> {
        if self.database.config.pool.mode == PoolMode::Statement {
            let message = "a transaction block is not allowed under statement pooling";
            return Err(Failure::refused("TL090", message, "Use pool.mode = \"transaction\"."));
        }
        match self.transaction.phase {
            Phase::Idle => {
                self.check_modes(modes, sql).await?;
                self.transaction.begin(Phase::Explicit, modes, &self.settings);
            }
            Phase::Implicit => {
                self.set_modes(modes, sql).await?;
                self.transaction.phase = Phase::Explicit;
            }
            Phase::Explicit | Phase::Failed => {
                self.warn(SqlState::ACTIVE_SQL_TRANSACTION, "there is already a transaction in progress");
            }
        }
        self.complete(if sql_word(sql) == "START" { "START TRANSACTION" } else { "BEGIN" });
        Ok(())
    }

    /// The modes of a BEGIN within a string, whose transaction is open already.
    async fn set_modes(&mut self, modes: &str, sql: &str) -> Result<(), Failure> {
        if without_noise(modes).is_empty() {
            return Ok(());
        }
        if self.enlisted.is_empty() {
            self.check_modes(modes, sql).await?;
            self.transaction.modes = modes.to_owned();
            return Ok(());
        }
        let set = format!("SET TRANSACTION {}", without_noise(modes));
        self.tell_transaction(&set).await?;
        self.transaction.local_sets.push(set);
        Ok(())
    }

    /// Has a server look at transaction modes, so that BEGIN itself reports what is wrong with them.
    async fn check_modes(&mut self, modes: &str, sql: &str) -> Result<(), Failure> {
        if are_known_modes(modes) {
            return Ok(());
        }
        // The look is not part of the transaction that is to begin.
        let transaction = std::mem::take(&mut self.transaction);
        let answer = self.look_at_modes(sql).await;
        self.transaction = transaction;
        answer
    }

    async fn look_at_modes(&mut self, sql: &str) -> Result<(), Failure> {
        let shard = self.any_shard();
        let idx = self.enlist(shard, Access::Read).await?;
        let answer = self.tell(idx, sql).await;
        if let Answer::Tag(_) = answer {
            drop(self.tell(idx, "ROLLBACK").await);
        }
        self.release();
        answer.taken()
    }

    async fn end_block(&mut self, end: BlockEnd, and_chain: bool) -> Result<(), Failure> {
        let is_commit = end == BlockEnd::Commit;
        let tag = if is_commit { "COMMIT" } else { "ROLLBACK" };
        let chained = and_chain.then(|| self.transaction.characteristics());
        match self.transaction.phase {
            Phase::Idle | Phase::Implicit if and_chain => {
                return Err(Failure::not_in_block(&format!("{tag} AND CHAIN")));
            }
            Phase::Idle => self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress"),
            Phase::Implicit => {
                self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
                if is_commit { self.commit().await? } else { self.roll_back().await? }
            }
            Phase::Explicit if is_commit => self.commit().await?,
            Phase::Explicit => self.roll_back().await?,
            Phase::Failed => {
                self.roll_back().await?;
                self.complete("ROLLBACK");
                self.chain(chained);
                return Ok(());
            }
        }
        self.complete(tag);
        self.chain(chained);
        Ok(())
    }

    fn chain(&mut self, chained: Option<(String, Vec<String>)>) {
        if let Some((modes, sets)) = chained {
            self.transaction.begin(Phase::Explicit, &modes, &self.settings);
            self.transaction.local_sets = sets;
            self.begin_transaction_clock(std::time::Instant::now());
        }
    }

    async fn savepoint(&mut self, command: &Command, sql: &str) -> Result<(), Failure> {
        if matches!(self.transaction.phase, Phase::Idle | Phase::Implicit) {
            return Err(Failure::not_in_block(savepoint_words(command)));
        }
        match command {
            Command::Savepoint { name } => {
                self.tell_transaction(sql).await?;
                self.transaction.set_savepoint(name, &self.settings);
                self.complete("SAVEPOINT");
            }
            Command::RollbackTo { name } => {
                self.check_savepoint(name)?;
                if self.block.is_lost {
                    let message = "the connection to a shard was lost: the transaction can only be rolled back whole";
                    return Err(Failure::client(Report::new(SqlState::IN_FAILED_SQL_TRANSACTION, message)));
                }
                self.tell_transaction(sql).await?;
                self.transaction.rollback_to(name, &mut self.settings);
                let n_savepoints = self.transaction.savepoints.len().saturating_sub(1);
                self.portals.roll_back_to(n_savepoints);
                self.roll_cursors_back_to(n_savepoints).await;
                self.block.failed_on = None;
                self.note_temporaries_undone();
                if self.block.own_schema != OwnSchema::None {
                    self.note_own_schema();
                }
                self.derive_plan_settings();
                self.tell_parameters();
                self.complete("ROLLBACK");
            }
            Command::Release { name } => {
                self.check_savepoint(name)?;
                self.tell_transaction(sql).await?;
                self.transaction.release(name);
                self.portals.release_to(self.transaction.savepoints.len());
                self.cursors.release_to(self.transaction.savepoints.len());
                self.complete("RELEASE");
            }
            _ => {}
        }
        Ok(())
    }

    fn check_savepoint(&self, name: &str) -> Result<(), Failure> {
        if self.transaction.has_savepoint(name) {
            return Ok(());
        }
        let message = format!("savepoint \"{name}\" does not exist");
        Err(Failure::client(Report::new(SqlState::INVALID_SAVEPOINT, message)))
    }

    async fn discard(&mut self, target: &DiscardTarget, sql: &str) -> Result<(), Failure> {
        let tag = match target {
            DiscardTarget::All => {
                if self.transaction.is_open() {
                    let message = "DISCARD ALL cannot run inside a transaction block";
                    return Err(Failure::client(Report::new(SqlState::ACTIVE_SQL_TRANSACTION, message)));
                }
                self.statements.clear();
                self.portals.clear();
                self.close_all_cursors().await;
                self.settings.clone_from(&self.startup_settings);
                self.derive_plan_settings();
                self.discard_held(sql).await?;
                self.announce_settings(None).await?;
                "DISCARD ALL"
            }
            DiscardTarget::Plans => "DISCARD PLANS",
            DiscardTarget::Sequences => "DISCARD SEQUENCES",
            DiscardTarget::Temp => "DISCARD TEMP",
        };
        if matches!(target, DiscardTarget::Sequences | DiscardTarget::All) {
            self.unpin_sequences();
        }
        if *target != DiscardTarget::All {
            self.tell_held(sql, Leftover::ENDING).await?;
        }
        self.complete(tag);
        Ok(())
    }

    fn deallocate(&mut self, target: &DeallocateTarget) -> Result<(), Failure> {
        match target {
            DeallocateTarget::All => {
                self.statements.clear_named();
                self.complete("DEALLOCATE ALL");
            }
            DeallocateTarget::Name(name) => {
                if self.statements.remove(name.as_bytes()).is_none() {
                    let message = format!("prepared statement \"{name}\" does not exist");
                    return Err(Failure::client(Report::new(SqlState::INVALID_SQL_STATEMENT_NAME, message)));
                }
                self.complete("DEALLOCATE");
            }
        }
        Ok(())
    }

    async fn set(&mut self, command: &Command, sql: &str) -> Result<(), Failure> {
        use crate::sql::SetScope::{Session, Transaction};
        match command {
            // Settings of the transaction, by another name.
            Command::Set { name, .. } if name.starts_with("transaction_") => return self.set_local(sql, None).await,
            Command::Set { scope: Session, name, value } => {
                if name == IDLE_SESSION_TIMEOUT {
                    // The server says whether the value is one.
                    self.set_on_backend(&format!("{sql}; RESET {name}")).await?;
                } else {
                    self.set_on_backend(sql).await?;
                    self.outdo_local(sql);
                }
                if name == "session_authorization" {
                    self.settings = self.settings.with_reset("role", &Settings::default());
                }
                self.settings = self.settings.with(name, SettingValue::Sql(value.clone()));
                self.note_change(name);
            }
            Command::SetCharacteristics { modes } => {
                self.set_on_backend(sql).await?;
                self.settings = self.settings.with_characteristics(modes);
            }
            Command::Set { scope: Transaction, name, value } => {
                self.set_local(sql, Some("SET LOCAL")).await?;
                if self.transaction.is_open() {
                    let is_default = value.eq_ignore_ascii_case("default");
                    self.transaction.note_change(name, (!is_default).then(|| SettingValue::Sql(value.clone())));
                    self.derive_plan_settings();
                }
                return Ok(());
            }
            Command::SetTransaction { .. } => return self.set_local(sql, Some("SET TRANSACTION")).await,
            Command::SetConstraints => return self.set_local(sql, Some("SET CONSTRAINTS")).await,
            _ => {}
        }
        // A backend whose settings are not known is not known by one more.
        for enlisted in self.enlisted.iter_mut().filter(|enlisted| enlisted.lease.settings.is_some()) {
            enlisted.lease.settings = Some(self.settings.clone());
        }
        self.derive_plan_settings();
        self.tell_parameters();
        self.complete("SET");
        if !self.transaction.is_open() {
            self.release();
        }
        Ok(())
    }

    /// Remembers within a transaction that a setting of the session has changed; the role goes with the user.
    pub(super) fn note_change(&mut self, name: &str) {
        if !self.transaction.is_open() {
            return;
        }
        self.transaction.note_change(name, self.settings.value(name).cloned());
        if name == "session_authorization" {
            self.transaction.note_change("role", None);
        }
    }

    /// `words` are those of the warning outside a block.
    async fn set_local(&mut self, sql: &str, words: Option<&str>) -> Result<(), Failure> {
        if self.transaction.is_open() {
            if self.block.origin == Origin::Pipeline && self.transaction.phase == Phase::Implicit {
                // What holds a pipeline together is no block for Postgres.
                self.warn_outside(words);
            }
            // A shard that is enlisted later is told as well; at least one looks at it now.
            self.enlist_held().await?;
            self.tell_transaction(sql).await?;
            self.transaction.note_local(sql);
            self.tell_parameters();
        } else {
            self.warn_outside(words);
            self.set_on_backend(sql).await?;
            self.release();
        }
        self.complete(if words == Some("SET CONSTRAINTS") { "SET CONSTRAINTS" } else { "SET" });
        Ok(())
    }

    /// Has shards that are enlisted later come to a SET or RESET after the SET LOCALs that came before it, as the others did.
    fn outdo_local(&mut self, sql: &str) {
        if self.transaction.is_open() && !self.transaction.local_sets.is_empty() {
            self.transaction.note_local(sql);
        }
    }

    pub(super) fn warn_outside(&mut self, words: Option<&str>) {
        if let Some(words) = words {
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, &format!("{words} can only be used in transaction blocks"));
        }
    }

    /// Runs a SET on every backend held, or on any one: the server's own check of name and value.
    async fn set_on_backend(&mut self, sql: &str) -> Result<(), Failure> {
        self.enlist_held().await?;
        for idx in (0..self.enlisted.len()).rev() {
            self.tell(idx, sql).await.taken()?;
        }
        Ok(())
    }

    /// Brings the client's own backends into the transaction, or any one where it has none: settings are the transaction's too.
    pub(super) async fn enlist_held(&mut self) -> Result<(), Failure> {
        if self.enlisted.is_empty() {
            let shard = self.any_shard();
            self.enlist(shard, Access::Read).await?;
        }
        for idx in 0..self.enlisted.len() {
            self.enlist(self.enlisted[idx].lease.shard, Access::Read).await?;
        }
        Ok(())
    }

    async fn reset(&mut self, command: &Command, sql: &str) -> Result<(), Failure> {
        self.set_on_backend(sql).await?;
        self.outdo_local(sql);
        self.settings = match command {
            Command::Reset { name } if name == "session_authorization" => {
                self.settings.with_reset("role", &Settings::default()).with_reset(name, &self.startup_settings)
            }
            Command::Reset { name } => self.settings.with_reset(name, &self.startup_settings),
            _ => self.settings.with_all_reset(&self.startup_settings),
        };
        match command {
            Command::Reset { name } => self.note_change(name),
            _ => {
                self.note_change("search_path");
                OwnSetting::ALL.into_iter().for_each(|setting| self.note_change(setting.name()));
            }
        }
        self.derive_plan_settings();
        match command {
            Command::Reset { name } => self.announce_settings(Some(name)).await?,
            _ => self.announce_settings(None).await?,
        }
        self.complete(if sql_word(sql) == "SET" { "SET" } else { "RESET" });
        Ok(())
    }

    /// DISCARD ALL on the backends that are the client's own.
    async fn discard_held(&mut self, sql: &str) -> Result<(), Failure> {
        self.note_temporaries_undone();
        for idx in (0..self.enlisted.len()).rev() {
            self.tell(idx, sql).await.taken()?;
            self.enlisted[idx].lease.forget_session();
            self.reserve_pin(idx, Leftover::ENDING)?;
        }
        Ok(())
    }

    /// Brings the held backends, or any one, to the session's settings and tells the client which parameters changed. `only`
    /// the setting of that name has changed.
    async fn announce_settings(&mut self, only: Option<&str>) -> Result<(), Failure> {
        self.enlist_held().await?;
        for idx in (0..self.enlisted.len()).rev() {
            if let Some(name) = only.filter(|_| self.has_unseen_settings(idx)) {
                // The others stay as the client's code has made them.
                self.restore_setting(idx, name).await?;
                continue;
            }
            let mut held = self.enlisted.remove(idx);
            let was_known = held.lease.settings.is_some();
            // RESET on a server returns to the server's value, not to the client's of its startup.
            held.lease.settings = None;
            let outcome = self.sync_settings(&mut held.lease).await;
            if !was_known && !self.transaction.savepoints.is_empty() {
                // A savepoint may bring back what nobody saw.
                held.lease.settings = None;
            }
            self.enlisted.insert(idx, held);
            outcome?;
        }
        self.tell_parameters();
        if only.is_none() {
            self.unpin_settings();
        }
        if !self.transaction.is_open() {
            self.settle_pins(true).await;
            self.release();
        }
        Ok(())
    }

    /// Gives a setting that was reset on a server the client's value of it.
    async fn restore_setting(&mut self, idx: usize, name: &str) -> Result<(), Failure> {
        let sql = self.settings.statement_for(name);
        if sql.is_empty() {
            return Ok(());
        }
        self.ask(idx, &sql).await.map(drop)
    }
}

/// A statement's first word in capitals.
fn sql_word(sql: &str) -> String {
    let start = sql.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
    sql[start..].chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_uppercase()
}

/// Transaction modes without WORK and TRANSACTION before them.
fn without_noise(modes: &str) -> &str {
    let modes = modes.trim();
    let noise = ["WORK", "TRANSACTION"].into_iter().find(|word| {
        modes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && !modes[word.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    });
    modes[noise.map_or(0, str::len)..].trim()
}

fn savepoint_words(command: &Command) -> &'static str {
    match command {
        Command::RollbackTo { .. } => "ROLLBACK TO SAVEPOINT",
        Command::Release { .. } => "RELEASE SAVEPOINT",
        _ => "SAVEPOINT",
    }
}

/// Whether these transaction modes are surely right: they are then not sent before the first statement.
fn are_known_modes(modes: &str) -> bool {
    let upper = modes.to_ascii_uppercase();
    let upper = upper.split_whitespace().collect::<Vec<_>>().join(" ");
    let body = upper.strip_prefix("WORK").or_else(|| upper.strip_prefix("TRANSACTION")).unwrap_or(&upper).trim();
    body.is_empty()
        || body.split(',').map(str::trim).all(|mode| {
            matches!(
                mode,
                "ISOLATION LEVEL SERIALIZABLE"
                    | "ISOLATION LEVEL REPEATABLE READ"
                    | "ISOLATION LEVEL READ COMMITTED"
                    | "ISOLATION LEVEL READ UNCOMMITTED"
                    | "READ WRITE"
                    | "READ ONLY"
                    | "DEFERRABLE"
                    | "NOT DEFERRABLE"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modes_that_the_grammar_has_are_taken_unseen() {
        assert!(are_known_modes("") && are_known_modes("isolation  level serializable, read only"));
        assert!(!are_known_modes("ISOLATION LEVEL NONE"));
        assert_eq!(sql_word(" start transaction"), "START");
    }
}
