//! A statement analysed once: what its words alone decide, and what binding needs.

use std::ops::Range;
use std::sync::Arc;

use super::bind::{self, Body};
use super::contract::{Access, Context, CursorPlan, ExplainPlan, Plan, Values};
use super::hint::{self, Hint};
use super::refusal::{Refusal, RefusalCode};
use super::text::tokens_of;
use super::{copy, ddl};
use crate::sql::{Classified, Command, Literal, Scroll, Token, UtilityKind, classify, declare_parts, explain_options};
use crate::topology::ShardId;

/// One statement analysed under a context: what binding needs. Cached by fingerprint, epoch, schema version and settings.
#[derive(Debug)]
pub struct Template {
    class: Classified,
    body: Body,
}

/// Analyses one statement (no top-level semicolon inside).
///
/// # Errors
/// What is refused whatever the values are.
pub fn analyze(sql: &str, literals: &[Literal], context: &Context<'_>) -> Result<Template, Refusal> {
    let class = classify(sql.as_bytes(), context.settings.has_standard_strings);
    let body = body(sql, literals, &class, context)?;
    Ok(Template { class, body })
}

fn body(sql: &str, literals: &[Literal], class: &Classified, context: &Context<'_>) -> Result<Body, Refusal> {
    match class {
        Classified::Empty | Classified::Unknown => return Ok(Body::Fixed(Plan::AnyOne { access: Access::Write })),
        Classified::Command(command) => return declared(sql, literals, command, context),
        _ => {}
    }
    let access = access_of(sql, class, context);
    if let Some(shard) = context.topology.only_shard() {
        return Ok(Body::Fixed(Plan::Route { shard, access }));
    }
    let shard = match hint::find(sql, context)? {
        Some(Hint::Shard(shard)) => shard,
        Some(Hint::Key(values)) => hint::shard_of(&values, sql, literals, context)?,
        None => return unhinted(sql, literals, class, context),
    };
    ddl::check_hint(shard, sql, context)?;
    let is_ddl = matches!(class, Classified::Utility { .. });
    if access == Access::Read || is_ddl {
        return Ok(Body::Fixed(Plan::Route { shard, access }));
    }
    let inner = unhinted(sql, literals, class, context);
    let inner = inner.map(|body| Box::new(Template { class: class.clone(), body }));
    Ok(Body::Hinted { shard, inner })
}

fn unhinted(sql: &str, literals: &[Literal], class: &Classified, context: &Context<'_>) -> Result<Body, Refusal> {
    match class {
        Classified::Query => bind::analyze_query(sql, literals, context),
        Classified::Explain { statement_start } => {
            inner(sql, literals, *statement_start..sql.len(), RefusalCode::Explain, context)
        }
        Classified::Copy(direction) => copy::analyze(sql, literals, *direction, context),
        Classified::Utility { kind: kind @ UtilityKind::CreateTableAs { .. }, objects } => {
            ddl::home_of_copy(*kind, objects, context)?;
            let Some(part) = ddl::query_of_create_as(sql, context) else {
                return Err(Refusal::new(RefusalCode::Unparsed, "the planner does not know this form of CREATE TABLE AS"));
            };
            inner(sql, literals, part, RefusalCode::CreateAs, context)
        }
        Classified::Utility { kind, objects } => ddl::analyze(sql, *kind, objects, context).map(Body::Fixed),
        Classified::Command(_) | Classified::Empty | Classified::Unknown => {
            Ok(Body::Fixed(Plan::AnyOne { access: Access::Write }))
        }
    }
}

