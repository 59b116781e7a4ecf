//! A client that knows what it has to hear, and sometimes leaves without a word.

use std::time::{Duration, Instant};

use crate::harness::random::Random;
use crate::harness::{DATABASE, Message, Raw, message, startup, text, with_length};

/// How long any one answer may take.
const PATIENCE: Duration = Duration::from_secs(40);

pub(super) struct Guest {
    id: usize,
    port: u16,
    random: Random,
    n_answers: usize,
}

struct Session {
    raw: Raw,
    /// Body of BackendKeyData.
    key: Vec<u8>,
}

/// What is asked, and what has to come.
struct Question {
    bytes: Vec<u8>,
    /// Each row's text must be one of these in turn.
    rows: Vec<String>,
    n_ready: usize,
    sqlstate: Option<&'static str>,
}

impl Guest {
    pub(super) fn new(id: usize, port: u16, seed: u64) -> Self {
        let random = Random::new(seed.wrapping_mul(7_919).wrapping_add(id as u64));
        Self { id, port, random, n_answers: 0 }
    }

    /// Asks until `end`. Gives how many answers were right.
    pub(super) async fn stay_until(mut self, end: Instant) -> usize {
        let mut session = self.log_in().await;
        while Instant::now() < end {
            let question = self.question();
            match self.random.below(100) {
                0..=1 => {
                    // Reset in the middle of the answer.
                    session.raw.try_send(&question.bytes).await;
                    session.raw.reset();
                    session = self.log_in().await;
                }
                2 => {
                    // Half of a message, then the end.
                    session.raw.try_send(&question.bytes[..question.bytes.len() - 3]).await;
                    drop(session);
                    session = self.log_in().await;
                }
                3 => {
                    // Nothing more to say: the answer comes all the same.
                    session.raw.try_send(&question.bytes).await;
                    session.raw.finish_sending().await;
                    self.check(&mut session, &question, false).await;
                    session = self.log_in().await;
                }
                4 => {
                    session.raw.send(&question.bytes).await;
                    cancel(self.port, &session.key).await;
                    self.check(&mut session, &question, true).await;
                    // Whatever was open.
                    session.raw.send(&query("ROLLBACK")).await;
                    read_to_ready(&mut session.raw, 1).await;
                }
                _ => {
                    session.raw.send(&question.bytes).await;
                    self.check(&mut session, &question, false).await;
                }
            }
        }
        session.raw.send(&message(b'X', &[])).await;
        self.n_answers
    }

