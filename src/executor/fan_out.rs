//! Statements on several shards at once: written to all before any is read, one deadline, first error ends it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};

use super::Conversation;
use super::failure::{Failure, client_left};
use super::timer::WaitError;
use crate::backend::ConnectionLost;
use crate::deadline::Deadline;
use crate::plan::Access;
use crate::session::row_description::format_of;
use crate::session::wire::{self, HEADER_LEN, Header};
use crate::sql::ParamFormat;
use crate::sqlstate::SqlState;
use crate::topology::{ShardId, TypeOid};

/// Bytes of rows that one shard may have waiting in the proxy before its socket is left unread.
const MAX_BUFFERED_PER_SHARD: usize = 128 * 1024;

/// The parameters' formats, one for each, and their values.
pub(super) type BoundParams<'a> = (Vec<ParamFormat>, Vec<Option<&'a [u8]>>);

/// What is bound besides the text: encoded once, sent to every shard.
#[derive(Debug, Clone, Default)]
pub(super) struct BoundValues {
    /// Explicit types for a text that was rewritten: a parameter that lost its use would have none.
    pub param_types: Vec<u32>,
    /// Bind's formats and values, as the client encoded them.
    pub encoded: Bytes,
    /// Bind's result formats as the client sent them.
    pub result_formats: Vec<i16>,
    /// The types of the columns that a Describe has told the client, or would have; `None` where rows come with their description.
    pub told: Option<Vec<TypeOid>>,
}

impl BoundValues {
    /// No parameters, everything in text: a simple query.
    pub(super) fn none() -> Self {
        Self { encoded: Bytes::from_static(&[0, 0, 0, 0]), ..Self::default() }
    }

    /// Whether there are parameters.
    pub(super) fn has_values(&self) -> bool {
        self.encoded.get(2..) != Some(&[0, 0]) && !self.encoded.is_empty()
    }

    /// The parameters; `None` when the bytes are malformed.
    pub(super) fn params(&self) -> Option<BoundParams<'_>> {
        let mut reader = wire::BodyReader(&self.encoded);
        let n_formats = reader.u16()?;
        let formats = (0..n_formats).map(|_| reader.i16()).collect::<Option<Vec<_>>>()?;
        let n_values = reader.u16()?;
        let mut values = Vec::new();
        for _ in 0..n_values {
            // A negative length is NULL.
            values.push(match usize::try_from(reader.i32()?) {
                Ok(len) => Some(reader.bytes(len)?),
                Err(_) => None,
            });
        }
        let format = |idx| if format_of(&formats, idx) == 1 { ParamFormat::Binary } else { ParamFormat::Text };
        Some(((0..values.len()).map(format).collect(), values))
    }

    /// The tail of a Bind message with these result formats.
    pub(super) fn bind_tail(&self, result_formats: &[i16]) -> BytesMut {
        let mut tail = BytesMut::from(&self.encoded[..]);
        tail.put_i16(i16::try_from(result_formats.len()).unwrap_or(i16::MAX));
        for format in result_formats {
            tail.put_i16(*format);
        }
        tail
    }
}

/// Whether an error may come of a description that holds no longer: a protocol error, a binary value that cannot be read, or a name
/// that is not there.
fn may_be_outdated(message: &[u8]) -> bool {
    let code = wire::report_field(message.get(HEADER_LEN..).unwrap_or_default(), b'C').unwrap_or_default();
    code.starts_with(b"08P") || code.starts_with(b"22P") || code.starts_with(b"42")
}

/// The tag of the first message that tells what has become of a statement: a row, the end or an error. Before its answer come
/// `n_skipped` others, up to their ReadyForQuery.
fn outcome_tag(mut answer: &[u8], mut n_skipped: usize) -> Option<u8> {
    loop {
        let header = wire::header(answer).ok()??;
        match header.tag {
            b'Z' if n_skipped > 0 => n_skipped -= 1,
            _ if n_skipped > 0 => {}
            b'D' | b'C' | b'I' | b'E' | b'Z' => return Some(header.tag),
            _ => {}
        }
        answer = answer.get(header.len..)?;
    }
}

