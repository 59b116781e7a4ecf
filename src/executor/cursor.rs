//! Cursors that SQL declares: DECLARE, FETCH, MOVE, CLOSE.
//!
//! One over rows of one shard is that shard's, and statements about it go there. One over several shards is the proxy's: where
//! it only goes forward within its transaction, each shard has a cursor for its part; else the engine has it over gathered rows.

use std::collections::HashMap;

use bytes::Bytes;

use super::Conversation;
use super::describe::no_columns;
use super::engine::EngineRows;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::own::first_shard;
use super::portal::{Form, OpenPortal, Sink};
use crate::plan::{CursorPlan, Plan};
use crate::session::scroll::Position;
use crate::session::transaction::Phase;
use crate::session::wire;
use crate::sql::fetch_parts;
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// By which protocol a statement came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Simple,
    Extended,
}

/// A client's cursors by name.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    pub by_name: HashMap<String, Cursor>,
}

#[derive(Debug)]
pub(super) struct Cursor {
    pub rows: Rows,
    /// Savepoints at its DECLARE.
    n_savepoints: usize,
    is_with_hold: bool,
    /// Its transaction has ended.
    is_kept: bool,
}

/// Who has a cursor's rows.
#[derive(Debug)]
pub(super) enum Rows {
    /// This shard has the cursor itself.
    Shard(ShardId),
    Merged(Box<Merged>),
    Engine(Box<OnEngine>),
    /// Reading from it has failed: it can only be closed.
    Failed,
}

#[derive(Debug)]
pub(super) struct Merged {
    pub open: OpenPortal,
    pub position: Position,
    pub body: Bytes,
    pub is_binary: bool,
}

#[derive(Debug)]
pub(super) struct OnEngine {
    pub rows: EngineRows,
    pub is_binary: bool,
}

impl Cursors {
    /// The shard whose cursor it is.
    pub(super) fn shard_of(&self, name: &str) -> Option<ShardId> {
        match self.by_name.get(name)?.rows {
            Rows::Shard(shard) => Some(shard),
            Rows::Merged(_) | Rows::Engine(_) | Rows::Failed => None,
        }
    }

