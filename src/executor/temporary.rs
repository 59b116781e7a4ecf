//! The client's temporary tables on a database of several shards: they live on the home shard, in the backend that is the
//! client's own, and planning has to know them by name.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use twox_hash::XxHash3_64;

use super::Conversation;
use super::conversation::SchemaChange;
use super::failure::Failure;
use super::simple::is_ddl;
use crate::backend::catalog::{temporaries, temporaries_sql};
use crate::deadline::Deadline;
use crate::session::pins::PinReason;
use crate::session::transaction::Phase;
use crate::session::unpooled::{Leftover, Look};
use crate::sql::Classified;
use crate::topology::{ShardId, Temporaries};

/// What is known of the client's temporary relations beside their names.
#[derive(Debug, Default)]
pub(super) struct Temporary {
    /// Something may have been made or dropped since the backend was asked.
    is_stale: bool,
    n_changes: u64,
}

impl Conversation {
    /// Whether the client may have temporary relations, or have had in this transaction: it cannot be prepared on their shard.
    pub(super) fn may_have_temporaries(&self) -> bool {
        self.temporary.is_stale || self.block.has_temporaries || !self.plan_settings.temporaries.is_empty()
    }

    /// Notes that a statement which runs on a shard may make or drop temporary relations.
    ///
    /// # Errors
    /// TL062 where it may make them on another shard than the home: planning would not know them.
    pub(super) fn note_temporaries(&mut self, shard: ShardId, leftover: Leftover) -> Result<(), Failure> {
        if leftover.look == Look::Never || self.view.topology.only_shard().is_some() {
            return Ok(());
        }
        let makes = leftover.makes.contains(PinReason::Temporary);
        let home = self.view.topology.home_shard();
        if makes && shard != home {
            return Err(Failure::refused(
                "TL062",
                "a temporary table can only be made on the home shard",
                "Leave the hint for a shard out, or make the table by CREATE TEMPORARY TABLE.",
            ));
        }
        let may_make = makes || may_make_temporaries(leftover);
        if shard == home && (may_make || !self.plan_settings.temporaries.is_empty()) {
            self.temporary.is_stale = true;
            self.block.has_temporaries = true;
        }
        Ok(())
    }

    /// Notes that a transaction or a part of it has ended, and with it what it has made, or what it has dropped is back.
    pub(super) fn note_temporaries_undone(&mut self) {
        self.temporary.is_stale |= self.block.has_temporaries || !self.plan_settings.temporaries.is_empty();
    }

    /// Notes what a statement may change of the schema. That of temporary relations is nobody else's.
    pub(super) fn note_schema_change(&mut self, class: &Classified, sql: &str) {
        let context = self.context();
        let has_temporaries = !context.settings.temporaries.is_empty();
        if has_temporaries && is_ddl(class) {
            let is_temporary = crate::plan::is_about_temporaries(class, &context);
            self.temporary.is_stale = true;
            self.block.has_temporaries = true;
            if is_temporary {
                return;
            }
        }
        let change = self.schema_change_of(class, sql);
        if change == SchemaChange::Catalog {
            self.note_own_schema();
        }
        self.block.schema_change = self.block.schema_change.max(change);
        if self.transaction.is_open()
            && is_ddl(class)
            && self.view.topology.only_shard().is_none()
            && let Some((name, parent)) = crate::plan::made(sql, class, &self.context())
        {
            Arc::make_mut(&mut Arc::make_mut(&mut self.plan_settings).made).insert(name, parent);
            self.hash_context();
        }
    }

    /// Forgets what the transaction that is over has made: the catalog tells of what is committed.
    pub(super) fn forget_made(&mut self) {
        if !self.plan_settings.made.is_empty() {
            Arc::make_mut(&mut self.plan_settings).made = Arc::default();
            self.hash_context();
        }
    }

    /// Asks the backend on the home shard for the client's temporary relations, if they may be others than before.
    ///
    /// # Errors
    /// The loss of that backend.
    pub(super) async fn settle_temporaries(&mut self) -> Result<(), Failure> {
        if !self.temporary.is_stale || self.transaction.phase == Phase::Failed {
            return Ok(());
        }
        Box::pin(self.read_temporaries()).await
    }

    async fn read_temporaries(&mut self) -> Result<(), Failure> {
        let found = match self.index_of(self.view.topology.home_shard()) {
            Some(idx) => {
                self.timer.set(Deadline::after(Instant::now(), self.database.query.timeout));
                temporaries(&self.ask(idx, &temporaries_sql()).await?)
            }
            // Not pinned: there is nothing.
            None => Temporaries::default(),
        };
        self.temporary.is_stale = false;
        if found != *self.plan_settings.temporaries {
            Arc::make_mut(&mut self.plan_settings).temporaries = Arc::new(found);
            self.temporary.n_changes += 1;
            self.hash_context();
        }
        Ok(())
    }

    /// A number for what the client's temporary relations, and a catalog of its transaction's own, make of a text; 0 without any. No
    /// two clients have the same.
    pub(super) fn temporary_version(&self) -> u64 {
        let own_schema = self.plan_settings.own_schema;
        if self.plan_settings.temporaries.is_empty() && own_schema == 0 {
            return 0;
        }
        let mut hasher = XxHash3_64::new();
        (self.entry.id, self.temporary.n_changes, own_schema).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether what follows in a pipeline has to wait for a statement before it can be planned.
    pub(super) fn changes_temporaries(&self, class: &Classified, leftover: Leftover) -> bool {
        let is_made = leftover.makes.contains(PinReason::Temporary) || may_make_temporaries(leftover);
        let is_changed = is_ddl(class) || (!self.plan_settings.temporaries.is_empty() && leftover.look != Look::Never);
        self.view.topology.only_shard().is_none() && (is_made || is_changed)
    }

    /// Whether DDL of the running transaction has changed what is in the catalog.
    pub(super) fn has_changed_catalog(&self) -> bool {
        self.block.schema_change == SchemaChange::Catalog
    }
}

/// ON COMMIT DROP makes nothing that outlives the transaction, and code makes what its words do not tell.
fn may_make_temporaries(leftover: Leftover) -> bool {
    leftover.look == Look::Always && leftover.makes.is_empty()
}
