//! Instructions of what statements and rows run through without a socket, counted by valgrind's callgrind: the same on a busy
//! machine as on a quiet one.
//!
//! `cargo bench --bench instructions` prints the counts beside those of `benches/instructions.txt`; with `-- --check` it fails
//! where one is more than a tenth above it, with `-- --accept` it writes them there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark stops at its first mistake"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use trunkline::config::Config;
use trunkline::executor::{CachedTemplate, TemplateCache};
use trunkline::merge::{Comparator, MergeSpec, OrderedMerge, ResolvedKey, Step};
use trunkline::plan::{Context, Params, PlanSettings, Values, analyze, assumed_schema};
use trunkline::session::unpooled::Leftover;
use trunkline::sql::{Fingerprint, ParamFormat, fingerprint};
use trunkline::topology::{Schema, Topology};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/trunkline.toml");

/// How much more than the baseline is too much.
const TOLERANCE: f64 = 1.10;

/// Runs of each piece that are counted; as many go before, to fill caches and buffers.
const N_RUNS: u64 = 200;

const POINT: &str = "SELECT name, email, country, plan FROM users WHERE user_id = 4711 LIMIT 9";
const JOIN: &str = "SELECT o.order_id, o.total_cents, i.sku, i.quantity FROM orders o JOIN order_items i ON i.user_id = o.user_id \
     AND i.order_id = o.order_id WHERE o.user_id = 123456 AND o.status = 'open' AND i.price_cents > 10.5 ORDER BY o.order_id, i.sku";
const PREPARED: &str = "SELECT name, email, country FROM users WHERE user_id = $1";
const GROUPED: &str = "SELECT country, count(*), avg(user_id) FROM users GROUP BY country ORDER BY 2 DESC LIMIT 10";

/// Rows that are merged in one run.
const N_ROWS: i64 = 300;

/// What is counted, by name.
const PIECES: [&str; 11] = [
    "fingerprint-72",
    "fingerprint-237",
    "hit-point",
    "hit-64-shards",
    "hit-1000-tables",
    "hit-10000-shapes",
    "hit-prepared",
    "miss-point",
    "miss-join",
    "miss-grouped",
    "merge-300-rows",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match arguments.next().as_deref() {
        Some("--measured") => {
            run_piece(&arguments.next().unwrap_or_default());
            ExitCode::SUCCESS
        }
        Some("--accept") => accept(),
        Some("--check") => compare(true),
        _ => compare(false),
    }
}

fn accept() -> ExitCode {
    let mut text = "# Instructions per run, by `cargo bench --bench instructions -- --accept`.\n".to_owned();
    for name in PIECES {
        writeln!(text, "{name} {}", count(name)).unwrap();
    }
    std::fs::write(BASELINE, &text).unwrap();
    print!("{text}");
    ExitCode::SUCCESS
}

fn compare(is_check: bool) -> ExitCode {
    let text = std::fs::read_to_string(BASELINE).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let known: BTreeMap<&str, u64> = lines.filter_map(|(name, n)| Some((name, n.parse().ok()?))).collect();
    let mut has_grown = false;
    println!("{:<18} {:>12} {:>12} {:>7}", "piece", "instructions", "baseline", "ratio");
    for name in PIECES {
        let (n, before) = (count(name), known.get(name).copied().unwrap_or(0));
        let ratio = n as f64 / before.max(1) as f64;
        has_grown |= ratio > TOLERANCE;
        println!("{name:<18} {n:>12} {before:>12} {ratio:>7.3}");
    }
    if is_check && has_grown {
        println!("more instructions than the baseline allows: see benches/instructions.rs");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions of one run of a piece.
fn count(name: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions*measured*"])
        .arg(std::env::current_exe().unwrap())
        .args(["--measured", name])
        .output()
        .expect("valgrind is needed: make deps");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, n)| n.trim().replace(',', ""));
    let n: u64 = collected.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no count of {name}: {said}"));
    n / N_RUNS
}

/// Counted: what runs in here.
#[inline(never)]
fn measured(piece: &mut dyn FnMut()) {
    for _ in 0..N_RUNS {
        piece();
    }
}

fn run_piece(name: &str) {
    let planning = Planning::new();
    let mut print = Fingerprint::default();
    let mut piece: Box<dyn FnMut()> = match name {
        "fingerprint-72" => Box::new(move || fingerprint(POINT.as_bytes(), true, &mut print)),
        "fingerprint-237" => Box::new(move || fingerprint(JOIN.as_bytes(), true, &mut print)),
        "hit-point" => Box::new(planning.hit(0)),
        "hit-64-shards" => Box::new(Planning::of(&grown_config(64, 0)).hit(0)),
        "hit-1000-tables" => Box::new(Planning::of(&grown_config(3, 1_000)).hit(0)),
        "hit-10000-shapes" => Box::new(planning.hit(10_000)),
        "hit-prepared" => Box::new(planning.hit_prepared()),
        "miss-point" => Box::new(planning.miss(POINT)),
        "miss-join" => Box::new(planning.miss(JOIN)),
        "miss-grouped" => Box::new(planning.miss(GROUPED)),
        "merge-300-rows" => Box::new(merge()),
        name => panic!("no piece is called {name}"),
    };
    for _ in 0..N_RUNS {
        piece();
    }
    measured(&mut *piece);
}

