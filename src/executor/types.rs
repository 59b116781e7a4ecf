//! OIDs of users' types between a client and several shards: the client knows each type by the home's.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::Conversation;
use super::batch::{Action, Portal, Target};
use super::describe::parameter_types;
use super::failure::Failure;
use crate::plan::Access;
use crate::session::oids::{NewType, OidColumns, RowOids, Unknown, translate_columns, translate_parameters};
use crate::session::prepared::{Prepared, ToldTypes};
use crate::session::row_description::{ColumnDescription, column_types, columns, format_of};
use crate::session::unpooled::Leftover;
use crate::session::wire::{self, HEADER_LEN};
use crate::sql::{Token, TokenKind, tokens};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{FIRST_OWN_OID, ShardId, TypeMap, TypeOid};

/// A Bind's result formats, as far as they matter after it.
#[derive(Debug, Clone, Default)]
pub(super) enum ResultFormats {
    #[default]
    Text,
    Binary,
    Each(Arc<[i16]>),
}

impl ResultFormats {
    pub(super) fn of(formats: &[i16]) -> Self {
        match formats {
            all if all.iter().all(|format| *format == 0) => Self::Text,
            all if all.iter().all(|format| *format == 1) => Self::Binary,
            each => Self::Each(Arc::from(each)),
        }
    }

    fn as_slice(&self) -> &[i16] {
        match self {
            Self::Text => &[0],
            Self::Binary => &[1],
            Self::Each(each) => each,
        }
    }
}

/// What is known of the answers to a backend's messages, from one ReadyForQuery to the next.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Describes and Executes that were written, and those that were answered.
    n_describes: u32,
    n_executes: u32,
    n_described: u32,
    n_executed: u32,
    watch: Option<Box<Watch>>,
}

/// Rows that may hold OIDs in binary. Most statements have none, and no such box.
#[derive(Debug, Default)]
struct Watch {
    learners: VecDeque<Learner>,
    executes: VecDeque<WatchedRows>,
    /// Of the rows that come now.
    rows: Option<RowOids>,
}

/// A Describe from whose answer a statement's columns are learnt.
#[derive(Debug)]
struct Learner {
    describe_idx: u32,
    prepared: Arc<Prepared>,
    /// Where to note what the client is told.
    told: Option<Arc<ToldTypes>>,
    /// The client has not asked.
    is_hidden: bool,
}

/// An Execute whose rows are looked into.
#[derive(Debug)]
struct WatchedRows {
    execute_idx: u32,
    prepared: Arc<Prepared>,
    formats: ResultFormats,
}

/// Whose answer is read, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// `None` where OIDs are the client's already.
    pub types: Option<&'a Arc<TypeMap>>,
    pub unknown: Unknown,
    /// The formats of a description are not those of the rows: see PostgreSQL manual, "Extended Query".
    pub is_extended: bool,
}

impl Answers {
    /// Whether rows have to be looked at, whole.
    pub(super) fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// Takes a message of the answer. False: the client is not to see it.
    ///
    /// # Errors
    /// `NewType`, if it is to be told: nothing has been taken then.
    pub(super) fn take(&mut self, message: &mut [u8], reading: Reading<'_>) -> Result<bool, NewType> {
        let Some((&mut [tag, ..], body)) = message.split_at_mut_checked(HEADER_LEN) else { return Ok(true) };
        match tag {
            b't' => {
                if let Some(types) = reading.types {
                    translate_parameters(body, types, reading.unknown)?;
                }
                let learner = self.watch.as_ref().and_then(|watch| watch.learners.front());
                let learner = learner.filter(|learner| learner.describe_idx == self.n_described);
                if let Some(told) = learner.and_then(|learner| learner.told.as_ref()) {
                    drop(told.params.set(parameter_types(body)));
                }
            }
            b'T' | b'n' => return self.take_description(tag, body, reading),
            b'C' | b's' | b'I' => {
                self.n_executed += 1;
                if let Some(watch) = &mut self.watch {
                    watch.rows = None;
                }
            }
            b'D' if self.is_watching() => self.take_row(body, reading),
            _ => {}
        }
        Ok(true)
    }

    /// Takes a row, if rows are looked at.
    pub(super) fn take_watched(&mut self, message: &mut [u8], reading: Reading<'_>) {
        if self.is_watching()
            && let Some((&mut [b'D', ..], body)) = message.split_at_mut_checked(HEADER_LEN)
        {
            self.take_row(body, reading);
        }
    }

