//! Conversations by raw messages, held with one Postgres and through the proxy before one shard and before three: the answers
//! must be the same, message by message.
//!
//! The conversations are text files in `tests/conversations`. A line is a message to the server, by its tag:
//!
//! ```text
//! Q sql                    Query
//! P name|types|sql         Parse; types are OIDs, separated by commas
//! B portal|name|values|f   Bind; values: NULL, x0102 for binary, else text; f: result formats
//! D S name   D P name      Describe; C likewise for Close
//! E portal|rows            Execute
//! S  H  c  X               Sync, Flush, CopyDone, Terminate
//! d text    f text         CopyData, CopyFail
//! m tag text               any message; its body is the text
//! raw text                 bytes as they are
//! < Z                      all lines since the last answer are sent in one write; then messages are read up to ReadyForQuery.
//!                          `< GZ`: up to CopyInResponse, then to ReadyForQuery. `< .`: until the server closes.
//! ! 3 reason               the conversation must differ before three shards, because …
//! ```
//!
//! Text knows `\n`, `\t`, `\\` and `\x00`. Not compared: BackendKeyData, source file and line of errors, the proxy's context
//! `shard "…"`.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Client;

use crate::harness::{Cluster, Message, Proxy, Raw, Single, message};

/// How long an answer may take before it counts as silence.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Rows that every conversation begins with.
const SEED: [&str; 3] = [
    "INSERT INTO users (user_id, name, email, country, created_at) VALUES (1, 'ann', 'a@x', 'us', '2024-01-01'), \
     (2, 'bob', 'b@x', 'uk', '2024-01-02'), (3, 'cyd', 'c@x', 'us', '2024-01-03'), (4, 'dan', 'd@x', 'jp', '2024-01-04'), \
     (5, 'eve', 'e@x', 'uk', '2024-01-05'), (6, 'fay', 'f@x', 'us', '2024-01-06')",
    "INSERT INTO audit (audit_id, actor, action, at) VALUES (1, 'ann', 'login', '2024-01-01'), (2, 'bob', 'logout', '2024-01-02')",
    "INSERT INTO countries VALUES ('us', 'United States', 'americas'), ('uk', 'United Kingdom', 'europe')",
];

const CLEAR: &str = "TRUNCATE users, audit, countries";

/// What is left in the tables after a conversation.
const REMAINS: [&str; 2] =
    ["SELECT user_id, name FROM users ORDER BY user_id", "SELECT audit_id, actor FROM audit ORDER BY audit_id"];

/// One conversation of a file.
#[derive(Debug, Default)]
struct Script {
    name: String,
    /// Numbers of shards before which it must differ.
    differs_on: Vec<usize>,
    turns: Vec<Turn>,
}

/// What is sent in one write, and up to which messages the answer is read.
#[derive(Debug, Default, Clone)]
struct Turn {
    sent: Vec<u8>,
    until: String,
}

/// A server to talk to, with a session for its tables and one for each place where they are.
struct Side {
    port: u16,
    session: Client,
    places: Vec<Client>,
}

impl Side {
    async fn reset(&self) {
        for place in &self.places {
            place.batch_execute(CLEAR).await.unwrap();
        }
        for sql in SEED {
            self.session.batch_execute(sql).await.unwrap();
        }
    }

