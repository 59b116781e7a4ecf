//! Statements about the session or the transaction.

use super::super::cursor::Cursor;
use super::super::lexer::TokenKind;
use super::{Command, DeallocateTarget, DiscardTarget, SetScope};

/// The command whose first word is `first`; `None` if it is none, or is not as the grammar has it.
pub(super) fn command(first: &str, mut cursor: Cursor<'_>) -> Option<Command> {
    let at = &mut cursor;
    let command = match first {
        "begin" => begin(at)?,
        "start" if at.take("transaction") => Command::Begin { modes: modes(at)? },
        "commit" | "rollback" if at.take("prepared") => two_phase(at)?,
        "commit" | "end" => Command::Commit { and_chain: chain(at)? },
        "rollback" => rollback(at)?,
        "abort" => Command::Rollback { and_chain: chain(at)? },
        "savepoint" => Command::Savepoint { name: at.name()? },
        "release" => Command::Release { name: savepoint_name(at)? },
        "set" => set(at)?,
        "reset" => reset(at)?,
        "show" => Command::Show { name: shown_setting(at)? },
        "discard" => Command::Discard(discard_target(at)?),
        "deallocate" => deallocate(at)?,
        "prepare" => return prepare(at),
        "declare" => return declare(at),
        "fetch" | "move" => fetch(at)?,
        "close" if at.take("all") => Command::Close { name: None },
        "close" => Command::Close { name: Some(at.name()?) },
        // What follows these is Postgres's to check.
        "execute" => return Some(Command::Execute { name: at.name()? }),
        "listen" => return Some(Command::Listen),
        "unlisten" => return Some(Command::Unlisten),
        "notify" => return Some(Command::Notify),
        "load" => return Some(Command::Load),
        "lock" => return Some(Command::LockTable),
        _ => return None,
    };
    cursor.is_at_end().then_some(command)
}

fn begin(at: &mut Cursor<'_>) -> Option<Command> {
    at.take_any(&["work", "transaction"]);
    Some(Command::Begin { modes: modes(at)? })
}

/// Transaction modes, with or without commas between them, to the statement's end.
fn modes(at: &mut Cursor<'_>) -> Option<String> {
    let text = at.rest();
    while !at.is_at_end() {
        let is_mode = (at.take_all(&["isolation", "level"]) && isolation_level(at))
            || at.take_all(&["read", "only"])
            || at.take_all(&["read", "write"])
            || at.take_all(&["not", "deferrable"])
            || at.take("deferrable");
        if !is_mode || (at.take_punctuation(b',') && at.is_at_end()) {
            return None;
        }
    }
    Some(text)
}

fn isolation_level(at: &mut Cursor<'_>) -> bool {
    at.take("serializable")
        || at.take_all(&["repeatable", "read"])
        || at.take_all(&["read", "committed"])
        || at.take_all(&["read", "uncommitted"])
}

fn chain(at: &mut Cursor<'_>) -> Option<bool> {
    at.take_any(&["work", "transaction"]);
    if !at.take("and") {
        return Some(false);
    }
    let is_refused = at.take("no");
    at.take("chain").then_some(!is_refused)
}

fn rollback(at: &mut Cursor<'_>) -> Option<Command> {
    let and_chain = chain(at)?;
    if !and_chain && at.take("to") {
        return Some(Command::RollbackTo { name: savepoint_name(at)? });
    }
    Some(Command::Rollback { and_chain })
}

/// `[SAVEPOINT] name`; a savepoint may itself be called `savepoint`.
fn savepoint_name(at: &mut Cursor<'_>) -> Option<String> {
    let first = at.name()?;
    if first == "savepoint" && !at.is_at_end() { at.name() } else { Some(first) }
}

fn two_phase(at: &mut Cursor<'_>) -> Option<Command> {
    let has_name = at.is_at_string();
    at.advance();
    has_name.then_some(Command::TwoPhase)
}

