//! Groups that have a scale of their own: channels, and blocks of a row.
//!
//! A tile of up to sixteen groups is read twice while it is in the nearest cache: for
//! their absmaxes, of which all the scales are made at once, and for what is done by them.

use crate::quantization::calibration::stored_scale;
use crate::quantization::groups::Groups;
use crate::quantization::kernels::array_lanes::{LANES, Lanes, PAIR, map, zip};
use crate::quantization::kernels::channel_sums::{ChannelBounds, ChannelSums};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Narrow, by_single};
use crate::quantization::kernels::error::{self, Pass};
use crate::quantization::kernels::kernel::Kernel;
use crate::quantization::kernels::level_tracker::LevelTracker;
use crate::quantization::kernels::moments::range;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::quantize;
use crate::quantization::kernels::rounding::{
    Clamped, Division, Divisors, Grid, IntegersHalfAway, IntegersHalfEven, ORDINARY, by_grid,
    is_ordinary,
};
use crate::quantization::kernels::simd::Level;
use crate::quantization::loss::Loss;
use crate::quantization::scales::Scales;
use crate::quantization::scheme::{QuantizationType, Rounding};
use crate::quantization::statistics::ErrorSums;
use crate::tensor::FloatType;
use std::iter::Peekable;

/// How elements in storage order are divided: into rows, and each of those into groups.
/// The last group of a row, and the last row, may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLayout {
    /// Elements of a row; groups never cross its end.
    pub row: usize,
    /// Elements of a group. 0 counts as 1, in both.
    pub group: usize,
}

impl GroupLayout {
    /// Groups of equal length, one after another.
    pub fn consecutive(group: usize) -> GroupLayout {
        GroupLayout { row: group, group }
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

impl From<Groups> for GroupLayout {
    fn from(groups: Groups) -> GroupLayout {
        let narrow = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        GroupLayout { row: narrow(groups.row_len()), group: narrow(groups.group_len()) }
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
pub struct ScaleOverflow {
    pub absmax: f64,
}

/// The largest magnitude of each group; stops at the shorter of the two. NaN is ignored.
pub fn group_absmax(dtype: FloatType, bytes: &[u8], layout: GroupLayout, out: &mut [f64]) {
    run(AbsmaxOf { dtype, bytes, layout, out })
}

/// What is to be told of groups beside their sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupDetail {
    /// Every scale, or only how many there are and their range.
    pub keep_scales: bool,
    /// What each output channel loses.
    pub channels: Option<ChannelBounds>,
}

/// What groups turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupErrors {
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
    layout: GroupLayout,
    params: GroupQuantization,
    detail: GroupDetail,
) -> Result<GroupErrors, ScaleOverflow> {
    let [found, ..] = group_errors(dtype, bytes, layout, params, detail, 1)?;
    Ok(found)
}

/// The same for blocks of 32, of 64 and of 128 elements of a row, in one sweep. The elements
/// must be finite; `row` is their number in a row.
pub fn block_errors(
    dtype: FloatType,
    bytes: &[u8],
    row: usize,
    params: GroupQuantization,
    detail: GroupDetail,
) -> Result<[GroupErrors; 3], ScaleOverflow> {
    group_errors(dtype, bytes, GroupLayout { row, group: 32 }, params, detail, NESTINGS)
}

fn group_errors(
    dtype: FloatType,
    bytes: &[u8],
    layout: GroupLayout,
    params: GroupQuantization,
    detail: GroupDetail,
    nestings: usize,
) -> Result<[GroupErrors; NESTINGS], ScaleOverflow> {
    by_grid!(params.qtype, params.rounding, |grid| {
        run(GroupErrorsOf { dtype, bytes, layout, params, grid, detail, nestings })
    })
}

/// Quantizes every group to −127 … 127 by its own scale, and gives the scales; stops where
/// `scales` or `values` end. The elements must be finite.
pub fn group_quantize(
    dtype: FloatType,
    bytes: &[u8],
    layout: GroupLayout,
    rounding: Rounding,
    scale_type: FloatType,
    scales: &mut [f32],
    values: &mut [i8],
) -> Result<(), ScaleOverflow> {
    let params = GroupQuantization { qtype: QuantizationType::QInt8, rounding, scale_type };
    match rounding {
        Rounding::HalfEven => {
            let grid = IntegersHalfEven;
            run(GroupQuantizeTo { dtype, bytes, layout, params, grid, scales, values })
        }
        Rounding::HalfAway => {
            let grid = IntegersHalfAway;
            run(GroupQuantizeTo { dtype, bytes, layout, params, grid, scales, values })
        }
    }
}

pub(super) struct AbsmaxOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: GroupLayout,
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
fn absmax_of<E: Narrow, L: Level>(l: L, group: &[u8]) -> f32 {
    let (whole, tail) = E::split(group);
    let (pairs, odd) = whole.as_chunks::<2>();
    let mut most = E::absmax_of_pairs(l, pairs);
    for raw in odd {
        // The second operand is kept where the first is NaN.
        most = l.max(l.abs(E::load(l, raw)), most);
    }
    if !tail.is_empty() {
        most = l.max(l.abs(E::load(l, &E::pad(tail))), most);
    }
    l.largest(most)
}

/// Consecutive groups, a tile at a time.
pub(super) struct Tiles<'a, E: Narrow, I: Iterator> {
    /// Whole tiles of blocks of [`PAIR`] elements, in rows that hold whole tiles: most rows do,
    /// and cutting them up takes the least.
    blocks: std::slice::Iter<'a, Lanes<[E::Raw; 2]>>,
    /// What comes after those.
    groups: Peekable<I>,
}

impl GroupLayout {
    #[inline(always)]
    pub(super) fn tiles<E: Narrow>(
        self,
        bytes: &[u8],
    ) -> Tiles<'_, E, impl Iterator<Item = (bool, &[u8])>> {
        let (whole, _) = E::split(bytes);
        let tiles = match self.group == PAIR && self.row.is_multiple_of(LANES * PAIR) {
            true => whole.as_chunks::<2>().0.as_chunks::<LANES>().0,
            false => &[],
        };
        let rest = bytes.get(tiles.len() * LANES * PAIR * E::SIZE..).unwrap_or_default();
        Tiles { blocks: tiles.iter(), groups: self.slices(rest, E::SIZE).peekable() }
    }
}

