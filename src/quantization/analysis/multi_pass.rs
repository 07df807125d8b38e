//! Groups that span chunks: calibrated and measured in several passes over the tensor.
//!
//! The first pass finds their ranges. A calibration may need more passes to find their clips:
//! one for every 16 bits of an element for a percentile, one for the least squared error. The
//! last pass measures what quantizing by the clips loses.

use crate::quantization::analysis::channel_losses::ChannelLosses;
use crate::quantization::analysis::element_run::ElementRun;
use crate::quantization::analysis::percentile_search::{DigitCounts, PercentileSearch};
use crate::quantization::analysis::results::Quantized;
use crate::quantization::analysis::spec::{AnalysisSpec, ErrorDetail};
use crate::quantization::analysis::tensor_quantizer::TensorQuantizer;
use crate::quantization::calibration::{Calibration, least_index, percentile_rank};
use crate::quantization::clipping::{candidates, clip_at, percentile_or_absmax};
use crate::quantization::groups::Groups;
use crate::quantization::kernels::{self, SharedSeenLevels};
use crate::quantization::loss::Loss;
use crate::quantization::quantizer::NotQuantizable;
use crate::quantization::scales::Scales;
use crate::quantization::statistics::{ErrorSums, Moments, Range};
use crate::quantization::value_histogram::merge_sorted;

/// The state of a quantizer's groups after some of the passes.
#[derive(Clone, Debug, Default)]
pub(super) struct MultiPassState {
    groups: Vec<GroupState>,
    /// The levels that occurred in the chunks measured so far.
    seen: SharedSeenLevels,
    error: Option<ErrorSums>,
    loss: Option<Loss>,
    channels: Option<ChannelLosses>,
}

#[derive(Clone, Debug, Default)]
struct GroupState {
    range: Range,
    search: PercentileSearch,
    /// The clip, once a search has found it.
    clip: Option<f64>,
}

/// The result of a pass after the first for a chunk, or for all chunks so far. Groups are
/// numbered and in order; each occurs once.
#[derive(Debug)]
pub(super) enum PassResult {
    Nothing,
    /// Per group, the counts of the next digits of the magnitudes.
    Digits(Vec<(u64, DigitCounts)>),
    /// Per group, the squared error of each candidate clip.
    Candidates(Vec<(u64, Vec<f64>)>),
    /// The errors of all groups, and the loss of each channel if channels are needed.
    Error(ErrorSums, Vec<(u64, Loss)>),
    /// The losses of all groups, and of each channel if channels are needed.
    Loss(Loss, Vec<(u64, Loss)>),
}

impl PassResult {
    /// The moments of `count` elements without their range, if the errors of all of them were
    /// computed.
    pub(super) fn moments(&self, count: u64) -> Option<Moments> {
        match self {
            PassResult::Error(sums, _) if sums.count == count => Some(sums.moments()),
            _ => None,
        }
    }

    /// Reduces full errors to losses.
    pub(super) fn into_losses(self) -> PassResult {
        match self {
            PassResult::Error(sums, channels) => PassResult::Loss(Loss::from(&sums), channels),
            other => other,
        }
    }

    /// Adds the result for the next chunk.
    pub(super) fn append(&mut self, next: PassResult) {
        match (self, next) {
            (nothing @ PassResult::Nothing, next) => *nothing = next,
            (PassResult::Digits(all), PassResult::Digits(more)) => {
                append_groups(all, more, |sum, next| {
                    *sum = merge_sorted(std::mem::take(sum), next);
                });
            }
            (PassResult::Candidates(all), PassResult::Candidates(more)) => {
                let add = |(sum, next): (&mut f64, f64)| *sum += next;
                append_groups(all, more, |sums, next| sums.iter_mut().zip(next).for_each(add));
            }
            (PassResult::Error(sums, channels), PassResult::Error(next, more)) => {
                sums.merge(&next);
                channels.extend(more);
            }
            (PassResult::Loss(loss, channels), PassResult::Loss(next, more)) => {
                loss.merge(&next);
                channels.extend(more);
            }
            _ => {}
        }
    }
}

