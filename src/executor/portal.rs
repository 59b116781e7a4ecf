//! A portal or cursor over several shards: each has one of its own and gives its rows in chunks, so that between two messages of
//! the client every backend is at rest and may run other statements of the transaction.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes};

use super::Conversation;
use super::describe::no_columns;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::{malformed, merge_spec};
use crate::deadline::Deadline;
use crate::merge::{MergeSpec, OrderedMerge, Step};
use crate::observe::ErrorKind;
use crate::plan::{Access, Plan};
use crate::session::oids::RowOids;
use crate::session::row_description::{columns, formats_with_hidden};
use crate::session::wire::{self, HEADER_LEN};
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Rows of a shard's first chunk, and most of any.
const FIRST_CHUNK: u64 = 64;
const MAX_CHUNK: u64 = 1024;

/// Bytes that a chunk is meant to have, by the rows seen so far.
const CHUNK_BYTES: u64 = 128 * 1024;

/// What the shards have for an open portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Portals of the protocol, whose formats are those of their Bind.
    Portal,
    /// Cursors of SQL, of which each FETCH may want other formats.
    Cursor,
}

/// What becomes of rows that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sink {
    Client,
    /// They stay in the client's output until all are there.
    Kept,
    Nobody,
}

/// An open portal. It holds what is left of each shard's last chunk.
#[derive(Debug)]
pub(super) struct OpenPortal {
    /// The portal's name on the shards.
    server_name: String,
    form: Form,
    /// In which a cursor's rows are asked for.
    formats: Vec<i16>,
    /// The body of a shard's RowDescription.
    body: Bytes,
    merge: OrderedMerge,
    n_visible: usize,
    n_hidden: usize,
    sources: Vec<Source>,
    /// What the last shard to end has said of it.
    pub tag: Bytes,
}

/// One shard's rows.
#[derive(Debug)]
struct Source {
    shard: ShardId,
    /// Read when the chunk was to be finished, and not yet given.
    rows: VecDeque<Bytes>,
    /// A chunk is on its way.
    is_running: bool,
    /// The shard's portal has no more rows.
    is_done: bool,
    /// In the chunk that is on its way.
    n_asked: u64,
    n_in_chunk: u64,
    n_rows: u64,
    n_bytes: u64,
    /// Translates its rows.
    oids: Option<RowOids>,
}

impl Source {
    fn new(shard: ShardId) -> Self {
        let (n_rows, n_bytes, n_asked, n_in_chunk) = (0, 0, 0, 0);
        let oids = None;
        Self { shard, rows: VecDeque::new(), is_running: false, is_done: false, n_asked, n_in_chunk, n_rows, n_bytes, oids }
    }

    /// Rows to ask for, of which `n_wanted` are needed at most.
    fn chunk(&self, n_wanted: Option<u64>) -> u64 {
        let fitting = match self.n_rows {
            0 => FIRST_CHUNK,
            n_rows => (CHUNK_BYTES / (self.n_bytes / n_rows).max(1)).clamp(1, MAX_CHUNK),
        };
        n_wanted.map_or(fitting, |n_wanted| n_wanted.clamp(1, fitting))
    }

    fn note(&mut self, row: &Bytes) {
        self.n_rows += 1;
        self.n_in_chunk += 1;
        self.n_bytes += row.len() as u64;
    }
}

impl Conversation {
    /// Opens a portal for the rows of a merge or combine plan on each shard that has a part in it. `sql` is the client's text.
    ///
    /// # Errors
    /// A shard's for the text or the values.
    pub(super) async fn open_portal(
        &mut self,
        sql: &str,
        plan: &Plan,
        (values, form): (&BoundValues, Form),
    ) -> Result<OpenPortal, Failure> {
        match plan {
            Plan::Merge(plan) => {
                let Some(first) = plan.shards.iter().next() else { return Err(no_rows()) };
                let described = self.describe(first, &plan.text, &values.param_types).await?;
                let spec = merge_spec(plan, &described, self.has_stored_text())?;
                let shards: Vec<ShardId> = plan.shards.iter().collect();
                let body = described.row_description.unwrap_or_else(no_columns);
                self.open_on((&shards, Access::Read), (&plan.text, &body), (values, form), spec).await
            }
            Plan::Combine(plan) => {
                let final_part = self.combine_partial(sql, plan, values).await?;
                let body = final_part.description.unwrap_or_else(no_columns);
                let shards = (&[final_part.engine][..], Access::Read);
                self.open_on(shards, (&final_part.sql, &body), (&final_part.bound, form), one_stream(&body)).await
            }
            _ => Err(no_rows()),
        }
    }

