//! Error sums over elements and their dequantized values.
//!
//! The sums of a block of elements are accumulated in f32, one per lane; the sums of the blocks are
//! added in f64. Every product is added with a fused multiply-add, emulated where the processor has
//! none, so the sums are the same on every machine.

use crate::quantization::kernels::array_lanes::{LANES, PAIR, fold};
use crate::quantization::kernels::channel_sums::ChannelBounds;
use crate::quantization::kernels::code_check::{CodeCheck, Reference};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Float, Narrow, Steps, by_type};
use crate::quantization::kernels::f16_bits::{
    Bits16, count_at_most, count_zeros, last_at_most, magnitudes, pairs, reciprocal_rounds_alike,
};
use crate::quantization::kernels::level_tracker::{LevelTracker, SeenLevels};
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{
    ByReciprocal, Clamped, Division, Divisor, Grid, by_grid, is_ordinary, round_one,
};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::simd::Simd;
use crate::quantization::loss::Loss;
use crate::quantization::statistics::ErrorSums;
use crate::tensor::FloatType;
use half::{bf16, f16};

/// Number of elements between two searches for new levels.
const RUN_ELEMENTS: usize = 256;
/// Number of elements after which the f32 sums are added to the f64 sums. A block may be a
/// few elements longer.
pub(super) const BLOCK_ELEMENTS: usize = 4 * RUN_ELEMENTS;

/// Splits off enough elements of `size` bytes to complete a block that already has `filled`
/// elements.
#[inline(always)]
pub(super) fn split_block(bytes: &[u8], filled: usize, size: usize) -> (&[u8], &[u8]) {
    let room = (BLOCK_ELEMENTS - filled.min(BLOCK_ELEMENTS - 1)) * size;
    bytes.split_at(room.min(bytes.len()))
}

/// The error sums of quantizing little-endian elements, which must be finite.
///
/// The dequantized value x̂ = scale · q is rounded to f32 (to f64 for F64).
pub fn error(dtype: FloatType, bytes: &[u8], params: Quantization) -> ErrorSums {
    error_by_channel(dtype, bytes, params, None, &mut SeenLevels::default()).0
}

/// [`error`] with the loss of each output channel, if there are `bounds`.
///
/// `seen` has the levels of previously measured elements. They count among the levels of the sums,
/// and the levels of these elements are added to them.
pub(crate) fn error_by_channel(
    dtype: FloatType,
    bytes: &[u8],
    params: Quantization,
    bounds: Option<ChannelBounds>,
    seen: &mut SeenLevels,
) -> (ErrorSums, Vec<Loss>) {
    let seen_levels = &mut seen.0;
    let found = by_grid!(params.qtype, params.rounding, |grid| {
        run(ErrorOf { dtype, bytes, params, grid, bounds, seen_levels, reference: () })
    });
    (found.sums, found.channels)
}

/// The result of a sweep over elements.
pub(super) struct ErrorSweep {
    pub sums: ErrorSums,
    pub channels: Vec<Loss>,
    /// Whether the codes equal the reference codes, if there are any.
    pub codes_match: bool,
}

pub(super) struct ErrorOf<'a, G, B> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub params: Quantization,
    /// The grid of `params`.
    pub grid: G,
    pub bounds: Option<ChannelBounds>,
    /// The levels that were seen before, to which those of the elements are added.
    pub seen_levels: &'a mut LevelTracker,
    /// The reference codes, if any.
    pub reference: B,
}

impl<G: Grid, B: Reference> Kernel for ErrorOf<'_, G, B> {
    type Output = ErrorSweep;
    const IS_RARELY_USED: bool = G::IS_RARELY_USED;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Self::Output {
        let dtype = self.dtype;
        if dtype == FloatType::F64 || !is_ordinary(self.params.scale) {
            return self.scalar(true);
        }
        let found = self.sweep(simd);
        // The squares of extremely large elements overflow f32.
        if found.sums.signal.is_finite() && found.sums.noise.is_finite() {
            found
        } else {
            self.scalar(found.codes_match)
        }
    }
}

