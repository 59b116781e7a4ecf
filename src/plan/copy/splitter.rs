//! The stream of a COPY … FROM STDIN, one stream per shard out of it.

use bytes::BytesMut;

use super::super::contract::PlanSettings;
use super::super::insert::{is_stored_as_is, placement_refusal};
use super::super::refusal::{Refusal, RefusalCode};
use super::csv::{self, QuoteState};
use super::scan::find_any;
use super::{CopySplit, KeyField};
use crate::sql::{ValueError, canonical_text};
use crate::sqlstate::Report;
use crate::topology::{KeyValue, ShardId};

/// Longest row of a COPY that is split. Postgres's own limit is 1 GiB; a proxy holds a row for each of many clients.
pub const MAX_COPY_ROW_BYTES: usize = 64 << 20;

/// Splits a stream of COPY data into one stream per shard. Holds at most one unfinished row.
#[derive(Debug)]
pub struct CopySplitter {
    split: CopySplit,
    time_zone: String,
    now_micros: i64,
    /// An unfinished row, and how far it has been scanned.
    pending: BytesMut,
    scanned: usize,
    quotes: QuoteState,
    line: u64,
    has_ended: bool,
    values: Vec<KeyValue>,
    field: Vec<u8>,
}

/// A key field as it stands in a row.
enum Field {
    Missing,
    Null,
    /// In `self.field`.
    Value,
}

impl CopySplitter {
    /// `now_micros`: the transaction's time, for key columns that default to it.
    pub fn new(split: &CopySplit, settings: &PlanSettings, now_micros: i64) -> Self {
        Self {
            split: split.clone(),
            time_zone: settings.time_zone.clone(),
            now_micros,
            pending: BytesMut::new(),
            scanned: 0,
            quotes: QuoteState::default(),
            line: 0,
            has_ended: false,
            values: Vec::with_capacity(split.fields.len()),
            field: Vec::new(),
        }
    }

    /// Takes the payload of one CopyData message (rows may span messages) and appends whole rows to `out[shard]`.
    ///
    /// `out` has a buffer for every shard of the topology.
    ///
    /// # Errors
    /// A row without a shard (23502, 22023), an unfinished row beyond [`MAX_COPY_ROW_BYTES`] (54000), a malformed row (22P04).
    pub fn push(&mut self, chunk: &[u8], out: &mut [BytesMut]) -> Result<(), Report> {
        if self.has_ended {
            return Ok(());
        }
        if self.pending.is_empty() {
            let used = self.rows(chunk, out)?;
            self.pending.extend_from_slice(chunk.get(used..).unwrap_or_default());
        } else {
            self.pending.extend_from_slice(chunk);
            let whole = std::mem::take(&mut self.pending);
            let used = self.rows(&whole, out)?;
            self.pending = whole;
            bytes::Buf::advance(&mut self.pending, used);
        }
        if self.pending.len() > MAX_COPY_ROW_BYTES {
            let message = format!("COPY row is longer than {MAX_COPY_ROW_BYTES} bytes, line {}", self.line + 1);
            return Err(Refusal::new(RefusalCode::CopyRowTooLong, message).into());
        }
        Ok(())
    }

