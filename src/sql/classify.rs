//! Statement classes from first words: what the proxy itself answers, what is a query, what is a utility statement.

mod command;
mod utility;

use self::command::command;
use self::utility::utility;
use super::cursor::Cursor;
use super::prepare::execute_parts;

/// How widely a SET or RESET holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetScope {
    Session,
    /// `SET LOCAL`: until the end of the transaction.
    Transaction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscardTarget {
    All,
    Plans,
    Sequences,
    Temp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeallocateTarget {
    All,
    Name(String),
}

/// A statement about the session or the transaction, which the session acts on. Names are folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// BEGIN, START TRANSACTION. `modes` is the text after them, verbatim (`ISOLATION LEVEL SERIALIZABLE, READ ONLY`).
    Begin {
        modes: String,
    },
    /// COMMIT, END.
    Commit {
        and_chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        and_chain: bool,
    },
    Savepoint {
        name: String,
    },
    RollbackTo {
        name: String,
    },
    Release {
        name: String,
    },
    /// SET name = value, SET TIME ZONE, SET NAMES, SET ROLE, SET SESSION AUTHORIZATION, SET SCHEMA. `name` is the setting's (`timezone`,
    /// `client_encoding`, `role`, `session_authorization`, `search_path`) in lower case, `value` the text after `=` or TO,
    /// verbatim (`DEFAULT` for SET LOCAL name TO DEFAULT).
    Set {
        scope: SetScope,
        name: String,
        value: String,
    },
    /// SET TRANSACTION …, SET LOCAL TRANSACTION: `modes` verbatim.
    SetTransaction {
        modes: String,
    },
    /// SET CONSTRAINTS … { DEFERRED | IMMEDIATE }
    SetConstraints,
    /// SET SESSION CHARACTERISTICS AS TRANSACTION …
    SetCharacteristics {
        modes: String,
    },
    /// RESET name, and SET name TO DEFAULT with scope Session. `name` as in `Set`; RESET TRANSACTION ISOLATION LEVEL names
    /// `transaction_isolation`.
    Reset {
        name: String,
    },
    ResetAll,
    /// SHOW name, as one folded word (`transaction_isolation`, `all`).
    Show {
        name: String,
    },
    Discard(DiscardTarget),
    Deallocate(DeallocateTarget),
    /// PREPARE name …: SQL-level.
    Prepare {
        name: String,
    },
    /// EXECUTE name, EXPLAIN EXECUTE name, CREATE TABLE … AS EXECUTE name.
    Execute {
        name: String,
    },
    /// DECLARE name … CURSOR.
    Declare {
        name: String,
        is_with_hold: bool,
    },
    /// FETCH and MOVE.
    Fetch {
        name: String,
    },
    /// CLOSE name; `None` for ALL.
    Close {
        name: Option<String>,
    },
    Listen,
    Unlisten,
    Notify,
    Load,
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase,
    LockTable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    /// COPY … FROM STDIN.
    In,
    /// COPY … TO STDOUT.
    Out,
    /// A file or a program of the server.
    Server,
}

/// What a utility statement is about, as far as routing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UtilityKind {
    /// CREATE, ALTER, DROP, COMMENT, GRANT, REVOKE, TRUNCATE, REINDEX, REFRESH, SECURITY LABEL, REASSIGN, IMPORT: may run in a transaction.
    Ddl,
    /// VACUUM, CREATE/DROP DATABASE or TABLESPACE, CREATE/DROP INDEX CONCURRENTLY, REINDEX CONCURRENTLY, ALTER SYSTEM, CLUSTER without a table,
    /// CREATE SUBSCRIPTION: may not.
    NonTransactional,
    /// CREATE TABLE … AS, CREATE MATERIALIZED VIEW: rows from a query. `SELECT … INTO` is a Query.
    CreateTableAs { is_temporary: bool },
    /// ANALYZE, CHECKPOINT and what else changes no rows.
    Maintenance,
    /// CREATE TEMP TABLE and other statements about what lives in a backend's session: anything in schema `pg_temp`.
    SessionState,
    /// DO, CALL: anything at all.
    Procedure,
}

