//! Deadlocks that no server sees, for each has only a part of the ring: they are put together here.
//!
//! Such a ring goes through sessions that have two server connections or more, wait on one of them and are waited for on another.
//! They all wait for long, and tell it in [`Waits`]. Sessions with one connection, and clients past the proxy, are parts of a
//! ring on one server only, whose word is enough for them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::waits::{Wait, Waits};
use crate::backend::control::{ControlClient, ControlError, ControlNode};
use crate::config::DatabaseConfig;
use crate::sqlstate::{Report, SqlState};

/// Shortest time between two looks, and that to the second of those that find nothing new; it doubles.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// Longest time between two looks while two sessions or more wait for long.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Who waits for whom, from these processes on. Prepared transactions have no process: pid 0.
const EDGES: &str = "\
WITH RECURSIVE waits (pid, blocker) AS (
  SELECT pid, pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) FROM pg_catalog.unnest($1::pg_catalog.int4[]) AS pid
  UNION
  SELECT blocker, pg_catalog.unnest(pg_catalog.pg_blocking_pids(blocker)) FROM waits
) SELECT pid, blocker FROM waits WHERE blocker OPERATOR(pg_catalog.<>) 0";

/// Looks for deadlocks across the shards of one database.
#[derive(Debug)]
pub struct DeadlockSearch {
    waits: Arc<Waits>,
    database: String,
    nodes: Vec<Node>,
}

/// One server of one shard.
#[derive(Debug)]
struct Node {
    shard: String,
    dbname: String,
    control: ControlNode,
}

/// A process of a server: the node's index, and its id there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Process {
    node_idx: usize,
    pid: i32,
}

/// One process waits for a lock of the other, or for one that the other is to have before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Edge {
    waiter: Process,
    blocker: Process,
}

/// Whoever waits or is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Party {
    /// The index of one that has told its wait.
    Session(usize),
    /// Of somebody else.
    Process(Process),
}

/// Which processes are of one session.
#[derive(Debug, Default)]
struct Owners(HashMap<Process, usize>);

/// Who waits at one moment, and for whom.
struct Situation {
    waits: Vec<Arc<Wait>>,
    owners: Owners,
    edges: Vec<Edge>,
}

/// Connections that are kept while there is something to look for, by the node's index.
type Clients = HashMap<usize, ControlClient>;

impl DeadlockSearch {
    /// Opens nothing yet. `limit` bounds each question to a server.
    ///
    /// # Errors
    /// `Mismatch` when a node's connection settings cannot be used.
    pub fn new(waits: Arc<Waits>, database: &DatabaseConfig, limit: Duration) -> Result<Self, ControlError> {
        let mut nodes = Vec::new();
        for shard in &database.topology.shards {
            for address in &shard.nodes {
                let control = ControlNode::new(address, &shard.dbname, &database.control, &database.tls, limit)?;
                nodes.push(Node { shard: shard.name.clone(), dbname: shard.dbname.clone(), control });
            }
        }
        Ok(Self { waits, database: database.topology.database.clone(), nodes })
    }

