//! OIDs of users' types in a shard's answers, put into those of the home. Nothing changes its length.

use std::sync::Arc;

use super::row_description::{columns, each_column, format_of};
use super::wire::BodyReader;
use crate::topology::{FIRST_OWN_OID, TypeMap, TypeOid, TypeShape};

/// An OID that the shard had not when its catalog was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewType;

/// Whether unknown OIDs are to be told, or made the best of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    Tell,
    Replace,
}

/// Columns whose binary values may hold OIDs: their indexes, and their types by the home's OIDs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OidColumns(Vec<(usize, TypeOid)>);

impl OidColumns {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of the body of a RowDescription that has the home's OIDs; values are judged by a shard's types.
    pub fn of(body: &[u8], types: &TypeMap) -> Self {
        let holds = |oid| types.from_home(oid).is_some_and(|own| types.holds_oids(own));
        Self(each_column(body).enumerate().filter(|(_, c)| holds(c.type_oid)).map(|(idx, c)| (idx, c.type_oid)).collect())
    }
}

/// What translates the rows of one statement of one shard.
#[derive(Debug)]
pub struct RowOids {
    /// Columns with their types by the shard's OIDs.
    columns: Vec<(usize, TypeOid)>,
    types: Arc<TypeMap>,
}

impl RowOids {
    /// `None` where no value holds an OID that would have to change.
    pub fn new(columns: &OidColumns, formats: &[i16], types: &Arc<TypeMap>) -> Option<Self> {
        let is_binary = |(idx, _): &&(usize, TypeOid)| format_of(formats, *idx) == 1;
        let columns: Vec<_> =
            columns.0.iter().filter(is_binary).filter_map(|(idx, oid)| Some((*idx, types.from_home(*oid)?))).collect();
        (!columns.is_empty()).then(|| Self { columns, types: Arc::clone(types) })
    }

    /// Puts the home's OIDs into a DataRow's body. Bytes that are no values of the types stay as they are.
    pub fn translate(&self, body: &mut [u8]) {
        let (mut position, mut column_idx) = (2, 0);
        for (wanted_idx, type_oid) in &self.columns {
            loop {
                let Some(len) = length_at(body, position) else { return };
                let start = position + 4;
                position = start + len.unwrap_or(0);
                column_idx += 1;
                if column_idx > *wanted_idx {
                    if let Some(value) = body.get_mut(start..position) {
                        translate_value(value, *type_oid, &self.types);
                    }
                    break;
                }
            }
        }
    }
}

/// Translates the body of a RowDescription.
///
/// # Errors
/// `NewType` for an OID that the shard is not known to have, if it is to be told; nothing has changed then.
pub fn translate_columns(body: &mut [u8], types: &TypeMap, unknown: Unknown) -> Result<(), NewType> {
    if each_column(body).all(|column| column.type_oid < FIRST_OWN_OID) {
        return Ok(());
    }
    let Some(columns) = columns(body) else { return Ok(()) };
    if unknown == Unknown::Tell && columns.iter().any(|column| !types.knows(column.type_oid)) {
        return Err(NewType);
    }
    for column in columns {
        put(body, column.type_at(), types.to_home(column.type_oid));
    }
    Ok(())
}

/// Translates the body of a ParameterDescription.
///
/// # Errors
/// As [`translate_columns`].
pub fn translate_parameters(body: &mut [u8], types: &TypeMap, unknown: Unknown) -> Result<(), NewType> {
    let n_types = BodyReader(body).i16().map_or(0, |n| usize::from(n.cast_unsigned()));
    let oids = (0..n_types).filter_map(|idx| Some((2 + 4 * idx, oid_at(body, 2 + 4 * idx)?)));
    let oids: Vec<(usize, TypeOid)> = oids.collect();
    if unknown == Unknown::Tell && oids.iter().any(|(_, oid)| !types.knows(*oid)) {
        return Err(NewType);
    }
    for (at, oid) in oids {
        put(body, at, types.to_home(oid));
    }
    Ok(())
}

