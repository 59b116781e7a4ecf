//! Where sessions of one database meet: the home shard.

use super::Conversation;
use super::templates::CachedTemplate;
use crate::plan::{Access, Plan, Refusal, at_home, off_home};
use crate::session::bonds::Bonds;
use crate::sql::Classified;

impl Conversation {
    /// The plan of a statement whose code, where it has some, does what all sessions do on one shard.
    ///
    /// # Errors
    /// TL068 where the statement's rows are elsewhere.
    pub(super) fn at_meeting_place(&self, cached: &CachedTemplate, plan: Plan) -> Result<Plan, Refusal> {
        let bonds = cached.leftover.bonds;
        let topology = &self.view.topology;
        let has_triggers = bonds.contains(Bonds::MEETS_BY_TRIGGER);
        if !(has_triggers || bonds.contains(Bonds::MEETS)) || topology.only_shard().is_some() {
            return Ok(plan);
        }
        match (cached.template.class(), &plan) {
            (Classified::Query | Classified::Copy(_) | Classified::Explain { .. }, _) if bonds.contains(Bonds::MEETS) => {
                at_home(plan, "what a function of the statement does", topology)
            }
            (Classified::Query | Classified::Copy(_), Plan::Insert(_) | Plan::Everywhere { .. } | Plan::CopyIn(_)) => {
                Err(off_home("what a trigger of the table does", topology))
            }
            (Classified::Query | Classified::Copy(_), Plan::Route { shard, access: Access::Write })
                if *shard != topology.home_shard() =>
            {
                Err(off_home("what a trigger of the table does", topology))
            }
            _ => Ok(plan),
        }
    }
}
