//! The extended protocol, first half: the messages of a batch are read, named things are looked up, statements are planned.
//!
//! A batch is what came up to a Sync or Flush, or what fits into the buffer. Nothing is sent here.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::Conversation;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::meaning::Planned;
use super::simple::is_ddl;
use super::simple::{ends_transaction, is_utility, unreadable};
use super::templates::CachedTemplate;
use super::types::ResultFormats;
use crate::plan::{Access, Params, Plan};
use crate::session::prepared::{Prepared, ToldTypes, statement_of};
use crate::session::set_config::{BoundParams, SettingChange};
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire::{BodyReader, HEADER_LEN};
use crate::sql::{Classified, Command, CopyDirection, Literal, ParamFormat};
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Messages of the extended protocol in the order in which they came.
#[derive(Debug)]
pub struct Batch {
    pub bytes: BytesMut,
    /// Tag and body of each message.
    pub messages: Vec<(u8, Range<usize>)>,
    pub has_sync: bool,
}

/// A prepared statement of the client.
#[derive(Debug, Clone)]
pub(super) struct SessionStatement {
    pub prepared: Arc<Prepared>,
    pub cached: Arc<CachedTemplate>,
    /// Those of its text: the template is shared with texts that have others.
    pub literals: Arc<[Literal]>,
    pub planned: Planned,
    /// `None` for one without a name.
    pub told: Option<Arc<ToldTypes>>,
}

/// Where a portal's statement runs.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// On one backend, which has the portal.
    One { shard: Option<ShardId>, access: Access, leftover: Leftover, changes: Option<Arc<[SettingChange]>> },
    /// On many, or in the session itself: the proxy has the portal.
    Own { plan: Arc<Plan>, values: Arc<BoundValues> },
}

/// A bound statement.
#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub statement: SessionStatement,
    pub target: Target,
    pub formats: ResultFormats,
    /// Savepoints at its Bind.
    pub n_savepoints: usize,
}

/// What one message asks for, with everything looked up.
#[derive(Debug)]
pub(super) enum Action {
    Parse {
        name: Bytes,
        statement: SessionStatement,
        /// What the name stood for.
        previous: Option<SessionStatement>,
    },
    /// `tail` is what follows the names in the Bind message.
    Bind {
        portal: Bytes,
        is_named: bool,
        bound: Portal,
        tail: Range<usize>,
    },
    DescribeStatement {
        is_named: bool,
        statement: SessionStatement,
    },
    DescribePortal {
        name: Bytes,
        portal: Portal,
    },
    Execute {
        name: Bytes,
        portal: Portal,
        max_rows: i32,
    },
    CloseStatement {
        name: Bytes,
        previous: Option<SessionStatement>,
    },
    ClosePortal {
        name: Bytes,
        portal: Option<Portal>,
    },
    /// Describe, Execute or Close of a cursor that SQL has declared.
    OfCursor {
        tag: u8,
        name: Bytes,
        max_rows: i32,
    },
    /// This message fails, and what follows it up to Sync is not looked at.
    Fail {
        failure: Failure,
        /// The unnamed statement that a failed Parse of another has ended.
        ended: Option<SessionStatement>,
    },
}

/// In a pipeline without its end a backend is in a block of the proxy's, and would declare a cursor that Postgres refuses: what
/// holds a pipeline together is nobody's block.
pub(super) fn refuse_declare(actions: &mut [Action]) {
    let is_declare = |action: &&mut Action| {
        let Action::Execute { portal: Portal { statement, target: Target::One { .. }, .. }, .. } = action else { return false };
        matches!(statement.cached.template.class(), Classified::Command(Command::Declare { is_with_hold: false, .. }))
    };
    if let Some(action) = actions.iter_mut().find(is_declare) {
        *action = Action::Fail { failure: Failure::not_in_block("DECLARE CURSOR"), ended: None };
    }
}

