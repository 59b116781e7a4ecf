//! COPY … TO STDOUT of rows on several shards: one response, one header, one signature, whoever has the rows.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Conversation;
use super::describe::no_columns;
use super::enlist::Watched;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::{Description, malformed};
use super::own::first_shard;
use crate::backend::OUTPUT_HIGH_WATER;
use crate::plan::{Access, CopyFormat, CopyLayout, CopyOutPlan, CopyRows, Plan};
use crate::session::copy_rows::{BINARY_HEADER, BINARY_TRAILER, CsvFormat, RowFormat};
use crate::session::oids::RowOids;
use crate::session::row_description::column_names;
use crate::session::transaction::Phase;
use crate::session::wire::{self, HEADER_LEN, Header};
use crate::topology::ShardSet;

/// How rows of an answer become data of a COPY.
#[derive(Debug)]
pub(super) enum Copying {
    Rows {
        format: RowFormat,
        /// What stands before the first row: the binary format's signature.
        start: &'static [u8],
    },
    /// They are counted and thrown away.
    Nothing { n_rows: u64, n_bytes: u64 },
}

/// Bytes put before the query of a COPY, so that a server looks at everything and reads no row.
const PROBE_START: &str = "SELECT * FROM (";
const PROBE_END: &str = "\n) AS trunkline_rows LIMIT 0";

/// Shards that write data of one COPY.
#[derive(Debug)]
struct Streams<'a> {
    format: &'a CopyFormat,
    /// Of each, what translates its rows.
    oids: Vec<Option<RowOids>>,
    /// Of each, whether the first of its data has come.
    has_begun: Vec<bool>,
    /// The signature is with the client.
    is_signed: bool,
    n_rows: u64,
}

impl Copying {
    /// Writes a row, given the body of its DataRow.
    ///
    /// # Errors
    /// 08P01 when it is malformed.
    pub(super) fn put(&mut self, body: &[u8], output: &mut BytesMut) -> Result<(), Failure> {
        match self {
            Self::Nothing { n_rows, n_bytes } => {
                *n_rows += 1;
                *n_bytes += body.len() as u64;
                Ok(())
            }
            Self::Rows { format, start: [] } => {
                format.write(body, output).ok_or_else(|| malformed("a shard sent a malformed row"))
            }
            Self::Rows { start, .. } => {
                let start = std::mem::take(start);
                wire::message(output, b'd', |b| {
                    b.put_slice(start);
                    b.put_slice(body);
                });
                Ok(())
            }
        }
    }

    /// Takes rows, counts them and throws them away.
    pub(super) fn nothing() -> Self {
        Self::Nothing { n_rows: 0, n_bytes: 0 }
    }

    /// The number and the bytes of rows that were thrown away.
    pub(super) fn counted(&self) -> (u64, u64) {
        match self {
            Self::Nothing { n_rows, n_bytes } => (*n_rows, *n_bytes),
            Self::Rows { .. } => (0, 0),
        }
    }

    /// Writes what stands behind the last of so many rows.
    fn end(&self, output: &mut BytesMut, n_rows: u64) {
        let Self::Rows { format, start } = self else { return };
        if *format == RowFormat::Binary {
            wire::copy_data(output, &[start, BINARY_TRAILER].concat());
        }
        end_copy(output, n_rows);
    }
}

impl Conversation {
    /// Writes a row of an answer: as DataRow, or as data of the COPY that runs. `body` is a DataRow's.
    pub(super) fn put_row(&mut self, body: &[u8]) -> Result<(), Failure> {
        match &mut self.copying {
            None => {
                wire::message(&mut self.client.output, b'D', |b| b.put_slice(body));
                Ok(())
            }
            Some(copying) => copying.put(body, &mut self.client.output),
        }
    }

    /// Writes the CommandComplete of an answer of so many rows.
    pub(super) fn end_rows(&mut self, n_rows: u64) {
        let output = &mut self.client.output;
        match &self.copying {
            None => wire::command_complete(output, format!("SELECT {n_rows}").as_bytes()),
            Some(copying) => copying.end(output, n_rows),
        }
    }

    /// Runs a COPY … TO STDOUT of rows on several shards.
    ///
    /// # Errors
    /// A shard's own; those of the query's plan.
    pub(super) async fn copy_out(&mut self, sql: &str, plan: &CopyOutPlan) -> Result<(), Failure> {
        match &plan.rows {
            CopyRows::Each { shards, text, query } => self.copy_each(*shards, (text, query), &plan.format).await,
            CopyRows::Answer { query, plan: rows } => {
                let around = (sql.get(..query.start).unwrap_or_default(), sql.get(query.end..).unwrap_or_default());
                let query = sql.get(query.clone()).unwrap_or_default();
                self.tell_anew = (self.transaction.phase == Phase::Idle).then(|| self.client.n_flushes());
                let n_output = self.client.output.len();
                let mut outcome = self.copy_answer((query, around), rows, &plan.format).await;
                if matches!(outcome, Err(Failure::StalePlan)) {
                    self.tell_anew = None;
                    self.client.output.truncate(n_output);
                    let rows = self.plan_again(query, &BoundValues::none()).unwrap_or_else(|| Plan::clone(rows));
                    outcome = self.copy_answer((query, around), &rows, &plan.format).await;
                }
                outcome
            }
        }
    }

