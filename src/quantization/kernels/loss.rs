//! Kernels that compute only signal and noise power, in two thirds of the time that all error sums
//! take.
//!
//! They support int8 and int4 rounded half to even. Other types and roundings use the kernels for
//! all error sums.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, PAIR, fold, zip};
use crate::quantization::kernels::channel_sums::ChannelBounds;
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Narrow, by_single};
use crate::quantization::kernels::error::{BLOCK_ELEMENTS, error_by_channel, split_block};
use crate::quantization::kernels::group::{
    GroupDetail, GroupErrors, GroupLayout, GroupNotes, GroupQuantization, NESTINGS, ScaleOverflow,
    Tile, TileScales, block_errors, group_error, paired,
};
use crate::quantization::kernels::level_tracker::SeenLevels;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{
    ByDoubleReciprocal, ByReciprocal, Clamped, ClampedByReciprocal, Division, Divisor, Unclamped,
    is_ordinary,
};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::quantization::loss::Loss;
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scales::Scales;
use crate::quantization::scheme::Rounding;
use crate::tensor::FloatType;

/// The scales and losses of groups.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupLosses {
    /// The loss over all groups, each quantized by its own scale.
    pub loss: Loss,
    pub scales: Scales,
    /// The loss of each channel, if channels are needed. The first and the last channel may be
    /// incomplete.
    pub channels: Vec<Loss>,
}

impl From<GroupErrors> for GroupLosses {
    fn from(found: GroupErrors) -> GroupLosses {
        let GroupErrors { sums, scales, channels } = found;
        GroupLosses { loss: Loss::from(&sums), scales, channels }
    }
}

/// The loss of quantizing elements by one scale, and of each output channel if there are
/// `bounds`. The elements must be finite.
pub(crate) fn loss_by_channel(
    dtype: FloatType,
    bytes: &[u8],
    params: Quantization,
    bounds: Option<ChannelBounds>,
) -> (Loss, Vec<Loss>) {
    let swept = if is_swept(params.qtype, params.rounding) && is_ordinary(params.scale) {
        run(LossOf { dtype, bytes, params, bounds })
    } else {
        None
    };
    match swept {
        // The squares of extremely large elements overflow f32.
        Some(found) if found.0.signal.is_finite() && found.0.noise.is_finite() => found,
        _ => {
            let seen = &mut SeenLevels::default();
            let (sums, channels) = error_by_channel(dtype, bytes, params, bounds, seen);
            (Loss::from(&sums), channels)
        }
    }
}

/// Calibrates every group by min-max and measures its loss. The elements must be finite.
///
/// # Errors
///
/// If the scale of a group does not fit its type.
pub(crate) fn group_loss(
    dtype: FloatType,
    bytes: &[u8],
    layout: GroupLayout,
    params: GroupQuantization,
    detail: GroupDetail,
) -> Result<GroupLosses, ScaleOverflow> {
    if is_swept(params.qtype, params.rounding)
        && let Some(found) = run(GroupLossesOf::<1> { dtype, bytes, layout, params, detail })
    {
        let [found] = found?;
        return Ok(found);
    }
    group_error(dtype, bytes, layout, params, detail).map(GroupLosses::from)
}

/// [`group_loss`] for blocks of 32, 64 and 128 elements in one sweep. `row` is the number of
/// elements in a row. The elements must be finite.
///
/// # Errors
///
/// If the scale of a block does not fit its type.
pub(crate) fn block_losses(
    dtype: FloatType,
    bytes: &[u8],
    row: usize,
    params: GroupQuantization,
    detail: GroupDetail,
) -> Result<[GroupLosses; NESTINGS], ScaleOverflow> {
    let layout = GroupLayout { row, group: 32 };
    if is_swept(params.qtype, params.rounding)
        && let Some(found) = run(GroupLossesOf::<NESTINGS> { dtype, bytes, layout, params, detail })
    {
        return found;
    }
    Ok(block_errors(dtype, bytes, row, params, detail)?.map(GroupLosses::from))
}

