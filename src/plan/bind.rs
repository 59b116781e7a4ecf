//! From values to shards: the rung *route*, and the way to the others.

use std::ops::Range;
use std::sync::OnceLock;

use smallvec::SmallVec;
use sqlparser::ast::{SetExpr, Statement};

use super::collect::{Collected, Seen, TableRef, collect};
use super::condition::{Alternatives, Condition, Test, intersect, shards_of, summary};
use super::contract::{Access, Context, Plan, Values};
use super::ddl::check_family;
use super::functions::{FunctionCall, Nature};
use super::home::{self, Needs};
use super::insert::InsertTemplate;
use super::names::{Target, relation_of};
use super::reader::{Parsed, parse};
use super::refusal::{Refusal, RefusalCode};
use super::slot::{Binding, SlotValue};
use super::template::Template;
use super::text::tokens_of;
use super::views::{self, Expanded};
use super::{dml, insert, policy, reach, select, shape};
use crate::sql::{KeyType, Literal, TokenKind};
use crate::topology::{FunctionVolatility, KeyMap, KeyPredicate, ShardId, ShardSet};

/// What a template does when it is bound.
#[derive(Debug)]
pub(super) enum Body {
    /// The same for all values.
    Fixed(Plan),
    /// The same for all parameters, but not for other literals.
    Literal {
        plan: Plan,
        has_params: bool,
    },
    Statement(Box<StatementTemplate>),
    /// What the statement does with the queries of its views in the places of their names.
    Expanded(Box<Expanded>),
    /// A write under a hint for a shard, with what it would be without.
    Hinted {
        shard: ShardId,
        inner: Result<Box<Template>, Refusal>,
    },
    /// What the statement in this part of the text does; refused with `code` when that is more than one shard's.
    Inner {
        template: Box<Template>,
        part: Range<usize>,
        code: RefusalCode,
    },
}

/// A query with its syntax tree.
#[derive(Debug)]
pub(super) struct StatementTemplate {
    pub(super) parsed: Parsed,
    pub(super) collected: Collected,
    pub(super) kind: Kind,
    access: Access,
    needs: Option<Needs>,
    has_params: bool,
    /// A configured table is not in the schema snapshot.
    pub(super) lacks_columns: bool,
    /// The plan of its own text on several shards, with these: `None` where it depends on more.
    merged: OnceLock<Option<(ShardSet, Plan)>>,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// SELECT, VALUES.
    Read,
    Insert(Box<InsertTemplate>),
    /// UPDATE, DELETE, MERGE, and queries with writes inside.
    Write,
}

/// Analyses a SELECT, INSERT, UPDATE, DELETE or MERGE.
pub(super) fn analyze_query(sql: &str, literals: &[Literal], context: &Context<'_>) -> Result<Body, Refusal> {
    if let Some(body) = table_command(sql, context)? {
        return Ok(body);
    }
    let parsed = parse(sql, context.settings.has_standard_strings)?;
    let mut collected = collect(&parsed, literals, context);
    if collected.facts.opaque.is_yes() {
        return Err(Refusal::new(RefusalCode::SetOperation, "TABLE inside a query is not supported across shards"));
    }
    views::refuse_writes(&parsed.statement, &collected, context)?;
    if collected.refs.iter().any(|table_ref| matches!(table_ref.target, Target::View(_))) {
        return views::expand(&parsed, &collected, literals, context).map(|expanded| Body::Expanded(Box::new(expanded)));
    }
    for table_ref in &collected.refs {
        refuse_unplaced(&table_ref.target, &table_ref.name, context)?;
        policy::check(&table_ref.name, &table_ref.target, context)?;
        check_family(&table_ref.name, context)?;
    }
    let kind = match &parsed.statement {
        Statement::Query(query) => match &*query.body {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => Kind::Write,
            _ if collected.facts.nested_write.is_yes() => Kind::Write,
            _ => Kind::Read,
        },
        Statement::Insert(insert) => match insert::analyze(insert, &parsed, &mut collected, literals, context)? {
            Some(template) => Kind::Insert(Box::new(template)),
            None => Kind::Write,
        },
        Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_) => Kind::Write,
        _ => return Err(Refusal::new(RefusalCode::Unparsed, "the planner does not know this statement")),
    };
    if parsed.is_loose && !matches!(kind, Kind::Read) {
        let message = "a query with a clause that the planner does not read in full is not supported in a statement that writes";
        return Err(Refusal::new(RefusalCode::Unparsed, message));
    }
    let access = access_of(&kind, &collected, context);
    let needs = home::needs(sql, &collected, context);
    let has_params = tokens_of(sql, true).iter().any(|token| matches!(token.kind, TokenKind::Parameter(_)));
    let names_sequence = needs.as_ref().is_some_and(Needs::may_name_sequence);
    if names_sequence {
        collected.facts.misplaced = Seen::Yes;
    }
    let reached = reach::check((&parsed.statement, sql), &collected, context)?;
    if let (Kind::Read, Some(shard)) = (&kind, reached)
        && !collected.facts.select_into.is_yes()
    {
        let plan = Plan::Route { shard, access };
        return needs.map_or(Ok(plan.clone()), |needs| home::placed(&needs, plan, context)).map(Body::Fixed);
    }
    if let Some(plan) = homeless(&kind, access, &collected, context)? {
        let plan = match &needs {
            Some(needs) => needs.without_table(plan, context)?,
            None => plan,
        };
        return Ok(if names_sequence { Body::Literal { plan, has_params } } else { Body::Fixed(plan) });
    }
    let is_unread = |table_ref: &TableRef| {
        matches!(table_ref.target, Target::Sharded(_) | Target::Reference(_)) && relation_of(&table_ref.name, context).is_none()
    };
    let lacks_columns = collected.refs.iter().any(is_unread);
    Ok(Body::Statement(Box::new(StatementTemplate {
        parsed,
        collected,
        kind,
        access,
        needs,
        has_params,
        lacks_columns,
        merged: OnceLock::new(),
    })))
}

