//! COPY … FROM STDIN over several shards: rows are split by key, or go to every copy of a reference table.

use std::task::{Context, Waker};

use bytes::{Buf, BytesMut};

use super::Conversation;
use super::copy_in::{CopyInput, CopyWait, LATE, copy_input, late_within, message_len};
use super::enlist::Watched;
use super::failure::Failure;
use super::timer::WaitError;
use crate::backend::{ConnectionLost, OUTPUT_HIGH_WATER};
use crate::plan::{Access, CopyPlan, CopySplitter};
use crate::session::wire::{self, HEADER_LEN};
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardSet;

/// How the client's data ended.
enum Ended {
    Done,
    /// A shard has reported an error in the middle.
    ShardRefused,
}

impl Conversation {
    /// Runs a COPY … FROM STDIN over several shards in the open transaction.
    ///
    /// # Errors
    /// A row without a shard (23502, 22023), a shard's own error, 57014 for the client's CopyFail.
    pub(super) async fn copy_in_many(&mut self, sql: &[u8], plan: &CopyPlan) -> Result<(), Failure> {
        let idxs = self.start_copies(sql, plan.shards).await?;
        self.client.flush().await?;
        self.is_sync_spent = true;
        let outcome = match self.split_copy(plan, &idxs).await {
            Err(end @ (Failure::Fatal(_) | Failure::Ended | Failure::Client(_))) => return Err(end),
            outcome => outcome,
        };
        // A connection that was lost is held no more, and the others have moved.
        let idxs: Vec<usize> =
            (0..self.enlisted.len()).filter(|&idx| plan.shards.contains(self.enlisted[idx].lease.shard)).collect();
        for &idx in &idxs {
            let output = &mut self.enlisted[idx].lease.socket.output;
            match &outcome {
                Ok(Ended::Done) => wire::bare(output, b'c'),
                Ok(Ended::ShardRefused) | Err(_) => wire::copy_fail(output, "other rows of the COPY failed"),
            }
            // A broken connection is found by the read that follows.
            drop(self.flush_backend(idx).await);
        }
        self.restart_deadline();
        let counts = self.read_counts(&idxs).await;
        outcome?;
        let counts = counts?;
        let n_rows = if plan.split.is_some() { counts.iter().sum() } else { self.same_count(&counts)? };
        wire::command_complete(&mut self.client.output, format!("COPY {n_rows}").as_bytes());
        Ok(())
    }

    /// Sends the COPY to every shard and waits until all are ready for data; the client gets the first one's CopyInResponse.
    async fn start_copies(&mut self, sql: &[u8], shards: ShardSet) -> Result<Vec<usize>, Failure> {
        let mut idxs = Vec::new();
        for shard in shards.iter() {
            idxs.push(self.enlist(shard, Access::Write).await?);
        }
        for &idx in &idxs {
            self.enlisted[idx].begin_statement().write_query(sql);
            if let Err(error) = self.flush_backend(idx).await {
                return Err(self.abandon(idx, error.into()).await);
            }
        }
        let mut responses = Vec::new();
        for &idx in &idxs {
            match self.await_copy_response(idx).await {
                Ok(response) => responses.push(response),
                Err(failure) => {
                    self.give_up_copies().await;
                    return Err(failure);
                }
            }
        }
        self.client.output.extend_from_slice(responses.first().map_or(&[][..], |response| response));
        Ok(idxs)
    }

    /// Tells shards that wait for data that none will come.
    async fn give_up_copies(&mut self) {
        for idx in (0..self.enlisted.len()).rev() {
            // Each that is lost takes others with it.
            let Some(held) = self.enlisted.get_mut(idx).filter(|held| !held.is_ready) else { continue };
            wire::copy_fail(&mut held.lease.socket.output, "another shard refused the COPY");
            drop(self.flush_backend(idx).await);
            // The error that comes for it is of our own making.
            drop(self.read_counts(&[idx]).await);
        }
    }

    async fn await_copy_response(&mut self, idx: usize) -> Result<BytesMut, Failure> {
        let mut failure = None;
        loop {
            let (tag, message) = self.next_message(idx, Watched::Client).await?;
            match tag {
                b'G' => return Ok(message),
                b'E' => failure = Some(self.shard_error(idx, &message)),
                b'Z' => {
                    let unexpected = WaitError::Lost(ConnectionLost("unexpected answer to COPY".to_owned()));
                    return Err(match failure {
                        Some(failure) => failure,
                        None => self.abandon(idx, unexpected).await,
                    });
                }
                _ => {}
            }
        }
    }

