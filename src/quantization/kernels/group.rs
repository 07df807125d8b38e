//! Groups that have a scale of their own: channels, and blocks of a row.
//!
//! A tile of up to sixteen groups is read twice while it is in the nearest cache: for
//! their absmaxes, of which all the scales are made at once, and for what is done by them.

use super::cuts::{Cuts, Cutter};
use super::dispatch::{Kernel, run};
use super::error::{self, BLOCK, Pass};
use super::lanes::{Element, LANES, Lanes, Narrow, PAIR, by_single, fold, map, narrow_bf16, zip};
use super::level::Level;
use super::levels::Watch;
use super::moments::range;
use super::quantize;
use super::rounding::{Divisors, Grid, IntegersHalfAway, IntegersHalfEven, by_grid, is_ordinary};
use super::{Quantization, QuantizationType, Rounding};
use crate::quantization::{ErrorSums, Groups, Loss, Scales, stored_scale};
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
    pub(super) fn slices(self, bytes: &[u8], size: usize) -> impl Iterator<Item = (bool, &[u8])> {
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

/// What is to be told of groups beside their sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Every scale, or only how many there are and their range.
    pub every_scale: bool,
    /// What each output channel loses.
    pub channels: Option<Cuts>,
}

/// What groups turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupFindings {
    /// What quantizing every group by its own scale loses, all groups together.
    pub sums: ErrorSums,
    pub scales: Scales,
    /// Each channel, or the part of it that was seen, where they are asked for.
    pub channels: Vec<Loss>,
}

/// Calibrates every group and measures what quantizing it loses. The elements must be finite.
pub fn group_error(
    dtype: FloatType,
    bytes: &[u8],
    layout: Layout,
    how: GroupQuantization,
    wanted: Wanted,
) -> Result<GroupFindings, NoScale> {
    let [found, ..] = group_errors(dtype, bytes, layout, how, wanted, 1)?;
    Ok(found)
}

/// The same for blocks of 32, of 64 and of 128 elements of a row, in one sweep. The elements
/// must be finite; `row` is their number in a row.
pub fn block_errors(
    dtype: FloatType,
    bytes: &[u8],
    row: usize,
    how: GroupQuantization,
    wanted: Wanted,
) -> Result<[GroupFindings; 3], NoScale> {
    group_errors(dtype, bytes, Layout { row, group: 32 }, how, wanted, NESTINGS)
}

fn group_errors(
    dtype: FloatType,
    bytes: &[u8],
    layout: Layout,
    how: GroupQuantization,
    wanted: Wanted,
    nestings: usize,
) -> Result<[GroupFindings; NESTINGS], NoScale> {
    by_grid!(how.qtype, how.rounding, |grid| {
        run(GroupErrorsOf { dtype, bytes, layout, how, grid, wanted, nestings })
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
    let (whole, tail) = E::split(group);
    for raw in whole {
        // The second operand is kept where the first is NaN.
        most = level.max(level.abs(E::load(level, raw)), most);
    }
    if !tail.is_empty() {
        most = level.max(level.abs(E::load(level, &E::pad(tail))), most);
    }
    level.largest(most)
}

/// Consecutive groups, a tile at a time.
pub(super) struct Tiles<'a, I: Iterator> {
    /// Whole tiles of blocks of [`PAIR`] elements, in rows that hold whole tiles: most rows do,
    /// and cutting them up takes the least.
    blocks: &'a [u8],
    /// What comes after those.
    groups: Peekable<I>,
}

impl Layout {
    #[inline(always)]
    pub(super) fn tiles(
        self,
        bytes: &[u8],
        size: usize,
    ) -> Tiles<'_, impl Iterator<Item = (bool, &[u8])>> {
        let tile = LANES * PAIR;
        let whole = match self.group == PAIR && self.row.is_multiple_of(tile) {
            true => bytes.len() / (tile * size) * (tile * size),
            false => 0,
        };
        let (blocks, rest) = bytes.split_at(whole);
        Tiles { blocks, groups: self.slices(rest, size).peekable() }
    }
}

