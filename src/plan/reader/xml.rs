//! The functions of SQL/XML, which have words of their own between their arguments.

use sqlparser::tokenizer::Token;

use super::rewriting::{Rewriting, word};

/// A word that begins with `xml`, in lower case.
pub(super) fn at_word(text: &mut Rewriting, idx: usize, word: &str) {
    if !text.is(idx + 1, &Token::LParen) {
        return;
    }
    let direct = text.within(idx + 1);
    match word {
        "xmlelement" | "xmlpi" => named(text, idx + 2),
        "xmlattributes" | "xmlforest" => aliases(text, direct),
        "xmlroot" => root(text, direct),
        "xmlserialize" => serialize(text, idx, direct),
        "xmlexists" => exists(text, direct),
        "xmltable" => table(text, idx, direct),
        "xmlnamespaces" => namespaces(text, direct),
        _ => {}
    }
}

/// `(NAME a, …)`.
fn named(text: &mut Rewriting, idx: usize) {
    if text.has_words(idx, &["name"]) && matches!(text.get(idx + 1), Some(Token::Word(_))) {
        text.leave_out(idx..idx + 2 + usize::from(text.is(idx + 2, &Token::Comma)));
    }
}

/// `a AS b`.
fn aliases(text: &mut Rewriting, direct: Vec<usize>) {
    for at in direct {
        if text.has_words(at, &["as"]) {
            text.leave_out(at..at + 2);
        }
    }
}

/// `, VERSION NO VALUE, STANDALONE YES`.
fn root(text: &mut Rewriting, direct: Vec<usize>) {
    for at in direct {
        if text.has_words(at, &["version", "no", "value"]) {
            text.leave_out(at - 1..at + 3);
        } else if text.has_words(at, &["version"]) && text.follows_token(at, &Token::Comma) {
            text.leave_out(at..at + 1);
        } else if text.has_words(at, &["standalone", "yes|no"]) {
            text.leave_out(at - 1..at + 2 + usize::from(text.has_words(at + 2, &["value"])));
        }
    }
}

/// `(CONTENT a AS text)`.
fn serialize(text: &mut Rewriting, idx: usize, direct: Vec<usize>) {
    if text.has_words(idx + 2, &["content|document"]) {
        text.leave_out(idx + 2..idx + 3);
    }
    if let (Some(close), Some(at)) = (text.closing(idx + 1), direct.into_iter().find(|&at| text.has_words(at, &["as"]))) {
        text.leave_out(at..close);
    }
}

/// `(a PASSING BY REF b BY REF)`.
fn exists(text: &mut Rewriting, direct: Vec<usize>) {
    for at in direct {
        if text.has_words(at, &["passing"]) {
            text.replace(at, [Token::Comma]);
        }
        by_reference(text, at);
    }
}

fn by_reference(text: &mut Rewriting, at: usize) {
    if text.has_words(at, &["by", "ref|value"]) {
        text.leave_out(at..at + 2);
    }
}

/// LATERAL, which such a table is without saying so, and `BY REF`.
fn table(text: &mut Rewriting, idx: usize, direct: Vec<usize>) {
    if text.follows(idx, &["lateral"]) {
        text.leave_out(idx - 1..idx);
    }
    direct.into_iter().for_each(|at| by_reference(text, at));
}

/// `(DEFAULT 'uri')`.
fn namespaces(text: &mut Rewriting, direct: Vec<usize>) {
    for at in direct {
        if text.has_words(at, &["default"]) {
            text.leave_out(at..at + 1);
            text.insert(at + 2, [word("AS"), word("x")]);
        }
    }
}