/// A cursor is where its rows are; every other command is the session's.
fn declared(sql: &str, literals: &[Literal], command: &Command, context: &Context<'_>) -> Result<Body, Refusal> {
    if let (Command::Set { name, value, .. }, None) = (command, context.topology.only_shard()) {
        refuse_meaning(name, value)?;
    }
    let parts = match command {
        Command::Declare { .. } => declare_parts(sql.as_bytes(), context.settings.has_standard_strings),
        _ => None,
    };
    // What is no query is the grammar's to refuse.
    let Some(parts) = parts.filter(|parts| !is_write(sql, parts.query_start, context)) else {
        return Ok(Body::Fixed(Plan::Command(command.clone())));
    };
    let hinted = || match hint::find(sql, context) {
        Ok(Some(Hint::Shard(shard))) => Ok(Some(shard)),
        outcome => outcome.map(|_| None),
    };
    match context.topology.only_shard().map_or_else(hinted, |shard| Ok(Some(shard)))? {
        Some(shard) => Ok(Body::Fixed(Plan::Route { shard, access: Access::Write })),
        None => inner(sql, literals, parts.query_start..sql.len(), RefusalCode::Cursor, context),
    }
}

/// Refuses settings that change which rows a condition on a key is about.
fn refuse_meaning(name: &str, value: &str) -> Result<(), Refusal> {
    let word = value.trim().trim_matches('\'').to_ascii_lowercase();
    let is_on = matches!(word.as_str(), "on" | "1" | "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes");
    let is_usual = match name {
        "transform_null_equals" => !is_on,
        "array_nulls" => is_on || word == "default",
        _ => return Ok(()),
    };
    if is_usual {
        return Ok(());
    }
    let message = format!("{name} = {word} on more than one shard is not supported");
    Err(Refusal::new(RefusalCode::Clause, message)
        .with_hint("Leave the setting at its default: it changes which rows a condition on a key is about."))
}

fn is_write(sql: &str, start: usize, context: &Context<'_>) -> bool {
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let first = tokens.iter().find(|token| token.start >= start);
    first.is_some_and(|first| ["insert", "update", "delete", "merge"].iter().any(|word| first.is_word(sql.as_bytes(), word)))
}

/// The body of a statement that goes where the statement inside it goes, which must be one shard.
pub(super) fn inner(
    sql: &str,
    literals: &[Literal],
    part: Range<usize>,
    code: RefusalCode,
    context: &Context<'_>,
) -> Result<Body, Refusal> {
    let text = sql.get(part.clone()).unwrap_or_default();
    let template = analyze(text, &shifted(literals, &part), context)?;
    Ok(Body::Inner { template: Box::new(template), part, code })
}

/// A cursor over rows of several shards. One that goes back, or that outlives its transaction, has its rows on the engine.
fn cursor(sql: &str, plan: Plan, gathered: impl Fn() -> Result<Plan, Refusal>, context: &Context<'_>) -> Result<Plan, Refusal> {
    let Some(declared) = declare_parts(sql.as_bytes(), context.settings.has_standard_strings) else {
        return Err(Refusal::new(RefusalCode::Cursor, "this form of DECLARE is not supported"));
    };
    let is_kept = declared.is_with_hold || declared.scroll == Scroll::Yes;
    let rows = if is_kept && !matches!(plan, Plan::Gather(_)) { gathered()? } else { plan };
    Ok(Plan::Cursor(Arc::new(CursorPlan { declared, rows })))
}

/// EXPLAIN of a plan of several shards. A cursor's query is run by shards as any query is, not by cursors there.
fn explained(sql: &str, options_end: usize, plan: Plan, context: &Context<'_>) -> Result<Plan, Refusal> {
    let options = explain_options(sql.as_bytes(), context.settings.has_standard_strings);
    let (statement_start, plan) = match plan {
        Plan::Cursor(cursor) => (options_end + cursor.declared.query_start, cursor.rows.clone()),
        plan => (options_end, plan),
    };
    match plan {
        Plan::Merge(_) | Plan::Combine(_) | Plan::Gather(_) | Plan::Insert(_) | Plan::Everywhere { .. } => {
            Ok(Plan::Explain(Arc::new(ExplainPlan { options, options_end, statement_start, plan })))
        }
        _ => Err(Refusal::new(RefusalCode::Explain, "EXPLAIN of this statement on several shards is not supported")),
    }
}

