//! The interface of a packed format, and a tensor in such a format.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::int8::Int8;
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::{Preset, dequantize_groups};
use crate::tensor::{FloatType, Shape};
use std::fmt::Debug;
use std::ops::Range;

/// Decodes a tensor's elements from the stored tensors that hold them.
pub trait PackedFormat: Debug + Send + Sync {
    /// Returns the format's name with its parameters, such as `gptq int4, groups of 128`.
    fn name(&self) -> String;

    /// Returns the tensor as symmetric int8; `None` if it is in another format.
    fn int8(&self) -> Option<&Int8> {
        None
    }

    /// Returns the preset of compressed-tensors with the same stored form, if there is one.
    fn preset(&self) -> Option<Preset> {
        None
    }

    /// Returns the float type before quantization, as far as known.
    fn original(&self) -> FloatType;

    /// Returns the type that [`PackedFormat::decode`] produces; `None` for a format that is
    /// recognized but not decoded.
    fn decoded(&self) -> Option<FloatType> {
        Some(FloatType::F32)
    }

    /// Returns the stored tensors it consists of, the quantized values first.
    fn parts(&self) -> Vec<StoredId>;

    /// Replaces the content of `out` by the elements of `range`, little-endian, in the type that
    /// [`PackedFormat::decoded`] returns.
    fn decode(&self, reader: &mut StoredReader, range: Range<u64>, out: &mut Vec<u8>)
    -> Result<()>;
}

/// A tensor that is stored as several stored tensors.
#[derive(Debug)]
pub(crate) struct PackedTensor {
    /// The name before quantization.
    pub name: String,
    pub shape: Shape,
    pub format: Box<dyn PackedFormat>,
}

impl PackedTensor {
    pub(crate) fn new(
        name: impl Into<String>,
        shape: Shape,
        format: impl PackedFormat + 'static,
    ) -> PackedTensor {
        PackedTensor { name: name.into(), shape, format: Box::new(format) }
    }
}

impl PackedFormat for Int8 {
    fn name(&self) -> String {
        match self.container {
            None => format!("int8 {}", self.scheme),
            Some(container) => format!("{container} int8 {}", self.scheme),
        }
    }

    fn int8(&self) -> Option<&Int8> {
        Some(self)
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn decoded(&self) -> Option<FloatType> {
        Some(match self.original {
            FloatType::F64 => FloatType::F64,
            _ => FloatType::F32,
        })
    }

    fn parts(&self) -> Vec<StoredId> {
        [&[self.values, self.scale], self.beside.as_slice()].concat()
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let groups = self.groups_of(&range);
        let scales = self.scales(reader, groups)?;
        let mut bytes = Vec::new();
        let values = self.values(reader, range.clone(), &mut bytes)?;
        let to = self.decoded().unwrap_or(FloatType::F32);
        dequantize_groups(&self.groups(), range.start, values, &scales, to, out);
        Ok(())
    }
}
