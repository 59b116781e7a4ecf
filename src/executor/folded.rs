//! A session while its client is silent: only what it cannot be made of again, and what others have alike is kept once.
//!
//! Most clients of a pooler are idle. Whatever a statement needs is made when one comes, and given up once the client has been
//! silent for a while.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep_until};

use super::Conversation;
use super::conversation::Block;
use super::enlist::Tie;
use super::greeting::Greeting;
use super::own_settings::Own;
use super::relay::Retry;
use super::rest::idle_session_timeout;
use super::sequences::{BlockHabit, LastValues};
use super::statements::Statements;
use super::temporary::Temporary;
use super::{CancelTarget, Database, Failure};
use crate::backend::{Socket, Stream, UserPools};
use crate::config::ServerConfig;
use crate::observe::ClientEntry;
use crate::plan::PlanSettings;
use crate::session::settings::{SettingValues, Settings};
use crate::session::shared::Shared;

/// What sessions of one database have alike.
#[derive(Debug, Default)]
pub(super) struct Alike {
    settings: Shared<SettingValues>,
    parameters: Shared<BTreeMap<String, String>>,
    plan_settings: Shared<PlanSettings>,
}

/// A session at rest: it has no transaction and no server connection.
#[derive(Debug)]
pub struct Folded {
    stream: Stream,
    /// Armed where the client may not be silent for ever.
    alarm: Option<Pin<Box<Sleep>>>,
    kept: Kept,
}

/// What of a session is kept between two statements.
#[derive(Debug)]
pub(super) struct Kept {
    pub database: Arc<Database>,
    pub pools: Arc<UserPools>,
    pub entry: Arc<ClientEntry>,
    pub cancel: Arc<CancelTarget>,
    pub settings: Settings,
    pub plan_settings: Arc<PlanSettings>,
    pub greeting: Arc<Greeting>,
    pub told_parameters: Arc<BTreeMap<String, String>>,
    pub own: Option<Box<Own>>,
    /// `None`: it has none.
    pub statements: Option<Box<Statements>>,
    pub next_any: u64,
    pub temporary: Temporary,
    pub worker_idx: u32,
    pub process_id: i32,
    pub block: Block,
    pub last_values: LastValues,
    pub block_habit: BlockHabit,
    pub retry: Retry,
    pub is_utf8: bool,
    pub is_sync_spent: bool,
}

impl Conversation {
    /// Whether the session holds nothing that only a statement or a transaction needs, and nothing waits to be read or sent.
    pub fn can_fold(&self) -> bool {
        !self.transaction.is_open()
            && self.client.is_empty()
            && self.enlisted.is_empty()
            && self.portals.is_empty()
            && self.cursors.by_name.is_empty()
            && self.skipped.is_empty()
            && self.untold_parameters.is_none()
            && self.copying.is_none()
            && self.partial.is_none()
            && self.watch.is_none()
            && self.unbound.is_none()
            && self.tie == Tie::Whole
    }

    /// Gives up all that a session which [can be folded](Self::can_fold) makes anew for its next statement.
    pub fn fold(self) -> Folded {
        let alarm = self.rest_until.instant().map(|at| Box::pin(sleep_until(at.into())));
        let mut kept = Kept {
            database: self.database,
            pools: self.pools,
            entry: self.entry,
            cancel: self.cancel,
            settings: self.settings,
            plan_settings: self.plan_settings,
            greeting: self.greeting,
            told_parameters: self.told_parameters,
            own: self.own,
            statements: self.statements.folded(),
            next_any: self.next_any,
            temporary: self.temporary,
            worker_idx: u32::try_from(self.worker_idx).unwrap_or(0),
            process_id: self.process_id,
            block: self.block,
            last_values: self.last_values,
            block_habit: self.block_habit,
            retry: self.retry,
            is_utf8: self.is_utf8,
            is_sync_spent: self.is_sync_spent,
        };
        kept.share();
        kept.entry.set_silent(true);
        kept.database.counters.n_folded.increment();
        Folded { stream: self.client.stream, alarm, kept }
    }
}

impl Kept {
    /// Has in common with other sessions what is equal.
    fn share(&mut self) {
        let alike = &self.database.alike;
        self.settings.share(&alike.settings);
        alike.parameters.share(&mut self.told_parameters);
        alike.plan_settings.share(&mut self.plan_settings);
        self.cancel.give_up();
    }
}

impl Folded {
    /// Ready once the client has said something, or has left; or with the end of its session: 57P05 after
    /// `idle_session_timeout`. Reads nothing.
    ///
    /// # Errors
    /// The end of the session.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.stream.poll_readable(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.alarm {
            Some(alarm) => alarm.as_mut().poll(cx).map(|()| Err(idle_session_timeout())),
            None => Poll::Pending,
        }
    }

    /// Makes the session ready for a statement.
    pub fn unfold(self, server: &ServerConfig) -> Conversation {
        self.kept.entry.set_silent(false);
        let mut client = Socket::new(self.stream);
        client.limit_writes(server.client_write_timeout);
        let mut conversation = Conversation::of(client, self.kept);
        conversation.set_half_closed_grace(server.half_closed_grace);
        conversation.hash_context();
        conversation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every client that is connected and silent has one of these.
    #[test]
    fn a_folded_session_is_small() {
        let n_bytes = std::mem::size_of::<Folded>();
        assert!(n_bytes <= 232, "{n_bytes} bytes");
    }
}
