//! Every metric's name, once, and their text form for Prometheus.
//!
//! Text format 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{CheckOutcome, DatabaseCounters, ErrorKind, Histogram, ProcessCounters, Route};
use crate::session::pins::PinReason;

const BUILD_INFO: &str = "trunkline_build_info";
const UP_SINCE: &str = "trunkline_start_time_seconds";
const CLIENTS: &str = "trunkline_clients";
const SILENT_CLIENTS: &str = "trunkline_silent_clients";
const PINNED_CLIENTS: &str = "trunkline_pinned_clients";
const PINS: &str = "trunkline_pins_total";
const CONNECTIONS: &str = "trunkline_connections_accepted_total";
const TURNED_AWAY: &str = "trunkline_clients_turned_away_total";
const LOGIN_FAILURES: &str = "trunkline_login_failures_total";
const LOGINS_LIMITED: &str = "trunkline_logins_limited_total";
const USER_LOOKUPS: &str = "trunkline_user_lookups_total";
const USER_LOOKUP_FAILURES: &str = "trunkline_user_lookup_failures_total";
const CANCEL_REQUESTS: &str = "trunkline_cancel_requests_total";
const TLS_HANDSHAKES: &str = "trunkline_tls_handshakes_total";
const TLS_FAILURES: &str = "trunkline_tls_handshake_failures_total";
const STATEMENTS: &str = "trunkline_statements_total";
const STATEMENT_DURATION: &str = "trunkline_statement_duration_seconds";
const CHECKOUT_WAIT: &str = "trunkline_checkout_wait_seconds";
const TRANSACTIONS: &str = "trunkline_transactions_total";
const SELF_CHECKS: &str = "trunkline_self_checks_total";
const DEADLOCKS: &str = "trunkline_deadlocks_total";
const LEFT_OUT: &str = "trunkline_shards_left_out_total";
const TWO_PHASE_COMMITS: &str = "trunkline_two_phase_commits_total";
const FROM_CLIENTS: &str = "trunkline_received_from_clients_bytes_total";
const TO_CLIENTS: &str = "trunkline_sent_to_clients_bytes_total";
const ERRORS: &str = "trunkline_errors_total";
const CANCELS: &str = "trunkline_server_cancels_total";
const TEMPLATE_LOOKUPS: &str = "trunkline_template_lookups_total";
const POOL_CONNECTIONS: &str = "trunkline_pool_connections";
const POOL_LIMIT: &str = "trunkline_pool_connections_limit";
const POOL_WAITING: &str = "trunkline_pool_waiting_clients";
const POOL_LONGEST_WAIT: &str = "trunkline_pool_longest_wait_seconds";
const POOL_RESERVE: &str = "trunkline_pool_reserve_connections";
const POOL_BACKOFF: &str = "trunkline_pool_connect_backoff_seconds";
const NODE_UP: &str = "trunkline_node_up";
const NODE_PRIMARY: &str = "trunkline_node_primary";
const NODE_LSN: &str = "trunkline_node_wal_position_bytes";

/// What one scrape shows.
#[derive(Debug)]
pub struct Scrape<'a> {
    pub process: ProcessSample<'a>,
    pub databases: &'a [DatabaseSample<'a>],
    pub pools: &'a [PoolStatus],
    pub nodes: &'a [NodeSample],
}

#[derive(Debug)]
pub struct ProcessSample<'a> {
    pub version: &'a str,
    /// Seconds since 1970.
    pub started_at_seconds: f64,
    pub counters: &'a ProcessCounters,
}

#[derive(Debug)]
pub struct DatabaseSample<'a> {
    pub database: &'a str,
    pub n_clients: usize,
    /// Those of them whose session is folded.
    pub n_silent: usize,
    /// Clients that keep server connections beyond their transactions, in the order of [`PinReason::ALL`].
    pub n_pinned: [usize; PinReason::ALL.len()],
    pub counters: &'a DatabaseCounters,
}

/// A pool of connections to one node as one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    pub database: String,
    pub shard: String,
    /// `host:port`.
    pub node: String,
    pub user: String,
    pub n_max: usize,
    pub n_open: usize,
    pub n_idle: usize,
    pub n_leased: usize,
    /// Of the leased ones, those above the limit.
    pub n_reserve: usize,
    /// Clients that wait for a connection.
    pub n_waiting: usize,
    /// How long the first of them waits.
    pub longest_wait: Duration,
    /// Time until a connection may be opened again, after a failure.
    pub backoff_left: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSample {
    pub database: String,
    pub shard: String,
    /// `host:port`.
    pub node: String,
    pub is_up: bool,
    pub is_primary: bool,
    /// Written or replayed so far; `None` before the first good probe.
    pub lsn: Option<u64>,
}

