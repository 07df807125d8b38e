//! Σx² and Σ(x−x̂)² alone: two thirds of the work of all error statistics, for schemes that
//! are compared. Int8 and int4, halves to the even; the rest goes the longer way.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, PAIR, fold, zip};
use crate::quantization::kernels::channel_sums::ChannelBounds;
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Narrow, by_single};
use crate::quantization::kernels::error::{BLOCK, error_by_channel, filling_up};
use crate::quantization::kernels::group::{
    GroupDetail, GroupErrors, GroupLayout, GroupNotes, GroupQuantization, NESTINGS, ScaleOverflow,
    Tile, TileScales, block_errors, group_error, paired,
};
use crate::quantization::kernels::kernel::Kernel;
use crate::quantization::kernels::level_tracker::SeenLevels;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{
    ByReciprocal, ByReciprocalInTwo, Clamped, ClampedByReciprocal, Division, Divisor, Within,
    is_ordinary,
};
use crate::quantization::kernels::simd::Level;
use crate::quantization::loss::Loss;
use crate::quantization::scales::Scales;
use crate::quantization::scheme::{QuantizationType, Rounding};
use crate::tensor::FloatType;

/// What groups turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLosses {
    /// What quantizing every group by its own scale loses, all groups together.
    pub loss: Loss,
    pub scales: Scales,
    /// Each channel, or the part of it that was seen, where they are asked for.
    pub channels: Vec<Loss>,
}

impl From<GroupErrors> for GroupLosses {
    fn from(found: GroupErrors) -> GroupLosses {
        let GroupErrors { sums, scales, channels } = found;
        GroupLosses { loss: Loss::from(&sums), scales, channels }
    }
}

/// What quantizing every element by one scale loses, and each output channel where they are
/// cut. The elements must be finite.
pub fn loss_by_channel(
    dtype: FloatType,
    bytes: &[u8],
    params: Quantization,
    bounds: Option<ChannelBounds>,
) -> (Loss, Vec<Loss>) {
    let swept = match is_swept(params.qtype, params.rounding) && is_ordinary(params.scale) {
        true => run(LossOf { dtype, bytes, params, bounds }),
        false => None,
    };
    match swept {
        // Elements beyond all reason have squares beyond f32.
        Some(found) if found.0.signal.is_finite() && found.0.noise.is_finite() => found,
        _ => {
            let seen = &mut SeenLevels::default();
            let (sums, channels) = error_by_channel(dtype, bytes, params, bounds, seen);
            (Loss::from(&sums), channels)
        }
    }
}

/// Calibrates every group and measures what quantizing it loses. The elements must be finite.
pub fn group_loss(
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

/// The same for blocks of 32, of 64 and of 128 elements of a row, in one sweep. The elements
/// must be finite; `row` is their number in a row.
pub fn block_losses(
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

fn is_swept(qtype: QuantizationType, rounding: Rounding) -> bool {
    qtype != QuantizationType::F8E4M3 && rounding == Rounding::HalfEven
}

/// One scale for all elements; `None` for F64.
pub(super) struct LossOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub params: Quantization,
    pub bounds: Option<ChannelBounds>,
}

impl Kernel for LossOf<'_> {
    type Output = Option<(Loss, Vec<Loss>)>;

    #[inline(always)]
    fn run<L: Level>(self, level: L) -> Self::Output {
        by_single!(self.dtype, E => {
            let qmax = self.params.qtype.max();
            let divisor = Divisor::new(level, self.params.scale, qmax);
            match E::reciprocal_will_do(level, &divisor, qmax) {
                true => self.sweep::<E, L, ClampedByReciprocal>(level, divisor),
                false => self.sweep::<E, L, Clamped>(level, divisor),
            }
        })
    }
}

impl LossOf<'_> {
    #[inline(always)]
    fn sweep<E: Narrow, L: Level, D: Division>(&self, l: L, divisor: Divisor) -> (Loss, Vec<Loss>) {
        let mut pass = Pass::<L, 1>::new(l);
        // All in one where nothing is cut.
        let bounds = self.bounds.unwrap_or(ChannelBounds { first: usize::MAX, length: usize::MAX });
        let mut channels = Vec::new();
        for channel in bounds.slices(self.bytes, E::SIZE) {
            pass.group::<E, D>(channel, &[divisor]);
            let [loss] = pass.cut();
            channels.push(loss);
        }
        let [loss] = pass.finish();
        (loss, if self.bounds.is_some() { channels } else { Vec::new() })
    }
}

