//! The error of a layer's output, ‖Wx − Ŵx̂‖² / ‖Wx‖² over the recorded inputs x, for a range of
//! output channels.
//!
//! The difference is computed as (W−Ŵ)x + Ŵ(x−x̂). Both terms are small, so f32 products are
//! precise enough; squares are summed in f64.

use crate::activations::channel_range::{
    ChannelQuantizer, ChannelRange, OutputSums, QuantizedChannels, values_of,
};
use crate::activations::convolution::Convolution;
use crate::activations::diagonal::Diagonal;
use crate::activations::error::ActivationsError;
use crate::activations::product::multiply;
use crate::activations::recording::{Inputs, LayerKind, Recording, Source};
use crate::activations::stream::{Samples, Stream};
use crate::quantization::{Loss, NotQuantizable, QuantizationType, symmetric_scale};
use crate::tensor::{FloatType, Shape};
use std::ops::Range;

/// The most input rows, or positions of a convolution, in one product.
const MAX_ROWS: usize = 256;

/// The most bytes of input rows in one product, unless one row has more.
const MAX_ROW_BYTES: usize = 1 << 20;

/// The parts of a layer that are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationMode {
    /// Only the weights.
    Weights,
    /// Weights and activations. Activations have one scale per row of a linear layer's input, or
    /// per sample of a convolution's.
    Dynamic,
    /// Weights and activations. Activations have one calibrated scale per layer.
    Static,
}

impl ActivationMode {
    /// All modes, in the order of figures and columns.
    pub const ALL: [ActivationMode; 3] =
        [ActivationMode::Weights, ActivationMode::Dynamic, ActivationMode::Static];

    /// The name in options and documents.
    pub fn name(self) -> &'static str {
        match self {
            ActivationMode::Weights => "weights",
            ActivationMode::Dynamic => "dynamic",
            ActivationMode::Static => "static",
        }
    }

    /// One line of explanation.
    pub fn summary(self) -> &'static str {
        match self {
            ActivationMode::Weights => "only the weights are quantized",
            ActivationMode::Dynamic => "weights, and activations with a scale per token",
            ActivationMode::Static => {
                "weights, and activations with one scale calibrated on the captures"
            }
        }
    }
}

/// The data from which an output error is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The recorded inputs. The error is exact for them.
    Inputs,
    /// Mean squares of the features, the diagonal of their second moments. Assumes uncorrelated
    /// features with mean zero.
    Diagonal,
}

impl Basis {
    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Inputs => "inputs",
            Basis::Diagonal => "diagonal",
        }
    }
}

/// The output error of one layer for one quantizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputError {
    /// The data from which the error is computed.
    pub basis: Basis,
    /// The sums over all channels and inputs.
    pub sums: OutputSums,
    /// Whether the error is known, for each of [`ActivationMode::ALL`].
    pub known: [bool; 3],
}

impl OutputError {
    /// The error of weights that were weighted by the mean squares of their inputs.
    pub fn weighted(loss: Loss) -> OutputError {
        let sums = OutputSums { signal: loss.signal, noise: [loss.noise, 0.0, 0.0] };
        OutputError { basis: Basis::Diagonal, sums, known: [true, false, false] }
    }

    /// ‖Wx − Ŵx̂‖² / ‖Wx‖²; `None` if it is not known or the output is all zeros.
    pub fn ratio(&self, mode: ActivationMode) -> Option<f64> {
        let place = ActivationMode::ALL.iter().position(|&other| other == mode)?;
        let known = self.known.get(place).copied().unwrap_or(false) && self.sums.signal > 0.0;
        known.then(|| self.sums.noise.get(place).map(|noise| noise / self.sums.signal)).flatten()
    }

    /// The ratio in dB; lower is better, and −∞ is exact.
    pub fn db(&self, mode: ActivationMode) -> Option<f64> {
        Some(10.0 * self.ratio(mode)?.log10())
    }

