//! LOCK TABLE: on every shard that has the tables, one after the other.

use super::Conversation;
use super::conversation::Origin;
use super::enlist::Watched;
use super::failure::Failure;
use super::relay::Ready;
use crate::plan::{Access, lock_statements};
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;

impl Conversation {
    /// Locks tables until the end of the transaction. True if ReadyForQuery is already with the client.
    ///
    /// Each shard is waited for before the next is asked, in the order of the shards: two clients that lock the same tables
    /// meet on the first.
    ///
    /// # Errors
    /// 25P01 outside of a block; the planner's for names that it does not know; a server's own.
    pub(super) async fn lock_tables(&mut self, sql: &str, ready: Ready) -> Result<bool, Failure> {
        if self.transaction.phase == Phase::Implicit && self.block.origin == Origin::Pipeline {
            return Err(Failure::not_in_block("LOCK TABLE"));
        }
        if let Some(shard) = self.view.topology.only_shard() {
            return self.forward((shard, Access::Write), sql.as_bytes(), Leftover::NOTHING, ready).await;
        }
        if self.transaction.phase == Phase::Idle {
            return Err(Failure::not_in_block("LOCK TABLE"));
        }
        let statements = match lock_statements(sql, &self.context()) {
            Ok(statements) => statements,
            Err(refusal) => return Err(self.unparsed(sql, refusal).await),
        };
        for (shard, statement) in statements {
            if self.hinted_shard().is_none_or(|hinted| hinted == shard) {
                self.check_out_primary(shard).await?;
                let idx = self.enlist(shard, Access::Read).await?;
                self.tell_for(Watched::Client, idx, &statement).await.taken()?;
            }
        }
        self.complete("LOCK TABLE");
        Ok(false)
    }
}
