//! One client's session with the backends it holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::batch::SessionStatement;
use super::copy_out::Copying;
use super::cursor::Cursors;
use super::database::now_micros;
use super::enlist::{Enlisted, Tie};
use super::folded::Kept;
use super::greeting::Greeting;
use super::own::Unbound;
use super::own_schema::OwnSchema;
use super::own_settings::Own;
use super::partial::Partial;
use super::relay::Retry;
use super::sequences::{BlockHabit, LastValues};
use super::statements::{Portals, Statements};
use super::templates::{CachedTemplate, TemplateCache};
use super::temporary::Temporary;
use super::timer::Timer;
use super::watch::Watch;
use super::{CancelTarget, Database, Failure, View};
use crate::backend::{Socket, UserPools};
use crate::deadline::Deadline;
use crate::observe::{ClientEntry, ErrorKind};
use crate::plan::{Access, Context, Params, Plan, PlanSettings, Refusal, RefusalCode, Values, analyze};
use crate::session::bonds::Bonds;
use crate::session::set_config::is_settings_only;
use crate::session::settings::{SettingValue, Settings};
use crate::session::transaction::{Phase, Transaction};
use crate::session::unpooled::{Leftover, SettingsTrace, leftover, reads_catalog};
use crate::session::wire::{self, Severity};
use crate::sql::{Classified, Fingerprint, Literal, fingerprint};
use crate::topology::{ShardId, TypeOid};

/// What DDL of the transaction means once it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum SchemaChange {
    #[default]
    None,
    /// Statements that are parsed after it are others than those of the same text before.
    Statements,
    /// That, and what is known of the schema is to be read again.
    Catalog,
}

/// What an implicit transaction was begun for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Origin {
    /// A string of several statements, or one statement on several shards.
    #[default]
    Statement,
    /// A pipeline of the extended protocol.
    Pipeline,
}

/// What the executor remembers of the transaction in progress.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// A backend was lost in the middle: it can only be rolled back.
    pub is_lost: bool,
    /// Temporary relations may have been made or dropped in it.
    pub has_temporaries: bool,
    pub schema_change: SchemaChange,
    pub own_schema: OwnSchema,
    pub origin: Origin,
    /// The shard whose server has said that the transaction failed, and would say so again.
    pub failed_on: Option<ShardId>,
}

/// A client's session.
#[derive(Debug)]
pub struct Conversation {
    pub client: Socket,
    pub database: Arc<Database>,
    pub worker_idx: usize,
    /// Of the client's user.
    pub pools: Arc<UserPools>,
    pub entry: Arc<ClientEntry>,
    pub cancel: Arc<CancelTarget>,
    pub(super) view: Arc<View>,
    pub(super) settings: Settings,
    /// What RESET returns to.
    pub(super) startup_settings: Settings,
    pub(super) plan_settings: Arc<PlanSettings>,
    pub(super) greeting: Arc<Greeting>,
    /// Hash of what besides the text decides a template.
    pub(super) context_hash: u64,
    /// Hash of the settings by which servers read literals.
    pub(super) literals_hash: u64,
    pub(super) is_utf8: bool,
    /// ParameterStatus values that the client has.
    pub(super) told_parameters: Arc<BTreeMap<String, String>>,
    /// ParameterStatus values that it is told before the next ReadyForQuery, as Postgres does.
    pub(super) untold_parameters: Option<Arc<BTreeMap<String, String>>>,
    /// `SET trunkline.…`; `None`: as the proxy has it by itself.
    pub(super) own: Option<Box<Own>>,
    pub(super) transaction: Transaction,
    pub(super) enlisted: Vec<Enlisted>,
    pub(super) block: Block,
    /// A COPY FROM STDIN of the batch has begun: servers ignore the Sync that came before its data, so ReadyForQuery is for the
    /// next one.
    pub(super) is_sync_spent: bool,
    pub(super) statements: Statements,
    pub(super) portals: Portals,
    pub(super) cursors: Cursors,
    /// Rows of answers are written as data of this COPY.
    pub(super) copying: Option<Box<Copying>>,
    /// A read that may leave shards out.
    pub(super) partial: Option<Box<Partial>>,
    /// Types of the columns that shards must give in the running fan-out.
    pub(super) expected_columns: Option<Vec<TypeOid>>,
    /// What is noted of a read while it runs.
    pub(super) watch: Option<Box<Watch>>,
    pub(super) unbound: Option<Unbound>,
    /// Whether what is being run can be run again.
    pub(super) retry: Retry,
    /// What was told of the statement that runs can be taken back as long as the client's socket has been flushed so often; `None`:
    /// it cannot.
    pub(super) tell_anew: Option<u32>,
    /// Names whose Parse or Close was skipped after an error, with what they stand for.
    pub(super) skipped: Vec<(Bytes, Option<SessionStatement>)>,
    pub(super) timer: Timer,
    /// When the client must have sent its next statement.
    pub(super) rest_until: Deadline,
    pub(super) fingerprint: Fingerprint,
    /// Time of the transaction for routing, microseconds since 2000-01-01 UTC. Kept up only where there is something to route.
    pub(super) now_micros: i64,
    /// When the statement that runs began.
    pub(super) began: Instant,
    /// When backends were last given back, if that was during the statement that runs.
    pub(super) released_at: Option<Instant>,
    pub(super) next_any: u64,
    /// What the client was told in BackendKeyData; 0 before.
    pub process_id: i32,
    pub(super) tie: Tie,
    pub(super) temporary: Temporary,
    pub(super) last_values: LastValues,
    pub(super) block_habit: BlockHabit,
}