/// Appends a list of groups whose first group may be the last of the list before it.
fn append_groups<T>(all: &mut Vec<(u64, T)>, more: Vec<(u64, T)>, add: impl Fn(&mut T, T)) {
    for (group, next) in more {
        match all.last_mut() {
            Some((last, sum)) if *last == group => add(sum, next),
            _ => all.push((group, next)),
        }
    }
}

impl MultiPassState {
    /// The state before the first chunk. `channels` collects the losses of channels.
    pub(super) fn new(channels: Option<ChannelLosses>) -> MultiPassState {
        MultiPassState { channels, ..MultiPassState::default() }
    }

    /// Adds the ranges of the groups in the next chunk.
    pub(super) fn add_ranges(&mut self, ranges: Vec<(u64, Range)>) {
        for (group, range) in ranges {
            // Groups come in order without gaps.
            match self.groups.get_mut(group as usize) {
                Some(known) => known.range.merge(&range),
                None => self.groups.push(GroupState { range, ..GroupState::default() }),
            }
        }
    }

    /// Ends the first pass: starts the search for percentiles, if any are needed.
    pub(super) fn end_first_pass(&mut self, quantizer: &TensorQuantizer) {
        if let Calibration::Percentile(percent) = quantizer.quantizer().calibration {
            for group in &mut self.groups {
                let rank = percentile_rank(percent, group.range.finite());
                group.search = PercentileSearch::new(rank);
            }
        }
    }

    /// Measures a chunk in pass `pass` after the first: searches for clips, and in the pass
    /// after the searches computes errors with the given detail.
    pub(super) fn measure(
        &self,
        quantizer: &TensorQuantizer,
        pass: u64,
        detail: ErrorDetail,
        channels: Option<&Groups>,
        chunk: ElementRun,
    ) -> PassResult {
        if pass > quantizer.search_passes() {
            return match detail {
                ErrorDetail::None => PassResult::Nothing,
                ErrorDetail::Loss => self.losses(quantizer, channels, chunk),
                ErrorDetail::Full => self.errors(quantizer, channels, chunk),
            };
        }
        match quantizer.quantizer().calibration {
            Calibration::Percentile(_) => {
                let remaining = 16 * (quantizer.search_passes() - pass) as u32;
                let digits = self.parts(quantizer, chunk).map(|(number, group, run)| {
                    (number, group.search.count(run.dtype, run.bytes, remaining))
                });
                PassResult::Digits(digits.collect())
            }
            Calibration::Mse => {
                let errors = self.parts(quantizer, chunk).map(|(number, group, run)| {
                    (number, candidate_errors(quantizer, group.range.absmax(), run))
                });
                PassResult::Candidates(errors.collect())
            }
            Calibration::MinMax
            | Calibration::Clip(_)
            | Calibration::Magnitude(_)
            | Calibration::Learned => PassResult::Nothing,
        }
    }

