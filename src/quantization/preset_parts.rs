//! The stored tensors of a weight that is quantized with a preset.

use crate::quantization::preset::{Preset, PresetGroup};
use crate::quantization::scale_tiles;
use crate::tensor::{DType, FloatType, Shape};

/// The content of a stored tensor of a quantized weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PresetPart {
    /// The quantized values.
    Values,
    /// The scales of the groups.
    Scales,
    /// The zero points of the groups.
    ZeroPoints,
    /// The global scale.
    GlobalScale,
    /// The rows and columns: the shape of packed values does not determine the columns.
    Shape,
    /// The biases of formats whose elements are `code * scale + bias`: −8 times the scales of int4.
    Biases,
}

/// A stored tensor of a quantized weight.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPart {
    /// The content.
    pub part: PresetPart,
    /// Suffix of the weight's name.
    pub suffix: &'static str,
    /// The stored type.
    pub dtype: DType,
    /// The stored shape.
    pub shape: Shape,
}

impl Preset {
    /// The rows and columns of the scales of a tensor of `shape`.
    pub(crate) fn scale_dims(self, shape: &Shape) -> [u64; 2] {
        let (rows, columns) = (shape.channels(), shape.channel_len());
        match self.group() {
            PresetGroup::Tensor => [1, 1],
            PresetGroup::Channel => [rows, 1],
            PresetGroup::Columns(group) => [rows, columns.div_ceil(u64::from(group).max(1))],
            PresetGroup::Block(side) => {
                let side = u64::from(side).max(1);
                [rows.div_ceil(side), columns.div_ceil(side)]
            }
        }
    }

    /// Returns the stored tensors of a weight of `shape` and `dtype`, which is treated as a
    /// matrix of output channels. The values come first.
    pub fn parts(self, dtype: FloatType, shape: &Shape) -> Vec<StoredPart> {
        let (rows, columns) = (shape.channels(), shape.channel_len());
        let matrix = |rows, columns| Shape::new([rows, columns]).unwrap_or(Shape::vector(0));
        let part = |part, suffix, dtype, shape| StoredPart { part, suffix, dtype, shape };
        let [mut down, mut across] = self.scale_dims(shape);
        if self == Preset::Nvfp4ComfyUi {
            [down, across] = scale_tiles::dims(down, across);
        }
        let (values, suffix, width) = match self {
            Preset::W8A8 => (DType::I8, "", columns),
            Preset::Fp8 | Preset::Fp8Dynamic | Preset::Fp8Block | Preset::Mxfp8A16 => {
                (DType::F8E4M3, "", columns)
            }
            Preset::W8A16(_) => (DType::I32, "_packed", columns.div_ceil(4)),
            Preset::W4A16(_) | Preset::W4A16Asym(_) => (DType::I32, "_packed", columns.div_ceil(8)),
            Preset::Nvfp4A16 | Preset::Mxfp4A16 => (DType::U8, "_packed", columns.div_ceil(2)),
            Preset::Nvfp4ComfyUi => (DType::U8, "", columns.div_ceil(2)),
        };
        let scale = match self {
            Preset::Nvfp4A16 | Preset::Nvfp4ComfyUi => DType::F8E4M3,
            Preset::Mxfp4A16 | Preset::Mxfp8A16 => DType::U8,
            _ => scale_type(dtype).dtype(),
        };
        let mut parts = vec![part(PresetPart::Values, suffix, values, matrix(rows, width))];
        if self.group() == PresetGroup::Tensor {
            parts.push(part(PresetPart::GlobalScale, "_scale", scale, Shape::vector(1)));
            return parts;
        }
        parts.push(part(PresetPart::Scales, "_scale", scale, matrix(down, across)));
        if let Preset::W4A16Asym(_) = self {
            let shape = matrix(rows.div_ceil(8), across);
            parts.push(part(PresetPart::ZeroPoints, "_zero_point", DType::I32, shape));
        }
        if self.has_global_scale() {
            let (suffix, shape) = match self {
                Preset::Nvfp4ComfyUi => ("_scale_2", Shape::scalar()),
                _ => ("_global_scale", Shape::vector(1)),
            };
            parts.push(part(PresetPart::GlobalScale, suffix, DType::F32, shape));
        }
        if self.format() == "pack-quantized" {
            parts.push(part(PresetPart::Shape, "_shape", DType::I64, Shape::vector(2)));
        }
        parts
    }

    /// Bytes of all stored tensors of a weight of `shape` whose scales, if they are floats,
    /// take `scale_bytes` each.
    pub fn bytes(self, shape: &Shape, scale_bytes: u64) -> u64 {
        let bytes = |part: StoredPart| match (part.part, part.dtype.float()) {
            (PresetPart::Scales, Some(_)) => part.shape.elements() * scale_bytes,
            (PresetPart::GlobalScale, Some(_)) if self == Preset::Fp8 => scale_bytes,
            _ => part.dtype.bytes_for(part.shape.elements()).unwrap_or(0),
        };
        self.parts(FloatType::F32, shape).into_iter().map(bytes).sum()
    }

    /// Bytes of the values, and of a scale and a bias of `scale_bytes` for each group.
    pub(crate) fn affine_bytes(self, shape: &Shape, scale_bytes: u64) -> u64 {
        let values = (shape.elements() * self.quantization_type().bits()).div_ceil(8);
        values + self.scale_dims(shape).iter().product::<u64>() * 2 * scale_bytes
    }
}

/// Returns the type of stored float scales of a weight: its own, or F32 for F64, because no
/// loader supports F64 scales.
pub(crate) fn scale_type(dtype: FloatType) -> FloatType {
    match dtype {
        FloatType::F64 => FloatType::F32,
        other => other,
    }
}
