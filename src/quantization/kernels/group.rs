//! Groups with their own scales: channels, and blocks of a row.
//!
//! A tile of up to sixteen groups is read twice while it is in the L1 cache: first for the largest
//! magnitudes, which give all scales of the tile, then to quantize or to measure errors.

use crate::quantization::calibration::stored_scale;
use crate::quantization::groups::Groups;
use crate::quantization::kernels::array_lanes::{LANES, Lanes, PAIR, map, zip};
use crate::quantization::kernels::channel_sums::{ChannelBounds, ChannelSums};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Narrow, by_single};
use crate::quantization::kernels::error::{self, ErrorPass};
use crate::quantization::kernels::level_tracker::LevelTracker;
use crate::quantization::kernels::moments::range;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{
    Clamped, Division, Divisors, Grid, ORDINARY_SCALES, by_grid, is_ordinary,
};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::quantization::loss::Loss;
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scales::Scales;
use crate::quantization::scheme::Rounding;
use crate::quantization::statistics::ErrorSums;
use crate::tensor::FloatType;
use std::iter::Peekable;

/// A division of consecutive elements into rows, and of rows into groups. The last group of a
/// row, and the last row, may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLayout {
    /// Elements of a row, whose end no group crosses; 0 counts as 1.
    pub row: usize,
    /// Elements of a group; 0 counts as 1.
    pub group: usize,
}

impl GroupLayout {
    /// Consecutive groups of equal length.
    pub fn consecutive(group: usize) -> GroupLayout {
        GroupLayout { row: group, group }
    }

    /// The bytes of the groups, each with whether it starts a row. `size` is the number of
    /// bytes of an element.
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

/// Parameters for quantizing groups, each with the scale for its largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupQuantization {
    /// The type of the quantized values.
    pub qtype: QuantizationType,
    /// The rounding of ties.
    pub rounding: Rounding,
    /// The type the scales are stored in. They are rounded to it before they are used; F64
    /// counts as F32.
    pub scale_type: FloatType,
}

/// The error for a group whose scale does not fit the type it is stored in.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the scale for a magnitude of {absmax:e} does not fit its type")]
pub struct ScaleOverflow {
    /// The largest magnitude of the group.
    pub absmax: f64,
}

/// Writes the largest magnitude of each group to `out`; stops at the end of the shorter one.
/// NaN is ignored.
pub(crate) fn group_absmax(dtype: FloatType, bytes: &[u8], layout: GroupLayout, out: &mut [f64]) {
    run(AbsmaxOf { dtype, bytes, layout, out })
}

/// What to compute of groups in addition to the sums over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupDetail {
    /// Whether to keep every scale instead of only a summary.
    pub keep_scales: bool,
    /// Where output channels end, if the loss of each is needed.
    pub channels: Option<ChannelBounds>,
}

/// The scales and errors of groups.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupErrors {
    /// The error sums over all groups, each quantized by its own scale.
    pub sums: ErrorSums,
    /// The scales of the groups.
    pub scales: Scales,
    /// The loss of each channel, if channels are needed. The first and the last channel may be
    /// incomplete.
    pub channels: Vec<Loss>,
}

/// Calibrates every group by min-max and measures its error. The elements must be finite.
///
/// # Errors
///
/// If the scale of a group does not fit its type.
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

/// [`group_error`] for blocks of 32, 64 and 128 elements in one sweep. `row` is the number of
/// elements in a row. The elements must be finite.
///
/// # Errors
///
/// If the scale of a block does not fit its type.
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

pub(super) struct AbsmaxOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: GroupLayout,
    pub out: &'a mut [f64],
}