/// Returns whether the sweeps in this file support the type and rounding.
fn is_swept(qtype: QuantizationType, rounding: Rounding) -> bool {
    let is_integer = matches!(qtype, QuantizationType::QInt8 | QuantizationType::QInt4);
    is_integer && rounding == Rounding::HalfEven
}

/// The loss of elements that share one scale; `None` for F64.
pub(super) struct LossOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub params: Quantization,
    pub bounds: Option<ChannelBounds>,
}

impl Kernel for LossOf<'_> {
    type Output = Option<(Loss, Vec<Loss>)>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        by_single!(self.dtype, E => {
            let qmax = self.params.qtype.max();
            let divisor = Divisor::new(simd, self.params.scale, qmax);
            if E::reciprocal_rounds_alike(simd, &divisor, qmax) {
                self.sweep::<E, S, ClampedByReciprocal>(simd, divisor)
            } else {
                self.sweep::<E, S, Clamped>(simd, divisor)
            }
        })
    }
}

impl LossOf<'_> {
    #[inline(always)]
    fn sweep<E: Narrow, S: Simd, D: Division>(
        &self,
        simd: S,
        divisor: Divisor,
    ) -> (Loss, Vec<Loss>) {
        let mut pass = LossPass::<S, 1>::new(simd);
        let bounds = self.bounds.unwrap_or(ChannelBounds::NONE);
        let mut channels = Vec::new();
        for channel in bounds.slices(self.bytes, E::SIZE) {
            pass.group::<E, D>(channel, &[divisor]);
            let [loss] = pass.end_channel();
            channels.push(loss);
        }
        let [loss] = pass.finish();
        (loss, if self.bounds.is_some() { channels } else { Vec::new() })
    }
}

/// The losses of groups with their own scales and, for three nestings, of two and of four
/// adjacent groups of a row as one group. `None` for F64, and for scales stored in 16 bits.
pub(super) struct GroupLossesOf<'a, const N: usize> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: GroupLayout,
    pub params: GroupQuantization,
    pub detail: GroupDetail,
}

impl<const N: usize> Kernel for GroupLossesOf<'_, N> {
    type Output = Option<Result<[GroupLosses; N], ScaleOverflow>>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        // With a rounded scale, an element may lie beyond the last level and need clamping.
        if !matches!(self.params.scale_type, FloatType::F32 | FloatType::F64) {
            return None;
        }
        by_single!(self.dtype, E => {
            if E::SIGNIFICANT_BITS == 8 && self.params.qtype == QuantizationType::QInt8 {
                self.sweep::<E, S, ByReciprocal>(simd)
            } else if E::SIGNIFICANT_BITS <= 11 {
                self.sweep::<E, S, ByDoubleReciprocal>(simd)
            } else {
                self.sweep::<E, S, Unclamped>(simd)
            }
        })
    }
}

