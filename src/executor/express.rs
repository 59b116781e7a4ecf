//! The extended protocol's common case on its shortest way: one statement, prepared before or as the unnamed one of the same
//! batch, bound to the unnamed portal, on one shard; and the words that begin and end a transaction.
//!
//! Such a batch is looked at once and written on as it came, but for the statement's name, which is the server's. Whatever is
//! not as usual in it is left to the general way, before anything was changed.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Conversation;
use super::batch::{Batch, BindParts, Portal, SessionStatement, Target, bind_parts, check_count};
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::own::Progress;
use super::own_schema::OwnSchema;
use super::relay::{Mark, Ready, Retry};
use super::run::Run;
use super::types::ResultFormats;
use crate::observe::{Route, StatementTimer};
use crate::plan::{Access, Params, Plan};
use crate::session::bonds::Bonds;
use crate::session::prepared::statement_of;
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire::{self, BodyReader, HEADER_LEN};
use crate::sql::{Classified, Command};
use crate::topology::{FIRST_OWN_OID, ShardId};

/// Bodies of the messages about the unnamed portal.
const DESCRIBE_PORTAL: &[u8] = b"P\0";
const EXECUTE_ALL: &[u8] = b"\0\0\0\0\0";

/// The messages of a usual batch: perhaps Parse of the unnamed statement, Bind, perhaps Describe, Execute and Sync.
struct Usual<'a> {
    parse: Option<Range<usize>>,
    bind: Range<usize>,
    execute: Range<usize>,
    has_describe: bool,
    /// Bind's body, the statement's name in it and what follows.
    body: &'a [u8],
    name: &'a [u8],
    rest: BodyReader<'a>,
}

/// What is to be done with a batch.
#[derive(Debug)]
pub(super) enum Way {
    /// It is written on to one shard.
    Shard(ShardWay),
    /// It begins or ends the client's block.
    Turn(Turn),
}

#[derive(Debug)]
pub(super) struct Turn {
    statement: SessionStatement,
    /// It is the unnamed one that the batch brings.
    has_parse: bool,
    has_describe: bool,
}

#[derive(Debug)]
pub(super) struct ShardWay {
    statement: SessionStatement,
    is_named: bool,
    /// Where its Parse begins, if it is the unnamed one that the batch brings.
    parse_start: Option<usize>,
    shard: Option<ShardId>,
    access: Access,
    /// In the batch's bytes: what follows the names in Bind, and the messages between Bind and Sync.
    tail: Range<usize>,
    rest: Range<usize>,
    has_describe: bool,
    bonds: Bonds,
}

impl<'a> Usual<'a> {
    fn of(batch: &'a Batch) -> Option<Self> {
        let bytes = &batch.bytes;
        let (parse, messages) = match batch.messages.as_slice() {
            [(b'P', parse), rest @ ..] => (Some(parse.clone()), rest),
            messages => (None, messages),
        };
        let (bind, execute, has_describe) = match messages {
            [(b'B', bind), (b'E', execute)] => (bind, execute, false),
            [(b'B', bind), (b'D', describe), (b'E', execute)] if bytes[describe.clone()] == *DESCRIBE_PORTAL => {
                (bind, execute, true)
            }
            _ => return None,
        };
        if !batch.has_sync || bytes[execute.clone()] != *EXECUTE_ALL {
            return None;
        }
        let body = &bytes[bind.clone()];
        let mut rest = BodyReader(body);
        let (portal, name) = (rest.c_string()?, rest.c_string()?);
        let is_usual = portal.is_empty() && (parse.is_none() || name.is_empty());
        is_usual.then(|| Self { parse, bind: bind.clone(), execute: execute.clone(), has_describe, body, name, rest })
    }
}

