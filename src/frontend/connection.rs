//! A client's connection: the loop that takes its messages one batch at a time.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::gate::Gate;
use super::peer::Peer;
use super::startup::{Arrival, authenticate, open_session, read_startup, register, say_end};
use crate::backend::{Socket, Stream};
use crate::executor::{Batch, Conversation, Failure};
use crate::observe::{ClientEntry, ClientState, ErrorKind};
use crate::session::wire::{self, HEADER_LEN, Severity};
use crate::sqlstate::{Report, SqlState};

/// Messages of one batch beyond these bytes are run without waiting for the Sync.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// Longest wait for a client to take the word that there is no place for it.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest message of all, with its tag: PQ_LARGE_MESSAGE_LIMIT in src/include/libpq/libpq.h.
const MAX_MESSAGE_LEN: usize = 0x3fff_ffff + 1;

/// Serves one accepted socket until it is closed.
pub async fn serve(stream: Stream, peer: Peer, worker_idx: usize, gate: Arc<Gate>) {
    gate.registry.process.n_accepted.increment();
    let config = Arc::clone(&gate.served().config);
    if let Err(error) = stream.tune(&config.server.tcp) {
        tracing::info!(%error, "a client left while it was let in");
        return;
    }
    let mut socket = Socket::new(stream);
    let handshake = match gate.places.begin_handshake(&config.server) {
        Ok(handshake) => handshake,
        Err(report) => return turn_away(&mut socket, report, &gate).await,
    };
    let mut arrival = Arrival { socket: Some(socket), peer };
    let deadline = Instant::now() + config.server.login_timeout;
    let Ok(outcome) = timeout_at(deadline.into(), Box::pin(read_startup(&mut arrival, &gate))).await else { return };
    let Arrival { socket: Some(mut socket), peer } = arrival else { return };
    socket.limit_writes(config.server.client_write_timeout);
    let startup = match outcome {
        Ok(startup) => startup,
        Err(end) => return say_end(&mut socket, end).await,
    };
    let _place = match gate.places.enter(&config.server) {
        Ok(place) => place,
        Err(report) => return turn_away(&mut socket, report, &gate).await,
    };
    let entry = register(&startup, &socket, &peer, &gate);
    let registered = Registered { gate: &gate, entry: Arc::clone(&entry) };
    let mut own_place = None;
    let login = async {
        match authenticate(&mut socket, &startup, &peer, &gate).await {
            Ok(identity) => match gate.places.enter_as(&startup.user, &startup.database, &config.server) {
                Ok(place) => {
                    own_place = Some(place);
                    open_session(socket, &startup, identity, &gate, entry).await
                }
                Err(report) => {
                    gate.registry.process.n_turned_away.increment();
                    Err((socket, report.into()))
                }
            },
            Err(end) => Err((socket, end)),
        }
    };
    let login_outcome = timeout_at(deadline.into(), Box::pin(login)).await;
    drop(handshake);
    if !matches!(login_outcome, Ok(Ok(_))) {
        gate.registry.process.n_login_failures.increment();
    }
    match login_outcome {
        Ok(Ok((mut conversation, process_id))) => {
            conversation.worker_idx = worker_idx;
            conversation.set_half_closed_grace(config.server.half_closed_grace);
            let max_message_len = conversation.database.query.max_message_bytes;
            let outcome = Loop { conversation: &mut conversation, gate: &gate, max_message_len }.run().await;
            gate.cancels.remove(process_id);
            Box::pin(end_session(conversation, outcome)).await;
        }
        Ok(Err((mut socket, end))) => say_end(&mut socket, end).await,
        // As Postgres after authentication_timeout: the socket is closed.
        Err(_) => {}
    }
    drop((registered, own_place));
}

/// Says that there is no place. Whoever does not read it in time is not waited for.
async fn turn_away(socket: &mut Socket, report: Report, gate: &Gate) {
    gate.registry.process.n_turned_away.increment();
    drop(tokio::time::timeout(TURN_AWAY_TIMEOUT, say_end(socket, report.into())).await);
}

/// Takes the client out of the registry when its task ends, however it ends.
struct Registered<'a> {
    gate: &'a Gate,
    entry: Arc<ClientEntry>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.gate.registry.remove_client(self.entry.id);
    }
}