    /// Opens a portal for the rows of a statement that runs on one shard, whose columns these are.
    pub(super) async fn open_portal_of_one(
        &mut self,
        (shard, access): (ShardId, Access),
        text: &str,
        values: &BoundValues,
        body: &Bytes,
    ) -> Result<OpenPortal, Failure> {
        self.open_on((&[shard], access), (text, body), (values, Form::Portal), one_stream(body)).await
    }

    async fn open_on(
        &mut self,
        (shards, access): (&[ShardId], Access),
        (text, body): (&str, &Bytes),
        (values, form): (&BoundValues, Form),
        spec: MergeSpec,
    ) -> Result<OpenPortal, Failure> {
        self.timer.limit(Deadline::after(Instant::now(), self.database.query.shard_timeout));
        let server_name = self.portals.next_server_name();
        let (n_visible, n_hidden) = (spec.n_visible, spec.n_hidden);
        let formats = formats_with_hidden(&values.result_formats, n_visible, n_hidden);
        let (text, tail) = match form {
            Form::Portal => (text.to_owned(), values.bind_tail(&formats)),
            Form::Cursor => (format!("DECLARE \"{server_name}\" NO SCROLL CURSOR FOR {text}"), values.bind_tail(&[])),
        };
        let mut idxs = Vec::with_capacity(shards.len());
        for &shard in shards {
            self.check_parameter_types(shard, &values.param_types).await?;
            idxs.push(self.enlist(shard, access).await?);
        }
        for (&idx, &shard) in idxs.iter().zip(shards) {
            let param_types = self.parameter_types(shard, &values.param_types);
            let connection = self.enlisted[idx].begin_statement();
            connection.unnamed = None;
            let output = &mut connection.socket.output;
            wire::parse(output, b"", text.as_bytes(), &param_types);
            match form {
                Form::Portal => wire::bind(output, server_name.as_bytes(), b"", &tail),
                Form::Cursor => {
                    wire::bind(output, b"", b"", &tail);
                    wire::execute(output, b"", 0);
                }
            }
            wire::describe_or_close(output, b'D', b'P', server_name.as_bytes());
            wire::bare(output, b'S');
            self.send_of(&idxs, idx).await?;
        }
        let told = columns(body).unwrap_or_default();
        self.expect_columns(told.iter().map(|column| column.type_oid));
        self.read_counts(&idxs).await?;
        let source = |&shard: &ShardId| Source { oids: self.row_oids(shard, body, &formats), ..Source::new(shard) };
        let (sources, body) = (shards.iter().map(source).collect(), body.clone());
        let (merge, tag) = (OrderedMerge::new(spec), Bytes::from_static(b"SELECT 0"));
        Ok(OpenPortal { server_name, form, formats, body, merge, n_visible, n_hidden, sources, tag })
    }

    /// Has the rows of a cursor come in these formats.
    ///
    /// # Errors
    /// TL066 when rows are there in others.
    pub(super) fn ask_for(&self, open: &mut OpenPortal, result_formats: &[i16]) -> Result<(), Failure> {
        let formats = formats_with_hidden(result_formats, open.n_visible, open.n_hidden);
        if formats == open.formats {
            return Ok(());
        }
        if open.merge.has_rows() || open.sources.iter().any(|source| !source.rows.is_empty()) {
            return Err(Failure::refused(
                "TL066",
                "a cursor over several shards cannot change between text and binary while it is read",
                "Fetch all its rows by the simple or all by the extended protocol.",
            ));
        }
        for source in &mut open.sources {
            source.oids = self.row_oids(source.shard, &open.body, &formats);
        }
        open.formats = formats;
        Ok(())
    }

