//! Conversations by raw messages, held with one Postgres and through the proxy before one shard and before three, in both pool
//! modes: the answers must be the same, message by message.
//!
//! The conversations are text files in `tests/conversations`. A line is a message to the server, by its tag:
//!
//! ```text
//! startup 3.0|name=value|… the startup packet; without it or `open` the conversation begins logged in
//! open                     only opens the socket
//! Q sql                    Query
//! P name|types|sql         Parse; types are OIDs, separated by commas
//! B portal|name|values|f   Bind; values: NULL, x0102 for binary, else text; f: result formats
//! D S name   D P name      Describe; C likewise for Close
//! E portal|rows            Execute
//! F oid|values|format      FunctionCall; values as in Bind
//! S  H  c  X               Sync, Flush, CopyDone, Terminate
//! d text    f text         CopyData, CopyFail
//! m tag text               any message; its body is the text
//! raw text                 bytes as they are
//! < Z                      all lines since the last answer are sent in one write; then messages are read up to ReadyForQuery.
//!                          `< GZ`: up to CopyInResponse, then to ReadyForQuery. `< .`: until the server closes. `< 1`: one byte.
//! ! 3 reason               the conversation must differ before three shards, because …
//! ! 3 session: reason      … in this pool mode
//! ? 1 reason               it may differ: that depends on the version of Postgres
//! ```
//!
//! Text knows `\n`, `\t`, `\\`, `\p` for `|` and `\x00`. Not compared: the cancel key, source file and line of errors, the
//! proxy's context `shard "…"`, the order of ParameterStatus messages that follow each other.

mod fuzz;
mod heard;
mod script;
mod stage;

use std::fmt::Write as _;

use futures_util::future::join_all;

use crate::harness::{DATABASE, Raw};

use heard::listen;
use script::{Demand, Script, parse_scripts};
use stage::{Proxied, Side, Stage};

/// Where the conversations are: read when the test runs, so that a new one needs no new build.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversations");

/// At least so many.
const N_CONVERSATIONS: usize = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Whole,
    ByteByByte,
}

/// The files of the directory, by their names.
fn texts() -> Vec<String> {
    let mut paths: Vec<_> = std::fs::read_dir(DIRECTORY).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Holds a conversation and tells what came back and what remains in the tables.
async fn hold(side: &Side, script: &Script, pace: Pace) -> String {
    side.reset().await;
    let mut raw = if script.is_bare { Raw::open(side.port).await } else { Raw::log_in(side.port).await };
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
    heard + &side.remains().await
}

/// What the proxies of one cluster made of the conversations.
#[derive(Debug, Default)]
struct Outcome {
    faults: String,
    /// Names of conversations that differ, by proxy.
    differing: Vec<(String, Vec<String>)>,
}

async fn compare(proxied: &[Proxied], scripts: &[(&Script, String)]) -> Outcome {
    let mut outcome = Outcome::default();
    for Proxied { n_shards, mode, side, .. } in proxied {
        let place = format!("{n_shards} shards, {mode:?}");
        let mut differing = Vec::new();
        for (script, expected) in scripts {
            let mut is_different = false;
            for pace in [Pace::Whole, Pace::ByteByByte] {
                let got = hold(side, script, pace).await;
                is_different |= got != *expected;
                let what = match (script.demand(*n_shards, *mode), got == *expected) {
                    (Demand::Same, false) => "differs",
                    (Demand::Different, true) => "must differ",
                    _ => continue,
                };
                writeln!(outcome.faults, "-- {} {what} on {place} ({pace:?})\n{}", script.name, diff(expected, &got)).unwrap();
                break;
            }
            if is_different {
                differing.push(script.name.clone());
            }
        }
        outcome.differing.push((place, differing));
    }
    outcome
}

/// The lines of both, common ones once.
fn diff(expected: &str, got: &str) -> String {
    let mut text = String::new();
    let (expected, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), got.lines().collect());
    let n_same = expected.iter().zip(&got).take_while(|(a, b)| a == b).count();
    let remains =
        |lines: &[&str]| lines.iter().filter(|line| line.starts_with("  =")).map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let are_remains_alike = remains(&expected) == remains(&got);
    for line in &expected[..n_same] {
        writeln!(text, "   {line}").unwrap();
    }
    for (sign, lines) in [('P', &expected), ('T', &got)] {
        for line in lines[n_same..].iter().filter(|line| !are_remains_alike || !line.starts_with("  =")) {
            writeln!(text, " {sign} {line}").unwrap();
        }
    }
    text
}

#[tokio::test]
async fn conversations_on_one_shard_are_those_of_postgres() {
    all_are_those_of_postgres(1).await;
}

#[tokio::test]
async fn conversations_on_three_shards_are_those_of_postgres() {
    all_are_those_of_postgres(3).await;
}

async fn all_are_those_of_postgres(n_shards: usize) {
    let stage = Stage::set(&[n_shards]).await;
    let only = std::env::var("TRUNKLINE_CONVERSATION").unwrap_or_default();
    let all: Vec<Script> = texts().iter().flat_map(|text| parse_scripts(text)).collect();
    assert!(all.len() >= N_CONVERSATIONS, "{}", all.len());
    let (mut scripts, mut faults) = (Vec::new(), String::new());
    for script in all.iter().filter(|script| script.name.contains(&only)) {
        let expected = hold(&stage.direct, script, Pace::Whole).await;
        if expected.contains("(silence)") {
            writeln!(faults, "-- {}: Postgres itself is silent:\n{expected}", script.name).unwrap();
        }
        scripts.push((script, expected));
    }
    let outcomes = join_all(stage.proxied.iter().map(|proxied| compare(proxied, &scripts))).await;
    for outcome in outcomes {
        faults += &outcome.faults;
        for (place, differing) in outcome.differing {
            eprintln!("{} of {} conversations differ on {place}: {differing:?}", differing.len(), scripts.len());
        }
    }
    assert!(faults.is_empty(), "database {DATABASE}\n{faults}");
}
