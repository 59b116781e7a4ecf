//! COPY … FROM STDIN on one backend: the client's data is relayed as it comes.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use bytes::Buf;

use super::Conversation;
use super::enlist::Watched;
use super::failure::Failure;
use super::relay::Relayed;
use super::timer::WaitError;
use crate::backend::OUTPUT_HIGH_WATER;
use crate::deadline::Deadline;
use crate::session::wire::{self, InvalidLength, Severity};
use crate::sqlstate::{Report, SqlState};

/// Longest CopyDone, CopyFail, Flush and Sync that is taken, in bytes: PQ_SMALL_MESSAGE_LIMIT in src/include/libpq/libpq.h.
const MAX_CONTROL_LEN: usize = 10_001;

/// What a client sent in copy-in mode.
pub(super) enum CopyInput {
    /// So many bytes of CopyData, header included, to be relayed as they are. They may end within a message.
    Data(usize),
    /// CopyDone, of so many bytes.
    Done(usize),
    /// CopyFail, of so many bytes.
    Fail(usize),
    /// A message that does not belong here, by its tag.
    Foreign(u8),
    /// Flush and Sync, which the server ignores in this mode.
    Ignored(usize),
    Incomplete,
}

/// How a wait for copy data ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyWait {
    /// There may be more data.
    GoOn,
    /// The server has said something instead: an error.
    Refused,
    /// The client has sent nothing for as long as a statement may take.
    Late,
}

/// What a server is told of a client that sends no more data.
pub(super) const LATE: &str = "no data came in time";