impl<G: Grid, B: Reference> ErrorOf<'_, G, B> {
    #[inline(always)]
    fn sweep<S: Simd>(&mut self, simd: S) -> ErrorSweep {
        let &mut ErrorOf { dtype, bytes, params, grid, bounds, ref mut seen_levels, reference } =
            self;
        let divisor = Divisor::new(simd, params.scale, params.qtype.max());
        let mut pass = ErrorPass::with_codes(simd, **seen_levels, reference.codes(simd));
        let mut channels = Vec::new();
        for channel in bounds.unwrap_or(ChannelBounds::NONE).slices(bytes, dtype.size()) {
            match dtype {
                FloatType::BF16 => pass.elements_of_16_bits::<bf16, G>(grid, channel, &divisor),
                FloatType::F16 => pass.elements_of_16_bits::<f16, G>(grid, channel, &divisor),
                FloatType::F32 => pass.group::<f32, G>(grid, channel, &divisor),
                FloatType::F64 => {}
            }
            if bounds.is_some() {
                channels.push(pass.end_channel());
            }
        }
        **seen_levels = pass.seen_levels;
        let codes_match = pass.codes.codes_match(simd);
        ErrorSweep { sums: pass.finish(), channels, codes_match }
    }

    /// Returns the exact sums of all elements, one by one. The codes were compared before.
    fn scalar(&self, codes_match: bool) -> ErrorSweep {
        let ErrorOf { dtype, bytes, ref params, bounds, .. } = *self;
        let Some(bounds) = bounds else {
            return ErrorSweep {
                sums: scalar(dtype, bytes, params),
                channels: Vec::new(),
                codes_match,
            };
        };
        let mut all = ErrorSums::default();
        let channels = bounds.slices(bytes, dtype.size()).map(|channel| {
            let sums = scalar(dtype, channel, params);
            all.merge(&sums);
            Loss::from(&sums)
        });
        let channels = channels.collect();
        ErrorSweep { sums: all, channels, codes_match }
    }
}

/// The error sums of any elements by any scale, computed one by one in f64.
pub(super) fn scalar(dtype: FloatType, bytes: &[u8], params: &Quantization) -> ErrorSums {
    by_type!(dtype, E => scalar_of::<E>(bytes, params))
}

fn scalar_of<E: Element>(bytes: &[u8], params: &Quantization) -> ErrorSums {
    let mut sums = ErrorSums::default();
    let scale = E::Wide::from_f32(params.scale);
    for raw in bytes.chunks_exact(E::SIZE) {
        let element = E::read(raw);
        let (q, code) = round_one((element / scale).f64(), params);
        let hat = (scale * E::Wide::from_f32(q)).f64();
        let x = element.f64();
        let d = x - hat;
        sums.count += 1;
        sums.sum += x;
        sums.signal += x * x;
        sums.noise += d * d;
        sums.dot += x * hat;
        sums.reconstructed += hat * hat;
        sums.max_abs_error = sums.max_abs_error.max(d.abs());
        sums.non_zero += u64::from(x != 0.0);
        sums.zeroed += u64::from(x != 0.0 && q == 0.0);
        sums.levels.insert(code);
    }
    sums
}

/// The sums of one block.
///
/// With d = x − x̂, the sums of squares follow from three sums: Σx² = Σx·x̂ + Σd·x̂ + Σd² and Σx̂²
/// = Σx·x̂ − Σd·x̂. That is less work and more accurate: squares of x̂, and of 16-bit x, have so
/// few distinct values that the rounding errors of their sums would not cancel out.
#[derive(Clone, Copy)]
struct Block<S: Simd> {
    sum: S::F32,
    dot: S::F32,
    noise: S::F32,
    /// Σd·x̂
    excess: S::F32,
    max_abs_error: S::F32,
    /// Number of elements that are zero, and of those that become zero. Unlike the sums, these and
    /// the largest error are not reset after a block.
    zero_before: S::U32,
    zero_after: S::U32,
}

impl<S: Simd> Block<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        let (zero, none) = (simd.splat(0.0), simd.u32s([0; LANES]));
        Block {
            sum: zero,
            dot: zero,
            noise: zero,
            excess: zero,
            max_abs_error: zero,
            zero_before: none,
            zero_after: none,
        }
    }

    /// Adds elements. Returns which of their levels are new (see [`Simd::unseen`]), and their
    /// codes.
    #[inline(always)]
    fn step<G: Grid>(
        &mut self,
        simd: S,
        grid: G,
        x: S::F32,
        divisor: &Divisor,
        seen_levels: &LevelTracker,
    ) -> (S::U32, S::U32) {
        let (q, codes) = grid.round(simd, divisor.quotient(simd, x));
        self.add(simd, x, q, divisor);
        self.zero_before = simd.count_zeros(self.zero_before, x);
        self.zero_after = simd.count_zeros(self.zero_after, q);
        (simd.unseen(seen_levels, codes, q), codes)
    }

    /// Adds elements `x` that are rounded to the levels `q` to the sums.
    #[inline(always)]
    fn add(&mut self, simd: S, x: S::F32, q: S::F32, divisor: &Divisor) {
        let hat = simd.mul(simd.splat(divisor.scale), q);
        let d = simd.sub(x, hat);
        self.sum = simd.add(self.sum, x);
        self.dot = simd.mul_add(x, hat, self.dot);
        self.noise = simd.mul_add(d, d, self.noise);
        self.excess = simd.mul_add(d, hat, self.excess);
        self.max_abs_error = simd.max_abs(d, self.max_abs_error);
    }
}

