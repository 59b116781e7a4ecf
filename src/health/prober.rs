//! One task per node that asks it how it is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Board, NodeReport, ProbeOutcome, Thresholds};
use crate::backend::control::{ControlError, ControlNode};
use crate::config::{DatabaseConfig, HealthConfig};
use crate::sqlstate::SqlState;
use crate::topology::ShardId;

/// Everything a role without rights may ask, on a primary and on a replica.
///
/// The control file's timeline is that of the last checkpoint, which a promotion does not wait for: a primary tells its
/// timeline by the name of the log file that it writes. `pg_walfile_name` is an error during recovery.
const PROBE: &str = "\
SELECT r, CASE WHEN r THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())::text
    ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint::text END,
  (CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END - '0/0'::pg_lsn)::text,
  pg_catalog.current_setting('max_prepared_transactions')
FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS s";

/// Starts a prober for each node of a database on `tracker`. They end when `shutdown` is cancelled.
///
/// # Errors
/// `Mismatch` when a node's connection settings cannot be used.
pub fn spawn_probers(
    board: &Arc<Board>,
    database: &DatabaseConfig,
    health: &HealthConfig,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<(), ControlError> {
    for (shard_idx, shard) in database.topology.shards.iter().enumerate() {
        for (node_idx, address) in shard.nodes.iter().enumerate() {
            let prober = Prober {
                board: Arc::clone(board),
                shard: ShardId(shard_idx as u8),
                node_idx,
                node: ControlNode::new(address, &shard.dbname, &database.control, &database.tls, health.timeout)?,
                health: health.clone(),
            };
            let shutdown = shutdown.clone();
            tracker.spawn(async move {
                // Being cancelled is the only way out of the loop.
                shutdown.run_until_cancelled_owned(prober.run()).await.map_or((), |never| match never {})
            });
        }
    }
    Ok(())
}

/// Waits until every node was probed once, at most `limit`. Returns whether all were.
///
/// Cancel safe.
pub async fn first_round(board: &Board, limit: Duration) -> bool {
    let all_probed = async {
        let mut rounds = board.rounds();
        while !board.is_probed() && rounds.changed().await.is_ok() {}
    };
    timeout(limit, all_probed).await.is_ok()
}

struct Prober {
    board: Arc<Board>,
    shard: ShardId,
    node_idx: usize,
    node: ControlNode,
    health: HealthConfig,
}

impl Prober {
    async fn run(self) -> Infallible {
        let thresholds = Thresholds { fall: self.health.fall, rise: self.health.rise };
        let mut n_probes = 0_u64;
        loop {
            let started = Instant::now();
            let outcome = self.probe().await;
            self.board.record(self.shard, self.node_idx, outcome, thresholds);
            n_probes += 1;
            let due = started + self.pause(n_probes);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.board.woken(self.shard, self.node_idx) => {
                    // Many clients may fail at once; their reports together are worth one probe.
                    tokio::time::sleep_until((started + self.shortest_pause()).min(due)).await;
                }
            }
        }
    }

    /// A quarter of the interval while one more outcome may change the node's state, else the interval give or take an
    /// eighth, so that the probes of many nodes do not march in step.
    fn pause(&self, n_probes: u64) -> Duration {
        if self.board.is_undecided(self.shard, self.node_idx) {
            return self.shortest_pause();
        }
        let seed = n_probes.wrapping_mul(31).wrapping_add(self.shard.index() as u64 * 7 + self.node_idx as u64 * 3);
        let eighths_of_an_eighth = (seed % 17) as u32;
        self.health.interval - self.health.interval / 8 + self.health.interval / 64 * eighths_of_an_eighth
    }

    fn shortest_pause(&self) -> Duration {
        (self.health.interval / 4).max(Duration::from_millis(20))
    }

    async fn probe(&self) -> ProbeOutcome {
        match timeout(self.health.timeout, self.ask()).await {
            Ok(outcome) => outcome,
            Err(_) => ProbeOutcome::Failed(format!("no answer within {} ms", self.health.timeout.as_millis())),
        }
    }

    /// Not cancel safe in one way that is wanted: when it is dropped before the answer came, the connection is closed,
    /// for the next probe would otherwise wait behind this one.
    async fn ask(&self) -> ProbeOutcome {
        let client = match self.node.client().await {
            Ok(client) => client,
            Err(error) => return outcome_of(&error),
        };
        let client = ClosedUnlessKept(Some(client));
        let Some(connection) = client.0.as_ref() else {
            return ProbeOutcome::Failed("no connection".to_owned());
        };
        match connection.connection().simple_query(PROBE).await {
            Ok(messages) => {
                let outcome = report_of(&messages);
                client.keep();
                outcome
            }
            Err(fault) => outcome_of(&connection.error(&fault)),
        }
    }
}

/// Closes a connection on drop.
struct ClosedUnlessKept(Option<crate::backend::control::ControlClient>);

impl ClosedUnlessKept {
    fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Drop for ClosedUnlessKept {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            client.close();
        }
    }
}

fn report_of(messages: &[tokio_postgres::SimpleQueryMessage]) -> ProbeOutcome {
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let report = row.and_then(|row| {
        Some(NodeReport {
            is_in_recovery: row.get(0)? == "t",
            timeline: row.get(1)?.parse().ok()?,
            // A replica that has replayed nothing yet has no position.
            lsn: row.get(2).and_then(|lsn| lsn.parse().ok()).unwrap_or(0),
            max_prepared_transactions: row.get(3)?.parse().ok()?,
        })
    });
    report.map_or_else(|| ProbeOutcome::Refused("the probe's answer is not understood".to_owned()), ProbeOutcome::Report)
}

/// A server that says why it will not answer is there; one that starts up or shuts down is not ready.
fn outcome_of(error: &ControlError) -> ProbeOutcome {
    match error {
        ControlError::Server { sqlstate, message, .. } => match *sqlstate {
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::QUERY_CANCELED => {
                ProbeOutcome::Failed(message.clone())
            }
            _ => ProbeOutcome::Refused(format!("{message} (SQLSTATE {sqlstate})")),
        },
        ControlError::Unreachable { message, .. } => ProbeOutcome::Failed(message.clone()),
        ControlError::Busy { after, .. } | ControlError::Timeout { after, .. } => {
            ProbeOutcome::Failed(format!("no answer within {} ms", after.as_millis()))
        }
        ControlError::Mismatch(message) => ProbeOutcome::Failed(message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_cannot_serve_counts_as_failed() {
        let told = |sqlstate| outcome_of(&ControlError::Server { node: "n:1".into(), sqlstate, message: "m".into() });
        assert_eq!(told(SqlState::CANNOT_CONNECT_NOW), ProbeOutcome::Failed("m".into()));
        assert_eq!(told(SqlState::TOO_MANY_CONNECTIONS), ProbeOutcome::Refused("m (SQLSTATE 53300)".into()));
    }
}
