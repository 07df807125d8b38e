//! Symmetric int8, whatever container it is in.

use crate::checkpoint::error::Result;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::{Calibration, Groups, QuantizationScheme, Rounding};
use crate::tensor::{FloatType, Shape, read_f64};
use std::ops::Range;

/// Symmetric int8: values in the tensor's own order, and scales. Element `i` is
/// `scale[group(i)] * values[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    /// The container it is of, if it is not quantscope's own.
    pub container: Option<&'static str>,
    pub values: StoredId,
    pub stored_as: Int8Values,
    pub scale: StoredId,
    pub scale_type: FloatType,
    /// The stored biases of a container in which an element is `scale * byte + bias`: one for
    /// each scale, in its type, and [`BIAS_FACTOR`] times as large.
    pub biases: Option<StoredId>,
    pub scheme: QuantizationScheme,
    pub rounding: Rounding,
    pub calibration: Calibration,
    /// The type the tensor had before.
    pub original: FloatType,
    pub shape: Shape,
    /// Parts that decoding needs not: recorded activation scales and the like.
    pub beside: Vec<StoredId>,
}

/// What a bias is of its scale where bytes hold 128 more than the int8 value.
pub(crate) const BIAS_FACTOR: f32 = -128.0;

/// How an int8 value becomes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int8Values {
    /// As it is.
    Signed,
    /// With 128 added: compressed-tensors' packed words.
    Offset,
}

impl Int8Values {
    /// Turns values into bytes, or back.
    pub fn code(self, values: &mut [u8]) {
        match self {
            Int8Values::Signed => {}
            Int8Values::Offset => values.iter_mut().for_each(|byte| *byte ^= 0x80),
        }
    }
}

impl Int8 {
    /// How its elements are divided among the scales.
    pub fn groups(&self) -> Groups {
        self.scheme.groups(&self.shape)
    }

    /// The scales of `groups`.
    pub fn scales(&self, reader: &mut StoredReader, groups: Range<u64>) -> Result<Vec<f32>> {
        self.numbers(reader, self.scale, groups)
    }

    /// The biases of `groups`, if the container has any.
    pub fn biases(
        &self,
        reader: &mut StoredReader,
        groups: Range<u64>,
    ) -> Result<Option<Vec<f32>>> {
        self.biases.map(|biases| self.numbers(reader, biases, groups)).transpose()
    }

    fn numbers(
        &self,
        reader: &mut StoredReader,
        id: StoredId,
        groups: Range<u64>,
    ) -> Result<Vec<f32>> {
        let size = self.scale_type.size() as u64;
        let mut bytes = Vec::new();
        reader.stored_into(id, groups.start * size..groups.end * size, &mut bytes)?;
        let count = (groups.end - groups.start) as usize;
        Ok((0..count)
            .map(|i| read_f64(self.scale_type, &bytes, i).map_or(f32::NAN, |scale| scale as f32))
            .collect())
    }

    /// The values of `range`, in place of what `bytes` hold.
    pub fn values<'b>(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        bytes: &'b mut Vec<u8>,
    ) -> Result<&'b [i8]> {
        reader.stored_into(self.values, range, bytes)?;
        self.stored_as.code(bytes);
        Ok(bytemuck::cast_slice(bytes))
    }

    /// The groups that the elements of `range` lie in.
    pub fn groups_of(&self, range: &Range<u64>) -> Range<u64> {
        let first = self.groups().of(range.start);
        if range.is_empty() { first..first } else { first..self.groups().of(range.end - 1) + 1 }
    }
}
