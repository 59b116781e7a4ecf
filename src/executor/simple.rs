//! The simple protocol: one string, one or several statements, one ReadyForQuery.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Instant;

use super::Conversation;
use super::conversation::SchemaChange;
use super::cursor::Spoken;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::Description;
use super::relay::Ready;
use super::templates::CachedTemplate;
use crate::observe::{ErrorKind, Route, StatementTimer};
use crate::plan::{Access, Params, Plan};
use crate::session::depth::{MAX_CHAIN, is_too_deep};
use crate::session::transaction::Phase;
use crate::session::unpooled::Leftover;
use crate::session::wire;
use crate::sql::{Classified, Command, UtilityKind, fingerprint_of_only, split_statements};
use crate::sqlstate::{Report, SqlState};

/// One statement of a simple query.
#[derive(Debug, Clone, Copy)]
struct Told<'a> {
    /// Without the semicolon: what is planned.
    text: &'a str,
    /// As it came, or with as many characters before it: what one shard is sent, so that the server's words and positions fit.
    verbatim: &'a str,
}

impl Conversation {
    /// Answers one Query message, ReadyForQuery included. The answer is in the client's output or on its way.
    ///
    /// # Errors
    /// Only what ends the session.
    pub async fn simple_query(&mut self, sql: &[u8]) -> Result<(), Failure> {
        self.begin_statement();
        self.tell_anew = None;
        self.forget_unnamed().await;
        let outcome = match self.run_string(sql).await {
            // What was begun by a pipeline without its Sync ends here.
            Ok(_) if self.transaction.phase == Phase::Implicit => Box::pin(self.commit()).await.map(|()| false),
            outcome => outcome,
        };
        let is_ready = match outcome {
            Ok(is_ready) => is_ready,
            Err(failure) => {
                Box::pin(self.fail(failure)).await?;
                false
            }
        };
        self.check_tie()?;
        if !is_ready {
            self.say_ready();
        }
        Ok(())
    }

    /// A simple query takes the place of the unnamed statement and the unnamed portal.
    async fn forget_unnamed(&mut self) {
        self.statements.remove(b"");
        self.portals.remove(b"");
        self.close_own(b"").await;
    }

    /// Answers a message that is to be run alone and cannot be read.
    ///
    /// # Errors
    /// Only what ends the session.
    pub async fn refuse_malformed(&mut self, message: &str) -> Result<(), Failure> {
        Box::pin(self.fail(Failure::client(Report::new(SqlState::PROTOCOL_VIOLATION, message)))).await?;
        self.say_ready();
        Ok(())
    }

    async fn run_string(&mut self, sql: &[u8]) -> Result<bool, Failure> {
        self.settle_temporaries().await?;
        let text = match std::str::from_utf8(sql) {
            Ok(text) => self.readable(text)?,
            Err(_) if self.is_utf8 || self.view.topology.only_shard().is_some() => {
                return Box::pin(self.run_foreign_text(sql)).await;
            }
            Err(_) => return Err(unreadable()),
        };
        self.settle_schema(sql).await?;
        if let Some(end) = fingerprint_of_only(sql, self.plan_settings.has_standard_strings, &mut self.fingerprint) {
            return self.run_one(Told { text: &text[..end], verbatim: text }, Ready::Relay).await;
        }
        match split_statements(sql, self.plan_settings.has_standard_strings).as_slice() {
            [] => {
                wire::bare(&mut self.client.output, b'I');
                Ok(false)
            }
            statements => Box::pin(self.run_several(text, statements)).await,
        }
    }

