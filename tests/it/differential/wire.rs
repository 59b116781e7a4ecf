//! A client that sees all of an answer: both protocols, both formats, names, types, rows, tags, errors.

use std::fmt::{self, Debug, Formatter};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use trunkline::topology::FIRST_OWN_OID;

use super::literal::{Argument, Statement, Written};
use crate::harness::{DATABASE, PATIENCE, message, startup, text, with_length};

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Simple,
    /// Literals as parameters in text.
    Text,
    /// The same with all messages in one batch, as drivers send a statement that is not prepared.
    Whole,
    /// As `Text`, with types given in Parse.
    Typed,
    /// Literals as parameters in binary where their type has a form here, and results in binary.
    Binary,
}

impl Mode {
    pub(super) const ALL: [Self; 5] = [Self::Simple, Self::Text, Self::Whole, Self::Typed, Self::Binary];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) type_oid: u32,
    pub(super) type_len: i16,
    pub(super) type_mod: i32,
    pub(super) format: i16,
}

/// The body of a DataRow, as it came: answers have up to some hundred thousand of them, and most are only compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Row(Vec<u8>);

impl Debug for Row {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let field = |field: Option<&[u8]>| {
            field.map_or_else(|| "NULL".to_owned(), |bytes| String::from_utf8_lossy(bytes).escape_debug().to_string())
        };
        f.write_str(&self.fields().map(field).collect::<Vec<_>>().join("|"))
    }
}

impl Row {
    pub(super) fn fields(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = &self.0[2..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let (field, after) = after.split_at(length.unwrap_or(0));
            rest = after;
            Some(length.map(|_| field))
        })
    }

    /// The last field, and the row without it.
    pub(super) fn split_last(&self) -> (Option<&[u8]>, Self) {
        let last = self.fields().last().unwrap();
        let mut row = self.0[..self.0.len() - 4 - last.map_or(0, <[u8]>::len)].to_vec();
        let n_fields = u16::from_be_bytes([row[0], row[1]]) - 1;
        row[..2].copy_from_slice(&n_fields.to_be_bytes());
        (last, Self(row))
    }

    /// The sign of a NaN that a sum has come to is that of whichever came first, infinity or its opposite: nothing that a
    /// statement determines.
    fn blot_nans(&mut self, columns: &[Column]) {
        let mut at = 2;
        for column in columns {
            let length = i32::from_be_bytes(self.0[at..at + 4].try_into().unwrap());
            at += 4;
            let Ok(length) = usize::try_from(length) else { continue };
            let field = &mut self.0[at..at + length];
            let is_nan = match (column.format, column.type_oid, &*field) {
                (1, 701, bytes) => bytes.try_into().is_ok_and(|bytes| f64::from_be_bytes(bytes).is_nan()),
                (1, 700, bytes) => bytes.try_into().is_ok_and(|bytes| f32::from_be_bytes(bytes).is_nan()),
                _ => false,
            };
            if is_nan {
                field[0] &= 0x7f;
            }
            at += length;
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rows {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Row>,
    pub(super) tags: Vec<String>,
    pub(super) param_types: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Rows(Rows),
    Error { sqlstate: String, message: String, detail: String },
}

impl Answer {
    /// The reason code of a refusal.
    pub(super) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Error { sqlstate, detail, .. } if sqlstate == "0A000" => {
                detail.strip_prefix("Reason code ").and_then(|code| code.strip_suffix('.'))
            }
            _ => None,
        }
    }
}

pub(super) struct Client {
    reader: BufReader<TcpStream>,
    /// The status of the last ReadyForQuery.
    pub(super) status: u8,
}

