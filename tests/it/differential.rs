//! The same random statements through the proxy over 1, 2, 3 and 5 shards and on one Postgres that holds all rows: an answer is
//! that server's, or the statement is refused with a reason code.
//!
//! `TRUNKLINE_SEED` and `TRUNKLINE_STATEMENTS` choose another stream and its length.

mod compare;
mod expressions;
mod fixed;
mod fixture;
mod gathers;
mod grammar;
mod literal;
mod schema;
mod selects;
mod stored;
mod wire;
mod writes;

use std::collections::BTreeMap;

use compare::{Verdict, Wanted, brief};
use expressions::Maker;
use fixture::{Sharded, TABLES, Table, oracle};
use schema::Extra;
use selects::Query;
use wire::{Answer, Client, Mode};
use writes::Step;

use crate::harness::random::{self, Random, setting};

/// The stream of an ordinary run.
const SEED: u64 = 20_240_229;
/// Statements of an ordinary run, and the differences after which it ends.
const N_STATEMENTS: usize = 600;
const MAX_DIFFERENCES: usize = 40;

/// More rows than this are many, and more than that are not asked for: a proxy at the lowest priority has 20 seconds.
const LONG: usize = 3000;
const TOO_LONG: usize = 200_000;

/// The numbers of shards that each statement is run on.
const N_SHARDS: [usize; 4] = [1, 2, 3, 5];

