//! Groups that have a scale of their own: channels, and blocks of a row.
//!
//! A tile of up to sixteen groups is read twice while it is in the nearest cache: for
//! their absmaxes, of which all the scales are made at once, and for what is done by them.

use super::dispatch::{Kernel, run};
use super::error::{self, BLOCK, Pass, RUN};
use super::lanes::{Element, LANES, Lanes, Narrow, Steps, by_single, map, narrow_bf16, zip};
use super::level::Level;
use super::levels::{Seen, Watch};
use super::moments::range;
use super::quantize;
use super::rounding::{Divisors, Grid, IntegersHalfAway, IntegersHalfEven, by_grid, is_ordinary};
use super::{Quantization, QuantizationType, Rounding};
use crate::quantization::{ErrorSums, Groups, stored_scale};
use crate::tensor::FloatType;
use std::iter::Peekable;

/// How elements in storage order are divided: into rows, and each of those into groups.
/// The last group of a row, and the last row, may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Elements of a row; groups never cross its end.
    pub row: usize,
    /// Elements of a group. 0 counts as 1, in both.
    pub group: usize,
}

impl Layout {
    /// Groups of equal length, one after another.
    pub fn consecutive(group: usize) -> Layout {
        Layout { row: group, group }
    }

    /// The slices of the groups, and for each whether it starts a row.
    fn slices(self, bytes: &[u8], size: usize) -> impl Iterator<Item = (bool, &[u8])> {
        let row = self.row.max(1).saturating_mul(size);
        let group = self.group.max(1).saturating_mul(size);
        bytes[..bytes.len() / size * size]
            .chunks(row)
            .flat_map(move |row| row.chunks(group).enumerate().map(|(i, group)| (i == 0, group)))
    }
}

impl From<Groups> for Layout {
    fn from(groups: Groups) -> Layout {
        let narrow = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Layout { row: narrow(groups.row_len()), group: narrow(groups.group_len()) }
    }
}

/// How every group is quantized, by the scale of its own absmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupQuantization {
    pub qtype: QuantizationType,
    pub rounding: Rounding,
    /// The type the scales are stored in, and so rounded to before they are used; F64
    /// stands for F32.
    pub scale_type: FloatType,
}

/// A group whose absmax has no scale: beyond f32, or beyond what the scale's type holds.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a magnitude of {absmax:e} is beyond what a scale can hold")]
pub struct NoScale {
    pub absmax: f64,
}

/// The largest magnitude of each group; stops at the shorter of the two. NaN is ignored.
pub fn group_absmax(dtype: FloatType, bytes: &[u8], layout: Layout, out: &mut [f64]) {
    run(AbsmaxOf { dtype, bytes, layout, out })
}

/// What quantizing every group by its own scale loses, all groups together. The elements
/// must be finite.
pub fn group_error(
    dtype: FloatType,
    bytes: &[u8],
    layout: Layout,
    how: GroupQuantization,
) -> Result<ErrorSums, NoScale> {
    group_error_after(dtype, bytes, layout, how, &mut Seen::default())
}

/// The same after other elements, whose levels were `seen`; they are among the sums' levels.
pub fn group_error_after(
    dtype: FloatType,
    bytes: &[u8],
    layout: Layout,
    how: GroupQuantization,
    seen: &mut Seen,
) -> Result<ErrorSums, NoScale> {
    let [sums, ..] = group_errors(dtype, bytes, layout, how, 1, seen)?;
    Ok(sums)
}

/// What blocks of 32, 64 and 128 elements of a row lose, in one sweep. The elements must
/// be finite; `row` is their number in a row.
pub fn block_errors(
    dtype: FloatType,
    bytes: &[u8],
    row: usize,
    how: GroupQuantization,
) -> Result<[ErrorSums; 3], NoScale> {
    block_errors_after(dtype, bytes, row, how, &mut Seen::default())
}

