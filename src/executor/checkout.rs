//! Taking connections out of the pools, and what a client hears while it waits.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use super::failure::{Failure, client_left};
use super::timer::WaitError;
use super::{Conversation, Database};
use crate::backend::{Alarm, CheckoutError, Lease, Rank, UserPools, Wish};
use crate::deadline::Deadline;
use crate::observe::ClientState;
use crate::plan::Access;
use crate::session::wire::{self, Severity};
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Longest wait for a further connection while others are held: two clients may wait for each other.
pub(super) const HOLDING_CHECKOUT_TIMEOUT: Duration = Duration::from_secs(1);

impl Conversation {
    /// Takes a connection to a shard out of its pool. A client that waits for long is told so.
    ///
    /// # Errors
    /// 53300, 08006, 57P03, or the server's own refusal.
    pub(super) async fn take_lease(&mut self, shard: ShardId, access: Access) -> Result<Lease, Failure> {
        if let Some(lease) = self.idle_lease(shard, access) {
            return Ok(lease);
        }
        let now = Instant::now();
        let mut wait = self.database.config.pool.checkout_timeout;
        let rank = self.rank();
        if rank == Rank::Holder {
            wait = wait.min(HOLDING_CHECKOUT_TIMEOUT);
        }
        let deadline = Deadline::after(now, wait).min(self.timer.deadline());
        let notice_at = Deadline::after(now, self.database.config.pool.wait_notice);
        let wish = Wish { shard, node_idx: 0, rank, now, deadline, waits_out_pause: true };
        self.entry.enter(ClientState::Waiting);
        let outcome = Box::pin(self.lease_watching(access, wish, notice_at)).await;
        self.database.counters.checkout_wait.record(now.elapsed());
        self.entry.enter(ClientState::Active);
        outcome
    }

    /// Most often a connection is idle, and nobody waits for one.
    fn idle_lease(&self, shard: ShardId, access: Access) -> Option<Lease> {
        let node_idx = match access {
            _ if self.view.topology.shards.get(shard.index()).is_none() => 0,
            Access::Read => self.database.board.reader_of(shard)?,
            Access::Write => self.database.board.primary_of(shard)?,
        };
        // What a statement has taken of its time so far is nothing to a connection's age.
        let wish =
            Wish { shard, node_idx, rank: self.rank(), now: self.began, deadline: Deadline::NEVER, waits_out_pause: false };
        let lease = self.pools.checkout_idle(&wish)?;
        self.database.counters.checkout_wait.record(Duration::ZERO);
        Some(lease)
    }

    /// Whoever holds connections has others wait for them.
    fn rank(&self) -> Rank {
        if self.enlisted.is_empty() { Rank::Newcomer } else { Rank::Holder }
    }

    async fn lease_watching(&mut self, access: Access, wish: Wish, notice_at: Deadline) -> Result<Lease, Failure> {
        let Self { client, database, pools, timer, .. } = self;
        // In a transaction a write may follow: replicas serve it only while the primary is down.
        let alarm = Alarm::new(wish.now);
        let mut leasing = pin!(lease(database, pools, access, wish, &alarm));
        enum Event {
            Leased(Result<Lease, CheckoutError>),
            NoticeDue,
            Ended(WaitError),
        }
        // A notice stands before the statement's answer, or nowhere.
        let mut notice_at = if client.output.is_empty() { notice_at } else { Deadline::NEVER };
        loop {
            let event = poll_fn(|cx| {
                loop {
                    if let Poll::Ready(outcome) = leasing.as_mut().poll(cx) {
                        return Poll::Ready(Event::Leased(outcome));
                    }
                    // All that is waited for has one timer, which is seldom moved.
                    match ready!(timer.poll_look(client, alarm.at().min(notice_at), cx)) {
                        Some(error) => return Poll::Ready(Event::Ended(error)),
                        None if notice_at.has_passed(Instant::now()) => return Poll::Ready(Event::NoticeDue),
                        None => {}
                    }
                }
            });
            match event.await {
                Event::Leased(outcome) => return Ok(outcome?),
                Event::NoticeDue => {
                    notice_at = Deadline::NEVER;
                    wire::report(&mut client.output, Severity::Notice, &still_waiting(database, wish.shard));
                    client.flush().await?;
                }
                Event::Ended(WaitError::ClientLeft) => return Err(client_left()),
                Event::Ended(WaitError::Deadlock(report)) => return Err(Failure::deadlock(report)),
                Event::Ended(WaitError::DeadlinePassed | WaitError::Lost(_)) => {
                    let shard = database.config.topology.shard_name(wish.shard).to_owned();
                    return Err(CheckoutError::Timeout { shard }.into());
                }
            }
        }
    }
}

fn still_waiting(database: &Database, shard: ShardId) -> Report {
    let name = database.config.topology.shard_name(shard);
    Report::new(SqlState::SUCCESSFUL_COMPLETION, format!("waiting for a free server connection to shard \"{name}\""))
        .with_hint("See pool.max_per_node and pool.checkout_timeout in the configuration.")
}

/// Checks out a connection to the right node of a shard. A read tries another node when one cannot be reached; a write waits
/// for a primary until the deadline.
async fn lease(
    database: &Database,
    pools: &UserPools,
    access: Access,
    wish: Wish,
    alarm: &Alarm,
) -> Result<Lease, CheckoutError> {
    let (topology, shard) = (&database.config.topology, wish.shard);
    let no_node = || CheckoutError::NoNode { shard: topology.shard_name(shard).to_owned() };
    if topology.shards.get(shard.index()).is_none() {
        // The dedicated engine is one server and is not probed: its own error is the answer.
        return pools.checkout(wish, alarm).await;
    }
    let node_idx = match access {
        Access::Read => database.board.reader_of(shard),
        Access::Write => database.board.primary_of(shard),
    };
    let node_idx = match node_idx {
        Some(node_idx) => node_idx,
        None => database.board.wait_for_primary(shard, wish.deadline).await.map_err(|_| no_node())?,
    };
    // A read with somewhere else to go need not wait until this node is tried again.
    let waits_out_pause = access == Access::Write || topology.shard(shard).nodes.len() == 1;
    let failure = match pools.checkout(Wish { node_idx, waits_out_pause, ..wish }, alarm).await {
        Ok(lease) => return Ok(lease),
        Err(failure) => failure,
    };
    if !matches!(&failure, CheckoutError::Connect { error, .. } if error.is_evidence_against_node()) {
        return Err(failure);
    }
    database.board.report_connect_failure(shard, node_idx);
    match database.board.replica_besides(shard, node_idx).filter(|_| access == Access::Read) {
        Some(replica) => pools.checkout(Wish { node_idx: replica, ..wish }, alarm).await.map_err(|_| failure),
        None => Err(failure),
    }
}