/// Information from the bit patterns of some 16-bit elements.
#[derive(Clone, Copy)]
struct Patterns<S: Simd> {
    /// The smallest and the largest magnitude in each lane, as patterns.
    smallest: S::U16,
    largest: S::U16,
    /// Number of elements that become zero.
    zero_after: u32,
}

impl<S: Simd> Patterns<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        Patterns { smallest: simd.splat_u16(u16::MAX), largest: simd.splat_u16(0), zero_after: 0 }
    }

    /// Adds elements; `zero` is the largest magnitude that becomes zero.
    #[inline(always)]
    fn add(&mut self, simd: S, patterns: S::U16, zero: S::U16) {
        let magnitudes = magnitudes(simd, patterns);
        self.smallest = simd.min_u16(self.smallest, magnitudes);
        self.largest = simd.max_u16(self.largest, magnitudes);
        self.zero_after += simd.count_at_most(magnitudes, zero);
    }

    #[inline(always)]
    fn are_within(&self, simd: S, bound: S::U16) -> bool {
        simd.count_at_most(self.largest, bound) as usize == PAIR
    }

    #[inline(always)]
    fn have_zeros(&self, simd: S) -> bool {
        simd.count_at_most(self.smallest, simd.splat_u16(0)) > 0
    }
}

/// The sums of all channels that have ended.
#[derive(Clone, Copy, Default)]
struct EndedChannels {
    dot: f64,
    noise: f64,
    excess: f64,
}

/// A sweep over elements, one group after another.
#[derive(Clone, Copy)]
pub(super) struct ErrorPass<S: Simd, C = ()> {
    simd: S,
    block: Block<S>,
    /// Number of elements in the block.
    filled: usize,
    pub(super) seen_levels: LevelTracker,
    sum: S::F64,
    dot: S::F64,
    noise: S::F64,
    excess: S::F64,
    ended: EndedChannels,
    count: u64,
    /// Padding is subtracted here and counted in the block, so these may wrap around.
    zero_before: u64,
    zero_after: u64,
    codes: C,
}

impl<S: Simd> ErrorPass<S> {
    #[inline(always)]
    pub(super) fn new(simd: S, seen_levels: LevelTracker) -> Self {
        ErrorPass::with_codes(simd, seen_levels, ())
    }
}

impl<S: Simd, C: CodeCheck<S>> ErrorPass<S, C> {
    /// A sweep that also compares the codes of the elements. `watch` are the levels seen before.
    #[inline(always)]
    fn with_codes(simd: S, seen_levels: LevelTracker, codes: C) -> Self {
        ErrorPass {
            codes,
            simd,
            block: Block::new(simd),
            filled: 0,
            seen_levels,
            sum: simd.zero_f64(),
            dot: simd.zero_f64(),
            noise: simd.zero_f64(),
            excess: simd.zero_f64(),
            ended: EndedChannels::default(),
            count: 0,
            zero_before: 0,
            zero_after: 0,
        }
    }

    /// Adds elements that share a scale.
    #[inline(always)]
    pub(super) fn group<E: Narrow, G: Grid>(&mut self, grid: G, bytes: &[u8], divisor: &Divisor) {
        for run in bytes.chunks(RUN_ELEMENTS * E::SIZE) {
            let unseen = self.groups::<E, G>(grid, std::iter::once((run, *divisor)));
            if self.simd.any_bit0(unseen) {
                self.mark_seen::<E, G>(grid, run, divisor);
            }
        }
    }

