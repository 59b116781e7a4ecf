//! The check of the proxy's own answers: a share of what merge and combine answer is run again over gathered rows.
//!
//! Both runs read the shards in one transaction of REPEATABLE READ. An answer is compared as a set of rows: the order of equal keys
//! is nobody's promise. Where LIMIT or OFFSET may choose among equal rows, only their number is compared; an average or a sum of
//! floating point is compared as being there, because its last digits depend on the order of addition.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use twox_hash::XxHash3_64;

use super::Conversation;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::Description;
use crate::observe::CheckOutcome;
use crate::plan::Plan;
use crate::session::row_description::columns;
use crate::session::transaction::Phase;
use crate::session::wire::{self, HEADER_LEN};
use crate::sql::Fingerprint;

/// What is remembered of the checks of one database.
#[derive(Debug, Default)]
pub struct SelfCheck {
    n_seen: AtomicU64,
    has_disabled: AtomicBool,
    /// Fingerprints of statements whose answers differed.
    disabled: Mutex<HashSet<u64>>,
}

impl SelfCheck {
    /// Whether the next answer is of the share that is checked.
    fn is_due(&self, ratio: f64) -> bool {
        if ratio <= 0.0 {
            return false;
        }
        let n_seen = self.n_seen.fetch_add(1, Ordering::Relaxed);
        ((n_seen + 1) as f64 * ratio).floor() > (n_seen as f64 * ratio).floor()
    }

    fn is_disabled(&self, shape: impl FnOnce() -> u64) -> bool {
        self.has_disabled.load(Ordering::Relaxed)
            && self.disabled.lock().unwrap_or_else(PoisonError::into_inner).contains(&shape())
    }

    fn disable(&self, shape: u64) {
        self.disabled.lock().unwrap_or_else(PoisonError::into_inner).insert(shape);
        self.has_disabled.store(true, Ordering::Relaxed);
    }

    /// Forgets which statements differed: after a reload each may prove itself again.
    pub fn enable_all(&self) {
        self.disabled.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.has_disabled.store(false, Ordering::Relaxed);
    }
}

/// Rows in whatever order.
#[derive(Debug, PartialEq, Eq)]
struct Digest {
    n_rows: u64,
    sum: u64,
}

/// What is left out of a comparison.
#[derive(Debug)]
struct Leniency {
    counts_only: bool,
    /// Columns that are compared as being NULL or not.
    inexact: Vec<bool>,
}

impl Conversation {
    /// Runs a merge or combine plan, checked if it is due, and over gathered rows if its kind has been found to differ.
    ///
    /// # Errors
    /// Those of the plan. What befalls the check is not the client's to know.
    pub(super) async fn run_read(
        &mut self,
        sql: &str,
        plan: &Plan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let database = std::sync::Arc::clone(&self.database);
        if database.self_check.is_disabled(|| self.shape_of(sql)) {
            let failure = Failure::refused(
                "TL087",
                "statements of this kind were found to be answered otherwise than over gathered rows",
                "See the proxy's log; RELOAD has them tried again.",
            );
            return self.gather_instead(sql, values, description, failure).await;
        }
        if self.may_be_partial(plan) {
            return Box::pin(self.run_partially(sql, plan, values, description)).await;
        }
        // In a transaction of the client's, what others commit between the two runs could be told for a difference.
        let may_check = self.transaction.phase == Phase::Idle && self.converted_encoding().is_none();
        if !may_check || !database.self_check.is_due(database.query.self_check_ratio) {
            return self.answer_read(sql, plan, values, description).await.map(drop);
        }
        // The whole answer is then in the client's output, if it fits.
        self.client.flush().await?;
        self.transaction.begin(Phase::Implicit, "ISOLATION LEVEL REPEATABLE READ, READ ONLY", &self.settings);
        let was_gathered = self.answer_read(sql, plan, values, description).await?;
        let outcome = if was_gathered { CheckOutcome::Skipped } else { self.check(sql, plan, values).await? };
        database.counters.count_self_check(outcome);
        match outcome {
            CheckOutcome::Equal => self.commit().await,
            CheckOutcome::Skipped | CheckOutcome::Differs => self.roll_back().await,
        }
    }

    /// Runs the plan, and where its types make it inexact, the statement over gathered rows: whether that was so.
    pub(super) async fn answer_read(
        &mut self,
        sql: &str,
        plan: &Plan,
        values: &BoundValues,
        description: Description,
    ) -> Result<bool, Failure> {
        let outcome = match plan {
            Plan::Merge(plan) => self.run_merge(plan, values, description).await,
            Plan::Combine(plan) => self.run_combine(sql, plan, values, description).await,
            _ => Ok(()),
        };
        match outcome {
            Err(failure) if failure.is_inexact() => self.gather_instead(sql, values, description, failure).await.map(|()| true),
            outcome => outcome.map(|()| false),
        }
    }

