//! Portals of the proxy's own: bound, described, executed whole or in portions, closed.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::Conversation;
use super::batch::{Action, Portal, SessionStatement, Target};
use super::conversation::SchemaChange;
use super::cursor::Spoken;
use super::engine::EngineRows;
use super::enlist::Watched;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::Description;
use super::own_settings::{describe_own_setting, is_own_show};
use super::portal::{Form, OpenPortal, Sink};
use super::relay::Ready;
use super::simple::{is_ddl, route_label};
use super::stored::Wanted;
use crate::observe::StatementTimer;
use crate::plan::{Access, CopyRows, Plan};
use crate::session::row_description::{column_types, columns, write_description};
use crate::session::transaction::Phase;
use crate::session::wire;
use crate::sql::{Classified, Command};
use crate::sqlstate::{Report, SqlState};
use crate::topology::{ShardId, ShardSet};

/// How far a portal of the proxy's own has run.
#[derive(Debug)]
pub(super) enum Progress {
    /// Shards have portals of their own for it, with rows left perhaps.
    Open(Box<OpenPortal>),
    /// The engine has one.
    Engine(Box<EngineRows>),
    /// Its statement has run, as a write does whatever the row limit is; these messages are left to be given.
    Kept(BytesMut),
    Done,
}

/// A BindComplete in the client's output that no shard has confirmed yet.
#[derive(Debug)]
pub(super) struct Unbound {
    /// Where it stands, or will.
    pub at: usize,
    pub portal: Bytes,
    /// Of the statement that it is a portal of.
    pub prepared_id: u64,
}

impl Conversation {
    /// Makes of a failure that came before a shard has bound the portal the one of its Bind: the client sees no BindComplete, and
    /// a context that names its own portal.
    pub(super) fn fail_bind(&mut self, unbound: &Unbound, failure: Failure) -> Failure {
        self.client.output.truncate(unbound.at);
        match failure {
            Failure::Shard(message) => {
                let portal = String::from_utf8_lossy(&unbound.portal);
                let name = if portal.is_empty() { "unnamed portal".to_owned() } else { format!("portal \"{portal}\"") };
                let mut renamed = BytesMut::with_capacity(message.len());
                wire::report_with_portal(&mut renamed, message.get(wire::HEADER_LEN..).unwrap_or_default(), &name);
                Failure::Shard(self.with_clients_statement(unbound, renamed))
            }
            failure => failure,
        }
    }

    /// The same, about the statement by the client's name: shards have it as their unnamed one.
    fn with_clients_statement(&self, unbound: &Unbound, message: BytesMut) -> BytesMut {
        const UNNAMED: &str = "prepared statement \"\"";
        let body = message.get(wire::HEADER_LEN..).unwrap_or_default();
        let text = wire::report_field(body, b'M').map(String::from_utf8_lossy).filter(|text| text.contains(UNNAMED));
        let name = self.statements.name_of(unbound.prepared_id);
        let (Some(text), Some(name)) = (text, name) else { return message };
        let text = text.replacen(UNNAMED, &format!("prepared statement \"{name}\""), 1);
        let mut renamed = BytesMut::with_capacity(message.len());
        wire::report_with_message(&mut renamed, body, &text);
        renamed
    }

    /// Answers the Bind of a portal of the proxy's own. Where the next action does not run it at once, the shards are asked now:
    /// they look at the values, and the portal sees the rows of this moment.
    pub(super) async fn bind_own(&mut self, name: &Bytes, portal: &Portal, next: &[Action]) -> Result<(), Failure> {
        self.close_own(name).await;
        let Target::Own { plan, values } = &portal.target else { return Ok(()) };
        let is_read = plan.reads_several();
        let is_opened = is_read && !is_run_next(name, next);
        if is_opened || (is_run_next(name, next) && answers_bind(plan)) {
            self.unbound =
                Some(Unbound { at: self.client.output.len(), portal: name.clone(), prepared_id: portal.statement.prepared.id });
        }
        if is_read && values.result_formats.len() > 1 {
            self.check_formats(&portal.statement, plan, values).await?;
        }
        if is_opened {
            let open = self.open_own(&portal.statement, plan, values).await?;
            self.portals.progress.insert(name.clone(), open);
            self.unbound = None;
        }
        wire::bare(&mut self.client.output, b'2');
        Ok(())
    }

