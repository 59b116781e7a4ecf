//! Shards with the test schema, and one server with all rows to compare with.

use std::fmt::Write;

use tokio_postgres::Client;
use trunkline::demo::postgres::Login;

use super::{DATABASE, Postgres, Proxy, ProxyOptions, Scratch, connect_to, poll, value};

pub(crate) struct ClusterOptions<'a> {
    pub(crate) n_shards: usize,
    pub(crate) has_replicas: bool,
    pub(crate) login: Login,
    pub(crate) settings: &'a [(&'a str, &'a str)],
}

/// Several shards with the test schema and no rows.
pub(crate) struct Cluster {
    // Servers are dropped before their directory is removed.
    pub(crate) shards: Vec<Postgres>,
    pub(crate) replicas: Vec<Postgres>,
    pub(crate) scratch: Scratch,
}

impl Cluster {
    pub(crate) async fn start(n_shards: usize) -> Self {
        Self::start_with(ClusterOptions { n_shards, has_replicas: false, login: Login::Trust, settings: &[] }).await
    }

    /// Servers that allow no prepared transactions.
    pub(crate) async fn start_without_prepared(n_shards: usize) -> Self {
        let settings = &[("max_prepared_transactions", "0")];
        Self::start_with(ClusterOptions { n_shards, has_replicas: false, login: Login::Trust, settings }).await
    }

    pub(crate) async fn start_with(options: ClusterOptions<'_>) -> Self {
        let scratch = Scratch::new();
        let (mut shards, mut replicas) = (Vec::new(), Vec::new());
        for idx in 0..options.n_shards {
            let shard = Postgres::start(&scratch, &format!("shard{idx}"), &options.login, options.settings).await;
            if options.has_replicas {
                replicas.push(shard.replica(&scratch, &format!("replica{idx}")).await);
            }
            shards.push(shard);
        }
        Self { shards, replicas, scratch }
    }

    /// Nobody is in a transaction, and no temporary table or connection of a gather or a cursor is left.
    pub(crate) async fn wait_until_clean(&self) {
        for shard_idx in 0..self.shards.len() {
            let direct = self.direct(shard_idx).await;
            let sql = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid() \
                       AND backend_type = 'client backend') + (SELECT count(*) FROM pg_class WHERE relname LIKE 'trunkline\\_%')";
            poll("the shard is left clean", async || value(&direct, sql).await == "0").await;
        }
    }

    /// A proxy with the usual configuration.
    pub(crate) async fn proxy(&self) -> Proxy {
        self.proxy_with(ProxyOptions::default()).await
    }

    pub(crate) async fn proxy_with(&self, options: ProxyOptions<'_>) -> Proxy {
        Proxy::start(&self.scratch, &self.config(&options)).await
    }

    /// A connection to one shard, past the proxy.
    pub(crate) async fn direct(&self, shard_idx: usize) -> Client {
        connect_to(self.shards[shard_idx].port(), DATABASE).await
    }

    /// The configuration of a proxy before these shards.
    pub(crate) fn config(&self, options: &ProxyOptions<'_>) -> String {
        let mut text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n{}\n[admin]\nlisten = \"127.0.0.1:0\"\nusers = [\"admin\"]\n[auth]\n{}\n{}\n\
             [databases.{DATABASE}]\ncontrol = {}\n{}\n",
            options.server, options.auth, options.sections, options.control, options.database
        );
        for (idx, shard) in self.shards.iter().enumerate() {
            let nodes = [Some(shard), self.replicas.get(idx)].into_iter().flatten();
            let nodes: Vec<String> = nodes.map(|node| format!("{{ host = \"127.0.0.1\", port = {} }}", node.port())).collect();
            let shards = format!("[[databases.{DATABASE}.shards]]\nname = \"shard{idx}\"\ndbname = \"{DATABASE}\"");
            writeln!(text, "{shards}\nnodes = [{}]", nodes.join(", ")).unwrap();
        }
        text.push_str(&tables(self.shards.len()));
        text
    }
}

/// One server with the test schema: what the proxy pretends to be.
pub(crate) struct Single {
    pub(crate) server: Postgres,
    _scratch: Scratch,
}

impl Single {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new();
        let server = Postgres::start(&scratch, "single", &Login::Trust, settings).await;
        Self { server, _scratch: scratch }
    }

    pub(crate) async fn connect(&self) -> Client {
        connect_to(self.server.port(), DATABASE).await
    }
}

/// Runs the same statements through the proxy and on the single server.
pub(crate) async fn load_both(proxy: &Client, single: &Client, statements: &[String]) {
    for sql in statements {
        proxy.batch_execute(sql).await.unwrap_or_else(|error| panic!("proxy: {sql:.200}: {error:?}"));
        single.batch_execute(sql).await.unwrap_or_else(|error| panic!("single: {sql:.200}: {error:?}"));
    }
}

/// Placement over `n` shards. Regions go round: us shard 0, uk shard 1, jp shard 2, de has the default; tiers likewise.
/// `events` has a group of all shards below "us", one shard below "jp".
fn tables(n: usize) -> String {
    let mut text = String::new();
    for table in ["users", "orders", "order_items"] {
        writeln!(text, "[[databases.{DATABASE}.tables]]\nname = \"{table}\"\nkey = {{ hash = \"user_id\" }}").unwrap();
    }
    for (table, column) in [("docs", "slug"), ("visits", "visit_id"), ("parts", "part_id")] {
        writeln!(text, "[[databases.{DATABASE}.tables]]\nname = \"{table}\"\nkey = {{ hash = \"{column}\" }}").unwrap();
    }
    let mut lists = vec![Vec::new(); n];
    for (idx, region) in ["us", "uk", "jp"].iter().enumerate() {
        lists[idx % n].push(format!("\"{region}\""));
    }
    let lists: Vec<String> = lists
        .iter()
        .enumerate()
        .filter(|(_, l)| !l.is_empty())
        .map(|(idx, l)| format!("shard{idx} = [{}]", l.join(", ")))
        .collect();
    let lists = lists.join(", ");
    let tier = |idx: usize| format!("shard{}", idx % n);
    let (hot, warm, cold) = (tier(0), tier(1), tier(2));
    writeln!(
        text,
        "[[databases.{DATABASE}.tables]]\nname = \"regional_metrics\"\nkey = {{ list = \"region\", shards = {{ {lists} }} }}\n\
         [[databases.{DATABASE}.tables]]\nname = \"metrics\"\nkey = {{ age = \"recorded_at\", tiers = [\
         {{ shard = \"{hot}\", younger_than = \"7d\" }}, {{ shard = \"{warm}\", younger_than = \"30d\" }}, {{ shard = \"{cold}\" }}] }}\n\
         [[databases.{DATABASE}.tables]]\nname = \"countries\"\nreference = true\n\
         [[databases.{DATABASE}.tables]]\nname = \"audit\"\nshard = \"{cold}\""
    )
    .unwrap();
    let everyone: Vec<String> = (0..n).map(|idx| format!("\"shard{idx}\"")).collect();
    let last = n - 1;
    let groups = match n {
        1 => "shard0 = [\"us\", \"jp\"]".to_owned(),
        _ => format!("everyone = [\"us\"], shard{last} = [\"jp\"]"),
    };
    writeln!(
        text,
        "[[databases.{DATABASE}.tables]]\nname = \"events\"\nkey = [{{ list = \"region\", shards = {{ {groups} }} }}, {{ hash = \"user_id\" }}]"
    )
    .unwrap();
    if n > 1 {
        writeln!(text, "[databases.{DATABASE}.groups]\neveryone = [{}]", everyone.join(", ")).unwrap();
    }
    text
}
