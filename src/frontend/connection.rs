//! A client's connection while it is busy: the loop that takes its messages one batch at a time.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::gate::Gate;
use crate::executor::{Batch, Conversation, Failure};
use crate::observe::ClientState;
use crate::session::wire::{self, HEADER_LEN};
use crate::sqlstate::SqlState;

/// Messages of one batch beyond these bytes are run without waiting for the Sync.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// Longest message of all, with its tag: PQ_LARGE_MESSAGE_LIMIT in src/include/libpq/libpq.h.
const MAX_MESSAGE_LEN: usize = 0x3fff_ffff + 1;

/// Why a client is not busy any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// It has left.
    Left,
    /// It has been silent for a while, and its session can be folded.
    Silent,
}

/// What to do next with the client's input.
enum Next {
    /// A whole message that is run alone: Query, FunctionCall.
    Alone(u8, usize),
    /// One more message of a batch.
    Collect(u8, Range<usize>, usize),
    /// The end of a batch: Sync or Flush.
    End {
        has_sync: bool,
        len: usize,
    },
    /// To be thrown away: copy data after a COPY that has ended.
    Ignore(usize),
    Terminate,
    /// More input is needed.
    Wait,
}

/// What ends a wait between two messages.
enum Event {
    Input(std::io::Result<usize>),
    /// The client has been silent for a while.
    Silence,
    /// A backend of the client's own has spoken, or ended.
    News(Result<(), Failure>),
    /// The process ends, or the client was silent for too long.
    Ended(Failure),
}

/// Between what the client's next message is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Two statements. What the client's own backends say meanwhile is passed on; a client that is silent here may be folded.
    Statements,
    /// An error and the Sync up to which messages are thrown away. What backends say is passed on.
    Skipped,
    /// Two messages of a batch.
    Messages,
}

/// A token that ends every wait of the client's task.
pub(super) struct Signal<'p, 't> {
    token: &'t CancellationToken,
    wait: Pin<&'p mut WaitForCancellationFuture<'t>>,
    /// The task is woken when the token is cancelled: its waker stays the same.
    is_awaited: bool,
}

impl<'p, 't> Signal<'p, 't> {
    /// `wait` is the token's own.
    pub(super) fn new(token: &'t CancellationToken, wait: Pin<&'p mut WaitForCancellationFuture<'t>>) -> Self {
        Self { token, wait, is_awaited: false }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_awaited {
            return if self.token.is_cancelled() { Poll::Ready(()) } else { Poll::Pending };
        }
        self.is_awaited = true;
        self.wait.as_mut().poll(cx)
    }
}

/// The process ends: said to a client that is in no transaction, and to any once the grace time is over.
pub(super) fn shut_down() -> Failure {
    Failure::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

pub(super) struct Loop<'a> {
    pub conversation: &'a mut Conversation,
    pub gate: &'a Gate,
    pub max_message_len: usize,
}

