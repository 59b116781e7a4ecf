//! Who is connected: clients on one side, servers on the other.
//!
//! An entry is added at connect and removed at disconnect, under a lock. What changes per statement are the entry's
//! atomics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::{Counter, ProcessCounters};
use crate::session::pins::PinReasons;
use crate::session::shared::Shared;

/// The process's clients and servers.
#[derive(Debug, Default)]
pub struct Registry {
    pub process: ProcessCounters,
    next_id: AtomicU64,
    /// Names that many clients have.
    names: Shared<str>,
    clients: Mutex<BTreeMap<u64, Arc<ClientEntry>>>,
    servers: Mutex<BTreeMap<u64, Arc<ServerEntry>>>,
}

/// What is known of a client once it has sent its startup packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientDescription {
    pub database: String,
    pub user: String,
    /// `None` for a client of the unix socket.
    pub address: Option<SocketAddr>,
    pub application_name: String,
    /// TLS version and cipher suite; empty for a plain socket.
    pub tls: String,
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    Login,
    Idle,
    /// A statement of it runs.
    Active,
    /// It waits for a server connection.
    Waiting,
    /// Between two statements of a transaction.
    InTransaction,
}

/// A connected client.
#[derive(Debug)]
pub struct ClientEntry {
    pub id: u64,
    pub database: Arc<str>,
    pub user: Arc<str>,
    /// TLS version and cipher suite; empty for a plain socket.
    pub tls: Arc<str>,
    address: Option<SocketAddr>,
    pub connected_at: SystemTime,
    pub n_statements: Counter,
    pub n_transactions: Counter,
    state: AtomicU8,
    pins: AtomicU8,
    is_silent: AtomicBool,
    application_name: Mutex<Box<str>>,
}

/// What is known of a server connection once it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDescription {
    pub database: String,
    pub shard: String,
    /// `host:port`.
    pub node: String,
    pub user: String,
    /// The server process's id, from BackendKeyData.
    pub pid: i32,
    /// TLS version and cipher suite; empty for a plain socket.
    pub tls: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    Idle,
    Leased,
}

/// An open server connection.
#[derive(Debug)]
pub struct ServerEntry {
    pub id: u64,
    pub description: ServerDescription,
    pub connected_at: SystemTime,
    pub n_leases: Counter,
    /// Id of the client that has it, 0 for none. Ids begin with 1.
    client_id: AtomicU64,
    pins: AtomicU8,
}

impl Registry {
    /// Adds a client in state `Login`.
    pub fn add_client(&self, description: ClientDescription) -> Arc<ClientEntry> {
        let entry = Arc::new(ClientEntry {
            id: self.take_id(),
            database: self.names.text(&description.database),
            user: self.names.text(&description.user),
            tls: self.names.text(&description.tls),
            address: description.address,
            connected_at: SystemTime::now(),
            n_statements: Counter::default(),
            n_transactions: Counter::default(),
            state: AtomicU8::new(ClientState::Login as u8),
            pins: AtomicU8::new(0),
            is_silent: AtomicBool::new(false),
            application_name: Mutex::new(description.application_name.into()),
        });
        locked(&self.clients).insert(entry.id, Arc::clone(&entry));
        entry
    }

    pub fn remove_client(&self, id: u64) {
        locked(&self.clients).remove(&id);
    }

    /// In the order in which they came.
    pub fn clients(&self) -> Vec<Arc<ClientEntry>> {
        locked(&self.clients).values().cloned().collect()
    }

    pub fn n_clients(&self) -> usize {
        locked(&self.clients).len()
    }

    /// Adds a server connection that nobody leases.
    pub fn add_server(&self, description: ServerDescription) -> Arc<ServerEntry> {
        let entry = Arc::new(ServerEntry {
            id: self.take_id(),
            description,
            connected_at: SystemTime::now(),
            n_leases: Counter::default(),
            client_id: AtomicU64::new(0),
            pins: AtomicU8::new(0),
        });
        locked(&self.servers).insert(entry.id, Arc::clone(&entry));
        entry
    }