/// `TABLE name`, which the parser reads without telling quoted names from others.
fn table_command(sql: &str, context: &Context<'_>) -> Result<Option<Body>, Refusal> {
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let Some(first) = tokens.first().filter(|token| token.is_word(sql.as_bytes(), "table")) else { return Ok(None) };
    let text = format!("SELECT * FROM {}", sql.get(first.end..).unwrap_or_default());
    let fingerprint = crate::sql::Fingerprint::of(&text, context.settings.has_standard_strings);
    let template = super::analyze(&text, &fingerprint.literals, context)?;
    let at = |now_micros| {
        let params = super::Params::default();
        template.bind(&Values { sql: &text, literals: &fingerprint.literals, params, now_micros }, context)
    };
    let (plan, later) = (at(0)?, at(1)?);
    let has_params = tokens.iter().any(|token| matches!(token.kind, TokenKind::Parameter(_)));
    match plan {
        plan @ (Plan::Route { .. } | Plan::AnyOne { .. }) => Ok(Some(Body::Fixed(plan))),
        // The plan is made once: it must be that of every execution.
        plan if plan == later && !has_params => Ok(Some(Body::Fixed(plan))),
        _ => Err(Refusal::new(RefusalCode::SetOperation, "this form of TABLE across shards is not supported")
            .with_hint("Write SELECT * FROM the table.")),
    }
}

/// Refuses tables whose rows' place is not known.
///
/// A table that the snapshot lacks is not sent on: made since then, it could be on any shard, or the parser may have taken a word
/// of Postgres's syntax for its name.
pub(super) fn refuse_unplaced(target: &Target, parts: &[String], context: &Context<'_>) -> Result<(), Refusal> {
    match target {
        Target::Missing => {
            Err(Refusal::new(RefusalCode::UndefinedTable, format!("relation \"{}\" does not exist", parts.join("."))))
        }

        Target::Unconfigured(name) => {
            Err(Refusal::unconfigured(name, &context.topology.database, RefusalCode::UnconfiguredTable))
        }
        Target::View(name) => {
            Err(Refusal::new(RefusalCode::UnconfiguredView, format!("view \"{name}\" across shards is not supported here"))
                .at(name, None))
        }
        Target::Sharded(_) | Target::Reference(_) | Target::Fixed(_) | Target::System | Target::Cte => Ok(()),
    }
}

fn access_of(kind: &Kind, collected: &Collected, context: &Context<'_>) -> Access {
    let facts = &collected.facts;
    let is_write =
        !matches!(kind, Kind::Read) || facts.locks.is_yes() || facts.select_into.is_yes() || facts.nested_write.is_yes();
    let calls_writer = collected.functions.iter().any(|call| is_writer(call, context));
    if is_write || calls_writer { Access::Write } else { Access::Read }
}

fn is_writer(call: &FunctionCall, context: &Context<'_>) -> bool {
    match call.nature(context) {
        Nature::Writing => true,
        Nature::User => call.user_volatility(context) != Some(FunctionVolatility::Immutable),
        Nature::Pure | Nature::Time | Nature::SplitAggregate | Nature::OtherAggregate | Nature::Server | Nature::Volatile => {
            false
        }
    }
}

