//! Why a client is tied to one server connection: state that lives in that server's session alone.

/// A kind of state that a backend keeps for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PinReason {
    /// LISTEN.
    Listen,
    /// A temporary table, view, sequence, function or type that the end of the transaction does not drop.
    Temporary,
    /// An advisory lock of the session.
    AdvisoryLock,
    /// A cursor WITH HOLD.
    Cursor,
    /// Settings that code has changed where the proxy could not see them.
    Settings,
    /// The last values of sequences, for `currval` and `lastval`.
    Sequence,
    /// LOAD, `setseed`, `dblink_connect`: nothing tells whether it is still there.
    Other,
}

impl PinReason {
    pub const ALL: [Self; 7] =
        [Self::Listen, Self::Temporary, Self::AdvisoryLock, Self::Cursor, Self::Settings, Self::Sequence, Self::Other];

    /// As metrics and `SHOW CLIENTS` name it.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Temporary => "temporary",
            Self::AdvisoryLock => "advisory_lock",
            Self::Cursor => "cursor",
            Self::Settings => "settings",
            Self::Sequence => "sequence",
            Self::Other => "other",
        }
    }

    /// What it is, to a client that cannot have it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Listen => "LISTEN",
            Self::Temporary => "a temporary table",
            Self::AdvisoryLock => "an advisory lock of the session",
            Self::Cursor => "a cursor WITH HOLD",
            Self::Settings => "code that changes settings",
            Self::Sequence => "the last value of a sequence",
            Self::Other => "what the statement sets up",
        }
    }
}

/// A set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct PinReasons(u8);

impl PinReasons {
    pub const NONE: Self = Self(0);

    pub const fn only(reason: PinReason) -> Self {
        Self(1 << reason as u8)
    }

    #[must_use]
    pub const fn with(self, reason: PinReason) -> Self {
        self.union(Self::only(reason))
    }

    #[must_use]
    pub const fn without(self, reason: PinReason) -> Self {
        Self(self.0 & !Self::only(reason).0)
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub const fn contains(self, reason: PinReason) -> bool {
        self.0 & Self::only(reason).0 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of [`PinReason::ALL`].
    pub fn iter(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL.into_iter().filter(move |reason| self.contains(*reason))
    }

    /// For an atomic.
    pub fn to_bits(self) -> u8 {
        self.0
    }

    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

/// The labels, separated by commas.
impl std::fmt::Display for PinReasons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.iter().map(PinReason::as_label).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_its_reasons_in_order() {
        let both = PinReasons::only(PinReason::Cursor).with(PinReason::Listen);
        assert_eq!(both.to_string(), "listen, cursor");
        assert_eq!(both.without(PinReason::Listen), PinReasons::only(PinReason::Cursor));
        assert!(PinReasons::NONE.is_empty() && !both.contains(PinReason::Other));
        assert_eq!(PinReasons::from_bits(both.to_bits()), both);
    }
}
