//! The demo's rows: each a pure function of the seed and its number, so that answers can be worked out without a server.

/// Grows when other rows are made: a data set of another version is loaded anew.
pub(super) const ROWS_VERSION: u32 = 1;

const SEED: u64 = 0x7472_756e_6b6c_696e;
pub(super) const N_USERS: u64 = 5_000;
const N_ORDERS: u64 = 30_000;
const N_METRICS: u64 = 40_000;
const N_EVENTS: u64 = 30_000;
const N_AUDIT: u64 = 1_000;
const N_DAYS: u64 = 365;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// Forty thousand of them are sixty days: the three tiers all have rows.
const METRIC_INTERVAL_MICROS: i64 = 129_600_000;

const FIRST_NAMES: &[&str] =
    &["Ada", "Alan", "Barbara", "Edgar", "Frances", "Grace", "Jim", "Ken", "Leslie", "Margaret", "Niklaus", "Tony"];
const LAST_NAMES: &[&str] =
    &["Allen", "Bachman", "Codd", "Dijkstra", "Gray", "Hoare", "Hopper", "Lamport", "Liskov", "Perlis", "Wirth"];
const STATUSES: &[&str] = &["cancelled", "new", "paid", "returned", "shipped"];
const CHANNELS: &[&str] = &["app", "partner", "shop", "web"];
const METRIC_NAMES: &[&str] = &["cpu_percent", "disk_reads", "requests"];
const EVENT_KINDS: &[&str] = &["click", "login", "purchase", "view"];
const ACTIONS: &[&str] = &["export", "grant", "login", "refund"];

/// Code, name, shard of each country; codes are the regions of the region list.
pub(super) const COUNTRIES: &[(&str, &str, &str)] = &[
    ("us", "United States", "americas"),
    ("ca", "Canada", "americas"),
    ("mx", "Mexico", "americas"),
    ("br", "Brazil", "americas"),
    ("uk", "United Kingdom", "europe"),
    ("de", "Germany", "europe"),
    ("fr", "France", "europe"),
    ("es", "Spain", "europe"),
    ("jp", "Japan", "asia"),
    ("sg", "Singapore", "asia"),
    ("au", "Australia", "asia"),
    ("in", "India", "asia"),
];

/// All rows of the shop, as of one instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shop {
    /// The instant that times in rows are relative to: microseconds since 1970-01-01 UTC, a whole second.
    pub(super) made_at: i64,
}

#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) user_id: u64,
    pub(super) name: String,
    pub(super) email: String,
    pub(super) country: &'static str,
    pub(super) created_at: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) order_id: u64,
    pub(super) user_id: u64,
    pub(super) status: &'static str,
    pub(super) ordered_at: i64,
    pub(super) items: Vec<Item>,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) item_id: u64,
    pub(super) sku: String,
    pub(super) quantity: u64,
    pub(super) price_cents: u64,
}

#[derive(Debug, Clone)]
pub(super) struct RegionalMetric {
    pub(super) region: &'static str,
    /// Days since 1970-01-01.
    pub(super) day: i64,
    pub(super) channel: &'static str,
    pub(super) visits: u64,
    pub(super) revenue_cents: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Metric {
    pub(super) metric_id: u64,
    pub(super) name: &'static str,
    pub(super) value: u64,
    pub(super) recorded_at: i64,
}

/// The rows of one table as COPY's text format has them.
pub(super) struct TableRows {
    pub(super) table: &'static str,
    pub(super) columns: &'static str,
    pub(super) n_rows: u64,
    pub(super) lines: Box<dyn Iterator<Item = String>>,
}

impl Shop {
    pub(super) fn user(self, user_id: u64) -> User {
        let mut draw = Draw::of(1, user_id);
        let (first, last) = (draw.pick(FIRST_NAMES), draw.pick(LAST_NAMES));
        let country = COUNTRIES[draw.below(COUNTRIES.len() as u64) as usize].0;
        let email = format!("{}.{}.{user_id}@example.com", first.to_lowercase(), last.to_lowercase());
        let created_at = self.made_at - draw.below(1000) as i64 * MICROS_PER_DAY;
        User { user_id, name: format!("{first} {last}"), email, country, created_at }
    }