/// The literals in a part of the text, counted from its start.
fn shifted(literals: &[Literal], part: &Range<usize>) -> Vec<Literal> {
    let moved = |literal: &Literal| Literal { start: literal.start - part.start, end: literal.end - part.start, ..*literal };
    literals.iter().filter(|literal| literal.start >= part.start && literal.end <= part.end).map(moved).collect()
}

/// What a statement on one shard may do, told from its tokens alone.
fn access_of(sql: &str, class: &Classified, context: &Context<'_>) -> Access {
    let tokens = tokens_of(sql, context.settings.has_standard_strings);
    let bytes = sql.as_bytes();
    let is_word = |token: &Token, words: &[&str]| words.iter().any(|word| token.is_word(bytes, word));
    let writes = |token: &Token| is_word(token, &["insert", "update", "delete", "merge", "into", "share"]);
    let reads = match class {
        Classified::Query | Classified::Copy(crate::sql::CopyDirection::Out) => !tokens.iter().any(writes),
        Classified::Explain { statement_start } => {
            let runs = tokens.iter().any(|token| token.start < *statement_start && is_word(token, &["analyze", "analyse"]));
            !runs || !tokens.iter().any(writes)
        }
        _ => false,
    };
    // A function's name is followed by a parenthesis; which of them write is known for the plain ones.
    let calls = tokens.windows(2).filter(|pair| pair[1].is_punctuation(b'('));
    let may_write = calls.filter_map(|pair| sql.get(pair[0].start..pair[0].end)).any(|name| bind::may_write(name, context));
    if reads && !may_write { Access::Read } else { Access::Write }
}

impl Template {
    /// The plan for one execution.
    ///
    /// # Errors
    /// What cannot be answered right for these values.
    pub fn bind(&self, values: &Values<'_>, context: &Context<'_>) -> Result<Plan, Refusal> {
        match &self.body {
            Body::Fixed(plan) | Body::Literal { plan, .. } => Ok(plan.clone()),
            Body::Statement(statement) => statement.bind(values, context),
            Body::Expanded(expanded) => expanded.bind(values, context),
            Body::Hinted { shard, inner } => {
                let outcome = inner.as_ref().map_err(Clone::clone).and_then(|inner| inner.bind(values, context));
                hint::hinted(*shard, Access::Write, values.sql, outcome)
            }
            Body::Inner { template, part, code } => {
                let literals = shifted(values.literals, part);
                let sql = values.sql.get(part.clone()).unwrap_or_default();
                let values_of_part = Values { sql, literals: &literals, ..*values };
                let refused = || Refusal::new(*code, format!("{} of rows on several shards is not supported", self.verb()));
                match (template.bind(&values_of_part, context)?, code) {
                    (plan @ (Plan::Route { .. } | Plan::AnyOne { .. }), _) => self.outer(plan, context),
                    (plan @ (Plan::Merge(_) | Plan::Combine(_) | Plan::Gather(_)), RefusalCode::CopyOut) => {
                        copy::answer(values.sql, part.clone(), plan, context)
                    }
                    (plan @ (Plan::Merge(_) | Plan::Combine(_) | Plan::Gather(_)), RefusalCode::Cursor) => {
                        let gathered = || template.bind_gathered(&values_of_part, context).unwrap_or_else(|| Err(refused()));
                        cursor(values.sql, plan, gathered, context)
                    }
                    (plan, RefusalCode::Explain) => explained(values.sql, part.start, plan, context),
                    _ => Err(refused()),
                }
            }
        }
    }

    /// Whether it names a configured table that the schema snapshot lacks: it may be new.
    pub fn lacks_columns(&self) -> bool {
        matches!(&self.body, Body::Statement(statement) if statement.lacks_columns)
    }

    /// The plan over gathered rows, for a read whose plan on an earlier rung turned out not to be exact for its types; `None`:
    /// the statement is none that could have one.
    ///
    /// # Errors
    /// What cannot be answered right on this rung either.
    pub fn bind_gathered(&self, values: &Values<'_>, context: &Context<'_>) -> Option<Result<Plan, Refusal>> {
        match &self.body {
            Body::Statement(statement) => Some(statement.gathered(values, context)),
            Body::Expanded(expanded) => expanded.gathered(values, context),
            Body::Fixed(_) | Body::Literal { .. } | Body::Hinted { .. } | Body::Inner { .. } => None,
        }
    }

