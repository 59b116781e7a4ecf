//! What a session's settings mean for its statements: how they are planned, and what servers read their literals as.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use twox_hash::XxHash3_64;

use super::Conversation;
use crate::session::prepared::Prepared;
use crate::session::search_path;

/// Settings by which servers read a text or the literals in it when they prepare it, besides those that they report:
/// src/backend/parser and the input functions of src/backend/utils/adt.
const LITERAL_SETTINGS: &[&str] =
    &["array_nulls", "backslash_quote", "lc_monetary", "timezone_abbreviations", "transform_null_equals", "xmloption"];

/// Under what a statement was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// The session's [`Conversation::context_hash`].
    context: u64,
    pub basis: Basis,
}

/// What a server's prepared statement stands on besides its text: where it is another, the statement is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    /// The client's temporary relations.
    temporary: u64,
    /// The settings by which its literals are read.
    literals: u64,
}

impl Conversation {
    /// Takes a ParameterStatus of the client's own session into account.
    pub fn note_parameter(&mut self, name: &str, value: &str) {
        match name {
            "TimeZone" if self.plan_settings.time_zone != value => {
                value.clone_into(&mut Arc::make_mut(&mut self.plan_settings).time_zone);
            }
            "standard_conforming_strings" => Arc::make_mut(&mut self.plan_settings).has_standard_strings = value == "on",
            "client_encoding" => {
                self.is_utf8 = value.eq_ignore_ascii_case("UTF8");
                self.note_literal_setting("client_encoding", Some(value.to_owned()));
            }
            "DateStyle" => self.note_literal_setting("DateStyle", Some(value.to_owned())),
            "IntervalStyle" => self.note_literal_setting("IntervalStyle", Some(value.to_owned())),
            "application_name" => self.entry.set_application_name(value),
            _ => return,
        }
        self.hash_context();
    }

    fn note_literal_setting(&mut self, name: &'static str, value: Option<String>) {
        if self.plan_settings.literal_settings.get(name) == value.as_ref() {
            return;
        }
        let settings = &mut Arc::make_mut(&mut self.plan_settings).literal_settings;
        match value {
            Some(value) => settings.insert(name, value),
            None => settings.remove(name),
        };
    }

    /// Works out what the settings mean for planning.
    pub(super) fn derive_plan_settings(&mut self) {
        let value_of = |name: &str| self.transaction.change_of(name).unwrap_or_else(|| self.settings.value(name));
        let role_of = |name: &str| value_of(name).and_then(search_path::role);
        let user = role_of("role").or_else(|| role_of("session_authorization"));
        let user = user.as_deref().unwrap_or(&self.pools.credentials.user);
        let path = value_of("search_path").unwrap_or(&self.greeting.search_path);
        let schemas = search_path::schemas(path, user);
        let literal_settings = LITERAL_SETTINGS.iter().map(|name| (*name, value_of(name).map(|value| format!("{value:?}"))));
        let literal_settings: Vec<_> = literal_settings.collect();
        Arc::make_mut(&mut self.plan_settings).search_path = schemas;
        for (name, value) in literal_settings {
            self.note_literal_setting(name, value);
        }
        self.derive_own();
        self.hash_context();
    }

    pub(super) fn hash_context(&mut self) {
        let mut hasher = XxHash3_64::new();
        let settings = &self.plan_settings;
        (&settings.time_zone, settings.has_standard_strings, &settings.literal_settings).hash(&mut hasher);
        self.literals_hash = hasher.finish();
        let mut hasher = XxHash3_64::new();
        self.view.generation.hash(&mut hasher);
        settings.hash(&mut hasher);
        self.context_hash = hasher.finish();
    }

    pub(super) fn planned_now(&self) -> Planned {
        Planned { context: self.context_hash, basis: self.basis() }
    }

    fn basis(&self) -> Basis {
        Basis { temporary: self.temporary_version(), literals: self.literals_hash }
    }

    /// The statement with this text and these types, under the schema and the settings of now. A search path that changes later
    /// leaves it what it is: servers look at that themselves (src/backend/utils/cache/plancache.c, `RevalidateCachedQuery`), but
    /// the types of its parameters stay those that they were.
    pub(super) fn intern(&self, sql: Bytes, param_types: Vec<u32>) -> Arc<Prepared> {
        let mut hasher = XxHash3_64::new();
        let Basis { temporary, literals } = self.basis();
        (temporary, literals, &self.plan_settings.search_path).hash(&mut hasher);
        self.database.interner.intern(sql, param_types, (self.database.schema_version(), hasher.finish()))
    }
}
