//! How long a client may take: the clock of its transaction, and that of its silence between two statements.
//!
//! Words and codes are those of ProcessInterrupts in src/backend/tcop/postgres.c.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::Conversation;
use super::failure::Failure;
use super::own_settings::IDLE_SESSION_TIMEOUT;
use crate::deadline::Deadline;
use crate::observe::ErrorKind;
use crate::sqlstate::SqlState;

impl Conversation {
    /// Says how long a statement goes on for a client that has closed its sending half.
    pub fn set_half_closed_grace(&mut self, grace: Duration) {
        self.timer.set_half_closed_grace(grace);
    }

    /// The client's turn begins: it may send its next statement. Reads no clock where no limit is set.
    pub fn begin_rest(&mut self) {
        let query = &self.database.query;
        let limit = match self.transaction.is_open() {
            true => query.idle_in_transaction_timeout,
            false if self.settings.value(IDLE_SESSION_TIMEOUT).is_none() => query.idle_session_timeout,
            false => shorter(query.idle_session_timeout, self.own_idle_limit()),
        };
        self.rest_until = if limit.is_zero() { Deadline::NEVER } else { Deadline::after(Instant::now(), limit) };
    }

    /// Ready with the end of the session once its client has been silent for too long: 57P05, 25P03 in a transaction, or 25P04
    /// when the transaction as a whole takes too long.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let is_open = self.transaction.is_open();
        let transaction = if is_open { self.timer.transaction() } else { Deadline::NEVER };
        let Some(at) = self.rest_until.min(transaction).instant() else { return Poll::Pending };
        ready!(self.timer.poll_until(at, cx));
        Poll::Ready(if transaction.has_passed(Instant::now()) {
            transaction_timeout()
        } else if is_open {
            let message = "terminating connection due to idle-in-transaction timeout";
            Failure::fatal(SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, message)
        } else {
            idle_session_timeout()
        })
    }

    /// Ready, once, when the client has been silent for a second at least and may be so for long. Costs a client that is not
    /// silent a timer operation per second.
    pub fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.poll_silence(cx)
    }

    /// A transaction begins at `now`.
    pub(super) fn begin_transaction_clock(&mut self, now: Instant) {
        self.timer.begin_transaction(now, Deadline::after(now, self.database.query.transaction_timeout));
    }

    pub(super) fn stop_transaction_clock(&mut self) {
        self.timer.end_transaction();
    }

    /// Ends the session when a wait was given up because the transaction's time is over, and not the statement's.
    pub(super) fn check_transaction_clock(&self, failure: &Failure) -> Result<(), Failure> {
        let is_late = matches!(
            failure,
            Failure::Statement { kind: ErrorKind::ShardTimeout | ErrorKind::CheckoutTimeout | ErrorKind::Connection, .. }
        );
        if is_late && self.timer.transaction().has_passed(Instant::now()) { Err(transaction_timeout()) } else { Ok(()) }
    }
}

/// The shorter of two limits, of which zero is none.
fn shorter(a: Duration, b: Duration) -> Duration {
    if a.is_zero() || (!b.is_zero() && b < a) { b } else { a }
}

pub(super) fn idle_session_timeout() -> Failure {
    Failure::fatal(SqlState::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout")
}

fn transaction_timeout() -> Failure {
    Failure::fatal(SqlState::TRANSACTION_TIMEOUT, "terminating connection due to transaction timeout")
}
