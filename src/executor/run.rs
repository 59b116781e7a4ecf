//! A run: messages of the extended protocol for one backend, closed by a Sync of the proxy's own, and what its answer says.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Conversation;
use super::batch::SessionStatement;
use super::commit::Answer;
use super::enlist::{Part, Watched};
use super::failure::Failure;
use super::relay::{Mark, Ready, Retry, ServerError};
use crate::backend::Preparation;
use crate::observe::{Route, StatementTimer};
use crate::session::prepared::Prepared;
use crate::session::set_config::SettingChange;
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire;
use crate::topology::ShardId;

/// A statement name that no backend ever has: its Close is answered by CloseComplete.
pub(super) const NO_STATEMENT: &[u8] = b"trunkline_none";

/// Messages that one backend has been sent, or will be with the next flush.
#[derive(Debug)]
pub(super) struct Run {
    pub shard: ShardId,
    marks: VecDeque<Mark>,
    n_marks: usize,
    /// Statements that the backend parses in this run: the index of their mark, their id, and whose Close stands before it.
    parsed: Vec<(usize, u64, Option<u64>)>,
    /// Names that the client gives or frees in this run.
    named: Vec<Named>,
    /// Something whose answer is no mark was written after the last mark: Bind, Describe, Execute.
    pub has_unmarked: bool,
    pub leftover: Leftover,
    /// Settings that its statements change by `set_config`.
    pub changes: Vec<SettingChange>,
    pub is_empty: bool,
}

/// A Parse or Close of the client's in a run.
#[derive(Debug)]
struct Named {
    mark_idx: usize,
    name: Bytes,
    /// What the name stood for.
    previous: Option<SessionStatement>,
    /// Right behind the mark before it: if that one is answered and this is not, this itself has failed.
    is_next: bool,
}

impl Run {
    pub(super) fn new(shard: ShardId, leftover: Leftover) -> Self {
        Self {
            shard,
            marks: VecDeque::new(),
            n_marks: 0,
            parsed: Vec::new(),
            named: Vec::new(),
            has_unmarked: false,
            leftover,
            changes: Vec::new(),
            is_empty: true,
        }
    }

    pub(super) fn push(&mut self, mark: Mark) {
        self.push_all(mark, 1);
    }

    fn push_all(&mut self, mark: Mark, n: usize) {
        self.marks.extend(std::iter::repeat_n(mark, n));
        self.n_marks += n;
        self.has_unmarked &= n == 0;
    }

    /// To be called right before the mark is pushed.
    pub(super) fn note_name(&mut self, name: Bytes, previous: Option<SessionStatement>) {
        self.named.push(Named { mark_idx: self.n_marks, name, previous, is_next: !self.has_unmarked });
    }
}

impl Conversation {
    /// Writes a Parse of the client's, or what is answered as one.
    pub(super) fn write_parse(
        &mut self,
        idx: usize,
        run: &mut Run,
        name: Bytes,
        (statement, previous): (&SessionStatement, Option<SessionStatement>),
    ) {
        let prepared = &statement.prepared;
        let connection = &mut self.enlisted[idx].lease;
        let types = self.view.types.of(connection.shard);
        if name.is_empty() {
            connection.prepare_unnamed(prepared, types);
        } else {
            let Preparation::Parsed { displaced } = connection.prepare(prepared, types) else {
                // The backend has it: its ParseComplete comes from us, in its place.
                if run.is_empty {
                    wire::bare(&mut self.client.output, b'1');
                } else {
                    run.note_name(name, previous);
                    run.push(Mark::AsParseComplete);
                    wire::describe_or_close(&mut connection.socket.output, b'C', b'S', NO_STATEMENT);
                }
                return;
            };
            run.push_all(Mark::Swallow, usize::from(displaced.is_some()));
            run.parsed.push((run.n_marks, prepared.id, displaced));
        }
        run.note_name(name, previous);
        run.push(Mark::Relay);
    }

