//! Groups that are longer than a chunk: what is found out about them pass after pass.
//!
//! The first pass over a tensor gives their ranges. A calibration may need more passes to
//! find their clips: one for each sixteen bits of the elements to find a percentile, one
//! to find the least error. The last pass measures what quantizing by those clips loses.

use crate::quantization::analysis::single_pass::Run;
use crate::quantization::analysis::value_histogram::merged;
use crate::quantization::calibration::{least, percentile_rank};
use crate::quantization::clipping::{nth_clip, or_absmax, trials};
use crate::quantization::kernels::{self, Quantization, SeenByAll};
use crate::quantization::{
    Calibration, ChannelErrors, ErrorSums, GroupQuantizers, Groups, Loss, Moments, NotQuantizable,
    Quantizer, Range, Rounding,
};
use crate::tensor::FloatType;

/// What is asked, and of what elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'l> {
    pub quantizers: GroupQuantizers<'l>,
    pub rounding: Rounding,
    pub dtype: FloatType,
}

/// Groups that go on from chunk to chunk, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    groups: Vec<Group>,
    /// The levels seen in the chunks so far.
    seen: SeenByAll,
    pub error: Option<ErrorSums>,
    pub loss: Option<Loss>,
    pub channels: Option<ChannelErrors>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    range: Range,
    search: Search,
    /// The clip that a search found.
    clip: Option<f64>,
}

/// A percentile's bits so far, and its rank among the magnitudes that begin with them.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    prefix: u64,
    rank: u64,
}

/// What a pass after the first finds in a chunk, or in all chunks so far; groups in order,
/// each once.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    /// How many magnitudes go on with which sixteen bits.
    Digits(Vec<(u64, Vec<(u16, u64)>)>),
    /// The squared errors of the clips that are tried.
    Trials(Vec<(u64, Vec<f64>)>),
    /// What all groups lose, and each output channel if that is asked.
    Error(ErrorSums, Vec<(u64, Loss)>),
    /// The same where only that much is asked.
    Loss(Loss, Vec<(u64, Loss)>),
}

/// What the last pass is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Loss,
    Error,
}

impl Found {
    /// The moments of `count` elements, without their range, where they were found too.
    pub(super) fn moments(&self, count: u64) -> Option<Moments> {
        match *self {
            Found::Error(ref sums, _) if sums.count == count => Some(sums.moments()),
            _ => None,
        }
    }

    /// No more than the losses of it.
    pub(super) fn losses(self) -> Found {
        match self {
            Found::Error(sums, channels) => Found::Loss(Loss::from(&sums), channels),
            other => other,
        }
    }

    /// Adds what was found in the next chunk.
    pub(super) fn merge(&mut self, next: Found) {
        match (self, next) {
            (nothing @ Found::Nothing, next) => *nothing = next,
            (Found::Digits(all), Found::Digits(more)) => {
                extend(all, more, |sum, next| *sum = merged(std::mem::take(sum), next));
            }
            (Found::Trials(all), Found::Trials(more)) => {
                let add = |(sum, next): (&mut f64, f64)| *sum += next;
                extend(all, more, |sums, next| sums.iter_mut().zip(next).for_each(add));
            }
            (Found::Error(sums, channels), Found::Error(next, more)) => {
                sums.merge(&next);
                channels.extend(more);
            }
            (Found::Loss(loss, channels), Found::Loss(next, more)) => {
                loss.merge(&next);
                channels.extend(more);
            }
            _ => {}
        }
    }
}

/// Appends a list of groups to one whose last group may go on in it.
fn extend<T>(all: &mut Vec<(u64, T)>, more: Vec<(u64, T)>, add: impl Fn(&mut T, T)) {
    for (group, next) in more {
        match all.last_mut() {
            Some((last, sum)) if *last == group => add(sum, next),
            _ => all.push((group, next)),
        }
    }
}

