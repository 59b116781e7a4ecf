//! The texts of a gather plan: what each shard is asked for, and the engine's statement with places for its tables.

use crate::plan::contract::{GatherColumn, GatherInput, GatherLink, GatherPiece, GatherPlace, GatherPlan};
use crate::plan::text::quoted;
use crate::topology::{Column, ShardId, TableName, Transfer, TypeOid};

/// src/include/catalog/pg_type.dat
const TEXT: TypeOid = 25;
const INT2VECTOR: TypeOid = 22;
const OIDVECTOR: TypeOid = 30;

/// src/include/access/transam.h, `FirstGenbkiObjectId`: OIDs below it are the same in all versions.
const FIRST_UNPINNED_OID: TypeOid = 10_000;

impl GatherPlan {
    /// A shard that can describe the original statement.
    pub fn first_shard(&self) -> ShardId {
        self.describe_shard.or_else(|| self.shards.iter().next()).unwrap_or(ShardId(0))
    }

    /// `users.user_id by facts.kind`: which rows of the first are read once those of the second are few.
    pub fn told(&self, link: &GatherLink) -> String {
        let named = |(input_idx, column_idx): (usize, usize)| {
            let input = self.inputs.get(input_idx);
            let column = input.and_then(|input| input.columns.get(column_idx));
            input.zip(column).map(|(input, column)| format!("{}.{}", input.table, column.name)).unwrap_or_default()
        };
        format!("{} by {}", named(link.to), named(link.from))
    }

    /// The statement for the engine, given where it finds each input's rows.
    pub fn final_sql(&self, place_of: impl Fn(usize) -> GatherPlace) -> String {
        let mut sql = String::new();
        for piece in &self.finish {
            match piece {
                GatherPiece::Text(text) => sql.push_str(text),
                GatherPiece::Table { input_idx, written, alias } => {
                    let relation = self.inputs.get(*input_idx).and_then(|input| input.relation(*input_idx, place_of(*input_idx)));
                    match (relation, alias) {
                        (None, _) => sql.push_str(written),
                        (Some(relation), Some(alias)) => sql.push_str(&format!("{relation} AS {alias}")),
                        (Some(relation), None) => sql.push_str(&relation),
                    }
                }
            }
        }
        sql
    }
}

impl GatherInput {
    /// The name of the relation on the engine, qualified.
    pub fn temporary(input_idx: usize) -> String {
        format!("pg_temp.trunkline_{input_idx}")
    }

