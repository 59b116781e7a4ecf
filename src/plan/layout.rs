//! The clauses of a plain SELECT as token ranges.

use std::ops::Range;

use super::text::{nesting, split_commas};
use crate::sql::Token;

/// Where the clauses of `SELECT … FROM … WHERE … GROUP BY … HAVING … ORDER BY … LIMIT …` stand: ranges of token indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// The items of the select list.
    pub(super) items: Vec<Range<usize>>,
    /// From FROM to before GROUP BY, HAVING, ORDER BY or LIMIT.
    pub(super) body: Range<usize>,
    pub(super) group_by: Vec<Range<usize>>,
    pub(super) having: Option<Range<usize>>,
    pub(super) order_by: Vec<Range<usize>>,
    /// From LIMIT, OFFSET or FETCH to the end; empty at the end without them.
    pub(super) tail: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Clause {
    From,
    Where,
    GroupBy,
    Having,
    Window,
    OrderBy,
    Tail,
}

/// Finds the clauses of the SELECT that the tokens are; `None` for anything else.
pub(super) fn layout(sql: &str, tokens: &[Token]) -> Option<Layout> {
    let first = tokens.first().filter(|token| token.is_word(sql.as_bytes(), "select"))?;
    debug_assert!(first.start < first.end);
    let clauses = clauses(sql, tokens);
    let end_of = |clause: Clause| clauses.iter().find(|(other, _)| *other > clause).map_or(tokens.len(), |(_, start)| *start);
    let start_of = |clause: Clause| clauses.iter().find(|(other, _)| *other == clause).map(|(_, start)| *start);
    let list_start = if tokens.get(1).is_some_and(|token| token.is_word(sql.as_bytes(), "all")) { 2 } else { 1 };
    let from = start_of(Clause::From)?;
    let body_end = end_of(Clause::Where);
    let after = |clause: Clause, n_words: usize| start_of(clause).map(|start| start + n_words..end_of(clause));
    let list = |range: Option<Range<usize>>| range.map(|range| split_commas(tokens, range)).unwrap_or_default();
    Some(Layout {
        items: split_commas(tokens, list_start..from),
        body: from..body_end,
        group_by: list(after(Clause::GroupBy, 2)),
        having: after(Clause::Having, 1),
        order_by: list(after(Clause::OrderBy, 2)),
        tail: start_of(Clause::Tail).unwrap_or(tokens.len())..tokens.len(),
    })
}

/// The clauses in their order, each with its first token. A word after AS or a dot is a name; FROM after DISTINCT is an operator.
fn clauses(sql: &str, tokens: &[Token]) -> Vec<(Clause, usize)> {
    let bytes = sql.as_bytes();
    let (mut depth, mut found): (i32, Vec<(Clause, usize)>) = (0, Vec::new());
    for (idx, token) in tokens.iter().enumerate() {
        depth += nesting(*token);
        if depth != 0 || idx == 0 {
            continue;
        }
        let previous = tokens[idx - 1];
        if previous.is_punctuation(b'.') || previous.is_word(bytes, "as") {
            continue;
        }
        let is = |word: &str| token.is_word(bytes, word);
        let is_by = tokens.get(idx + 1).is_some_and(|next| next.is_word(bytes, "by"));
        let clause = if is("from") && !previous.is_word(bytes, "distinct") {
            Clause::From
        } else if is("where") {
            Clause::Where
        } else if is("group") && is_by {
            Clause::GroupBy
        } else if is("having") {
            Clause::Having
        } else if is("window") {
            Clause::Window
        } else if is("order") && is_by {
            Clause::OrderBy
        } else if is("limit") || is("offset") || is("fetch") {
            Clause::Tail
        } else {
            continue;
        };
        if found.last().is_none_or(|(last, _)| *last < clause) {
            found.push((clause, idx));
        }
    }
    found
}

/// A sort item without ASC, DESC, NULLS FIRST and NULLS LAST.
pub(super) fn sort_expression(sql: &str, tokens: &[Token], item: &Range<usize>) -> Range<usize> {
    let bytes = sql.as_bytes();
    let mut end = item.end;
    let is = |idx: usize, word: &str| idx > item.start && tokens[idx].is_word(bytes, word);
    if end >= 2 && is(end - 2, "nulls") {
        end -= 2;
    }
    if end >= 1 && (is(end - 1, "asc") || is(end - 1, "desc")) {
        end -= 1;
    }
    item.start..end
}

#[cfg(test)]
mod tests {
    use super::super::text::{text_of, tokens_of};
    use super::*;

    #[test]
    fn clauses_are_told_from_names_and_operators() {
        let sql = "SELECT a IS DISTINCT FROM b AS from, t.order, (SELECT 1 FROM x LIMIT 1) FROM t WHERE c GROUP BY 1, f(a, b) \
                   HAVING d ORDER BY a DESC NULLS LAST, b LIMIT 3 OFFSET 1";
        let tokens = tokens_of(sql, true);
        let layout = layout(sql, &tokens).unwrap();
        let texts = |ranges: &[Range<usize>]| ranges.iter().map(|range| text_of(sql, &tokens, range)).collect::<Vec<_>>();
        assert_eq!(texts(&layout.items), ["a IS DISTINCT FROM b AS from", "t.order", "(SELECT 1 FROM x LIMIT 1)"]);
        assert_eq!(texts(std::slice::from_ref(&layout.body)), ["FROM t WHERE c"]);
        assert_eq!(texts(&layout.group_by), ["1", "f(a, b)"]);
        assert_eq!(texts(&layout.order_by), ["a DESC NULLS LAST", "b"]);
        assert_eq!(text_of(sql, &tokens, &sort_expression(sql, &tokens, &layout.order_by[0])), "a");
        assert_eq!(texts(std::slice::from_ref(&layout.tail)), ["LIMIT 3 OFFSET 1"]);
    }
}
