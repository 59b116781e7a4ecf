//! How a statement ends when it does not end well.

use bytes::BytesMut;

use crate::backend::CheckoutError;
use crate::observe::ErrorKind;
use crate::plan::Refusal;
use crate::session::wire;
use crate::sqlstate::{Report, SqlState};

/// The limit of one statement's bytes by its names.
pub(super) const MAX_GATHER_BYTES: &str =
    "query.max_gather_bytes, or trunkline.max_gather_bytes where the session has lowered it";

/// Why a statement was given up.
#[derive(Debug)]
pub enum Failure {
    /// To be told to the client; the session goes on.
    Statement { report: Box<Report>, kind: ErrorKind },
    /// A shard's ErrorResponse, encoded, to be told to the client.
    Shard(BytesMut),
    /// A server's ErrorResponse is already in the client's output.
    Reported,
    /// The client has a FATAL in its output already, a server's own or the proxy's: its session ends.
    Ended,
    /// A statement was prepared on the server before its columns changed; the client knows of nothing yet: to be tried again.
    StalePlan,
    /// The client's socket is gone: nobody to tell.
    Client(std::io::Error),
    /// To be told to the client before its socket is closed.
    Fatal(Box<Report>),
}

impl Failure {
    pub fn statement(report: Report, kind: ErrorKind) -> Self {
        Self::Statement { report: Box::new(report), kind }
    }

    /// 40P01: what ends a deadlock.
    pub fn deadlock(report: Box<Report>) -> Self {
        Self::Statement { report, kind: ErrorKind::Deadlock }
    }

    /// 25P01 for what only a transaction block has room for.
    pub fn not_in_block(what: &str) -> Self {
        Self::client(Report::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, format!("{what} can only be used in transaction blocks")))
    }

    /// The client's own mistake.
    pub fn client(report: Report) -> Self {
        Self::statement(report, ErrorKind::Client)
    }

    /// A refusal that only running the statement brings to light. Codes from TL090 are the executor's.
    pub fn refused(code: &str, message: impl Into<String>, hint: &str) -> Self {
        let report = Report::new(SqlState::FEATURE_NOT_SUPPORTED, message);
        Self::client(report.with_detail(format!("Reason code {code}.")).with_hint(hint))
    }

    /// The code by which the client knows it; `None` where it is not told, or was told already.
    pub fn sqlstate(&self) -> Option<&[u8]> {
        match self {
            Self::Statement { report, .. } | Self::Fatal(report) => Some(&report.sqlstate.0),
            Self::Shard(message) => wire::report_field(message.get(wire::HEADER_LEN..)?, b'C'),
            Self::Reported | Self::Ended | Self::StalePlan | Self::Client(_) => None,
        }
    }

    /// Whether types that a shard has told make merging or combining inexact (TL041, TL092).
    pub fn is_inexact(&self) -> bool {
        let Self::Statement { report, .. } = self else { return false };
        matches!(report.detail.as_deref(), Some("Reason code TL041." | "Reason code TL092."))
    }

    /// 54000: what the proxy would have to hold is more than `query.max_gather_bytes`.
    pub fn too_many_bytes(what: &str, max_bytes: u64, way_out: &str) -> Self {
        Self::over_limit(&format!("{what} need more than {max_bytes} bytes"), way_out, MAX_GATHER_BYTES)
    }

    /// 54000: a limit of `[query]` is reached.
    pub fn over_limit(message: &str, way_out: &str, setting: &str) -> Self {
        let report = Report::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
            .with_detail("Reason code TL093.")
            .with_hint(format!("{way_out}, or raise {setting}."));
        Self::client(report)
    }

    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::Fatal(Box::new(Report::new(sqlstate, message)))
    }
}

/// The end of a session whose client has gone away during a statement.
pub(super) fn client_left() -> Failure {
    Failure::Client(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the client left during a statement"))
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::client(refusal.into())
    }
}

impl From<CheckoutError> for Failure {
    fn from(error: CheckoutError) -> Self {
        let kind = match error {
            CheckoutError::Timeout { .. } => ErrorKind::CheckoutTimeout,
            CheckoutError::Connect { .. } | CheckoutError::NoNode { .. } | CheckoutError::Closed => ErrorKind::Connection,
        };
        Self::statement(error.report(), kind)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Client(error)
    }
}
