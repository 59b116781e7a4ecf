//! The client's transaction as the client sees it. Pure: which shards are enlisted is the executor's business.

use std::borrow::Cow;

use super::settings::{SettingValue, Settings, quote_identifier};

/// Whether the client is in a transaction block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    Idle,
    /// Statements of one simple query, or of one pipeline up to Sync, that share a transaction nobody asked for by name.
    Implicit,
    /// Between BEGIN and COMMIT.
    Explicit,
    /// A statement failed: only ROLLBACK helps.
    Failed,
}

/// A savepoint with the settings it returns to.
#[derive(Debug, Clone)]
pub struct Savepoint {
    pub name: String,
    settings: Settings,
    n_local_sets: usize,
    n_changes: usize,
}

/// State of the transaction and what a later enlisted shard must be told.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    pub phase: Phase,
    /// Text after BEGIN, e.g. `ISOLATION LEVEL SERIALIZABLE`.
    pub modes: String,
    /// SET LOCAL and SET TRANSACTION statements so far, to be replayed on shards that are enlisted later.
    pub local_sets: Vec<String>,
    pub savepoints: Vec<Savepoint>,
    /// What the transaction has set, for itself or for the session, by folded name and in order; `None`: back to its default.
    changes: Vec<(String, Option<SettingValue>)>,
    settings_at_begin: Settings,
}

impl Transaction {
    /// ReadyForQuery's status byte.
    pub fn status(&self) -> u8 {
        match self.phase {
            Phase::Idle | Phase::Implicit => b'I',
            Phase::Explicit => b'T',
            Phase::Failed => b'E',
        }
    }

    pub fn is_open(&self) -> bool {
        self.phase != Phase::Idle
    }

    pub fn begin(&mut self, phase: Phase, modes: &str, settings: &Settings) {
        *self = Self { phase, modes: modes.to_owned(), settings_at_begin: settings.clone(), ..Self::default() };
    }

    /// What AND CHAIN hands on: the modes, and what SET TRANSACTION made of them.
    pub fn characteristics(&self) -> (String, Vec<String>) {
        let sets = self.local_sets.iter().filter(|sql| is_set_transaction(sql)).cloned().collect();
        (self.modes.clone(), sets)
    }

    /// Has shards that join later run a statement which those that are there have run.
    pub fn note_local(&mut self, sql: &str) {
        self.local_sets.push(sql.trim().trim_end_matches(';').to_owned());
    }

    /// SET LOCAL statements so far, without those about the transaction itself and its constraints.
    pub fn local_settings(&self) -> impl Iterator<Item = &str> {
        self.local_sets.iter().map(String::as_str).filter(|sql| !is_set_transaction(sql) && !is_set_constraints(sql))
    }

    /// Ends the transaction; after a rollback the session's settings are those of its beginning.
    pub fn end(&mut self, is_committed: bool, settings: &mut Settings) {
        if !is_committed {
            settings.clone_from(&self.settings_at_begin);
        }
        *self = Self::default();
    }

    /// Remembers a SET or SET LOCAL of the transaction.
    pub fn note_change(&mut self, name: &str, value: Option<SettingValue>) {
        self.changes.push((name.to_owned(), value));
    }

    /// Whether the transaction has set anything.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What the transaction has made of a setting: `None` if nothing, `Some(None)` if it has reset it.
    pub fn change_of(&self, name: &str) -> Option<Option<&SettingValue>> {
        self.changes.iter().rev().find(|(changed, _)| changed == name).map(|(_, value)| value.as_ref())
    }

    pub fn set_savepoint(&mut self, name: &str, settings: &Settings) {
        let (n_local_sets, n_changes) = (self.local_sets.len(), self.changes.len());
        self.savepoints.push(Savepoint { name: name.to_owned(), settings: settings.clone(), n_local_sets, n_changes });
    }

    /// Whether a savepoint of this name exists.
    pub fn has_savepoint(&self, name: &str) -> bool {
        self.savepoints.iter().any(|savepoint| savepoint.name == name)
    }

    /// Forgets the newest savepoint of this name and those after it.
    pub fn release(&mut self, name: &str) {
        if let Some(at) = self.savepoints.iter().rposition(|savepoint| savepoint.name == name) {
            self.savepoints.truncate(at);
        }
    }

    /// The statements that bring a shard that joins now to where the others are: one simple-query string.
    pub fn opening_statements(&self) -> Cow<'static, str> {
        if self.modes.is_empty() && self.savepoints.is_empty() && self.local_sets.is_empty() {
            return Cow::Borrowed("BEGIN");
        }
        let mut sql = format!("BEGIN {}", self.modes);
        let mut n_replayed = 0;
        for savepoint in &self.savepoints {
            for local in &self.local_sets[n_replayed..savepoint.n_local_sets.max(n_replayed)] {
                sql.push(';');
                sql.push_str(local);
            }
            n_replayed = savepoint.n_local_sets.max(n_replayed);
            sql.push_str(";SAVEPOINT ");
            sql.push_str(&quote_identifier(&savepoint.name));
        }
        for local in &self.local_sets[n_replayed..] {
            sql.push(';');
            sql.push_str(local);
        }
        Cow::Owned(sql)
    }

    /// Returns to the newest savepoint of this name, which stays.
    pub fn rollback_to(&mut self, name: &str, settings: &mut Settings) {
        if let Some(at) = self.savepoints.iter().rposition(|savepoint| savepoint.name == name) {
            self.savepoints.truncate(at + 1);
            settings.clone_from(&self.savepoints[at].settings);
            self.local_sets.truncate(self.savepoints[at].n_local_sets);
            self.changes.truncate(self.savepoints[at].n_changes);
            self.phase = Phase::Explicit;
        }
    }
}

fn is_set_transaction(sql: &str) -> bool {
    let upper = sql.to_ascii_uppercase();
    let words: Vec<&str> = upper.split_whitespace().take(3).collect();
    matches!(words.as_slice(), ["SET", "TRANSACTION", ..] | ["SET", "LOCAL", "TRANSACTION"])
        || words.get(1).is_some_and(|name| name.starts_with("TRANSACTION_"))
}

fn is_set_constraints(sql: &str) -> bool {
    sql.split_whitespace().nth(1).is_some_and(|word| word.eq_ignore_ascii_case("constraints"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::SettingValue;

    #[test]
    fn a_shard_that_joins_late_is_told_in_order() {
        let mut transaction = Transaction::default();
        transaction.begin(Phase::Explicit, "READ ONLY", &Settings::default());
        transaction.local_sets.push("SET LOCAL a TO 1".into());
        transaction.set_savepoint("s", &Settings::default());
        transaction.local_sets.push("SET LOCAL b TO 2".into());
        assert_eq!(transaction.opening_statements(), "BEGIN READ ONLY;SET LOCAL a TO 1;SAVEPOINT \"s\";SET LOCAL b TO 2");
    }

    #[test]
    fn rollback_to_a_savepoint_restores_settings_and_heals_the_transaction() {
        let mut settings = Settings::default();
        let mut transaction = Transaction::default();
        transaction.begin(Phase::Explicit, "", &settings);
        transaction.set_savepoint("a", &settings);
        settings = settings.with("timezone", SettingValue::Sql("'UTC'".into()));
        transaction.phase = Phase::Failed;
        transaction.rollback_to("a", &mut settings);
        assert_eq!((transaction.status(), &settings), (b'T', &Settings::default()));
        assert!(transaction.has_savepoint("a"));
    }
}
