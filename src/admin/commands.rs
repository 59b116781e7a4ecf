//! The console's words and the rows that answer them.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::tables::ColumnType::{Int8, Text, Timestamptz};
use super::tables::{Cell, ColumnSpec, timestamp_text};
use super::{AdminState, DatabaseView, config_rows};
use crate::observe::{ErrorKind, Route};
use crate::session::pins::PinReason;
use crate::sqlstate::{Report, SqlState};
use crate::topology::{Key, KeyMap, Placement, ShardId, ShardSet, Topology};

/// Longest wait for the end of a reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A word of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Pools,
    Shards,
    Nodes,
    Clients,
    Servers,
    Stats,
    Config,
    Tables,
    Version,
    Help,
    Reload,
}

const COMMANDS: [(Command, &str, &str); 11] = [
    (Command::Pools, "SHOW POOLS", "Pools of server connections by node and user."),
    (Command::Shards, "SHOW SHARDS", "Shards, their primary, and the node that reads go to."),
    (Command::Nodes, "SHOW NODES", "Servers as their probes see them."),
    (Command::Clients, "SHOW CLIENTS", "Connected clients."),
    (Command::Servers, "SHOW SERVERS", "Open server connections and who has them."),
    (Command::Stats, "SHOW STATS", "Counts since the start, by database."),
    (Command::Config, "SHOW CONFIG", "The configuration in use, without secrets."),
    (Command::Tables, "SHOW TABLES", "Tables of the configuration and where their rows are."),
    (Command::Version, "SHOW VERSION", "The version of the proxy."),
    (Command::Help, "SHOW HELP", "This list."),
    (Command::Reload, "RELOAD", "Reads the configuration file again."),
];

/// Reads one command: case and white space do not matter.
///
/// # Errors
/// 42601 with the list of commands as hint.
pub(super) fn parse(text: &str) -> Result<Command, Report> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_uppercase();
    let wanted = if words == "HELP" { "SHOW HELP" } else { &words };
    let found = COMMANDS.iter().find(|(_, name, _)| *name == wanted);
    found.map(|(command, ..)| *command).ok_or_else(|| {
        let names: Vec<_> = COMMANDS.iter().map(|(_, name, _)| *name).collect();
        let hint = format!("The admin console knows: {}.", names.join(", "));
        Report::new(SqlState::SYNTAX_ERROR, "this is not a command of the admin console").with_hint(hint)
    })
}

const CLIENT_COLUMNS: &[ColumnSpec] = &[
    ("id", Int8),
    ("database", Text),
    ("user", Text),
    ("address", Text),
    ("application_name", Text),
    ("state", Text),
    ("statements", Int8),
    ("transactions", Int8),
    ("connected_at", Timestamptz),
    ("tls", Text),
    ("pinned", Text),
];

const SERVER_COLUMNS: &[ColumnSpec] = &[
    ("id", Int8),
    ("database", Text),
    ("shard", Text),
    ("node", Text),
    ("user", Text),
    ("pid", Int8),
    ("state", Text),
    ("client_id", Int8),
    ("leases", Int8),
    ("connected_at", Timestamptz),
    ("tls", Text),
    ("pinned", Text),
];

