//! INSERT … SELECT into a sharded table: what the select list says of the target's key.

use sqlparser::ast::{Expr, SelectItem, SetExpr};

use super::collect::{Collected, Collector, Edge, KeyColumn};
use super::condition::{Condition, Test};
use super::insert::KeyPlace;
use super::names::folded;
use super::predicate::{self, column_idents};
use super::select::item_expr;

/// Restricts the target's rows to the values that the source selects for its key: a literal, a parameter, or the key of a source
/// table. What is not understood stays unknown, and the statement is refused where that leaves more than one shard.
pub(super) fn bind_target(
    source: &SetExpr,
    places: &[KeyPlace],
    collector: &mut Collector<'_>,
    collected: &mut Collected,
    target_idx: usize,
) {
    let SetExpr::Select(select) = source else { return };
    if !select.projection.iter().all(|item| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })) {
        return;
    }
    for (column_idx, place) in places.iter().enumerate() {
        // A length or precision may change the value when it is stored.
        let expr = place.value_idx.and_then(|idx| select.projection.get(idx)).and_then(item_expr);
        let Some(expr) = expr.filter(|_| !place.column.type_name.contains('(')) else { continue };
        let to = KeyColumn { ref_idx: target_idx, column_idx };
        if let Some(from) = source_key(expr, collected) {
            collected.edges.push(Edge { from, to });
        } else if let Some(slot) = predicate::slot(collector, expr) {
            let condition = Condition::Column { column_idx, test: Test::In(vec![slot]) };
            collected.refs[target_idx].conditions.push(condition);
        }
    }
}

/// The key column of a source table that `expr` is; none where an outer join may make it NULL.
fn source_key(expr: &Expr, collected: &Collected) -> Option<KeyColumn> {
    let names: Vec<String> = column_idents(expr)?.iter().map(folded).collect();
    let scope = collected.top.as_ref()?;
    let [item_idx] = scope.find(&names)[..] else { return None };
    let item = scope.items.get(item_idx).filter(|item| !item.is_nullable)?;
    item.key_column(names.last()?)
}
