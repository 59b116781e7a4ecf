//! Rows of an answer as the data of COPY … TO: `CopyAttributeOutText` and `CopyAttributeOutCSV` of src/backend/commands/copyto.c.

use bytes::{BufMut, BytesMut};

use super::wire;

/// The signature, no flags and no extension: PostgreSQL manual, COPY, "Binary Format".
pub const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What stands after the last row of the binary format.
pub const BINARY_TRAILER: &[u8] = &[0xff, 0xff];

/// How rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowFormat {
    /// A row's fields have to be in binary.
    Binary,
    Text {
        delimiter: u8,
        null: Vec<u8>,
    },
    Csv(CsvFormat),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFormat {
    pub delimiter: u8,
    pub null: Vec<u8>,
    pub quote: u8,
    pub escape: u8,
    /// Columns whose values are quoted always, but for NULL.
    pub forced: Vec<bool>,
}

impl RowFormat {
    /// Writes the CopyData message of one row. `body` is that of its DataRow, which is also a tuple of the binary format.
    ///
    /// `None` when the body is malformed.
    pub fn write(&self, body: &[u8], buffer: &mut BytesMut) -> Option<()> {
        if *self == Self::Binary {
            wire::copy_data(buffer, body);
            return Some(());
        }
        let fields = wire::fields(body)?;
        wire::message(buffer, b'd', |b| {
            for (idx, field) in fields.iter().enumerate() {
                match self {
                    Self::Binary => {}
                    Self::Text { delimiter, null } => {
                        separate(b, idx, *delimiter);
                        match field {
                            None => b.put_slice(null),
                            Some(value) => text(b, value, *delimiter),
                        }
                    }
                    Self::Csv(format) => {
                        separate(b, idx, format.delimiter);
                        match field {
                            None => b.put_slice(&format.null),
                            Some(value) => csv(b, value, (idx, fields.len()), format),
                        }
                    }
                }
            }
            b.put_u8(b'\n');
        });
        Some(())
    }
}

fn separate(buffer: &mut BytesMut, column_idx: usize, delimiter: u8) {
    if column_idx > 0 {
        buffer.put_u8(delimiter);
    }
}

fn text(buffer: &mut BytesMut, value: &[u8], delimiter: u8) {
    for &byte in value {
        let letter = match byte {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            b'\\' => b'\\',
            byte if byte == delimiter => byte,
            byte => {
                buffer.put_u8(byte);
                continue;
            }
        };
        buffer.put_slice(&[b'\\', letter]);
    }
}

fn csv(buffer: &mut BytesMut, value: &[u8], (column_idx, n_columns): (usize, usize), format: &CsvFormat) {
    let is_special = |byte: &u8| *byte == format.delimiter || *byte == format.quote || matches!(byte, b'\n' | b'\r');
    let is_quoted = format.forced.get(column_idx).copied().unwrap_or(false)
        || value == format.null
        || (n_columns == 1 && value == b"\\.")
        || value.iter().any(is_special);
    if !is_quoted {
        buffer.put_slice(value);
        return;
    }
    buffer.put_u8(format.quote);
    for &byte in value {
        if byte == format.quote || byte == format.escape {
            buffer.put_u8(format.escape);
        }
        buffer.put_u8(byte);
    }
    buffer.put_u8(format.quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &[Option<&str>]) -> BytesMut {
        let mut body = BytesMut::new();
        body.put_i16(i16::try_from(fields.len()).unwrap());
        for field in fields {
            match field {
                None => body.put_i32(-1),
                Some(text) => {
                    body.put_i32(i32::try_from(text.len()).unwrap());
                    body.put_slice(text.as_bytes());
                }
            }
        }
        body
    }

    #[track_caller]
    fn check(format: &RowFormat, fields: &[Option<&str>], expected: &str) {
        let mut message = BytesMut::new();
        format.write(&row(fields), &mut message).unwrap();
        assert_eq!(message[0], b'd');
        assert_eq!(String::from_utf8_lossy(&message[wire::HEADER_LEN..]), expected);
    }

    #[test]
    fn text_is_escaped() {
        let format = RowFormat::Text { delimiter: b'|', null: b"\\N".to_vec() };
        check(&format, &[Some("a\tb|c\\d\ne\u{1}"), None, Some("")], "a\\tb\\|c\\\\d\\ne\u{1}|\\N|\n");
    }

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let csv = |forced: &[bool]| {
            let (delimiter, null, quote, escape) = (b',', Vec::new(), b'"', b'"');
            RowFormat::Csv(CsvFormat { delimiter, null, quote, escape, forced: forced.to_vec() })
        };
        check(
            &csv(&[]),
            &[Some("a"), None, Some(""), Some("x,y"), Some("q\"q"), Some("l\nl")],
            "a,,\"\",\"x,y\",\"q\"\"q\",\"l\nl\"\n",
        );
        check(&csv(&[]), &[Some("\\.")], "\"\\.\"\n");
        check(&csv(&[true, true]), &[Some("1"), None], "\"1\",\n");
        let (delimiter, null, quote, escape) = (b';', b"-".to_vec(), b'\'', b'\\');
        let odd = RowFormat::Csv(CsvFormat { delimiter, null, quote, escape, forced: Vec::new() });
        check(&odd, &[Some("-"), None, Some("it's\\"), Some("\\")], "'-';-;'it\\'s\\\\';\\\n");
    }

    #[test]
    fn a_row_in_binary_is_a_tuple_as_it_is() {
        let mut message = BytesMut::new();
        let body = row(&[Some("ab"), None]);
        RowFormat::Binary.write(&body, &mut message).unwrap();
        assert_eq!(message[wire::HEADER_LEN..], body[..]);
        assert_eq!(RowFormat::Text { delimiter: b'\t', null: Vec::new() }.write(&body[..5], &mut message), None);
    }
}
