//! Prepared statements of clients, interned so that one backend prepares each text once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use foldhash::HashMap;

use super::oids::OidColumns;

/// What a server said of a statement.
#[derive(Debug, Clone)]
pub struct Described {
    pub param_types: Vec<u32>,
    /// The body of RowDescription, with text formats; `None` for NoData.
    pub row_description: Option<Bytes>,
}

/// What a client was told of a statement that it has named, and goes by until it prepares it anew.
#[derive(Debug, Default)]
pub struct ToldTypes {
    pub params: OnceLock<Vec<u32>>,
    pub columns: OnceLock<Vec<u32>>,
}

/// A statement's text and parameter types: what a client's Parse holds.
#[derive(Debug)]
pub struct Prepared {
    /// The name on backends.
    pub server_name: String,
    pub id: u64,
    /// That of the schema when it was interned.
    pub schema_version: u64,
    pub sql: Bytes,
    /// The text as it is planned: without the semicolons and blanks behind it, and with a replacement character for what is no
    /// UTF-8.
    pub text: Box<str>,
    /// As the client gave them: 0, or missing at the end, to be inferred.
    pub param_types: Vec<u32>,
    /// Its columns whose binary values may hold types' OIDs, once a shard has described it to a client.
    pub oid_columns: OnceLock<OidColumns>,
}

/// A statement without the semicolons and blanks behind it.
pub fn statement_of(text: &str) -> &str {
    text.trim_end().trim_end_matches(';')
}

/// Text, parameter types, and what the text means at its Parse: columns may be others after DDL, and constants are read by the
/// settings of the session.
type Key = (Bytes, Vec<u32>, (u64, u64));

/// All prepared statements of one database's clients. Bounded by what clients hold: an entry dies with its last user.
#[derive(Debug, Default)]
pub struct Interner {
    entries: Mutex<HashMap<Key, Weak<Prepared>>>,
    next_id: AtomicU64,
}

impl Interner {
    /// The statement with this text and these types, new or shared: under this version of the schema, and the hash of what else
    /// decides what it means.
    pub fn intern(&self, sql: Bytes, param_types: Vec<u32>, meaning: (u64, u64)) -> Arc<Prepared> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (sql, param_types, meaning);
        if let Some(prepared) = entries.get(&key).and_then(Weak::upgrade) {
            return prepared;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let prepared = Arc::new(Prepared {
            server_name: format!("trunkline_{id}"),
            id,
            schema_version: meaning.0,
            text: statement_of(&String::from_utf8_lossy(&key.0)).into(),
            sql: key.0.clone(),
            param_types: key.1.clone(),
            oid_columns: OnceLock::new(),
        });
        // Dead entries are swept when the table is about to grow: amortised, no destructor that locks.
        if entries.len() == entries.capacity() {
            entries.retain(|_, entry| entry.strong_count() > 0);
        }
        entries.insert(key, Arc::downgrade(&prepared));
        prepared
    }
}

/// The statements prepared on one backend, least recently used first out.
#[derive(Debug)]
pub struct PreparedOnServer {
    /// Id and the tick of its last use.
    used: HashMap<u64, u64>,
    tick: u64,
    capacity: usize,
}

impl PreparedOnServer {
    pub fn new(capacity: usize) -> Self {
        Self { used: HashMap::default(), tick: 0, capacity: capacity.max(1) }
    }

    /// Marks a use; false when the backend does not have the statement.
    pub fn touch(&mut self, id: u64) -> bool {
        self.tick += 1;
        let tick = self.tick;
        self.used.get_mut(&id).map(|at| *at = tick).is_some()
    }

    /// Adds a statement and gives the id of the one to close for it, if any.
    pub fn insert(&mut self, id: u64) -> Option<u64> {
        let is_full = self.used.len() >= self.capacity;
        let victim = is_full.then(|| self.used.iter().min_by_key(|(_, at)| **at).map(|(id, _)| *id)).flatten();
        if let Some(victim) = victim {
            self.used.remove(&victim);
        }
        self.tick += 1;
        self.used.insert(id, self.tick);
        victim
    }

    pub fn remove(&mut self, id: u64) {
        self.used.remove(&id);
    }

    /// Takes back a statement whose Close was not run: it is the next to go.
    pub fn restore(&mut self, id: u64) {
        self.used.insert(id, 0);
    }

    /// Forgets all, and gives their ids.
    pub fn take_all(&mut self) -> Vec<u64> {
        self.used.drain().map(|(id, _)| id).collect()
    }

    pub fn clear(&mut self) {
        self.used.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_one_statement_until_the_last_user_goes() {
        let interner = Interner::default();
        let a = interner.intern(Bytes::from_static(b"SELECT 1"), vec![23], (1, 0));
        let b = interner.intern(Bytes::from_static(b"SELECT 1"), vec![23], (1, 0));
        let other = interner.intern(Bytes::from_static(b"SELECT 1"), vec![], (1, 0));
        assert_eq!(a.id, b.id);
        assert_ne!(a.id, other.id);
        // After DDL the same text may have other columns.
        assert_ne!(interner.intern(Bytes::from_static(b"SELECT 1"), vec![23], (2, 0)).id, a.id);
        let id = a.id;
        drop((a, b));
        assert_ne!(interner.intern(Bytes::from_static(b"SELECT 1"), vec![23], (1, 0)).id, id);
    }

    #[test]
    fn the_least_recently_used_statement_is_closed() {
        let mut server = PreparedOnServer::new(2);
        assert_eq!((server.insert(1), server.insert(2)), (None, None));
        assert!(server.touch(1));
        assert_eq!(server.insert(3), Some(2));
        assert!(!server.touch(2));
    }
}