impl<'a, E: Narrow, I: Iterator<Item = (bool, &'a [u8])>> Tiles<'a, E, I> {
    /// The next groups, and their absmaxes; `None` after the last. A row starts at a
    /// multiple of `align`. A few large groups fill a tile too.
    #[inline(always)]
    pub(super) fn next<L: Level>(&mut self, l: L, align: usize) -> Option<Tile<'a, E>> {
        match self.blocks.next() {
            Some(blocks) => Some(Tile::of_blocks(l, blocks)),
            None => Tile::of_groups(l, &mut self.groups, align),
        }
    }
}

/// Bytes of large groups in a tile: they are gone through twice, and stay in the first cache.
const TILE_BYTES: usize = 16 << 10;

/// Up to [`LANES`] groups.
pub(super) struct Tile<'a, E: Narrow> {
    groups: TileGroups<'a, E>,
    pub absmax: Lanes<f32>,
    pub elements: usize,
    /// No group is empty.
    is_full: bool,
}

#[expect(clippy::large_enum_variant, reason = "one lives on the stack at a time")]
enum TileGroups<'a, E: Narrow> {
    /// Of [`PAIR`] elements each.
    Blocks(&'a Lanes<[E::Raw; 2]>),
    /// Those that are empty hold a place.
    Slices(Lanes<&'a [u8]>),
}

impl<'a, E: Narrow> Tile<'a, E> {
    #[inline(always)]
    fn of_blocks<L: Level>(l: L, blocks: &'a Lanes<[E::Raw; 2]>) -> Tile<'a, E> {
        let mut most = [l.splat(0.0); LANES];
        for (most, block) in most.iter_mut().zip(blocks) {
            let [a, b] = E::load_pair(l, block);
            *most = l.max(l.abs(a), l.abs(b));
        }
        Tile {
            groups: TileGroups::Blocks(blocks),
            absmax: l.largest_of_each(most),
            elements: LANES * PAIR,
            is_full: true,
        }
    }

    #[inline(always)]
    fn of_groups<L: Level>(
        l: L,
        groups: &mut Peekable<impl Iterator<Item = (bool, &'a [u8])>>,
        align: usize,
    ) -> Option<Tile<'a, E>> {
        groups.peek()?;
        let (mut slices, mut absmax) = ([[].as_slice(); LANES], [0.0; LANES]);
        let (mut lane, mut count, mut elements) = (0usize, 0, 0);
        while let Some(&(starts_row, group)) = groups.peek() {
            lane = if starts_row { lane.next_multiple_of(align) } else { lane };
            if lane >= LANES || elements * E::SIZE >= TILE_BYTES {
                break;
            }
            slices[lane] = group;
            absmax[lane] = absmax_of::<E, L>(l, group);
            elements += group.len() / E::SIZE;
            lane += 1;
            count += 1;
            groups.next();
        }
        let is_full = count == LANES;
        Some(Tile { groups: TileGroups::Slices(slices), absmax, elements, is_full })
    }

    /// The bytes of a group; none where there is no group.
    #[inline(always)]
    pub(super) fn group(&self, lane: usize) -> &'a [u8] {
        match self.groups {
            TileGroups::Blocks(blocks) => E::bytes(&blocks[lane]),
            TileGroups::Slices(slices) => slices[lane],
        }
    }

    /// Its groups where each of them is a block of [`PAIR`] elements.
    #[inline(always)]
    pub(super) fn blocks(&self) -> Option<&'a Lanes<[E::Raw; 2]>> {
        match self.groups {
            TileGroups::Blocks(blocks) => Some(blocks),
            TileGroups::Slices(_) => None,
        }
    }
}