    /// Holds a conversation and tells what came back and what remains.
    async fn hold(&self, script: &Script, pace: Pace) -> String {
        self.reset().await;
        let mut raw = Raw::log_in(self.port).await;
        let mut heard = String::new();
        for turn in &script.turns {
            match pace {
                Pace::Whole => raw.try_send(&turn.sent).await,
                Pace::ByteByByte => {
                    for byte in &turn.sent {
                        raw.try_send(&[*byte]).await;
                    }
                }
            }
            listen(&mut raw, &turn.until, &mut heard).await;
        }
        drop(raw);
        for sql in REMAINS {
            for row in crate::harness::rows(&self.session, sql).await {
                let fields: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
                writeln!(heard, "  = {}", fields.join("|")).unwrap();
            }
        }
        heard
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Whole,
    ByteByByte,
}

async fn listen(raw: &mut Raw, until: &str, heard: &mut String) {
    for awaited in until.bytes() {
        loop {
            match raw.next_within(ANSWER_PATIENCE).await {
                Err(_) => return heard.push_str("  (silence)\n"),
                Ok(None) => {
                    heard.push_str("  (closed)\n");
                    return;
                }
                Ok(Some(message)) => {
                    describe(&message, heard);
                    if message.tag == awaited {
                        break;
                    }
                }
            }
        }
    }
}

/// One message as a line, without what may differ.
fn describe(message: &Message, heard: &mut String) {
    let body = &message.body;
    let tag = char::from(message.tag);
    match message.tag {
        b'K' => {}
        b'E' | b'N' => {
            write!(heard, "  {tag}").unwrap();
            for code in *b"SVCMDHPpqWstcdn" {
                let mut value = message.field(code);
                if code == b'W' {
                    value = value.lines().filter(|line| !line.starts_with("shard \"")).collect::<Vec<_>>().join("\n");
                }
                if !value.is_empty() {
                    write!(heard, " {}={value:?}", char::from(code)).unwrap();
                }
            }
            heard.push('\n');
        }
        _ => writeln!(heard, "  {tag} {}", body.escape_ascii()).unwrap(),
    }
}

fn parse_scripts(text: &str) -> Vec<Script> {
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
        } else if let Some(difference) = line.strip_prefix("! ") {
            let (n_shards, reason) = difference.split_once(' ').expect("a number and a reason");
            assert!(reason.len() > 10, "{line}");
            script.differs_on.push(n_shards.parse().expect("a number of shards"));
        } else {
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
        "Q" | "f" => message(first, &terminated(&unescaped(rest))),
        "P" => {
            let sql = unescaped(rest.splitn(3, '|').nth(2).unwrap_or_default());
            message(b'P', &[terminated(&part(0)), terminated(&sql), oids(&part(1))].concat())
        }
        "B" => message(b'B', &[terminated(&part(0)), terminated(&part(1)), values(&part(2)), formats(&part(3))].concat()),
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
            b'x' => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
                rest = &rest[2..];
            }
            _ => panic!("{text}"),
        }
    }
    bytes
}

/// Everything that takes part, started once.
struct Stage {
    _single: Single,
    _clusters: Vec<(Cluster, Proxy)>,
    direct: Side,
    /// By number of shards.
    proxied: Vec<(usize, Side)>,
}

impl Stage {
    async fn set() -> Self {
        let single = Single::start().await;
        let direct = Side { port: single.server.port(), session: single.connect().await, places: vec![single.connect().await] };
        let (mut clusters, mut proxied) = (Vec::new(), Vec::new());
        for n_shards in [1, 3] {
            let cluster = Cluster::start(n_shards).await;
            let proxy = cluster.proxy().await;
            let mut places = Vec::new();
            for shard_idx in 0..n_shards {
                places.push(cluster.direct(shard_idx).await);
            }
            proxied.push((n_shards, Side { port: proxy.port, session: proxy.connect().await, places }));
            clusters.push((cluster, proxy));
        }
        Self { _single: single, _clusters: clusters, direct, proxied }
    }

    /// Holds all conversations of a file; what differs and should not, and what should and does not.
    async fn compare(&self, text: &str) -> String {
        let mut faults = String::new();
        let scripts = parse_scripts(text);
        let only = std::env::var("TRUNKLINE_CONVERSATION").unwrap_or_default();
        for script in scripts.iter().filter(|script| script.name.contains(&only)) {
            let expected = self.direct.hold(script, Pace::Whole).await;
            assert!(!expected.contains("(silence)"), "{}: Postgres itself is silent:\n{expected}", script.name);
            for (n_shards, side) in &self.proxied {
                for pace in [Pace::Whole, Pace::ByteByByte] {
                    let got = side.hold(script, pace).await;
                    let is_excused = script.differs_on.contains(n_shards);
                    if (got == expected) == is_excused {
                        let what = if is_excused { "must differ" } else { "differs" };
                        writeln!(faults, "-- {} {what} on {n_shards} ({pace:?})\n{}", script.name, diff(&expected, &got))
                            .unwrap();
                        break;
                    }
                }
            }
        }
        faults
    }
}

/// The lines of both, common ones once.
fn diff(expected: &str, got: &str) -> String {
    let mut text = String::new();
    let (expected, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), got.lines().collect());
    let n_same = expected.iter().zip(&got).take_while(|(a, b)| a == b).count();
    for line in &expected[..n_same] {
        writeln!(text, "   {line}").unwrap();
    }
    for (sign, lines) in [('P', &expected), ('T', &got)] {
        for line in &lines[n_same..] {
            writeln!(text, " {sign} {line}").unwrap();
        }
    }
    text
}

#[tokio::test]
async fn conversations_are_those_of_postgres() {
    let stage = Stage::set().await;
    let mut faults = String::new();
    for text in [
        include_str!("../conversations/simple.txt"),
        include_str!("../conversations/extended.txt"),
        include_str!("../conversations/portals.txt"),
        include_str!("../conversations/copy.txt"),
        include_str!("../conversations/faults.txt"),
    ] {
        faults += &stage.compare(text).await;
    }
    assert!(faults.is_empty(), "\n{faults}");
}
