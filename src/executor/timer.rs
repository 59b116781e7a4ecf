//! One timer per client, armed once and moved rarely: a statement that ends in time costs no timer operation.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::CancelTarget;
use super::waits::{Wait, Waits};
use crate::backend::{Connection, ConnectionLost, PeerState, Socket};
use crate::deadline::Deadline;
use crate::session::wire::Header;
use crate::sqlstate::Report;

/// Time between two looks at the client of a statement that runs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How much younger a statement counts that gives up for others: more than a transaction takes.
const YIELDING: Duration = Duration::from_secs(24 * 60 * 60);

/// The deadlines of the running statement and of its transaction, with the sleep that watches them.
#[derive(Debug)]
pub(super) struct Timer {
    deadline: Deadline,
    transaction: Deadline,
    /// When the transaction began, or the statement outside of one; later where that gives up for others.
    transaction_began: Instant,
    /// Armed for some deadline, perhaps that of an earlier statement; moved on when it fires too early.
    sleep: Option<Pin<Box<Sleep>>>,
    /// The sleep fires within [`LOOK_INTERVAL`].
    is_look_armed: bool,
    silence: Silence,
    /// Utility statements have no deadline: an index takes as long as it takes.
    is_exempt: bool,
    /// When a look has first found that the client will send no more.
    half_closed_since: Option<Instant>,
    /// How long the statement of such a client goes on.
    half_closed_grace: Duration,
    long_wait: LongWait,
    /// Where it is told, and of whom.
    waits: Arc<Waits>,
    session: Arc<CancelTarget>,
}

/// How far the wait of the running statement has been noticed.
#[derive(Debug)]
enum LongWait {
    Not,
    /// A look has found the statement waiting.
    Since(Instant),
    /// It has waited for [`LOOK_INTERVAL`] more, and its session holds several servers.
    Told(Arc<Wait>),
}

/// What is known of a client that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// It has sent a statement since the last look.
    Broken,
    /// Nothing since the look before this one was armed.
    Watched,
    /// That has been told.
    Told,
}

/// Why a wait for a server ended without a message.
#[derive(Debug)]
pub(super) enum WaitError {
    Lost(ConnectionLost),
    DeadlinePassed,
    /// The client has closed its connection, or half of it for too long.
    ClientLeft,
    /// The statement waits for itself, by way of others on other servers: this is told to its client.
    Deadlock(Box<Report>),
}

impl From<ConnectionLost> for WaitError {
    fn from(lost: ConnectionLost) -> Self {
        Self::Lost(lost)
    }
}

impl From<std::io::Error> for WaitError {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl Timer {
    /// `session` is whose long waits are told to `waits`.
    pub(super) fn new(waits: Arc<Waits>, session: Arc<CancelTarget>) -> Self {
        Self {
            deadline: Deadline::NEVER,
            transaction: Deadline::NEVER,
            transaction_began: Instant::now(),
            sleep: None,
            is_look_armed: false,
            silence: Silence::Broken,
            is_exempt: false,
            half_closed_since: None,
            half_closed_grace: Duration::ZERO,
            long_wait: LongWait::Not,
            waits,
            session,
        }
    }

    /// The session has moved to another database object.
    pub(super) fn tell_to(&mut self, waits: &Arc<Waits>) {
        self.waits = Arc::clone(waits);
    }

    /// Says how long a statement goes on for a client that has closed its sending half.
    pub(super) fn set_half_closed_grace(&mut self, grace: Duration) {
        self.half_closed_grace = grace;
    }

    /// Sets the deadline of the transaction that begins at `now`.
    pub(super) fn begin_transaction(&mut self, now: Instant, deadline: Deadline) {
        (self.transaction_began, self.transaction) = (now, deadline);
    }

    /// In a deadlock this statement gives up rather than others, whenever they have begun: it can be begun anew. Gives what
    /// [`Self::yield_no_more`] takes after it.
    pub(super) fn yield_to_others(&mut self) -> Instant {
        std::mem::replace(&mut self.transaction_began, Instant::now() + YIELDING)
    }