/// The absmaxes of each nesting from those of the one before: of the pair, then of the
/// four that a lane is part of.
#[inline(always)]
pub(super) fn paired<L: Level>(l: L, own: L::F32, nesting: usize) -> L::F32 {
    match nesting {
        0 => own,
        1 => l.max(own, l.swap_ones(own)),
        _ => l.max(own, l.swap_twos(own)),
    }
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
fn classify(stored: &Lanes<f32>, absmax: &Lanes<f32>) -> (Lanes<f32>, Lanes<bool>) {
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

    /// Makes them anew, in their place.
    #[inline(always)]
    pub(super) fn make<L: Level, D: Division>(
        &mut self,
        l: L,
        absmax: L::F32,
        params: &GroupQuantization,
    ) {
        let qmax = params.qtype.max();
        let stored = D::stored(l, l.div(absmax, l.splat(qmax)), params.scale_type);
        (self.absmax, self.stored) = (l.array(absmax), l.array(stored));
        (self.is_ordinary, self.are_plain) = ([true; LANES], true);
        let mut divided_by = stored;
        if !l.all_within(stored, *ORDINARY.start(), *ORDINARY.end()) {
            let (told, is_ordinary) = classify(&self.stored, &self.absmax);
            divided_by = l.f32s(told);
            (self.is_ordinary, self.are_plain) = (is_ordinary, false);
        }
        self.divisors = D::divisors(l, divided_by, absmax, qmax);
    }
}

/// How one group is quantized that needs care.
#[cold]
fn scalar(absmax: f64, params: &GroupQuantization) -> Result<Quantization, ScaleOverflow> {
    let GroupQuantization { qtype, rounding, scale_type } = *params;
    let scale = stored_scale(absmax, qtype.max(), scale_type).ok_or(ScaleOverflow { absmax })?;
    Ok(Quantization { scale, qtype, rounding })
}

/// Blocks of 32, of 64 and of 128.
pub(super) const NESTINGS: usize = 3;

type Found = Result<[GroupErrors; NESTINGS], ScaleOverflow>;

/// Errors of groups; then, if asked for, of pairs of them within a row, and of fours.
pub(super) struct GroupErrorsOf<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: GroupLayout,
    pub params: GroupQuantization,
    /// That of `how`.
    pub grid: G,
    pub detail: GroupDetail,
    pub nestings: usize,
}

impl<G: Grid> Kernel for GroupErrorsOf<'_, G> {
    type Output = Found;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, level: L) -> Self::Output {
        let found = by_single!(self.dtype, E => self.sweep::<E, L>(level));
        found.unwrap_or_else(|| self.scalar())
    }
}

/// What one nesting of a sweep takes note of, group by group.
pub(super) struct GroupNotes {
    pub scales: Scales,
    pub channel_sums: ChannelSums,
    pub scalar_sums: ErrorSums,
}

impl GroupNotes {
    pub(super) fn new(detail: &GroupDetail) -> GroupNotes {
        GroupNotes {
            scales: Scales::new(detail.keep_scales),
            channel_sums: ChannelSums::new(detail.channels),
            scalar_sums: ErrorSums::default(),
        }
    }

