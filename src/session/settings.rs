//! Settings of a session: what the client asked for at startup and by SET, to be replayed on each backend it borrows.

use std::collections::BTreeMap;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::shared::Shared;

/// Kept for the client by the proxy, and never given to a server's session: it would end one that a pool keeps.
pub const IDLE_SESSION_TIMEOUT: &str = "idle_session_timeout";

/// How a setting's value was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SettingValue {
    /// The text as SHOW prints it: from the startup message.
    Text(String),
    /// The text after TO in a SET statement, verbatim.
    Sql(String),
}

impl SettingValue {
    /// As it was given.
    pub fn text(&self) -> &str {
        let (Self::Text(text) | Self::Sql(text)) = self;
        text
    }
}

/// The values of settings by their folded names.
pub type SettingValues = BTreeMap<String, SettingValue>;

/// All settings that differ from the server's own, under their folded names. Cheap to clone and to compare.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: Arc<SettingValues>,
    hash: u64,
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.values, &other.values) || self.values == other.values)
    }
}

impl Eq for Settings {}

impl std::hash::Hash for Settings {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl Settings {
    pub fn new(values: BTreeMap<String, SettingValue>) -> Self {
        let mut text = String::new();
        for (name, value) in &values {
            let (kind, value) = match value {
                SettingValue::Text(value) => ('t', value),
                SettingValue::Sql(value) => ('s', value),
            };
            text.extend([name.as_str(), "\0"]);
            text.push(kind);
            text.extend([value.as_str(), "\0"]);
        }
        let hash = if values.is_empty() { 0 } else { XxHash3_64::oneshot(text.as_bytes()) };
        Self { values: Arc::new(values), hash }
    }

    /// Keeps the values that other sessions have too once for all.
    pub fn share(&mut self, shared: &Shared<SettingValues>) {
        shared.share(&mut self.values);
    }

    pub fn value(&self, name: &str) -> Option<&SettingValue> {
        self.values.get(name)
    }

    /// Those whose names begin so.
    pub fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a SettingValue)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value)).filter(move |(name, _)| name.starts_with(prefix))
    }

    /// The same with `name` set to the text of a SET statement.
    #[must_use]
    pub fn with(&self, name: &str, value: SettingValue) -> Self {
        let mut values = (*self.values).clone();
        values.insert(name.to_owned(), value);
        Self::new(values)
    }

    /// The same with `name` as it is in `startup`.
    #[must_use]
    pub fn with_reset(&self, name: &str, startup: &Self) -> Self {
        let mut values = (*self.values).clone();
        match startup.values.get(name) {
            Some(value) => values.insert(name.to_owned(), value.clone()),
            None => values.remove(name),
        };
        Self::new(values)
    }

    /// These settings after RESET ALL: those of `startup`, and the user and role, which RESET ALL leaves.
    #[must_use]
    pub fn with_all_reset(&self, startup: &Self) -> Self {
        let mut values = (*startup.values).clone();
        for name in ["session_authorization", "role"] {
            match self.values.get(name) {
                Some(value) => drop(values.insert(name.to_owned(), value.clone())),
                None => drop(values.remove(name)),
            }
        }
        Self::new(values)
    }

    /// The same with what SET SESSION CHARACTERISTICS AS TRANSACTION sets: the defaults of each mode.
    #[must_use]
    pub fn with_characteristics(&self, modes: &str) -> Self {
        let mut values = (*self.values).clone();
        for (name, value) in characteristics(modes) {
            values.insert(name.to_owned(), SettingValue::Text(value.to_owned()));
        }
        Self::new(values)
    }

    /// The statement that gives a backend this one setting; empty where the server's own value holds.
    pub fn statement_for(&self, name: &str) -> String {
        let mut sql = String::new();
        if let Some(value) = self.values.get(name) {
            push_set(&mut sql, name, value);
        }
        sql
    }

    /// Statements that bring a backend from `applied` to these settings; empty when nothing is to do.
    ///
    /// What the other client had set is reset first, so that nothing leaks. Values from SET are replayed verbatim, values
    /// of the startup message as literals.
    pub fn statements_from(&self, applied: &Self) -> String {
        let mut sql = String::new();
        if self == applied {
            return sql;
        }
        if applied.values.contains_key("session_authorization") {
            sql.push_str("RESET SESSION AUTHORIZATION;");
        }
        if applied.values.contains_key("role") {
            sql.push_str("RESET ROLE;");
        }
        if applied.values.keys().any(|name| !self.values.contains_key(name)) {
            sql.push_str("RESET ALL;");
        }
        // The role comes last: what was set before it may need more rights than it has, and SET SESSION AUTHORIZATION undoes it.
        let late = ["session_authorization", "role"];
        let is_early = |name: &str| !late.contains(&name) && name != IDLE_SESSION_TIMEOUT;
        for (name, value) in self.values.iter().filter(|(name, _)| is_early(name)) {
            push_set(&mut sql, name, value);
        }
        for name in late {
            if let Some(value) = self.values.get(name) {
                push_set(&mut sql, name, value);
            }
        }
        sql
    }
}

