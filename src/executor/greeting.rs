//! What servers tell a session of its parameters when it begins, by user and startup settings.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Credentials;
use crate::session::settings::Settings;

/// Most kinds of session that are kept; the table is emptied when it is full.
const CAPACITY: usize = 256;

type Parameters = Arc<BTreeMap<String, String>>;

/// ParameterStatus values of sessions that have begun, so that the next one like them needs no server to begin.
#[derive(Debug, Default)]
pub(super) struct GreetingCache {
    by_session: Mutex<HashMap<(Credentials, Settings), Parameters>>,
}

impl GreetingCache {
    pub(super) fn get(&self, credentials: &Credentials, settings: &Settings) -> Option<Parameters> {
        let by_session = self.by_session.lock().unwrap_or_else(PoisonError::into_inner);
        by_session.get(&(credentials.clone(), settings.clone())).cloned()
    }

    pub(super) fn insert(&self, credentials: &Credentials, settings: &Settings, parameters: &Parameters) {
        let mut by_session = self.by_session.lock().unwrap_or_else(PoisonError::into_inner);
        if by_session.len() >= CAPACITY {
            by_session.clear();
        }
        by_session.insert((credentials.clone(), settings.clone()), Arc::clone(parameters));
    }
}
