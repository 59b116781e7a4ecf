//! Portals and cursors over gathered rows: the engine has them, in a transaction that lasts as long as they do.
//!
//! Each has a connection of its own, so that its temporary tables are in nobody's way, and a failure of one leaves the others.

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;

use super::Conversation;
use super::enlist::Enlisted;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::gather::{Gathered, check_columns, unlike_original};
use super::holding::Holding;
use super::portal::Sink;
use crate::backend::PinPermit;
use crate::plan::GatherPlan;
use crate::session::oids::RowOids;
use crate::session::pins::{PinReason, PinReasons};
use crate::session::unpooled::Leftover;
use crate::session::wire::{self, HEADER_LEN};
use crate::sql::DeclareParts;

/// The name of a portal there, of which a connection has one.
const PORTAL: &[u8] = b"trunkline portal";

/// What the engine has for a portal or a cursor.
#[derive(Debug)]
pub(super) struct EngineRows {
    engine: Enlisted,
    /// Its place among the statements that gather; given back once its rows need no tables any more.
    slot: Option<OwnedSemaphorePermit>,
    /// Of a cursor that outlives its transaction.
    pin: Option<PinPermit>,
    /// The body of the RowDescription that the client sees.
    pub body: Bytes,
    /// Translates its rows.
    oids: Option<RowOids>,
    /// What its tables count for.
    _holding: Holding,
}

impl Conversation {
    /// Opens a portal on the engine over the rows of a gather plan.
    ///
    /// # Errors
    /// Those of [`Conversation::run_gather`].
    pub(super) async fn open_on_engine(
        &mut self,
        sql: &str,
        plan: &GatherPlan,
        values: &BoundValues,
    ) -> Result<EngineRows, Failure> {
        let gathered = self.gather_rows(sql, plan, values).await?;
        let (final_sql, values) = (gathered.final_sql.clone(), gathered.values.clone());
        let mut rows = EngineRows::new(gathered);
        if let Err(failure) = self.fit_engine(&mut rows, &values).await {
            self.end_rows_on_engine(rows).await;
            return Err(failure);
        }
        let output = self.parse_on_engine(&mut rows.engine, &final_sql, &values);
        wire::bind(output, PORTAL, b"", &values.bind_tail(&values.result_formats));
        wire::describe_or_close(output, b'D', b'P', PORTAL);
        wire::bare(output, b'S');
        self.opened(rows).await
    }

    /// Declares a cursor on the engine over the rows of a gather plan for `query`, in the client's own words.
    ///
    /// # Errors
    /// Those of [`Conversation::run_gather`]; 53300 when no more connections may be pinned.
    pub(super) async fn declare_on_engine(
        &mut self,
        (sql, declared): (&str, &DeclareParts),
        plan: &GatherPlan,
        values: &BoundValues,
    ) -> Result<EngineRows, Failure> {
        let (words, query) = sql.split_at(declared.query_start);
        let gathered = self.gather_rows(query, plan, values).await?;
        let (text, values) = (format!("{words}{}", gathered.final_sql), gathered.values.clone());
        let mut rows = EngineRows::new(gathered);
        let mut outcome = self.fit_engine(&mut rows, &BoundValues { result_formats: Vec::new(), ..values.clone() }).await;
        if declared.is_with_hold && outcome.is_ok() {
            let pin = self.pin_permit(&rows.engine.lease, Leftover::making(PinReason::Cursor));
            outcome = pin.map(|pin| rows.pin = pin);
        }
        if let Err(failure) = outcome {
            self.end_rows_on_engine(rows).await;
            return Err(failure);
        }
        let output = self.parse_on_engine(&mut rows.engine, &text, &values);
        wire::bind(output, b"", b"", &values.bind_tail(&[]));
        wire::execute(output, b"", 0);
        wire::describe_or_close(output, b'D', b'P', declared.name.as_bytes());
        wire::bare(output, b'S');
        self.opened(rows).await
    }

