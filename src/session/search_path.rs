//! The schemas in which a session looks for names: what its settings `search_path` and `role` mean.

use std::borrow::Cow;

use super::settings::SettingValue;
use crate::sql::{Token, TokenKind, fold_identifier, string_text, tokens};

/// A name that no schema has. It stands for one that cannot be read, so that no table is found in the wrong place.
const UNREADABLE: &str = "\0";

/// Longest name, in bytes: NAMEDATALEN less its terminator.
const MAX_NAME_BYTES: usize = 63;

/// The schemas of a `search_path`, `"$user"` being `user`.
///
/// Text is read as SplitIdentifierString does in src/backend/utils/adt/varlena.c, the words of a SET as its grammar does: there each
/// element is a name of its own, `'a, b'` too.
pub fn schemas(value: &SettingValue, user: &str) -> Vec<String> {
    let names = match value {
        SettingValue::Text(text) => names_of_list(text),
        SettingValue::Sql(words) => names_of_words(words),
    };
    if names.iter().any(|name| name == UNREADABLE) {
        return vec![UNREADABLE.to_owned()];
    }
    let resolved = |name: String| if name == "$user" { user.to_owned() } else { name };
    names.into_iter().map(resolved).filter(|name| !name.is_empty()).collect()
}

/// The role that a value of `role` or `session_authorization` names; `None` for none.
pub fn role(value: &SettingValue) -> Option<String> {
    let name = match value {
        SettingValue::Text(text) => text.clone(),
        SettingValue::Sql(words) => names_of_words(words).into_iter().next()?,
    };
    (!name.is_empty() && name != "none").then_some(name)
}

fn names_of_list(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, end) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_name(quoted),
            None => {
                let end = rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
                (rest[..end].to_ascii_lowercase(), end)
            }
        };
        names.push(cut(name));
        rest = rest[end..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    names
}

/// The name after its opening quote, and where its closing quote ends, counted from the opening one.
fn quoted_name(quoted: &str) -> (String, usize) {
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return (name, at + 2);
        }
    }
    (name, quoted.len() + 1)
}

fn names_of_words(words: &str) -> Vec<String> {
    let name = |token: Token| {
        let text = &words[token.start..token.end];
        match token.kind {
            TokenKind::Word | TokenKind::QuotedIdentifier => Some(fold_identifier(text).into_owned()),
            TokenKind::String(_) => Some(string_text(text).map_or_else(|| UNREADABLE.to_owned(), Cow::into_owned)),
            TokenKind::Number => Some(text.to_owned()),
            _ => None,
        }
    };
    tokens(words.as_bytes(), true).filter_map(name).map(cut).collect()
}

fn cut(mut name: String) -> String {
    if name.len() > MAX_NAME_BYTES {
        let end = (0..=MAX_NAME_BYTES).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        name.truncate(end);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> Vec<String> {
        schemas(&SettingValue::Text(text.to_owned()), "ann")
    }

    fn of_sql(words: &str) -> Vec<String> {
        schemas(&SettingValue::Sql(words.to_owned()), "ann")
    }

    #[test]
    fn text_is_a_list_of_identifiers() {
        assert_eq!(of_text("\"$user\", public"), ["ann", "public"]);
        assert_eq!(of_text(" Foo ,\"B \"\"c\",  d"), ["foo", "B \"c", "d"]);
        assert_eq!(of_text("\"\""), [""; 0]);
        assert_eq!(of_text(""), [""; 0]);
    }

    #[test]
    fn each_element_of_a_set_is_one_name() {
        assert_eq!(of_sql("Foo, \"Bar\", 'a, B', 'x''y'"), ["foo", "Bar", "a, B", "x'y"]);
        assert_eq!(of_sql("public, E'\\x41'"), [UNREADABLE]);
        assert_eq!(of_sql("\"$user\",public"), ["ann", "public"]);
        assert_eq!(of_sql("''"), [""; 0]);
    }

    #[test]
    fn none_is_no_role() {
        let sql = |words: &str| role(&SettingValue::Sql(words.to_owned()));
        assert_eq!((sql("NONE"), sql("'Bob'"), sql("Bob")), (None, Some("Bob".to_owned()), Some("bob".to_owned())));
    }
}