impl Conversation {
    pub fn new(
        client: Socket,
        database: Arc<Database>,
        pools: Arc<UserPools>,
        entry: Arc<ClientEntry>,
        startup_settings: Settings,
    ) -> Self {
        let plan_settings = PlanSettings { search_path: Vec::new(), ..PlanSettings::default() };
        let kept = Kept {
            database,
            pools,
            cancel: Arc::default(),
            settings: startup_settings.clone(),
            plan_settings: Arc::new(plan_settings),
            greeting: Arc::default(),
            told_parameters: Arc::default(),
            own: None,
            statements: None,
            // Any shard will do for a statement that any shard can answer: clients begin at different ones.
            next_any: entry.id,
            entry,
            temporary: Temporary::default(),
            worker_idx: 0,
            process_id: 0,
            block: Block::default(),
            last_values: LastValues::None,
            block_habit: BlockHabit::Unknown,
            retry: Retry::No,
            is_utf8: true,
            is_sync_spent: false,
        };
        let mut conversation = Self { startup_settings, ..Self::of(client, kept) };
        conversation.derive_plan_settings();
        conversation
    }

    /// A session before its next statement, but for the hash of what plans depend on.
    pub(super) fn of(client: Socket, kept: Kept) -> Self {
        let timer = Timer::new(Arc::clone(&kept.database.waits), Arc::clone(&kept.cancel));
        Self {
            client,
            view: kept.database.view(),
            database: kept.database,
            worker_idx: kept.worker_idx as usize,
            pools: kept.pools,
            entry: kept.entry,
            cancel: kept.cancel,
            settings: kept.settings,
            startup_settings: kept.greeting.settings.clone(),
            plan_settings: kept.plan_settings,
            greeting: kept.greeting,
            context_hash: 0,
            literals_hash: 0,
            is_utf8: kept.is_utf8,
            told_parameters: kept.told_parameters,
            untold_parameters: None,
            own: kept.own,
            transaction: Transaction::default(),
            enlisted: Vec::new(),
            block: kept.block,
            is_sync_spent: kept.is_sync_spent,
            statements: kept.statements.map_or_else(Statements::default, |statements| *statements),
            portals: Portals::default(),
            cursors: Cursors::default(),
            copying: None,
            partial: None,
            expected_columns: None,
            watch: None,
            unbound: None,
            retry: kept.retry,
            tell_anew: None,
            skipped: Vec::new(),
            timer,
            rest_until: Deadline::NEVER,
            fingerprint: Fingerprint::default(),
            now_micros: now_micros(),
            began: Instant::now(),
            released_at: None,
            next_any: kept.next_any,
            process_id: kept.process_id,
            tie: Tie::Whole,
            temporary: kept.temporary,
            last_values: kept.last_values,
            block_habit: kept.block_habit,
        }
    }

    /// Takes the parameters of the backend that is held into account; what is new to the client it is told before the next
    /// ReadyForQuery.
    pub(super) fn tell_parameters(&mut self) {
        let Some(held) = self.enlisted.first() else { return };
        let known = self.untold_parameters.as_ref().unwrap_or(&self.told_parameters);
        if held.lease.parameters == **known {
            return;
        }
        let (known, parameters) = (Arc::clone(known), Arc::new(held.lease.parameters.clone()));
        for (name, value) in parameters.iter().filter(|(name, value)| known.get(*name) != Some(value)) {
            self.note_parameter(name, value);
        }
        self.untold_parameters = Some(parameters);
    }

    /// Whether ParameterStatus messages are due.
    pub(super) fn has_untold_parameters(&self) -> bool {
        self.untold_parameters.is_some()
    }

