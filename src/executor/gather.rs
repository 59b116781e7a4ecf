//! The gather rung: rows of several tables are streamed to the engine, which runs the statement over them.
//!
//! The engine's connection is the statement's own: its transaction holds temporary tables, which no prepared transaction may,
//! and is rolled back at the end. The shards are read in the client's transaction if it has one, else each in a snapshot of its
//! own for all tables.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use super::Conversation;
use super::checkout::HOLDING_CHECKOUT_TIMEOUT;
use super::describe::{is_same_type, no_columns};
use super::enlist::{Enlisted, timeout_failure};
use super::failure::{Failure, client_left};
use super::fan_out::BoundValues;
use super::holding::Holding;
use super::inputs::Inputs;
use super::merge::{Description, malformed};
use super::rights::owner_only;
use super::timer::WaitError;
use crate::backend::CheckoutError;
use crate::observe::ErrorKind;
use crate::plan::{Access, GatherInput, GatherPlace, GatherPlan, GatherSource, Params, Plan, RowValues, Values};
use crate::session::prepared::Described;
use crate::session::row_description::{column_types, columns, write_description};
use crate::session::transaction::Phase;
use crate::session::wire::{self, HEADER_LEN, Severity};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{Engine, FIRST_OWN_OID, TypeOid};

/// What text travels in between the shards and the engine, where the client's encoding may not have all of its characters.
const TRANSFER_ENCODING: &str = "SET LOCAL client_encoding TO 'UTF8'";

/// The engine with everything that a statement needs.
#[derive(Debug)]
pub(super) struct Gathered {
    pub engine: Enlisted,
    pub slot: OwnedSemaphorePermit,
    /// The statement over the rows that are there.
    pub final_sql: String,
    /// Its parameters: the client's, and rows that came as arrays.
    pub values: BoundValues,
    /// The body of the RowDescription that a shard gives of the original.
    pub body: Bytes,
    /// What counts as gathered while the engine has it.
    pub holding: Holding,
}

/// A statement over gathered rows.
pub(super) struct Gathering<'a> {
    sql: &'a str,
    pub plan: &'a GatherPlan,
    pub values: &'a BoundValues,
    /// The shards are read in a transaction of the statement's own.
    is_own: bool,
    pub holding: Holding,
}

/// The statement for the engine.
struct Final {
    sql: String,
    values: BoundValues,
    /// The body of the RowDescription that a shard gives of the original.
    body: Bytes,
}

impl Conversation {
    /// Runs a gather plan and writes its rows and CommandComplete. `sql` is the client's text: its description on a shard is the
    /// one that the client sees.
    ///
    /// # Errors
    /// A shard's or the engine's own, 54000 over `query.max_gather_bytes`, 53300 when no connection comes free, 0A000 for what
    /// only the engine can tell.
    pub(super) async fn run_gather(
        &mut self,
        sql: &str,
        plan: &GatherPlan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let mut gathered = self.gather_rows(sql, plan, values).await?;
        if let Some(report) = gathered.holding.half_told().filter(|_| description != Description::Keep) {
            wire::report(&mut self.client.output, Severity::Notice, &report);
        }
        self.watch_engine(gathered.engine.lease.shard);
        let outcome = self.answer(&mut gathered, description).await.map_err(|failure| owner_only(failure, plan));
        self.end_engine(gathered.engine).await;
        outcome
    }