    /// Shards are asked in formats of the proxy's choice. Where the client's are of other columns than there are, a shard is asked
    /// in them, for its words about the Bind.
    async fn check_formats(&mut self, statement: &SessionStatement, plan: &Plan, values: &BoundValues) -> Result<(), Failure> {
        let (prepared, shard) = (&statement.prepared, first_shard(plan));
        let described = self.describe(shard, &prepared.text, &prepared.param_types).await?;
        let n_columns = described.row_description.as_deref().and_then(columns).map(|columns| columns.len());
        if n_columns.is_none_or(|n_columns| n_columns == values.result_formats.len()) {
            return Ok(());
        }
        let values = BoundValues { param_types: prepared.param_types.clone(), ..values.clone() };
        let asked = self.fan_out(&[(shard, &*prepared.text)], Access::Read, &values, &values.result_formats).await?;
        let mut outcome = Ok(());
        for idx in asked {
            loop {
                match self.next_message(idx, Watched::Client).await? {
                    (b'Z', _) => break,
                    (b'E', message) => outcome = Err(Failure::Shard(message)),
                    _ => {}
                }
            }
        }
        outcome
    }

    /// Executes a portal of the proxy's own, from where it stands.
    pub(super) async fn execute_own(&mut self, name: &Bytes, portal: &Portal, max_rows: i32) -> Result<(), Failure> {
        let Target::Own { plan, values } = &portal.target else { return Ok(()) };
        let max_rows = u64::try_from(max_rows).unwrap_or(0);
        match self.portals.progress.insert(name.clone(), Progress::Done) {
            Some(Progress::Done) => self.run_again(name, portal, plan).await,
            Some(open @ (Progress::Open(_) | Progress::Engine(_))) => self.run_portion(name, open, max_rows).await,
            Some(Progress::Kept(kept)) => {
                self.give_kept(name, kept, max_rows);
                Ok(())
            }
            None if max_rows > 0 && plan.reads_several() => {
                let _timer = StatementTimer::start(self.database.counters.clone(), route_label(plan), Instant::now());
                let open = self.open_own(&portal.statement, plan, values).await?;
                self.run_portion(name, open, max_rows).await
            }
            None => {
                let mark = self.client.output.len();
                // An answer that is to be given in portions stays in the output until it is whole.
                let description = if max_rows > 0 { Description::Keep } else { Description::Omit };
                if max_rows > 0 && matches!(**plan, Plan::Command(Command::Execute { .. })) {
                    match self.open_named(&portal.statement.prepared.text, values).await? {
                        Ok(open) => return self.run_portion(name, open, max_rows).await,
                        Err(named) => {
                            let wanted = Wanted { description, result_formats: &values.result_formats };
                            self.run_named(named, wanted, Ready::Swallow).await?;
                        }
                    }
                } else {
                    self.run_whole(&portal.statement, (plan, description), values).await?;
                }
                let mark = self.behind_notices(mark);
                let has_rows =
                    matches!(**plan, Plan::Command(Command::Fetch { .. } | Command::Execute { .. } | Command::Show { .. }));
                let is_kept = matches!(**plan, Plan::Everywhere { .. } | Plan::Explain(_)) || (max_rows > 0 && has_rows);
                if is_kept && self.client.output.get(mark) == Some(&b'D') {
                    let answer = self.client.output.split_off(mark);
                    self.give_kept(name, answer, max_rows);
                }
                Ok(())
            }
        }
    }

    /// The place in the output behind the notices that stand at `mark`.
    fn behind_notices(&self, mut mark: usize) -> usize {
        while let Some(Ok(Some(header))) = self.client.output.get(mark..).map(wire::header)
            && header.tag == b'N'
        {
            mark += header.len;
        }
        mark
    }

    /// Gives up what the shards hold for a portal: with the next statement that they get.
    pub(super) async fn close_own(&mut self, name: &[u8]) {
        match self.portals.take_progress(name) {
            Some(Progress::Open(open)) => self.close_portal(&open),
            Some(Progress::Engine(rows)) => Box::pin(self.end_rows_on_engine(*rows)).await,
            Some(Progress::Kept(_) | Progress::Done) | None => {}
        }
    }

