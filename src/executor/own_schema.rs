//! The catalog as a transaction sees it that has changed it. Others do not before it commits, and planning must not go by theirs:
//! a table may have other columns now, or another key.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::Conversation;
use super::batch::Batch;
use super::database::View;
use super::enlist::Part;
use super::failure::Failure;
use super::grammar::{SAVEPOINT, UNDO};
use super::merge::malformed;
use super::simple::is_ddl;
use crate::backend::catalog::{schema_of, schema_sql};
use crate::deadline::Deadline;
use crate::session::transaction::Phase;
use crate::session::wire::BodyReader;
use crate::sql::{Classified, Command, classify};

/// What the client's transaction has done to the catalog, and what is known of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnSchema {
    /// It has changed nothing.
    #[default]
    None,
    /// It has changed something since the catalog was read.
    Stale,
    /// The session's view is its own.
    Read,
}

impl Conversation {
    /// Reads the catalog over the transaction's own connections, if it has changed it and `sql` is no DDL, which names what it is
    /// about.
    ///
    /// # Errors
    /// The loss of a connection, or a server's error.
    pub(super) async fn settle_schema(&mut self, sql: &[u8]) -> Result<(), Failure> {
        if self.block.own_schema != OwnSchema::Stale || self.transaction.phase == Phase::Failed {
            return Ok(());
        }
        if !self.transaction.is_open() {
            // The statement was a transaction by itself.
            self.block.own_schema = OwnSchema::None;
            return Ok(());
        }
        let class = classify(sql, self.plan_settings.has_standard_strings);
        if names_none_of_it(&class) {
            return Ok(());
        }
        Box::pin(self.read_own_schema()).await
    }

    /// The same for a batch, from this message on.
    ///
    /// # Errors
    /// As [`Self::settle_schema`].
    pub(super) async fn settle_schema_for(&mut self, batch: &Batch, start: usize) -> Result<(), Failure> {
        if self.block.own_schema != OwnSchema::Stale {
            return Ok(());
        }
        let text_of = |(tag, range): &(u8, Range<usize>)| {
            let mut reader = BodyReader(batch.bytes.get(range.clone())?);
            reader.c_string()?;
            match tag {
                b'P' => reader.c_string().map(<[u8]>::to_vec),
                b'B' => self.statements.get(reader.c_string()?).map(|statement| statement.prepared.sql.to_vec()),
                _ => None,
            }
        };
        let texts: Vec<Vec<u8>> = batch.messages.iter().skip(start).filter_map(text_of).collect();
        for text in texts {
            self.settle_schema(&text).await?;
        }
        Ok(())
    }

    async fn read_own_schema(&mut self) -> Result<(), Failure> {
        let mut reads = Vec::new();
        // It sets the transaction's search path on the way.
        let sql = [SAVEPOINT, &schema_sql(), UNDO].join(";\n");
        for idx in 0..self.enlisted.len() {
            if self.enlisted[idx].part == Part::Outside {
                continue;
            }
            self.timer.set(Deadline::after(Instant::now(), self.database.query.timeout));
            let mut parts = self.ask_several(idx, &sql).await?;
            // Those of SAVEPOINT, ROLLBACK and RELEASE.
            parts.remove(0);
            parts.truncate(parts.len().saturating_sub(2));
            let read = schema_of(&parts).ok_or_else(|| malformed("a row of the catalog is not understood"))?;
            reads.push((self.enlisted[idx].lease.shard, read));
        }
        let (schema, types) = self.view.with_schemas(reads);
        self.view = Arc::new(View { schema: Arc::new(schema), types: Arc::new(types), ..View::clone(&self.view) });
        self.block.own_schema = OwnSchema::Read;
        let settings = Arc::make_mut(&mut self.plan_settings);
        settings.own_schema = self.database.next_own_schema();
        // The catalog knows what was noted by its name.
        settings.made = Arc::default();
        self.hash_context();
        Ok(())
    }

    /// Notes that a statement changes the catalog, or that a part of the transaction which may have done so is undone.
    pub(super) fn note_own_schema(&mut self) {
        if self.view.topology.only_shard().is_none() {
            self.block.own_schema = OwnSchema::Stale;
        }
    }

    /// Goes back to everybody's view, after the transaction.
    pub(super) fn drop_own_schema(&mut self) {
        if self.plan_settings.own_schema != 0 {
            Arc::make_mut(&mut self.plan_settings).own_schema = 0;
            self.view = self.database.view();
            self.hash_context();
        }
    }
}

/// Whether a statement is DDL, which names what it is about, or ends a transaction or a part of it, or marks one.
fn names_none_of_it(class: &Classified) -> bool {
    use Command::{Begin, Commit, Release, Rollback, RollbackTo, Savepoint};
    match class {
        Classified::Empty => true,
        class if is_ddl(class) => true,
        Classified::Command(command) => {
            matches!(
                command,
                Begin { .. } | Commit { .. } | Rollback { .. } | Savepoint { .. } | RollbackTo { .. } | Release { .. }
            )
        }
        _ => false,
    }
}
