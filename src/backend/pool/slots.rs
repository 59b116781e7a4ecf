//! Who gets which connection of a pool: idle ones, the queue, the reserve, the pause after a failure.
//!
//! Nothing here reads a clock or a socket: `now` is passed in, and what is to be closed is given back to the caller, who
//! drops it without the pool's lock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::backend::ConnectError;
use crate::deadline::Deadline;

/// First pause after a failed attempt to connect; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What bounds a pool.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Most connections in use.
    pub max: usize,
    /// As many more for clients that hold others, or have waited for `reserve_after`.
    pub reserve: usize,
    pub reserve_after: Duration,
    /// Longest pause between two attempts to connect.
    pub max_pause: Duration,
}

/// Who asks. A client that holds connections of other pools goes first: others may wait for what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    Holder,
    Newcomer,
}

/// What a client may do now.
#[derive(Debug)]
pub(super) enum Turn<T> {
    /// Use this one, once it was looked at.
    Idle(T),
    /// Open one.
    Open,
    /// No connection can be opened, for this reason.
    Failed(ConnectError),
    Closed,
}

/// The answer to a client that asks.
#[derive(Debug)]
pub(super) enum Place<T> {
    Now(Turn<T>),
    Queued { ticket: u64, turn: oneshot::Receiver<Turn<T>> },
}

/// A client's question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub rank: Rank,
    pub now: Instant,
    pub deadline: Deadline,
    /// Whether a pause after failures is waited out; without it the last failure is the answer.
    pub waits_out_pause: bool,
}

/// One that waits in line.
#[derive(Debug)]
struct Waiter<T> {
    ticket: u64,
    since: Instant,
    turn: oneshot::Sender<Turn<T>>,
}

/// Where in the queue one begins to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

/// No attempt to connect before `until`.
#[derive(Debug)]
struct Pause {
    began: Instant,
    until: Instant,
    length: Duration,
    error: ConnectError,
}

/// What a pool shows of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub n_open: usize,
    pub n_idle: usize,
    pub n_leased: usize,
    pub n_waiting: usize,
    pub longest_wait: Duration,
    /// Time until the next attempt to connect.
    pub pause_left: Duration,
}

/// The connections and the queue of one pool.
#[derive(Debug)]
pub(super) struct Slots<T> {
    limits: Limits,
    /// The one used last is at the end, and handed out first.
    idle: Vec<T>,
    n_leased: usize,
    n_opening: usize,
    holders: VecDeque<Waiter<T>>,
    newcomers: VecDeque<Waiter<T>>,
    pause: Option<Pause>,
    next_ticket: u64,
    /// Nothing is kept idle: another pool has taken its place.
    is_retired: bool,
    is_closed: bool,
}

