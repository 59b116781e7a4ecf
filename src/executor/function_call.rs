//! The function call protocol: a function by its OID, with its arguments, without a text. libpq's large objects are made of it.
//!
//! What a call does is told by the function's name, so it is planned as a SELECT of that function without arguments. Built-in
//! functions have one OID on all servers; that of any other is the home shard's, which is where a client has it from.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::Conversation;
use super::failure::Failure;
use super::relay::Ready;
use crate::observe::{Route, StatementTimer};
use crate::plan::{Access, Params, Plan};
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire::{self, BodyReader};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{FIRST_OWN_OID, ShardId};

/// Most functions whose names are kept; the table is emptied when it is full.
const CAPACITY: usize = 1_024;

/// Texts that stand for calls, by the function's OID, of one schema version.
#[derive(Debug, Default)]
pub(super) struct FunctionTexts {
    texts: Mutex<(u64, HashMap<u32, Arc<str>>)>,
}

impl FunctionTexts {
    fn get(&self, version: u64, oid: u32) -> Option<Arc<str>> {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        (texts.0 == version).then(|| texts.1.get(&oid).cloned())?
    }

    fn insert(&self, version: u64, oid: u32, text: Arc<str>) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.0 != version || texts.1.len() >= CAPACITY {
            *texts = (version, HashMap::new());
        }
        texts.1.insert(oid, text);
    }
}

impl Conversation {
    /// Answers one FunctionCall message, ReadyForQuery included.
    ///
    /// # Errors
    /// Only what ends the session.
    pub async fn function_call(&mut self, body: &[u8]) -> Result<(), Failure> {
        self.begin_statement();
        let outcome = match self.call_function(body).await {
            // What was begun by a pipeline without its Sync ends here.
            Ok(_) if self.transaction.phase == Phase::Implicit => self.commit().await.map(|()| false),
            outcome => outcome,
        };
        let is_ready = match outcome {
            Ok(is_ready) => is_ready,
            Err(failure) => {
                self.fail(failure).await?;
                false
            }
        };
        self.check_tie()?;
        if !is_ready {
            self.say_ready();
        }
        Ok(())
    }

    /// Runs a call on its shard. True if ReadyForQuery is already with the client.
    async fn call_function(&mut self, body: &[u8]) -> Result<bool, Failure> {
        self.check_not_failed()?;
        let _timer = StatementTimer::start(self.database.counters.clone(), Route::Single, self.began);
        let text = match BodyReader(body).u32() {
            Some(oid) => self.function_text(oid).await?.map(|text| (oid, text)),
            None => None,
        };
        let Some((oid, text)) = text else {
            // The server says what is wrong with it.
            let shard = self.view.topology.home_shard();
            return self.forward_call((shard, Access::Read), body, Leftover::NOTHING).await;
        };
        let cached = self.fresh_template(&text).await?;
        self.check_leftover(cached.leftover)?;
        let plan = self.bind(&cached, &text, Params::default())?;
        let home = self.view.topology.home_shard();
        let (shard, access) = match plan {
            Plan::Route { shard, access } if shard == home || oid < FIRST_OWN_OID => (shard, access),
            Plan::AnyOne { access } if oid >= FIRST_OWN_OID => (home, access),
            Plan::AnyOne { access } => (self.any_live_shard(access).await?, access),
            _ => return Err(elsewhere()),
        };
        self.forward_call((shard, access), body, cached.leftover).await
    }

    async fn forward_call(
        &mut self,
        (shard, access): (ShardId, Access),
        body: &[u8],
        leftover: Leftover,
    ) -> Result<bool, Failure> {
        // What a call changes by set_config nobody reads out of its arguments.
        let (leftover, _) = self.changes_of(b"SELECT pg_catalog.set_config()", leftover, Default::default())?;
        let idx = self.enlist_to_leave(shard, access, leftover).await?;
        let connection = self.enlisted[idx].begin_statement();
        wire::message(&mut connection.socket.output, b'F', |message| message.extend_from_slice(body));
        let ready = if self.transaction.phase == Phase::Implicit { Ready::Swallow } else { Ready::Relay };
        let relayed = self.relay(idx, &mut VecDeque::new(), ready, false).await?;
        self.after_relay(idx, &relayed, leftover).await?;
        Ok(ready == Ready::Relay)
    }

    /// A SELECT that calls the function of this OID; `None` if there is none.
    async fn function_text(&mut self, oid: u32) -> Result<Option<Arc<str>>, Failure> {
        let version = self.database.schema_version();
        if let Some(text) = self.database.functions.get(version, oid) {
            return Ok(Some(text));
        }
        let shard = self.view.topology.home_shard();
        let idx = self.enlist(shard, Access::Read).await?;
        let sql = format!(
            "SELECT pg_catalog.concat('SELECT ', pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(p.proname), '()') \
             FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace WHERE p.oid = {oid}"
        );
        let rows = self.ask(idx, &sql).await?;
        let Some(text) = rows.into_iter().flatten().next().flatten() else { return Ok(None) };
        let text: Arc<str> = text.into();
        self.database.functions.insert(version, oid, Arc::clone(&text));
        Ok(Some(text))
    }
}

fn elsewhere() -> Failure {
    let report = Report::new(SqlState::FEATURE_NOT_SUPPORTED, "a function call for another shard than the function's OID is of");
    Failure::client(report.with_detail("Reason code TL098.").with_hint("Call the function with SELECT."))
}
