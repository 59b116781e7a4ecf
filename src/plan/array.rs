//! Arrays on the right side of `= ANY`: their elements as key values.

use super::slot::{Binding, Operand, Slot, SlotValue, exact, string_content};
use crate::sql::{KeyType, ParamFormat, canonical_binary, canonical_text};
use crate::topology::TypeOid;

/// Arrays of more elements are not looked at.
const MAX_ELEMENTS: usize = 10_000;

impl Slot {
    /// The elements of the array that the slot's value is, for comparison with a column of `key_type`; `None`: not understood.
    pub(super) fn elements(&self, key_type: KeyType, binding: Binding<'_>) -> Option<Vec<SlotValue>> {
        let values = binding.values;
        match &self.operand {
            Operand::Null => Some(Vec::new()),
            Operand::Literal { literal_idx, is_negated: false } => {
                let text = string_content(values.sql.as_bytes(), *values.literals.get(*literal_idx)?)?;
                of_text(&text, key_type, binding.time_zone)
            }
            Operand::Param(number) => {
                let idx = number.checked_sub(1)?;
                let Some(bytes) = *values.params.values.get(idx)? else { return Some(Vec::new()) };
                if !is_array_of(values.params.types.get(idx).copied().unwrap_or(0), key_type) {
                    return None;
                }
                match values.params.formats.get(idx).copied().unwrap_or(ParamFormat::Text) {
                    ParamFormat::Text => of_text(std::str::from_utf8(bytes).ok()?, key_type, binding.time_zone),
                    ParamFormat::Binary => of_binary(bytes, key_type),
                }
            }
            Operand::Literal { .. } | Operand::Time(_) | Operand::Arithmetic(_) => None,
        }
    }
}

/// Whether elements of an array of this type compare with the column as values of its own type; 0: the server infers so.
fn is_array_of(type_oid: TypeOid, key_type: KeyType) -> bool {
    // From pg_type.dat: int2[], int4[], int8[]; text[], varchar[]; uuid[].
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => matches!(type_oid, 0 | 1005 | 1007 | 1016),
        KeyType::Text => matches!(type_oid, 0 | 1009 | 1015),
        KeyType::Uuid => matches!(type_oid, 0 | 2951),
        _ => false,
    }
}

/// `{a,"b c",NULL}`: PostgreSQL manual, "Array Input and Output Syntax". Arrays of arrays and with bounds are not understood.
fn of_text(text: &str, key_type: KeyType, time_zone: &str) -> Option<Vec<SlotValue>> {
    let mut rest = text.trim_matches(' ').strip_prefix('{')?.strip_suffix('}')?.chars();
    let mut elements = Vec::new();
    loop {
        let (mut element, mut is_quoted) = (String::new(), false);
        loop {
            match rest.next() {
                None | Some(',') if element.is_empty() && !is_quoted => return None,
                None => {
                    elements.push(element_value(&element, is_quoted, key_type, time_zone)?);
                    return Some(elements);
                }
                Some(',') => break,
                Some('"') if element.is_empty() && !is_quoted => {
                    is_quoted = true;
                    quoted_part(&mut rest, &mut element)?;
                }
                // What is rarely written is left to the server.
                Some('{' | '}' | '"' | '\\') => return None,
                Some(c) if c.is_whitespace() || is_quoted => return None,
                Some(c) => element.push(c),
            }
        }
        if elements.len() >= MAX_ELEMENTS {
            return None;
        }
        elements.push(element_value(&element, is_quoted, key_type, time_zone)?);
    }
}

fn quoted_part(rest: &mut impl Iterator<Item = char>, element: &mut String) -> Option<()> {
    loop {
        match rest.next()? {
            '"' => return Some(()),
            '\\' => element.push(rest.next()?),
            c => element.push(c),
        }
    }
}

fn element_value(text: &str, is_quoted: bool, key_type: KeyType, time_zone: &str) -> Option<SlotValue> {
    if !is_quoted && text.eq_ignore_ascii_case("null") {
        return Some(SlotValue::Null);
    }
    Some(exact(canonical_text(text, key_type, time_zone))).filter(|value| *value != SlotValue::Unknown)
}

/// src/backend/utils/adt/arrayfuncs.c, `array_recv`.
fn of_binary(bytes: &[u8], key_type: KeyType) -> Option<Vec<SlotValue>> {
    let mut rest = bytes;
    let mut int = || {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        Some(i32::from_be_bytes(*head))
    };
    let (n_dimensions, _flags, element_type) = (int()?, int()?, int()?);
    if n_dimensions == 0 {
        return Some(Vec::new());
    }
    let (n_elements, _lower_bound) = (usize::try_from(int()?).ok()?, int()?);
    if n_dimensions != 1 || n_elements > MAX_ELEMENTS {
        return None;
    }
    let mut elements = Vec::with_capacity(n_elements);
    for _ in 0..n_elements {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        rest = tail;
        match usize::try_from(i32::from_be_bytes(*head)) {
            Err(_) => elements.push(SlotValue::Null),
            Ok(length) => {
                let (value, tail) = rest.split_at_checked(length)?;
                rest = tail;
                let value = exact(canonical_binary(value, element_type.cast_unsigned(), key_type));
                elements.push(Some(value).filter(|value| *value != SlotValue::Unknown)?);
            }
        }
    }
    Some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::KeyValue;

    #[test]
    fn elements_are_read_as_the_server_reads_them_or_not_at_all() {
        let ints = |text| of_text(text, KeyType::Int8, "UTC");
        let int = |n| SlotValue::Exact(KeyValue::Int(n));
        assert_eq!(ints("{7,-8,null}"), Some(vec![int(7), int(-8), SlotValue::Null]));
        for text in ["", "{}", "{1,}", "{1,{2}}", "[1:1]={1}", "{1.5}", "{x}", "{ 1}", "{1,,2}", "{\"1\"2}"] {
            assert_eq!(ints(text), None, "{text}");
        }
        let text = |text: &str| SlotValue::Exact(KeyValue::Text(text.to_owned()));
        assert_eq!(of_text(r#"{a,"b ,\"c","NULL"}"#, KeyType::Text, "UTC"), Some(vec![text("a"), text("b ,\"c"), text("NULL")]));
        let binary = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9, 255, 255, 255, 255];
        assert_eq!(of_binary(&binary, KeyType::Int8), Some(vec![int(9), SlotValue::Null]));
        assert_eq!(of_binary(&binary[..20], KeyType::Int8), None);
        assert_eq!(of_binary(&[0; 12], KeyType::Int8), Some(Vec::new()));
    }
}
