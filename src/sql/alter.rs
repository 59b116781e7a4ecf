//! What an ALTER TABLE changes of where rows belong, and which relations a statement names that are no tables.

use std::ops::Range;

use super::cursor::{Cursor, ObjectName, object_name_of};

/// One action of an ALTER TABLE, as far as it may change where rows belong. Names are folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableChange {
    /// RENAME TO.
    Rename(String),
    SetSchema(String),
    /// RENAME COLUMN: its name until then.
    RenameColumn(String),
    DropColumn(String),
    /// ALTER COLUMN … TYPE.
    ColumnType {
        column: String,
        /// The type's words in lower case, without what is in parentheses.
        type_words: Vec<String>,
        /// Where the expression of USING stands.
        using: Option<Range<usize>>,
    },
    /// ADD COLUMN: where its type and constraints stand.
    AddColumn(Range<usize>),
    /// INHERIT, ATTACH PARTITION: the other table.
    Join(ObjectName),
    /// NO INHERIT, DETACH PARTITION: the other table, and whether that is the one that leaves.
    Leave {
        other: ObjectName,
        is_child: bool,
    },
}

/// The actions of an ALTER TABLE that are of interest; of other statements none.
pub fn table_changes(sql: &[u8], has_standard_strings: bool) -> Vec<TableChange> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    let mut changes = Vec::new();
    if !at.take("alter") {
        return changes;
    }
    at.take_any(&["foreign", "materialized"]);
    if !at.take_any(&["table", "view"]) {
        return changes;
    }
    at.take_all(&["if", "exists"]);
    at.take("only");
    at.object_name();
    at.take_operator("*");
    while !at.is_at_end() {
        changes.extend(action(at));
        to_comma(at);
        at.take_punctuation(b',');
    }
    changes
}

/// Goes to the next comma outside parentheses, and gives where the text up to it ends.
fn to_comma(at: &mut Cursor<'_>) -> usize {
    let mut end = at.current().map_or(0, |token| token.start);
    while !at.is_at_end() && !at.is_at_punctuation(b',') {
        end = skip(at).unwrap_or(end);
    }
    end
}

/// Goes past a token, or a pair of parentheses with what is in it, and gives where that ends.
fn skip(at: &mut Cursor<'_>) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        let token = at.advance()?;
        if token.is_punctuation(b'(') {
            depth += 1;
        } else if token.is_punctuation(b')') {
            depth = depth.saturating_sub(1);
        }
        if depth == 0 {
            return Some(token.end);
        }
    }
}

fn action(at: &mut Cursor<'_>) -> Option<TableChange> {
    let word = at.word();
    at.advance();
    match word.as_str() {
        "rename" if at.take("to") => at.name().map(TableChange::Rename),
        "rename" if at.is_at("constraint") => None,
        "rename" => {
            at.take("column");
            at.name().map(TableChange::RenameColumn)
        }
        "set" if at.take("schema") => at.name().map(TableChange::SetSchema),
        "inherit" => at.object_name().map(TableChange::Join),
        "attach" if at.take("partition") => at.object_name().map(TableChange::Join),
        "no" if at.take("inherit") => Some(TableChange::Leave { other: at.object_name()?, is_child: false }),
        "detach" if at.take("partition") => Some(TableChange::Leave { other: at.object_name()?, is_child: true }),
        "drop" if !at.is_at("constraint") => {
            at.take("column");
            at.take_all(&["if", "exists"]);
            at.name().map(TableChange::DropColumn)
        }
        "alter" => altered_type(at),
        "add" => added_column(at),
        _ => None,
    }
}

fn altered_type(at: &mut Cursor<'_>) -> Option<TableChange> {
    at.take("column");
    let column = at.name()?;
    at.take_all(&["set", "data"]);
    if !at.take("type") {
        return None;
    }
    let mut type_words = Vec::new();
    while !at.is_at_end() && !at.is_at_punctuation(b',') && !at.is_at("using") && !at.is_at("collate") {
        if !at.skip_parentheses() {
            type_words.extend(at.current().and_then(|_| at.name()).map(|name| name.to_lowercase()).or_else(|| {
                at.advance();
                Some("?".to_owned())
            }));
        }
    }
    if at.take("collate") {
        at.name_parts();
    }
    let using = at.take("using").then(|| {
        let start = at.current().map_or(0, |token| token.start);
        start..to_comma(at)
    });
    Some(TableChange::ColumnType { column, type_words, using })
}

