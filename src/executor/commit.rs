//! The end of a transaction, and savepoints: the same words to every enlisted backend.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::Conversation;
use super::conversation::SchemaChange;
use super::enlist::{Enlisted, Part, Watched};
use super::failure::Failure;
use super::timer::WaitError;
use crate::backend::ConnectionLost;
use crate::deadline::Deadline;
use crate::observe::ErrorKind;
use crate::session::bonds::Bonds;
use crate::session::wire::HEADER_LEN;
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// How one backend answered a transaction statement.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its last command tag.
    Tag(String),
    /// Its ErrorResponse.
    Error(Failure),
    Lost(Failure),
}

/// Those of all backends that were told: mostly there is one.
pub(super) type AllAnswers = SmallVec<[Answer; 1]>;

impl Answer {
    /// # Errors
    /// The failure that it is.
    pub(super) fn taken(self) -> Result<(), Failure> {
        match self {
            Self::Tag(_) => Ok(()),
            Self::Error(failure) | Self::Lost(failure) => Err(failure),
        }
    }
}

impl Conversation {
    /// Commits the transaction on every enlisted backend: plainly where at most one was written, else in two phases.
    ///
    /// # Errors
    /// What made it roll back. The transaction is over either way.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        // From here on it is ended, and not to be cut off on the way.
        self.stop_transaction_clock();
        let outcome = self.try_commit().await;
        self.end_transaction(outcome.is_ok()).await;
        outcome
    }

    async fn try_commit(&mut self) -> Result<(), Failure> {
        if self.block.is_lost {
            self.tell_all("ROLLBACK").await;
            let message = "the connection to a shard was lost during the transaction: it was rolled back";
            return Err(Failure::statement(Report::new(SqlState::CONNECTION_FAILURE, message), ErrorKind::Connection));
        }
        if !self.cursors.is_empty()
            && let Err(failure) = Box::pin(self.hold_cursors()).await
        {
            self.tell_all("ROLLBACK").await;
            return Err(failure);
        }
        if self.enlisted.iter().filter(|enlisted| enlisted.part == Part::Writer).count() > 1 {
            return Box::pin(self.commit_in_two_phases()).await;
        }
        if self.enlisted.iter().any(|held| held.bonds.contains(Bonds::LOCKS)) {
            Box::pin(self.commit_before_locks()).await?;
        }
        all_committed(self.tell_all("COMMIT").await)
    }

    /// Commits where no advisory locks are held first: who waits for a lock sees, once it has it, all that was written under it.
    async fn commit_before_locks(&mut self) -> Result<(), Failure> {
        let is_open = |held: &&Enlisted| held.part != Part::Outside;
        let (last, first): (Vec<&Enlisted>, Vec<&Enlisted>) =
            self.enlisted.iter().filter(is_open).partition(|held| held.bonds.contains(Bonds::LOCKS));
        if last.is_empty() || first.is_empty() {
            return Ok(());
        }
        let told: Vec<_> = first.iter().map(|held| (held.lease.shard, Cow::Borrowed("COMMIT"))).collect();
        self.timer.set(Deadline::after(std::time::Instant::now(), self.database.query.timeout));
        all_committed(self.tell_each(&told).await)?;
        for (shard, _) in told {
            if let Some(idx) = self.index_of(shard) {
                self.enlisted[idx].part = Part::Outside;
            }
        }
        Ok(())
    }

    /// Rolls the transaction back everywhere. What does not answer is closed, which rolls it back too.
    ///
    /// # Errors
    /// None of a server's: only what ends the session.
    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        self.stop_transaction_clock();
        self.tell_all("ROLLBACK").await;
        self.end_transaction(false).await;
        Ok(())
    }

    async fn end_transaction(&mut self, is_committed: bool) {
        let had_local_sets = !self.transaction.local_sets.is_empty() || self.transaction.has_changes();
        let has_new_settings = {
            let before = self.settings.clone();
            self.transaction.end(is_committed, &mut self.settings);
            before != self.settings
        };
        self.settle_backend_settings(is_committed);
        if had_local_sets || has_new_settings {
            self.derive_plan_settings();
        }
        if had_local_sets || has_new_settings || self.has_untold_parameters() {
            self.tell_parameters();
        }
        if self.portals.has_progress() {
            Box::pin(self.close_all_on_engine()).await;
        }
        self.portals.clear();
        if !self.cursors.is_empty() {
            Box::pin(self.end_cursors(is_committed)).await;
        }
        self.note_temporaries_undone();
        self.forget_made();
        self.drop_own_schema();
        self.settle_pins(is_committed).await;
        self.note_habit();
        self.release();
        let block = std::mem::take(&mut self.block);
        if block.schema_change != SchemaChange::None && is_committed {
            self.database.note_schema_change();
        }
        if block.schema_change == SchemaChange::Catalog && is_committed {
            Box::pin(self.refresh_schema()).await;
        }
    }

    /// Reads the catalog anew. A failure leaves the old snapshot, which the next "does not exist" error will replace.
    pub(super) async fn refresh_schema(&mut self) {
        if let Err(error) = self.database.refresh_code().await {
            tracing::warn!(database = self.database.name, %error, "functions could not be read again");
        }
        if self.view.topology.only_shard().is_some() {
            return;
        }
        if let Err(error) = self.database.refresh_schema().await {
            tracing::warn!(database = self.database.name, %error, "the schema could not be read again");
        }
    }

    /// The same unless it was read a moment ago: for a name that is not known.
    pub(super) async fn refresh_stale_schema(&mut self) {
        if let Err(error) = self.database.refresh_stale_schema().await {
            tracing::warn!(database = self.database.name, %error, "the schema could not be read again");
        }
    }

    /// Sends a transaction statement to every backend with an open block and reads all answers. Lost backends are dropped.
    pub(super) async fn tell_all(&mut self, sql: &str) -> AllAnswers {
        let timeout = self.database.query.timeout;
        self.timer.set(Deadline::after(std::time::Instant::now(), timeout));
        match self.enlisted.as_slice() {
            [] => return AllAnswers::new(),
            [held] if held.part != Part::Outside => return AllAnswers::from_iter([self.tell(0, sql).await]),
            _ => {}
        }
        let shards = self.enlisted.iter().filter(|enlisted| enlisted.part != Part::Outside).map(|enlisted| enlisted.lease.shard);
        let told: Vec<_> = shards.map(|shard| (shard, Cow::Borrowed(sql))).collect();
        Box::pin(self.tell_each(&told)).await
    }

    /// Sends each of these shards its statement, then reads all answers, in the same order. Lost backends are dropped.
    pub(super) async fn tell_each(&mut self, told: &[(ShardId, Cow<'_, str>)]) -> AllAnswers {
        let mut unsent = Vec::new();
        for (shard, sql) in told {
            let Some(idx) = self.index_of(*shard) else {
                unsent.push(Some(self.gone()));
                continue;
            };
            let connection = self.enlisted[idx].begin_statement();
            connection.write_query(sql.as_bytes());
            unsent.push(match connection.socket.flush().await {
                Ok(()) => None,
                Err(error) => Some(Box::pin(self.abandon(idx, error.into())).await),
            });
        }
        let mut answers = AllAnswers::new();
        for ((shard, _), unsent) in told.iter().zip(unsent) {
            answers.push(match (unsent, self.index_of(*shard)) {
                (Some(failure), _) => Answer::Lost(failure),
                (None, Some(idx)) => self.read_answer(idx, Watched::Nobody).await,
                (None, None) => Answer::Lost(self.gone()),
            });
        }
        answers
    }

    fn gone(&self) -> Failure {
        Failure::statement(Report::new(SqlState::CONNECTION_FAILURE, "connection to a shard was lost"), ErrorKind::Connection)
    }

    /// Sends one statement to one backend and reads its answer.
    pub(super) async fn tell(&mut self, idx: usize, sql: &str) -> Answer {
        self.tell_for(Watched::Nobody, idx, sql).await
    }

    /// The same; while the client is watched, the wait may also end because of a deadlock.
    pub(super) async fn tell_for(&mut self, watched: Watched, idx: usize, sql: &str) -> Answer {
        let connection = self.enlisted[idx].begin_statement();
        connection.write_query(sql.as_bytes());
        match connection.socket.flush().await {
            Ok(()) => self.read_answer(idx, watched).await,
            Err(error) => Answer::Lost(Box::pin(self.abandon(idx, error.into())).await),
        }
    }

    async fn read_answer(&mut self, idx: usize, watched: Watched) -> Answer {
        let mut answer = None;
        loop {
            let (tag, message) = match self.next_message(idx, watched).await {
                Ok(message) => message,
                Err(lost) => {
                    // Its last words say why.
                    return Answer::Lost(match answer {
                        Some(Answer::Error(words)) => words,
                        _ => lost,
                    });
                }
            };
            match tag {
                b'Z' => {
                    let unexpected = WaitError::Lost(ConnectionLost("unexpected answer".to_owned()));
                    return match answer {
                        Some(answer) => answer,
                        None => Answer::Lost(Box::pin(self.abandon(idx, unexpected)).await),
                    };
                }
                b'E' if !matches!(answer, Some(Answer::Error(_))) => {
                    answer = Some(Answer::Error(self.shard_error(idx, &message)))
                }
                b'C' => {
                    let tag = String::from_utf8_lossy(&message[HEADER_LEN..message.len() - 1]).into_owned();
                    answer = Some(Answer::Tag(tag));
                }
                _ => {}
            }
        }
    }

    /// Sends a statement that the whole transaction must take alike: savepoints, SET LOCAL.
    ///
    /// # Errors
    /// The first backend's.
    pub(super) async fn tell_transaction(&mut self, sql: &str) -> Result<(), Failure> {
        all_taken(self.tell_all(sql).await)
    }
}

/// The first failure among the answers to COMMIT, if there is one.
fn all_committed(answers: AllAnswers) -> Result<(), Failure> {
    answers.into_iter().try_for_each(|answer| match answer {
        Answer::Tag(tag) if tag == "COMMIT" => Ok(()),
        Answer::Tag(_) => Err(rolled_back()),
        Answer::Error(failure) | Answer::Lost(failure) => Err(failure),
    })
}

/// The first failure among the answers, if there is one.
pub(super) fn all_taken(answers: AllAnswers) -> Result<(), Failure> {
    answers.into_iter().try_for_each(Answer::taken)
}

pub(super) fn rolled_back() -> Failure {
    let report = Report::new(SqlState::IN_FAILED_SQL_TRANSACTION, "a shard rolled the transaction back");
    Failure::statement(report, ErrorKind::Shard)
}