/// Whether a function of this name, told without a syntax tree, may write.
pub(super) fn may_write(name: &str, context: &Context<'_>) -> bool {
    let call = FunctionCall::named(vec![crate::sql::fold_identifier(name).into_owned()]);
    match call.nature(context) {
        Nature::Writing => true,
        Nature::User => call.may_be_changing(context),
        _ => false,
    }
}

/// Statements without a table whose effect needs one certain shard.
fn homeless(kind: &Kind, access: Access, collected: &Collected, context: &Context<'_>) -> Result<Option<Plan>, Refusal> {
    let is_placed = |table_ref: &TableRef| matches!(table_ref.target, Target::Sharded(_) | Target::Fixed(_));
    if !matches!(kind, Kind::Read) || access == Access::Read || collected.refs.iter().any(is_placed) {
        return Ok(None);
    }
    if let Some(shard) = context.topology.default_shard {
        return Ok(Some(Plan::Route { shard, access }));
    }
    if collected.facts.into_temporary.is_yes() {
        return Ok(Some(Plan::Route { shard: context.topology.home_shard(), access }));
    }
    if collected.facts.select_into.is_yes() {
        return Err(Refusal::new(RefusalCode::CreateAs, "SELECT INTO is not supported across shards"));
    }
    for call in &collected.functions {
        let name = call.short_name();
        if context.schema.user_functions.contains_key(name) && is_writer(call, context) {
            return Err(home::homeless(name));
        }
    }
    // Advisory locks and row locks on reference tables: all sessions must meet on one server.
    Ok(Some(Plan::Route { shard: context.topology.home_shard(), access }))
}

/// For each table reference the shards on which rows that matter may be; empty for those that are everywhere.
pub(super) fn shard_sets(collected: &Collected, values: &Values<'_>, context: &Context<'_>) -> SmallVec<[ShardSet; 2]> {
    let binding = Binding { values, time_zone: &context.settings.time_zone };
    if let [table_ref] = collected.refs.as_slice()
        && let Some(shard) = point(table_ref, binding)
    {
        return SmallVec::from_slice(&[ShardSet::only(shard)]);
    }
    let mut all: Vec<Alternatives> = collected.refs.iter().map(|table_ref| own_alternatives(table_ref, binding)).collect();
    spread(collected, &mut all);
    collected
        .refs
        .iter()
        .zip(&all)
        .map(|(table_ref, alternatives)| match (&table_ref.target, table_ref.key()) {
            (_, Some(key)) => shards_of(key, alternatives),
            (Target::Fixed(_), None) if alternatives.is_empty() => ShardSet::EMPTY,
            (Target::Fixed(shard), None) => ShardSet::only(*shard),
            _ => ShardSet::EMPTY,
        })
        .collect()
}

/// The shard of the one key that a table's rows must have: what the rest of this file comes to for `key = value` on a table by
/// itself, without an allocation.
fn point(table_ref: &TableRef, binding: Binding<'_>) -> Option<ShardId> {
    let (key, &[Some(key_type)]) = (table_ref.key()?, table_ref.key_types.as_slice()) else { return None };
    let (KeyMap::Hash(_) | KeyMap::List(_)) = key.map else { return None };
    let mut known = table_ref.conditions.iter().filter(|condition| **condition != Condition::Unknown);
    let (Some(Condition::Column { test: Test::In(slots), .. }), None) = (known.next(), known.next()) else { return None };
    let [slot] = slots.as_slice() else { return None };
    match slot.value(key_type, binding) {
        SlotValue::Exact(value) => key.shard_of(&[value]).ok(),
        _ => None,
    }
}

fn own_alternatives(table_ref: &TableRef, binding: Binding<'_>) -> Alternatives {
    match table_ref.conditions.as_slice() {
        [] => Condition::Unknown.alternatives(&table_ref.key_types, binding),
        [only] => only.alternatives(&table_ref.key_types, binding),
        several => Condition::All(several.to_vec()).alternatives(&table_ref.key_types, binding),
    }
}

/// Carries what is known of one key over to the keys that must equal it.
fn spread(collected: &Collected, all: &mut [Alternatives]) {
    let type_of =
        |column: super::collect::KeyColumn| collected.refs[column.ref_idx].key_types.get(column.column_idx).copied().flatten();
    for _ in 0..collected.refs.len().min(8) {
        let mut has_changed = false;
        for edge in &collected.edges {
            let (from, to) = (edge.from, edge.to);
            if !type_of(from).zip(type_of(to)).is_some_and(|(a, b)| are_alike(a, b)) {
                continue;
            }
            let known = match summary(&all[from.ref_idx], from.column_idx) {
                KeyPredicate::Unknown | KeyPredicate::IsNull => continue,
                known => known,
            };
            for predicates in &mut all[to.ref_idx] {
                let tighter = intersect(&predicates[to.column_idx], &known);
                if tighter != predicates[to.column_idx] {
                    predicates[to.column_idx] = tighter;
                    has_changed = true;
                }
            }
        }
        if !has_changed {
            break;
        }
    }
}

