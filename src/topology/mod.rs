//! What stands where: shards, nodes, tables, keys and the placement map.
//!
//! Pure and immutable. A change of configuration or of a watermark makes a new [`Topology`] with a larger epoch.

mod hash;
mod key;
mod placement;
mod schema;
mod shard_set;
mod types;
mod watermark;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

pub use hash::{HashFunction, hash_bytes_extended, hash_int8_extended};
pub use key::{Bound, KeyPredicate, KeyValue};
pub use placement::{AgeMap, HashMapLevel, Key, KeyMap, ListMap, PlacementError};
pub use schema::{
    CalledBy, Collation, Column, ColumnDefault, FIRST_OWN_OID, FunctionKind, FunctionVolatility, HiddenCall, Manner, Mention,
    Relation, RelationKind, Schema, TEMPORARY_SCHEMA, Temporaries, Transfer, Trigger, TypeOid, UserFunction, ViewDefinition,
    is_temporary_schema,
};
pub use shard_set::{MAX_SHARDS, ShardSet};
pub use types::{OwnType, OwnTypes, TypeMap, TypeMaps, TypeShape};
pub use watermark::{AgePolicy, Watermarks};

/// Index of a shard in [`Topology::shards`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u8);

impl ShardId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A table's name as the configuration or a statement gives it; identifiers are already folded as Postgres folds them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

/// `orders` for a table in `public`, else `schema.orders`.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.schema == "public" { f.write_str(&self.name) } else { write!(f, "{}.{}", self.schema, self.name) }
    }
}

/// One Postgres server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    /// Host name, IP address, or an absolute path: the directory of a unix socket.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A part of a database's rows: one primary and its replicas. Roles are detected, not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub name: String,
    /// The database's name on the shard's servers.
    pub dbname: String,
    pub nodes: Vec<NodeAddress>,
}

/// Where a table's rows are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// Each row on the shard that its key gives.
    Sharded(Key),
    /// A copy of every row on every shard.
    Reference,
    /// All rows on one shard.
    Pinned(ShardId),
}

/// A table named by the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: TableName,
    pub placement: Placement,
}

/// Which server runs the final query of the combine rung.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    Any,
    Shard(ShardId),
    Dedicated { node: NodeAddress, dbname: String },
}

/// One database as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub database: String,
    pub shards: Vec<Shard>,
    pub tables: HashMap<TableName, Arc<Table>>,
    /// Home of tables that the configuration does not name.
    pub default_shard: Option<ShardId>,
    pub engine: Engine,
    /// Functions that the configuration declares to give the same on every server: they read no tables.
    pub safe_functions: HashSet<TableName>,
    /// Grows at each change of placement.
    pub epoch: u64,
}

impl Topology {
    pub fn all_shards(&self) -> ShardSet {
        ShardSet::first(self.shards.len())
    }

    /// A dedicated engine as a shard beside the others: no row is placed there, and nothing but final queries goes there.
    pub fn dedicated_engine(&self) -> Option<(ShardId, Shard)> {
        let Engine::Dedicated { node, dbname } = &self.engine else { return None };
        let shard = Shard { name: "engine".to_owned(), dbname: dbname.clone(), nodes: vec![node.clone()] };
        Some((ShardId(u8::try_from(self.shards.len()).ok()?), shard))
    }

    /// The name of a shard, or of the dedicated engine.
    pub fn shard_name(&self, id: ShardId) -> &str {
        self.shards.get(id.index()).map_or("engine", |shard| shard.name.as_str())
    }

    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards.len()).map(|idx| ShardId(idx as u8))
    }

    pub fn shard(&self, id: ShardId) -> &Shard {
        &self.shards[id.index()]
    }

    pub fn shard_named(&self, name: &str) -> Option<ShardId> {
        self.shards.iter().position(|shard| shard.name == name).map(|idx| ShardId(idx as u8))
    }

    /// The shard for what is about no table and must be in one place for all sessions: LISTEN and NOTIFY, advisory locks, the
    /// catalog with the OIDs that clients know types by.
    pub fn home_shard(&self) -> ShardId {
        self.default_shard.unwrap_or(ShardId(0))
    }

    /// The single shard of a database that has just one: a plain pooler, which forwards whatever it is sent.
    pub fn only_shard(&self) -> Option<ShardId> {
        (self.shards.len() == 1).then_some(ShardId(0))
    }

    /// The same topology with other watermarks in every age level (tables in no particular order), one epoch later.
    #[must_use]
    pub fn with_watermarks(&self, watermarks: &HashMap<TableName, Watermarks>) -> Self {
        let tables = self
            .tables
            .iter()
            .map(|(name, table)| {
                let placement = match (&table.placement, watermarks.get(name)) {
                    (Placement::Sharded(key), Some(marks)) => Placement::Sharded(key.with_watermarks(marks)),
                    (placement, _) => placement.clone(),
                };
                (name.clone(), Arc::new(Table { name: name.clone(), placement }))
            })
            .collect();
        Self { tables, epoch: self.epoch + 1, ..self.clone() }
    }
}
