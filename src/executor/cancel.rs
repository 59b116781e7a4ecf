//! Cancel keys of clients, and which server connections their statements are on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::failure::Failure;
use crate::backend::{AnnouncedCancel, CancelHandle};
use crate::sqlstate::{Report, SqlState};

/// The server connections that one client holds at this moment.
#[derive(Debug, Default)]
pub struct CancelTarget {
    held: Mutex<Vec<CancelHandle>>,
    /// A cancel has come since the statement began: between two of its parts no server hears it.
    is_asked: AtomicBool,
}

impl CancelTarget {
    pub fn add(&self, handle: CancelHandle) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    }

    pub fn remove(&self, handle: &CancelHandle) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).retain(|held| !held.is_same(handle));
    }

    pub fn clear(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The same, and gives the memory back.
    pub(super) fn give_up(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    /// A statement begins, and with it what a cancel is for.
    pub(super) fn begin(&self) {
        self.is_asked.store(false, Ordering::Relaxed);
    }

    /// Ends a statement that has more than one part, where a cancel has come since it began.
    ///
    /// # Errors
    /// 57014.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if !self.is_asked.load(Ordering::Relaxed) {
            return Ok(());
        }
        // src/backend/tcop/postgres.c, `ProcessInterrupts`.
        Err(Failure::client(Report::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")))
    }

    /// Whether the client holds several: its transaction may then be known to several servers, each of which sees a part.
    pub(super) fn holds_several(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len() > 1
    }

    /// The server connections that are held.
    pub(super) fn handles(&self) -> Vec<CancelHandle> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn announce(&self) -> Vec<AnnouncedCancel> {
        self.is_asked.store(true, Ordering::Relaxed);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).iter().map(CancelHandle::announce).collect()
    }
}

/// There is one for each client: four bytes need no memory of their own.
#[derive(Debug)]
enum Secret {
    Short([u8; 4]),
    Long(Box<[u8]>),
}

impl Secret {
    fn new(bytes: &[u8]) -> Self {
        bytes.try_into().map_or_else(|_| Self::Long(bytes.into()), Self::Short)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Keyed {
    secret: Secret,
    target: Arc<CancelTarget>,
}

/// All cancel keys given to clients, by process id.
#[derive(Debug, Default)]
pub struct CancelRegistry {
    keys: Mutex<HashMap<i32, Keyed>>,
}

impl CancelRegistry {
    /// Registers a key; false when the process id is taken and another must be drawn.
    pub fn register(&self, process_id: i32, secret: &[u8], target: Arc<CancelTarget>) -> bool {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(&process_id) {
            return false;
        }
        keys.insert(process_id, Keyed { secret: Secret::new(secret), target });
        true
    }

    pub fn remove(&self, process_id: i32) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&process_id);
    }

    /// The cancels that a client's CancelRequest causes, announced: their connections are not reused before they are sent.
    /// Empty for a key that is not known, as Postgres answers nothing.
    pub fn cancels(&self, process_id: i32, secret: &[u8]) -> Vec<AnnouncedCancel> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match keys.get(&process_id) {
            Some(keyed) if is_equal_in_constant_time(keyed.secret.bytes(), secret) => keyed.target.announce(),
            _ => Vec::new(),
        }
    }
}

fn is_equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (x, y)| differing | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_cancels() {
        let registry = CancelRegistry::default();
        let target = Arc::new(CancelTarget::default());
        assert!(registry.register(7, &[1, 2, 3, 4], Arc::clone(&target)));
        assert!(!registry.register(7, &[9], Arc::default()));
        assert!(registry.cancels(7, &[1, 2, 3, 5]).is_empty());
        assert!(target.check().is_ok());
        assert!(registry.cancels(7, &[1, 2, 3, 4]).is_empty() && target.check().is_err());
        target.begin();
        assert!(target.check().is_ok());
        assert!(is_equal_in_constant_time(&[1, 2], &[1, 2]) && !is_equal_in_constant_time(&[1], &[1, 2]));
    }
}
