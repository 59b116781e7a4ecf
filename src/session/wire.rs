//! Message framing: headers are read in place, small messages are written without a detour.
//!
//! Message formats: PostgreSQL manual, "Message Formats". Large and rare messages are pgwire's business; these are the
//! ones that every statement meets.

use bytes::{BufMut, BytesMut};

use crate::sqlstate::Report;

/// Bytes of a tag and a length.
pub const HEADER_LEN: usize = 5;

/// The header of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Of the whole message, tag and length field included.
    pub len: usize,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length")]
pub struct InvalidLength;

/// Reads the header at the start of `buffer`; `None` while it is incomplete.
pub fn header(buffer: &[u8]) -> Result<Option<Header>, InvalidLength> {
    let [tag, a, b, c, d, ..] = *buffer else { return Ok(None) };
    let len = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(len) {
        Ok(len) if len >= 4 => Ok(Some(Header { tag, len: len + 1 })),
        _ => Err(InvalidLength),
    }
}

/// The body of the complete message at the start of `buffer`.
pub fn body(buffer: &[u8], header: Header) -> &[u8] {
    buffer.get(HEADER_LEN..header.len).unwrap_or_default()
}

/// A reader over one message's body. Every method gives `None` past the end.
#[derive(Debug, Clone, Copy)]
pub struct BodyReader<'a>(pub &'a [u8]);

impl<'a> BodyReader<'a> {
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    pub fn i16(&mut self) -> Option<i16> {
        self.bytes(2).map(|b| i16::from_be_bytes([b[0], b[1]]))
    }

    /// A number of parameters, which may be up to 65,535.
    pub fn u16(&mut self) -> Option<u16> {
        self.i16().map(i16::cast_unsigned)
    }

    pub fn i32(&mut self) -> Option<i32> {
        self.bytes(4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.i32().map(i32::cast_unsigned)
    }

    /// A zero-terminated string, without its zero.
    pub fn c_string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }
}

/// Writes a message whose body `write` appends, with its length filled in.
pub fn message(buffer: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    buffer.put_u8(tag);
    let at = buffer.len();
    buffer.put_i32(0);
    write(buffer);
    let len = i32::try_from(buffer.len() - at).unwrap_or(i32::MAX);
    buffer[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

fn c_string(buffer: &mut BytesMut, text: &[u8]) {
    buffer.put_slice(text);
    buffer.put_u8(0);
}

/// `Query`.
pub fn query(buffer: &mut BytesMut, sql: &[u8]) {
    message(buffer, b'Q', |b| c_string(b, sql));
}

/// `Parse`.
pub fn parse(buffer: &mut BytesMut, name: &[u8], sql: &[u8], param_types: &[u32]) {
    message(buffer, b'P', |b| {
        c_string(b, name);
        c_string(b, sql);
        b.put_u16(u16::try_from(param_types.len()).unwrap_or(u16::MAX));
        for oid in param_types {
            b.put_u32(*oid);
        }
    });
}

/// `Bind` whose tail (formats, values, result formats) is already encoded.
pub fn bind(buffer: &mut BytesMut, portal: &[u8], statement: &[u8], tail: &[u8]) {
    message(buffer, b'B', |b| {
        c_string(b, portal);
        c_string(b, statement);
        b.put_slice(tail);
    });
}

/// `Describe` or `Close` (`tag` `D` or `C`) of a statement or portal (`kind` `S` or `P`).
pub fn describe_or_close(buffer: &mut BytesMut, tag: u8, kind: u8, name: &[u8]) {
    message(buffer, tag, |b| {
        b.put_u8(kind);
        c_string(b, name);
    });
}

/// `Execute`.
pub fn execute(buffer: &mut BytesMut, portal: &[u8], max_rows: i32) {
    message(buffer, b'E', |b| {
        c_string(b, portal);
        b.put_i32(max_rows);
    });
}

/// A message without a body: `Sync` (S), `Flush` (H), `ParseComplete` (1), `BindComplete` (2), `CloseComplete` (3),
/// `NoData` (n), `EmptyQueryResponse` (I), `CopyDone` (c).
pub fn bare(buffer: &mut BytesMut, tag: u8) {
    buffer.put_slice(&[tag, 0, 0, 0, 4]);
}

/// `ParameterStatus`.
pub fn parameter_status(buffer: &mut BytesMut, name: &str, value: &str) {
    message(buffer, b'S', |b| {
        c_string(b, name.as_bytes());
        c_string(b, value.as_bytes());
    });
}

/// `CommandComplete`.
pub fn command_complete(buffer: &mut BytesMut, tag: &[u8]) {
    message(buffer, b'C', |b| c_string(b, tag));
}

/// `ReadyForQuery` with status `I`, `T` or `E`.
pub fn ready_for_query(buffer: &mut BytesMut, status: u8) {
    buffer.put_slice(&[b'Z', 0, 0, 0, 5, status]);
}

/// A `DataRow` of one text field.
pub fn text_row(buffer: &mut BytesMut, field: &str) {
    message(buffer, b'D', |b| {
        b.put_i16(1);
        b.put_i32(i32::try_from(field.len()).unwrap_or(i32::MAX));
        b.put_slice(field.as_bytes());
    });
}

/// Parse, Bind and Execute of a text by the unnamed statement and portal. `tail` is Bind's, behind the names.
pub fn run_text(buffer: &mut BytesMut, sql: &str, tail: &[u8]) {
    parse(buffer, b"", sql.as_bytes(), &[]);
    bind(buffer, b"", b"", tail);
    execute(buffer, b"", 0);
}

/// `CopyData` from its payload.
pub fn copy_data(buffer: &mut BytesMut, payload: &[u8]) {
    message(buffer, b'd', |b| b.put_slice(payload));
}

/// `CopyFail`.
pub fn copy_fail(buffer: &mut BytesMut, message_text: &str) {
    message(buffer, b'f', |b| c_string(b, message_text.as_bytes()));
}

/// How grave a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    /// The connection closes after it.
    Fatal,
    Warning,
    Notice,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }

    fn tag(self) -> u8 {
        match self {
            Self::Error | Self::Fatal => b'E',
            Self::Warning | Self::Notice => b'N',
        }
    }
}

