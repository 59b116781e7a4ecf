//! `set_config` in a statement: which settings it changes, as far as its arguments tell.

use super::own_settings::truth;
use crate::sql::{ParamFormat, StringKind, Token, TokenKind, tokens};

/// One setting that a statement changes by `set_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// In lower case.
    pub name: String,
    /// `None`: it must be read back, for it is computed, or the call need not have been made.
    pub value: Option<String>,
    /// Until the end of the transaction.
    pub is_local: bool,
}

/// A statement's parameters: formats and values of its Bind.
#[derive(Debug, Clone, Copy, Default)]
pub struct BoundParams<'a> {
    pub formats: &'a [ParamFormat],
    pub values: &'a [Option<&'a [u8]>],
}

/// What an argument says.
enum Argument {
    Text(String),
    Computed,
}

/// The changes of all calls in a statement, in order; `None` when a setting's name or its scope is computed.
pub fn setting_changes(sql: &[u8], has_standard_strings: bool, params: BoundParams<'_>) -> Option<Vec<SettingChange>> {
    let all: Vec<Token> = tokens(sql, has_standard_strings).collect();
    let calls = calls(sql, &all);
    let is_certain = is_plain(sql, &all, &calls);
    let mut changes = Vec::with_capacity(calls.len());
    for call in &calls {
        let [name, value, is_local] = call.arguments.as_slice() else { return None };
        let name = match argument(sql, &all[name.clone()], params) {
            Argument::Text(name) => name,
            Argument::Computed => listed_name(sql, &all, call)?,
        };
        let Argument::Text(is_local) = argument(sql, &all[is_local.clone()], params) else { return None };
        let value = match argument(sql, &all[value.clone()], params) {
            Argument::Text(value) if is_certain => Some(value),
            _ => None,
        };
        changes.push(SettingChange { name: name.to_ascii_lowercase(), value, is_local: truth(is_local.trim())? });
    }
    Some(changes)
}

/// Whether a statement does nothing but call `set_config`: `SELECT set_config(…) [AS x], …`.
pub fn is_settings_only(sql: &[u8], has_standard_strings: bool) -> bool {
    let all: Vec<Token> = tokens(sql, has_standard_strings).collect();
    is_plain(sql, &all, &calls(sql, &all))
}

/// The one name in `SELECT set_config(name, …, …) FROM pg_settings WHERE name = '…'`: a setting that may not be there, as pg_dump
/// sets one.
fn listed_name(sql: &[u8], all: &[Token], call: &Call) -> Option<String> {
    let is_word = |at: usize, word: &str| all.get(at).is_some_and(|token| token.is_word(sql, word));
    let is_dot = |at: usize| all.get(at).is_some_and(|token| token.is_punctuation(b'.'));
    let skip_schema = |at: usize| if is_word(at, "pg_catalog") && is_dot(at + 1) { at + 2 } else { at };
    let name = call.arguments.first()?;
    let is_column = name.len() == 1 && is_word(name.start, "name");
    if !is_column || !is_word(0, "select") || skip_schema(1) != call.range.start || !is_word(call.range.end, "from") {
        return None;
    }
    let at = skip_schema(call.range.end + 1);
    let is_equal = all.get(at + 3).is_some_and(|token| token.text(sql) == b"=");
    if !(is_word(at, "pg_settings") && is_word(at + 1, "where") && is_word(at + 2, "name") && is_equal) {
        return None;
    }
    let listed = all.get(at + 4).filter(|token| token.kind == TokenKind::String(StringKind::Plain))?;
    let is_end = all[at + 5..].iter().all(|token| token.is_punctuation(b';'));
    if is_end { plain_string(listed.text(sql)) } else { None }
}

struct Call {
    /// Tokens from the name to the closing parenthesis.
    range: std::ops::Range<usize>,
    arguments: Vec<std::ops::Range<usize>>,
}

fn is_name(sql: &[u8], token: Token) -> bool {
    token.is_word(sql, "set_config") || token.kind == TokenKind::QuotedIdentifier && token.text(sql) == b"\"set_config\""
}

fn calls(sql: &[u8], all: &[Token]) -> Vec<Call> {
    let mut calls = Vec::new();
    for at in 0..all.len() {
        if is_name(sql, all[at])
            && all.get(at + 1).is_some_and(|token| token.is_punctuation(b'('))
            && let Some(call) = call(all, at)
        {
            calls.push(call);
        }
    }
    calls
}

