//! Why the demo ended early. Each is a sentence for the person at the terminal.

use std::path::PathBuf;

use super::postgres::PostgresError;
use crate::backend::control::ControlError;
use crate::config::Fault;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("port {0} is in use; end what listens on it, or choose other ports with --port-base")]
    PortInUse(u16),
    #[error("another demo is running in {}", .0.display())]
    AlreadyRunning(PathBuf),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{}", describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error("a connection ended before its answer came")]
    ConnectionEnded,
    #[error("the proxy did not start: {0}")]
    Proxy(String),
    #[error("{counted} rows of {table} were loaded, not {expected}")]
    WrongCount { table: &'static str, counted: u64, expected: u64 },
    #[error("wrong answer to: {sql}\ngot\n{got}\nbut the rows that were loaded give\n{expected}")]
    WrongAnswer { sql: &'static str, got: String, expected: String },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("stopped")]
    Interrupted,
}

impl DemoError {
    /// The configuration that the demo itself has written is wrong.
    pub(super) fn faults(faults: &[Fault]) -> Self {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Self::Proxy(lines.join("\n"))
    }
}

/// tokio-postgres says only "db error" of what a server answered.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(report) => {
            let hint = report.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}: {}{hint}", report.code().code(), report.message())
        }
        None => error.to_string(),
    }
}
