//! Quantization schemes: which elements share a scale, the quantized type, and rounding.

use crate::quantization::groups::Groups;
use crate::quantization::preset::Preset;
use crate::quantization::quantization_type::QuantizationType;
use crate::tensor::{BlockType, ChannelAxes, Shape};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The placement of zero. Symmetric schemes have no zero point, and 0.0 is always exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QuantizationMode {
    /// Zero is in the middle of the range.
    Symmetric,
}

/// A quantization scheme: the elements that share a scale, and their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QuantizationScheme {
    /// One scale for the whole tensor.
    PerTensor(QuantizationMode, QuantizationType),
    /// One scale per output channel: per slice along axis 0, along axis 1 of a transposed
    /// convolution or `Conv1D`, or per row or column of each expert's matrix if a tensor holds
    /// all experts of a layer (see [`ChannelAxes`](crate::tensor::ChannelAxes)).
    PerChannel(QuantizationMode, QuantizationType),
    /// One scale per block of contiguous elements of the last axis; the number is the length
    /// of a block. If the last axis is shorter than a block, as in a convolution's kernel, the
    /// whole output channel is divided into blocks. The last block of a row may be shorter.
    PerBlock(QuantizationMode, QuantizationType, u32),
    /// A preset of compressed-tensors, with the arithmetic of that library.
    Preset(Preset),
    /// One of ggml's block types, quantized as ggml does; see
    /// [`quantization::ggml`](crate::quantization::ggml). Needs rows of whole blocks.
    Ggml(BlockType),
}

impl QuantizationScheme {
    /// Per-tensor int8.
    pub const PER_TENSOR: Self =
        Self::PerTensor(QuantizationMode::Symmetric, QuantizationType::QInt8);
    /// Per-channel int8.
    pub const PER_CHANNEL: Self =
        Self::PerChannel(QuantizationMode::Symmetric, QuantizationType::QInt8);

    /// Per-block int8 with blocks of `block` elements.
    pub const fn per_block(block: u32) -> Self {
        Self::PerBlock(QuantizationMode::Symmetric, QuantizationType::QInt8, block)
    }

    /// The scheme with values of type `qtype` and one scale for the whole tensor.
    pub const fn one_scale(qtype: QuantizationType) -> Self {
        Self::PerTensor(QuantizationMode::Symmetric, qtype)
    }

    /// The preset, if it is one.
    pub fn preset(self) -> Option<Preset> {
        match self {
            Self::Preset(preset) => Some(preset),
            _ => None,
        }
    }

    /// The block type of ggml, if it is one.
    pub fn ggml(self) -> Option<BlockType> {
        match self {
            Self::Ggml(block) => Some(block),
            _ => None,
        }
    }

    /// Returns whether it stores int8 values with a scale per group, which every int8 format
    /// supports in some granularity.
    pub fn is_scaled_int8(self) -> bool {
        self.preset().is_none()
            && self.ggml().is_none()
            && self.quantization_type() == QuantizationType::QInt8
    }

    /// Returns the scheme that a tensor of `shape` gets instead: for a block type that does not
    /// divide its rows, the one that llama.cpp falls back to.
    pub fn fitted_to(self, shape: &Shape) -> Self {
        match self {
            Self::Ggml(block) => Self::Ggml(block.fitting(shape.row_len()).unwrap_or(block)),
            other => other,
        }
    }

    /// The type of the quantized elements. Block types of ggml have no such type and return
    /// int4.
    pub fn quantization_type(self) -> QuantizationType {
        match self {
            Self::Preset(preset) => preset.quantization_type(),
            Self::Ggml(_) => QuantizationType::QInt4,
            Self::PerTensor(_, t) | Self::PerChannel(_, t) | Self::PerBlock(_, t, _) => t,
        }
    }

    /// Number of distinct values before they are multiplied by their scales.
    pub fn levels(self) -> u32 {
        match (self, self.quantization_type()) {
            // Presets use the lowest integer too.
            (Self::Preset(_), QuantizationType::QInt8) => 256,
            (Self::Preset(_), QuantizationType::QInt4) => 16,
            (_, qtype) => qtype.levels(),
        }
    }

