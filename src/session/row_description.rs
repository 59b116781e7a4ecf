//! RowDescription, as far as merging needs it: types, formats, and cutting off hidden columns.

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{self, BodyReader};

/// One column's place in a RowDescription body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnDescription {
    pub type_oid: u32,
    /// Where the column's description ends in the body.
    end: usize,
}

impl ColumnDescription {
    /// Where its type's OID stands in the body.
    pub fn type_at(self) -> usize {
        // Behind it: the type's length, its modifier and the format.
        self.end - 12
    }
}

/// The columns of a RowDescription body; `None` when it is malformed.
pub fn columns(body: &[u8]) -> Option<Vec<ColumnDescription>> {
    let n_columns = usize::try_from(BodyReader(body).i16()?).ok()?;
    let mut columns = Vec::with_capacity(n_columns);
    columns.extend(each_column(body));
    (columns.len() == n_columns).then_some(columns)
}

/// The same one after the other; where it is malformed there are no more.
pub fn each_column(body: &[u8]) -> impl Iterator<Item = ColumnDescription> {
    let mut reader = BodyReader(body);
    let n_columns = reader.i16().unwrap_or(0);
    (0..n_columns).map_while(move |_| {
        reader.c_string()?;
        reader.bytes(6)?;
        let type_oid = reader.u32()?;
        reader.bytes(8)?;
        Some(ColumnDescription { type_oid, end: body.len() - reader.0.len() })
    })
}

/// The columns' types of a RowDescription body; none when it is malformed.
pub fn column_types(body: &[u8]) -> Vec<u32> {
    columns(body).unwrap_or_default().iter().map(|column| column.type_oid).collect()
}

/// The columns' names of a RowDescription body; `None` when it is malformed.
pub fn column_names(body: &[u8]) -> Option<Vec<Bytes>> {
    let mut reader = BodyReader(body);
    let n_columns = usize::try_from(reader.i16()?).ok()?;
    let mut names = Vec::with_capacity(n_columns);
    for _ in 0..n_columns {
        names.push(Bytes::copy_from_slice(reader.c_string()?));
        reader.bytes(18)?;
    }
    Some(names)
}

/// Writes a RowDescription of the first `n_columns` of `body`, with the client's result formats.
pub fn write_prefix(buffer: &mut BytesMut, body: &[u8], n_columns: usize, formats: &[i16]) {
    if let Some(columns) = columns(body) {
        write_columns(buffer, (body, &columns), n_columns, formats);
    }
}

/// The same with all columns.
pub fn write_description(buffer: &mut BytesMut, body: &[u8], formats: &[i16]) {
    if let Some(columns) = columns(body) {
        write_columns(buffer, (body, &columns), columns.len(), formats);
    }
}

fn write_columns(buffer: &mut BytesMut, (body, columns): (&[u8], &[ColumnDescription]), n_columns: usize, formats: &[i16]) {
    wire::message(buffer, b'T', |b| {
        b.put_i16(i16::try_from(n_columns).unwrap_or(i16::MAX));
        let mut start = 2;
        for (column_idx, column) in columns.iter().take(n_columns).enumerate() {
            b.put_slice(body.get(start..column.end - 2).unwrap_or_default());
            b.put_i16(format_of(formats, column_idx));
            start = column.end;
        }
    });
}

/// Writes the RowDescription of one text column of no table.
pub fn write_text_column(buffer: &mut BytesMut, name: &str) {
    wire::message(buffer, b'T', |b| {
        b.put_i16(1);
        b.put_slice(name.as_bytes());
        b.put_u8(0);
        b.put_slice(&[0; 6]);
        // pg_type's text, of variable length, without a modifier, in text format.
        b.put_u32(25);
        b.put_i16(-1);
        b.put_i32(-1);
        b.put_i16(0);
    });
}

/// Formats of a statement's columns: as the client wants those that it sees, binary for the hidden ones behind them.
pub fn formats_with_hidden(formats: &[i16], n_visible: usize, n_hidden: usize) -> Vec<i16> {
    (0..n_visible).map(|idx| format_of(formats, idx)).chain(std::iter::repeat_n(1, n_hidden)).collect()
}

/// The format of a column under Bind's result formats: none means text, one means all.
pub fn format_of(formats: &[i16], column_idx: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(column_idx).copied().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(names: &[&str]) -> BytesMut {
        let mut body = BytesMut::new();
        body.put_i16(i16::try_from(names.len()).unwrap());
        for (idx, name) in names.iter().enumerate() {
            body.put_slice(name.as_bytes());
            body.put_slice(&[0; 7]);
            body.put_u32(20 + u32::try_from(idx).unwrap());
            body.put_slice(&[0; 8]);
        }
        body
    }

    #[test]
    fn hidden_columns_are_cut_off_and_formats_are_the_clients() {
        let body = description(&["id", "name", "hidden"]);
        assert_eq!(columns(&body).unwrap().iter().map(|c| c.type_oid).collect::<Vec<_>>(), [20, 21, 22]);
        let mut message = BytesMut::new();
        write_prefix(&mut message, &body, 2, &[1]);
        let cut = &message[wire::HEADER_LEN..];
        assert_eq!(columns(cut).unwrap().len(), 2);
        assert_eq!(cut[cut.len() - 2..], [0, 1]);
        assert_eq!(column_names(&body).unwrap(), ["id", "name", "hidden"]);
        assert!(columns(&body[..10]).is_none());
    }
}