    /// A cursor lives in its backend: it is not for a replica. A table that is made of a query's rows has a shard of its own.
    fn outer(&self, plan: Plan, context: &Context<'_>) -> Result<Plan, Refusal> {
        match (plan, &self.class) {
            (Plan::Route { shard, .. }, Classified::Command(_)) => Ok(Plan::Route { shard, access: Access::Write }),
            (plan, Classified::Utility { kind, objects }) => {
                let home = ddl::home_of_copy(*kind, objects, context)?;
                if matches!(plan, Plan::Route { shard, .. } if shard != home) {
                    let message = format!("{} of another shard's rows is not supported", self.verb());
                    return Err(Refusal::new(RefusalCode::CreateAs, message));
                }
                Ok(Plan::Route { shard: home, access: Access::Write })
            }
            (plan, _) => Ok(plan),
        }
    }

    fn verb(&self) -> &'static str {
        match &self.class {
            Classified::Explain { .. } => "EXPLAIN",
            Classified::Copy(_) => "COPY TO",
            Classified::Command(_) => "a cursor",
            Classified::Utility { kind: UtilityKind::CreateTableAs { is_temporary: true }, .. } => "CREATE TEMPORARY TABLE AS",
            Classified::Utility { .. } => "CREATE TABLE AS",
            _ => "TABLE",
        }
    }

    /// Whether another text of the same fingerprint may use this template.
    pub fn is_shareable(&self) -> bool {
        match &self.body {
            // What COPY, DDL and hints say stands in the text; commands are copied from it.
            Body::Fixed(plan) => matches!(plan, Plan::Route { .. } | Plan::AnyOne { .. }) && self.class == Classified::Query,
            Body::Statement(statement) => statement.is_shareable(),
            // The queries of views stand behind literals that move.
            Body::Expanded(_) | Body::Inner { .. } | Body::Hinted { .. } | Body::Literal { .. } => false,
        }
    }

    /// A shard on which Parse and Describe of the original statement succeed; `None`: any.
    pub fn describe_shard(&self) -> Option<ShardId> {
        match &self.body {
            Body::Fixed(Plan::Route { shard, .. }) | Body::Literal { plan: Plan::Route { shard, .. }, .. } => Some(*shard),
            Body::Fixed(_) | Body::Literal { .. } => None,
            Body::Statement(statement) => statement.describe_shard(),
            Body::Expanded(expanded) => expanded.template.describe_shard(),
            Body::Inner { template, .. } => template.describe_shard(),
            Body::Hinted { shard, .. } => Some(*shard),
        }
    }

    /// Whether where the statement goes, or what is sent there, depends on Bind's parameters.
    pub fn depends_on_params(&self) -> bool {
        match &self.body {
            Body::Fixed(_) | Body::Literal { .. } => false,
            Body::Statement(statement) => statement.depends_on_params(),
            Body::Expanded(expanded) => expanded.template.depends_on_params(),
            Body::Inner { template, .. } => template.depends_on_params(),
            Body::Hinted { inner, .. } => inner.as_ref().is_ok_and(|inner| inner.depends_on_params()),
        }
    }

    /// Whether a plan's rewritten texts ([`super::MergePlan`], [`super::CombinePlan`], [`super::InsertPlan`]) have parameters.
    ///
    /// They keep the numbers of the original, and some numbers may no longer occur: Parse must name every type.
    pub fn has_params(&self) -> bool {
        match &self.body {
            Body::Fixed(_) => false,
            Body::Literal { has_params, .. } => *has_params,
            Body::Statement(statement) => statement.has_params(),
            Body::Expanded(expanded) => expanded.template.has_params(),
            Body::Inner { template, .. } => template.has_params(),
            Body::Hinted { .. } => false,
        }
    }

    pub fn class(&self) -> &Classified {
        &self.class
    }
}