async fn end_session(mut conversation: Conversation, outcome: Result<(), Failure>) {
    if let Err(Failure::Client(error)) = &outcome {
        tracing::info!(client = conversation.entry.id, %error, "a client's connection broke");
    }
    let is_broken = matches!(&outcome, Err(Failure::Client(_)));
    if let Err(Failure::Fatal(report)) = outcome {
        conversation.database.counters.count_error(ErrorKind::Client);
        wire::report(&mut conversation.client.output, Severity::Fatal, &report);
    }
    // What the socket takes at once is sent at once; whoever does not read must not keep the servers' connections for it.
    let client = &mut conversation.client;
    let is_sent = poll_fn(|cx| Poll::Ready(client.poll_flush(cx).is_ready())).await || is_broken;
    conversation.close().await;
    if !is_sent {
        // The peer may be gone.
        drop(conversation.client.flush().await);
    }
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
    /// A backend of the client's own has spoken, or ended.
    News(Result<(), Failure>),
    /// The process ends, or the client was silent for too long.
    Ended(Failure),
}

/// A token that ends every wait of the client's task.
struct Signal<'p, 't> {
    token: &'t CancellationToken,
    wait: Pin<&'p mut WaitForCancellationFuture<'t>>,
    /// The task is woken when the token is cancelled: its waker stays the same.
    is_awaited: bool,
}

impl Signal<'_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_awaited {
            return if self.token.is_cancelled() { Poll::Ready(()) } else { Poll::Pending };
        }
        self.is_awaited = true;
        self.wait.as_mut().poll(cx)
    }
}

struct Loop<'a> {
    conversation: &'a mut Conversation,
    gate: &'a Gate,
    max_message_len: usize,
}

impl Loop<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let draining = self.gate.draining.clone();
        let closing = self.gate.closing.clone();
        let (is_draining, is_closing) = (pin!(draining.cancelled()), pin!(closing.cancelled()));
        let mut is_draining = Signal { token: &draining, wait: is_draining, is_awaited: false };
        let mut is_closing = Signal { token: &closing, wait: is_closing, is_awaited: false };
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
                Next::Terminate => return Ok(()),
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
                    let is_idle = messages.is_empty() && !self.conversation.is_in_transaction();
                    let hears_news = messages.is_empty();
                    let ended = if is_idle {
                        self.wait(&mut is_draining, hears_news).await?
                    } else {
                        self.wait(&mut is_closing, hears_news).await?
                    };
                    if ended {
                        return Ok(());
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

    /// Sends what is to be sent and waits for input, or until `is_over`: then the client is told 57P01. True when it has left.
    /// `hears_news`: what the client's own backends say meanwhile is passed on.
    async fn wait(&mut self, is_over: &mut Signal<'_, '_>, hears_news: bool) -> Result<bool, Failure> {
        let conversation = &mut *self.conversation;
        conversation.tell_late();
        loop {
            if !conversation.client.output.is_empty() {
                conversation.client.flush().await?;
            }
            conversation.client.shrink();
            let event = poll_fn(|cx| {
                if is_over.poll(cx).is_ready() {
                    let message = "terminating connection due to administrator command";
                    return Poll::Ready(Event::Ended(Failure::fatal(SqlState::ADMIN_SHUTDOWN, message)));
                }
                if hears_news && let Poll::Ready(outcome) = conversation.poll_news(cx) {
                    return Poll::Ready(Event::News(outcome));
                }
                match conversation.client.poll_fill(cx) {
                    Poll::Ready(n_read) => Poll::Ready(Event::Input(n_read)),
                    Poll::Pending => conversation.poll_rest(cx).map(Event::Ended),
                }
            })
            .await;
            match event {
                Event::Input(n_read) => return Ok(n_read? == 0),
                Event::News(outcome) => outcome?,
                Event::Ended(failure) => return Err(failure),
            }
        }
    }
}

fn is_frontend_tag(tag: u8) -> bool {
    matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' | b'X' | b'F' | b'd' | b'c' | b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every client has one of these, mostly idle: what is rare in it is boxed.
    #[test]
    fn a_client_s_task_is_small() {
        fn size_of<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let n_bytes = size_of(serve);
        assert!(n_bytes <= 5 * 1024, "{n_bytes} bytes");
    }
}
