//! Why a statement is refused: stable reason codes, each with its SQLSTATE and a hint.

use crate::sqlstate::{Report, SqlState};

/// A stable reason code, `TL0xx` in the DETAIL of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalCode {
    /// The parser does not know the syntax, and no single shard is sure to hold the statement.
    Unparsed,
}

impl RefusalCode {
    pub fn code(self) -> &'static str {
        match self {
            Self::Unparsed => "TL001",
        }
    }

    pub fn sqlstate(self) -> SqlState {
        match self {
            Self::Unparsed => SqlState::FEATURE_NOT_SUPPORTED,
        }
    }
}

/// A statement that will not be run, with the words for the client. Always the client's to fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    /// Names the clause.
    pub message: String,
    /// The way out.
    pub hint: String,
    pub position: Option<usize>,
    pub table: Option<String>,
    pub column: Option<String>,
}

impl From<Refusal> for Report {
    fn from(refusal: Refusal) -> Self {
        Self {
            sqlstate: refusal.code.sqlstate(),
            message: refusal.message,
            detail: Some(format!("Reason code {}.", refusal.code.code())),
            hint: Some(refusal.hint),
            position: refusal.position,
            table: refusal.table,
            column: refusal.column,
        }
    }
}
