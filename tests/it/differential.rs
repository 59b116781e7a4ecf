//! The same random statements through the proxy over 1, 2, 3 and 5 shards and on one Postgres that holds all rows: an answer is
//! that server's, or the statement is refused with a reason code.
//!
//! `TRUNKLINE_SEED` and `TRUNKLINE_STATEMENTS` choose another stream and its length.

mod compare;
mod expressions;
mod fixture;
mod literal;
mod random;
mod selects;
mod wire;

use std::collections::BTreeMap;

use compare::{Verdict, brief, compare};
use expressions::Maker;
use fixture::{Sharded, oracle};
use random::Random;
use selects::Query;
use wire::{Answer, Client, Mode};

/// The stream of an ordinary run.
const SEED: u64 = 20_240_229;
/// Statements of an ordinary run, and the differences after which it ends.
const N_STATEMENTS: usize = 600;
const MAX_DIFFERENCES: usize = 40;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What became of the statements of one kind on one number of shards.
#[derive(Default)]
struct Tally {
    n_answered: usize,
    n_failed: usize,
    refused: BTreeMap<String, usize>,
}

impl Tally {
    fn n_refused(&self) -> usize {
        self.refused.values().sum()
    }

    /// The share that was answered of what one server answers, in percent.
    fn share(&self) -> usize {
        100 * self.n_answered / (self.n_answered + self.n_refused()).max(1)
    }
}

#[derive(Default)]
struct Report {
    tallies: BTreeMap<(usize, &'static str), Tally>,
    differences: Vec<String>,
}

impl Report {
    fn count(&mut self, n_shards: usize, kind: &'static str, verdict: Verdict, oracle: &Answer) -> Option<String> {
        let tally = self.tallies.entry((n_shards, kind)).or_default();
        match verdict {
            // A statement that every server refuses says nothing of what is answered.
            Verdict::Same | Verdict::Refused(_) if matches!(oracle, Answer::Error { .. }) => tally.n_failed += 1,
            Verdict::Same => tally.n_answered += 1,
            Verdict::Refused(code) => *tally.refused.entry(code).or_default() += 1,
            Verdict::Differs(what) => return Some(what),
        }
        None
    }

    fn text(&self) -> String {
        let line = |((n, kind), tally): (&(usize, &str), &Tally)| {
            let (answered, refused, failed) = (tally.n_answered, tally.n_refused(), tally.n_failed);
            let by_code: Vec<String> = tally.refused.iter().map(|(code, n)| format!("{code} {n}")).collect();
            format!("{n} shards, {kind}: {answered} answered, {refused} refused, {failed} errors; {}", by_code.join(", "))
        };
        self.tallies.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

struct Reads {
    oracle: Client,
    sharded: Vec<Sharded>,
    report: Report,
    seed: u64,
}

impl Reads {
    fn check(&mut self, number: usize, query: &Query, mode: Mode) {
        let wanted = self.oracle.run(&query.statement, mode);
        let ranked = match (&wanted, &query.ranked) {
            (Answer::Rows(_), Some(statement)) => match self.oracle.run(statement, mode) {
                Answer::Rows(rows) => Some(rows),
                error => {
                    // What no rank can be given for cannot be compared.
                    eprintln!("not ranked: {} {}", statement.written(mode != Mode::Simple).sql, brief(&error));
                    return;
                }
            },
            _ => None,
        };
        for sharded in &mut self.sharded {
            let given = sharded.client.run(&query.statement, mode);
            let verdict = compare(&wanted, ranked.as_ref(), &given, query.offset);
            if let Some(what) = self.report.count(sharded.n, query.kind, verdict, &wanted) {
                let sql = query.statement.written(false).sql;
                self.report.differences.push(format!("seed {} statement {number}, {} shards, {mode:?}: {sql}\n    {what}", self.seed, sharded.n));
            }
        }
    }
}

async fn loaded(random: &mut Random) -> (Vec<Sharded>, crate::harness::Single, Client) {
    let (single, mut oracle) = oracle().await;
    let rows = fixture::rows(random);
    let mut all = Vec::new();
    for n in [1, 2, 3, 5] {
        all.push(Sharded::start(n).await);
    }
    for sql in &rows {
        assert!(matches!(oracle.simple(sql), Answer::Rows(_)), "{sql}: {:?}", oracle.simple(sql));
        for sharded in &mut all {
            let answer = sharded.client.simple(sql);
            assert!(matches!(answer, Answer::Rows(_)), "{sql:.200}: {answer:?}");
        }
    }
    (all, single, oracle)
}

#[tokio::test]
async fn random_selects_are_answered_right_or_refused() {
    let (seed, n_statements) = (setting("TRUNKLINE_SEED", SEED), setting("TRUNKLINE_STATEMENTS", N_STATEMENTS as u64) as usize);
    let mut random = Random::new(seed);
    let (sharded, _single, oracle) = loaded(&mut random).await;
    let mut reads = Reads { oracle, sharded, report: Report::default(), seed };
    let mut maker = Maker::new(random);
    for number in 0..n_statements {
        let query = maker.query();
        let mode = [Mode::Simple, Mode::Text, Mode::Binary][maker.random.below(3)];
        reads.check(number, &query, mode);
        if reads.report.differences.len() > MAX_DIFFERENCES {
            break;
        }
    }
    let report = reads.report;
    eprintln!("seed {seed}\n{}", report.text());
    assert!(report.differences.is_empty(), "{} differences\n{}", report.differences.len(), report.differences.join("\n"));
    for ((n_shards, kind), tally) in &report.tallies {
        let floor = match (*n_shards, *kind) {
            (1, _) => 95,
            (_, "plain") => 60,
            (_, "grouped") => 40,
            (_, "join") => 20,
            _ => 0,
        };
        assert!(tally.share() >= floor, "{n_shards} shards, {kind}: {} % answered, at least {floor} %", tally.share());
    }
}
