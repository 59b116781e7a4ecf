//! The merge rung: the same text on several shards, rows concatenated or merged by their hidden sort columns.

use bytes::{Buf, Bytes};

use super::Conversation;
use super::describe::{column_types, no_columns};
use super::failure::Failure;
use super::fan_out::BoundValues;
use crate::backend::OUTPUT_HIGH_WATER;
use crate::merge::{Comparator, MergeSpec, OrderedMerge, ResolvedKey, Step};
use crate::plan::{Access, MergePlan};
use crate::session::prepared::Described;
use crate::session::row_description::{columns, formats_with_hidden, write_prefix};
use crate::session::wire::HEADER_LEN;
use crate::topology::ShardId;

/// Whether the client is to be told the columns before the rows: in the simple protocol, not on Execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Description {
    Send,
    Omit,
    /// Not told, and what is gathered stays in the client's output until it is whole.
    Keep,
}

/// What is left to skip and to give of a concatenation.
#[derive(Debug)]
struct Window {
    n_to_skip: u64,
    n_to_emit: Option<u64>,
    n_emitted: u64,
}

impl Conversation {
    /// Runs a merge plan and writes its rows and CommandComplete.
    pub(super) async fn run_merge(
        &mut self,
        plan: &MergePlan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let statements: Vec<(ShardId, &str)> = plan.shards.iter().map(|shard| (shard, plan.text.as_str())).collect();
        let Some(&(first, _)) = statements.first() else { return Ok(()) };
        let n_emitted = if plan.n_hidden == 0 {
            let idxs = self.fan_out(&statements, Access::Read, values, &values.result_formats).await?;
            self.expect_told(values);
            self.concatenate(&idxs, plan, description).await?
        } else {
            let described = self.describe(first, &plan.text, &values.param_types).await?;
            let mut spec = merge_spec(plan, &described, self.has_stored_text())?;
            let formats = formats_with_hidden(&values.result_formats, spec.n_visible, plan.n_hidden);
            let idxs = self.fan_out(&statements, Access::Read, values, &formats).await?;
            self.expect_columns(column_types(described.clone()));
            spec.n_streams = idxs.len();
            if description == Description::Send {
                let body = described.row_description.unwrap_or_else(no_columns);
                write_prefix(&mut self.client.output, &body, spec.n_visible, &values.result_formats);
            }
            self.merge_ordered(&idxs, spec).await?
        };
        self.end_partial().await;
        self.end_rows(n_emitted);
        Ok(())
    }

    async fn merge_ordered(&mut self, idxs: &[usize], spec: MergeSpec) -> Result<u64, Failure> {
        let mut merge = OrderedMerge::new(spec);
        let mut n_emitted = 0;
        loop {
            match merge.step() {
                Step::Emit(body) => {
                    n_emitted += 1;
                    self.put_row(&body)?;
                    self.client.flush_if_large().await?;
                }
                Step::NeedFrom(stream_idx) => match self.next_row(idxs, idxs[stream_idx]).await? {
                    Some(row) => {
                        self.note_used(idxs[stream_idx]);
                        merge.supply(stream_idx, row).map_err(|error| malformed(&error.to_string()))?;
                    }
                    None => merge.end(stream_idx),
                },
                Step::Done => break,
            }
        }
        // Each shard was given the limit: what is left of its rows is little.
        for &idx in idxs {
            while self.next_row(idxs, idx).await?.is_some() {}
        }
        Ok(n_emitted)
    }

    /// The next DataRow body of a backend; `None` once it is ready for the next statement.
    pub(super) async fn next_row(&mut self, idxs: &[usize], idx: usize) -> Result<Option<Bytes>, Failure> {
        loop {
            let Some((tag, mut message)) = self.next_answer_if_any(idxs, idx).await? else { return Ok(None) };
            match tag {
                b'D' => {
                    message.advance(HEADER_LEN);
                    self.watch_rows(idx, 1, message.len() as u64);
                    return Ok(Some(message.freeze()));
                }
                b'E' => self.take_error(idxs, idx, &message).await?,
                b'T' => self.check_described(idxs, &message).await?,
                b'Z' => {
                    self.watch_rows(idx, 0, 0);
                    return Ok(None);
                }
                _ => {}
            }
        }
    }

    /// Relays rows of all backends in whatever order they come, whole runs at a time where nothing is to be counted off.
    pub(super) async fn concatenate(
        &mut self,
        idxs: &[usize],
        plan: &MergePlan,
        description: Description,
    ) -> Result<u64, Failure> {
        let mut window = Window { n_to_skip: plan.offset, n_to_emit: plan.limit, n_emitted: 0 };
        let mut description = (description == Description::Send).then_some(());
        // The columns are told by the first shard, before anyone's rows.
        self.await_description(idxs, &mut description).await?;
        loop {
            let mut open = None;
            for &idx in idxs {
                self.take_rows(idxs, idx, &mut window).await?;
                if !self.enlisted[idx].is_ready {
                    open = Some(idx);
                }
            }
            let Some(wanted) = open else { return Ok(window.n_emitted) };
            if self.client.output.len() >= OUTPUT_HIGH_WATER {
                self.client.flush().await?;
            }
            self.fill_any(idxs, wanted).await?;
        }
    }

