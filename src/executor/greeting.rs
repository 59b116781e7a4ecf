//! What servers tell a session of its parameters when it begins, by user and startup settings.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Credentials;
use crate::session::settings::{SettingValue, Settings};

/// Most kinds of session that are kept; the table is emptied when it is full.
const CAPACITY: usize = 256;

/// What a server tells a session of itself at its beginning.
#[derive(Debug)]
pub(super) struct Greeting {
    /// Those that the session began with.
    pub settings: Settings,
    /// ParameterStatus values.
    pub parameters: Arc<BTreeMap<String, String>>,
    /// Where the client has set none: the server's, or its role's.
    pub search_path: SettingValue,
}

/// Before a server has said anything.
impl Default for Greeting {
    fn default() -> Self {
        let search_path = SettingValue::Text("\"$user\", public".to_owned());
        Self { settings: Settings::default(), parameters: Arc::default(), search_path }
    }
}

/// Greetings of sessions that have begun, so that the next one like them needs no server to begin.
#[derive(Debug, Default)]
pub(super) struct GreetingCache {
    by_session: Mutex<HashMap<(Credentials, Settings), Arc<Greeting>>>,
}

impl GreetingCache {
    pub(super) fn get(&self, credentials: &Credentials, settings: &Settings) -> Option<Arc<Greeting>> {
        let by_session = self.by_session.lock().unwrap_or_else(PoisonError::into_inner);
        by_session.get(&(credentials.clone(), settings.clone())).cloned()
    }

    /// Forgets all: roles or servers may have other settings now.
    pub(super) fn clear(&self) {
        self.by_session.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn insert(&self, credentials: &Credentials, greeting: Arc<Greeting>) {
        let mut by_session = self.by_session.lock().unwrap_or_else(PoisonError::into_inner);
        if by_session.len() >= CAPACITY {
            by_session.clear();
        }
        by_session.insert((credentials.clone(), greeting.settings.clone()), greeting);
    }
}
