//! FETCH, MOVE and CLOSE, and the messages of the protocol that mean a cursor by its name.

use super::Conversation;
use super::cursor::{Merged, OnEngine, Rows};
use super::failure::Failure;
use super::merge::Description;
use super::portal::Sink;
use super::relay::Ready;
use super::stored::Wanted;
use crate::plan::Access;
use crate::session::row_description::write_description;
use crate::session::scroll::{Steps, Stretch};
use crate::session::settings::quote_identifier;
use crate::session::unpooled::Leftover;
use crate::session::wire;
use crate::sql::{Command, FetchParts, fetch_parts};
use crate::sqlstate::{Report, SqlState};

impl Conversation {
    /// Runs a FETCH, MOVE or CLOSE of the cursor of this name. True if ReadyForQuery is already with the client.
    ///
    /// # Errors
    /// Those of [`Self::fetch`]; those of the shard that has the cursor.
    pub(super) async fn run_cursor_command(
        &mut self,
        command: &Command,
        (name, sql): (&str, &str),
        ready: Ready,
    ) -> Result<bool, Failure> {
        if !self.cursors.is_own(name) {
            // Where it is not known, the server says that there is no such cursor.
            let shard = match self.cursors.shard_of(name) {
                Some(shard) => shard,
                None => self.any_live_shard(Access::Read).await?,
            };
            if matches!(command, Command::Close { .. }) {
                self.cursors.forget(name);
            }
            return self.forward((shard, Access::Read), sql.as_bytes(), Leftover::of_command(command), ready).await;
        }
        if matches!(command, Command::Fetch { .. }) {
            let wanted = Wanted { description: Description::Send, result_formats: &[] };
            self.fetch(name, sql, wanted).await?;
        } else {
            self.close_cursor(name).await;
            wire::command_complete(&mut self.client.output, b"CLOSE CURSOR");
        }
        Ok(false)
    }

    /// Runs a FETCH or MOVE on a cursor that is the proxy's.
    ///
    /// # Errors
    /// 55000 for going back where that is not possible, and on a cursor that has failed; a shard's or the engine's.
    pub(super) async fn fetch(&mut self, name: &str, sql: &str, wanted: Wanted<'_>) -> Result<(), Failure> {
        let Some(parts) = fetch_parts(sql.as_bytes(), self.plan_settings.has_standard_strings) else {
            return Err(self.not_understood(sql).await);
        };
        let Some(mut cursor) = self.cursors.by_name.remove(name) else { return Err(no_cursor(name)) };
        let mark = self.client.output.len();
        let outcome = match &mut cursor.rows {
            Rows::Merged(merged) => self.fetch_merged(merged, &parts, wanted).await,
            Rows::Engine(on_engine) => self.fetch_on_engine(on_engine, (sql, &parts), wanted).await,
            Rows::Shard(_) => Err(no_cursor(name)),
            Rows::Failed => Err(cannot_run(name)),
        };
        if outcome.is_err() {
            if self.client.output.get(mark) == Some(&b'T') {
                // Postgres has all rows before it says the first word of them. Those that are sent stay sent.
                self.client.output.truncate(mark);
            }
            cursor.rows = self.failed(cursor.rows).await;
        }
        self.cursors.by_name.insert(name.to_owned(), cursor);
        outcome
    }

    /// What is left of a cursor of which a FETCH has failed. One that is kept says itself what it is.
    async fn failed(&mut self, rows: Rows) -> Rows {
        match rows {
            Rows::Engine(on_engine) if on_engine.rows.is_held() => Rows::Engine(on_engine),
            Rows::Engine(on_engine) => {
                self.end_rows_on_engine(on_engine.rows).await;
                Rows::Failed
            }
            Rows::Merged(_) | Rows::Failed => Rows::Failed,
            Rows::Shard(shard) => Rows::Shard(shard),
        }
    }

    fn describe_rows(&mut self, parts: &FetchParts, body: &[u8], wanted: Wanted<'_>) {
        if wanted.description == Description::Send && !parts.is_move {
            write_description(&mut self.client.output, body, wanted.result_formats);
        }
    }

