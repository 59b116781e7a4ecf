use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const INT4: u32 = 23;
const TEXT: u32 = 25;

fn key(column_idx: usize, type_oid: u32, (is_descending, is_nulls_first): (bool, bool)) -> ResolvedKey {
    let comparator = Comparator::of(type_oid, true).unwrap();
    ResolvedKey { column_idx, comparator, is_descending, is_nulls_first }
}

fn row(fields: &[Option<&[u8]>]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u16(fields.len() as u16);
    for field in fields {
        body.put_i32(field.map_or(-1, |value| value.len() as i32));
        body.extend_from_slice(field.unwrap_or_default());
    }
    body.freeze()
}

/// A row whose visible columns are a label and a text, and whose hidden ones are an integer and the text again.
fn labelled(label: usize, number: Option<i32>, text: &str) -> Bytes {
    let number = number.map(i32::to_be_bytes);
    row(&[
        Some(label.to_string().as_bytes()),
        Some(text.as_bytes()),
        number.as_ref().map(<[u8; 4]>::as_slice),
        Some(text.as_bytes()),
    ])
}

/// All that a merge emits, and how many rows it asked for.
fn merged(spec: MergeSpec, mut streams: Vec<VecDeque<Bytes>>) -> (Vec<Bytes>, usize) {
    let mut merge = OrderedMerge::new(spec);
    let mut rows = Vec::new();
    let mut n_asked = 0;
    loop {
        match merge.step() {
            Step::Emit(row) => rows.push(row),
            Step::NeedFrom(stream_idx) => match streams[stream_idx].pop_front() {
                Some(row) => {
                    n_asked += 1;
                    merge.supply(stream_idx, row).unwrap();
                }
                None => merge.end(stream_idx),
            },
            Step::Done => return (rows, n_asked),
        }
    }
}

fn by_number(n_streams: usize) -> MergeSpec {
    MergeSpec { n_streams, n_visible: 1, n_hidden: 1, keys: vec![key(0, INT4, (false, false))], limit: None, offset: 0 }
}

fn numbers(values: &[i32]) -> VecDeque<Bytes> {
    values.iter().map(|value| row(&[Some(value.to_string().as_bytes()), Some(&value.to_be_bytes())])).collect()
}

#[test]
fn hidden_columns_are_cut_off() {
    let (rows, _) = merged(by_number(2), vec![numbers(&[1, 30]), numbers(&[-2])]);
    assert_eq!(rows, [row(&[Some(b"-2")]), row(&[Some(b"1")]), row(&[Some(b"30")])]);
}

#[test]
fn a_full_limit_asks_for_no_more() {
    let spec = MergeSpec { limit: Some(2), ..by_number(2) };
    let (rows, n_asked) = merged(spec, vec![numbers(&[1, 2, 3]), numbers(&[9, 10])]);
    assert_eq!((rows.len(), n_asked), (2, 3));
    let spec = MergeSpec { limit: Some(0), ..by_number(2) };
    assert_eq!(merged(spec, vec![numbers(&[1]), numbers(&[])]), (vec![], 0));
}

#[test]
fn no_streams_are_done_at_once() {
    assert_eq!(OrderedMerge::new(by_number(0)).step(), Step::Done);
}

#[test]
fn without_keys_streams_follow_each_other_untouched() {
    let spec = MergeSpec { n_streams: 2, n_visible: 1, n_hidden: 0, keys: vec![], limit: Some(3), offset: 1 };
    let rows = |texts: &[&str]| texts.iter().map(|text| row(&[Some(text.as_bytes())])).collect::<VecDeque<_>>();
    let (merged, n_asked) = merged(spec, vec![rows(&["a", "b"]), rows(&["c", "d", "e"])]);
    assert_eq!(merged, Vec::from(rows(&["b", "c", "d"])));
    assert_eq!(n_asked, 4, "rows asked for");
}

#[test]
fn malformed_rows_are_errors() {
    let good = numbers(&[7])[0].clone();
    let mut long = good.to_vec();
    long.push(0);
    let mut negative = good.to_vec();
    negative[2..6].copy_from_slice(&(-2_i32).to_be_bytes());
    let short_key = row(&[Some(b"7"), Some(&[0, 7])]);
    let bad = [vec![], vec![0], vec![0, 2], good[..good.len() - 1].to_vec(), long, negative, short_key.to_vec()];
    for body in bad {
        let mut merge = OrderedMerge::new(by_number(1));
        assert_eq!(merge.supply(0, Bytes::from(body.clone())), Err(MalformedRow), "{body:?}");
    }
    let one_column = row(&[Some(b"7")]);
    assert_eq!(OrderedMerge::new(by_number(1)).supply(0, one_column), Err(MalformedRow));
}