fn set(at: &mut Cursor<'_>) -> Option<Command> {
    let scope = set_scope(at);
    let reset_or_default = |name: &str| match scope {
        SetScope::Session => Command::Reset { name: name.to_owned() },
        SetScope::Transaction => Command::Set { scope, name: name.to_owned(), value: "DEFAULT".to_owned() },
    };
    if at.take_all(&["session", "characteristics", "as", "transaction"]) {
        return non_empty(modes(at)?).map(|modes| Command::SetCharacteristics { modes });
    }
    if let Some(modes) = transaction_modes(at) {
        return Some(Command::SetTransaction { modes });
    }
    if is_set_constraints(at) {
        return Some(Command::SetConstraints);
    }
    let (name, form) = set_name(at)?;
    let is_default = match form {
        "time zone" if at.take("local") => true,
        "names" if at.is_at_end() => true,
        _ => at.take("default"),
    };
    if is_default {
        return Some(reset_or_default(&name));
    }
    let value = non_empty(at.rest())?;
    is_value_list(at).then_some(Command::Set { scope, name, value })
}

/// SET, SET SESSION or SET LOCAL: but `session` begins two other forms as well, and either may be a setting's name.
fn set_scope(at: &mut Cursor<'_>) -> SetScope {
    let mut after = at.clone();
    after.advance();
    if is_after_name(&after) || after.is_at("authorization") || after.is_at("characteristics") {
        return SetScope::Session;
    }
    if at.take("local") {
        return SetScope::Transaction;
    }
    at.take("session");
    SetScope::Session
}

/// `CONSTRAINTS` with ALL or names, and when they are checked.
fn is_set_constraints(at: &mut Cursor<'_>) -> bool {
    let mut ahead = at.clone();
    if !ahead.take("constraints") || ahead.is_at("to") {
        return false;
    }
    let words = ahead.rest().to_ascii_lowercase();
    let is_whole = words.ends_with(" deferred") || words.ends_with(" immediate");
    if is_whole {
        while !ahead.is_at_end() {
            ahead.advance();
        }
        *at = ahead;
    }
    is_whole
}

/// `TRANSACTION` with modes or a snapshot.
fn transaction_modes(at: &mut Cursor<'_>) -> Option<String> {
    let mut ahead = at.clone();
    if !ahead.take("transaction") {
        return None;
    }
    let text = ahead.rest();
    let is_snapshot = ahead.take("snapshot") && ahead.is_at_string();
    if is_snapshot {
        ahead.advance();
    } else {
        non_empty(modes(&mut ahead)?)?;
    }
    *at = ahead;
    Some(text)
}

/// The setting that SET gives a value, and the form in which it does, past its `=` or TO if it has one.
fn set_name(at: &mut Cursor<'_>) -> Option<(String, &'static str)> {
    let forms = [
        ("time zone", "timezone"),
        ("names", "client_encoding"),
        ("schema", "search_path"),
        ("role", "role"),
        ("session authorization", "session_authorization"),
        ("xml option", "xmloption"),
    ];
    for (form, name) in forms {
        let mut ahead = at.clone();
        // These words may be settings' names too: `SET role = x`.
        if form.split(' ').all(|word| ahead.take(word)) && !is_after_name(&ahead) {
            *at = ahead;
            return Some((name.to_owned(), form));
        }
    }
    let name = setting_name(at)?;
    (at.take("to") || at.take_operator("=")).then_some((name, ""))
}

/// Whether what stands here can only follow a setting's name.
fn is_after_name(at: &Cursor<'_>) -> bool {
    at.is_at("to") || at.is_at_punctuation(b'.') || at.clone().take_operator("=")
}

/// A setting's name in lower case: settings are told apart without regard to case, even in quotes.
fn setting_name(at: &mut Cursor<'_>) -> Option<String> {
    non_empty(at.name_parts().join(".").to_ascii_lowercase())
}