    /// Takes the client's data apart until CopyDone. Holds one unfinished row and a high-water mark of output per shard.
    async fn split_copy(&mut self, plan: &CopyPlan, idxs: &[usize]) -> Result<Ended, Failure> {
        let mut splitter = plan.split.as_ref().map(|split| CopySplitter::new(split, &self.plan_settings, self.now_micros));
        let mut rows = vec![BytesMut::new(); self.view.topology.shards.len()];
        let mut n_passing = 0;
        let outcome = self.split_messages(plan, idxs, (&mut splitter, &mut rows), &mut n_passing).await;
        if !matches!(outcome, Ok(Ended::Done) | Err(Failure::Fatal(_))) {
            self.discard_copy_data(n_passing).await?;
        }
        outcome
    }

    async fn split_messages(
        &mut self,
        plan: &CopyPlan,
        idxs: &[usize],
        (splitter, rows): (&mut Option<CopySplitter>, &mut Vec<BytesMut>),
        n_passing: &mut usize,
    ) -> Result<Ended, Failure> {
        loop {
            match copy_input(&self.client.input, *n_passing)? {
                CopyInput::Data(n) => {
                    let is_new = *n_passing == 0;
                    let whole = if is_new { message_len(&self.client.input) } else { *n_passing };
                    let chunk = self.client.input.split_to(n);
                    *n_passing = whole - n;
                    let payload = if is_new { chunk.get(HEADER_LEN..).unwrap_or_default() } else { &chunk };
                    self.place_rows(splitter.as_mut(), payload, plan.shards, rows)?;
                }
                CopyInput::Done(n) => {
                    self.client.input.advance(n);
                    if let Some(splitter) = splitter {
                        splitter.finish(rows).map_err(Failure::client)?;
                    }
                    self.stage(idxs, rows);
                    return Ok(Ended::Done);
                }
                CopyInput::Foreign(tag) => return Err(self.copy_broken(tag)),
                CopyInput::Fail(n) => {
                    let message = self.client.input.split_to(n);
                    return Err(copy_failed(&message));
                }
                CopyInput::Ignored(n) => self.client.input.advance(n),
                CopyInput::Incomplete => {
                    let Some(&first) = idxs.first() else { return Ok(Ended::Done) };
                    // A shard that answers now has failed; the deadline of the statement bounds a client that sends nothing.
                    match self.wait_for_copy(first).await? {
                        CopyWait::GoOn => {}
                        CopyWait::Refused => return Ok(Ended::ShardRefused),
                        CopyWait::Late if *n_passing > 0 => return Err(late_within()),
                        CopyWait::Late => {
                            wire::copy_fail(&mut self.enlisted[first].lease.socket.output, LATE);
                            return Ok(Ended::ShardRefused);
                        }
                    }
                }
            }
            if !self.flush_full(idxs, rows).await? {
                return Ok(Ended::ShardRefused);
            }
        }
    }

    fn place_rows(
        &mut self,
        splitter: Option<&mut CopySplitter>,
        payload: &[u8],
        shards: ShardSet,
        rows: &mut [BytesMut],
    ) -> Result<(), Failure> {
        match splitter {
            Some(splitter) => splitter.push(payload, rows).map_err(Failure::client),
            None => {
                for shard in shards.iter() {
                    rows[shard.index()].extend_from_slice(payload);
                }
                Ok(())
            }
        }
    }

    /// Moves split rows into the outputs of their backends.
    fn stage(&mut self, idxs: &[usize], rows: &mut [BytesMut]) {
        for &idx in idxs {
            let lease = &mut self.enlisted[idx].lease;
            let rows = &mut rows[lease.shard.index()];
            if !rows.is_empty() {
                wire::copy_data(&mut lease.socket.output, rows);
                rows.clear();
            }
        }
    }

    /// Sends rows on once some shard has enough of them. False when a shard has answered: with an error.
    async fn flush_full(&mut self, idxs: &[usize], rows: &mut [BytesMut]) -> Result<bool, Failure> {
        if rows.iter().all(|rows| rows.len() < OUTPUT_HIGH_WATER) {
            return Ok(true);
        }
        self.stage(idxs, rows);
        for &idx in idxs {
            if let Err(error) = self.flush_backend(idx).await {
                return Err(self.abandon(idx, error.into()).await);
            }
            let socket = &mut self.enlisted[idx].lease.socket;
            if socket.poll_fill(&mut Context::from_waker(Waker::noop())).is_ready() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The error for CopyFail.
fn copy_failed(message: &[u8]) -> Failure {
    let text = message.get(HEADER_LEN..message.len() - 1).unwrap_or_default();
    let text = format!("COPY from stdin failed: {}", String::from_utf8_lossy(text));
    Failure::client(Report::new(SqlState::QUERY_CANCELED, text))
}
