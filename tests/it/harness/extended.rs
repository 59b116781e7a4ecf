//! Messages of the extended protocol.

use super::raw::{message, text};

pub(crate) fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let count = u16::try_from(types.len()).unwrap().to_be_bytes().to_vec();
    let types = types.iter().flat_map(|oid| oid.to_be_bytes()).collect();
    message(b'P', &[text(name), text(sql), count, types].concat())
}

/// Bind to the unnamed portal, of values in one format; all results in another.
pub(crate) fn bind(statement: &str, (values, value_format): (&[&[u8]], u8), result_format: u8) -> Vec<u8> {
    // Without any format all are text.
    let formats = if value_format == 0 { vec![0, 0] } else { vec![0, 1, 0, value_format] };
    let count = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    let sized = |value: &&[u8]| [&u32::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat();
    let values = values.iter().flat_map(sized).collect();
    message(b'B', &[text(""), text(statement), formats, count, values, vec![0, 1, 0, result_format]].concat())
}

pub(crate) fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[vec![kind], text(name)].concat())
}

/// Execute of the unnamed portal; 0 rows: all.
pub(crate) fn execute(n_rows: u8) -> Vec<u8> {
    message(b'E', &[text(""), vec![0, 0, 0, n_rows]].concat())
}