impl<const N: usize> GroupLossesOf<'_, N> {
    #[inline(always)]
    fn sweep<E: Narrow, S: Simd, D: Division>(
        &self,
        simd: S,
    ) -> Result<[GroupLosses; N], ScaleOverflow> {
        let GroupLossesOf { dtype, bytes, layout, params, detail } = *self;
        let mut pass = LossPass::<S, N>::new(simd);
        let mut notes = [(); N].map(|()| GroupNotes::new(&detail));
        let mut tiles = layout.tiles::<E>(bytes);
        // The scales of the next tile are computed while this one is processed.
        let [a, b] = &mut [[TileScales::EMPTY; N]; 2];
        let (mut made, mut ahead) = (a, b);
        let mut next = tiles.next(simd, 1 << (N - 1));
        let mut next_are_plain = make_all::<E, S, D, N>(simd, &next, &params, ahead);
        while let Some(tile) = next {
            std::mem::swap(&mut made, &mut ahead);
            let are_plain = next_are_plain;
            next = tiles.next(simd, 1 << (N - 1));
            next_are_plain = make_all::<E, S, D, N>(simd, &next, &params, ahead);
            if let Some(blocks) = tile.blocks()
                && are_plain
                && !notes[0].channel_sums.ends_within(tile.elements)
            {
                let mut ends = false;
                for (nesting, (notes, made)) in notes.iter_mut().zip(&*made).enumerate() {
                    ends = notes.take_plain(simd, &tile, made, nesting);
                }
                pass.blocks::<E, D>(blocks, made);
                if ends {
                    pass.end_channel_in(&mut notes);
                }
                continue;
            }
            let mut from = 0;
            while from < LANES {
                let (mut to, mut ends) = (LANES, false);
                for (nesting, (notes, made)) in notes.iter_mut().zip(&*made).enumerate() {
                    // All nestings return the same values, because they have the same lanes and
                    // channels.
                    (to, ends) = notes.take(simd, &tile, from, made, nesting, (dtype, &params))?;
                }
                for lane in from..to {
                    if made.iter().all(|made| made.is_ordinary[lane]) {
                        pass.group::<E, D>(tile.group(lane), &at(made, lane));
                    }
                }
                if ends {
                    pass.end_channel_in(&mut notes);
                }
                from = to;
            }
        }
        let mut rest = pass.end_channel().into_iter();
        let mut all = pass.finish().into_iter();
        Ok(notes.map(|notes| {
            let GroupNotes { channel_sums, scales, scalar_sums } = notes;
            let mut loss = all.next().unwrap_or_default();
            loss.merge(&Loss::from(&scalar_sums));
            GroupLosses {
                loss,
                scales,
                channels: channel_sums.finish(rest.next().unwrap_or_default()),
            }
        }))
    }
}

/// Computes the scales of a tile for every nesting. Returns whether all of them are plain.
#[inline(always)]
fn make_all<E: Narrow, S: Simd, D: Division, const N: usize>(
    simd: S,
    tile: &Option<Tile<E>>,
    params: &GroupQuantization,
    made: &mut [TileScales; N],
) -> bool {
    let Some(tile) = tile else { return false };
    let mut absmax = simd.f32s(tile.absmax);
    let mut are_plain = true;
    // A closure would not be compiled with the caller's target features.
    for (nesting, made) in made.iter_mut().enumerate() {
        absmax = paired(simd, absmax, nesting);
        made.make::<S, D>(simd, absmax, params);
        are_plain &= made.are_plain;
    }
    if !are_plain {
        // A group whose scale is not ordinary in one nesting is handled by scalar code in all.
        let mut ordinary = [true; LANES];
        for made in &*made {
            ordinary = zip(ordinary, made.is_ordinary, |all, is| all & is);
        }
        for made in made {
            made.is_ordinary = ordinary;
        }
    }
    are_plain
}

/// The divisors of a lane, one for each nesting.
#[inline(always)]
fn at<const N: usize>(made: &[TileScales; N], lane: usize) -> [Divisor; N] {
    let mut divisors = [Divisor::ZEROING; N];
    for (divisor, made) in divisors.iter_mut().zip(made) {
        *divisor = made.divisors.at(lane);
    }
    divisors
}

/// A sweep over elements that are quantized by `N` scales each.
#[derive(Clone, Copy)]
struct LossPass<S: Simd, const N: usize> {
    simd: S,
    signal: S::F32,
    noise: [S::F32; N],
    /// Number of elements in the f32 sums.
    filled: usize,
    /// The sums of the completed blocks of the current channel.
    signal_before: S::F64,
    noise_before: [S::F64; N],
    /// The losses of all channels that have ended.
    ended: [Loss; N],
}

