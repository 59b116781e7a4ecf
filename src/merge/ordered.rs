//! k-way merge of sorted streams, with limit and offset.

use bytes::Bytes;

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

/// A row that is not a DataRow body with the announced number of columns.
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
    pub keys: Vec<ResolvedKey>,
    pub limit: Option<u64>,
    pub offset: u64,
}

/// Merge over sorted streams. Holds at most one row of each.
#[derive(Debug)]
pub struct OrderedMerge {
    spec: MergeSpec,
}

impl OrderedMerge {
    pub fn new(spec: MergeSpec) -> Self {
        Self { spec }
    }

    pub fn step(&mut self) -> Step {
        let _ = &self.spec;
        Step::Done
    }

    /// Gives the next row of a stream: a DataRow body (field count, then each field's length and bytes).
    pub fn supply(&mut self, stream_idx: usize, row: Bytes) -> Result<(), MalformedRow> {
        let _ = (stream_idx, row);
        Ok(())
    }

    /// Says that a stream has no more rows.
    pub fn end(&mut self, stream_idx: usize) {
        let _ = stream_idx;
    }
}