/// The documented configuration's database, as the proxy plans for it before it has read a catalog.
struct Planning {
    topology: Topology,
    schema: Schema,
    settings: PlanSettings,
}

/// A database of so many shards, whose sharded table `users` stands among so many others.
fn grown_config(n_shards: usize, n_others: usize) -> String {
    let mut text = "[server]\nlisten = \"127.0.0.1:6432\"\n[auth]\nmethod = \"trust\"\n[databases.shop]\n".to_owned();
    for n in 0..n_shards {
        let nodes = "nodes = [{ host = \"127.0.0.1\", port = 5432 }]";
        writeln!(text, "[[databases.shop.shards]]\nname = \"s{n}\"\ndbname = \"s{n}\"\n{nodes}").unwrap();
    }
    for name in (0..n_others).map(|n| format!("table{n}")).chain(["users".to_owned()]) {
        writeln!(text, "[[databases.shop.tables]]\nname = \"{name}\"\nkey = {{ hash = \"user_id\" }}").unwrap();
    }
    text
}

impl Planning {
    fn new() -> Self {
        Self::of(&std::fs::read_to_string(CONFIG).unwrap())
    }

    fn of(config: &str) -> Self {
        let config = Config::parse(config, Path::new(CONFIG)).unwrap();
        let topology = config.databases["shop"].topology.clone();
        let settings = PlanSettings::default();
        Self { schema: assumed_schema(&topology), topology, settings }
    }

    fn context(&self) -> Context<'_> {
        Context { topology: &self.topology, schema: &self.schema, settings: &self.settings }
    }

    fn cached(&self, sql: &str, print: &Fingerprint) -> Arc<CachedTemplate> {
        let template = analyze(sql, &print.literals, &self.context()).unwrap();
        Arc::new(CachedTemplate { template, leftover: Leftover::NOTHING, reads_catalog: false, is_settings_only: false })
    }

    /// Fingerprint, look-up, binding, hash; among so many other shapes.
    fn hit(self, n_others: usize) -> impl FnMut() {
        let (cache, mut print) = (TemplateCache::default(), Fingerprint::default());
        for n in 0..n_others {
            let sql = format!("SELECT name AS n{n} FROM users WHERE user_id = 4711");
            fingerprint(sql.as_bytes(), true, &mut print);
            cache.insert(&sql, &print, 0, &self.cached(&sql, &print));
        }
        fingerprint(POINT.as_bytes(), true, &mut print);
        cache.insert(POINT, &print, 0, &self.cached(POINT, &print));
        move || {
            fingerprint(POINT.as_bytes(), true, &mut print);
            let cached = cache.get(POINT, &print, 0).unwrap();
            let values = Values { sql: POINT, literals: &print.literals, params: Params::default(), now_micros: 0 };
            std::hint::black_box(cached.template.bind(&values, &self.context()).unwrap());
        }
    }

    /// Binding a binary parameter, and its hash.
    fn hit_prepared(self) -> impl FnMut() {
        let mut print = Fingerprint::default();
        fingerprint(PREPARED.as_bytes(), true, &mut print);
        let cached = self.cached(PREPARED, &print);
        let key = 4711_i64.to_be_bytes();
        move || {
            let params = Params { types: &[20], formats: &[ParamFormat::Binary], values: &[Some(&key)] };
            let values = Values { sql: PREPARED, literals: &print.literals, params, now_micros: 0 };
            std::hint::black_box(cached.template.bind(&values, &self.context()).unwrap());
        }
    }

    /// Fingerprint, parser, analysis, binding.
    fn miss(self, sql: &'static str) -> impl FnMut() {
        let mut print = Fingerprint::default();
        move || {
            fingerprint(sql.as_bytes(), true, &mut print);
            let cached = self.cached(sql, &print);
            let values = Values { sql, literals: &print.literals, params: Params::default(), now_micros: 0 };
            std::hint::black_box(cached.template.bind(&values, &self.context()).unwrap());
        }
    }
}

/// Three sorted streams by a hidden bigint.
fn merge() -> impl FnMut() {
    let row = |n: i64| {
        let mut body = BytesMut::new();
        body.put_u16(3);
        for field in [n.to_string().as_bytes(), b"a note of some length, as rows have one".as_slice(), &n.to_be_bytes()] {
            body.put_i32(i32::try_from(field.len()).unwrap());
            body.extend_from_slice(field);
        }
        body.freeze()
    };
    let rows: Vec<Bytes> = (0..N_ROWS).map(row).collect();
    let key =
        ResolvedKey { column_idx: 0, comparator: Comparator::of(20, true).unwrap(), is_descending: false, is_nulls_first: false };
    let spec = MergeSpec { n_streams: 3, n_visible: 2, n_hidden: 1, keys: vec![key], limit: None, offset: 0 };
    move || {
        let mut merge = OrderedMerge::new(spec.clone());
        let mut next = [0, 1, 2];
        loop {
            match merge.step() {
                Step::Emit(row) => drop(std::hint::black_box(row)),
                Step::NeedFrom(stream) => match rows.get(next[stream]) {
                    Some(row) => {
                        merge.supply(stream, row.clone()).unwrap();
                        next[stream] += 3;
                    }
                    None => merge.end(stream),
                },
                Step::Done => break,
            }
        }
    }
}
