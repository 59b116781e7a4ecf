//! The shards that a route names always hold every row that satisfies the statement.

use std::sync::Arc;

use proptest::prelude::*;

use super::fixture::{NOW, fixture};
use crate::plan::{Params, Plan, Values, analyze};
use crate::topology::{KeyValue, Placement, ShardId, ShardSet, TableName};

/// A predicate over `events (region, user_id)`, where `kind` is no key.
#[derive(Debug, Clone)]
enum Predicate {
    User(&'static str, i64),
    UserIn(Vec<i64>),
    UserBetween(i64, i64),
    Region(&'static str),
    RegionIn(Vec<&'static str>),
    Kind,
    UserIsNull,
    UserInArray(Vec<i64>),
    UserSum(i64, i64),
    Numbers(i64, &'static str, i64),
    Pair(&'static str, i64),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

const REGIONS: [&str; 6] = ["us", "ca", "de", "uk", "jp", "zz"];

fn predicate() -> impl Strategy<Value = Predicate> {
    let region = || prop::sample::select(&REGIONS[..]);
    let leaf = prop_oneof![
        4 => (prop::sample::select(&["=", "<", "<=", ">", ">="][..]), 0i64..6).prop_map(|(op, n)| Predicate::User(op, n)),
        2 => prop::collection::vec(0i64..6, 1..4).prop_map(Predicate::UserIn),
        1 => (0i64..6, 0i64..6).prop_map(|(a, b)| Predicate::UserBetween(a, b)),
        4 => region().prop_map(Predicate::Region),
        2 => prop::collection::vec(region(), 1..4).prop_map(Predicate::RegionIn),
        1 => Just(Predicate::Kind),
        1 => Just(Predicate::UserIsNull),
        1 => prop::collection::vec(0i64..6, 1..4).prop_map(Predicate::UserInArray),
        1 => (0i64..4, -1i64..3).prop_map(|(a, b)| Predicate::UserSum(a, b)),
        1 => (0i64..3, prop::sample::select(&["=", "<", "<>", ">="][..]), 0i64..3).prop_map(|(a, op, b)| Predicate::Numbers(a, op, b)),
        2 => (region(), 0i64..6).prop_map(|(region, user)| Predicate::Pair(region, user)),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            1 => inner.clone().prop_map(|a| Predicate::Not(Box::new(a))),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Predicate::And(Box::new(a), Box::new(b))),
            3 => (inner.clone(), inner).prop_map(|(a, b)| Predicate::Or(Box::new(a), Box::new(b))),
        ]
    })
}

impl Predicate {
    fn sql(&self) -> String {
        let joined = |items: Vec<String>| items.join(", ");
        match self {
            Self::User(op, n) => format!("user_id {op} {n}"),
            Self::UserIn(list) => format!("e.user_id IN ({})", joined(list.iter().map(i64::to_string).collect())),
            Self::UserBetween(a, b) => format!("user_id BETWEEN {a} AND {b}"),
            Self::Region(region) => format!("'{region}' = region"),
            Self::RegionIn(list) => {
                format!("region = ANY (ARRAY[{}])", joined(list.iter().map(|region| format!("'{region}'")).collect()))
            }
            Self::Kind => "kind = 'x'".to_owned(),
            Self::UserIsNull => "user_id IS NULL".to_owned(),
            Self::UserInArray(list) => {
                format!("user_id = ANY ('{{{}}}')", list.iter().map(i64::to_string).collect::<Vec<_>>().join(","))
            }
            Self::UserSum(a, b) => format!("user_id = {a} + {b}"),
            Self::Numbers(a, op, b) => format!("{a} {op} {b}"),
            Self::Pair(region, user) => format!("(region, user_id) = ('{region}', {user})"),
            Self::Not(a) => format!("NOT ({})", a.sql()),
            Self::And(a, b) => format!("({} AND {})", a.sql(), b.sql()),
            Self::Or(a, b) => format!("({} OR {})", a.sql(), b.sql()),
        }
    }

    fn holds(&self, region: &str, user: i64, kind: &str) -> bool {
        match self {
            Self::User(op, n) => match *op {
                "=" => user == *n,
                "<" => user < *n,
                "<=" => user <= *n,
                ">" => user > *n,
                _ => user >= *n,
            },
            Self::UserIn(list) => list.contains(&user),
            Self::UserBetween(a, b) => (*a..=*b).contains(&user),
            Self::Region(other) => region == *other,
            Self::RegionIn(list) => list.contains(&region),
            Self::Kind => kind == "x",
            Self::UserIsNull => false,
            Self::UserInArray(list) => list.contains(&user),
            Self::UserSum(a, b) => user == a + b,
            Self::Numbers(a, op, b) => match *op {
                "=" => a == b,
                "<" => a < b,
                "<>" => a != b,
                _ => a >= b,
            },
            Self::Pair(other, n) => region == *other && user == *n,
            Self::Not(a) => !a.holds(region, user, kind),
            Self::And(a, b) => a.holds(region, user, kind) && b.holds(region, user, kind),
            Self::Or(a, b) => a.holds(region, user, kind) || b.holds(region, user, kind),
        }
    }
}

/// Where the predicate stands: each row that satisfies it is in the answer, or in a group of it.
const FORMS: [&str; 7] = [
    "SELECT event_id FROM events e WHERE {}",
    "SELECT event_id FROM (SELECT event_id, region, kind, user_id FROM events) e WHERE {}",
    "SELECT * FROM (SELECT region, user_id, kind, count(*) FROM events GROUP BY region, 2, kind) e WHERE {}",
    "SELECT * FROM (SELECT kind, user_id, max(region) AS region FROM events GROUP BY user_id, kind) e WHERE {}",
    "WITH e AS (SELECT * FROM events) SELECT event_id FROM e WHERE {}",
    "SELECT c.code FROM countries c JOIN (SELECT DISTINCT region, user_id, kind FROM events) e ON e.region = c.code AND ({})",
    "SELECT a.event_id FROM events e JOIN (SELECT event_id, region AS r, user_id AS u FROM events) a ON e.region = a.r AND e.user_id = a.u WHERE {}",
];

fn shards_of(sql: &str) -> Option<ShardSet> {
    let fixture = fixture();
    let context = fixture.context();
    let mut shape = crate::sql::Fingerprint::default();
    crate::sql::fingerprint(sql.as_bytes(), true, &mut shape);
    let values = Values { sql, literals: &shape.literals, params: Params::default(), now_micros: NOW };
    match analyze(sql, &shape.literals, &context).and_then(|template| template.bind(&values, &context)).unwrap() {
        Plan::Route { shard, .. } => Some(ShardSet::only(shard)),
        Plan::AnyOne { .. } => None,
        Plan::Merge(plan) => Some(plan.shards),
        Plan::Gather(plan) => Some(plan.shards),
        other => panic!("{other:?}"),
    }
}

fn home(table: &str, values: &[KeyValue]) -> ShardId {
    let fixture = fixture();
    match &fixture.topology.tables[&TableName::new("public", table)].placement {
        Placement::Sharded(key) => key.shard_of(values).unwrap(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_satisfying_row_is_always_in_reach(predicate in predicate(), form in 0..FORMS.len()) {
        let sql = FORMS[form].replace("{}", &predicate.sql());
        let shards = shards_of(&sql);
        for region in REGIONS {
            for user in 0..6 {
                for kind in ["x", "y"] {
                    if predicate.holds(region, user, kind) {
                        let shard = home("events", &[KeyValue::Text(region.to_owned()), KeyValue::Int(user)]);
                        prop_assert!(shards.is_some_and(|shards| shards.contains(shard)), "{} {} {} {}", sql, region, user, kind);
                    }
                }
            }
        }
    }

    #[test]
    fn a_time_range_reaches_every_tier_that_it_meets(days_ago in 0i64..60, hours in 0i64..24, back in 0i64..60, is_lower in any::<bool>()) {
        let at = NOW - (days_ago * 24 + hours) * 3_600_000_000;
        let bound = NOW - back * 86_400_000_000;
        let op = if is_lower { ">=" } else { "<" };
        let shards = shards_of(&format!("SELECT name FROM metrics WHERE recorded_at {op} now() - interval '{back} days'"));
        if (at >= bound) == is_lower {
            prop_assert!(shards.is_some_and(|shards| shards.contains(home("metrics", &[KeyValue::Timestamp(at)]))));
        }
    }

    #[test]
    fn literals_and_parameters_route_alike(user in any::<i64>()) {
        let fixture = fixture();
        let context = fixture.context();
        let plan_of = |sql: &str, params: Params<'_>| {
            let mut shape = crate::sql::Fingerprint::default();
            crate::sql::fingerprint(sql.as_bytes(), true, &mut shape);
            let values = Values { sql, literals: &shape.literals, params, now_micros: NOW };
            analyze(sql, &shape.literals, &context).and_then(|template| template.bind(&values, &context)).unwrap()
        };
        let (text, binary) = (user.to_string(), user.to_be_bytes());
        let param = |value: &'static str| value;
        let literal = plan_of(&format!("SELECT 1 FROM users WHERE user_id = {user}"), Params::default());
        let quoted = plan_of(&format!("SELECT 1 FROM users WHERE user_id = '{user}'"), Params::default());
        let sql = param("SELECT 1 FROM users WHERE user_id = $1");
        let as_text = plan_of(sql, Params { types: &[], formats: &[], values: &[Some(text.as_bytes())] });
        let formats = [crate::sql::ParamFormat::Binary];
        let as_binary = plan_of(sql, Params { types: &[20], formats: &formats, values: &[Some(&binary)] });
        // The most negative number has no positive twin to negate: it goes everywhere, which is right too.
        if user != i64::MIN {
            prop_assert_eq!(&literal, &as_text);
        }
        prop_assert_eq!(&quoted, &as_text);
        prop_assert_eq!(&as_binary, &as_text);
    }
}

/// A plan of several shards is made once, unless it depends on when it runs.
#[test]
fn what_tells_the_time_is_planned_each_time() {
    let fixture = fixture();
    let context = fixture.context();
    let two_plans = |sql: &str| {
        let mut shape = crate::sql::Fingerprint::default();
        crate::sql::fingerprint(sql.as_bytes(), true, &mut shape);
        let template = analyze(sql, &shape.literals, &context).unwrap();
        [NOW, NOW + 1_000_000].map(|now_micros| {
            let values = Values { sql, literals: &shape.literals, params: Params::default(), now_micros };
            template.bind(&values, &context).unwrap()
        })
    };
    let same = two_plans("SELECT name FROM users ORDER BY user_id LIMIT 20");
    assert!(matches!(&same, [Plan::Merge(a), Plan::Merge(b)] if Arc::ptr_eq(a, b)), "{same:?}");
    let [first, second] = two_plans("SELECT name, now() FROM users ORDER BY user_id");
    assert!(matches!(first, Plan::Merge(_)) && first != second, "{first:?}");
}