    /// Runs the query's plan and writes its rows as data. A server has looked at query and options before, and has written the
    /// response and the header.
    async fn copy_answer(
        &mut self,
        (query, around): (&str, (&str, &str)),
        plan: &Plan,
        format: &CopyFormat,
    ) -> Result<(), Failure> {
        if format.layout != CopyLayout::Binary && self.has_ascii_in_characters() {
            return Err(Failure::refused(
                "TL053",
                "COPY TO of sorted, grouped or gathered rows in this client_encoding is not supported",
                "SET client_encoding TO 'UTF8'.",
            ));
        }
        let shard = first_shard(plan);
        self.probe_copy((query, around), plan, format).await?;
        let described = self.describe(shard, query, &[]).await?;
        let names = column_names(&described.row_description.unwrap_or_else(no_columns)).unwrap_or_default();
        let is_binary = format.layout == CopyLayout::Binary;
        let start = if is_binary { BINARY_HEADER } else { &[] };
        self.copying = Some(Box::new(Copying::Rows { format: row_format(format, &names), start }));
        let result_formats = if is_binary { vec![1] } else { Vec::new() };
        let values = BoundValues { result_formats, ..BoundValues::none() };
        let outcome = Box::pin(self.run_many(query, plan, &values, Description::Omit)).await;
        self.copying = None;
        outcome
    }

    /// Has a server run the COPY over no row: its CopyOutResponse and header go to the client.
    async fn probe_copy(
        &mut self,
        (query, (before, after)): (&str, (&str, &str)),
        plan: &Plan,
        format: &CopyFormat,
    ) -> Result<(), Failure> {
        let idx = self.enlist(first_shard(plan), Access::Read).await?;
        let probe = format!("{before}{PROBE_START}{query}{PROBE_END}{after}");
        self.enlisted[idx].begin_statement().write_query(probe.as_bytes());
        if let Err(error) = self.timer.send(&mut self.enlisted[idx].lease).await {
            return Err(self.abandon(idx, error).await);
        }
        let mut failure = None;
        loop {
            let (tag, message) = self.next_message(idx, Watched::Client).await?;
            match tag {
                b'H' => self.client.output.extend_from_slice(&message),
                b'd' if format.has_header => self.client.output.extend_from_slice(&message),
                b'E' => {
                    let n_before = before.chars().count();
                    let mut moved = BytesMut::with_capacity(message.len());
                    wire::report_with_position(&mut moved, message.get(HEADER_LEN..).unwrap_or_default(), |position| {
                        Some(if position > n_before { position - PROBE_START.len() } else { position })
                    });
                    failure = Some(Failure::Shard(moved));
                }
                b'Z' => return failure.map_or(Ok(()), Err),
                _ => {}
            }
        }
    }

    /// Runs a COPY on each shard and relays their data one after the other, in whatever order it comes.
    async fn copy_each(&mut self, shards: ShardSet, (text, query): (&str, &str), format: &CopyFormat) -> Result<(), Failure> {
        let oids = self.copied_oids(shards, query, format).await?;
        let mut idxs = Vec::new();
        for shard in shards.iter() {
            idxs.push(self.enlist(shard, Access::Read).await?);
        }
        for &idx in &idxs {
            self.enlisted[idx].begin_statement().write_query(text.as_bytes());
            self.send_of(&idxs, idx).await?;
        }
        let has_begun = vec![false; idxs.len()];
        let mut streams = Streams { format, oids, has_begun, is_signed: false, n_rows: 0 };
        let Some(&first) = idxs.first() else { return Ok(()) };
        loop {
            let mut open = None;
            for (stream_idx, &idx) in idxs.iter().enumerate() {
                self.take_copy_data(&idxs, (stream_idx, idx), &mut streams).await?;
                if !self.enlisted[idx].is_ready {
                    open = Some(idx);
                }
                if stream_idx == 0 && !streams.has_begun[0] && !self.enlisted[idx].is_ready {
                    // The response and the header are the first shard's, and come before any row.
                    open = Some(first);
                    break;
                }
            }
            let Some(wanted) = open else { break };
            if self.client.output.len() >= OUTPUT_HIGH_WATER {
                self.client.flush().await?;
            }
            self.restart_deadline();
            self.fill_any(&idxs, wanted).await?;
        }
        if format.layout == CopyLayout::Binary {
            let start = if streams.is_signed { &[][..] } else { BINARY_HEADER };
            wire::copy_data(&mut self.client.output, &[start, BINARY_TRAILER].concat());
        }
        end_copy(&mut self.client.output, streams.n_rows);
        if !self.transaction.is_open() {
            self.release();
        }
        Ok(())
    }