    fn announce(&mut self, parameters: &Arc<BTreeMap<String, String>>) {
        let told = std::mem::replace(&mut self.told_parameters, Arc::clone(parameters));
        for (name, value) in parameters.iter().filter(|(name, value)| told.get(*name) != Some(value)) {
            wire::parameter_status(&mut self.client.output, name, value);
            self.note_parameter(name, value);
        }
    }

    /// Writes ReadyForQuery, and before it what the client does not know of its parameters.
    pub(super) fn say_ready(&mut self) {
        if let Some(parameters) = self.untold_parameters.take() {
            self.announce(&parameters);
        }
        self.tell_late();
        wire::ready_for_query(&mut self.client.output, self.transaction.status());
    }

    /// Whether text comes from the servers in the bytes that they hold: a conversion may change the bytes' order.
    pub(super) fn has_stored_text(&self) -> bool {
        let of = |name: &str| self.told_parameters.get(name).map(String::as_str).unwrap_or_default();
        of("client_encoding") == "SQL_ASCII" || of("client_encoding") == of("server_encoding")
    }

    /// The client's encoding, where servers convert text to it that may have other characters.
    pub(super) fn converted_encoding(&self) -> Option<&str> {
        let encoding = self.told_parameters.get("client_encoding").map(String::as_str).unwrap_or_default();
        let is_name = !encoding.is_empty() && encoding.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (!self.is_utf8 && !self.has_stored_text() && is_name).then_some(encoding)
    }

    /// Whether the text of every value tells all of it: dates and intervals in unambiguous forms, floats with all their digits.
    pub(super) fn has_exact_text(&self) -> bool {
        let of = |name: &str| self.told_parameters.get(name).map(String::as_str).unwrap_or_default();
        let sets_digits = |sql: &str| sql.to_ascii_lowercase().contains("extra_float_digits");
        of("DateStyle").starts_with("ISO")
            && of("IntervalStyle") == "postgres"
            && self.settings.value("extra_float_digits").is_none()
            && !self.transaction.local_settings().any(sets_digits)
    }

    /// Remembers a ParameterStatus that was relayed.
    pub(super) fn note_told(&mut self, name: String, value: String) {
        Arc::make_mut(&mut self.told_parameters).insert(name, value);
    }

    /// Borrows a backend and brings it to the client's startup settings: what a login tells the client of its session.
    ///
    /// # Errors
    /// The server's own refusal of the user, the database or a setting; 08006 and 53300 when none can be had.
    pub async fn open(&mut self) -> Result<(), Failure> {
        self.begin_statement();
        self.check_startup_settings()?;
        if let Some(greeting) = self.database.greetings.get(&self.pools.credentials, &self.settings) {
            // Another session began alike: a full pool or a server that is down does not keep a client out.
            self.take_greeting(greeting);
            return Ok(());
        }
        let shard = self.any_live_shard(Access::Read).await?;
        let idx = self.enlist(shard, Access::Read).await?;
        // No ParameterStatus tells it before PostgreSQL 18, and a role or a database may have one of its own.
        let rows = self.ask(idx, "SELECT pg_catalog.current_setting('search_path')").await?;
        let search_path = rows.into_iter().flatten().next().flatten().unwrap_or_default();
        let parameters = Arc::new(self.enlisted[idx].lease.parameters.clone());
        let greeting = Greeting { settings: self.settings.clone(), parameters, search_path: SettingValue::Text(search_path) };
        self.take_greeting(Arc::new(greeting));
        self.database.greetings.insert(&self.pools.credentials, Arc::clone(&self.greeting));
        self.release();
        Ok(())
    }

    /// Takes what servers tell a session like this one at its beginning.
    fn take_greeting(&mut self, greeting: Arc<Greeting>) {
        (self.settings, self.startup_settings) = (greeting.settings.clone(), greeting.settings.clone());
        self.greeting = Arc::clone(&greeting);
        self.derive_plan_settings();
        self.announce(&greeting.parameters);
    }

    /// Begins a statement: the newest view, a deadline, and outside a transaction its time.
    pub(super) fn begin_statement(&mut self) {
        self.renew_view();
        let now = Instant::now();
        (self.began, self.released_at) = (now, None);
        if !self.transaction.is_open() {
            if self.view.topology.only_shard().is_none() {
                self.now_micros = now_micros();
            }
            self.begin_transaction_clock(now);
        }
        self.timer.set(Deadline::after(now, self.database.query.timeout));
        self.cancel.begin();
        self.entry.n_statements.increment();
    }