    pub fn remove_server(&self, id: u64) {
        locked(&self.servers).remove(&id);
    }

    /// In the order in which they were opened.
    pub fn servers(&self) -> Vec<Arc<ServerEntry>> {
        locked(&self.servers).values().cloned().collect()
    }

    fn take_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl ClientEntry {
    pub fn enter(&self, state: ClientState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub fn state(&self) -> ClientState {
        match self.state.load(Ordering::Relaxed) {
            0 => ClientState::Login,
            2 => ClientState::Active,
            3 => ClientState::Waiting,
            4 => ClientState::InTransaction,
            _ => ClientState::Idle,
        }
    }

    /// `127.0.0.1:50123`, or `unix`.
    pub fn address(&self) -> String {
        self.address.map_or_else(|| "unix".to_owned(), |address| address.to_string())
    }

    /// Notes whether its session is folded until it says something.
    pub fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Relaxed);
    }

    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Notes why the client keeps server connections beyond its transactions.
    pub fn set_pins(&self, reasons: PinReasons) {
        self.pins.store(reasons.to_bits(), Ordering::Relaxed);
    }

    pub fn pins(&self) -> PinReasons {
        PinReasons::from_bits(self.pins.load(Ordering::Relaxed))
    }

    pub fn set_application_name(&self, name: &str) {
        *locked(&self.application_name) = name.into();
    }

    pub fn application_name(&self) -> String {
        locked(&self.application_name).to_string()
    }
}

impl ClientState {
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Waiting => "waiting",
            Self::InTransaction => "in transaction",
        }
    }
}

impl ServerEntry {
    /// Notes that the client of this id leases the connection.
    pub fn lease(&self, client_id: u64) {
        self.n_leases.increment();
        self.client_id.store(client_id, Ordering::Relaxed);
    }

    /// Notes that the connection is back in its pool.
    pub fn release(&self) {
        self.client_id.store(0, Ordering::Relaxed);
        self.set_pins(PinReasons::NONE);
    }

    pub fn state(&self) -> ServerState {
        if self.client_id().is_some() { ServerState::Leased } else { ServerState::Idle }
    }

    /// Notes why its client keeps it beyond its transactions.
    pub fn set_pins(&self, reasons: PinReasons) {
        self.pins.store(reasons.to_bits(), Ordering::Relaxed);
    }

    pub fn pins(&self) -> PinReasons {
        PinReasons::from_bits(self.pins.load(Ordering::Relaxed))
    }

    /// The client that leases it.
    pub fn client_id(&self) -> Option<u64> {
        Some(self.client_id.load(Ordering::Relaxed)).filter(|&id| id != 0)
    }
}

impl ServerState {
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Leased => "leased",
        }
    }
}

/// A panic under these locks leaves nothing half done, so a poisoned lock is used on.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_and_go() {
        let registry = Registry::default();
        let client = registry.add_client(ClientDescription {
            database: "shop".into(),
            user: "app".into(),
            address: None,
            application_name: String::new(),
            tls: String::new(),
        });
        assert_eq!(client.state(), ClientState::Login);
        for state in [ClientState::Idle, ClientState::Active, ClientState::Waiting, ClientState::InTransaction] {
            client.enter(state);
            assert_eq!(client.state(), state);
        }
        client.set_application_name("psql");
        assert_eq!(registry.clients()[0].application_name(), "psql");

        let server = registry.add_server(ServerDescription {
            database: "shop".into(),
            shard: "asia".into(),
            node: "127.0.0.1:5432".into(),
            user: "app".into(),
            pid: 7,
            tls: String::new(),
        });
        server.lease(client.id);
        assert_eq!((server.state(), server.client_id()), (ServerState::Leased, Some(client.id)));
        server.release();
        assert_eq!((server.state(), server.n_leases.value()), (ServerState::Idle, 1));
        registry.remove_client(client.id);
        registry.remove_server(server.id);
        assert_eq!((registry.n_clients(), registry.servers().len()), (0, 0));
    }
}
