//! SQL's own PREPARE and EXECUTE, taken apart.

use std::ops::Range;

use super::cursor::Cursor;
use super::lexer::TokenKind;

/// A PREPARE statement's parts, as byte ranges of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareParts {
    /// The types given in parentheses.
    pub types: Vec<Range<usize>>,
    /// Where the prepared statement starts.
    pub body_start: usize,
}

/// An EXECUTE, on its own, under EXPLAIN, or after CREATE TABLE … AS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecuteParts {
    /// Where the word EXECUTE starts; text before it belongs to EXPLAIN or CREATE TABLE.
    pub start: usize,
    /// Folded.
    pub name: String,
    pub arguments: Vec<Range<usize>>,
    /// Where EXECUTE ends; text behind it is that of CREATE TABLE.
    pub end: usize,
}

/// The parts of `PREPARE name [(types)] AS …`; `None` for anything else.
pub fn prepare_parts(sql: &[u8], has_standard_strings: bool) -> Option<PrepareParts> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    if !at.take("prepare") {
        return None;
    }
    at.name()?;
    let types = if at.is_at_punctuation(b'(') { list(at)?.0 } else { Vec::new() };
    let is_body_next = at.take("as") && !at.is_at_end();
    let body_start = at.current()?.start;
    is_body_next.then_some(PrepareParts { types, body_start })
}

/// The EXECUTE in a statement; `None` when there is none, or none that is as the grammar has it.
pub fn execute_parts(sql: &[u8], has_standard_strings: bool) -> Option<ExecuteParts> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    let is_create = at.is_at("create");
    if is_create {
        while at.skip_past("as") && !at.is_at("execute") {}
    } else if at.take("explain") && !at.skip_parentheses() {
        at.take_any(&["analyze", "analyse"]);
        at.take("verbose");
    }
    let start = at.current()?.start;
    if !at.take("execute") {
        return None;
    }
    let mut end = at.current()?.end;
    let name = at.name()?;
    let mut arguments = Vec::new();
    if at.is_at_punctuation(b'(') {
        (arguments, end) = list(at)?;
    }
    (is_create || at.is_at_end()).then_some(ExecuteParts { start, name, arguments, end })
}

/// The items of a list in parentheses, of which none is empty, and where it ends.
fn list(at: &mut Cursor<'_>) -> Option<(Vec<Range<usize>>, usize)> {
    at.advance();
    let mut items = Vec::new();
    let mut item: Option<Range<usize>> = None;
    let mut depth = 0_usize;
    loop {
        let token = at.advance()?;
        match token.kind {
            TokenKind::Punctuation(b',') if depth == 0 => items.push(item.take()?),
            TokenKind::Punctuation(b')') if depth == 0 => {
                items.push(item.take()?);
                return Some((items, token.end));
            }
            TokenKind::Punctuation(b'(' | b'[') => depth += 1,
            TokenKind::Punctuation(b')' | b']') => depth = depth.checked_sub(1)?,
            TokenKind::Punctuation(b';') | TokenKind::Invalid => return None,
            _ => {}
        }
        if !(token.is_punctuation(b',') && depth == 0) {
            let start = item.as_ref().map_or(token.start, |item| item.start);
            item = Some(start..token.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executed(sql: &str) -> String {
        let Some(parts) = execute_parts(sql.as_bytes(), true) else { return "none".to_owned() };
        let arguments: Vec<&str> = parts.arguments.iter().map(|range| &sql[range.clone()]).collect();
        format!("{}|{}|{}|{}", &sql[..parts.start], parts.name, arguments.join("|"), &sql[parts.end..])
    }

    #[test]
    fn arguments_are_told_apart_at_the_top_level() {
        assert_eq!(executed("EXECUTE p"), "|p||");
        assert_eq!(
            executed("execute \"P q\" ( 1, 'a,b' , f(1, 2)::int[], ARRAY[1,2] ) ;"),
            "|P q|1|'a,b'|f(1, 2)::int[]|ARRAY[1,2]| ;"
        );
        assert_eq!(executed("EXECUTE p($$a)$$, /* , */ -1)"), "|p|$$a)$$|-1|");
        for wrong in [
            "EXECUTE",
            "EXECUTE p()",
            "EXECUTE p(1,)",
            "EXECUTE p(,1)",
            "EXECUTE p(1",
            "EXECUTE p(1) x",
            "EXECUTE p(1))",
            "SELECT 1",
        ] {
            assert_eq!(executed(wrong), "none", "{wrong}");
        }
    }

    #[test]
    fn execute_stands_under_explain_and_create_table() {
        assert_eq!(executed("EXPLAIN (COSTS off) EXECUTE p(1)"), "EXPLAIN (COSTS off) |p|1|");
        assert_eq!(executed("explain analyze verbose execute p"), "explain analyze verbose |p||");
        assert_eq!(
            executed("CREATE TEMP TABLE t (a) AS EXECUTE p(1) WITH NO DATA"),
            "CREATE TEMP TABLE t (a) AS |p|1| WITH NO DATA"
        );
        assert_eq!(executed("CREATE TABLE t AS SELECT execute FROM x"), "none");
        assert_eq!(executed("EXPLAIN SELECT 1"), "none");
    }

    #[test]
    fn a_prepared_statement_starts_after_as() {
        let parts = |sql: &str| {
            let parts = prepare_parts(sql.as_bytes(), true)?;
            let types: Vec<String> = parts.types.iter().map(|range| sql[range.clone()].to_owned()).collect();
            Some((types.join("|"), sql[parts.body_start..].to_owned()))
        };
        let of = |types: &str, body: &str| Some((types.to_owned(), body.to_owned()));
        assert_eq!(parts("PREPARE p AS SELECT 1"), of("", "SELECT 1"));
        assert_eq!(
            parts("prepare \"as\"(int, numeric(3,1) , text[]) as\n select $1"),
            of("int|numeric(3,1)|text[]", "select $1")
        );
        assert_eq!(parts("PREPARE p AS"), None);
        assert_eq!(parts("PREPARE p () AS SELECT 1"), None);
    }
}
