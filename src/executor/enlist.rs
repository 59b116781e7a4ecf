//! Which backends a statement or transaction holds: checking out, enlisting, giving back.

use std::borrow::Cow;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::Conversation;
use super::failure::{Failure, client_left};
use super::pin::Pin;
use super::sequences::BlockHabit;
use super::timer::{Timer, WaitError};
use super::types::{Answers, tells_types};
use crate::backend::{Connection, Lease, Socket};
use crate::health::Board;
use crate::observe::ErrorKind;
use crate::plan::Access;
use crate::session::bonds::Bonds;
use crate::session::settings::Settings;
use crate::session::unpooled::Leftover;
use crate::session::wire::{self, Header};
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Longest wait for a server to answer a cancel before its connection is closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A backend's part in the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// No transaction block is open on it.
    Outside,
    Reader,
    /// Something was written on it, as far as is known.
    Writer,
}

/// Whether the client's own backends are all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tie {
    Whole,
    /// One was lost, and the session's state with it: the session ends.
    Lost,
}

/// Whether something has run in a backend's transaction block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockAge {
    /// It was opened for what is being run.
    Fresh,
    Used,
}

/// A backend held by a statement or a transaction.
#[derive(Debug)]
pub(super) struct Enlisted {
    pub lease: Lease,
    /// Every statement sent has been answered to its end.
    pub is_ready: bool,
    pub part: Part,
    /// ReadyForQuery messages to swallow before those of the client's statement.
    pub n_skipped_cycles: usize,
    pub age: BlockAge,
    /// Settings that a rollback returns it to.
    settings_at_begin: Option<Settings>,
    /// The client's own: kept beyond the transaction.
    pub pin: Option<Box<Pin>>,
    /// Notifications that came beside answers, to be told before the next ReadyForQuery.
    pub late: BytesMut,
    /// The process id that the client was given at its login.
    told_pid: i32,
    /// A statement was sent since it was last given back or kept.
    is_used: bool,
    /// Of the statements of the transaction.
    pub bonds: Bonds,
    pub answers: Answers,
}

impl Enlisted {
    /// To be called before a statement is written: from here to its ReadyForQuery the connection belongs to it.
    pub(super) fn begin_statement(&mut self) -> &mut Connection {
        self.is_ready = false;
        self.is_used = true;
        self.lease.is_clean = false;
        &mut self.lease
    }

    /// Takes the status byte of the statement's ReadyForQuery.
    pub(super) fn note_ready(&mut self, status: Option<u8>) {
        self.is_ready = true;
        self.answers = Answers::default();
        self.age = BlockAge::Used;
        self.lease.is_clean = status == Some(b'I');
    }

    /// Whether it has said something that nobody has read; looks at the socket without waiting.
    pub(super) fn has_answered(&mut self) -> bool {
        self.lease.socket.poll_fill(&mut Context::from_waker(Waker::noop())).is_ready() || !self.lease.socket.input.is_empty()
    }

    /// Takes the message at the start of the buffer, whose header this is. `None` for what no reader of an answer looks at:
    /// what was said of the statements that opened the block, unless it is an error, and ParameterStatus, which is noted. The
    /// statement's ReadyForQuery is noted and given.
    pub(super) fn take_answer(&mut self, header: Header) -> Option<BytesMut> {
        let mut message = self.lease.socket.input.split_to(header.len);
        match header.tag {
            b'A' => {
                self.note_late(&mut message);
                None
            }
            b'E' if self.pin.is_none() && wire::is_fatal(&message[wire::HEADER_LEN..]) => {
                self.lease.has_ended = true;
                wire::soften(&mut message[wire::HEADER_LEN..]);
                Some(message)
            }
            b'S' => {
                self.lease.note_parameter(&message[wire::HEADER_LEN..]);
                None
            }
            b'Z' if self.n_skipped_cycles > 0 => {
                self.n_skipped_cycles -= 1;
                None
            }
            b'Z' => {
                self.note_ready(message.last().copied());
                Some(message)
            }
            b'E' => Some(message),
            _ if self.n_skipped_cycles > 0 => None,
            _ => Some(message),
        }
    }

