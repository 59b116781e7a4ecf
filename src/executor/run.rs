//! Messages of the extended protocol on their way to one backend, and what their answers will be.

use std::collections::VecDeque;

use bytes::Bytes;

use super::batch::SessionStatement;
use super::relay::Mark;
use crate::session::set_config::SettingChange;
use crate::session::unpooled::Leftover;
use crate::topology::ShardId;

/// Messages that one backend has been sent, or will be with the next flush.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) shard: ShardId,
    pub(super) marks: VecDeque<Mark>,
    pub(super) n_marks: usize,
    /// Statements that the backend parses in this run: the index of their mark, their id, and whose Close stands before it.
    pub(super) parsed: Vec<(usize, u64, Option<u64>)>,
    /// Names that the client gives or frees in this run.
    pub(super) named: Vec<Named>,
    /// Something whose answer is no mark was written after the last mark: Bind, Describe, Execute.
    pub(super) has_unmarked: bool,
    pub(super) leftover: Leftover,
    /// Settings that its statements change by `set_config`.
    pub(super) changes: Vec<SettingChange>,
    pub(super) is_empty: bool,
}

/// A Parse or Close of the client's in a run.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) mark_idx: usize,
    pub(super) name: Bytes,
    /// What the name stood for.
    pub(super) previous: Option<SessionStatement>,
    /// Right behind the mark before it: if that one is answered and this is not, this itself has failed.
    pub(super) is_next: bool,
}

impl Run {
    pub(super) fn new(shard: ShardId, leftover: Leftover) -> Self {
        Self {
            shard,
            marks: VecDeque::new(),
            n_marks: 0,
            parsed: Vec::new(),
            named: Vec::new(),
            has_unmarked: false,
            leftover,
            changes: Vec::new(),
            is_empty: true,
        }
    }

    pub(super) fn push(&mut self, mark: Mark) {
        self.push_all(mark, 1);
    }

    pub(super) fn push_all(&mut self, mark: Mark, n: usize) {
        self.marks.extend(std::iter::repeat_n(mark, n));
        self.n_marks += n;
        self.has_unmarked &= n == 0;
    }

    /// To be called right before the mark is pushed.
    pub(super) fn note_name(&mut self, name: Bytes, previous: Option<SessionStatement>) {
        self.named.push(Named { mark_idx: self.n_marks, name, previous, is_next: !self.has_unmarked });
    }
}
