//! What is compared of the answers.

use std::fmt::Write as _;
use std::time::Duration;

use crate::harness::{Message, Raw};

/// How long an answer may take before it counts as silence.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Reads up to the messages of these tags, one after the other; `.` is the end of the stream, `1` one byte.
pub(super) async fn listen(raw: &mut Raw, until: &str, heard: &mut String) {
    let mut parameters = Vec::new();
    for awaited in until.bytes() {
        if awaited == b'1' {
            match raw.byte_within(ANSWER_PATIENCE).await {
                Err(_) => return heard.push_str("  (silence)\n"),
                Ok(None) => return heard.push_str("  (closed)\n"),
                Ok(Some(byte)) => writeln!(heard, "  byte {:?}", char::from(byte)).unwrap(),
            }
            continue;
        }
        loop {
            match raw.next_within(ANSWER_PATIENCE).await {
                Err(_) => return heard.push_str("  (silence)\n"),
                Ok(None) => {
                    heard.push_str("  (closed)\n");
                    return;
                }
                Ok(Some(message)) => {
                    tell(&message, &mut parameters, heard);
                    if message.tag == awaited {
                        break;
                    }
                }
            }
        }
    }
}

/// One message as a line. A row of ParameterStatus is held back until its end: Postgres has no order for them.
fn tell(message: &Message, parameters: &mut Vec<String>, heard: &mut String) {
    if message.tag == b'S' {
        parameters.push(line(message));
        return;
    }
    parameters.sort_unstable();
    parameters.drain(..).for_each(|line| heard.push_str(&line));
    heard.push_str(&line(message));
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