fn call(all: &[Token], name: usize) -> Option<Call> {
    let (mut depth, mut start, mut arguments) = (0_usize, name + 2, Vec::new());
    for (at, token) in all.iter().enumerate().skip(name + 1) {
        match token.kind {
            TokenKind::Punctuation(b'(' | b'[') => depth += 1,
            TokenKind::Punctuation(b')' | b']') => {
                depth -= 1;
                if depth == 0 {
                    arguments.push(start..at);
                    return Some(Call { range: name..at + 1, arguments });
                }
            }
            TokenKind::Punctuation(b',') if depth == 1 => {
                arguments.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
    }
    None
}

/// Whether each call is surely made, and once.
fn is_plain(sql: &[u8], all: &[Token], calls: &[Call]) -> bool {
    if calls.is_empty() || !all.first().is_some_and(|token| token.is_word(sql, "select")) {
        return false;
    }
    let mut at = 1;
    for (call_idx, call) in calls.iter().enumerate() {
        if call_idx > 0 {
            if !all.get(at).is_some_and(|token| token.is_punctuation(b',')) {
                return false;
            }
            at += 1;
        }
        let is_qualified = all.get(at).is_some_and(|token| token.is_word(sql, "pg_catalog"))
            && all.get(at + 1).is_some_and(|token| token.is_punctuation(b'.'));
        at += if is_qualified { 2 } else { 0 };
        let is_simple = call.arguments.iter().all(|argument| is_simple(sql, &all[argument.clone()]));
        if at != call.range.start || !is_simple {
            return false;
        }
        at = call.range.end;
        if all.get(at).is_some_and(|token| token.is_word(sql, "as")) {
            at += 2;
        }
    }
    at >= all.len() || all[at..].iter().all(|token| token.is_punctuation(b';'))
}

/// A literal or a parameter, cast or not.
fn is_simple(sql: &[u8], argument: &[Token]) -> bool {
    let is_value = |token: &Token| {
        matches!(token.kind, TokenKind::String(_) | TokenKind::Parameter(_) | TokenKind::Number)
            || ["true", "false", "null"].iter().any(|word| token.is_word(sql, word))
    };
    match argument {
        [value] => is_value(value),
        [value, cast, ..] => {
            is_value(value) && cast.text(sql) == b"::" && argument[2..].iter().all(|token| token.kind == TokenKind::Word)
        }
        [] => false,
    }
}

fn argument(sql: &[u8], argument: &[Token], params: BoundParams<'_>) -> Argument {
    if !is_simple(sql, argument) {
        return Argument::Computed;
    }
    let text = match argument[0].kind {
        TokenKind::String(StringKind::Plain) => plain_string(argument[0].text(sql)),
        TokenKind::Word => {
            Some(String::from_utf8_lossy(argument[0].text(sql)).to_ascii_lowercase()).filter(|word| word != "null")
        }
        TokenKind::Parameter(number) => param(number, params),
        _ => None,
    };
    text.map_or(Argument::Computed, Argument::Text)
}

fn plain_string(token: &[u8]) -> Option<String> {
    let inner = token.strip_prefix(b"'")?.strip_suffix(b"'")?;
    Some(std::str::from_utf8(inner).ok()?.replace("''", "'"))
}

/// A parameter's text; the one byte of a boolean in binary as `true` or `false`.
fn param(number: u16, params: BoundParams<'_>) -> Option<String> {
    let idx = usize::from(number).checked_sub(1)?;
    let value = (*params.values.get(idx)?)?;
    match (params.formats.get(idx)?, value) {
        (ParamFormat::Binary, [0]) => Some("false".to_owned()),
        (ParamFormat::Binary, [1]) => Some("true".to_owned()),
        (_, bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: &str) {
        let params = BoundParams {
            formats: &[ParamFormat::Text, ParamFormat::Text, ParamFormat::Binary],
            values: &[Some(b"app.user"), Some(b"7"), Some(&[1])],
        };
        let text = match setting_changes(sql.as_bytes(), true, params) {
            None => "?".to_owned(),
            Some(changes) => {
                let shown = changes.iter().map(|change| {
                    let scope = if change.is_local { " local" } else { "" };
                    format!("{}={}{scope}", change.name, change.value.as_deref().unwrap_or("?"))
                });
                shown.collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(text, expected, "{sql}");
    }

    #[test]
    fn arguments_tell_what_is_changed() {
        check("SELECT set_config('App.User', 'it''s', false)", "app.user=it's");
        check("select pg_catalog.set_config('a', '1', TRUE) AS x, set_config('b', '2', 'f');", "a=1 local b=2");
        check("SELECT set_config($1, $2, $3)", "app.user=7 local");
        check("SELECT set_config($1::text, $2::text, false)", "app.user=7");
    }

    #[test]
    fn what_is_computed_is_read_back() {
        check("SELECT set_config('a', 'x' || 'y', false)", "a=?");
        check("SELECT set_config('a', NULL, false)", "a=?");
        check("SELECT set_config('a', 'x', false) WHERE 1 = 0", "a=?");
        check("SELECT set_config('a', 'x', false) FROM t", "a=?");
        check("SELECT CASE WHEN true THEN set_config('a', (SELECT 'x'), true) END", "a=? local");
        check("SELECT set_config(n, v, false) FROM t", "?");
        check("SELECT set_config('a', 'x', b) FROM t", "?");
        check("SELECT set_config(name, 'view', false) FROM pg_settings WHERE name = 'a'", "a=?");
        check("select pg_catalog.set_config(name, 'view', false) from pg_catalog.pg_settings where name = 'a';", "a=?");
        check("SELECT set_config(name, 'view', false) FROM pg_settings WHERE name = 'a' OR true", "?");
        check("SELECT set_config(name, 'view', false) FROM pg_settings WHERE name LIKE 'a'", "?");
        check("SELECT set_config(name, 'view', false) FROM mine WHERE name = 'a'", "?");
    }
}
