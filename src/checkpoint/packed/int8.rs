//! Symmetric int8 in any container.

use crate::checkpoint::error::Result;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::{Calibration, Groups, QuantizationScheme, Rounding};
use crate::tensor::{FloatType, Shape, read_f64};
use std::ops::Range;

/// Symmetric int8: values in the tensor's own order, and scales. Element `i` is `scale[group(i)] *
/// values[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    /// The container's name; `None` for quantscope's own format.
    pub container: Option<&'static str>,
    /// The stored int8 values.
    pub values: StoredId,
    /// The encoding of the values as bytes.
    pub stored_as: Int8Values,
    /// The stored scales.
    pub scale: StoredId,
    /// The type of the stored scales.
    pub scale_type: FloatType,
    /// The stored biases of a container in which an element is `scale * byte + bias`: one per
    /// scale, of the same type, and [`BIAS_FACTOR`] times the scale.
    pub biases: Option<StoredId>,
    /// The scheme, which determines the groups.
    pub scheme: QuantizationScheme,
    /// The rounding used for quantization.
    pub rounding: Rounding,
    /// The calibration used for quantization.
    pub calibration: Calibration,
    /// The type before quantization.
    pub original: FloatType,
    /// The shape of the tensor.
    pub shape: Shape,
    /// Stored tensors not needed for decoding, such as recorded activation scales.
    pub beside: Vec<StoredId>,
}

/// The ratio of bias to scale in containers whose bytes are the int8 value plus 128.
pub(crate) const BIAS_FACTOR: f32 = -128.0;

/// The encoding of an int8 value as a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int8Values {
    /// Two's complement.
    Signed,
    /// The value plus 128, as in compressed-tensors' packed words.
    Offset,
}

impl Int8Values {
    /// Converts values to bytes or back.
    pub fn code(self, values: &mut [u8]) {
        match self {
            Int8Values::Signed => {}
            Int8Values::Offset => values.iter_mut().for_each(|byte| *byte ^= 0x80),
        }
    }
}

impl Int8 {
    /// Returns the division of the elements into groups that share a scale.
    pub fn groups(&self) -> Groups {
        self.scheme.groups(&self.shape)
    }

    /// Reads the scales of `groups`.
    pub fn scales(&self, reader: &mut StoredReader, groups: Range<u64>) -> Result<Vec<f32>> {
        self.numbers(reader, self.scale, groups)
    }

    /// Reads the biases of `groups`, if the container has biases.
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

    /// Reads the values of `range` into `bytes`.
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

    /// Returns the numbers of the groups that contain the elements of `range`.
    pub fn groups_of(&self, range: &Range<u64>) -> Range<u64> {
        self.groups().touched_by(range)
    }
}
