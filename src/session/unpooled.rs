//! Statements that leave state in a backend's session: told by their words, and by the words of the code that they run.

use std::collections::BTreeMap;

use super::bonds::{self, Bonds};
use super::pins::{PinReason, PinReasons};
use crate::sql::{Command, Token, TokenKind, fold_identifier, tokens};

/// Whether a backend is asked afterwards what state of its session is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Look {
    #[default]
    Never,
    /// Some of what a pinned client has may have ended.
    IfPinned,
    /// Something may have been made.
    Always,
}

/// What becomes of settings beside SET and RESET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SettingsTrace {
    #[default]
    Kept,
    /// `set_config` is called: its arguments tell.
    Calls,
    /// They may have changed unseen: the backend's settings must be made anew before another client has it.
    Unseen,
}

/// What a statement may leave behind in the session of the backend that runs it. Over-estimated: the backend is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leftover {
    /// State that it may make.
    pub makes: PinReasons,
    pub look: Look,
    pub settings: SettingsTrace,
    /// What ties it to one server while it runs.
    pub bonds: Bonds,
}

/// What code leaves behind, by the name of the function, or of the table whose triggers it is.
pub type CodeEffects = BTreeMap<String, Leftover>;

impl Leftover {
    /// Nothing that outlives the transaction.
    pub const NOTHING: Self =
        Self { makes: PinReasons::NONE, look: Look::Never, settings: SettingsTrace::Kept, bonds: Bonds::NONE };

    /// What may end such state.
    pub const ENDING: Self = Self { look: Look::IfPinned, ..Self::NOTHING };

    /// State of this kind.
    pub const fn making(reason: PinReason) -> Self {
        Self { makes: PinReasons::only(reason), look: Look::Always, ..Self::NOTHING }
    }

    /// Of both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            makes: self.makes.union(other.makes),
            look: self.look.max(other.look),
            settings: self.settings.max(other.settings),
            bonds: self.bonds.union(other.bonds),
        }
    }

    /// Ties, and nothing that is left.
    const fn tied(bonds: Bonds) -> Self {
        Self { bonds, ..Self::NOTHING }
    }

    /// What a command leaves that is sent on to a backend.
    pub fn of_command(command: &Command) -> Self {
        match command {
            Command::Listen => Self { bonds: Bonds::NOTIFIES, ..Self::making(PinReason::Listen) },
            Command::Notify => Self::tied(Bonds::NOTIFIES),
            Command::Unlisten => Self { bonds: Bonds::NOTIFIES, ..Self::ENDING },
            Command::Load => Self::making(PinReason::Other),
            Command::Declare { is_with_hold: true, .. } => Self::making(PinReason::Cursor),
            Command::Close { .. } | Command::Discard(_) => Self::ENDING,
            _ => Self::NOTHING,
        }
    }
}

/// Whether a statement looks into a server's own catalog, whose OIDs mean something on that server only: such statements of
/// all sessions belong on one server. So do those about its transaction numbers.
pub fn reads_catalog(sql: &[u8], has_standard_strings: bool) -> bool {
    tokens(sql, has_standard_strings).filter(|token| token.kind == TokenKind::Word).any(|token| {
        let word = token.text(sql).to_ascii_lowercase();
        ["pg_", "reg", "txid_", "has_"].iter().any(|start| word.starts_with(start.as_bytes()))
            || matches!(word.as_slice(), b"information_schema" | b"oid" | b"format_type" | b"row_security_active")
            || word.ends_with(b"_description")
    })
}

