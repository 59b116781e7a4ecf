//! The psql console: a small Postgres server that knows a few words.
//!
//! Message flow as in the manual's chapter "Frontend/Backend Protocol": simple queries, and as much of the extended
//! protocol as drivers need to send the same words.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::AdminState;
use super::commands::{Answer, Command, parse};
use super::login::log_in;
use super::tables::{BINARY, Cell, data_row, row_description};
use super::wire::{Fields, Incoming, Wire};
use crate::sqlstate::{Report, SqlState};

const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A console that is silent for so long is closed: there are few places.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Most prepared statements, and most portals, of one connection.
const MAX_NAMED: usize = 64;

/// Serves one console connection until the client leaves.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, state: &AdminState) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    let Ok(is_in) = timeout(LOGIN_TIMEOUT, log_in(&mut wire, peer, state)).await else { return Ok(()) };
    if !is_in? {
        return Ok(());
    }
    let mut console = Console { wire, state, statements: HashMap::new(), portals: HashMap::new(), skips: false };
    loop {
        let Ok(incoming) = timeout(IDLE_TIMEOUT, console.wire.read_message()).await else {
            let report = Report::new(SqlState::ADMIN_SHUTDOWN, "the console was silent for an hour");
            return send_fatal(&mut console.wire, &report).await;
        };
        let (kind, body) = match incoming? {
            Incoming::Message(b'X', _) | Incoming::Closed => return Ok(()),
            Incoming::Message(kind, body) => (kind, body),
            Incoming::Malformed(fault) => {
                return send_fatal(&mut console.wire, &Report::new(SqlState::PROTOCOL_VIOLATION, fault)).await;
            }
        };
        console.handle(kind, &body).await?;
    }
}

/// Sends a last error before the socket closes.
pub(super) async fn send_fatal(wire: &mut Wire, report: &Report) -> io::Result<()> {
    wire.push(&ErrorResponse::new(fields("FATAL", report)))?;
    wire.flush().await
}

struct Console<'a> {
    wire: Wire,
    state: &'a AdminState,
    /// By name; `None` is an empty statement.
    statements: HashMap<String, Option<Command>>,
    portals: HashMap<String, Portal>,
    /// After an error in the extended protocol everything up to Sync is passed over.
    skips: bool,
}

#[derive(Clone)]
struct Portal {
    command: Option<Command>,
    formats: Vec<i16>,
}