    fn take_description(&mut self, tag: u8, body: &mut [u8], reading: Reading<'_>) -> Result<bool, NewType> {
        if let (b'T', Some(types)) = (tag, reading.types) {
            translate_columns(body, types, reading.unknown)?;
        }
        let describe_idx = self.n_described;
        self.n_described += 1;
        let moved = reading.types.filter(|types| types.has_moved());
        if !reading.is_extended {
            if let (b'T', Some(types)) = (tag, moved) {
                self.watch_described(body, types);
            }
            return Ok(true);
        }
        let Some(watch) = &mut self.watch else { return Ok(true) };
        if watch.learners.front().is_none_or(|learner| learner.describe_idx != describe_idx) {
            return Ok(true);
        }
        let Some(learner) = watch.learners.pop_front() else { return Ok(true) };
        if let Some(types) = moved {
            let learnt = if tag == b'T' { OidColumns::of(body, types) } else { OidColumns::default() };
            // Another client may have been first.
            drop(learner.prepared.oid_columns.set(learnt));
        }
        if let Some(told) = &learner.told {
            drop(told.columns.set(if tag == b'T' { column_types(body) } else { Vec::new() }));
        }
        Ok(!learner.is_hidden)
    }

    /// Has the rows translated that follow their own description.
    pub(super) fn watch_described(&mut self, body: &[u8], types: &Arc<TypeMap>) {
        let oid_columns = OidColumns::of(body, types);
        if oid_columns.is_empty() {
            return;
        }
        let formats: Vec<i16> = columns(body).unwrap_or_default().into_iter().map(|column| format_in(body, column)).collect();
        if let Some(rows) = RowOids::new(&oid_columns, &formats, types) {
            self.watch.get_or_insert_default().rows = Some(rows);
        }
    }

    /// Translates a DataRow's body.
    fn take_row(&mut self, body: &mut [u8], reading: Reading<'_>) {
        let Some(watch) = &mut self.watch else { return };
        let n_executed = self.n_executed;
        while watch.executes.front().is_some_and(|watched| watched.execute_idx <= n_executed) {
            let Some(watched) = watch.executes.pop_front() else { break };
            if let (Some(types), Some(oid_columns), true) =
                (reading.types, watched.prepared.oid_columns.get(), watched.execute_idx == n_executed)
            {
                watch.rows = RowOids::new(oid_columns, watched.formats.as_slice(), types);
            }
        }
        if let Some(rows) = &watch.rows {
            rows.translate(body);
        }
    }

    /// Translates the body of a DataRow that comes after its own description.
    pub(super) fn translate_row(&self, body: &mut [u8]) {
        if let Some(rows) = self.watch.as_ref().and_then(|watch| watch.rows.as_ref()) {
            rows.translate(body);
        }
    }

    /// Notes a Describe that is written. `told`: where to note what of its answer is not known yet.
    fn expect_description(
        &mut self,
        prepared: &Arc<Prepared>,
        (told, is_hidden): (Option<&Arc<ToldTypes>>, bool),
        moved: Option<&Arc<TypeMap>>,
    ) {
        let told = told.cloned();
        if told.is_some() || moved.is_some() && prepared.oid_columns.get().is_none() {
            let learner = Learner { describe_idx: self.n_describes, prepared: Arc::clone(prepared), told, is_hidden };
            self.watch.get_or_insert_default().learners.push_back(learner);
        }
        self.n_describes += 1;
    }

    /// Notes an Execute that is written.
    fn expect_rows(&mut self, (prepared, formats): (&Arc<Prepared>, &ResultFormats), moved: Option<&Arc<TypeMap>>) {
        let holds_none = || prepared.oid_columns.get().is_some_and(OidColumns::is_empty);
        if moved.is_some() && !matches!(formats, ResultFormats::Text) && !holds_none() {
            let (prepared, formats) = (Arc::clone(prepared), formats.clone());
            let watched = WatchedRows { execute_idx: self.n_executes, prepared, formats };
            self.watch.get_or_insert_default().executes.push_back(watched);
        }
        self.n_executes += 1;
    }
}

/// Whether a message of an answer may tell OIDs of types.
pub(super) fn tells_types(tag: u8) -> bool {
    matches!(tag, b'D' | b'T' | b't')
}

fn format_in(body: &[u8], column: ColumnDescription) -> i16 {
    let at = column.type_at() + 10;
    body.get(at..at + 2).map_or(0, |bytes| i16::from_be_bytes([bytes[0], bytes[1]]))
}