    /// Takes the fingerprint of one statement, in which its literals are found until the next is taken.
    pub(super) fn take_fingerprint(&mut self, sql: &str) {
        fingerprint(sql.as_bytes(), self.plan_settings.has_standard_strings, &mut self.fingerprint);
    }

    /// The template of one statement, from the cache or analysed now.
    pub(super) fn template(&mut self, sql: &str) -> Result<Arc<CachedTemplate>, Refusal> {
        self.take_fingerprint(sql);
        self.template_of(sql)
    }

    /// The template of one statement. A table that the snapshot does not know may be new, and so may one whose columns it does
    /// not know: the catalog is then read again.
    pub(super) async fn fresh_template(&mut self, sql: &str) -> Result<Arc<CachedTemplate>, Refusal> {
        self.take_fingerprint(sql);
        self.fresh_template_of(sql).await
    }

    /// The same for the statement whose fingerprint was taken last. Reading the catalog is rare, and boxed.
    pub(super) async fn fresh_template_of(&mut self, sql: &str) -> Result<Arc<CachedTemplate>, Refusal> {
        let outcome = self.template_of(sql);
        let may_be_new = match &outcome {
            Ok(cached) => cached.template.lacks_columns(),
            Err(refusal) => refusal.is_about_schema(),
        };
        if !may_be_new {
            return outcome;
        }
        Box::pin(self.refresh_stale_schema()).await;
        self.renew_view();
        self.template_of(sql)
    }

    /// The failure of a text that could not be parsed: the server's own words if it finds a mistake in it, else the refusal.
    pub(super) async fn unparsed(&mut self, sql: &str, refusal: Refusal) -> Failure {
        if self.transaction.phase == Phase::Failed {
            return self.failed_already(sql).await;
        }
        if refusal.code == RefusalCode::Unparsed {
            return self.grammar_failure(sql).await.unwrap_or_else(|| refusal.into());
        }
        refusal.into()
    }

    /// Takes the newest view, after a reload that of the database's successor.
    pub(super) fn renew_view(&mut self) {
        if !self.transaction.is_open()
            && self.enlisted.is_empty()
            && let Some(successor) = self.database.successor()
        {
            self.pools = successor.pools.of_user(&self.pools.credentials);
            self.timer.tell_to(&successor.waits);
            self.database = successor;
            self.view = self.database.view();
            self.derive_plan_settings();
        }
        if !self.database.is_current(&self.view) && self.plan_settings.own_schema == 0 {
            self.view = self.database.view();
            self.hash_context();
        }
    }

    fn templates(&self) -> &TemplateCache {
        &self.database.templates[self.worker_idx % self.database.templates.len()]
    }

    /// The template of the statement whose fingerprint was taken last, if it is in the cache.
    pub(super) fn known_template(&self, sql: &str) -> Option<Arc<CachedTemplate>> {
        let cached = self.templates().get(sql, &self.fingerprint, self.context_hash).filter(|_| self.fingerprint.is_complete)?;
        self.database.counters.n_template_hits.increment();
        Some(cached)
    }

    pub(super) fn template_of(&self, sql: &str) -> Result<Arc<CachedTemplate>, Refusal> {
        if let Some(cached) = self.known_template(sql) {
            return Ok(cached);
        }
        let print = &self.fingerprint;
        self.database.counters.n_template_misses.increment();
        let template = analyze(sql, &print.literals, &self.context())?;
        let mut leftover = leftover(sql.as_bytes(), self.plan_settings.has_standard_strings, &self.view.code);
        if let Classified::Command(command) = template.class() {
            leftover = leftover.and(Leftover::of_command(command));
        }
        let reads_catalog = reads_catalog(sql.as_bytes(), self.plan_settings.has_standard_strings);
        let is_settings_only = leftover.settings == SettingsTrace::Calls
            && is_settings_only(sql.as_bytes(), self.plan_settings.has_standard_strings);
        let cached = Arc::new(CachedTemplate { template, leftover, reads_catalog, is_settings_only });
        self.templates().insert(sql, print, self.context_hash, &cached);
        Ok(cached)
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context { topology: &self.view.topology, schema: &self.view.schema, settings: &self.plan_settings }
    }