    /// Brings what a gather plan needs to the engine, which then has a transaction open with the statement's tables. Errors are
    /// those of [`Self::run_gather`].
    pub(super) async fn gather_rows(&mut self, sql: &str, plan: &GatherPlan, values: &BoundValues) -> Result<Gathered, Failure> {
        self.check_texts(plan)?;
        self.check_intervals(plan)?;
        let slot = self.gather_slot().await?;
        let shard = match (&self.view.topology.engine, self.view.topology.dedicated_engine()) {
            (Engine::Shard(shard), _) => *shard,
            (Engine::Dedicated { .. }, Some((engine, _))) => engine,
            (Engine::Any | Engine::Dedicated { .. }, _) => self.any_writable_shard(),
        };
        // Before the shards' connections: one that waits for the engine holds nothing.
        let mut engine = self.check_out_apart(shard, Access::Write).await?;
        let is_own = self.transaction.phase == Phase::Idle;
        if is_own {
            self.transaction.begin(Phase::Implicit, own_modes(plan), &self.settings);
            if self.is_converted() {
                // The client's statement and parameters are ASCII: see `planning_text`.
                self.transaction.local_sets.push(TRANSFER_ENCODING.to_owned());
            }
        }
        let holding = Holding::new(Arc::clone(&self.database), self.max_gather_bytes());
        let mut gathering = Gathering { sql, plan, values, is_own, holding };
        match self.gather(&mut engine, &mut gathering).await {
            Ok(Final { sql, values, body }) => {
                Ok(Gathered { engine, slot, final_sql: sql, values, body, holding: gathering.holding })
            }
            Err(failure) => {
                self.end_engine(engine).await;
                Err(failure)
            }
        }
    }

    /// Runs over gathered rows what was refused on another rung.
    pub(super) async fn gather_instead(
        &mut self,
        sql: &str,
        values: &BoundValues,
        description: Description,
        failure: Failure,
    ) -> Result<(), Failure> {
        let Some(plan) = self.gather_plan(sql, values) else { return Err(failure) };
        if self.transaction.phase == Phase::Idle {
            self.release();
        }
        if description != Description::Keep {
            self.tell_changed_route(&Plan::Gather(Arc::clone(&plan)));
        }
        self.run_gather(sql, &plan, values, description).await
    }

    /// The plan over gathered rows of what was refused on another rung.
    pub(super) fn gather_plan(&mut self, sql: &str, values: &BoundValues) -> Option<Arc<GatherPlan>> {
        let cached = self.template(sql).ok()?;
        let (formats, params) = values.params()?;
        let params = Params { types: &values.param_types, formats: &formats, values: &params };
        let bound = Values { sql, literals: &self.fingerprint.literals, params, now_micros: self.now_micros };
        match cached.template.bind_gathered(&bound, &self.context())? {
            Ok(Plan::Gather(plan)) => Some(plan),
            _ => None,
        }
    }

    /// Refuses what would not arrive as it was sent.
    fn check_texts(&self, plan: &GatherPlan) -> Result<(), Failure> {
        if self.is_converted() && self.transaction.is_open() {
            return Err(Failure::refused(
                "TL085",
                "rows of several shards cannot be gathered in a transaction through this client_encoding",
                "SET client_encoding TO 'UTF8', or to the servers' own encoding.",
            ));
        }
        let mut all = plan.inputs.iter().flat_map(|input| input.columns.iter().map(move |column| (input, column)));
        match all.find(|(_, column)| column.is_text).filter(|_| !self.has_exact_text()) {
            None => Ok(()),
            Some((input, column)) => Err(Failure::refused(
                "TL084",
                format!(
                    "column \"{}\" of \"{}\" is gathered as text, which these settings make inexact",
                    column.name, input.table
                ),
                "SET DateStyle TO 'ISO', IntervalStyle TO 'postgres', and leave extra_float_digits alone.",
            )),
        }
    }

    /// Whether text is converted for the client, to an encoding that may not have all of its characters.
    fn is_converted(&self) -> bool {
        self.converted_encoding().is_some()
    }

    /// A place among the statements that may gather at once.
    async fn gather_slot(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let mut wait = self.database.config.pool.checkout_timeout;
        if !self.enlisted.is_empty() {
            wait = wait.min(HOLDING_CHECKOUT_TIMEOUT);
        }
        match tokio::time::timeout(wait, Arc::clone(&self.database.gather_slots).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(CheckoutError::Closed.into()),
            Err(_) => {
                let report = Report::new(
                    SqlState::TOO_MANY_CONNECTIONS,
                    "too many statements gather rows of several shards at this moment",
                );
                let report = report.with_hint("Raise pool.max_per_node: half of it may gather at once.");
                Err(Failure::statement(report, ErrorKind::CheckoutTimeout))
            }
        }
    }

