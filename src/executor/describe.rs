//! What a server says of a statement before it runs: parameter types and columns. Kept per text.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::Conversation;
use super::batch::SessionStatement;
use super::conversation::SchemaChange;
use super::enlist::Watched;
use super::failure::Failure;
use super::fan_out::BoundValues;
use crate::plan::Access;
use crate::session::prepared::Described;
use crate::session::row_description;
use crate::session::transaction::Phase;
use crate::session::wire::{self, BodyReader, HEADER_LEN};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{FIRST_OWN_OID, ShardId, TypeOid};

/// Most texts that are kept; the table is emptied when it is full.
const CAPACITY: usize = 1_024;

/// Longest text that is kept, in bytes.
const MAX_TEXT_LEN: usize = 64 * 1024;

/// Descriptions by text, its context and parameter types, of one schema version.
#[derive(Debug, Default)]
pub(super) struct DescriptionCache {
    descriptions: Mutex<Descriptions>,
}

/// The hash of what besides the text decides what it means and how its columns are named, the text, and parameter types.
type Key = (u64, String, Vec<u32>);

#[derive(Debug, Default)]
struct Descriptions {
    generation: u64,
    by_key: HashMap<Key, Described>,
}

impl DescriptionCache {
    fn get(&self, generation: u64, key: &Key) -> Option<Described> {
        let descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if descriptions.generation == generation { descriptions.by_key.get(key).cloned() } else { None }
    }

    fn insert(&self, generation: u64, key: Key, described: Described) {
        let mut descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if descriptions.generation != generation || descriptions.by_key.len() >= CAPACITY {
            *descriptions = Descriptions { generation, by_key: HashMap::new() };
        }
        descriptions.by_key.insert(key, described);
    }

    /// Forgets all: the catalogs have changed without a word.
    fn clear(&self) {
        self.descriptions.lock().unwrap_or_else(PoisonError::into_inner).by_key.clear();
    }
}

impl Conversation {
    /// Has `shard` describe a statement, unless it is known.
    ///
    /// # Errors
    /// The server's own error for the text.
    pub(super) async fn describe(&mut self, shard: ShardId, text: &str, param_types: &[u32]) -> Result<Described, Failure> {
        let shared = self.description_key(text, param_types);
        if let Some((generation, key)) = &shared
            && let Some(described) = self.database.descriptions.get(*generation, key)
        {
            return Ok(described);
        }
        self.check_parameter_types(shard, param_types).await?;
        let idx = self.enlist(shard, Access::Read).await?;
        let own_types = self.parameter_types(shard, param_types);
        let connection = self.enlisted[idx].begin_statement();
        connection.unnamed = None;
        let output = &mut connection.socket.output;
        wire::parse(output, b"", text.as_bytes(), &own_types);
        wire::describe_or_close(output, b'D', b'S', b"");
        wire::bare(output, b'S');
        if let Err(error) = self.timer.send(&mut self.enlisted[idx].lease).await {
            return Err(self.abandon(idx, error).await);
        }
        let described = self.read_description(idx).await?;
        if let Some((generation, key)) = shared.filter(|_| text.len() <= MAX_TEXT_LEN) {
            self.database.descriptions.insert(generation, key, described.clone());
        }
        Ok(described)
    }

    /// What is known of the columns of a statement without asking: all that a client can have been told of one without a name.
    pub(super) fn known_columns(&self, text: &str, param_types: &[u32]) -> Option<Vec<TypeOid>> {
        let (generation, key) = self.description_key(text, param_types)?;
        self.database.descriptions.get(generation, &key).map(column_types)
    }

    /// Where descriptions of a text are kept. `None` while they are not everybody's: a temporary table is the client's alone, and
    /// so is what its transaction has changed.
    fn description_key(&self, text: &str, param_types: &[u32]) -> Option<(u64, Key)> {
        let is_shared = self.temporary_version() == 0 && self.block.schema_change == SchemaChange::None;
        is_shared.then(|| (self.database.schema_version(), (self.context_hash, text.to_owned(), param_types.to_vec())))
    }

    /// Says what columns shards must describe before rows of theirs are taken: of the fan-out that has just been written. A type 0
    /// stands for any.
    pub(super) fn expect_columns(&mut self, types: impl IntoIterator<Item = TypeOid>) {
        self.expected_columns = Some(types.into_iter().collect());
    }

