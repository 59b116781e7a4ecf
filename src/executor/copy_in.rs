//! COPY … FROM STDIN on one backend: the client's data is relayed as it comes.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use bytes::Buf;

use super::Conversation;
use super::failure::Failure;
use super::relay::Relayed;
use crate::backend::OUTPUT_HIGH_WATER;
use crate::deadline::Deadline;
use crate::session::wire;
use crate::sqlstate::SqlState;

/// What a client sent in copy-in mode.
pub(super) enum CopyInput {
    /// So many bytes of CopyData, header included, to be relayed as they are. They may end within a message.
    Data(usize),
    /// CopyDone, of so many bytes.
    Done(usize),
    /// CopyFail, of so many bytes; and anything else, with nothing to relay.
    Fail(usize),
    /// Flush and Sync, which the server ignores in this mode.
    Ignored(usize),
    Incomplete,
}

/// Tells what stands at the start of the client's input. `n_passing` bytes belong to a CopyData already begun.
pub(super) fn copy_input(input: &[u8], n_passing: usize) -> Result<CopyInput, Failure> {
    if n_passing > 0 {
        return Ok(if input.is_empty() { CopyInput::Incomplete } else { CopyInput::Data(n_passing.min(input.len())) });
    }
    let malformed = |_| Failure::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length");
    let Some(header) = wire::header(input).map_err(malformed)? else { return Ok(CopyInput::Incomplete) };
    let is_complete = input.len() >= header.len;
    Ok(match header.tag {
        b'd' => CopyInput::Data(header.len.min(input.len())),
        _ if !is_complete => CopyInput::Incomplete,
        b'c' => CopyInput::Done(header.len),
        b'f' => CopyInput::Fail(header.len),
        b'H' | b'S' => CopyInput::Ignored(header.len),
        _ => CopyInput::Fail(0),
    })
}

impl Conversation {
    /// Relays the client's copy data to a backend until CopyDone, CopyFail, or an error of the backend.
    pub(super) async fn pump_copy_in(&mut self, idx: usize, is_extended: bool, relayed: &mut Relayed) -> Result<(), Failure> {
        relayed.has_copied_in = true;
        self.client.flush().await?;
        let mut n_passing = 0;
        loop {
            let Self { client, enlisted, .. } = self;
            let output = &mut enlisted[idx].lease.socket.output;
            let input = copy_input(&client.input, n_passing)?;
            match input {
                CopyInput::Data(n) => {
                    let whole = if n_passing > 0 { n_passing } else { message_len(&client.input) };
                    output.extend_from_slice(&client.input[..n]);
                    client.input.advance(n);
                    n_passing = whole - n;
                }
                CopyInput::Done(n) | CopyInput::Fail(n) if n > 0 => {
                    output.extend_from_slice(&client.input[..n]);
                    client.input.advance(n);
                    break;
                }
                CopyInput::Done(_) | CopyInput::Fail(_) => {
                    wire::copy_fail(output, "unexpected message type during COPY from stdin");
                    break;
                }
                CopyInput::Ignored(n) => client.input.advance(n),
                CopyInput::Incomplete => {
                    if self.flush_backend(idx).await.is_err() || self.wait_for_copy(idx).await? {
                        self.discard_copy_data(n_passing).await?;
                        break;
                    }
                    continue;
                }
            }
            if self.enlisted[idx].lease.socket.output.len() >= OUTPUT_HIGH_WATER && self.flush_backend(idx).await.is_err() {
                self.discard_copy_data(n_passing).await?;
                break;
            }
        }
        self.restart_deadline();
        // The server has ignored the Sync that came before the data.
        if is_extended {
            wire::bare(&mut self.enlisted[idx].lease.socket.output, b'S');
        }
        // A broken connection is found by the read that follows.
        drop(self.flush_backend(idx).await);
        Ok(())
    }

    /// Reads away the rest of a CopyData message of which nobody wants the end. What follows it is ignored as it comes.
    pub(super) async fn discard_copy_data(&mut self, mut n_passing: usize) -> Result<(), Failure> {
        loop {
            let n = n_passing.min(self.client.input.len());
            self.client.input.advance(n);
            n_passing -= n;
            if n_passing == 0 {
                return Ok(());
            }
            if self.client.fill().await? == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the client went away during COPY").into());
            }
        }
    }

    pub(super) async fn flush_backend(&mut self, idx: usize) -> std::io::Result<()> {
        self.enlisted[idx].lease.socket.flush().await
    }

    /// Begins the deadline anew: of a COPY it bounds the wait for the next data, not the whole.
    pub(super) fn restart_deadline(&mut self) {
        self.timer.set(Deadline::after(Instant::now(), self.database.query.timeout));
    }

    /// Waits for more of the client's data. True when the backend has said something instead: an error.
    async fn wait_for_copy(&mut self, idx: usize) -> Result<bool, Failure> {
        self.restart_deadline();
        let Self { client, enlisted, timer, .. } = self;
        let server = &mut enlisted[idx].lease.socket;
        enum Event {
            Client(std::io::Result<usize>),
            Server,
            Late,
        }
        let event = poll_fn(|cx| {
            if let Poll::Ready(outcome) = client.poll_fill(cx) {
                return Poll::Ready(Event::Client(outcome));
            }
            if server.poll_fill(cx).is_ready() {
                return Poll::Ready(Event::Server);
            }
            timer.poll(cx).map(|()| Event::Late)
        })
        .await;
        match event {
            Event::Client(Ok(0)) => {
                Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the client went away during COPY").into())
            }
            Event::Client(outcome) => outcome.map(|_| false).map_err(Failure::from),
            Event::Server => Ok(true),
            Event::Late => {
                wire::copy_fail(&mut self.enlisted[idx].lease.socket.output, "no data came in time");
                Ok(true)
            }
        }
    }
}

pub(super) fn message_len(input: &[u8]) -> usize {
    wire::header(input).ok().flatten().map_or(0, |header| header.len)
}