/// The text form of a scrape.
pub fn render(scrape: &Scrape<'_>) -> String {
    let mut page = Page::default();
    write_process(&mut page, &scrape.process);
    write_databases(&mut page, scrape.databases);
    write_durations(&mut page, scrape.databases);
    write_pools(&mut page, scrape.pools);
    write_nodes(&mut page, scrape.nodes);
    page.text
}

fn write_process(page: &mut Page, process: &ProcessSample<'_>) {
    page.family(BUILD_INFO, "gauge", "Version of the running program; the value is always 1.");
    page.line(BUILD_INFO, &[("version", process.version)], 1);
    page.family(UP_SINCE, "gauge", "When the process started, in seconds since 1970.");
    page.line(UP_SINCE, &[], process.started_at_seconds);
    let counters = process.counters;
    let totals = [
        (CONNECTIONS, "Accepted client sockets.", &counters.n_accepted),
        (TURNED_AWAY, "Clients turned away because a limit of [server] was reached.", &counters.n_turned_away),
        (LOGIN_FAILURES, "Logins that failed.", &counters.n_login_failures),
        (LOGINS_LIMITED, "Logins refused because too many of the user had failed.", &counters.n_logins_limited),
        (USER_LOOKUPS, "Questions of auth.query to servers.", &counters.n_user_lookups),
        (USER_LOOKUP_FAILURES, "Questions of auth.query without an answer.", &counters.n_user_lookup_failures),
        (CANCEL_REQUESTS, "Cancel requests received from clients.", &counters.n_cancel_requests),
        (TLS_HANDSHAKES, "TLS handshakes with clients that succeeded.", &counters.n_tls_handshakes),
        (TLS_FAILURES, "TLS handshakes with clients that failed.", &counters.n_tls_failures),
    ];
    for (name, help, counter) in totals {
        page.family(name, "counter", help);
        page.line(name, &[], counter.value());
    }
}