    /// The same of what the client was told.
    pub(super) fn expect_told(&mut self, values: &BoundValues) {
        if let Some(told) = &values.told {
            self.expect_columns(told.iter().copied());
        }
    }

    /// Compares what a shard says of its rows, a RowDescription, with what is expected of them. Without an expectation the first
    /// shard's word is the others'.
    ///
    /// # Errors
    /// 0A000, in Postgres's words for a statement whose columns are others than they were.
    pub(super) async fn check_described(&mut self, idxs: &[usize], message: &[u8]) -> Result<(), Failure> {
        let types = row_description::column_types(message.get(HEADER_LEN..).unwrap_or_default());
        let Some(expected) = &self.expected_columns else {
            self.expected_columns = Some(types);
            return Ok(());
        };
        if are_expected(expected, &types) {
            return Ok(());
        }
        self.cancel_and_drain(idxs).await;
        self.forget_descriptions();
        self.database.note_schema_change();
        Box::pin(self.read_types_again()).await;
        let report = changed_columns()
            .with_detail("Reason code TL108.")
            .with_hint("A table has changed since the statement was described: run it again.");
        Err(Failure::client(report))
    }

    /// Compares the columns that a statement with these types of parameters gives with those that the client was told.
    ///
    /// # Errors
    /// 0A000 where they are others; the server's own for the text.
    pub(super) async fn check_told(&mut self, statement: &SessionStatement, types: &[u32]) -> Result<(), Failure> {
        let Some(told) = statement.told.as_ref().and_then(|told| told.columns.get()) else { return Ok(()) };
        let shard = statement.cached.template.describe_shard().unwrap_or_else(|| self.any_shard());
        let described = self.describe(shard, &statement.prepared.text, types).await?;
        if self.transaction.phase == Phase::Idle {
            self.release();
        }
        if are_expected(told, &column_types(described)) { Ok(()) } else { Err(Failure::client(changed_columns())) }
    }

    /// Forgets what servers have said of statements: a catalog is not what it was.
    pub(super) fn forget_descriptions(&self) {
        self.database.descriptions.clear();
    }

    async fn read_description(&mut self, idx: usize) -> Result<Described, Failure> {
        let mut described = Described { param_types: Vec::new(), row_description: None };
        let mut failure = None;
        loop {
            let (tag, message) = match self.next_message(idx, Watched::Client).await {
                Ok(message) => message,
                Err(lost) => return Err(failure.unwrap_or(lost)),
            };
            match tag {
                b'Z' => return failure.map_or(Ok(described), Err),
                b't' => described.param_types = parameter_types(&message[HEADER_LEN..]),
                b'T' => described.row_description = Some(Bytes::copy_from_slice(&message[HEADER_LEN..])),
                // The client's own statement is at fault: its server's error is passed on as it came.
                b'E' => failure = Some(Failure::Shard(message)),
                _ => {}
            }
        }
    }
}

/// Whether columns of two servers may be of one type: those that users made have other OIDs on each.
pub(super) fn is_same_type(a: TypeOid, b: TypeOid) -> bool {
    a == b || (a >= FIRST_OWN_OID && b >= FIRST_OWN_OID)
}

/// Whether columns have the types that are expected of them; 0: any.
pub(super) fn are_expected(expected: &[TypeOid], given: &[TypeOid]) -> bool {
    let is_same = |(expected, given): (&TypeOid, &TypeOid)| *expected == 0 || is_same_type(*expected, *given);
    expected.len() == given.len() && expected.iter().zip(given).all(is_same)
}

pub(super) fn parameter_types(body: &[u8]) -> Vec<u32> {
    let mut reader = BodyReader(body);
    let n_types = reader.u16().unwrap_or(0);
    (0..n_types).map_while(|_| reader.u32()).collect()
}

/// As src/backend/utils/cache/plancache.c, `RevalidateCachedQuery`: asyncpg and PgJDBC know it by that name, and prepare again.
pub(super) fn changed_columns() -> Report {
    let report = Report::new(SqlState::FEATURE_NOT_SUPPORTED, "cached plan must not change result type");
    Report { routine: Some("RevalidateCachedQuery"), ..report }
}

/// The types of the columns that a text gives.
pub(super) fn column_types(described: Described) -> Vec<TypeOid> {
    let body = described.row_description.unwrap_or_else(no_columns);
    row_description::column_types(&body)
}

/// The body of a RowDescription without columns.
pub(super) fn no_columns() -> Bytes {
    Bytes::from_static(&[0, 0])
}
