//! What ties a statement to one server beyond its tables: locks until the end of the transaction, notifications, and the last
//! values of sequences. Told by its words, and by those of the code that it runs.

use crate::plan::is_met_at_home;

/// A set of ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Bonds(u8);

impl Bonds {
    pub const NONE: Self = Self(0);
    /// Takes advisory locks that the end of the transaction releases.
    pub const LOCKS: Self = Self(1);
    /// Takes advisory locks, and does nothing else that could write.
    pub const ONLY_LOCKS: Self = Self(2);
    /// NOTIFY, LISTEN, UNLISTEN: such a transaction cannot be prepared.
    pub const NOTIFIES: Self = Self(4);
    /// Calls code that does what all sessions do on one shard.
    pub const MEETS: Self = Self(8);
    /// Names a table whose triggers do, if it is written.
    pub const MEETS_BY_TRIGGER: Self = Self(16);
    /// May change the session's last values of sequences.
    pub const MOVES_SEQUENCES: Self = Self(32);
    /// Reads the last value of one: `currval`.
    pub const READS_SEQUENCE: Self = Self(64);
    /// Reads the last value of all: `lastval`.
    pub const READS_LAST: Self = Self(128);
    /// Reads one or the other.
    pub const READS_SEQUENCES: Self = Self(64 + 128);

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is among them.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether some of `other` is among them.
    pub const fn touches(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it may move sequences and read their last values.
    pub const fn moves_and_reads(self) -> bool {
        self.touches(Self::MOVES_SEQUENCES) && self.touches(Self::READS_SEQUENCES)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Of known code that a statement calls, or else names as a table.
    #[must_use]
    pub(super) fn as_named(self, is_called: bool) -> Self {
        if is_called || !self.contains(Self::MEETS) { self } else { self.without(Self::MEETS).union(Self::MEETS_BY_TRIGGER) }
    }

    /// Of a body of code that moves sequences itself before it reads them, as far as anybody can tell.
    #[must_use]
    pub(super) const fn of_body(self) -> Self {
        if self.contains(Self::MOVES_SEQUENCES) { self.without(Self::READS_SEQUENCES) } else { self }
    }
}

/// Of a word of a statement.
pub(super) fn of_word(name: &str) -> Bonds {
    match name {
        "nextval" | "setval" | "insert" | "merge" | "copy" => Bonds::MOVES_SEQUENCES,
        "currval" => Bonds::READS_SEQUENCE,
        "lastval" => Bonds::READS_LAST,
        "pg_notify" => Bonds::NOTIFIES,
        _ if name.starts_with("pg_advisory_xact_") || name.starts_with("pg_try_advisory_xact_") => Bonds::LOCKS,
        _ => Bonds::NONE,
    }
}

/// Of a word of code, whose calls the planner does not see.
pub(super) fn of_code_word(word: &str, begins: bool) -> Bonds {
    match word {
        "notify" if begins => Bonds::NOTIFIES.union(Bonds::MEETS),
        word if is_met_at_home(word) => of_word(word).union(Bonds::MEETS),
        word => of_word(word),
    }
}

/// Whether a call beside those of advisory locks writes nothing: what their arguments are made of.
pub(super) fn is_harmless_call(name: &str) -> bool {
    const HARMLESS: [&str; 14] = [
        "abs",
        "all",
        "any",
        "ascii",
        "cast",
        "coalesce",
        "count",
        "hashtext",
        "hashtextextended",
        "in",
        "length",
        "lower",
        "md5",
        "values",
    ];
    name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_") || HARMLESS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_only_is_named_may_be_a_trigger() {
        let notifies = of_code_word("pg_notify", false);
        assert!(notifies.as_named(true).contains(Bonds::MEETS.union(Bonds::NOTIFIES)));
        assert!(notifies.as_named(false).contains(Bonds::MEETS_BY_TRIGGER) && !notifies.as_named(false).contains(Bonds::MEETS));
    }

    #[test]
    fn code_that_draws_from_a_sequence_reads_its_own_value() {
        let both = of_code_word("nextval", false).union(of_code_word("currval", false));
        assert_eq!(both.of_body(), Bonds::MOVES_SEQUENCES);
        assert_eq!(of_code_word("lastval", false).of_body(), Bonds::READS_LAST);
    }
}
