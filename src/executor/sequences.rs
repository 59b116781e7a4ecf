//! The last values of sequences, which `currval` and `lastval` tell: state of one server's session.
//!
//! Nobody can ask a server which of them it has. So where clients read them, a backend that is new to a client forgets those of
//! others first, and one on which the client may have moved a sequence is kept.

use super::Conversation;
use super::enlist::Enlisted;
use super::failure::Failure;
use crate::config::PoolMode;
use crate::session::bonds::Bonds;

/// Whether a client's last values of sequences are on backends that it has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastValues {
    /// They are, if it has any.
    Kept,
    /// It has moved a sequence on a backend that it has given back.
    Lost,
}

impl Conversation {
    /// Has a backend that comes from the pool forget what others have drawn from sequences, where somebody may ask for it. Sent
    /// together with what comes next.
    pub(super) fn clear_sequences(&self, held: &mut Enlisted) {
        let is_own = held.lease.sequence_user == self.entry.id;
        if is_own || !self.database.keeps_sequences() || self.database.config.pool.mode != PoolMode::Transaction {
            return;
        }
        held.lease.is_clean = false;
        held.lease.write_query(b"DISCARD SEQUENCES");
        held.n_skipped_cycles += 1;
        held.lease.sequence_user = self.entry.id;
    }

    /// Keeps the backend of a statement that may move sequences, where their last values are asked for.
    ///
    /// # Errors
    /// TL106 for a statement that asks for them when they may be in another session.
    pub(super) fn tie_sequences(&mut self, idx: usize, bonds: Bonds) -> Result<(), Failure> {
        let mode = self.database.config.pool.mode;
        if mode == PoolMode::Session {
            return Ok(());
        }
        if bonds.contains(Bonds::MOVES_SEQUENCES) {
            let is_cleared = self.enlisted[idx].lease.sequence_user == self.entry.id && self.database.keeps_sequences();
            let is_kept = is_cleared && mode == PoolMode::Transaction && self.pin_for_sequences(idx);
            self.last_values = if is_kept { LastValues::Kept } else { LastValues::Lost };
            if !is_kept {
                self.enlisted[idx].lease.sequence_user = 0;
            }
        }
        if !bonds.contains(Bonds::READS_SEQUENCES) {
            return Ok(());
        }
        if self.last_values == LastValues::Lost || self.enlisted[idx].lease.sequence_user != self.entry.id {
            return Err(unknown_values(mode));
        }
        Ok(())
    }
}

fn unknown_values(mode: PoolMode) -> Failure {
    let hint = match mode {
        PoolMode::Transaction | PoolMode::Session => {
            "Use INSERT … RETURNING or what nextval returns; or set pool.keep_sequences, or pool.mode = \"session\"."
        }
        PoolMode::Statement => "Use INSERT … RETURNING or what nextval returns; or pool.mode = \"session\".",
    };
    Failure::refused("TL106", "currval and lastval are about one server's session, which is not this client's alone", hint)
}