impl Loop<'_> {
    /// Serves the client until it leaves or has been silent for a while.
    ///
    /// # Errors
    /// What ends the session.
    pub(super) async fn run(&mut self, is_draining: &mut Signal<'_, '_>) -> Result<Pause, Failure> {
        let closing = pin!(self.gate.closing.cancelled());
        let mut is_closing = Signal::new(&self.gate.closing, closing);
        let mut messages: Vec<(u8, Range<usize>)> = Vec::new();
        let mut batch_len = 0;
        let mut is_skipping = false;
        self.rest();
        loop {
            let next = match self.next(batch_len) {
                // What came before is answered first.
                Err(_) if !messages.is_empty() => {
                    is_skipping = !self.run_batch(&mut messages, &mut batch_len, 0, false).await?;
                    continue;
                }
                next => next?,
            };
            match next {
                // Copy data that came with its COPY.
                Next::Ignore(_) if !messages.is_empty() => {
                    is_skipping = !self.run_batch(&mut messages, &mut batch_len, 0, false).await?;
                }
                Next::Terminate => return Ok(Pause::Left),
                Next::Ignore(len) => drop(self.take(len)),
                Next::Collect(_, _, len) if is_skipping => drop(self.take(len)),
                Next::Collect(tag, body, len) => {
                    messages.push((tag, body));
                    batch_len += len;
                    if batch_len >= MAX_BATCH_BYTES {
                        is_skipping = !self.run_batch(&mut messages, &mut batch_len, 0, false).await?;
                    }
                }
                Next::End { has_sync: false, len } if is_skipping => drop(self.take(len)),
                Next::End { has_sync, len } => {
                    let went_on = self.run_batch(&mut messages, &mut batch_len, len, has_sync).await?;
                    is_skipping = !went_on;
                    if !has_sync {
                        self.conversation.client.flush().await?;
                    }
                }
                Next::Alone(..) if is_skipping => {
                    let Next::Alone(_, len) = self.next(batch_len)? else { continue };
                    drop(self.take(len));
                }
                Next::Alone(..) if !messages.is_empty() => {
                    is_skipping = !self.run_batch(&mut messages, &mut batch_len, 0, false).await?;
                }
                Next::Alone(tag, len) => self.run_alone(tag, len).await?,
                Next::Wait => {
                    let place = match messages.is_empty() {
                        false => Place::Messages,
                        true if is_skipping => Place::Skipped,
                        true => Place::Statements,
                    };
                    let pause = if place != Place::Messages && !self.conversation.is_in_transaction() {
                        self.wait(is_draining, place).await?
                    } else {
                        self.wait(&mut is_closing, place).await?
                    };
                    if let Some(pause) = pause {
                        return Ok(pause);
                    }
                }
            }
        }
    }

    /// Looks at the message after the first `offset` bytes of the input.
    fn next(&self, offset: usize) -> Result<Next, Failure> {
        let input = &self.conversation.client.input[offset..];
        // As Postgres, which logs "invalid message length" and closes: what follows cannot be understood.
        let invalid_length = || Failure::Client(std::io::Error::new(std::io::ErrorKind::InvalidData, "invalid message length"));
        let Some(header) = wire::header(input).map_err(|_| invalid_length())? else { return Ok(Next::Wait) };
        if !is_frontend_tag(header.tag) {
            let message = format!("invalid frontend message type {}", header.tag);
            return Err(Failure::fatal(SqlState::PROTOCOL_VIOLATION, message));
        }
        // Short messages have their own limit, PQ_SMALL_MESSAGE_LIMIT in src/include/libpq/libpq.h.
        let is_short = matches!(header.tag, b'S' | b'H' | b'X' | b'c' | b'C' | b'D' | b'E');
        if (is_short && header.len > 10_001) || header.len > MAX_MESSAGE_LEN {
            return Err(invalid_length());
        }
        if header.len > self.max_message_len {
            let message = format!("a message of {} bytes is longer than query.max_message_bytes", header.len);
            return Err(Failure::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
        }
        if input.len() < header.len {
            return Ok(Next::Wait);
        }
        Ok(match header.tag {
            b'S' if header.len > HEADER_LEN => Next::Alone(header.tag, header.len),
            b'Q' | b'F' => Next::Alone(header.tag, header.len),
            b'S' | b'H' => Next::End { has_sync: header.tag == b'S', len: header.len },
            b'X' => Next::Terminate,
            b'd' | b'c' | b'f' => Next::Ignore(header.len),
            tag => Next::Collect(tag, offset + HEADER_LEN..offset + header.len, header.len),
        })
    }

    /// Removes the first `len` bytes of the input.
    fn take(&mut self, len: usize) -> bytes::BytesMut {
        self.conversation.client.input.split_to(len)
    }

    async fn run_batch(
        &mut self,
        messages: &mut Vec<(u8, Range<usize>)>,
        batch_len: &mut usize,
        end_len: usize,
        has_sync: bool,
    ) -> Result<bool, Failure> {
        let bytes = self.take(*batch_len + end_len);
        *batch_len = 0;
        self.conversation.entry.enter(ClientState::Active);
        self.conversation.database.counters.n_bytes_from_clients.add(bytes.len() as u64);
        let mut batch = Batch { bytes, messages: std::mem::take(messages), has_sync };
        let outcome = self.conversation.extended(&mut batch).await;
        batch.messages.clear();
        *messages = batch.messages;
        self.rest();
        outcome
    }

    async fn run_alone(&mut self, tag: u8, len: usize) -> Result<(), Failure> {
        let message = self.take(len);
        self.conversation.entry.enter(ClientState::Active);
        self.conversation.database.counters.n_bytes_from_clients.add(message.len() as u64);
        if tag == b'Q' {
            let body = message.get(HEADER_LEN..).unwrap_or_default();
            match body.iter().position(|&byte| byte == 0) {
                Some(end) if end + 1 == body.len() => self.conversation.simple_query(&body[..end]).await?,
                Some(_) => Box::pin(self.conversation.refuse_malformed("invalid message format")).await?,
                None => Box::pin(self.conversation.refuse_malformed("invalid string in message")).await?,
            }
        } else if tag == b'S' {
            Box::pin(self.conversation.refuse_malformed("invalid message format")).await?;
        } else {
            let body = message.get(HEADER_LEN..).unwrap_or_default();
            Box::pin(self.conversation.function_call(body)).await?;
        }
        self.rest();
        Ok(())
    }

    fn rest(&mut self) {
        self.conversation.begin_rest();
        let state = if self.conversation.is_in_transaction() { ClientState::InTransaction } else { ClientState::Idle };
        self.conversation.entry.enter(state);
    }

    /// Sends what is to be sent and waits for input, or until `is_over`: then the client is told 57P01. Gives why the client is
    /// served no more, if it is not.
    async fn wait(&mut self, is_over: &mut Signal<'_, '_>, place: Place) -> Result<Option<Pause>, Failure> {
        let conversation = &mut *self.conversation;
        conversation.tell_late();
        loop {
            if !conversation.client.output.is_empty() {
                conversation.client.flush().await?;
            }
            conversation.client.shrink();
            let event = poll_fn(|cx| {
                if is_over.poll(cx).is_ready() {
                    return Poll::Ready(Event::Ended(shut_down()));
                }
                if place != Place::Messages
                    && let Poll::Ready(outcome) = conversation.poll_news(cx)
                {
                    return Poll::Ready(Event::News(outcome));
                }
                if let Poll::Ready(n_read) = conversation.client.poll_fill(cx) {
                    return Poll::Ready(Event::Input(n_read));
                }
                if place == Place::Statements && conversation.poll_silence(cx).is_ready() && conversation.can_fold() {
                    return Poll::Ready(Event::Silence);
                }
                conversation.poll_rest(cx).map(Event::Ended)
            })
            .await;
            match event {
                Event::Input(n_read) => return Ok(if n_read? == 0 { Some(Pause::Left) } else { None }),
                Event::Silence => return Ok(Some(Pause::Silent)),
                Event::News(outcome) => outcome?,
                Event::Ended(failure) => return Err(failure),
            }
        }
    }
}

fn is_frontend_tag(tag: u8) -> bool {
    matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' | b'X' | b'F' | b'd' | b'c' | b'f')
}
