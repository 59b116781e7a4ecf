//! Counters of one database and of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Histogram;
use crate::session::pins::PinReason;

/// A number that only grows. An addition is one relaxed atomic instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a statement was answered: the label `route`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Single,
    AnyOne,
    Merge,
    Combine,
    Gather,
    Insert,
    Everywhere,
    Copy,
    Command,
    Refused,
}

impl Route {
    pub const ALL: [Self; 10] = [
        Self::Single,
        Self::AnyOne,
        Self::Merge,
        Self::Combine,
        Self::Gather,
        Self::Insert,
        Self::Everywhere,
        Self::Copy,
        Self::Command,
        Self::Refused,
    ];

    pub fn as_label(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::AnyOne => "any_one",
            Self::Merge => "merge",
            Self::Combine => "combine",
            Self::Gather => "gather",
            Self::Insert => "insert",
            Self::Everywhere => "everywhere",
            Self::Copy => "copy",
            Self::Command => "command",
            Self::Refused => "refused",
        }
    }
}

/// Whose fault an ErrorResponse to a client was: the label `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The client's: a refused statement, a protocol violation, a failed login.
    Client,
    /// A server reported it.
    Shard,
    /// No connection came free in time (53300).
    CheckoutTimeout,
    /// A shard did not answer in time (57014).
    ShardTimeout,
    /// A server could not be reached, or its connection broke.
    Connection,
    /// It was ended because of a deadlock that only several servers together have (40P01).
    Deadlock,
}

impl ErrorKind {
    pub const ALL: [Self; 6] =
        [Self::Client, Self::Shard, Self::CheckoutTimeout, Self::ShardTimeout, Self::Connection, Self::Deadlock];

    pub fn as_label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Shard => "shard",
            Self::CheckoutTimeout => "checkout_timeout",
            Self::ShardTimeout => "shard_timeout",
            Self::Connection => "connection",
            Self::Deadlock => "deadlock",
        }
    }
}

/// What a check of an answer over gathered rows has found: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    Equal,
    Differs,
    /// Too large, or it could not be run again.
    Skipped,
}

impl CheckOutcome {
    pub const ALL: [Self; 3] = [Self::Equal, Self::Differs, Self::Skipped];

    pub fn as_label(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::Skipped => "skipped",
        }
    }
}

/// What is counted for one database, since the start of the process.
#[derive(Debug, Default)]
pub struct DatabaseCounters {
    statements: [Histogram; Route::ALL.len()],
    errors: [Counter; ErrorKind::ALL.len()],
    pins: [Counter; PinReason::ALL.len()],
    self_checks: [Counter; CheckOutcome::ALL.len()],
    /// Ended transactions that reached a server, implicit ones too.
    pub n_transactions: Counter,
    pub n_two_phase_commits: Counter,
    /// Shards that were left out of answers.
    pub n_left_out: Counter,
    pub n_bytes_from_clients: Counter,
    pub n_bytes_to_clients: Counter,
    /// Cancel requests sent to servers.
    pub n_cancels: Counter,
    /// How often a session was folded because its client was silent.
    pub n_folded: Counter,
    pub n_template_hits: Counter,
    pub n_template_misses: Counter,
    /// From asking for a connection until it is there or the wait is given up.
    pub checkout_wait: Histogram,
}

impl DatabaseCounters {
    /// Counts one finished statement, whatever its outcome, and the time it took.
    pub fn record_statement(&self, route: Route, duration: Duration) {
        self.statements[route as usize].record(duration);
    }

    /// Counts one ErrorResponse to a client.
    pub fn count_error(&self, kind: ErrorKind) {
        self.errors[kind as usize].increment();
    }

    /// Counts one answer that was run again over gathered rows.
    pub fn count_self_check(&self, outcome: CheckOutcome) {
        self.self_checks[outcome as usize].increment();
    }

    pub fn n_self_checks(&self, outcome: CheckOutcome) -> u64 {
        self.self_checks[outcome as usize].value()
    }

    /// Counts one more reason for which a client keeps a server connection.
    pub fn count_pin(&self, reason: PinReason) {
        self.pins[reason as usize].increment();
    }

    pub fn n_pins(&self, reason: PinReason) -> u64 {
        self.pins[reason as usize].value()
    }

    pub fn n_statements(&self, route: Route) -> u64 {
        self.statement_duration(route).n_records()
    }

    pub fn n_errors(&self, kind: ErrorKind) -> u64 {
        self.errors[kind as usize].value()
    }

    pub fn statement_duration(&self, route: Route) -> &Histogram {
        &self.statements[route as usize]
    }
}

/// Counts a statement when dropped, so that one given up in the middle counts too.
#[derive(Debug)]
pub struct StatementTimer {
    counters: Arc<DatabaseCounters>,
    pub route: Route,
    started: Instant,
    /// When it was over, where that is known before the drop: a clock read less.
    pub ended: Option<Instant>,
}

impl StatementTimer {
    /// For a statement that has started at this moment.
    pub fn start(counters: Arc<DatabaseCounters>, route: Route, started: Instant) -> Self {
        Self { counters, route, started, ended: None }
    }
}

impl Drop for StatementTimer {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        self.counters.record_statement(self.route, ended.saturating_duration_since(self.started));
    }
}

/// What is counted for the whole process, before a database is known.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Accepted client sockets, cancel requests too.
    pub n_accepted: Counter,
    /// Clients turned away because of `server.max_clients` (53300).
    pub n_turned_away: Counter,
    /// Logins that failed: unknown database, wrong password, timeout.
    pub n_login_failures: Counter,
    /// Logins refused because too many had failed before (53400).
    pub n_logins_limited: Counter,
    /// Questions of `auth.query` to servers, and those of them that were not answered.
    pub n_user_lookups: Counter,
    pub n_user_lookup_failures: Counter,
    /// Cancel requests from clients.
    pub n_cancel_requests: Counter,
    /// TLS handshakes with clients that came about.
    pub n_tls_handshakes: Counter,
    /// TLS handshakes with clients that did not.
    pub n_tls_failures: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_their_own_index() {
        for (idx, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, idx, "{route:?}");
        }
        for (idx, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, idx, "{kind:?}");
        }
    }

    #[test]
    fn a_dropped_timer_counts_under_its_last_route() {
        let counters = Arc::new(DatabaseCounters::default());
        let mut timer = StatementTimer::start(Arc::clone(&counters), Route::Refused, Instant::now());
        timer.route = Route::Merge;
        drop(timer);
        assert_eq!((counters.n_statements(Route::Merge), counters.n_statements(Route::Refused)), (1, 0));
    }
}
