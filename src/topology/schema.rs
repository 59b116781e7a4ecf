//! The schema snapshot: what a shard's catalog says of tables, columns, types, collations and functions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{OwnTypes, ShardSet, TableName};

/// OID of a row of `pg_type`.
pub type TypeOid = u32;

/// OIDs from here on are a server's own: the same type has another one elsewhere. FirstNormalObjectId in
/// src/include/access/transam.h.
pub const FIRST_OWN_OID: TypeOid = 16_384;

/// Whether text of a column compares by bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collation {
    /// The type has no collation.
    None,
    /// `C` or `POSIX`, by its own collation or the database's: compares by bytes.
    C,
    /// The database's own, which is not by bytes.
    Default,
    /// One that the column names.
    Other,
    /// One under which texts of other bytes may be equal.
    Nondeterministic,
}

/// How values of a column are brought to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// In binary, which means the same on every server: built-in types, enums, and domains over them.
    Binary,
    /// Cast to text and back: the binary form may hold a type's OID, which differs between servers.
    Text,
}

/// What fills a column that an INSERT leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnDefault {
    /// NULL.
    None,
    /// `now()`, `CURRENT_TIMESTAMP` and the like.
    Now,
    /// A sequence, an identity, or any other volatile expression.
    Volatile(String),
    /// An expression that gives the same value on every shard.
    Immutable(String),
    /// GENERATED ALWAYS AS (…) STORED.
    Generated,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    pub name: String,
    pub type_oid: TypeOid,
    /// As `format_type` prints it.
    pub type_name: String,
    /// The type and its collation as CREATE TABLE takes them under any search path.
    pub declaration: String,
    pub transfer: Transfer,
    pub collation: Collation,
    pub is_not_null: bool,
    pub default: ColumnDefault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelationKind {
    Table,
    PartitionedTable,
    View,
    MaterializedView,
    ForeignTable,
    Sequence,
}

/// A table, view or sequence of a shard's catalog.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relation {
    pub kind: RelationKind,
    /// In table order, without dropped columns.
    pub columns: Vec<Column>,
}

impl Relation {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// What a view stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "two options of CREATE VIEW, and a fact of the catalog")]
pub struct ViewDefinition {
    /// The query as `pg_get_viewdef` prints it under an empty search path: every name that is not of the system has its schema.
    pub query: String,
    /// Relations outside the system schemas that it reads.
    pub reads: Vec<TableName>,
    /// `security_barrier`: its own terms are evaluated before those of the statement around it.
    pub is_barrier: bool,
    /// `security_invoker`: its tables are read with the rights of who reads it, not of its owner.
    pub is_invoker: bool,
    /// Triggers or rules of its own say what a write does.
    pub has_write_rules: bool,
}

/// The schema of a session's own temporary relations, under the name that stands for it in every session.
pub const TEMPORARY_SCHEMA: &str = "pg_temp";

/// Whether a schema is that of temporary relations.
pub fn is_temporary_schema(schema: &str) -> bool {
    schema == TEMPORARY_SCHEMA || schema.starts_with("pg_temp_")
}

/// What a session's own temporary schema holds, by name. All of it is on the home shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Temporaries {
    pub relations: BTreeMap<String, Arc<Relation>>,
    pub indexes: BTreeSet<String>,
}

impl Temporaries {
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty() && self.indexes.is_empty()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.relations.contains_key(name) || self.indexes.contains(name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionVolatility {
    Immutable,
    Stable,
    Volatile,
}

/// A function outside the system schemas.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserFunction {
    pub schema: String,
    /// That of the most volatile one of the name; of an aggregate, that of the functions that it is made of.
    pub volatility: FunctionVolatility,
    pub kind: FunctionKind,
    /// Whether its results are of types that are not of the system.
    pub gives_own_type: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionKind {
    Plain,
    Aggregate,
    /// A window function, or several kinds under one name.
    Other,
}

/// A function that is called without being named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HiddenCall {
    pub function: TableName,
    pub by: CalledBy,
    /// Names of types, without their schemas, by one of which the call is told: operands that are not of the system if any is none.
    /// Empty for an operator of the system's types: its name tells.
    pub types: Vec<String>,
}

/// Names of types are without their schemas.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CalledBy {
    Operator(String),
    Cast {
        from: String,
        to: String,
    },
    /// A check of the domain's values.
    Domain(String),
}

/// How code names something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// A relation, where SQL has tables.
    Read,
    /// A relation of an INSERT, UPDATE, DELETE, MERGE, TRUNCATE or COPY.
    Written,
    /// A name before a parenthesis, or one of SQL's functions that have none.
    Called,
    /// A column of NEW that gets a value.
    Assigned,
    /// SQL that is put together as the code runs: the name is that of the word which runs it.
    Composed,
}