    /// Keeps a notification for the end of the answer.
    pub(super) fn note_late(&mut self, message: &mut [u8]) {
        self.tell_own_pid(message);
        self.late.extend_from_slice(message);
    }

    /// Has a NotificationResponse of the client's own NOTIFY name the process that the client knows itself by. Other messages
    /// stay as they are.
    pub(super) fn tell_own_pid(&self, message: &mut [u8]) {
        if message.first() != Some(&b'A') {
            return;
        }
        let own = self.lease.entry().description.pid.to_be_bytes();
        if let Some(pid) = message.get_mut(wire::HEADER_LEN..wire::HEADER_LEN + 4).filter(|pid| **pid == own) {
            pid.copy_from_slice(&self.told_pid.to_be_bytes());
        }
    }

    /// The next message of the statement's answer, as [`Self::take_answer`] gives it, with its tag. The wait ends when the
    /// client that is `watched` leaves.
    ///
    /// Cancel safe.
    pub(super) async fn next_answer(&mut self, timer: &mut Timer, watched: Option<&Socket>) -> Result<(u8, BytesMut), WaitError> {
        loop {
            let header = timer.next_header(&mut self.lease, watched).await?;
            if let Some(message) = self.take_answer(header) {
                return Ok((header.tag, message));
            }
        }
    }
}

/// Who is looked at while a backend is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// The client: one that has left waits for nothing. The wait also ends where it is part of a deadlock.
    Client,
    /// Nobody: what runs is to be finished for whoever comes next.
    Nobody,
}

impl Conversation {
    /// The place of a shard's backend among those that are held.
    pub(super) fn index_of(&self, shard: ShardId) -> Option<usize> {
        self.enlisted.iter().position(|enlisted| enlisted.lease.shard == shard)
    }

    /// The next message of a backend's answer, as [`Enlisted::next_answer`] gives it.
    ///
    /// # Errors
    /// What [`Self::abandon`] makes of a wait that ended without one.
    pub(super) async fn next_message(&mut self, idx: usize, watched: Watched) -> Result<(u8, BytesMut), Failure> {
        let client = (watched == Watched::Client).then_some(&self.client);
        match self.enlisted[idx].next_answer(&mut self.timer, client).await {
            Ok((tag, mut message)) => {
                if tells_types(tag) {
                    Box::pin(self.translate(idx, tag, &mut message)).await;
                }
                Ok((tag, message))
            }
            Err(error) => Err(Box::pin(self.abandon(idx, error)).await),
        }
    }

    /// The index in `enlisted` of a backend of `shard`, checked out and brought into the transaction if need be.
    ///
    /// # Errors
    /// 53300, 08006, 57P03, or the server's own refusal; 0A000 when a second shard would be written and prepared
    /// transactions are off.
    pub(super) async fn enlist(&mut self, shard: ShardId, access: Access) -> Result<usize, Failure> {
        let idx = match self.index_of(shard) {
            Some(idx) => idx,
            None => self.check_out(shard, access).await?,
        };
        if !self.transaction.is_open() {
            return Ok(idx);
        }
        if self.enlisted[idx].part == Part::Outside {
            self.open_block(idx);
        }
        if access == Access::Write && self.enlisted[idx].part != Part::Writer {
            self.check_second_writer(shard)?;
            self.enlisted[idx].part = Part::Writer;
        }
        Ok(idx)
    }

