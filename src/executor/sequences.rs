//! The last values of sequences, which `currval` and `lastval` tell: state of one server's session.
//!
//! Nobody can ask a server which of them it has. So a backend forgets those of others before the client draws from a sequence in
//! a block, and where clients of the database read them, from the time on when it comes from the pool. A block holds its backend
//! anyhow; where they are read, the client keeps it beyond.

use super::Conversation;
use super::enlist::Enlisted;
use super::failure::Failure;
use crate::config::PoolMode;
use crate::session::bonds::Bonds;
use crate::session::transaction::Phase;
use crate::topology::ShardId;

/// Where a client's last values of sequences are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastValues {
    /// It has moved no sequence.
    None,
    /// On backends that it holds, the last one of this shard; `is_spread`: others have been moved on another.
    On { shard: ShardId, is_spread: bool },
    /// On a backend that it has given back.
    Lost,
}

impl LastValues {
    /// The shard on which the client has moved a sequence last.
    pub(super) fn shard(self) -> Option<ShardId> {
        if let Self::On { shard, .. } = self { Some(shard) } else { None }
    }

    /// The client may have moved a sequence on `shard`.
    fn moved_on(self, shard: ShardId) -> Self {
        match self {
            Self::On { shard: before, is_spread } => Self::On { shard, is_spread: is_spread || before != shard },
            Self::None | Self::Lost => Self::On { shard, is_spread: false },
        }
    }
}

/// What the client's blocks do with sequences: the next one most likely does what the last one did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockHabit {
    Unknown,
    /// The last block has moved some, perhaps.
    Draws,
    /// The same, and a query is about to begin the next block: what others have drawn is forgotten together with its BEGIN.
    DrawsNow,
}

impl Enlisted {
    /// Has the backend forget what others than `user` have drawn from sequences. Sent together with what comes next.
    pub(super) fn clear_sequences(&mut self, user: u64) {
        self.lease.is_clean = false;
        self.lease.write_query(b"DISCARD SEQUENCES");
        self.n_skipped_cycles += 1;
        self.lease.sequence_user = user;
    }
}

impl Conversation {
    /// Whether a backend may have last values of another client.
    pub(super) fn has_others_values(&self, held: &Enlisted) -> bool {
        self.database.config.pool.mode == PoolMode::Transaction && held.lease.sequence_user != self.entry.id
    }

    /// Clears a backend in a client's block, before its first statement there that may move a sequence or asks for a last
    /// value; and before a string that does both.
    pub(super) fn clear_in_block(&mut self, idx: usize, bonds: Bonds) {
        if self.needs_clearing(idx, bonds) && self.enlisted[idx].is_ready {
            self.enlisted[idx].clear_sequences(self.entry.id);
        }
    }

    /// Whether what another client has drawn on a backend must be forgotten before a statement of a block.
    pub(super) fn needs_clearing(&self, idx: usize, bonds: Bonds) -> bool {
        bonds.touches(Bonds::MOVES_SEQUENCES.union(Bonds::READS_SEQUENCES))
            && (self.transaction.phase == Phase::Explicit || bonds.moves_and_reads())
            && self.has_others_values(&self.enlisted[idx])
    }

    /// Notes a statement that may move sequences, and keeps its backend where their last values are asked for.
    ///
    /// # Errors
    /// TL106 for a statement that asks for them when they may be in another session.
    pub(super) fn tie_sequences(&mut self, idx: usize, bonds: Bonds) -> Result<(), Failure> {
        let mode = self.database.config.pool.mode;
        let shard = self.enlisted[idx].lease.shard;
        if mode == PoolMode::Session {
            // Each backend is the client's own from the start.
            self.enlisted[idx].lease.sequence_user = self.entry.id;
        }
        let is_own = self.enlisted[idx].lease.sequence_user == self.entry.id;
        if bonds.contains(Bonds::MOVES_SEQUENCES) {
            let is_kept = is_own
                && (mode == PoolMode::Session
                    || self.transaction.is_open()
                    || bonds.moves_and_reads()
                    || self.keeps_backend(idx));
            if is_kept {
                self.last_values = self.last_values.moved_on(shard);
            } else {
                self.last_values = LastValues::Lost;
                self.enlisted[idx].lease.sequence_user = 0;
            }
        }
        if !bonds.touches(Bonds::READS_SEQUENCES) {
            return Ok(());
        }
        let is_known = match self.last_values {
            LastValues::None => is_own,
            LastValues::On { shard: last, is_spread } => {
                is_own && last == shard && !(is_spread && bonds.contains(Bonds::READS_SEQUENCE))
            }
            LastValues::Lost => false,
        };
        if !is_known {
            return Err(unknown_values(mode));
        }
        // What was drawn in a block is asked for behind it, too.
        if self.last_values != LastValues::None {
            self.keeps_backend(idx);
        }
        Ok(())
    }

    /// To be called before a backend is enlisted for a query, and after. Only for a query: DISCARD takes a snapshot, before which
    /// a transaction's characteristics are to be set.
    pub(super) fn follow_habit(&mut self, is_enlisted: bool) {
        self.block_habit = match self.block_habit {
            BlockHabit::Unknown => BlockHabit::Unknown,
            _ if is_enlisted => BlockHabit::Draws,
            _ => BlockHabit::DrawsNow,
        };
    }

    /// At the end of a transaction.
    pub(super) fn note_habit(&mut self) {
        let draws = self.enlisted.iter().any(|held| held.bonds.contains(Bonds::MOVES_SEQUENCES));
        self.block_habit = if draws { BlockHabit::Draws } else { BlockHabit::Unknown };
    }

    fn keeps_backend(&mut self, idx: usize) -> bool {
        let is_kept = self.database.keeps_sequences() && self.database.config.pool.mode == PoolMode::Transaction;
        is_kept && self.pin_for_sequences(idx)
    }

    /// Backends are given back: last values on those that are not kept are lost.
    pub(super) fn lose_last_values(&mut self) {
        let Some(shard) = self.last_values.shard() else { return };
        if self.database.config.pool.mode == PoolMode::Session {
            return;
        }
        for idx in 0..self.enlisted.len() {
            if self.enlisted[idx].bonds.contains(Bonds::MOVES_SEQUENCES) && !self.is_pinned_for_sequences(idx) {
                self.enlisted[idx].lease.sequence_user = 0;
                if self.enlisted[idx].lease.shard == shard {
                    self.last_values = LastValues::Lost;
                }
            }
        }
    }
}

fn unknown_values(mode: PoolMode) -> Failure {
    let hint = match mode {
        PoolMode::Transaction | PoolMode::Session => {
            "Use INSERT … RETURNING or what nextval returns; or set pool.keep_sequences, or ask in the transaction that has drawn."
        }
        PoolMode::Statement => "Use INSERT … RETURNING or what nextval returns; or pool.mode = \"session\".",
    };
    Failure::refused("TL106", "currval and lastval are about one server's session, which is not this client's alone", hint)
}
