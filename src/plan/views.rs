//! Views: one that each shard can run for itself counts as a table; any other is replaced by its query.
//!
//! A view *is placed* where the rows that it gives on all shards together are those that it would give over all rows: it
//! selects and joins on the key, or reads nothing that is spread. Its name then goes to the shards as a table's would, so that
//! the rights of its owner, `security_barrier` and rules of the server hold. Otherwise the statement is planned with the view's
//! query in the place of its name: what is then gathered are the view's tables.

use std::sync::Arc;

use sqlparser::ast::{Expr, GroupByExpr, Query, Select, Statement};

use super::bind::refuse_unplaced;
use super::collect::{Collected, KeyColumn, TableRef, collect};
use super::contract::{Context, Params, Plan, PlanSettings, Values};
use super::functions::{CallForm, Nature};
use super::names::{Target, folded, table_name};
use super::reader::{Parsed, parse};
use super::refusal::{Refusal, RefusalCode};
use super::scope::Scope;
use super::select::{Many, item_expr};
use super::template::{Template, analyze};
use super::text::{Edits, quoted};
use super::{gather, shape};
use crate::sql::{Fingerprint, Literal};
use crate::topology::{
    Key, Placement, Relation, RelationKind, ShardId, ShardSet, Table, TableName, UserFunction, ViewDefinition,
};

/// Views that read views that read views: so many levels are followed. Definitions may be made to go in circles.
const MAX_DEPTH: usize = 16;

/// A statement with the queries of its views in it.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) template: Template,
    pub(super) sql: String,
    pub(super) literals: Vec<Literal>,
    pub(super) views: Vec<TableName>,
}

impl Expanded {
    /// The plan for one execution. Rows of a view's tables go to the engine only: a shard's text would read the tables in the
    /// client's name without asking whether it may read the view.
    ///
    /// # Errors
    /// Those of the statement with the queries in it.
    pub(super) fn bind(&self, values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
        let values = self.values(values);
        match self.template.bind(&values, context)? {
            plan @ (Plan::Merge(_) | Plan::Combine(_)) => {
                self.template.bind_gathered(&values, context).map_or(Ok(plan), |gathered| gathered.map(|plan| self.noted(plan)))
            }
            plan => Ok(self.noted(plan)),
        }
    }

    pub(super) fn gathered(&self, values: &Values<'_>, context: &Context<'_>) -> Option<Result<Plan, Refusal>> {
        Some(self.template.bind_gathered(&self.values(values), context)?.map(|plan| self.noted(plan)))
    }

    fn values<'a>(&'a self, values: &Values<'a>) -> Values<'a> {
        Values { sql: &self.sql, literals: &self.literals, ..*values }
    }

    fn noted(&self, plan: Plan) -> Plan {
        match plan {
            Plan::Gather(mut gather) => {
                Arc::make_mut(&mut gather).views.clone_from(&self.views);
                Plan::Gather(gather)
            }
            plan => plan,
        }
    }
}

/// What a view that the configuration does not name is for routing; `Target::View` where its query must take its place.
pub(super) fn target(name: &TableName, relation: &Relation, context: &Context<'_>) -> Target {
    placed(name, relation, context).unwrap_or_else(|| Target::View(name.clone()))
}

/// Whether `name` is a view that the configuration does not name.
pub(super) fn is_view(name: &TableName, context: &Context<'_>) -> bool {
    let kind = context.relation(name).map(|relation| relation.kind);
    let is_one = matches!(kind, Some(RelationKind::View | RelationKind::MaterializedView));
    is_one && !context.topology.tables.contains_key(name)
}

/// Where the rows that a view reads are.
enum Home {
    /// On every shard, or computed.
    Anywhere,
    On(ShardId),
    Spread,
}