/// Writes of an ordinary run on each number of shards, and after how many of them the shards are looked at.
const N_WRITES: usize = 250;
const WRITES_PER_LOOK: usize = 50;

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
    fn count(&mut self, n_shards: usize, kind: &'static str, verdict: Verdict, is_error: bool) -> Option<String> {
        let tally = self.tallies.entry((n_shards, kind)).or_default();
        match verdict {
            // A statement that every server refuses says nothing of what is answered.
            Verdict::Same | Verdict::Refused(_) if is_error => tally.n_failed += 1,
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

/// Settings that change what statements mean or how answers look.
const SETTINGS: &[&str] = &[
    "SET TimeZone = 'UTC'",
    "SET TimeZone = 'Asia/Kolkata'",
    "SET TimeZone = 'America/New_York'",
    "SET DateStyle = 'ISO, MDY'",
    "SET DateStyle = 'SQL, DMY'",
    "SET DateStyle = 'German, DMY'",
    "SET client_encoding = 'UTF8'",
    "SET client_encoding = 'WIN1252'",
    "SET extra_float_digits = 0",
    "SET bytea_output = 'escape'",
    "SET search_path = public, pg_catalog",
    "RESET ALL",
];

impl Reads {
    fn set(&mut self, sql: &str) {
        for client in self.sharded.iter_mut().map(|sharded| &mut sharded.client).chain([&mut self.oracle]) {
            assert!(matches!(client.simple(sql), Answer::Rows(_)), "{sql}");
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Client> {
        self.sharded.iter_mut().map(|sharded| &mut sharded.client).chain([&mut self.oracle])
    }

    /// Begins a transaction that writes before it reads. It is rolled back, here or after some reads.
    fn begin(&mut self, random: &mut Random) {
        let (id, new) = (random.between(-3, 14), random.between(1000, 1020));
        let writes = [
            "BEGIN".to_owned(),
            format!("UPDATE acct SET grp = 99, t = 'in between' WHERE id = {id}"),
            format!("INSERT INTO acct (id, grp, c) VALUES ({new}, 3, 'new'), ({}, NULL, 'us'), ({}, 1, 'zoe')", new + 1, new + 2),
            format!("DELETE FROM item WHERE id = {id}"),
            "INSERT INTO code VALUES ('zz', 'in between', 77)".to_owned(),
        ];
        for sql in &writes {
            for client in self.all() {
                let answer = client.simple(sql);
                assert!(matches!(answer, Answer::Rows(_)), "{sql}: {answer:?}");
            }
        }
    }

    /// Ends a transaction that some statement has failed in, or any if it `is_over`.
    fn settle(&mut self, is_over: bool) {
        if is_over && self.oracle.status != b'I' || self.all().any(|client| client.status == b'E') {
            self.all().for_each(|client| drop(client.simple("ROLLBACK")));
        }
    }

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
        // Products of whole tables would take most of the time: each is asked of one number of shards only.
        let n_rows = if let Answer::Rows(wanted) = &wanted { wanted.rows.len() } else { 0 };
        if n_rows > TOO_LONG {
            return;
        }
        let mut wanted = Wanted::new(wanted, ranked.as_ref(), query.offset);
        let asked = self.sharded.iter_mut().enumerate().filter(|(idx, _)| n_rows <= LONG || *idx == number % N_SHARDS.len());
        for (_, sharded) in asked {
            let given = sharded.client.run(&query.statement, mode);
            if wanted.has_other_columns(&given) {
                wanted.declared = self.oracle.declared(&query.statement, mode);
            }
            let verdict = wanted.compare(&given);
            if let (Verdict::Refused(code), true) = (&verdict, std::env::var("SHOW_REFUSED").is_ok() && sharded.n == 5) {
                eprintln!("{code} {} -- {}", query.statement.written(false).sql, brief(&given));
            }
            if let Some(what) = self.report.count(sharded.n, query.kind, verdict, wanted.is_error()) {
                let sql = query.statement.written(false).sql;
                let place = format!("seed {} statement {number}, {} shards, {mode:?}", self.seed, sharded.n);
                self.report.differences.push(format!("{place}: {sql}\n    {what}"));
                // Over more shards it is most likely the same.
                return;
            }
        }
    }
}

async fn loaded(random: &mut Random) -> (Vec<Sharded>, crate::harness::Single, Client, Vec<&'static Table>) {
    let extra = Extra::of(random);
    let (single, mut oracle) = oracle(&extra).await;
    let mut rows = fixture::rows(random);
    rows.extend(extra.rows.iter().cloned());
    let mut all = Vec::new();
    for n in N_SHARDS {
        all.push(Sharded::start(n, &extra).await);
    }
    for sql in &rows {
        assert!(matches!(oracle.simple(sql), Answer::Rows(_)), "{sql}: {:?}", oracle.simple(sql));
        for sharded in &mut all {
            let answer = sharded.client.simple(sql);
            assert!(matches!(answer, Answer::Rows(_)), "{sql:.200}: {answer:?}");
        }
    }
    (all, single, oracle, TABLES.iter().chain(extra.tables).collect())
}

#[tokio::test]
async fn random_selects_are_answered_right_or_refused() {
    let (seed, n_statements) = (setting("TRUNKLINE_SEED", SEED), setting("TRUNKLINE_STATEMENTS", N_STATEMENTS as u64) as usize);
    let mut random = Random::new(seed);
    let (sharded, _single, oracle, tables) = loaded(&mut random).await;
    let mut reads = Reads { oracle, sharded, report: Report::default(), seed };
    let mut maker = Maker::new(random, tables);
    for number in 0..n_statements {
        let query = maker.query();
        if maker.random.chance(3) && reads.oracle.status == b'I' {
            reads.begin(&mut maker.random);
        } else if maker.random.chance(2) && reads.oracle.status == b'I' {
            reads.set(maker.random.pick(SETTINGS));
        }
        let mode = Mode::ALL[maker.random.below(Mode::ALL.len())];
        reads.check(number, &query, mode);
        let is_over = maker.random.chance(20);
        reads.settle(is_over);
        if reads.report.differences.len() > MAX_DIFFERENCES {
            break;
        }
    }
    let report = &reads.report;
    eprintln!("seed {seed}\n{}", report.text());
    for sharded in &reads.sharded {
        let rungs = sharded.rungs();
        eprintln!("{} shards: {rungs:?}", sharded.n);
        // Percent of all statements.
        for (rung, floor) in [("merge", 8), ("combine", 3), ("gather", 15)] {
            let share = 100 * rungs[rung] / n_statements.max(1);
            let is_whole = reads.report.differences.is_empty() && sharded.n > 1;
            assert!(share >= floor || !is_whole, "{} shards: {rung} answered {share} %, at least {floor} %", sharded.n);
        }
    }
    assert!(report.differences.is_empty(), "{} differences\n{}", report.differences.len(), report.differences.join("\n"));
    for ((n_shards, kind), tally) in &report.tallies {
        let floor = match (*n_shards, *kind) {
            (1, _) => 95,
            (_, "plain" | "grouped" | "join" | "distinct" | "set operation" | "with" | "gathered") => 80,
            _ => 0,
        };
        assert!(tally.share() >= floor, "{n_shards} shards, {kind}: {} % answered, at least {floor} %", tally.share());
    }
}

#[tokio::test]
async fn chosen_statements_are_answered_right_or_refused() {
    let mut random = Random::new(SEED);
    let (sharded, _single, oracle, _) = loaded(&mut random).await;
    let mut reads = Reads { oracle, sharded, report: Report::default(), seed: SEED };
    let lines = fixed::FIXED.lines().chain(grammar::GRAMMAR.lines());
    for (number, line) in lines.filter(|line| !line.is_empty()).enumerate() {
        let (is_ordered, sql) = line.strip_prefix("= ").map_or((false, line), |sql| (true, sql));
        let statement = literal::Statement(sql.to_owned());
        for mode in [Mode::Simple, Mode::Binary] {
            // In order: what the oracle gives is the whole answer, each row with a rank of its own.
            if let (true, Answer::Rows(wanted)) = (is_ordered, reads.oracle.run(&statement, mode)) {
                for sharded in &mut reads.sharded {
                    let given = sharded.client.run(&statement, mode);
                    let is_equal = given.refusal().is_some() || given == Answer::Rows(wanted.clone());
                    assert!(is_equal, "{} shards: {sql}\n{}\n{}", sharded.n, brief(&given), brief(&Answer::Rows(wanted)));
                }
            }
            let query = Query { kind: "chosen", statement: statement.clone(), ranked: None, offset: 0 };
            let is_limited = !is_ordered && sql.contains(" LIMIT ");
            if !is_limited || !matches!(reads.oracle.run(&query.statement, mode), Answer::Rows(_)) {
                reads.check(number, &query, mode);
            }
        }
    }
    let mut refused = Vec::new();
    for line in grammar::GRAMMAR.lines().filter(|line| !line.is_empty()) {
        let statement = literal::Statement(line.trim_start_matches("= ").to_owned());
        for sharded in &mut reads.sharded {
            let given = sharded.client.run(&statement, Mode::Simple);
            refused.extend(given.refusal().map(|_| format!("{} shards: {line}\n{}", sharded.n, brief(&given))));
        }
    }
    assert!(refused.is_empty(), "{} refused\n{}", refused.len(), refused.join("\n"));
    let report = &reads.report;
    eprintln!("{}", report.text());
    assert!(report.differences.is_empty(), "{} differences\n{}", report.differences.len(), report.differences.join("\n"));
}

/// Whether the proxy says itself that it does not run this.
fn is_refusal(answer: &Answer) -> bool {
    matches!(answer, Answer::Error { detail, .. } if detail.starts_with("Reason code TL"))
}

struct Writes {
    oracle: Client,
    sharded: Sharded,
    report: Report,
    /// The last statements, for the reader of a failure.
    trail: Vec<String>,
}

impl Writes {
    fn step(&mut self, step: &Step, mode: Mode) {
        let run = |client: &mut Client| match step {
            Step::Run(statement) if statement.0.contains("; ") => client.simple(&statement.written(false).sql),
            Step::Run(statement) => client.run(statement, mode),
            Step::Copy(sql, lines) => client.copy(sql, lines),
        };
        let shown = match step {
            Step::Run(statement) => format!("{mode:?} {}", statement.written(false).sql),
            Step::Copy(sql, lines) => format!("{sql} {lines:?}"),
        };
        // The proxy first: what it refuses, the oracle never sees.
        let given = run(&mut self.sharded.client);
        let n = self.sharded.n;
        self.trail.push(format!("{shown} -- {}", brief(&given)));
        if is_refusal(&given) {
            let tally = self.report.tallies.entry((n, "write")).or_default();
            *tally.refused.entry(given.refusal().unwrap_or("other").to_owned()).or_default() += 1;
            if self.oracle.status != b'I' {
                // The proxy's transaction has failed with the statement.
                self.oracle.simple("ROLLBACK");
                self.sharded.client.simple("ROLLBACK");
            }
            return;
        }
        let was_failed = self.oracle.status == b'E';
        let wanted = run(&mut self.oracle);
        let is_aborted = |answer: &Answer| matches!(answer, Answer::Error { sqlstate, .. } if sqlstate == "25P02");
        if was_failed && is_aborted(&given) && matches!(wanted, Answer::Error { .. }) {
            // The parser's complaint comes first on a server; the proxy sends nothing there that the block refuses anyway.
            return;
        }
        // Of several rows at fault, on several shards, any may be the first to be met.
        let is_of_rows = |answer: &Answer| matches!(answer, Answer::Error { sqlstate, .. } if sqlstate.starts_with("23") || sqlstate.starts_with("22"));
        let is_either = is_of_rows(&wanted) && is_of_rows(&given);
        let wanted = Wanted::new(wanted, None, 0);
        let verdict = if is_either { Verdict::Same } else { wanted.compare(&given) };
        if let Some(what) = self.report.count(n, "write", verdict, wanted.is_error()) {
            let trail = self.trail.join("\n      ");
            self.report.differences.push(format!("{n} shards: {shown}\n    {what}\n    after {trail}"));
        }
        if self.oracle.status != self.sharded.client.status {
            let states = (char::from(self.sharded.client.status), char::from(self.oracle.status));
            self.report.differences.push(format!("{n} shards: transaction status {states:?} after {shown}"));
        }
    }

    fn look(&mut self) {
        for client in [&mut self.sharded.client, &mut self.oracle] {
            if client.status != b'I' {
                client.simple("ROLLBACK");
            }
        }
        let faults = stored::faults(&self.sharded, &mut self.oracle);
        if !faults.is_empty() {
            let trail = self.trail.join("\n      ");
            self.report.differences.push(format!("{} shards: {}\n      {trail}", self.sharded.n, faults.join("\n    ")));
        }
        self.trail.clear();
    }
}

#[tokio::test]
async fn random_writes_land_where_their_keys_say() {
    let (seed, n_writes) = (setting("TRUNKLINE_SEED", SEED), setting("TRUNKLINE_STATEMENTS", N_WRITES as u64) as usize);
    let mut texts = Vec::new();
    for n in N_SHARDS {
        let mut random = Random::new(seed.wrapping_add(n as u64));
        let rows = fixture::rows(&mut random);
        let ((_single, mut oracle), mut sharded) = (oracle(&Extra::default()).await, Sharded::start(n, &Extra::default()).await);
        for shard in &sharded.cluster.shards {
            assert!(matches!(Client::open(shard.port()).simple(stored::HASHES), Answer::Rows(_)));
        }
        for sql in &rows {
            assert!(matches!(oracle.simple(sql), Answer::Rows(_)) && matches!(sharded.client.simple(sql), Answer::Rows(_)));
        }
        let mut writes = Writes { oracle, sharded, report: Report::default(), trail: Vec::new() };
        let mut maker = Maker::new(random, TABLES.iter().collect());
        for number in 1..=n_writes {
            let step = maker.step(writes.oracle.status != b'I');
            let mode = Mode::ALL[maker.random.below(Mode::ALL.len())];
            writes.step(&step, mode);
            if number % WRITES_PER_LOOK == 0 || number == n_writes {
                writes.look();
            }
            if !writes.report.differences.is_empty() {
                break;
            }
        }
        let report = writes.report;
        texts.push(report.text());
        eprintln!("seed {seed}\n{}", report.text());
        assert!(report.differences.is_empty(), "seed {seed}: {}", report.differences.join("\n"));
        let tally = &report.tallies[&(n, "write")];
        assert!(tally.share() >= if n == 1 { 90 } else { 40 }, "{} % answered\n{}", tally.share(), texts.join("\n"));
    }
}

/// The proxy's own simple queries (BEGIN, COPY, settings) drop a backend's unnamed statement, as every simple query does.
#[tokio::test]
async fn an_unnamed_statement_outlives_the_proxys_own_queries() {
    let mut sharded = Sharded::start(2, &Extra::default()).await;
    let read = literal::Statement("SELECT count(*) FROM code".to_owned());
    for between in ["BEGIN; COMMIT", "COPY item (id, item) FROM STDIN", "SET TimeZone = 'Asia/Kolkata'", "RESET TimeZone"] {
        for _ in 0..2 {
            let answer = sharded.client.run(&read, Mode::Binary);
            assert!(matches!(answer, Answer::Rows(_)), "after {between}: {}", brief(&answer));
        }
        sharded.client.copy(between, "1\t1\n");
        let answer = sharded.client.run(&read, Mode::Binary);
        assert!(matches!(answer, Answer::Rows(_)), "after {between}: {}", brief(&answer));
    }
}
