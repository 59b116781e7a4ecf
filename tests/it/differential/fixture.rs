//! Tables of every placement with a column of every type that sorts, their rows, and the servers that hold them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use super::random::Random;
use super::schema::Extra;
use super::wire::{Answer, Client};
use crate::harness::{Cluster, Proxy, ProxyOptions, Single};

pub(super) const DDL: &str = "
CREATE TABLE acct (id bigint PRIMARY KEY, grp integer, small smallint, num numeric(12,3), f8 float8, t text, c text COLLATE \"C\",
    d date, ts timestamp, tz timestamptz, b boolean, u uuid, by bytea, f4 real);
CREATE TABLE item (id bigint NOT NULL, item integer NOT NULL, qty integer DEFAULT 7, price numeric, note text DEFAULT 'none', day date,
    PRIMARY KEY (id, item));
CREATE TABLE doc (slug text PRIMARY KEY, n integer, body text);
CREATE TABLE visit (visit uuid PRIMARY KEY, n integer, page varchar(20));
CREATE TABLE region (region text NOT NULL, n integer NOT NULL, v bigint, PRIMARY KEY (region, n));
CREATE TABLE metric (at timestamptz NOT NULL DEFAULT now(), n integer NOT NULL, v float8, PRIMARY KEY (at, n));
CREATE TABLE event (region text NOT NULL, uid bigint NOT NULL, n integer NOT NULL, kind text, PRIMARY KEY (region, uid, n));
CREATE TABLE code (code text PRIMARY KEY, label text, rank integer);
CREATE TABLE audit_log (n integer PRIMARY KEY, what text);
CREATE TABLE \"Odd\" (\"Key\" integer PRIMARY KEY, \"select\" text, n integer);
CREATE TABLE tiny (k smallint NOT NULL, n integer NOT NULL, PRIMARY KEY (k, n));
CREATE TYPE pair AS (k integer, w text);
CREATE DOMAIN swedish AS text COLLATE \"sv-x-icu\";
";

/// Name, types of the columns. The key's columns come first.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Type)],
    pub(super) n_key: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Int,
    Num,
    Float,
    Text,
    Date,
    Stamp,
    StampTz,
    Bool,
    Uuid,
    Bytes,
    /// One of [`super::schema::OTHERS`].
    Other(usize),
}

use Type::{Bool, Bytes, Date, Float, Int, Num, Stamp, StampTz, Text, Uuid};

pub(super) const TABLES: &[Table] = &[
    Table {
        name: "acct",
        columns: &[
            ("id", Int),
            ("grp", Int),
            ("small", Int),
            ("num", Num),
            ("f8", Float),
            ("t", Text),
            ("c", Text),
            ("d", Date),
            ("ts", Stamp),
            ("tz", StampTz),
            ("b", Bool),
            ("u", Uuid),
            ("by", Bytes),
            ("f4", Float),
        ],
        n_key: 1,
    },
    Table {
        name: "item",
        columns: &[("id", Int), ("item", Int), ("qty", Int), ("price", Num), ("note", Text), ("day", Date)],
        n_key: 1,
    },
    Table { name: "doc", columns: &[("slug", Text), ("n", Int), ("body", Text)], n_key: 1 },
    Table { name: "visit", columns: &[("visit", Uuid), ("n", Int), ("page", Text)], n_key: 1 },
    Table { name: "region", columns: &[("region", Text), ("n", Int), ("v", Int)], n_key: 1 },
    Table { name: "metric", columns: &[("at", StampTz), ("n", Int), ("v", Float)], n_key: 1 },
    Table { name: "event", columns: &[("region", Text), ("uid", Int), ("n", Int), ("kind", Text)], n_key: 2 },
    Table { name: "code", columns: &[("code", Text), ("label", Text), ("rank", Int)], n_key: 0 },
    Table { name: "audit_log", columns: &[("n", Int), ("what", Text)], n_key: 0 },
    Table { name: "\"Odd\"", columns: &[("\"Key\"", Int), ("\"select\"", Text), ("n", Int)], n_key: 1 },
    Table { name: "tiny", columns: &[("k", Int), ("n", Int)], n_key: 1 },
];

pub(super) const SLUGS: &[&str] =
    &["a", "A", "ab", "Zoë", "zoe", "émile", "", "o'neil", "x y", "us", "uk", "5", "10", "back\\slash", "Ångström", "ÿ", "€"];
pub(super) const REGIONS: &[&str] = &["us", "uk", "jp", "de", "fr"];
pub(super) const DATES: &[&str] = &["2024-02-29", "2024-01-01", "1999-12-31", "2030-06-15", "2024-03-01"];

pub(super) fn uuid(n: i64) -> String {
    format!("{:08x}-0000-4000-8000-{:012x}", (n as u32).wrapping_mul(2_654_435_761), n)
}

