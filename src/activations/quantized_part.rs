//! Some output channels of a weight, quantized by one quantizer.

use crate::quantization::kernels::{Quantization, round_one};
use crate::quantization::{
    GroupScales, NotQuantizable, Preset, PresetCoder, PresetGroup, QatScales, Quantizer, Rounding,
    ScaledGroup,
};
use crate::tensor::{FloatType, Shape, read_f64};
use std::ops::Range;

/// Bytes of weights in a part, unless a single channel has more.
const PART_BYTES: u64 = 1 << 20;

/// The most output channels in a part.
const PART_CHANNELS: u64 = 512;

/// Sums over the outputs of some channels for all recorded inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputSums {
    /// Σ(Wx)²
    pub signal: f64,
    /// Σ(Wx − Ŵx̂)² for each of [`ActivationMode::ALL`](crate::activations::ActivationMode::ALL).
    pub noise: [f64; 3],
}

impl OutputSums {
    pub fn merge(&mut self, next: &OutputSums) {
        self.signal += next.signal;
        self.noise.iter_mut().zip(next.noise).for_each(|(sum, more)| *sum += more);
    }
}

/// Some output channels of a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub channels: Range<u64>,
}

impl Part {
    /// Its elements.
    pub fn elements(&self, shape: &Shape) -> Range<u64> {
        let length = shape.channel_len();
        self.channels.start * length..self.channels.end * length
    }
}

/// The division of a weight, by its shape alone.
pub fn parts(shape: &Shape) -> Vec<Part> {
    let row = shape.channel_len().saturating_mul(4).max(1);
    let at_once = (PART_BYTES / row).clamp(1, PART_CHANNELS);
    let starts = (0..shape.channels()).step_by(at_once as usize);
    let part = |start: u64| Part { channels: start..(start + at_once).min(shape.channels()) };
    starts.map(part).collect()
}

/// A quantizer for the parts of one weight, with scales that are known before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartQuantizer<'l> {
    pub quantizer: Quantizer,
    pub rounding: Rounding,
    /// The one scale of a scheme that has one, or the largest magnitude of a tensor whose
    /// scheme has a global scale.
    pub scale: Option<f32>,
    /// What training with fake quantization learned of the weight.
    pub learned: Option<&'l QatScales>,
}

/// The elements of some channels by one quantizer, `[channels, in / groups · kernel]`.
pub(super) struct QuantizedPart {
    /// Ŵ
    pub(super) quantized: Vec<f32>,
    /// W − Ŵ
    pub(super) lost: Vec<f32>,
}

impl QuantizedPart {
    /// From the elements of a part.
    pub(super) fn new(
        (dtype, bytes): (FloatType, &[u8]),
        shape: &Shape,
        part: &Part,
        asked: &PartQuantizer,
    ) -> Result<QuantizedPart, NotQuantizable> {
        let count = bytes.len() / dtype.size();
        let empty = || Vec::with_capacity(count);
        let mut part_values = QuantizedPart { quantized: empty(), lost: empty() };
        let range = part.elements(shape);
        let PartQuantizer { quantizer, rounding, .. } = *asked;
        if let Some(preset) = quantizer.scheme.preset() {
            let blocks = preset.group() == PresetGroup::Block(128);
            let is_whole = |row: u64| row.is_multiple_of(128) || row == shape.channels();
            if blocks && !(is_whole(part.channels.start) && is_whole(part.channels.end)) {
                return Err(NotQuantizable::PartOfBlocks);
            }
            return QuantizedPart::of_preset((dtype, bytes), shape, preset, asked.scale);
        }
        let qtype = quantizer.scheme.quantization_type();
        let known = asked.scale.as_ref().map(std::slice::from_ref);
        let group_scales = GroupScales::new(quantizer, rounding, shape, asked.learned).known(known);
        for ScaledGroup { slice, scale } in group_scales.scaled(range.start, dtype, bytes) {
            let (group, scale) = (slice.bytes, scale?);
            let how = Quantization { scale, qtype, rounding };
            for x in values_of(dtype, group) {
                let (quantized, lost) = match dtype {
                    FloatType::F64 => {
                        let scale = f64::from(scale);
                        let quantized = scale * f64::from(round_one(x / scale, &how).0);
                        (quantized, x - quantized)
                    }
                    _ => {
                        let x = x as f32;
                        let quantized = scale * round_one((x / scale).into(), &how).0;
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

impl QuantizedPart {
    /// From the elements of a part, which is made of whole rows.
    fn of_preset(
        (dtype, bytes): (FloatType, &[u8]),
        shape: &Shape,
        preset: Preset,
        absmax: Option<f32>,
    ) -> Result<QuantizedPart, NotQuantizable> {
        let mut part = QuantizedPart { quantized: Vec::new(), lost: Vec::new() };
        let coder = PresetCoder::new(preset, dtype, shape, absmax.unwrap_or_default().into());
        let each = |x: &[f32], _: &[f32], restored: &[f32]| {
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