impl<'a, I: Iterator<Item = (bool, &'a [u8])>> Tiles<'a, I> {
    /// The next tile; `None` after the last. See [`Tile::next`].
    #[inline(always)]
    pub(super) fn next<E: Narrow, L: Level>(&mut self, level: L, align: usize) -> Option<Tile<'a>> {
        match self.blocks.split_at_checked(LANES * PAIR * E::SIZE) {
            Some((tile, rest)) => {
                self.blocks = rest;
                Some(Tile::of_blocks::<E, L>(level, tile))
            }
            None => Tile::next::<E, L>(level, &mut self.groups, align),
        }
    }
}

/// Up to [`LANES`] groups; those that are empty hold a place.
pub(super) struct Tile<'a> {
    pub groups: Lanes<&'a [u8]>,
    pub absmax: Lanes<f32>,
    elements: usize,
    /// No group is empty.
    is_full: bool,
}

impl<'a> Tile<'a> {
    /// Of so many blocks of [`PAIR`] elements.
    #[inline(always)]
    fn of_blocks<E: Narrow, L: Level>(level: L, bytes: &'a [u8]) -> Tile<'a> {
        let mut tile = Tile {
            groups: [[].as_slice(); LANES],
            absmax: [0.0; LANES],
            elements: LANES * PAIR,
            is_full: true,
        };
        let blocks = bytes.chunks_exact(PAIR * E::SIZE);
        for ((group, absmax), block) in tile.groups.iter_mut().zip(&mut tile.absmax).zip(blocks) {
            *group = block;
            *absmax = absmax_of::<E, L>(level, block);
        }
        tile
    }

    /// The next groups, and their absmaxes; `None` after the last. A row starts at a
    /// multiple of `align`. A few large groups fill a tile too.
    #[inline(always)]
    pub(super) fn next<E: Narrow, L: Level>(
        level: L,
        groups: &mut Peekable<impl Iterator<Item = (bool, &'a [u8])>>,
        align: usize,
    ) -> Option<Tile<'a>> {
        groups.peek()?;
        let (groups_of, absmax) = ([[].as_slice(); LANES], [0.0; LANES]);
        let mut tile = Tile { groups: groups_of, absmax, elements: 0, is_full: false };
        let (mut lane, mut count) = (0usize, 0);
        while let Some(&(starts_row, group)) = groups.peek() {
            lane = if starts_row { lane.next_multiple_of(align) } else { lane };
            if lane >= LANES || tile.elements >= BLOCK {
                break;
            }
            tile.groups[lane] = group;
            tile.absmax[lane] = absmax_of::<E, L>(level, group);
            tile.elements += group.len() / E::SIZE;
            lane += 1;
            count += 1;
            groups.next();
        }
        tile.is_full = count == LANES;
        Some(tile)
    }

    /// Its groups where each of them is a block of 32 elements.
    #[inline(always)]
    pub(super) fn blocks<E: Narrow>(&self) -> Option<Lanes<&'a [E::Raw; 2]>> {
        let block = |group: &'a [u8]| -> Option<&'a [E::Raw; 2]> {
            let (whole, tail) = E::split(group);
            whole.try_into().ok().filter(|_| tail.is_empty())
        };
        let mut blocks = [block(self.groups[0])?; LANES];
        for (place, group) in blocks.iter_mut().zip(self.groups) {
            *place = block(group)?;
        }
        Some(blocks)
    }
}

/// The absmaxes of each nesting from those of the one before: of the pair, then of the
/// four that a lane is part of.
#[inline(always)]
pub(super) fn paired(own: Lanes<f32>, nesting: usize) -> Lanes<f32> {
    let mut absmax = own;
    if nesting > 0 {
        for lane in 0..LANES {
            absmax[lane] = own[lane].max(own[lane ^ nesting]);
        }
    }
    absmax
}

/// The scales of a tile, and divisors where they are ordinary.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct TileScales {
    absmax: Lanes<f32>,
    stored: Lanes<f32>,
    pub divisors: Divisors,
    pub is_ordinary: Lanes<bool>,
    /// All are ordinary, and of absmaxes above zero.
    pub are_plain: bool,
}

/// What the groups of a tile may be divided by, and which of that is ordinary.
#[inline(never)]
fn told_apart(stored: &Lanes<f32>, absmax: &Lanes<f32>) -> (Lanes<f32>, Lanes<bool>) {
    // All zeros may be divided by anything.
    let divided_by = zip(*stored, *absmax, |s, a| if a == 0.0 { 1.0 } else { s });
    (divided_by, map(divided_by, is_ordinary))
}