impl Conversation {
    /// Runs one text on each shard by the extended protocol: writes to all, reads from none.
    ///
    /// What changes rows of several shards has run on the first of them before the others are asked. Two clients that change the
    /// same rows then meet there, and the one that came later waits; else each could have its rows of one shard and wait for the
    /// other's of another, and no server would see that deadlock.
    ///
    /// Returns the backends' indexes, in the order of `statements`.
    pub(super) async fn fan_out(
        &mut self,
        statements: &[(ShardId, &str)],
        access: Access,
        values: &BoundValues,
        result_formats: &[i16],
    ) -> Result<Vec<usize>, Failure> {
        let shard_deadline = Deadline::after(Instant::now(), self.database.query.shard_timeout);
        self.timer.limit(shard_deadline);
        let mut idxs = Vec::with_capacity(statements.len());
        for (shard, _) in statements {
            self.check_parameter_types(*shard, &values.param_types).await?;
            idxs.push(self.enlist(*shard, access).await?);
        }
        self.cancel.check()?;
        if let Some(watch) = &mut self.watch {
            watch.note_request();
        }
        self.expected_columns = None;
        let tail = values.bind_tail(result_formats);
        let mut asked: Vec<_> = idxs.iter().copied().zip(statements).collect();
        let is_first_alone = access == Access::Write && asked.len() > 1;
        if is_first_alone {
            asked.sort_by_key(|(_, (shard, _))| *shard);
        }
        for (n_asked, (idx, (shard, text))) in asked.into_iter().enumerate() {
            let param_types = self.parameter_types(*shard, &values.param_types);
            let connection = self.enlisted[idx].begin_statement();
            connection.unnamed = None;
            let output = &mut connection.socket.output;
            wire::parse(output, b"", text.as_bytes(), &param_types);
            wire::bind(output, b"", b"", &tail);
            wire::describe_or_close(output, b'D', b'P', b"");
            wire::execute(output, b"", 0);
            wire::bare(output, b'S');
            self.send_of(&idxs, idx).await?;
            if is_first_alone && n_asked == 0 {
                self.wait_for_outcome(&idxs, idx).await?;
            }
        }
        Ok(idxs)
    }

    /// Waits until a backend has run its statement, whose answer is then still to be read: rows of RETURNING are not sent before
    /// the last is there (src/backend/tcop/pquery.c, `PortalRun`).
    ///
    /// # Errors
    /// The statement's.
    async fn wait_for_outcome(&mut self, idxs: &[usize], idx: usize) -> Result<(), Failure> {
        loop {
            let held = &self.enlisted[idx];
            match outcome_tag(&held.lease.socket.input, held.n_skipped_cycles) {
                Some(b'E') => break,
                Some(_) => return Ok(()),
                None => self.fill_any(idxs, idx).await?,
            }
        }
        loop {
            let (tag, message) = self.next_answer_of(idxs, idx).await?;
            if tag == b'E' {
                return Err(self.shard_failed(idxs, idx, &message).await);
            }
        }
    }

    /// Sends what was written to backend `idx`.
    pub(super) async fn send_of(&mut self, idxs: &[usize], idx: usize) -> Result<(), Failure> {
        match self.timer.send(&mut self.enlisted[idx].lease).await {
            Ok(()) => Ok(()),
            Err(error) if self.goes_on_without(idxs, idx, &error) => Ok(()),
            Err(error) => Err(self.end_fan_out(idxs, idx, error).await),
        }
    }

    /// Waits until a whole message of backend `idx` is there, while the others' buffers fill up to their limit.
    ///
    /// # Errors
    /// The statement's end: a lost connection, the deadline, or another shard's error.
    pub(super) async fn next_of(&mut self, idxs: &[usize], idx: usize) -> Result<Header, Failure> {
        loop {
            match self.enlisted[idx].lease.buffered_header() {
                Ok(Some(header)) => return Ok(header),
                Ok(None) => {}
                Err(lost) => return Err(self.end_fan_out(idxs, idx, lost.into()).await),
            }
            self.fill_any(idxs, idx).await?;
        }
    }

    /// The next message of backend `idx`'s answer, as [`Self::next_answer_of`] gives it; `None` once it is ready, or its shard is
    /// left out of the answer.
    pub(super) async fn next_answer_if_any(&mut self, idxs: &[usize], idx: usize) -> Result<Option<(u8, BytesMut)>, Failure> {
        loop {
            if self.enlisted[idx].is_ready {
                return Ok(None);
            }
            if let Ok(None) = self.enlisted[idx].lease.buffered_header() {
                self.fill_any(idxs, idx).await?;
                continue;
            }
            return self.next_answer_of(idxs, idx).await.map(Some);
        }
    }

    /// The next message of backend `idx`'s answer, with its tag: see [`super::enlist::Enlisted::take_answer`].
    pub(super) async fn next_answer_of(&mut self, idxs: &[usize], idx: usize) -> Result<(u8, BytesMut), Failure> {
        loop {
            let header = self.next_of(idxs, idx).await?;
            if let Some(mut message) = self.enlisted[idx].take_answer(header) {
                if header.tag == b'2' {
                    self.unbound = None;
                }
                self.translate(idx, header.tag, &mut message).await;
                return Ok((header.tag, message));
            }
        }
    }