impl Console<'_> {
    async fn handle(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        match kind {
            b'Q' => {
                self.skips = false;
                self.query(body).await?;
                self.ready().await
            }
            b'S' => {
                self.skips = false;
                self.portals.clear();
                self.ready().await
            }
            _ if self.skips => Ok(()),
            b'H' => self.wire.flush().await,
            _ => match self.extended(kind, body).await? {
                Ok(()) => Ok(()),
                Err(report) => {
                    self.skips = true;
                    self.wire.push(&ErrorResponse::new(fields("ERROR", &report)))
                }
            },
        }
    }

    async fn ready(&mut self) -> io::Result<()> {
        self.wire.push(&ReadyForQuery::new(TransactionStatus::Idle))?;
        self.wire.flush().await
    }

    /// No word of the console holds a semicolon, so commands are split at each. The first error ends the string.
    async fn query(&mut self, body: &[u8]) -> io::Result<()> {
        let Some(text) = Fields(body).text() else {
            return self.wire.push(&ErrorResponse::new(fields("ERROR", &malformed())));
        };
        let mut is_empty = true;
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            is_empty = false;
            let command = match parse(part) {
                Ok(command) => command,
                Err(report) => return self.wire.push(&ErrorResponse::new(fields("ERROR", &report))),
            };
            if !command.columns().is_empty() {
                self.wire.push(&row_description(command.columns(), &[]))?;
            }
            if let Err(report) = self.execute(command, &[]).await? {
                return self.wire.push(&ErrorResponse::new(fields("ERROR", &report)));
            }
        }
        if is_empty { self.wire.push(&EmptyQueryResponse::new()) } else { Ok(()) }
    }

    /// The outer error is the socket's, the inner one the client's.
    async fn extended(&mut self, kind: u8, body: &[u8]) -> io::Result<Result<(), Report>> {
        let mut fields = Fields(body);
        let step = match kind {
            b'P' => self.parse(&mut fields),
            b'B' => self.bind(&mut fields),
            b'D' => self.describe(&mut fields),
            b'C' => self.close(&mut fields),
            b'E' => match self.portal(fields.text()) {
                Ok(Portal { command: Some(command), formats }) => return self.execute(command, &formats).await,
                Ok(Portal { command: None, .. }) => Ok(Step::Empty),
                Err(report) => Err(report),
            },
            _ => Err(Report::new(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message type {kind}"))),
        };
        let step = match step {
            Ok(step) => step,
            Err(report) => return Ok(Err(report)),
        };
        match step {
            Step::Parsed => self.wire.push(&ParseComplete::new())?,
            Step::Bound => self.wire.push(&BindComplete::new())?,
            Step::Closed => self.wire.push(&CloseComplete::new())?,
            Step::Empty => self.wire.push(&EmptyQueryResponse::new())?,
            Step::Described { portal, is_statement } => {
                if is_statement {
                    self.wire.push(&ParameterDescription::new(Vec::new()))?;
                }
                match portal.command.map(Command::columns) {
                    Some(columns) if !columns.is_empty() => self.wire.push(&row_description(columns, &portal.formats))?,
                    _ => self.wire.push(&NoData::new())?,
                }
            }
        }
        Ok(Ok(()))
    }

    /// Sends the rows and CommandComplete. The row limit of Execute is not kept: answers are short.
    async fn execute(&mut self, command: Command, formats: &[i16]) -> io::Result<Result<(), Report>> {
        let tag = match command.run(self.state).await {
            Ok(Answer::Rows(rows)) => {
                self.send_rows(&rows, formats).await?;
                if command == Command::Reload { "RELOAD" } else { "SHOW" }
            }
            Ok(Answer::Notice(sentence)) => {
                let report = Report::new(SqlState::SUCCESSFUL_COMPLETION, sentence);
                self.wire.push(&NoticeResponse::new(fields("NOTICE", &report)))?;
                "RELOAD"
            }
            Err(report) => return Ok(Err(report)),
        };
        self.wire.push(&CommandComplete::new(tag.to_owned()))?;
        Ok(Ok(()))
    }

    async fn send_rows(&mut self, rows: &[Vec<Cell>], formats: &[i16]) -> io::Result<()> {
        for cells in rows {
            self.wire.push(&data_row(cells, formats))?;
            self.wire.flush_if_large().await?;
        }
        Ok(())
    }

    fn parse(&mut self, fields: &mut Fields<'_>) -> Result<Step, Report> {
        let (name, text) = fields.text().zip(fields.text()).ok_or_else(malformed)?;
        let text = text.trim().trim_end_matches(';');
        let command = if text.is_empty() { None } else { Some(parse(text)?) };
        keep(&mut self.statements, name, command)?;
        Ok(Step::Parsed)
    }

    fn bind(&mut self, fields: &mut Fields<'_>) -> Result<Step, Report> {
        let (portal, statement) = fields.text().zip(fields.text()).ok_or_else(malformed)?;
        let n_parameters = fields.int16s().and_then(|_| fields.int16()).ok_or_else(malformed)?;
        if n_parameters != 0 {
            return Err(Report::new(SqlState::PROTOCOL_VIOLATION, "commands of the admin console take no parameters"));
        }
        let formats = fields.int16s().ok_or_else(malformed)?;
        if formats.iter().any(|format| !(0..=BINARY).contains(format)) {
            return Err(Report::new(SqlState::INVALID_PARAMETER_VALUE, "unsupported format code"));
        }
        let command = self.statement(Some(statement))?;
        keep(&mut self.portals, portal, Portal { command, formats })?;
        Ok(Step::Bound)
    }

    fn describe(&self, fields: &mut Fields<'_>) -> Result<Step, Report> {
        match fields.byte() {
            Some(b'S') => {
                let command = self.statement(fields.text())?;
                Ok(Step::Described { portal: Portal { command, formats: Vec::new() }, is_statement: true })
            }
            Some(b'P') => Ok(Step::Described { portal: self.portal(fields.text())?, is_statement: false }),
            _ => Err(malformed()),
        }
    }

    /// Closing what is not there is no error.
    fn close(&mut self, fields: &mut Fields<'_>) -> Result<Step, Report> {
        match (fields.byte(), fields.text()) {
            (Some(b'S'), Some(name)) => drop(self.statements.remove(name)),
            (Some(b'P'), Some(name)) => drop(self.portals.remove(name)),
            _ => return Err(malformed()),
        }
        Ok(Step::Closed)
    }

    fn statement(&self, name: Option<&str>) -> Result<Option<Command>, Report> {
        let name = name.ok_or_else(malformed)?;
        let missing = || format!("prepared statement \"{name}\" does not exist");
        self.statements.get(name).copied().ok_or_else(|| Report::new(SqlState::INVALID_SQL_STATEMENT_NAME, missing()))
    }

    fn portal(&self, name: Option<&str>) -> Result<Portal, Report> {
        let name = name.ok_or_else(malformed)?;
        let missing = || format!("portal \"{name}\" does not exist");
        self.portals.get(name).cloned().ok_or_else(|| Report::new(SqlState::INVALID_CURSOR_NAME, missing()))
    }
}

/// What a message of the extended protocol is answered with.
enum Step {
    Parsed,
    Bound,
    Closed,
    Empty,
    Described { portal: Portal, is_statement: bool },
}

fn keep<T>(named: &mut HashMap<String, T>, name: &str, value: T) -> Result<(), Report> {
    if named.len() >= MAX_NAMED && !named.contains_key(name) {
        return Err(Report::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "the admin console keeps at most 64 names"));
    }
    named.insert(name.to_owned(), value);
    Ok(())
}

fn malformed() -> Report {
    Report::new(SqlState::PROTOCOL_VIOLATION, "invalid message format")
}

/// Fields of an ErrorResponse or NoticeResponse, as in the manual's "Error and Notice Message Fields".
fn fields(severity: &str, report: &Report) -> Vec<(u8, String)> {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', report.sqlstate.to_string()),
        (b'M', report.message.clone()),
    ];
    fields.extend(report.detail.iter().map(|detail| (b'D', detail.clone())));
    fields.extend(report.hint.iter().map(|hint| (b'H', hint.clone())));
    fields
}
