//! Answers without the rows of shards that are down or late, for a session that has asked for them: `trunkline.partial_results`.
//!
//! Only reads that merge or combine leave a shard out, only before a row of it was used, and each time with a WARNING. A shard that
//! has a part in the client's transaction already is not left out: what the transaction has seen of it would be lost.

use std::time::Instant;

use bytes::BytesMut;

use super::Conversation;
use super::enlist::{BlockAge, Part};
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::{Description, malformed};
use super::timer::WaitError;
use crate::backend::ConnectionLost;
use crate::deadline::Deadline;
use crate::observe::ErrorKind;
use crate::plan::{Access, CombinePlan, MergePlan, Plan};
use crate::session::prepared::Described;
use crate::session::wire::{self, HEADER_LEN, Severity};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{ShardId, ShardSet};

/// Why a shard that is late is left out.
const NO_ANSWER: &str = "no answer within query.shard_timeout";

/// A read that may leave shards out, while it runs.
#[derive(Debug)]
pub(super) struct Partial {
    /// When the whole statement must be over.
    deadline: Deadline,
    /// Those that are left.
    shards: ShardSet,
    /// Those of which rows were used.
    used: ShardSet,
    left_out: ShardSet,
    /// Those of them that may still be at work.
    late: ShardSet,
}

impl Partial {
    /// Notes that rows of a shard are in the answer.
    pub(super) fn note_used(&mut self, shard: ShardId) {
        self.used.insert(shard);
    }
}

impl Conversation {
    /// Whether shards may be left out of the answer to a plan.
    pub(super) fn may_be_partial(&self, plan: &Plan) -> bool {
        let has_asked = self.own.as_ref().is_some_and(|own| own.settings.is_partial);
        has_asked
            && matches!(plan, Plan::Merge(_) | Plan::Combine(_))
            && self.copying.is_none()
            && !self.block.is_lost
            && self.enlisted.iter().all(|held| held.part != Part::Writer)
    }

    /// Runs a merge or combine plan over those of its shards that answer.
    ///
    /// # Errors
    /// Those of the plan; where no shard is left, that of the last one.
    pub(super) async fn run_partially(
        &mut self,
        sql: &str,
        plan: &Plan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let shards = shards_of(plan);
        let (deadline, none) = (self.timer.deadline(), ShardSet::EMPTY);
        self.partial = Some(Box::new(Partial { deadline, shards, used: none, left_out: none, late: none }));
        let outcome = self.answer_partially(sql, plan, values, description).await;
        self.end_partial().await;
        match outcome {
            // Over gathered rows nothing is left out.
            Err(failure) if failure.is_inexact() => self.gather_instead(sql, values, description, failure).await,
            outcome => outcome,
        }
    }

    async fn answer_partially(
        &mut self,
        sql: &str,
        plan: &Plan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        for shard in shards_of(plan).iter() {
            self.reach(shard).await?;
        }
        match plan {
            Plan::Merge(merge) => {
                if merge.n_hidden > 0 {
                    self.describe_reachable(&merge.text, values).await?;
                }
                let plan = MergePlan { shards: self.shards_left(), ..MergePlan::clone(merge) };
                self.run_merge(&plan, values, description).await
            }
            Plan::Combine(combine) => {
                self.describe_reachable(sql, values).await?;
                self.describe_reachable(&combine.text, values).await?;
                let plan = CombinePlan { shards: self.shards_left(), ..CombinePlan::clone(combine) };
                self.run_combine(sql, &plan, values, description).await
            }
            _ => Ok(()),
        }
    }

    fn shards_left(&self) -> ShardSet {
        self.partial.as_ref().map_or(ShardSet::EMPTY, |partial| partial.shards)
    }