impl Client {
    pub(super) fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { reader: BufReader::new(stream), status: 0 };
        client.send(&startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE)]));
        while client.message().0 != b'Z' {}
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    fn message(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.reader.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        self.reader.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    /// Reads to ReadyForQuery. The first error is the answer.
    fn answer(&mut self) -> Answer {
        let (mut rows, mut error, mut has_floats) = (Rows::default(), None, false);
        loop {
            let (tag, body) = self.message();
            match tag {
                b'T' => {
                    rows.columns = columns(&body);
                    has_floats = rows.columns.iter().any(|column| matches!((column.format, column.type_oid), (1, 700 | 701)));
                }
                b't' => rows.param_types = oids(&body),
                b'D' => {
                    let mut row = Row(body);
                    if has_floats {
                        row.blot_nans(&rows.columns);
                    }
                    rows.rows.push(row);
                }
                b'C' => rows.tags.push(string(&body)),
                b'E' if error.is_none() => error = Some(failure(&body)),
                b'Z' => {
                    self.status = body[0];
                    return error.unwrap_or(Answer::Rows(rows));
                }
                b'G' => self.send(&message(b'f', &text("no data here"))),
                _ => {}
            }
        }
    }

    pub(super) fn simple(&mut self, sql: &str) -> Answer {
        self.send(&message(b'Q', &text(sql)));
        self.answer()
    }

    /// COPY … FROM STDIN by the simple protocol, the data in pieces.
    pub(super) fn copy(&mut self, sql: &str, lines: &str) -> Answer {
        self.send(&message(b'Q', &text(sql)));
        let (tag, body) = self.message();
        if tag != b'G' {
            let mut answer = if tag == b'E' { failure(&body) } else { Answer::Rows(Rows::default()) };
            if tag != b'Z'
                && let rest @ Answer::Error { .. } = self.answer()
            {
                answer = rest;
            }
            return answer;
        }
        for piece in lines.as_bytes().chunks(37) {
            self.send(&message(b'd', piece));
        }
        self.send(&message(b'c', b""));
        self.answer()
    }

    /// Runs a statement in `mode`.
    pub(super) fn run(&mut self, statement: &Statement, mode: Mode) -> Answer {
        let Written { sql, arguments } = statement.written(mode != Mode::Simple);
        if mode == Mode::Simple {
            return self.simple(&sql);
        }
        let mut parse = text("");
        parse.extend(text(&sql));
        let types: Vec<u32> = if mode == Mode::Typed { arguments.iter().map(Argument::some_type).collect() } else { Vec::new() };
        parse.extend((types.len() as u16).to_be_bytes());
        types.iter().for_each(|oid| parse.extend(oid.to_be_bytes()));
        let mut bytes = message(b'P', &parse);
        if mode == Mode::Whole {
            bytes.extend(Self::rest(&arguments, &[], mode));
            self.send(&bytes);
            return self.answer();
        }
        bytes.extend(message(b'D', b"S\0"));
        bytes.extend(message(b'S', b""));
        self.send(&bytes);
        let described = match self.answer() {
            Answer::Rows(rows) => rows,
            error @ Answer::Error { .. } => return error,
        };
        self.send(&Self::rest(&arguments, &described.param_types, mode));
        match self.answer() {
            Answer::Rows(rows) => Answer::Rows(Rows { param_types: described.param_types, ..rows }),
            error @ Answer::Error { .. } => error,
        }
    }
}

impl Client {
    /// The columns that a server tells of a statement before it has a plan, in the format of `mode`; none where it fails.
    pub(super) fn declared(&mut self, statement: &Statement, mode: Mode) -> Vec<Column> {
        let Written { sql, .. } = statement.written(mode != Mode::Simple);
        let parse = [text(""), text(&sql), vec![0, 0]].concat();
        self.send(&[message(b'P', &parse), message(b'D', b"S\0"), message(b'S', b"")].concat());
        let Answer::Rows(rows) = self.answer() else { return Vec::new() };
        let format = i16::from(mode == Mode::Binary);
        rows.columns.into_iter().map(|column| Column { format, ..column }).collect()
    }

    /// What follows the Parse of a statement.
    fn rest(arguments: &[Argument], types: &[u32], mode: Mode) -> Vec<u8> {
        let mut bytes = message(b'B', &bind(arguments, types, mode));
        bytes.extend(message(b'D', b"P\0"));
        bytes.extend(message(b'E', &[0, 0, 0, 0, 0]));
        bytes.extend(message(b'S', b""));
        bytes
    }
}

fn bind(arguments: &[Argument], types: &[u32], mode: Mode) -> Vec<u8> {
    let values: Vec<(u16, Vec<u8>)> = arguments
        .iter()
        .enumerate()
        .map(|(idx, argument)| {
            let binary = types.get(idx).filter(|_| mode == Mode::Binary).and_then(|oid| argument.binary(*oid));
            binary.map_or_else(|| (0, argument.text.clone().into_bytes()), |bytes| (1, bytes))
        })
        .collect();
    let mut body = vec![0, 0];
    body.extend((values.len() as u16).to_be_bytes());
    values.iter().for_each(|(format, _)| body.extend(format.to_be_bytes()));
    body.extend((values.len() as u16).to_be_bytes());
    for (_, bytes) in &values {
        // with_length counts itself, a value's length does not.
        let mut value = with_length(bytes);
        value[..4].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        body.extend(value);
    }
    let result_format = u16::from(mode == Mode::Binary);
    body.extend(1_u16.to_be_bytes());
    body.extend(result_format.to_be_bytes());
    body
}

fn string(body: &[u8]) -> String {
    String::from_utf8_lossy(body.split(|byte| *byte == 0).next().unwrap()).into_owned()
}

fn oids(body: &[u8]) -> Vec<u32> {
    body[2..].chunks(4).map(|oid| u32::from_be_bytes(oid.try_into().unwrap())).collect()
}

fn columns(body: &[u8]) -> Vec<Column> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while !rest.is_empty() {
        let name = string(rest);
        let tail = &rest[name.len() + 1..];
        columns.push(Column {
            name,
            // Types that users made have other OIDs on each server: that there is one of them is all that can be compared.
            type_oid: u32::from_be_bytes(tail[6..10].try_into().unwrap()).min(FIRST_OWN_OID),
            type_len: i16::from_be_bytes(tail[10..12].try_into().unwrap()),
            type_mod: i32::from_be_bytes(tail[12..16].try_into().unwrap()),
            format: i16::from_be_bytes(tail[16..18].try_into().unwrap()),
        });
        rest = &tail[18..];
    }
    columns
}

fn failure(body: &[u8]) -> Answer {
    let field = |code: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&code));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    Answer::Error { sqlstate: field(b'C'), message: field(b'M'), detail: field(b'D') }
}