    /// Takes note of the groups of a tile from lane `from` up to the end of a channel: their
    /// scales, and what those lose that need care. Returns where they end, and whether a
    /// channel does.
    #[inline(always)]
    pub(super) fn take<E: Narrow, L: Level>(
        &mut self,
        l: L,
        tile: &Tile<E>,
        from: usize,
        made: &TileScales,
        nesting: usize,
        (dtype, params): (FloatType, &GroupQuantization),
    ) -> Result<(usize, bool), ScaleOverflow> {
        if from == 0
            && tile.is_full
            && made.are_plain
            && !self.channel_sums.ends_within(tile.elements)
        {
            return Ok((LANES, self.take_plain(l, tile, made, nesting)));
        }
        self.take_each(tile, from, made, nesting, (dtype, params))
    }

    /// The same of a whole tile whose scales are plain; no channel ends within it. Returns
    /// whether one ends with it.
    #[inline(always)]
    pub(super) fn take_plain<E: Narrow, L: Level>(
        &mut self,
        l: L,
        tile: &Tile<E>,
        made: &TileScales,
        nesting: usize,
    ) -> bool {
        match self.scales.uninformative() {
            Some((least, most)) if l.all_within(l.f32s(made.stored), least, most) => {
                self.scales.count += (LANES >> nesting) as u64;
            }
            _ => self.scales.push_ordinary(&made.stored, 1 << nesting),
        }
        self.channel_sums.ends_after(tile.elements)
    }

    #[inline(never)]
    fn take_each<E: Narrow>(
        &mut self,
        tile: &Tile<E>,
        from: usize,
        made: &TileScales,
        nesting: usize,
        (dtype, params): (FloatType, &GroupQuantization),
    ) -> Result<(usize, bool), ScaleOverflow> {
        for lane in from..LANES {
            let (group, absmax) = (tile.group(lane), made.absmax[lane]);
            if group.is_empty() {
                continue;
            }
            let scalar_params = || scalar(absmax.into(), params);
            let scale = match made.is_ordinary[lane] && absmax != 0.0 {
                true => made.stored[lane],
                false => scalar_params()?.scale,
            };
            // The first of a pair or a four holds its place among the scales.
            if lane.is_multiple_of(1 << nesting) {
                self.scales.push(absmax.into(), scale);
            }
            if !made.is_ordinary[lane] {
                let sums = error::scalar(dtype, group, &scalar_params()?);
                self.channel_sums.set_aside(&sums);
                self.scalar_sums.merge(&sums);
            }
            if self.channel_sums.ends_after(group.len() / dtype.size()) {
                return Ok((lane + 1, true));
            }
        }
        Ok((LANES, false))
    }
}