impl Asked<'_> {
    pub(super) fn quantizer(&self) -> Quantizer {
        self.quantizers.quantizer()
    }

    /// Passes after the first.
    pub(super) fn passes(&self, errors: bool) -> u64 {
        self.searches() + u64::from(errors)
    }

    fn searches(&self) -> u64 {
        match self.quantizer().calibration {
            Calibration::MinMax
            | Calibration::Clip(_)
            | Calibration::Magnitude(_)
            | Calibration::Learned => 0,
            Calibration::Percentile(_) => self.digits(),
            Calibration::Mse => 1,
        }
    }

    fn digits(&self) -> u64 {
        self.dtype.size() as u64 / 2
    }

    /// The clip and the scale of a group, whose finite elements are `bytes`.
    pub(super) fn scale(&self, group: u64, bytes: &[u8]) -> Result<(f64, f32), NotQuantizable> {
        let quantizer = self.quantizers.of(group);
        let clip = quantizer.clip_of(self.dtype, bytes, self.rounding)?;
        Ok((clip, quantizer.scale_for(clip, FloatType::F32)?))
    }

    pub(super) fn how(&self, scale: f32) -> Quantization {
        let qtype = self.quantizer().scheme.quantization_type();
        Quantization { scale, qtype, rounding: self.rounding }
    }
}

impl Spread {
    pub(super) fn new(channels: Option<ChannelErrors>) -> Spread {
        Spread { channels, ..Spread::default() }
    }

    /// Adds the ranges of the groups in the next chunk.
    pub(super) fn calibrate(&mut self, ranges: Vec<(u64, Range)>) {
        for (group, range) in ranges {
            // Groups come without a gap, from 0.
            match self.groups.get_mut(group as usize) {
                Some(known) => known.range.merge(&range),
                None => self.groups.push(Group { range, ..Group::default() }),
            }
        }
    }

    /// The clip of every group.
    pub(super) fn clips(&self, asked: &Asked) -> impl Iterator<Item = f64> {
        let quantizers = asked.quantizers;
        let numbered = (0..).zip(&self.groups);
        numbered.map(move |(g, group)| group.clip(quantizers.of(g).calibration))
    }

    /// Prepares for the pass after the first.
    pub(super) fn begin(&mut self, asked: &Asked) {
        if let Calibration::Percentile(percent) = asked.quantizer().calibration {
            for group in &mut self.groups {
                group.search.rank = percentile_rank(percent, group.range.finite());
            }
        }
    }

    /// Looks at a chunk's parts of groups in a pass after the first, counted from 1.
    pub(super) fn look<'b>(
        &self,
        asked: &Asked,
        pass: u64,
        channels: Option<&Groups>,
        wanted: Wanted,
        segments: impl Iterator<Item = (u64, Run<'b>)>,
    ) -> Found {
        let dtype = asked.dtype;
        let groups =
            segments.filter_map(|(g, bytes)| Some((g, self.groups.get(g as usize)?, bytes)));
        if pass > asked.searches() {
            let (mut sums, mut loss, mut of_channels) =
                (ErrorSums::default(), Loss::default(), Vec::new());
            let mut seen = self.seen.get();
            for (g, group, run) in groups {
                let quantizer = asked.quantizers.of(g);
                let clip = group.clip(quantizer.calibration);
                let Ok(scale) = quantizer.scale_for(clip, FloatType::F32) else { continue };
                let cuts = channels.map(|channels| run.cuts(channels));
                let how = asked.how(scale);
                let errors = match wanted {
                    Wanted::Loss => {
                        let (lost, errors) = kernels::loss_by_channel(dtype, run.bytes, how, cuts);
                        loss.merge(&lost);
                        errors
                    }
                    Wanted::Error => {
                        let (lost, errors) =
                            kernels::error_by_channel(dtype, run.bytes, how, cuts, &mut seen);
                        sums.merge(&lost);
                        errors
                    }
                };
                of_channels.extend(run.numbered(channels, errors));
            }
            return match wanted {
                Wanted::Loss => Found::Loss(loss, of_channels),
                Wanted::Error => {
                    self.seen.add(&seen);
                    Found::Error(sums, of_channels)
                }
            };
        }
        match asked.quantizer().calibration {
            Calibration::Percentile(_) => {
                let rest = 16 * (asked.digits() - pass) as u32;
                let digits = groups.map(|(g, group, run)| {
                    (g, digits(dtype, run.bytes, group.search.prefix, rest))
                });
                Found::Digits(digits.collect())
            }
            Calibration::Mse => {
                let qtype = asked.quantizer().scheme.quantization_type();
                let noises = groups.map(|(g, group, run)| {
                    let bytes = run.bytes;
                    let noise = trials(group.range.absmax(), qtype, asked.rounding).map(|how| {
                        how.map_or(f64::INFINITY, |how| kernels::error(dtype, bytes, how).noise)
                    });
                    (g, noise.collect())
                });
                Found::Trials(noises.collect())
            }
            Calibration::MinMax
            | Calibration::Clip(_)
            | Calibration::Magnitude(_)
            | Calibration::Learned => Found::Nothing,
        }
    }