/// The class of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classified {
    Command(Command),
    /// SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE and a parenthesised query: sqlparser's business.
    Query,
    /// EXPLAIN; the byte offset where the explained statement starts.
    Explain {
        statement_start: usize,
    },
    Copy(CopyDirection),
    /// With the names of the tables that it is about, in order, as far as words tell them: (schema, name), folded. Empty
    /// for what is about no table (functions, types, schemas, roles, …) or about relations of other kinds (views,
    /// sequences, indexes by their own name: [`super::other_relations`]).
    Utility {
        kind: UtilityKind,
        objects: Vec<(Option<String>, String)>,
    },
    /// Nothing that Postgres knows: it will say so.
    Unknown,
    /// Only white space and comments.
    Empty,
}

/// Tells the class of one statement, by its first words and the names of its objects.
///
/// Commands are read whole, so that what Postgres would refuse is never acted upon; other statements may still be faulty.
pub fn classify(sql: &[u8], has_standard_strings: bool) -> Classified {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    if cursor.is_at_end() {
        return Classified::Empty;
    }
    if cursor.is_at_punctuation(b'(') {
        return Classified::Query;
    }
    let first = cursor.word();
    match first.as_str() {
        "select" | "values" | "table" | "with" | "insert" | "update" | "delete" | "merge" => return Classified::Query,
        _ => cursor.advance(),
    };
    match first.as_str() {
        "explain" => explained(sql, has_standard_strings, cursor),
        "create" if creates_by_execute(&cursor) => executed(sql, has_standard_strings),
        "copy" => copy(cursor).map_or(Classified::Unknown, Classified::Copy),
        _ => match command(&first, cursor.clone()) {
            Some(command) => Classified::Command(command),
            None => utility(&first, cursor).unwrap_or(Classified::Unknown),
        },
    }
}

/// EXPLAIN of a statement; of an EXECUTE it is about what was prepared.
fn explained(sql: &[u8], has_standard_strings: bool, cursor: Cursor<'_>) -> Classified {
    match explain(cursor) {
        Some(start) if Cursor::new(&sql[start..], has_standard_strings).is_at("execute") => executed(sql, has_standard_strings),
        Some(statement_start) => Classified::Explain { statement_start },
        None => Classified::Unknown,
    }
}

fn creates_by_execute(cursor: &Cursor<'_>) -> bool {
    let mut at = cursor.clone();
    while at.skip_past("as") {
        if at.is_at("execute") {
            return true;
        }
    }
    false
}

fn executed(sql: &[u8], has_standard_strings: bool) -> Classified {
    let parts = execute_parts(sql, has_standard_strings);
    parts.map_or(Classified::Unknown, |parts| Classified::Command(Command::Execute { name: parts.name }))
}

/// Where the statement after EXPLAIN starts.
fn explain(mut cursor: Cursor<'_>) -> Option<usize> {
    if cursor.is_at_punctuation(b'(') {
        let mut inside = cursor.clone();
        inside.advance();
        let is_query = inside.is_at_punctuation(b'(') || matches!(inside.word().as_str(), "select" | "values" | "table" | "with");
        if !is_query {
            cursor.skip_parentheses();
        }
    } else {
        cursor.take_any(&["analyze", "analyse"]);
        cursor.take("verbose");
    }
    if cursor.is_at_end() { None } else { cursor.current().map(|token| token.start) }
}

fn copy(mut cursor: Cursor<'_>) -> Option<CopyDirection> {
    if !cursor.skip_parentheses() {
        // COPY BINARY t: the syntax before PostgreSQL 7.3.
        let mut after_binary = cursor.clone();
        if after_binary.take("binary") && !after_binary.is_at("from") && !after_binary.is_at("to") {
            cursor = after_binary;
        }
        cursor.object_name()?;
        cursor.skip_parentheses();
    }
    let client = match cursor.word().as_str() {
        "from" => CopyDirection::In,
        "to" => CopyDirection::Out,
        _ => return None,
    };
    cursor.advance();
    match cursor.word().as_str() {
        // Postgres takes either word in either direction.
        "stdin" | "stdout" => Some(client),
        "program" => Some(CopyDirection::Server),
        _ if cursor.is_at_string() => Some(CopyDirection::Server),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