/// Tells what stands at the start of the client's input. `n_passing` bytes belong to a CopyData already begun.
pub(super) fn copy_input(input: &[u8], n_passing: usize) -> Result<CopyInput, Failure> {
    if n_passing > 0 {
        return Ok(if input.is_empty() { CopyInput::Incomplete } else { CopyInput::Data(n_passing.min(input.len())) });
    }
    let malformed = |_| lost_synchronization();
    // Before its length is known, as by CopyGetData in src/backend/commands/copyfromparse.c.
    if let Some(tag) = input.first().filter(|tag| !b"dcfHS".contains(tag)) {
        return Ok(CopyInput::Foreign(*tag));
    }
    let Some(header) = wire::header(input).map_err(malformed)? else { return Ok(CopyInput::Incomplete) };
    let is_complete = input.len() >= header.len;
    Ok(match header.tag {
        b'd' => CopyInput::Data(header.len.min(input.len())),
        b'c' | b'f' | b'H' | b'S' if header.len > MAX_CONTROL_LEN => return Err(malformed(InvalidLength)),
        b'c' | b'f' | b'H' | b'S' if !is_complete => CopyInput::Incomplete,
        b'c' => CopyInput::Done(header.len),
        b'f' => CopyInput::Fail(header.len),
        b'H' | b'S' => CopyInput::Ignored(header.len),
        tag => CopyInput::Foreign(tag),
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
                CopyInput::Done(n) | CopyInput::Fail(n) => {
                    output.extend_from_slice(&client.input[..n]);
                    client.input.advance(n);
                    break;
                }
                CopyInput::Foreign(tag) => return Err(self.refuse_foreign(idx, tag).await),
                CopyInput::Ignored(n) => client.input.advance(n),
                CopyInput::Incomplete => {
                    if self.flush_backend(idx).await.is_err() {
                        self.discard_copy_data(n_passing).await?;
                        break;
                    }
                    let wait = self.wait_for_copy(idx).await?;
                    if wait == CopyWait::GoOn {
                        continue;
                    }
                    if wait == CopyWait::Late && n_passing > 0 {
                        return Err(late_within());
                    }
                    // The server has the begin of this message and waits for its end, of which it makes nothing.
                    self.pad_copy_data(idx, n_passing).await;
                    if wait == CopyWait::Late {
                        wire::copy_fail(&mut self.enlisted[idx].lease.socket.output, LATE);
                    }
                    self.discard_copy_data(n_passing).await?;
                    break;
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

    /// The same in the words of the server that does the COPY: it knows at which line it is.
    async fn refuse_foreign(&mut self, idx: usize, tag: u8) -> Failure {
        wire::bare(&mut self.enlisted[idx].lease.socket.output, tag);
        self.restart_deadline();
        // A broken connection is found by the read that follows.
        drop(self.flush_backend(idx).await);
        while let Ok((kind, mut message)) = self.next_message(idx, Watched::Nobody).await {
            match kind {
                b'E' => {
                    self.enlisted[idx].lease.has_ended = true;
                    self.client.output.extend_from_slice(&message.split());
                    return lost_synchronization();
                }
                b'Z' => break,
                _ => {}
            }
        }
        self.copy_broken(tag)
    }

    /// Ends the session because of a message that does not belong into COPY: Postgres does not read on behind it.
    pub(super) fn copy_broken(&mut self, tag: u8) -> Failure {
        let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
        wire::report(&mut self.client.output, Severity::Error, &Report::new(SqlState::PROTOCOL_VIOLATION, message));
        lost_synchronization()
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
            self.begin_copy_wait();
            let Self { client, timer, .. } = self;
            let filled = poll_fn(|cx| match client.poll_fill(cx) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending => timer.poll(cx).map(|()| None),
            });
            match filled.await {
                None => return Err(late_within()),
                Some(Ok(0)) => {
                    return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the client went away during COPY").into());
                }
                Some(outcome) => drop(outcome?),
            }
        }
    }

    /// Ends a CopyData message of which a server that has given up the COPY has the begin: else it would take the next
    /// statement for the rest.
    async fn pad_copy_data(&mut self, idx: usize, mut n_passing: usize) {
        while n_passing > 0 {
            let n = n_passing.min(OUTPUT_HIGH_WATER);
            let output = &mut self.enlisted[idx].lease.socket.output;
            output.resize(output.len() + n, 0);
            n_passing -= n;
            if self.flush_backend(idx).await.is_err() {
                // The read that follows finds the connection broken.
                return;
            }
        }
    }

    pub(super) async fn flush_backend(&mut self, idx: usize) -> std::io::Result<()> {
        match self.timer.send(&mut self.enlisted[idx].lease).await {
            Ok(()) => Ok(()),
            Err(WaitError::Lost(lost)) => Err(std::io::Error::new(std::io::ErrorKind::BrokenPipe, lost)),
            // Whoever reads next finds the deadline passed.
            Err(WaitError::DeadlinePassed | WaitError::ClientLeft | WaitError::Deadlock(_)) => {
                Err(std::io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Begins the deadline anew: of a COPY it bounds the wait for the next data, not the whole.
    pub(super) fn restart_deadline(&mut self) {
        self.timer.set(Deadline::after(Instant::now(), self.database.query.timeout));
    }

    /// Begins the wait for the next data of the client.
    fn begin_copy_wait(&mut self) {
        self.timer.set(Deadline::after(Instant::now(), self.database.query.copy_data_timeout));
    }

    /// Waits for more of the client's data, or for the backend to say something.
    pub(super) async fn wait_for_copy(&mut self, idx: usize) -> Result<CopyWait, Failure> {
        self.begin_copy_wait();
        let Self { client, enlisted, timer, .. } = self;
        let server = &mut enlisted[idx].lease.socket;
        enum Event {
            Client(std::io::Result<usize>),
            /// True if it has said something.
            Server(bool),
            Late,
        }
        let event = poll_fn(|cx| {
            if let Poll::Ready(outcome) = client.poll_fill(cx) {
                return Poll::Ready(Event::Client(outcome));
            }
            if let Poll::Ready(outcome) = server.poll_fill(cx) {
                return Poll::Ready(Event::Server(matches!(outcome, Ok(n) if n > 0)));
            }
            timer.poll(cx).map(|()| Event::Late)
        })
        .await;
        match event {
            Event::Client(Ok(0)) => {
                Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the client went away during COPY").into())
            }
            Event::Client(outcome) => outcome.map(|_| CopyWait::GoOn).map_err(Failure::from),
            Event::Server(has_spoken) => {
                let goes_on = has_spoken && self.pass_notices(idx);
                self.client.flush_if_large().await?;
                Ok(if goes_on { CopyWait::GoOn } else { CopyWait::Refused })
            }
            Event::Late => Ok(CopyWait::Late),
        }
    }

    /// Passes on what a server says beside the COPY. False when it says something else.
    fn pass_notices(&mut self, idx: usize) -> bool {
        let Self { client, enlisted, .. } = self;
        let lease = &mut enlisted[idx].lease;
        while let Ok(Some(header)) = lease.buffered_header() {
            if header.tag != b'N' && header.tag != b'A' {
                return false;
            }
            client.output.extend_from_slice(&lease.socket.input.split_to(header.len));
        }
        lease.socket.input.first().is_none_or(|tag| matches!(tag, b'N' | b'A'))
    }
}

/// The end of a session whose client has stopped in the middle of a CopyData: nothing that it sends could be understood before
/// the rest comes.
pub(super) fn late_within() -> Failure {
    Failure::fatal(
        SqlState::QUERY_CANCELED,
        "terminating connection because the rest of a copy data message did not come in time",
    )
}

fn lost_synchronization() -> Failure {
    Failure::fatal(SqlState::PROTOCOL_VIOLATION, "terminating connection because protocol synchronization was lost")
}

pub(super) fn message_len(input: &[u8]) -> usize {
    wire::header(input).ok().flatten().map_or(0, |header| header.len)
}
