//! The extended protocol, second half: planned actions are sent in runs, one run per backend, and answered in order.
//!
//! A run always ends with a Sync of its own, so its end is a ReadyForQuery. Where the client's Sync is still to come, or
//! more than one backend takes part, the runs stand in a transaction block.

use std::ops::Range;

use bytes::Bytes;

use super::Conversation;
use super::batch::{Action, Batch, Portal, Target, is_portion, refuse_declare};
use super::conversation::Origin;
use super::express::Way;
use super::failure::Failure;
use super::own_settings::is_own_show;
use super::relay::{Mark, Ready, Retry};
use super::run::{NO_STATEMENT, Run};
use crate::plan::{Access, Plan};
use crate::session::bonds::Bonds;
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire;
use crate::topology::ShardId;

impl Conversation {
    /// Answers one batch; with its Sync, ReadyForQuery included. False if the messages up to the next Sync are to be ignored:
    /// something failed whose Sync is still to come.
    ///
    /// # Errors
    /// Only what ends the session.
    pub async fn extended(&mut self, batch: &mut Batch) -> Result<bool, Failure> {
        self.begin_statement();
        self.is_sync_spent = false;
        let outcome = self.run_batch(batch).await;
        let (is_answered, has_failed) = match outcome {
            Ok(is_answered) => (is_answered, false),
            Err(failure) => {
                Box::pin(self.fail(failure)).await?;
                (false, true)
            }
        };
        let has_sync = batch.has_sync && !self.is_sync_spent;
        self.check_tie()?;
        if has_sync && !is_answered {
            Box::pin(self.finish_batch()).await?;
        }
        Ok(has_sync || !has_failed)
    }

    /// Plans and runs a batch, piece by piece where commands stand in it. True if ReadyForQuery is already with the client.
    async fn run_batch(&mut self, batch: &mut Batch) -> Result<bool, Failure> {
        let mut is_retry = false;
        match &self.express_way(batch) {
            Some(Way::Turn(turn)) => return self.run_turn(turn).await.map(|()| false),
            Some(Way::Shard(way)) => {
                let n_output = self.client.output.len();
                let outcome = self.run_express(batch, way).await;
                if outcome.is_err() {
                    self.restore_skipped();
                }
                if !matches!(outcome, Err(Failure::StalePlan)) {
                    return outcome;
                }
                self.client.output.truncate(n_output);
                self.portals.remove(b"");
                is_retry = true;
            }
            None => {}
        }
        Box::pin(self.run_in_pieces(batch, is_retry)).await
    }

    async fn run_in_pieces(&mut self, batch: &mut Batch, mut is_retry: bool) -> Result<bool, Failure> {
        let mut start = 0;
        loop {
            self.settle_temporaries().await?;
            self.settle_schema_for(batch, start).await?;
            let n_output = self.client.output.len();
            self.tell_anew = (!is_retry).then(|| self.client.n_flushes());
            let (mut actions, end) = self.plan_batch(batch, start).await;
            if actions.last().is_some_and(Action::copies_in) {
                self.give_back(batch, end);
            }
            let is_last = end == batch.messages.len();
            if self.needs_block(&actions, batch.has_sync && is_last) {
                self.transaction.begin(Phase::Implicit, "", &self.settings);
                self.block.origin = Origin::Pipeline;
            }
            let may_retry = !is_retry && actions.iter().any(Action::tells_columns);
            self.retry = if may_retry { Retry::Possible } else { Retry::No };
            let n_planned = actions.iter().filter(|action| !matches!(action, Action::Fail { .. })).count();
            if self.transaction.phase == Phase::Implicit {
                refuse_declare(&mut actions);
            }
            let mut actions = actions.into_iter();
            let outcome = self.run_actions(batch, &mut actions, is_last).await;
            if outcome.is_err() {
                self.undo_skipped(actions);
            }
            if matches!(outcome, Err(Failure::StalePlan)) {
                self.client.output.truncate(n_output);
                self.unbound = None;
                self.forget_planned(batch, start..start + n_planned);
                is_retry = true;
                continue;
            }
            is_retry = false;
            if is_last || outcome.is_err() {
                return outcome;
            }
            start = end;
        }
    }