impl TileScales {
    /// Of no groups.
    pub(super) const NOTHING: TileScales = TileScales {
        absmax: [0.0; LANES],
        stored: [0.0; LANES],
        divisors: Divisors::NOTHING,
        is_ordinary: [false; LANES],
        are_plain: false,
    };

    #[inline(always)]
    pub(super) fn new<L: Level>(
        level: L,
        absmax: Lanes<f32>,
        how: &GroupQuantization,
    ) -> TileScales {
        let mut made = TileScales::NOTHING;
        made.make(level, absmax, how);
        made
    }

    /// Makes them anew, in their place.
    #[inline(always)]
    pub(super) fn make<L: Level>(&mut self, level: L, absmax: Lanes<f32>, how: &GroupQuantization) {
        let scales = map(absmax, |absmax| absmax / how.qtype.max());
        let stored = match how.scale_type {
            FloatType::F64 | FloatType::F32 => scales,
            FloatType::F16 => level.widen_f16(level.narrow_f16(scales)),
            FloatType::BF16 => map(narrow_bf16(scales), |bits| f32::from_bits(bits << 16)),
        };
        let least = fold(stored, |a, b| if b < a { b } else { a });
        let most = fold(stored, |a, b| if b > a { b } else { a });
        let are_plain = is_ordinary(least) && is_ordinary(most);
        let (mut divided_by, mut is_ordinary) = (stored, [true; LANES]);
        if !are_plain {
            (divided_by, is_ordinary) = told_apart(&stored, &absmax);
        }
        self.divisors = Divisors::new(level, divided_by, how.qtype.max());
        (self.absmax, self.stored) = (absmax, stored);
        (self.is_ordinary, self.are_plain) = (is_ordinary, are_plain);
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
pub(super) const NESTINGS: usize = 3;

type Found = Result<[GroupFindings; NESTINGS], NoScale>;

/// Errors of groups; then, if asked for, of pairs of them within a row, and of fours.
pub(super) struct GroupErrorsOf<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: Layout,
    pub how: GroupQuantization,
    /// That of `how`.
    pub grid: G,
    pub wanted: Wanted,
    pub nestings: usize,
}

impl<G: Grid> Kernel for GroupErrorsOf<'_, G> {
    type Output = Found;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, level: L) -> Self::Output {
        let found = by_single!(self.dtype, E => self.sweep::<E, L>(level));
        found.unwrap_or_else(|| self.careful())
    }
}

/// What one nesting of a sweep takes note of, group by group.
pub(super) struct Notes {
    pub scales: Scales,
    pub cutter: Cutter,
    pub careful_sums: ErrorSums,
}

impl Notes {
    pub(super) fn new(wanted: &Wanted) -> Notes {
        Notes {
            scales: Scales::new(wanted.every_scale),
            cutter: Cutter::new(wanted.channels),
            careful_sums: ErrorSums::default(),
        }
    }

    /// Takes note of the groups of a tile from lane `from` up to the end of a channel: their
    /// scales, and what those lose that need care. Returns where they end, and whether a
    /// channel does.
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        tile: &Tile,
        from: usize,
        made: &TileScales,
        nesting: usize,
        (dtype, how): (FloatType, &GroupQuantization),
    ) -> Result<(usize, bool), NoScale> {
        if from == 0 && tile.is_full && made.are_plain && !self.cutter.ends_within(tile.elements) {
            self.scales.push_ordinary(&made.stored, 1 << nesting);
            return Ok((LANES, self.cutter.ends_after(tile.elements)));
        }
        self.take_each(tile, from, made, nesting, (dtype, how))
    }

    #[inline(never)]
    fn take_each(
        &mut self,
        tile: &Tile,
        from: usize,
        made: &TileScales,
        nesting: usize,
        (dtype, how): (FloatType, &GroupQuantization),
    ) -> Result<(usize, bool), NoScale> {
        for lane in from..LANES {
            let (group, absmax) = (tile.groups[lane], made.absmax[lane]);
            if group.is_empty() {
                continue;
            }
            let careful_how = || careful(absmax.into(), how);
            let scale = match made.is_ordinary[lane] && absmax != 0.0 {
                true => made.stored[lane],
                false => careful_how()?.scale,
            };
            // The first of a pair or a four holds its place among the scales.
            if lane.is_multiple_of(1 << nesting) {
                self.scales.push(absmax.into(), scale);
            }
            if !made.is_ordinary[lane] {
                let sums = error::careful(dtype, group, &careful_how()?);
                self.cutter.set_aside(&sums);
                self.careful_sums.merge(&sums);
            }
            if self.cutter.ends_after(group.len() / dtype.size()) {
                return Ok((lane + 1, true));
            }
        }
        Ok((LANES, false))
    }
}

