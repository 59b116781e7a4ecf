//! What is compared of the answers.

use std::fmt::Write as _;
use std::time::Duration;

use crate::harness::{Message, Raw};

/// How long an answer may take before it counts as silence.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What was heard so far, a line for each message.
#[derive(Debug, Default)]
pub(super) struct Listener {
    pub(super) heard: String,
    /// A row of ParameterStatus is held back until its end: Postgres has no order for them.
    parameters: Vec<String>,
}

impl Listener {
    pub(super) fn hear(&mut self, message: &Message) {
        if message.tag == b'S' {
            self.parameters.push(line(message));
            return;
        }
        self.parameters.sort_unstable();
        let parameters: String = self.parameters.drain(..).collect();
        self.heard += &parameters;
        self.heard += &line(message);
    }
}

/// Reads up to the messages of these tags, one after the other; `.` is the end of the stream, `1` one byte.
pub(super) async fn listen(raw: &mut Raw, until: &str, heard: &mut String) {
    let mut listener = Listener { heard: std::mem::take(heard), parameters: Vec::new() };
    for awaited in until.bytes() {
        if let Some(end) = listen_for(raw, awaited, &mut listener).await {
            listener.heard += end;
            break;
        }
    }
    *heard = listener.heard;
}

/// Reads up to one message. Gives how it ended, if it did not come.
async fn listen_for(raw: &mut Raw, awaited: u8, listener: &mut Listener) -> Option<&'static str> {
    const SILENCE: &str = "  (silence)\n";
    const END: &str = "  (closed)\n";
    if awaited == b'1' {
        return match raw.byte_within(ANSWER_PATIENCE).await {
            Err(_) => Some(SILENCE),
            Ok(None) => Some(END),
            Ok(Some(byte)) => {
                writeln!(listener.heard, "  byte {:?}", char::from(byte)).unwrap();
                None
            }
        };
    }
    loop {
        match raw.next_within(ANSWER_PATIENCE).await {
            Err(_) => return Some(SILENCE),
            Ok(None) => return Some(END),
            Ok(Some(message)) => {
                listener.hear(&message);
                if message.tag == awaited {
                    return None;
                }
            }
        }
    }
}

/// A message without what may differ.
fn line(message: &Message) -> String {
    let body = &message.body;
    let tag = char::from(message.tag);
    match message.tag {
        b'K' => format!("  K of {} bytes\n", body.len()),
        // Behind the number of the process.
        b'A' => format!("  A {}\n", body[4..].escape_ascii()),
        b'E' | b'N' => format!("  {tag}{}\n", report(message)),
        _ => format!("  {tag} {}\n", body.escape_ascii()),
    }
}

/// The fields of an ErrorResponse, without source file and line and without the proxy's own context.
fn report(message: &Message) -> String {
    let mut text = String::new();
    for code in *b"SVCMDHPpqWstcdn" {
        let mut value = message.field(code);
        if code == b'W' {
            value = value.lines().filter(|line| !line.starts_with("shard \"")).collect::<Vec<_>>().join("\n");
        }
        if !value.is_empty() {
            write!(text, " {}={value:?}", char::from(code)).unwrap();
        }
    }
    text
}
