//! What statements that gather hold: limits for one, and for all of a database's together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::database::Database;
use super::failure::{Failure, MAX_GATHER_BYTES};
use crate::sqlstate::{Report, SqlState};

/// Rows and bytes that the engine holds for statements which are not over.
#[derive(Debug, Default)]
pub(super) struct GatheredSum {
    n_rows: AtomicU64,
    n_bytes: AtomicU64,
}

/// What one statement has gathered. It counts for the database until it is dropped.
#[derive(Debug)]
pub(super) struct Holding {
    database: Arc<Database>,
    max_bytes: u64,
    n_rows: u64,
    n_bytes: u64,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let sum = &self.database.gathered;
        sum.n_rows.fetch_sub(self.n_rows, Ordering::Relaxed);
        sum.n_bytes.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

impl Holding {
    /// `max_bytes`: most that the statement may gather.
    pub(super) fn new(database: Arc<Database>, max_bytes: u64) -> Self {
        Self { database, max_bytes, n_rows: 0, n_bytes: 0 }
    }

    /// Counts rows that were moved to the engine.
    ///
    /// # Errors
    /// 54000 over a limit, with its figure and its setting.
    pub(super) fn add(&mut self, n_rows: u64, n_bytes: u64) -> Result<(), Failure> {
        self.n_rows += n_rows;
        self.n_bytes += n_bytes;
        let all_rows = self.database.gathered.n_rows.fetch_add(n_rows, Ordering::Relaxed) + n_rows;
        let all_bytes = self.database.gathered.n_bytes.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
        let query = &self.database.query;
        let what = "the rows that the statement gathers from the shards";
        let all = "the rows that all statements gather at this moment";
        for (figure, most, what, unit, setting) in [
            (self.n_bytes, self.max_bytes, what, "bytes", MAX_GATHER_BYTES),
            (self.n_rows, query.max_gather_rows, what, "rows", "query.max_gather_rows"),
            (all_bytes, query.max_all_gather_bytes, all, "bytes", "query.max_all_gather_bytes"),
            (all_rows, query.max_all_gather_rows, all, "rows", "query.max_all_gather_rows"),
        ] {
            if figure > most {
                let way_out = "Restrict the statement to fewer rows or columns";
                return Err(Failure::over_limit(&format!("{what} need more than {most} {unit}"), way_out, setting));
            }
        }
        Ok(())
    }

    /// What to tell of a statement that has gathered half of what it may.
    pub(super) fn half_told(&self) -> Option<Report> {
        let (max_gather_bytes, max_gather_rows) = (self.max_bytes, self.database.query.max_gather_rows);
        let (figure, setting) = if self.n_bytes > max_gather_bytes / 2 {
            (format!("{max_gather_bytes} bytes"), "query.max_gather_bytes")
        } else if self.n_rows > max_gather_rows / 2 {
            (format!("{max_gather_rows} rows"), "query.max_gather_rows")
        } else {
            return None;
        };
        let message = format!("the statement has gathered half of the {figure} that it may");
        Some(Report::new(SqlState::SUCCESSFUL_COMPLETION, message).with_hint(format!("The limit is {setting}.")))
    }
}