    /// The division of a tensor of `shape` into groups that share a scale; for a preset, into
    /// the rows that are encoded together.
    pub fn groups(self, shape: &Shape) -> Groups {
        let (row, group) = match self {
            Self::PerTensor(..) => (shape.elements(), shape.elements()),
            Self::PerChannel(..) => return Groups::channels(shape),
            Self::Preset(preset) => {
                let rows = shape.channel_len().saturating_mul(preset.rows_together());
                (rows, rows)
            }
            Self::PerBlock(_, _, block) => {
                let row = block_row(shape, block);
                (row, u64::from(block).min(row))
            }
            Self::Ggml(block) => (shape.row_len(), block.elements().min(shape.row_len())),
        };
        Groups::new(shape.elements(), row, group)
    }

    /// The shape of the stored scales of a tensor of `shape`: `[1]` per tensor, `[out, 1]`
    /// per channel (`[experts, out, 1]` for fused experts), the last axis divided by the block
    /// length per block. Channels along another axis than the first have scales of the tensor's
    /// rank, with 1 for each axis that shares them: `[1, out, 1, 1]`.
    pub fn scale_shape(self, shape: &Shape) -> Shape {
        let dims: Vec<u64> = match self {
            Self::Preset(preset) => preset.scale_dims(shape).to_vec(),
            Self::PerTensor(..) => vec![1],
            Self::PerChannel(..) => match (shape.channel_axes(), shape.dims()) {
                _ if shape.channel_major().is_none() => leading_scale_dims(shape),
                (ChannelAxes::Second, [_, channels, inner @ ..]) => {
                    [1, *channels].into_iter().chain(inner.iter().map(|_| 1)).collect()
                }
                (_, [experts, _, columns]) => vec![*experts, 1, *columns],
                _ => leading_scale_dims(shape),
            },
            Self::Ggml(block) => {
                return Self::per_block(block.elements() as u32).scale_shape(shape);
            }
            Self::PerBlock(_, _, block) => {
                let blocks = block_row(shape, block).div_ceil(u64::from(block.max(1)));
                match shape.dims() {
                    [] => vec![1],
                    [outer @ .., last] if block_row(shape, block) == *last => {
                        outer.iter().copied().chain([blocks]).collect()
                    }
                    _ => shape.channel_dims().iter().copied().chain([blocks]).collect(),
                }
            }
        };
        // No dimension is larger than that of the tensor, so the product does not overflow.
        Shape::new(dims).unwrap_or_else(|| Shape::vector(0))
    }

    /// Size in bytes of the quantized elements and their scales, where each scale takes
    /// `scale_bytes`. Block types of ggml include their scales.
    pub fn bytes(self, shape: &Shape, scale_bytes: u64) -> u64 {
        if let Self::Preset(preset) = self {
            return preset.bytes(shape, scale_bytes);
        }
        if let Self::Ggml(block) = self {
            return self.groups(shape).count() * block.bytes();
        }
        let values = (shape.elements() * self.quantization_type().bits()).div_ceil(8);
        values + self.groups(shape).count() * scale_bytes
    }
}

/// The shape of the scales of channels along leading axes.
fn leading_scale_dims(shape: &Shape) -> Vec<u64> {
    match shape.rank() {
        0 | 1 => vec![shape.channels()],
        _ => shape.channel_dims().iter().copied().chain([1]).collect(),
    }
}

/// The number of elements in a row that is divided into blocks: the last axis, or the whole
/// output channel if the last axis is shorter than a block, as in a convolution's kernel.
fn block_row(shape: &Shape, block: u32) -> u64 {
    if shape.rank() > 2 && shape.row_len() < u64::from(block) {
        shape.channel_len()
    } else {
        shape.row_len()
    }
}

/// Suffix of the name of an int8 preset with compressed-tensors' own scales, absmax/127.5.
const UPSTREAM_SCALES_SUFFIX: &str = "/127.5";

