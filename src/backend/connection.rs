//! One server connection that carries clients' statements, and what is known of its session.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Socket;
use super::cancel::CancelHandle;
use super::connect::{Opened, parameter_status};
use crate::deadline::Deadline;
use crate::observe::{Registry, ServerEntry};
use crate::session::prepared::{Prepared, PreparedOnServer};
use crate::session::settings::Settings;
use crate::session::wire::{self, Header};
use crate::topology::TypeMap;

/// Idle for less than this, a connection is handed out without a system call.
const FRESH: Duration = Duration::from_secs(1);

/// The server's side of the connection ended or sent nonsense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionLost(pub String);

impl From<std::io::Error> for ConnectionLost {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// What [`Connection::prepare`] has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// Nothing: the server has the statement.
    Present,
    /// Parse, and before it Close of the statement that it takes the place of.
    Parsed { displaced: Option<u64> },
}

/// A raw connection to a server.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    pub cancel: CancelHandle,
    /// Last ParameterStatus values.
    pub parameters: BTreeMap<String, String>,
    /// Settings that its session has now; `None` after something may have changed them unseen.
    pub settings: Option<Settings>,
    pub prepared: PreparedOnServer,
    /// Id of the statement that its unnamed prepared statement is.
    pub unnamed: Option<u64>,
    /// The client whose last values of sequences its session may have, and nobody else's; 0: of whom is not known.
    pub sequence_user: u64,
    /// True from ReadyForQuery(idle) with nothing left to read until the next statement: it may go back to its pool.
    pub is_clean: bool,
    /// The server has said FATAL: whatever it says after, it is not to be used again.
    pub has_ended: bool,
    pub opened_at: Instant,
    pub idle_since: Instant,
    /// When it is too old to be handed out again.
    pub expires_at: Deadline,
    entry: Arc<ServerEntry>,
    registry: Arc<Registry>,
}

impl Connection {
    pub(super) fn new(
        opened: Opened,
        cancel: CancelHandle,
        n_prepared: usize,
        entry: Arc<ServerEntry>,
        registry: Arc<Registry>,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket: opened.socket,
            cancel,
            parameters: opened.parameters,
            settings: Some(Settings::default()),
            prepared: PreparedOnServer::new(n_prepared),
            unnamed: None,
            sequence_user: 0,
            is_clean: true,
            has_ended: false,
            opened_at: now,
            idle_since: now,
            expires_at: Deadline::NEVER,
            entry,
            registry,
        }
    }

    pub fn entry(&self) -> &ServerEntry {
        &self.entry
    }

    /// Reads until a whole message stands at the start of `socket.input`, and gives its header.
    ///
    /// Cancel safe.
    pub async fn next_header(&mut self) -> Result<Header, ConnectionLost> {
        loop {
            if let Some(header) = self.buffered_header()? {
                return Ok(header);
            }
            if self.socket.fill().await? == 0 {
                return Err(ConnectionLost("server closed the connection unexpectedly".to_owned()));
            }
        }
    }

    /// The header of the message at the start of `socket.input` if all of it is there.
    pub fn buffered_header(&self) -> Result<Option<Header>, ConnectionLost> {
        let header = wire::header(&self.socket.input).map_err(|error| ConnectionLost(error.to_string()))?;
        Ok(header.filter(|header| self.socket.input.len() >= header.len))
    }

    /// Its session is as new, after DISCARD ALL.
    pub fn forget_session(&mut self) {
        self.settings = Some(Settings::default());
        self.prepared.clear();
        self.unnamed = None;
    }

    /// Remembers a ParameterStatus.
    pub fn note_parameter(&mut self, body: &[u8]) {
        if let Some((name, value)) = parameter_status(body) {
            self.parameters.insert(name, value);
        }
    }

    /// Writes a simple query. The server drops its unnamed statement for it: src/backend/tcop/postgres.c, `exec_simple_query`.
    pub fn write_query(&mut self, sql: &[u8]) {
        self.unnamed = None;
        wire::query(&mut self.socket.output, sql);
    }

    /// Makes sure that a statement is prepared under its server name: writes Close of a displaced one and Parse.
    ///
    /// A CloseComplete and a ParseComplete will come for what it has written. `types` translates the parameters' OIDs.
    pub fn prepare(&mut self, prepared: &Prepared, types: Option<&Arc<TypeMap>>) -> Preparation {
        if self.prepared.touch(prepared.id) {
            return Preparation::Present;
        }
        let victim = self.prepared.insert(prepared.id);
        if let Some(victim) = victim {
            let name = format!("trunkline_{victim}");
            wire::describe_or_close(&mut self.socket.output, b'C', b'S', name.as_bytes());
        }
        self.write_parse(prepared.server_name.as_bytes(), prepared, types);
        Preparation::Parsed { displaced: victim }
    }

    /// Makes a statement the unnamed one: a ParseComplete will come.
    pub fn prepare_unnamed(&mut self, prepared: &Prepared, types: Option<&Arc<TypeMap>>) {
        self.unnamed = Some(prepared.id);
        self.write_parse(b"", prepared, types);
    }

    fn write_parse(&mut self, name: &[u8], prepared: &Prepared, types: Option<&Arc<TypeMap>>) {
        let param_types = types.map_or(Cow::Borrowed(&prepared.param_types[..]), |types| types.parameters(&prepared.param_types));
        wire::parse(&mut self.socket.output, name, &prepared.sql, &param_types);
    }

    /// Writes Close of all its prepared statements.
    pub fn close_prepared(&mut self) {
        self.unnamed = None;
        for id in self.prepared.take_all() {
            wire::describe_or_close(&mut self.socket.output, b'C', b'S', format!("trunkline_{id}").as_bytes());
        }
    }

    /// Sends a simple query and reads to ReadyForQuery, giving the first error's report.
    ///
    /// ParameterStatus is noted, rows are dropped. Not cancel safe: the connection is unclean until it returns.
    pub async fn run_quietly(&mut self, sql: &str) -> Result<Result<(), crate::sqlstate::Report>, ConnectionLost> {
        self.write_query(sql.as_bytes());
        self.socket.flush().await?;
        self.read_quietly().await
    }

    /// Reads to ReadyForQuery, giving the first error's report.
    pub async fn read_quietly(&mut self) -> Result<Result<(), crate::sqlstate::Report>, ConnectionLost> {
        let mut outcome = Ok(());
        loop {
            let header = self.next_header().await?;
            let message = self.socket.input.split_to(header.len);
            match header.tag {
                b'E' if outcome.is_ok() => outcome = Err(super::connect::server_report(&message[wire::HEADER_LEN..])),
                b'S' => self.note_parameter(&message[wire::HEADER_LEN..]),
                b'Z' => return Ok(outcome),
                _ => {}
            }
        }
    }

    /// Whether a pool may hand it out again: clean, not too old, and nothing to be read from it.
    ///
    /// One that was used a moment ago is judged by what the runtime has heard; for others the system is asked.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        let is_fresh = now.saturating_duration_since(self.idle_since) < FRESH;
        let is_sound = self.is_clean && !self.cancel.is_in_flight() && !self.expires_at.has_passed(now);
        is_sound && !if is_fresh { self.socket.has_news() } else { self.socket.is_disturbed() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.registry.remove_server(self.entry.id);
    }
}