    async fn gather(&mut self, engine: &mut Enlisted, gathering: &mut Gathering<'_>) -> Result<Final, Failure> {
        let (plan, deadline) = (gathering.plan, self.timer.deadline());
        let original = self.describe(plan.first_shard(), gathering.sql, &gathering.values.param_types).await?;
        self.check_rights(plan, gathering.sql, gathering.values).await?;
        self.timer.set(deadline);
        let outcome = self.gather_described(engine, gathering, original).await;
        outcome.map_err(|failure| owner_only(failure, plan))
    }

    async fn gather_described(
        &mut self,
        engine: &mut Enlisted,
        gathering: &mut Gathering<'_>,
        original: Described,
    ) -> Result<Final, Failure> {
        let (plan, deadline) = (gathering.plan, self.timer.deadline());
        let has_tables = self.view.topology.shards.get(engine.lease.shard.index()).is_some();
        let is_brought = |input: &GatherInput| input.source != GatherSource::AnyOne || !gathering.is_own || !has_tables;
        let brought: Vec<(usize, &GatherInput)> = plan.inputs.iter().enumerate().filter(|(_, input)| is_brought(input)).collect();
        let mut opening = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE".to_owned();
        for sql in self.transaction.local_settings() {
            opening.push(';');
            opening.push_str(sql);
        }
        self.run_on_engine(engine, &opening).await?;
        let body = original.row_description.unwrap_or_else(no_columns);
        // A server of its own knows nothing of the tables, nor of what users made for their rows.
        let has_typed_rows = has_tables && has_typed_rows(plan, &body);
        let has_keys = self.leans_on_keys(engine, gathering, &brought).await?;
        // What the client's encoding lacks must not go through it.
        let may_be_arrays = plan.row_values == RowValues::None && !self.is_converted();
        let max_array_bytes = if may_be_arrays { self.database.query.max_gather_array_bytes } else { 0 };
        let mut inputs = Inputs::new(gathering, max_array_bytes, has_keys)?;
        self.bring_all(engine, &brought, (gathering, &mut inputs)).await?;
        if gathering.is_own {
            // What is left to do is the engine's: the shards' connections are for others.
            self.commit().await?;
            self.cancel.add(engine.lease.cancel.clone());
        }
        self.timer.set(deadline);
        if let Some(encoding) = self.converted_encoding() {
            self.run_on_engine(engine, &format!("SET LOCAL client_encoding TO '{encoding}'")).await?;
        }
        let values = inputs.values(gathering.values)?;
        let sql = plan.final_sql(|idx| match inputs.place(idx) {
            GatherPlace::Temporary if has_typed_rows => GatherPlace::Typed,
            place => place,
        });
        Ok(Final { sql, values, body })
    }