/// The settings behind a list of transaction modes that a server has accepted. Commas between modes may be left out.
fn characteristics(modes: &str) -> Vec<(&'static str, &'static str)> {
    const ISOLATION: &str = "default_transaction_isolation";
    let upper = modes.to_ascii_uppercase().replace(',', " ");
    let words: Vec<&str> = upper.split_whitespace().collect();
    let mut found = Vec::new();
    let mut rest = words.as_slice();
    while !rest.is_empty() {
        let (setting, n_words) = match rest {
            ["ISOLATION", "LEVEL", "SERIALIZABLE", ..] => ((ISOLATION, "serializable"), 3),
            ["ISOLATION", "LEVEL", "REPEATABLE", "READ", ..] => ((ISOLATION, "repeatable read"), 4),
            ["ISOLATION", "LEVEL", "READ", "COMMITTED", ..] => ((ISOLATION, "read committed"), 4),
            ["ISOLATION", "LEVEL", "READ", "UNCOMMITTED", ..] => ((ISOLATION, "read uncommitted"), 4),
            ["READ", "ONLY", ..] => (("default_transaction_read_only", "on"), 2),
            ["READ", "WRITE", ..] => (("default_transaction_read_only", "off"), 2),
            ["NOT", "DEFERRABLE", ..] => (("default_transaction_deferrable", "off"), 2),
            ["DEFERRABLE", ..] => (("default_transaction_deferrable", "on"), 1),
            _ => {
                rest = &rest[1..];
                continue;
            }
        };
        found.push(setting);
        rest = &rest[n_words..];
    }
    found
}

fn push_set(sql: &mut String, name: &str, value: &SettingValue) {
    sql.push_str(&match (name, value) {
        ("session_authorization", SettingValue::Sql(value)) => format!("SET SESSION AUTHORIZATION {value};"),
        ("timezone", SettingValue::Sql(value)) => format!("SET TIME ZONE {value};"),
        ("role", SettingValue::Sql(value)) => format!("SET ROLE {value};"),
        (name, SettingValue::Sql(value)) => format!("SET {} TO {value};", quoted_name(name)),
        (name, SettingValue::Text(value)) => {
            format!("SELECT pg_catalog.set_config({}, {}, false);", quote_literal(name), quote_literal(value))
        }
    });
}

/// `"a"."b"` for the setting `a.b`.
fn quoted_name(name: &str) -> String {
    name.split('.').map(quote_identifier).collect::<Vec<_>>().join(".")
}

/// `text` as a quoted identifier.
pub fn quote_identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// `text` as a literal that reads the same under any `standard_conforming_strings`.
pub fn quote_literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(n, v)| ((*n).to_owned(), SettingValue::Text((*v).to_owned()))).collect())
    }

    #[test]
    fn equal_settings_need_no_statement() {
        let a = settings(&[("application_name", "x")]);
        assert_eq!(a.statements_from(&settings(&[("application_name", "x")])), "");
    }

    #[test]
    fn what_another_client_set_is_reset() {
        let mine = settings(&[("application_name", "it's")]);
        let theirs = settings(&[("search_path", "a, b")]).with("role", SettingValue::Sql("bob".into()));
        assert_eq!(
            mine.statements_from(&theirs),
            "RESET ROLE;RESET ALL;SELECT pg_catalog.set_config('application_name', 'it''s', false);"
        );
        assert_eq!(
            mine.with("search_path", SettingValue::Sql("a, b".into())).statements_from(&mine),
            "SELECT pg_catalog.set_config('application_name', 'it''s', false);SET \"search_path\" TO a, b;"
        );
    }

    #[test]
    fn the_role_is_set_last_and_stays_over_reset_all() {
        let sql = |text: &str| SettingValue::Sql(text.to_owned());
        let mine = settings(&[("zone", "x")]).with("role", sql("low")).with("session_authorization", sql("bob"));
        assert!(mine.statements_from(&Settings::default()).ends_with("false);SET SESSION AUTHORIZATION bob;SET ROLE low;"));
        let startup = settings(&[("zone", "y")]);
        let expected = startup.with("role", sql("low")).with("session_authorization", sql("bob"));
        assert_eq!(mine.with_all_reset(&startup), expected);
    }

    #[test]
    fn characteristics_are_defaults_of_transactions() {
        let mine = Settings::default().with_characteristics("isolation level repeatable read READ ONLY");
        let both = settings(&[("default_transaction_isolation", "repeatable read"), ("default_transaction_read_only", "on")]);
        assert_eq!(mine, both);
        assert_eq!(
            mine.with_characteristics("READ WRITE, NOT DEFERRABLE").value("default_transaction_deferrable"),
            Some(&SettingValue::Text("off".to_owned()))
        );
    }

    #[test]
    fn reset_returns_to_the_startup_value() {
        let startup = settings(&[("timezone", "UTC")]);
        let changed = startup.with("timezone", SettingValue::Sql("'Asia/Tokyo'".into()));
        assert_ne!(changed, startup);
        assert_eq!(changed.with_reset("timezone", &startup), startup);
    }
}