impl fmt::Display for QuantizationScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = match self {
            Self::PerTensor(..) => "per-tensor".to_owned(),
            Self::PerChannel(..) => "per-channel".to_owned(),
            Self::PerBlock(_, _, block) => format!("per-block:{block}"),
            Self::Preset(preset @ (Preset::W8A8 | Preset::W8A16(_))) => {
                return f.pad(&format!("{preset}{UPSTREAM_SCALES_SUFFIX}"));
            }
            Self::Preset(preset) => return preset.fmt(f),
            Self::Ggml(block) => return f.pad(&ggml_name(*block)),
        };
        match self.quantization_type() {
            QuantizationType::QInt8 => {}
            QuantizationType::QInt4 => text.push_str("/int4"),
            QuantizationType::F8E4M3 => text.push_str("/fp8"),
            QuantizationType::F4E2M1 => text.push_str("/fp4"),
        }
        f.pad(&text)
    }
}

/// ggml's own name of a block type: lower case except for the K, such as `q4_K` and `iq4_xs`.
fn ggml_name(block: BlockType) -> String {
    let name = block.name().to_lowercase();
    match name.strip_suffix("_k") {
        Some(bits) => format!("{bits}_K"),
        None => name,
    }
}

/// Returns the block type with a name, ignoring case, if ggml quantizes to it.
fn ggml_type(name: &str) -> Option<BlockType> {
    let named = |block: &BlockType| block.name().eq_ignore_ascii_case(name);
    BlockType::ALL.iter().copied().find(|block| named(block) && block.is_written())
}

/// A text that is not the name of a scheme.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error(
    "unknown scheme '{0}': expected per-tensor, per-channel or per-block:N, with /int4 or /fp8 after it for those types, a preset such as W4A16, FP8_DYNAMIC or NVFP4A16, or a block type of ggml such as q4_K or iq4_xs"
)]
pub struct UnknownScheme(String);

impl FromStr for QuantizationScheme {
    type Err = UnknownScheme;

    fn from_str(text: &str) -> Result<Self, UnknownScheme> {
        let unknown = || UnknownScheme(text.to_owned());
        if let Some(block) = ggml_type(text) {
            return Ok(Self::Ggml(block));
        }
        if let Ok(preset) = text.trim_end_matches(UPSTREAM_SCALES_SUFFIX).parse::<Preset>() {
            return match (preset, text.ends_with(UPSTREAM_SCALES_SUFFIX)) {
                (Preset::W8A8 | Preset::W8A16(_), true) => Ok(Self::Preset(preset)),
                (_, true) => Err(unknown()),
                // int8 has scales of absmax/127 unless the name ends in the suffix.
                (Preset::W8A8, false) => Ok(Self::PER_CHANNEL),
                (Preset::W8A16(group), false) => Ok(Self::per_block(group)),
                (_, false) => Ok(Self::Preset(preset)),
            };
        }
        let (granularity, qtype) = match text.split_once('/') {
            None | Some((_, "int8")) => (text.trim_end_matches("/int8"), QuantizationType::QInt8),
            Some((granularity, "int4")) => (granularity, QuantizationType::QInt4),
            Some((granularity, "fp8")) => (granularity, QuantizationType::F8E4M3),
            Some(_) => return Err(unknown()),
        };
        let mode = QuantizationMode::Symmetric;
        match granularity {
            "per-tensor" => Ok(Self::PerTensor(mode, qtype)),
            "per-channel" => Ok(Self::PerChannel(mode, qtype)),
            _ => match granularity.strip_prefix("per-block:").map(str::parse) {
                Some(Ok(block @ 1..)) => Ok(Self::PerBlock(mode, qtype, block)),
                _ => Err(unknown()),
            },
        }
    }
}

/// The rounding of values half-way between two integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the even integer, as in PyTorch, compressed-tensors and Burn 0.23.
    #[default]
    HalfEven,
    /// Away from zero, as in Burn up to 0.22.
    HalfAway,
}

impl Rounding {
    /// The name in options and documents.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::HalfEven => "half-even",
            Rounding::HalfAway => "half-away",
        }
    }
}