    /// Adds 16-bit elements that share a scale. Comparisons of their bit patterns, 32 at a time,
    /// show which are zero, which become zero, and whether a level may be new.
    #[inline(always)]
    pub(super) fn elements_of_16_bits<E: Bits16, G: Grid>(
        &mut self,
        grid: G,
        bytes: &[u8],
        divisor: &Divisor,
    ) {
        if !G::IS_HALF_EVEN {
            return self.group::<E, G>(grid, bytes, divisor);
        }
        let simd = self.simd;
        let last = divisor.levels();
        let zero = simd.splat_u16(last_at_most::<E>(divisor, 0.0));
        let unclamped = simd.splat_u16(last_at_most::<E>(divisor, last));
        let by_reciprocal = reciprocal_rounds_alike::<E, S>(simd, divisor, last);
        let mut seen = self.bound::<E>(divisor);
        let mut left = bytes;
        while !left.is_empty() {
            let part;
            (part, left) = split_block(left, self.filled, E::SIZE);
            let (pairs, rest) = pairs::<E>(part);
            for run in pairs.chunks(2 * RUN_ELEMENTS / PAIR) {
                let mut found = None;
                if by_reciprocal {
                    found = Some(self.pairs::<E, G, ByReciprocal>(grid, run, divisor, zero))
                        .filter(|(.., patterns)| patterns.are_within(simd, unclamped));
                }
                let (block, codes, patterns) = match found {
                    Some(found) => found,
                    None => self.pairs::<E, G, Clamped>(grid, run, divisor, zero),
                };
                (self.block, self.codes) = (block, codes);
                self.zero_after = self.zero_after.wrapping_add(patterns.zero_after.into());
                if patterns.have_zeros(simd) {
                    let zeros =
                        run.iter().map(|raw| u64::from(count_zeros(simd, simd.load_u16(raw))));
                    self.zero_before = self.zero_before.wrapping_add(zeros.sum());
                }
                if !seen.is_some_and(|bound| patterns.are_within(simd, bound)) {
                    self.mark_pairs_seen::<E, G>(grid, run, divisor, &mut seen);
                }
            }
            self.filled += pairs.len() * PAIR;
            self.group::<E, G>(grid, rest, divisor);
            if self.filled >= BLOCK_ELEMENTS {
                self.end_block();
            }
        }
    }

    /// The block and the code check after these elements, and what their patterns say.
    #[inline(always)]
    fn pairs<E: Bits16, G: Grid, D: Division>(
        &self,
        grid: G,
        pairs: &[[E::Raw; 2]],
        divisor: &Divisor,
        zero: S::U16,
    ) -> (Block<S>, C, Patterns<S>) {
        let simd = self.simd;
        let (mut block, mut codes, mut patterns) = (self.block, self.codes, Patterns::new(simd));
        for raw in pairs {
            patterns.add(simd, simd.load_u16(raw), zero);
            let [a, b] = E::load_pair(simd, raw);
            let (t, u) = (D::quotient(simd, a, divisor), D::quotient(simd, b, divisor));
            if C::IS_COMPARING {
                let ((q, first), (r, second)) = (grid.round(simd, t), grid.round(simd, u));
                block.add(simd, a, q, divisor);
                block.add(simd, b, r, divisor);
                codes.compare_pair::<E>(simd, [first, second]);
            } else {
                block.add(simd, a, grid.nearest(simd, t), divisor);
                block.add(simd, b, grid.nearest(simd, u), divisor);
            }
        }
        (block, codes, patterns)
    }

    /// Marks the levels of these elements as seen. `seen` is the pattern returned by
    /// [`ErrorPass::bound`], which is updated.
    #[inline(always)]
    fn mark_pairs_seen<E: Bits16, G: Grid>(
        &mut self,
        grid: G,
        pairs: &[[E::Raw; 2]],
        divisor: &Divisor,
        seen: &mut Option<S::U16>,
    ) {
        let simd = self.simd;
        let before = self.seen_levels.bound();
        for raw in pairs {
            let is_inside = |bound| count_at_most(simd, simd.load_u16(raw), bound) as usize == PAIR;
            if !seen.is_some_and(is_inside) {
                self.mark_seen::<E, G>(grid, raw.as_flattened().as_flattened(), divisor);
            }
        }
        if self.seen_levels.bound() != before {
            *seen = self.bound::<E>(divisor);
        }
    }

    /// The largest pattern up to which every level was seen; `None` if zero was not seen.
    #[inline(always)]
    fn bound<E: Bits16>(&self, divisor: &Divisor) -> Option<S::U16> {
        let level = self.seen_levels.bound()?;
        Some(self.simd.splat_u16(last_at_most::<E>(divisor, level)))
    }

