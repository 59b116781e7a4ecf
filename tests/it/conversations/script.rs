//! The notation of conversations: text in, bytes to send out.

use crate::harness::message;

use super::stage::PoolMode;

/// One conversation of a file.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) name: String,
    excuses: Vec<Excuse>,
    /// The socket is opened and nothing more: the startup packet is a part of the conversation.
    pub(super) is_bare: bool,
    pub(super) turns: Vec<Turn>,
}

/// Where a conversation differs from Postgres, and whether that depends on Postgres's version.
#[derive(Debug)]
struct Excuse {
    n_shards: usize,
    /// `None`: in every mode.
    mode: Option<PoolMode>,
    depends_on_version: bool,
}

/// What a comparison has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    Same,
    /// The excuse must still be one.
    Different,
    Either,
}

/// What is sent in one write, and up to which messages the answer is read.
#[derive(Debug, Default, Clone)]
pub(super) struct Turn {
    pub(super) sent: Vec<u8>,
    pub(super) until: String,
}

impl Script {
    pub(super) fn demand(&self, n_shards: usize, mode: PoolMode) -> Demand {
        let applies = |excuse: &&Excuse| excuse.n_shards == n_shards && excuse.mode.is_none_or(|only| only == mode);
        match self.excuses.iter().find(applies) {
            None => Demand::Same,
            Some(Excuse { depends_on_version: true, .. }) => Demand::Either,
            Some(_) => Demand::Different,
        }
    }
}

impl Excuse {
    /// `3 reason`, `3 session: reason`.
    fn parse(text: &str, depends_on_version: bool) -> Self {
        let (n_shards, reason) = text.split_once(' ').expect("a number and a reason");
        assert!(reason.len() > 10, "{text}");
        let modes = [("transaction: ", PoolMode::Transaction), ("session: ", PoolMode::Session)];
        let mode = modes.into_iter().find(|(prefix, _)| reason.starts_with(prefix)).map(|(_, mode)| mode);
        Self { n_shards: n_shards.parse().expect("a number of shards"), mode, depends_on_version }
    }
}

pub(super) fn parse_scripts(text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    let mut queued = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("== ") {
            scripts.push(Script { name: name.to_owned(), ..Script::default() });
            continue;
        }
        let script = scripts.last_mut().expect("a file begins with a name");
        if let Some(until) = line.strip_prefix("< ") {
            script.turns.push(Turn { sent: std::mem::take(&mut queued), until: until.to_owned() });
        } else if let Some(excuse) = line.strip_prefix("! ") {
            script.excuses.push(Excuse::parse(excuse, false));
        } else if let Some(excuse) = line.strip_prefix("? ") {
            script.excuses.push(Excuse::parse(excuse, true));
        } else if line == "open" {
            script.is_bare = true;
        } else {
            script.is_bare |= line.starts_with("startup ");
            queued.extend(encoded(line));
        }
    }
    scripts
}

/// The bytes of one line.
fn encoded(line: &str) -> Vec<u8> {
    let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
    let first = tag.as_bytes()[0];
    let parts: Vec<Vec<u8>> = rest.split('|').map(unescaped).collect();
    let part = |idx: usize| parts.get(idx).cloned().unwrap_or_default();
    match tag {
        "startup" => startup(&parts),
        "Q" | "f" => message(first, &terminated(&unescaped(rest))),
        "P" => {
            let sql = unescaped(rest.splitn(3, '|').nth(2).unwrap_or_default());
            message(b'P', &[terminated(&part(0)), terminated(&sql), oids(&part(1))].concat())
        }
        "B" => message(b'B', &[terminated(&part(0)), terminated(&part(1)), values(&part(2)), formats(&part(3))].concat()),
        "F" => {
            let [oid, format] = [part(0), part(2)].map(|number| String::from_utf8(number).unwrap());
            let format: i16 = format.parse().unwrap_or(0);
            let oid = oid.parse::<u32>().unwrap().to_be_bytes();
            message(b'F', &[&oid[..], &values(&part(1)), &format.to_be_bytes()].concat())
        }
        "D" | "C" => message(first, &terminated(&unescaped(&rest.replacen(' ', "", 1)))),
        "E" => {
            let n_rows: i32 = String::from_utf8(part(1)).unwrap().parse().unwrap_or(0);
            message(b'E', &[terminated(&part(0)), n_rows.to_be_bytes().to_vec()].concat())
        }
        "S" | "H" | "c" | "X" => message(first, &[]),
        "d" => message(b'd', &unescaped(rest)),
        "m" => message(rest.as_bytes()[0], &unescaped(rest.get(2..).unwrap_or_default())),
        "raw" => unescaped(rest),
        _ => panic!("what is {line:?}?"),
    }
}

/// `major.minor|name=value|…`
fn startup(parts: &[Vec<u8>]) -> Vec<u8> {
    let (version, parameters) = parts.split_first().expect("a version");
    let version = String::from_utf8(version.clone()).unwrap();
    let (major, minor) = version.split_once('.').expect("a major and a minor version");
    let mut body = [major, minor].map(|number| number.parse::<u16>().unwrap().to_be_bytes()).concat();
    for parameter in parameters {
        let at = parameter.iter().position(|byte| *byte == b'=').expect("name=value");
        body.extend([&parameter[..at], b"\0", &parameter[at + 1..], b"\0"].concat());
    }
    body.push(0);
    crate::harness::with_length(&body)
}

fn terminated(text: &[u8]) -> Vec<u8> {
    [text, b"\0"].concat()
}

fn listed(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn oids(text: &[u8]) -> Vec<u8> {
    let oids: Vec<u32> = listed(text).iter().map(|oid| oid.parse().unwrap()).collect();
    [&u16::try_from(oids.len()).unwrap().to_be_bytes()[..], &oids.iter().flat_map(|oid| oid.to_be_bytes()).collect::<Vec<_>>()]
        .concat()
}

fn formats(text: &[u8]) -> Vec<u8> {
    let formats: Vec<i16> = listed(text).iter().map(|format| format.parse().unwrap()).collect();
    let count = u16::try_from(formats.len()).unwrap().to_be_bytes();
    [&count[..], &formats.iter().flat_map(|format| format.to_be_bytes()).collect::<Vec<_>>()].concat()
}

/// Formats and values of a Bind.
fn values(text: &[u8]) -> Vec<u8> {
    let values = listed(text);
    let count = u16::try_from(values.len()).unwrap().to_be_bytes();
    let mut bytes = count.to_vec();
    bytes.extend(values.iter().flat_map(|value| u16::from(value.starts_with('x')).to_be_bytes()));
    bytes.extend(count);
    for value in &values {
        let value = match value.strip_prefix('x') {
            _ if value == "NULL" => {
                bytes.extend((-1_i32).to_be_bytes());
                continue;
            }
            Some(hex) => (0..hex.len() / 2).map(|idx| u8::from_str_radix(&hex[2 * idx..2 * idx + 2], 16).unwrap()).collect(),
            None => value.clone().into_bytes(),
        };
        bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let [kind, tail @ ..] = rest else { panic!("{text}") };
        rest = tail;
        match kind {
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'\\' => bytes.push(b'\\'),
            b'p' => bytes.push(b'|'),
            b'x' => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
                rest = &rest[2..];
            }
            _ => panic!("{text}"),
        }
    }
    bytes
}
