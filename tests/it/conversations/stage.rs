//! Who takes part: one Postgres, and proxies before one shard and before three, in both pool modes.

use std::cell::RefCell;
use std::fmt::Write as _;

use futures_util::future::join_all;
use tokio_postgres::Client;
use trunkline::demo::postgres::Login;

use crate::harness::{Cluster, ClusterOptions, Proxy, ProxyOptions, QUICK_HEALTH, Single, value};

/// Rows that every conversation begins with.
const SEED: [&str; 3] = [
    "INSERT INTO users (user_id, name, email, country, created_at) VALUES (1, 'ann', 'a@x', 'us', '2024-01-01'), \
     (2, 'bob', 'b@x', 'uk', '2024-01-02'), (3, 'cyd', 'c@x', 'us', '2024-01-03'), (4, 'dan', 'd@x', 'jp', '2024-01-04'), \
     (5, 'eve', 'e@x', 'uk', '2024-01-05'), (6, 'fay', 'f@x', 'us', '2024-01-06')",
    "INSERT INTO audit (audit_id, actor, action, at) VALUES (1, 'ann', 'login', '2024-01-01'), (2, 'bob', 'logout', '2024-01-02')",
    "INSERT INTO countries VALUES ('us', 'United States', 'americas'), ('uk', 'United Kingdom', 'europe')",
];

const CLEAR: &str = "TRUNCATE users, audit, countries";

/// What is left in the tables after a conversation.
const REMAINS: [&str; 2] =
    ["SELECT user_id, name FROM users ORDER BY user_id", "SELECT audit_id, actor FROM audit ORDER BY audit_id"];

/// Statistics that one server has and another has not yet would give them different plans.
const SETTINGS: &[(&str, &str)] = &[("autovacuum", "off")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolMode {
    Transaction,
    Session,
}

impl PoolMode {
    const ALL: [Self; 2] = [Self::Transaction, Self::Session];

    fn section(self) -> String {
        let word = format!("{self:?}").to_lowercase();
        format!("[pool]\nmode = \"{word}\"\n{QUICK_HEALTH}")
    }
}

/// All rows of one place in one field, and the sizes that plans depend on.
const CONTENTS: &str = "SELECT concat_ws('/', pg_relation_size('users'), pg_relation_size('audit'), (SELECT string_agg(u::text, ',' ORDER BY user_id) FROM users u), \
     (SELECT string_agg(a::text, ',' ORDER BY audit_id) FROM audit a), \
     (SELECT string_agg(c::text, ',' ORDER BY code) FROM countries c))";

/// A server to talk to, with a session for its tables and one for each place where they are.
pub(crate) struct Side {
    pub(crate) port: u16,
    session: Client,
    places: Vec<Client>,
    /// What the places hold after a reset.
    fresh: RefCell<Vec<String>>,
}

impl Side {
    fn new(port: u16, session: Client, places: Vec<Client>) -> Self {
        Self { port, session, places, fresh: RefCell::default() }
    }

    /// Brings the tables to what every conversation begins with. Where nothing was changed that costs one query for each place.
    pub(crate) async fn reset(&self) {
        let contents = self.contents().await;
        if *self.fresh.borrow() == contents {
            return;
        }
        for place in &self.places {
            place.batch_execute(CLEAR).await.unwrap();
        }
        for sql in SEED {
            self.session.batch_execute(sql).await.unwrap();
        }
        let contents = self.contents().await;
        *self.fresh.borrow_mut() = contents;
    }

    async fn contents(&self) -> Vec<String> {
        join_all(self.places.iter().map(|place| value(place, CONTENTS))).await
    }

    /// The rows that are left.
    pub(crate) async fn remains(&self) -> String {
        let mut text = String::new();
        for sql in REMAINS {
            for row in crate::harness::rows(&self.session, sql).await {
                let fields: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
                writeln!(text, "  = {}", fields.join("|")).unwrap();
            }
        }
        text
    }
}

/// A proxy before shards that it shares with the proxy of the other mode.
pub(crate) struct Proxied {
    pub(crate) n_shards: usize,
    pub(crate) mode: PoolMode,
    pub(crate) side: Side,
    _proxy: Proxy,
}

/// Everything that takes part, started once.
pub(crate) struct Stage {
    pub(crate) direct: Side,
    /// Those of one cluster together: they cannot be asked at the same time.
    pub(crate) proxied: Vec<Vec<Proxied>>,
    _single: Single,
    _clusters: Vec<Cluster>,
}

impl Stage {
    /// With a proxy of each mode before as many shards as is said here.
    pub(crate) async fn set(numbers_of_shards: &[usize]) -> Self {
        let single = Single::start_with(SETTINGS).await;
        let direct = Side::new(single.server.port(), single.connect().await, vec![single.connect().await]);
        let (mut clusters, mut proxied) = (Vec::new(), Vec::new());
        for &n_shards in numbers_of_shards {
            let options = ClusterOptions { n_shards, has_replicas: false, login: Login::Trust, settings: SETTINGS };
            let cluster = Cluster::start_with(options).await;
            let mut of_cluster = Vec::new();
            for mode in PoolMode::ALL {
                of_cluster.push(Proxied::start(&cluster, mode).await);
            }
            proxied.push(of_cluster);
            clusters.push(cluster);
        }
        Self { direct, proxied, _single: single, _clusters: clusters }
    }
}

impl Proxied {
    async fn start(cluster: &Cluster, mode: PoolMode) -> Self {
        let proxy = cluster.proxy_with(ProxyOptions { sections: &mode.section(), ..ProxyOptions::default() }).await;
        let n_shards = cluster.shards.len();
        let mut places = Vec::new();
        for shard_idx in 0..n_shards {
            places.push(cluster.direct(shard_idx).await);
        }
        let side = Side::new(proxy.port, proxy.connect().await, places);
        Self { n_shards, mode, side, _proxy: proxy }
    }
}
