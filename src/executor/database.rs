//! One database as the process serves it: topology, schema snapshot, health, pools, counters.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::DropGuard;

use crate::backend::Pools;
use crate::backend::catalog::{load_code, load_schema};
use crate::backend::control::{ControlClient, ControlError, ControlNode};
use crate::config::{DatabaseConfig, QueryConfig};
use crate::executor::describe::DescriptionCache;
use crate::executor::folded::Alike;
use crate::executor::function_call::FunctionTexts;
use crate::executor::greeting::GreetingCache;
use crate::executor::holding::GatheredSum;
use crate::executor::self_check::SelfCheck;
use crate::executor::templates::TemplateCache;
use crate::executor::waits::Waits;
use crate::health::Board;
use crate::observe::{DatabaseCounters, Registry};
use crate::plan::families_apart;
use crate::session::prepared::Interner;
use crate::session::unpooled::CodeEffects;
use crate::topology::{FIRST_OWN_OID, Schema, ShardId, ShardSet, TableName, Topology, TypeMaps, TypeOid, Watermarks};

/// What planning reads, as of one moment. Replaced whole.
#[derive(Debug, Clone)]
pub struct View {
    /// Grows with each view of the database.
    pub generation: u64,
    pub topology: Arc<Topology>,
    pub schema: Arc<Schema>,
    /// Which OID a type has on which shard.
    pub types: Arc<TypeMaps>,
    /// What functions and triggers leave in their session.
    pub code: Arc<CodeEffects>,
}

/// Shortest time between two reads of the catalog that unknown names ask for.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// Time between two reads of what functions and triggers leave in their session.
const CODE_INTERVAL: Duration = Duration::from_secs(60);

/// Reading catalogs again, to see what was changed past the proxy, takes one part in so many of the time.
const SCHEMA_SHARE: u32 = 500;

/// Seconds between 1970 and 2000, where Postgres's timestamps begin.
const POSTGRES_EPOCH_SECONDS: u64 = 946_684_800;

/// What a database is made of besides its own section of the configuration.
#[derive(Debug)]
pub struct DatabaseParts {
    pub query: QueryConfig,
    pub board: Arc<Board>,
    pub control: Vec<Vec<ControlNode>>,
    pub registry: Arc<Registry>,
    pub n_workers: usize,
    pub waits: Arc<Waits>,
    /// Stops the database's probers when it is dropped.
    pub probing: DropGuard,
}

/// A database of the configuration. Shared by all workers.
#[derive(Debug)]
pub struct Database {
    pub name: String,
    pub config: DatabaseConfig,
    pub query: QueryConfig,
    pub board: Arc<Board>,
    pub pools: Pools,
    pub counters: Arc<DatabaseCounters>,
    pub interner: Arc<Interner>,
    pub(super) descriptions: DescriptionCache,
    pub(super) greetings: GreetingCache,
    pub(super) alike: Alike,
    pub(super) functions: FunctionTexts,
    /// Statements that gather hold two connections of a node at most: half of a pool's may run at once, so that none waits for
    /// another's.
    pub(super) gather_slots: Arc<Semaphore>,
    pub(super) gathered: GatheredSum,
    pub self_check: SelfCheck,
    /// Sessions that may be part of a deadlock across shards.
    pub(super) waits: Arc<Waits>,
    /// One per worker.
    pub templates: Box<[TemplateCache]>,
    /// Control-plane connections, by shard and node.
    pub control: Vec<Vec<ControlNode>>,
    view: RwLock<Arc<View>>,
    generation: AtomicU64,
    /// Grows with DDL through the proxy, and when a server says that a statement's columns have changed.
    schema_changes: AtomicU64,
    own_schemas: AtomicU32,
    /// Serialises reads of the catalog.
    refreshing: Mutex<()>,
    refreshed_at_micros: AtomicI64,
    /// How long that took.
    read_for_micros: AtomicU64,
    code_read_at_micros: AtomicI64,
    is_prepared: AtomicBool,
    /// Clients ask for the last values of sequences.
    reads_sequences: AtomicBool,
    /// What a reload has put in its place: sessions move there between two transactions.
    successor: OnceLock<Arc<Self>>,
    _probing: DropGuard,
}