impl<T> Slots<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            idle: Vec::new(),
            n_leased: 0,
            n_opening: 0,
            holders: VecDeque::new(),
            newcomers: VecDeque::new(),
            pause: None,
            next_ticket: 0,
            is_retired: false,
            is_closed: false,
        }
    }

    /// A connection, the right to open one, or a place in the queue.
    pub(super) fn acquire(&mut self, request: &Request) -> Place<T> {
        let has_room = self.has_room(request.rank);
        self.take(request, has_room, End::Back)
    }

    /// An idle connection, if whoever asks is first in line.
    pub(super) fn acquire_idle(&mut self, request: &Request) -> Option<T> {
        if self.is_closed || !self.has_room(request.rank) {
            return None;
        }
        let connection = self.idle.pop()?;
        self.n_leased += 1;
        Some(connection)
    }

    fn has_room(&self, rank: Rank) -> bool {
        let (limit, is_first) = match rank {
            Rank::Holder => (self.limits.max + self.limits.reserve, self.holders.is_empty()),
            Rank::Newcomer => (self.limits.max, self.holders.is_empty() && self.newcomers.is_empty()),
        };
        is_first && self.n_busy() < limit
    }

    /// As [`Self::acquire`], for a client whose idle connection has proved dead: it keeps its turn.
    pub(super) fn replace_dead(&mut self, request: &Request) -> Place<T> {
        self.n_leased -= 1;
        self.take(request, true, End::Front)
    }

    fn take(&mut self, request: &Request, has_room: bool, end: End) -> Place<T> {
        if self.is_closed {
            return Place::Now(Turn::Closed);
        }
        if has_room {
            if let Some(connection) = self.idle.pop() {
                self.n_leased += 1;
                return Place::Now(Turn::Idle(connection));
            }
            if self.may_open(request.now) {
                self.n_opening += 1;
                return Place::Now(Turn::Open);
            }
        }
        match self.hopeless(request) {
            Some(error) => Place::Now(Turn::Failed(error)),
            None => self.enqueue(request, end),
        }
    }

    /// Takes a leased connection back; gives it to the caller when it is to be closed.
    pub(super) fn give_back(&mut self, connection: T, now: Instant) -> Option<T> {
        self.n_leased -= 1;
        if self.is_closed {
            return Some(connection);
        }
        self.idle.push(connection);
        self.grant(now);
        if self.is_retired { self.idle.pop() } else { None }
    }

    /// Keeps nothing idle from now on; gives the idle connections to be closed. Who holds some goes on as before.
    pub(super) fn retire(&mut self) -> Vec<T> {
        self.is_retired = true;
        std::mem::take(&mut self.idle)
    }

    /// A leased connection was closed.
    pub(super) fn lost(&mut self, now: Instant) {
        self.n_leased -= 1;
        self.grant(now);
    }

    /// The attempt to connect has succeeded: its connection is leased.
    pub(super) fn opened(&mut self, now: Instant) {
        self.n_opening -= 1;
        self.n_leased += 1;
        self.pause = None;
        self.grant(now);
    }

    /// The attempt to connect was given up without an outcome.
    pub(super) fn abandoned(&mut self, now: Instant) {
        self.n_opening -= 1;
        self.grant(now);
    }

    /// The attempt that began at `began` has failed. A pause follows, `jitter` of 0 to 1 making it up to a quarter shorter.
    ///
    /// Where no connection is out that could come back, all who wait get the error too. Gives a place in the queue to a
    /// client that the server was only too full for, while connections of this pool are out.
    pub(super) fn failed(&mut self, error: &ConnectError, began: Instant, request: &Request, jitter: f64) -> Option<Place<T>> {
        self.n_opening -= 1;
        self.pause_after(error, began, request.now, jitter);
        if self.n_leased == 0 && self.idle.is_empty() {
            for waiter in self.holders.drain(..).chain(self.newcomers.drain(..)) {
                // Whoever has left needs no error.
                drop(waiter.turn.send(Turn::Failed(error.clone())));
            }
            return None;
        }
        error.is_server_full().then(|| self.enqueue(request, End::Front))
    }

    /// Gives those who wait their turn as far as limits and the pause allow.
    pub(super) fn grant(&mut self, now: Instant) {
        loop {
            let with_reserve = self.limits.max + self.limits.reserve;
            let n_busy = self.n_busy();
            let may_open = self.may_open(now);
            let (queue, limit) = match (self.holders.is_empty(), self.newcomers.front()) {
                (false, _) => (&mut self.holders, with_reserve),
                (true, Some(first)) if now.saturating_duration_since(first.since) >= self.limits.reserve_after => {
                    (&mut self.newcomers, with_reserve)
                }
                (true, Some(_)) => (&mut self.newcomers, self.limits.max),
                (true, None) => return,
            };
            if n_busy >= limit || (self.idle.is_empty() && !may_open) {
                return;
            }
            let Some(waiter) = queue.pop_front() else { return };
            let turn = self.idle.pop().map_or(Turn::Open, Turn::Idle);
            let is_open = matches!(turn, Turn::Open);
            match waiter.turn.send(turn) {
                Ok(()) if is_open => self.n_opening += 1,
                Ok(()) => self.n_leased += 1,
                // It has left.
                Err(Turn::Idle(connection)) => self.idle.push(connection),
                Err(_) => {}
            }
        }
    }

    /// Takes a client out of the queue. False when it has got its turn already.
    pub(super) fn leave(&mut self, ticket: u64) -> bool {
        for queue in [&mut self.holders, &mut self.newcomers] {
            if let Some(at) = queue.iter().position(|waiter| waiter.ticket == ticket) {
                queue.remove(at);
                return true;
            }
        }
        false
    }

    /// When [`Self::grant`] may do something for who began to wait at `since` that no other call brings about.
    pub(super) fn next_event(&self, since: Instant, now: Instant) -> Option<Instant> {
        let reserve = Some(since + self.limits.reserve_after).filter(|_| self.limits.reserve > 0);
        let pause = self.pause.as_ref().map(|pause| pause.until);
        reserve.into_iter().chain(pause).filter(|at| *at > now).min()
    }

    /// Takes out the idle connections that are not to be kept.
    pub(super) fn retain_idle(&mut self, mut is_kept: impl FnMut(&mut T) -> bool) -> Vec<T> {
        self.idle.extract_if(.., |connection| !is_kept(connection)).collect()
    }

    /// Takes the right to open a connection that nobody waits for, up to `min` connections.
    pub(super) fn open_spare(&mut self, min: usize, now: Instant) -> bool {
        let may = !self.is_closed && !self.is_retired && self.n_open() < min.min(self.limits.max) && self.may_open(now);
        self.n_opening += usize::from(may);
        may
    }

    /// Fails all who wait and who will come; gives the idle connections to be closed.
    pub(super) fn close(&mut self) -> Vec<T> {
        self.is_closed = true;
        for waiter in self.holders.drain(..).chain(self.newcomers.drain(..)) {
            drop(waiter.turn.send(Turn::Closed));
        }
        std::mem::take(&mut self.idle)
    }

    /// Connections idle, leased and being opened.
    pub(super) fn n_open(&self) -> usize {
        self.idle.len() + self.n_busy()
    }

    /// Why the last attempt to connect has failed, while the pause after it lasts or nothing was tried since.
    pub(super) fn last_error(&self) -> Option<&ConnectError> {
        self.pause.as_ref().map(|pause| &pause.error)
    }

    pub(super) fn figures(&self, now: Instant) -> Figures {
        let first = [self.holders.front(), self.newcomers.front()].into_iter().flatten().map(|waiter| waiter.since).min();
        Figures {
            n_open: self.n_open(),
            n_leased: self.n_leased,
            n_idle: self.idle.len(),
            n_waiting: self.holders.len() + self.newcomers.len(),
            longest_wait: first.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            pause_left: self.pause.as_ref().map_or(Duration::ZERO, |pause| pause.until.saturating_duration_since(now)),
        }
    }

    fn n_busy(&self) -> usize {
        self.n_leased + self.n_opening
    }

    /// After a pause one client tries alone: its outcome decides for the others.
    fn may_open(&self, now: Instant) -> bool {
        self.pause.as_ref().is_none_or(|pause| pause.until <= now && self.n_opening == 0)
    }

    /// The last failure, for a client to which waiting will bring nothing in time.
    fn hopeless(&self, request: &Request) -> Option<ConnectError> {
        let pause = self.pause.as_ref().filter(|pause| pause.until > request.now)?;
        let is_in_time = request.waits_out_pause && request.deadline.instant().is_none_or(|at| pause.until < at);
        (self.n_leased == 0 && !is_in_time).then(|| pause.error.clone())
    }

    fn enqueue(&mut self, request: &Request, end: End) -> Place<T> {
        self.next_ticket += 1;
        let (sender, turn) = oneshot::channel();
        let waiter = Waiter { ticket: self.next_ticket, since: request.now, turn: sender };
        let queue = match request.rank {
            Rank::Holder => &mut self.holders,
            Rank::Newcomer => &mut self.newcomers,
        };
        match end {
            End::Front => queue.push_front(waiter),
            End::Back => queue.push_back(waiter),
        }
        Place::Queued { ticket: self.next_ticket, turn }
    }

    fn pause_after(&mut self, error: &ConnectError, began: Instant, now: Instant, jitter: f64) {
        let length = match &mut self.pause {
            // Attempts that were under way together count as one.
            Some(pause) if pause.began > began => {
                pause.error = error.clone();
                return;
            }
            Some(pause) => pause.length * 2,
            None => FIRST_PAUSE,
        };
        let length = length.min(self.limits.max_pause);
        let until = now + length.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0);
        self.pause = Some(Pause { began: now, until, length, error: error.clone() });
    }
}

#[cfg(test)]
mod tests;