    /// Takes CopyDone: a last row without a newline.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(&mut self, out: &mut [BytesMut]) -> Result<(), Report> {
        let rest = std::mem::take(&mut self.pending);
        if rest.is_empty() || self.has_ended {
            return Ok(());
        }
        self.row(&rest, out)
    }

    /// Hands out the whole rows of `bytes` and returns how many bytes they are.
    fn rows(&mut self, bytes: &[u8], out: &mut [BytesMut]) -> Result<usize, Report> {
        let mut start = 0;
        let mut from = std::mem::take(&mut self.scanned);
        while let Some(end) = self.row_end(bytes, from) {
            self.row(&bytes[start..end], out)?;
            if self.has_ended {
                return Ok(bytes.len());
            }
            start = end;
            from = end;
        }
        // The scan goes on in what is kept: from the unfinished row's start.
        self.scanned = self.scanned.saturating_sub(start);
        Ok(start)
    }

    /// The position after a row's newline. Without one the scan's state is kept for the next chunk.
    fn row_end(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        if self.split.format.is_csv {
            let end = csv::row_end(bytes, from, &self.split.format, &mut self.quotes);
            if end.is_none() {
                self.scanned = bytes.len();
            }
            return end;
        }
        let mut at = from;
        loop {
            match find_any(bytes, at, [b'\n', b'\\']) {
                Some(found) if bytes[found] == b'\n' => return Some(found + 1),
                // A backslash takes the next byte with it; the last byte's partner is still to come.
                Some(found) if found + 1 < bytes.len() => at = found + 2,
                Some(found) => {
                    self.scanned = found;
                    return None;
                }
                None => {
                    self.scanned = bytes.len();
                    return None;
                }
            }
        }
    }

    /// Hands out one row, its newline included if it has one.
    fn row(&mut self, row: &[u8], out: &mut [BytesMut]) -> Result<(), Report> {
        self.line += 1;
        let content = row.strip_suffix(b"\n").unwrap_or(row);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        if content == b"\\." {
            self.has_ended = true;
            return Ok(());
        }
        if self.line == 1 && self.split.format.has_header {
            for shard in self.split.key.all_shards().iter() {
                append(out, shard, row);
            }
            return Ok(());
        }
        if !self.split.format.is_csv && content.contains(&b'\r') {
            let message = format!("a carriage return inside of a COPY row is not understood, line {}", self.line);
            return Err(Refusal::new(RefusalCode::CopyData, message)
                .with_hint("End lines with a newline; write \\r for the character.")
                .into());
        }
        let shard = self.shard_of(content)?;
        append(out, shard, row);
        Ok(())
    }

    fn shard_of(&mut self, content: &[u8]) -> Result<ShardId, Report> {
        self.values.clear();
        let fields = std::mem::take(&mut self.split.fields);
        let result = fields.iter().try_for_each(|field| self.key_value(field, content));
        self.split.fields = fields;
        match result {
            Ok(()) => {}
            // Postgres refuses the row on whichever shard reads it.
            Err(None) => return Ok(self.split.key.all_shards().iter().next().unwrap_or(ShardId(0))),
            Err(Some(refusal)) => return Err(self.at_line(refusal)),
        }
        self.split.key.shard_of(&self.values).map_err(|error| self.at_line(placement_refusal(&error, &self.split.table)))
    }

    fn at_line(&self, refusal: Refusal) -> Report {
        Refusal { message: format!("{}, COPY line {}", refusal.message, self.line), ..refusal }.into()
    }

    /// Reads one key column's value; `Err(None)` for a row that Postgres refuses.
    fn key_value(&mut self, field: &KeyField, content: &[u8]) -> Result<(), Option<Refusal>> {
        let Some(field_idx) = field.field_idx else {
            self.values.push(KeyValue::Timestamp(self.now_micros));
            return Ok(());
        };
        let found = if self.split.format.is_csv {
            self.csv_field(content, field_idx, &field.column.name)
        } else {
            self.text_field(content, field_idx)
        };
        match found {
            Field::Missing => return Err(None),
            Field::Null => {
                self.values.push(KeyValue::Null);
                return Ok(());
            }
            Field::Value => {}
        }
        let opaque = || {
            let message =
                format!("the value of key column \"{}\" of table \"{}\" cannot be placed", field.column.name, self.split.table);
            Some(Refusal::new(RefusalCode::OpaqueKey, message).at(&self.split.table, Some(&field.column.name)))
        };
        let text = std::str::from_utf8(&self.field).map_err(|_| opaque())?;
        match canonical_text(text, field.key_type, &self.time_zone) {
            Ok(value) if is_stored_as_is(&value, &field.column) => {
                self.values.push(value);
                Ok(())
            }
            Ok(_) | Err(ValueError::NotUnderstood) => Err(opaque()),
            Err(ValueError::OutOfRange) => Err(None),
        }
    }

    fn csv_field(&mut self, content: &[u8], field_idx: usize, name: &str) -> Field {
        let format = &self.split.format;
        let mut at = Some(0);
        for _ in 0..field_idx {
            let Some(start) = at else { return Field::Missing };
            at = csv::read_field(content, start, format, &mut self.field).next;
        }
        let Some(start) = at else { return Field::Missing };
        let read = csv::read_field(content, start, format, &mut self.field);
        let is_named = |names: &[String]| names.iter().any(|other| other == name || other == "*");
        let is_null = self.field == format.null
            && if read.was_quoted { is_named(&format.force_null) } else { !is_named(&format.force_not_null) };
        if is_null { Field::Null } else { Field::Value }
    }

    fn text_field(&mut self, content: &[u8], field_idx: usize) -> Field {
        let delimiter = self.split.format.delimiter;
        let mut start = 0;
        for _ in 0..field_idx {
            match field_end(content, start, delimiter) {
                Some(end) => start = end + 1,
                None => return Field::Missing,
            }
        }
        let end = field_end(content, start, delimiter).unwrap_or(content.len());
        let raw = content.get(start..end).unwrap_or_default();
        if raw == self.split.format.null {
            return Field::Null;
        }
        unescape(raw, &mut self.field);
        Field::Value
    }
}

fn append(out: &mut [BytesMut], shard: ShardId, row: &[u8]) {
    if let Some(buffer) = out.get_mut(shard.index()) {
        buffer.extend_from_slice(row);
    }
}

/// The delimiter that ends a text field.
fn field_end(content: &[u8], from: usize, delimiter: u8) -> Option<usize> {
    let mut at = from;
    loop {
        let found = find_any(content, at, [delimiter, b'\\'])?;
        if content[found] == delimiter {
            return Some(found);
        }
        at = found + 2;
    }
}

/// Backslash sequences of the text format: `\b \f \n \r \t \v`, octal and hexadecimal; any other byte stands for itself.
fn unescape(raw: &[u8], into: &mut Vec<u8>) {
    into.clear();
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            into.push(byte);
            continue;
        }
        let Some(escaped) = bytes.next() else {
            into.push(byte);
            break;
        };
        let mut digits = |first: u32, radix: u32, most: usize| {
            let mut value = first;
            for _ in 0..most {
                let Some(digit) = bytes.peek().and_then(|byte| char::from(*byte).to_digit(radix)) else { break };
                value = value * radix + digit;
                bytes.next();
            }
            (value & 0xff) as u8
        };
        match escaped {
            b'b' => into.push(8),
            b'f' => into.push(12),
            b'n' => into.push(b'\n'),
            b'r' => into.push(b'\r'),
            b't' => into.push(b'\t'),
            b'v' => into.push(11),
            b'0'..=b'7' => {
                let value = digits(u32::from(escaped - b'0'), 8, 2);
                into.push(value);
            }
            b'x' => {
                let value = digits(0, 16, 2);
                into.push(value);
            }
            other => into.push(other),
        }
    }
}
