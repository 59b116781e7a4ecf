//! Rows of an answer, in text and in binary.

use std::time::SystemTime;

use bytes::{BufMut, BytesMut};
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};

/// Format code of binary values.
pub(super) const BINARY: i16 = 1;

/// Seconds between 1970 and 2000, the origin of binary timestamps.
const EPOCH_OFFSET_SECONDS: i64 = 946_684_800;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnType {
    Int8,
    Text,
    Timestamptz,
}

pub(super) type ColumnSpec = (&'static str, ColumnType);

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Time(SystemTime),
}

impl ColumnType {
    /// OID and size as in `pg_type`.
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Self::Int8 => (20, 8),
            Self::Text => (25, -1),
            Self::Timestamptz => (1184, 8),
        }
    }
}

/// `formats` as in Bind: none is text for all, one is for all, else one each.
pub(super) fn row_description(columns: &[ColumnSpec], formats: &[i16]) -> RowDescription {
    let fields = columns.iter().enumerate().map(|(idx, (name, kind))| {
        let (oid, size) = kind.oid_and_size();
        FieldDescription::new((*name).to_owned(), 0, 0, oid, size, -1, format_of(formats, idx))
    });
    RowDescription::new(fields.collect())
}

pub(super) fn data_row(cells: &[Cell], formats: &[i16]) -> DataRow {
    let mut row = BytesMut::new();
    for (idx, cell) in cells.iter().enumerate() {
        put_cell(&mut row, cell, format_of(formats, idx) == BINARY);
    }
    DataRow::new(row, cells.len() as i16)
}

fn format_of(formats: &[i16], idx: usize) -> i16 {
    match formats {
        [one] => *one,
        many => many.get(idx).copied().unwrap_or(0),
    }
}

fn put_cell(row: &mut BytesMut, cell: &Cell, is_binary: bool) {
    match cell {
        Cell::Null => row.put_i32(-1),
        Cell::Int(value) if is_binary => put_bytes(row, &value.to_be_bytes()),
        Cell::Int(value) => put_bytes(row, value.to_string().as_bytes()),
        Cell::Text(text) => put_bytes(row, text.as_bytes()),
        Cell::Time(at) if is_binary => put_bytes(row, &micros_since_2000(*at).to_be_bytes()),
        Cell::Time(at) => put_bytes(row, timestamp_text(*at).as_bytes()),
    }
}

fn put_bytes(row: &mut BytesMut, bytes: &[u8]) {
    row.put_i32(bytes.len() as i32);
    row.put_slice(bytes);
}

fn micros_since_2000(at: SystemTime) -> i64 {
    jiff::Timestamp::try_from(at).map_or(0, |at| at.as_microsecond() - EPOCH_OFFSET_SECONDS * 1_000_000)
}

/// As Postgres prints a timestamptz with DateStyle ISO and TimeZone UTC.
pub(super) fn timestamp_text(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map_or_else(|_| "-infinity".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string())
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Counts above the largest int8 do not occur.
impl From<u64> for Cell {
    fn from(n: u64) -> Self {
        Self::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Cell {
    fn from(n: u32) -> Self {
        Self::Int(n.into())
    }
}

impl From<i32> for Cell {
    fn from(n: i32) -> Self {
        Self::Int(n.into())
    }
}

impl From<usize> for Cell {
    fn from(n: usize) -> Self {
        Self::from(n as u64)
    }
}

impl From<SystemTime> for Cell {
    fn from(at: SystemTime) -> Self {
        Self::Time(at)
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