impl Command {
    /// Columns of the answer; none for a command that returns no rows.
    pub(super) fn columns(self) -> &'static [ColumnSpec] {
        match self {
            Self::Pools => &[
                ("database", Text),
                ("shard", Text),
                ("node", Text),
                ("user", Text),
                ("max", Int8),
                ("open", Int8),
                ("idle", Int8),
                ("leased", Int8),
                ("waiting", Int8),
                ("reserve", Int8),
                ("longest_wait_millis", Int8),
                ("backoff_millis", Int8),
            ],
            Self::Shards => &[
                ("database", Text),
                ("shard", Text),
                ("dbname", Text),
                ("state", Text),
                ("primary", Text),
                ("reader", Text),
                ("nodes", Int8),
                ("two_phase", Text),
            ],
            Self::Nodes => &[
                ("database", Text),
                ("shard", Text),
                ("node", Text),
                ("role", Text),
                ("state", Text),
                ("state_seconds", Int8),
                ("timeline", Int8),
                ("lsn", Text),
                ("lag_bytes", Int8),
                ("max_prepared_transactions", Int8),
                ("fault", Text),
            ],
            Self::Clients => CLIENT_COLUMNS,
            Self::Servers => SERVER_COLUMNS,
            Self::Stats => &[("database", Text), ("name", Text), ("value", Int8)],
            Self::Config => &[("name", Text), ("value", Text)],
            Self::Tables => {
                &[("database", Text), ("table", Text), ("placement", Text), ("key", Text), ("shards", Text), ("watermarks", Text)]
            }
            Self::Version => &[("version", Text)],
            Self::Help => &[("command", Text), ("description", Text)],
            Self::Reload => &[],
        }
    }

    /// The rows of the answer, or for RELOAD a sentence to show as a notice.
    ///
    /// # Errors
    /// Those of RELOAD: 22023 with the faults of the file as detail, 55000 while another one is under way, 57014 when it
    /// takes too long.
    pub(super) async fn run(self, state: &AdminState) -> Result<Answer, Report> {
        let databases = &state.current().databases;
        Ok(Answer::Rows(match self {
            Self::Pools => pools(state),
            Self::Shards => databases.iter().flat_map(shards).collect(),
            Self::Nodes => databases.iter().flat_map(nodes).collect(),
            Self::Clients => clients(state),
            Self::Servers => servers(state),
            Self::Stats => databases.iter().flat_map(|database| stats(database, state)).collect(),
            Self::Config => config_rows::rows(&state.current().config),
            Self::Tables => databases.iter().flat_map(|database| tables(&database.topology)).collect(),
            Self::Version => vec![vec![format!("Trunkline {}", env!("CARGO_PKG_VERSION")).into()]],
            Self::Help => COMMANDS.iter().map(|(_, name, what)| vec![(*name).into(), (*what).into()]).collect(),
            Self::Reload => return reload(state).await.map(Answer::Notice),
        }))
    }
}

/// What a command gives.
#[derive(Debug)]
pub(super) enum Answer {
    Rows(Vec<Vec<Cell>>),
    Notice(String),
}

fn pools(state: &AdminState) -> Vec<Vec<Cell>> {
    let pools = (state.pools)().into_iter().map(|pool| {
        vec![
            pool.database.into(),
            pool.shard.into(),
            pool.node.into(),
            pool.user.into(),
            pool.n_max.into(),
            pool.n_open.into(),
            pool.n_idle.into(),
            pool.n_leased.into(),
            pool.n_waiting.into(),
            pool.n_reserve.into(),
            (pool.longest_wait.as_millis() as u64).into(),
            (pool.backoff_left.as_millis() as u64).into(),
        ]
    });
    pools.collect()
}

fn shards(database: &DatabaseView) -> Vec<Vec<Cell>> {
    let DatabaseView { topology, board, .. } = database;
    let row = |id: ShardId| {
        let shard = topology.shard(id);
        let (primary, reader) = (board.primary_of(id), board.reader_of(id));
        let state = match (primary, reader) {
            (Some(_), _) => "up",
            (None, Some(_)) => "read only",
            (None, None) => "down",
        };
        let address = |node: Option<usize>| Cell::from(node.and_then(|idx| shard.nodes.get(idx)).map(ToString::to_string));
        vec![
            topology.database.as_str().into(),
            shard.name.as_str().into(),
            shard.dbname.as_str().into(),
            state.into(),
            address(primary),
            address(reader),
            shard.nodes.len().into(),
            if board.allows_two_phase(id) { "on" } else { "off" }.into(),
        ]
    };
    topology.shard_ids().map(row).collect()
}