    /// Reads the next rows of a portal, `max_rows` of them or, when that is 0, all. Gives their number.
    ///
    /// # Errors
    /// A shard's; 08006 when one is held no more; 54000 when more would be kept than `query.max_gather_bytes`.
    pub(super) async fn fetch_portion(&mut self, open: &mut OpenPortal, max_rows: u64, sink: Sink) -> Result<u64, Failure> {
        self.timer.limit(Deadline::after(Instant::now(), self.database.query.shard_timeout));
        let idxs = self.idxs_of(open)?;
        let mut n_rows = 0;
        while max_rows == 0 || n_rows < max_rows {
            let n_wanted = (max_rows > 0).then(|| max_rows - n_rows);
            match open.merge.step() {
                Step::Emit(body) => {
                    n_rows += 1;
                    self.give(&body, sink).await?;
                }
                Step::NeedFrom(source_idx) => match self.source_row(open, &idxs, source_idx, n_wanted).await? {
                    Some(row) => open.merge.supply(source_idx, row).map_err(|error| malformed(&error.to_string()))?,
                    None => open.merge.end(source_idx),
                },
                Step::Done => break,
            }
        }
        self.finish_chunks(open, &idxs).await?;
        Ok(n_rows)
    }

    async fn give(&mut self, body: &[u8], sink: Sink) -> Result<(), Failure> {
        if sink == Sink::Nobody {
            return Ok(());
        }
        wire::message(&mut self.client.output, b'D', |b| b.put_slice(body));
        match sink {
            Sink::Client => Ok(self.client.flush_if_large().await?),
            Sink::Kept | Sink::Nobody => self.check_kept(),
        }
    }

    /// # Errors
    /// 54000 when what waits for the client is more than it may be.
    pub(super) fn check_kept(&self) -> Result<(), Failure> {
        let max_bytes = self.max_gather_bytes();
        if self.client.output.len() as u64 <= max_bytes {
            return Ok(());
        }
        Err(Failure::too_many_bytes("rows that are kept for a portal", max_bytes, "Fetch all rows at once"))
    }

    /// Has the shards close their portals, with the next statement that each gets.
    pub(super) fn close_portal(&mut self, open: &OpenPortal) {
        if !self.transaction.is_open() {
            return;
        }
        for source in &open.sources {
            let Some(idx) = self.index_of(source.shard) else { continue };
            let held = &mut self.enlisted[idx];
            held.lease.is_clean = false;
            let output = &mut held.lease.socket.output;
            wire::describe_or_close(output, b'C', b'P', open.server_name.as_bytes());
            wire::bare(output, b'S');
            held.n_skipped_cycles += 1;
        }
    }

    /// The indexes of the sources' backends.
    fn idxs_of(&self, open: &OpenPortal) -> Result<Vec<usize>, Failure> {
        open.sources.iter().map(|source| self.index_of(source.shard)).collect::<Option<Vec<usize>>>().ok_or_else(|| {
            let report = Report::new(SqlState::CONNECTION_FAILURE, "the connection to a shard of the portal was lost");
            Failure::statement(report, ErrorKind::Connection)
        })
    }

