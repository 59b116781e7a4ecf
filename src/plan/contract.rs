//! The types between the planner and the executor.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::copy::{CopyFormat, CopySplit};
use crate::sql::{Command, DeclareParts, ExplainOptions, KeyType, Literal, ParamFormat};
use crate::topology::{
    Collation, Relation, Schema, ShardId, ShardSet, TEMPORARY_SCHEMA, Table, TableName, Temporaries, Topology, TypeOid,
};

/// What planning reads besides the statement.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub topology: &'a Topology,
    pub schema: &'a Schema,
    pub settings: &'a PlanSettings,
}

/// Settings of a session that change what a statement means. Part of the template cache's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlanSettings {
    /// `search_path` as SHOW prints it, with `"$user"` replaced by the user's name.
    pub search_path: Vec<String>,
    pub has_standard_strings: bool,
    pub time_zone: String,
    /// Further settings by which servers read literals, as the session has them: the constants of a prepared statement are theirs.
    pub literal_settings: BTreeMap<&'static str, String>,
    /// The session's own relations, found before those of any schema.
    pub temporaries: Arc<Temporaries>,
    /// Views, and tables with their parents, that the running transaction has made and no snapshot knows yet.
    pub made: Arc<BTreeMap<TableName, Option<TableName>>>,
    /// Tells the catalog that the session's transaction has changed from all others; 0: it is everybody's.
    pub own_schema: u32,
}

impl<'a> Context<'a> {
    /// The relation of this name in the snapshot, or among the session's own.
    pub fn relation(&self, name: &TableName) -> Option<&'a Arc<Relation>> {
        if name.schema == TEMPORARY_SCHEMA {
            return self.settings.temporaries.relations.get(&name.name);
        }
        self.schema.relation(name)
    }
}

/// Those of a session that has set nothing.
impl Default for PlanSettings {
    fn default() -> Self {
        Self {
            search_path: vec!["public".to_owned()],
            has_standard_strings: true,
            time_zone: "UTC".to_owned(),
            literal_settings: BTreeMap::new(),
            temporaries: Arc::default(),
            made: Arc::default(),
            own_schema: 0,
        }
    }
}

/// A statement's values at execution.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The exact text, and the literals that the lexer found in it.
    pub sql: &'a str,
    pub literals: &'a [Literal],
    /// None for a simple query.
    pub params: Params<'a>,
    /// The transaction's time for routing and for stable time functions: microseconds since 2000-01-01 UTC.
    pub now_micros: i64,
}

/// Bind's parameters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Params<'a> {
    /// Types from Parse or ParameterDescription; missing or 0: the type is inferred from use.
    pub types: &'a [TypeOid],
    /// One per value.
    pub formats: &'a [ParamFormat],
    pub values: &'a [Option<&'a [u8]>],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Changes nothing as far as is known: may run on a replica when the primary is down.
    Read,
    Write,
}

/// What to do with one statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// All of it on one shard, verbatim.
    Route { shard: ShardId, access: Access },
    /// On any one shard, verbatim: constants, system catalogs, reference tables, contradictory predicates.
    AnyOne { access: Access },
    /// The same text on several shards; rows concatenated or merged.
    Merge(Arc<MergePlan>),
    /// Partial rows from several shards, a final query on the engine.
    Combine(Arc<CombinePlan>),
    /// Rows of several tables brought to the engine, where the statement runs over them.
    Gather(Arc<GatherPlan>),
    /// A multi-row INSERT split per row: one statement per shard, the counts added.
    Insert(Arc<InsertPlan>),
    /// The same text on each of these shards as one write: reference tables, DDL. The answer is the first shard's.
    Everywhere { shards: ShardSet },
    /// COPY … FROM STDIN, split per row or sent to all of a reference table's shards.
    CopyIn(Arc<CopyPlan>),
    /// COPY … TO STDOUT of rows of several shards.
    CopyOut(Arc<CopyOutPlan>),
    /// DECLARE … CURSOR FOR rows of several shards.
    Cursor(Arc<CursorPlan>),
    /// EXPLAIN of a plan of several shards.
    Explain(Arc<ExplainPlan>),
    /// The session acts on it.
    Command(Command),
}