impl FromStr for Rounding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Rounding::HalfEven, Rounding::HalfAway]
            .into_iter()
            .find(|rounding| rounding.name() == text)
            .ok_or_else(|| format!("unknown rounding '{text}': expected half-even or half-away"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_survive_formatting_and_parsing() {
        for text in [
            "per-tensor",
            "per-channel",
            "per-block:64",
            "per-block:32/int4",
            "per-tensor/fp8",
            "q4_K",
            "iq4_xs",
            "mxfp4",
            "W4A16",
            "W4A16:64",
            "W4A16_ASYM",
            "FP8_DYNAMIC",
            "FP8_BLOCK",
            "NVFP4A16",
            "MXFP4A16",
            "MXFP8A16",
            "W8A8/127.5",
            "W8A16:64/127.5",
        ] {
            assert_eq!(text.parse::<QuantizationScheme>().expect(text).to_string(), text);
        }
        for text in [
            "",
            "per-block",
            "per-block:0",
            "per-tensor/int3",
            "tensor",
            "W4A16/127.5",
            "q8_K",
            "q4_0_4_4",
        ] {
            assert!(text.parse::<QuantizationScheme>().is_err(), "{text}");
        }
        assert_eq!("W8A8".parse(), Ok(QuantizationScheme::PER_CHANNEL));
        assert_eq!("W8A16".parse(), Ok(QuantizationScheme::per_block(128)));
    }

    #[test]
    fn segments_cover_a_range_and_never_cross_a_group() {
        let shape = Shape::new([3, 10]).expect("fits");
        let groups = QuantizationScheme::per_block(4).groups(&shape);
        assert_eq!(groups.count(), 9);
        let segments: Vec<_> = groups.segments(2..23).collect();
        assert_eq!(
            segments,
            [(0, 2..4), (1, 4..8), (2, 8..10), (3, 10..14), (4, 14..18), (5, 18..20), (6, 20..23)]
        );
        for (_, segment) in groups.segments(0..30) {
            assert_eq!(groups.around(segment.start), segment);
            assert_eq!(groups.around(segment.end - 1), segment);
        }
        assert_eq!(QuantizationScheme::PER_CHANNEL.groups(&shape).of(29), 2);
        assert_eq!(QuantizationScheme::PER_TENSOR.groups(&shape).count(), 1);
    }

    #[test]
    fn an_empty_tensor_has_no_groups() {
        let shape = Shape::new([0, 4]).expect("fits");
        for scheme in [
            QuantizationScheme::PER_TENSOR,
            QuantizationScheme::PER_CHANNEL,
            QuantizationScheme::per_block(2),
        ] {
            assert_eq!(scheme.groups(&shape).count(), 0);
        }
    }

    #[test]
    fn scale_shapes_follow_the_scheme() {
        let conv = Shape::new([8, 4, 3, 3]).expect("fits");
        let linear = Shape::new([8, 100]).expect("fits");
        let dims = |s: QuantizationScheme, shape| s.scale_shape(shape).dims().to_vec();
        assert_eq!(dims(QuantizationScheme::PER_TENSOR, &conv), [1]);
        assert_eq!(dims(QuantizationScheme::PER_CHANNEL, &conv), [8, 1]);
        assert_eq!(dims(QuantizationScheme::per_block(32), &linear), [8, 4]);
        assert_eq!(dims(QuantizationScheme::per_block(32), &conv), [8, 2]);
        assert_eq!(QuantizationScheme::per_block(32).groups(&conv).count(), 16);
        assert_eq!(QuantizationScheme::per_block(32).bytes(&linear, 4), 800 + 128);

        let experts = Shape::new([4, 8, 100]).expect("fits");
        let experts = experts.with_channel_axes(ChannelAxes::FirstTwo);
        assert_eq!(dims(QuantizationScheme::PER_CHANNEL, &experts), [4, 8, 1]);
        assert_eq!(QuantizationScheme::PER_CHANNEL.groups(&experts).count(), 32);
        assert_eq!(dims(QuantizationScheme::per_block(32), &experts), [4, 8, 4]);
        assert_eq!(dims(QuantizationScheme::per_block(128), &experts), [4, 8, 1]);
        assert_eq!(QuantizationScheme::per_block(128).groups(&experts).count(), 32);
    }
}