impl Conversation {
    /// The way of a batch of perhaps Parse, Bind, perhaps Describe, Execute and Sync, if it is as usual.
    pub(super) fn express_way(&mut self, batch: &Batch) -> Option<Way> {
        let may_keep = matches!(self.transaction.phase, Phase::Idle | Phase::Explicit) && !self.portals.has_open_progress();
        if !may_keep || self.may_have_temporaries() || self.own.is_some() {
            return None;
        }
        let usual = Usual::of(batch)?;
        let statement = match &usual.parse {
            None => self.statements.get(usual.name)?.clone(),
            Some(parse) => self.parsed_plainly(&batch.bytes[parse.clone()])?,
        };
        if !self.is_usual(&statement) {
            return None;
        }
        check_count(&statement, usual.name, usual.rest).ok()?;
        let parts = bind_parts(usual.body, b"", usual.name, usual.rest).ok()?;
        let way = match statement.cached.template.class() {
            Classified::Query => self.shard_way(&usual, &statement, &parts)?,
            Classified::Command(command) if self.is_turn(command) && parts.values.is_empty() => {
                let has_parse = usual.parse.is_some();
                return Some(Way::Turn(Turn { statement, has_parse, has_describe: usual.has_describe }));
            }
            _ => return None,
        };
        let bound = (self.transaction.phase == Phase::Explicit).then(|| {
            // It can be executed again up to the transaction's end.
            let target = Target::One { shard: way.shard, access: way.access, leftover: Leftover::NOTHING, changes: None };
            let n_savepoints = self.transaction.savepoints.len();
            Portal { statement, target, formats: ResultFormats::Text, n_savepoints }
        });
        self.portals.take_progress(b"");
        if let Some(portal) = bound {
            self.portals.insert(Bytes::new(), portal, &self.database.query).ok()?;
        }
        Some(Way::Shard(way))
    }

