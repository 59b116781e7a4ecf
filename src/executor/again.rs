//! Reads of several shards that are begun anew: another session's DDL came between, and the client was told nothing yet.

use std::time::Instant;

use super::Conversation;
use super::describe::{are_expected, changed_columns, column_types};
use super::enlist::Tie;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::Description;
use super::own::first_shard;
use crate::observe::ErrorKind;
use crate::plan::{Params, Plan};
use crate::session::transaction::Phase;
use crate::session::wire::{self, HEADER_LEN};
use crate::sqlstate::SqlState;
use crate::topology::TypeOid;

/// How often one read is begun at most.
const MAX_RUNS: usize = 4;

/// Why a read may end better when it is begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It was in a deadlock.
    Deadlock,
    /// The catalog is perhaps not what it was planned by.
    Catalog,
}

impl Cause {
    fn of(failure: &Failure, plan: &Plan) -> Option<Self> {
        let code = failure.sqlstate();
        if code == Some(&SqlState::DEADLOCK_DETECTED.0) {
            return Some(Self::Deadlock);
        }
        let is_outdated = match failure {
            Failure::Statement { kind: ErrorKind::Client, report } => {
                matches!(report.detail.as_deref(), Some("Reason code TL083." | "Reason code TL108."))
            }
            // What the proxy has bound by a description that holds no longer.
            Failure::Shard(_) if code.is_some_and(|code| code.starts_with(b"08P") || code == b"22P03") => true,
            // What it has written itself: an error in the client's own text has no context.
            Failure::Shard(message) => {
                let body = message.get(HEADER_LEN..).unwrap_or_default();
                plan.gathers() && code.is_some_and(|code| code.starts_with(b"42")) && wire::report_field(body, b'W').is_some()
            }
            _ => false,
        };
        is_outdated.then_some(Self::Catalog)
    }
}

impl Conversation {
    /// Runs a plan that reads several shards. One that is a transaction by itself and fails for what others do to its tables is
    /// begun anew, as long as nothing of it is on its way to the client: one server would have had it wait.
    ///
    /// # Errors
    /// Those of the plan.
    pub(super) async fn run_rows(
        &mut self,
        sql: &str,
        plan: &Plan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        if self.transaction.phase != Phase::Idle {
            return self.run_rows_once(sql, plan, values, description).await;
        }
        let began = self.timer.yield_to_others();
        let outcome = self.run_anew(sql, plan, values, description).await;
        self.timer.yield_no_more(began);
        outcome
    }

    async fn run_anew(&mut self, sql: &str, plan: &Plan, values: &BoundValues, description: Description) -> Result<(), Failure> {
        let (n_output, n_flushes) = (self.client.output.len(), self.client.n_flushes());
        let (deadline, version) = (self.timer.deadline(), self.database.schema_version());
        let told = match description {
            Description::Omit => self.known_columns(sql, &values.param_types),
            Description::Send | Description::Keep => None,
        };
        let mut outcome = self.run_rows_once(sql, plan, values, description).await;
        for _ in 1..MAX_RUNS {
            let Err(failure) = &outcome else { break };
            let Some(cause) = Cause::of(failure, plan).filter(|_| self.client.n_flushes() == n_flushes && self.tie == Tie::Whole)
            else {
                break;
            };
            Box::pin(self.give_up_run(cause)).await?;
            if cause == Cause::Catalog && self.database.schema_version() == version || deadline.has_passed(Instant::now()) {
                break;
            }
            let Some(plan) = self.plan_again(sql, values) else { break };
            self.timer.set(deadline);
            let is_told = description == Description::Omit;
            // Data of a COPY goes on from where it was: it is told anew as a whole, or not at all.
            if self.copying.is_some() || is_told && !Box::pin(self.still_has(told.as_deref(), (sql, &plan), values)).await? {
                let is_known = self.copying.is_none() && told.is_some();
                let changed = if is_known { Err(Failure::client(changed_columns())) } else { outcome };
                return if self.tell_anew == Some(n_flushes) { Err(Failure::StalePlan) } else { changed };
            }
            self.client.output.truncate(n_output);
            outcome = self.run_rows_once(sql, &plan, values, description).await;
        }
        outcome
    }

    async fn run_rows_once(
        &mut self,
        sql: &str,
        plan: &Plan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        match plan {
            Plan::Gather(plan) => self.run_gather(sql, plan, values, description).await,
            plan => self.run_read(sql, plan, values, description).await,
        }
    }

    /// Leaves nothing of a run that has failed, and takes what the catalogs say now.
    async fn give_up_run(&mut self, cause: Cause) -> Result<(), Failure> {
        match self.transaction.phase {
            Phase::Implicit => self.roll_back().await?,
            _ => {
                self.settle_pins(false).await;
                self.release();
            }
        }
        if cause == Cause::Catalog {
            self.refresh_stale_schema().await;
        }
        self.renew_view();
        Ok(())
    }

    /// The plan by the catalog of this moment; `None` where it no longer reads several shards.
    pub(super) fn plan_again(&mut self, sql: &str, values: &BoundValues) -> Option<Plan> {
        let cached = self.template(sql).ok()?;
        let (formats, params) = values.params()?;
        let params = Params { types: &values.param_types, formats: &formats, values: &params };
        self.bind(&cached, sql, params).ok().filter(Plan::reads_several)
    }

    /// Whether a statement has the columns that its client was told of.
    async fn still_has(
        &mut self,
        told: Option<&[TypeOid]>,
        (sql, plan): (&str, &Plan),
        values: &BoundValues,
    ) -> Result<bool, Failure> {
        let Some(told) = told else { return Ok(false) };
        let described = self.describe(first_shard(plan), sql, &values.param_types).await?;
        self.release();
        Ok(are_expected(told, &column_types(described)))
    }
}