impl Kernel for AbsmaxOf<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let AbsmaxOf { dtype, bytes, layout, out } = self;
        let done = by_single!(dtype, E => {
            for ((_, group), out) in layout.slices(bytes, E::SIZE).zip(&mut *out) {
                *out = absmax_of::<E, S>(simd, group).into();
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
fn absmax_of<E: Narrow, S: Simd>(simd: S, group: &[u8]) -> f32 {
    let (whole, tail) = E::split(group);
    let (pairs, odd) = whole.as_chunks::<2>();
    let mut largest = E::absmax_of_pairs(simd, pairs);
    for raw in odd {
        // `max` returns the second operand where the first is NaN.
        largest = simd.max(simd.abs(E::load(simd, raw)), largest);
    }
    if !tail.is_empty() {
        largest = simd.max(simd.abs(E::load(simd, &E::pad(tail))), largest);
    }
    simd.largest(largest)
}

/// Iterates over consecutive groups, one tile at a time.
pub(super) struct Tiles<'a, E: Narrow, I: Iterator> {
    /// Tiles of blocks of [`PAIR`] elements, for rows that consist of whole tiles. Most rows do,
    /// and such tiles need no search for the ends of groups.
    blocks: std::slice::Iter<'a, Lanes<[E::Raw; 2]>>,
    /// The groups after these tiles.
    groups: Peekable<I>,
}

impl GroupLayout {
    #[inline(always)]
    pub(super) fn tiles<E: Narrow>(
        self,
        bytes: &[u8],
    ) -> Tiles<'_, E, impl Iterator<Item = (bool, &[u8])>> {
        let (whole, _) = E::split(bytes);
        let tiles = if self.group == PAIR && self.row.is_multiple_of(LANES * PAIR) {
            whole.as_chunks::<2>().0.as_chunks::<LANES>().0
        } else {
            &[]
        };
        let rest = bytes.get(tiles.len() * LANES * PAIR * E::SIZE..).unwrap_or_default();
        Tiles { blocks: tiles.iter(), groups: self.slices(rest, E::SIZE).peekable() }
    }
}

impl<'a, E: Narrow, I: Iterator<Item = (bool, &'a [u8])>> Tiles<'a, E, I> {
    /// The next groups with their largest magnitudes; `None` after the last. A row starts in a
    /// lane that is a multiple of `align`. A tile of large groups has fewer than [`LANES`].
    #[inline(always)]
    pub(super) fn next<S: Simd>(&mut self, simd: S, align: usize) -> Option<Tile<'a, E>> {
        match self.blocks.next() {
            Some(blocks) => Some(Tile::from_blocks(simd, blocks)),
            None => Tile::from_groups(simd, &mut self.groups, align),
        }
    }
}

/// A tile takes no more groups after this many bytes, so that it stays in the L1 cache between the
/// two reads.
const TILE_BYTES: usize = 16 << 10;

/// Up to [`LANES`] groups, one in each lane.
pub(super) struct Tile<'a, E: Narrow> {
    groups: TileGroups<'a, E>,
    pub absmax: Lanes<f32>,
    pub elements: usize,
    /// Whether every lane has a group.
    is_full: bool,
}

#[expect(clippy::large_enum_variant, reason = "one lives on the stack at a time")]
enum TileGroups<'a, E: Narrow> {
    /// Blocks of [`PAIR`] elements.
    Blocks(&'a Lanes<[E::Raw; 2]>),
    /// The bytes of the groups; empty for a lane without a group.
    Slices(Lanes<&'a [u8]>),
}

impl<'a, E: Narrow> Tile<'a, E> {
    #[inline(always)]
    fn from_blocks<S: Simd>(simd: S, blocks: &'a Lanes<[E::Raw; 2]>) -> Tile<'a, E> {
        let mut largest = [simd.splat(0.0); LANES];
        for (largest, block) in largest.iter_mut().zip(blocks) {
            let [a, b] = E::load_pair(simd, block);
            *largest = simd.max(simd.abs(a), simd.abs(b));
        }
        Tile {
            groups: TileGroups::Blocks(blocks),
            absmax: simd.largest_of_each(largest),
            elements: LANES * PAIR,
            is_full: true,
        }
    }

    #[inline(always)]
    fn from_groups<S: Simd>(
        simd: S,
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
            absmax[lane] = absmax_of::<E, S>(simd, group);
            elements += group.len() / E::SIZE;
            lane += 1;
            count += 1;
            groups.next();
        }
        let is_full = count == LANES;
        Some(Tile { groups: TileGroups::Slices(slices), absmax, elements, is_full })
    }

    /// The bytes of the group in a lane; empty if there is none.
    #[inline(always)]
    pub(super) fn group(&self, lane: usize) -> &'a [u8] {
        match self.groups {
            TileGroups::Blocks(blocks) => E::bytes(&blocks[lane]),
            TileGroups::Slices(slices) => slices[lane],
        }
    }

    /// The groups, if each of them is a block of [`PAIR`] elements.
    #[inline(always)]
    pub(super) fn blocks(&self) -> Option<&'a Lanes<[E::Raw; 2]>> {
        match self.groups {
            TileGroups::Blocks(blocks) => Some(blocks),
            TileGroups::Slices(_) => None,
        }
    }
}