/// `ErrorResponse` or `NoticeResponse`.
pub fn report(buffer: &mut BytesMut, severity: Severity, report: &Report) {
    message(buffer, severity.tag(), |b| {
        let mut field = |code: u8, text: &str| {
            b.put_u8(code);
            c_string(b, text.replace('\0', " ").as_bytes());
        };
        field(b'S', severity.as_str());
        field(b'V', severity.as_str());
        field(b'C', report.sqlstate.as_str());
        field(b'M', &report.message);
        let optional = [
            (b'D', report.detail.as_deref()),
            (b'H', report.hint.as_deref()),
            (b't', report.table.as_deref()),
            (b'c', report.column.as_deref()),
            (b'R', report.routine),
        ];
        for (code, text) in optional {
            if let Some(text) = text {
                field(code, text);
            }
        }
        if let Some(position) = report.position {
            field(b'P', &position.to_string());
        }
        b.put_u8(0);
    });
}

/// The value of one field of an ErrorResponse's body.
pub fn report_field(body: &[u8], code: u8) -> Option<&[u8]> {
    let mut reader = BodyReader(body);
    loop {
        match reader.u8()? {
            0 => return None,
            found => {
                let value = reader.c_string()?;
                if found == code {
                    return Some(value);
                }
            }
        }
    }
}

/// Whether an ErrorResponse's body says that the server closes the connection.
pub fn is_fatal(body: &[u8]) -> bool {
    let severity = report_field(body, b'V').or_else(|| report_field(body, b'S'));
    matches!(severity, Some(b"FATAL" | b"PANIC"))
}

/// Whether an ErrorResponse's or NoticeResponse's body has what each has: both severities, SQLSTATE and message.
pub fn is_whole_report(body: &[u8]) -> bool {
    b"SVCM".iter().all(|&code| report_field(body, code).is_some_and(|value| code != b'C' || value.len() == 5))
}

