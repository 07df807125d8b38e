//! What a layer's output loses: ‖Wx − Ŵx̂‖² / ‖Wx‖² over the recorded inputs x, for some of
//! its output channels at a time.
//!
//! The difference is formed as (W−Ŵ)x + Ŵ(x−x̂), whose parts are small, so that f32 products
//! do not lose it; squares are summed in f64.

use crate::activations::convolution::Convolution;
use crate::activations::diagonal::Diagonal;
use crate::activations::error::ActivationsError;
use crate::activations::product::multiply;
use crate::activations::quantized_part::{
    OutputSums, Part, PartQuantizer, QuantizedPart, values_of,
};
use crate::activations::recording::{Inputs, LayerKind, Recording, Source};
use crate::activations::stream::{Samples, Stream};
use crate::quantization::{NotQuantizable, QuantizationType, symmetric_scale};
use crate::tensor::{FloatType, Shape};
use std::ops::Range;

/// Rows of inputs, or positions of a convolution, in one product at most, and bytes of them.
const ROWS: usize = 256;
const ROW_BYTES: usize = 1 << 20;

/// What is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationMode {
    /// The weights alone.
    Weights,
    /// Weights, and activations as they come: a scale for each row of a linear layer's
    /// input, for each sample of a convolution's.
    Dynamic,
    /// Weights, and activations by one calibrated scale.
    Static,
}

impl ActivationMode {
    pub const ALL: [ActivationMode; 3] =
        [ActivationMode::Weights, ActivationMode::Dynamic, ActivationMode::Static];

    pub fn name(self) -> &'static str {
        match self {
            ActivationMode::Weights => "weights",
            ActivationMode::Dynamic => "dynamic",
            ActivationMode::Static => "static",
        }
    }

    pub fn summary(self) -> &'static str {
        match self {
            ActivationMode::Weights => "only the weights are quantized",
            ActivationMode::Dynamic => {
                "weights, and activations as they come, a scale for each token"
            }
            ActivationMode::Static => {
                "weights, and activations by one scale calibrated on the captures"
            }
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

impl Basis {
    pub fn name(self) -> &'static str {
        match self {
            Basis::Inputs => "inputs",
            Basis::Diagonal => "diagonal",
        }
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
    pub fn ratio(&self, way: ActivationMode) -> Option<f64> {
        let place = ActivationMode::ALL.iter().position(|&other| other == way)?;
        let known = self.knows.get(place).copied().unwrap_or(false) && self.sums.signal > 0.0;
        known.then(|| self.sums.noise.get(place).map(|noise| noise / self.sums.signal)).flatten()
    }

    /// The same in dB: the lower the better, −∞ if nothing is lost.
    pub fn db(&self, way: ActivationMode) -> Option<f64> {
        Some(10.0 * self.ratio(way)?.log10())
    }

    /// The same as text, the approximation marked.
    pub fn shown(&self, way: ActivationMode) -> Option<String> {
        let mark = if self.basis == Basis::Diagonal { "~" } else { "" };
        Some(match self.db(way)? {
            f64::NEG_INFINITY => "exact".to_owned(),
            db => format!("{mark}{db:.1} dB"),
        })
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
    /// Whether [`ActivationMode::ALL`] can be told, and from what.
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
        asked: &[PartQuantizer],
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<OutputSums, NotQuantizable>>, ActivationsError> {
        let as_is: Vec<f32> = values_of(elements.0, elements.1).map(|x| x as f32).collect();
        let mut failed = Vec::new();
        let mut forms = Vec::new();
        for asked in asked {
            match QuantizedPart::new(elements, self.shape, part, asked) {
                Ok(form) => {
                    forms.push(form);
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
                forms.iter().map(|form| diagonal.sums(&as_is, form, width, part)).collect()
            }
            Source::Inputs(inputs) => {
                let sums = vec![OutputSums::default(); forms.len()];
                let (by_weights, out) = (Vec::new(), Vec::new());
                let mut work = Work { as_is: &as_is, forms: &forms, width, sums, by_weights, out };
                if !forms.is_empty() {
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

    /// Adds up the products of all the inputs, which are gone through once for all forms.
    fn exact(
        &mut self,
        inputs: &Inputs,
        part: &Part,
        work: &mut Work,
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
                lost(sample, scale.unwrap_or(f32::MIN_POSITIVE), &mut dynamic);
            }
            fixed.clear();
            if let Some(scale) = input_scale {
                lost(samples.values, scale, &mut fixed);
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
    /// W
    as_is: &'w [f32],
    forms: &'w [QuantizedPart],
    /// Elements of one channel.
    width: usize,
    /// For each of the forms.
    sums: Vec<OutputSums>,
    /// (W−Ŵ)x
    by_weights: Vec<f32>,
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
        let range = channels.start * width..channels.end * width;
        let of = |all: &'_ [f32]| range.start.min(all.len())..range.end.min(all.len());
        let length = count * channels.len();
        self.by_weights.resize(length, 0.0);
        self.out.resize(length, 0.0);
        let as_is = self.as_is.get(of(self.as_is)).unwrap_or_default();
        multiply(x, as_is, &mut self.out, dims, true);
        let signal = energy(&self.out);
        for (form, sums) in self.forms.iter().zip(&mut self.sums) {
            let quantized = form.quantized.get(of(&form.quantized)).unwrap_or_default();
            let lost = form.lost.get(of(&form.lost)).unwrap_or_default();
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
        part: &Part,
        rows: &mut [Vec<f32>; 3],
    ) {
        let Some(positions) = convolution.positions(samples.spatial) else { return };
        let count: usize = positions.iter().product();
        let width = self.width;
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
