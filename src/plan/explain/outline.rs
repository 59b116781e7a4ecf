//! A plan over several shards, taken apart for whoever shows it: `trunkline explain`, EXPLAIN.

use crate::plan::contract::{Context, GatherInput, GatherPlace, GatherSource, MergePlan, Plan};
use crate::topology::{ShardSet, Topology};

/// What is sent to shards.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlinePart {
    /// They all get this text; none: no row matters.
    pub shards: ShardSet,
    /// The table whose rows it reads, where rows are gathered.
    pub table: Option<String>,
    pub text: String,
}

/// The rung of a plan, what each shard gets, and what is done with its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    pub rung: &'static str,
    pub shards: ShardSet,
    pub parts: Vec<OutlinePart>,
    /// What the proxy does with the rows, by name.
    pub notes: Vec<(&'static str, String)>,
    /// The statement that the engine runs.
    pub finish: Option<String>,
    /// Tables that are read where the engine has them.
    pub on_engine: Vec<String>,
}

/// Takes a plan apart; `None` for one that is not for several shards, or that moves data of a COPY or a cursor.
///
/// `finish` is the final statement of a combine plan; a gather plan's is its own, with reference tables read on the engine where
/// `has_reference_tables` says so.
pub fn outline(
    plan: &Plan,
    sql: &str,
    finish: Option<String>,
    has_reference_tables: bool,
    context: &Context<'_>,
) -> Option<Outline> {
    let of = |rung, shards, parts| Outline { rung, shards, parts, notes: Vec::new(), finish: None, on_engine: Vec::new() };
    let whole = |shards, text: &str| vec![OutlinePart { shards, table: None, text: text.to_owned() }];
    Some(match plan {
        Plan::Merge(plan) => Outline { notes: notes(plan), ..of("merge", plan.shards, whole(plan.shards, &plan.text)) },
        Plan::Combine(plan) => Outline {
            finish: Some(finish.unwrap_or_else(|| plan.sketch())),
            ..of("combine", plan.shards, whole(plan.shards, &plan.text))
        },
        Plan::Gather(plan) => {
            let is_brought = |input: &GatherInput| input.source != GatherSource::AnyOne || !has_reference_tables;
            let parts = plan.inputs.iter().filter(|input| is_brought(input)).map(|input| OutlinePart {
                shards: match input.source {
                    GatherSource::Shards(shards) => shards,
                    GatherSource::AnyOne => ShardSet::only(plan.first_shard()),
                },
                table: Some(input.table.to_string()),
                // Offline only key columns are known.
                text: if context.schema.is_assumed { input.select_of("…", &[]) } else { input.select_sql(&[]) },
            });
            let on_engine = plan.inputs.iter().filter(|input| !is_brought(input)).map(|input| input.table.to_string());
            Outline {
                finish: Some(plan.final_sql(|idx| match plan.inputs.get(idx).is_some_and(is_brought) {
                    true => GatherPlace::Temporary,
                    false => GatherPlace::Named,
                })),
                notes: plan.links.iter().map(|link| ("semi-join", plan.told(link))).collect(),
                on_engine: on_engine.collect(),
                ..of("gather", plan.shards, parts.collect())
            }
        }
        Plan::Insert(plan) => {
            let parts = plan.statements.iter().map(|each| OutlinePart {
                shards: ShardSet::only(each.shard),
                table: None,
                text: each.text.clone(),
            });
            of("insert", plan.statements.iter().map(|each| each.shard).collect(), parts.collect())
        }
        Plan::Everywhere { shards } => of("everywhere", *shards, whole(*shards, sql)),
        Plan::Route { .. }
        | Plan::AnyOne { .. }
        | Plan::CopyIn(_)
        | Plan::CopyOut(_)
        | Plan::Cursor(_)
        | Plan::Explain(_)
        | Plan::Command(_) => return None,
    })
}

fn notes(merge: &MergePlan) -> Vec<(&'static str, String)> {
    let mut notes = Vec::new();
    for key in &merge.order {
        let direction = if key.is_descending { "DESC" } else { "ASC" };
        let nulls = if key.is_nulls_first { "FIRST" } else { "LAST" };
        let collation = if key.is_collation_c { " by bytes" } else { "" };
        notes.push(("sort", format!("hidden column {} {direction} NULLS {nulls}{collation}", key.column_idx)));
    }
    notes.extend(merge.limit.map(|limit| ("limit", limit.to_string())));
    if merge.offset > 0 {
        notes.push(("offset", merge.offset.to_string()));
    }
    notes
}

impl Outline {
    /// The lines of `trunkline explain`.
    pub(super) fn lines(&self, topology: &Topology) -> String {
        let first = match self.rung {
            "insert" => "insert: split by row".to_owned(),
            "everywhere" => return format!("everywhere: {} (write)", names(self.shards, topology)),
            rung => format!("{rung}: {}", names(self.shards, topology)),
        };
        let mut lines = vec![first];
        for part in &self.parts {
            let who = match (&part.table, self.rung) {
                (Some(table), _) if part.shards.is_empty() => format!("{table} from no shard"),
                (Some(table), _) => format!("{table} from {}", names(part.shards, topology)),
                (None, "insert") => names(part.shards, topology),
                (None, _) => "each".to_owned(),
            };
            lines.push(format!("  {who}: {}", part.text));
        }
        lines.extend(self.notes.iter().map(|(name, value)| format!("  {name}: {value}")));
        lines.extend(self.finish.iter().map(|sql| format!("  final: {sql}")));
        lines.join("\n")
    }
}

pub(super) fn names(shards: ShardSet, topology: &Topology) -> String {
    shards.iter().map(|shard| topology.shard(shard).name.as_str()).collect::<Vec<_>>().join(", ")
}