    /// Gives up all that the engine holds for portals: their transaction ends.
    pub(super) async fn close_all_on_engine(&mut self) {
        for progress in std::mem::take(&mut self.portals.progress).into_values() {
            if let Progress::Engine(rows) = progress {
                self.end_rows_on_engine(*rows).await;
            }
        }
    }

    async fn run_portion(&mut self, name: &Bytes, open: Progress, max_rows: u64) -> Result<(), Failure> {
        match open {
            Progress::Open(mut open) => {
                let n_rows = self.fetch_portion(&mut open, max_rows, Sink::Client).await?;
                if max_rows > 0 && n_rows == max_rows {
                    wire::bare(&mut self.client.output, b's');
                    self.portals.progress.insert(name.clone(), Progress::Open(open));
                    return Ok(());
                }
                wire::command_complete(&mut self.client.output, &wire::with_count(&open.tag, n_rows));
                self.close_portal(&open);
            }
            Progress::Engine(mut rows) => {
                let outcome = self.execute_on_engine(&mut rows, max_rows).await;
                match outcome {
                    Ok(true) => drop(self.portals.progress.insert(name.clone(), Progress::Engine(rows))),
                    outcome => {
                        self.end_rows_on_engine(*rows).await;
                        outcome?;
                    }
                }
            }
            Progress::Kept(_) | Progress::Done => {}
        }
        Ok(())
    }

    /// Gives so many rows of an answer that is there already, and keeps the rest. Of an answer in portions each tag counts the
    /// rows that came with it.
    fn give_kept(&mut self, name: &Bytes, mut answer: BytesMut, max_rows: u64) {
        let (mut n_rows, mut end) = (0, 0);
        let mut tag = None;
        while let Ok(Some(header)) = wire::header(&answer[end..]) {
            if max_rows > 0 && n_rows == max_rows && matches!(header.tag, b'D' | b'C') {
                break;
            }
            n_rows += u64::from(header.tag == b'D');
            if header.tag == b'C' {
                tag = Some(end..end + header.len);
            }
            end += header.len;
        }
        let rest = answer.split_off(end.min(answer.len()));
        let Some(tag) = tag else {
            self.client.output.extend_from_slice(&answer);
            wire::bare(&mut self.client.output, b's');
            self.portals.progress.insert(name.clone(), Progress::Kept(rest));
            return;
        };
        let words = answer[tag.start + wire::HEADER_LEN..tag.end - 1].to_vec();
        self.client.output.extend_from_slice(&answer[..tag.start]);
        // SHOW and EXPLAIN do not tell how many rows there were.
        let is_counted = words.last().is_some_and(u8::is_ascii_digit);
        let told = if is_counted { wire::with_count(&words, n_rows) } else { words.clone() };
        wire::command_complete(&mut self.client.output, &told);
        self.client.output.extend_from_slice(&answer[tag.end..]);
        // What returned rows may be run again, for none.
        let mut again = BytesMut::new();
        wire::command_complete(&mut again, &words);
        self.portals.progress.insert(name.clone(), Progress::Kept(again));
    }

