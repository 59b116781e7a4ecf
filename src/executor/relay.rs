//! One backend's answer to the client: bytes as they came, in large blocks; only headers are read.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, BytesMut};

use super::Conversation;
use super::enlist::{BlockAge, Enlisted};
use super::failure::Failure;
use super::statements::Statements;
use super::timer::WaitError;
use super::types::Reading;
use crate::backend::{ConnectionLost, OUTPUT_HIGH_WATER, parameter_status, server_report};
use crate::observe::ErrorKind;
use crate::session::oids::{NewType, Unknown};
use crate::session::transaction::Phase;
use crate::session::wire::{self, HEADER_LEN};

/// What to do with the statement's own ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    Relay,
    Swallow,
}

/// What to do with one ParseComplete or CloseComplete, in the order in which they will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Relay,
    /// The answer to something that the client did not send.
    Swallow,
    /// A CloseComplete that stands in for the ParseComplete of a Parse that was not needed.
    AsParseComplete,
    /// Stands last, and stays: BindComplete and NoData are answers to what the client did not send.
    Hide,
}

impl Mark {
    /// Gives an answer the tag that the client waits for.
    fn rename(self, tag: &mut u8) {
        if self == Self::AsParseComplete {
            *tag = b'1';
        }
    }
}

/// What a server's error means for the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerError {
    /// Something does not exist: the schema snapshot may be old.
    UndefinedObject,
    /// "cached plan must not change result type": the statement was prepared before.
    StalePlan,
    Other,
}

/// Whether a statement whose columns have changed since it was prepared may be prepared and run again, unseen by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Retry {
    #[default]
    No,
    /// The client has seen nothing of it, and learns or has just asked for the columns.
    Possible,
    /// The error was held back, and all before it.
    Needed,
}

/// How a relay ended.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    /// ReadyForQuery's status byte.
    pub status: u8,
    /// The error that the server reported, which the client has.
    pub error: Option<ServerError>,
    pub retry: Retry,
    /// A COPY FROM STDIN took place.
    pub has_copied_in: bool,
    parameters: Vec<(String, String)>,
    /// ParameterStatus was not relayed: the end of the answer is not the server's.
    has_held_parameters: bool,
    /// Bytes still to come of a message whose beginning the client has.
    n_passing: usize,
}

enum Stop {
    Ready,
    /// A description names a type that was made after the catalog was read.
    NewType,
    CopyIn,
    PrefixFailed(Box<crate::sqlstate::Report>),
    /// FATAL: the server closes the connection after it.
    Ended,
    /// What comes is not the protocol.
    Lost(ConnectionLost),
}

impl Conversation {
    /// Sends a backend's output and relays its messages up to ReadyForQuery. `is_extended`: the answer is to an extended-protocol batch that ended
    /// with Sync.
    ///
    /// # Errors
    /// 57014 after the deadline, 08006 when the connection is lost. An error of the server is relayed and is no failure here.
    pub(super) async fn relay(
        &mut self,
        idx: usize,
        marks: &mut VecDeque<Mark>,
        ready: Ready,
        is_extended: bool,
    ) -> Result<Relayed, Failure> {
        let is_undone = self.transaction.phase == Phase::Idle || self.enlisted[idx].age == BlockAge::Fresh;
        let mut unknown = Unknown::Tell;
        let mut relayed = Relayed { retry: if is_undone { self.retry } else { Retry::No }, ..Relayed::default() };
        loop {
            let Self { client, enlisted, statements, view, .. } = self;
            let held = &mut enlisted[idx];
            let reading = Reading { types: view.types.of(held.lease.shard), unknown, is_extended };
            let (range, stop) = scan(held, &mut client.output, marks, &mut relayed, (ready, reading, statements));
            let input = &mut held.lease.socket.input;
            self.database.counters.n_bytes_to_clients.add(range.len() as u64);
            if !range.is_empty() {
                relayed.retry = Retry::No;
                client.write_through(&input[range.clone()]).await?;
            }
            input.advance(range.end);
            match stop {
                Some(Stop::Ready) => break,
                Some(Stop::NewType) => {
                    Box::pin(self.read_types_again()).await;
                    unknown = Unknown::Replace;
                }
                Some(Stop::CopyIn) => Box::pin(self.pump_copy_in(idx, is_extended, &mut relayed)).await?,
                Some(Stop::PrefixFailed(report)) => {
                    self.drop_enlisted(idx);
                    return Err(Failure::Statement { report, kind: ErrorKind::Shard });
                }
                Some(Stop::Lost(lost)) => return Err(Box::pin(self.abandon_midway(idx, lost.into(), &relayed)).await),
                Some(Stop::Ended) => {
                    self.drop_enlisted(idx);
                    return Err(Failure::Ended);
                }
                None => {
                    if client.output.len() >= OUTPUT_HIGH_WATER {
                        relayed.retry = Retry::No;
                    }
                    client.flush_if_large().await?;
                    let Self { client, enlisted, timer, .. } = self;
                    if let Err(error) = timer.exchange(&mut enlisted[idx].lease, client).await {
                        return Err(Box::pin(self.abandon_midway(idx, error, &relayed)).await);
                    }
                }
            }
        }
        self.enlisted[idx].note_ready(Some(relayed.status));
        if relayed.has_held_parameters {
            self.tell_parameters();
        }
        for (name, value) in std::mem::take(&mut relayed.parameters) {
            self.note_parameter(&name, &value);
            self.note_told(name, value);
        }
        Ok(relayed)
    }