/// The same after other elements, whose levels were `seen`; they are among the sums' levels.
pub fn block_errors_after(
    dtype: FloatType,
    bytes: &[u8],
    row: usize,
    how: GroupQuantization,
    seen: &mut Seen,
) -> Result<[ErrorSums; 3], NoScale> {
    group_errors(dtype, bytes, Layout { row, group: 32 }, how, NESTINGS, seen)
}

fn group_errors(
    dtype: FloatType,
    bytes: &[u8],
    layout: Layout,
    how: GroupQuantization,
    nestings: usize,
    seen: &mut Seen,
) -> Result<[ErrorSums; NESTINGS], NoScale> {
    let watches = &mut seen.0;
    by_grid!(how.qtype, how.rounding, |grid| {
        run(GroupErrorsOf { dtype, bytes, layout, how, grid, nestings, watches })
    })
}

/// Quantizes every group to −127 … 127 by its own scale, and gives the scales; stops where
/// `scales` or `values` end. The elements must be finite.
pub fn group_quantize(
    dtype: FloatType,
    bytes: &[u8],
    layout: Layout,
    rounding: Rounding,
    scale_type: FloatType,
    scales: &mut [f32],
    values: &mut [i8],
) -> Result<(), NoScale> {
    let how = GroupQuantization { qtype: QuantizationType::QInt8, rounding, scale_type };
    match rounding {
        Rounding::HalfEven => {
            let grid = IntegersHalfEven;
            run(GroupQuantizeTo { dtype, bytes, layout, how, grid, scales, values })
        }
        Rounding::HalfAway => {
            let grid = IntegersHalfAway;
            run(GroupQuantizeTo { dtype, bytes, layout, how, grid, scales, values })
        }
    }
}

pub(super) struct AbsmaxOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: Layout,
    pub out: &'a mut [f64],
}

impl Kernel for AbsmaxOf<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let AbsmaxOf { dtype, bytes, layout, out } = self;
        let done = by_single!(dtype, E => {
            for ((_, group), out) in layout.slices(bytes, E::SIZE).zip(&mut *out) {
                *out = absmax_of::<E, L>(level, group).into();
            }
        });
        if done.is_none() {
            for ((_, group), out) in layout.slices(bytes, dtype.size()).zip(out) {
                *out = range(dtype, group).absmax();
            }
        }
    }
}

#[inline(always)]
fn absmax_of<E: Narrow, L: Level>(level: L, group: &[u8]) -> f32 {
    let mut most = level.splat(0.0);
    let steps = Steps::<E>::of(group);
    for i in 0..steps.len() {
        // The second operand is kept where the first is NaN.
        most = level.max(level.abs(E::load(level, steps.at(i))), most);
    }
    level.largest(most)
}

/// Up to [`LANES`] groups; those that are empty hold a place.
struct Tile<'a> {
    groups: Lanes<&'a [u8]>,
    absmax: Lanes<f32>,
}

impl<'a> Tile<'a> {
    /// The next groups, and their absmaxes; `None` after the last. A row starts at a
    /// multiple of `align`. A few large groups fill a tile too.
    #[inline(always)]
    fn next<E: Narrow, L: Level>(
        level: L,
        groups: &mut Peekable<impl Iterator<Item = (bool, &'a [u8])>>,
        align: usize,
    ) -> Option<Tile<'a>> {
        groups.peek()?;
        let mut tile = Tile { groups: [[].as_slice(); LANES], absmax: [0.0; LANES] };
        let (mut lane, mut bytes) = (0usize, 0);
        while let Some(&(starts_row, group)) = groups.peek() {
            lane = if starts_row { lane.next_multiple_of(align) } else { lane };
            if lane >= LANES || bytes >= BLOCK * E::SIZE {
                break;
            }
            tile.groups[lane] = group;
            tile.absmax[lane] = absmax_of::<E, L>(level, group);
            bytes += group.len();
            lane += 1;
            groups.next();
        }
        Some(tile)
    }
}

