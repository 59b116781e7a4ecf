//! Whether a FROM list gives each shard all that its rows join with.

use sqlparser::ast::{JoinConstraint, Query, TableFactor, TableWithJoins};

use super::bind::are_alike;
use super::collect::{Collected, address};
use super::contract::Context;
use super::names::{Target, table_name};
use super::refusal::{Refusal, RefusalCode};
use super::scope::{Side, constraint, side};

/// A FROM entry or a join of some: sharded tables in groups that are joined on their keys.
struct Part {
    /// Table references; none: the same rows on every shard.
    groups: Vec<Vec<usize>>,
}

/// Checks a FROM list of a statement on several shards.
///
/// # Errors
/// `Join`, `OuterJoin`, `Subquery`, `SystemColumn`.
pub(super) fn check(from: &[TableWithJoins], collected: &Collected, context: &Context<'_>) -> Result<(), Refusal> {
    let joins = Joins { collected, context };
    let mut all = Part { groups: Vec::new() };
    for tree in from {
        all.groups.extend(joins.tree(tree)?.groups);
    }
    joins.connect(&mut all.groups);
    joins.one_group(&all)
}

struct Joins<'a> {
    collected: &'a Collected,
    context: &'a Context<'a>,
}

impl Joins<'_> {
    fn tree(&self, tree: &TableWithJoins) -> Result<Part, Refusal> {
        let mut left = self.factor(&tree.relation)?;
        for join in &tree.joins {
            let right = self.factor(&join.relation)?;
            if matches!(constraint(&join.join_operator), Some(JoinConstraint::Natural))
                && !right.groups.is_empty()
                && !left.groups.is_empty()
            {
                return Err(Refusal::new(RefusalCode::Join, "NATURAL JOIN of sharded tables is not supported")
                    .with_hint("Name the key columns with USING or ON."));
            }
            left = self.joined(left, right, side(&join.join_operator))?;
        }
        Ok(left)
    }

    fn joined(&self, left: Part, right: Part, side: Side) -> Result<Part, Refusal> {
        let (preserves_left, preserves_right) = match side {
            Side::Inner => (false, false),
            Side::Left => (true, false),
            Side::Right => (false, true),
            Side::Full => (true, true),
            Side::Other => return Err(Refusal::new(RefusalCode::Join, "this kind of join across shards is not supported")),
        };
        let spreads = |preserved: &Part, other: &Part| preserved.groups.is_empty() && !other.groups.is_empty();
        if (preserves_left && spreads(&left, &right)) || (preserves_right && spreads(&right, &left)) {
            let message = "an outer join that keeps all rows of a table that every shard has is not supported across shards";
            return Err(Refusal::new(RefusalCode::OuterJoin, message));
        }
        let is_outer = preserves_left || preserves_right;
        let mut both = Part { groups: left.groups };
        both.groups.extend(right.groups);
        self.connect(&mut both.groups);
        if is_outer {
            self.one_group(&both)?;
        }
        Ok(both)
    }

    fn factor(&self, factor: &TableFactor) -> Result<Part, Refusal> {
        match factor {
            TableFactor::Table { name, args: None, sample: None, .. } => {
                let ref_idx = self.collected.ref_by_address.get(&address(name)).copied();
                let Some((ref_idx, table_ref)) = ref_idx.and_then(|idx| Some((idx, self.collected.refs.get(idx)?))) else {
                    return Err(Refusal::new(RefusalCode::Join, "this form of FROM across shards is not supported"));
                };
                match &table_ref.target {
                    Target::Sharded(_) | Target::Fixed(_) => Ok(Part { groups: vec![vec![ref_idx]] }),
                    Target::System => Err(Refusal::new(
                        RefusalCode::SystemColumn,
                        format!(
                            "system catalog \"{}\" joined with rows of several shards is not supported",
                            table_ref.name.join(".")
                        ),
                    )),
                    _ => Ok(Part { groups: Vec::new() }),
                }
            }
            TableFactor::Table { sample: Some(_), .. } => {
                Err(Refusal::new(RefusalCode::Clause, "TABLESAMPLE across shards is not supported"))
            }
            TableFactor::Table { .. } | TableFactor::Function { .. } | TableFactor::UNNEST { .. } => {
                Ok(Part { groups: Vec::new() })
            }
            TableFactor::NestedJoin { table_with_joins, .. } => self.tree(table_with_joins),
            TableFactor::Derived { subquery, .. } => self.derived(subquery),
            _ => Err(Refusal::new(RefusalCode::Join, "this form of FROM across shards is not supported")),
        }
    }

    /// A subquery in FROM: it may read only tables that every shard has. (Subqueries over sharded tables are refused before.)
    fn derived(&self, _subquery: &Query) -> Result<Part, Refusal> {
        let is_sharded = |depth: usize| depth > 1;
        let reads_shards =
            self.collected.refs.iter().any(|table_ref| {
                is_sharded(table_ref.depth) && matches!(table_ref.target, Target::Sharded(_) | Target::Fixed(_))
            });
        if reads_shards {
            return Err(Refusal::new(
                RefusalCode::Subquery,
                "a subquery over sharded tables in FROM across shards is not supported",
            ));
        }
        Ok(Part { groups: Vec::new() })
    }

    /// Merges groups that are joined on all columns of their keys.
    fn connect(&self, groups: &mut Vec<Vec<usize>>) {
        let mut left = 0;
        while left < groups.len() {
            let found = (left + 1..groups.len()).find(|right| self.are_joined(&groups[left], &groups[*right]));
            match found {
                Some(right) => {
                    let more = groups.remove(right);
                    groups[left].extend(more);
                    left = 0;
                }
                None => left += 1,
            }
        }
    }

    fn are_joined(&self, left: &[usize], right: &[usize]) -> bool {
        left.iter().any(|a| right.iter().any(|b| self.on_keys(*a, *b)))
    }

    /// Whether two references are of co-located tables and joined by equality of every key column.
    fn on_keys(&self, a: usize, b: usize) -> bool {
        let refs = &self.collected.refs;
        let (Some(left), Some(right)) = (refs[a].key(), refs[b].key()) else { return false };
        let types = refs[a].key_types.iter().zip(&refs[b].key_types);
        let is_alike = |pair: (&Option<crate::sql::KeyType>, &Option<crate::sql::KeyType>)| {
            pair.0.zip(*pair.1).is_some_and(|(left, right)| are_alike(left, right))
        };
        left.map == right.map
            && types.clone().count() == left.columns.len()
            && types.into_iter().all(is_alike)
            && (0..left.columns.len()).all(|column_idx| {
                self.collected.edges.iter().chain(&self.collected.full_pairs).any(|edge| {
                    let ends = (edge.from.ref_idx, edge.to.ref_idx);
                    (ends == (a, b) || ends == (b, a)) && edge.from.column_idx == column_idx && edge.to.column_idx == column_idx
                })
            })
    }

    fn one_group(&self, part: &Part) -> Result<(), Refusal> {
        match part.groups.as_slice() {
            [] | [_] => Ok(()),
            [first, second, ..] => {
                let name = |group: &Vec<usize>| {
                    group
                        .first()
                        .map(|idx| table_name(&self.collected.refs[*idx].name, self.context).to_string())
                        .unwrap_or_default()
                };
                let message = format!(
                    "\"{}\" and \"{}\" are not joined by all their key columns; a join across shards is not supported",
                    name(first),
                    name(second)
                );
                Err(Refusal::new(RefusalCode::Join, message))
            }
        }
    }
}
