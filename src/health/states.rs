//! The state machine of one shard's nodes. Pure: the clock and the probes' outcomes are passed in.

use std::time::Instant;

/// How many outcomes in a row change a node's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failed probes until an up node is down.
    pub fall: u32,
    /// Good probes until a down node is up.
    pub rise: u32,
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeReport {
    pub is_in_recovery: bool,
    /// Of a primary the timeline it writes, of a replica the one of its last restart point.
    pub timeline: u32,
    /// Byte position in the write-ahead log: written by a primary, replayed by a replica.
    pub lsn: u64,
    pub max_prepared_transactions: u32,
}

/// The end of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    Report(NodeReport),
    /// The server is there but would not answer the question: too many connections, a wrong password, a missing right.
    /// A busy node is not a dead one.
    Refused(String),
    /// No connection, no answer in time, or a server that starts up or shuts down.
    Failed(String),
}

/// Whether a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// No probe has ended yet.
    Unknown,
    Up,
    Down,
}

/// What a node is to its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRole {
    /// It never said.
    Unknown,
    Primary,
    Replica,
    /// Not in recovery, but another node took over: it must be sent nothing.
    Fenced,
}

/// One node's part of the machine.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) state: NodeState,
    /// When `state` last changed.
    pub(super) since: Instant,
    pub(super) report: Option<NodeReport>,
    /// Why the last probe was refused or failed; `None` after a good one.
    pub(super) fault: Option<String>,
    n_against: u32,
}

/// The nodes of one shard.
#[derive(Debug, Clone)]
pub(super) struct ShardStates {
    nodes: Vec<Node>,
    primary: Option<usize>,
    /// The highest timeline that any primary of the shard ever had: a lower one stays fenced, even when the node that
    /// had the highest is gone.
    highest_timeline: u32,
}

impl ShardStates {
    pub(super) fn new(n_nodes: usize, now: Instant) -> Self {
        let node = Node { state: NodeState::Unknown, since: now, report: None, fault: None, n_against: 0 };
        Self { nodes: vec![node; n_nodes], primary: None, highest_timeline: 0 }
    }

    /// Takes the outcome of a probe of one node.
    ///
    /// A node's first outcome counts at once; after that a change of its state takes `fall` or `rise` outcomes in a row.
    /// A change of role needs no repetition: the server itself said it.
    pub(super) fn record(&mut self, node_idx: usize, outcome: ProbeOutcome, thresholds: Thresholds, now: Instant) {
        let Some(node) = self.nodes.get_mut(node_idx) else { return };
        let seems = match outcome {
            ProbeOutcome::Report(report) => {
                node.report = Some(report);
                node.fault = None;
                NodeState::Up
            }
            ProbeOutcome::Refused(fault) => {
                node.fault = Some(fault);
                NodeState::Up
            }
            ProbeOutcome::Failed(fault) => {
                node.fault = Some(fault);
                NodeState::Down
            }
        };
        node.approach(seems, thresholds, now);
        self.elect();
    }

    /// The node that takes writes. Without one, the first node counts as it as long as it was not probed, or no server
    /// of the shard told its role: a server that is none refuses writes by itself.
    pub(super) fn primary(&self) -> Option<usize> {
        self.primary.or_else(|| {
            let first = self.nodes.first()?;
            let is_silent = self.nodes.iter().all(|node| node.report.is_none());
            let may_be = first.state == NodeState::Unknown || is_silent && first.state == NodeState::Up;
            may_be.then_some(0)
        })
    }

    /// The node for reads: the primary, else the replica that has replayed most.
    pub(super) fn reader(&self) -> Option<usize> {
        self.primary().or_else(|| self.replica_besides(None))
    }

    /// The up replica that has replayed most, other than `failed`.
    pub(super) fn replica_besides(&self, failed: Option<usize>) -> Option<usize> {
        let replicas = (0..self.nodes.len()).filter(|&idx| Some(idx) != failed && self.is_readable_replica(idx));
        replicas.max_by_key(|&idx| (self.nodes[idx].report.map(|report| report.lsn), std::cmp::Reverse(idx)))
    }

    pub(super) fn role(&self, node_idx: usize) -> NodeRole {
        match self.nodes[node_idx].report {
            None => NodeRole::Unknown,
            Some(report) if report.is_in_recovery => NodeRole::Replica,
            Some(report) if self.is_current(report) && !self.is_second(node_idx) => NodeRole::Primary,
            Some(_) => NodeRole::Fenced,
        }
    }

    /// Whether the primary, or the last one known, allows prepared transactions. True before the first report: the
    /// server then refuses by itself.
    pub(super) fn allows_two_phase(&self) -> bool {
        let of_primary = self.primary.and_then(|idx| self.nodes[idx].report);
        let of_any = || self.nodes.iter().filter_map(|node| node.report).find(|report| !report.is_in_recovery);
        of_primary.or_else(of_any).is_none_or(|report| report.max_prepared_transactions > 0)
    }