    async fn await_description(&mut self, idxs: &[usize], description: &mut Option<()>) -> Result<(), Failure> {
        loop {
            // One that is left out tells nothing.
            let Some(first) = idxs.iter().copied().find(|&idx| !self.is_left_out(idx)) else { return Ok(()) };
            let Some((tag, message)) = self.next_answer_if_any(idxs, first).await? else { continue };
            match tag {
                b'E' => self.take_error(idxs, first, &message).await?,
                b'T' | b'n' => {
                    if tag == b'T' {
                        self.check_described(idxs, &message).await?;
                    }
                    if description.take().is_some() && tag == b'T' {
                        self.client.output.extend_from_slice(&message);
                    }
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Takes the whole messages in a backend's buffer.
    async fn take_rows(&mut self, idxs: &[usize], idx: usize, window: &mut Window) -> Result<(), Failure> {
        while !self.enlisted[idx].is_ready {
            let header = match self.enlisted[idx].lease.buffered_header() {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(()),
                Err(_) => return self.next_of(idxs, idx).await.map(drop),
            };
            let Self { client, enlisted, copying, watch, partial, .. } = self;
            let held = &mut enlisted[idx];
            if header.tag == b'D' {
                if let Some(partial) = partial {
                    partial.note_used(held.lease.shard);
                }
                if let Some(watch) = watch {
                    watch.note_rows(held.lease.shard, 1, (header.len - HEADER_LEN) as u64);
                }
                let row = &mut held.lease.socket.input[..header.len];
                if window.admits() {
                    if held.answers.is_watching() {
                        held.answers.translate_row(&mut row[HEADER_LEN..]);
                    }
                    match copying {
                        None => client.output.extend_from_slice(row),
                        Some(copying) => copying.put(&row[HEADER_LEN..], &mut client.output)?,
                    }
                }
                held.lease.socket.input.advance(header.len);
                continue;
            }
            if header.tag == b'2' {
                self.unbound = None;
            }
            let Some(mut message) = held.take_answer(header) else { continue };
            self.watch_rows(idx, 0, 0);
            if header.tag == b'E' {
                self.take_error(idxs, idx, &message).await?;
                continue;
            }
            // Its description says which of its values hold OIDs.
            self.translate(idx, header.tag, &mut message).await;
            if header.tag == b'T' {
                self.check_described(idxs, &message).await?;
            }
        }
        Ok(())
    }
}

impl Window {
    fn admits(&mut self) -> bool {
        if self.n_to_skip > 0 {
            self.n_to_skip -= 1;
            return false;
        }
        if self.n_to_emit.is_some_and(|limit| self.n_emitted >= limit) {
            return false;
        }
        self.n_emitted += 1;
        true
    }
}

/// The merge's keys, once the types of the hidden columns are known.
pub(super) fn merge_spec(plan: &MergePlan, described: &Described, has_stored_text: bool) -> Result<MergeSpec, Failure> {
    let body = described.row_description.clone().unwrap_or_else(no_columns);
    let columns = columns(&body).ok_or_else(|| malformed("a shard sent a malformed row description"))?;
    let n_visible = columns.len().saturating_sub(plan.n_hidden);
    let keys = plan.order.iter().map(|key| {
        let type_oid = columns.get(n_visible + key.column_idx).map_or(0, |column| column.type_oid);
        let comparator =
            Comparator::of(type_oid, key.is_collation_c && has_stored_text).ok_or_else(|| unordered_type(type_oid))?;
        let (is_descending, is_nulls_first) = (key.is_descending, key.is_nulls_first);
        Ok(ResolvedKey { column_idx: key.column_idx, comparator, is_descending, is_nulls_first })
    });
    let keys = keys.collect::<Result<Vec<_>, Failure>>()?;
    let (limit, offset) = (plan.limit, plan.offset);
    Ok(MergeSpec { n_streams: plan.shards.len(), n_visible, n_hidden: plan.n_hidden, keys, limit, offset })
}

fn unordered_type(type_oid: u32) -> Failure {
    let message = format!(
        "ORDER BY across shards of a column whose type (OID {type_oid}) or collation has no proven order is not supported"
    );
    Failure::refused(
        "TL092",
        message,
        "Order by a column of another type or with COLLATE \"C\", or bind the statement to one shard by key.",
    )
}

pub(super) fn malformed(message: &str) -> Failure {
    let report = crate::sqlstate::Report::new(crate::sqlstate::SqlState::PROTOCOL_VIOLATION, message);
    Failure::statement(report, crate::observe::ErrorKind::Connection)
}
