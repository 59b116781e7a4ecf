//! The extended protocol's common case on its shortest way: one statement, bound to the unnamed portal, on one shard.
//!
//! Such a batch is looked at once and written on as it came, but for the statement's name, which is the server's. Whatever is
//! not as usual in it is left to the general way, before anything was changed.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Conversation;
use super::batch::{Batch, Portal, SessionStatement, Target, bind_parts, check_count};
use super::failure::Failure;
use super::relay::{Ready, Retry};
use super::run::Run;
use super::types::ResultFormats;
use crate::plan::{Access, Params, Plan};
use crate::session::bonds::Bonds;
use crate::session::prepared::Prepared;
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire::{self, BodyReader};
use crate::topology::{FIRST_OWN_OID, ShardId};

/// Bodies of the messages about the unnamed portal.
const DESCRIBE_PORTAL: &[u8] = b"P\0";
const EXECUTE_ALL: &[u8] = b"\0\0\0\0\0";

/// What is to be done with a batch.
#[derive(Debug)]
pub(super) struct Way {
    prepared: Arc<Prepared>,
    is_named: bool,
    shard: Option<ShardId>,
    access: Access,
    /// In the batch's bytes: what follows the names in Bind, and the messages between Bind and Sync.
    tail: Range<usize>,
    rest: Range<usize>,
    has_describe: bool,
    bonds: Bonds,
}

impl Conversation {
    /// The way of a batch of Bind, perhaps Describe, Execute and Sync, if it is as usual.
    pub(super) fn express_way(&mut self, batch: &Batch) -> Option<Way> {
        let phase = self.transaction.phase;
        let may_keep = matches!(phase, Phase::Idle | Phase::Explicit) && !self.portals.has_progress();
        if !batch.has_sync || !may_keep || self.may_have_temporaries() || self.own.is_some() {
            return None;
        }
        let bytes = &batch.bytes;
        let (bind, execute, has_describe) = match batch.messages.as_slice() {
            [(b'B', bind), (b'E', execute)] => (bind, execute, false),
            [(b'B', bind), (b'D', describe), (b'E', execute)] if bytes[describe.clone()] == *DESCRIBE_PORTAL => {
                (bind, execute, true)
            }
            _ => return None,
        };
        if bytes[execute.clone()] != *EXECUTE_ALL {
            return None;
        }
        let body = &bytes[bind.clone()];
        let mut reader = BodyReader(body);
        let (portal, name) = (reader.c_string()?, reader.c_string()?);
        let statement = self.statements.get(name).filter(|statement| self.is_usual(statement))?;
        let bonds = statement.cached.leftover.bonds;
        // In a block, and where last values are asked for, a sequence is moved with more care.
        let is_careful = !bonds.is_empty() && (phase == Phase::Explicit || self.database.keeps_sequences());
        if !portal.is_empty() || is_careful {
            return None;
        }
        let parts = bind_parts(body, portal, name, reader).ok()?;
        check_count(statement, name, reader).ok()?;
        let params = Params { types: &statement.prepared.param_types, formats: &parts.formats, values: &parts.values };
        let plan = self.bind_plainly(&statement.cached, &statement.prepared.text, &statement.literals, params).ok()?;
        let (shard, access) = match plan {
            Plan::Route { shard, access } => (Some(shard), access),
            Plan::AnyOne { access } => (None, access),
            _ => return None,
        };
        if parts.result_formats.iter().any(|format| *format != 0) && self.may_hold_oids(shard, &statement.prepared) {
            return None;
        }
        let way = Way {
            prepared: Arc::clone(&statement.prepared),
            is_named: !name.is_empty(),
            shard,
            access,
            tail: bind.start + parts.tail_start..bind.end,
            rest: bind.end..execute.end,
            has_describe,
            bonds,
        };
        if phase == Phase::Explicit {
            // It can be executed again up to the transaction's end.
            let target = Target::One { shard, access, leftover: Leftover::NOTHING, changes: None };
            let n_savepoints = self.transaction.savepoints.len();
            let portal = Portal { statement: statement.clone(), target, formats: ResultFormats::Text, n_savepoints };
            self.portals.insert(Bytes::new(), portal, &self.database.query).ok()?;
        }
        Some(way)
    }

    fn is_usual(&self, statement: &SessionStatement) -> bool {
        let cached = &statement.cached;
        statement.planned == self.planned_now()
            && cached.is_plain_or_moves_sequences()
            && (self.is_utf8 || !cached.template.depends_on_params())
            && statement.prepared.param_types.iter().all(|oid| *oid < FIRST_OWN_OID)
    }

    /// Runs such a batch. True if ReadyForQuery is already with the client.
    ///
    /// # Errors
    /// `StalePlan` when it is to be done again in the general way.
    pub(super) async fn run_express(&mut self, batch: &Batch, way: Way) -> Result<bool, Failure> {
        self.retry = if way.has_describe { Retry::Possible } else { Retry::No };
        let shard = match way.shard {
            Some(shard) => shard,
            None => Box::pin(self.any_live_shard(way.access)).await?,
        };
        let idx = self.enlist(shard, way.access).await?;
        self.tie_sequences(idx, way.bonds)?;
        if way.shard.is_none() && self.transaction.is_open() {
            self.portals.note_shard(&Bytes::new(), shard);
        }
        self.enlisted[idx].begin_statement();
        let mut run = Run::new(shard, Leftover::NOTHING);
        let name = self.ensure_parsed(idx, &mut run, way.is_named, &way.prepared);
        let output = &mut self.enlisted[idx].lease.socket.output;
        wire::bind(output, b"", name.as_bytes(), &batch.bytes[way.tail]);
        output.extend_from_slice(&batch.bytes[way.rest]);
        if way.has_describe {
            self.expect_description(idx, &way.prepared);
        }
        self.expect_rows(idx, &way.prepared, &ResultFormats::Text);
        let relays_ready = !self.has_untold_parameters();
        let is_synced = self.end_run(Some(run), if relays_ready { Ready::Relay } else { Ready::Swallow }).await?;
        Ok(relays_ready && is_synced)
    }
}