fn translate_value(value: &mut [u8], type_oid: TypeOid, types: &TypeMap) {
    match types.shape(type_oid) {
        TypeShape::Plain => {}
        TypeShape::Array => translate_array(value, types),
        TypeShape::Composite => translate_record(value, types),
        TypeShape::Range { subtype } => translate_range(value, subtype, types),
        TypeShape::Multirange { subtype } => translate_multirange(value, subtype, types),
        TypeShape::Domain { base } => translate_value(value, base, types),
    }
}

/// src/backend/utils/adt/arrayfuncs.c, `array_send`: dimensions, flags, the elements' type, each dimension, each element.
fn translate_array(value: &mut [u8], types: &TypeMap) {
    const TYPE_AT: usize = 8;
    let (Some(n_dimensions), Some(element)) = (oid_at(value, 0), oid_at(value, TYPE_AT)) else { return };
    put(value, TYPE_AT, types.to_home(element));
    if !types.holds_oids(element) {
        return;
    }
    let start = 12 + 8 * n_dimensions.min(6) as usize;
    each_sized(value, start, |element_value| translate_value(element_value, element, types));
}

/// src/backend/utils/adt/rowtypes.c, `record_send`: the number of columns, and for each its type and its value.
fn translate_record(value: &mut [u8], types: &TypeMap) {
    let mut position = 4;
    while let (Some(column), Some(len)) = (oid_at(value, position), length_at(value, position + 4)) {
        put(value, position, types.to_home(column));
        let start = position + 8;
        position = start + len.unwrap_or(0);
        if let Some(inner) = value.get_mut(start..position) {
            translate_value(inner, column, types);
        }
    }
}

/// src/backend/utils/adt/rangetypes.c, `range_send`: flags, and the bounds that are there.
fn translate_range(value: &mut [u8], subtype: TypeOid, types: &TypeMap) {
    each_sized(value, 1, |bound| translate_value(bound, subtype, types));
}

/// src/backend/utils/adt/multirangetypes.c, `multirange_send`: their number, and each range.
fn translate_multirange(value: &mut [u8], subtype: TypeOid, types: &TypeMap) {
    each_sized(value, 4, |range| translate_range(range, subtype, types));
}

/// Calls `translate` for each value with a length before it, from `position` to the end.
fn each_sized(value: &mut [u8], mut position: usize, mut translate: impl FnMut(&mut [u8])) {
    while let Some(len) = length_at(value, position) {
        let start = position + 4;
        position = start + len.unwrap_or(0);
        if let Some(inner) = value.get_mut(start..position) {
            translate(inner);
        }
    }
}

/// The length at this place; within: `None` for NULL.
fn length_at(bytes: &[u8], at: usize) -> Option<Option<usize>> {
    let len = BodyReader(bytes.get(at..)?).i32()?;
    Some(usize::try_from(len).ok())
}

fn oid_at(bytes: &[u8], at: usize) -> Option<TypeOid> {
    BodyReader(bytes.get(at..)?).u32()
}

