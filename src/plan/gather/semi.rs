//! What is known of rows by those of other tables: which of them matter (semi-joins), and by which columns they are looked up.

use std::collections::BTreeMap;

use crate::plan::collect::Collected;
use crate::plan::contract::{GatherColumn, GatherInput, GatherLink};
use crate::plan::links::Link;
use crate::sql::{ValueError, canonical_binary};
use crate::topology::{Collation, KeyPredicate, Placement, ShardSet, TypeOid};

/// The links between inputs whose values compare as their bytes do. One that restricts a table which is named twice says nothing
/// of the rows that the other name needs, and is left out.
pub(super) fn links(collected: &Collected, inputs: &[GatherInput], input_of_ref: &BTreeMap<usize, usize>) -> Vec<GatherLink> {
    let all = collected.links.as_ref().map(|links| links.all.as_slice()).unwrap_or_default();
    let is_named_once = |input_idx: usize| input_of_ref.values().filter(|&&named| named == input_idx).count() == 1;
    let link = |link: &Link| {
        let (from, to) = (*input_of_ref.get(&link.from.ref_idx)?, *input_of_ref.get(&link.to.ref_idx)?);
        let (from_idx, from_column) = column(inputs, from, &link.from.name)?;
        let (to_idx, to_column) = column(inputs, to, &link.to.name)?;
        if from == to || !is_named_once(to) || !compare_alike(from_column, to_column) {
            return None;
        }
        let table_ref = collected.refs.get(link.to.ref_idx)?;
        let key = table_ref.key().and_then(|key| key.columns.iter().position(|name| *name == link.to.name));
        let key = key.and_then(|idx| Some((table_ref.table()?.clone(), idx, (*table_ref.key_types.get(idx)?)?)));
        Some(GatherLink { from: (from, from_idx), to: (to, to_idx), key })
    };
    all.iter().filter_map(link).collect()
}

/// Notes which columns of the inputs are looked up, of types that indexes take.
pub(super) fn note_look_ups(collected: &Collected, inputs: &mut [GatherInput], input_of_ref: &BTreeMap<usize, usize>) {
    // From pg_type.dat: integers, text and varchar, numeric, uuid, date, timestamp, timestamptz, oid.
    const INDEXED: [TypeOid; 11] = [20, 21, 23, 25, 1043, 1700, 2950, 1082, 1114, 1184, 26];
    for looked_up in collected.links.iter().flat_map(|links| &links.looked_up) {
        let Some(&input_idx) = input_of_ref.get(&looked_up.ref_idx) else { continue };
        let found = column(inputs, input_idx, &looked_up.name)
            .filter(|(_, column)| INDEXED.contains(&column.type_oid) && !column.is_text)
            .map(|(column_idx, _)| column_idx);
        if let (Some(column_idx), Some(input)) = (found, inputs.get_mut(input_idx))
            && !input.looked_up.contains(&column_idx)
        {
            input.looked_up.push(column_idx);
        }
    }
}

fn column<'a>(inputs: &'a [GatherInput], input_idx: usize, name: &str) -> Option<(usize, &'a GatherColumn)> {
    inputs.get(input_idx)?.columns.iter().enumerate().find(|(_, column)| column.name == name)
}

/// Whether `=` between the columns is that of their values' bytes, or of integers.
fn compare_alike(left: &GatherColumn, right: &GatherColumn) -> bool {
    // From pg_type.dat: int8, int2, int4; uuid; text, varchar.
    let is_known = |collation: Collation| matches!(collation, Collation::C | Collation::Default);
    match (left.type_oid, right.type_oid) {
        (20 | 21 | 23, 20 | 21 | 23) | (2950, 2950) => true,
        (25 | 1043, 25 | 1043) => is_known(left.collation) && is_known(right.collation),
        _ => false,
    }
}

impl GatherLink {
    /// The shards that may have rows whose column has one of these values, given in binary and of this type; `None` where they
    /// cannot tell.
    pub fn shards_of<'v>(&self, values: impl Iterator<Item = &'v [u8]>, type_oid: TypeOid) -> Option<ShardSet> {
        let (table, column_idx, key_type) = self.key.as_ref()?;
        let Placement::Sharded(key) = &table.placement else { return None };
        let mut known = Vec::new();
        for value in values {
            match canonical_binary(value, type_oid, *key_type) {
                Ok(value) => known.push(value),
                Err(ValueError::OutOfRange) => {}
                Err(ValueError::NotUnderstood) => return None,
            }
        }
        let mut predicates = vec![KeyPredicate::Unknown; key.columns.len()];
        *predicates.get_mut(*column_idx)? = KeyPredicate::AnyOf(known);
        Some(key.shards_for(&predicates))
    }
}
