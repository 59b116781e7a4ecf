//! Rights on views whose queries are run over gathered rows: asked of a server, because reading the views' tables proves nothing.

use super::Conversation;
use super::failure::Failure;
use super::fan_out::BoundValues;
use crate::plan::{Access, GatherPiece, GatherPlan};
use crate::session::wire::{self, HEADER_LEN};

impl Conversation {
    /// Has a shard check that the client may run the statement as it wrote it: EXPLAIN checks the rights on every relation, those
    /// of a view's owner on the view's tables among them, and runs nothing (src/backend/executor/execMain.c, `InitPlan`).
    ///
    /// # Errors
    /// 42501 and whatever else the server finds at fault.
    pub(super) async fn check_rights(&mut self, plan: &GatherPlan, sql: &str, values: &BoundValues) -> Result<(), Failure> {
        if plan.views.is_empty() {
            return Ok(());
        }
        let text = format!("EXPLAIN {sql}");
        let idxs = self.fan_out(&[(plan.first_shard(), &text)], Access::Read, values, &[0]).await?;
        for &idx in &idxs {
            while self.next_row(&idxs, idx).await?.is_some() {}
        }
        Ok(())
    }

    /// Refuses a view's query whose constants this session would read otherwise than they were printed.
    pub(super) fn check_intervals(&self, plan: &GatherPlan) -> Result<(), Failure> {
        let is_usual = self.told_parameters.get("IntervalStyle").is_none_or(|style| style == "postgres");
        let has_interval = |piece: &GatherPiece| matches!(piece, GatherPiece::Text(text) if text.contains("::interval"));
        if plan.views.is_empty() || is_usual || !plan.finish.iter().any(has_interval) {
            return Ok(());
        }
        Err(Failure::refused(
            "TL084",
            format!("view {} holds an interval, which this IntervalStyle may read otherwise", names(plan)),
            "SET IntervalStyle TO 'postgres'.",
        ))
    }
}

/// The failure of reading a view's tables in the client's name, where it has rights on the view alone.
pub(super) fn owner_only(failure: Failure, plan: &GatherPlan) -> Failure {
    let Failure::Shard(message) = &failure else { return failure };
    let is_denied = wire::report_field(message.get(HEADER_LEN..).unwrap_or_default(), b'C').is_some_and(|code| code == b"42501");
    if plan.views.is_empty() || !is_denied {
        return failure;
    }
    Failure::refused(
        "TL086",
        format!("view {} reads tables that you may not read yourself; across shards that is not supported", names(plan)),
        "Grant SELECT on the view's tables, or bind the statement to one shard by key.",
    )
}

fn names(plan: &GatherPlan) -> String {
    plan.views.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}
