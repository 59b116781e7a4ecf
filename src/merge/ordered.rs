//! k-way merge of sorted streams, with limit and offset.

use std::cmp::Ordering;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::Comparator;

/// A sort key with its comparator, over the hidden columns.
#[derive(Debug, Clone, Copy)]
pub struct ResolvedKey {
    /// Counts from the first hidden column.
    pub column_idx: usize,
    pub comparator: Comparator,
    pub is_descending: bool,
    pub is_nulls_first: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Give this row to the client: a DataRow body without its hidden columns.
    Emit(Bytes),
    /// Supply a row of the stream with this index, or say that it has ended.
    NeedFrom(usize),
    /// Nothing more will be emitted: the limit is full or all streams have ended.
    Done,
}

/// A row that is not a DataRow body with the announced number of columns, whose sort keys are not values of their types, or
/// that the merge has no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a shard sent a malformed row")]
pub struct MalformedRow;

/// How rows are merged.
#[derive(Debug, Clone)]
pub struct MergeSpec {
    pub n_streams: usize,
    /// Columns of the client's rows; hidden ones follow them.
    pub n_visible: usize,
    pub n_hidden: usize,
    /// None: the streams one after the other.
    pub keys: Vec<ResolvedKey>,
    pub limit: Option<u64>,
    pub offset: u64,
}

/// Merge over sorted streams. Holds at most one row of each.
///
/// Rows of equal keys come in the order of their streams.
#[derive(Debug)]
pub struct OrderedMerge {
    spec: MergeSpec,
    /// Rows still to be left out, and still to be emitted.
    n_to_skip: u64,
    n_to_emit: Option<u64>,
    /// The row in hand of each stream.
    rows: Vec<Option<Row>>,
    /// Streams with a row in hand, the one whose row comes first at the end.
    ready: Vec<usize>,
    /// Streams without one that have not ended, the next to ask at the end.
    missing: Vec<usize>,
}

#[derive(Debug)]
struct Row {
    body: Bytes,
    /// Where the hidden columns begin.
    visible_end: usize,
    /// The hidden columns' values in `body`; `None` for NULL.
    hidden: Vec<Option<Range<usize>>>,
}

impl OrderedMerge {
    pub fn new(spec: MergeSpec) -> Self {
        Self {
            n_to_skip: spec.offset,
            n_to_emit: spec.limit,
            rows: (0..spec.n_streams).map(|_| None).collect(),
            ready: Vec::with_capacity(spec.n_streams),
            missing: (0..spec.n_streams).rev().collect(),
            spec,
        }
    }

    /// Whether rows are sorted: the next of each stream must then be known before any is given.
    pub fn is_sorted(&self) -> bool {
        !self.spec.keys.is_empty()
    }

    /// Whether it has rows of streams in hand.
    pub fn has_rows(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Says what to do next. Asks for the same stream again until it is supplied or ended.
    pub fn step(&mut self) -> Step {
        while self.n_to_emit != Some(0) {
            // Without keys any row may go first; with keys only when each stream has shown its next.
            let must_wait = !self.spec.keys.is_empty() || self.ready.is_empty();
            if let (true, Some(&stream_idx)) = (must_wait, self.missing.last()) {
                return Step::NeedFrom(stream_idx);
            }
            let Some(row) = self.take_first() else { return Step::Done };
            if self.n_to_skip > 0 {
                self.n_to_skip -= 1;
                continue;
            }
            self.n_to_emit = self.n_to_emit.map(|n_rows| n_rows - 1);
            return Step::Emit(row.into_visible(self.spec.n_visible));
        }
        Step::Done
    }

    /// Gives the next row of a stream: a DataRow body (field count, then each field's length and bytes).
    ///
    /// # Errors
    /// [`MalformedRow`], also if the stream's last row is still in hand or the stream has ended.
    pub fn supply(&mut self, stream_idx: usize, row: Bytes) -> Result<(), MalformedRow> {
        let row = Row::new(row, &self.spec)?;
        let missing_at = self.missing.iter().rposition(|&missing| missing == stream_idx).ok_or(MalformedRow)?;
        let first_after = |&ready_idx: &usize| match &self.rows[ready_idx] {
            Some(ready) => self.compare(ready, &row).then(ready_idx.cmp(&stream_idx)) == Ordering::Greater,
            None => false,
        };
        let ready_at = self.ready.partition_point(first_after);
        self.missing.remove(missing_at);
        self.ready.insert(ready_at, stream_idx);
        self.rows[stream_idx] = Some(row);
        Ok(())
    }

    /// Says that a stream has no more rows.
    pub fn end(&mut self, stream_idx: usize) {
        self.missing.retain(|&missing| missing != stream_idx);
    }

    fn take_first(&mut self) -> Option<Row> {
        let stream_idx = self.ready.pop()?;
        self.missing.push(stream_idx);
        self.rows[stream_idx].take()
    }

    fn compare(&self, left: &Row, right: &Row) -> Ordering {
        let by_key = |key: &ResolvedKey| match (left.key(key), right.key(key)) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) if key.is_nulls_first => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) if key.is_nulls_first => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(left), Some(right)) if key.is_descending => key.comparator.compare(right, left),
            (Some(left), Some(right)) => key.comparator.compare(left, right),
        };
        self.spec.keys.iter().map(by_key).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

impl Row {
    fn new(body: Bytes, spec: &MergeSpec) -> Result<Self, MalformedRow> {
        let mut fields = Fields { body: &body, at: 2 };
        let n_columns = body.first_chunk().map(|count| usize::from(u16::from_be_bytes(*count)));
        if n_columns != Some(spec.n_visible + spec.n_hidden) {
            return Err(MalformedRow);
        }
        for _ in 0..spec.n_visible {
            fields.next()?;
        }
        let visible_end = fields.at;
        let hidden = (0..spec.n_hidden).map(|_| fields.next()).collect::<Result<Vec<_>, _>>()?;
        let is_whole = fields.at == body.len();
        let row = Self { body, visible_end, hidden };
        let is_valid =
            |key: &ResolvedKey| key.column_idx < spec.n_hidden && row.key(key).is_none_or(|value| key.comparator.is_valid(value));
        if is_whole && spec.keys.iter().all(is_valid) { Ok(row) } else { Err(MalformedRow) }
    }

    fn key(&self, key: &ResolvedKey) -> Option<&[u8]> {
        self.body.get(self.hidden.get(key.column_idx)?.clone()?)
    }

    fn into_visible(self, n_visible: usize) -> Bytes {
        if self.hidden.is_empty() {
            return self.body;
        }
        let mut visible = BytesMut::with_capacity(self.visible_end);
        // The count came from 16 bits and only got smaller.
        visible.put_u16(n_visible as u16);
        visible.extend_from_slice(&self.body[2..self.visible_end]);
        visible.freeze()
    }
}

/// Walks over a DataRow's fields.
struct Fields<'a> {
    body: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    /// Where the next field's value is; `None` for NULL.
    fn next(&mut self) -> Result<Option<Range<usize>>, MalformedRow> {
        let length = self.body.get(self.at..).and_then(<[u8]>::first_chunk).ok_or(MalformedRow)?;
        let start = self.at + 4;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            let is_null = *length == (-1_i32).to_be_bytes();
            self.at = start;
            return if is_null { Ok(None) } else { Err(MalformedRow) };
        };
        let end = start + length;
        if end > self.body.len() {
            return Err(MalformedRow);
        }
        self.at = end;
        Ok(Some(start..end))
    }
}

#[cfg(test)]
mod tests;