/// A Bind message taken apart.
#[derive(Debug)]
pub(super) struct BindParts<'a> {
    portal: &'a [u8],
    statement: &'a [u8],
    /// Offset of the tail in the body.
    pub tail_start: usize,
    /// Formats and values as they came.
    encoded_values: &'a [u8],
    pub formats: SmallVec<[ParamFormat; N_INLINE]>,
    pub values: SmallVec<[Option<&'a [u8]>; N_INLINE]>,
    pub result_formats: SmallVec<[i16; N_INLINE]>,
}

/// As many parameters and columns of a statement cost no allocation.
const N_INLINE: usize = 16;

impl Conversation {
    /// Looks at messages from index `start` on: up to the first that fails, or that may change what the next ones mean. Gives
    /// the index of the first that it has not looked at.
    pub(super) async fn plan_batch(&mut self, batch: &Batch, start: usize) -> (Vec<Action>, usize) {
        let mut actions = Vec::with_capacity(batch.messages.len() - start);
        for (message_idx, (tag, range)) in batch.messages.iter().enumerate().skip(start) {
            let unnamed = if *tag == b'P' { self.statements.get(b"").cloned() } else { None };
            match self.plan_message(*tag, &batch.bytes, range.clone()).await {
                Ok(action) => {
                    let is_barrier = action.changes_session() || self.changes_names(&action);
                    actions.push(action);
                    if is_barrier {
                        return (actions, message_idx + 1);
                    }
                }
                Err(failure) => {
                    let ended = if self.statements.get(b"").is_none() { unnamed } else { None };
                    actions.push(Action::Fail { failure, ended });
                    return (actions, batch.messages.len());
                }
            }
        }
        (actions, batch.messages.len())
    }

    async fn plan_message(&mut self, tag: u8, bytes: &[u8], range: Range<usize>) -> Result<Action, Failure> {
        let body = &bytes[range.clone()];
        let mut reader = BodyReader(body);
        match tag {
            b'P' => self.plan_parse(reader).await,
            b'B' => self.plan_bind(body, range.start).await,
            b'D' | b'C' => {
                let kind = reader.u8().ok_or_else(|| malformed("no data left in message"))?;
                let name = reader.c_string().ok_or_else(unterminated)?;
                check_end(reader)?;
                match (tag, kind) {
                    (b'D', b'S') => {
                        let statement = self.statement(name)?.clone();
                        self.check_exit(&statement)?;
                        Ok(Action::DescribeStatement { is_named: !name.is_empty(), statement })
                    }
                    (_, b'P') if self.is_cursor_only(name) => Ok(Action::of_cursor(tag, name, 0)),
                    (b'D', b'P') => {
                        let portal = self.portal(name)?.clone();
                        self.check_exit(&portal.statement)?;
                        Ok(Action::DescribePortal { name: Bytes::copy_from_slice(name), portal })
                    }
                    (_, b'S') => {
                        let previous = self.statements.remove(name);
                        Ok(Action::CloseStatement { name: Bytes::copy_from_slice(name), previous })
                    }
                    (_, b'P') => {
                        let portal = self.portals.remove(name);
                        Ok(Action::ClosePortal { name: Bytes::copy_from_slice(name), portal })
                    }
                    (b'D', kind) => Err(malformed(&format!("invalid DESCRIBE message subtype {kind}"))),
                    (_, kind) => Err(malformed(&format!("invalid CLOSE message subtype {kind}"))),
                }
            }
            b'E' => {
                let name = reader.c_string().ok_or_else(unterminated)?;
                let max_rows = reader.i32().ok_or_else(short)?;
                check_end(reader)?;
                if self.is_cursor_only(name) {
                    self.check_not_failed()?;
                    return Ok(Action::of_cursor(tag, name, max_rows));
                }
                let portal = self.portal(name)?.clone();
                self.check_exit(&portal.statement)?;
                Ok(Action::Execute { name: Bytes::copy_from_slice(name), portal, max_rows })
            }
            _ => Err(malformed("unexpected message")),
        }
    }

