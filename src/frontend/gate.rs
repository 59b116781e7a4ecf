//! What every client connection shares: configuration, databases, cancel keys, and whether anyone is let in.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

use super::auth::{FailedLogins, Lookups, lookups};
use super::places::Places;
use crate::backend::control::ControlError;
use crate::config::Config;
use crate::executor::{CancelRegistry, Database};
use crate::observe::Registry;

/// Databases by the name that clients give.
pub type Databases = BTreeMap<String, Arc<Database>>;

/// Shared by all client connections of the process.
#[derive(Debug)]
pub struct Gate {
    pub registry: Arc<Registry>,
    pub cancels: CancelRegistry,
    pub failed_logins: FailedLogins,
    /// Set when the process is to end: idle clients are closed, others after their transaction.
    pub draining: CancellationToken,
    /// Set when the grace time is over: clients between two statements of a transaction are closed as well.
    pub closing: CancellationToken,
    served: RwLock<Arc<Served>>,
    pub(super) places: Places,
}

/// What a reload replaces.
#[derive(Debug)]
pub struct Served {
    pub config: Arc<Config>,
    pub databases: Databases,
    pub lookups: Lookups,
}

impl Served {
    /// `before` is what it takes the place of: answers about users that still hold are taken over.
    ///
    /// # Errors
    /// `Mismatch` when `[auth.query]` makes no connection settings.
    pub fn new(config: Arc<Config>, databases: Databases, before: Option<&Self>) -> Result<Self, ControlError> {
        let lookups = lookups(&config, &databases, before.map(|before| &before.lookups))?;
        Ok(Self { config, databases, lookups })
    }
}

impl Gate {
    pub fn new(registry: Arc<Registry>, draining: CancellationToken, served: Served) -> Self {
        Self {
            registry,
            cancels: CancelRegistry::default(),
            failed_logins: FailedLogins::default(),
            closing: CancellationToken::new(),
            draining,
            served: RwLock::new(Arc::new(served)),
            places: Places::default(),
        }
    }

    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what new clients see; clients that are connected keep what they have.
    pub fn replace(&self, served: Served) {
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served);
    }
}