/// Looks through a statement's words. `code` tells of functions and triggers.
pub fn leftover(sql: &[u8], has_standard_strings: bool, code: &CodeEffects) -> Leftover {
    let all = tokens(sql, has_standard_strings);
    let first = all.clone().find(|token| token.kind == TokenKind::Word);
    let is_first = |words: &[&str]| first.is_some_and(|first| words.iter().any(|word| first.is_word(sql, word)));
    let mut found = Leftover::NOTHING;
    if is_first(&["do", "call"]) {
        let unseen = Leftover { settings: SettingsTrace::Unseen, ..Leftover::NOTHING };
        found = unseen.and(code_leftover(&String::from_utf8_lossy(sql)));
        for word in String::from_utf8_lossy(sql).split(|c: char| !c.is_alphanumeric() && c != '_') {
            found = found.and(code.get(&word.to_ascii_lowercase()).copied().unwrap_or_default());
        }
    }
    if is_first(&["drop", "close", "unlisten", "discard"]) {
        found = found.and(Leftover::ENDING);
    }
    match temporary(sql, has_standard_strings) {
        Temporary::None => {}
        Temporary::UntilCommit => found = found.and(Leftover { look: Look::Always, ..Leftover::NOTHING }),
        Temporary::Kept => found = found.and(Leftover::making(PinReason::Temporary)),
    }
    let mut is_harmless = is_first(&["select"]);
    let mut all = all.peekable();
    while let Some(token) = all.next() {
        if !matches!(token.kind, TokenKind::Word | TokenKind::QuotedIdentifier) {
            continue;
        }
        let is_called = all.peek().is_some_and(|next| next.is_punctuation(b'('));
        let name = name_of(sql, token);
        let known = word_leftover(&name, code);
        is_harmless &= !is_called || bonds::is_harmless_call(&name);
        is_harmless &= !matches!(name.as_str(), "insert" | "update" | "delete" | "merge" | "into" | "share");
        found = found.and(Leftover { bonds: known.bonds.as_named(is_called), ..known });
    }
    if is_harmless && (found.bonds.contains(Bonds::LOCKS) || found.makes.contains(PinReason::AdvisoryLock)) {
        found.bonds = found.bonds.union(Bonds::ONLY_LOCKS);
    }
    found
}

/// A word as the name that it may be.
fn name_of(sql: &[u8], token: Token) -> String {
    let text = String::from_utf8_lossy(token.text(sql));
    match token.kind {
        TokenKind::QuotedIdentifier => text.trim_matches('"').to_owned(),
        _ => fold_identifier(&text).into_owned(),
    }
}