/// Makes a FATAL report an ERROR: a server connection has ended, but not the client's session.
pub fn soften(body: &mut [u8]) {
    let mut at = 0;
    while let Some(&code) = body.get(at).filter(|&&code| code != 0) {
        let Some(len) = body[at + 1..].iter().position(|&byte| byte == 0) else { return };
        let value = &mut body[at + 1..at + 1 + len];
        if matches!(code, b'S' | b'V') && matches!(*value, [b'F', b'A', b'T', b'A', b'L'] | [b'P', b'A', b'N', b'I', b'C']) {
            value.copy_from_slice(b"ERROR");
        }
        at += len + 2;
    }
}

/// The same as [`report_with_context`] for a text that is not the client's: without the position in it.
pub fn report_of_other_text(buffer: &mut BytesMut, tag: u8, error_body: &[u8], context: &str) {
    let mut body = BytesMut::with_capacity(error_body.len());
    let mut reader = BodyReader(error_body);
    while let Some(code) = reader.u8().filter(|&code| code != 0) {
        let Some(value) = reader.c_string() else { break };
        if code != b'P' {
            body.put_u8(code);
            c_string(&mut body, value);
        }
    }
    body.put_u8(0);
    report_with_context(buffer, tag, &body, context);
}

/// Copies an ErrorResponse's body with `context` added to its `W` field (or as one).
///
/// The session that it is told to goes on, so FATAL becomes ERROR.
pub fn report_with_context(buffer: &mut BytesMut, tag: u8, error_body: &[u8], context: &str) {
    let severity = if is_fatal(error_body) { Some(Severity::Error) } else { None };
    copy_report(buffer, tag, error_body, Changes { context: Some(context), severity, text: None });
}

/// Copies an ErrorResponse's or NoticeResponse's body; of the fields that each has, those left out are put in.
pub fn whole_report(buffer: &mut BytesMut, tag: u8, body: &[u8]) {
    copy_report(buffer, tag, body, Changes::default());
}

/// Copies an ErrorResponse's body for a client that is not let in.
pub fn fatal_report(buffer: &mut BytesMut, body: &[u8]) {
    copy_report(buffer, b'E', body, Changes { severity: Some(Severity::Fatal), ..Changes::default() });
}

/// Copies an ErrorResponse's body with another message.
pub fn report_with_message(buffer: &mut BytesMut, body: &[u8], text: &str) {
    copy_report(buffer, b'E', body, Changes { text: Some(text), ..Changes::default() });
}

/// What a copy of a report says otherwise.
#[derive(Default)]
struct Changes<'a> {
    context: Option<&'a str>,
    severity: Option<Severity>,
    text: Option<&'a str>,
}

fn copy_report(buffer: &mut BytesMut, tag: u8, body: &[u8], changes: Changes<'_>) {
    let Changes { context, severity, text } = changes;
    let given = report_field(body, b'V').or_else(|| report_field(body, b'S'));
    let fallback = if tag == b'N' { Severity::Notice } else { Severity::Error };
    let severity_text = severity.map(|severity| severity.as_str().as_bytes());
    let sqlstate = report_field(body, b'C').filter(|code| code.len() == 5);
    let own: [(u8, &[u8]); 4] = [
        (b'S', severity_text.or_else(|| report_field(body, b'S')).or(given).unwrap_or(fallback.as_str().as_bytes())),
        (b'V', severity_text.or(given).unwrap_or(fallback.as_str().as_bytes())),
        (b'C', sqlstate.unwrap_or(if tag == b'N' { b"00000" } else { b"XX000" })),
        (b'M', text.map(str::as_bytes).or_else(|| report_field(body, b'M')).unwrap_or(b"missing error text")),
    ];
    message(buffer, tag, |b| {
        let mut put = |code: u8, value: &[u8], more: &str| {
            b.put_u8(code);
            b.put_slice(value);
            c_string(b, more.as_bytes());
        };
        own.iter().for_each(|(code, value)| put(*code, value, ""));
        let mut reader = BodyReader(body);
        let mut context = context;
        while let Some(code) = reader.u8().filter(|&code| code != 0) {
            let Some(value) = reader.c_string() else { break };
            match code {
                b'S' | b'V' | b'C' | b'M' => {}
                b'W' => {
                    let more = context.take().map(|context| format!("\n{context}"));
                    put(code, value, more.as_deref().unwrap_or_default());
                }
                _ => put(code, value, ""),
            }
        }
        if let Some(context) = context {
            put(b'W', b"", context);
        }
        b.put_u8(0);
    });
}