fn placed(name: &TableName, relation: &Relation, context: &Context<'_>) -> Option<Target> {
    let view = context.schema.views.get(name)?;
    if !is_shallow(view, context, MAX_DEPTH) {
        return None;
    }
    let settings = settings_of_definitions();
    let context = Context { settings: &settings, ..*context };
    let (parsed, literals) = read(view).ok()?;
    let collected = collect(&parsed, &literals, &context);
    let home = home(&collected.refs)?;
    if relation.kind == RelationKind::MaterializedView {
        return match home {
            Home::On(shard) => Some(Target::Fixed(shard)),
            // Made by CREATE MATERIALIZED VIEW on the default shard.
            Home::Anywhere => context.topology.default_shard.map(Target::Fixed),
            Home::Spread => None,
        };
    }
    let calls = |test: fn(Nature) -> bool| collected.functions.iter().all(|call| test(call.nature(&context)));
    match home {
        Home::Anywhere if collected.refs.iter().any(|table_ref| table_ref.target == Target::System) => Some(Target::System),
        Home::Anywhere => {
            let is_alike =
                calls(|nature| matches!(nature, Nature::Pure | Nature::SplitAggregate)) && !chooses_rows(&parsed, &collected);
            is_alike.then(|| Target::Reference(table(name, Placement::Reference)))
        }
        Home::On(shard) => {
            let is_alike = calls(|nature| matches!(nature, Nature::Pure | Nature::SplitAggregate | Nature::OtherAggregate));
            is_alike.then_some(Target::Fixed(shard))
        }
        Home::Spread => spread(name, relation, (&parsed, &literals, &collected), &context),
    }
}

fn table(name: &TableName, placement: Placement) -> Arc<Table> {
    Arc::new(Table { name: name.clone(), placement })
}

/// Definitions name everything that is not of the system with its schema.
fn settings_of_definitions() -> PlanSettings {
    PlanSettings { search_path: Vec::new(), ..PlanSettings::default() }
}

fn read(view: &ViewDefinition) -> Result<(Parsed, Vec<Literal>), Refusal> {
    Ok((parse(&view.query, true)?, Fingerprint::of(&view.query, true).literals))
}

/// Whether following what the view reads ends within `depth` levels.
fn is_shallow(view: &ViewDefinition, context: &Context<'_>, depth: usize) -> bool {
    depth > 0
        && view.reads.iter().all(|name| context.schema.views.get(name).is_none_or(|inner| is_shallow(inner, context, depth - 1)))
}

/// Where the references' rows are; `None`: that cannot be told, or a view among them must be replaced by its query.
fn home(refs: &[TableRef]) -> Option<Home> {
    let mut home = Home::Anywhere;
    for table_ref in refs {
        home = match (&table_ref.target, home) {
            (Target::Reference(_) | Target::System | Target::Cte, home) => home,
            (Target::Fixed(shard), Home::Anywhere) => Home::On(*shard),
            (Target::Fixed(shard), Home::On(other)) if *shard == other => Home::On(other),
            (Target::Sharded(_) | Target::Fixed(_), _) => Home::Spread,
            (Target::View(_) | Target::Unconfigured(_) | Target::Missing, _) => return None,
        };
    }
    Some(home)
}

/// Whether a query may give other rows of the same tables on another server: by LIMIT, DISTINCT ON or the order of a window.
fn chooses_rows(parsed: &Parsed, collected: &Collected) -> bool {
    let has_limit = match &parsed.statement {
        Statement::Query(query) => query.limit_clause.is_some() || query.fetch.is_some(),
        _ => true,
    };
    let is_window = collected.functions.iter().any(|call| call.form == CallForm::Window);
    let text = parsed.sql.to_ascii_lowercase();
    has_limit || is_window || collected.facts.nested_limit.is_yes() || text.contains("distinct on")
}