    pub(super) fn orders(self) -> impl Iterator<Item = Order> {
        (1..=N_ORDERS).map(move |order_id| {
            let mut draw = Draw::of(2, order_id);
            let user_id = 1 + draw.below(N_USERS);
            let status = draw.pick(STATUSES);
            let ordered_at = self.made_at - draw.below(400 * 86_400) as i64 * MICROS_PER_SECOND;
            let n_items = 1 + draw.below(4);
            let items = (1..=n_items).map(|item_id| Item {
                item_id,
                sku: format!("sku-{:04}", draw.below(500)),
                quantity: 1 + draw.below(3),
                price_cents: 99 + draw.below(20_000),
            });
            Order { order_id, user_id, status, ordered_at, items: items.collect() }
        })
    }

    pub(super) fn regional_metrics(self) -> impl Iterator<Item = RegionalMetric> {
        let today = self.made_at.div_euclid(MICROS_PER_DAY);
        let places = COUNTRIES.iter().flat_map(|country| CHANNELS.iter().map(move |channel| (country.0, *channel)));
        places.enumerate().flat_map(move |(place_idx, (region, channel))| {
            (0..N_DAYS).map(move |age| {
                let mut draw = Draw::of(3, place_idx as u64 * N_DAYS + age);
                let visits = 100 + draw.below(10_000);
                RegionalMetric { region, day: today - age as i64, channel, visits, revenue_cents: visits * draw.below(300) }
            })
        })
    }

    pub(super) fn metrics(self) -> impl Iterator<Item = Metric> {
        (1..=N_METRICS).map(move |metric_id| {
            let mut draw = Draw::of(4, metric_id);
            let recorded_at = self.made_at - metric_id as i64 * METRIC_INTERVAL_MICROS;
            Metric { metric_id, name: draw.pick(METRIC_NAMES), value: draw.below(1_000_000), recorded_at }
        })
    }

    /// Every table that COPY loads; `countries` is written by INSERT.
    pub(super) fn tables(self) -> Vec<TableRows> {
        let n_items = self.orders().map(|order| order.items.len() as u64).sum();
        let n_regional = (COUNTRIES.len() * CHANNELS.len()) as u64 * N_DAYS;
        let table = |table, columns, n_rows, lines| TableRows { table, columns, n_rows, lines };
        vec![
            table("users", "user_id, name, email, country, created_at", N_USERS, self.user_lines()),
            table("orders", "order_id, user_id, status, total_cents, ordered_at", N_ORDERS, self.order_lines()),
            table("order_items", "item_id, order_id, user_id, sku, quantity, price_cents", n_items, self.item_lines()),
            table("regional_metrics", "region, day, channel, visits, revenue_cents", n_regional, self.regional_lines()),
            table("metrics", "metric_id, name, value, recorded_at", N_METRICS, self.metric_lines()),
            table("events", "event_id, region, user_id, kind, occurred_at", N_EVENTS, self.event_lines()),
            table("audit", "audit_id, actor, action, at", N_AUDIT, self.audit_lines()),
        ]
    }

    fn user_lines(self) -> Box<dyn Iterator<Item = String>> {
        Box::new((1..=N_USERS).map(move |user_id| {
            let user = self.user(user_id);
            format!("{user_id}\t{}\t{}\t{}\t{}\n", user.name, user.email, user.country, timestamp(user.created_at))
        }))
    }

    fn order_lines(self) -> Box<dyn Iterator<Item = String>> {
        Box::new(self.orders().map(|order| {
            let ordered_at = timestamp(order.ordered_at);
            format!("{}\t{}\t{}\t{}\t{ordered_at}\n", order.order_id, order.user_id, order.status, order.total_cents())
        }))
    }