    /// Enlists a shard, or leaves it out if that cannot be.
    async fn reach(&mut self, shard: ShardId) -> Result<(), Failure> {
        if self.index_of(shard).is_none() && self.database.board.reader_of(shard).is_none() && self.shards_left().len() > 1 {
            // Nobody waits for a primary that a read can do without.
            self.leave_out(shard, "no server of the shard is up");
            return Ok(());
        }
        self.limit_to_shard();
        let outcome = self.enlist(shard, Access::Read).await;
        let is_late = self.is_late();
        self.restore_deadline();
        match outcome {
            Ok(_) => Ok(()),
            Err(failure) if is_gone(&failure, is_late) && self.shards_left().len() > 1 => {
                self.leave_out(shard, &words_of(&failure));
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Has the first shard that can describe a text do so, which is then known; those before it are left out.
    async fn describe_reachable(&mut self, text: &str, values: &BoundValues) -> Result<(), Failure> {
        loop {
            let Some(first) = self.shards_left().iter().next() else { return Err(malformed("a plan without shards")) };
            let (may_skip, was_lost) = (self.index_of(first).is_none_or(|idx| self.has_no_past(idx)), self.block.is_lost);
            self.limit_to_shard();
            let outcome = self.describe(first, text, &values.param_types).await;
            let is_late = self.is_late();
            self.restore_deadline();
            match outcome {
                Ok(_) => return Ok(()),
                Err(failure) if may_skip && is_gone(&failure, is_late) && self.shards_left().len() > 1 => {
                    self.drop_left_out(first);
                    self.block.is_lost = was_lost;
                    self.leave_out(first, &words_of(&failure));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The description of a text by the first of these shards; by another, if that is down and the session takes partial results.
    ///
    /// # Errors
    /// A server's.
    pub(super) async fn describe_by_any(
        &mut self,
        shards: ShardSet,
        text: &str,
        param_types: &[u32],
    ) -> Result<Described, Failure> {
        let mut last = malformed("a plan without shards");
        for shard in shards.iter() {
            let may_try_another = self.own.as_ref().is_some_and(|own| own.settings.is_partial) && self.index_of(shard).is_none();
            match self.describe(shard, text, param_types).await {
                Err(failure) if may_try_another && is_gone(&failure, false) => last = failure,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    /// Each shard has `query.shard_timeout`.
    fn limit_to_shard(&mut self) {
        self.timer.limit(Deadline::after(Instant::now(), self.database.query.shard_timeout));
    }

    /// Whether a shard's time is over, and the statement's is not.
    fn is_late(&self) -> bool {
        let now = Instant::now();
        let whole = self.partial.as_ref().map_or(Deadline::NEVER, |partial| partial.deadline);
        self.timer.deadline().has_passed(now) && !whole.has_passed(now)
    }

    fn restore_deadline(&mut self) {
        if let Some(partial) = &self.partial {
            let deadline = partial.deadline;
            self.timer.set(deadline);
        }
    }

    /// Whether nothing of the client's transaction is lost with this backend.
    fn has_no_past(&self, idx: usize) -> bool {
        let held = &self.enlisted[idx];
        held.pin.is_none() && (held.part == Part::Outside || held.age == BlockAge::Fresh)
    }

    /// Notes that rows of a backend are in the answer.
    pub(super) fn note_used(&mut self, idx: usize) {
        if let Some(partial) = &mut self.partial {
            partial.note_used(self.enlisted[idx].lease.shard);
        }
    }

    /// Whether a shard was left out of the read that runs.
    pub(super) fn is_left_out(&self, idx: usize) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.left_out.contains(self.enlisted[idx].lease.shard))
    }

    /// Takes a failed wait for the backends `idxs`, of which `idx` was lost, or some were late. True: their shards are left out,
    /// and count as ready; the read goes on without them.
    pub(super) fn goes_on_without(&mut self, idxs: &[usize], idx: usize, error: &WaitError) -> bool {
        let Some(partial) = &self.partial else { return false };
        let gone: Vec<usize> = match error {
            WaitError::Lost(_) => vec![idx],
            WaitError::DeadlinePassed if self.is_late() => {
                // Who has something to read is not late: it waits for its turn.
                let is_silent = |idx: &usize| {
                    let held = &self.enlisted[*idx];
                    !held.is_ready && !matches!(held.lease.buffered_header(), Ok(Some(_)))
                };
                idxs.iter().copied().filter(is_silent).collect()
            }
            WaitError::DeadlinePassed | WaitError::ClientLeft | WaitError::Deadlock(_) => return false,
        };
        let is_used = |idx: usize| partial.used.contains(self.enlisted[idx].lease.shard);
        if gone.is_empty() || gone.len() >= partial.shards.len() || gone.iter().any(|&idx| is_used(idx) || !self.has_no_past(idx))
        {
            return false;
        }
        for idx in gone {
            let held = &mut self.enlisted[idx];
            held.is_ready = true;
            held.lease.is_clean = false;
            let (shard, node_idx) = (held.lease.shard, held.lease.node_idx);
            let why = match error {
                WaitError::Lost(lost) => {
                    self.database.board.report_connect_failure(shard, node_idx);
                    lost.0.clone()
                }
                WaitError::DeadlinePassed | WaitError::ClientLeft | WaitError::Deadlock(_) => {
                    if let Some(partial) = &mut self.partial {
                        partial.late.insert(shard);
                    }
                    NO_ANSWER.to_owned()
                }
            };
            self.leave_out(shard, &why);
        }
        self.restore_deadline();
        true
    }

    /// Deals with an ErrorResponse in the answer of a backend: the last words of one that goes down are its loss.
    ///
    /// # Errors
    /// The error, unless the read goes on without the shard.
    pub(super) async fn take_error(&mut self, idxs: &[usize], idx: usize, message: &BytesMut) -> Result<(), Failure> {
        let is_last = self.partial.is_some() && self.enlisted[idx].lease.has_ended;
        if is_last {
            let words = wire::report_field(&message[HEADER_LEN..], b'M').unwrap_or_default();
            let lost = ConnectionLost(String::from_utf8_lossy(words).into_owned());
            if self.goes_on_without(idxs, idx, &lost.into()) {
                return Ok(());
            }
        }
        Err(self.shard_failed(idxs, idx, message).await)
    }

    fn leave_out(&mut self, shard: ShardId, why: &str) {
        let Some(partial) = &mut self.partial else { return };
        partial.shards = partial.shards.iter().filter(|left| *left != shard).collect();
        partial.left_out.insert(shard);
        self.database.counters.n_left_out.increment();
        let name = self.view.topology.shard_name(shard);
        let report = Report::new(SqlState::WARNING, format!("the answer is without the rows of shard \"{name}\""))
            .with_detail(format!("{why}."))
            .with_hint("trunkline.partial_results is on.");
        wire::report(&mut self.client.output, Severity::Warning, &report);
    }

    /// Ends what may be left out: what still runs on shards that were is cancelled. Gives the shards that have answered, if
    /// some have not.
    pub(super) async fn end_partial(&mut self) -> Option<ShardSet> {
        let partial = self.partial.take()?;
        for shard in partial.left_out.iter() {
            let Some(idx) = self.index_of(shard) else { continue };
            if partial.late.contains(shard) {
                self.enlisted[idx].is_ready = false;
                self.enlisted[idx].part = Part::Outside;
                Box::pin(self.cancel_and_drain(&[idx])).await;
            }
            if self.transaction.is_open() || !partial.late.contains(shard) {
                self.drop_left_out(shard);
            }
        }
        (!partial.left_out.is_empty()).then_some(partial.shards)
    }

    /// Closes the backend of a shard that is left out, if it is still held.
    fn drop_left_out(&mut self, shard: ShardId) {
        if let Some(idx) = self.index_of(shard) {
            self.enlisted[idx].part = Part::Outside;
            self.drop_enlisted(idx);
        }
    }
}

fn shards_of(plan: &Plan) -> ShardSet {
    match plan {
        Plan::Merge(plan) => plan.shards,
        Plan::Combine(plan) => plan.shards,
        _ => ShardSet::EMPTY,
    }
}

/// Whether a failure says that a server is down or going down, or that it is late.
fn is_gone(failure: &Failure, is_late: bool) -> bool {
    let is_of_server = |code: &[u8]| code.starts_with(b"08") || matches!(code, b"57P01" | b"57P02" | b"57P03");
    match failure {
        Failure::Statement { kind: ErrorKind::Connection, report } => is_of_server(&report.sqlstate.0),
        Failure::Statement { kind: ErrorKind::ShardTimeout | ErrorKind::CheckoutTimeout, .. } => is_late,
        Failure::Shard(message) => {
            wire::report_field(message.get(HEADER_LEN..).unwrap_or_default(), b'C').is_some_and(is_of_server)
        }
        _ => false,
    }
}

fn words_of(failure: &Failure) -> String {
    match failure {
        Failure::Statement { kind: ErrorKind::ShardTimeout | ErrorKind::CheckoutTimeout, .. } => NO_ANSWER.to_owned(),
        Failure::Statement { report, .. } => report.message.clone(),
        Failure::Shard(message) => {
            let words = wire::report_field(message.get(HEADER_LEN..).unwrap_or_default(), b'M').unwrap_or_default();
            String::from_utf8_lossy(words).into_owned()
        }
        _ => "the shard could not be reached".to_owned(),
    }
}
