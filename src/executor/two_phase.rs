//! Two-phase commit over the shards that a transaction has written.
//!
//! The first written shard coordinates, mostly: the others prepare; its own COMMIT carries a row in `trunkline.commits`, which is
//! the decision; then the others commit what they prepared. Whoever finds a prepared transaction later looks for that row.

use std::borrow::Cow;
use std::time::Duration;

use super::Conversation;
use super::commit::{AllAnswers, Answer};
use super::enlist::{Enlisted, Part};
use super::failure::Failure;
use crate::observe::ErrorKind;
use crate::session::bonds::Bonds;
use crate::session::settings::quote_literal;
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Tries at COMMIT PREPARED on a shard whose connection was lost in between, and the wait before each.
const N_RETRIES: u32 = 5;
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for the control connection's answer: a server that is stopped gives none.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of the coordinator's COMMIT.
enum Decision {
    Commit,
    /// It has not committed and never will.
    Rollback(Failure),
    /// Nobody can tell now: what is prepared must stay so.
    Unknown,
}

impl Conversation {
    /// Commits on all enlisted backends, of which more than one was written.
    ///
    /// # Errors
    /// Before the decision: what made it roll back. After it there is no error: a shard that cannot be reached keeps its
    /// prepared transaction, which is reported to the log.
    pub(super) async fn commit_in_two_phases(&mut self) -> Result<(), Failure> {
        let Some((coordinator, participants)) = self.parts_of_two_phases() else { return Ok(()) };
        let gid = self.transaction_name();
        self.prepare_all(coordinator, &participants, &gid).await?;
        match self.decide(coordinator, &gid).await {
            Decision::Commit => {}
            Decision::Rollback(failure) => {
                self.finish_prepared(&participants, "ROLLBACK PREPARED", &gid).await;
                self.end_readers().await;
                return Err(failure);
            }
            Decision::Unknown => {
                let shard = &self.view.topology.shard(coordinator).name;
                tracing::error!(
                    database = self.database.name,
                    shard,
                    gid,
                    "prepared transactions are left: is there a decision?"
                );
                self.end_readers().await;
                return Err(self.in_doubt(coordinator));
            }
        }
        self.database.counters.n_two_phase_commits.increment();
        let n_free = participants.iter().take_while(|shard| !self.holds_locks(**shard)).count();
        let (free, holders) = participants.split_at(n_free);
        let are_free_ended = self.finish_prepared(free, "COMMIT PREPARED", &gid).await;
        if self.finish_prepared(holders, "COMMIT PREPARED", &gid).await && are_free_ended {
            self.forget(coordinator, &gid).await;
        }
        // Shards that were only read end their blocks too; nothing depends on how.
        self.end_readers().await;
        Ok(())
    }

    /// The coordinator, and the others in the order in which they end.
    ///
    /// A shard that has notified, or that has temporary tables, cannot prepare, so it coordinates: either is the home. One that holds advisory locks ends last, for they are to be
    /// held until all is committed. Otherwise the first written shard coordinates.
    fn parts_of_two_phases(&self) -> Option<(ShardId, Vec<ShardId>)> {
        let writers = || self.enlisted.iter().filter(|held| held.part == Part::Writer);
        let is_fit = |held: &&&Enlisted| !held.bonds.contains(Bonds::LOCKS);
        let notifies = writers().find(|held| held.bonds.contains(Bonds::NOTIFIES));
        let home = self.view.topology.home_shard();
        let has_temporaries = writers().find(|held| held.lease.shard == home && self.may_have_temporaries());
        let coordinator = notifies
            .or(has_temporaries)
            .or_else(|| writers().find(|held| is_fit(&held)))
            .or_else(|| writers().next())?
            .lease
            .shard;
        let others = || writers().filter(|held| held.lease.shard != coordinator);
        let (last, mut ordered): (Vec<&Enlisted>, Vec<&Enlisted>) = others().partition(|held| !is_fit(&held));
        ordered.extend(last);
        Some((coordinator, ordered.into_iter().map(|held| held.lease.shard).collect()))
    }

