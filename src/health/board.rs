//! What everyone may know of a database's nodes, readable without a lock.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::states::{Node, NodeRole, NodeState, ProbeOutcome, ShardStates, Thresholds};
use crate::deadline::Deadline;
use crate::sqlstate::{Report, SqlState};
use crate::topology::{NodeAddress, ShardId, Topology};

/// Most nodes of a shard that the board tells apart; the index 255 says "none".
const NO_NODE: u8 = u8::MAX;

/// The nodes of one database.
#[derive(Debug)]
pub struct Board {
    shards: Vec<ShardBoard>,
    /// Counts changes of a primary.
    changes: watch::Sender<u64>,
    /// Counts ended probes.
    rounds: watch::Sender<u64>,
}

/// One node as SHOW NODES and the metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    pub shard: ShardId,
    pub shard_name: String,
    /// Index in the shard's nodes.
    pub node_idx: usize,
    pub address: NodeAddress,
    pub state: NodeState,
    /// How long it has been in `state`.
    pub state_age: Duration,
    pub role: NodeRole,
    pub timeline: Option<u32>,
    /// Byte position in the write-ahead log, written or replayed.
    pub lsn: Option<u64>,
    pub max_prepared_transactions: Option<u32>,
    /// Why the last probe was refused or failed.
    pub fault: Option<String>,
}

#[derive(Debug)]
struct ShardBoard {
    name: String,
    nodes: Vec<NodeAddress>,
    primary: AtomicU8,
    reader: AtomicU8,
    allows_two_phase: AtomicBool,
    states: Mutex<ShardStates>,
    /// One per node: wakes its prober.
    wakers: Vec<Notify>,
}

impl Board {
    /// A board on which no probe has ended: the first node of each shard counts as its primary.
    pub fn new(topology: &Topology) -> Self {
        let now = Instant::now();
        let shards = topology.shards.iter().map(|shard| ShardBoard {
            name: shard.name.clone(),
            nodes: shard.nodes.clone(),
            primary: AtomicU8::new(0),
            reader: AtomicU8::new(0),
            allows_two_phase: AtomicBool::new(true),
            states: Mutex::new(ShardStates::new(shard.nodes.len(), now)),
            wakers: shard.nodes.iter().map(|_| Notify::new()).collect(),
        });
        Self { shards: shards.collect(), changes: watch::Sender::new(0), rounds: watch::Sender::new(0) }
    }

    /// Index in the shard's nodes of the one that takes writes.
    pub fn primary_of(&self, shard: ShardId) -> Option<usize> {
        node_at(&self.shards[shard.index()].primary)
    }

    /// Index in the shard's nodes of the one for reads: the primary if it is up, else an up replica.
    pub fn reader_of(&self, shard: ShardId) -> Option<usize> {
        node_at(&self.shards[shard.index()].reader)
    }

    /// An up replica for a read whose node `failed` could not be reached, though it is not held to be down yet.
    pub fn replica_besides(&self, shard: ShardId, failed: usize) -> Option<usize> {
        locked(&self.shards.get(shard.index())?.states).replica_besides(Some(failed))
    }

    /// Whether the shard's primary allows prepared transactions. True before the first probe: the server then refuses.
    pub fn allows_two_phase(&self, shard: ShardId) -> bool {
        self.shards[shard.index()].allows_two_phase.load(Ordering::Relaxed)
    }

    /// Tells that a connection to a node could not be made, or broke. Does not count against the node: it makes the
    /// next probe come at once. A full pool is not such a failure.
    pub fn report_connect_failure(&self, shard: ShardId, node_idx: usize) {
        self.wake(shard, node_idx);
    }

    /// Tells that a connection to a node was made. A node that is held to be down is probed at once.
    pub fn report_connect_ok(&self, shard: ShardId, node_idx: usize) {
        let is_usable = self.reader_of(shard) == Some(node_idx) || self.primary_of(shard) == Some(node_idx);
        if !is_usable && self.state_of(shard, node_idx) == Some(NodeState::Down) {
            self.wake(shard, node_idx);
        }
    }