impl Conversation {
    /// A Describe of a statement was written to a backend.
    pub(super) fn expect_description(&mut self, idx: usize, prepared: &Arc<Prepared>, told: Option<&Arc<ToldTypes>>) {
        let told = told.filter(|told| told.params.get().is_none() || told.columns.get().is_none());
        let held = &mut self.enlisted[idx];
        held.answers.expect_description(prepared, (told, false), self.view.types.moved(held.lease.shard));
    }

    /// A Describe of a portal was written to a backend: it tells no parameters.
    pub(super) fn expect_columns_of(&mut self, idx: usize, prepared: &Arc<Prepared>, told: Option<&Arc<ToldTypes>>) {
        let told = told.filter(|told| told.columns.get().is_none());
        let held = &mut self.enlisted[idx];
        held.answers.expect_description(prepared, (told, false), self.view.types.moved(held.lease.shard));
    }

    /// An Execute was written to a backend.
    pub(super) fn expect_rows(&mut self, idx: usize, prepared: &Arc<Prepared>, formats: &ResultFormats) {
        let held = &mut self.enlisted[idx];
        held.answers.expect_rows((prepared, formats), self.view.types.moved(held.lease.shard));
    }

    /// A Bind was written to a backend. A client may read binary values without asking for their types: the proxy asks, once.
    pub(super) fn learn_columns(&mut self, idx: usize, portal: &[u8], (prepared, formats): (&Arc<Prepared>, &ResultFormats)) {
        let held = &mut self.enlisted[idx];
        let moved = self.view.types.moved(held.lease.shard);
        if moved.is_some() && !matches!(formats, ResultFormats::Text) && prepared.oid_columns.get().is_none() {
            wire::describe_or_close(&mut held.lease.socket.output, b'D', b'P', portal);
            held.answers.expect_description(prepared, (None, true), moved);
        }
    }

    /// Enlists a backend for an action of the extended protocol.
    ///
    /// # Errors
    /// As [`Self::enlist_to_leave`], and TL086 for parameter types that the shard does not have.
    pub(super) async fn enlist_for(
        &mut self,
        shard: ShardId,
        access: Access,
        (action, leftover): (&Action, Leftover),
    ) -> Result<usize, Failure> {
        match action {
            Action::Parse { statement, .. }
            | Action::DescribeStatement { statement, .. }
            | Action::Bind { bound: Portal { statement, .. }, .. } => {
                self.check_parameter_types(shard, &statement.prepared.param_types).await?;
            }
            Action::Execute { portal: Portal { target: Target::One { leftover, .. }, .. }, .. } => {
                self.note_temporaries(shard, *leftover)?;
            }
            _ => {}
        }
        self.enlist_to_leave(shard, access, leftover).await
    }

    /// Whether binary rows of a statement may hold OIDs that are not the client's, as far as is known.
    pub(super) fn may_hold_oids(&self, shard: Option<ShardId>, prepared: &Prepared) -> bool {
        let types = &self.view.types;
        let is_moved = types.has_moved() && shard.is_none_or(|shard| types.moved(shard).is_some());
        is_moved && !prepared.oid_columns.get().is_some_and(OidColumns::is_empty)
    }

    /// A Bind's result formats, where rows may have to be looked into.
    pub(super) fn kept_formats(&self, formats: &[i16]) -> ResultFormats {
        if self.view.types.has_moved() { ResultFormats::of(formats) } else { ResultFormats::Text }
    }

    /// Puts the client's OIDs into a message of a backend's answer to a statement on several shards, or of the proxy's own.
    pub(super) async fn translate(&mut self, idx: usize, tag: u8, message: &mut BytesMut) {
        if !tells_types(tag) {
            return;
        }
        let mut unknown = Unknown::Tell;
        loop {
            let Self { view, enlisted, .. } = self;
            let held = &mut enlisted[idx];
            let Some(types) = view.types.of(held.lease.shard) else { return };
            let reading = Reading { types: Some(types), unknown, is_extended: false };
            if held.answers.take(message, reading).is_ok() {
                return;
            }
            self.read_types_again().await;
            unknown = Unknown::Replace;
        }
    }

    /// What translates rows that one shard sends without a description.
    pub(super) fn row_oids(&self, shard: ShardId, body: &[u8], formats: &[i16]) -> Option<RowOids> {
        let types = self.view.types.moved(shard)?;
        RowOids::new(&OidColumns::of(body, types), formats, types)
    }