    /// Reads from any of the backends that has room; `wanted` has room always.
    pub(super) async fn fill_any(&mut self, idxs: &[usize], wanted: usize) -> Result<(), Failure> {
        let Self { client, enlisted, timer, .. } = self;
        let outcome = poll_fn(|cx| {
            for &idx in idxs {
                let is_ready = enlisted[idx].is_ready;
                let connection = &mut *enlisted[idx].lease;
                let has_room = idx == wanted || connection.socket.input.len() < MAX_BUFFERED_PER_SHARD;
                if !is_ready
                    && has_room
                    && let Poll::Ready(outcome) = connection.socket.poll_fill(cx)
                {
                    return Poll::Ready((idx, outcome.map_err(WaitError::from)));
                }
            }
            timer.poll_watching(client, cx).map(|error| (wanted, Err(error)))
        })
        .await;
        let failed = match outcome {
            (_, Ok(n)) if n > 0 => {
                let (idx, _) = outcome;
                return self.check_other(idxs, idx, wanted).await;
            }
            (idx, Ok(_)) => (idx, ConnectionLost("server closed the connection unexpectedly".to_owned()).into()),
            (idx, Err(error)) => (idx, error),
        };
        if self.goes_on_without(idxs, failed.0, &failed.1) {
            return Ok(());
        }
        Err(self.end_fan_out(idxs, failed.0, failed.1).await)
    }

    /// Ends the statement if a shard that nobody waits for has reported an error.
    async fn check_other(&mut self, idxs: &[usize], idx: usize, wanted: usize) -> Result<(), Failure> {
        let held = &self.enlisted[idx];
        if idx == wanted || held.n_skipped_cycles > 0 {
            return Ok(());
        }
        match held.lease.buffered_header() {
            Ok(Some(header)) if header.tag == b'E' => {
                let message = self.enlisted[idx].take_answer(header).unwrap_or_default();
                self.take_error(idxs, idx, &message).await
            }
            _ => Ok(()),
        }
    }

    /// One shard's ErrorResponse as the statement's failure, with the shard's name as context.
    pub(super) fn shard_error(&self, idx: usize, message: &[u8]) -> Failure {
        let context = format!("shard \"{}\"", self.shard_name(idx));
        if may_be_outdated(message) {
            self.forget_descriptions();
        }
        let mut encoded = BytesMut::new();
        wire::report_with_context(&mut encoded, b'E', message.get(HEADER_LEN..).unwrap_or_default(), &context);
        Failure::Shard(encoded)
    }

    /// Ends a fan-out because of one shard's error: the others are cancelled, all are read to their end.
    pub(super) async fn shard_failed(&mut self, idxs: &[usize], idx: usize, message: &[u8]) -> Failure {
        let failure = self.shard_error(idx, message);
        self.cancel_and_drain(idxs).await;
        failure
    }

    /// Ends a fan-out because a connection was lost, the deadline has passed, or it is in a deadlock.
    async fn end_fan_out(&mut self, idxs: &[usize], idx: usize, error: WaitError) -> Failure {
        let late: Vec<&str> = idxs.iter().filter(|&&i| !self.enlisted[i].is_ready).map(|&i| self.shard_name(i)).collect();
        let late = late.join("\", \"");
        let is_late = matches!(error, WaitError::DeadlinePassed | WaitError::Deadlock(_));
        let failed_shard = self.enlisted[idx].lease.shard;
        let failure = match error {
            WaitError::DeadlinePassed => super::enlist::timeout_failure(&late),
            // What runs is cancelled when the session ends.
            WaitError::ClientLeft => return client_left(),
            WaitError::Deadlock(report) => Failure::deadlock(report),
            lost @ WaitError::Lost(_) => self.abandon(idx, lost).await,
        };
        let shards: Vec<usize> =
            (0..self.enlisted.len()).filter(|&i| is_late || self.enlisted[i].lease.shard != failed_shard).collect();
        self.cancel_and_drain(&shards).await;
        failure
    }

    /// Reads the answers of statements that return no rows, up to every ReadyForQuery, and gives the counts of their tags.
    ///
    /// # Errors
    /// The first shard error; one that our own cancel or CopyFail caused only if there is no other.
    pub(super) async fn read_counts(&mut self, idxs: &[usize]) -> Result<Vec<u64>, Failure> {
        let mut counts = Vec::with_capacity(idxs.len());
        let mut failures: Vec<(bool, Failure)> = Vec::new();
        for &idx in idxs {
            let mut count = 0;
            loop {
                let (tag, message) = self.next_answer_of(idxs, idx).await?;
                match tag {
                    b'Z' => break,
                    b'T' if self.expected_columns.is_some() => self.check_described(idxs, &message).await?,
                    b'C' => count = wire::tag_count(&message[HEADER_LEN..]).unwrap_or(0),
                    b'E' => {
                        let code = wire::report_field(&message[HEADER_LEN..], b'C').unwrap_or_default();
                        failures.push((code == SqlState::QUERY_CANCELED.0, self.shard_error(idx, &message)));
                    }
                    _ => {}
                }
            }
            counts.push(count);
        }
        failures.sort_by_key(|(is_cancel, _)| *is_cancel);
        match failures.into_iter().next() {
            Some((_, failure)) => Err(failure),
            None => Ok(counts),
        }
    }
}