    /// The next row of one source. Where a chunk is needed, the others that are sorted with it get theirs in the same moment.
    async fn source_row(
        &mut self,
        open: &mut OpenPortal,
        idxs: &[usize],
        source_idx: usize,
        n_wanted: Option<u64>,
    ) -> Result<Option<Bytes>, Failure> {
        if let Some(row) = open.sources[source_idx].rows.pop_front() {
            return Ok(Some(row));
        }
        while !open.sources[source_idx].is_done {
            if !open.sources[source_idx].is_running {
                self.start_chunks(open, idxs, source_idx, n_wanted).await?;
            }
            if let Some(row) = self.chunk_row(open, idxs, source_idx).await? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    async fn start_chunks(
        &mut self,
        open: &mut OpenPortal,
        idxs: &[usize],
        wanted_idx: usize,
        n_wanted: Option<u64>,
    ) -> Result<(), Failure> {
        let is_sorted = open.merge.is_sorted();
        for (source_idx, source) in open.sources.iter_mut().enumerate() {
            let is_needed = source_idx == wanted_idx || (is_sorted && source.n_rows == 0);
            if !is_needed || source.is_running || source.is_done || !source.rows.is_empty() {
                continue;
            }
            (source.n_asked, source.n_in_chunk, source.is_running) = (source.chunk(n_wanted), 0, true);
            let connection = self.enlisted[idxs[source_idx]].begin_statement();
            match open.form {
                Form::Portal => {
                    let chunk = i32::try_from(source.n_asked).unwrap_or(i32::MAX);
                    wire::execute(&mut connection.socket.output, open.server_name.as_bytes(), chunk);
                }
                Form::Cursor => {
                    connection.unnamed = None;
                    let fetch = format!("FETCH FORWARD {} FROM \"{}\"", source.n_asked, open.server_name);
                    wire::run_text(&mut connection.socket.output, &fetch, &BoundValues::none().bind_tail(&open.formats));
                }
            }
            wire::bare(&mut connection.socket.output, b'S');
            self.send_of(idxs, idxs[source_idx]).await?;
        }
        Ok(())
    }

    /// The next row of a running chunk; `None` at its end.
    async fn chunk_row(&mut self, open: &mut OpenPortal, idxs: &[usize], source_idx: usize) -> Result<Option<Bytes>, Failure> {
        let idx = idxs[source_idx];
        loop {
            let (tag, mut message) = self.next_answer_of(idxs, idx).await?;
            let source = &mut open.sources[source_idx];
            match tag {
                b'D' => {
                    message.advance(HEADER_LEN);
                    if let Some(oids) = &source.oids {
                        oids.translate(&mut message);
                    }
                    let row = message.freeze();
                    source.note(&row);
                    return Ok(Some(row));
                }
                b'C' if open.form == Form::Cursor => source.is_done = source.n_in_chunk < source.n_asked,
                b'C' => {
                    source.is_done = true;
                    // Without the byte that ends it.
                    let end = message.len().saturating_sub(1).max(HEADER_LEN);
                    open.tag = message.freeze().slice(HEADER_LEN..end);
                }
                b'E' => return Err(self.shard_failed(idxs, idx, &message).await),
                b'Z' => {
                    source.is_running = false;
                    return Ok(None);
                }
                _ => {}
            }
        }
    }

    /// Reads what is left of running chunks, so that their backends can be used for other statements.
    async fn finish_chunks(&mut self, open: &mut OpenPortal, idxs: &[usize]) -> Result<(), Failure> {
        for source_idx in 0..idxs.len() {
            while open.sources[source_idx].is_running {
                if let Some(row) = self.chunk_row(open, idxs, source_idx).await? {
                    open.sources[source_idx].rows.push_back(row);
                }
            }
        }
        Ok(())
    }
}

/// The rows of one server as they come.
fn one_stream(body: &[u8]) -> MergeSpec {
    let n_visible = columns(body).map_or(0, |columns| columns.len());
    MergeSpec { n_streams: 1, n_visible, n_hidden: 0, keys: Vec::new(), limit: None, offset: 0 }
}

fn no_rows() -> Failure {
    Failure::statement(Report::new(SqlState::INTERNAL_ERROR, "a portal of a plan without rows"), ErrorKind::Client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n_rows: u64, n_bytes: u64) -> Source {
        Source { n_rows, n_bytes, ..Source::new(ShardId(0)) }
    }

    #[test]
    fn chunks_follow_what_is_wanted_and_how_long_rows_are() {
        assert_eq!(source(0, 0).chunk(None), FIRST_CHUNK);
        assert_eq!(source(0, 0).chunk(Some(5)), 5);
        assert_eq!(source(10, 100).chunk(None), MAX_CHUNK);
        assert_eq!(source(2, 2 * CHUNK_BYTES / 4).chunk(Some(1000)), 4);
        assert_eq!(source(1, 100 * CHUNK_BYTES).chunk(Some(1000)), 1);
    }
}
