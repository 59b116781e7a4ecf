//! Clauses of queries.

use std::borrow::Cow;

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

use super::rewriting::{Rewriting, word};
use crate::sql::fold_identifier;

/// The words that begin a query.
const QUERY: &str = "select|with|values|table|insert|update|delete|merge";
const SET_OPERATION: &str = "union|intersect|except";

/// What a word of Postgres's grammar that the parser knows begins here.
pub(super) fn at_keyword(text: &mut Rewriting, idx: usize, keyword: Keyword) {
    match keyword {
        Keyword::ONLY => only(text, idx),
        Keyword::FOR => locks(text, idx),
        Keyword::GROUP => groups(text, idx),
        Keyword::GROUPING => grouping_sets(text, idx),
        Keyword::SELECT => empty_list(text, idx),
        Keyword::TABLE => table_command(text, idx),
        Keyword::ROWS => rows_from(text, idx),
        Keyword::AS => column_definitions(text, idx),
        Keyword::USING => join_alias(text, idx),
        Keyword::EXCLUDE => exclusion(text, idx),
        Keyword::PRECEDING | Keyword::FOLLOWING => frame_bound(text, idx),
        Keyword::SEARCH => search(text, idx),
        Keyword::CYCLE => cycle(text, idx),
        Keyword::REPEATABLE => sample_seed(text, idx),
        _ => {}
    }
}

/// `OVERRIDING SYSTEM VALUE` of INSERT.
pub(super) fn overriding(text: &mut Rewriting, idx: usize) {
    if text.has_words(idx + 1, &["system|user", "value"]) {
        text.leave_out(idx..idx + 3);
    }
}

/// ONLY before a table's name.
fn only(text: &mut Rewriting, idx: usize) {
    let is_before_table = text.follows(idx, &["from|join|update|into|using|table|truncate|lateral|on"])
        || text.follows_token(idx, &Token::Comma)
        || text.follows_token(idx, &Token::LParen);
    if is_before_table {
        text.leave_out(idx..idx + 1);
    }
}

/// `FOR READ ONLY`, which says nothing; NO KEY and KEY of locking clauses, and a list of tables: each in a clause of its own.
fn locks(text: &mut Rewriting, idx: usize) {
    if text.has_words(idx, &["for", "read", "only"]) {
        return text.leave_out(idx..idx + 3);
    }
    let strength = if text.has_words(idx, &["for", "no", "key", "update"]) {
        text.leave_out(idx + 1..idx + 3);
        idx + 3
    } else if text.has_words(idx, &["for", "key", "share"]) {
        text.leave_out(idx + 1..idx + 2);
        idx + 2
    } else if text.has_words(idx, &["for", "update|share"]) {
        idx + 1
    } else {
        return;
    };
    let (Some(strength_word), true) = (text.get(strength).cloned(), text.has_words(strength + 1, &["of"])) else { return };
    let mut at = strength + 3;
    while text.is(at, &Token::Comma) {
        text.replace(at, [word("FOR"), strength_word.clone(), word("OF")]);
        at += 2;
    }
}

/// `GROUP BY ALL` is GROUP BY; DISTINCT makes fewer groups.
fn groups(text: &mut Rewriting, idx: usize) {
    if text.has_words(idx, &["group", "by", "all|distinct"]) {
        text.is_loose |= text.has_words(idx + 2, &["distinct"]);
        text.leave_out(idx + 2..idx + 3);
    }
}

/// Sets within sets: their columns are those of the lists that they are.
fn grouping_sets(text: &mut Rewriting, idx: usize) {
    let open = idx + 2;
    let (Some(close), true, false) =
        (text.closing(open), text.has_words(idx, &["grouping", "sets"]) && text.is(open, &Token::LParen), text.is_changed(idx))
    else {
        return;
    };
    let is_nested = |at: usize| text.has_words(at, &["grouping", "sets"]) || text.has_words(at, &["rollup|cube"]);
    if !(open..close).any(is_nested) {
        return;
    }
    text.is_loose = true;
    text.leave_out(idx..open);
    for at in open..close {
        if text.is(at, &Token::LParen) && text.is(at + 1, &Token::RParen) {
            text.insert(at + 1, [word("NULL")]);
        } else if text.has_words(at, &["grouping", "sets"]) {
            text.leave_out(at..at + 2);
        } else if text.has_words(at, &["rollup|cube"]) && text.is(at + 1, &Token::LParen) {
            text.leave_out(at..at + 1);
        }
    }
}

