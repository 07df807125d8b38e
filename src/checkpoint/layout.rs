//! Tensors that are stored quantized: several stored tensors that stand for one.

use super::error::{CheckpointError, Problem, Result};
use super::reader::Reader;
use super::{Stored, StoredId};
use crate::quantization::{Groups, QuantizationScheme, Rounding, kernels};
use crate::tensor::{DType, FloatType, Shape, read_f64};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

/// How the elements of one tensor are decoded from the stored tensors that hold them.
pub trait Layout: Debug + Send + Sync {
    /// What the layout is called, with its parameters.
    fn name(&self) -> String;

    /// The layout as symmetric int8, if it is that.
    fn int8(&self) -> Option<&Int8> {
        None
    }

    /// The floating type the tensor had before, as far as is known.
    fn original(&self) -> FloatType;

    /// The stored tensors it is made of, the values first.
    fn parts(&self) -> Vec<StoredId>;

    /// Replaces `out` by the elements of `range`, little-endian, of the type that
    /// [`decoded_type`] gives.
    fn decode(&self, reader: &mut Reader, range: Range<u64>, out: &mut Vec<u8>) -> Result<()>;
}

/// The type in which a layout decodes a tensor that was of type `original`.
pub fn decoded_type(original: FloatType) -> FloatType {
    match original {
        FloatType::F64 => FloatType::F64,
        _ => FloatType::F32,
    }
}

/// The key of `__metadata__` that says which tensors quantscope quantized.
pub const METADATA_KEY: &str = "quantscope";

/// What ends the name of the scales of a tensor.
pub const SCALE_SUFFIX: &str = "_scale";

/// The key of the same for tensors that went through int8 and are floats again.
pub const FAKE_METADATA_KEY: &str = "quantscope.fake_quantized";

/// The value of these keys: what was done to which tensors.
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

/// Symmetric int8: values of the tensor's own shape, and scales. Element `i` is
/// `scale[group(i)] * values[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    pub values: StoredId,
    pub scale: StoredId,
    pub scale_type: FloatType,
    pub scheme: QuantizationScheme,
    pub rounding: Rounding,
    /// The type the tensor had before.
    pub original: FloatType,
    pub shape: Shape,
}

impl Int8 {
    /// The layout of a tensor that quantscope's metadata names, or why its parts do not
    /// fit what it says.
    fn recognise(
        metadata: &QuantizedTensorMetadata,
        rounding: Rounding,
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
        let scale_type =
            scale.dtype.float().filter(|_| scale.shape == expected).ok_or_else(|| {
                format!(
                    "its scales are {} {}, expected floats of {expected}",
                    scale.dtype, scale.shape
                )
            })?;
        let shape = stored.shape.clone();
        Ok(Int8 { values: id, scale: scale_id, scale_type, scheme, rounding, original, shape })
    }

    /// How its elements are divided among the scales.
    pub fn groups(&self) -> Groups {
        self.scheme.groups(&self.shape)
    }

    /// The scales of `groups`.
    pub fn scales(&self, reader: &mut Reader, groups: Range<u64>) -> Result<Vec<f32>> {
        let size = self.scale_type.size() as u64;
        let mut bytes = Vec::new();
        reader.stored_into(self.scale, groups.start * size..groups.end * size, &mut bytes)?;
        let count = (groups.end - groups.start) as usize;
        Ok((0..count)
            .map(|i| read_f64(self.scale_type, &bytes, i).map_or(f32::NAN, |scale| scale as f32))
            .collect())
    }

    /// The groups that the elements of `range` lie in.
    pub fn groups_of(&self, range: &Range<u64>) -> Range<u64> {
        let first = self.groups().of(range.start);
        if range.is_empty() { first..first } else { first..self.groups().of(range.end - 1) + 1 }
    }
}

impl Layout for Int8 {
    fn name(&self) -> String {
        format!("int8 {}", self.scheme)
    }

    fn int8(&self) -> Option<&Int8> {
        Some(self)
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.values, self.scale]
    }

    fn decode(&self, reader: &mut Reader, range: Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        let groups = self.groups_of(&range);
        let scales = self.scales(reader, groups.clone())?;
        let mut values = Vec::new();
        reader.stored_into(self.values, range.clone(), &mut values)?;
        let to = decoded_type(self.original);
        out.clear();
        out.resize(values.len() * to.size(), 0);
        let values: &[i8] = bytemuck::cast_slice(&values);
        for (group, segment) in self.groups().segments(range.clone()) {
            let scale = scales.get((group - groups.start) as usize).copied().unwrap_or(f32::NAN);
            let part = (segment.start - range.start) as usize..(segment.end - range.start) as usize;
            let bytes = part.start * to.size()..part.end * to.size();
            if let (Some(values), Some(out)) = (values.get(part), out.get_mut(bytes)) {
                kernels::dequantize(values, scale, to, out);
            }
        }
        Ok(())
    }
}

/// The tensors that quantscope's own metadata names in one shard: which stored tensor
/// holds the values of each.
pub(super) fn recognise_ours<'s>(
    path: &Path,
    metadata: &[(String, String)],
    stored: impl Iterator<Item = (StoredId, &'s Stored)>,
) -> Result<Vec<Int8>> {
    let Some((_, text)) = metadata.iter().find(|(key, _)| key == METADATA_KEY) else {
        return Ok(Vec::new());
    };
    let fail = |why: String| CheckpointError::new(path, Problem::Layout(why));
    let metadata: QuantizedMetadata = serde_json::from_str(text).map_err(|e| {
        fail(format!("its '{METADATA_KEY}' metadata is not of the expected form: {e}"))
    })?;
    if metadata.version != QuantizedMetadata::VERSION {
        let (found, expected) = (metadata.version, QuantizedMetadata::VERSION);
        return Err(fail(format!(
            "it has quantscope's format version {found}, expected {expected}"
        )));
    }
    let rounding = metadata.rounding.parse().map_err(fail)?;
    let by_name: HashMap<&str, (StoredId, &Stored)> =
        stored.map(|(id, s)| (s.name.as_str(), (id, s))).collect();
    let tensors = metadata.tensors.iter().map(|(name, described)| {
        let fail = |why: String| CheckpointError::of_tensor(path, name, Problem::Layout(why));
        let values = by_name
            .get(name.as_str())
            .ok_or_else(|| fail("the metadata names it, the file does not hold it".into()))?;
        let scale = by_name.get(format!("{name}{SCALE_SUFFIX}").as_str());
        Int8::recognise(described, rounding, *values, scale.copied()).map_err(fail)
    });
    tensors.collect()
}
