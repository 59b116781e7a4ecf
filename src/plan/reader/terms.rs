//! Expressions.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

use super::rewriting::{Rewriting, word};
use crate::sql::{TokenKind, tokens};

/// What a word of Postgres's grammar that the parser knows begins here.
pub(super) fn at_keyword(text: &mut Rewriting, idx: usize, keyword: Keyword) {
    match keyword {
        Keyword::BETWEEN => symmetric(text, idx),
        Keyword::COLLATION => collation_for(text, idx),
        Keyword::BOTH | Keyword::LEADING | Keyword::TRAILING => trim(text, idx),
        Keyword::VARIADIC => variadic(text, idx),
        Keyword::SUBSTRING => substring(text, idx),
        Keyword::ANY | Keyword::ALL | Keyword::SOME => quantified(text, idx),
        _ => {}
    }
}

/// `===`: what touches is one operator by Postgres's rules (src/backend/parser/scan.l), and several tokens of the parser. An
/// operator's name says nothing to the planner but for the built-in comparisons; which functions stand behind operators is told by
/// the text.
pub(super) fn operators(text: &mut Rewriting) {
    let mut idx = 0;
    while idx < text.len() {
        let end = (idx..text.len()).take_while(|&at| text.is_operator(at) && (at == idx || text.touches(at))).count() + idx;
        if end > idx + 1 || matches!(text.get(idx), Some(Token::CustomBinaryOperator(_))) {
            one_operator(text, idx..end);
        }
        idx = end.max(idx + 1);
    }
}

fn one_operator(text: &mut Rewriting, range: std::ops::Range<usize>) {
    let spelled: String = range.clone().filter_map(|idx| text.get(idx).map(Token::to_string)).collect();
    let mut parts = tokens(spelled.as_bytes(), true).filter(|token| token.kind == TokenKind::Operator);
    let mut idx = range.start;
    while idx < range.end {
        let Some(part) = parts.next().map(|part| spelled[part.start..part.end].to_owned()) else { return };
        let mut length = 0;
        let first = idx;
        while idx < range.end && length < part.len() {
            length += text.get(idx).map_or(0, |token| token.to_string().len());
            idx += 1;
        }
        let is_prefix = !text.follows_operand(first);
        let is_known = match text.get(first) {
            Some(Token::CustomBinaryOperator(_)) => !is_prefix,
            _ => idx - first == 1,
        };
        if is_known {
            continue;
        }
        text.replace(first, [if is_prefix { Token::AtSign } else { Token::CustomBinaryOperator(part) }]);
        text.leave_out(first + 1..idx);
    }
}

/// `a @@ ANY (…)`, `a OPERATOR(pg_catalog.=) ANY (…)`: the parser knows comparisons there, by their signs.
fn quantified(text: &mut Rewriting, idx: usize) {
    if !text.is(idx + 1, &Token::LParen) || idx == 0 {
        return;
    }
    let before = idx - 1;
    if text.is(before, &Token::RParen)
        && let Some(open) = text.opening(before)
        && text.follows(open, &["operator"])
    {
        let is_equality = text.is(before - 1, &Token::Eq) && text.follows(before - 2, &["pg_catalog"]);
        text.replace(before - 1, [if is_equality { Token::Eq } else { Token::Tilde }]);
        text.leave_out(open - 1..before - 1);
        text.leave_out(before..idx);
        return;
    }
    let is_known = matches!(
        text.get(before),
        Some(Token::Eq | Token::Neq | Token::Lt | Token::LtEq | Token::Gt | Token::GtEq | Token::Tilde | Token::TildeAsterisk)
    );
    if text.is_operator(before) && !is_known && !text.is_changed(before) {
        text.replace(before, [Token::Tilde]);
    }
}

/// A string that goes on in the next line, and `name 'x'`: a constant of a type whose name the parser does not know.
pub(super) fn strings(text: &mut Rewriting, idx: usize) {
    if idx == 0 {
        return;
    }
    if text.is_string(idx - 1) {
        // In the same line it is no SQL, though the parser takes it for an alias.
        text.insert(idx, [if text.begins_line(idx) { Token::StringConcat } else { Token::Char('\'') }]);
        return;
    }
    let Some(Token::Word(last)) = text.get(idx - 1) else { return };
    let is_qualified = text.follows_token(idx - 1, &Token::Period);
    let is_unknown = match last.keyword {
        // The parser knows the words of XMLPARSE.
        Keyword::NoKeyword => !text.has_words(idx - 1, &["content|document"]),
        keyword => keyword == Keyword::NAME || is_qualified,
    };
    let start = if is_qualified { idx.saturating_sub(3) } else { idx - 1 };
    if !is_unknown || text.follows_operand(start) || text.is_changed(start) {
        return;
    }
    let type_name: Vec<Token> = (start..idx).filter_map(|at| text.get(at).cloned()).collect();
    text.leave_out(start..idx);
    text.insert(idx + 1, std::iter::once(Token::DoubleColon).chain(type_name));
}