    pub(super) fn yield_no_more(&mut self, began: Instant) {
        self.transaction_began = began;
    }

    /// The transaction has no deadline any more.
    pub(super) fn end_transaction(&mut self) {
        self.transaction = Deadline::NEVER;
    }

    /// When the transaction as a whole is to be over.
    pub(super) fn transaction(&self) -> Deadline {
        self.transaction
    }

    /// Sets the deadline of the statement that begins.
    pub(super) fn set(&mut self, deadline: Deadline) {
        self.is_exempt = false;
        self.silence = Silence::Broken;
        self.long_wait = LongWait::Not;
        self.replace(deadline);
    }

    /// Lets the statement run without a deadline.
    pub(super) fn exempt(&mut self) {
        self.deadline = Deadline::NEVER;
        self.is_exempt = true;
    }

    /// Moves the deadline closer, unless the statement has none by its nature.
    pub(super) fn limit(&mut self, deadline: Deadline) {
        if !self.is_exempt {
            self.replace(self.deadline.min(deadline));
        }
    }

    fn replace(&mut self, deadline: Deadline) {
        self.deadline = deadline;
        let Some(at) = self.deadline().instant() else { return };
        // An earlier deadline than the armed one must move the sleep; a later one is found when it fires.
        if let Some(sleep) = self.sleep.as_mut().filter(|sleep| sleep.deadline().into_std() > at) {
            sleep.as_mut().reset(at.into());
        }
    }

    /// When the statement must be over, by its own deadline or by the transaction's.
    pub(super) fn deadline(&self) -> Deadline {
        self.deadline.min(self.transaction)
    }

    /// Ready once the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline().instant().map_or(Poll::Pending, |at| self.poll_until(at, cx))
    }