fn word_leftover(name: &str, code: &CodeEffects) -> Leftover {
    if !code.is_empty()
        && let Some(known) = code.get(name)
    {
        return *known;
    }
    match name {
        "set_config" => Leftover { settings: SettingsTrace::Calls, ..Leftover::NOTHING },
        "pg_temp" => Leftover::making(PinReason::Temporary),
        "setseed" | "dblink_connect" | "dblink_connect_u" => Leftover::making(PinReason::Other),
        _ if name.starts_with("pg_advisory_lock") || name.starts_with("pg_try_advisory_lock") => {
            Leftover::making(PinReason::AdvisoryLock)
        }
        _ if name.starts_with("pg_advisory_unlock") => Leftover::ENDING,
        _ => Leftover::tied(bonds::of_word(name)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temporary {
    None,
    /// ON COMMIT DROP.
    UntilCommit,
    Kept,
}

/// CREATE [GLOBAL | LOCAL] TEMP …, CREATE OR REPLACE TEMP VIEW, SELECT … INTO TEMP.
fn temporary(sql: &[u8], has_standard_strings: bool) -> Temporary {
    let words = || tokens(sql, has_standard_strings).filter(|token| token.kind == TokenKind::Word);
    let is = |token: &Token, names: &[&str]| names.iter().any(|name| token.is_word(sql, name));
    let Some(temporary) = words().position(|token| is(&token, &["temp", "temporary"])) else { return Temporary::None };
    let before: Vec<_> =
        words().take(temporary).filter(|token| !is(token, &["global", "local", "or", "replace", "recursive"])).collect();
    let is_query = before.first().is_some_and(|first| is(first, &["select", "with"]));
    let is_made = before.last().is_some_and(|last| is_query && is(last, &["into"]) || before.len() == 1 && is(last, &["create"]));
    let is_dropped = words().zip(words().skip(1)).any(|(a, b)| is(&a, &["commit"]) && is(&b, &["drop"]));
    match (is_made, is_dropped) {
        (false, _) => Temporary::None,
        (true, true) => Temporary::UntilCommit,
        (true, false) => Temporary::Kept,
    }
}

/// What a function's or a code block's text may leave behind, told without its language's grammar.
///
/// Text that is put together at run time (EXECUTE) is only seen where its pieces begin with the words in question.
pub fn code_leftover(body: &str) -> Leftover {
    let mut found = Leftover::NOTHING;
    // Whether a statement may begin here, and the two words before.
    let (mut begins, mut before) = (true, [String::new(), String::new()]);
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        if !(c.is_alphanumeric() || c == '_') {
            begins = match c {
                ';' | '\'' | '$' | '"' => true,
                c if c.is_whitespace() => begins,
                _ => false,
            };
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let word = rest[..end].to_ascii_lowercase();
        found = found.and(code_word(&word, begins, &before, rest[end..].trim_start()));
        found.bonds = found.bonds.union(bonds::of_code_word(&word, begins));
        begins = matches!(word.as_str(), "begin" | "then" | "else" | "loop" | "do" | "as");
        let [_, last] = before;
        before = [last, word];
        rest = &rest[end..];
    }
    Leftover { bonds: found.bonds.of_body(), ..found }
}

fn code_word(word: &str, begins: bool, before: &[String; 2], after: &str) -> Leftover {
    let [_, last] = before;
    let call = after;
    let after: String = after.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_lowercase();
    match word {
        "set" if begins && !matches!(after.as_str(), "local" | "constraints" | "transaction") => Leftover::making_settings(),
        "reset" if begins => Leftover::making_settings(),
        "set_config" if is_local_call(call) => Leftover::NOTHING,
        "set_config" => Leftover::making_settings(),
        "execute" => Leftover { look: Look::Always, settings: SettingsTrace::Unseen, ..Leftover::NOTHING },
        "listen" if begins => Leftover::making(PinReason::Listen),
        "load" if begins => Leftover::making(PinReason::Other),
        "hold" if last == "with" => Leftover::making(PinReason::Cursor),
        "temp" | "temporary" if matches!(last.as_str(), "create" | "local" | "global" | "into" | "replace") => {
            Leftover::making(PinReason::Temporary)
        }
        "set" | "reset" => Leftover::NOTHING,
        word => word_leftover(word, &CodeEffects::new()),
    }
}

/// Whether the arguments that begin here end in `true`: `set_config` until the end of the transaction.
fn is_local_call(call: &str) -> bool {
    let mut depth = 0_usize;
    let end = call.find(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ')' && depth == 0
    });
    let arguments = end.and_then(|end| call.get(..end)).unwrap_or_default();
    arguments.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("true"))
}

impl Leftover {
    /// Settings changed by code.
    pub const fn making_settings() -> Self {
        Self { settings: SettingsTrace::Unseen, ..Self::making(PinReason::Settings) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Leftover {
        leftover(sql.as_bytes(), true, &CodeEffects::new())
    }

    #[track_caller]
    fn check(sql: &str, expected: &str) {
        let found = of(sql);
        assert_eq!(format!("{} {:?} {:?}", found.makes, found.look, found.settings).trim(), expected, "{sql}");
    }

    #[test]
    fn catalogs_are_told_by_their_names() {
        assert!(reads_catalog(b"SELECT c.relname FROM pg_catalog.pg_class c", true));
        assert!(reads_catalog(b"SELECT 'users'::regclass", true));
        assert!(reads_catalog(b"SELECT txid_status(7)", true));
        assert!(reads_catalog(b"SELECT obj_description(7, 'pg_largeobject')", true));
        assert!(!reads_catalog(b"SELECT 'pg_class', name FROM countries", true));
    }

    #[test]
    fn session_locks_and_settings_by_function_are_seen() {
        check("SELECT pg_advisory_lock(1)", "advisory_lock Always Kept");
        check("SELECT \"pg_try_advisory_lock_shared\"(1, 2)", "advisory_lock Always Kept");
        check("SELECT pg_advisory_unlock_all()", "IfPinned Kept");
        check("SELECT SET_CONFIG('a.b', 'c', false)", "Never Calls");
        check("SELECT 'set_config', pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(1)", "Never Kept");
    }

    #[test]
    fn temporary_tables_are_seen_unless_the_commit_drops_them() {
        for sql in [
            "CREATE TEMP TABLE a (n int)",
            "create or replace temporary view v as select 1",
            "SELECT 1 AS n INTO TEMP a",
            "CREATE TABLE pg_temp.a (n int)",
        ] {
            check(sql, "temporary Always Kept");
        }
        check("CREATE TEMP TABLE a (n int) ON COMMIT DROP", "Always Kept");
        for sql in ["SELECT temp FROM readings", "CREATE TABLE temp (n int)", "INSERT INTO temp VALUES (1)"] {
            check(sql, "Never Kept");
        }
        check("DROP TABLE a", "IfPinned Kept");
    }

    #[test]
    fn code_is_read_for_what_it_may_leave() {
        check("SELECT 'set_config'", "Never Kept");
        check("DO $$BEGIN PERFORM 1; UPDATE t SET a = 1; END$$", "Never Unseen");
        check("DO $$BEGIN SET search_path TO x; END$$", "settings Always Unseen");
        check("DO $$BEGIN SET LOCAL search_path TO x; END$$", "Never Unseen");
        check("DO $$BEGIN EXECUTE 'SET x.y = 1'; END$$", "settings Always Unseen");
        check("DO $$BEGIN EXECUTE format('ANALYZE %I', t); END$$", "Always Unseen");
        check("DO $$BEGIN PERFORM set_config('a.b', f(1), true); END$$", "Never Unseen");
        check("DO $$BEGIN PERFORM set_config('a.b', f(true), false); END$$", "settings Always Unseen");
        check("/* x */ CALL p()", "Never Unseen");
        check("DO $$BEGIN PERFORM pg_advisory_lock(1); END$$", "advisory_lock Always Unseen");
        check("DO $$BEGIN CREATE TEMP TABLE x (n int); LISTEN y; END$$", "listen, temporary Always Unseen");
    }

    #[test]
    fn ties_to_one_server_are_seen() {
        let bonds = |sql: &str| of(sql).bonds;
        let only_locks = Bonds::LOCKS.union(Bonds::ONLY_LOCKS);
        assert_eq!(bonds("SELECT pg_advisory_xact_lock(hashtext('x'))"), only_locks);
        assert_eq!(bonds("SELECT pg_advisory_xact_lock(charge(7))"), Bonds::LOCKS);
        assert_eq!(bonds("SELECT pg_advisory_lock(7)"), Bonds::ONLY_LOCKS);
        assert_eq!(bonds("SELECT pg_notify('a', 'insert')"), Bonds::NOTIFIES);
        assert_eq!(bonds("INSERT INTO t VALUES (currval('s'))"), Bonds::MOVES_SEQUENCES.union(Bonds::READS_SEQUENCE));
        assert_eq!(bonds("SELECT name FROM users WHERE email = 'nextval('"), Bonds::NONE);
        assert_eq!(bonds("DO $$BEGIN NOTIFY x; END$$"), Bonds::NOTIFIES.union(Bonds::MEETS));
        let code = CodeEffects::from([("ring".to_owned(), code_leftover("BEGIN PERFORM pg_notify('a', 'b'); END"))]);
        let of = |sql: &str| leftover(sql.as_bytes(), true, &code).bonds;
        assert_eq!(of("SELECT ring()"), Bonds::NOTIFIES.union(Bonds::MEETS));
        assert_eq!(of("UPDATE ring SET a = 1"), Bonds::NOTIFIES.union(Bonds::MEETS_BY_TRIGGER));
    }

    #[test]
    fn functions_and_triggers_are_known_by_name() {
        let code = CodeEffects::from([("log_in".to_owned(), Leftover::making(PinReason::AdvisoryLock))]);
        let found = leftover(b"SELECT Log_In(1)", true, &code);
        assert_eq!(found.makes, PinReasons::only(PinReason::AdvisoryLock));
        assert_eq!(leftover(b"DO $$BEGIN PERFORM log_in(1); END$$", true, &code).makes, found.makes);
    }
}