    /// The statement that the body of a Parse brings, if it is the unnamed one and its text has been planned before.
    fn parsed_plainly(&mut self, body: &[u8]) -> Option<SessionStatement> {
        let mut reader = BodyReader(body);
        let (name, sql, n_types) = (reader.c_string()?, reader.c_string()?, reader.u16()?);
        if !name.is_empty() || reader.0.len() != 4 * usize::from(n_types) {
            return None;
        }
        let mut types = reader.0.chunks_exact(4).map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]));
        if let Some(known) = self.statements.get(b"")
            && known.prepared.sql == sql
            && types.clone().eq(known.prepared.param_types.iter().copied())
            && self.is_usual(known)
        {
            return Some(known.clone());
        }
        let text = std::str::from_utf8(sql).ok().filter(|text| self.is_utf8 || text.is_ascii())?;
        let text = Some(statement_of(text)).filter(|text| !text.contains(';'))?;
        self.take_fingerprint(text);
        let cached = self.known_template(text)?;
        let literals = Arc::from(self.fingerprint.literals.as_slice());
        let prepared = self.intern(Bytes::copy_from_slice(sql), types.by_ref().collect());
        Some(SessionStatement { prepared, cached, literals, planned: self.planned_now(), told: None })
    }

    /// Whether a command takes the client from one phase of a transaction to the next, and nothing else.
    fn is_turn(&self, command: &Command) -> bool {
        match (command, self.transaction.phase) {
            (Command::Begin { modes }, Phase::Idle) => modes.is_empty(),
            (Command::Commit { and_chain } | Command::Rollback { and_chain }, Phase::Explicit) => !and_chain,
            _ => false,
        }
    }

    fn shard_way(&self, usual: &Usual<'_>, statement: &SessionStatement, parts: &BindParts<'_>) -> Option<ShardWay> {
        let bonds = statement.cached.leftover.bonds;
        // Where last values are asked for, a sequence is moved with more care.
        if !bonds.is_empty() && self.database.keeps_sequences() {
            return None;
        }
        let params = Params { types: &statement.prepared.param_types, formats: &parts.formats, values: &parts.values };
        let values = self.values(&statement.prepared.text, &statement.literals, params);
        let plan = self.bind_plainly(&statement.cached, &values).ok()?;
        let (shard, access) = match plan {
            Plan::Route { shard, access } => (Some(shard), access),
            Plan::AnyOne { access } => (None, access),
            _ => return None,
        };
        if parts.result_formats.iter().any(|format| *format != 0) && self.may_hold_oids(shard, &statement.prepared) {
            return None;
        }
        Some(ShardWay {
            statement: statement.clone(),
            is_named: !usual.name.is_empty(),
            parse_start: usual.parse.as_ref().map(|parse| parse.start - HEADER_LEN),
            shard,
            access,
            tail: usual.bind.start + parts.tail_start..usual.bind.end,
            rest: usual.bind.end..usual.execute.end,
            has_describe: usual.has_describe,
            bonds,
        })
    }

    fn is_usual(&self, statement: &SessionStatement) -> bool {
        let cached = &statement.cached;
        statement.planned == self.planned_now()
            && !self.is_outdated(statement)
            && self.block.own_schema != OwnSchema::Stale
            && cached.leaves_nothing_but_sequences()
            && (self.is_utf8 || !cached.template.depends_on_params())
            && statement.prepared.param_types.iter().all(|oid| *oid < FIRST_OWN_OID)
    }

    /// Runs such a batch. True if ReadyForQuery is already with the client.
    ///
    /// # Errors
    /// `StalePlan` when it is to be done again in the general way.
    pub(super) async fn run_express(&mut self, batch: &Batch, way: &ShardWay) -> Result<bool, Failure> {
        let tells_columns = way.has_describe || way.parse_start.is_some();
        self.retry = if tells_columns { Retry::Possible } else { Retry::No };
        let shard = match way.shard {
            Some(shard) => shard,
            None => Box::pin(self.any_live_shard(way.access)).await?,
        };
        self.follow_habit(false);
        let outcome = self.enlist(shard, way.access).await;
        self.follow_habit(true);
        let idx = outcome?;
        if !way.bonds.is_empty() {
            self.clear_in_block(idx, way.bonds);
            self.tie_sequences(idx, way.bonds)?;
            self.enlisted[idx].bonds = self.enlisted[idx].bonds.union(way.bonds);
        }
        if way.shard.is_none() && self.transaction.is_open() {
            self.portals.note_shard(&Bytes::new(), shard);
        }
        self.enlisted[idx].begin_statement();
        let mut run = Run::new(shard, Leftover::NOTHING);
        let SessionStatement { prepared, told, .. } = &way.statement;
        match way.parse_start {
            Some(start) => {
                let previous = self.statements.insert(Bytes::new(), way.statement.clone());
                run.note_name(Bytes::new(), previous);
                run.push(Mark::Relay);
                let connection = &mut self.enlisted[idx].lease;
                connection.unnamed = Some(prepared.id);
                connection.socket.output.extend_from_slice(&batch.bytes[start..way.rest.end]);
            }
            None => {
                let name = self.ensure_parsed(idx, &mut run, way.is_named, prepared);
                let output = &mut self.enlisted[idx].lease.socket.output;
                wire::bind(output, b"", name.as_bytes(), &batch.bytes[way.tail.clone()]);
                output.extend_from_slice(&batch.bytes[way.rest.clone()]);
            }
        }
        if way.has_describe {
            self.expect_columns_of(idx, prepared, told.as_ref());
        }
        self.expect_rows(idx, prepared, &ResultFormats::Text);
        let relays_ready = !self.has_untold_parameters();
        let is_synced = self.finish_run(&mut run, if relays_ready { Ready::Relay } else { Ready::Swallow }).await?;
        Ok(relays_ready && is_synced)
    }

    /// Begins or ends the client's block, as the general way does.
    ///
    /// # Errors
    /// What made a commit roll back.
    pub(super) async fn run_turn(&mut self, turn: &Turn) -> Result<(), Failure> {
        let Turn { statement, has_parse, has_describe } = turn;
        self.retry = Retry::No;
        let _timer = StatementTimer::start(self.database.counters.clone(), Route::Command, self.began);
        if *has_parse {
            self.statements.insert(Bytes::new(), statement.clone());
            wire::bare(&mut self.client.output, b'1');
        }
        let output = &mut self.client.output;
        wire::bare(output, b'2');
        if *has_describe {
            wire::bare(output, b'n');
        }
        let Classified::Command(command) = statement.cached.template.class() else { return Ok(()) };
        self.take_turn(command, &statement.prepared.text).await?;
        if self.transaction.is_open() {
            // It lives in the block that it has begun.
            let target = Target::Own { plan: Arc::new(Plan::Command(command.clone())), values: Arc::new(BoundValues::none()) };
            let portal = Portal { statement: statement.clone(), target, formats: ResultFormats::Text, n_savepoints: 0 };
            self.portals.insert(Bytes::new(), portal, &self.database.query)?;
            self.portals.progress.insert(Bytes::new(), Progress::Done);
        }
        Ok(())
    }
}