/// A relation, function or column that code names. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mention {
    pub schema: Option<String>,
    pub name: String,
    pub manner: Manner,
}

/// A trigger of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trigger {
    pub function: TableName,
    /// May change the row that is written.
    pub is_before_row: bool,
    /// What fires it: [`Trigger::INSERT`] and the others.
    pub events: u8,
}

/// As in `pg_trigger.tgtype`: src/include/catalog/pg_trigger.h.
impl Trigger {
    pub const INSERT: u8 = 4;
    pub const DELETE: u8 = 8;
    pub const UPDATE: u8 = 16;
    pub const ALL: u8 = Self::INSERT | Self::DELETE | Self::UPDATE;
}

/// One shard's catalog, as far as planning needs it. Empty before the first read: planning then knows only the topology.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    /// Grows with each read that changed something.
    pub version: u64,
    /// Relations outside the system schemas.
    pub relations: HashMap<TableName, Arc<Relation>>,
    /// The table that a partition, or a table that inherits, is a part of.
    pub parents: HashMap<TableName, TableName>,
    /// Tables that inherit from several, with the other parents.
    pub other_parents: BTreeSet<(TableName, TableName)>,
    /// Tables that are read with rows which are placed by another rule: with the child and the parent of which that is true. Made of
    /// the catalog and the configuration together.
    pub apart: HashMap<TableName, (TableName, TableName)>,
    /// The tables that sequences belong to: those of serial and identity columns, and OWNED BY.
    pub sequence_owners: HashMap<TableName, TableName>,
    /// Relations and indexes that some shards have and others have not, with those that have them.
    pub places: HashMap<TableName, ShardSet>,
    /// Of one shard's catalog, as it is read, the names of its indexes. Empty in what is put together of several.
    pub indexes: BTreeSet<TableName>,
    /// Views and materialized views, with what they read.
    pub views: HashMap<TableName, Arc<ViewDefinition>>,
    /// Tables with row-level security: what is seen of them depends on who reads them.
    pub guarded: BTreeSet<TableName>,
    /// Expressions of policies that read relations or call functions of users, of tables with row-level security; every name that is
    /// not of the system has its schema.
    pub policies: BTreeMap<TableName, BTreeSet<String>>,
    /// Functions outside the system schemas, by unqualified name; those of one schema are one.
    pub user_functions: BTreeMap<String, Vec<UserFunction>>,
    /// What functions outside the system schemas name in their code, those of triggers too, as far as it is a relation, a function
    /// that is not immutable, or a column. Text that is put together at run time is not seen.
    pub code: BTreeMap<TableName, BTreeSet<Mention>>,
    /// Triggers of users, by table.
    pub triggers: BTreeMap<TableName, BTreeSet<Trigger>>,
    /// Unique and exclusion indexes by table: their names with their columns, expressions left out.
    pub unique: BTreeMap<TableName, BTreeMap<String, BTreeSet<String>>>,
    /// The columns of primary keys, by table.
    pub primary_keys: BTreeMap<TableName, BTreeSet<String>>,
    /// Tables with rules, and the other relations that these name.
    pub rules: BTreeMap<TableName, BTreeSet<TableName>>,
    /// Operators, casts and domains outside the system schemas that call a function which is not immutable: it may read tables.
    pub hidden_calls: BTreeSet<HiddenCall>,
    /// Functions of `pg_catalog`, by name; several of one name count as the most volatile.
    pub system_functions: BTreeMap<String, FunctionVolatility>,
    /// Names of relations in `pg_catalog`, which hide user relations of the same name in an unqualified reference.
    pub system_relations: BTreeSet<String>,
    /// `format_type` of every base, enum, domain and range type by OID. OIDs of built-in types are the same on every server, those
    /// of others are the home's.
    pub type_names: HashMap<TypeOid, String>,
    /// Of one shard's catalog, as it is read, the types outside the system's. Empty in what is put together of several.
    pub own_types: OwnTypes,
    /// Not read from any server: the configuration's key columns under likely types, to explain plans offline.
    pub is_assumed: bool,
}

impl Schema {
    pub fn relation(&self, name: &TableName) -> Option<&Arc<Relation>> {
        self.relations.get(name)
    }

    /// Which of `all` shards have a relation or an index: all of them, unless it is known to be otherwise.
    pub fn place_of(&self, name: &TableName, all: ShardSet) -> ShardSet {
        self.places.get(name).copied().unwrap_or(all)
    }
}