fn nodes(database: &DatabaseView) -> Vec<Vec<Cell>> {
    let nodes = database.board.snapshot();
    let primary_lsn = |shard: ShardId| {
        let primary = database.board.primary_of(shard);
        nodes.iter().find(|node| node.shard == shard && Some(node.node_idx) == primary).and_then(|node| node.lsn)
    };
    let row = |node: &crate::health::NodeStatus| {
        let lag = primary_lsn(node.shard).zip(node.lsn).map(|(primary, own)| primary.saturating_sub(own));
        vec![
            database.topology.database.as_str().into(),
            node.shard_name.as_str().into(),
            node.address.to_string().into(),
            node.role.as_label().into(),
            node.state.as_label().into(),
            node.state_age.as_secs().into(),
            node.timeline.into(),
            node.lsn.map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)).into(),
            lag.into(),
            node.max_prepared_transactions.into(),
            node.fault.as_deref().into(),
        ]
    };
    nodes.iter().map(row).collect()
}

fn clients(state: &AdminState) -> Vec<Vec<Cell>> {
    let clients = state.registry.clients();
    let row = |client: &std::sync::Arc<crate::observe::ClientEntry>| {
        vec![
            client.id.into(),
            (&*client.database).into(),
            (&*client.user).into(),
            client.address().into(),
            client.application_name().into(),
            client.state().as_label().into(),
            client.n_statements.value().into(),
            client.n_transactions.value().into(),
            client.connected_at.into(),
            (&*client.tls).into(),
            client.pins().to_string().into(),
        ]
    };
    clients.iter().map(row).collect()
}

fn servers(state: &AdminState) -> Vec<Vec<Cell>> {
    let servers = state.registry.servers();
    let row = |server: &std::sync::Arc<crate::observe::ServerEntry>| {
        let description = &server.description;
        vec![
            server.id.into(),
            description.database.as_str().into(),
            description.shard.as_str().into(),
            description.node.as_str().into(),
            description.user.as_str().into(),
            description.pid.into(),
            server.state().as_label().into(),
            server.client_id().into(),
            server.n_leases.value().into(),
            server.connected_at.into(),
            description.tls.as_str().into(),
            server.pins().to_string().into(),
        ]
    };
    servers.iter().map(row).collect()
}

fn stats(database: &DatabaseView, state: &AdminState) -> Vec<Vec<Cell>> {
    let (name, counters) = (&database.topology.database, &database.counters);
    let n_clients = state.registry.clients().iter().filter(|client| *client.database == **name).count();
    let mut values = vec![("clients".to_owned(), Cell::from(n_clients))];
    for route in Route::ALL {
        let mean_micros = counters.statement_duration(route).mean().as_micros() as u64;
        values.push((format!("statements_{}", route.as_label()), counters.n_statements(route).into()));
        values.push((format!("mean_micros_{}", route.as_label()), mean_micros.into()));
    }
    for kind in ErrorKind::ALL {
        values.push((format!("errors_{}", kind.as_label()), counters.n_errors(kind).into()));
    }
    for reason in PinReason::ALL {
        values.push((format!("pins_{}", reason.as_label()), counters.n_pins(reason).into()));
    }
    let rest = [
        ("transactions", counters.n_transactions.value()),
        ("two_phase_commits", counters.n_two_phase_commits.value()),
        ("bytes_from_clients", counters.n_bytes_from_clients.value()),
        ("bytes_to_clients", counters.n_bytes_to_clients.value()),
        ("cancels", counters.n_cancels.value()),
        ("template_hits", counters.n_template_hits.value()),
        ("template_misses", counters.n_template_misses.value()),
        ("checkouts", counters.checkout_wait.n_records()),
        ("mean_checkout_micros", counters.checkout_wait.mean().as_micros() as u64),
    ];
    values.extend(rest.map(|(what, n)| (what.to_owned(), n.into())));
    values.into_iter().map(|(what, value)| vec![name.as_str().into(), what.into(), value]).collect()
}