    /// The text as planning reads it.
    ///
    /// # Errors
    /// 54001 for a tree too deep to be walked; 0A000 for text in another encoding than UTF-8 where keys may be in it: their hash would be of other bytes.
    pub(super) fn planning_text<'a>(&self, sql: &'a [u8]) -> Result<Cow<'a, str>, Failure> {
        match std::str::from_utf8(sql) {
            Ok(text) => self.readable(text).map(Cow::Borrowed),
            // One shard has all keys: what stands in them is the server's to read.
            Err(_) if self.view.topology.only_shard().is_some() => {
                let text = outline(sql);
                self.readable(&text)?;
                Ok(Cow::Owned(text))
            }
            Err(_) => Err(unreadable()),
        }
    }

    /// The same for text that is UTF-8 by its bytes.
    fn readable<'a>(&self, text: &'a str) -> Result<&'a str, Failure> {
        if is_too_deep(text.as_bytes(), self.plan_settings.has_standard_strings) {
            let message = format!("an expression has more than {MAX_CHAIN} operators in a row");
            let report = Report::new(SqlState::STATEMENT_TOO_COMPLEX, message).with_hint("Use IN, = ANY or a join with VALUES.");
            return Err(Failure::client(report));
        }
        let has_one_reading = self.is_utf8 || self.view.topology.only_shard().is_some() || text.is_ascii();
        if has_one_reading { Ok(text) } else { Err(unreadable()) }
    }

    /// A string that is no UTF-8. In a session of UTF-8 any server refuses it; the one shard of a database gets it as it came,
    /// unless a command is in it that the proxy would have to read.
    async fn run_foreign_text(&mut self, sql: &[u8]) -> Result<bool, Failure> {
        self.check_not_failed()?;
        let mut leftover = Leftover::NOTHING;
        if !self.is_utf8 {
            let text = outline(sql);
            self.planning_text(text.as_bytes())?;
            for range in split_statements(sql, self.plan_settings.has_standard_strings) {
                let cached = self.template(&text[range.clone()])?;
                self.check_leftover(cached.leftover)?;
                leftover = leftover.and(cached.leftover);
                if matches!(cached.template.class(), Classified::Command(_)) {
                    return Err(unreadable());
                }
            }
        }
        let shard = self.any_shard();
        self.forward((shard, Access::Write), sql, leftover, Ready::Relay).await
    }

    /// Several statements of one string are one implicit transaction. When one shard answers them all, it gets the string.
    async fn run_several(&mut self, text: &str, statements: &[Range<usize>]) -> Result<bool, Failure> {
        if let Some((plan, leftover)) = self.common_route(text, statements)? {
            return self.run_plan(Told { text, verbatim: text }, plan, leftover, Ready::Relay).await;
        }
        self.check_grammar(text, statements).await?;
        for range in statements {
            // COMMIT and ROLLBACK in the string end a transaction: what follows has one of its own.
            if self.transaction.phase == Phase::Idle {
                self.transaction.begin(Phase::Implicit, "", &self.settings);
            }
            self.settle_temporaries().await?;
            let statement = &text[range.clone()];
            self.settle_schema(statement.as_bytes()).await?;
            let verbatim = in_place(text, range);
            self.take_fingerprint(statement);
            self.began = Instant::now();
            self.run_one(Told { text: statement, verbatim: &verbatim }, Ready::Swallow).await?;
        }
        if self.transaction.phase == Phase::Implicit {
            Box::pin(self.commit()).await?;
        }
        Ok(false)
    }

    /// The route that all statements share, if each has one and none is for the session.
    fn common_route(&mut self, text: &str, statements: &[Range<usize>]) -> Result<Option<(Plan, Leftover)>, Failure> {
        if self.transaction.phase != Phase::Idle || self.tells_routes() {
            return Ok(None);
        }
        let mut common: Option<Plan> = None;
        let mut leftover = Leftover::NOTHING;
        for range in statements {
            let Ok(cached) = self.template(&text[range.clone()]) else { return Ok(None) };
            if self.changes_temporaries(cached.template.class(), cached.leftover) {
                return Ok(None);
            }
            self.check_leftover(cached.leftover)?;
            leftover = leftover.and(cached.leftover);
            let plan = match self.bind(&cached, &text[range.clone()], Params::default()) {
                Ok(plan @ (Plan::Route { .. } | Plan::AnyOne { .. })) if !is_ddl(cached.template.class()) => plan,
                _ => return Ok(None),
            };
            common = match (common, plan) {
                (None, plan) => Some(plan),
                (Some(common), plan) => match join_routes(&common, &plan) {
                    None => return Ok(None),
                    joined => joined,
                },
            };
        }
        Ok(common.map(|plan| (plan, leftover)))
    }

    /// Runs one statement, whose fingerprint was taken last. True if ReadyForQuery is already with the client.
    async fn run_one(&mut self, told: Told<'_>, ready: Ready) -> Result<bool, Failure> {
        let sql = told.text;
        let cached = match self.fresh_template_of(sql).await {
            Ok(cached) => cached,
            Err(_) if self.transaction.phase == Phase::Failed => return Box::pin(self.refuse_failed(told, ready)).await,
            Err(refusal) => {
                let _timer = StatementTimer::start(self.database.counters.clone(), Route::Refused, self.began);
                return Err(Box::pin(self.unparsed(told.verbatim, refusal)).await);
            }
        };
        if self.transaction.phase == Phase::Failed && !ends_transaction(cached.template.class()) {
            return Box::pin(self.refuse_failed(told, ready)).await;
        }
        self.check_leftover(cached.leftover)?;
        let plan = if cached.template.depends_on_params() {
            // A simple query has none: any server says so.
            Plan::AnyOne { access: Access::Read }
        } else {
            self.bind(&cached, sql, Params::default())?
        };
        if cached.is_plain() {
            return self.run_plan(told, plan, Leftover::NOTHING, ready).await;
        }
        self.note_schema_change(cached.template.class(), sql);
        if is_utility(cached.template.class()) {
            self.timer.exempt();
        }
        let plan = self.placed_cursor(plan, &cached)?;
        self.run_plan(told, plan, cached.leftover, ready).await
    }

    /// Refuses a statement of a failed transaction: by the server that let it fail, which looks at the syntax first.
    async fn refuse_failed(&mut self, told: Told<'_>, ready: Ready) -> Result<bool, Failure> {
        match self.block.failed_on {
            Some(shard) if self.index_of(shard).is_some() => {
                self.forward((shard, Access::Read), told.verbatim.as_bytes(), Leftover::NOTHING, ready).await
            }
            _ => Err(self.failed_already(told.verbatim).await),
        }
    }

    /// A DECLARE on one shard, with the shard remembered: statements about the cursor go there.
    ///
    /// # Errors
    /// 42P03.
    pub(super) fn placed_cursor(&mut self, plan: Plan, cached: &CachedTemplate) -> Result<Plan, Failure> {
        let Classified::Command(Command::Declare { name, is_with_hold }) = cached.template.class() else { return Ok(plan) };
        let shard = match &plan {
            Plan::Route { shard, .. } => *shard,
            Plan::AnyOne { .. } => self.any_shard(),
            _ => return Ok(plan),
        };
        self.note_cursor(name, *is_with_hold, shard)?;
        Ok(Plan::Route { shard, access: Access::Write })
    }

    async fn run_plan(&mut self, told: Told<'_>, plan: Plan, leftover: Leftover, ready: Ready) -> Result<bool, Failure> {
        let mut timer = StatementTimer::start(self.database.counters.clone(), route_label(&plan), self.began);
        let outcome = match plan {
            Plan::Route { shard, access } => self.forward((shard, access), told.verbatim.as_bytes(), leftover, ready).await,
            Plan::AnyOne { access } => {
                let shard = Box::pin(self.any_live_shard(access)).await?;
                self.forward((shard, access), told.verbatim.as_bytes(), leftover, ready).await
            }
            Plan::Command(command) => Box::pin(self.run_command(&command, told.text, ready)).await,
            Plan::Cursor(plan) => {
                Box::pin(self.declare(told.text, &plan, (&BoundValues::none(), Spoken::Simple))).await.map(|()| false)
            }
            plan => Box::pin(self.run_many(told.text, &plan, &BoundValues::none(), Description::Send)).await.map(|()| false),
        };
        timer.ended = self.released_at.take();
        outcome
    }

    /// What a statement may change of the schema. Of a single shard only its code is known, and to be read again.
    pub(super) fn schema_change_of(&self, class: &Classified, sql: &str) -> SchemaChange {
        const CODE: [&str; 5] = ["function", "procedure", "trigger", "extension", "routine"];
        let makes_code = || {
            let text = sql.to_ascii_lowercase();
            CODE.iter().any(|word| text.contains(word))
        };
        match is_ddl(class) {
            false => SchemaChange::None,
            true if self.view.topology.only_shard().is_none() || makes_code() => SchemaChange::Catalog,
            true => SchemaChange::Statements,
        }
    }

    /// Runs a plan of several shards. A write outside a transaction gets one of its own, committed before its tag is told.
    pub(super) async fn run_many(
        &mut self,
        sql: &str,
        plan: &Plan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let is_write = plan.writes_several();
        let is_own = is_write && self.transaction.phase == Phase::Idle;
        if is_own {
            self.transaction.begin(Phase::Implicit, "", &self.settings);
        }
        match plan {
            Plan::Merge(_) | Plan::Combine(_) | Plan::Gather(_) => self.run_rows(sql, plan, values, description).await?,
            Plan::Insert(plan) => self.run_insert(plan, values).await?,
            Plan::Everywhere { shards } => self.run_everywhere(sql, *shards, values, description).await?,
            Plan::CopyIn(plan) => self.copy_in_many(sql.as_bytes(), plan).await?,
            Plan::CopyOut(plan) => self.copy_out(sql, plan).await?,
            Plan::Explain(plan) => Box::pin(self.run_explain(sql, plan, values, description)).await?,
            Plan::Route { .. } | Plan::AnyOne { .. } | Plan::Command(_) | Plan::Cursor(_) => {
                let report = Report::new(SqlState::INTERNAL_ERROR, "a plan of one shard among those of many");
                return Err(Failure::statement(report, ErrorKind::Client));
            }
        }
        if is_own {
            return self.commit_before_tag().await;
        }
        if self.transaction.phase == Phase::Idle {
            self.release();
        }
        Ok(())
    }

    /// Commits while the statement's CommandComplete is still held back: after a failure the client must not see it.
    async fn commit_before_tag(&mut self) -> Result<(), Failure> {
        let held_back = self.client.output.split();
        let outcome = Box::pin(self.commit()).await;
        if outcome.is_ok() {
            let since = std::mem::replace(&mut self.client.output, held_back);
            self.client.output.extend_from_slice(&since);
        }
        outcome
    }
}