    /// Makes the relation on the engine, for the length of the transaction; with its primary key if that `has_key`.
    pub fn create_sql(&self, input_idx: usize, has_key: bool) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| format!("{} {}", quoted(&column.name), column.stored_as())).collect();
        let key = self.primary_key.iter().filter(|_| has_key);
        let key: Vec<String> = key.filter_map(|&idx| self.columns.get(idx)).map(|column| quoted(&column.name)).collect();
        let key = if key.is_empty() { String::new() } else { format!(", PRIMARY KEY ({})", key.join(", ")) };
        format!("CREATE TEMPORARY TABLE {} ({}{key}) ON COMMIT DROP", Self::temporary(input_idx), columns.join(", "))
    }

    /// What is to be run when all rows are in the relation: indexes on columns by which they are looked up, and statistics. A value
    /// that `is_long` may not fit into an entry of a B-tree; a hash index takes it, but is slow to make of few values.
    pub fn prepare_sql(&self, input_idx: usize, is_long: bool) -> String {
        let table = Self::temporary(input_idx);
        let method = if is_long { "hash" } else { "btree" };
        let columns = self.looked_up.iter().filter_map(|&idx| self.columns.get(idx));
        let indexes: String =
            columns.map(|column| format!("CREATE INDEX ON {table} USING {method} ({});", quoted(&column.name))).collect();
        format!("{indexes}ANALYZE {table}")
    }

    /// Reads the rows on a shard that satisfy `terms` as well, all columns in binary.
    pub fn select_sql(&self, terms: &[String]) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let cast = if column.is_text { "::text" } else { "" };
                format!("{}{cast}", quoted(&column.name))
            })
            .collect();
        self.select_of(&columns.join(", "), terms)
    }

    /// The same with other words for the columns.
    pub(in crate::plan) fn select_of(&self, columns: &str, terms: &[String]) -> String {
        let filter = match (&self.filter, terms) {
            (None, []) => String::new(),
            (None, terms) => format!(" WHERE {}", terms.join(" AND ")),
            (Some(filter), []) => format!(" WHERE {filter}"),
            (Some(filter), terms) => format!(" WHERE ({filter}) AND {}", terms.join(" AND ")),
        };
        let only = if self.is_only { "ONLY " } else { "" };
        format!("SELECT {columns} FROM {only}{}{filter}", qualified(&self.table))
    }

    /// Whether all of its columns can be sent as arrays.
    pub fn has_arrays(&self) -> bool {
        self.columns.iter().all(|column| column.element().is_some())
    }

    /// What stands in the statement for the table; `None`: its own name. Columns that came as text are cast back.
    fn relation(&self, input_idx: usize, place: GatherPlace) -> Option<String> {
        let (name, columns): (String, Vec<String>) = match place {
            GatherPlace::Named => return None,
            GatherPlace::Unread => {
                let columns =
                    self.columns.iter().map(|column| format!("{} AS {}", column.cast_back("NULL"), quoted(&column.name)));
                return Some(format!("(SELECT {})", columns.collect::<Vec<_>>().join(", ")));
            }
            GatherPlace::Typed if self.is_whole => return Some(self.typed_rows(input_idx)),
            GatherPlace::Temporary | GatherPlace::Typed if !self.columns.iter().any(|column| column.is_text) => {
                return Some(Self::temporary(input_idx));
            }
            GatherPlace::Temporary | GatherPlace::Typed => {
                let columns = self.columns.iter().map(|column| {
                    let name = quoted(&column.name);
                    if column.is_text { format!("{} AS {name}", column.cast_back(&name)) } else { name }
                });
                (Self::temporary(input_idx), columns.collect())
            }
            GatherPlace::Arrays { first } => {
                let arrays = self.columns.iter().zip(first..).map(|(column, number)| column.array(number));
                let (arrays, names): (Vec<String>, Vec<String>) =
                    arrays.enumerate().map(|(idx, array)| (array, format!("c{idx}"))).unzip();
                let columns = self.columns.iter().zip(&names).map(|(column, name)| {
                    let value = if column.is_text { column.cast_back(name) } else { format!("{name}{}", column.collate()) };
                    format!("{value} AS {}", quoted(&column.name))
                });
                (format!("unnest({}) AS r({})", arrays.join(", "), names.join(", ")), columns.collect())
            }
        };
        Some(format!("(SELECT {} FROM {name})", columns.join(", ")))
    }

    /// The rows of the relation as a function of the table's type gives them, by which a whole row is of that type too; that of an
    /// outer join which has none is NULL, as it is of a table.
    fn typed_rows(&self, input_idx: usize) -> String {
        let value = |column: &GatherColumn| {
            let name = quoted(&column.name);
            if column.is_text { column.cast_back(&name) } else { name }
        };
        let values: Vec<String> = self.columns.iter().map(value).collect();
        let (row, table) = (values.join(", "), qualified(&self.table));
        format!("pg_catalog.unnest(ARRAY(SELECT ROW({row})::{table} FROM {}))", Self::temporary(input_idx))
    }
}

impl GatherColumn {
    pub(super) fn of(column: &Column) -> Self {
        Self {
            name: column.name.clone(),
            type_oid: column.type_oid,
            type_name: column.type_name.clone(),
            declaration: column.declaration.clone(),
            collation: column.collation,
            is_text: column.transfer == Transfer::Text,
        }
    }

    /// The type of which shards say that its values are; 0 for one that is not known: of a domain they name the base type.
    pub fn sent_type(&self) -> TypeOid {
        self.element().map_or(0, |(type_oid, _)| type_oid)
    }

    fn stored_as(&self) -> &str {
        if self.is_text { "text" } else { &self.declaration }
    }

    /// `"c"::type COLLATE …`: the declaration is a type and perhaps a collation, in this order.
    fn cast_back(&self, value: &str) -> String {
        format!("{value}::{}", self.declaration)
    }

    /// ` COLLATE …`, for a column with a collation of its own.
    fn collate(&self) -> &str {
        self.declaration.strip_prefix(self.type_name.as_str()).unwrap_or_default()
    }

    /// OID and name of the type in which its values travel as elements of an array; none for types that are not the system's, or
    /// have other OIDs in other versions, and for arrays, which are no elements of one.
    pub fn element(&self) -> Option<(TypeOid, &str)> {
        let is_array = self.type_name.ends_with("[]") || matches!(self.type_oid, INT2VECTOR | OIDVECTOR);
        match (self.is_text, is_array) {
            (true, _) => Some((TEXT, "text")),
            (false, true) => None,
            (false, false) => (self.type_oid < FIRST_UNPINNED_OID).then_some((self.type_oid, self.type_name.as_str())),
        }
    }

    /// The parameter of this number as an array of the column's values.
    pub fn array(&self, number: usize) -> String {
        format!("${number}::{}[]", self.element().map_or("text", |(_, name)| name))
    }

    /// A term that holds for rows whose value is among the elements of the parameter.
    pub fn is_among(&self, of: &Self, number: usize) -> String {
        format!("{} = ANY ({})", quoted(&self.name), of.array(number))
    }
}

fn qualified(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}