    /// Writes Parse of the unnamed statement, and gives the output for what is to follow.
    pub(super) fn parse_on_engine<'a>(&self, engine: &'a mut Enlisted, sql: &str, values: &BoundValues) -> &'a mut BytesMut {
        let param_types = self.parameter_types(engine.lease.shard, &values.param_types);
        let connection = engine.begin_statement();
        connection.unnamed = None;
        let output = &mut connection.socket.output;
        wire::parse(output, b"", sql.as_bytes(), &param_types);
        output
    }

    /// Makes sure that the engine understands the values and is understood in what it gives.
    async fn fit_engine(&mut self, rows: &mut EngineRows, values: &BoundValues) -> Result<(), Failure> {
        self.check_parameter_types(rows.engine.lease.shard, &values.param_types).await?;
        self.give_in(rows, &values.result_formats)
    }

    fn give_in(&self, rows: &mut EngineRows, result_formats: &[i16]) -> Result<(), Failure> {
        let shard = rows.engine.lease.shard;
        self.check_engine_types(shard, &rows.body, result_formats)?;
        rows.oids = self.row_oids(shard, &rows.body, result_formats);
        Ok(())
    }

    /// Reads the answer to what opens a portal, and to its Describe.
    async fn opened(&mut self, mut rows: EngineRows) -> Result<EngineRows, Failure> {
        let outcome = self.read_opening(&mut rows).await;
        match outcome {
            Ok(()) => Ok(rows),
            Err(failure) => {
                self.end_rows_on_engine(rows).await;
                Err(failure)
            }
        }
    }

    async fn read_opening(&mut self, rows: &mut EngineRows) -> Result<(), Failure> {
        self.send_to_engine(&mut rows.engine).await?;
        let (mut is_parsed, mut outcome) = (false, Ok(()));
        loop {
            match self.next_of_engine(&mut rows.engine).await {
                Err(Failure::Shard(message)) if !is_parsed => return Err(unlike_original(&message)),
                Err(failure) => return Err(failure),
                Ok((b'1', _)) => is_parsed = true,
                Ok((b'T', message)) => outcome = check_columns(&message[HEADER_LEN..], &rows.body),
                Ok((b'Z', _)) => return outcome,
                Ok(_) => {}
            }
        }
    }

    /// Executes the portal on the engine and relays its rows and the end. True if there may be more.
    ///
    /// # Errors
    /// The engine's.
    pub(super) async fn execute_on_engine(&mut self, rows: &mut EngineRows, max_rows: u64) -> Result<bool, Failure> {
        let output = &mut rows.engine.begin_statement().socket.output;
        wire::execute(output, PORTAL, i32::try_from(max_rows).unwrap_or(i32::MAX));
        wire::bare(output, b'S');
        self.relay_from_engine(rows, Sink::Client).await
    }

    /// Runs a FETCH, MOVE or CLOSE on the engine and relays rows and tag.
    ///
    /// # Errors
    /// The engine's; 54000 when more would be kept than `query.max_gather_bytes`.
    pub(super) async fn run_on_cursor(
        &mut self,
        rows: &mut EngineRows,
        sql: &str,
        (result_formats, sink): (&[i16], Sink),
    ) -> Result<(), Failure> {
        self.give_in(rows, result_formats)?;
        let connection = rows.engine.begin_statement();
        connection.unnamed = None;
        let output = &mut connection.socket.output;
        wire::run_text(output, sql, &BoundValues::none().bind_tail(result_formats));
        wire::bare(output, b'S');
        self.relay_from_engine(rows, sink).await.map(drop)
    }

    async fn relay_from_engine(&mut self, rows: &mut EngineRows, sink: Sink) -> Result<bool, Failure> {
        let cancel = rows.engine.lease.cancel.clone();
        self.cancel.remove(&cancel);
        self.cancel.add(cancel.clone());
        let outcome = self.relay_answer(rows, sink).await;
        if !self.transaction.is_open() {
            self.cancel.remove(&cancel);
        }
        // What it has is the client's alone.
        rows.engine.lease.is_clean = false;
        outcome
    }

    async fn relay_answer(&mut self, rows: &mut EngineRows, sink: Sink) -> Result<bool, Failure> {
        let EngineRows { engine, oids, .. } = rows;
        self.send_to_engine(engine).await?;
        let mut is_suspended = false;
        loop {
            let (tag, mut message) = self.next_of_engine(engine).await?;
            match tag {
                b'D' => {
                    if let Some(oids) = oids {
                        oids.translate(&mut message[HEADER_LEN..]);
                    }
                    self.client.output.extend_from_slice(&message);
                    match sink {
                        Sink::Client => self.client.flush_if_large().await?,
                        Sink::Kept | Sink::Nobody => self.check_kept()?,
                    }
                }
                b'C' => self.client.output.extend_from_slice(&message),
                b's' => {
                    self.client.output.extend_from_slice(&message);
                    is_suspended = true;
                }
                b'Z' => return Ok(is_suspended),
                _ => {}
            }
        }
    }

    /// Has the engine end its transaction and keep what is left of the cursor's rows.
    ///
    /// # Errors
    /// The engine's, for a row that it cannot make.
    pub(super) async fn hold_on_engine(&mut self, rows: &mut EngineRows) -> Result<(), Failure> {
        let outcome = self.run_on_engine(&mut rows.engine, "COMMIT").await;
        rows.engine.lease.is_clean = false;
        rows.slot = None;
        outcome
    }

    /// Gives the engine back.
    pub(super) async fn end_rows_on_engine(&mut self, rows: EngineRows) {
        rows.engine.lease.entry().set_pins(PinReasons::NONE);
        self.end_engine(rows.engine).await;
    }
}

impl EngineRows {
    fn new(gathered: Gathered) -> Self {
        let Gathered { engine, slot, body, holding, .. } = gathered;
        Self { engine, slot: Some(slot), pin: None, body, oids: None, _holding: holding }
    }

    /// Whether its connection counts as one that is the client's own.
    pub(super) fn is_held(&self) -> bool {
        self.slot.is_none()
    }

    /// Marks its connection in what the console shows.
    pub(super) fn note_pin(&self) {
        self.engine.lease.entry().set_pins(PinReasons::only(PinReason::Cursor));
    }
}
