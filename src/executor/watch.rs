//! What is noted of a read over several shards while it runs, where somebody asks: how many rows each shard gives, and when.

use std::time::{Duration, Instant};

use super::Conversation;
use crate::topology::ShardId;

/// The part of a read that is the engine's.
const ENGINE_PART: usize = usize::MAX;

/// What has come from one shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The number of the table among those that are gathered, from 1 on; 0 on the other rungs.
    pub part: usize,
    pub shard: ShardId,
    pub n_rows: u64,
    pub n_bytes: u64,
    /// From the request to the end of the answer.
    pub time: Duration,
}

/// Rare, and boxed.
#[derive(Debug)]
pub(super) struct Watch {
    asked_at: Instant,
    part: usize,
    pub seen: Vec<Seen>,
    /// Who runs the final statement, and since when.
    pub engine: Option<(ShardId, Instant)>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { asked_at: Instant::now(), part: 0, seen: Vec::new(), engine: None }
    }

    /// Notes that shards are asked now.
    pub(super) fn note_request(&mut self) {
        self.asked_at = Instant::now();
    }

    pub(super) fn note_rows(&mut self, shard: ShardId, n_rows: u64, n_bytes: u64) {
        let seen = self.of(shard);
        seen.n_rows += n_rows;
        seen.n_bytes += n_bytes;
    }

    pub(super) fn note_end(&mut self, shard: ShardId) {
        let time = self.asked_at.elapsed();
        let seen = self.of(shard);
        if seen.time.is_zero() {
            seen.time = time;
        }
    }

    fn of(&mut self, shard: ShardId) -> &mut Seen {
        let part = self.part;
        let at = self.seen.iter().position(|seen| seen.part == part && seen.shard == shard).unwrap_or_else(|| {
            self.seen.push(Seen { part, shard, n_rows: 0, n_bytes: 0, time: Duration::ZERO });
            self.seen.len() - 1
        });
        &mut self.seen[at]
    }
}

impl Conversation {
    /// Notes that the rows of another table are read from now on: the `part`th, from 1 on.
    pub(super) fn watch_part(&mut self, part: usize) {
        if let Some(watch) = &mut self.watch {
            watch.part = part;
        }
    }

    /// Notes that the engine's part begins.
    pub(super) fn watch_engine(&mut self, engine: ShardId) {
        if let Some(watch) = &mut self.watch {
            watch.part = ENGINE_PART;
            watch.engine = Some((engine, Instant::now()));
        }
    }

    /// Notes rows of an enlisted backend, and the end of its answer.
    pub(super) fn watch_rows(&mut self, idx: usize, n_rows: u64, n_bytes: u64) {
        let Some(watch) = &mut self.watch else { return };
        let held = &self.enlisted[idx];
        if n_rows > 0 {
            watch.note_rows(held.lease.shard, n_rows, n_bytes);
        }
        if held.is_ready {
            watch.note_end(held.lease.shard);
        }
    }
}