/// Copies an ErrorResponse's body whose context is about the portal of a Bind, with the portal called `name` there.
pub fn report_with_portal(buffer: &mut BytesMut, error_body: &[u8], name: &str) {
    message(buffer, b'E', |b| {
        let mut reader = BodyReader(error_body);
        while let Some(code) = reader.u8().filter(|&code| code != 0) {
            let Some(value) = reader.c_string() else { break };
            b.put_u8(code);
            let text = String::from_utf8_lossy(value);
            match text
                .strip_prefix("unnamed portal")
                .or_else(|| text.strip_prefix("portal \"")?.split_once('"').map(|(_, rest)| rest))
            {
                Some(rest) if code == b'W' => c_string(b, format!("{name}{rest}").as_bytes()),
                _ => c_string(b, value),
            }
        }
        b.put_u8(0);
    });
}

/// Copies an ErrorResponse's body with its position changed; `None` takes it away.
pub fn report_with_position(buffer: &mut BytesMut, error_body: &[u8], change: impl Fn(usize) -> Option<usize>) {
    message(buffer, b'E', |b| {
        let mut reader = BodyReader(error_body);
        while let Some(code) = reader.u8().filter(|&code| code != 0) {
            let Some(value) = reader.c_string() else { break };
            let changed = match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                Some(position) if code == b'P' => change(position).map(|position| position.to_string()),
                _ => {
                    b.put_u8(code);
                    c_string(b, value);
                    None
                }
            };
            if let Some(position) = changed {
                b.put_u8(b'P');
                c_string(b, position.as_bytes());
            }
        }
        b.put_u8(0);
    });
}

/// A command tag with another count at its end.
pub fn with_count(tag: &[u8], count: u64) -> Vec<u8> {
    let words = tag.iter().rposition(|&byte| byte == b' ').map_or(tag, |at| &tag[..at]);
    [words, format!(" {count}").as_bytes()].concat()
}

/// The count at the end of a command tag: 3 of `INSERT 0 3`, of `SELECT 3` and of `COPY 3`.
pub fn tag_count(tag: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(tag).ok()?.trim_end_matches('\0');
    text.rsplit(' ').next()?.parse().ok()
}

/// A DataRow's fields from its body; `None` when it is malformed.
pub fn fields(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let mut reader = BodyReader(body);
    let n_fields = usize::try_from(reader.i16()?).ok()?;
    let mut fields = Vec::with_capacity(n_fields);
    for _ in 0..n_fields {
        fields.push(match reader.i32()? {
            -1 => None,
            len => Some(reader.bytes(usize::try_from(len).ok()?)?),
        });
    }
    Some(fields)
}