/// The scales of a tile, and divisors where they are ordinary.
struct Scales {
    stored: Lanes<f32>,
    divisors: Divisors,
    is_ordinary: Lanes<bool>,
}

impl Scales {
    #[inline(always)]
    fn new<L: Level>(level: L, absmax: Lanes<f32>, how: &GroupQuantization) -> Scales {
        let scales = map(absmax, |absmax| absmax / how.qtype.max());
        let stored = match how.scale_type {
            FloatType::F64 | FloatType::F32 => scales,
            FloatType::F16 => level.widen_f16(level.narrow_f16(scales)),
            FloatType::BF16 => map(narrow_bf16(scales), |bits| f32::from_bits(bits << 16)),
        };
        // All zeros may be divided by anything.
        let divided_by = zip(stored, absmax, |s, a| if a == 0.0 { 1.0 } else { s });
        Scales {
            stored,
            divisors: Divisors::new(level, divided_by, how.qtype.max()),
            is_ordinary: map(divided_by, is_ordinary),
        }
    }
}

/// How one group is quantized that needs care.
#[cold]
fn careful(absmax: f64, how: &GroupQuantization) -> Result<Quantization, NoScale> {
    let GroupQuantization { qtype, rounding, scale_type } = *how;
    let scale = stored_scale(absmax, qtype.max(), scale_type).ok_or(NoScale { absmax })?;
    Ok(Quantization { scale, qtype, rounding })
}

/// Blocks of 32, of 64 and of 128.
const NESTINGS: usize = 3;

/// Errors of groups; then, if asked for, of pairs of them within a row, and of fours.
pub(super) struct GroupErrorsOf<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: Layout,
    pub how: GroupQuantization,
    /// That of `how`.
    pub grid: G,
    pub nestings: usize,
    /// The levels that were seen before, for each nesting.
    pub watches: &'a mut [Watch; NESTINGS],
}

impl<G: Grid> Kernel for GroupErrorsOf<'_, G> {
    type Output = Result<[ErrorSums; NESTINGS], NoScale>;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(mut self, level: L) -> Self::Output {
        let sums = by_single!(self.dtype, E => self.sweep::<E, L>(level));
        sums.unwrap_or_else(|| self.careful())
    }
}

impl<G: Grid> GroupErrorsOf<'_, G> {
    #[inline(always)]
    fn sweep<E: Narrow, L: Level>(&mut self, level: L) -> Result<[ErrorSums; NESTINGS], NoScale> {
        let &mut GroupErrorsOf { dtype, bytes, layout, ref how, grid, nestings, .. } = self;
        let nestings = nestings.clamp(1, NESTINGS);
        let mut passes = self.watches.map(|watch| Pass::after(level, watch));
        let mut careful_sums = [ErrorSums::default(); NESTINGS];
        let mut groups = layout.slices(bytes, E::SIZE).peekable();
        while let Some(tile) = Tile::next::<E, L>(level, &mut groups, 1 << (nestings - 1)) {
            let mut absmax = tile.absmax;
            for nesting in 0..nestings {
                let pass = &mut passes[nesting];
                if nesting > 0 {
                    // Each lane gets the absmax of the pair, then the four, it is part of.
                    let own = absmax;
                    for lane in 0..LANES {
                        absmax[lane] = own[lane].max(own[lane ^ nesting]);
                    }
                }
                let scales = Scales::new(level, absmax, how);
                let mut unseen = level.u32s([0; LANES]);
                for (lane, group) in tile.groups.into_iter().enumerate() {
                    if !scales.is_ordinary[lane] {
                        let how = careful(absmax[lane].into(), how)?;
                        careful_sums[nesting].merge(&error::careful(dtype, group, &how));
                        continue;
                    }
                    let divisor = scales.divisors.at(lane);
                    for run in group.chunks(RUN * E::SIZE) {
                        unseen = level.or(unseen, pass.run::<E, G>(grid, run, &divisor));
                        pass.end_full_block();
                    }
                }
                if level.any_bit0(unseen) {
                    for (lane, group) in tile.groups.into_iter().enumerate() {
                        if scales.is_ordinary[lane] {
                            let divisor = scales.divisors.at(lane);
                            pass.see::<E, G>(grid, group, &divisor);
                        }
                    }
                }
            }
        }
        *self.watches = passes.map(|pass| pass.watch);
        let mut sums = passes.map(Pass::finish);
        for (sums, careful) in sums.iter_mut().zip(&careful_sums) {
            sums.merge(careful);
        }
        Ok(sums)
    }

    /// The same for any type, group by group.
    fn careful(&self) -> Result<[ErrorSums; NESTINGS], NoScale> {
        let mut sums = [ErrorSums::default(); NESTINGS];
        for (nesting, sums) in sums.iter_mut().enumerate().take(self.nestings) {
            let layout = Layout { group: self.layout.group << nesting, ..self.layout };
            for (_, group) in layout.slices(self.bytes, self.dtype.size()) {
                let how = careful(range(self.dtype, group).absmax(), &self.how)?;
                sums.merge(&error::careful(self.dtype, group, &how));
            }
        }
        Ok(sums)
    }
}