/// SELECT of no columns; the parser knows that before FROM.
fn empty_list(text: &mut Rewriting, idx: usize) {
    const ENDS: &str = "where|group|having|order|limit|offset|fetch|for|window|union|intersect|except";
    let is_empty = match text.get(idx + 1) {
        None | Some(Token::RParen | Token::SemiColon) => true,
        Some(Token::Word(word)) if word.keyword != Keyword::NoKeyword => text.has_words(idx + 1, &[ENDS]),
        Some(_) => false,
    };
    if is_empty {
        text.insert(idx + 1, [word("NULL")]);
        text.is_loose = true;
    }
}

/// TABLE as a query. The parser reads it without telling quoted names from others.
fn table_command(text: &mut Rewriting, idx: usize) {
    let begins = idx == 0
        || text.follows_token(idx, &Token::LParen)
        || text.follows(idx, &[SET_OPERATION])
        || text.follows(idx, &[SET_OPERATION, "all|distinct"]);
    if begins && matches!(text.get(idx + 1), Some(Token::Word(_))) {
        text.read_as_select(idx);
    }
}

/// `ROWS FROM (f(…), g(…) AS (a int))`: the functions beside each other, as unnest() takes arrays.
fn rows_from(text: &mut Rewriting, idx: usize) {
    let open = idx + 2;
    if !text.has_words(idx, &["rows", "from"]) || !text.is(open, &Token::LParen) {
        return;
    }
    text.replace(idx, [word("UNNEST")]);
    text.leave_out(idx + 1..open);
    for at in text.within(open) {
        if text.has_words(at, &["as"])
            && text.is(at + 1, &Token::LParen)
            && let Some(close) = text.closing(at + 1)
        {
            text.leave_out(at..close + 1);
        }
    }
    text.is_loose = true;
}

/// `f(…) AS (a int, b text)`: the parser wants a name there, and Postgres takes the function's.
fn column_definitions(text: &mut Rewriting, idx: usize) {
    if !text.follows_token(idx, &Token::RParen) || !text.is(idx + 1, &Token::LParen) || text.is_changed(idx) {
        return;
    }
    if text.has_words(idx + 2, &[QUERY]) || text.is(idx + 2, &Token::LParen) {
        return;
    }
    let name = text.opening(idx - 1).and_then(|open| open.checked_sub(1)).and_then(|before| text.get(before));
    if let Some(Token::Word(name)) = name {
        let name = Token::Word(name.clone());
        text.insert(idx + 1, [name]);
    }
}

/// `JOIN … USING (a) AS x`, where `x.a` is the merged column: of a table that nothing is known of. Where something else has that name,
/// the text stays unread.
fn join_alias(text: &mut Rewriting, idx: usize) {
    let open = idx + 1;
    let Some(close) = text.closing(open).filter(|_| text.is(open, &Token::LParen)) else { return };
    let is_list = (open + 1..close).all(|at| matches!(text.get(at), Some(Token::Word(_) | Token::Comma)));
    let name = |at: usize| match text.get(at) {
        Some(Token::Word(word)) if word.quote_style.is_none() => Some(fold_identifier(&word.value)),
        Some(Token::Word(word)) => Some(Cow::Borrowed(word.value.as_str())),
        _ => None,
    };
    let Some(alias) = name(close + 2) else { return };
    if !is_list || text.has_words(open + 1, &[QUERY]) || !text.has_words(close + 1, &["as"]) {
        return;
    }
    let is_alias = |at: usize| name(at).as_ref() == Some(&alias);
    let is_qualifier = |at: usize| text.is(at + 1, &Token::Period) && !text.follows_token(at, &Token::Period);
    if (0..text.len()).any(|at| at != close + 2 && is_alias(at) && !is_qualifier(at)) {
        return;
    }
    text.leave_out(close + 1..close + 3);
    text.is_loose = true;
}

/// EXCLUDE of a window's frame.
fn exclusion(text: &mut Rewriting, idx: usize) {
    if !text.follows(idx, &["preceding|following|row"]) {
        return;
    }
    if text.has_words(idx + 1, &["current", "row"]) || text.has_words(idx + 1, &["no", "others"]) {
        text.leave_out(idx..idx + 3);
    } else if text.has_words(idx + 1, &["group|ties"]) {
        text.leave_out(idx..idx + 2);
    } else {
        return;
    }
    text.is_loose = true;
}

