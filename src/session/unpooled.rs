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
}

const SESSION_LOCKS: [&str; 4] =
    ["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"];

/// Looks through a statement's words.
pub fn leftover(sql: &[u8], has_standard_strings: bool) -> Leftover {
    let mut found = Leftover::Nothing;
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