    /// Executes a portal of the proxy's own that has run: a SELECT has no more rows, anything else is refused.
    async fn run_again(&mut self, name: &[u8], portal: &Portal, plan: &Plan) -> Result<(), Failure> {
        let returns_rows = match plan {
            plan if plan.reads_several() => true,
            Plan::Command(Command::Execute { .. }) => self.describe_named(&portal.statement.prepared.text).await?.is_some(),
            Plan::Command(Command::Fetch { .. } | Command::Show { .. }) => true,
            _ => false,
        };
        if returns_rows {
            wire::command_complete(&mut self.client.output, b"SELECT 0");
            return Ok(());
        }
        let message = format!("portal \"{}\" cannot be run", String::from_utf8_lossy(name));
        Err(Failure::client(Report::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)))
    }

    pub(super) async fn describe_own(
        &mut self,
        statement: &SessionStatement,
        plan: &Plan,
        values: &BoundValues,
    ) -> Result<(), Failure> {
        let shard = match plan {
            Plan::Merge(plan) => plan.shards.iter().next(),
            Plan::Combine(plan) => plan.shards.iter().next(),
            Plan::Gather(plan) => Some(plan.first_shard()),
            Plan::Everywhere { shards } => shards.iter().next(),
            Plan::Explain(_) => Some(first_shard(plan)),
            _ => None,
        };
        let body = match shard {
            Some(_) if matches!(plan, Plan::Merge(_) | Plan::Combine(_)) => {
                let shards = several_shards(plan);
                self.describe_by_any(shards, &statement.prepared.text, &statement.prepared.param_types).await?.row_description
            }
            Some(shard) => self.describe(shard, &statement.prepared.text, &statement.prepared.param_types).await?.row_description,
            None if matches!(plan, Plan::Command(Command::Execute { .. })) => {
                self.describe_named(&statement.prepared.text).await?
            }
            None => match plan {
                Plan::Command(Command::Show { name }) => Some(describe_own_setting(name)?),
                Plan::Command(Command::Fetch { name }) => self.cursor_columns(name, &statement.prepared.text),
                _ => None,
            },
        };
        match body {
            Some(body) => {
                if let Some(told) = &statement.told {
                    drop(told.columns.set(column_types(&body)));
                }
                write_description(&mut self.client.output, &body, &values.result_formats);
            }
            None => wire::bare(&mut self.client.output, b'n'),
        }
        if self.transaction.phase == Phase::Idle {
            self.release();
        }
        Ok(())
    }

    /// Whether the columns of a prepared statement are known here and not by a server: those of EXECUTE, and of FETCH from a
    /// cursor of the proxy's own.
    pub(super) fn is_described_here(&self, statement: &SessionStatement) -> bool {
        match statement.cached.template.class() {
            Classified::Command(Command::Execute { .. }) => true,
            Classified::Command(Command::Fetch { name }) => self.cursors.is_own(name),
            _ => is_own_show(statement),
        }
    }

    /// Answers Describe of such a statement: it has no parameters.
    pub(super) async fn describe_command(&mut self, statement: &SessionStatement) -> Result<(), Failure> {
        let Classified::Command(command) = statement.cached.template.class() else { return Ok(()) };
        wire::message(&mut self.client.output, b't', |b| b.extend_from_slice(&[0, 0]));
        let plan = Plan::Command(command.clone());
        self.describe_own(statement, &plan, &BoundValues::none()).await
    }

    async fn run_whole(
        &mut self,
        statement: &SessionStatement,
        (plan, description): (&Plan, Description),
        values: &BoundValues,
    ) -> Result<(), Failure> {
        let _timer = StatementTimer::start(self.database.counters.clone(), route_label(plan), Instant::now());
        let sql = &*statement.prepared.text;

        if let Plan::Command(Command::Execute { .. }) = plan {
            let wanted = Wanted { description: Description::Omit, result_formats: &values.result_formats };
            return self.execute_named(sql, wanted, Ready::Swallow).await.map(drop);
        }
        if let Plan::Command(Command::Fetch { name }) = plan
            && self.cursors.is_own(name)
        {
            let wanted = Wanted { description, result_formats: &values.result_formats };
            return self.fetch(name, sql, wanted).await;
        }
        if let Plan::Cursor(plan) = plan {
            let values = self.typed_values(statement, &plan.rows, values).await?;
            return self.declare(sql, plan, (&values, Spoken::Extended)).await;
        }
        if let Plan::Command(Command::Show { name }) = plan {
            return self.show_own(name, Description::Omit);
        }
        if let Plan::Command(command) = plan {
            return self.run_command(command, sql, Ready::Swallow).await.map(drop);
        }
        // Said again: a Describe before it may have taken what was said when it was planned.
        if is_ddl(statement.cached.template.class()) {
            self.block.schema_change = SchemaChange::Catalog;
        }
        let mut values = self.typed_values(statement, plan, values).await?;
        if description == Description::Omit && relays_rows(plan, sql) {
            let (prepared, told) = (&statement.prepared, statement.told.as_ref().and_then(|told| told.columns.get()));
            values.told = told.cloned().or_else(|| self.known_columns(&prepared.text, &prepared.param_types));
        }
        self.run_many(sql, plan, &values, description).await
    }

    async fn open_own(&mut self, statement: &SessionStatement, plan: &Plan, values: &BoundValues) -> Result<Progress, Failure> {
        let values = self.typed_values(statement, plan, values).await?;
        self.open_rows(&statement.prepared.text, plan, &values).await
    }

    /// Opens a portal for the rows of a plan, on the shards or on the engine.
    ///
    /// # Errors
    /// A shard's or the engine's.
    pub(super) async fn open_rows(&mut self, sql: &str, plan: &Plan, values: &BoundValues) -> Result<Progress, Failure> {
        if let Plan::Gather(plan) = plan {
            return Ok(Progress::Engine(Box::new(self.open_on_engine(sql, plan, values).await?)));
        }
        match self.open_portal(sql, plan, (values, Form::Portal)).await {
            Err(failure) if failure.is_inexact() => match self.gather_plan(sql, values) {
                Some(plan) => Ok(Progress::Engine(Box::new(self.open_on_engine(sql, &plan, values).await?))),
                None => Err(failure),
            },
            outcome => Ok(Progress::Open(Box::new(outcome?))),
        }
    }

    /// The values with the types of all parameters: a text that was rewritten may have lost a parameter's only use.
    async fn typed_values(
        &mut self,
        statement: &SessionStatement,
        plan: &Plan,
        values: &BoundValues,
    ) -> Result<BoundValues, Failure> {
        let mut values = values.clone();
        if values.has_values() {
            let shards = match statement.cached.template.describe_shard() {
                Some(shard) => ShardSet::only(shard),
                None => several_shards(plan),
            };
            let prepared = &statement.prepared;
            values.param_types = self.describe_by_any(shards, &prepared.text, &prepared.param_types).await?.param_types;
        }
        Ok(values)
    }
}