impl Database {
    /// A database as the configuration has it; `predecessor` is the one that it takes the place of. Counters go on, and so do
    /// the names of prepared statements.
    pub fn new(config: DatabaseConfig, parts: DatabaseParts, predecessor: Option<&Self>) -> Self {
        let DatabaseParts { query, board, control, registry, n_workers, waits, probing } = parts;
        let topology = Arc::new(config.topology.clone());
        let generation = predecessor.map_or(0, |predecessor| predecessor.view().generation + 1);
        Self {
            name: topology.database.clone(),
            pools: Pools::new(&topology, &config.pool, &config.tls, registry),
            query,
            board,
            counters: predecessor.map(|predecessor| Arc::clone(&predecessor.counters)).unwrap_or_default(),
            interner: predecessor.map(|predecessor| Arc::clone(&predecessor.interner)).unwrap_or_default(),
            descriptions: DescriptionCache::default(),
            greetings: GreetingCache::default(),
            alike: Alike::default(),
            functions: FunctionTexts::default(),
            gather_slots: Arc::new(Semaphore::new((config.pool.max_per_node / 2).max(1))),
            gathered: GatheredSum::default(),
            self_check: SelfCheck::default(),
            waits,
            templates: (0..n_workers.max(1)).map(|_| TemplateCache::default()).collect(),
            control,
            view: RwLock::new(Arc::new(View {
                generation,
                topology,
                schema: Arc::default(),
                types: Arc::default(),
                code: Arc::default(),
            })),
            generation: AtomicU64::new(generation),
            schema_changes: AtomicU64::new(0),
            own_schemas: AtomicU32::new(0),
            refreshing: Mutex::new(()),
            refreshed_at_micros: AtomicI64::new(0),
            read_for_micros: AtomicU64::new(0),
            code_read_at_micros: AtomicI64::new(0),
            is_prepared: AtomicBool::new(false),
            reads_sequences: AtomicBool::new(config.pool.keep_sequences || predecessor.is_some_and(Self::keeps_sequences)),
            successor: OnceLock::new(),
            _probing: probing,
            config,
        }
    }

    /// The view of this moment.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `view` is still the newest: one atomic load.
    pub fn is_current(&self, view: &View) -> bool {
        self.generation.load(Ordering::Acquire) == view.generation
    }

    /// The version of the schema, as far as prepared statements are concerned.
    pub fn schema_version(&self) -> u64 {
        // Both only grow.
        self.generation.load(Ordering::Acquire) + self.schema_changes.load(Ordering::Acquire)
    }

    /// Statements that are parsed from now on get a name of their own on the servers.
    pub fn note_schema_change(&self) {
        self.schema_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// A number that no other catalog of a transaction's own has.
    pub(super) fn next_own_schema(&self) -> u32 {
        self.own_schemas.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1)
    }