    /// Whether the engine needs to know primary keys to understand the statement: it is asked about relations of the same columns,
    /// before any row is read.
    async fn leans_on_keys(
        &mut self,
        engine: &mut Enlisted,
        gathering: &Gathering<'_>,
        brought: &[(usize, &GatherInput)],
    ) -> Result<bool, Failure> {
        const MARK: &str = "SAVEPOINT trunkline_keys";
        let plan = gathering.plan;
        if brought.iter().all(|(_, input)| input.primary_key.is_empty()) {
            return Ok(false);
        }
        let is_brought = |input_idx: usize| brought.iter().any(|(idx, _)| *idx == input_idx);
        let sql = plan.final_sql(|idx| if is_brought(idx) { GatherPlace::Unread } else { GatherPlace::Named });
        self.run_on_engine(engine, MARK).await?;
        wire::bare(self.parse_on_engine(engine, &sql, gathering.values), b'S');
        self.send_to_engine(engine).await?;
        match self.finish_on_engine(engine).await {
            Ok(()) => Ok(false),
            Err(failure @ Failure::Shard(_)) => {
                self.run_on_engine(engine, &format!("ROLLBACK TO {MARK}")).await?;
                Ok(failure.sqlstate() == Some(&SqlState::GROUPING_ERROR.0))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Runs the statement on the engine and relays its rows.
    async fn answer(&mut self, gathered: &mut Gathered, description: Description) -> Result<(), Failure> {
        let Gathered { engine, final_sql, values, body, .. } = gathered;
        let shard = engine.lease.shard;
        self.check_engine_types(shard, body, &values.result_formats)?;
        self.check_parameter_types(shard, &values.param_types).await?;
        self.cancel.check()?;
        let row_oids = self.row_oids(shard, body, &values.result_formats);
        let output = self.parse_on_engine(engine, final_sql, values);
        wire::bind(output, b"", b"", &values.bind_tail(&values.result_formats));
        wire::describe_or_close(output, b'D', b'P', b"");
        wire::execute(output, b"", 0);
        wire::bare(output, b'S');
        self.send_to_engine(engine).await?;
        let mut is_parsed = false;
        loop {
            let (tag, mut message) = match self.next_of_engine(engine).await {
                Err(Failure::Shard(message)) if !is_parsed => return Err(unlike_original(&message)),
                outcome => outcome?,
            };
            match tag {
                b'1' => is_parsed = true,
                b'T' => {
                    check_columns(&message[HEADER_LEN..], body)?;
                    if description == Description::Send {
                        write_description(&mut self.client.output, body, &values.result_formats);
                    }
                }
                b'D' => {
                    if let Some(row_oids) = &row_oids {
                        row_oids.translate(&mut message[HEADER_LEN..]);
                    }
                    match &mut self.copying {
                        None => self.client.output.extend_from_slice(&message),
                        Some(copying) => copying.put(&message[HEADER_LEN..], &mut self.client.output)?,
                    }
                    if description == Description::Keep {
                        self.check_kept()?;
                    } else {
                        self.client.flush_if_large().await?;
                    }
                }
                b'C' => self.end_rows(wire::tag_count(&message[HEADER_LEN..]).unwrap_or(0)),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Runs statements of the proxy's own on the engine.
    pub(super) async fn run_on_engine(&mut self, engine: &mut Enlisted, sql: &str) -> Result<(), Failure> {
        engine.begin_statement().write_query(sql.as_bytes());
        self.send_to_engine(engine).await?;
        self.finish_on_engine(engine).await
    }

    pub(super) async fn finish_on_engine(&mut self, engine: &mut Enlisted) -> Result<(), Failure> {
        while self.next_of_engine(engine).await?.0 != b'Z' {}
        Ok(())
    }

    pub(super) async fn send_to_engine(&mut self, engine: &mut Enlisted) -> Result<(), Failure> {
        match self.timer.send(&mut engine.lease).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.engine_lost(engine, error)),
        }
    }

    /// The next message of the engine. Its ErrorResponse is a failure, with the messages up to ReadyForQuery read away.
    pub(super) async fn next_of_engine(&mut self, engine: &mut Enlisted) -> Result<(u8, BytesMut), Failure> {
        let mut failure = None;
        loop {
            let (tag, message) = match engine.next_answer(&mut self.timer, Some(&self.client)).await {
                Ok(answer) => answer,
                Err(error) => return Err(self.engine_lost(engine, error)),
            };
            match (tag, failure.take()) {
                (b'Z', Some(failure)) => return Err(failure),
                (b'E', None) => {
                    let context = format!("engine on \"{}\"", self.view.topology.shard_name(engine.lease.shard));
                    let mut encoded = BytesMut::new();
                    wire::report_of_other_text(&mut encoded, b'E', &message[HEADER_LEN..], &context);
                    failure = Some(Failure::Shard(encoded));
                }
                (_, None) => return Ok((tag, message)),
                (_, known) => failure = known,
            }
        }
    }

    fn engine_lost(&self, engine: &Enlisted, error: WaitError) -> Failure {
        let name = self.view.topology.shard_name(engine.lease.shard);
        match error {
            WaitError::Lost(lost) => {
                self.database.board.report_connect_failure(engine.lease.shard, engine.lease.node_idx);
                let message = format!("connection to the engine on \"{name}\" was lost: {lost}");
                Failure::statement(Report::new(SqlState::CONNECTION_FAILURE, message), ErrorKind::Connection)
            }
            WaitError::DeadlinePassed => timeout_failure(name),
            WaitError::ClientLeft => client_left(),
            WaitError::Deadlock(report) => Failure::deadlock(report),
        }
    }

    /// Ends the engine's transaction, and with it the temporary tables. What still runs is cancelled, and its connection closed.
    pub(super) async fn end_engine(&mut self, mut engine: Enlisted) {
        self.timer.set(crate::deadline::Deadline::after(std::time::Instant::now(), HOLDING_CHECKOUT_TIMEOUT));
        if !engine.is_ready {
            let cancel = engine.lease.cancel.announce();
            // A server that does not take the request in time finds its socket closed.
            drop(tokio::time::timeout(HOLDING_CHECKOUT_TIMEOUT, cancel.send()).await);
        } else if let Err(failure) = self.run_on_engine(&mut engine, "ROLLBACK").await {
            tracing::info!(?failure, "the engine's transaction was ended by closing its connection");
        }
        self.cancel.remove(&engine.lease.cancel);
    }
}

/// Whether rows that are values are to be of their tables' types: where a client can tell.
fn has_typed_rows(plan: &GatherPlan, body: &[u8]) -> bool {
    // From pg_type.dat: record and record[], whose values may be rows.
    let may_hold_rows = |type_oid: &TypeOid| *type_oid >= FIRST_OWN_OID || matches!(type_oid, 2249 | 2287);
    match plan.row_values {
        RowValues::None => false,
        RowValues::Alike => column_types(body).iter().any(may_hold_rows),
        RowValues::Typed => true,
    }
}

/// The modes of the transaction in which shards are read. One table's rows are read by one statement, whose snapshot comes after its
/// locks: it sees what a TRUNCATE that it has waited for has left, as a snapshot for several statements would not.
fn own_modes(plan: &GatherPlan) -> &'static str {
    match plan.inputs.len() {
        0 | 1 => "ISOLATION LEVEL READ COMMITTED, READ ONLY",
        _ => "ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    }
}

/// The engine cannot parse what a shard could: its relations lack something that the tables have, such as a primary key that
/// GROUP BY leans on.
pub(super) fn unlike_original(message: &[u8]) -> Failure {
    let body = message.get(HEADER_LEN..).unwrap_or_default();
    if !wire::report_field(body, b'C').is_some_and(|code| code.starts_with(b"42")) {
        return Failure::Shard(BytesMut::from(message));
    }
    let words = wire::report_field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default();
    Failure::refused(
        "TL083",
        format!("the statement does not mean the same over gathered rows: {words}"),
        "Name all columns outside aggregates in GROUP BY, or bind the statement to one shard by key.",
    )
}

/// The engine must give columns of the names and types that a shard has told.
pub(super) fn check_columns(given: &[u8], wanted: &[u8]) -> Result<(), Failure> {
    let both = columns(given).zip(columns(wanted));
    let (given, wanted) = both.ok_or_else(|| malformed("a shard sent a malformed row description"))?;
    let types = || given.iter().map(|column| column.type_oid).zip(wanted.iter().map(|column| column.type_oid));
    if given.len() == wanted.len() && types().all(|(given, wanted)| is_same_type(given, wanted)) {
        return Ok(());
    }
    Err(Failure::refused(
        "TL083",
        "the statement does not mean the same over gathered rows: its columns would be others",
        "Name the columns instead of using *, or cast them to types of the system.",
    ))
}
