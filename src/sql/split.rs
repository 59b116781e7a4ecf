//! One simple-query string into its statements.

use std::ops::Range;

use super::lexer::{Token, TokenKind, tokens};
use super::scan::{Class, class_of};

/// Byte ranges of the statements of `sql`, split at top-level semicolons (not those in parentheses, nor in the body of
/// `BEGIN ATOMIC … END`); empty statements are left out. An empty result means an empty query.
///
/// A range has no white space at its ends; it keeps the comments before its statement, which may hold a routing hint.
/// What follows something invalid belongs to the statement with the fault.
pub fn split_statements(sql: &[u8], has_standard_strings: bool) -> Vec<Range<usize>> {
    let mut statements = Vec::new();
    let mut statement = Statement::starting_at(0);
    for token in tokens(sql, has_standard_strings) {
        if token.is_punctuation(b';') && statement.is_at_top() {
            statement.finish(sql, token.start, &mut statements);
            statement = Statement::starting_at(token.end);
        } else {
            statement.take(sql, token);
        }
    }
    statement.finish(sql, sql.len(), &mut statements);
    statements
}

/// One statement while its tokens go by.
struct Statement {
    start: usize,
    n_tokens: usize,
    is_create: bool,
    n_open_parentheses: usize,
    body: Body,
}

/// The body of an SQL-standard function, which has semicolons of its own (psqlscan.l tells it likewise).
enum Body {
    None,
    /// After `BEGIN`.
    Announced,
    /// Inside `BEGIN ATOMIC`; counts what is closed by END.
    Open(usize),
}

impl Statement {
    fn starting_at(start: usize) -> Self {
        Self { start, n_tokens: 0, is_create: false, n_open_parentheses: 0, body: Body::None }
    }

    fn is_at_top(&self) -> bool {
        self.n_open_parentheses == 0 && !matches!(self.body, Body::Open(_))
    }

    #[inline]
    fn take(&mut self, sql: &[u8], token: Token) {
        match token.kind {
            TokenKind::Punctuation(b'(') => self.n_open_parentheses += 1,
            TokenKind::Punctuation(b')') => self.n_open_parentheses = self.n_open_parentheses.saturating_sub(1),
            TokenKind::Word if self.n_tokens == 0 => self.is_create = token.is_word(sql, "create"),
            TokenKind::Word if self.is_create && self.n_open_parentheses == 0 => self.take_word(sql, token),
            _ => {}
        }
        self.n_tokens += 1;
    }

    fn take_word(&mut self, sql: &[u8], word: Token) {
        self.body = match self.body {
            Body::None | Body::Announced if word.is_word(sql, "begin") => Body::Announced,
            Body::Announced if word.is_word(sql, "atomic") => Body::Open(1),
            Body::None | Body::Announced => Body::None,
            Body::Open(depth) if word.is_word(sql, "case") => Body::Open(depth + 1),
            Body::Open(1) if word.is_word(sql, "end") => Body::None,
            Body::Open(depth) if word.is_word(sql, "end") => Body::Open(depth - 1),
            Body::Open(depth) => Body::Open(depth),
        };
    }

    fn finish(&self, sql: &[u8], end: usize, statements: &mut Vec<Range<usize>>) {
        if self.n_tokens == 0 {
            return;
        }
        let is_space = |at: &usize| class_of(sql[*at]) == Class::Space;
        let start = (self.start..end).find(|at| !is_space(at)).unwrap_or(end);
        let last = (start..end).rev().find(|at| !is_space(at)).unwrap_or(start);
        statements.push(start..last + 1);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::super::lexer::sqlish;
    use super::*;

    fn check(sql: &str, expected: Expect) {
        let statements = split_statements(sql.as_bytes(), true);
        let shown: Vec<_> = statements.into_iter().map(|range| format!("{:?}\n", &sql[range])).collect();
        expected.assert_eq(&shown.concat());
    }

    #[test]
    fn splits_at_top_level_semicolons() {
        check(
            " ; select 1;; /* h */ select ';' , \";\" -- ;\n; select $$;$$ ; -- end",
            expect![[r#"
            "select 1"
            "/* h */ select ';' , \";\" -- ;"
            "select $$;$$"
        "#]],
        );
        check("\n -- nothing\n;", expect![[r#""#]]);
        check(
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
            expect![[r#"
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)"
            "SELECT 3"
        "#]],
        );
    }

    #[test]
    fn bodies_of_sql_functions_stay_whole() {
        check(
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
            expect![[r#"
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END"
                "SELECT 3"
            "#]],
        );
        check(
            "begin; select 1; end; create table t (a int); begin; end",
            expect![[r#"
            "begin"
            "select 1"
            "end"
            "create table t (a int)"
            "begin"
            "end"
        "#]],
        );
        check(
            "CREATE FUNCTION begin() RETURNS int AS 'x'; SELECT 1",
            expect![[r#"
            "CREATE FUNCTION begin() RETURNS int AS 'x'"
            "SELECT 1"
        "#]],
        );
    }

    #[test]
    fn the_rest_after_a_fault_is_one_statement() {
        check(
            "select 1; select 'a; select 2",
            expect![[r#"
            "select 1"
            "select 'a; select 2"
        "#]],
        );
        check(
            "select (1; select 2",
            expect![[r#"
            "select (1; select 2"
        "#]],
        );
    }

    proptest! {
        #[test]
        fn ranges_are_in_order(sql in sqlish()) {
            let mut end = 0;
            for range in split_statements(&sql, true) {
                prop_assert!(end <= range.start && range.start < range.end && range.end <= sql.len());
                end = range.end;
            }
        }
    }
}