    /// Refuses binary values with OIDs of an engine of which nothing is known.
    ///
    /// # Errors
    /// TL086.
    pub(super) fn check_engine_types(&self, engine: ShardId, body: &[u8], formats: &[i16]) -> Result<(), Failure> {
        if self.view.topology.shards.get(engine.index()).is_some() || formats.iter().all(|format| *format == 0) {
            return Ok(());
        }
        let all = columns(body).unwrap_or_default();
        let mut binary = all.iter().enumerate().filter(|(idx, _)| format_of(formats, *idx) == 1);
        if !binary.any(|(_, column)| self.view.types.holds_oids(column.type_oid)) {
            return Ok(());
        }
        Err(Failure::refused(
            "TL086",
            "arrays and rows of a user's types cannot be returned in binary form by a dedicated engine",
            "Ask for the column in text form, or cast it to text.",
        ))
    }

    /// The shard's OIDs of parameter types.
    pub(super) fn parameter_types<'a>(&self, shard: ShardId, types: &'a [TypeOid]) -> Cow<'a, [TypeOid]> {
        self.view.types.of(shard).map_or(Cow::Borrowed(types), |map| map.parameters(types))
    }

    /// Makes sure that a shard has the types that parameters were given.
    ///
    /// # Errors
    /// XX000 for an OID that the home does not have either, as Postgres has it; TL086 for one that only the home has, or the
    /// client's own transaction.
    pub(super) async fn check_parameter_types(&mut self, shard: ShardId, types: &[TypeOid]) -> Result<(), Failure> {
        if types.iter().all(|oid| *oid < FIRST_OWN_OID) {
            return Ok(());
        }
        let lacks = |this: &Self| {
            let map = this.view.types.of(shard)?;
            types.iter().copied().find(|oid| map.from_home(*oid).is_none())
        };
        if lacks(self).is_none() {
            return Ok(());
        }
        self.read_types_again().await;
        let Some(oid) = lacks(self) else { return Ok(()) };
        if !self.view.types.knows(oid) && !self.has_changed_catalog() {
            // src/backend/utils/cache/lsyscache.c, `getTypeOutputInfo` and its kin.
            let message = format!("cache lookup failed for type {oid}");
            return Err(Failure::client(Report::new(SqlState::INTERNAL_ERROR, message)));
        }
        Err(Failure::refused(
            "TL086",
            format!("shard \"{}\" has no type for OID {oid} yet", self.view.topology.shard_name(shard)),
            "Commit the transaction that creates the type, or give the parameter no type and a value in text form.",
        ))
    }

    /// The shard whose catalog all sessions see: the home, or while it is down another. One whose types have other OIDs is not
    /// asked for types: clients keep what they read.
    pub(super) fn catalog_shard(&self, sql: &str) -> ShardId {
        let home = self.view.topology.home_shard();
        let lives = |shard: &ShardId| self.database.board.reader_of(*shard).is_some();
        if lives(&home) {
            return home;
        }
        let reads_types = self.view.types.has_moved() && reads_types(sql.as_bytes(), self.plan_settings.has_standard_strings);
        let is_like_home = |shard: &ShardId| !reads_types || self.view.types.moved(*shard).is_none();
        self.view.topology.shard_ids().find(|shard| lives(shard) && is_like_home(shard)).unwrap_or(home)
    }

    /// Reads the catalogs again for a type that is not known. One that the client's own transaction makes is in none yet.
    pub(super) async fn read_types_again(&mut self) {
        if self.has_changed_catalog() {
            return;
        }
        if let Err(error) = self.database.refresh_types().await {
            tracing::warn!(database = self.database.name, %error, "the types could not be read again");
        }
        self.renew_view();
    }
}

/// Whether a statement may tell OIDs of types.
fn reads_types(sql: &[u8], has_standard_strings: bool) -> bool {
    let may_tell = |token: Token| {
        let word = token.text(sql).to_ascii_lowercase();
        let is_one_of = |names: &[&str]| names.iter().any(|name| word == name.as_bytes());
        word.starts_with(b"reg")
            || is_one_of(&[
                "pg_type",
                "pg_typeof",
                "pg_attribute",
                "pg_enum",
                "pg_range",
                "pg_class",
                "pg_proc",
                "pg_cast",
                "oid",
            ])
    };
    tokens(sql, has_standard_strings).filter(|token| token.kind == TokenKind::Word).any(may_tell)
}
