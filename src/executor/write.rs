//! Writes over several shards in the open transaction: rows of an INSERT where they belong, reference tables and DDL everywhere.

use super::Conversation;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::Description;
use crate::observe::ErrorKind;
use crate::plan::{Access, InsertPlan};
use crate::session::wire::{self, HEADER_LEN};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{ShardId, ShardSet};

impl Conversation {
    /// Runs one INSERT per shard and adds their counts.
    pub(super) async fn run_insert(&mut self, plan: &InsertPlan, values: &BoundValues) -> Result<(), Failure> {
        let statements: Vec<(ShardId, &str)> = plan.statements.iter().map(|s| (s.shard, s.text.as_str())).collect();
        let idxs = self.fan_out(&statements, Access::Write, values, &[]).await?;
        let n_rows: u64 = self.read_counts(&idxs).await?.iter().sum();
        wire::command_complete(&mut self.client.output, format!("INSERT 0 {n_rows}").as_bytes());
        Ok(())
    }

    /// Runs the same text on every shard; the client gets the first one's answer.
    ///
    /// # Errors
    /// 55000 when the shards counted different rows: the copies of a reference table have parted.
    pub(super) async fn run_everywhere(
        &mut self,
        sql: &str,
        shards: ShardSet,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let statements: Vec<(ShardId, &str)> = shards.iter().map(|shard| (shard, sql)).collect();
        let idxs = self.fan_out(&statements, Access::Write, values, &values.result_formats).await?;
        self.expect_told(values);
        let Some((&first, others)) = idxs.split_first() else { return Ok(()) };
        let mark = self.client.output.len();
        let outcome = match self.take_answer(&idxs, first, description).await {
            Ok(count) => match self.read_counts(others).await {
                Ok(mut counts) => {
                    counts.push(count);
                    self.same_count(&counts).map(drop)
                }
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        if outcome.is_err() {
            self.client.output.truncate(mark);
        }
        outcome
    }

    /// Writes a backend's rows and tag to the client's output, without sending them, and gives the tag's count.
    async fn take_answer(&mut self, idxs: &[usize], idx: usize, description: Description) -> Result<u64, Failure> {
        let mut count = 0;
        let mut failure = None;
        let max_bytes = self.max_gather_bytes();
        loop {
            let (tag, message) = self.next_answer_of(idxs, idx).await?;
            let client = &mut self.client;
            match tag {
                b'Z' => return failure.map_or(Ok(count), Err),
                b'E' => failure = Some(self.shard_failed(idxs, idx, &message).await),
                b'D' | b'I' => client.output.extend_from_slice(&message),
                b'T' if self.expected_columns.is_some() => failure = self.check_described(idxs, &message).await.err(),
                b'T' if description == Description::Send => client.output.extend_from_slice(&message),
                b'N' => client.output.extend_from_slice(&message),
                b'C' => {
                    count = wire::tag_count(&message[HEADER_LEN..]).unwrap_or(0);
                    client.output.extend_from_slice(&message);
                }
                _ => {}
            }
            if self.client.output.len() as u64 > max_bytes {
                failure = Some(Failure::too_many_bytes("the rows of RETURNING", max_bytes, "Return fewer rows"));
                self.cancel_and_drain(idxs).await;
            }
            if failure.is_some() {
                return failure.map_or(Ok(count), Err);
            }
        }
    }

    /// The count that all shards agree on.
    pub(super) fn same_count(&self, counts: &[u64]) -> Result<u64, Failure> {
        match counts {
            [] => Ok(0),
            [count, others @ ..] if others.iter().all(|other| other == count) => Ok(*count),
            _ => {
                let message = "the shards' copies of a reference table differ: the statement met other rows on one of them";
                let report = Report::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .with_detail("Reason code TL094.")
                    .with_hint("Compare the table on the shards and make the copies equal.");
                Err(Failure::statement(report, ErrorKind::Shard))
            }
        }
    }
}