    /// The ratio in dB as text, with `~` before an approximation.
    pub fn shown(&self, mode: ActivationMode) -> Option<String> {
        let mark = if self.basis == Basis::Diagonal { "~" } else { "" };
        Some(match self.db(mode)? {
            f64::NEG_INFINITY => "exact".to_owned(),
            db => format!("{mark}{db:.1} dB"),
        })
    }
}

/// One layer and a reader of its captures, for one thread.
pub struct Layer<'a, 'f> {
    /// The recording of the layer.
    pub recording: &'a Recording,
    /// Shape of the weight.
    pub shape: &'a Shape,
    /// Reads the recorded inputs.
    pub stream: &'a mut Stream<'f>,
    /// The calibrated scale of its inputs, if known.
    pub input_scale: Option<f32>,
}

impl Layer<'_, '_> {
    /// The data from which the error is computed, and the modes in which it is known, in the order
    /// of [`ActivationMode::ALL`].
    pub fn basis(recording: &Recording, input_scale: Option<f32>) -> (Basis, [bool; 3]) {
        match &recording.source {
            Source::Inputs(_) => (Basis::Inputs, [true, true, input_scale.is_some()]),
            Source::Summary(summary) => {
                (Basis::Diagonal, [summary.mean_square.is_some(), false, false])
            }
        }
    }

    /// Returns the sums of a channel range for each of `quantizers`. `elements` are the weights of
    /// the range. `wanted` returns false once the job is cancelled.
    pub fn sums(
        &mut self,
        part: &ChannelRange,
        elements: (FloatType, &[u8]),
        quantizers: &[ChannelQuantizer],
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<OutputSums, NotQuantizable>>, ActivationsError> {
        let original: Vec<f32> = values_of(elements.0, elements.1).map(|x| x as f32).collect();
        let mut failed = Vec::new();
        let mut quantized = Vec::new();
        for quantizer in quantizers {
            match QuantizedChannels::new(elements, self.shape, part, quantizer) {
                Ok(channels) => {
                    quantized.push(channels);
                    failed.push(None);
                }
                Err(why) => failed.push(Some(why)),
            }
        }
        let width = self.shape.channel_len() as usize;
        let sums = match &self.recording.source {
            Source::Summary(summary) => {
                let mean = summary.mean_square.as_deref().unwrap_or_default();
                let diagonal = Diagonal::new(self.shape, mean);
                quantized.iter().map(|one| diagonal.sums(&original, one, width, part)).collect()
            }
            Source::Inputs(inputs) => {
                let sums = vec![OutputSums::default(); quantized.len()];
                let (by_weights, out) = (Vec::new(), Vec::new());
                let (original, all) = (&original, &quantized);
                let mut work =
                    Accumulator { original, quantized: all, width, sums, by_weights, out };
                if !all.is_empty() {
                    self.exact(inputs, part, &mut work, wanted)?;
                }
                work.sums
            }
        };
        let mut sums = sums.into_iter();
        let all = failed.into_iter().map(|why| match why {
            Some(why) => Err(why),
            None => Ok(sums.next().unwrap_or_default()),
        });
        Ok(all.collect())
    }

    /// Sums the products of all inputs. The inputs are read once for all quantizers.
    fn exact(
        &mut self,
        inputs: &Inputs,
        part: &ChannelRange,
        work: &mut Accumulator,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), ActivationsError> {
        let (recording, shape, input_scale) = (self.recording, self.shape, self.input_scale);
        let mut dynamic = Vec::new();
        let mut fixed = Vec::new();
        let mut rows = [Vec::new(), Vec::new(), Vec::new()];
        self.stream.each(inputs, wanted, |samples| {
            dynamic.clear();
            for sample in samples.values.chunks(samples.unit.max(1)) {
                let absmax = sample.iter().fold(0f32, |most, x| most.max(x.abs()));
                let scale = symmetric_scale(absmax.into(), QuantizationType::QInt8.max());
                push_errors(sample, scale.unwrap_or(f32::MIN_POSITIVE), &mut dynamic);
            }
            fixed.clear();
            if let Some(scale) = input_scale {
                push_errors(samples.values, scale, &mut fixed);
            }
            let values = [samples.values, &dynamic, &fixed];
            match &recording.kind {
                LayerKind::Linear => {
                    let channels = 0..(part.channels.end - part.channels.start) as usize;
                    work.linear(values, samples.unit, channels);
                }
                LayerKind::Convolution(convolution) => {
                    work.convolution(convolution, &samples, values, shape, part, &mut rows);
                }
            }
        })
    }
}

/// Appends x − x̂ for values quantized with one scale, rounding half to even.
fn push_errors(values: &[f32], scale: f32, out: &mut Vec<f32>) {
    // Adding and subtracting 1.5 · 2²³ rounds values below 2²² to the nearest even integer.
    const ROUND: f32 = 12_582_912.0;
    let most = QuantizationType::QInt8.max();
    out.extend(values.iter().map(|&x| {
        let level = ((x / scale).clamp(-most, most) + ROUND) - ROUND;
        x - scale * level
    }));
}

/// The sums of one channel range while samples are read.
struct Accumulator<'w> {
    /// W
    original: &'w [f32],
    quantized: &'w [QuantizedChannels],
    /// Elements of one channel.
    width: usize,
    /// One per quantizer.
    sums: Vec<OutputSums>,
    /// (W−Ŵ)x
    by_weights: Vec<f32>,
    out: Vec<f32>,
}