    /// Whether the node's next probe may change its state: then it is worth asking sooner.
    pub(super) fn is_undecided(&self, node_idx: usize) -> bool {
        self.nodes.get(node_idx).is_some_and(|node| node.n_against > 0)
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The primary is the up node out of recovery on the highest timeline. Of two on the same timeline (two servers
    /// that were never one shard) the one that is primary already stays, else the first one is taken.
    fn elect(&mut self) {
        let told = self.nodes.iter().filter_map(|node| node.report).filter(|report| !report.is_in_recovery);
        self.highest_timeline = told.map(|report| report.timeline).fold(self.highest_timeline, u32::max);
        let candidate = |idx: &usize| {
            let node = &self.nodes[*idx];
            node.state == NodeState::Up && node.report.is_some_and(|report| self.is_current(report))
        };
        self.primary = self.primary.filter(candidate).or_else(|| (0..self.nodes.len()).find(candidate));
    }

    fn is_current(&self, report: NodeReport) -> bool {
        !report.is_in_recovery && report.timeline >= self.highest_timeline
    }

    fn is_second(&self, node_idx: usize) -> bool {
        self.primary.is_some_and(|primary| primary != node_idx)
    }

    fn is_readable_replica(&self, node_idx: usize) -> bool {
        self.nodes[node_idx].state == NodeState::Up && self.role(node_idx) == NodeRole::Replica
    }
}

impl Node {
    fn approach(&mut self, seems: NodeState, thresholds: Thresholds, now: Instant) {
        if seems == self.state {
            self.n_against = 0;
            return;
        }
        self.n_against += 1;
        let needed = match self.state {
            NodeState::Unknown => 1,
            NodeState::Up => thresholds.fall,
            NodeState::Down => thresholds.rise,
        };
        if self.n_against >= needed {
            (self.state, self.since, self.n_against) = (seems, now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { fall: 3, rise: 2 };

    /// `P2` a primary on timeline 2, `r1` a replica on timeline 1, `R` refused, `x` failed; by node: `0:P1`.
    fn after(n_nodes: usize, events: &str) -> ShardStates {
        let start = Instant::now();
        let mut shard = ShardStates::new(n_nodes, start);
        for event in events.split_whitespace() {
            let (node_idx, what) = event.split_once(':').unwrap();
            let report = |is_in_recovery| NodeReport {
                is_in_recovery,
                timeline: what[1..].parse().unwrap(),
                lsn: 100,
                max_prepared_transactions: 10,
            };
            let outcome = match what.as_bytes()[0] {
                b'P' => ProbeOutcome::Report(report(false)),
                b'r' => ProbeOutcome::Report(report(true)),
                b'R' => ProbeOutcome::Refused("53300".into()),
                _ => ProbeOutcome::Failed("refused".into()),
            };
            shard.record(node_idx.parse().unwrap(), outcome, THRESHOLDS, start);
        }
        shard
    }

    #[track_caller]
    fn check(events: &str, primary: Option<usize>, reader: Option<usize>) {
        let shard = after(2, events);
        assert_eq!((shard.primary(), shard.reader()), (primary, reader), "{events}");
    }

    #[test]
    fn the_first_node_is_primary_until_somebody_tells() {
        check("", Some(0), Some(0));
        check("0:R", Some(0), Some(0));
        check("0:x", None, None);
        check("1:r1", Some(0), Some(0));
        check("1:r1 0:R", None, Some(1));
        check("1:r1 0:x", None, Some(1));
        check("1:P1", Some(1), Some(1));
    }

    #[test]
    fn it_takes_several_failures_in_a_row_to_fall() {
        check("0:P1 1:r1 0:x 0:x", Some(0), Some(0));
        check("0:P1 1:r1 0:x 0:x 0:P1 0:x 0:x", Some(0), Some(0));
        check("0:P1 1:r1 0:x 0:x 0:x", None, Some(1));
        check("0:P1 1:r1 0:x 0:x 0:x 1:x 1:x 1:x", None, None);
    }

    #[test]
    fn it_takes_several_answers_in_a_row_to_rise() {
        check("0:P1 0:x 0:x 0:x 0:P1", None, None);
        check("0:P1 0:x 0:x 0:x 0:P1 0:x 0:P1", None, None);
        check("0:P1 0:x 0:x 0:x 0:P1 0:P1", Some(0), Some(0));
    }

    #[test]
    fn a_busy_node_stays_up() {
        check("0:P1 1:r1 0:R 0:R 0:R 0:R", Some(0), Some(0));
        check("0:P1 1:r1 0:x 0:x 0:R 0:x", Some(0), Some(0));
    }

    #[test]
    fn a_promoted_replica_fences_the_old_primary() {
        check("0:P1 1:r1 1:P2", Some(1), Some(1));
        let shard = after(2, "0:P1 1:r1 0:x 0:x 0:x 1:P2 0:P1 0:P1");
        assert_eq!((shard.primary(), shard.role(0), shard.role(1)), (Some(1), NodeRole::Fenced, NodeRole::Primary));
        check("0:P1 1:r1 1:P2 0:P1 1:x 1:x 1:x", None, None);
        check("0:P1 1:r1 1:P2 0:r2 1:x 1:x 1:x", None, Some(0));
    }

    #[test]
    fn two_primaries_on_one_timeline_do_not_take_turns() {
        check("0:P1 1:P1 0:P1 1:P1", Some(0), Some(0));
        check("1:P1 0:P1", Some(1), Some(1));
        assert_eq!(after(2, "0:P1 1:P1").role(1), NodeRole::Fenced);
    }

    #[test]
    fn a_primary_that_becomes_a_replica_takes_no_writes() {
        check("0:P1 1:r1 0:r1", None, Some(0));
    }

    #[test]
    fn two_phase_is_what_the_primary_allows() {
        let mut shard = after(1, "");
        assert!(shard.allows_two_phase());
        let report = NodeReport { is_in_recovery: false, timeline: 1, lsn: 1, max_prepared_transactions: 0 };
        shard.record(0, ProbeOutcome::Report(report), THRESHOLDS, Instant::now());
        assert!(!shard.allows_two_phase());
    }
}