    fn item_lines(self) -> Box<dyn Iterator<Item = String>> {
        Box::new(self.orders().flat_map(|order| {
            let (order_id, user_id) = (order.order_id, order.user_id);
            order.items.into_iter().map(move |item| {
                format!("{}\t{order_id}\t{user_id}\t{}\t{}\t{}\n", item.item_id, item.sku, item.quantity, item.price_cents)
            })
        }))
    }

    fn regional_lines(self) -> Box<dyn Iterator<Item = String>> {
        Box::new(self.regional_metrics().map(|m| {
            let mut line = timestamp(m.day * MICROS_PER_DAY);
            line.truncate("2026-01-01".len());
            format!("{}\t{line}\t{}\t{}\t{}\n", m.region, m.channel, m.visits, m.revenue_cents)
        }))
    }

    fn metric_lines(self) -> Box<dyn Iterator<Item = String>> {
        Box::new(self.metrics().map(|m| format!("{}\t{}\t{}\t{}\n", m.metric_id, m.name, m.value, timestamp(m.recorded_at))))
    }

    fn event_lines(self) -> Box<dyn Iterator<Item = String>> {
        Box::new((1..=N_EVENTS).map(move |event_id| {
            let mut draw = Draw::of(5, event_id);
            let user = self.user(1 + draw.below(N_USERS));
            let occurred_at = self.made_at - draw.below(90 * 86_400) as i64 * MICROS_PER_SECOND;
            let kind = draw.pick(EVENT_KINDS);
            format!("{event_id}\t{}\t{}\t{kind}\t{}\n", user.country, user.user_id, timestamp(occurred_at))
        }))
    }

    fn audit_lines(self) -> Box<dyn Iterator<Item = String>> {
        Box::new((1..=N_AUDIT).map(move |audit_id| {
            let mut draw = Draw::of(6, audit_id);
            let actor = draw.pick(FIRST_NAMES).to_lowercase();
            let at = self.made_at - draw.below(90 * 86_400) as i64 * MICROS_PER_SECOND;
            format!("{audit_id}\t{actor}\t{}\t{}\n", draw.pick(ACTIONS), timestamp(at))
        }))
    }
}

impl Order {
    pub(super) fn total_cents(&self) -> u64 {
        self.items.iter().map(|item| item.quantity * item.price_cents).sum()
    }
}

/// The statement that fills `countries`.
pub(super) fn insert_countries() -> String {
    let mut sql = String::from("INSERT INTO countries (code, name, region) VALUES");
    for (idx, (code, name, region)) in COUNTRIES.iter().enumerate() {
        let comma = if idx == 0 { "" } else { "," };
        sql.push_str(&format!("{comma} ('{code}', '{name}', '{region}')"));
    }
    sql
}

fn timestamp(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).unwrap_or_default().to_string()
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Draw(u64);

impl Draw {
    fn of(table: u64, row: u64) -> Self {
        let mut draw = Self(SEED ^ (table << 56) ^ row);
        draw.0 = draw.next();
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_the_same_rows_each_time() {
        let shop = Shop { made_at: 1_700_000_000 * MICROS_PER_SECOND };
        for (first, second) in shop.tables().into_iter().zip(shop.tables()) {
            let lines: Vec<String> = first.lines.collect();
            assert_eq!(lines.len() as u64, first.n_rows, "{}", first.table);
            let columns = first.columns.split(',').count();
            assert!(lines.iter().all(|l| l.ends_with('\n') && l.split('\t').count() == columns), "{}", first.table);
            assert!(second.lines.eq(lines), "{}", first.table);
        }
    }

    #[test]
    fn makes_about_two_hundred_thousand() {
        let shop = Shop { made_at: 1_700_000_000 * MICROS_PER_SECOND };
        let n_rows: u64 = shop.tables().iter().map(|t| t.n_rows).sum();
        assert!((190_000..210_000).contains(&n_rows), "{n_rows}");
    }
}
