//! Values as the elements of a binary array that is a parameter: src/backend/utils/adt/arrayfuncs.c, `array_recv`.

use bytes::{BufMut, BytesMut};

use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::malformed;
use crate::sql::ParamFormat;
use crate::topology::TypeOid;

/// An array of one dimension.
#[derive(Debug)]
pub(super) struct Array {
    type_oid: TypeOid,
    n_elements: usize,
    elements: BytesMut,
    has_null: bool,
}

/// An array's length, in elements and in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArrayLen {
    n_elements: usize,
    n_bytes: usize,
}

impl Array {
    /// An array without elements, which are to be of this type.
    pub(super) fn of(type_oid: TypeOid) -> Self {
        Self { type_oid, n_elements: 0, elements: BytesMut::new(), has_null: false }
    }

    /// Adds a value in its type's binary form; `None`: NULL.
    pub(super) fn push(&mut self, value: Option<&[u8]>) {
        self.n_elements += 1;
        match value {
            None => {
                self.has_null = true;
                self.elements.put_i32(-1);
            }
            Some(bytes) => {
                self.elements.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                self.elements.put_slice(bytes);
            }
        }
    }

    pub(super) fn len(&self) -> ArrayLen {
        ArrayLen { n_elements: self.n_elements, n_bytes: self.elements.len() }
    }

    /// Takes back what was added since it had this length.
    pub(super) fn truncate(&mut self, len: ArrayLen) {
        self.n_elements = len.n_elements;
        self.elements.truncate(len.n_bytes);
    }

    /// The array as a parameter of Bind: its length in bytes, then the array.
    pub(super) fn write(&self, buffer: &mut BytesMut) {
        let n_elements = i32::try_from(self.n_elements).unwrap_or(i32::MAX);
        let n_header_bytes = if n_elements > 0 { 20 } else { 12 };
        buffer.put_i32(i32::try_from(self.elements.len() + n_header_bytes).unwrap_or(i32::MAX));
        buffer.put_i32(i32::from(n_elements > 0));
        buffer.put_i32(i32::from(self.has_null));
        buffer.put_u32(self.type_oid);
        if n_elements > 0 {
            buffer.put_i32(n_elements);
            buffer.put_i32(1);
        }
        buffer.put_slice(&self.elements);
    }
}

impl BoundValues {
    /// These values with arrays after them.
    ///
    /// # Errors
    /// 08P01 for values that cannot be read.
    pub(super) fn with_arrays(&self, arrays: &[Array]) -> Result<Self, Failure> {
        if arrays.is_empty() {
            return Ok(self.clone());
        }
        self.try_with_arrays(arrays).ok_or_else(malformed_values)
    }

    /// How many values there are.
    ///
    /// # Errors
    /// As [`Self::with_arrays`].
    pub(super) fn n_values(&self) -> Result<usize, Failure> {
        self.params().map(|(_, values)| values.len()).ok_or_else(malformed_values)
    }

    fn try_with_arrays(&self, arrays: &[Array]) -> Option<Self> {
        let (formats, values) = self.params()?;
        let n_values = u16::try_from(values.len() + arrays.len()).ok()?;
        let mut encoded = BytesMut::new();
        encoded.put_u16(n_values);
        formats.iter().for_each(|format| encoded.put_i16(i16::from(*format == ParamFormat::Binary)));
        arrays.iter().for_each(|_| encoded.put_i16(1));
        encoded.put_u16(n_values);
        for value in values {
            match value {
                None => encoded.put_i32(-1),
                Some(bytes) => {
                    encoded.put_i32(i32::try_from(bytes.len()).ok()?);
                    encoded.put_slice(bytes);
                }
            }
        }
        arrays.iter().for_each(|array| array.write(&mut encoded));
        Some(Self { encoded: encoded.freeze(), ..self.clone() })
    }
}

fn malformed_values() -> Failure {
    malformed("the parameters of Bind are malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_carry_nulls_and_an_empty_one_has_no_dimension() {
        let mut array = Array::of(23);
        let mut buffer = BytesMut::new();
        array.write(&mut buffer);
        assert_eq!(&buffer[..], [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23]);
        array.push(None);
        buffer.clear();
        array.write(&mut buffer);
        assert_eq!(&buffer[..], [0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 255, 255, 255, 255]);
    }

    #[test]
    fn arrays_come_after_the_clients_own_values() {
        // One format for both values: binary; the second value is NULL.
        let own =
            BoundValues { encoded: vec![0, 1, 0, 1, 0, 2, 0, 0, 0, 1, 7, 255, 255, 255, 255].into(), ..BoundValues::none() };
        let both = own.with_arrays(&[Array::of(23)]).unwrap();
        let formats = [0, 3, 0, 1, 0, 1, 0, 1];
        let values = [0, 3, 0, 0, 0, 1, 7, 255, 255, 255, 255, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23];
        assert_eq!(both.encoded[..], [&formats[..], &values].concat());
        let none = BoundValues::none().with_arrays(&[Array::of(23)]).unwrap();
        assert_eq!(none.encoded[..6], [0, 1, 0, 1, 0, 1]);
    }
}
