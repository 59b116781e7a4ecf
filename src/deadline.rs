//! One absolute instant per statement.
//!
//! Deadlines are made once and handed down; they are never summed. The clock is read by the shell and passed in.

use std::time::{Duration, Instant};

/// The instant at which a statement, a checkout or a login gives up. `None` means never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Self(Some(at))
    }
}

impl Deadline {
    pub const NEVER: Self = Self(None);

    /// A deadline `timeout` after `now`; a zero timeout means never, as in Postgres's own settings.
    pub fn after(now: Instant, timeout: Duration) -> Self {
        if timeout.is_zero() { Self::NEVER } else { Self(now.checked_add(timeout)) }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    pub fn has_passed(self, now: Instant) -> bool {
        self.0.is_some_and(|at| at <= now)
    }
}
