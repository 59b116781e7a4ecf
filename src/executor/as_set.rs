//! What the client's own settings make of a statement's plan: where it must go, whether it may, and what is told of it.

use super::Conversation;
use super::templates::CachedTemplate;
use crate::plan::{Access, Plan, Refusal, Values, check_hint, has_hint, hinted, route_in_words, scatter_refusal, shard_of_key};
use crate::session::own_settings::AllowScatter;
use crate::session::wire::{self, Severity};
use crate::sqlstate::{Report, SqlState};

impl Conversation {
    /// Binds a template for a client that has set something of the proxy's own.
    ///
    /// # Errors
    /// TL070 for what goes to several shards under `trunkline.allow_scatter = off`; TL007 for what a hint would misplace.
    pub(super) fn bind_as_set(&mut self, cached: &CachedTemplate, values: &Values<'_>) -> Result<Plan, Refusal> {
        let plan = self.plan_as_set(cached, values)?;
        let Some(own) = &self.own else { return Ok(plan) };
        let (allow_scatter, explains_route) = (own.settings.allow_scatter, own.settings.explains_route);
        let is_scattered = allow_scatter != AllowScatter::On && plan.is_scattered();
        if is_scattered && allow_scatter == AllowScatter::Off {
            return Err(scatter_refusal(values.sql, values.literals, &self.context()));
        }
        if explains_route || is_scattered {
            self.tell_route(&plan);
        }
        Ok(plan)
    }

    fn plan_as_set(&self, cached: &CachedTemplate, values: &Values<'_>) -> Result<Plan, Refusal> {
        let sql = values.sql;
        let shard = match self.own.as_ref().and_then(|own| own.settings.key.as_deref()) {
            _ if has_hint(sql, &self.context()) => None,
            Some(key) if self.hinted_shard().is_none() => shard_of_key(key, sql, values.literals, &self.context())?,
            _ => self.hinted_shard(),
        };
        let Some(shard) = shard else { return self.bind_plainly(cached, values) };
        let outcome = cached.template.bind(values, &self.context());
        check_hint(shard, sql, &self.context())?;
        let access = match &outcome {
            Ok(Plan::Route { access, .. } | Plan::AnyOne { access }) => *access,
            Ok(Plan::Merge(_) | Plan::Combine(_) | Plan::Gather(_) | Plan::CopyOut(_)) => Access::Read,
            Ok(Plan::Explain(explain)) if !explain.plan.writes_several() => Access::Read,
            _ => Access::Write,
        };
        self.at_meeting_place(cached, hinted(shard, access, sql, outcome)?)
    }

    /// A NOTICE with the rung and the shards of a plan; none for what the session itself acts on.
    fn tell_route(&mut self, plan: &Plan) {
        if let Some(words) = route_in_words(plan, &self.view.topology) {
            let report = Report::new(SqlState::SUCCESSFUL_COMPLETION, words);
            wire::report(&mut self.client.output, Severity::Notice, &report);
        }
    }

    /// The same for a plan that has taken the place of another at its execution.
    pub(super) fn tell_changed_route(&mut self, plan: &Plan) {
        if self.own.as_ref().is_some_and(|own| own.settings.explains_route) {
            self.tell_route(plan);
        }
    }

    /// Whether each statement of a string is to be told of by itself.
    pub(super) fn tells_routes(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.settings.explains_route || own.settings.allow_scatter == AllowScatter::Notice)
    }
}