    /// Puts a view in the place of this one that is what `change` makes of it.
    fn replace_view(&self, change: impl FnOnce(&View) -> View) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let generation = view.generation + 1;
        *view = Arc::new(View { generation, ..change(&view) });
        self.generation.store(generation, Ordering::Release);
    }

    /// Takes watermarks into the placement map: a new epoch.
    pub fn set_watermarks(&self, watermarks: &HashMap<TableName, Watermarks>) {
        let topology = Arc::new(self.view().topology.with_watermarks(watermarks));
        self.replace_view(|view| View { topology, ..view.clone() });
    }

    /// A control-plane connection to a shard's node that answers: the primary, else a replica.
    ///
    /// # Errors
    /// The node's, or `Mismatch` for a shard without nodes.
    pub async fn control_client(&self, shard: ShardId) -> Result<ControlClient, ControlError> {
        self.control_client_of(shard, self.board.reader_of(shard).unwrap_or(0)).await
    }

    /// A control-plane connection to a shard's primary: a replica may not have seen what was committed last.
    ///
    /// # Errors
    /// The node's, or `Mismatch` for a shard without a primary.
    pub async fn primary_control_client(&self, shard: ShardId) -> Result<ControlClient, ControlError> {
        match self.board.primary_of(shard) {
            Some(node_idx) => self.control_client_of(shard, node_idx).await,
            None => Err(ControlError::Mismatch("the shard has no primary".to_owned())),
        }
    }

    async fn control_client_of(&self, shard: ShardId, node_idx: usize) -> Result<ControlClient, ControlError> {
        match self.control.get(shard.index()).and_then(|nodes| nodes.get(node_idx)) {
            Some(node) => node.client().await,
            None => Err(ControlError::Mismatch("no such node".to_owned())),
        }
    }

    /// Reads the catalog of every shard anew; tables of one name are taken from the first shard that has them. What a shard that
    /// cannot be read had before is kept.
    ///
    /// # Errors
    /// When no shard can be read; the snapshot then stays as it is.
    pub async fn refresh_schema(&self) -> Result<(), ControlError> {
        let _guard = self.refreshing.lock().await;
        self.read_schema().await
    }

    /// Reads the catalog anew because a name is not known, unless it was read a moment ago: many may ask at once, and a client
    /// may go on asking for what is not there.
    pub async fn refresh_stale_schema(&self) -> Result<(), ControlError> {
        let _guard = self.refreshing.lock().await;
        let age_micros = now_micros() - self.refreshed_at_micros.load(Ordering::Relaxed);
        if u64::try_from(age_micros).is_ok_and(|age| Duration::from_micros(age) < REFRESH_INTERVAL) {
            return Ok(());
        }
        self.read_schema().await
    }

    /// Reads the catalog anew unless it was read within `age`, and forgets what servers told sessions at their beginning. What takes
    /// long to read, of many tables on many shards, is read more seldom: [`SCHEMA_SHARE`]. An age of zero reads it at once.
    ///
    /// # Errors
    /// As [`Self::refresh_schema`].
    pub async fn refresh_old_schema(&self, age: Duration) -> Result<(), ControlError> {
        let _guard = self.refreshing.lock().await;
        let took = Duration::from_micros(self.read_for_micros.load(Ordering::Relaxed));
        let age = if age.is_zero() { age } else { age.max(took * SCHEMA_SHARE) };
        let age_micros = now_micros() - self.refreshed_at_micros.load(Ordering::Relaxed);
        if u64::try_from(age_micros).is_ok_and(|known| Duration::from_micros(known) < age) {
            return Ok(());
        }
        self.greetings.clear();
        self.read_schema().await
    }

    /// Reads the catalog anew because a server has named a type that is not known: what was read before the call may lack it.
    /// Waits until the last read is as long ago as for unknown names.
    ///
    /// # Errors
    /// As [`Self::refresh_schema`].
    pub async fn refresh_types(&self) -> Result<(), ControlError> {
        let asked_at = now_micros();
        let age = u64::try_from(asked_at - self.refreshed_at_micros.load(Ordering::Relaxed)).unwrap_or(0);
        tokio::time::sleep(REFRESH_INTERVAL.saturating_sub(Duration::from_micros(age))).await;
        let _guard = self.refreshing.lock().await;
        if self.refreshed_at_micros.load(Ordering::Relaxed) > asked_at {
            return Ok(());
        }
        self.read_schema().await
    }

    async fn read_schema(&self) -> Result<(), ControlError> {
        let started_at = now_micros();
        let (mut reads, mut unread) = (Vec::new(), None);
        let view = self.view();
        let answers = join_all(view.topology.shard_ids().map(|shard| self.read_shard_schema(shard))).await;
        for (shard, answer) in view.topology.shard_ids().zip(answers) {
            match answer {
                Ok(read) => reads.push((shard, read)),
                Err(error) => unread = Some(error),
            }
        }
        match unread {
            Some(error) if reads.is_empty() => return Err(error),
            Some(error) => tracing::warn!(database = self.name, %error, "the schema of a shard could not be read again"),
            None => {}
        }
        let (mut schema, types) = view.with_schemas(reads);
        self.refreshed_at_micros.store(started_at, Ordering::Relaxed);
        self.read_for_micros.store(u64::try_from(now_micros() - started_at).unwrap_or(0), Ordering::Relaxed);
        if schema != *view.schema || types != *view.types {
            schema.version += 1;
            let (schema, types) = (Arc::new(schema), Arc::new(types));
            self.replace_view(|view| View { schema, types, ..view.clone() });
        }
        Ok(())
    }

    /// Reads anew what functions and triggers leave in their session.
    ///
    /// # Errors
    /// When a shard cannot be read; what was known then stays.
    pub async fn refresh_code(&self) -> Result<(), ControlError> {
        let _guard = self.refreshing.lock().await;
        let mut code = CodeEffects::new();
        for shard in self.view().topology.shard_ids() {
            for (name, leftover) in load_code(&self.control_client(shard).await?).await? {
                let known = code.entry(name).or_default();
                *known = known.and(leftover);
            }
        }
        self.code_read_at_micros.store(now_micros(), Ordering::Relaxed);
        // One at a time reads it.
        if *self.view().code != code {
            self.replace_view(|view| View { code: Arc::new(code), ..view.clone() });
        }
        Ok(())
    }

    /// The same unless it was done a short while ago: code that was made past the proxy is noticed late.
    ///
    /// # Errors
    /// As [`Self::refresh_code`].
    pub async fn refresh_old_code(&self) -> Result<(), ControlError> {
        let age_micros = now_micros() - self.code_read_at_micros.load(Ordering::Relaxed);
        if u64::try_from(age_micros).is_ok_and(|age| Duration::from_micros(age) < CODE_INTERVAL) {
            return Ok(());
        }
        self.refresh_code().await
    }

    async fn read_shard_schema(&self, shard: ShardId) -> Result<Schema, ControlError> {
        let client = self.control_client(shard).await?;
        load_schema(&client, 0).await
    }

    /// Has sessions move to `successor` as soon as they are between two transactions.
    pub fn retire(&self, successor: &Arc<Self>) {
        // A database is replaced once: its place is then another's.
        drop(self.successor.set(Arc::clone(successor)));
        self.pools.retire();
    }

    /// The database that a reload has put in this one's place, and the place of that one, to the newest.
    pub fn successor(&self) -> Option<Arc<Self>> {
        let mut newest = self.successor.get()?;
        while let Some(newer) = newest.successor.get() {
            newest = newer;
        }
        Some(Arc::clone(newest))
    }

    /// Whether control tables, watermarks and schema snapshot are there.
    pub fn is_prepared(&self) -> bool {
        self.is_prepared.load(Ordering::Relaxed)
    }

    /// Whether clients keep the connection on which they have moved a sequence.
    pub fn keeps_sequences(&self) -> bool {
        self.reads_sequences.load(Ordering::Relaxed)
    }

    /// To be called when a client asks for the last value of a sequence.
    pub fn note_sequence_read(&self) {
        self.reads_sequences.store(true, Ordering::Relaxed);
    }

    pub fn set_prepared(&self) {
        self.is_prepared.store(true, Ordering::Relaxed);
    }
}