    /// Takes back the names that these messages have given: they are to be looked at again.
    fn forget_planned(&mut self, batch: &Batch, messages: Range<usize>) {
        for (tag, range) in &batch.messages[messages] {
            let name = wire::BodyReader(&batch.bytes[range.clone()]).c_string().unwrap_or_default();
            match tag {
                b'B' => drop(self.portals.remove(name)),
                // It was free, or the Parse would have failed.
                b'P' if !name.is_empty() => drop(self.statements.remove(name)),
                _ => {}
            }
        }
    }

    /// Gives names back what they stood for before messages that were skipped.
    fn undo_skipped(&mut self, actions: std::vec::IntoIter<Action>) {
        for action in actions.rev() {
            match action {
                Action::Parse { name, previous, .. } | Action::CloseStatement { name, previous } => {
                    self.statements.restore(name, previous);
                }
                Action::Bind { portal, .. } => drop(self.portals.remove(&portal)),
                Action::Fail { ended: Some(unnamed), .. } => self.statements.restore(Bytes::new(), Some(unnamed)),
                _ => {}
            }
        }
        self.restore_skipped();
    }

    /// The same for what backends were sent and did not answer.
    pub(super) fn restore_skipped(&mut self) {
        for (name, previous) in std::mem::take(&mut self.skipped).into_iter().rev() {
            self.statements.restore(name, previous);
        }
    }

    /// A Sync on its own, or the end of a batch whose ReadyForQuery is not yet with the client.
    async fn finish_batch(&mut self) -> Result<(), Failure> {
        if self.transaction.phase == Phase::Implicit
            && let Err(failure) = self.commit().await
        {
            Box::pin(self.fail(failure)).await?;
        }
        if self.transaction.phase == Phase::Idle {
            self.portals.clear();
            self.release();
        }
        self.check_tie()?;
        self.say_ready();
        Ok(())
    }

    /// Whether what stands between two Syncs needs a transaction block of the proxy's: several backends take part, or the
    /// Sync is still to come.
    fn needs_block(&self, actions: &[Action], ends_with_sync: bool) -> bool {
        if self.transaction.phase != Phase::Idle {
            return false;
        }
        let (mut n_bound, mut has_command, mut has_write) = (0, false, false);
        let n_executed = actions.iter().filter(|action| matches!(action, Action::Execute { .. })).count();
        let mut shards: Option<Option<ShardId>> = None;
        let mut is_spread = false;
        let mut has_failure = false;
        for action in actions {
            if is_portion(action) {
                return true;
            }
            has_failure |= matches!(action, Action::Fail { .. });
            let Action::Bind { bound, .. } = action else { continue };
            n_bound += 1;
            match &bound.target {
                Target::One { shard, .. } => match (shards.flatten(), shard) {
                    (Some(a), Some(b)) if a != *b => is_spread = true,
                    (known, shard) => shards = Some(known.or(*shard)),
                },
                Target::Own { plan, .. } if matches!(**plan, Plan::Command(_) | Plan::Cursor(_)) => has_command = true,
                Target::Own { plan, .. } => {
                    has_write |= plan.writes_several() || plan.gathers();
                    is_spread |= n_bound > 1;
                }
            }
        }
        let n_commands_only = has_command && shards.is_none() && !has_write && !is_spread;
        if n_bound == 0 || (n_commands_only && ends_with_sync) {
            return false;
        }
        // What comes before a mistake is undone with it.
        has_failure || is_spread || has_command || !ends_with_sync || (has_write && (n_bound > 1 || n_executed > 1))
    }

