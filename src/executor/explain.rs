//! EXPLAIN of a statement on several shards: what each shard is asked, its own plan for that, and the final statement; with
//! ANALYZE the statement is run, and what comes from each shard is counted.
//!
//! A read is run twice for ANALYZE: by each shard's own EXPLAIN ANALYZE, and as it would be without EXPLAIN, with its rows thrown
//! away. A write is run once, by the shards' EXPLAIN ANALYZE.

use std::time::{Duration, Instant};

use super::Conversation;
use super::copy_out::Copying;
use super::describe::{column_types, no_columns};
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::{Description, malformed, merge_spec};
use super::own::first_shard;
use super::watch::{Seen, Watch};
use crate::plan::{Access, ExplainPlan, ExplainReport, Figures, Outline, Plan, ShardReport, outline};
use crate::session::row_description::write_description;
use crate::session::transaction::Phase;
use crate::session::wire;
use crate::topology::ShardId;

/// What a run has shown.
struct Measured {
    seen: Vec<Seen>,
    engine: Option<(ShardId, Figures)>,
    total: Figures,
}

impl Conversation {
    /// Answers an EXPLAIN.
    ///
    /// # Errors
    /// A shard's, for options that are none of EXPLAIN's too; with ANALYZE whatever the statement ends with.
    pub(super) async fn run_explain(
        &mut self,
        sql: &str,
        explain: &ExplainPlan,
        values: &BoundValues,
        description: Description,
    ) -> Result<(), Failure> {
        let before = sql.get(..explain.options_end).unwrap_or_default();
        let inner = sql.get(explain.statement_start..).unwrap_or(sql);
        let deadline = self.timer.deadline();
        let described = self.describe(first_shard(&explain.plan), sql, &values.param_types).await?;
        let (plan, finish) = self.exact_plan(inner, &explain.plan, values).await?;
        let has_reference_tables = self.view.topology.dedicated_engine().is_none() && self.transaction.phase == Phase::Idle;
        let outlined = outline(&plan, inner, finish, has_reference_tables, &self.context());
        let outlined = outlined.ok_or_else(|| malformed("a plan that EXPLAIN does not know"))?;
        let access = if explain.plan.writes_several() && explain.options.is_analyze { Access::Write } else { Access::Read };
        let mut shards = self.explain_on_shards(before, &outlined, (access, values)).await?;
        self.timer.set(deadline);
        let mut report = ExplainReport {
            shard_names: outlined.shards.iter().map(|shard| self.view.topology.shard_name(shard).to_owned()).collect(),
            outline: outlined,
            shards: Vec::new(),
            engine: None,
            total: None,
        };
        if explain.options.is_analyze && plan.reads_several() {
            let measured = self.measure(inner, &plan, values).await?;
            let timed = |figures: Figures| Figures { time: figures.time.filter(|_| explain.options.has_timing), ..figures };
            for ((part, shard), told) in &mut shards {
                let seen = measured.seen.iter().find(|seen| seen.part == *part && seen.shard == *shard);
                told.figures = Some(timed(seen.map(figures_of).unwrap_or_default()));
            }
            let engine =
                measured.engine.map(|(engine, figures)| (self.view.topology.shard_name(engine).to_owned(), timed(figures)));
            (report.engine, report.total) = (engine, Some(timed(measured.total)));
        }
        report.shards = shards.into_iter().map(|(_, told)| told).collect();
        if description == Description::Send {
            let body = described.row_description.unwrap_or_else(no_columns);
            write_description(&mut self.client.output, &body, &values.result_formats);
        }
        match report.value(&explain.options.format) {
            Some(value) => wire::text_row(&mut self.client.output, &value),
            None => report.text().iter().for_each(|line| wire::text_row(&mut self.client.output, line)),
        }
        self.complete("EXPLAIN");
        Ok(())
    }