/// The time of a metric: days before today at noon, for some in each tier.
pub(super) fn metric_times() -> Vec<String> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let noon = |days: i64| format!("{} 12:00:00+00", today.checked_sub(jiff::Span::new().days(days)).unwrap());
    [0, 1, 3, 5, 6, 8, 9, 12, 20, 28, 29, 32, 33, 60, 400, 4000].into_iter().map(noon).collect()
}

fn maybe(random: &mut Random, value: String) -> String {
    if random.chance(15) { "NULL".to_owned() } else { value }
}

fn acct(random: &mut Random, id: i64) -> String {
    let mut row = vec![id.to_string()];
    let grp = random.between(-2, 4).to_string();
    row.push(maybe(random, grp));
    let small = random.between(-3, 3).to_string();
    row.push(maybe(random, small));
    let num = random.pick(&["0", "1.5", "-2.250", "99999.125", "'NaN'", "1.50"]).to_owned();
    row.push(maybe(random, num));
    let f8 = random.pick(&["0", "0.25", "1.5", "-2.25", "'NaN'", "'Infinity'", "'-Infinity'", "1024"]).to_owned();
    row.push(maybe(random, f8));
    for _ in 0..2 {
        let text = format!("'{}'", random.pick(SLUGS).replace('\'', "''"));
        row.push(maybe(random, text));
    }
    let d = random.pick(&["2024-02-29", "1999-12-31", "2030-06-15", "0044-03-15 BC", "infinity", "-infinity"]);
    row.push(maybe(random, format!("'{d}'")));
    for zone in ["", "+00"] {
        let at =
            random.pick(&["2024-02-29 10:00:00.123456", "1999-12-31 23:59:59", "2030-06-15 00:00:00", "2024-10-27 00:30:00"]);
        row.push(maybe(random, format!("'{at}{zone}'")));
    }
    let b = random.pick(&["true", "false"]).to_owned();
    row.push(maybe(random, b));
    let u = format!("'{}'", uuid(random.between(1, 8)));
    row.push(maybe(random, u));
    let by = random.pick(&["'\\x00ff'", "'\\x'", "'\\x00'", "'\\xff'"]).to_owned();
    row.push(maybe(random, by));
    let f4 = random.pick(&["0.5", "-4", "'NaN'", "8"]).to_owned();
    row.push(maybe(random, f4));
    format!("({})", row.join(", "))
}

/// The INSERTs of all rows.
pub(super) fn rows(random: &mut Random) -> Vec<String> {
    let values = |rows: Vec<String>| rows.join(", ");
    let ids: Vec<i64> = (-3..=40).chain([1 << 40, i64::MAX]).collect();
    let mut all = vec![format!("INSERT INTO acct VALUES {}", values(ids.iter().map(|id| acct(random, *id)).collect()))];
    let mut items = Vec::new();
    for id in ids.iter().filter(|id| *id % 3 != 0).chain(&[77, 78]) {
        for item in 0..random.between(1, 4) {
            let (qty, price) = (random.between(0, 4).to_string(), random.pick(&["1.10", "2", "0.005", "-3.3"]).to_owned());
            let (qty, price) = (maybe(random, qty), maybe(random, price));
            let note = random.pick(&["us", "uk", "none", "Zoë"]);
            items.push(format!("({id}, {item}, {qty}, {price}, '{note}', '{}')", random.pick(DATES)));
        }
    }
    all.push(format!("INSERT INTO item VALUES {}", values(items)));
    let slug = |(n, slug): (usize, &&str)| format!("('{}', {}, '{}')", slug.replace('\'', "''"), n % 4, SLUGS[n % 5]);
    all.push(format!("INSERT INTO doc VALUES {}", values(SLUGS.iter().enumerate().map(slug).collect())));
    let visits = (1..=16).map(|n| format!("('{}', {}, 'p{}')", uuid(n), n % 5, n % 3)).collect();
    all.push(format!("INSERT INTO visit VALUES {}", values(visits)));
    let mut regions = Vec::new();
    let mut events = Vec::new();
    for region in REGIONS {
        for n in 0..4 {
            let v = (random.between(-9, 9) * 1_000_000_007).to_string();
            regions.push(format!("('{region}', {n}, {})", maybe(random, v)));
            if ["us", "jp"].contains(region) {
                events.push(format!("('{region}', {}, {n}, '{}')", random.between(1, 12), random.pick(&["view", "buy", "us"])));
            }
        }
    }
    all.push(format!("INSERT INTO region VALUES {}", values(regions)));
    all.push(format!("INSERT INTO event VALUES {}", values(events)));
    let metrics = metric_times().iter().enumerate().map(|(n, at)| format!("('{at}', {n}, {})", n as f64 / 4.0)).collect();
    all.push(format!("INSERT INTO metric VALUES {}", values(metrics)));
    all.push(
        "INSERT INTO code VALUES ('us', 'United States', 1), ('uk', 'Kingdom', 2), ('jp', 'Japan', 3), ('xx', NULL, 9)".into(),
    );
    all.push("INSERT INTO audit_log VALUES (1, 'made'), (2, 'us'), (3, NULL)".into());
    let odd = (1..=12).map(|n| format!("({n}, '{}', {})", SLUGS[n % 4].replace('\'', "''"), n % 3)).collect();
    all.push(format!("INSERT INTO \"Odd\" VALUES {}", values(odd)));
    all.push(format!("INSERT INTO tiny VALUES {}", values((-8..8).map(|n| format!("({n}, {})", n % 3)).collect())));
    all
}