#[test]
fn a_row_without_a_place_is_an_error_and_loses_none() {
    let mut merge = OrderedMerge::new(by_number(2));
    let rows = numbers(&[1, 2]);
    merge.supply(0, rows[0].clone()).unwrap();
    assert_eq!(merge.supply(0, rows[1].clone()), Err(MalformedRow));
    assert_eq!(merge.supply(5, rows[1].clone()), Err(MalformedRow));
    merge.end(1);
    assert_eq!(merge.supply(1, rows[1].clone()), Err(MalformedRow));
    assert_eq!(merge.step(), Step::Emit(row(&[Some(b"1")])));
    assert_eq!(merge.step(), Step::NeedFrom(0));
}

#[test]
fn streams_may_be_supplied_in_any_order() {
    let mut merge = OrderedMerge::new(by_number(3));
    assert_eq!(merge.step(), Step::NeedFrom(0));
    merge.supply(2, numbers(&[3])[0].clone()).unwrap();
    merge.end(1);
    assert_eq!(merge.step(), Step::NeedFrom(0));
    merge.supply(0, numbers(&[5])[0].clone()).unwrap();
    assert_eq!(merge.step(), Step::Emit(row(&[Some(b"3")])));
    assert_eq!(merge.step(), Step::NeedFrom(2));
}

type Generated = (Option<i32>, String);

fn order(keys: &[ResolvedKey], left: &Generated, right: &Generated) -> Ordering {
    let nulls = |key: &ResolvedKey, left: bool, right: bool| if key.is_nulls_first { right.cmp(&left) } else { left.cmp(&right) };
    let direct = |key: &ResolvedKey, order: Ordering| if key.is_descending { order.reverse() } else { order };
    let by_number = match (left.0, right.0) {
        (Some(left), Some(right)) => direct(&keys[0], left.cmp(&right)),
        (left, right) => nulls(&keys[0], left.is_none(), right.is_none()),
    };
    by_number.then_with(|| direct(&keys[1], left.1.as_bytes().cmp(right.1.as_bytes())))
}

proptest! {
    #[test]
    fn merging_equals_sorting_all_rows(
        streams in prop::collection::vec(prop::collection::vec((prop::option::of(-3..3_i32), "[ab]{0,2}"), 0..12), 0..6),
        number_key in any::<(bool, bool)>(),
        text_is_descending in any::<bool>(),
        limit in prop::option::of(0..20_u64),
        offset in 0..10_u64,
    ) {
        let keys = vec![key(0, INT4, number_key), key(1, TEXT, (text_is_descending, false))];
        let mut label = 0;
        let mut all = Vec::new();
        let mut sorted_streams = Vec::new();
        for mut stream in streams {
            stream.sort_by(|left, right| order(&keys, left, right));
            let mut rows = VecDeque::new();
            for generated in stream {
                rows.push_back(labelled(label, generated.0, &generated.1));
                all.push((generated, label));
                label += 1;
            }
            sorted_streams.push(rows);
        }
        // A stable sort leaves rows of equal keys in the order of their streams.
        all.sort_by(|(left, _), (right, _)| order(&keys, left, right));
        let visible = |((_, text), label): &(Generated, usize)| row(&[Some(label.to_string().as_bytes()), Some(text.as_bytes())]);
        let n_rows = limit.map_or(usize::MAX, |limit| limit as usize);
        let expected: Vec<_> = all.iter().skip(offset as usize).take(n_rows).map(visible).collect();
        let spec = MergeSpec { n_streams: sorted_streams.len(), n_visible: 2, n_hidden: 2, keys, limit, offset };
        prop_assert_eq!(merged(spec, sorted_streams).0, expected);
    }

    #[test]
    fn any_bytes_are_a_row_or_an_error(body in prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255), any::<u8>()], 0..30)) {
        let mut merge = OrderedMerge::new(by_number(1));
        if merge.supply(0, Bytes::from(body)).is_ok() {
            prop_assert!(matches!(merge.step(), Step::Emit(_)));
        }
    }
}