    /// Breaks up deadlocks. Servers are asked only while two sessions or more have waited for long with several connections each.
    pub async fn run(self) -> Infallible {
        let mut clients = Clients::new();
        let mut pause = SHORTEST_PAUSE;
        loop {
            if self.is_quiet() {
                clients.drain().for_each(|(_, client)| client.close());
                self.waits.news().await;
                pause = SHORTEST_PAUSE;
            } else if timeout(pause, self.waits.news()).await.is_ok() {
                pause = SHORTEST_PAUSE;
            } else {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            if self.look(&mut clients).await {
                // Those who go on may meet the next.
                pause = SHORTEST_PAUSE;
            }
            sleep(SHORTEST_PAUSE).await;
        }
    }

    fn is_quiet(&self) -> bool {
        self.waits.current(Instant::now()).len() < 2
    }

    /// Ends one transaction of a deadlock. False: there is none.
    async fn look(&self, clients: &mut Clients) -> bool {
        if self.is_quiet() {
            return false;
        }
        let situation = self.situation(clients).await;
        let Some(ring) = find_ring(situation.waits.len(), &situation.owners, &situation.edges) else { return false };
        // Servers were asked one after the other. What holds before and after was so at the time between, on all of them.
        if !situation.still_has(&ring, &self.situation(clients).await) {
            return false;
        }
        let Some(victim) = ring.first().and_then(|edge| situation.wait_of(edge.waiter)) else { return false };
        let lines: Vec<String> = ring.iter().map(|edge| self.told(edge)).collect();
        tracing::warn!(database = self.database, ring = lines.join(" "), "a deadlock across shards: one transaction was ended");
        let report = Report::new(SqlState::DEADLOCK_DETECTED, "deadlock detected").with_detail(lines.join("\n"));
        victim.end(report);
        true
    }

    /// As src/backend/storage/lmgr/deadlock.c, `DeadLockReport`.
    fn told(&self, edge: &Edge) -> String {
        let shard = self.nodes.get(edge.waiter.node_idx).map(|node| node.shard.as_str()).unwrap_or_default();
        format!("Process {} waits on shard \"{shard}\"; blocked by process {}.", edge.waiter.pid, edge.blocker.pid)
    }

    /// Asks the servers on which sessions have connections that wait for long. One that does not answer is left out.
    async fn situation(&self, clients: &mut Clients) -> Situation {
        let waits = self.waits.current(Instant::now());
        let mut owners = Owners::default();
        for (session_idx, wait) in waits.iter().enumerate() {
            for handle in wait.handles() {
                let (address, dbname, pid) = handle.process();
                let is_there = |node: &Node| node.control.address() == address && node.dbname == dbname;
                if let Some(node_idx) = self.nodes.iter().position(is_there) {
                    owners.0.insert(Process { node_idx, pid }, session_idx);
                }
            }
        }
        let mut edges = Vec::new();
        for (node_idx, node) in self.nodes.iter().enumerate() {
            let pids: Vec<i32> =
                owners.0.keys().filter(|process| process.node_idx == node_idx).map(|process| process.pid).collect();
            if pids.is_empty() {
                continue;
            }
            match edges_at(node, clients.remove(&node_idx), &pids).await {
                Ok((client, found)) => {
                    clients.insert(node_idx, client);
                    let process = |pid| Process { node_idx, pid };
                    edges
                        .extend(found.into_iter().map(|(pid, blocker)| Edge { waiter: process(pid), blocker: process(blocker) }));
                }
                Err(error) => tracing::debug!(database = self.database, %error, "a server was not asked for deadlocks"),
            }
        }
        Situation { waits, owners, edges }
    }
}

/// Asks one server who waits for whom there, from these processes on.
async fn edges_at(
    node: &Node,
    client: Option<ControlClient>,
    pids: &[i32],
) -> Result<(ControlClient, Vec<(i32, i32)>), ControlError> {
    let client = match client {
        Some(client) => client,
        None => node.control.client().await?,
    };
    match client.connection().query(EDGES, &[&pids]).await {
        Ok(rows) => Ok((client, rows.iter().map(|row| (row.get(0), row.get(1))).collect())),
        Err(fault) => {
            let error = client.error(&fault);
            client.close();
            Err(error)
        }
    }
}

impl Situation {
    fn wait_of(&self, process: Process) -> Option<&Arc<Wait>> {
        self.owners.0.get(&process).and_then(|idx| self.waits.get(*idx))
    }