    /// Runs the actions in order. True if ReadyForQuery is already with the client.
    async fn run_actions(
        &mut self,
        batch: &Batch,
        actions: &mut std::vec::IntoIter<Action>,
        is_last: bool,
    ) -> Result<bool, Failure> {
        let home = self.home_shard(actions.as_slice());
        let mut run: Option<Run> = None;
        while let Some(action) = actions.next() {
            let step = match action {
                Action::Fail { failure, .. } => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    return Err(failure);
                }
                Action::Bind { portal, bound: bound @ Portal { target: Target::Own { .. }, .. }, .. } => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    self.retry = Retry::No;
                    self.bind_own(&portal, &bound, actions.as_slice()).await?;
                    continue;
                }
                step @ Action::Bind { .. } if self.portals.has_progress() => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    if let Action::Bind { portal, .. } = &step {
                        self.close_own(portal).await;
                    }
                    step
                }
                Action::DescribePortal { portal: Portal { statement, target: Target::Own { plan, values }, .. }, .. } => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    self.describe_own(&statement, &plan, &values).await?;
                    continue;
                }
                Action::Execute { name, portal: portal @ Portal { target: Target::Own { .. }, .. }, max_rows } => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    self.retry = Retry::No;
                    self.execute_own(&name, &portal, max_rows).await?;
                    if portal.begins_block() {
                        // It lives in the block that it has begun.
                        self.portals.insert(name, portal, &self.database.query)?;
                    }
                    self.unbound = None;
                    continue;
                }
                Action::ClosePortal { name, portal: Some(Portal { target: Target::Own { .. }, .. }) | None } => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    self.close_own(&name).await;
                    wire::bare(&mut self.client.output, b'3');
                    continue;
                }
                Action::OfCursor { tag, ref name, max_rows } if self.is_own_cursor(name) => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    self.cursor_message(tag, &String::from_utf8_lossy(name), max_rows).await?;
                    continue;
                }
                Action::DescribeStatement { ref statement, .. } if self.is_described_here(statement) => {
                    self.end_run(run.take(), Ready::Swallow).await?;
                    self.describe_command(statement).await?;
                    continue;
                }
                Action::CloseStatement { .. } if run.is_none() => {
                    wire::bare(&mut self.client.output, b'3');
                    continue;
                }
                step => step,
            };
            self.add_to_run(&mut run, batch, step, home).await?;
        }
        // In a failed block a backend that has not failed would call it whole.
        let is_told_by_backend = matches!(self.transaction.phase, Phase::Idle | Phase::Explicit);
        let relays_ready = batch.has_sync && is_last && is_told_by_backend && !self.has_untold_parameters();
        let has_run = run.is_some();
        let is_synced = self.end_run(run, if relays_ready { Ready::Relay } else { Ready::Swallow }).await?;
        Ok(has_run && relays_ready && is_synced)
    }

    /// The shard for what can go anywhere: where the batch's own rows are.
    fn home_shard(&mut self, actions: &[Action]) -> Option<ShardId> {
        actions.iter().find_map(|action| match action {
            Action::Bind { bound: Portal { target: Target::One { shard, .. }, .. }, .. } => *shard,
            _ => None,
        })
    }

    async fn add_to_run(
        &mut self,
        run: &mut Option<Run>,
        batch: &Batch,
        action: Action,
        home: Option<ShardId>,
    ) -> Result<(), Failure> {
        if let Action::Parse { statement, .. } = &action
            && is_own_show(statement)
        {
            // No server knows the setting, unless somebody has set it there.
            self.end_run(run.take(), Ready::Swallow).await?;
            wire::bare(&mut self.client.output, b'1');
            return Ok(());
        }
        let (wanted, access) = self.wanted_shard(&action);
        let shard = match wanted.or(run.as_ref().map(|run| run.shard)).or(home) {
            Some(shard) => shard,
            None => self.any_live_shard(access).await?,
        };
        if run.as_ref().is_some_and(|run| run.shard != shard) {
            self.end_run(run.take(), Ready::Swallow).await?;
        }
        let (leftover, bonds) = match &action {
            Action::Bind { bound: Portal { target: Target::One { leftover, .. }, .. }, .. } => (*leftover, leftover.bonds),
            Action::Parse { statement, .. } => (Leftover::NOTHING, statement.cached.leftover.bonds),
            _ => (Leftover::NOTHING, Bonds::NONE),
        };
        if run.is_some() && self.index_of(shard).is_some_and(|idx| self.needs_clearing(idx, bonds)) {
            self.end_run(run.take(), Ready::Swallow).await?;
        }
        let idx = match self.enlist_for(shard, access, (&action, leftover)).await {
            Ok(idx) => {
                self.clear_in_block(idx, bonds);
                idx
            }
            Err(failure) => {
                self.end_run(run.take(), Ready::Swallow).await?;
                return Err(failure);
            }
        };
        self.enlisted[idx].begin_statement();
        let run = run.get_or_insert_with(|| Run::new(shard, Leftover::NOTHING));
        self.write_action(idx, run, batch, action);
        run.is_empty = false;
        Ok(())
    }

    /// The shard that an action must go to, if it must, and what it may do there.
    fn wanted_shard(&self, action: &Action) -> (Option<ShardId>, Access) {
        match action {
            Action::Bind { bound: Portal { target: Target::One { shard, access, .. }, .. }, .. } => (*shard, *access),
            Action::DescribePortal { name, portal: Portal { target: Target::One { shard, access, .. }, .. } }
            | Action::Execute { name, portal: Portal { target: Target::One { shard, access, .. }, .. }, .. }
            | Action::ClosePortal { name, portal: Some(Portal { target: Target::One { shard, access, .. }, .. }) } => {
                (shard.or_else(|| self.portals.shard_of(name)), *access)
            }
            Action::Parse { statement, .. } | Action::DescribeStatement { statement, .. } => {
                (statement.cached.template.describe_shard(), Access::Read)
            }
            Action::OfCursor { name, .. } => (self.cursors.shard_of(&String::from_utf8_lossy(name)), Access::Write),
            _ => (None, Access::Read),
        }
    }

    fn is_own_cursor(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.cursors.is_own(name))
    }

    /// Writes what an action asks of a backend to its output.
    fn write_action(&mut self, idx: usize, run: &mut Run, batch: &Batch, action: Action) {
        match action {
            Action::Parse { name, statement, previous } => self.write_parse(idx, run, name, (&statement, previous)),
            Action::Bind { portal, is_named, bound, tail } => {
                if let Target::One { shard: None, .. } = bound.target {
                    self.portals.note_shard(&portal, run.shard);
                }
                if let Target::One { leftover, changes, .. } = &bound.target {
                    run.leftover = run.leftover.and(*leftover);
                    run.changes.extend(changes.iter().flat_map(|changes| changes.iter().cloned()));
                }
                let name = self.ensure_parsed(idx, run, is_named, &bound.statement.prepared);
                let output = &mut self.enlisted[idx].lease.socket.output;
                wire::bind(output, &portal, name.as_bytes(), &batch.bytes[tail]);
                self.learn_columns(idx, &portal, (&bound.statement.prepared, &bound.formats));
                run.has_unmarked = true;
            }
            Action::DescribeStatement { is_named, statement } => {
                let name = self.ensure_parsed(idx, run, is_named, &statement.prepared);
                wire::describe_or_close(&mut self.enlisted[idx].lease.socket.output, b'D', b'S', name.as_bytes());
                self.expect_description(idx, &statement.prepared, statement.told.as_ref());
                run.has_unmarked = true;
            }
            Action::DescribePortal { name, portal } => {
                wire::describe_or_close(&mut self.enlisted[idx].lease.socket.output, b'D', b'P', &name);
                self.expect_columns_of(idx, &portal.statement.prepared, portal.statement.told.as_ref());
                run.has_unmarked = true;
            }
            Action::Execute { name, max_rows, portal } => {
                wire::execute(&mut self.enlisted[idx].lease.socket.output, &name, max_rows);
                self.expect_rows(idx, &portal.statement.prepared, &portal.formats);
                run.has_unmarked = true;
            }
            Action::CloseStatement { name, previous } => {
                run.note_name(name, previous);
                run.push(Mark::Relay);
                wire::describe_or_close(&mut self.enlisted[idx].lease.socket.output, b'C', b'S', NO_STATEMENT);
            }
            Action::ClosePortal { name, .. } => {
                run.push(Mark::Relay);
                wire::describe_or_close(&mut self.enlisted[idx].lease.socket.output, b'C', b'P', &name);
            }
            Action::OfCursor { tag: b'E', name, max_rows } => {
                wire::execute(&mut self.enlisted[idx].lease.socket.output, &name, max_rows);
                run.has_unmarked = true;
            }
            Action::OfCursor { tag, name, .. } => {
                if tag == b'C' {
                    self.cursors.forget(&String::from_utf8_lossy(&name));
                    run.push(Mark::Relay);
                }
                run.has_unmarked |= tag == b'D';
                wire::describe_or_close(&mut self.enlisted[idx].lease.socket.output, tag, b'P', &name);
            }
            Action::Fail { .. } => {}
        }
    }

    /// Sends a run, if there is one, with its Sync and relays the answer. True if the answer's ReadyForQuery was handled as
    /// `ready` says.
    async fn end_run(&mut self, run: Option<Run>, ready: Ready) -> Result<bool, Failure> {
        match run {
            Some(mut run) => self.finish_run(&mut run, ready).await,
            None => Ok(false),
        }
    }
}