/// Takes values separated by commas: words, strings, signed numbers; INTERVAL before a string for a time zone.
fn is_value_list(at: &mut Cursor<'_>) -> bool {
    if at.take("interval") {
        at.skip_parentheses();
        let has_string = at.is_at_string();
        at.advance();
        while at.take_any(&["hour", "to", "minute"]) {}
        return has_string;
    }
    loop {
        let is_signed = at.take_operator("-") || at.take_operator("+");
        let is_value = at.advance().is_some_and(|token| match token.kind {
            TokenKind::Number => true,
            TokenKind::Word | TokenKind::QuotedIdentifier | TokenKind::String(_) => !is_signed,
            _ => false,
        });
        if !is_value || !at.take_punctuation(b',') {
            return is_value;
        }
    }
}

fn reset(at: &mut Cursor<'_>) -> Option<Command> {
    Some(if at.take("all") { Command::ResetAll } else { Command::Reset { name: shown_setting(at)? } })
}

/// The setting of SHOW and RESET, some of which have names of several words.
fn shown_setting(at: &mut Cursor<'_>) -> Option<String> {
    let special = [
        (["time", "zone"].as_slice(), "timezone"),
        (&["transaction", "isolation", "level"], "transaction_isolation"),
        (&["session", "authorization"], "session_authorization"),
    ];
    match special.iter().find(|(words, _)| at.take_all(words)) {
        Some((_, name)) => Some((*name).to_owned()),
        None => setting_name(at),
    }
}

fn discard_target(at: &mut Cursor<'_>) -> Option<DiscardTarget> {
    let target = match at.word().as_str() {
        "all" => DiscardTarget::All,
        "plans" => DiscardTarget::Plans,
        "sequences" => DiscardTarget::Sequences,
        "temp" | "temporary" => DiscardTarget::Temp,
        _ => return None,
    };
    at.advance();
    Some(target)
}

fn deallocate(at: &mut Cursor<'_>) -> Option<Command> {
    let mut after_prepare = at.clone();
    if after_prepare.take("prepare") && !after_prepare.is_at_end() {
        *at = after_prepare;
    }
    let target = if at.take("all") { DeallocateTarget::All } else { DeallocateTarget::Name(at.name()?) };
    Some(Command::Deallocate(target))
}

/// PREPARE name [(types)] AS …, or PREPARE TRANSACTION '…'.
fn prepare(at: &mut Cursor<'_>) -> Option<Command> {
    let mut after_transaction = at.clone();
    if after_transaction.take("transaction") && after_transaction.is_at_string() {
        after_transaction.advance();
        return after_transaction.is_at_end().then_some(Command::TwoPhase);
    }
    let name = at.name()?;
    at.skip_parentheses();
    (at.take("as") && !at.is_at_end()).then_some(Command::Prepare { name })
}

/// DECLARE name [BINARY] [[A|IN]SENSITIVE] [[NO] SCROLL] CURSOR [WITH|WITHOUT HOLD] FOR query.
fn declare(at: &mut Cursor<'_>) -> Option<Command> {
    let name = at.name()?;
    while at.take_any(&["binary", "asensitive", "insensitive", "no", "scroll"]) {}
    if !at.take("cursor") {
        return None;
    }
    let is_with_hold = at.take_all(&["with", "hold"]);
    if !is_with_hold {
        at.take_all(&["without", "hold"]);
    }
    (at.take("for") && !at.is_at_end()).then_some(Command::Declare { name, is_with_hold })
}

/// The cursor's name is the last word; a direction may stand before it.
fn fetch(at: &mut Cursor<'_>) -> Option<Command> {
    let mut name = None;
    while !at.is_at_end() {
        let token = at.current()?;
        name = at.name();
        let is_count = token.kind == TokenKind::Number || at.clone().take_operator("-") || at.clone().take_operator("+");
        if name.is_none() {
            if !is_count {
                return None;
            }
            at.advance();
        }
    }
    Some(Command::Fetch { name: name? })
}

fn non_empty(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}