/// One value of a DataRow body, by its column's index; `None` when the body is malformed.
pub fn field(body: &[u8], column_idx: usize) -> Option<Option<&[u8]>> {
    let mut reader = BodyReader(body.get(2..)?);
    for _ in 0..column_idx {
        if let Ok(len) = usize::try_from(reader.i32()?) {
            reader.bytes(len)?;
        }
    }
    match usize::try_from(reader.i32()?) {
        Ok(len) => Some(Some(reader.bytes(len)?)),
        Err(_) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlstate::SqlState;

    #[test]
    fn one_field_is_found_behind_nulls() {
        let row = [0, 3, 255, 255, 255, 255, 0, 0, 0, 1, 7, 255, 255, 255, 255];
        assert_eq!([0, 1, 2, 3].map(|idx| field(&row, idx)), [Some(None), Some(Some(&[7][..])), Some(None), None]);
        assert_eq!(fields(&row).unwrap(), [None, Some(&[7][..]), None]);
    }

    #[test]
    fn headers_need_five_bytes_and_a_length_of_four() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert_eq!(header(b"Q\0\0\0\x03"), Err(InvalidLength));
        assert_eq!(header(b"Q\xff\0\0\x03"), Err(InvalidLength));
        assert_eq!(header(b"S\0\0\0\x04"), Ok(Some(Header { tag: b'S', len: 5 })));
    }

    #[test]
    fn a_report_keeps_its_fields_and_gains_a_context() {
        let mut buffer = BytesMut::new();
        let error = Report::new(SqlState::QUERY_CANCELED, "canceling").with_hint("wait");
        report(&mut buffer, Severity::Error, &error);
        let mut with_context = BytesMut::new();
        report_with_context(&mut with_context, b'E', &buffer[HEADER_LEN..], "shard \"europe\"");
        let body = &with_context[HEADER_LEN..];
        assert_eq!(report_field(body, b'C'), Some(&b"57014"[..]));
        assert_eq!(report_field(body, b'H'), Some(&b"wait"[..]));
        assert_eq!(report_field(body, b'W'), Some(&b"shard \"europe\""[..]));
        assert_eq!(header(&with_context).unwrap().unwrap().len, with_context.len());
    }

    #[test]
    fn the_context_of_a_bind_names_the_clients_portal() {
        let context = |of: &str, name: &str| {
            let mut buffer = BytesMut::new();
            let body = format!("SERROR\0W{of} parameter $1 = '...'\nshard \"a\"\0\0");
            report_with_portal(&mut buffer, body.as_bytes(), name);
            String::from_utf8(report_field(&buffer[HEADER_LEN..], b'W').unwrap().to_vec()).unwrap()
        };
        assert_eq!(context("unnamed portal", "portal \"p\""), "portal \"p\" parameter $1 = '...'\nshard \"a\"");
        assert_eq!(context("portal \"x\"", "unnamed portal"), "unnamed portal parameter $1 = '...'\nshard \"a\"");
    }

    #[test]
    fn a_report_gets_the_fields_that_a_server_left_out() {
        for (body, expected) in [
            (&b"\0"[..], &b"SERROR\0VERROR\0CXX000\0Mmissing error text\0\0"[..]),
            (b"SFATAL\0Mgone\0Hgo\0\0", b"SFATAL\0VFATAL\0CXX000\0Mgone\0Hgo\0\0"),
            (b"C42\0SERROR\0VERROR\0Mx\0", b"SERROR\0VERROR\0CXX000\0Mx\0\0"),
        ] {
            assert!(!is_whole_report(body));
            let mut buffer = BytesMut::new();
            whole_report(&mut buffer, b'E', body);
            assert_eq!(&buffer[HEADER_LEN..], expected);
            assert!(is_whole_report(&buffer[HEADER_LEN..]));
        }
        let mut buffer = BytesMut::new();
        report_with_context(&mut buffer, b'E', b"SFATAL\0VFATAL\0C57P01\0Mover\0\0", "shard \"a\"");
        assert_eq!(&buffer[HEADER_LEN..], b"SERROR\0VERROR\0C57P01\0Mover\0Wshard \"a\"\0\0");
    }

    #[test]
    fn a_fatal_report_can_be_made_an_error() {
        let mut buffer = BytesMut::new();
        report(&mut buffer, Severity::Fatal, &Report::new(SqlState::ADMIN_SHUTDOWN, "FATAL"));
        assert!(is_fatal(&buffer[HEADER_LEN..]));
        soften(&mut buffer[HEADER_LEN..]);
        let body = &buffer[HEADER_LEN..];
        assert!(!is_fatal(body));
        assert_eq!((report_field(body, b'S'), report_field(body, b'V')), (Some(&b"ERROR"[..]), Some(&b"ERROR"[..])));
        assert_eq!((report_field(body, b'C'), report_field(body, b'M')), (Some(&b"57P01"[..]), Some(&b"FATAL"[..])));
        soften(&mut b"SFATAL".to_owned());
    }

    #[test]
    fn counts_stand_at_the_end_of_a_tag() {
        assert_eq!(with_count(b"INSERT 0 3", 12), b"INSERT 0 12");
        assert_eq!((tag_count(b"INSERT 0 3"), tag_count(b"COPY 12"), tag_count(b"BEGIN")), (Some(3), Some(12), None));
    }
}