pub(super) struct GroupQuantizeTo<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: Layout,
    pub how: GroupQuantization,
    /// That of `how`.
    pub grid: G,
    pub scales: &'a mut [f32],
    pub values: &'a mut [i8],
}

impl<G: Grid> Kernel for GroupQuantizeTo<'_, G> {
    type Output = Result<(), NoScale>;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(mut self, level: L) -> Self::Output {
        let done = by_single!(self.dtype, E => self.sweep::<E, L>(level));
        done.unwrap_or_else(|| self.careful())
    }
}

impl<G: Grid> GroupQuantizeTo<'_, G> {
    #[inline(always)]
    fn sweep<E: Narrow, L: Level>(&mut self, level: L) -> Result<(), NoScale> {
        let mut groups = self.layout.slices(self.bytes, E::SIZE).peekable();
        let mut scales = self.scales.iter_mut();
        let mut values = &mut *self.values;
        while let Some(tile) = Tile::next::<E, L>(level, &mut groups, 1) {
            let made = Scales::new(level, tile.absmax, &self.how);
            for (lane, group) in tile.groups.into_iter().enumerate() {
                if group.is_empty() {
                    break;
                }
                let Some(scale) = scales.next() else { return Ok(()) };
                let out = take(&mut values, group.len() / E::SIZE);
                let absmax = tile.absmax[lane];
                if made.is_ordinary[lane] && absmax != 0.0 {
                    *scale = made.stored[lane];
                    let divisor = made.divisors.at(lane);
                    quantize::group::<E, L, G>(level, self.grid, group, &divisor, out);
                } else {
                    let how = careful(absmax.into(), &self.how)?;
                    *scale = how.scale;
                    quantize::careful(self.dtype, group, &how, out);
                }
            }
        }
        Ok(())
    }

    /// The same for any type, group by group.
    fn careful(&mut self) -> Result<(), NoScale> {
        let groups = self.layout.slices(self.bytes, self.dtype.size());
        let mut values = &mut *self.values;
        for ((_, group), scale) in groups.zip(&mut *self.scales) {
            let how = careful(range(self.dtype, group).absmax(), &self.how)?;
            *scale = how.scale;
            let out = take(&mut values, group.len() / self.dtype.size());
            quantize::careful(self.dtype, group, &how, out);
        }
        Ok(())
    }
}

/// The first `count` values, or all there are, split off.
fn take<'a>(values: &mut &'a mut [i8], count: usize) -> &'a mut [i8] {
    values.split_off_mut(..count.min(values.len())).unwrap_or_default()
}