    /// Whether the proxy has this cursor.
    pub(super) fn is_own(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|cursor| !matches!(cursor.rows, Rows::Shard(_)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether there is one of this name, as far as is known.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Remembers a cursor that its shard has.
    pub(super) fn note_shard(&mut self, name: &str, shard: ShardId, is_with_hold: bool, n_savepoints: usize) {
        let cursor = Cursor { rows: Rows::Shard(shard), n_savepoints, is_with_hold, is_kept: false };
        self.by_name.insert(name.to_owned(), cursor);
    }

    /// Forgets a cursor that its shard is told to close.
    pub(super) fn forget(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Forgets cursors of shards that the client holds no more.
    pub(super) fn retain_shards(&mut self, is_held: impl Fn(ShardId) -> bool) {
        if !self.by_name.is_empty() {
            self.by_name.retain(|_, cursor| !matches!(cursor.rows, Rows::Shard(shard) if !is_held(shard)));
        }
    }

    /// Savepoints beyond this many are released: what was declared after them belongs to the level before.
    pub(super) fn release_to(&mut self, n_savepoints: usize) {
        for cursor in self.by_name.values_mut().filter(|cursor| !cursor.is_kept) {
            cursor.n_savepoints = cursor.n_savepoints.min(n_savepoints);
        }
    }

    /// Takes out those of which this is so.
    fn extract(&mut self, is_so: impl Fn(&Cursor) -> bool) -> Vec<Cursor> {
        let names: Vec<String> = self.by_name.iter().filter(|(_, cursor)| is_so(cursor)).map(|(name, _)| name.clone()).collect();
        names.into_iter().filter_map(|name| self.by_name.remove(&name)).collect()
    }
}

impl Conversation {
    /// 42P03 for a name that another cursor or portal has. One on the same shard is that shard's to refuse.
    pub(super) fn check_cursor_name(&self, name: &str, shard: Option<ShardId>) -> Result<(), Failure> {
        let is_taken = match self.cursors.shard_of(name) {
            Some(known) => shard != Some(known),
            None => self.cursors.has(name),
        };
        if !is_taken && (shard.is_some() || self.portals.get(name.as_bytes()).is_none()) {
            return Ok(());
        }
        let message = format!("cursor \"{name}\" already exists");
        Err(Failure::client(Report::new(SqlState::DUPLICATE_CURSOR, message)))
    }

    /// Runs a DECLARE of a cursor over rows of several shards. A server looks at the whole text first.
    ///
    /// # Errors
    /// The server's; 25P01 outside of a transaction block; 42P03; those of the plan; 54000 for too many.
    pub(super) async fn declare(
        &mut self,
        sql: &str,
        plan: &CursorPlan,
        (values, spoken): (&BoundValues, Spoken),
    ) -> Result<(), Failure> {
        let declared = &plan.declared;
        let shard = first_shard(&plan.rows);
        self.describe(shard, sql, &values.param_types).await?;
        let is_in_block = match self.transaction.phase {
            Phase::Idle => false,
            // That of a pipeline is nobody's block: `IsTransactionBlock` in src/backend/access/transam/xact.c.
            Phase::Implicit => spoken == Spoken::Simple,
            Phase::Explicit | Phase::Failed => true,
        };
        if !declared.is_with_hold && !is_in_block {
            return Err(Failure::not_in_block("DECLARE CURSOR"));
        }
        self.check_cursor_name(&declared.name, None)?;
        self.check_cursor_room()?;
        let rows = self.open_cursor(sql, plan, values).await?;
        let n_savepoints = self.transaction.savepoints.len();
        let mut cursor = Cursor { rows, n_savepoints, is_with_hold: declared.is_with_hold, is_kept: false };
        if self.transaction.phase == Phase::Idle {
            hold(self, &mut cursor).await?;
            self.release();
        }
        self.cursors.by_name.insert(declared.name.clone(), cursor);
        self.note_pins();
        wire::command_complete(&mut self.client.output, b"DECLARE CURSOR");
        Ok(())
    }

    fn check_cursor_room(&self) -> Result<(), Failure> {
        let n_most = self.database.query.max_client_statements;
        if self.cursors.by_name.len() < n_most {
            return Ok(());
        }
        let report = Report::new(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("a session may have at most {n_most} cursors"))
            .with_detail("Reason code TL099.")
            .with_hint("Close cursors that are no longer used, or raise query.max_client_statements.");
        Err(Failure::client(report))
    }

    async fn open_cursor(&mut self, sql: &str, plan: &CursorPlan, values: &BoundValues) -> Result<Rows, Failure> {
        let declared = &plan.declared;
        let query = sql.get(declared.query_start..).unwrap_or_default();
        let is_binary = declared.is_binary;
        let gathered = match &plan.rows {
            Plan::Gather(plan) => std::sync::Arc::clone(plan),
            rows => match self.open_portal(query, rows, (values, Form::Cursor)).await {
                Err(failure) if failure.is_inexact() => self.gather_plan(query, values).ok_or(failure)?,
                outcome => {
                    let open = outcome?;
                    let described = self.describe(first_shard(rows), query, &values.param_types).await?;
                    let body = described.row_description.unwrap_or_else(no_columns);
                    return Ok(Rows::Merged(Box::new(Merged { open, position: Position::default(), body, is_binary })));
                }
            },
        };
        let rows = self.declare_on_engine((sql, declared), &gathered, values).await?;
        Ok(Rows::Engine(Box::new(OnEngine { rows, is_binary })))
    }

    /// The body of the RowDescription of a FETCH on a cursor of the proxy's own; `None` for MOVE.
    pub(super) fn cursor_columns(&self, name: &str, sql: &str) -> Option<Bytes> {
        let parts = fetch_parts(sql.as_bytes(), self.plan_settings.has_standard_strings)?;
        if parts.is_move { None } else { self.columns_of(name) }
    }

    pub(super) fn columns_of(&self, name: &str) -> Option<Bytes> {
        match &self.cursors.by_name.get(name)?.rows {
            Rows::Merged(merged) => Some(merged.body.clone()),
            Rows::Engine(on_engine) => Some(on_engine.rows.body.clone()),
            Rows::Shard(_) | Rows::Failed => None,
        }
    }

    /// Closes a cursor of the proxy's own.
    pub(super) async fn close_cursor(&mut self, name: &str) {
        if let Some(cursor) = self.cursors.by_name.remove(name) {
            self.close_rows(cursor.rows).await;
            self.note_pins();
        }
    }

    /// Closes all that are the proxy's, and forgets those of shards.
    pub(super) async fn close_all_cursors(&mut self) {
        for cursor in self.cursors.extract(|_| true) {
            self.close_rows(cursor.rows).await;
        }
        self.note_pins();
    }

    async fn close_rows(&mut self, rows: Rows) {
        match rows {
            Rows::Merged(merged) => self.close_portal(&merged.open),
            Rows::Engine(on_engine) => {
                let mut rows = on_engine.rows;
                if rows.is_held() {
                    // Its connection is of use to others again.
                    let n_output = self.client.output.len();
                    drop(self.run_on_cursor(&mut rows, "CLOSE ALL", (&[], Sink::Kept)).await);
                    self.client.output.truncate(n_output);
                }
                self.end_rows_on_engine(rows).await;
            }
            Rows::Shard(_) | Rows::Failed => {}
        }
    }

    /// Before the shards commit: has the engine keep the rows of cursors that are to outlive the transaction.
    ///
    /// # Errors
    /// The engine's: the transaction is then to be rolled back.
    pub(super) async fn hold_cursors(&mut self) -> Result<(), Failure> {
        let mut cursors = std::mem::take(&mut self.cursors);
        let mut outcome = Ok(());
        for cursor in cursors.by_name.values_mut().filter(|cursor| cursor.is_with_hold && !cursor.is_kept) {
            outcome = hold_rows(self, cursor).await;
            if outcome.is_err() {
                break;
            }
        }
        self.cursors = cursors;
        outcome
    }

    /// After the transaction: closes what ends with it.
    pub(super) async fn end_cursors(&mut self, is_committed: bool) {
        let ended = self.cursors.extract(|cursor| !(cursor.is_kept || is_committed && cursor.is_with_hold));
        self.end_rows_of(ended).await;
        for cursor in self.cursors.by_name.values_mut() {
            (cursor.is_kept, cursor.n_savepoints) = (true, 0);
        }
        self.note_pins();
    }

    /// Closes cursors that were declared after this many savepoints: they go with a ROLLBACK TO the one before.
    pub(super) async fn roll_cursors_back_to(&mut self, n_savepoints: usize) {
        let ended = self.cursors.extract(|cursor| cursor.n_savepoints > n_savepoints);
        self.end_rows_of(ended).await;
    }

    /// Has the engine give up what it has for cursors that are no more.
    async fn end_rows_of(&mut self, cursors: Vec<Cursor>) {
        for cursor in cursors {
            if let Rows::Engine(on_engine) = cursor.rows {
                self.end_rows_on_engine(on_engine.rows).await;
            }
        }
    }

    /// Whether the engine keeps rows of a cursor for this client beyond its transaction.
    pub(super) fn has_held_cursor(&self) -> bool {
        self.cursors.by_name.values().any(|cursor| match &cursor.rows {
            Rows::Engine(on_engine) if on_engine.rows.is_held() => {
                on_engine.rows.note_pin();
                true
            }
            _ => false,
        })
    }

    /// Notes the cursor that a DECLARE makes on a shard.
    ///
    /// # Errors
    /// 42P03.
    pub(super) fn note_cursor(&mut self, name: &str, is_with_hold: bool, shard: ShardId) -> Result<(), Failure> {
        self.check_cursor_name(name, Some(shard))?;
        self.cursors.note_shard(name, shard, is_with_hold, self.transaction.savepoints.len());
        Ok(())
    }
}

/// Keeps the rows of a cursor that was declared outside of a transaction block.
async fn hold(conversation: &mut Conversation, cursor: &mut Cursor) -> Result<(), Failure> {
    if let Err(failure) = hold_rows(conversation, cursor).await {
        if let Rows::Engine(on_engine) = std::mem::replace(&mut cursor.rows, Rows::Failed) {
            conversation.end_rows_on_engine(on_engine.rows).await;
        }
        return Err(failure);
    }
    cursor.is_kept = true;
    Ok(())
}

async fn hold_rows(conversation: &mut Conversation, cursor: &mut Cursor) -> Result<(), Failure> {
    match &mut cursor.rows {
        Rows::Engine(on_engine) => conversation.hold_on_engine(&mut on_engine.rows).await,
        Rows::Shard(_) | Rows::Merged(_) | Rows::Failed => Ok(()),
    }
}