    /// Waits until the shard has a primary and returns its index in the shard's nodes. Returns at once if it has one.
    ///
    /// # Errors
    /// 57P03 when there is none by `deadline`.
    ///
    /// Cancel safe.
    pub async fn wait_for_primary(&self, shard: ShardId, deadline: Deadline) -> Result<usize, Report> {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(node_idx) = self.primary_of(shard) {
                return Ok(node_idx);
            }
            let has_changed = match deadline.instant() {
                // The board owns the sender, so the channel cannot close while it waits.
                None => changes.changed().await.is_ok(),
                Some(at) => matches!(tokio::time::timeout_at(at.into(), changes.changed()).await, Ok(Ok(()))),
            };
            if !has_changed {
                return self.primary_of(shard).ok_or_else(|| self.no_primary(shard));
            }
        }
    }

    /// What is known of every node, in the order of the configuration.
    pub fn snapshot(&self) -> Vec<NodeStatus> {
        let now = Instant::now();
        let shards = self.shards.iter().enumerate();
        shards.flat_map(|(idx, shard)| shard.statuses(ShardId(idx as u8), now)).collect()
    }

    /// Takes the outcome of a probe, and logs what it changed.
    pub fn record(&self, shard: ShardId, node_idx: usize, outcome: ProbeOutcome, thresholds: Thresholds) {
        let board = &self.shards[shard.index()];
        let primary_before = self.primary_of(shard);
        let (before, after) = {
            let mut states = locked(&board.states);
            let before = states.nodes().get(node_idx).cloned();
            states.record(node_idx, outcome, thresholds, Instant::now());
            board.publish(&states);
            (before, states.nodes().get(node_idx).cloned())
        };
        if let (Some(before), Some(after)) = (before, after) {
            board.log_change(&board.nodes[node_idx], &before, &after);
        }
        if primary_before != self.primary_of(shard) {
            self.log_primary(shard);
            self.changes.send_modify(|n_changes| *n_changes += 1);
        }
        self.rounds.send_modify(|n_probes| *n_probes += 1);
    }

    /// Changes with each ended probe.
    pub(super) fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// Whether one more probe may change the node's state.
    pub(super) fn is_undecided(&self, shard: ShardId, node_idx: usize) -> bool {
        locked(&self.shards[shard.index()].states).is_undecided(node_idx)
    }

    /// Whether every node was probed at least once.
    pub(super) fn is_probed(&self) -> bool {
        let is_known = |shard: &ShardBoard| {
            locked(&shard.states).nodes().iter().all(|node| node.state != NodeState::Unknown || node.fault.is_some())
        };
        self.shards.iter().all(is_known)
    }

    /// Waits until somebody reports a failed connection to the node. Cancel safe.
    pub(super) async fn woken(&self, shard: ShardId, node_idx: usize) {
        match self.shards[shard.index()].wakers.get(node_idx) {
            Some(waker) => waker.notified().await,
            None => std::future::pending().await,
        }
    }

    fn wake(&self, shard: ShardId, node_idx: usize) {
        // A dedicated engine is not on the board.
        if let Some(waker) = self.shards.get(shard.index()).and_then(|shard| shard.wakers.get(node_idx)) {
            waker.notify_one();
        }
    }

    fn state_of(&self, shard: ShardId, node_idx: usize) -> Option<NodeState> {
        locked(&self.shards[shard.index()].states).nodes().get(node_idx).map(|node| node.state)
    }

    fn log_primary(&self, shard: ShardId) {
        let board = &self.shards[shard.index()];
        match self.primary_of(shard).and_then(|idx| board.nodes.get(idx)) {
            Some(address) => tracing::info!(shard = %board.name, node = %address, "new primary"),
            None => tracing::error!(shard = %board.name, "shard has no primary: writes wait"),
        }
    }

    fn no_primary(&self, shard: ShardId) -> Report {
        let name = &self.shards[shard.index()].name;
        let faults: Vec<String> = self
            .snapshot()
            .into_iter()
            .filter(|status| status.shard == shard)
            .map(|status| match (status.role, status.fault) {
                (_, Some(fault)) => format!("{}: {fault}", status.address),
                (NodeRole::Replica, None) => format!("{}: is a replica", status.address),
                (NodeRole::Fenced, None) => format!("{}: is on an old timeline", status.address),
                (_, None) => format!("{}: not up yet", status.address),
            })
            .collect();
        Report::new(SqlState::CANNOT_CONNECT_NOW, format!("shard \"{name}\" has no primary")).with_detail(faults.join("; "))
    }
}

impl ShardBoard {
    fn log_change(&self, node: &NodeAddress, before: &Node, after: &Node) {
        let shard = &self.name;
        let fault = after.fault.as_deref().unwrap_or_default();
        match (before.state == after.state, after.state) {
            (false, NodeState::Down) => tracing::warn!(%shard, %node, fault, "node is down"),
            (false, _) if fault.is_empty() => tracing::info!(%shard, %node, "node is up"),
            (false, _) => tracing::warn!(%shard, %node, fault, "node is there, but its probe is refused"),
            (true, NodeState::Up) if before.fault.is_none() && after.fault.is_some() => {
                tracing::warn!(%shard, %node, fault, "probe failed or was refused");
            }
            (true, _) => {}
        }
    }