impl<G: Grid> GroupErrorsOf<'_, G> {
    #[inline(always)]
    fn sweep<E: Narrow, L: Level>(&self, level: L) -> Found {
        let &GroupErrorsOf { dtype, bytes, layout, ref how, grid, wanted, nestings } = self;
        let nestings = nestings.clamp(1, NESTINGS);
        let mut all =
            [(); NESTINGS].map(|()| (Pass::after(level, Watch::new()), Notes::new(&wanted)));
        let mut tiles = layout.tiles(bytes, E::SIZE);
        while let Some(tile) = tiles.next::<E, L>(level, 1 << (nestings - 1)) {
            let mut absmax = tile.absmax;
            for (nesting, (pass, notes)) in all.iter_mut().enumerate().take(nestings) {
                absmax = paired(absmax, nesting);
                let made = TileScales::new(level, absmax, how);
                let mut unseen = level.u32s([0; LANES]);
                let mut from = 0;
                while from < LANES {
                    let (to, ends) = notes.take(&tile, from, &made, nesting, (dtype, how))?;
                    let ordinary = (from..to).filter(|&lane| made.is_ordinary[lane]);
                    let groups = ordinary.map(|lane| (tile.groups[lane], made.divisors.at(lane)));
                    unseen = level.or(unseen, pass.groups::<E, G>(grid, groups));
                    if ends {
                        notes.cutter.end(pass.cut());
                    }
                    from = to;
                }
                if level.any_bit0(unseen) {
                    for (lane, group) in tile.groups.into_iter().enumerate() {
                        if made.is_ordinary[lane] {
                            let divisor = made.divisors.at(lane);
                            pass.see::<E, G>(grid, group, &divisor);
                        }
                    }
                }
            }
        }
        Ok(all.map(|(mut pass, notes)| {
            let Notes { cutter, scales, careful_sums } = notes;
            let channels = cutter.finish(pass.cut());
            let mut sums = pass.finish();
            sums.merge(&careful_sums);
            GroupFindings { sums, scales, channels }
        }))
    }

    /// The same for any type, group by group.
    fn careful(&self) -> Found {
        let mut failed = None;
        let mut nesting = 0;
        let all = [(); NESTINGS].map(|()| {
            let mut scales = Scales::new(self.wanted.every_scale);
            let mut sums = ErrorSums::default();
            let mut cutter = Cutter::new(self.wanted.channels);
            let layout = Layout { group: self.layout.group << nesting, ..self.layout };
            nesting += 1;
            for (_, group) in layout.slices(self.bytes, self.dtype.size()) {
                if nesting > self.nestings || failed.is_some() {
                    break;
                }
                let absmax = range(self.dtype, group).absmax();
                match careful(absmax, &self.how) {
                    Ok(how) => {
                        scales.push(absmax, how.scale);
                        let lost = error::careful(self.dtype, group, &how);
                        cutter.set_aside(&lost);
                        sums.merge(&lost);
                    }
                    Err(why) => failed = Some(why),
                }
                if cutter.ends_after(group.len() / self.dtype.size()) {
                    cutter.end(Loss::default());
                }
            }
            GroupFindings { sums, scales, channels: cutter.finish(Loss::default()) }
        });
        failed.map_or(Ok(all), Err)
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
        let mut tiles = self.layout.tiles(self.bytes, E::SIZE);
        let mut scales = self.scales.iter_mut();
        let mut values = &mut *self.values;
        while let Some(tile) = tiles.next::<E, L>(level, 1) {
            let made = TileScales::new(level, tile.absmax, &self.how);
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