    /// Ready at `at`.
    pub(super) fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        if sleep.deadline().into_std() > at {
            sleep.as_mut().reset(at.into());
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at.into());
            self.is_look_armed = false;
        }
        Poll::Pending
    }

    /// Ready once the deadline has passed, the client has left, or the statement is found in a deadlock. Once a second the client
    /// is looked at, without a system call; what it sends meanwhile is left in its socket.
    pub(super) fn poll_watching(&mut self, client: &Socket, cx: &mut Context<'_>) -> Poll<WaitError> {
        loop {
            if let Some(error) = ready!(self.poll_look(client, Deadline::NEVER, cx)) {
                return Poll::Ready(error);
            }
        }
    }

    /// The same, but also ready, with `None`, at `alarm` or before.
    pub(super) fn poll_look(&mut self, client: &Socket, alarm: Deadline, cx: &mut Context<'_>) -> Poll<Option<WaitError>> {
        if let LongWait::Told(wait) = &self.long_wait
            && let Some(report) = wait.verdict()
        {
            self.long_wait = LongWait::Not;
            return Poll::Ready(Some(WaitError::Deadlock(report)));
        }
        let deadline = self.deadline();
        if !self.is_look_armed {
            let look_at = Deadline::after(Instant::now(), LOOK_INTERVAL).min(deadline);
            self.arm(look_at);
        }
        if let Some(sleep) = &mut self.sleep {
            if let Some(at) = alarm.instant().filter(|at| *at < sleep.deadline().into_std()) {
                sleep.as_mut().reset(at.into());
            }
            ready!(sleep.as_mut().poll(cx));
        }
        self.is_look_armed = false;
        let now = Instant::now();
        if deadline.has_passed(now) {
            return Poll::Ready(Some(WaitError::DeadlinePassed));
        }
        if self.has_left(client, now) {
            return Poll::Ready(Some(WaitError::ClientLeft));
        }
        self.note_wait(now, cx);
        Poll::Ready(None)
    }

    /// Notes that the statement still waits.
    fn note_wait(&mut self, now: Instant, cx: &Context<'_>) {
        match &self.long_wait {
            LongWait::Not => self.long_wait = LongWait::Since(now),
            LongWait::Since(since) if now.duration_since(*since) < LOOK_INTERVAL || !self.session.holds_several() => {}
            LongWait::Since(_) => {
                let wait = self.waits.tell(&self.session, self.transaction_began, (now, cx.waker().clone()));
                self.long_wait = LongWait::Told(wait);
            }
            LongWait::Told(wait) => wait.renew(now, cx.waker()),
        }
    }

    /// Ready, once, when no statement has begun since the look before the last: after one to two [`LOOK_INTERVAL`]s.
    pub(super) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_look_due = self.sleep.as_ref().is_none_or(|sleep| !self.is_look_armed || sleep.is_elapsed());
        match self.silence {
            _ if !is_look_due => Poll::Pending,
            Silence::Broken => {
                self.silence = Silence::Watched;
                self.arm(Deadline::after(Instant::now(), LOOK_INTERVAL));
                self.sleep.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx))
            }
            Silence::Watched => {
                self.silence = Silence::Told;
                Poll::Ready(())
            }
            Silence::Told => Poll::Pending,
        }
    }

    fn arm(&mut self, deadline: Deadline) {
        let Some(at) = deadline.instant() else { return };
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at.into()),
            None => self.sleep = Some(Box::pin(sleep_until(at.into()))),
        }
        self.is_look_armed = true;
    }

    fn has_left(&mut self, client: &Socket, now: Instant) -> bool {
        match client.stream.peer() {
            PeerState::Open => {
                self.half_closed_since = None;
                false
            }
            PeerState::HalfClosed => {
                let since = *self.half_closed_since.get_or_insert(now);
                now.duration_since(since) >= self.half_closed_grace
            }
            PeerState::Gone => true,
        }
    }

    /// Reads into the connection's buffer, at most until the deadline.
    ///
    /// Cancel safe.
    pub(super) async fn fill(&mut self, connection: &mut Connection) -> Result<(), WaitError> {
        let n_read = poll_fn(|cx| match connection.socket.poll_fill(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map_err(WaitError::from)),
            Poll::Pending => self.poll(cx).map(|()| Err(WaitError::DeadlinePassed)),
        })
        .await?;
        if n_read == 0 {
            return Err(ConnectionLost("server closed the connection unexpectedly".to_owned()).into());
        }
        Ok(())
    }

    /// Writes the connection's output, at most until the deadline: a server that is stopped takes nothing.
    ///
    /// Not cancel safe: part of it may be written.
    pub(super) async fn send(&mut self, connection: &mut Connection) -> Result<(), WaitError> {
        poll_fn(|cx| match connection.socket.poll_flush(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map_err(WaitError::from)),
            Poll::Pending => self.poll(cx).map(|()| Err(WaitError::DeadlinePassed)),
        })
        .await
    }

    /// Reads into the connection's buffer while it writes what is left of its output: a server that waits until its answers
    /// are read takes no more of a long pipeline. Ends when `client` leaves.
    ///
    /// Not cancel safe while there is output.
    pub(super) async fn exchange(&mut self, connection: &mut Connection, client: &Socket) -> Result<(), WaitError> {
        let n_read = poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = connection.socket.poll_flush(cx) {
                return Poll::Ready(Err(error.into()));
            }
            match connection.socket.poll_fill(cx) {
                Poll::Ready(outcome) => Poll::Ready(outcome.map_err(WaitError::from)),
                Poll::Pending => self.poll_watching(client, cx).map(Err),
            }
        })
        .await?;
        if n_read == 0 {
            return Err(ConnectionLost("server closed the connection unexpectedly".to_owned()).into());
        }
        Ok(())
    }

    /// Reads until a whole message stands at the start of the connection's buffer, or the client that is `watched` leaves.
    ///
    /// Cancel safe.
    pub(super) async fn next_header(
        &mut self,
        connection: &mut Connection,
        watched: Option<&Socket>,
    ) -> Result<Header, WaitError> {
        loop {
            if let Some(header) = connection.buffered_header()? {
                return Ok(header);
            }
            match watched {
                Some(client) => self.exchange(connection, client).await?,
                None => self.fill(connection).await?,
            }
        }
    }
}