    /// Makes sure that a backend has a statement, under the name that it has there.
    pub(super) fn ensure_parsed<'a>(&mut self, idx: usize, run: &mut Run, is_named: bool, prepared: &'a Prepared) -> &'a str {
        let connection = &mut self.enlisted[idx].lease;
        let types = self.view.types.of(connection.shard);
        if is_named {
            if let Preparation::Parsed { displaced } = connection.prepare(prepared, types) {
                run.push_all(Mark::Swallow, usize::from(displaced.is_some()));
                run.parsed.push((run.n_marks, prepared.id, displaced));
                run.push(Mark::Swallow);
            }
            return &prepared.server_name;
        }
        if connection.unnamed != Some(prepared.id) {
            connection.prepare_unnamed(prepared, types);
            run.push(Mark::Swallow);
        }
        ""
    }

    /// Sends a run with its Sync and relays the answer. True if the answer's ReadyForQuery was handled as `ready` says.
    pub(super) async fn finish_run(&mut self, run: &mut Run, ready: Ready) -> Result<bool, Failure> {
        let mut timer = StatementTimer::start(self.database.counters.clone(), Route::Single, self.began);
        let Some(idx) = self.index_of(run.shard) else { return Ok(false) };
        let socket = &mut self.enlisted[idx].lease.socket;
        wire::bare(&mut socket.output, b'S');
        let relayed = match self.relay(idx, &mut run.marks, ready, true).await {
            Ok(relayed) => relayed,
            Err(failure) => {
                self.skip_names(run);
                return Err(failure);
            }
        };
        if relayed.error.is_some() {
            self.forget_unparsed(idx, run);
            if relayed.retry == Retry::Needed {
                // Nothing of the run has happened to the client.
                self.skipped.extend(run.named.drain(..).map(|named| (named.name, named.previous)));
                Box::pin(self.clear_stale(idx, true)).await?;
                return Err(Failure::StalePlan);
            }
            self.skip_names(run);
        }
        self.retry = Retry::No;
        if relayed.error == Some(ServerError::StalePlan) {
            Box::pin(self.clear_stale(idx, false)).await?;
        }
        let has_error = relayed.error.is_some();
        if !has_error {
            self.follow_settings(idx, &run.changes).await;
        }
        self.after_relay(idx, &relayed, run.leftover).await?;
        timer.ended = self.released_at.take();
        if self.transaction.phase == Phase::Idle {
            self.portals.clear();
        }
        self.is_sync_spent |= relayed.has_copied_in;
        if has_error && ready == Ready::Relay && !relayed.has_copied_in {
            self.restore_skipped();
        }
        if has_error && (ready == Ready::Swallow || relayed.has_copied_in) {
            return Err(Failure::Reported);
        }
        Ok(!relayed.has_copied_in)
    }

    /// Has a backend close all its prepared statements, of which one was made before its columns changed. Where the run is to
    /// be done again, the backend leaves the transaction, to join it anew.
    async fn clear_stale(&mut self, idx: usize, is_again: bool) -> Result<(), Failure> {
        self.database.note_schema_change();
        let connection = self.enlisted[idx].begin_statement();
        connection.close_prepared();
        wire::bare(&mut connection.socket.output, b'S');
        if let Err(error) = self.timer.send(&mut self.enlisted[idx].lease).await {
            return Err(self.abandon(idx, error).await);
        }
        while self.next_message(idx, Watched::Nobody).await?.0 != b'Z' {}
        if is_again && self.transaction.phase != Phase::Idle {
            match self.tell(idx, "ROLLBACK").await {
                Answer::Tag(_) => self.enlisted[idx].part = Part::Outside,
                Answer::Error(failure) | Answer::Lost(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// After an error: the backend has not parsed what it has not answered, nor closed what had to go for it.
    fn forget_unparsed(&mut self, idx: usize, run: &Run) {
        let n_answered = run.n_marks - run.marks.len();
        let Some(enlisted) = self.enlisted.get_mut(idx) else { return };
        enlisted.lease.unnamed = None;
        for (mark, id, displaced) in run.parsed.iter().filter(|(mark, ..)| *mark >= n_answered) {
            enlisted.lease.prepared.remove(*id);
            if let Some(displaced) = displaced.filter(|_| *mark > n_answered) {
                enlisted.lease.prepared.restore(displaced);
            }
        }
    }

    /// After an error: names whose Parse or Close was not answered are to be given back.
    fn skip_names(&mut self, run: &mut Run) {
        let n_answered = run.n_marks - run.marks.len();
        for named in run.named.drain(..).filter(|named| named.mark_idx >= n_answered) {
            // A Parse that failed itself has ended the unnamed statement all the same.
            let has_ended = named.name.is_empty() && named.is_next && named.mark_idx == n_answered;
            self.skipped.push((named.name, named.previous.filter(|_| !has_ended)));
        }
    }
}