fn write_databases(page: &mut Page, databases: &[DatabaseSample<'_>]) {
    page.family(CLIENTS, "gauge", "Connected clients.");
    for sample in databases {
        page.line(CLIENTS, &[("database", sample.database)], sample.n_clients);
    }
    page.family(SILENT_CLIENTS, "gauge", "Clients that have said nothing for a second or more, outside of transactions.");
    for sample in databases {
        page.line(SILENT_CLIENTS, &[("database", sample.database)], sample.n_silent);
    }
    page.family(PINNED_CLIENTS, "gauge", "Clients that keep a server connection beyond their transactions, by reason.");
    for (sample, reason) in databases.iter().flat_map(|sample| PinReason::ALL.map(|reason| (sample, reason))) {
        let labels = [("database", sample.database), ("reason", reason.as_label())];
        page.line(PINNED_CLIENTS, &labels, sample.n_pinned[reason as usize]);
    }
    page.family(PINS, "counter", "Times that a client began to keep a server connection, by reason.");
    for (sample, reason) in databases.iter().flat_map(|sample| PinReason::ALL.map(|reason| (sample, reason))) {
        let labels = [("database", sample.database), ("reason", reason.as_label())];
        page.line(PINS, &labels, sample.counters.n_pins(reason));
    }
    page.family(STATEMENTS, "counter", "Finished statements by how they were answered.");
    for (sample, route) in databases.iter().flat_map(|sample| Route::ALL.map(|route| (sample, route))) {
        let labels = [("database", sample.database), ("route", route.as_label())];
        page.line(STATEMENTS, &labels, sample.counters.n_statements(route));
    }
    page.family(ERRORS, "counter", "Error responses to clients by whose fault they were.");
    for (sample, kind) in databases.iter().flat_map(|sample| ErrorKind::ALL.map(|kind| (sample, kind))) {
        page.line(ERRORS, &[("database", sample.database), ("kind", kind.as_label())], sample.counters.n_errors(kind));
    }
    page.family(
        SELF_CHECKS,
        "counter",
        "Answers of several shards that were run again over gathered rows, by what that has shown.",
    );
    for (sample, outcome) in databases.iter().flat_map(|sample| CheckOutcome::ALL.map(|outcome| (sample, outcome))) {
        let labels = [("database", sample.database), ("outcome", outcome.as_label())];
        page.line(SELF_CHECKS, &labels, sample.counters.n_self_checks(outcome));
    }
    page.family(TEMPLATE_LOOKUPS, "counter", "Lookups of a plan template by fingerprint.");
    for sample in databases {
        let counters = sample.counters;
        for (result, counter) in [("hit", &counters.n_template_hits), ("miss", &counters.n_template_misses)] {
            page.line(TEMPLATE_LOOKUPS, &[("database", sample.database), ("result", result)], counter.value());
        }
    }
    write_totals(page, databases);
}

fn write_totals(page: &mut Page, databases: &[DatabaseSample<'_>]) {
    type Read = fn(&DatabaseCounters) -> u64;
    let totals: [(&str, &str, Read); 7] = [
        (TRANSACTIONS, "Ended transactions.", |c| c.n_transactions.value()),
        (TWO_PHASE_COMMITS, "Transactions committed in two phases.", |c| c.n_two_phase_commits.value()),
        (DEADLOCKS, "Deadlocks across shards, each ended by failing one transaction.", |c| c.n_errors(ErrorKind::Deadlock)),
        (LEFT_OUT, "Shards that were left out of answers under trunkline.partial_results.", |c| c.n_left_out.value()),
        (FROM_CLIENTS, "Bytes received from clients.", |c| c.n_bytes_from_clients.value()),
        (TO_CLIENTS, "Bytes sent to clients.", |c| c.n_bytes_to_clients.value()),
        (CANCELS, "Cancel requests sent to servers.", |c| c.n_cancels.value()),
    ];
    for (name, help, read) in totals {
        page.family(name, "counter", help);
        for sample in databases {
            page.line(name, &[("database", sample.database)], read(sample.counters));
        }
    }
}

fn write_durations(page: &mut Page, databases: &[DatabaseSample<'_>]) {
    page.family(STATEMENT_DURATION, "histogram", "Time from a statement's arrival to the end of its answer.");
    for (sample, route) in databases.iter().flat_map(|sample| Route::ALL.map(|route| (sample, route))) {
        let labels = [("database", sample.database), ("route", route.as_label())];
        page.histogram(STATEMENT_DURATION, &labels, sample.counters.statement_duration(route));
    }
    page.family(CHECKOUT_WAIT, "histogram", "Time that clients waited for a server connection.");
    for sample in databases {
        page.histogram(CHECKOUT_WAIT, &[("database", sample.database)], &sample.counters.checkout_wait);
    }
}

fn write_pools(page: &mut Page, pools: &[PoolStatus]) {
    page.family(POOL_CONNECTIONS, "gauge", "Open server connections by state.");
    for pool in pools {
        for (state, n) in [("idle", pool.n_idle), ("leased", pool.n_leased)] {
            let [database, shard, node, user] = pool_labels(pool);
            page.line(POOL_CONNECTIONS, &[database, shard, node, user, ("state", state)], n);
        }
    }
    page.family(POOL_LIMIT, "gauge", "Most server connections of a pool.");
    for pool in pools {
        page.line(POOL_LIMIT, &pool_labels(pool), pool.n_max);
    }
    type Read = fn(&PoolStatus) -> f64;
    let gauges: [(&str, &str, Read); 4] = [
        (POOL_WAITING, "Clients that wait for a server connection.", |pool| pool.n_waiting as f64),
        (POOL_LONGEST_WAIT, "How long the first of them waits.", |pool| pool.longest_wait.as_secs_f64()),
        (POOL_RESERVE, "Leased server connections above the limit.", |pool| pool.n_reserve as f64),
        (POOL_BACKOFF, "Time until a server connection may be opened again, after a failure.", |pool| {
            pool.backoff_left.as_secs_f64()
        }),
    ];
    for (name, help, read) in gauges {
        page.family(name, "gauge", help);
        for pool in pools {
            page.line(name, &pool_labels(pool), read(pool));
        }
    }
}

fn pool_labels(pool: &PoolStatus) -> [(&str, &str); 4] {
    [("database", &pool.database), ("shard", &pool.shard), ("node", &pool.node), ("user", &pool.user)]
}

fn write_nodes(page: &mut Page, nodes: &[NodeSample]) {
    type Read = fn(&NodeSample) -> Option<u64>;
    let gauges: [(&str, &str, Read); 3] = [
        (NODE_UP, "Whether the node answers its probes.", |node| Some(node.is_up.into())),
        (NODE_PRIMARY, "Whether the node is its shard's primary.", |node| Some(node.is_primary.into())),
        (NODE_LSN, "Position in the write-ahead log, written or replayed.", |node| node.lsn),
    ];
    for (name, help, read) in gauges {
        page.family(name, "gauge", help);
        for node in nodes {
            if let Some(value) = read(node) {
                let labels = [("database", &*node.database), ("shard", &*node.shard), ("node", &*node.node)];
                page.line(name, &labels, value);
            }
        }
    }
}

/// The text under construction. Writing to a String cannot fail, so its results carry nothing.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.put(format_args!("{name}{} {value}\n", Labels(labels, None)));
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut n_records = 0;
        for (bound, n) in histogram.cumulative() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            self.put(format_args!("{name}_bucket{} {n}\n", Labels(labels, Some(("le", &bound)))));
            n_records = n;
        }
        self.put(format_args!("{name}_sum{} {}\n", Labels(labels, None), histogram.sum().as_secs_f64()));
        // The count is the last bucket's as it was read, for the format demands that both agree.
        self.put(format_args!("{name}_count{} {n_records}\n", Labels(labels, None)));
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        self.text.write_fmt(text).unwrap_or_default();
    }
}