    /// The same for a statement that may leave something in the backend's session.
    ///
    /// # Errors
    /// Also 53300 when no more connections may be pinned.
    pub(super) async fn enlist_to_leave(&mut self, shard: ShardId, access: Access, leftover: Leftover) -> Result<usize, Failure> {
        let access = if leftover.makes.is_empty() { access } else { Access::Write };
        self.note_temporaries(shard, leftover)?;
        if leftover.bonds.is_empty() {
            let idx = self.enlist(shard, access).await?;
            self.reserve_pin(idx, leftover)?;
            return Ok(idx);
        }
        if leftover.bonds.touches(Bonds::READS_SEQUENCES) {
            // From now on a backend that comes from the pool has none of others.
            self.database.note_sequence_read();
        }
        let takes_locks_only = leftover.bonds.contains(Bonds::ONLY_LOCKS);
        if takes_locks_only {
            self.check_out_primary(shard).await?;
        }
        let idx = self.enlist(shard, if takes_locks_only { Access::Read } else { access }).await?;
        self.clear_in_block(idx, leftover.bonds);
        self.reserve_pin(idx, leftover)?;
        self.tie_sequences(idx, leftover.bonds)?;
        self.enlisted[idx].bonds = self.enlisted[idx].bonds.union(leftover.bonds);
        Ok(idx)
    }

    /// A shard that can run what needs a primary, each in turn.
    pub(super) fn any_writable_shard(&mut self) -> ShardId {
        self.next_shard_with(Board::primary_of)
    }

    /// The shard for a statement that any shard can answer: one that is held already, else each in turn.
    pub(super) fn any_shard(&mut self) -> ShardId {
        if let Some(shard) = self.hinted_shard() {
            return shard;
        }
        if let Some(enlisted) = self.enlisted.first() {
            return enlisted.lease.shard;
        }
        self.next_shard_with(Board::reader_of)
    }

    /// The next shard with a node of this kind; the first when none has.
    fn next_shard_with(&mut self, node_of: fn(&Board, ShardId) -> Option<usize>) -> ShardId {
        let n_shards = self.view.topology.shards.len().max(1) as u64;
        for _ in 0..n_shards {
            self.next_any = self.next_any.wrapping_add(1);
            let shard = ShardId((self.next_any % n_shards) as u8);
            if node_of(&self.database.board, shard).is_some() {
                return shard;
            }
        }
        ShardId(0)
    }