    /// What translates the rows of each shard: in binary form they may hold OIDs.
    async fn copied_oids(&mut self, shards: ShardSet, query: &str, format: &CopyFormat) -> Result<Vec<Option<RowOids>>, Failure> {
        let has_own_oids = shards.iter().any(|shard| self.view.types.moved(shard).is_some());
        if format.layout != CopyLayout::Binary || !has_own_oids {
            return Ok(shards.iter().map(|_| None).collect());
        }
        let Some(first) = shards.iter().next() else { return Ok(Vec::new()) };
        // What is wrong with the statement is said by those who run it.
        let body = match self.describe(first, query, &[]).await {
            Ok(described) => described.row_description.unwrap_or_else(no_columns),
            Err(Failure::Shard(_)) if !self.transaction.is_open() => no_columns(),
            Err(failure) => return Err(failure),
        };
        Ok(shards.iter().map(|shard| self.row_oids(shard, &body, &[1])).collect())
    }

    /// Takes the whole messages in a backend's buffer.
    async fn take_copy_data(
        &mut self,
        idxs: &[usize],
        (stream_idx, idx): (usize, usize),
        streams: &mut Streams<'_>,
    ) -> Result<(), Failure> {
        while !self.enlisted[idx].is_ready {
            let header = match self.enlisted[idx].lease.buffered_header() {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(()),
                Err(_) => return self.next_of(idxs, idx).await.map(drop),
            };
            if header.tag == b'd' {
                let input = &mut self.enlisted[idx].lease.socket.input;
                streams.relay(stream_idx, &mut input[..header.len], &mut self.client.output);
                input.advance(header.len);
                continue;
            }
            let Header { tag, .. } = header;
            let Some(message) = self.enlisted[idx].take_answer(header) else { continue };
            match tag {
                b'E' => return Err(self.shard_failed(idxs, idx, &message).await),
                b'H' if stream_idx == 0 => {
                    self.client.output.extend_from_slice(&message);
                    streams.has_begun[0] = !streams.format.has_header;
                }
                b'C' => streams.n_rows += wire::tag_count(&message[HEADER_LEN..]).unwrap_or(0),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a character of the client's encoding may have bytes that look like ASCII: PostgreSQL manual, "Supported Character
    /// Sets", those for clients only.
    fn has_ascii_in_characters(&self) -> bool {
        let encoding = self.converted_encoding().unwrap_or_default().to_ascii_uppercase();
        matches!(encoding.as_str(), "BIG5" | "GB18030" | "GBK" | "JOHAB" | "SJIS" | "SHIFT_JIS_2004" | "UHC")
    }
}

impl Streams<'_> {
    /// Relays a CopyData message, but for what only one shard's data has.
    fn relay(&mut self, stream_idx: usize, message: &mut [u8], output: &mut BytesMut) {
        let is_first = !std::mem::replace(&mut self.has_begun[stream_idx], true);
        if self.format.layout != CopyLayout::Binary {
            let is_own_header = is_first && self.format.has_header && stream_idx > 0;
            if !is_own_header {
                output.extend_from_slice(message);
            }
            return;
        }
        let n_signed = if message[HEADER_LEN..].starts_with(BINARY_HEADER) { BINARY_HEADER.len() } else { 0 };
        let payload = &mut message[HEADER_LEN + n_signed..];
        if payload == BINARY_TRAILER {
            return;
        }
        if let Some(oids) = &self.oids[stream_idx] {
            oids.translate(payload);
        }
        if self.is_signed {
            wire::copy_data(output, payload);
        } else {
            self.is_signed = true;
            wire::copy_data(output, &[BINARY_HEADER, payload].concat());
        }
    }
}

fn end_copy(output: &mut BytesMut, n_rows: u64) {
    wire::bare(output, b'c');
    wire::command_complete(output, format!("COPY {n_rows}").as_bytes());
}

/// The format for an answer whose columns have these names.
fn row_format(format: &CopyFormat, names: &[Bytes]) -> RowFormat {
    match format.layout {
        CopyLayout::Binary => RowFormat::Binary,
        CopyLayout::Text => RowFormat::Text { delimiter: format.delimiter, null: format.null.clone() },
        CopyLayout::Csv => {
            let is_all = format.force_quote.iter().any(|name| name == "*");
            let is_forced = |name: &Bytes| is_all || format.force_quote.iter().any(|forced| forced.as_bytes() == &name[..]);
            RowFormat::Csv(CsvFormat {
                delimiter: format.delimiter,
                null: format.null.clone(),
                quote: format.quote,
                escape: format.escape,
                forced: names.iter().map(is_forced).collect(),
            })
        }
    }
}
