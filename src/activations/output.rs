//! What a layer's output loses: ‖Wx − Ŵx̂‖² / ‖Wx‖² over the recorded inputs x, for some of
//! its output channels at a time.
//!
//! The difference is formed as (W−Ŵ)x + Ŵ(x−x̂), whose parts are small, so that f32 products
//! do not lose it; squares are summed in f64.

use super::captures::{Inputs, LayerKind, Recording, Source};
use super::convolution::Convolution;
use super::diagonal::Diagonal;
use super::error::ActivationsError;
use super::product::multiply;
use super::stream::{Samples, Stream};
use crate::quantization::kernels::{f8e4m3_from, f8e4m3_value};
use crate::quantization::{NotQuantizable, QuantizationType, Quantizer, Rounding, symmetric_scale};
use crate::tensor::{FloatType, Shape, read_f64};
use std::ops::Range;

/// Bytes of weights that are looked at at a time, unless a single channel has more.
const PART_BYTES: u64 = 1 << 20;

/// Output channels that are looked at at a time at most.
const PART_CHANNELS: u64 = 512;

/// Rows of inputs, or positions of a convolution, in one product at most, and bytes of them.
const ROWS: usize = 256;
const ROW_BYTES: usize = 1 << 20;

/// What is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// The weights alone.
    Weights,
    /// Weights, and activations as they come: a scale for each row of a linear layer's
    /// input, for each sample of a convolution's.
    Dynamic,
    /// Weights, and activations by one calibrated scale.
    Static,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::Weights, Way::Dynamic, Way::Static];

    pub fn name(self) -> &'static str {
        match self {
            Way::Weights => "weights",
            Way::Dynamic => "dynamic",
            Way::Static => "static",
        }
    }

    pub fn summary(self) -> &'static str {
        match self {
            Way::Weights => "only the weights are quantized",
            Way::Dynamic => "weights, and activations as they come, a scale for each token",
            Way::Static => "weights, and activations by one scale calibrated on the captures",
        }
    }
}

/// What an output error is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The recorded inputs: exact on them.
    Inputs,
    /// Mean squares of the features, as if these were independent of each other and had no
    /// mean: the diagonal of their second moments.
    Diagonal,
}

/// Sums over the outputs of some channels for all recorded inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputSums {
    /// Σ(Wx)²
    pub signal: f64,
    /// Σ(Wx − Ŵx̂)² for each of [`Way::ALL`].
    pub noise: [f64; 3],
}

impl OutputSums {
    pub fn merge(&mut self, next: &OutputSums) {
        self.signal += next.signal;
        self.noise.iter_mut().zip(next.noise).for_each(|(sum, more)| *sum += more);
    }
}

/// What the output of one layer loses by one quantizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputError {
    pub basis: Basis,
    pub sums: OutputSums,
    /// Whether activations could be quantized too, as they come and by a calibrated scale.
    pub knows: [bool; 3],
}

impl OutputError {
    /// ‖Wx − Ŵx̂‖² / ‖Wx‖²; `None` if it is not known, or the output is all zeros.
    pub fn ratio(&self, way: Way) -> Option<f64> {
        let place = Way::ALL.iter().position(|&other| other == way)?;
        let known = self.knows.get(place).copied().unwrap_or(false) && self.sums.signal > 0.0;
        known.then(|| self.sums.noise.get(place).map(|noise| noise / self.sums.signal)).flatten()
    }