    /// Adds groups with their divisors. Bit 0 of some lane of the result is set if a level may
    /// be new. The block's sums stay in registers from group to group, because groups may have
    /// only a few elements.
    #[inline(always)]
    pub(super) fn groups<'b, E: Narrow, G: Grid>(
        &mut self,
        grid: G,
        groups: impl Iterator<Item = (&'b [u8], Divisor)>,
    ) -> S::U32 {
        let simd = self.simd;
        let seen_levels = self.seen_levels;
        let mut unseen = simd.u32s([0; LANES]);
        let (mut block, mut compared) = (self.block, self.codes);
        for (group, divisor) in groups {
            for run in group.chunks(RUN_ELEMENTS * E::SIZE) {
                let (whole, tail) = E::split(run);
                for raw in whole {
                    let x = E::load(simd, raw);
                    let (new, codes) = block.step(simd, grid, x, &divisor, &seen_levels);
                    unseen = simd.or(unseen, new);
                    compared.compare(simd, codes, LANES);
                }
                if !tail.is_empty() {
                    let x = E::load(simd, &E::pad(tail));
                    let (new, codes) = block.step(simd, grid, x, &divisor, &seen_levels);
                    unseen = simd.or(unseen, new);
                    compared.compare(simd, codes, tail.len() / E::SIZE);
                    // The padding adds nothing to the sums but is counted as zeros.
                    let padding = (LANES - tail.len() / E::SIZE) as u64;
                    self.zero_before = self.zero_before.wrapping_sub(padding);
                    self.zero_after = self.zero_after.wrapping_sub(padding);
                }
                self.filled += run.len() / E::SIZE;
                if self.filled >= BLOCK_ELEMENTS {
                    self.block = block;
                    self.end_block();
                    block = self.block;
                }
            }
        }
        (self.block, self.codes) = (block, compared);
        unseen
    }

    /// Marks the levels of these elements as seen.
    #[inline(always)]
    pub(super) fn mark_seen<E: Narrow, G: Grid>(&mut self, grid: G, run: &[u8], divisor: &Divisor) {
        let simd = self.simd;
        let steps = Steps::<E>::of(run);
        for i in 0..steps.len() {
            let x = E::load(simd, steps.at(i));
            let (q, codes) = grid.round(simd, divisor.quotient(simd, x));
            if simd.any_bit0(simd.unseen(&self.seen_levels, codes, q)) {
                self.seen_levels.add(|i| grid.level(i), &simd.array_u32(codes)[..steps.count(i)]);
            }
        }
    }

    /// Adds the block's sums to the f64 sums.
    #[inline(always)]
    fn end_block(&mut self) {
        let simd = self.simd;
        let zero = simd.splat(0.0);
        let block = &mut self.block;
        self.sum = simd.add_f64(self.sum, simd.widen(std::mem::replace(&mut block.sum, zero)));
        self.dot = simd.add_f64(self.dot, simd.widen(std::mem::replace(&mut block.dot, zero)));
        self.noise =
            simd.add_f64(self.noise, simd.widen(std::mem::replace(&mut block.noise, zero)));
        self.excess =
            simd.add_f64(self.excess, simd.widen(std::mem::replace(&mut block.excess, zero)));
        self.count += self.filled as u64;
        self.filled = 0;
    }

    /// Ends a channel; returns the loss of the elements since the last channel ended.
    #[inline(always)]
    pub(super) fn end_channel(&mut self) -> Loss {
        self.end_block();
        let zero = self.simd.zero_f64();
        let [dot, noise, excess] = self.folded();
        (self.dot, self.noise, self.excess) = (zero, zero, zero);
        self.ended.dot += dot;
        self.ended.noise += noise;
        self.ended.excess += excess;
        Loss { signal: dot + excess + noise, noise }
    }

    #[inline(always)]
    fn folded(&self) -> [f64; 3] {
        let simd = self.simd;
        [self.dot, self.noise, self.excess].map(|sum| fold(simd.array_f64(sum), |a, b| a + b))
    }

    #[inline(always)]
    pub(super) fn finish(mut self) -> ErrorSums {
        self.end_block();
        let [dot, noise, excess] = self.folded();
        let EndedChannels { dot: d, noise: n, excess: e } = self.ended;
        let (dot, noise, excess) = (d + dot, n + noise, e + excess);
        // The subtracted padding wraps around until the zeros of the block are added.
        let sum = |counts| self.simd.array_u32(counts).into_iter().map(u64::from).sum();
        let zero_before = self.zero_before.wrapping_add(sum(self.block.zero_before));
        let zero_after = self.zero_after.wrapping_add(sum(self.block.zero_after));
        ErrorSums {
            count: self.count,
            sum: fold(self.simd.array_f64(self.sum), |a, b| a + b),
            signal: dot + excess + noise,
            noise,
            dot,
            reconstructed: dot - excess,
            max_abs_error: self.simd.largest(self.block.max_abs_error).into(),
            non_zero: self.count - zero_before,
            zeroed: zero_after - zero_before,
            levels: self.seen_levels.seen(),
        }
    }
}
