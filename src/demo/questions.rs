//! The six questions of the demo, and their answers worked out from the rows without a server.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::rows::{COUNTRIES, Shop};

/// The user of the point read.
const USER: u64 = 4242;
const DAYS: i64 = 3;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    PointRead,
    RegionRead,
    AgeRead,
    TopOrders,
    GroupedOrders,
    ReferenceJoin,
}

pub(super) const QUESTIONS: [Question; 6] = [
    Question::PointRead,
    Question::RegionRead,
    Question::AgeRead,
    Question::TopOrders,
    Question::GroupedOrders,
    Question::ReferenceJoin,
];

impl Question {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::PointRead => "One user by the hash key: one shard, forwarded as it came",
            Self::RegionRead => "Two European regions of a list key: one shard",
            Self::AgeRead => "The last three days of an age key: the hot shard only",
            Self::TopOrders => "The largest orders of all shards, merged while they stream",
            Self::GroupedOrders => "Groups of all shards, their sums and averages combined",
            Self::ReferenceJoin => "Co-located tables joined with a reference table, on every shard",
        }
    }

    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::PointRead => "SELECT user_id, name, email, country FROM users WHERE user_id = 4242",
            Self::RegionRead => {
                "SELECT region, channel, sum(visits) AS visits FROM regional_metrics\n WHERE region IN ('uk', 'de') \
                 GROUP BY region, channel ORDER BY region, channel"
            }
            Self::AgeRead => {
                "SELECT name, count(*) AS samples, min(value), max(value) FROM metrics\n \
                 WHERE recorded_at >= now() - interval '3 days' GROUP BY name ORDER BY name"
            }
            Self::TopOrders => {
                "SELECT order_id, user_id, status, total_cents FROM orders\n ORDER BY total_cents DESC, order_id LIMIT 5"
            }
            Self::GroupedOrders => {
                "SELECT status, count(*) AS orders, sum(total_cents) AS cents, avg(total_cents) AS mean\n FROM orders \
                 GROUP BY status ORDER BY status"
            }
            Self::ReferenceJoin => {
                "SELECT o.order_id, u.name, c.name AS country, o.total_cents\n FROM orders o JOIN users u ON u.user_id = o.user_id \
                 JOIN countries c ON c.code = u.country\n WHERE c.region = 'asia' ORDER BY o.total_cents DESC, o.order_id LIMIT 5"
            }
        }
    }

    /// The right rows, were the question asked at `now` (microseconds since 1970-01-01 UTC).
    pub(super) fn expected(self, shop: Shop, now: i64) -> Vec<Vec<String>> {
        match self {
            Self::PointRead => {
                let user = shop.user(USER);
                vec![vec![USER.to_string(), user.name, user.email, user.country.to_owned()]]
            }
            Self::RegionRead => region_rows(shop),
            Self::AgeRead => age_rows(shop, now),
            Self::TopOrders => top_rows(shop),
            Self::GroupedOrders => grouped_rows(shop),
            Self::ReferenceJoin => joined_rows(shop),
        }
    }
}

fn region_rows(shop: Shop) -> Vec<Vec<String>> {
    let mut visits = BTreeMap::new();
    for metric in shop.regional_metrics().filter(|m| ["uk", "de"].contains(&m.region)) {
        *visits.entry((metric.region, metric.channel)).or_insert(0) += metric.visits;
    }
    visits.into_iter().map(|((region, channel), n)| vec![region.to_owned(), channel.to_owned(), n.to_string()]).collect()
}

fn age_rows(shop: Shop, now: i64) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for metric in shop.metrics().filter(|m| m.recorded_at >= now - DAYS * MICROS_PER_DAY) {
        groups.entry(metric.name).or_default().push(metric.value);
    }
    let row = |(name, values): (&str, Vec<u64>)| {
        let (min, max) = (values.iter().min().copied().unwrap_or_default(), values.iter().max().copied().unwrap_or_default());
        vec![name.to_owned(), values.len().to_string(), min.to_string(), max.to_string()]
    };
    groups.into_iter().map(row).collect()
}

fn top_rows(shop: Shop) -> Vec<Vec<String>> {
    let mut orders: Vec<_> = shop.orders().map(|o| (Reverse(o.total_cents()), o.order_id, o.user_id, o.status)).collect();
    orders.sort_unstable();
    let row = |(total, order_id, user_id, status): (Reverse<u64>, u64, u64, &str)| {
        vec![order_id.to_string(), user_id.to_string(), status.to_owned(), total.0.to_string()]
    };
    orders.into_iter().take(5).map(row).collect()
}

fn grouped_rows(shop: Shop) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for order in shop.orders() {
        let (count, sum) = groups.entry(order.status).or_default();
        *count += 1;
        *sum += order.total_cents();
    }
    let row = |(status, (count, sum)): (&str, (u64, u64))| {
        vec![status.to_owned(), count.to_string(), sum.to_string(), (sum as f64 / count as f64).to_string()]
    };
    groups.into_iter().map(row).collect()
}

fn joined_rows(shop: Shop) -> Vec<Vec<String>> {
    let mut rows: Vec<_> = shop
        .orders()
        .filter_map(|order| {
            let user = shop.user(order.user_id);
            let (_, country, region) = COUNTRIES.iter().find(|country| country.0 == user.country)?;
            (*region == "asia").then(|| (Reverse(order.total_cents()), order.order_id, user.name, *country))
        })
        .collect();
    rows.sort_unstable();
    let row = |(total, order_id, name, country): (Reverse<u64>, u64, String, &str)| {
        vec![order_id.to_string(), name, country.to_owned(), total.0.to_string()]
    };
    rows.into_iter().take(5).map(row).collect()
}