fn added_column(at: &mut Cursor<'_>) -> Option<TableChange> {
    const CONSTRAINTS: [&str; 6] = ["constraint", "check", "unique", "primary", "exclude", "foreign"];
    if CONSTRAINTS.iter().any(|word| at.is_at(word)) {
        return None;
    }
    at.take("column");
    at.take_all(&["if", "not", "exists"]);
    at.name()?;
    let start = at.current()?.start;
    Some(TableChange::AddColumn(start..to_comma(at)))
}

/// The views, sequences and indexes that DROP, ALTER, REFRESH, REINDEX, COMMENT and GRANT name as such.
pub fn other_relations(sql: &[u8], has_standard_strings: bool) -> Vec<ObjectName> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    let verb = at.word();
    at.advance();
    match verb.as_str() {
        "drop" if takes_other_kind(at) => {
            at.take_all(&["if", "exists"]);
            names(at)
        }
        "alter" if takes_other_kind(at) => {
            at.take_all(&["if", "exists"]);
            at.object_name().into_iter().collect()
        }
        "refresh" if at.take_all(&["materialized", "view"]) => {
            at.take("concurrently");
            at.object_name().into_iter().collect()
        }
        "reindex" => {
            at.skip_parentheses();
            if at.take("index") { at.object_name().into_iter().collect() } else { Vec::new() }
        }
        "comment" | "security" if at.skip_past("on") && takes_other_kind(at) => at.object_name().into_iter().collect(),
        "grant" | "revoke" if at.skip_past("on") && at.take("sequence") => names(at),
        _ => Vec::new(),
    }
}

/// Whether a word for relations that are no tables stands here, which is then passed.
fn takes_other_kind(at: &mut Cursor<'_>) -> bool {
    at.take_any(&["view", "sequence", "index"]) || at.take_all(&["materialized", "view"])
}

fn names(at: &mut Cursor<'_>) -> Vec<ObjectName> {
    let mut names = Vec::new();
    loop {
        names.extend(at.object_name());
        if !at.take_punctuation(b',') {
            return names;
        }
    }
}

/// The table whose column an ALTER SEQUENCE or CREATE SEQUENCE says that the sequence belongs to.
pub fn sequence_owner(sql: &[u8], has_standard_strings: bool) -> Option<ObjectName> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    let is_owned = at.take_any(&["alter", "create"]) && at.take("sequence") && at.skip_past("owned") && at.take("by");
    if !is_owned {
        return None;
    }
    let mut parts = at.name_parts();
    parts.pop()?;
    object_name_of(parts)
}

/// What a CREATE VIEW makes, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewParts {
    pub name: ObjectName,
    /// Where its query stands.
    pub query: Range<usize>,
}