/// Strings up to this length, in bytes, have their statements sent in their place among blanks.
const MAX_PADDED_LEN: usize = 64 * 1024;

/// A statement of a string, with blanks for what stands before it: positions in errors count from the string's begin.
fn in_place<'a>(text: &'a str, range: &Range<usize>) -> Cow<'a, str> {
    let statement = &text[range.clone()];
    if range.start == 0 || text.len() > MAX_PADDED_LEN {
        return Cow::Borrowed(statement);
    }
    Cow::Owned(" ".repeat(text[..range.start].chars().count()) + statement)
}

pub(super) fn unreadable() -> Failure {
    Failure::refused(
        "TL095",
        "a statement with other than ASCII characters must be in UTF-8 to be routed",
        "SET client_encoding TO 'UTF8'.",
    )
}

/// Text of the same length with a letter for every byte that is not ASCII: enough to tell statements apart.
fn outline(sql: &[u8]) -> String {
    sql.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { 'x' }).collect()
}

fn join_routes(a: &Plan, b: &Plan) -> Option<Plan> {
    let strongest = |a: Access, b: Access| if a == Access::Write { a } else { b };
    match (a, b) {
        (Plan::AnyOne { access: a }, Plan::AnyOne { access: b }) => Some(Plan::AnyOne { access: strongest(*a, *b) }),
        (Plan::Route { shard, access: a }, Plan::AnyOne { access: b })
        | (Plan::AnyOne { access: a }, Plan::Route { shard, access: b }) => {
            Some(Plan::Route { shard: *shard, access: strongest(*a, *b) })
        }
        (Plan::Route { shard: x, access: a }, Plan::Route { shard: y, access: b }) if x == y => {
            Some(Plan::Route { shard: *x, access: strongest(*a, *b) })
        }
        _ => None,
    }
}

