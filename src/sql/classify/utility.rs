//! Utility statements: what kind, and about which tables.

use super::super::cursor::{Cursor, ObjectName, object_name_of};
use super::{Classified, UtilityKind};

/// The utility statement whose first word is `first`.
pub(super) fn utility(first: &str, mut cursor: Cursor<'_>) -> Option<Classified> {
    let at = &mut cursor;
    let (kind, objects) = match first {
        "create" => create(at),
        "alter" => alter(at),
        "drop" => drop(at),
        "truncate" => (UtilityKind::Ddl, truncate(at)),
        "comment" => (UtilityKind::Ddl, comment(at)),
        "security" => {
            at.skip_past("label");
            if at.take("for") {
                at.advance();
            }
            (UtilityKind::Ddl, comment(at))
        }
        "grant" | "revoke" => (UtilityKind::Ddl, grant(at)),
        "import" | "reassign" | "refresh" => (UtilityKind::Ddl, Vec::new()),
        "reindex" => reindex(at),
        "cluster" => cluster(at),
        "vacuum" => (UtilityKind::NonTransactional, maintained_tables(at)),
        "analyze" | "analyse" => (UtilityKind::Maintenance, maintained_tables(at)),
        "checkpoint" => (UtilityKind::Maintenance, Vec::new()),
        "do" | "call" => (UtilityKind::Procedure, Vec::new()),
        _ => return None,
    };
    let is_temporary = objects.iter().any(|(schema, _)| schema.as_deref().is_some_and(is_temporary_schema));
    let kind = match kind {
        UtilityKind::CreateTableAs { .. } if is_temporary => UtilityKind::CreateTableAs { is_temporary },
        UtilityKind::Ddl if is_temporary => UtilityKind::SessionState,
        kind => kind,
    };
    Some(Classified::Utility { kind, objects })
}

fn is_temporary_schema(schema: &str) -> bool {
    schema == "pg_temp" || schema.starts_with("pg_temp_")
}

type About = (UtilityKind, Vec<ObjectName>);

const NOTHING: About = (UtilityKind::Ddl, Vec::new());

fn create(at: &mut Cursor<'_>) -> About {
    at.take_all(&["or", "replace"]);
    at.take_any(&["local", "global"]);
    let is_temporary = at.take_any(&["temp", "temporary"]);
    at.take_any(&["unlogged", "constraint", "unique", "foreign", "recursive", "trusted", "procedural", "default"]);
    let what = at.word();
    at.advance();
    match what.as_str() {
        "table" => create_table(at, is_temporary),
        "materialized" if at.take("view") => {
            at.take_all(&["if", "not", "exists"]);
            (UtilityKind::CreateTableAs { is_temporary: false }, at.object_name().into_iter().collect())
        }
        "index" => {
            let kind = if at.take("concurrently") { UtilityKind::NonTransactional } else { UtilityKind::Ddl };
            (kind, table_after_on(at))
        }
        "trigger" | "policy" => (UtilityKind::Ddl, table_after_on(at)),
        "rule" => {
            let is_on_event = at.skip_past("on") && at.skip_past("to");
            (UtilityKind::Ddl, if is_on_event { at.object_name().into_iter().collect() } else { Vec::new() })
        }
        "statistics" => {
            let has_table = at.skip_past("on") && at.skip_past("from");
            (UtilityKind::Ddl, if has_table { at.object_name().into_iter().collect() } else { Vec::new() })
        }
        "database" | "tablespace" | "subscription" => (UtilityKind::NonTransactional, Vec::new()),
        _ => {
            at.take_all(&["if", "not", "exists"]);
            let is_in_temporary_schema =
                at.object_name().and_then(|(schema, _)| schema).as_deref().is_some_and(is_temporary_schema);
            let is_temporary = is_temporary || is_in_temporary_schema;
            (if is_temporary { UtilityKind::SessionState } else { UtilityKind::Ddl }, Vec::new())
        }
    }
}

/// A table's name, and those of its parents if it is made as a partition or inherits.
fn create_table(at: &mut Cursor<'_>, is_temporary: bool) -> About {
    at.take_all(&["if", "not", "exists"]);
    let mut tables: Vec<_> = at.object_name().into_iter().collect();
    if at.take_all(&["partition", "of"]) {
        tables.extend(at.object_name());
    }
    let mut ahead = at.clone();
    if ahead.skip_past("inherits") {
        ahead.take_punctuation(b'(');
        tables.extend(self::tables(&mut ahead));
    }
    let is_from_query = at.skip_past("as");
    let kind = match (is_from_query, is_temporary) {
        (true, is_temporary) => UtilityKind::CreateTableAs { is_temporary },
        (false, true) => UtilityKind::SessionState,
        (false, false) => UtilityKind::Ddl,
    };
    (kind, tables)
}

fn alter(at: &mut Cursor<'_>) -> About {
    at.take("foreign");
    let what = at.word();
    at.advance();
    match what.as_str() {
        "table" => alter_table(at),
        "trigger" | "policy" | "rule" => (UtilityKind::Ddl, table_after_on(at)),
        "system" | "subscription" => (UtilityKind::NonTransactional, Vec::new()),
        // ALTER DATABASE … SET TABLESPACE copies files; the other forms are rows of a catalog.
        "database" if at.skip_past("tablespace") => (UtilityKind::NonTransactional, Vec::new()),
        _ => NOTHING,
    }
}