/// Computes the largest magnitudes of a nesting from those of the previous one: the maximum over
/// the two, then over the four groups that a lane belongs to.
#[inline(always)]
pub(super) fn paired<S: Simd>(simd: S, own: S::F32, nesting: usize) -> S::F32 {
    match nesting {
        0 => own,
        1 => simd.max(own, simd.swap_ones(own)),
        _ => simd.max(own, simd.swap_twos(own)),
    }
}

/// The scales of the groups of a tile, with divisors for those that are ordinary.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct TileScales {
    absmax: Lanes<f32>,
    stored: Lanes<f32>,
    pub divisors: Divisors,
    pub is_ordinary: Lanes<bool>,
    /// Whether all scales are ordinary and no group consists of zeros.
    pub are_plain: bool,
}

/// Returns the scales to divide by, and which of them are ordinary.
#[inline(never)]
fn split_ordinary(stored: &Lanes<f32>, absmax: &Lanes<f32>) -> (Lanes<f32>, Lanes<bool>) {
    // A group of zeros can be divided by any scale.
    let divided_by = zip(*stored, *absmax, |s, a| if a == 0.0 { 1.0 } else { s });
    (divided_by, map(divided_by, is_ordinary))
}

impl TileScales {
    /// Scales of no groups.
    pub(super) const EMPTY: TileScales = TileScales {
        absmax: [0.0; LANES],
        stored: [0.0; LANES],
        divisors: Divisors::ZEROING,
        is_ordinary: [false; LANES],
        are_plain: false,
    };

    /// Computes the scales from the largest magnitudes, in place.
    #[inline(always)]
    pub(super) fn make<S: Simd, D: Division>(
        &mut self,
        simd: S,
        absmax: S::F32,
        params: &GroupQuantization,
    ) {
        let qmax = params.qtype.max();
        let stored = D::stored(simd, simd.div(absmax, simd.splat(qmax)), params.scale_type);
        (self.absmax, self.stored) = (simd.array(absmax), simd.array(stored));
        (self.is_ordinary, self.are_plain) = ([true; LANES], true);
        let mut divided_by = stored;
        if !simd.all_within(stored, *ORDINARY_SCALES.start(), *ORDINARY_SCALES.end()) {
            let (scales, is_ordinary) = split_ordinary(&self.stored, &self.absmax);
            divided_by = simd.f32s(scales);
            (self.is_ordinary, self.are_plain) = (is_ordinary, false);
        }
        self.divisors = D::divisors(simd, divided_by, absmax, qmax);
    }
}

/// The quantization of a group whose scale is not ordinary.
#[cold]
fn scalar(absmax: f64, params: &GroupQuantization) -> Result<Quantization, ScaleOverflow> {
    let GroupQuantization { qtype, rounding, scale_type } = *params;
    let scale = stored_scale(absmax, qtype.max(), scale_type).ok_or(ScaleOverflow { absmax })?;
    Ok(Quantization { scale, qtype, rounding })
}

/// Number of block lengths that one sweep measures: 32, 64 and 128.
pub(super) const NESTINGS: usize = 3;

type GroupResult = Result<[GroupErrors; NESTINGS], ScaleOverflow>;