    /// The plan that the statement is run by once types are known, and the final statement of one that combines.
    async fn exact_plan(&mut self, sql: &str, plan: &Plan, values: &BoundValues) -> Result<(Plan, Option<String>), Failure> {
        let outcome = match plan {
            Plan::Merge(merge) if merge.n_hidden > 0 => {
                let described = self.describe(first_shard(plan), &merge.text, &values.param_types).await?;
                merge_spec(merge, &described, self.has_stored_text()).map(|_| None)
            }
            Plan::Combine(combine) => {
                let described = self.describe(first_shard(plan), &combine.text, &values.param_types).await?;
                combine.final_sql(&column_types(described), &self.view.schema).map(Some).map_err(Failure::from)
            }
            _ => Ok(None),
        };
        match outcome {
            Ok(finish) => Ok((plan.clone(), finish)),
            Err(failure) if failure.is_inexact() => match self.gather_plan(sql, values) {
                Some(gather) => Ok((Plan::Gather(gather), None)),
                None => Err(failure),
            },
            Err(failure) => Err(failure),
        }
    }

    /// Has each shard explain what it would get. With each answer the number of its table, as in [`Seen`], and the shard.
    async fn explain_on_shards(
        &mut self,
        before: &str,
        outlined: &Outline,
        (access, values): (Access, &BoundValues),
    ) -> Result<Vec<((usize, ShardId), ShardReport)>, Failure> {
        let deadline = self.timer.deadline();
        let max_bytes = self.max_gather_bytes();
        let (mut told, mut n_bytes) = (Vec::new(), 0);
        // One statement for each shard at a time.
        let rounds: Vec<Vec<_>> = match outlined.rung {
            "insert" => vec![outlined.parts.iter().map(|part| (0, part)).collect()],
            "gather" => outlined.parts.iter().enumerate().map(|(idx, part)| vec![(idx + 1, part)]).collect(),
            _ => outlined.parts.iter().map(|part| vec![(0, part)]).collect(),
        };
        for round in rounds {
            let asked: Vec<_> = round
                .iter()
                .flat_map(|(number, part)| part.shards.iter().map(move |shard| (*number, *part, shard)))
                .map(|(number, part, shard)| (number, part, shard, format!("{before}{}", part.text)))
                .collect();
            let statements: Vec<(ShardId, &str)> = asked.iter().map(|(.., shard, text)| (*shard, text.as_str())).collect();
            self.timer.set(deadline);
            let idxs = self.fan_out(&statements, access, values, &[0]).await?;
            for (&idx, (number, part, shard, _)) in idxs.iter().zip(&asked) {
                let mut plan = Vec::new();
                while let Some(row) = self.next_row(&idxs, idx).await? {
                    n_bytes += row.len() as u64;
                    if n_bytes > max_bytes {
                        self.cancel_and_drain(&idxs).await;
                        return Err(Failure::too_many_bytes("the plans of the shards", max_bytes, "Explain a part of it"));
                    }
                    let line = wire::fields(&row).and_then(|fields| fields.first().copied().flatten()).unwrap_or_default();
                    plan.push(String::from_utf8_lossy(line).into_owned());
                }
                let name = self.view.topology.shard_name(*shard).to_owned();
                let (table, query) = (part.table.clone(), part.text.clone());
                told.push(((*number, *shard), ShardReport { shard: name, table, query, plan, figures: None }));
            }
        }
        Ok(told)
    }

    /// Runs a read and throws its rows away.
    async fn measure(&mut self, sql: &str, plan: &Plan, values: &BoundValues) -> Result<Measured, Failure> {
        if self.transaction.phase == Phase::Idle {
            // Who gathers takes the engine's connection first.
            self.release();
        }
        self.watch = Some(Box::new(Watch::new()));
        self.copying = Some(Box::new(Copying::nothing()));
        let began = Instant::now();
        let outcome = match plan {
            Plan::Gather(plan) => self.run_gather(sql, plan, values, Description::Omit).await,
            plan => self.answer_read(sql, plan, values, Description::Omit).await.map(drop),
        };
        let time = began.elapsed();
        let (watch, copying) = (self.watch.take(), self.copying.take());
        outcome?;
        let (n_rows, n_bytes) = copying.map(|copying| copying.counted()).unwrap_or_default();
        let figures = |time: Duration| Figures { n_rows, n_bytes, time: Some(time) };
        let engine = watch.as_ref().and_then(|watch| watch.engine).map(|(engine, since)| (engine, figures(since.elapsed())));
        Ok(Measured { seen: watch.map(|watch| watch.seen).unwrap_or_default(), engine, total: figures(time) })
    }
}

fn figures_of(seen: &Seen) -> Figures {
    Figures { n_rows: seen.n_rows, n_bytes: seen.n_bytes, time: Some(seen.time) }
}
