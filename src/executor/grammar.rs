//! What a server's grammar says of a text before anything of it runs: a string is parsed whole, even in a failed transaction.

use std::ops::Range;

use super::Conversation;
use super::enlist::{Part, Watched};
use super::failure::Failure;
use super::stored::moved;
use crate::plan::{self, Access};
use crate::session::transaction::Phase;
use crate::session::wire::{self, HEADER_LEN};
use crate::sql::{Classified, Command, classify};
use crate::sqlstate::{Report, SqlState};

/// Stands before the text: several statements in one Parse are refused right after the grammar has read them, so that none is
/// analysed.
const FIRST: &str = "SELECT 1;";

/// The function of Postgres that refuses several statements: src/backend/tcop/postgres.c.
const REFUSES_SEVERAL: &[u8] = b"exec_parse_message";

/// Around a look of the proxy's own within a client's transaction, which it leaves as it was.
pub(super) const SAVEPOINT: &str = "SAVEPOINT trunkline_look";
pub(super) const UNDO: &str = "ROLLBACK TO SAVEPOINT trunkline_look; RELEASE SAVEPOINT trunkline_look";

impl Conversation {
    /// What the grammar of a server has against a text, if anything. Nothing of the text runs, and a transaction stays as it is.
    pub(super) async fn grammar_failure(&mut self, text: &str) -> Option<Failure> {
        if !self.transaction.is_open() || !self.enlisted.is_empty() {
            return self.ask_grammar(text).await;
        }
        // The look is not part of the transaction.
        let transaction = std::mem::take(&mut self.transaction);
        let failure = self.ask_grammar(text).await;
        self.release();
        self.transaction = transaction;
        failure
    }

    async fn ask_grammar(&mut self, text: &str) -> Option<Failure> {
        let idx = match self.enlisted.is_empty() {
            true => {
                let shard = self.any_live_shard(Access::Read).await.ok()?;
                self.index_of(shard)?
            }
            // One that has failed loses nothing by a further error.
            false => self.block.failed_on.and_then(|shard| self.index_of(shard)).unwrap_or(0),
        };
        let is_in_block = self.enlisted[idx].part != Part::Outside;
        let connection = self.enlisted[idx].begin_statement();
        connection.unnamed = None;
        if is_in_block {
            connection.write_query(SAVEPOINT.as_bytes());
        }
        let output = &mut connection.socket.output;
        wire::parse(output, b"", format!("{FIRST}{text}").as_bytes(), &[]);
        wire::bare(output, b'S');
        if is_in_block {
            connection.write_query(UNDO.as_bytes());
        }
        if let Err(error) = self.timer.send(&mut self.enlisted[idx].lease).await {
            drop(self.abandon(idx, error).await);
            return None;
        }
        if is_in_block {
            self.read_cycle(idx).await?;
            self.enlisted[idx].begin_statement();
        }
        let failure = self.read_cycle(idx).await?;
        if is_in_block {
            self.enlisted[idx].begin_statement();
            self.read_cycle(idx).await?;
        }
        failure.map(|failure| moved(failure, text, 0, FIRST.len()))
    }

    /// Reads up to ReadyForQuery; gives the error in it that is the grammar's. `None` if the backend is gone.
    async fn read_cycle(&mut self, idx: usize) -> Option<Option<Failure>> {
        let mut failure = None;
        loop {
            let (tag, message) = self.next_message(idx, Watched::Nobody).await.ok()?;
            match tag {
                b'Z' => return Some(failure),
                b'E' => {
                    let field = |code| wire::report_field(message.get(HEADER_LEN..).unwrap_or_default(), code);
                    let is_grammars = field(b'C') == Some(&SqlState::SYNTAX_ERROR.0[..]) && field(b'R') != Some(REFUSES_SEVERAL);
                    failure = is_grammars.then_some(Failure::Shard(message));
                }
                _ => {}
            }
        }
    }

    /// Has a server look at a string of which a part would run before a mistake in the rest is seen.
    ///
    /// # Errors
    /// 42601.
    pub(super) async fn check_grammar(&mut self, text: &str, statements: &[Range<usize>]) -> Result<(), Failure> {
        let has_standard_strings = self.plan_settings.has_standard_strings;
        let is_right = |range: &Range<usize>| is_surely_right(&text[range.clone()], has_standard_strings);
        if self.transaction.phase != Phase::Failed && statements.iter().all(is_right) {
            return Ok(());
        }
        self.grammar_failure(text).await.map_or(Ok(()), Err)
    }

    /// 25P02 for any statement of a failed transaction but its end.
    pub(super) fn check_not_failed(&self) -> Result<(), Failure> {
        if self.transaction.phase == Phase::Failed { Err(failed_already()) } else { Ok(()) }
    }

    /// The answer to a text in a failed transaction: what the grammar has against it, else 25P02.
    pub(super) async fn failed_already(&mut self, text: &str) -> Failure {
        self.grammar_failure(text).await.unwrap_or_else(failed_already)
    }

    /// The server's words against a PREPARE or EXECUTE that is none.
    pub(super) async fn not_understood(&mut self, sql: &str) -> Failure {
        let failure = || Failure::client(Report::new(SqlState::SYNTAX_ERROR, "syntax error"));
        self.grammar_failure(sql).await.unwrap_or_else(failure)
    }
}

fn failed_already() -> Failure {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    Failure::client(Report::new(SqlState::IN_FAILED_SQL_TRANSACTION, message))
}

/// Whether the proxy has read a statement whole and found it right.
fn is_surely_right(sql: &str, has_standard_strings: bool) -> bool {
    match classify(sql.as_bytes(), has_standard_strings) {
        Classified::Empty => true,
        Classified::Query => plan::is_readable(sql, has_standard_strings),
        // The first words tell these, and the rest is for a server to read.
        Classified::Command(
            Command::Prepare { .. }
            | Command::Execute { .. }
            | Command::Declare { .. }
            | Command::Listen
            | Command::Unlisten
            | Command::Notify
            | Command::Load
            | Command::LockTable,
        ) => false,
        Classified::Command(_) => true,
        Classified::Explain { .. } | Classified::Copy(_) | Classified::Utility { .. } | Classified::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_whole_is_not_asked_about() {
        let is_right = |sql| is_surely_right(sql, true);
        assert!(is_right("BEGIN") && is_right("SET TimeZone TO 'UTC'") && is_right("SELECT 1 FROM t") && is_right("-- x"));
        for sql in ["BEGIN x", "SELECT 1 +", "SELEKT", "LISTEN", "CREATE TABLE", "COPY t FROM", "SET TimeZone TO", "LOCK"] {
            assert!(!is_right(sql), "{sql}");
        }
    }
}
