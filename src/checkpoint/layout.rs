//! Tensors that are stored quantized: several stored tensors that stand for one.

use super::error::Result;
use super::reader::Reader;
use super::{Stored, StoredId};
use crate::quantization::{QuantizationScheme, kernels};
use crate::tensor::{DType, FloatType, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

/// How the elements of one tensor are decoded from the stored tensors that hold them.
pub trait Layout: Debug + Send + Sync {
    /// What the layout is called, with its parameters.
    fn name(&self) -> String;

    /// The scheme, where it is one of ours.
    fn scheme(&self) -> Option<QuantizationScheme> {
        None
    }

    /// The floating type the tensor had before, as far as is known.
    fn original(&self) -> FloatType;

    /// The stored tensors it is made of, the values first.
    fn parts(&self) -> Vec<StoredId>;

    /// Replaces `out` by the elements of `range` as little-endian F32, or F64 when that is
    /// the original type.
    fn decode(&self, reader: &mut Reader, range: Range<u64>, out: &mut Vec<u8>) -> Result<()>;
}

/// The key of `__metadata__` that says which tensors quantscope quantized.
pub const METADATA_KEY: &str = "quantscope";

/// What ends the name of the scales of a tensor.
pub const SCALE_SUFFIX: &str = "_scale";

/// The value of that key: what [`Int8`] needs to be read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantizedMetadata {
    pub version: u32,
    pub rounding: String,
    pub tensors: BTreeMap<String, QuantizedTensorMetadata>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantizedTensorMetadata {
    pub scheme: String,
    /// The type before quantization, by its safetensors name.
    pub dtype: String,
}

impl QuantizedMetadata {
    pub const VERSION: u32 = 1;
}

/// `T` as I8 of its own shape and `T_scale` as F32: what quantscope writes.
#[derive(Debug)]
pub struct Int8 {
    values: StoredId,
    scale: StoredId,
    scheme: QuantizationScheme,
    original: FloatType,
    shape: Shape,
}

impl Int8 {
    /// The layout of a tensor the metadata names, or why its parts do not fit it.
    pub fn recognise(
        metadata: &QuantizedTensorMetadata,
        values: (StoredId, &Stored),
        scale: Option<(StoredId, &Stored)>,
    ) -> Result<Int8, String> {
        let scheme: QuantizationScheme = metadata.scheme.parse().map_err(|e| format!("{e}"))?;
        let original = DType::from_name(&metadata.dtype)
            .float()
            .ok_or_else(|| format!("its original type '{}' is not a float", metadata.dtype))?;
        let (id, stored) = values;
        if stored.dtype != DType::I8 {
            return Err(format!("it is marked as quantized, expected I8, found {}", stored.dtype));
        }
        let (scale_id, scale) = scale.ok_or_else(|| {
            format!(
                "it is marked as quantized, but its scales '{}{SCALE_SUFFIX}' are missing",
                stored.name
            )
        })?;
        let expected = scheme.scale_shape(&stored.shape);
        if scale.dtype != DType::F32 || scale.shape.elements() != expected.elements() {
            return Err(format!(
                "its scales are {} {}, expected F32 {expected}",
                scale.dtype, scale.shape
            ));
        }
        let shape = stored.shape.clone();
        Ok(Int8 { values: id, scale: scale_id, scheme, original, shape })
    }
}

impl Layout for Int8 {
    fn name(&self) -> String {
        format!("int8 {}", self.scheme)
    }

    fn scheme(&self) -> Option<QuantizationScheme> {
        Some(self.scheme)
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.values, self.scale]
    }

    fn decode(&self, reader: &mut Reader, range: Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        let groups = self.scheme.groups(&self.shape);
        let first = groups.of(range.start);
        let last = if range.is_empty() { first } else { groups.of(range.end - 1) + 1 };
        let mut scales = Vec::new();
        reader.stored_into(self.scale, first * 4..last * 4, &mut scales)?;
        let mut values = Vec::new();
        reader.stored_into(self.values, range.clone(), &mut values)?;
        let to = match self.original {
            FloatType::F64 => FloatType::F64,
            _ => FloatType::F32,
        };
        out.clear();
        out.reserve(values.len() * to.size());
        for (group, segment) in groups.segments(range.clone()) {
            let at = (group - first) as usize * 4;
            let scale = scales
                .get(at..at + 4)
                .and_then(|raw| raw.try_into().ok())
                .map_or(f32::NAN, f32::from_le_bytes);
            let part = (segment.start - range.start) as usize..(segment.end - range.start) as usize;
            let values: Vec<i8> =
                values.get(part).unwrap_or_default().iter().map(|&b| b as i8).collect();
            kernels::dequantize(&values, scale, to, out);
        }
        Ok(())
    }
}
