//! What a new configuration changes, and what of it a running proxy can take over.

use std::collections::BTreeSet;

use super::{Config, ServerConfig};

/// The differences between two configurations, by their dotted names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Take effect with the reload.
    pub live: Vec<String>,
    /// Take effect at the next start: sockets and threads are made once.
    pub restart: Vec<String>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

impl Config {
    /// What differs in `new`.
    pub fn changes_to(&self, new: &Self) -> Changes {
        let (old_server, new_server) = (&self.server, &new.server);
        let restart = [
            ("server.listen", old_server.listen != new_server.listen),
            ("server.unix_socket_dir", old_server.unix_socket_dir != new_server.unix_socket_dir),
            ("server.unix_socket_permissions", old_server.unix_socket_permissions != new_server.unix_socket_permissions),
            ("server.reuse_port", old_server.reuse_port != new_server.reuse_port),
            ("server.listen_backlog", old_server.listen_backlog != new_server.listen_backlog),
            ("server.workers", old_server.workers != new_server.workers),
            ("admin.listen", self.admin.listen != new.admin.listen),
        ];
        let live = [
            ("server.max_clients", old_server.max_clients != new_server.max_clients),
            ("server.max_handshakes", old_server.max_handshakes != new_server.max_handshakes),
            ("server.max_clients_per_user", old_server.max_clients_per_user != new_server.max_clients_per_user),
            ("server.max_clients_per_database", old_server.max_clients_per_database != new_server.max_clients_per_database),
            ("server.tcp", old_server.tcp != new_server.tcp),
            ("server.login_timeout", old_server.login_timeout != new_server.login_timeout),
            ("server.shutdown_grace", old_server.shutdown_grace != new_server.shutdown_grace),
            ("server.client_write_timeout", old_server.client_write_timeout != new_server.client_write_timeout),
            ("server.half_closed_grace", old_server.half_closed_grace != new_server.half_closed_grace),
            ("admin.users", self.admin.users != new.admin.users),
            ("pool", self.pool != new.pool),
            ("query", self.query != new.query),
            ("auth", self.auth != new.auth),
            ("health", self.health != new.health),
            ("tls", self.tls != new.tls),
        ];
        let mut live = names_of(&live);
        live.extend(self.changed_databases(new));
        Changes { live, restart: names_of(&restart) }
    }

    /// This configuration as a proxy that runs under `running` can take it over: what needs a restart stays as it is there.
    #[must_use]
    pub fn under(mut self, running: &Self) -> Self {
        self.server = ServerConfig {
            listen: running.server.listen.clone(),
            unix_socket_dir: running.server.unix_socket_dir.clone(),
            unix_socket_permissions: running.server.unix_socket_permissions,
            reuse_port: running.server.reuse_port,
            listen_backlog: running.server.listen_backlog,
            workers: running.server.workers,
            ..self.server
        };
        self.admin.listen = running.admin.listen;
        if self.tls == running.tls {
            // With the keys of the tickets that clients hold.
            self.tls = running.tls.clone();
        }
        self
    }

    fn changed_databases(&self, new: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.databases.keys().chain(new.databases.keys()).collect();
        let changed = names.into_iter().filter(|name| self.databases.get(*name) != new.databases.get(*name));
        changed.map(|name| format!("databases.{name}")).collect()
    }
}

fn names_of(differences: &[(&str, bool)]) -> Vec<String> {
    differences.iter().filter(|(_, differs)| *differs).map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const SHARD: &str = "[[databases.one.shards]]\nname = \"a\"\nnodes = [{ host = \"h\" }]\n";

    fn parsed(text: &str) -> Config {
        Config::parse(&format!("[auth]\nmethod = \"trust\"\n{text}"), Path::new("t.toml")).expect("a sound file")
    }

    #[test]
    fn listening_needs_a_restart_and_the_rest_is_live() {
        let old = parsed(SHARD);
        let two = "[[databases.two.shards]]\nname = \"a\"\nnodes = [{ host = \"h\" }]\n";
        let server = "[server]\nlisten = \"127.0.0.1:7000\"\nworkers = 7\nmax_clients = 5\n";
        let new = parsed(&format!("{server}[query]\ntimeout = \"1min\"\n{SHARD}{two}"));
        let changes = old.changes_to(&new);
        assert_eq!(changes.restart, ["server.listen", "server.workers"]);
        assert_eq!(changes.live, ["server.max_clients", "server.max_handshakes", "query", "databases.one", "databases.two"]);
        let taken = new.clone().under(&old);
        assert_eq!(old.changes_to(&taken), Changes { restart: Vec::new(), ..changes });
        assert!(old.changes_to(&old).is_empty());
    }
}
