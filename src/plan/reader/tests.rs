//! What texts are read as, spelled so that the parser needs no help.

use sqlparser::ast::{BinaryOperator, Expr};

use super::{is_readable, parse, term};

/// A text, and one with the same tree.
const ALIKE: &[(&str, &str)] = &[
    ("SELECT 'a'\n  'b'", "SELECT 'a' || 'b'"),
    ("SELECT a*2, 2 * -3, a*-b FROM t*", "SELECT a * 2, 2 * - 3, a * - b FROM t"),
    ("SELECT 1 FROM s.t* x, u", "SELECT 1 FROM s.t x, u"),
    ("SELECT extract(epoch FROM a * b) FROM t", "SELECT extract(epoch FROM a * b) FROM t"),
    ("SELECT a IS DISTINCT FROM b * c FROM t", "SELECT a IS DISTINCT FROM b * c FROM t"),
    ("SELECT a isnull, isnull(a), t.isnull FROM t", "SELECT a IS NULL, isnull(a), t.isnull FROM t"),
    ("SELECT name, name AS x, name 'y' FROM t", "SELECT name, name AS x, 'y'::name FROM t"),
    ("SELECT CASE s.kind 'a' WHEN 1 THEN 2 END", "SELECT CASE 'a'::s.kind WHEN 1 THEN 2 END"),
    ("SELECT a === b, %% a, 1 - -2", "SELECT a @@@ b, @ a, 1 - - 2"),
    ("SELECT 1 FROM t WHERE a @@ ALL (b) AND c <@ d", "SELECT 1 FROM t WHERE a ~ ALL (b) AND c <@ d"),
    ("SELECT trim(both from a), overlay(a placing b from 2)", "SELECT trim(both a), overlay(a placing b from 2)"),
    ("SELECT a FROM t GROUP BY ALL a", "SELECT a FROM t GROUP BY a"),
    ("SELECT a FROM t FOR UPDATE OF t, u NOWAIT", "SELECT a FROM t FOR UPDATE OF t FOR UPDATE OF u NOWAIT"),
    ("SELECT a FROM t UNION ALL TABLE \"U\"", "SELECT a FROM t UNION ALL SELECT * FROM \"U\""),
    ("SELECT a FROM f(1) AS (a int)", "SELECT a FROM f(1) AS f(a int)"),
    ("WITH x AS (SELECT 1), y(b) AS (VALUES (2)) SELECT 3", "WITH x AS (SELECT 1), y(b) AS (VALUES (2)) SELECT 3"),
    ("SELECT x.a FROM t JOIN u USING (a) AS x", "SELECT x.a FROM t JOIN u USING (a)"),
    ("SELECT a FROM t LIMIT 1 FOR READ ONLY", "SELECT a FROM t LIMIT 1"),
    (
        "SELECT 1 FROM t WHERE a OPERATOR(pg_catalog.=) ANY (b) AND c OPERATOR(s.<<) ALL (d)",
        "SELECT 1 FROM t WHERE a = ANY (b) AND c ~ ALL (d)",
    ),
    (
        "MERGE INTO t USING (SELECT a FROM u) AS x ON x.a = t.a WHEN MATCHED THEN DELETE",
        "MERGE INTO t USING (SELECT a FROM u) AS x ON x.a = t.a WHEN MATCHED THEN DELETE",
    ),
    ("SELECT a FROM t WHERE a BETWEEN SYMMETRIC 2 AND 1", "SELECT a FROM t WHERE a NOT BETWEEN 2 AND 1"),
    (
        "SELECT ((SELECT 1) + 2), ((SELECT 1) UNION SELECT 2)",
        "SELECT ((SELECT 1) + 2), (SELECT * FROM (SELECT 1) UNION SELECT 2)",
    ),
];

#[test]
fn what_the_parser_lacks_is_said_in_other_words() {
    for (text, other) in ALIKE {
        let read = |sql: &str| parse(sql, true).map(|parsed| parsed.statement.to_string());
        let (read, wanted) = (read(text).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}")), read(other).unwrap());
        // Any operator that the parser does not know is as good as another.
        assert_eq!(read.replace("===", "@@@"), wanted, "{text}");
    }
}

#[test]
fn collate_binds_a_cast_before_operators_do() {
    let Some(Expr::BinaryOp { left, op: BinaryOperator::Lt, right }) = term("a || b::text COLLATE \"C\" < c") else { panic!() };
    let Expr::BinaryOp { op: BinaryOperator::StringConcat, right: collated, .. } = *left else { panic!("{left}") };
    assert!(matches!(*collated, Expr::Collate { expr, .. } if matches!(*expr, Expr::Cast { .. })));
    assert!(matches!(*right, Expr::Identifier(_)));
}

#[test]
fn a_statement_of_which_the_tree_says_less_is_marked() {
    for (sql, is_loose) in [
        ("SELECT a FROM t GROUP BY DISTINCT a", true),
        ("SELECT (r).* FROM t", true),
        ("SELECT count(*) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE GROUP) FROM t", true),
        ("SELECT x.a FROM t JOIN u USING (a) AS x", true),
        ("SELECT a::text COLLATE \"C\", t.* FROM t* GROUP BY ALL a", false),
        ("SELECT exclude, cycle, search FROM t ORDER BY cycle", false),
    ] {
        assert_eq!(parse(sql, true).unwrap().is_loose, is_loose, "{sql}");
    }
}

#[test]
fn words_of_such_clauses_are_names_elsewhere() {
    for sql in [
        "SELECT document, content, version, standalone, passing FROM t",
        "SELECT t.table, a AS isnull FROM t",
        "SELECT search(a) FROM cycle",
        "SELECT similar.escape FROM similar",
    ] {
        assert!(parse(sql, true).is_ok(), "{sql}");
    }
    // Something else has the name of the join.
    for other in ["v x WHERE x.a = 1", "public.x WHERE x.a = 1", "x.x WHERE x.a = 1"] {
        let sql = format!("SELECT 1 FROM t JOIN u USING (a) AS x WHERE EXISTS (SELECT FROM {other})");
        assert!(parse(&sql, true).is_err(), "{sql}");
    }
    // A string goes on in another line only; what was left out is the server's to read.
    assert!(parse("SELECT 'a' 'b'", true).is_err());
    assert!(is_readable("SELECT a FROM t", true) && !is_readable("SELECT a FROM t GROUP BY DISTINCT a", true));
    assert!(parse("SELECT count(*) only FROM t", true).is_ok_and(|parsed| !parsed.is_rewritten));
    // What makes no sense is the server's to refuse.
    assert!(term("operator() ANY (a)").is_some());
    assert!(term("a = ANY ('{1}') AND b").is_some());
    assert!(term("a b").is_none());
}
