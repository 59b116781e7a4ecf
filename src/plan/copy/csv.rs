//! Row ends and fields of the csv format: CopyReadLineText and CopyReadAttributesCSV of src/backend/commands/copyfromparse.c.

use super::Format;
use super::scan::find_any;

/// Where the scan of an unfinished row stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct QuoteState {
    in_quote: bool,
    last_was_escape: bool,
}

/// The position after the newline that ends the row, scanning from `from`; the state says how the scan goes on without one.
pub(super) fn row_end(bytes: &[u8], from: usize, format: &Format, state: &mut QuoteState) -> Option<usize> {
    // An escape that is the quote itself needs no look-ahead: two quotes toggle twice.
    let (quote, escape) = (format.quote, (format.escape != format.quote).then_some(format.escape));
    let mut at = from;
    loop {
        let wanted = [b'\n', quote, escape.unwrap_or(quote)];
        let found = find_any(bytes, at, wanted);
        let Some(found) = found else {
            state.last_was_escape &= bytes.len() == at;
            return None;
        };
        if found > at {
            state.last_was_escape = false;
        }
        let byte = bytes[found];
        if Some(byte) == escape {
            state.last_was_escape = state.in_quote && !state.last_was_escape;
        } else {
            if byte == quote && !state.last_was_escape {
                state.in_quote = !state.in_quote;
            }
            state.last_was_escape = false;
            if byte == b'\n' && !state.in_quote {
                *state = QuoteState::default();
                return Some(found + 1);
            }
        }
        at = found + 1;
    }
}

/// One field of a row, read from `at` on.
pub(super) struct CsvField {
    /// The position of the next field; `None` after the last one.
    pub(super) next: Option<usize>,
    pub(super) was_quoted: bool,
}

/// Reads a field's value into `value`, which is cleared first.
pub(super) fn read_field(row: &[u8], start: usize, format: &Format, value: &mut Vec<u8>) -> CsvField {
    value.clear();
    let (mut at, mut in_quote, mut was_quoted) = (start, false, false);
    while let Some(byte) = row.get(at).copied() {
        at += 1;
        if in_quote {
            if byte == format.escape
                && let Some(next) = row.get(at).copied()
                && (next == format.escape || next == format.quote)
            {
                value.push(next);
                at += 1;
            } else if byte == format.quote {
                in_quote = false;
            } else {
                value.push(byte);
            }
        } else if byte == format.delimiter {
            return CsvField { next: Some(at), was_quoted };
        } else if byte == format.quote {
            (in_quote, was_quoted) = (true, true);
        } else {
            value.push(byte);
        }
    }
    CsvField { next: None, was_quoted }
}