    async fn abandon_midway(&mut self, idx: usize, error: WaitError, relayed: &Relayed) -> Failure {
        let failure = self.abandon(idx, error).await;
        if relayed.n_passing == 0 {
            // If the client has its error already: one statement gets one.
            return if relayed.error.is_some() { Failure::Reported } else { failure };
        }
        // The client has half a message: nothing that follows could be understood.
        Failure::Client(std::io::Error::new(std::io::ErrorKind::BrokenPipe, "a server's message was cut"))
    }
}

/// Looks at the headers in a backend's buffer. Gives the bytes to relay now, and why to stop.
///
/// What must not be relayed is skipped; bytes before it go to `output`, so that the range is one block.
fn scan(
    held: &mut Enlisted,
    output: &mut BytesMut,
    marks: &mut VecDeque<Mark>,
    relayed: &mut Relayed,
    (ready, reading, statements): (Ready, Reading<'_>, &Statements),
) -> (Range<usize>, Option<Stop>) {
    let mut input = std::mem::take(&mut held.lease.socket.input);
    let n_output = output.len();
    let mut scanner = Scanner { start: 0, position: relayed.n_passing.min(input.len()), output };
    relayed.n_passing -= scanner.position;
    let mut stop = None;
    while stop.is_none() {
        let header = match wire::header(&input[scanner.position..]) {
            Ok(Some(header)) => header,
            Ok(None) => break,
            Err(error) => return (scanner.give_back(held, input), lost(error.to_string())),
        };
        if input.len() - scanner.position < header.len {
            if matches!(header.tag, b'D' | b'd') && may_pass_part(held, relayed) {
                relayed.n_passing = header.len - (input.len() - scanner.position);
                scanner.position = input.len();
            }
            break;
        }
        let message = scanner.position..scanner.position + header.len;
        if held.n_skipped_cycles > 0 {
            stop = note_skipped(held, header.tag, &mut input[message.clone()]);
            scanner.skip(&input, message);
            continue;
        }
        match header.tag {
            b'D' | b'd' if relayed.error.is_none() => {
                held.answers.take_watched(&mut input[message.clone()], reading);
                scanner.position = message.end;
            }
            b'Z' if relayed.error.is_none() && marks.iter().any(|mark| *mark != Mark::Hide) => {
                stop = lost("server confirmed less than it was asked for")
            }
            b'Z' => {
                relayed.status = input.get(message.end - 1).copied().unwrap_or(b'I');
                let is_swallowed = ready == Ready::Swallow || (reading.is_extended && relayed.has_copied_in);
                scanner.pass(&input, message, !is_swallowed && relayed.retry != Retry::Needed);
                stop = Some(Stop::Ready);
            }
            b'1' | b'3' => match marks.pop_front() {
                None => stop = lost("server confirmed more than it was asked for"),
                Some(mark) => {
                    mark.rename(&mut input[message.start]);
                    scanner.pass(&input, message, mark != Mark::Swallow);
                }
            },
            b'E' if relayed.retry == Retry::Possible && is_stale_plan(&input[message.start + HEADER_LEN..message.end]) => {
                (relayed.error, relayed.retry) = (Some(ServerError::StalePlan), Retry::Needed);
                scanner.take_back(n_output, message.end);
            }
            b'2' if marks.front() == Some(&Mark::Hide) => scanner.skip(&input, message),
            b'T' | b't' | b'n' | b'C' | b's' | b'I' if relayed.error.is_none() => {
                match take_part(held, marks, &mut input[message.clone()], reading) {
                    Ok(is_told) => scanner.pass(&input, message, is_told),
                    Err(NewType) => stop = Some(Stop::NewType),
                }
            }
            b'S' if ready == Ready::Swallow => {
                // Told before the ReadyForQuery that the client gets.
                held.lease.note_parameter(&input[message.start + HEADER_LEN..message.end]);
                relayed.has_held_parameters = true;
                scanner.skip(&input, message);
            }
            tag if is_answer(tag) && (relayed.error.is_none() || is_asynchronous(tag)) => {
                held.tell_own_pid(&mut input[message.clone()]);
                stop = note(&mut held.lease, relayed, tag, &input[message.start + HEADER_LEN..message.end]);
                scanner.pass_answer(tag, &input, message, statements);
            }
            tag => stop = lost(format!("server sent a message of unexpected type {tag}")),
        }
    }
    (scanner.give_back(held, input), stop)
}

/// Takes a part of an answer that is about columns or rows. False: the client is not to see it.
fn take_part(held: &mut Enlisted, marks: &VecDeque<Mark>, message: &mut [u8], reading: Reading<'_>) -> Result<bool, NewType> {
    let is_hidden = message.first() == Some(&b'n') && marks.front() == Some(&Mark::Hide);
    Ok(held.answers.take(message, reading)? && !is_hidden)
}

/// Whether the part of a row that is there may be relayed before the rest has come.
fn may_pass_part(held: &Enlisted, relayed: &Relayed) -> bool {
    held.n_skipped_cycles == 0 && relayed.error.is_none() && !held.answers.is_watching()
}

/// Takes a message of the statements that opened a block, which the client does not see.
fn note_skipped(held: &mut Enlisted, tag: u8, message: &mut [u8]) -> Option<Stop> {
    match tag {
        b'Z' => held.n_skipped_cycles -= 1,
        b'A' => held.note_late(message),
        b'E' => return Some(Stop::PrefixFailed(Box::new(server_report(&message[HEADER_LEN..])))),
        b'S' => held.lease.note_parameter(&message[HEADER_LEN..]),
        _ => {}
    }
    None
}

fn lost(why: impl Into<String>) -> Option<Stop> {
    Some(Stop::Lost(ConnectionLost(why.into())))
}

/// Whether a message may stand in the answer to a statement. All others would confuse the client as much as the proxy.
fn is_answer(tag: u8) -> bool {
    matches!(tag, b'2' | b'A' | b'C' | b'c' | b'E' | b'G' | b'H' | b'I' | b'N' | b'n' | b'S' | b's' | b'T' | b't' | b'V')
}

/// Whether a message may come at any time: after an error nothing else does, up to ReadyForQuery.
fn is_asynchronous(tag: u8) -> bool {
    matches!(tag, b'A' | b'N' | b'S')
}

/// Takes a message that is relayed into account, and tells whether the answer stops with it.
fn note(connection: &mut crate::backend::Connection, relayed: &mut Relayed, tag: u8, body: &[u8]) -> Option<Stop> {
    match tag {
        b'G' => return Some(Stop::CopyIn),
        b'E' => {
            let code = wire::report_field(body, b'C').unwrap_or_default();
            relayed.error = Some(match code {
                b"42P01" | b"42703" | b"42883" => ServerError::UndefinedObject,
                b"0A000" if is_stale_plan(body) => ServerError::StalePlan,
                _ => ServerError::Other,
            });
            if wire::is_fatal(body) {
                return Some(Stop::Ended);
            }
        }
        b'S' => {
            connection.note_parameter(body);
            relayed.parameters.extend(parameter_status(body));
        }
        _ => {}
    }
    None
}

/// src/backend/utils/cache/plancache.c; its text may be translated.
fn is_stale_plan(error_body: &[u8]) -> bool {
    wire::report_field(error_body, b'C') == Some(b"0A000")
        && wire::report_field(error_body, b'R') == Some(b"RevalidateCachedQuery")
}

struct Scanner<'a> {
    /// Begin of the bytes to relay as one block.
    start: usize,
    position: usize,
    output: &'a mut BytesMut,
}

