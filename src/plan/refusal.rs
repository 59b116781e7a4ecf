//! Why a statement is refused: stable reason codes, each with its SQLSTATE and a hint.

use crate::sqlstate::{Report, SqlState};
use crate::topology::TableName;

macro_rules! refusal_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $state:ident, $hint:literal;)*) => {
        /// A stable reason code, `TL0xx` in the DETAIL of the error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum RefusalCode {
            $($(#[$doc])* $name,)*
        }

        impl RefusalCode {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as the client sees it.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            pub fn sqlstate(self) -> SqlState {
                match self { $(Self::$name => SqlState::$state,)* }
            }

            /// The way out, where the statement adds nothing to it.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

refusal_codes! {
    /// The parser does not know the syntax, and no single shard is sure to hold the statement.
    Unparsed = "TL001", FEATURE_NOT_SUPPORTED,
        "Name the shard that holds the rows with a leading comment: /* trunkline: shard=NAME */.";
    /// A table that the configuration does not name.
    UnconfiguredTable = "TL002", FEATURE_NOT_SUPPORTED,
        "Add the table to the configuration, or set default_shard.";
    /// A view that the configuration does not name, and whose rows cannot be told from those of its tables.
    UnconfiguredView = "TL003", FEATURE_NOT_SUPPORTED,
        "Query the view's tables, or name the view in the configuration if all it reads is on one shard (shard = \"…\") or on every shard (reference = true).";
    /// A routing hint that says nothing known.
    BadHint = "TL004", INVALID_PARAMETER_VALUE,
        "Hints are /* trunkline: shard=NAME */ and /* trunkline: key=VALUE */.";
    /// Watermarks have not been loaded yet.
    NoWatermarks = "TL005", CANNOT_CONNECT_NOW,
        "The placement of age tiers is read at start; try again once the first shard's primary is up.";
    /// A table that is in no shard's catalog as it was last read.
    UndefinedTable = "TL006", UNDEFINED_TABLE,
        "Check the name and the search_path.";
    /// A routing hint for a shard on which the statement must not write.
    HintMisplaces = "TL007", INVALID_PARAMETER_VALUE,
        "Leave the hint out: rows find their shard by their key, and every copy of a reference table is written.";
    /// An INSERT or COPY that does not set the key.
    MissingKey = "TL010", NOT_NULL_VIOLATION,
        "Give the key column a value in every row.";
    /// A NULL where the key's value decides the shard.
    NullKey = "TL011", NOT_NULL_VIOLATION,
        "Give the key column a value in every row.";
    /// A list value that the configuration maps to no shard.
    UnmappedKey = "TL012", INVALID_PARAMETER_VALUE,
        "Add the value to the key's list in the configuration, or give the list a default.";
    /// A key given by an expression or in a form that is not understood.
    OpaqueKey = "TL013", FEATURE_NOT_SUPPORTED,
        "Write the key as a plain literal or a parameter of the column's own type.";
    /// SET of a key column.
    UpdatesKey = "TL014", FEATURE_NOT_SUPPORTED,
        "Delete the row and insert it with its new key.";
    /// UPDATE or DELETE that is not bound to one shard.
    WriteOnManyShards = "TL015", FEATURE_NOT_SUPPORTED,
        "Restrict the statement to one shard by its key columns (key = value in WHERE).";
    /// INSERT … SELECT that is not wholly on one shard.
    InsertSelect = "TL016", FEATURE_NOT_SUPPORTED,
        "Read the rows first and insert them with VALUES or COPY, or bind source and target to one key.";
    /// RETURNING of a statement that writes several shards.
    ReturningOnManyShards = "TL017", FEATURE_NOT_SUPPORTED,
        "Leave RETURNING out, or insert the rows one by one.";
    /// A reference table written together with reads of sharded rows.
    ReferenceReadsShards = "TL018", FEATURE_NOT_SUPPORTED,
        "Read the rows first, and write the reference table with their values.";
    /// A value that would differ between the copies of a reference table.
    ReferenceDiverges = "TL019", FEATURE_NOT_SUPPORTED,
        "Compute the value in the application and write it as a literal or a parameter.";
    /// A data-modifying WITH query that is not wholly on one shard.
    WritingCte = "TL020", FEATURE_NOT_SUPPORTED,
        "Bind every part of the statement to one shard by its key columns, or run the parts one by one.";
    /// Tables of several shards joined other than by their keys.
    Join = "TL021", FEATURE_NOT_SUPPORTED,
        "Join the tables by equality of all their key columns, or bind all of them to one shard by key.";
    /// An outer join that preserves a reference table.
    OuterJoin = "TL022", FEATURE_NOT_SUPPORTED,
        "Put the sharded table on the preserved side of the join, or bind it to one shard by key.";
    /// DISTINCT.
    Distinct = "TL023", FEATURE_NOT_SUPPORTED,
        "Use GROUP BY with the same columns, or bind the statement to one shard by key.";
    /// An aggregate that does not split.
    Aggregate = "TL024", FEATURE_NOT_SUPPORTED,
        "count, sum, min, max and avg work across shards; bind the statement to one shard by key for others.";
    /// An aggregate with DISTINCT.
    DistinctAggregate = "TL025", FEATURE_NOT_SUPPORTED,
        "Bind the statement to one shard by key, or count the rows of a GROUP BY in the application.";
    /// A window function.
    Window = "TL026", FEATURE_NOT_SUPPORTED,
        "Bind the statement to one shard by key.";
    /// UNION, INTERSECT, EXCEPT, VALUES or TABLE with rows of several shards.
    SetOperation = "TL027", FEATURE_NOT_SUPPORTED,
        "Run the parts as statements of their own, or bind all of them to one shard by key.";
    /// WITH with rows of several shards.
    Cte = "TL028", FEATURE_NOT_SUPPORTED,
        "Write the statement as one SELECT, or bind it to one shard by key.";
    /// A subquery over sharded tables, or one whose rows are not the same everywhere.
    Subquery = "TL029", FEATURE_NOT_SUPPORTED,
        "Bind the statement to one shard by key, or run the subquery first.";
    /// FOR UPDATE and its kin.
    Locking = "TL030", FEATURE_NOT_SUPPORTED,
        "Bind the statement to one shard by key, or leave the locking clause out.";
    /// A volatile function.
    VolatileFunction = "TL031", FEATURE_NOT_SUPPORTED,
        "Compute the value in the application, or bind the statement to one shard by key.";
    /// A function that may read tables or depends on its server.
    ServerFunction = "TL032", FEATURE_NOT_SUPPORTED,
        "Bind the statement to one shard by key, or name the shard with /* trunkline: shard=NAME */.";
    /// A function outside the system's that may read tables.
    UserFunction = "TL033", FEATURE_NOT_SUPPORTED,
        "Declare it IMMUTABLE if it is, name it in the database's safe_functions if it reads no tables, or bind the statement to one shard by key.";
    /// GROUPING SETS, CUBE, ROLLUP.
    GroupingSets = "TL034", FEATURE_NOT_SUPPORTED,
        "Run one GROUP BY per grouping set, or bind the statement to one shard by key.";
    /// A column outside aggregates that is not one of GROUP BY.
    NotGrouped = "TL035", FEATURE_NOT_SUPPORTED,
        "Name the column in GROUP BY in the same words, or put it into an aggregate.";
    /// LIMIT or OFFSET by an expression, or WITH TIES.
    Limit = "TL036", FEATURE_NOT_SUPPORTED,
        "Give LIMIT and OFFSET as numbers or parameters.";
    /// ORDER BY of a form that is not understood.
    OrderBy = "TL037", FEATURE_NOT_SUPPORTED,
        "Order by columns, expressions or positions with ASC, DESC and NULLS FIRST or LAST.";
    /// SELECT INTO, CREATE TABLE AS.
    CreateAs = "TL038", FEATURE_NOT_SUPPORTED,
        "Create the table first and fill it with INSERT.";
    /// A system column or a system catalog together with rows of several shards.
    SystemColumn = "TL039", FEATURE_NOT_SUPPORTED,
        "Such values mean something on one server only; bind the statement to one shard by key.";
    /// A clause that no other code names.
    Clause = "TL040", FEATURE_NOT_SUPPORTED,
        "Leave the clause out, or bind the statement to one shard by key.";
    /// The type of a partial column does not aggregate exactly.
    PartialType = "TL041", FEATURE_NOT_SUPPORTED,
        "Cast the value to a type that adds up exactly, such as numeric or double precision.";
    /// A date/time string such as 'now' that each shard would read by its own clock.
    ClockLiteral = "TL042", FEATURE_NOT_SUPPORTED,
        "Use now() or CURRENT_DATE, which are evaluated once.";
    /// A time function of a form that is not evaluated once.
    TimeFunction = "TL043", FEATURE_NOT_SUPPORTED,
        "Use now(), CURRENT_TIMESTAMP or CURRENT_DATE without a precision.";
    /// The columns of a table are not known.
    UnknownColumns = "TL044", FEATURE_NOT_SUPPORTED,
        "Name the columns instead of their positions or *; or try again once the catalog has been read.";
    /// Pinned tables of different shards: none knows them all.
    PinnedApart = "TL045", FEATURE_NOT_SUPPORTED,
        "Pin the tables to one shard, or read them one by one.";
    /// A write of a view over tables of several shards.
    ViewWrite = "TL046", FEATURE_NOT_SUPPORTED,
        "Write the view's table.";
    /// DDL after which rows would not be where the configuration looks for them.
    PlacementDdl = "TL047", FEATURE_NOT_SUPPORTED,
        "Make a table of the new form, name it in the configuration, and copy the rows into it.";
    /// A function, trigger or rule that reaches rows beyond the shard that runs it.
    CodeReach = "TL048", FEATURE_NOT_SUPPORTED,
        "Write those rows in statements of their own and drop the trigger or rule; or name the function in the database's safe_functions if it keeps to its shard.";
    /// ON CONFLICT by an index that does not contain the shard key.
    FarConflict = "TL049", FEATURE_NOT_SUPPORTED,
        "Make a unique index over these columns and the key columns, and name all of them: ON CONFLICT (key, …).";
    /// EXPLAIN, in a form that is not known for several shards.
    Explain = "TL050", FEATURE_NOT_SUPPORTED,
        "`trunkline explain` shows the plan; EXPLAIN the statement for one shard with /* trunkline: shard=NAME */.";
    /// COPY … TO with rows of several shards.
    CopyOut = "TL051", FEATURE_NOT_SUPPORTED,
        "Copy shard by shard with /* trunkline: shard=NAME */, or use SELECT.";
    /// COPY from or to a file or program of the server.
    CopyServer = "TL052", FEATURE_NOT_SUPPORTED,
        "Use COPY … FROM STDIN or TO STDOUT (psql's \\copy).";
    /// A COPY option that the splitter does not know.
    CopyOption = "TL053", FEATURE_NOT_SUPPORTED,
        "Use the text or csv format.";
    /// One COPY row above the limit.
    CopyRowTooLong = "TL054", PROGRAM_LIMIT_EXCEEDED,
        "Rows of a COPY that is split by key are limited to 64 MiB.";
    /// COPY data that cannot be split.
    CopyData = "TL055", BAD_COPY_FILE_FORMAT,
        "Check the delimiter, quotes and line ends of the data.";
    /// DDL on a table that the configuration does not name.
    UnconfiguredDdl = "TL060", FEATURE_NOT_SUPPORTED,
        "Add the table to the configuration first, or set default_shard.";
    /// A statement that cannot run in a transaction, for several shards.
    NonTransactional = "TL061", FEATURE_NOT_SUPPORTED,
        "Run it on each server directly, or name one shard with /* trunkline: shard=NAME */.";
    /// Temporary tables and other state of a session.
    SessionState = "TL062", FEATURE_NOT_SUPPORTED,
        "Use an ordinary table, or name one shard with /* trunkline: shard=NAME */.";
    /// DO, CALL.
    Procedure = "TL063", FEATURE_NOT_SUPPORTED,
        "Name the shard with /* trunkline: shard=NAME */.";
    /// ANALYZE and the like for several shards.
    Maintenance = "TL064", FEATURE_NOT_SUPPORTED,
        "Run it on each shard with /* trunkline: shard=NAME */.";
    /// DDL over tables of different placement.
    MixedDdl = "TL065", FEATURE_NOT_SUPPORTED,
        "Run one statement for each table.";
    /// A cursor over rows of several shards.
    Cursor = "TL066", FEATURE_NOT_SUPPORTED,
        "Bind the cursor's query to one shard by key, or read with LIMIT and a lower bound.";
    /// A sequence or another object without a shard of its own.
    Homeless = "TL067", FEATURE_NOT_SUPPORTED,
        "Set default_shard, or name the shard with /* trunkline: shard=NAME */.";
    /// A function that all sessions call on one shard, in a statement whose rows are on another.
    OffHome = "TL068", FEATURE_NOT_SUPPORTED,
        "Call the function in a statement of its own, without a table: that runs on the same shard for every session.";
    /// More than one shard, under `trunkline.allow_scatter = off`.
    ScatterForbidden = "TL070", FEATURE_NOT_SUPPORTED,
        "Bind it to one shard by the key columns of its tables; or SET trunkline.allow_scatter = on.";
}

/// A statement that will not be run, with the words for the client. Always the client's to fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    /// Names the clause.
    pub message: String,
    /// The way out.
    pub hint: String,
    /// One-based, in characters.
    pub position: Option<usize>,
    pub table: Option<String>,
    pub column: Option<String>,
}

impl Refusal {
    /// Whether it may be for what the schema snapshot does not know yet.
    pub fn is_about_schema(&self) -> bool {
        matches!(self.code, RefusalCode::UndefinedTable | RefusalCode::UnknownColumns | RefusalCode::MixedDdl)
    }

    /// A refusal with the code's own hint.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: code.hint().to_owned(), position: None, table: None, column: None }
    }

    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    #[must_use]
    pub fn at(self, table: &TableName, column: Option<&str>) -> Self {
        Self { table: Some(table.to_string()), column: column.map(str::to_owned), ..self }
    }

    #[must_use]
    pub fn with_position(self, position: Option<usize>) -> Self {
        Self { position, ..self }
    }

    /// A table that the configuration does not name, with the lines to add in the hint.
    pub(super) fn unconfigured(name: &TableName, database: &str, code: RefusalCode) -> Self {
        let hint = format!(
            "Add to the configuration: [[databases.{database}.tables]] name = \"{name}\" with key = {{ hash = \"COLUMN\" }}, \
             reference = true or shard = \"NAME\"; or set default_shard."
        );
        Self::new(code, format!("table \"{name}\" is not in the configuration")).with_hint(hint).at(name, None)
    }
}

impl From<Refusal> for Report {
    fn from(refusal: Refusal) -> Self {
        Self {
            sqlstate: refusal.code.sqlstate(),
            message: refusal.message,
            detail: Some(format!("Reason code {}.", refusal.code.code())),
            hint: Some(refusal.hint),
            position: refusal.position,
            table: refusal.table,
            column: refusal.column,
            routine: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_stable_in_form() {
        let codes: HashSet<&str> = RefusalCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(codes.len(), RefusalCode::ALL.len());
        assert!(codes.iter().all(|code| code.len() == 5 && code.starts_with("TL0")));
        assert!(RefusalCode::ALL.iter().all(|code| !code.hint().is_empty()));
    }
}