impl<S: Simd, const N: usize> LossPass<S, N> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        LossPass {
            simd,
            signal: simd.splat(0.0),
            noise: [simd.splat(0.0); N],
            filled: 0,
            signal_before: simd.zero_f64(),
            noise_before: [simd.zero_f64(); N],
            ended: [Loss::default(); N],
        }
    }

    /// Adds a group that is divided by `divisors`.
    #[inline(always)]
    fn group<E: Narrow, D: Division>(&mut self, group: &[u8], divisors: &[Divisor; N]) {
        let simd = self.simd;
        let mut left = group;
        while !left.is_empty() {
            let run;
            (run, left) = split_block(left, self.filled, E::SIZE);
            let (mut signal, mut noise) = (self.signal, self.noise);
            let (whole, tail) = E::split(run);
            let (pairs, odd) = whole.as_chunks::<2>();
            for raw in pairs {
                for x in E::load_pair(simd, raw) {
                    step::<S, D, N>(simd, x, divisors, &mut signal, &mut noise);
                }
            }
            for raw in odd {
                step::<S, D, N>(simd, E::load(simd, raw), divisors, &mut signal, &mut noise);
            }
            if !tail.is_empty() {
                let x = E::load(simd, &E::pad(tail));
                step::<S, D, N>(simd, x, divisors, &mut signal, &mut noise);
            }
            (self.signal, self.noise) = (signal, noise);
            self.filled += run.len() / E::SIZE;
            if self.filled >= BLOCK_ELEMENTS {
                self.end_block();
            }
        }
    }

    /// Adds a tile of blocks with their scales.
    #[inline(always)]
    fn blocks<E: Narrow, D: Division>(
        &mut self,
        blocks: &Lanes<[E::Raw; 2]>,
        made: &[TileScales; N],
    ) {
        let simd = self.simd;
        let (mut signal, mut noise) = (self.signal, self.noise);
        for (lane, block) in blocks.iter().enumerate() {
            let divisors = at(made, lane);
            for x in E::load_pair(simd, block) {
                step::<S, D, N>(simd, x, &divisors, &mut signal, &mut noise);
            }
        }
        (self.signal, self.noise) = (signal, noise);
        self.filled += LANES * PAIR;
        if self.filled >= BLOCK_ELEMENTS {
            self.end_block();
        }
    }

    #[inline(always)]
    fn end_block(&mut self) {
        let simd = self.simd;
        self.signal_before = simd.add_f64(self.signal_before, simd.widen(self.signal));
        self.signal = simd.splat(0.0);
        for (before, noise) in self.noise_before.iter_mut().zip(&mut self.noise) {
            *before = simd.add_f64(*before, simd.widen(*noise));
            *noise = simd.splat(0.0);
        }
        self.filled = 0;
    }

    /// Ends a channel in every nesting.
    #[inline(always)]
    fn end_channel_in(&mut self, notes: &mut [GroupNotes; N]) {
        for (notes, loss) in notes.iter_mut().zip(self.end_channel()) {
            notes.channel_sums.end(loss);
        }
    }

    /// Ends a channel; returns the loss of the elements since the last channel ended.
    #[inline(always)]
    fn end_channel(&mut self) -> [Loss; N] {
        self.end_block();
        let simd = self.simd;
        let sum = |lanes| fold(simd.array_f64(lanes), |a, b| a + b);
        let signal = sum(self.signal_before);
        let losses = self.noise_before.map(|noise| Loss { signal, noise: sum(noise) });
        for (all, loss) in self.ended.iter_mut().zip(&losses) {
            all.merge(loss);
        }
        (self.signal_before, self.noise_before) = (simd.zero_f64(), [simd.zero_f64(); N]);
        losses
    }

    #[inline(always)]
    fn finish(mut self) -> [Loss; N] {
        self.end_channel();
        self.ended
    }
}

#[inline(always)]
fn step<S: Simd, D: Division, const N: usize>(
    simd: S,
    x: S::F32,
    divisors: &[Divisor; N],
    signal: &mut S::F32,
    noise: &mut [S::F32; N],
) {
    *signal = simd.mul_add(x, x, *signal);
    for (noise, divisor) in noise.iter_mut().zip(divisors) {
        let q = simd.round_even(D::quotient(simd, x, divisor));
        let d = simd.sub(x, simd.mul(simd.splat(divisor.scale), q));
        *noise = simd.mul_add(d, d, *noise);
    }
}