    async fn log_in(&self) -> Session {
        let mut raw = Raw::open(self.port).await;
        let name = format!("guest {}", self.id);
        raw.send(&startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE), ("application_name", &name)])).await;
        let messages = read_to_ready(&mut raw, 1).await;
        let key = messages.iter().find(|message| message.tag == b'K').unwrap_or_else(|| panic!("{messages:?}")).body.clone();
        Session { raw, key }
    }

    fn question(&mut self) -> Question {
        let (id, n) = (self.id, self.random.below(1_000_000));
        let own = format!("{id}.{n}");
        let name = format!("u{id}");
        let one = |bytes: Vec<u8>, rows: Vec<String>| Question { bytes, rows, n_ready: 1, sqlstate: None };
        match self.random.below(10) {
            0 => one(query(&format!("SELECT '{own}'")), vec![own]),
            1 => one(query(&format!("SELECT name FROM users WHERE user_id = {id}")), vec![name]),
            2 => one([extended(&format!("q{}", n % 5), &own), message(b'S', &[])].concat(), vec![own]),
            3 => {
                let batches = (0..5).flat_map(|k| extended("", &format!("{own}.{k}"))).chain(message(b'S', &[])).collect();
                one(batches, (0..5).map(|k| format!("{own}.{k}")).collect())
            }
            4 => {
                // Several Syncs at once.
                let batches = (0..4).flat_map(|k| [extended("", &format!("{own}.{k}")), message(b'S', &[])].concat()).collect();
                let rows = (0..4).map(|k| format!("{own}.{k}")).collect();
                Question { bytes: batches, rows, n_ready: 4, sqlstate: None }
            }
            5 => one(query(&format!("COPY (SELECT '{own}') TO STDOUT")), vec![own]),
            6 => {
                let sql = format!("BEGIN; UPDATE users SET email = '{own}' WHERE user_id = {id} RETURNING email; COMMIT");
                one(query(&sql), vec![own])
            }
            7 => {
                // A block over two messages: the connection is held between them.
                let first = query(&format!("BEGIN; SELECT '{own}'"));
                let last = query(&format!("SELECT name FROM users WHERE user_id = {id}; COMMIT"));
                Question { bytes: [first, last].concat(), rows: vec![own, name], n_ready: 2, sqlstate: None }
            }
            8 => Question { bytes: query("SELECT 1/0"), rows: Vec::new(), n_ready: 1, sqlstate: Some("22012") },
            _ => one(query("SELECT current_setting('application_name')"), vec![format!("guest {id}")]),
        }
    }

    async fn check(&mut self, session: &mut Session, question: &Question, may_be_cancelled: bool) {
        let messages = read_to_ready(&mut session.raw, question.n_ready).await;
        let error = messages.iter().find(|message| message.tag == b'E');
        let sqlstate = error.map(|error| error.field(b'C'));
        let was_cancelled = may_be_cancelled && matches!(sqlstate.as_deref(), Some("57014" | "25P02"));
        let id = self.id;
        if !was_cancelled {
            assert_eq!(sqlstate.as_deref(), question.sqlstate, "guest {id}: {error:?}");
        }
        let rows: Vec<String> = messages.iter().filter_map(text_of_row).collect();
        let n_expected = if was_cancelled { rows.len() } else { question.rows.len() };
        assert!(rows.len() == n_expected && rows.iter().all(|row| question.rows.contains(row)), "guest {id}: {rows:?}");
        if !was_cancelled {
            assert_eq!(rows, question.rows, "guest {id}");
        }
        self.n_answers += 1;
    }
}

/// Parse of a statement (closed first, if it has a name), Bind with `own`, Execute.
fn extended(name: &str, own: &str) -> Vec<u8> {
    let close = message(b'C', &[b"S", text(name).as_slice()].concat());
    let parse = message(b'P', &[text(name), text("SELECT $1::text"), vec![0, 0]].concat());
    let length = u32::try_from(own.len()).unwrap().to_be_bytes();
    let bind = message(b'B', &[&b"\0"[..], &text(name), &[0, 0, 0, 1], &length, own.as_bytes(), &[0, 0]].concat());
    [close, parse, bind, message(b'E', &[0; 5])].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

/// Sends a CancelRequest and waits until the proxy has closed its socket.
async fn cancel(port: u16, key: &[u8]) {
    let mut raw = Raw::open(port).await;
    raw.send(&with_length(&[&80_877_102_u32.to_be_bytes()[..], key].concat())).await;
    assert!(raw.is_closed().await);
}

async fn read_to_ready(raw: &mut Raw, n_ready: usize) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let is_ready = |message: &&Message| message.tag == b'Z';
    while messages.iter().filter(is_ready).count() < n_ready {
        let next = raw.next_within(PATIENCE).await.unwrap_or_else(|_| panic!("silence after {messages:?}"));
        messages.push(next.unwrap_or_else(|| panic!("closed after {messages:?}")));
    }
    messages
}

/// The one field of a row, or a line of COPY.
fn text_of_row(message: &Message) -> Option<String> {
    match message.tag {
        b'D' => Some(String::from_utf8_lossy(&message.body[6..]).into_owned()),
        b'd' => Some(String::from_utf8_lossy(&message.body).trim_end().to_owned()),
        _ => None,
    }
}