impl Plan {
    /// Whether it gives rows of several shards: they can be given in portions.
    pub fn reads_several(&self) -> bool {
        matches!(self, Self::Merge(_) | Self::Combine(_) | Self::Gather(_))
    }

    /// Whether it may write on several shards: what it does is one transaction.
    pub fn writes_several(&self) -> bool {
        match self {
            Self::Insert(_) | Self::Everywhere { .. } | Self::CopyIn(_) => true,
            Self::Explain(explain) => explain.options.is_analyze && explain.plan.writes_several(),
            Self::Route { .. }
            | Self::AnyOne { .. }
            | Self::Merge(_)
            | Self::Combine(_)
            | Self::Gather(_)
            | Self::CopyOut(_)
            | Self::Cursor(_)
            | Self::Command(_) => false,
        }
    }

    /// Whether the engine's part of it is in a transaction of its own.
    pub fn gathers(&self) -> bool {
        match self {
            Self::Gather(_) => true,
            Self::Explain(explain) => explain.options.is_analyze && explain.plan.gathers(),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct MergePlan {
    pub shards: ShardSet,
    /// The statement for each shard: the original with hidden sort columns after its own, and limit + offset pushed.
    ///
    /// Parameters keep their numbers, and some may no longer occur: Parse must give every parameter's type.
    pub text: String,
    /// How many columns at the end of each row are hidden. They are asked for in binary.
    pub n_hidden: usize,
    /// Sort keys over the hidden columns (`column_idx` counts from the first hidden one); none: concatenation.
    pub order: Vec<SortKey>,
    pub limit: Option<u64>,
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "three clauses of ORDER BY, each with two values")]
pub struct SortKey {
    pub column_idx: usize,
    pub is_descending: bool,
    pub is_nulls_first: bool,
    /// Text of this key compares by bytes; without it a text key is refused.
    pub is_collation_c: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CombinePlan {
    pub shards: ShardSet,
    /// The statement for each shard; its columns are `c0`, `c1`, …. Parameters keep their numbers, as in [`MergePlan::text`];
    /// the final statement has none of them, its own are the partial columns as arrays.
    pub text: String,
    pub n_columns: usize,
    /// Columns whose text compares under collation C.
    pub c_columns: Vec<usize>,
    /// Columns whose text compares under a collation that the final statement does not know.
    pub odd_columns: Vec<usize>,
    /// The final statement, but for the types of the partial columns.
    pub finish: Vec<FinalPiece>,
}

/// A piece of the engine's final SELECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinalPiece {
    Text(String),
    /// The source of partial rows: `unnest($1::t0[], …) AS p(c0, …)`.
    Source,
    /// `sum` of partial sums, cast to the partial column's type.
    Sum {
        column_idx: usize,
    },
    /// `sum` of partial counts, 0 when there are none.
    Count {
        column_idx: usize,
    },
    Min {
        column_idx: usize,
    },
    Max {
        column_idx: usize,
    },
    /// Average from partial sums and counts, in the type that Postgres's avg gives.
    Avg {
        sum_idx: usize,
        count_idx: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherPlan {
    /// Each table that the statement reads, once, in the order of their first names.
    pub inputs: Vec<GatherInput>,
    /// The statement, with a place for each table's name. Parameters keep their numbers.
    pub finish: Vec<GatherPiece>,
    /// What rows of one table say of those of another that matter.
    pub links: Vec<GatherLink>,
    /// How rows of tables stand for values.
    pub row_values: RowValues,
    /// All shards that are read.
    pub shards: ShardSet,
    /// The shard of pinned tables, which alone can describe the original; `None`: any.
    pub describe_shard: Option<ShardId>,
    /// Views whose queries stand in the statement: whether the client may read them is not shown by reading their tables.
    pub views: Vec<TableName>,
}

/// Whether rows of tables are values in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowValues {
    None,
    /// Any row type with these columns is as good as the table's: no function, operator or cast of users can tell them apart.
    Alike,
    /// They are to be of the table's type.
    Typed,
}

/// A table whose rows go to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherInput {
    pub table: TableName,
    /// Without the rows of tables that inherit from it.
    pub is_only: bool,
    pub source: GatherSource,
    /// Those that the statement may name, at least one, in the table's order.
    pub columns: Vec<GatherColumn>,
    /// All that the table has are among them: its rows can be told whole.
    pub is_whole: bool,
    /// What every row that matters satisfies: SQL over the table's own columns, unqualified.
    pub filter: Option<String>,
    /// Columns by which the engine looks rows up, one value after the other: it wants indexes on them if the rows are many.
    pub looked_up: Vec<usize>,
    /// Columns that are its primary key on the engine too if GROUP BY leans on it; none where it does not.
    pub primary_key: Vec<usize>,
}

/// Rows of input `to` matter only if their column has a value that a row of input `from` has in its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherLink {
    /// Indexes of the input and of its column.
    pub from: (usize, usize),
    pub to: (usize, usize),
    /// The placement of `to`'s rows, where the column is of its key: with the index there and the column's type.
    pub key: Option<(Arc<Table>, usize, KeyType)>,
}

/// Where the engine finds the rows of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatherPlace {
    /// In its own table of that name.
    Named,
    /// In a temporary table.
    Temporary,
    /// There too, to be taken out as rows of the table's own type.
    Typed,
    /// Nowhere yet: columns of the same types without a row, by which the engine can judge the statement.
    Unread,
    /// In parameters, one array for each column: the first has this number.
    Arrays { first: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatherSource {
    /// The rows are those of all these shards together; none: no row matters.
    Shards(ShardSet),
    /// Every shard has all rows: a reference table. An engine that is a shard has them, too.
    AnyOne,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherColumn {
    pub name: String,
    pub type_oid: TypeOid,
    /// As [`crate::topology::Column::type_name`].
    pub type_name: String,
    /// Its type and collation, as [`crate::topology::Column::declaration`].
    pub declaration: String,
    pub collation: Collation,
    /// Travels as text and is cast back where it is read.
    pub is_text: bool,
}

/// A piece of the statement that the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatherPiece {
    Text(String),
    /// A table's name as `written`; what stands in its place is called `alias` where that is given.
    Table {
        input_idx: usize,
        written: String,
        alias: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertPlan {
    /// In shard order.
    pub statements: Vec<ShardStatement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStatement {
    pub shard: ShardId,
    /// Parameters keep their numbers, as in [`MergePlan::text`].
    pub text: String,
}

/// A COPY … FROM STDIN whose rows are split by key, or sent to every shard of a reference table.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyPlan {
    pub shards: ShardSet,
    /// How rows find their shard; `None`: each row goes to all `shards`.
    pub split: Option<CopySplit>,
}

/// A COPY … TO STDOUT with rows of several shards.
#[derive(Debug, Clone, PartialEq)]
pub struct CopyOutPlan {
    pub rows: CopyRows,
    pub format: CopyFormat,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CopyRows {
    /// Each of these shards runs this COPY; their data is concatenated. `query` has the data's columns.
    Each { shards: ShardSet, text: String, query: String },
    /// The answer of a query, which stands in this part of the statement.
    Answer { query: Range<usize>, plan: Box<Plan> },
}

/// An EXPLAIN of what runs on several shards.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainPlan {
    pub options: ExplainOptions,
    /// Where EXPLAIN with its options ends in the text; it is said to each shard as it is.
    pub options_end: usize,
    /// Where the explained statement starts; DECLARE is explained by its query.
    pub statement_start: usize,
    pub plan: Plan,
}

/// A DECLARE CURSOR whose rows are on several shards.
#[derive(Debug, Clone, PartialEq)]
pub struct CursorPlan {
    pub declared: DeclareParts,
    /// A plan that gives rows; [`Plan::Gather`] for a cursor that goes back or outlives its transaction.
    pub rows: Plan,
}