    pub(super) fn statement(&self, name: &[u8]) -> Result<&SessionStatement, Failure> {
        self.statements.get(name).ok_or_else(|| {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
            };
            Failure::client(Report::new(SqlState::INVALID_SQL_STATEMENT_NAME, message))
        })
    }

    fn portal(&self, name: &[u8]) -> Result<&Portal, Failure> {
        self.portals.get(name).ok_or_else(|| {
            let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
            Failure::client(Report::new(SqlState::INVALID_CURSOR_NAME, message))
        })
    }

    /// Whether no portal of the protocol has this name, but a cursor of SQL.
    fn is_cursor_only(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|text| self.cursors.has(text)) && self.portals.get(name).is_none()
    }

    /// In a failed transaction only statements that end it may be described or run.
    fn check_exit(&self, statement: &SessionStatement) -> Result<(), Failure> {
        if ends_transaction(statement.cached.template.class()) { Ok(()) } else { self.check_not_failed() }
    }

    async fn plan_parse(&mut self, mut reader: BodyReader<'_>) -> Result<Action, Failure> {
        let name = reader.c_string().ok_or_else(unterminated)?;
        let sql = reader.c_string().ok_or_else(unterminated)?;
        let n_types = reader.i16().ok_or_else(short)?.cast_unsigned();
        let param_types = (0..n_types).map(|_| reader.u32()).collect::<Option<Vec<u32>>>().ok_or_else(short)?;
        check_end(reader)?;
        // The unnamed statement ends whether or not the new one is right.
        let previous = if name.is_empty() { self.statements.remove(b"") } else { None };
        if let Err(several) = self.check_single(sql) {
            // The grammar is looked at first.
            let text = String::from_utf8_lossy(sql).into_owned();
            return Err(Box::pin(self.grammar_failure(&text)).await.unwrap_or(several));
        }
        let cached = self.cached_template(sql).await?;
        let literals = Arc::from(self.fingerprint.literals.as_slice());
        if self.transaction.phase == Phase::Failed && !ends_transaction(cached.template.class()) {
            let text = String::from_utf8_lossy(sql).into_owned();
            return Err(Box::pin(self.failed_already(&text)).await);
        }
        if let Err(is_taken) = self.check_name(name) {
            // A server looks at the text first.
            let shard = cached.template.describe_shard().unwrap_or_else(|| self.any_shard());
            let text = String::from_utf8_lossy(sql).into_owned();
            self.describe(shard, &text, &param_types).await?;
            return Err(is_taken);
        }
        self.statements.check_room(name, name.len() + sql.len(), &self.database.query)?;
        self.check_leftover(cached.leftover)?;
        let prepared = self.intern(Bytes::copy_from_slice(sql), param_types);
        let told = (!name.is_empty()).then(Arc::default);
        let statement = SessionStatement { prepared, cached, literals, planned: self.planned_now(), told };
        let name = Bytes::copy_from_slice(name);
        self.statements.insert(name.clone(), statement.clone());
        Ok(Action::Parse { name, statement, previous })
    }

    fn check_single(&self, sql: &[u8]) -> Result<(), Failure> {
        if !sql.contains(&b';') || crate::sql::split_statements(sql, self.plan_settings.has_standard_strings).len() <= 1 {
            return Ok(());
        }
        let message = "cannot insert multiple commands into a prepared statement";
        Err(Failure::client(Report::new(SqlState::SYNTAX_ERROR, message)))
    }

    async fn cached_template(&mut self, sql: &[u8]) -> Result<Arc<CachedTemplate>, Failure> {
        let text = self.planning_text(sql)?;
        let statement = statement_of(&text);
        let cached = match self.fresh_template(statement).await {
            Ok(cached) => cached,
            Err(refusal) => return Err(self.unparsed(statement, refusal).await),
        };
        if matches!(text, Cow::Owned(_)) && matches!(cached.template.class(), Classified::Command(_)) {
            return Err(unreadable());
        }
        Ok(cached)
    }

    async fn plan_bind(&mut self, body: &[u8], body_start: usize) -> Result<Action, Failure> {
        let mut reader = BodyReader(body);
        let portal = reader.c_string().ok_or_else(unterminated)?;
        let name = reader.c_string().ok_or_else(unterminated)?;
        let mut statement = self.statement(name)?.clone();
        check_count(&statement, name, reader)?;
        let parts = bind_parts(body, portal, name, reader)?;
        self.check_exit(&statement)?;
        let is_taken = |name: &[u8]| self.portals.get(name).is_some() || self.is_cursor_only(name);
        if !parts.portal.is_empty() && is_taken(parts.portal) {
            let message = format!("cursor \"{}\" already exists", String::from_utf8_lossy(parts.portal));
            return Err(Failure::client(Report::new(SqlState::DUPLICATE_CURSOR, message)));
        }
        self.renew_statement(name, &mut statement).await?;
        let target = self.target(&statement, &parts)?;
        let formats = self.kept_formats(&parts.result_formats);
        let bound = Portal { statement, target, formats, n_savepoints: self.transaction.savepoints.len() };
        let portal = Bytes::copy_from_slice(parts.portal);
        self.portals.insert(portal.clone(), bound.clone(), &self.database.query)?;
        let tail = body_start + parts.tail_start..body_start + body.len();
        Ok(Action::Bind { portal, is_named: !parts.statement.is_empty(), bound, tail })
    }

    /// Plans a statement anew if tables, placement or settings have changed since. With other temporary tables its names may mean
    /// others, and with other settings its literals; after DDL servers would infer other types for its parameters than the client
    /// was told.
    ///
    /// # Errors
    /// 0A000 when it gives other columns than the client was told: each time, as a server does, until it is prepared anew.
    pub(super) async fn renew_statement(&mut self, name: &[u8], statement: &mut SessionStatement) -> Result<(), Failure> {
        let is_outdated = self.is_outdated(statement);
        let now = self.planned_now();
        if statement.planned == now && !is_outdated {
            return Ok(());
        }
        if statement.planned != now {
            statement.cached = self.cached_template(&statement.prepared.sql).await?;
            statement.literals = Arc::from(self.fingerprint.literals.as_slice());
        }
        if is_outdated || statement.planned.basis != now.basis {
            let told = statement.told.as_ref().and_then(|told| told.params.get());
            let types = told.unwrap_or(&statement.prepared.param_types).clone();
            if is_outdated {
                Box::pin(self.check_told(statement, &types)).await?;
            }
            statement.prepared = self.intern(statement.prepared.sql.clone(), types);
        }
        statement.planned = self.planned_now();
        self.statements.insert(Bytes::copy_from_slice(name), statement.clone());
        Ok(())
    }

    /// Whether tables may be others than when a client was told of its statement. Of what nobody was told the servers say
    /// themselves that it is out of date.
    pub(super) fn is_outdated(&self, statement: &SessionStatement) -> bool {
        statement.prepared.schema_version != self.database.schema_version()
            && statement.told.as_ref().is_some_and(|told| told.columns.get().is_some())
    }

    pub(super) fn target(&mut self, statement: &SessionStatement, parts: &BindParts<'_>) -> Result<Target, Failure> {
        let cached = &statement.cached;
        let text = &*statement.prepared.text;
        let depends = cached.template.depends_on_params();
        if depends && !self.is_utf8 && parts.values.iter().flatten().any(|value| !value.is_ascii()) {
            return Err(Failure::refused(
                "TL095",
                "parameters with other than ASCII characters must be in UTF-8 to be routed",
                "SET client_encoding TO 'UTF8'.",
            ));
        }
        let params = Params { types: &statement.prepared.param_types, formats: &parts.formats, values: &parts.values };
        let plan = self.bind_with(cached, text, &statement.literals, params)?;
        let plan = self.placed_cursor(plan, cached)?;
        self.note_schema_change(cached.template.class(), text);
        if is_utility(cached.template.class()) {
            self.timer.exempt();
        }
        let bound = BoundParams { formats: &parts.formats, values: &parts.values };
        let (leftover, changes) = self.changes_of(text.as_bytes(), cached.leftover, bound)?;
        let changes = (!changes.is_empty()).then(|| Arc::from(changes));
        let read = |shard| Target::One { shard, access: Access::Read, leftover: Leftover::NOTHING, changes: None };
        Ok(match plan {
            Plan::Route { shard, access } => Target::One { shard: Some(shard), access, leftover, changes },
            Plan::AnyOne { access } => Target::One { shard: None, access, leftover, changes },
            Plan::Command(Command::Show { name }) if !self.is_shown_here(&name) => read(None),
            Plan::Command(Command::Fetch { name }) if !self.cursors.is_own(&name) => read(self.cursors.shard_of(&name)),
            plan => {
                let encoded = Bytes::copy_from_slice(parts.encoded_values);
                let values =
                    BoundValues { param_types: Vec::new(), encoded, result_formats: parts.result_formats.to_vec(), told: None };
                Target::Own { plan: Arc::new(plan), values: Arc::new(values) }
            }
        })
    }
}