fn put(bytes: &mut [u8], at: usize, oid: TypeOid) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&oid.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{OwnType, ShardId, TypeMaps};

    const MOOD: TypeOid = 16_500;
    const MOODS: TypeOid = 16_501;
    const PAIR: TypeOid = 16_502;
    const PAIRS: TypeOid = 16_503;
    const SPAN: TypeOid = 16_504;

    /// A shard whose OIDs are 100 above the home's.
    fn types() -> Arc<TypeMap> {
        let all = [
            (MOOD, "mood", TypeShape::Plain),
            (MOODS, "_mood", TypeShape::Array),
            (PAIR, "pair", TypeShape::Composite),
            (PAIRS, "_pair", TypeShape::Array),
            (SPAN, "span", TypeShape::Range { subtype: MOODS }),
        ];
        let own = |less: TypeOid| {
            let own = |(oid, name, shape): (_, &str, _)| {
                (oid - less, OwnType { schema: "public".to_owned(), name: name.to_owned(), shape })
            };
            Some(Arc::new(all.into_iter().map(own).collect()))
        };
        Arc::clone(TypeMaps::new(ShardId(0), vec![own(100), own(0)]).of(ShardId(1)).unwrap())
    }

    fn array(element: TypeOid, values: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [1u32, 0, element, values.len() as u32, 1].map(u32::to_be_bytes).concat();
        values.iter().for_each(|value| bytes.extend(sized(value)));
        bytes
    }

    fn record(columns: &[(TypeOid, &[u8])]) -> Vec<u8> {
        let mut bytes = (columns.len() as u32).to_be_bytes().to_vec();
        for (oid, value) in columns {
            bytes.extend(oid.to_be_bytes());
            bytes.extend(sized(value));
        }
        bytes
    }

    fn sized(value: &[u8]) -> Vec<u8> {
        [&(value.len() as u32).to_be_bytes()[..], value].concat()
    }

    #[track_caller]
    fn check(type_oid: TypeOid, make: impl Fn(TypeOid) -> Vec<u8>) {
        let mut value = make(0);
        translate_value(&mut value, type_oid, &types());
        assert_eq!(value, make(100));
    }

    #[test]
    fn values_within_values_are_translated() {
        check(MOODS, |less| array(MOOD - less, &[b"sad", b"happy"]));
        check(PAIR, |less| record(&[(23, &[0; 4]), (MOODS - less, &array(MOOD - less, &[b"sad"])), (MOOD - less, b"happy")]));
        check(PAIRS, |less| {
            let pair = record(&[(MOOD - less, b"x"), (2249, &record(&[(MOOD - less, b"y")]))]);
            array(PAIR - less, &[&pair, &pair])
        });
        check(SPAN, |less| [vec![2], sized(&array(MOOD - less, &[b"a"])), sized(&array(MOOD - less, &[]))].concat());
        check(2249, |less| record(&[(1007, &array(23, &[&[0; 4]])), (MOOD - less, b"")]));
    }

    #[test]
    fn what_is_cut_short_is_left_alone() {
        let whole = array(PAIR, &[&record(&[(MOOD, b"x")])]);
        for len in 0..whole.len() {
            translate_value(&mut whole[..len].to_vec(), PAIRS, &types());
            RowOids { columns: vec![(0, PAIRS), (3, PAIRS)], types: types() }.translate(&mut whole[..len].to_vec());
        }
    }

    #[test]
    fn only_the_columns_in_question_of_a_row_are_touched() {
        let moods = |less: TypeOid| array(MOOD - less, &[b"sad"]);
        let row = |less: TypeOid| {
            let mut body = 4u16.to_be_bytes().to_vec();
            body.extend(sized(&moods(0)));
            body.extend((-1i32).to_be_bytes());
            body.extend(sized(&moods(less)));
            body.extend(sized(b"end"));
            body
        };
        let columns = OidColumns(vec![(0, MOODS - 100), (1, MOODS - 100), (2, MOODS - 100)]);
        let mut body = row(0);
        RowOids::new(&columns, &[0, 1, 1, 0], &types()).unwrap().translate(&mut body);
        assert_eq!(body, row(100));
        assert!(RowOids::new(&columns, &[], &types()).is_none());
    }

    #[test]
    fn descriptions_tell_types_that_are_new() {
        let description = |oids: [TypeOid; 2]| {
            let mut body = 2u16.to_be_bytes().to_vec();
            for oid in oids {
                body.extend(b"name\0\0\0\0\0\0\0");
                body.extend(oid.to_be_bytes());
                body.extend([0; 8]);
            }
            body
        };
        let mut body = description([MOOD, 23]);
        translate_columns(&mut body, &types(), Unknown::Tell).unwrap();
        assert_eq!(body, description([MOOD - 100, 23]));
        let mut body = description([MOOD, 17_000]);
        assert_eq!(translate_columns(&mut body, &types(), Unknown::Tell), Err(NewType));
        translate_columns(&mut body, &types(), Unknown::Replace).unwrap();
        assert_eq!(body, description([MOOD - 100, 705]));
        let parameters = |oids: [TypeOid; 2]| [&[0, 2][..], &oids.map(TypeOid::to_be_bytes).concat()].concat();
        let mut body = parameters([25, MOODS]);
        translate_parameters(&mut body, &types(), Unknown::Tell).unwrap();
        assert_eq!(body, parameters([25, MOODS - 100]));
        assert_eq!(translate_parameters(&mut parameters([17_000, 25]), &types(), Unknown::Tell), Err(NewType));
    }
}