/// `{name="value",…}`, or nothing when there are none.
struct Labels<'a>(&'a [(&'a str, &'a str)], Option<(&'a str, &'a str)>);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "{";
        for (name, value) in self.0.iter().chain(&self.1) {
            write!(f, "{before}{name}=\"")?;
            for ch in value.chars() {
                match ch {
                    '\\' => f.write_str("\\\\")?,
                    '"' => f.write_str("\\\"")?,
                    '\n' => f.write_str("\\n")?,
                    _ => f.write_char(ch)?,
                }
            }
            f.write_char('"')?;
            before = ",";
        }
        f.write_str(if before == "," { "}" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_buckets_add_up() {
        let (process, counters) = (ProcessCounters::default(), DatabaseCounters::default());
        counters.record_statement(Route::Merge, Duration::from_millis(3));
        counters.record_statement(Route::Merge, Duration::from_secs(60));
        counters.count_error(ErrorKind::ShardTimeout);
        let pool = PoolStatus {
            database: "a\"b\\c".into(),
            shard: "asia".into(),
            node: "127.0.0.1:1".into(),
            user: "app".into(),
            n_max: 20,
            n_open: 3,
            n_idle: 1,
            n_leased: 2,
            n_reserve: 0,
            n_waiting: 1,
            longest_wait: Duration::from_millis(1500),
            backoff_left: Duration::from_millis(250),
        };
        let text = render(&Scrape {
            process: ProcessSample { version: "0.1.0", started_at_seconds: 1.5, counters: &process },
            databases: &[DatabaseSample {
                database: "shop",
                n_clients: 2,
                n_silent: 1,
                n_pinned: [1, 0, 0, 0, 0, 0, 0],
                counters: &counters,
            }],
            pools: &[pool],
            nodes: &[],
        });
        for line in [
            "# TYPE trunkline_statement_duration_seconds histogram",
            "trunkline_start_time_seconds 1.5",
            "trunkline_statements_total{database=\"shop\",route=\"merge\"} 2",
            "trunkline_pinned_clients{database=\"shop\",reason=\"listen\"} 1",
            "trunkline_errors_total{database=\"shop\",kind=\"shard_timeout\"} 1",
            "trunkline_statement_duration_seconds_bucket{database=\"shop\",route=\"merge\",le=\"0.002\"} 0",
            "trunkline_statement_duration_seconds_bucket{database=\"shop\",route=\"merge\",le=\"0.005\"} 1",
            "trunkline_statement_duration_seconds_bucket{database=\"shop\",route=\"merge\",le=\"+Inf\"} 2",
            "trunkline_statement_duration_seconds_sum{database=\"shop\",route=\"merge\"} 60.003",
            "trunkline_statement_duration_seconds_count{database=\"shop\",route=\"merge\"} 2",
            "trunkline_pool_connections{database=\"a\\\"b\\\\c\",shard=\"asia\",node=\"127.0.0.1:1\",user=\"app\",state=\"leased\"} 2",
            "trunkline_pool_longest_wait_seconds{database=\"a\\\"b\\\\c\",shard=\"asia\",node=\"127.0.0.1:1\",user=\"app\"} 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            assert!(family.starts_with("trunkline_"), "{family}");
        }
    }
}