/// Takes a Bind message apart behind its two names.
pub(super) fn bind_parts<'a>(
    body: &'a [u8],
    portal: &'a [u8],
    statement: &'a [u8],
    mut reader: BodyReader<'a>,
) -> Result<BindParts<'a>, Failure> {
    let tail_start = body.len() - reader.0.len();
    let n_formats = reader.i16().ok_or_else(short)?.cast_unsigned();
    let mut formats = SmallVec::new();
    for _ in 0..n_formats {
        formats.push(if reader.i16().ok_or_else(short)? == 1 { ParamFormat::Binary } else { ParamFormat::Text });
    }
    let n_values = usize::from(reader.i16().ok_or_else(short)?.cast_unsigned());
    match formats.as_slice() {
        [] => formats = SmallVec::from_elem(ParamFormat::Text, n_values),
        &[all] => formats = SmallVec::from_elem(all, n_values),
        each if each.len() == n_values => {}
        _ => return Err(malformed(&format!("bind message has {n_formats} parameter formats but {n_values} parameters"))),
    }
    let mut values = SmallVec::new();
    for _ in 0..n_values {
        values.push(match reader.i32().ok_or_else(short)? {
            -1 => None,
            len => {
                let bytes = usize::try_from(len).ok().and_then(|len| reader.bytes(len));
                Some(bytes.ok_or_else(short)?)
            }
        });
    }
    let encoded_values = body.get(tail_start..body.len() - reader.0.len()).unwrap_or_default();
    let n_results = reader.i16().ok_or_else(short)?.cast_unsigned();
    let result_formats = (0..n_results).map(|_| reader.i16()).collect::<Option<SmallVec<_>>>().ok_or_else(short)?;
    check_end(reader)?;
    Ok(BindParts { portal, statement, tail_start, encoded_values, formats, values, result_formats })
}

