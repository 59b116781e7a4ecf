//! The combine rung: partial rows from the shards, a final SELECT over them on the engine.

use bytes::{BufMut, Bytes, BytesMut};

use super::Conversation;
use super::array::{Array, ArrayLen};
use super::describe::{column_types, no_columns};
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::{Description, malformed};
use crate::plan::{Access, CombinePlan, MergePlan};
use crate::session::row_description::write_description;
use crate::session::wire;
use crate::topology::{Engine, ShardId, ShardSet, TypeOid};

/// Partial rows of all shards, column by column.
#[derive(Debug)]
struct PartialRows {
    columns: Vec<Array>,
    n_rows: usize,
    n_bytes: u64,
}

/// A place in partial rows.
#[derive(Debug)]
struct Mark {
    /// Of each column.
    lengths: Vec<ArrayLen>,
    n_rows: usize,
    n_bytes: u64,
}

impl PartialRows {
    fn add(&mut self, body: &[u8], max_bytes: u64) -> Result<(), Failure> {
        let fields = wire::fields(body).filter(|fields| fields.len() == self.columns.len());
        let fields = fields.ok_or_else(|| malformed("a shard sent a malformed row"))?;
        self.columns.iter_mut().zip(fields).for_each(|(column, field)| column.push(field));
        self.n_rows += 1;
        self.n_bytes += body.len() as u64;
        if self.n_bytes <= max_bytes {
            return Ok(());
        }
        Err(Failure::too_many_bytes("the partial rows of the shards", max_bytes, "Group by fewer values"))
    }

    /// What there is now.
    fn mark(&self) -> Mark {
        let lengths = self.columns.iter().map(Array::len).collect();
        Mark { lengths, n_rows: self.n_rows, n_bytes: self.n_bytes }
    }

    /// Takes back what has come since.
    fn cut(&mut self, mark: &Mark) {
        self.columns.iter_mut().zip(&mark.lengths).for_each(|(column, len)| column.truncate(*len));
        (self.n_rows, self.n_bytes) = (mark.n_rows, mark.n_bytes);
    }

    /// The tail of Bind: every parameter binary.
    fn bound(&self) -> Bytes {
        let mut encoded = BytesMut::new();
        encoded.put_slice(&[0, 1, 0, 1]);
        encoded.put_i16(i16::try_from(self.columns.len()).unwrap_or(i16::MAX));
        for column in &self.columns {
            column.write(&mut encoded);
        }
        encoded.freeze()
    }
}

/// The last part of a combine plan, with the partial rows of the shards as its parameters.
pub(super) struct FinalPart {
    pub engine: ShardId,
    pub sql: String,
    pub bound: BoundValues,
    /// What a single server would say of the client's statement.
    pub description: Option<Bytes>,
}

impl Conversation {
    /// Runs a combine plan and writes its rows and CommandComplete. `sql` is the client's text: its description on a shard is
    /// the one that the client sees.
    pub(super) async fn run_combine(
        &mut self,
        sql: &str,
        plan: &CombinePlan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let FinalPart { engine, sql, bound, description: body } = self.combine_partial(sql, plan, values).await?;
        if description == Description::Send {
            let body = body.unwrap_or_else(no_columns);
            write_description(&mut self.client.output, &body, &values.result_formats);
        }
        self.watch_engine(engine);
        let idxs = self.fan_out(&[(engine, &sql)], Access::Read, &bound, &values.result_formats).await?;
        let all = MergePlan {
            shards: ShardSet::only(engine),
            text: String::new(),
            n_hidden: 0,
            order: Vec::new(),
            limit: None,
            offset: 0,
        };
        let n_emitted = self.concatenate(&idxs, &all, Description::Omit).await?;
        self.end_rows(n_emitted);
        Ok(())
    }

    /// Reads the partial rows of the shards and makes the final SELECT over them.
    pub(super) async fn combine_partial(
        &mut self,
        sql: &str,
        plan: &CombinePlan,
        values: &BoundValues,
    ) -> Result<FinalPart, Failure> {
        let Some(first) = plan.shards.iter().next() else { return Err(malformed("a plan without shards")) };
        let original = self.describe(first, sql, &values.param_types).await?;
        let partial = self.describe(first, &plan.text, &values.param_types).await?;
        let types = column_types(partial);
        let final_sql = plan.final_sql(&types, &self.view.schema)?;
        let rows = self.read_partial_rows(plan, values, &types).await?;
        let answered = self.end_partial().await;
        if !self.transaction.is_open() {
            // The engine's connection must not wait for those of the shards.
            self.release();
        }
        let bound = BoundValues {
            param_types: Vec::new(),
            encoded: rows.bound(),
            result_formats: values.result_formats.clone(),
            told: None,
        };
        let engine = self.engine(answered);
        let columns = original.row_description.as_deref().unwrap_or_default();
        self.check_engine_types(engine, columns, &values.result_formats)?;
        Ok(FinalPart { engine, sql: final_sql, bound, description: original.row_description })
    }

    /// A shard that the transaction holds already, so that nobody waits while holding; else the configured engine.
    /// Any is one of those that have `answered`, where some have not.
    fn engine(&mut self, answered: Option<ShardSet>) -> ShardId {
        if let Some(held) = self.enlisted.first() {
            return held.lease.shard;
        }
        match (&self.view.topology.engine, self.view.topology.dedicated_engine()) {
            (Engine::Shard(shard), _) => *shard,
            (Engine::Dedicated { .. }, Some((engine, _))) => engine,
            (Engine::Any | Engine::Dedicated { .. }, _) => {
                let known = answered.and_then(|shards| shards.iter().next());
                known.unwrap_or_else(|| self.any_shard())
            }
        }
    }

    async fn read_partial_rows(
        &mut self,
        plan: &CombinePlan,
        values: &BoundValues,
        types: &[TypeOid],
    ) -> Result<PartialRows, Failure> {
        let statements: Vec<(ShardId, &str)> = plan.shards.iter().map(|shard| (shard, plan.text.as_str())).collect();
        let idxs = self.fan_out(&statements, Access::Read, values, &[1]).await?;
        self.expect_columns(types.iter().copied());
        let columns = types.iter().copied().map(Array::of).collect();
        let mut rows = PartialRows { columns, n_rows: 0, n_bytes: 0 };
        let max_bytes = self.max_gather_bytes();
        for &idx in &idxs {
            let mark = rows.mark();
            while let Some(row) = self.next_row(&idxs, idx).await? {
                if let Err(failure) = rows.add(&row, max_bytes) {
                    self.cancel_and_drain(&idxs).await;
                    return Err(failure);
                }
            }
            if self.is_left_out(idx) {
                rows.cut(&mark);
            }
        }
        Ok(rows)
    }
}