impl View {
    /// What the catalogs that were read of some shards, or all, make of the schema. What a shard that was not read had before is
    /// kept.
    pub(super) fn with_schemas(&self, reads: Vec<(ShardId, Schema)>) -> (Schema, TypeMaps) {
        let (home, known) = (self.topology.home_shard(), &self.schema);
        let all = self.topology.all_shards();
        let is_whole = reads.len() == all.len();
        let mut own_types: Vec<_> = all.iter().map(|shard| self.types.own(shard).cloned()).collect();
        let mut home_names = known_own_names(known);
        let (mut schema, mut places) = (Schema::default(), Places::default());
        for (shard, mut read) in reads {
            if let Some(own) = own_types.get_mut(shard.index()) {
                *own = Some(Arc::new(std::mem::take(&mut read.own_types)));
            }
            places.add(shard, &mut read);
            if shard == home {
                home_names = known_own_names(&read);
            }
            add_shard_schema(&mut schema, read);
        }
        schema.type_names.retain(|oid, _| *oid < FIRST_OWN_OID);
        schema.type_names.extend(home_names);
        if !is_whole {
            // What only an unread shard has is still taken to be there.
            schema.relations = known.relations.clone().into_iter().chain(schema.relations).collect();
            schema.views = known.views.clone().into_iter().chain(schema.views).collect();
            schema.parents = known.parents.clone().into_iter().chain(schema.parents).collect();
            schema.other_parents.extend(known.other_parents.iter().cloned());
            schema.guarded.extend(known.guarded.iter().cloned());
            add_code(&mut schema, known);
        }
        schema.places = places.partial(all, known);
        schema.version = known.version;
        schema.apart = families_apart(&self.topology, &schema);
        (schema, TypeMaps::new(home, own_types))
    }
}