/// A view over sharded rows that every shard can run for itself.
fn spread(
    name: &TableName,
    relation: &Relation,
    (parsed, literals, collected): (&Parsed, &[Literal], &Collected),
    context: &Context<'_>,
) -> Option<Target> {
    let Statement::Query(query) = &parsed.statement else { return None };
    let values = Values { sql: &parsed.sql, literals, params: Params::default(), now_micros: 0 };
    let many = Many::new(parsed, collected, ShardSet::EMPTY, &values, context);
    let select = shape::check(query, &many).ok()?;
    let is_pure = collected.functions.iter().all(|call| call.nature(context) == Nature::Pure && call.form == CallForm::Plain);
    if !is_pure || !is_row_by_row(query, select) {
        return None;
    }
    let scope = collected.top.as_ref()?;
    let exposed = |column: KeyColumn| exposed_as(column, select, relation, scope).unwrap_or_default();
    let keys = collected.refs.iter().enumerate().filter_map(|(ref_idx, table_ref)| {
        let key = table_ref.key()?;
        let columns: Vec<String> = (0..key.columns.len()).map(|column_idx| exposed(KeyColumn { ref_idx, column_idx })).collect();
        Some(Key { columns, map: key.map.clone() })
    });
    // The table whose key shows best. Column names are never empty: one that does not show matches none.
    let key = keys.max_by_key(|key| key.columns.iter().filter(|column| !column.is_empty()).count())?;
    Some(Target::Sharded(table(name, Placement::Sharded(key))))
}

/// Whether each row of the result comes of one row of the FROM list.
fn is_row_by_row(query: &Query, select: &Select) -> bool {
    let is_grouped = match &select.group_by {
        GroupByExpr::Expressions(exprs, modifiers) => !exprs.is_empty() || !modifiers.is_empty(),
        GroupByExpr::All(_) => true,
    };
    !is_grouped && select.having.is_none() && query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none()
}

/// The view's column that is the key column `wanted` in every row.
fn exposed_as(wanted: KeyColumn, select: &Select, relation: &Relation, scope: &Scope) -> Option<String> {
    if select.projection.len() != relation.columns.len() {
        return None;
    }
    let is_wanted = |expr: &Expr| {
        let names: Vec<String> = match expr {
            Expr::Identifier(ident) => vec![folded(ident)],
            Expr::CompoundIdentifier(idents) => idents.iter().map(folded).collect(),
            _ => return false,
        };
        let items = scope.find(&names).into_iter().filter_map(|idx| scope.items.get(idx));
        let last = names.last().map(String::as_str).unwrap_or_default();
        items.filter(|item| !item.is_nullable).any(|item| item.key_column(last) == Some(wanted))
    };
    let column_idx = select.projection.iter().position(|item| item_expr(item).is_some_and(is_wanted))?;
    Some(relation.columns[column_idx].name.clone())
}

/// Refuses writes of views, but where they surely are those of a table on the shards that the view's name goes to.
pub(super) fn refuse_writes(statement: &Statement, collected: &Collected, context: &Context<'_>) -> Result<(), Refusal> {
    for table_ref in collected.refs.iter().filter(|table_ref| table_ref.is_written) {
        let name = table_name(&table_ref.name, context);
        if !is_view(&name, context) {
            continue;
        }
        let has_rules = context.schema.views.get(&name).is_none_or(|view| view.has_write_rules);
        let changes_rows_there = matches!(statement, Statement::Update(_) | Statement::Delete(_));
        let is_sure = match &table_ref.target {
            Target::Fixed(_) | Target::System => true,
            Target::Sharded(_) | Target::Reference(_) => changes_rows_there && !has_rules,
            _ => false,
        };
        if !is_sure {
            return Err(write_refusal(&name));
        }
    }
    Ok(())
}

pub(super) fn write_refusal(name: &TableName) -> Refusal {
    Refusal::new(
        RefusalCode::ViewWrite,
        format!("a write of view \"{name}\", which reads tables of several shards, is not supported"),
    )
    .at(name, None)
}

/// A statement whose views must be replaced by their queries.
///
/// # Errors
/// `UnconfiguredView` for a view whose query cannot take its place; those of the statement with the queries in it.
pub(super) fn expand(
    parsed: &Parsed,
    collected: &Collected,
    literals: &[Literal],
    context: &Context<'_>,
) -> Result<Expanded, Refusal> {
    refuse_shadowed(context)?;
    let mut views = Vec::new();
    let sql = replaced((parsed, collected, literals), context, &mut views, MAX_DEPTH)?;
    let shape = Fingerprint::of(&sql, context.settings.has_standard_strings);
    let template = analyze(&sql, &shape.literals, context)?;
    views.sort_unstable();
    views.dedup();
    Ok(Expanded { template, sql, literals: shape.literals, views })
}

