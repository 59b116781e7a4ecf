//! Statements that leave state in a backend's session, which transaction pooling would hand to the next client.

use crate::sql::{TokenKind, tokens};

/// What a statement would leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing that outlives the transaction.
    Nothing,
    /// Settings changed by a function, unseen by the proxy: the backend's settings must be made anew.
    Settings,
    /// An advisory lock of the session, by this function.
    AdvisoryLock(&'static str),
    /// A temporary table, view or sequence that is not dropped at commit.
    TemporaryTable,
}

/// Whether a statement looks into a server's own catalog, whose OIDs mean something on that server only: such statements of
/// all sessions belong on one server.
pub fn reads_catalog(sql: &[u8], has_standard_strings: bool) -> bool {
    tokens(sql, has_standard_strings).filter(|token| token.kind == TokenKind::Word).any(|token| {
        let word = token.text(sql).to_ascii_lowercase();
        word.starts_with(b"pg_") || word.starts_with(b"reg") || word == b"information_schema" || word == b"oid"
    })
}

const SESSION_LOCKS: [&str; 4] =
    ["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"];

/// Looks through a statement's words.
pub fn leftover(sql: &[u8], has_standard_strings: bool) -> Leftover {
    let mut found = Leftover::Nothing;
    if is_opaque(sql, has_standard_strings) {
        // Its body is not looked into word by word.
        let body = sql.to_ascii_lowercase();
        let calls = |name: &str| body.windows(name.len()).any(|window| window == name.as_bytes());
        if let Some(name) = SESSION_LOCKS.iter().find(|name| calls(name)) {
            return Leftover::AdvisoryLock(name);
        }
        found = Leftover::Settings;
    }
    if makes_temporary(sql, has_standard_strings) {
        return Leftover::TemporaryTable;
    }
    for token in tokens(sql, has_standard_strings).filter(|token| token.kind == TokenKind::Word) {
        if let Some(name) = SESSION_LOCKS.iter().find(|name| token.is_word(sql, name)) {
            return Leftover::AdvisoryLock(name);
        }
        if token.is_word(sql, "set_config") {
            found = Leftover::Settings;
        }
    }
    found
}

/// CREATE [GLOBAL | LOCAL] TEMP …, CREATE OR REPLACE TEMP VIEW, SELECT … INTO TEMP, without ON COMMIT DROP.
fn makes_temporary(sql: &[u8], has_standard_strings: bool) -> bool {
    let words = || tokens(sql, has_standard_strings).filter(|token| token.kind == TokenKind::Word);
    let is = |token: &crate::sql::Token, names: &[&str]| names.iter().any(|name| token.is_word(sql, name));
    let Some(temporary) = words().position(|token| is(&token, &["temp", "temporary"])) else { return false };
    let before: Vec<_> =
        words().take(temporary).filter(|token| !is(token, &["global", "local", "or", "replace", "recursive"])).collect();
    let is_query = before.first().is_some_and(|first| is(first, &["select", "with"]));
    let is_made = before.last().is_some_and(|last| is_query && is(last, &["into"]) || before.len() == 1 && is(last, &["create"]));
    let is_dropped = words().zip(words().skip(1)).any(|(a, b)| is(&a, &["commit"]) && is(&b, &["drop"]));
    is_made && !is_dropped
}

/// DO and CALL: code that may change settings, by SET too.
fn is_opaque(sql: &[u8], has_standard_strings: bool) -> bool {
    let mut words = tokens(sql, has_standard_strings).filter(|token| token.kind == TokenKind::Word);
    words.next().is_some_and(|first| first.is_word(sql, "do") || first.is_word(sql, "call"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogs_are_told_by_their_names() {
        assert!(reads_catalog(b"SELECT c.relname FROM pg_catalog.pg_class c", true));
        assert!(reads_catalog(b"SELECT 'users'::regclass", true));
        assert!(!reads_catalog(b"SELECT 'pg_class', name FROM countries", true));
    }

    #[test]
    fn session_locks_and_settings_by_function_are_seen() {
        assert_eq!(leftover(b"SELECT pg_advisory_lock(1)", true), Leftover::AdvisoryLock("pg_advisory_lock"));
        assert_eq!(leftover(b"SELECT SET_CONFIG('a.b', 'c', false)", true), Leftover::Settings);
        assert_eq!(leftover(b"SELECT 'set_config', pg_advisory_xact_lock(1)", true), Leftover::Nothing);
    }

    #[test]
    fn temporary_tables_are_seen_unless_the_commit_drops_them() {
        let of = |sql: &str| leftover(sql.as_bytes(), true);
        for sql in ["CREATE TEMP TABLE a (n int)", "create or replace temporary view v as select 1", "SELECT 1 AS n INTO TEMP a"]
        {
            assert_eq!(of(sql), Leftover::TemporaryTable, "{sql}");
        }
        for sql in [
            "CREATE TEMP TABLE a (n int) ON COMMIT DROP",
            "SELECT temp FROM readings",
            "CREATE TABLE temp (n int)",
            "INSERT INTO temp VALUES (1)",
        ] {
            assert_eq!(of(sql), Leftover::Nothing, "{sql}");
        }
    }

    #[test]
    fn code_blocks_may_leave_settings() {
        let of = |sql: &str| leftover(sql.as_bytes(), true);
        assert_eq!(of("SELECT 'set_config'"), Leftover::Nothing);
        assert_eq!(of("SELECT set_config('a.b', 'c', false)"), Leftover::Settings);
        assert_eq!(of("DO $$BEGIN SET search_path TO x; END$$"), Leftover::Settings);
        assert_eq!(of("/* x */ CALL p()"), Leftover::Settings);
        assert_eq!(of("DO $$BEGIN PERFORM pg_advisory_lock(1); END$$"), Leftover::AdvisoryLock("pg_advisory_lock"));
    }
}