/// Groups with scales of their own, and for three nestings pairs of them within a row, and
/// fours; `None` for F64, and for scales that are rounded to fewer bits than 32.
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
    fn run<L: Level>(self, level: L) -> Self::Output {
        // An element may be beyond the scale of its group where that was rounded to fewer bits.
        if !matches!(self.params.scale_type, FloatType::F32 | FloatType::F64) {
            return None;
        }
        by_single!(self.dtype, E => {
            if E::SIGNIFICANT_BITS == 8 && self.params.qtype == QuantizationType::QInt8 {
                self.sweep::<E, L, ByReciprocal>(level)
            } else if E::SIGNIFICANT_BITS <= 11 {
                self.sweep::<E, L, ByReciprocalInTwo>(level)
            } else {
                self.sweep::<E, L, Within>(level)
            }
        })
    }
}

impl<const N: usize> GroupLossesOf<'_, N> {
    #[inline(always)]
    fn sweep<E: Narrow, L: Level, D: Division>(
        &self,
        l: L,
    ) -> Result<[GroupLosses; N], ScaleOverflow> {
        let GroupLossesOf { dtype, bytes, layout, params, detail } = *self;
        let mut pass = Pass::<L, N>::new(l);
        let mut notes = [(); N].map(|()| GroupNotes::new(&detail));
        let mut tiles = layout.tiles::<E>(bytes);
        // While a tile is gone through, the scales of the next are made.
        let [a, b] = &mut [[TileScales::NOTHING; N]; 2];
        let (mut made, mut ahead) = (a, b);
        let mut next = tiles.next(l, 1 << (N - 1));
        let mut next_are_plain = make_all::<E, L, D, N>(l, &next, &params, ahead);
        while let Some(tile) = next {
            std::mem::swap(&mut made, &mut ahead);
            let are_plain = next_are_plain;
            next = tiles.next(l, 1 << (N - 1));
            next_are_plain = make_all::<E, L, D, N>(l, &next, &params, ahead);
            if let Some(blocks) = tile.blocks()
                && are_plain
                && !notes[0].channel_sums.ends_within(tile.elements)
            {
                let mut ends = false;
                for (nesting, (notes, made)) in notes.iter_mut().zip(&*made).enumerate() {
                    ends = notes.take_plain(l, &tile, made, nesting);
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
                    // All of them say the same: groups and channels are one and the same.
                    (to, ends) = notes.take(l, &tile, from, made, nesting, (dtype, &params))?;
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
        let mut rest = pass.cut().into_iter();
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

/// Makes the scales of a tile for every nesting; whether all of them are plain.
#[inline(always)]
fn make_all<E: Narrow, L: Level, D: Division, const N: usize>(
    l: L,
    tile: &Option<Tile<E>>,
    params: &GroupQuantization,
    made: &mut [TileScales; N],
) -> bool {
    let Some(tile) = tile else { return false };
    let mut absmax = l.f32s(tile.absmax);
    let mut are_plain = true;
    // A closure would not have the level's instructions.
    for (nesting, made) in made.iter_mut().enumerate() {
        absmax = paired(l, absmax, nesting);
        made.make::<L, D>(l, absmax, params);
        are_plain &= made.are_plain;
    }
    if !are_plain {
        // A group that needs care in one nesting gets it in all.
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

/// The divisors of a lane.
#[inline(always)]
fn at<const N: usize>(made: &[TileScales; N], lane: usize) -> [Divisor; N] {
    let mut divisors = [Divisor::NOTHING; N];
    for (divisor, made) in divisors.iter_mut().zip(made) {
        *divisor = made.divisors.at(lane);
    }
    divisors
}

/// A sweep over elements by `N` scales each.
#[derive(Clone, Copy)]
struct Pass<L: Level, const N: usize> {
    level: L,
    signal: L::F32,
    noise: [L::F32; N],
    /// Elements in the sums in f32.
    filled: usize,
    /// Of the blocks before.
    signal_before: L::F64,
    noise_before: [L::F64; N],
    /// Of the channels that were cut off.
    cut: [Loss; N],
}

impl<L: Level, const N: usize> Pass<L, N> {
    #[inline(always)]
    fn new(l: L) -> Self {
        Pass {
            level: l,
            signal: l.splat(0.0),
            noise: [l.splat(0.0); N],
            filled: 0,
            signal_before: l.zero_f64(),
            noise_before: [l.zero_f64(); N],
            cut: [Loss::default(); N],
        }
    }

    /// Adds a group with its divisors.
    #[inline(always)]
    fn group<E: Narrow, D: Division>(&mut self, group: &[u8], divisors: &[Divisor; N]) {
        let l = self.level;
        let mut left = group;
        while !left.is_empty() {
            let run;
            (run, left) = filling_up(left, self.filled, E::SIZE);
            let (mut signal, mut noise) = (self.signal, self.noise);
            let (whole, tail) = E::split(run);
            let (pairs, odd) = whole.as_chunks::<2>();
            for raw in pairs {
                for x in E::load_pair(l, raw) {
                    step::<L, D, N>(l, x, divisors, &mut signal, &mut noise);
                }
            }
            for raw in odd {
                step::<L, D, N>(l, E::load(l, raw), divisors, &mut signal, &mut noise);
            }
            if !tail.is_empty() {
                let x = E::load(l, &E::pad(tail));
                step::<L, D, N>(l, x, divisors, &mut signal, &mut noise);
            }
            (self.signal, self.noise) = (signal, noise);
            self.filled += run.len() / E::SIZE;
            if self.filled >= BLOCK {
                self.end_block();
            }
        }
    }

    /// Adds the groups of a tile that are a block each.
    #[inline(always)]
    fn blocks<E: Narrow, D: Division>(
        &mut self,
        blocks: &Lanes<[E::Raw; 2]>,
        made: &[TileScales; N],
    ) {
        let l = self.level;
        let (mut signal, mut noise) = (self.signal, self.noise);
        for (lane, block) in blocks.iter().enumerate() {
            let divisors = at(made, lane);
            for x in E::load_pair(l, block) {
                step::<L, D, N>(l, x, &divisors, &mut signal, &mut noise);
            }
        }
        (self.signal, self.noise) = (signal, noise);
        self.filled += LANES * PAIR;
        if self.filled >= BLOCK {
            self.end_block();
        }
    }

    #[inline(always)]
    fn end_block(&mut self) {
        let l = self.level;
        self.signal_before = l.add_f64(self.signal_before, l.widen(self.signal));
        self.signal = l.splat(0.0);
        for (before, noise) in self.noise_before.iter_mut().zip(&mut self.noise) {
            *before = l.add_f64(*before, l.widen(*noise));
            *noise = l.splat(0.0);
        }
        self.filled = 0;
    }

    /// A channel ends in every nesting.
    #[inline(always)]
    fn end_channel_in(&mut self, notes: &mut [GroupNotes; N]) {
        for (notes, loss) in notes.iter_mut().zip(self.cut()) {
            notes.channel_sums.end(loss);
        }
    }

    /// What the elements since the last cut lose.
    #[inline(always)]
    fn cut(&mut self) -> [Loss; N] {
        self.end_block();
        let l = self.level;
        let sum = |lanes| fold(l.array_f64(lanes), |a, b| a + b);
        let signal = sum(self.signal_before);
        let losses = self.noise_before.map(|noise| Loss { signal, noise: sum(noise) });
        for (all, loss) in self.cut.iter_mut().zip(&losses) {
            all.merge(loss);
        }
        (self.signal_before, self.noise_before) = (l.zero_f64(), [l.zero_f64(); N]);
        losses
    }

    #[inline(always)]
    fn finish(mut self) -> [Loss; N] {
        self.cut();
        self.cut
    }
}

#[inline(always)]
fn step<L: Level, D: Division, const N: usize>(
    l: L,
    x: L::F32,
    divisors: &[Divisor; N],
    signal: &mut L::F32,
    noise: &mut [L::F32; N],
) {
    *signal = l.mul_add(x, x, *signal);
    for (noise, divisor) in noise.iter_mut().zip(divisors) {
        let q = l.round_even(D::quotient(l, x, divisor));
        let d = l.sub(x, l.mul(l.splat(divisor.scale), q));
        *noise = l.mul_add(d, d, *noise);
    }
}