/// `BETWEEN SYMMETRIC` is read as NOT BETWEEN, which says nothing of keys either.
fn symmetric(text: &mut Rewriting, idx: usize) {
    if !text.has_words(idx, &["between", "symmetric|asymmetric"]) {
        return;
    }
    if text.has_words(idx + 1, &["symmetric"]) && !text.follows(idx, &["not"]) {
        text.insert(idx, [word("NOT")]);
    }
    text.leave_out(idx + 1..idx + 2);
}

/// `a ISNULL`.
pub(super) fn is_null(text: &mut Rewriting, idx: usize) {
    let is_test = text.follows_operand(idx) && !text.follows_token(idx, &Token::Period) && !text.is(idx + 1, &Token::LParen);
    if is_test {
        text.replace(idx, [word("IS"), word("NULL")]);
    }
}

/// `a IS DOCUMENT`.
pub(super) fn is_document(text: &mut Rewriting, idx: usize) {
    if text.follows(idx, &["is"]) || text.follows(idx, &["is", "not"]) {
        text.replace(idx, [word("TRUE")]);
    }
}

/// `collation for (a)`.
fn collation_for(text: &mut Rewriting, idx: usize) {
    if text.has_words(idx + 1, &["for"]) && text.is(idx + 2, &Token::LParen) {
        text.replace(idx, [word("pg_collation_for")]);
        text.leave_out(idx + 1..idx + 2);
    }
}

/// `trim(BOTH FROM a)`.
fn trim(text: &mut Rewriting, idx: usize) {
    if text.has_words(idx + 1, &["from"]) && text.follows_token(idx, &Token::LParen) {
        text.leave_out(idx + 1..idx + 2);
    }
}

/// `f(a, VARIADIC b)`.
fn variadic(text: &mut Rewriting, idx: usize) {
    if text.follows_token(idx, &Token::LParen) || text.follows_token(idx, &Token::Comma) {
        text.leave_out(idx..idx + 1);
    }
}

/// `substring(a SIMILAR b ESCAPE c)`.
fn substring(text: &mut Rewriting, idx: usize) {
    if !text.is(idx + 1, &Token::LParen) {
        return;
    }
    let direct = text.within(idx + 1);
    if !direct.iter().any(|&at| text.has_words(at, &["similar"]) && !text.has_words(at + 1, &["to"])) {
        return;
    }
    for at in direct {
        if text.has_words(at, &["similar|escape"]) {
            text.replace(at, [Token::Comma]);
        }
    }
}

/// `(a).*` is all fields of a row: as far as tables and columns go, the row. `a.* IS NULL`, `a.* = b.*` and `a.*::type` are of the row as a
/// value, which the parser knows as an argument.
pub(super) fn whole_rows(text: &mut Rewriting, idx: usize) {
    if !text.is(idx + 1, &Token::Mul) {
        return;
    }
    if text.follows_token(idx, &Token::RParen) {
        text.leave_out(idx..idx + 2);
        text.is_loose = true;
        return;
    }
    let Some(start) = text.start_of_name(idx) else { return };
    let after = idx + 2;
    let goes_on = text.is_operator(after)
        || text.is(after, &Token::DoubleColon)
        || text.has_words(after, &["is|in|and|or|not|between|like|isnull|notnull|collate"]);
    let is_operand = start > 0
        && (text.is_operator(start - 1)
            || text.follows(start, &["and|or|not|where|on|when|then|else|having"])
            || text.follows(start, &["distinct", "from"]));
    if goes_on || is_operand {
        text.insert(start, [word("ROW"), Token::LParen]);
        text.insert(after, [Token::RParen]);
    }
}

/// The subscripts of columns that SET sets: `SET a[1] = 2, b['x'] = 3`. What calls or reads something within them is left to the
/// parser.
pub(super) fn subscripts(text: &mut Rewriting, start: usize) {
    if start < 2 || !matches!(text.get(start - 1), Some(Token::Word(_))) {
        return;
    }
    let mut depth = 0;
    let clause = (0..start).rev().find(|&idx| {
        depth += match text.get(idx) {
            Some(Token::LParen | Token::LBracket) => 1,
            Some(Token::RParen | Token::RBracket) => -1,
            _ => 0,
        };
        depth == 0 && text.has_words(idx, &["set|where|from|returning|select|on|when"])
    });
    let Some(set) = clause.filter(|&clause| text.has_words(clause, &["set"])) else { return };
    let Some(end) = (start..text.len()).find(|&idx| text.is(idx, &Token::Eq)) else { return };
    let begins = set == start - 2 || text.is(start - 2, &Token::Comma);
    let is_plain = (start..end).all(|idx| !matches!(text.get(idx), Some(Token::LParen | Token::Comma)));
    if begins && is_plain && text.is(end - 1, &Token::RBracket) {
        text.leave_out(start..end);
    }
}