fn tables(topology: &Topology) -> Vec<Vec<Cell>> {
    let mut tables: Vec<_> = topology.tables.values().collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    let names = |set: ShardSet| {
        let names: Vec<_> = set.iter().map(|id| topology.shard(id).name.as_str()).collect();
        names.join(", ")
    };
    let row = |table: &&std::sync::Arc<crate::topology::Table>| {
        let (placement, key, shards) = match &table.placement {
            Placement::Sharded(key) => ("sharded", Some(key), key.all_shards()),
            Placement::Reference => ("reference", None, topology.all_shards()),
            Placement::Pinned(shard) => ("pinned", None, ShardSet::only(*shard)),
        };
        vec![
            topology.database.as_str().into(),
            table.name.to_string().into(),
            placement.into(),
            key.map(key_text).into(),
            names(shards).into(),
            key.and_then(|key| watermarks_text(&key.map)).into(),
        ]
    };
    tables.iter().map(row).collect()
}

/// `list(region), hash(user_id)`: the kinds of the levels on the way down the first branches.
fn key_text(key: &Key) -> String {
    let mut levels = Vec::new();
    let mut map = &key.map;
    loop {
        let (kind, column_idx, branches) = match map {
            KeyMap::Shard(_) => break,
            KeyMap::Hash(level) => ("hash", level.column_idx, &level.branches),
            KeyMap::List(level) => ("list", level.column_idx, &level.branches),
            KeyMap::Age(level) => ("age", level.column_idx, &level.branches),
        };
        levels.push(format!("{kind}({})", key.columns.get(column_idx).map_or("?", String::as_str)));
        // Where some branches end early, the longest one says how deep the key goes.
        let Some(deepest) = branches.iter().find(|branch| !matches!(branch, KeyMap::Shard(_))) else { break };
        map = deepest;
    }
    levels.join(", ")
}

/// The timestamps between tiers, youngest first.
fn watermarks_text(map: &KeyMap) -> Option<String> {
    match map {
        KeyMap::Shard(_) => None,
        KeyMap::Hash(level) => level.branches.iter().find_map(watermarks_text),
        KeyMap::List(level) => level.branches.iter().find_map(watermarks_text),
        KeyMap::Age(level) => {
            let marks = level.watermarks.0.iter().map(|&micros| {
                let since_2000 = Duration::from_micros(micros.unsigned_abs());
                let origin = std::time::UNIX_EPOCH + Duration::from_secs(946_684_800);
                let at = if micros < 0 { origin.checked_sub(since_2000) } else { origin.checked_add(since_2000) };
                at.map_or_else(|| "?".to_owned(), timestamp_text)
            });
            Some(marks.collect::<Vec<_>>().join(", "))
        }
    }
}

async fn reload(state: &AdminState) -> Result<String, Report> {
    let (answer, answered) = oneshot::channel();
    state.reload.try_send(answer).map_err(|_| {
        Report::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "the configuration cannot be reloaded just now")
            .with_detail("Another reload is under way, or the proxy stops.")
    })?;
    match timeout(RELOAD_TIMEOUT, answered).await {
        Ok(Ok(Ok(sentence))) => Ok(sentence),
        Ok(Ok(Err(faults))) => {
            Err(Report::new(SqlState::INVALID_PARAMETER_VALUE, "the configuration has faults; the one in use stays in use")
                .with_detail(faults.join("\n")))
        }
        Ok(Err(_)) => Err(Report::new(SqlState::ADMIN_SHUTDOWN, "the proxy stops")),
        Err(_) => Err(Report::new(SqlState::QUERY_CANCELED, "the reload has not ended within 30 seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_white_space_do_not_matter() {
        assert_eq!(parse("  show\n pools "), Ok(Command::Pools));
        assert_eq!(parse("Help"), Ok(Command::Help));
        let error = parse("SELECT 1").unwrap_err();
        assert_eq!(error.sqlstate, SqlState::SYNTAX_ERROR);
        assert!(error.hint.unwrap().contains("SHOW POOLS, SHOW SHARDS"));
    }
}