impl Scanner<'_> {
    /// Ends the look at a backend's buffer: the bytes to relay.
    fn give_back(&self, held: &mut Enlisted, input: BytesMut) -> Range<usize> {
        held.lease.socket.input = input;
        self.start..self.position
    }

    fn pass(&mut self, input: &[u8], message: Range<usize>, is_relayed: bool) {
        if is_relayed { self.position = message.end } else { self.skip(input, message) }
    }

    /// Passes a message; a report that lacks fields which each has gets them, and one about a prepared statement the client's
    /// name of it.
    fn pass_answer(&mut self, tag: u8, input: &[u8], message: Range<usize>, statements: &Statements) {
        let body = &input[message.start + HEADER_LEN..message.end];
        if tag == b'E'
            && let Some(renamed) = wire::report_field(body, b'M').and_then(|text| statements.with_clients_name(text))
        {
            self.skip(input, message);
            wire::report_with_message(self.output, body, &renamed);
        } else if matches!(tag, b'E' | b'N') && !wire::is_whole_report(body) {
            self.skip(input, message);
            wire::whole_report(self.output, tag, body);
        } else {
            self.position = message.end;
        }
    }

    /// Passes nothing of what came so far: the output had this many bytes.
    fn take_back(&mut self, n_output: usize, end: usize) {
        self.output.truncate(n_output);
        (self.start, self.position) = (end, end);
    }

    fn skip(&mut self, input: &[u8], message: Range<usize>) {
        self.output.extend_from_slice(&input[self.start..message.start]);
        (self.start, self.position) = (message.end, message.end);
    }
}