    /// The same in dB: the lower the better, −∞ if nothing is lost.
    pub fn db(&self, way: Way) -> Option<f64> {
        Some(10.0 * self.ratio(way)?.log10())
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

/// One quantizer, and what is known of its scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    pub quantizer: Quantizer,
    pub rounding: Rounding,
    /// The one scale of a scheme that has one.
    pub scale: Option<f32>,
}

/// A part of a weight in three forms, each `[channels, in / groups · kernel]`.
pub(super) struct Weights {
    pub as_is: Vec<f32>,
    /// Ŵ
    pub quantized: Vec<f32>,
    /// W − Ŵ
    pub lost: Vec<f32>,
    /// Elements of one channel.
    pub width: usize,
}

impl Weights {
    /// From the elements of a part.
    fn new(
        elements: (FloatType, &[u8]),
        shape: &Shape,
        part: &Part,
        asked: &Asked,
    ) -> Result<Weights, NotQuantizable> {
        let (dtype, bytes) = elements;
        let count = bytes.len() / dtype.size();
        let width = shape.channel_len() as usize;
        let empty = || Vec::with_capacity(count);
        let mut all = Weights { as_is: empty(), quantized: empty(), lost: empty(), width };
        let range = part.elements(shape);
        let Asked { quantizer, rounding, .. } = *asked;
        for (_, segment) in quantizer.scheme.groups(shape).segments(range.clone()) {
            let at = |element: u64| (element - range.start) as usize * dtype.size();
            let group = bytes.get(at(segment.start)..at(segment.end)).unwrap_or_default();
            let scale = match asked.scale {
                Some(scale) => scale,
                None => quantizer
                    .scale_of(dtype, group, rounding, FloatType::F32)
                    .map_err(|why| why.after(segment.start))?,
            };
            let qtype = quantizer.scheme.quantization_type();
            for i in 0..group.len() / dtype.size() {
                let x = read_f64(dtype, group, i).unwrap_or(f64::NAN);
                let (quantized, lost) = match dtype {
                    FloatType::F64 => {
                        let scale = f64::from(scale);
                        let quantized = scale * level(x / scale, qtype, rounding);
                        (quantized, x - quantized)
                    }
                    _ => {
                        let (x, scale) = (x as f32, scale);
                        let rounded = level((x / scale).into(), qtype, rounding) as f32;
                        let quantized = scale * rounded;
                        (f64::from(quantized), f64::from(x - quantized))
                    }
                };
                all.as_is.push(x as f32);
                all.quantized.push(quantized as f32);
                all.lost.push(lost as f32);
            }
        }
        Ok(all)
    }
}

/// The value that a quotient becomes, before it is scaled.
fn level(quotient: f64, qtype: QuantizationType, rounding: Rounding) -> f64 {
    let most = f64::from(qtype.max());
    match (qtype, rounding) {
        (QuantizationType::F8E4M3, _) => f8e4m3_value(f8e4m3_from(quotient as f32)).into(),
        (_, Rounding::HalfEven) => quotient.round_ties_even().clamp(-most, most),
        (_, Rounding::HalfAway) => quotient.round().clamp(-most, most),
    }
}

/// One layer and its captures, for one thread.
pub struct Layer<'a, 'f> {
    pub recording: &'a Recording,
    pub shape: &'a Shape,
    pub stream: &'a mut Stream<'f>,
    /// The calibrated scale of its inputs, if there is one.
    pub input_scale: Option<f32>,
}

impl Layer<'_, '_> {
    /// Whether [`Way::ALL`] can be told, and from what.
    pub fn basis(recording: &Recording, input_scale: Option<f32>) -> (Basis, [bool; 3]) {
        match &recording.source {
            Source::Inputs(_) => (Basis::Inputs, [true, true, input_scale.is_some()]),
            Source::Summary(summary) => {
                (Basis::Diagonal, [summary.mean_square.is_some(), false, false])
            }
        }
    }