/// The parts of a CREATE [OR REPLACE] [RECURSIVE] VIEW.
pub fn view_parts(sql: &[u8], has_standard_strings: bool) -> Option<ViewParts> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    if !at.take("create") {
        return None;
    }
    at.take_all(&["or", "replace"]);
    at.take("recursive");
    if !at.take("view") {
        return None;
    }
    let name = at.object_name()?;
    if !at.skip_past("as") {
        return None;
    }
    let start = at.current()?.start;
    let mut end = start;
    while !at.is_at_end() {
        let mut ahead = at.clone();
        if ahead.take("with") {
            ahead.take_any(&["cascaded", "local"]);
            if ahead.take_all(&["check", "option"]) {
                break;
            }
        }
        end = skip(at)?;
    }
    (start < end).then_some(ViewParts { name, query: start..end })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(statements: &[&str], expected: Expect) {
        let lines = statements.iter().map(|sql| format!("{sql}: {:?}\n", table_changes(sql.as_bytes(), true)));
        expected.assert_eq(&lines.collect::<String>());
    }

    #[test]
    fn what_alter_table_changes() {
        check(
            &[
                "ALTER TABLE t RENAME TO \"U v\"",
                "alter table if exists only a.t * set schema b",
                "ALTER TABLE t RENAME k TO l",
                "ALTER TABLE t RENAME CONSTRAINT k TO l",
                "ALTER TABLE t ADD CONSTRAINT c CHECK (k > 1), DROP COLUMN IF EXISTS k CASCADE, DROP CONSTRAINT d",
                "ALTER TABLE t ALTER k TYPE varchar(20) USING f(k, 1), ALTER COLUMN l SET DATA TYPE double precision",
                "ALTER TABLE t ALTER k SET DEFAULT 1, ADD n numeric(3, 2) DEFAULT random(), ADD COLUMN IF NOT EXISTS o int",
                "ALTER TABLE t INHERIT a.p",
                "ALTER TABLE t NO INHERIT p",
                "ALTER TABLE t ATTACH PARTITION q FOR VALUES IN (1)",
                "ALTER TABLE t DETACH PARTITION q",
                "ALTER MATERIALIZED VIEW t RENAME TO u",
                "CREATE TABLE t (k int)",
            ],
            expect![[r#"
                ALTER TABLE t RENAME TO "U v": [Rename("U v")]
                alter table if exists only a.t * set schema b: [SetSchema("b")]
                ALTER TABLE t RENAME k TO l: [RenameColumn("k")]
                ALTER TABLE t RENAME CONSTRAINT k TO l: []
                ALTER TABLE t ADD CONSTRAINT c CHECK (k > 1), DROP COLUMN IF EXISTS k CASCADE, DROP CONSTRAINT d: [DropColumn("k")]
                ALTER TABLE t ALTER k TYPE varchar(20) USING f(k, 1), ALTER COLUMN l SET DATA TYPE double precision: [ColumnType { column: "k", type_words: ["varchar"], using: Some(45..52) }, ColumnType { column: "l", type_words: ["double", "precision"], using: None }]
                ALTER TABLE t ALTER k SET DEFAULT 1, ADD n numeric(3, 2) DEFAULT random(), ADD COLUMN IF NOT EXISTS o int: [AddColumn(43..73), AddColumn(102..105)]
                ALTER TABLE t INHERIT a.p: [Join((Some("a"), "p"))]
                ALTER TABLE t NO INHERIT p: [Leave { other: (None, "p"), is_child: false }]
                ALTER TABLE t ATTACH PARTITION q FOR VALUES IN (1): [Join((None, "q"))]
                ALTER TABLE t DETACH PARTITION q: [Leave { other: (None, "q"), is_child: true }]
                ALTER MATERIALIZED VIEW t RENAME TO u: [Rename("u")]
                CREATE TABLE t (k int): []
            "#]],
        );
    }

    #[test]
    fn what_is_no_table_is_found() {
        let lines = [
            "DROP VIEW IF EXISTS a.v, w CASCADE",
            "DROP MATERIALIZED VIEW m",
            "ALTER SEQUENCE s OWNED BY a.t.k",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY m WITH NO DATA",
            "REINDEX (VERBOSE) INDEX i",
            "COMMENT ON MATERIALIZED VIEW m IS 'x'",
            "GRANT USAGE ON SEQUENCE s, t TO u",
            "GRANT SELECT ON t TO u",
            "DROP TABLE t",
        ]
        .map(|sql| {
            let owner = sequence_owner(sql.as_bytes(), true);
            format!("{sql}: {:?} {owner:?}\n", other_relations(sql.as_bytes(), true))
        });
        expect![[r#"
            DROP VIEW IF EXISTS a.v, w CASCADE: [(Some("a"), "v"), (None, "w")] None
            DROP MATERIALIZED VIEW m: [(None, "m")] None
            ALTER SEQUENCE s OWNED BY a.t.k: [(None, "s")] Some((Some("a"), "t"))
            REFRESH MATERIALIZED VIEW CONCURRENTLY m WITH NO DATA: [(None, "m")] None
            REINDEX (VERBOSE) INDEX i: [(None, "i")] None
            COMMENT ON MATERIALIZED VIEW m IS 'x': [(None, "m")] None
            GRANT USAGE ON SEQUENCE s, t TO u: [(None, "s"), (None, "t")] None
            GRANT SELECT ON t TO u: [] None
            DROP TABLE t: [] None
        "#]]
        .assert_eq(&lines.concat());
    }

    #[test]
    fn a_view_has_a_query() {
        let lines = [
            "CREATE OR REPLACE VIEW a.v (x) WITH (security_barrier) AS SELECT 1 WITH LOCAL CHECK OPTION;",
            "CREATE RECURSIVE VIEW v (n) AS SELECT 1",
            "CREATE VIEW v AS",
        ]
        .map(|sql| match view_parts(sql.as_bytes(), true) {
            Some(parts) => format!("{:?}: {}\n", parts.name, &sql[parts.query]),
            None => "none\n".to_owned(),
        });
        expect![[r#"
            (Some("a"), "v"): SELECT 1
            (None, "v"): SELECT 1
            none
        "#]]
        .assert_eq(&lines.concat());
    }
}