    /// Enlists some shard for a statement that any can answer; one that cannot be reached is passed over for the next.
    pub(super) async fn any_live_shard(&mut self, access: Access) -> Result<ShardId, Failure> {
        let n_shards = self.view.topology.shards.len();
        let mut n_tried = 0;
        loop {
            let shard = self.any_shard();
            n_tried += 1;
            match self.enlist(shard, access).await {
                Ok(_) => return Ok(shard),
                Err(Failure::Statement { kind: ErrorKind::Connection, .. }) if n_tried < n_shards && self.enlisted.is_empty() => {
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Checks out a backend of the primary, where all sessions meet, unless the client has one of the shard.
    pub(super) async fn check_out_primary(&mut self, shard: ShardId) -> Result<(), Failure> {
        match self.index_of(shard) {
            Some(_) => Ok(()),
            None => self.check_out(shard, Access::Write).await.map(drop),
        }
    }

    async fn check_out(&mut self, shard: ShardId, access: Access) -> Result<usize, Failure> {
        let mut held = self.check_out_apart(shard, access).await?;
        if self.database.keeps_sequences() && self.has_others_values(&held) {
            held.clear_sequences(self.entry.id);
        }
        if self.enlisted.capacity() == 0 {
            // Most clients never hold two.
            self.enlisted.reserve_exact(1);
        }
        self.enlisted.push(Enlisted { pin: self.first_pin(), ..held });
        Ok(self.enlisted.len() - 1)
    }

    /// Checks out a backend that takes no part in the client's transaction.
    pub(super) async fn check_out_apart(&mut self, shard: ShardId, access: Access) -> Result<Enlisted, Failure> {
        let mut lease = self.take_lease(shard, access).await?;
        lease.entry().lease(self.entry.id);
        if lease.settings.as_ref() != Some(&self.settings) {
            Box::pin(self.sync_settings(&mut lease)).await?;
        }
        // From here on `release` takes it back: a cancel must not reach a connection that another client has by then.
        self.cancel.add(lease.cancel.clone());
        let settings_at_begin = lease.settings.clone();
        Ok(Enlisted {
            lease,
            is_ready: true,
            part: Part::Outside,
            n_skipped_cycles: 0,
            age: BlockAge::Used,
            settings_at_begin,
            pin: None,
            late: BytesMut::new(),
            told_pid: self.process_id,
            is_used: false,
            bonds: Bonds::NONE,
            answers: Answers::default(),
        })
    }

    fn open_block(&mut self, idx: usize) {
        let mut sql = self.transaction.opening_statements();
        if self.block_habit == BlockHabit::DrawsNow && sql == "BEGIN" && self.has_others_values(&self.enlisted[idx]) {
            sql = Cow::Borrowed("DISCARD SEQUENCES;BEGIN");
            self.enlisted[idx].lease.sequence_user = self.entry.id;
        }
        let enlisted = &mut self.enlisted[idx];
        enlisted.lease.is_clean = false;
        enlisted.lease.write_query(sql.as_bytes());
        enlisted.n_skipped_cycles += 1;
        enlisted.age = BlockAge::Fresh;
        enlisted.part = Part::Reader;
    }

    fn check_second_writer(&self, shard: ShardId) -> Result<(), Failure> {
        let mut writers = self.enlisted.iter().filter(|e| e.part == Part::Writer).map(|e| e.lease.shard).peekable();
        if writers.peek().is_none() {
            return Ok(());
        }
        let Some(refusing) = writers.chain([shard]).find(|shard| !self.database.board.allows_two_phase(*shard)) else {
            return Ok(());
        };
        let name = &self.view.topology.shard(refusing).name;
        Err(Failure::client(
            Report::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("a transaction cannot write more than one shard: shard \"{name}\" does not allow prepared transactions"),
            )
            .with_detail("Reason code TL091.")
            .with_hint("Set max_prepared_transactions above 0 on every server and restart it."),
        ))
    }

    /// Gives backends back to their pools, but for the client's own; those that are not clean are closed.
    pub(super) fn release(&mut self) {
        if self.enlisted.is_empty() {
            return;
        }
        self.lose_last_values();
        if self.enlisted.iter().any(|enlisted| enlisted.is_used) {
            self.entry.n_transactions.increment();
            self.database.counters.n_transactions.increment();
        }
        if self.enlisted.iter().all(|enlisted| enlisted.pin.is_none()) {
            self.cancel.clear();
            let now = Instant::now();
            self.released_at = Some(now);
            for enlisted in &mut self.enlisted {
                enlisted.lease.released_at = Some(now);
            }
            self.enlisted.clear();
            self.cursors.retain_shards(|_| false);
            return;
        }
        self.keep_pinned();
    }

    /// Gives all but the client's own backends back.
    fn keep_pinned(&mut self) {
        self.cancel.clear();
        if self.enlisted.iter().any(|enlisted| enlisted.pin.is_some() && !enlisted.lease.is_clean) {
            self.tie = Tie::Lost;
        }
        self.enlisted.retain(|enlisted| enlisted.pin.is_some() && enlisted.lease.is_clean);
        let Self { enlisted, cursors, .. } = self;
        cursors.retain_shards(|shard| enlisted.iter().any(|held| held.lease.shard == shard));
        for enlisted in &mut self.enlisted {
            enlisted.part = Part::Outside;
            enlisted.is_used = false;
            enlisted.bonds = Bonds::NONE;
            enlisted.settings_at_begin.clone_from(&enlisted.lease.settings);
            self.cancel.add(enlisted.lease.cancel.clone());
        }
    }

    /// Settings of the backends after their transaction has ended.
    pub(super) fn settle_backend_settings(&mut self, is_committed: bool) {
        for enlisted in &mut self.enlisted {
            if enlisted.lease.settings.is_some() {
                let settled = if is_committed { Some(self.settings.clone()) } else { enlisted.settings_at_begin.clone() };
                enlisted.lease.settings = settled;
            }
        }
    }

    /// Drops a backend whose connection is of no use any more; an open transaction is lost with it.
    pub(super) fn drop_enlisted(&mut self, idx: usize) {
        let mut enlisted = self.enlisted.remove(idx);
        enlisted.lease.is_clean = false;
        self.block.is_lost |= enlisted.part != Part::Outside;
        if enlisted.pin.is_some() {
            self.tie = Tie::Lost;
        }
    }

    /// The name of the shard of an enlisted backend.
    pub(super) fn shard_name(&self, idx: usize) -> &str {
        self.view.topology.shard_name(self.enlisted[idx].lease.shard)
    }

    /// Turns a failed wait for a backend into the client's error, and deals with the connection: one that was lost is closed,
    /// one whose statement ran out of time, or is in a deadlock, is cancelled and, if it answers soon, kept.
    pub(super) async fn abandon(&mut self, idx: usize, error: WaitError) -> Failure {
        let shard = self.shard_name(idx).to_owned();
        match error {
            WaitError::Lost(lost) => {
                let lease = &self.enlisted[idx].lease;
                self.database.board.report_connect_failure(lease.shard, lease.node_idx);
                self.drop_enlisted(idx);
                let message = format!("connection to shard \"{shard}\" was lost: {lost}");
                Failure::statement(Report::new(SqlState::CONNECTION_FAILURE, message), ErrorKind::Connection)
            }
            // What runs is cancelled when the session ends.
            WaitError::ClientLeft => client_left(),
            WaitError::DeadlinePassed => {
                Box::pin(self.cancel_and_drain(&[idx])).await;
                timeout_failure(&shard)
            }
            WaitError::Deadlock(report) => {
                Box::pin(self.cancel_and_drain(&[idx])).await;
                Failure::deadlock(report)
            }
        }
    }

    /// Cancels what runs on these backends and reads their answers away, for at most a second; who does not answer is closed.
    pub(super) async fn cancel_and_drain(&mut self, idxs: &[usize]) {
        let mut running: Vec<usize> = idxs.iter().copied().filter(|&idx| !self.enlisted[idx].is_ready).collect();
        // From the last to the first: dropping one moves those behind it.
        running.sort_unstable();
        running.dedup();
        let announced = running.iter().map(|&idx| self.enlisted[idx].lease.cancel.announce());
        let mut cancels: Vec<_> = announced.map(|cancel| Box::pin(cancel.send())).collect();
        self.database.counters.n_cancels.add(cancels.len() as u64);
        let send_all = async {
            for cancel in &mut cancels {
                cancel.await;
            }
        };
        let drain_at = Instant::now() + DRAIN_TIMEOUT;
        // A server that does not take the request will not answer either.
        let is_sent = tokio::time::timeout_at(drain_at.into(), send_all).await.is_ok();
        drop(cancels);
        for idx in running.into_iter().rev() {
            let drained =
                if is_sent { tokio::time::timeout_at(drain_at.into(), self.drain(idx)).await.is_ok_and(|ok| ok) } else { false };
            if !drained {
                self.drop_enlisted(idx);
            }
        }
    }

    /// Reads to the last ReadyForQuery that a backend owes.
    async fn drain(&mut self, idx: usize) -> bool {
        let enlisted = &mut self.enlisted[idx];
        loop {
            let Ok(header) = enlisted.lease.next_header().await else { return false };
            match (enlisted.take_answer(header), header.tag) {
                (Some(_), b'Z') => return true,
                // A server in COPY IN waits for data that will not come.
                (Some(_), b'G') => return false,
                _ => {}
            }
        }
    }
}

/// 57014 that names the shards that were late.
pub(super) fn timeout_failure(shards: &str) -> Failure {
    let report =
        Report::new(SqlState::QUERY_CANCELED, format!("canceling statement due to statement timeout on shard \"{shards}\""))
            .with_hint("See query.timeout and query.shard_timeout in the configuration.");
    Failure::statement(report, ErrorKind::ShardTimeout)
}
