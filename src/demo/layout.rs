//! Where everything of a demo is: directories, ports, and the configuration written for the proxy.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::postgres::{Account, is_port_free};

pub(super) const DATABASE: &str = "shop";
pub(super) const SHARDS: [&str; 3] = ["americas", "europe", "asia"];

/// The proxy's port by default; the others follow from it.
pub(super) const DEFAULT_PORT_BASE: u16 = 6432;
/// From the proxy's port to the first server's.
const SERVERS_OFFSET: u16 = 9;

/// The paths and ports of one demo.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// `dir/servers`, or under /var/tmp where the servers' account cannot reach that.
    pub(super) servers_dir: PathBuf,
    pub(super) port_base: u16,
}

/// One of the two servers of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Replica,
}

impl Layout {
    /// Under root the servers run as another user, who may be shut out of `dir`, as from below /root: their files then go
    /// to a directory in /var/tmp named by a hash of `dir`'s path.
    pub(super) fn new(dir: &Path, port_base: u16, account: Option<&Account>) -> std::io::Result<Self> {
        let dir = std::path::absolute(dir)?;
        let inside = dir.join("servers");
        let is_closed = account.is_some_and(|account| account.first_closed_ancestor(&inside).is_some());
        let servers_dir = if is_closed {
            let mut hasher = DefaultHasher::new();
            dir.hash(&mut hasher);
            PathBuf::from(format!("/var/tmp/trunkline-demo-{:016x}", hasher.finish()))
        } else {
            inside
        };
        Ok(Self { dir, servers_dir, port_base })
    }

    pub(super) fn proxy_port(&self) -> u16 {
        self.port_base
    }

    pub(super) fn admin_port(&self) -> u16 {
        self.port_base + 1
    }

    pub(super) fn server_port(&self, shard_idx: usize, role: Role) -> u16 {
        let role_idx = match role {
            Role::Primary => 0,
            Role::Replica => 1,
        };
        self.port_base + SERVERS_OFFSET + 2 * shard_idx as u16 + role_idx
    }

    pub(super) fn data_dir(&self, shard_idx: usize, role: Role) -> PathBuf {
        let role = match role {
            Role::Primary => "primary",
            Role::Replica => "replica",
        };
        self.servers_dir.join(format!("{}-{role}", SHARDS[shard_idx]))
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join("trunkline.toml")
    }

    /// Written after a complete load.
    pub(super) fn marker_file(&self) -> PathBuf {
        self.dir.join("loaded")
    }

    /// Held while a demo runs.
    pub(super) fn lock_file(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The first of the demo's ports that something listens on.
    pub(super) fn first_used_port(&self) -> Option<u16> {
        let servers =
            (0..SHARDS.len()).flat_map(|idx| [self.server_port(idx, Role::Primary), self.server_port(idx, Role::Replica)]);
        [self.proxy_port(), self.admin_port()].into_iter().chain(servers).find(|port| !is_port_free(*port))
    }

    /// The proxy's configuration.
    pub(super) fn config(&self) -> String {
        let mut text = format!(
            "# Written by `trunkline demo` at each start.\n\n[server]\nlisten = \"127.0.0.1:{}\"\n\n[admin]\nlisten = \"127.0.0.1:{}\"\n\
             users = [\"admin\"]\n\n[auth]\nmethod = \"trust\"\n\n[databases.{DATABASE}]\nbuckets = 4096\ndefault_shard = \"americas\"\ncontrol = {{ user = \"postgres\" }}\n",
            self.proxy_port(),
            self.admin_port()
        );
        for (shard_idx, name) in SHARDS.iter().enumerate() {
            let (primary, replica) = (self.server_port(shard_idx, Role::Primary), self.server_port(shard_idx, Role::Replica));
            text.push_str(&format!(
                "\n[[databases.{DATABASE}.shards]]\nname = \"{name}\"\ndbname = \"{DATABASE}\"\nnodes = [{{ host = \"127.0.0.1\", port = {primary} }}, \
                 {{ host = \"127.0.0.1\", port = {replica} }}]\n"
            ));
        }
        text.push_str(TABLES);
        text
    }
}

const TABLES: &str = r#"
[[databases.shop.tables]]
name = "users"
key = { hash = "user_id" }

[[databases.shop.tables]]
name = "orders"
key = { hash = "user_id" }

[[databases.shop.tables]]
name = "order_items"
key = { hash = "user_id" }

[[databases.shop.tables]]
name = "regional_metrics"
key = { list = "region", shards = { americas = ["us", "ca", "mx", "br"], europe = ["uk", "de", "fr", "es"], asia = ["jp", "sg", "au", "in"] } }

[[databases.shop.tables]]
name = "metrics"
key = { age = "recorded_at", tiers = [{ shard = "americas", younger_than = "7d" }, { shard = "europe", younger_than = "30d" }, { shard = "asia" }] }

[[databases.shop.tables]]
name = "events"
key = [{ list = "region", shards = { americas = ["us", "ca", "mx", "br"], europe = ["uk", "de", "fr", "es"], asia = ["jp", "sg", "au", "in"] } }, { hash = "user_id" }]

[[databases.shop.tables]]
name = "countries"
reference = true

[[databases.shop.tables]]
name = "audit"
shard = "europe"
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn writes_a_configuration_without_faults() {
        let layout =
            Layout { dir: PathBuf::from(".demo"), servers_dir: PathBuf::from(".demo/servers"), port_base: DEFAULT_PORT_BASE };
        let config = Config::parse(&layout.config(), Path::new("demo.toml"));
        assert_eq!(config.map(|config| config.databases[DATABASE].topology.tables.len()), Ok(8));
    }

    #[test]
    fn every_server_has_a_port_of_its_own() {
        let layout = Layout { dir: PathBuf::new(), servers_dir: PathBuf::new(), port_base: DEFAULT_PORT_BASE };
        let ports: Vec<u16> =
            (0..3).flat_map(|idx| [layout.server_port(idx, Role::Primary), layout.server_port(idx, Role::Replica)]).collect();
        assert_eq!(ports, [6441, 6442, 6443, 6444, 6445, 6446]);
    }
}