/// Whether a statement may change the schema.
pub(super) fn is_ddl(class: &Classified) -> bool {
    matches!(
        class,
        Classified::Utility {
            kind: UtilityKind::Ddl
                | UtilityKind::NonTransactional
                | UtilityKind::Procedure
                | UtilityKind::CreateTableAs { is_temporary: false },
            ..
        }
    )
}

/// Whether a statement may take any time: `query.timeout` is for queries.
pub(super) fn is_utility(class: &Classified) -> bool {
    matches!(class, Classified::Utility { .. })
}

/// Whether a statement is allowed in a failed transaction.
pub(super) fn ends_transaction(class: &Classified) -> bool {
    matches!(
        class,
        Classified::Command(Command::Commit { .. } | Command::Rollback { .. } | Command::RollbackTo { .. }) | Classified::Empty
    )
}

/// The metric label of a plan.
pub(super) fn route_label(plan: &Plan) -> Route {
    match plan {
        Plan::Route { .. } => Route::Single,
        Plan::AnyOne { .. } => Route::AnyOne,
        Plan::Merge(_) => Route::Merge,
        Plan::Combine(_) => Route::Combine,
        Plan::Gather(_) => Route::Gather,
        Plan::Insert(_) => Route::Insert,
        Plan::Everywhere { .. } => Route::Everywhere,
        Plan::CopyIn(_) | Plan::CopyOut(_) => Route::Copy,
        Plan::Cursor(plan) => route_label(&plan.rows),
        Plan::Explain(explain) => route_label(&explain.plan),
        Plan::Command(_) => Route::Command,
    }
}