    fn close(&mut self, found: Vec<(u64, Loss)>) {
        if let Some(channels) = &mut self.channels {
            found.into_iter().for_each(|(channel, error)| channels.add(channel, error));
            channels.close();
        }
    }

    /// Takes over what a whole pass after the first found.
    pub(super) fn settle(&mut self, asked: &Asked, pass: u64, found: Found) {
        match found {
            Found::Nothing => {}
            Found::Error(sums, found) => {
                self.error = Some(sums);
                self.close(found);
            }
            Found::Loss(loss, found) => {
                self.loss = Some(loss);
                self.close(found);
            }
            Found::Trials(all) => {
                for (group, noises) in all {
                    let Some(group) = self.groups.get_mut(group as usize) else { continue };
                    let place = least(noises.into_iter());
                    group.clip = Some(nth_clip(group.range.absmax(), place));
                }
            }
            Found::Digits(all) => {
                for (group, digits) in all {
                    let Some(group) = self.groups.get_mut(group as usize) else { continue };
                    let digit = group.search.go_on(&digits);
                    if digit.is_some() && pass == asked.digits() {
                        let found = magnitude(asked.dtype, group.search.prefix);
                        group.clip = Some(or_absmax(found, group.range.absmax()));
                    }
                }
            }
        }
    }
}

impl Group {
    /// The clip that was found, or that follows from the range.
    fn clip(&self, calibration: Calibration) -> f64 {
        self.clip.unwrap_or_else(|| calibration.clip_of_range(self.range.absmax()))
    }
}

impl Search {
    /// Goes on to the next sixteen bits; `None` if there are fewer magnitudes than the rank.
    fn go_on(&mut self, digits: &[(u16, u64)]) -> Option<u16> {
        for &(digit, count) in digits {
            if self.rank <= count {
                self.prefix = self.prefix << 16 | u64::from(digit);
                return Some(digit);
            }
            self.rank -= count;
        }
        None
    }
}

/// The elements' magnitudes that begin with the bits `prefix`, counted by the next sixteen,
/// `rest` bits being left behind those.
fn digits(dtype: FloatType, bytes: &[u8], prefix: u64, rest: u32) -> Vec<(u16, u64)> {
    let mut counts = vec![0u32; 1 << 16];
    let size = dtype.size();
    let sign = 1u64 << (8 * size - 1);
    for raw in bytes.chunks_exact(size) {
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(raw);
        let magnitude = u64::from_le_bytes(wide) & !sign;
        if (magnitude >> rest) >> 16 == prefix
            && let Some(count) = counts.get_mut(usize::from((magnitude >> rest) as u16))
        {
            *count += 1;
        }
    }
    let counted = (0..=u16::MAX).zip(counts).filter(|&(_, n)| n > 0);
    counted.map(|(digit, n)| (digit, u64::from(n))).collect()
}

/// The value whose bits these are.
fn magnitude(dtype: FloatType, bits: u64) -> Option<f64> {
    crate::tensor::read_f64(dtype, &bits.to_le_bytes(), 0)
}