    fn publish(&self, states: &ShardStates) {
        self.primary.store(states.primary().map_or(NO_NODE, |idx| idx as u8), Ordering::Release);
        self.reader.store(states.reader().map_or(NO_NODE, |idx| idx as u8), Ordering::Release);
        self.allows_two_phase.store(states.allows_two_phase(), Ordering::Relaxed);
    }

    fn statuses(&self, shard: ShardId, now: Instant) -> Vec<NodeStatus> {
        let states = locked(&self.states);
        let nodes = states.nodes().iter().zip(&self.nodes).enumerate();
        nodes
            .map(|(node_idx, (node, address))| NodeStatus {
                shard,
                shard_name: self.name.clone(),
                node_idx,
                address: address.clone(),
                state: node.state,
                state_age: now.saturating_duration_since(node.since),
                role: states.role(node_idx),
                timeline: node.report.map(|report| report.timeline),
                lsn: node.report.map(|report| report.lsn),
                max_prepared_transactions: node.report.map(|report| report.max_prepared_transactions),
                fault: node.fault.clone(),
            })
            .collect()
    }
}

impl NodeState {
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl NodeRole {
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Fenced => "fenced",
        }
    }
}

fn node_at(slot: &AtomicU8) -> Option<usize> {
    Some(slot.load(Ordering::Acquire)).filter(|&idx| idx != NO_NODE).map(usize::from)
}

/// A panic under this lock leaves nothing half done, so a poisoned lock is used on.
fn locked(states: &Mutex<ShardStates>) -> std::sync::MutexGuard<'_, ShardStates> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::health::NodeReport;
    use crate::topology::{Engine, Shard};

    const AT_ONCE: Thresholds = Thresholds { fall: 1, rise: 1 };
    const SHARD: ShardId = ShardId(0);

    fn board() -> Board {
        let node = |port| NodeAddress { host: "127.0.0.1".into(), port };
        Board::new(&Topology {
            database: "shop".into(),
            shards: vec![Shard { name: "asia".into(), dbname: "shop".into(), nodes: vec![node(1), node(2)] }],
            tables: HashMap::new(),
            default_shard: None,
            engine: Engine::Any,
            safe_functions: HashSet::new(),
            epoch: 0,
        })
    }

    fn report(is_in_recovery: bool, timeline: u32) -> ProbeOutcome {
        ProbeOutcome::Report(NodeReport { is_in_recovery, timeline, lsn: 9, max_prepared_transactions: 0 })
    }

    #[tokio::test]
    async fn a_write_waits_for_the_new_primary() {
        let board = board();
        assert_eq!((board.primary_of(SHARD), board.allows_two_phase(SHARD), board.is_probed()), (Some(0), true, false));
        board.record(SHARD, 0, ProbeOutcome::Failed("gone".into()), AT_ONCE);
        board.record(SHARD, 1, report(true, 1), AT_ONCE);
        assert_eq!((board.primary_of(SHARD), board.reader_of(SHARD), board.is_probed()), (None, Some(1), true));

        // The wait is polled first and finds no primary; the promotion comes while it is pending.
        let promotion = async { board.record(SHARD, 1, report(false, 2), AT_ONCE) };
        let (primary, ()) = tokio::join!(board.wait_for_primary(SHARD, Deadline::NEVER), promotion);
        assert_eq!(primary, Ok(1));
        assert!(!board.allows_two_phase(SHARD));
    }

    #[tokio::test]
    async fn the_wait_ends_at_its_deadline_and_says_why() {
        let board = board();
        board.record(SHARD, 0, ProbeOutcome::Failed("gone".into()), AT_ONCE);
        board.record(SHARD, 1, report(true, 1), AT_ONCE);
        let deadline = Deadline::after(Instant::now(), Duration::from_millis(5));
        let error = board.wait_for_primary(SHARD, deadline).await.unwrap_err();
        assert_eq!(error.sqlstate, SqlState::CANNOT_CONNECT_NOW);
        assert_eq!(error.detail.as_deref(), Some("127.0.0.1:1: gone; 127.0.0.1:2: is a replica"));
    }

    #[tokio::test]
    async fn a_failed_connection_wakes_the_prober_and_nothing_else() {
        let board = board();
        board.record(SHARD, 0, report(false, 1), AT_ONCE);
        board.report_connect_failure(SHARD, 0);
        board.woken(SHARD, 0).await;
        assert_eq!(board.primary_of(SHARD), Some(0));
    }
}