/// Which shards have a relation or an index.
#[derive(Default)]
struct Places {
    found: HashMap<TableName, ShardSet>,
    read: ShardSet,
}

impl Places {
    fn add(&mut self, shard: ShardId, schema: &mut Schema) {
        self.read.insert(shard);
        for name in schema.relations.keys().cloned().chain(std::mem::take(&mut schema.indexes)) {
            self.found.entry(name).or_default().insert(shard);
        }
    }

    /// Those that not all shards have. A shard that was not read has what it had before; nothing that is new to a snapshot which
    /// knows relations.
    fn partial(self, all: ShardSet, known: &Schema) -> HashMap<TableName, ShardSet> {
        let is_unread = |shard: &ShardId| !self.read.contains(*shard);
        let whole = |(name, mut shards): (TableName, ShardSet)| {
            let is_new = known.relation(&name).is_none() && !known.relations.is_empty();
            let before = if is_new && !known.places.contains_key(&name) { ShardSet::EMPTY } else { known.place_of(&name, all) };
            before.iter().filter(is_unread).for_each(|shard| shards.insert(shard));
            (name, shards)
        };
        self.found.into_iter().map(whole).filter(|(_, shards)| *shards != all).collect()
    }
}

/// The names of types outside the system's.
fn known_own_names(schema: &Schema) -> HashMap<TypeOid, String> {
    schema.type_names.iter().filter(|(oid, _)| **oid >= FIRST_OWN_OID).map(|(oid, name)| (*oid, name.clone())).collect()
}

/// Adds what runs beside statements on one shard, what rows conflict and are told by, and whose sequences are, to what was known.
fn add_code(schema: &mut Schema, read: &Schema) {
    for (name, mentions) in &read.code {
        schema.code.entry(name.clone()).or_default().extend(mentions.iter().cloned());
    }
    for (name, triggers) in &read.triggers {
        schema.triggers.entry(name.clone()).or_default().extend(triggers.iter().cloned());
    }
    for (name, indexes) in &read.unique {
        let known = schema.unique.entry(name.clone()).or_default();
        known.extend(indexes.iter().map(|(index, columns)| (index.clone(), columns.clone())));
    }
    for (name, key) in &read.primary_keys {
        schema.primary_keys.entry(name.clone()).or_insert_with(|| key.clone());
    }
    for (name, policies) in &read.policies {
        schema.policies.entry(name.clone()).or_default().extend(policies.iter().cloned());
    }
    for (name, owner) in &read.sequence_owners {
        schema.sequence_owners.entry(name.clone()).or_insert_with(|| owner.clone());
    }
    for (name, others) in &read.rules {
        schema.rules.entry(name.clone()).or_default().extend(others.iter().cloned());
    }
}

/// Adds what one shard's catalog has to what the shards before it had.
fn add_shard_schema(schema: &mut Schema, read: Schema) {
    add_code(schema, &read);
    if schema.system_functions.is_empty() {
        (schema.system_functions, schema.system_relations) = (read.system_functions, read.system_relations);
        schema.type_names = read.type_names;
    }
    for (name, relation) in read.relations {
        schema.relations.entry(name).or_insert(relation);
    }
    for (name, view) in read.views {
        schema.views.entry(name).or_insert(view);
    }
    schema.guarded.extend(read.guarded);
    schema.parents.extend(read.parents);
    schema.other_parents.extend(read.other_parents);
    for (name, functions) in read.user_functions {
        let known = schema.user_functions.entry(name).or_default();
        known.extend(functions);
        known.sort_unstable();
        known.dedup();
    }
    schema.hidden_calls.extend(read.hidden_calls);
}

/// The wall clock in microseconds since 2000-01-01 UTC: for routing and for stable time functions over many shards.
pub fn now_micros() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since_2000 = since_1970.saturating_sub(Duration::from_secs(POSTGRES_EPOCH_SECONDS));
    i64::try_from(since_2000.as_micros()).unwrap_or(i64::MAX)
}