/// `'1 day'::interval PRECEDING`: after a string the parser expects nothing more.
fn frame_bound(text: &mut Rewriting, idx: usize) {
    let before = (0..idx).rev().find(|&at| text.has_words(at, &["between|and|range|rows|groups"]));
    if let Some(start) = before.map(|before| before + 1).filter(|&start| text.is_string(start) && idx > start + 1) {
        text.insert(start, [Token::LParen]);
        text.insert(idx, [Token::RParen]);
    }
}

/// `SEARCH DEPTH FIRST BY a, b SET c` of a WITH query.
fn search(text: &mut Rewriting, idx: usize) {
    if !text.follows_token(idx, &Token::RParen) || !text.has_words(idx + 1, &["depth|breadth", "first", "by"]) {
        return;
    }
    if let Some(set) = (idx + 4..text.len()).find(|&at| text.has_words(at, &["set"])) {
        text.leave_out(idx..set + 2);
        text.is_loose = true;
    }
}

/// `CYCLE a, b SET c TO x DEFAULT y USING d` of a WITH query.
fn cycle(text: &mut Rewriting, idx: usize) {
    let after = idx.checked_sub(1).is_some_and(|before| text.is(before, &Token::RParen) || text.is_changed(before));
    let is_name = |at: &usize| matches!(text.get(*at), Some(Token::Word(_) | Token::Comma)) && !text.has_words(*at, &["set"]);
    let set = idx + 1 + (idx + 1..text.len()).take_while(is_name).count();
    if !after || !text.has_words(set, &["set"]) {
        return;
    }
    if let Some(using) = (set + 2..text.len()).find(|&at| text.has_words(at, &["using"])) {
        text.leave_out(idx..using + 2);
        text.is_loose = true;
    }
}

/// TABLESAMPLE's seed as an expression.
fn sample_seed(text: &mut Rewriting, idx: usize) {
    let open = idx + 1;
    if let Some(close) = text.closing(open).filter(|_| text.is(open, &Token::LParen))
        && !(close == open + 2 && matches!(text.get(open + 1), Some(Token::Number(..))))
        && close > open + 1
    {
        text.leave_out(open + 1..close);
        text.insert(open + 1, [Token::Number("0".to_owned(), false)]);
    }
}

/// `FROM a*`: with the tables that inherit from it, as without the star.
pub(super) fn inheritance(text: &mut Rewriting, idx: usize) {
    let Some(start) = text.start_of_name(idx) else { return };
    let is_table = text.follows(start, &["join|only"]) || (text.follows(start, &["from"]) && is_clause(text, start - 1));
    if is_table && !text.is_changed(idx) {
        text.leave_out(idx..idx + 1);
    }
}

/// Whether a FROM is a query's: not that of `extract(epoch FROM a * b)` nor of `IS DISTINCT FROM`.
fn is_clause(text: &Rewriting, from: usize) -> bool {
    if text.follows(from, &["is|not", "distinct"]) {
        return false;
    }
    let mut depth = 0_usize;
    for at in (0..from).rev() {
        match text.get(at) {
            Some(Token::RParen) => depth += 1,
            Some(Token::LParen) if depth == 0 => return false,
            Some(Token::LParen) => depth -= 1,
            _ if depth == 0 && text.has_words(at, &["select|delete"]) => return true,
            _ => {}
        }
    }
    false
}

/// `((SELECT …) UNION SELECT …)` as an operand: the parser looks for SELECT after the first parenthesis.
pub(super) fn parenthesised_operand(text: &mut Rewriting, idx: usize) {
    let inner = idx + 1;
    if !text.is(inner, &Token::LParen) || text.follows(idx, &["from|join|lateral|as|in|exists|any|all|some"]) {
        return;
    }
    let first_word = (inner..text.len()).find(|&at| !text.is(at, &Token::LParen));
    let begins_query = first_word.is_some_and(|at| text.has_words(at, &["select|with|values|table"]));
    let is_combined = text.closing(inner).is_some_and(|close| text.has_words(close + 1, &[SET_OPERATION]));
    if begins_query && is_combined && idx > 0 {
        text.insert(inner, [word("SELECT"), Token::Mul, word("FROM")]);
    }
}