    /// What the channels of a part lose by each of `asked`. `elements`: of the part.
    /// `wanted`: whether to go on.
    pub fn sums(
        &mut self,
        part: &Part,
        elements: (FloatType, &[u8]),
        asked: &[Asked],
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<OutputSums, NotQuantizable>>, ActivationsError> {
        let mut signal = None;
        let mut all = Vec::with_capacity(asked.len());
        for asked in asked {
            let weights = match Weights::new(elements, self.shape, part, asked) {
                Ok(weights) => weights,
                Err(why) => {
                    all.push(Err(why));
                    continue;
                }
            };
            let mut sums = match &self.recording.source {
                Source::Summary(summary) => {
                    let mean = summary.mean_square.as_deref().unwrap_or_default();
                    Diagonal::new(self.shape, mean).sums(&weights, part)
                }
                Source::Inputs(inputs) => {
                    self.exact(inputs, part, &weights, signal.is_none(), wanted)?
                }
            };
            sums.signal = *signal.get_or_insert(sums.signal);
            all.push(Ok(sums));
        }
        Ok(all)
    }

    fn exact(
        &mut self,
        inputs: &Inputs,
        part: &Part,
        weights: &Weights,
        signal: bool,
        wanted: &dyn Fn() -> bool,
    ) -> Result<OutputSums, ActivationsError> {
        let (recording, shape, input_scale) = (self.recording, self.shape, self.input_scale);
        let mut work = Work { weights, signal, sums: OutputSums::default(), out: Vec::new() };
        let mut dynamic = Vec::new();
        let mut fixed = Vec::new();
        let mut rows = [Vec::new(), Vec::new(), Vec::new()];
        self.stream.each(inputs, wanted, |samples| {
            dynamic.clear();
            for sample in samples.values.chunks(samples.unit.max(1)) {
                let absmax = sample.iter().fold(0f32, |most, x| most.max(x.abs()));
                let scale = symmetric_scale(absmax.into(), QuantizationType::QInt8.max());
                lost(sample, scale.unwrap_or(f32::MIN_POSITIVE), &mut dynamic);
            }
            fixed.clear();
            if let Some(scale) = input_scale {
                lost(samples.values, scale, &mut fixed);
            }
            match &recording.kind {
                LayerKind::Linear => {
                    let values = [samples.values, &dynamic, &fixed];
                    let channels = 0..part.channels.end as usize - part.channels.start as usize;
                    work.linear(values, samples.unit, channels);
                }
                LayerKind::Convolution(convolution) => {
                    let values = [samples.values, &dynamic, &fixed];
                    work.convolution(convolution, &samples, values, shape, part, &mut rows);
                }
            }
        })?;
        Ok(work.sums)
    }
}

/// Appends x − x̂ for values quantized by one scale, halves rounded to even.
fn lost(values: &[f32], scale: f32, out: &mut Vec<f32>) {
    // Adding and taking away 1.5 · 2²³ rounds what is smaller than 2²² to even.
    const ROUND: f32 = 12_582_912.0;
    let most = QuantizationType::QInt8.max();
    out.extend(values.iter().map(|&x| {
        let level = ((x / scale).clamp(-most, most) + ROUND) - ROUND;
        x - scale * level
    }));
}

/// The sums of one part, as samples go by.
struct Work<'w> {
    weights: &'w Weights,
    /// Whether the output itself is asked for too.
    signal: bool,
    sums: OutputSums,
    out: Vec<f32>,
}

impl Work<'_> {
    /// `values`: inputs, and what they lose as they come and by the calibrated scale; empty
    /// where that is not known.
    fn linear(&mut self, values: [&[f32]; 3], width: usize, channels: Range<usize>) {
        let at_once = (ROW_BYTES / (width.max(1) * 4)).clamp(1, ROWS) * width;
        for start in (0..values[0].len()).step_by(at_once.max(1)) {
            let slice = |all: &'_ [f32]| -> Range<usize> {
                start.min(all.len())..start.saturating_add(at_once).min(all.len())
            };
            let [x, dynamic, fixed] = values.map(|all| all.get(slice(all)).unwrap_or_default());
            self.rows([x, dynamic, fixed], width, channels.clone());
        }
    }

    /// Adds the outputs of some rows for some channels of the part.
    fn rows(&mut self, values: [&[f32]; 3], width: usize, channels: Range<usize>) {
        let [x, dynamic, fixed] = values;
        let count = x.len() / width.max(1);
        let dims = (count, width, channels.len());
        let of = |all: &[f32]| -> Range<usize> {
            let (start, end) = (channels.start * width, channels.end * width);
            start.min(all.len())..end.min(all.len())
        };
        let weights = self.weights;
        let as_is = weights.as_is.get(of(&weights.as_is)).unwrap_or_default();
        let quantized = weights.quantized.get(of(&weights.quantized)).unwrap_or_default();
        let lost = weights.lost.get(of(&weights.lost)).unwrap_or_default();
        let length = count * channels.len();
        self.out.resize(length, 0.0);
        if self.signal {
            multiply(x, as_is, &mut self.out, dims, true);
            self.sums.signal += energy(&self.out);
        }
        multiply(x, lost, &mut self.out, dims, true);
        self.sums.noise[0] += energy(&self.out);
        let by_weights = self.out.clone();
        multiply(dynamic, quantized, &mut self.out, dims, false);
        self.sums.noise[1] += energy(&self.out);
        if !fixed.is_empty() {
            self.out.copy_from_slice(&by_weights);
            multiply(fixed, quantized, &mut self.out, dims, false);
            self.sums.noise[2] += energy(&self.out);
        }
    }

    fn convolution(
        &mut self,
        convolution: &Convolution,
        samples: &Samples,
        values: [&[f32]; 3],
        shape: &Shape,
        part: &Part,
        rows: &mut [Vec<f32>; 3],
    ) {
        let Some(positions) = convolution.positions(samples.spatial) else { return };
        let count: usize = positions.iter().product();
        let width = self.weights.width;
        let strip = (ROW_BYTES / (width.max(1) * 4)).clamp(1, ROWS);
        let per_group = shape.channels() as usize / convolution.groups.max(1);
        let inputs = shape.dims().get(1).map_or(0, |&n| n as usize);
        let (first, last) = (part.channels.start as usize, part.channels.end as usize);
        let unit = samples.unit.max(1);
        for sample in 0..samples.values.len() / unit {
            let at = sample * unit..(sample + 1) * unit;
            for group in first / per_group.max(1)..last.div_ceil(per_group.max(1)) {
                let channels = (group * per_group).max(first) - first
                    ..((group + 1) * per_group).min(last) - first;
                let seen = group * inputs..(group + 1) * inputs;
                for start in (0..count).step_by(strip) {
                    let range = start..(start + strip).min(count);
                    for (all, out) in values.iter().zip(rows.iter_mut()) {
                        out.clear();
                        let Some(sample) = all.get(at.clone()) else { continue };
                        let spatial = samples.spatial;
                        let (seen, range) = (seen.clone(), range.clone());
                        convolution.unfold(sample, spatial, &positions, seen, range, out);
                    }
                    let [x, dynamic, fixed] = &*rows;
                    self.rows([x, dynamic, fixed], width, channels.clone());
                }
            }
        }
    }
}

fn energy(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}
