//! Ranges of a weight's output channels, and their elements quantized with one quantizer.

use crate::quantization::ggml::{ChunkMemory, RowImportance, dequantize_blocks, quantize_part};
use crate::quantization::kernels::{Quantization, round_one};
use crate::quantization::{
    GroupScales, NotQuantizable, Preset, PresetCoder, PresetGroup, QatScales, QuantizationScheme,
    Quantizer, Rounding, ScaleStorage, ScaledGroup,
};
use crate::tensor::{BlockType, FloatType, Shape, read_f64};
use std::ops::Range;

/// The most bytes of weights in a range, unless one channel has more.
const RANGE_BYTES: u64 = 1 << 20;

/// The most output channels in a range.
const RANGE_CHANNELS: u64 = 512;

/// Sums over the outputs of some channels and all recorded inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputSums {
    /// Σ(Wx)²
    pub signal: f64,
    /// Σ(Wx − Ŵx̂)² for each of [`ActivationMode::ALL`](crate::activations::ActivationMode::ALL).
    pub noise: [f64; 3],
}

impl OutputSums {
    /// Adds the sums of further channels or inputs.
    pub fn merge(&mut self, next: &OutputSums) {
        self.signal += next.signal;
        self.noise.iter_mut().zip(next.noise).for_each(|(sum, more)| *sum += more);
    }
}

/// A range of a weight's output channels.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelRange {
    /// Indices of the channels.
    pub channels: Range<u64>,
}

impl ChannelRange {
    /// The elements of the channels in storage order.
    pub fn elements(&self, shape: &Shape) -> Range<u64> {
        let length = shape.channel_len();
        self.channels.start * length..self.channels.end * length
    }
}

/// Divides the output channels of a weight into ranges. Depends only on the shape.
pub fn channel_ranges(shape: &Shape) -> Vec<ChannelRange> {
    let row = shape.channel_len().saturating_mul(4).max(1);
    let at_once = (RANGE_BYTES / row).clamp(1, RANGE_CHANNELS);
    let starts = (0..shape.channels()).step_by(at_once as usize);
    let part =
        |start: u64| ChannelRange { channels: start..(start + at_once).min(shape.channels()) };
    starts.map(part).collect()
}

/// A quantizer for channel ranges of one weight, with scales that are known already.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelQuantizer<'l> {
    /// The quantizer.
    pub quantizer: Quantizer,
    /// How values halfway between two integers are rounded.
    pub rounding: Rounding,
    /// The type that scales are stored in.
    pub scale_storage: ScaleStorage,
    /// The scale of a per-tensor scheme, or the largest magnitude of a tensor whose scheme has a
    /// global scale.
    pub scale: Option<f32>,
    /// The learned scales of the weight, if it has any.
    pub learned: Option<&'l QatScales>,
    /// The importance of the weight's elements, one value for each column or for each expert and
    /// column. Used for ggml's block types.
    pub importance: Option<&'l [f32]>,
}

/// The elements of a channel range, quantized with one quantizer:
/// `[channels, in / groups · kernel]`.
pub(super) struct QuantizedChannels {
    /// Ŵ
    pub(super) quantized: Vec<f32>,
    /// W − Ŵ
    pub(super) lost: Vec<f32>,
}

impl QuantizedChannels {
    /// Quantizes the elements of a channel range.
    pub(super) fn new(
        (dtype, bytes): (FloatType, &[u8]),
        shape: &Shape,
        part: &ChannelRange,
        asked: &ChannelQuantizer,
    ) -> Result<QuantizedChannels, NotQuantizable> {
        let count = bytes.len() / dtype.size();
        let empty = || Vec::with_capacity(count);
        let mut part_values = QuantizedChannels { quantized: empty(), lost: empty() };
        let range = part.elements(shape);
        let ChannelQuantizer { quantizer, rounding, scale_storage, .. } = *asked;
        if let Some(preset) = quantizer.scheme.preset() {
            let blocks = preset.group() == PresetGroup::Block(128);
            let is_whole = |row: u64| row.is_multiple_of(128) || row == shape.channels();
            if blocks && !(is_whole(part.channels.start) && is_whole(part.channels.end)) {
                return Err(NotQuantizable::PartOfBlocks);
            }
            return QuantizedChannels::of_preset((dtype, bytes), shape, preset, asked.scale);
        }
        if let QuantizationScheme::Ggml(block) = quantizer.scheme.fitted_to(shape) {
            let importance = asked.importance.map(|values| RowImportance::new(values, shape));
            let elements = (dtype, bytes);
            return QuantizedChannels::of_ggml_blocks(elements, range.start, block, importance);
        }
        let qtype = quantizer.scheme.quantization_type();
        let known = asked.scale.as_ref().map(std::slice::from_ref);
        let group_scales = GroupScales::new(quantizer, rounding, shape, asked.learned)
            .stored_as(scale_storage.scale_type(dtype))
            .known(known);
        let run = group_scales.run(range.start, dtype, bytes);
        for ScaledGroup { slice, scale } in group_scales.scaled(&run) {
            let (group, scale) = (slice.bytes, scale?);
            let params = Quantization { scale, qtype, rounding };
            for x in values_of(dtype, group) {
                let (quantized, lost) = match dtype {
                    FloatType::F64 => {
                        let scale = f64::from(scale);
                        let quantized = scale * f64::from(round_one(x / scale, &params).0);
                        (quantized, x - quantized)
                    }
                    _ => {
                        let x = x as f32;
                        let quantized = scale * round_one((x / scale).into(), &params).0;
                        (f64::from(quantized), f64::from(x - quantized))
                    }
                };
                part_values.quantized.push(quantized as f32);
                part_values.lost.push(lost as f32);
            }
        }
        Ok(part_values)
    }
}

impl QuantizedChannels {
    /// Quantizes whole rows to ggml's blocks. The first element has the index `start` in the
    /// tensor.
    fn of_ggml_blocks(
        (dtype, bytes): (FloatType, &[u8]),
        start: u64,
        block: BlockType,
        importance: Option<RowImportance>,
    ) -> Result<QuantizedChannels, NotQuantizable> {
        ChunkMemory::with(dtype, bytes, |ChunkMemory { values, blocks, .. }| {
            let mut quantized = Vec::new();
            quantize_part(block, values, start, importance, blocks)
                .and_then(|()| dequantize_blocks(block, blocks, &mut quantized))
                .map_err(|why| why.not_quantizable(block))?;
            let lost = values.iter().zip(&quantized).map(|(x, restored)| x - restored).collect();
            Ok(QuantizedChannels { quantized, lost })
        })
    }

    /// Quantizes whole rows with a preset.
    fn of_preset(
        (dtype, bytes): (FloatType, &[u8]),
        shape: &Shape,
        preset: Preset,
        absmax: Option<f32>,
    ) -> Result<QuantizedChannels, NotQuantizable> {
        let mut part = QuantizedChannels { quantized: Vec::new(), lost: Vec::new() };
        let coder = PresetCoder::new(preset, dtype, shape, absmax.unwrap_or_default().into());
        let each = |x: &[f32], _: &[u8], restored: &[f32]| {
            part.quantized.extend(restored);
            part.lost.extend(x.iter().zip(restored).map(|(x, restored)| x - restored));
        };
        coder.restore(bytes, each, |_, _| {})?;
        Ok(part)
    }
}

pub(super) fn values_of(dtype: FloatType, bytes: &[u8]) -> impl Iterator<Item = f64> {
    let count = bytes.len() / dtype.size();
    (0..count).map(move |i| read_f64(dtype, bytes, i).unwrap_or(f64::NAN))
}