    /// Splits a chunk into parts that belong to one group each.
    fn parts<'b>(
        &self,
        quantizer: &TensorQuantizer,
        chunk: ElementRun<'b>,
    ) -> impl Iterator<Item = (u64, &GroupState, ElementRun<'b>)> {
        let parts = chunk.by_group(&quantizer.groups);
        parts.filter_map(|(number, run)| Some((number, self.groups.get(number as usize)?, run)))
    }

    /// The parts of a chunk with the scales of their groups. Groups without a scale are left
    /// out; [`MultiPassState::finish`] reports them.
    fn scaled_parts<'b>(
        &self,
        quantizer: &TensorQuantizer,
        chunk: ElementRun<'b>,
    ) -> impl Iterator<Item = (f32, ElementRun<'b>)> {
        self.parts(quantizer, chunk).filter_map(|(number, group, run)| {
            let of_group = quantizer.of_group(number);
            let clip = group.clip(of_group.calibration);
            Some((of_group.scale_for(clip, quantizer.scale_type).ok()?, run))
        })
    }

    fn losses(
        &self,
        quantizer: &TensorQuantizer,
        channels: Option<&Groups>,
        chunk: ElementRun,
    ) -> PassResult {
        let (mut all, mut by_channel) = (Loss::default(), Vec::new());
        for (scale, run) in self.scaled_parts(quantizer, chunk) {
            let bounds = channels.map(|channels| run.channel_bounds(channels));
            let params = quantizer.params(scale);
            let (loss, losses) = kernels::loss_by_channel(run.dtype, run.bytes, params, bounds);
            all.merge(&loss);
            by_channel.extend(run.number_channels(channels, losses));
        }
        PassResult::Loss(all, by_channel)
    }

    fn errors(
        &self,
        quantizer: &TensorQuantizer,
        channels: Option<&Groups>,
        chunk: ElementRun,
    ) -> PassResult {
        let (mut all, mut by_channel) = (ErrorSums::default(), Vec::new());
        let mut seen = self.seen.get();
        for (scale, run) in self.scaled_parts(quantizer, chunk) {
            let bounds = channels.map(|channels| run.channel_bounds(channels));
            let params = quantizer.params(scale);
            let (sums, losses) =
                kernels::error_by_channel(run.dtype, run.bytes, params, bounds, &mut seen);
            all.merge(&sums);
            by_channel.extend(run.number_channels(channels, losses));
        }
        self.seen.add(&seen);
        PassResult::Error(all, by_channel)
    }

    /// Takes the results of a complete pass after the first.
    pub(super) fn end_pass(&mut self, quantizer: &TensorQuantizer, pass: u64, found: PassResult) {
        match found {
            PassResult::Nothing => {}
            PassResult::Error(sums, channels) => {
                self.error = Some(sums);
                self.set_channels(channels);
            }
            PassResult::Loss(loss, channels) => {
                self.loss = Some(loss);
                self.set_channels(channels);
            }
            PassResult::Candidates(all) => {
                for (number, errors) in all {
                    let Some(group) = self.groups.get_mut(number as usize) else { continue };
                    let best = least_index(errors.into_iter());
                    group.clip = Some(clip_at(group.range.absmax(), best));
                }
            }
            PassResult::Digits(all) => {
                for (number, counts) in all {
                    let Some(group) = self.groups.get_mut(number as usize) else { continue };
                    let is_found = group.search.narrow(&counts);
                    if is_found && pass == quantizer.search_passes() {
                        let magnitude = group.search.magnitude(quantizer.dtype);
                        group.clip = Some(percentile_or_absmax(magnitude, group.range.absmax()));
                    }
                }
            }
        }
    }

    fn set_channels(&mut self, losses: Vec<(u64, Loss)>) {
        if let Some(channels) = &mut self.channels {
            losses.into_iter().for_each(|(channel, loss)| channels.add(channel, loss));
            channels.end_channel();
        }
    }

    /// The clip of every group, in order.
    pub(super) fn clips(&self, quantizer: &TensorQuantizer) -> impl Iterator<Item = f64> {
        (0..).zip(&self.groups).map(|(number, group)| {
            let calibration = quantizer.of_group(number).calibration;
            group.clip(calibration)
        })
    }

    /// The result after all passes.
    pub(super) fn finish(
        self,
        spec: &AnalysisSpec,
        quantizer: &TensorQuantizer,
    ) -> Result<Quantized, NotQuantizable> {
        let mut scales = Scales::new(spec.keep_scales);
        for clip in self.clips(quantizer) {
            scales.push(clip, quantizer.quantizer().scale_for(clip, quantizer.scale_type)?);
        }
        let MultiPassState { error, loss, channels, .. } = self;
        Ok(Quantized { scales, error, loss, weighted: None, channels })
    }
}

/// The squared error of a part of a group for each candidate clip; infinite where a clip has
/// no scale.
fn candidate_errors(quantizer: &TensorQuantizer, absmax: f64, run: ElementRun) -> Vec<f64> {
    let error = |params| kernels::error(run.dtype, run.bytes, params).noise;
    candidates(absmax, quantizer.qtype(), quantizer.rounding)
        .map(|params| params.map_or(f64::INFINITY, error))
        .collect()
}

impl GroupState {
    /// The clip that a search found, or else the one that follows from the range.
    fn clip(&self, calibration: Calibration) -> f64 {
        self.clip.unwrap_or_else(|| calibration.clip_of_range(self.range.absmax()))
    }
}