    async fn fetch_merged(&mut self, merged: &mut Merged, parts: &FetchParts, wanted: Wanted<'_>) -> Result<(), Failure> {
        let steps = merged.position.steps(parts.movement, parts.is_move).map_err(|error| {
            let report = Report::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, error.to_string());
            Failure::client(report.with_hint("Declare it with SCROLL option to enable backward scan."))
        })?;
        let wanted = wanted.in_simple(merged.is_binary);
        if !parts.is_move {
            self.ask_for(&mut merged.open, wanted.result_formats)?;
        }
        self.describe_rows(parts, &merged.body, wanted);
        let verb = if parts.is_move { "MOVE" } else { "FETCH" };
        let n_rows = match steps {
            Steps::Stay(n_rows) => n_rows,
            Steps::Read(stretches) => {
                let mut n_last = 0;
                for stretch in stretches {
                    n_last = self.read_stretch(merged, stretch, wanted.description).await?;
                }
                n_last
            }
        };
        wire::command_complete(&mut self.client.output, format!("{verb} {n_rows}").as_bytes());
        Ok(())
    }

    async fn read_stretch(&mut self, merged: &mut Merged, stretch: Stretch, description: Description) -> Result<u64, Failure> {
        if stretch.n_rows == Some(0) || merged.position.is_at_end() {
            return Ok(0);
        }
        let sink = match (stretch.is_given, description) {
            (false, _) => Sink::Nobody,
            (true, Description::Keep) => Sink::Kept,
            (true, Description::Send | Description::Omit) => Sink::Client,
        };
        let n_rows = self.fetch_portion(&mut merged.open, stretch.n_rows.unwrap_or(0), sink).await?;
        merged.position.note(stretch, n_rows);
        Ok(n_rows)
    }

    async fn fetch_on_engine(
        &mut self,
        on_engine: &mut OnEngine,
        (sql, parts): (&str, &FetchParts),
        wanted: Wanted<'_>,
    ) -> Result<(), Failure> {
        let wanted = wanted.in_simple(on_engine.is_binary);
        self.describe_rows(parts, &on_engine.rows.body, wanted);
        let sink = if wanted.description == Description::Keep { Sink::Kept } else { Sink::Client };
        self.run_on_cursor(&mut on_engine.rows, sql, (wanted.result_formats, sink)).await
    }

    /// Answers a message of the extended protocol about a cursor of the proxy's own: Describe, Execute, Close.
    ///
    /// # Errors
    /// Those of [`Self::fetch`].
    pub(super) async fn cursor_message(&mut self, tag: u8, name: &str, max_rows: i32) -> Result<(), Failure> {
        match tag {
            b'D' => match self.columns_of(name) {
                Some(body) => {
                    write_description(&mut self.client.output, &body, &[]);
                }
                None => wire::bare(&mut self.client.output, b'n'),
            },
            b'C' => {
                self.close_cursor(name).await;
                wire::bare(&mut self.client.output, b'3');
            }
            _ => {
                let cursor = quote_identifier(name);
                let n_wanted = if max_rows > 0 { max_rows.to_string() } else { "ALL".to_owned() };
                let mark = self.client.output.len();
                let wanted = Wanted { description: Description::Keep, result_formats: &[] };
                self.fetch(name, &format!("FETCH FORWARD {n_wanted} FROM {cursor}"), wanted).await?;
                let n_rows = self.rows_since(mark);
                if max_rows > 0 && n_rows == u64::try_from(max_rows).unwrap_or(0) {
                    wire::bare(&mut self.client.output, b's');
                } else {
                    wire::command_complete(&mut self.client.output, format!("SELECT {n_rows}").as_bytes());
                }
            }
        }
        Ok(())
    }

    /// Counts the rows in the client's output from `mark` on, and takes the tag behind them away.
    fn rows_since(&mut self, mark: usize) -> u64 {
        let (mut at, mut n_rows) = (mark, 0);
        while let Ok(Some(header)) = wire::header(&self.client.output[at..]) {
            if header.tag == b'C' {
                self.client.output.truncate(at);
                break;
            }
            n_rows += u64::from(header.tag == b'D');
            at += header.len;
        }
        n_rows
    }
}

impl Wanted<'_> {
    /// In the simple protocol the formats are the cursor's.
    fn in_simple(self, is_binary: bool) -> Self {
        match self.description {
            Description::Send => Self { result_formats: if is_binary { &[1] } else { &[] }, ..self },
            Description::Omit | Description::Keep => self,
        }
    }
}

fn no_cursor(name: &str) -> Failure {
    Failure::client(Report::new(SqlState::INVALID_CURSOR_NAME, format!("cursor \"{name}\" does not exist")))
}

fn cannot_run(name: &str) -> Failure {
    let message = format!("portal \"{name}\" cannot be run");
    Failure::client(Report::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
}