impl<G: Grid> GroupErrorsOf<'_, G> {
    #[inline(always)]
    fn sweep<E: Narrow, L: Level>(&self, level: L) -> Found {
        let &GroupErrorsOf { dtype, bytes, layout, ref params, grid, detail, nestings } = self;
        let nestings = nestings.clamp(1, NESTINGS);
        let mut all = [(); NESTINGS]
            .map(|()| (Pass::after(level, LevelTracker::new()), GroupNotes::new(&detail)));
        let mut tiles = layout.tiles::<E>(bytes);
        while let Some(tile) = tiles.next(level, 1 << (nestings - 1)) {
            let mut absmax = level.f32s(tile.absmax);
            for (nesting, (pass, notes)) in all.iter_mut().enumerate().take(nestings) {
                absmax = paired(level, absmax, nesting);
                let mut made = TileScales::NOTHING;
                made.make::<L, Clamped>(level, absmax, params);
                let mut unseen = level.u32s([0; LANES]);
                let mut from = 0;
                while from < LANES {
                    let (to, ends) =
                        notes.take(level, &tile, from, &made, nesting, (dtype, params))?;
                    let ordinary = (from..to).filter(|&lane| made.is_ordinary[lane]);
                    let groups = ordinary.map(|lane| (tile.group(lane), made.divisors.at(lane)));
                    unseen = level.or(unseen, pass.groups::<E, G>(grid, groups));
                    if ends {
                        notes.channel_sums.end(pass.cut());
                    }
                    from = to;
                }
                if level.any_bit0(unseen) {
                    for lane in 0..LANES {
                        if made.is_ordinary[lane] {
                            let divisor = made.divisors.at(lane);
                            pass.see::<E, G>(grid, tile.group(lane), &divisor);
                        }
                    }
                }
            }
        }
        Ok(all.map(|(mut pass, notes)| {
            let GroupNotes { channel_sums, scales, scalar_sums } = notes;
            let channels = channel_sums.finish(pass.cut());
            let mut sums = pass.finish();
            sums.merge(&scalar_sums);
            GroupErrors { sums, scales, channels }
        }))
    }

    /// The same for any type, group by group.
    fn scalar(&self) -> Found {
        let mut failed = None;
        let mut nesting = 0;
        let all = [(); NESTINGS].map(|()| {
            let mut scales = Scales::new(self.detail.keep_scales);
            let mut sums = ErrorSums::default();
            let mut channel_sums = ChannelSums::new(self.detail.channels);
            let layout = GroupLayout { group: self.layout.group << nesting, ..self.layout };
            nesting += 1;
            for (_, group) in layout.slices(self.bytes, self.dtype.size()) {
                if nesting > self.nestings || failed.is_some() {
                    break;
                }
                let absmax = range(self.dtype, group).absmax();
                match scalar(absmax, &self.params) {
                    Ok(params) => {
                        scales.push(absmax, params.scale);
                        let lost = error::scalar(self.dtype, group, &params);
                        channel_sums.set_aside(&lost);
                        sums.merge(&lost);
                    }
                    Err(why) => failed = Some(why),
                }
                if channel_sums.ends_after(group.len() / self.dtype.size()) {
                    channel_sums.end(Loss::default());
                }
            }
            GroupErrors { sums, scales, channels: channel_sums.finish(Loss::default()) }
        });
        failed.map_or(Ok(all), Err)
    }
}

pub(super) struct GroupQuantizeTo<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: GroupLayout,
    pub params: GroupQuantization,
    /// That of `how`.
    pub grid: G,
    pub scales: &'a mut [f32],
    pub values: &'a mut [i8],
}

impl<G: Grid> Kernel for GroupQuantizeTo<'_, G> {
    type Output = Result<(), ScaleOverflow>;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(mut self, level: L) -> Self::Output {
        let done = by_single!(self.dtype, E => self.sweep::<E, L>(level));
        done.unwrap_or_else(|| self.scalar())
    }
}

impl<G: Grid> GroupQuantizeTo<'_, G> {
    #[inline(always)]
    fn sweep<E: Narrow, L: Level>(&mut self, level: L) -> Result<(), ScaleOverflow> {
        let mut tiles = self.layout.tiles::<E>(self.bytes);
        let mut scales = self.scales.iter_mut();
        let mut values = &mut *self.values;
        while let Some(tile) = tiles.next(level, 1) {
            let mut made = TileScales::NOTHING;
            made.make::<L, Clamped>(level, level.f32s(tile.absmax), &self.params);
            for lane in 0..LANES {
                let group = tile.group(lane);
                if group.is_empty() {
                    break;
                }
                let Some(scale) = scales.next() else { return Ok(()) };
                let out = take(&mut values, group.len() / E::SIZE);
                let absmax = tile.absmax[lane];
                if made.is_ordinary[lane] && absmax != 0.0 {
                    *scale = made.stored[lane];
                    let divisor = made.divisors.at(lane);
                    quantize::group::<E, L, G, Clamped>(level, self.grid, group, &divisor, out);
                } else {
                    let params = scalar(absmax.into(), &self.params)?;
                    *scale = params.scale;
                    quantize::scalar(self.dtype, group, &params, out);
                }
            }
        }
        Ok(())
    }

    /// The same for any type, group by group.
    fn scalar(&mut self) -> Result<(), ScaleOverflow> {
        let groups = self.layout.slices(self.bytes, self.dtype.size());
        let mut values = &mut *self.values;
        for ((_, group), scale) in groups.zip(&mut *self.scales) {
            let params = scalar(range(self.dtype, group).absmax(), &self.params)?;
            *scale = params.scale;
            let out = take(&mut values, group.len() / self.dtype.size());
            quantize::scalar(self.dtype, group, &params, out);
        }
        Ok(())
    }
}

/// The first `count` values, or all there are, split off.
fn take<'a>(values: &mut &'a mut [i8], count: usize) -> &'a mut [i8] {
    values.split_off_mut(..count.min(values.len())).unwrap_or_default()
}