    /// Whether all of a ring is in a later situation too, with the same statements.
    fn still_has(&self, ring: &[Edge], later: &Self) -> bool {
        let is_same = |process| match (self.wait_of(process), later.wait_of(process)) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        ring.iter().all(|edge| later.edges.contains(edge) && is_same(edge.waiter) && is_same(edge.blocker))
    }
}

impl Owners {
    fn party(&self, process: Process) -> Party {
        self.0.get(&process).map_or(Party::Process(process), |idx| Party::Session(*idx))
    }
}

/// Whether a server has all of a ring, and ends it itself: nobody in it waits on one connection and is waited for on another.
fn is_one_server_s(ring: &[Edge]) -> bool {
    let next = ring.iter().cycle().skip(1);
    ring.iter().zip(next).all(|(edge, next)| edge.blocker == next.waiter)
}

/// A ring through sessions, of which there are `n_sessions`, that no server has as a whole. The edge of the youngest
/// transaction stands first: it is to end, for the oldest of all then always comes to its end.
fn find_ring(n_sessions: usize, owners: &Owners, edges: &[Edge]) -> Option<Vec<Edge>> {
    let mut from: HashMap<Party, Vec<Edge>> = HashMap::new();
    for edge in edges {
        from.entry(owners.party(edge.waiter)).or_default().push(*edge);
    }
    let rings = (0..n_sessions).filter_map(|idx| shortest_ring(Party::Session(idx), owners, &from));
    let mut ring = rings.into_iter().find(|ring| !is_one_server_s(ring))?;
    let age = |edge: &Edge| match owners.party(edge.waiter) {
        // The older ones stand before.
        Party::Session(idx) => Some(idx),
        Party::Process(_) => None,
    };
    let last = (0..ring.len()).max_by_key(|idx| age(&ring[*idx]))?;
    ring.rotate_left(last);
    Some(ring)
}

/// The shortest way from `start` back to it.
fn shortest_ring(start: Party, owners: &Owners, from: &HashMap<Party, Vec<Edge>>) -> Option<Vec<Edge>> {
    let mut reached_by: HashMap<Party, Edge> = HashMap::new();
    let mut seen = HashSet::from([start]);
    let mut next = VecDeque::from([start]);
    while let Some(party) = next.pop_front() {
        for edge in from.get(&party).into_iter().flatten() {
            let to = owners.party(edge.blocker);
            if to == start {
                let mut ring = vec![*edge];
                while let Some(before) = reached_by.get(&owners.party(ring[ring.len() - 1].waiter)) {
                    ring.push(*before);
                }
                ring.reverse();
                return Some(ring);
            }
            if seen.insert(to) {
                reached_by.insert(to, *edge);
                next.push_back(to);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(node_idx: usize, pid: i32) -> Process {
        Process { node_idx, pid }
    }

    /// Sessions as the processes that each has, and who waits for whom, as `(node, pid, pid)`.
    fn ring_of(sessions: &[&[(usize, i32)]], edges: &[(usize, i32, i32)]) -> Option<Vec<(usize, i32, i32)>> {
        let mut owners = Owners::default();
        for (idx, processes) in sessions.iter().enumerate() {
            owners.0.extend(processes.iter().map(|(node_idx, pid)| (process(*node_idx, *pid), idx)));
        }
        let edge =
            |(node, pid, blocker): &(usize, i32, i32)| Edge { waiter: process(*node, *pid), blocker: process(*node, *blocker) };
        let edges: Vec<Edge> = edges.iter().map(edge).collect();
        let ring = find_ring(sessions.len(), &owners, &edges)?;
        Some(ring.iter().map(|edge| (edge.waiter.node_idx, edge.waiter.pid, edge.blocker.pid)).collect())
    }

    #[test]
    fn a_ring_over_servers_begins_with_the_youngest() {
        let two: &[&[(usize, i32)]] = &[&[(0, 10), (1, 11)], &[(0, 20), (1, 21)]];
        assert_eq!(ring_of(two, &[(0, 10, 20), (1, 21, 11)]), Some(vec![(1, 21, 11), (0, 10, 20)]));
        // No ring: both wait the same way.
        assert_eq!(ring_of(two, &[(0, 10, 20), (1, 11, 21)]), None);
        let three: &[&[(usize, i32)]] = &[&[(0, 10), (1, 11)], &[(1, 21), (2, 22)], &[(2, 32), (0, 30)]];
        let ring = [(1, 11, 21), (2, 22, 32), (0, 30, 10)];
        assert_eq!(ring_of(three, &ring), Some(vec![(0, 30, 10), (1, 11, 21), (2, 22, 32)]));
        assert_eq!(ring_of(three, &ring[..2]), None);
    }

    #[test]
    fn others_of_one_server_may_stand_between() {
        let sessions: &[&[(usize, i32)]] = &[&[(0, 10), (1, 11)], &[(0, 20), (1, 21)]];
        let ring = ring_of(sessions, &[(0, 10, 99), (0, 99, 20), (1, 21, 11), (0, 98, 10)]);
        assert_eq!(ring, Some(vec![(1, 21, 11), (0, 10, 99), (0, 99, 20)]));
    }

    #[test]
    fn what_a_server_sees_is_left_to_it() {
        let sessions: &[&[(usize, i32)]] = &[&[(0, 10), (1, 11)], &[(0, 20), (1, 21)]];
        assert_eq!(ring_of(sessions, &[(0, 10, 20), (0, 20, 10)]), None);
        // One that waits for its own other connection is seen by nobody.
        assert_eq!(ring_of(&[&[(0, 10), (0, 12)]], &[(0, 10, 12)]), Some(vec![(0, 10, 12)]));
    }
}