/// Whether shards' rows are relayed as they come, in the formats that the client has asked for.
fn relays_rows(plan: &Plan, sql: &str) -> bool {
    match plan {
        Plan::Merge(plan) => plan.n_hidden == 0,
        Plan::Everywhere { .. } => sql.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"returning")),
        _ => false,
    }
}

/// Whether a server says BindComplete when this plan is run.
fn answers_bind(plan: &Plan) -> bool {
    !matches!(plan, Plan::Command(_) | Plan::CopyIn(_) | Plan::CopyOut(_) | Plan::Cursor(_))
}

/// Whether what comes next, but for a Describe, runs this portal.
fn is_run_next(name: &Bytes, next: &[Action]) -> bool {
    let is_description = |action: &&Action| matches!(action, Action::DescribePortal { name: other, .. } if other == name);
    matches!(next.iter().find(|action| !is_description(action)), Some(Action::Execute { name: other, .. }) if other == name)
}

/// Shards that can describe the original of a plan.
fn several_shards(plan: &Plan) -> ShardSet {
    match plan {
        Plan::Merge(plan) => plan.shards,
        Plan::Combine(plan) => plan.shards,
        plan => ShardSet::only(first_shard(plan)),
    }
}

pub(super) fn first_shard(plan: &Plan) -> ShardId {
    let shards = match plan {
        Plan::Merge(plan) => plan.shards,
        Plan::Combine(plan) => plan.shards,
        Plan::Gather(plan) => return plan.first_shard(),
        Plan::Everywhere { shards } => *shards,
        Plan::Insert(plan) => plan.statements.iter().map(|statement| statement.shard).collect(),
        Plan::CopyIn(plan) => plan.shards,
        Plan::CopyOut(plan) => match &plan.rows {
            CopyRows::Each { shards, .. } => *shards,
            CopyRows::Answer { plan, .. } => return first_shard(plan),
        },
        Plan::Cursor(plan) => return first_shard(&plan.rows),
        Plan::Explain(explain) => return first_shard(&explain.plan),
        Plan::Route { shard, .. } => return *shard,
        Plan::AnyOne { .. } | Plan::Command(_) => return ShardId(0),
    };
    shards.iter().next().unwrap_or(ShardId(0))
}