/// Whether equal values of the two types have one canonical form.
pub(super) fn are_alike(left: KeyType, right: KeyType) -> bool {
    let is_int = |key_type| matches!(key_type, KeyType::Int2 | KeyType::Int4 | KeyType::Int8);
    left == right || (is_int(left) && is_int(right))
}

pub(super) fn union(sets: &[ShardSet]) -> ShardSet {
    sets.iter().fold(ShardSet::EMPTY, |all, set| all.union(*set))
}

impl StatementTemplate {
    pub(super) fn bind(&self, values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
        let plan = self.bind_tables(values, context)?;
        match &self.needs {
            Some(needs) => home::placed(needs, plan, context),
            None => Ok(plan),
        }
    }

    /// The plan as far as tables decide it.
    fn bind_tables(&self, values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
        match &self.kind {
            Kind::Insert(template) => insert::bind(self, template, values, context),
            Kind::Write => dml::bind(self, values, context),
            Kind::Read => {
                let sets = shard_sets(&self.collected, values, context);
                let shards = union(&sets);
                match (shards.single(), shards.is_empty()) {
                    (Some(_), _) | (_, true) if self.collected.facts.select_into.is_yes() => self.select_into(shards, context),
                    (Some(shard), _) => Ok(Plan::Route { shard, access: self.access }),
                    (None, true) => Ok(Plan::AnyOne { access: self.access }),
                    (None, false) => self.merge(shards, values, context),
                }
            }
        }
    }

    /// The plan of a read on several shards, made once where it is the same for each execution.
    fn merge(&self, shards: ShardSet, values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
        let is_own_text = values.sql == self.parsed.sql;
        if let (true, Some(Some((known, plan)))) = (is_own_text, self.merged.get())
            && *known == shards
        {
            return Ok(plan.clone());
        }
        let plan = self.on_many(shards, values, context, select::plan)?;
        if is_own_text {
            self.merged.get_or_init(|| {
                let is_fixed = !self.has_params && !shape::tells_time(&self.collected, context);
                // A gathered view may tell the time where the statement does not.
                let is_merged = matches!(plan, Plan::Merge(_) | Plan::Combine(_));
                (is_fixed && is_merged).then(|| (shards, plan.clone()))
            });
        }
        Ok(plan)
    }

    /// The plan of a read on several shards: it may depend on all of the text.
    fn on_many(
        &self,
        shards: ShardSet,
        values: &Values<'_>,
        context: &Context<'_>,
        plan: fn(&select::Many<'_>) -> Result<Plan, Refusal>,
    ) -> Result<Plan, Refusal> {
        if values.sql == self.parsed.sql {
            return plan(&select::Many::new(&self.parsed, &self.collected, shards, values, context));
        }
        let parsed = parse(values.sql, context.settings.has_standard_strings)?;
        let collected = collect(&parsed, values.literals, context);
        plan(&select::Many::new(&parsed, &collected, shards, values, context))
    }

    /// The plan of a read over gathered rows.
    pub(super) fn gathered(&self, values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
        let shards = union(&shard_sets(&self.collected, values, context));
        self.on_many(shards, values, context, select::gathered)
    }

    /// The new table is not in the configuration: only a default shard can be its home, unless it is temporary.
    fn select_into(&self, shards: ShardSet, context: &Context<'_>) -> Result<Plan, Refusal> {
        let is_temporary = self.collected.facts.into_temporary.is_yes();
        match context.topology.default_shard.or(is_temporary.then(|| context.topology.home_shard())) {
            Some(home) if shards.is_empty() || shards.single() == Some(home) => {
                Ok(Plan::Route { shard: home, access: Access::Write })
            }
            _ => Err(Refusal::new(RefusalCode::CreateAs, "SELECT INTO is not supported across shards")),
        }
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn is_shareable(&self) -> bool {
        !self.collected.facts.misplaced.is_yes()
    }

    pub(super) fn has_params(&self) -> bool {
        self.has_params
    }

    pub(super) fn depends_on_params(&self) -> bool {
        let is_placed = self.collected.refs.iter().any(|table_ref| table_ref.key().is_some());
        self.has_params && is_placed
    }

    /// The shard of a pinned table, if one is read or written.
    pub(super) fn describe_shard(&self) -> Option<ShardId> {
        self.collected.refs.iter().find_map(|table_ref| match table_ref.target {
            Target::Fixed(shard) => Some(shard),
            _ => None,
        })
    }
}