/// A sharded database with its proxy.
pub(super) struct Sharded {
    // The proxy ends before its servers.
    proxy: Proxy,
    pub(super) client: Client,
    pub(super) cluster: Cluster,
    pub(super) n: usize,
}

impl Sharded {
    pub(super) async fn start(n: usize, extra: &Extra) -> Self {
        let cluster = Cluster::start(n).await;
        for shard in &cluster.shards {
            define(&mut Client::open(shard.port()), extra);
        }
        let database = tables(n) + &extra.placement;
        // On a busy machine probes come late: no server is down here.
        let health = "[health]\ninterval = \"2s\"\ntimeout = \"2s\"\nfall = 30\n";
        // Gathered rows go to the engine by either way: as arrays, as temporary tables, and some that began as arrays.
        let array_bytes = ["512kB", "0B", "2kB"][n % 3];
        let sections = format!("{health}[query]\ntimeout = \"20s\"\nmax_gather_array_bytes = \"{array_bytes}\"\n");
        let proxy =
            cluster.proxy_with(ProxyOptions { database: &database, sections: &sections, ..ProxyOptions::default() }).await;
        let client = Client::open(proxy.port);
        Self { proxy, client, cluster, n }
    }

    /// How many statements took which rung, as the proxy's own counters say.
    pub(super) fn rungs(&self) -> BTreeMap<String, usize> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxy.admin_port)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let rungs = page.lines().filter_map(|line| {
            let (labels, n) = line.strip_prefix("trunkline_statements_total{")?.rsplit_once(' ')?;
            let rung = labels.split("route=\"").nth(1)?.split('"').next()?;
            Some((rung.to_owned(), n.parse().ok()?))
        });
        rungs.collect()
    }
}

pub(super) async fn oracle(extra: &Extra) -> (Single, Client) {
    let single = Single::start().await;
    let mut client = Client::open(single.server.port());
    define(&mut client, extra);
    (single, client)
}

fn define(client: &mut Client, extra: &Extra) {
    for sql in [DDL, &extra.ddl] {
        let answer = client.simple(sql);
        assert!(matches!(answer, Answer::Rows(_)), "{sql}: {answer:?}");
    }
}

/// The placement of the tables of [`DDL`], as further lines of `[databases.shop]`.
fn tables(n: usize) -> String {
    let mut text = String::new();
    let mut table = |name: &str, placement: &str| {
        writeln!(text, "[[databases.shop.tables]]\nname = '{name}'\n{placement}").unwrap();
    };
    for (name, key) in [("acct", "id"), ("item", "id"), ("doc", "slug"), ("visit", "visit"), ("Odd", "Key"), ("tiny", "k")] {
        table(name, &format!("key = {{ hash = '{key}' }}"));
    }
    let shard = |idx: usize| format!("shard{}", idx % n);
    let mut lists = vec![Vec::new(); n];
    for (idx, region) in ["us", "uk", "jp"].iter().enumerate() {
        lists[idx % n].push(format!("'{region}'"));
    }
    let lists: Vec<String> = lists.iter().enumerate().map(|(idx, l)| format!("shard{idx} = [{}]", l.join(", "))).collect();
    let lists: Vec<String> = lists.into_iter().filter(|list| !list.ends_with("[]")).collect();
    let default = shard(1);
    table("region", &format!("key = {{ list = 'region', shards = {{ {} }}, default = '{default}' }}", lists.join(", ")));
    let tiers = format!(
        "{{ shard = '{}', younger_than = '7d' }}, {{ shard = '{}', younger_than = '30d' }}, {{ shard = '{}' }}",
        shard(0),
        shard(1),
        shard(2)
    );
    table("metric", &format!("key = {{ age = 'at', tiers = [{tiers}] }}"));
    let groups =
        if n == 1 { "shard0 = ['us', 'jp']".to_owned() } else { format!("everyone = ['us'], {} = ['jp']", shard(n - 1)) };
    table("event", &format!("key = [{{ list = 'region', shards = {{ {groups} }} }}, {{ hash = 'uid' }}]"));
    table("code", "reference = true");
    table("audit_log", &format!("shard = '{}'", shard(n / 2)));
    text
}