impl Accumulator<'_> {
    /// Adds samples of a linear layer. `values` are the inputs, and their quantization errors
    /// with dynamic and with static scales; empty if not known.
    fn linear(&mut self, values: [&[f32]; 3], width: usize, channels: Range<usize>) {
        let at_once = (MAX_ROW_BYTES / (width.max(1) * 4)).clamp(1, MAX_ROWS) * width;
        for start in (0..values[0].len()).step_by(at_once.max(1)) {
            let slice = |all: &'_ [f32]| -> Range<usize> {
                start.min(all.len())..start.saturating_add(at_once).min(all.len())
            };
            let [x, dynamic, fixed] = values.map(|all| all.get(slice(all)).unwrap_or_default());
            self.rows([x, dynamic, fixed], width, channels.clone());
        }
    }

    /// Adds the outputs of some rows for some channels of the range.
    fn rows(&mut self, values: [&[f32]; 3], width: usize, channels: Range<usize>) {
        let [x, dynamic, fixed] = values;
        let count = x.len() / width.max(1);
        let dims = (count, width, channels.len());
        let range = channels.start * width..channels.end * width;
        let of = |all: &'_ [f32]| range.start.min(all.len())..range.end.min(all.len());
        let length = count * channels.len();
        self.by_weights.resize(length, 0.0);
        self.out.resize(length, 0.0);
        let original = self.original.get(of(self.original)).unwrap_or_default();
        multiply(x, original, &mut self.out, dims, true);
        let signal = energy(&self.out);
        for (channels, sums) in self.quantized.iter().zip(&mut self.sums) {
            let quantized = channels.quantized.get(of(&channels.quantized)).unwrap_or_default();
            let lost = channels.lost.get(of(&channels.lost)).unwrap_or_default();
            sums.signal += signal;
            multiply(x, lost, &mut self.by_weights, dims, true);
            sums.noise[0] += energy(&self.by_weights);
            for (values, noise) in [dynamic, fixed].into_iter().zip(&mut sums.noise[1..]) {
                if !values.is_empty() {
                    self.out.copy_from_slice(&self.by_weights);
                    multiply(values, quantized, &mut self.out, dims, false);
                    *noise += energy(&self.out);
                }
            }
        }
    }

    fn convolution(
        &mut self,
        convolution: &Convolution,
        samples: &Samples,
        values: [&[f32]; 3],
        shape: &Shape,
        part: &ChannelRange,
        rows: &mut [Vec<f32>; 3],
    ) {
        let Some(positions) = convolution.positions(samples.spatial) else { return };
        let count: usize = positions.iter().product();
        let width = self.width;
        let strip = (MAX_ROW_BYTES / (width.max(1) * 4)).clamp(1, MAX_ROWS);
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