    /// What a statement is bound to at the transaction's time.
    pub(super) fn values<'a>(&self, sql: &'a str, literals: &'a [Literal], params: Params<'a>) -> Values<'a> {
        Values { sql, literals, params, now_micros: self.now_micros }
    }

    /// Binds a template to the literals of the text whose fingerprint was taken last, and to parameters.
    pub(super) fn bind(&mut self, cached: &CachedTemplate, sql: &str, params: Params<'_>) -> Result<Plan, Refusal> {
        if self.own.is_none() {
            return self.bind_plainly(cached, &self.values(sql, &self.fingerprint.literals, params));
        }
        let literals = self.fingerprint.literals.clone();
        self.bind_with(cached, sql, &literals, params)
    }

    /// The same with literals that were kept.
    pub(super) fn bind_with(
        &mut self,
        cached: &CachedTemplate,
        sql: &str,
        literals: &[Literal],
        params: Params<'_>,
    ) -> Result<Plan, Refusal> {
        let values = self.values(sql, literals, params);
        match self.own {
            None => self.bind_plainly(cached, &values),
            Some(_) => self.bind_as_set(cached, &values),
        }
    }

    /// The same where the client has set nothing of the proxy's own.
    pub(super) fn bind_plainly(&self, cached: &CachedTemplate, values: &Values<'_>) -> Result<Plan, Refusal> {
        match cached.template.bind(values, &self.context())? {
            Plan::AnyOne { access } if cached.reads_catalog => Ok(Plan::Route { shard: self.catalog_shard(values.sql), access }),
            Plan::Route { .. } if cached.is_settings_only && self.view.topology.only_shard().is_none() => {
                Ok(Plan::AnyOne { access: Access::Read })
            }
            Plan::AnyOne { access } if cached.leftover.bonds.touches(Bonds::READS_SEQUENCES) => {
                Ok(Plan::Route { shard: self.last_values.shard().unwrap_or(self.view.topology.home_shard()), access })
            }
            plan => self.at_meeting_place(cached, plan),
        }
    }

    /// Tells the client of a failure and puts the transaction where Postgres would have it.
    ///
    /// # Errors
    /// What ends the session.
    pub(super) async fn fail(&mut self, failure: Failure) -> Result<(), Failure> {
        let failure = match self.unbound.take() {
            Some(unbound) => self.fail_bind(&unbound, failure),
            None => failure,
        };
        self.check_transaction_clock(&failure)?;
        let is_deadlock = matches!(failure, Failure::Statement { kind: ErrorKind::Deadlock, .. });
        match failure {
            Failure::Statement { report, kind } => {
                self.database.counters.count_error(kind);
                let severity = if self.tie == Tie::Lost { Severity::Fatal } else { Severity::Error };
                wire::report(&mut self.client.output, severity, &report);
            }
            Failure::Shard(message) => {
                self.database.counters.count_error(ErrorKind::Shard);
                wire::whole_report(&mut self.client.output, b'E', message.get(wire::HEADER_LEN..).unwrap_or_default());
            }
            // Counted when it was relayed.
            Failure::Reported | Failure::StalePlan => {}
            Failure::Client(_) | Failure::Ended | Failure::Fatal(_) => return Err(failure),
        }
        if self.tie == Tie::Lost {
            return Err(Failure::Ended);
        }
        match self.transaction.phase {
            Phase::Idle => {
                self.settle_pins(false).await;
                self.release();
            }
            Phase::Implicit => self.roll_back().await?,
            Phase::Explicit => {
                self.transaction.phase = Phase::Failed;
                if is_deadlock {
                    // Others wait for what it has locked.
                    Box::pin(self.fail_backends()).await;
                } else {
                    self.undo_settings().await;
                }
            }
            Phase::Failed => {}
        }
        Ok(())
    }

    /// Ends the session if a backend with its state was lost, and nothing has told the client yet.
    pub(super) fn check_tie(&self) -> Result<(), Failure> {
        match self.tie {
            Tie::Whole => Ok(()),
            Tie::Lost => Err(super::pin::lost_state()),
        }
    }

    /// Whether the client is between two statements of a transaction.
    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_open()
    }

    /// Gives up whatever the client holds, closing what is not clean.
    pub async fn close(&mut self) {
        // What still runs is for nobody.
        let running: Vec<usize> = (0..self.enlisted.len()).filter(|&idx| !self.enlisted[idx].is_ready).collect();
        if !running.is_empty() {
            self.cancel_and_drain(&running).await;
        }
        if self.transaction.is_open() {
            // The client is gone: a connection that cannot be rolled back is closed by its lease.
            drop(self.roll_back().await);
        }
        for enlisted in &mut self.enlisted {
            // Its session's state is not for the next client.
            enlisted.lease.is_clean &= enlisted.pin.is_none();
        }
        self.enlisted.clear();
        self.cancel.clear();
    }
}

/// A refusal of session state under transaction pooling.
pub(super) fn unpooled(what: &str, hint: &str) -> Failure {
    Failure::refused("TL090", format!("{what}, which transaction pooling cannot keep"), hint)
}