    /// Compares the answer in the client's output with that over gathered rows, of which the client sees nothing.
    async fn check(&mut self, sql: &str, plan: &Plan, values: &BoundValues) -> Result<CheckOutcome, Failure> {
        let leniency = self.leniency(sql, plan, values).await;
        let Some(answer) = Digest::of(&self.client.output, &leniency) else { return Ok(CheckOutcome::Skipped) };
        let Some(gather) = self.gather_plan(sql, values) else { return Ok(CheckOutcome::Skipped) };
        let n_before = self.client.output.len();
        match self.run_gather(sql, &gather, values, Description::Keep).await {
            Ok(()) => {}
            Err(failure @ (Failure::Client(_) | Failure::Ended | Failure::Fatal(_))) => return Err(failure),
            Err(failure) => {
                self.client.output.truncate(n_before);
                tracing::info!(database = %self.database.name, ?failure, "an answer could not be checked over gathered rows");
                return Ok(CheckOutcome::Skipped);
            }
        }
        let again = Digest::of(self.client.output.get(n_before..).unwrap_or_default(), &leniency);
        self.client.output.truncate(n_before);
        let Some(again) = again else { return Ok(CheckOutcome::Skipped) };
        if answer.n_rows == again.n_rows && (leniency.counts_only || answer == again) {
            return Ok(CheckOutcome::Equal);
        }
        let shape = self.shape_of(sql);
        self.database.self_check.disable(shape);
        tracing::error!(
            database = %self.database.name,
            rung = if matches!(plan, Plan::Merge(_)) { "merge" } else { "combine" },
            statement = %format_args!("{shape:016x}"),
            n_rows = answer.n_rows,
            n_rows_gathered = again.n_rows,
            "an answer differs from the same over gathered rows; statements of this kind are gathered until a reload"
        );
        Ok(CheckOutcome::Differs)
    }

    /// The statement's shape: its text without the values of literals.
    fn shape_of(&self, sql: &str) -> u64 {
        Fingerprint::of(sql, self.plan_settings.has_standard_strings).hash
    }

    async fn leniency(&mut self, sql: &str, plan: &Plan, values: &BoundValues) -> Leniency {
        const FLOATS: [u32; 2] = [700, 701];
        match plan {
            Plan::Merge(plan) => Leniency { counts_only: plan.limit.is_some() || plan.offset > 0, inexact: Vec::new() },
            Plan::Combine(plan) => {
                let described = match plan.shards.iter().next() {
                    Some(first) => self.describe(first, sql, &values.param_types).await.ok(),
                    None => None,
                };
                let body = described.and_then(|described| described.row_description);
                let all = body.as_ref().and_then(|body| columns(body)).unwrap_or_default();
                let inexact = all.iter().map(|column| FLOATS.contains(&column.type_oid)).collect();
                // A limit of a grouped SELECT is the engine's: among equal rows it may choose others.
                Leniency { counts_only: has_limit(sql), inexact }
            }
            _ => Leniency { counts_only: true, inexact: Vec::new() },
        }
    }
}

fn has_limit(sql: &str) -> bool {
    let text = sql.to_ascii_lowercase();
    ["limit", "offset", "fetch"].iter().any(|word| text.contains(word))
}

impl Digest {
    /// The rows of whole messages up to a CommandComplete that counts as many; `None`: a part of them has been sent on already.
    fn of(output: &[u8], leniency: &Leniency) -> Option<Self> {
        let (mut rest, mut digest) = (output, Self { n_rows: 0, sum: 0 });
        while let Some(header) = wire::header(rest).ok()? {
            let (message, tail) = rest.split_at_checked(header.len)?;
            rest = tail;
            let body = message.get(HEADER_LEN..)?;
            match header.tag {
                b'D' => {
                    digest.n_rows += 1;
                    digest.sum = digest.sum.wrapping_add(row_hash(body, leniency)?);
                }
                b'C' => {
                    return (wire::tag_count(body)? == digest.n_rows).then_some(digest);
                }
                _ => {}
            }
        }
        None
    }
}

fn row_hash(body: &[u8], leniency: &Leniency) -> Option<u64> {
    if !leniency.inexact.contains(&true) {
        return Some(XxHash3_64::oneshot(body));
    }
    let mut hash = 0_u64;
    for (idx, field) in wire::fields(body)?.into_iter().enumerate() {
        let part = match field {
            None => 1,
            Some(_) if leniency.inexact.get(idx) == Some(&true) => 2,
            Some(bytes) => XxHash3_64::oneshot(bytes),
        };
        hash = hash.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ part;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    #[test]
    fn rows_are_compared_in_any_order_and_only_when_whole() {
        let exact = Leniency { counts_only: false, inexact: Vec::new() };
        let row = |value: u8| message(b'D', &[0, 1, 0, 0, 0, 1, value]);
        let answer = |rows: &[u8], tag: &str| {
            let mut bytes: Vec<u8> = rows.iter().flat_map(|value| row(*value)).collect();
            bytes.extend(message(b'C', format!("{tag}\0").as_bytes()));
            bytes
        };
        let of = |rows: &[u8], tag: &str| Digest::of(&answer(rows, tag), &exact);
        assert_eq!(of(b"ab", "SELECT 2"), of(b"ba", "SELECT 2"));
        assert_ne!(of(b"ab", "SELECT 2"), of(b"aa", "SELECT 2"));
        assert_eq!(of(b"a", "SELECT 2"), None);
        assert_eq!(Digest::of(&row(b'a'), &exact), None);
        let lenient = Leniency { counts_only: false, inexact: vec![true] };
        let rough = |rows: &[u8]| Digest::of(&answer(rows, "SELECT 1"), &lenient);
        assert_eq!(rough(b"a"), rough(b"b"));
    }

    #[test]
    fn the_share_that_is_due_is_the_ratio() {
        let due = |ratio: f64| {
            let check = SelfCheck::default();
            (0..1000).filter(|_| check.is_due(ratio)).count()
        };
        assert_eq!((due(0.0), due(0.01), due(0.25), due(1.0)), (0, 10, 250, 1000));
    }
}