/// Errors of groups and, for more than one nesting, of two and of four adjacent groups of a
/// row as one group.
pub(super) struct GroupErrorsOf<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub layout: GroupLayout,
    pub params: GroupQuantization,
    /// The grid of `params`.
    pub grid: G,
    pub detail: GroupDetail,
    pub nestings: usize,
}

impl<G: Grid> Kernel for GroupErrorsOf<'_, G> {
    type Output = GroupResult;
    const IS_RARELY_USED: bool = G::IS_RARELY_USED;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let found = by_single!(self.dtype, E => self.sweep::<E, S>(simd));
        found.unwrap_or_else(|| self.scalar())
    }
}

/// The results that one nesting of a sweep collects group by group.
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

    /// Adds the groups of a tile from lane `from` to the end of a channel: their scales, and the
    /// errors of those whose scale is not ordinary. Returns the lane after the last group, and
    /// whether a channel ends there.
    #[inline(always)]
    pub(super) fn take<E: Narrow, S: Simd>(
        &mut self,
        simd: S,
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
            return Ok((LANES, self.take_plain(simd, tile, made, nesting)));
        }
        self.take_each(tile, from, made, nesting, (dtype, params))
    }

    /// Adds a full tile whose scales are plain and within which no channel ends. Returns whether
    /// a channel ends with the tile.
    #[inline(always)]
    pub(super) fn take_plain<E: Narrow, S: Simd>(
        &mut self,
        simd: S,
        tile: &Tile<E>,
        made: &TileScales,
        nesting: usize,
    ) -> bool {
        match self.scales.uninformative() {
            Some((least, largest)) if simd.all_within(simd.f32s(made.stored), least, largest) => {
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
            let scale = if made.is_ordinary[lane] && absmax != 0.0 {
                made.stored[lane]
            } else {
                scalar_params()?.scale
            };
            // The first of the groups that are merged in this nesting represents all of them.
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
    fn sweep<E: Narrow, S: Simd>(&self, simd: S) -> GroupResult {
        let &GroupErrorsOf { dtype, bytes, layout, ref params, grid, detail, nestings } = self;
        let nestings = nestings.clamp(1, NESTINGS);
        let mut all = [(); NESTINGS]
            .map(|()| (ErrorPass::new(simd, LevelTracker::new()), GroupNotes::new(&detail)));
        let mut tiles = layout.tiles::<E>(bytes);
        while let Some(tile) = tiles.next(simd, 1 << (nestings - 1)) {
            let mut absmax = simd.f32s(tile.absmax);
            for (nesting, (pass, notes)) in all.iter_mut().enumerate().take(nestings) {
                absmax = paired(simd, absmax, nesting);
                let mut made = TileScales::EMPTY;
                made.make::<S, Clamped>(simd, absmax, params);
                let mut unseen = simd.u32s([0; LANES]);
                let mut from = 0;
                while from < LANES {
                    let (to, ends) =
                        notes.take(simd, &tile, from, &made, nesting, (dtype, params))?;
                    let ordinary = (from..to).filter(|&lane| made.is_ordinary[lane]);
                    let groups = ordinary.map(|lane| (tile.group(lane), made.divisors.at(lane)));
                    unseen = simd.or(unseen, pass.groups::<E, G>(grid, groups));
                    if ends {
                        notes.channel_sums.end(pass.end_channel());
                    }
                    from = to;
                }
                if simd.any_bit0(unseen) {
                    for lane in 0..LANES {
                        if made.is_ordinary[lane] {
                            let divisor = made.divisors.at(lane);
                            pass.mark_seen::<E, G>(grid, tile.group(lane), &divisor);
                        }
                    }
                }
            }
        }
        Ok(all.map(|(mut pass, notes)| {
            let GroupNotes { channel_sums, scales, scalar_sums } = notes;
            let channels = channel_sums.finish(pass.end_channel());
            let mut sums = pass.finish();
            sums.merge(&scalar_sums);
            GroupErrors { sums, scales, channels }
        }))
    }

    /// Measures one group after another, for any type.
    fn scalar(&self) -> GroupResult {
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