/// The number of a Bind's values where the text shows that it has no parameters: only its Parse may have named some. Elsewhere
/// the servers count. It is looked at before the values are: src/backend/tcop/postgres.c, `exec_bind_message`.
pub(super) fn check_count(statement: &SessionStatement, name: &[u8], reader: BodyReader<'_>) -> Result<(), Failure> {
    let n_wanted = statement.prepared.param_types.len();
    // One that cannot be read, or that does not go with its formats, is refused as such.
    let n_given = n_values(reader).unwrap_or(n_wanted);
    if n_given == n_wanted || statement.prepared.sql.contains(&b'$') {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name);
    Err(malformed(&format!("bind message supplies {n_given} parameters, but prepared statement \"{name}\" requires {n_wanted}")))
}

/// The number of values in a Bind whose names have been read; `None` if the formats before it are of another number.
fn n_values(mut reader: BodyReader<'_>) -> Option<usize> {
    let n_formats = usize::from(reader.u16()?);
    reader.bytes(2 * n_formats)?;
    let n_values = usize::from(reader.u16()?);
    (n_formats <= 1 || n_formats == n_values).then_some(n_values)
}

impl Conversation {
    /// Gives the messages from index `end` on back to the client's input: they come while the server copies in, and are then to
    /// be read as such.
    pub(super) fn give_back(&mut self, batch: &mut Batch, end: usize) {
        let Some((_, body)) = batch.messages.get(end) else { return };
        let mut rest = batch.bytes.split_off(body.start - HEADER_LEN);
        rest.extend_from_slice(&self.client.input);
        self.client.input = rest;
        batch.messages.truncate(end);
        batch.has_sync = false;
    }
}

