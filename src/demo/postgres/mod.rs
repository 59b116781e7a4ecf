//! Postgres servers of our own, run from their binaries: three shards for the demo, any number for the tests.
//!
//! A [`Server`] is a direct child process. It ends with its handle; should this process be killed without a chance to tidy up,
//! a small watcher that holds the other end of a pipe ends the server instead.

mod account;
mod error;
mod installation;
mod server;
mod watcher;

pub use account::Account;
pub use error::PostgresError;
pub use installation::{Installation, Login};
pub use server::{Server, ServerSpec, stop_leftover};

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The superuser that [`Installation::initdb`] makes.
pub const SUPERUSER: &str = "postgres";

/// Settings for servers whose data can be made again: nothing waits for the disk.
///
/// `max_prepared_transactions` is what two-phase commit needs, `hot_standby` is on by default.
pub const THROWAWAY_SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_prepared_transactions", "64"),
    ("max_connections", "100"),
    ("wal_level", "replica"),
    ("max_wal_senders", "4"),
    ("wal_keep_size", "64MB"),
    ("shared_buffers", "32MB"),
    // In the data directory: a killed server leaves nothing in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
    ("autovacuum_naptime", "30s"),
    ("log_min_messages", "warning"),
];

/// Whether nothing on the loopback interface listens on `port`.
pub fn is_port_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Makes an empty data directory, owned by the account that runs the servers and closed to others.
fn make_data_dir(account: Option<&Account>, dir: &Path) -> Result<(), PostgresError> {
    std::fs::create_dir_all(dir).map_err(PostgresError::io("make the directory", dir))?;
    if let Some(account) = account {
        if let Some(closed) = account.first_closed_ancestor(dir) {
            return Err(PostgresError::Unreachable { user: account.name.clone(), dir: closed });
        }
        account.own(dir)?;
    }
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).map_err(PostgresError::io("change the mode of", dir))
}