    /// Unique while the transaction is unfinished: on each server the name gets the shard's too.
    fn transaction_name(&self) -> String {
        let mut bytes = [0; 8];
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
            tracing::warn!("no randomness for a transaction's name: the client's number and the time must do");
        }
        format!("trunkline:{}:{}:{:x}:{:x}", self.database.name, self.entry.id, self.now_micros, u64::from_be_bytes(bytes))
    }

    fn holds_locks(&self, shard: ShardId) -> bool {
        self.index_of(shard).is_some_and(|idx| self.enlisted[idx].bonds.contains(Bonds::LOCKS))
    }

    fn name_on(&self, shard: ShardId, gid: &str) -> String {
        quote_literal(&format!("{gid}:{}", self.view.topology.shard(shard).name))
    }

    /// The same command on each of these shards, about its prepared transaction, all at once.
    async fn tell_prepared(&mut self, shards: &[ShardId], command: &str, gid: &str) -> AllAnswers {
        let told: Vec<_> =
            shards.iter().map(|&shard| (shard, Cow::Owned(format!("{command} {}", self.name_on(shard, gid))))).collect();
        self.tell_each(&told).await
    }

    async fn prepare_all(&mut self, coordinator: ShardId, participants: &[ShardId], gid: &str) -> Result<(), Failure> {
        let answers = self.tell_prepared(participants, "PREPARE TRANSACTION", gid).await;
        let mut prepared = Vec::new();
        let mut first_failure = None;
        for (&shard, answer) in participants.iter().zip(answers) {
            let failure = match answer {
                Answer::Tag(tag) if tag == "PREPARE TRANSACTION" => {
                    prepared.push(shard);
                    continue;
                }
                // A PREPARE that failed has rolled back.
                Answer::Tag(_) => super::commit::rolled_back(),
                Answer::Error(failure) => failure,
                Answer::Lost(failure) => {
                    // It may have been prepared all the same.
                    prepared.push(shard);
                    failure
                }
            };
            first_failure.get_or_insert(failure);
        }
        let Some(failure) = first_failure else { return Ok(()) };
        if let Some(idx) = self.index_of(coordinator) {
            // A backend that does not answer is closed, which rolls back as well.
            drop(self.tell(idx, "ROLLBACK").await);
        }
        self.finish_prepared(&prepared, "ROLLBACK PREPARED", gid).await;
        self.end_readers().await;
        Err(failure)
    }

    /// Writes the decision and commits it together with the coordinator's own rows.
    async fn decide(&mut self, coordinator: ShardId, gid: &str) -> Decision {
        let Some(idx) = self.index_of(coordinator) else { return Decision::Rollback(super::commit::rolled_back()) };
        // After an error in the first the second is not run, and the transaction has failed.
        let decision = format!("INSERT INTO trunkline.commits (gid) VALUES ({}); COMMIT", quote_literal(gid));
        match self.tell(idx, &decision).await {
            Answer::Tag(tag) if tag == "COMMIT" => Decision::Commit,
            Answer::Tag(_) => Decision::Rollback(super::commit::rolled_back()),
            Answer::Error(failure) => {
                drop(self.tell(idx, "ROLLBACK").await);
                Decision::Rollback(failure)
            }
            Answer::Lost(failure) => match self.was_decided(coordinator, gid).await {
                Some(true) => Decision::Commit,
                Some(false) => Decision::Rollback(failure),
                None => Decision::Unknown,
            },
        }
    }

    /// Whether the decision is there, asked over another connection after the coordinator's was lost in its COMMIT.
    ///
    /// A server may still be at that COMMIT when its connection is gone. An INSERT of the same key waits for it.
    async fn was_decided(&mut self, coordinator: ShardId, gid: &str) -> Option<bool> {
        let insert = format!("INSERT INTO trunkline.commits (gid) VALUES ({}) ON CONFLICT DO NOTHING", quote_literal(gid));
        for _ in 0..N_RETRIES {
            if let Ok(client) = self.database.primary_control_client(coordinator).await {
                let look = async {
                    client.connection().batch_execute("BEGIN").await?;
                    let n_inserted = client.connection().execute(insert.as_str(), &[]).await?;
                    client.connection().batch_execute("ROLLBACK").await?;
                    Ok::<_, tokio_postgres::Error>(n_inserted == 0)
                };
                match tokio::time::timeout(CONTROL_TIMEOUT, look).await {
                    Ok(Ok(is_there)) => return Some(is_there),
                    // It may be within its block still.
                    Ok(Err(_)) | Err(_) => client.close(),
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        None
    }

    fn in_doubt(&self, coordinator: ShardId) -> Failure {
        let shard = &self.view.topology.shard(coordinator).name;
        let message = format!("connection to shard \"{shard}\" was lost during COMMIT: whether it committed is not known");
        let report = Report::new(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, message)
            .with_detail("What other shards have prepared stays prepared until it is.")
            .with_hint("See pg_prepared_xacts on the shards and trunkline.commits on this one.");
        Failure::statement(report, ErrorKind::Connection)
    }

    /// Ends prepared transactions, by the client's own backends or, where one is lost, by a control connection. False if one
    /// is still there.
    async fn finish_prepared(&mut self, shards: &[ShardId], command: &str, gid: &str) -> bool {
        let answers = self.tell_prepared(shards, command, gid).await;
        let mut are_all_ended = true;
        for (&shard, answer) in shards.iter().zip(answers) {
            are_all_ended &= matches!(answer, Answer::Tag(_)) || self.finish_by_control(shard, command, gid).await;
        }
        are_all_ended
    }

    async fn finish_by_control(&self, shard: ShardId, command: &str, gid: &str) -> bool {
        let sql = format!("{command} {}", self.name_on(shard, gid));
        for _ in 0..N_RETRIES {
            if let Ok(client) = self.database.primary_control_client(shard).await {
                match tokio::time::timeout(CONTROL_TIMEOUT, client.connection().batch_execute(&sql)).await {
                    Ok(Ok(())) => return true,
                    // Undefined object: it was never prepared, or is already ended.
                    Ok(Err(error)) if error.code().is_some_and(|code| code.code() == "42704") => return true,
                    Ok(Err(_)) => {}
                    Err(_) => client.close(),
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        let shard = &self.view.topology.shard(shard).name;
        tracing::error!(database = self.database.name, shard, gid, "a prepared transaction is left: {command} failed");
        false
    }

    /// Removes the decision once no shard needs it. Left behind it does no harm.
    async fn forget(&mut self, coordinator: ShardId, gid: &str) {
        // One string is one transaction.
        let sql =
            format!("SET LOCAL synchronous_commit TO off; DELETE FROM trunkline.commits WHERE gid = {}", quote_literal(gid));
        if let Some(idx) = self.index_of(coordinator) {
            drop(self.tell(idx, &sql).await);
        }
    }

    async fn end_readers(&mut self) {
        for idx in (0..self.enlisted.len()).rev() {
            if self.enlisted[idx].part != Part::Outside && !self.enlisted[idx].lease.is_clean {
                drop(self.tell(idx, "COMMIT").await);
            }
        }
    }
}