impl Conversation {
    /// Whether the names in what follows may mean other tables once this has run.
    fn changes_names(&self, action: &Action) -> bool {
        match action {
            Action::Execute { portal: Portal { statement, target: Target::One { leftover, .. }, .. }, .. } => {
                self.changes_temporaries(statement.cached.template.class(), *leftover)
            }
            Action::Execute { portal: Portal { statement, .. }, .. } => is_ddl(statement.cached.template.class()),
            _ => false,
        }
    }
}

impl Portal {
    /// Whether it is BEGIN's.
    pub(super) fn begins_block(&self) -> bool {
        matches!(self.statement.cached.template.class(), Classified::Command(Command::Begin { .. }))
    }
}

impl Action {
    fn of_cursor(tag: u8, name: &[u8], max_rows: i32) -> Self {
        Self::OfCursor { tag, name: Bytes::copy_from_slice(name), max_rows }
    }

    /// Whether the client learns the columns of what it runs, or a server reads the text anew for it: a statement may then be
    /// prepared again unseen.
    pub(super) fn tells_columns(&self) -> bool {
        matches!(self, Self::Parse { .. } | Self::DescribeStatement { .. } | Self::DescribePortal { .. })
    }

    /// Whether what follows is to be looked at only after it has run: it may change the transaction, settings or statements.
    fn changes_session(&self) -> bool {
        match self {
            Self::Execute { portal: Portal { target: Target::Own { plan, .. }, .. }, .. }
                if matches!(**plan, Plan::Command(_) | Plan::Cursor(_)) =>
            {
                true
            }
            Self::OfCursor { tag: b'C', .. } => true,
            action => action.copies_in(),
        }
    }

    /// Whether it runs COPY … FROM STDIN: what the client sends next is for that.
    pub(super) fn copies_in(&self) -> bool {
        let Self::Execute { portal, .. } = self else { return false };
        *portal.statement.cached.template.class() == Classified::Copy(CopyDirection::In)
    }
}

fn short() -> Failure {
    malformed("insufficient data left in message")
}

fn unterminated() -> Failure {
    malformed("invalid string in message")
}

fn check_end(reader: BodyReader<'_>) -> Result<(), Failure> {
    if reader.0.is_empty() { Ok(()) } else { Err(malformed("invalid message format")) }
}

fn malformed(message: &str) -> Failure {
    Failure::client(Report::new(SqlState::PROTOCOL_VIOLATION, message))
}

/// Whether rows of several shards are asked for in portions: their portals need a transaction to live in.
pub(super) fn is_portion(action: &Action) -> bool {
    match action {
        Action::Execute { portal: Portal { target: Target::Own { plan, .. }, .. }, max_rows, .. } => {
            let gives_rows = plan.reads_several() || matches!(**plan, Plan::Command(Command::Execute { .. }));
            *max_rows > 0 && gives_rows
        }
        _ => false,
    }
}