fn alter_table(at: &mut Cursor<'_>) -> About {
    if at.take_all(&["all", "in"]) {
        return NOTHING;
    }
    at.take_all(&["if", "exists"]);
    at.take("only");
    let mut tables: Vec<_> = at.object_name().into_iter().collect();
    at.take_operator("*");
    let mut kind = UtilityKind::Ddl;
    if at.take_all(&["attach", "partition"]) || at.take("inherit") || at.take_all(&["no", "inherit"]) {
        tables.extend(at.object_name());
    } else if at.take_all(&["detach", "partition"]) {
        tables.extend(at.object_name());
        if at.take("concurrently") {
            kind = UtilityKind::NonTransactional;
        }
    }
    (kind, tables)
}

fn drop(at: &mut Cursor<'_>) -> About {
    at.take("foreign");
    let what = at.word();
    at.advance();
    match what.as_str() {
        "table" => {
            at.take_all(&["if", "exists"]);
            (UtilityKind::Ddl, tables(at))
        }
        "trigger" | "policy" | "rule" => (UtilityKind::Ddl, table_after_on(at)),
        "database" | "tablespace" | "subscription" => (UtilityKind::NonTransactional, Vec::new()),
        "index" if at.take("concurrently") => (UtilityKind::NonTransactional, Vec::new()),
        "view" | "sequence" | "index" => {
            at.take_all(&["if", "exists"]);
            let is_temporary = tables(at).iter().any(|(schema, _)| schema.as_deref().is_some_and(is_temporary_schema));
            (if is_temporary { UtilityKind::SessionState } else { UtilityKind::Ddl }, Vec::new())
        }
        _ => NOTHING,
    }
}

fn truncate(at: &mut Cursor<'_>) -> Vec<ObjectName> {
    at.take("table");
    tables(at)
}

/// COMMENT and SECURITY LABEL: `ON TABLE t`, `ON COLUMN t.c`, `ON TRIGGER x ON t`.
fn comment(at: &mut Cursor<'_>) -> Vec<ObjectName> {
    if !at.take("on") {
        return Vec::new();
    }
    at.take("foreign");
    let what = at.word();
    at.advance();
    match what.as_str() {
        "table" => at.object_name().into_iter().collect(),
        "column" => {
            let mut parts = at.name_parts();
            parts.pop();
            object_name_of(parts).into_iter().collect()
        }
        "trigger" | "policy" | "rule" => table_after_on(at),
        "constraint" if at.skip_past("on") && !at.is_at("domain") => at.object_name().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// What GRANT and REVOKE may name after ON that is no table.
const OTHER_GRANT_TARGETS: [&str; 17] = [
    "all",
    "database",
    "domain",
    "foreign",
    "function",
    "functions",
    "language",
    "large",
    "parameter",
    "procedure",
    "routine",
    "routines",
    "schema",
    "sequence",
    "sequences",
    "tablespace",
    "type",
];

/// The tables of GRANT and REVOKE; none when roles are granted.
fn grant(at: &mut Cursor<'_>) -> Vec<ObjectName> {
    if !at.skip_past("on") || OTHER_GRANT_TARGETS.contains(&at.word().as_str()) {
        return Vec::new();
    }
    at.take("table");
    tables(at)
}

fn reindex(at: &mut Cursor<'_>) -> About {
    // As an option in parentheses, or as a word after TABLE, INDEX and the others.
    let mut ahead = at.clone();
    ahead.take_punctuation(b'(');
    let is_concurrent = ahead.skip_past("concurrently");
    at.skip_parentheses();
    let what = at.word();
    at.advance();
    at.take("concurrently");
    let table = if what == "table" { at.object_name().into_iter().collect() } else { Vec::new() };
    let is_many = matches!(what.as_str(), "schema" | "database" | "system");
    (if is_concurrent || is_many { UtilityKind::NonTransactional } else { UtilityKind::Ddl }, table)
}

/// CLUSTER t [USING i], CLUSTER i ON t; alone it is about every table that was clustered before.
fn cluster(at: &mut Cursor<'_>) -> About {
    if !at.skip_parentheses() {
        at.take("verbose");
    }
    let Some(named) = at.object_name() else { return (UtilityKind::NonTransactional, Vec::new()) };
    let table = if at.take("on") { at.object_name() } else { Some(named) };
    (UtilityKind::Ddl, table.into_iter().collect())
}

/// The tables of VACUUM and ANALYZE, after their options.
fn maintained_tables(at: &mut Cursor<'_>) -> Vec<ObjectName> {
    if !at.skip_parentheses() {
        while at.take_any(&["full", "freeze", "verbose", "analyze", "analyse"]) {}
    }
    tables(at)
}

/// `… ON [ONLY] t`.
fn table_after_on(at: &mut Cursor<'_>) -> Vec<ObjectName> {
    if !at.skip_past("on") {
        return Vec::new();
    }
    at.take("only");
    at.object_name().into_iter().collect()
}

/// Tables separated by commas, each with ONLY, `*` or a column list.
fn tables(at: &mut Cursor<'_>) -> Vec<ObjectName> {
    let mut tables = Vec::new();
    loop {
        at.take("only");
        tables.extend(at.object_name());
        at.take_operator("*");
        at.skip_parentheses();
        if !at.take_punctuation(b',') {
            return tables;
        }
    }
}