/// Names of the system's functions stand in definitions without their schema.
fn refuse_shadowed(context: &Context<'_>) -> Result<(), Refusal> {
    let schema = context.schema;
    let is_late = context.settings.search_path.iter().position(|schema| schema == "pg_catalog").is_some_and(|place| place > 0);
    let is_shadow = |(name, functions): (&String, &Vec<UserFunction>)| {
        schema.system_functions.contains_key(name)
            && functions.iter().any(|function| context.settings.search_path.contains(&function.schema))
    };
    if is_late && schema.user_functions.iter().any(is_shadow) {
        let message =
            "a view under a search_path that has functions of other schemas before those of pg_catalog is not supported";
        return Err(Refusal::new(RefusalCode::UnconfiguredView, message)
            .with_hint("Leave pg_catalog out of search_path: it is then searched first."));
    }
    Ok(())
}

/// The text with the queries of views in the places of their names.
fn replaced(
    (parsed, collected, literals): (&Parsed, &Collected, &[Literal]),
    context: &Context<'_>,
    views: &mut Vec<TableName>,
    depth: usize,
) -> Result<String, Refusal> {
    let values = Values { sql: &parsed.sql, literals, params: Params::default(), now_micros: 0 };
    let many = Many::new(parsed, collected, ShardSet::EMPTY, &values, context);
    let mut edits = Edits::default();
    parsed.spell_tables(&mut edits);
    for place in gather::places(&many, collected)? {
        let Target::View(name) = &collected.refs[place.ref_idx].target else { continue };
        let query = definition(name, context, views, depth)?;
        let alias = place.alias.as_ref().map(|alias| format!(" AS {alias}")).unwrap_or_default();
        edits.replace(place.range(&many.tokens), format!("({query}){alias}"));
    }
    Ok(edits.apply(&parsed.sql, 0..parsed.sql.len()))
}

/// The query that stands for a view, with those of the views that it reads in it.
fn definition(name: &TableName, context: &Context<'_>, views: &mut Vec<TableName>, depth: usize) -> Result<String, Refusal> {
    let refuse = |why: &str| Err(Refusal::new(RefusalCode::UnconfiguredView, format!("view \"{name}\" {why}")).at(name, None));
    if context.settings.made.contains_key(name) {
        let message = format!("\"{name}\" was made in this transaction, and is not known yet");
        return Err(Refusal::new(RefusalCode::UnconfiguredView, message)
            .at(name, None)
            .with_hint("Commit the transaction first."));
    }
    if context.relation(name).is_some_and(|relation| relation.kind == RelationKind::MaterializedView) {
        let message = format!("materialized view \"{name}\" holds on each shard what was computed of that shard's rows");
        return Err(Refusal::new(RefusalCode::UnconfiguredView, message)
            .at(name, None)
            .with_hint("Query the view's tables, or name the view in the configuration if it holds the same on every shard (reference = true) or is read on one (shard = \"…\")."));
    }
    let (Some(view), true) = (context.schema.views.get(name), depth > 0) else {
        return refuse("has a definition that is not known, or that reads too many others");
    };
    if !view.is_invoker && view.reads.iter().any(|table| context.schema.guarded.contains(table)) {
        return refuse("reads a table with row-level security with its owner's eyes; across shards that is not supported");
    }
    let settings = settings_of_definitions();
    let inner = Context { settings: &settings, ..*context };
    let Ok((parsed, literals)) = read(view) else {
        return refuse("has a definition that the planner cannot read");
    };
    let collected = collect(&parsed, &literals, &inner);
    for table_ref in collected.refs.iter().filter(|table_ref| !matches!(table_ref.target, Target::View(_))) {
        refuse_unplaced(&table_ref.target, &table_ref.name, &inner)?;
    }
    if collected.refs.iter().any(|table_ref| table_ref.target == Target::System) {
        return refuse("reads system catalogs beside tables; across shards that is not supported");
    }
    let query = replaced((&parsed, &collected, &literals), &inner, views, depth - 1)?;
    views.push(name.clone());
    // A subquery with OFFSET is not merged with the query around it.
    Ok(if view.is_barrier { format!("SELECT * FROM ({query}) AS {} OFFSET 0", quoted(&name.name)) } else { query })
}
