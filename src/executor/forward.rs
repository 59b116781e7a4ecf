//! One statement on one shard, verbatim, by the simple protocol.

use std::collections::VecDeque;

use super::Conversation;
use super::conversation::SchemaChange;
use super::failure::Failure;
use super::relay::{Ready, Relayed, ServerError};
use crate::plan::Access;
use crate::session::set_config::BoundParams;
use crate::session::transaction::Phase;
use crate::session::unpooled::{Leftover, SettingsTrace};
use crate::topology::ShardId;

impl Conversation {
    /// Sends a simple query to a shard and relays the answer. True if ReadyForQuery is already with the client.
    pub(super) async fn forward(
        &mut self,
        (shard, access): (ShardId, Access),
        sql: &[u8],
        leftover: Leftover,
        ready: Ready,
    ) -> Result<bool, Failure> {
        let (leftover, changes) = self.changes_of(sql, leftover, BoundParams::default())?;
        let idx = self.enlist_to_leave(shard, access, leftover).await?;
        let connection = self.enlisted[idx].begin_statement();
        connection.write_query(sql);
        let ready = match self.transaction.phase {
            // After an error in a block of several statements its end must be ours.
            Phase::Implicit => Ready::Swallow,
            Phase::Idle | Phase::Explicit | Phase::Failed => ready,
        };
        if self.block.schema_change != SchemaChange::None {
            self.database.note_schema_change();
        }
        let relayed = self.relay(idx, &mut VecDeque::new(), ready, false).await?;
        if relayed.error.is_none() {
            self.follow_settings(idx, &changes).await;
        }
        self.after_relay(idx, &relayed, leftover).await?;
        if relayed.error.is_some() && ready == Ready::Swallow {
            // What follows in the string is not run.
            return Err(Failure::Reported);
        }
        Ok(ready == Ready::Relay)
    }

    /// What a finished relay means for the transaction, the backend and the schema snapshot.
    ///
    /// # Errors
    /// `Reported` for a server's error inside an implicit transaction, which must be rolled back.
    pub(super) async fn after_relay(&mut self, idx: usize, relayed: &Relayed, leftover: Leftover) -> Result<(), Failure> {
        if self.block.schema_change != SchemaChange::None && relayed.error.is_none() {
            // Before anything is waited for: the client may know of it already, and tell another.
            self.database.note_schema_change();
        }
        if leftover.settings == SettingsTrace::Unseen
            && let Some(enlisted) = self.enlisted.get_mut(idx)
        {
            enlisted.lease.settings = None;
        }
        if relayed.error.is_some() {
            self.database.counters.count_error(crate::observe::ErrorKind::Shard);
        }
        match self.transaction.phase {
            Phase::Idle => {
                self.settle_pins(relayed.error.is_none()).await;
                self.release();
                if std::mem::take(&mut self.block.schema_change) == SchemaChange::Catalog && relayed.error.is_none() {
                    Box::pin(self.refresh_schema()).await;
                }
                if relayed.error == Some(ServerError::UndefinedObject) && self.view.topology.only_shard().is_none() {
                    Box::pin(self.refresh_stale_schema()).await;
                }
            }
            Phase::Implicit if relayed.error.is_some() => return Err(Failure::Reported),
            Phase::Explicit if relayed.status == b'E' => {
                self.transaction.phase = Phase::Failed;
                self.block.failed_on = self.enlisted.get(idx).map(|enlisted| enlisted.lease.shard);
            }
            Phase::Implicit | Phase::Explicit | Phase::Failed => {}
        }
        Ok(())
    }
}
