//! What quantizing loses: sums over the elements and their dequantized counterparts.
//!
//! A block's sums are in the elements' precision, sixteen of each; the blocks' are added
//! up in f64. Every product is added to its sum in one rounding, whether the processor has an
//! instruction for that or not, so they are the same on every machine.

use crate::quantization::kernels::array_lanes::{LANES, PAIR, fold};
use crate::quantization::kernels::channel_sums::ChannelBounds;
use crate::quantization::kernels::code_check::{CodeCheck, Reference};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::element::{Element, Float, Narrow, Steps, by_type};
use crate::quantization::kernels::f16_bits::{
    Half, count_at_most, count_zeros, last_at_most, magnitudes, pairs, reciprocal_will_do,
};
use crate::quantization::kernels::kernel::Kernel;
use crate::quantization::kernels::level_tracker::{LevelTracker, SeenLevels};
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::rounding::{
    ByReciprocal, Clamped, Division, Divisor, Grid, by_grid, is_ordinary, round_one,
};
use crate::quantization::kernels::simd::Level;
use crate::quantization::loss::Loss;
use crate::quantization::statistics::ErrorSums;
use crate::tensor::FloatType;
use half::{bf16, f16};

/// Elements between two looks for levels not seen before.
const RUN: usize = 256;
/// Elements whose sums are in f32, or a few more.
pub(super) const BLOCK: usize = 4 * RUN;

/// As many elements of `size` bytes as fill up a block that holds `filled`, and those after
/// them.
#[inline(always)]
pub(super) fn filling_up(bytes: &[u8], filled: usize, size: usize) -> (&[u8], &[u8]) {
    let room = (BLOCK - filled.min(BLOCK - 1)) * size;
    bytes.split_at(room.min(bytes.len()))
}

/// What quantizing every element loses. The elements must be finite.
///
/// x̂ = scale · q is rounded to f32 (to f64 for F64) before it is compared.
pub fn error(dtype: FloatType, bytes: &[u8], params: Quantization) -> ErrorSums {
    error_by_channel(dtype, bytes, params, None, &mut SeenLevels::default()).0
}

/// The same after other elements, whose levels were `seen` and are among the sums' levels;
/// and what each output channel loses, where they are cut.
pub fn error_by_channel(
    dtype: FloatType,
    bytes: &[u8],
    params: Quantization,
    bounds: Option<ChannelBounds>,
    seen: &mut SeenLevels,
) -> (ErrorSums, Vec<Loss>) {
    let watch = &mut seen.0;
    let found = by_grid!(params.qtype, params.rounding, |grid| {
        run(ErrorOf { dtype, bytes, params, grid, bounds, watch, beside: () })
    });
    (found.sums, found.channels)
}

/// What a sweep finds.
pub(super) struct Found {
    pub sums: ErrorSums,
    pub channels: Vec<Loss>,
    /// Whether the codes are those beside the elements.
    pub are_same: bool,
}

pub(super) struct ErrorOf<'a, G, B> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub params: Quantization,
    /// That of `how`.
    pub grid: G,
    pub bounds: Option<ChannelBounds>,
    /// The levels that were seen before.
    pub watch: &'a mut LevelTracker,
    /// What the elements' codes are compared with.
    pub beside: B,
}

impl<G: Grid, B: Reference> Kernel for ErrorOf<'_, G, B> {
    type Output = Found;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(mut self, level: L) -> Self::Output {
        let dtype = self.dtype;
        if dtype == FloatType::F64 || !is_ordinary(self.params.scale) {
            return self.scalar(true);
        }
        let found = self.sweep(level);
        // Elements beyond all reason have squares beyond f32.
        match found.sums.signal.is_finite() && found.sums.noise.is_finite() {
            true => found,
            false => self.scalar(found.are_same),
        }
    }
}

impl<G: Grid, B: Reference> ErrorOf<'_, G, B> {
    #[inline(always)]
    fn sweep<L: Level>(&mut self, level: L) -> Found {
        let &mut ErrorOf { dtype, bytes, params, grid, bounds, ref mut watch, beside } = self;
        let divisor = Divisor::new(level, params.scale, params.qtype.max());
        let mut pass = Pass::beside(level, **watch, beside.codes(level));
        let mut channels = Vec::new();
        // All in one where nothing is cut.
        let whole = ChannelBounds { first: usize::MAX, length: usize::MAX };
        for channel in bounds.unwrap_or(whole).slices(bytes, dtype.size()) {
            match dtype {
                FloatType::BF16 => pass.halves::<bf16, G>(grid, channel, &divisor),
                FloatType::F16 => pass.halves::<f16, G>(grid, channel, &divisor),
                FloatType::F32 => pass.group::<f32, G>(grid, channel, &divisor),
                FloatType::F64 => {}
            }
            if bounds.is_some() {
                channels.push(pass.cut());
            }
        }
        **watch = pass.watch;
        let are_same = pass.codes.are_same(level);
        Found { sums: pass.finish(), channels, are_same }
    }

    /// The codes were compared before.
    fn scalar(&self, are_same: bool) -> Found {
        let ErrorOf { dtype, bytes, ref params, bounds, .. } = *self;
        let Some(bounds) = bounds else {
            return Found { sums: scalar(dtype, bytes, params), channels: Vec::new(), are_same };
        };
        let mut all = ErrorSums::default();
        let channels = bounds.slices(bytes, dtype.size()).map(|channel| {
            let sums = scalar(dtype, channel, params);
            all.merge(&sums);
            Loss::from(&sums)
        });
        let channels = channels.collect();
        Found { sums: all, channels, are_same }
    }
}

/// Exact for any type, scale and elements, one by one.
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

/// The sums of one block. With d = x − x̂, Σx² and Σx̂² follow from these three:
/// Σx² = Σx·x̂ + Σd·x̂ + Σd² and Σx̂² = Σx·x̂ − Σd·x̂. That is less work, and more exact:
/// squares of x̂, and of 16-bit x, have so few values that the roundings of their sum do
/// not cancel out.
#[derive(Clone, Copy)]
struct Block<L: Level> {
    sum: L::F32,
    dot: L::F32,
    noise: L::F32,
    /// Σd·x̂
    excess: L::F32,
    max_abs_error: L::F32,
    /// Elements that are zero, and that become zero. These and the largest error go on from
    /// block to block.
    zero_before: L::U32,
    zero_after: L::U32,
}

impl<L: Level> Block<L> {
    #[inline(always)]
    fn new(l: L) -> Self {
        let (zero, none) = (l.splat(0.0), l.u32s([0; LANES]));
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

    /// Adds elements; returns what the level says of their codes, and these.
    #[inline(always)]
    fn step<G: Grid>(
        &mut self,
        l: L,
        grid: G,
        x: L::F32,
        divisor: &Divisor,
        watch: &LevelTracker,
    ) -> (L::U32, L::U32) {
        let (q, codes) = grid.round(l, divisor.quotient(l, x));
        self.add(l, x, q, divisor);
        self.zero_before = l.count_zeros(self.zero_before, x);
        self.zero_after = l.count_zeros(self.zero_after, q);
        (l.unseen(watch, codes, q), codes)
    }

    /// Adds elements to the sums by their levels.
    #[inline(always)]
    fn add(&mut self, l: L, x: L::F32, q: L::F32, divisor: &Divisor) {
        let hat = l.mul(l.splat(divisor.scale), q);
        let d = l.sub(x, hat);
        self.sum = l.add(self.sum, x);
        self.dot = l.mul_add(x, hat, self.dot);
        self.noise = l.mul_add(d, d, self.noise);
        self.excess = l.mul_add(d, hat, self.excess);
        self.max_abs_error = l.max_abs(d, self.max_abs_error);
    }
}

/// What is found out about the patterns of some elements of sixteen bits.
#[derive(Clone, Copy)]
struct Patterns<L: Level> {
    /// In each lane, of the magnitudes.
    smallest: L::U16,
    largest: L::U16,
    /// How many of them become zero.
    zero_after: u32,
}

impl<L: Level> Patterns<L> {
    #[inline(always)]
    fn new(l: L) -> Self {
        Patterns { smallest: l.splat_u16(u16::MAX), largest: l.splat_u16(0), zero_after: 0 }
    }

    /// `zero`: the largest magnitude that becomes zero.
    #[inline(always)]
    fn add(&mut self, l: L, patterns: L::U16, zero: L::U16) {
        let magnitudes = magnitudes(l, patterns);
        self.smallest = l.min_u16(self.smallest, magnitudes);
        self.largest = l.max_u16(self.largest, magnitudes);
        self.zero_after += l.count_at_most(magnitudes, zero);
    }

    #[inline(always)]
    fn are_within(&self, l: L, bound: L::U16) -> bool {
        l.count_at_most(self.largest, bound) as usize == PAIR
    }

    #[inline(always)]
    fn have_zeros(&self, l: L) -> bool {
        l.count_at_most(self.smallest, l.splat_u16(0)) > 0
    }
}

/// The sums of the channels that were cut off.
#[derive(Clone, Copy, Default)]
struct EndedChannels {
    dot: f64,
    noise: f64,
    excess: f64,
}

/// A sweep over elements, group after group.
#[derive(Clone, Copy)]
pub(super) struct Pass<L: Level, C = ()> {
    level: L,
    block: Block<L>,
    /// Elements in the block.
    filled: usize,
    pub(super) watch: LevelTracker,
    sum: L::F64,
    dot: L::F64,
    noise: L::F64,
    excess: L::F64,
    /// Of the channels that were cut off.
    cut: EndedChannels,
    count: u64,
    /// Reference those that the block counts.
    zero_before: u64,
    zero_after: u64,
    codes: C,
}

impl<L: Level> Pass<L> {
    #[inline(always)]
    pub(super) fn after(l: L, watch: LevelTracker) -> Self {
        Pass::beside(l, watch, ())
    }
}

impl<L: Level, C: CodeCheck<L>> Pass<L, C> {
    /// Compares the codes with others on the way.
    #[inline(always)]
    fn beside(l: L, watch: LevelTracker, codes: C) -> Self {
        Pass {
            codes,
            level: l,
            block: Block::new(l),
            filled: 0,
            watch,
            sum: l.zero_f64(),
            dot: l.zero_f64(),
            noise: l.zero_f64(),
            excess: l.zero_f64(),
            cut: EndedChannels::default(),
            count: 0,
            zero_before: 0,
            zero_after: 0,
        }
    }

    /// Adds the elements of a group that share a scale.
    #[inline(always)]
    pub(super) fn group<E: Narrow, G: Grid>(&mut self, grid: G, bytes: &[u8], divisor: &Divisor) {
        for run in bytes.chunks(RUN * E::SIZE) {
            let unseen = self.groups::<E, G>(grid, std::iter::once((run, *divisor)));
            if self.level.any_bit0(unseen) {
                self.see::<E, G>(grid, run, divisor);
            }
        }
    }

    /// The same of elements of sixteen bits. Whether they are zero, become zero, or may hold a
    /// level not seen before is asked of their patterns, 32 at a time.
    #[inline(always)]
    pub(super) fn halves<E: Half, G: Grid>(&mut self, grid: G, bytes: &[u8], divisor: &Divisor) {
        if !G::IS_HALF_EVEN {
            return self.group::<E, G>(grid, bytes, divisor);
        }
        let l = self.level;
        let last = divisor.levels();
        let zero = l.splat_u16(last_at_most::<E>(divisor, 0.0));
        let unclamped = l.splat_u16(last_at_most::<E>(divisor, last));
        let by_reciprocal = reciprocal_will_do::<E, L>(l, divisor, last);
        let mut seen = self.bound::<E>(divisor);
        let mut left = bytes;
        while !left.is_empty() {
            let part;
            (part, left) = filling_up(left, self.filled, E::SIZE);
            let (pairs, rest) = pairs::<E>(part);
            for run in pairs.chunks(2 * RUN / PAIR) {
                let mut found = None;
                if by_reciprocal {
                    found = Some(self.pairs::<E, G, ByReciprocal>(grid, run, divisor, zero))
                        .filter(|(.., patterns)| patterns.are_within(l, unclamped));
                }
                let (block, codes, patterns) = match found {
                    Some(found) => found,
                    None => self.pairs::<E, G, Clamped>(grid, run, divisor, zero),
                };
                (self.block, self.codes) = (block, codes);
                self.zero_after = self.zero_after.wrapping_add(patterns.zero_after.into());
                if patterns.have_zeros(l) {
                    let zeros = run.iter().map(|raw| u64::from(count_zeros(l, l.load_u16(raw))));
                    self.zero_before = self.zero_before.wrapping_add(zeros.sum());
                }
                if !seen.is_some_and(|bound| patterns.are_within(l, bound)) {
                    self.see_pairs::<E, G>(grid, run, divisor, &mut seen);
                }
            }
            self.filled += pairs.len() * PAIR;
            self.group::<E, G>(grid, rest, divisor);
            if self.filled >= BLOCK {
                self.end_block();
            }
        }
    }

    /// The block and the codes with these elements, and what their patterns are.
    #[inline(always)]
    fn pairs<E: Half, G: Grid, D: Division>(
        &self,
        grid: G,
        pairs: &[[E::Raw; 2]],
        divisor: &Divisor,
        zero: L::U16,
    ) -> (Block<L>, C, Patterns<L>) {
        let l = self.level;
        let (mut block, mut codes, mut patterns) = (self.block, self.codes, Patterns::new(l));
        for raw in pairs {
            patterns.add(l, l.load_u16(raw), zero);
            let [a, b] = E::load_pair(l, raw);
            let (t, u) = (D::quotient(l, a, divisor), D::quotient(l, b, divisor));
            if C::ARE_THERE {
                let ((q, first), (r, second)) = (grid.round(l, t), grid.round(l, u));
                block.add(l, a, q, divisor);
                block.add(l, b, r, divisor);
                codes.compare_pair::<E>(l, [first, second]);
            } else {
                block.add(l, a, grid.nearest(l, t), divisor);
                block.add(l, b, grid.nearest(l, u), divisor);
            }
        }
        (block, codes, patterns)
    }

    /// Takes the levels of these elements as seen; `seen` is the bound before and after it.
    #[inline(always)]
    fn see_pairs<E: Half, G: Grid>(
        &mut self,
        grid: G,
        pairs: &[[E::Raw; 2]],
        divisor: &Divisor,
        seen: &mut Option<L::U16>,
    ) {
        let l = self.level;
        let before = self.watch.bound();
        for raw in pairs {
            let is_inside = |bound| count_at_most(l, l.load_u16(raw), bound) as usize == PAIR;
            if !seen.is_some_and(is_inside) {
                self.see::<E, G>(grid, raw.as_flattened().as_flattened(), divisor);
            }
        }
        if self.watch.bound() != before {
            *seen = self.bound::<E>(divisor);
        }
    }

    /// The pattern up to which every level was seen; `None` while zero was not.
    #[inline(always)]
    fn bound<E: Half>(&self, divisor: &Divisor) -> Option<L::U16> {
        let level = self.watch.bound()?;
        Some(self.level.splat_u16(last_at_most::<E>(divisor, level)))
    }

    /// Adds groups; bit 0 of a lane says that a level may be new. The block's sums stay in
    /// registers from group to group: a group may be but a few elements.
    #[inline(always)]
    pub(super) fn groups<'b, E: Narrow, G: Grid>(
        &mut self,
        grid: G,
        groups: impl Iterator<Item = (&'b [u8], Divisor)>,
    ) -> L::U32 {
        let l = self.level;
        let watch = self.watch;
        let mut unseen = l.u32s([0; LANES]);
        let (mut block, mut compared) = (self.block, self.codes);
        for (group, divisor) in groups {
            for run in group.chunks(RUN * E::SIZE) {
                let (whole, tail) = E::split(run);
                for raw in whole {
                    let x = E::load(l, raw);
                    let (new, codes) = block.step(l, grid, x, &divisor, &watch);
                    unseen = l.or(unseen, new);
                    compared.compare(l, codes, LANES);
                }
                if !tail.is_empty() {
                    let x = E::load(l, &E::pad(tail));
                    let (new, codes) = block.step(l, grid, x, &divisor, &watch);
                    unseen = l.or(unseen, new);
                    compared.compare(l, codes, tail.len() / E::SIZE);
                    // The zeros that fill up the lanes add nothing to any sum, but to these.
                    let filling = (LANES - tail.len() / E::SIZE) as u64;
                    self.zero_before = self.zero_before.wrapping_sub(filling);
                    self.zero_after = self.zero_after.wrapping_sub(filling);
                }
                self.filled += run.len() / E::SIZE;
                if self.filled >= BLOCK {
                    self.block = block;
                    self.end_block();
                    block = self.block;
                }
            }
        }
        (self.block, self.codes) = (block, compared);
        unseen
    }

    /// Takes the levels of these elements as seen.
    #[inline(always)]
    pub(super) fn see<E: Narrow, G: Grid>(&mut self, grid: G, run: &[u8], divisor: &Divisor) {
        let l = self.level;
        let steps = Steps::<E>::of(run);
        for i in 0..steps.len() {
            let x = E::load(l, steps.at(i));
            let (q, codes) = grid.round(l, divisor.quotient(l, x));
            if l.any_bit0(l.unseen(&self.watch, codes, q)) {
                self.watch.add(|i| grid.level(i), &l.array_u32(codes)[..steps.count(i)]);
            }
        }
    }

    /// Adds the block's sums to the total.
    #[inline(always)]
    fn end_block(&mut self) {
        let l = self.level;
        let zero = l.splat(0.0);
        let block = &mut self.block;
        self.sum = l.add_f64(self.sum, l.widen(std::mem::replace(&mut block.sum, zero)));
        self.dot = l.add_f64(self.dot, l.widen(std::mem::replace(&mut block.dot, zero)));
        self.noise = l.add_f64(self.noise, l.widen(std::mem::replace(&mut block.noise, zero)));
        self.excess = l.add_f64(self.excess, l.widen(std::mem::replace(&mut block.excess, zero)));
        self.count += self.filled as u64;
        self.filled = 0;
    }

    /// What the elements since the last cut lose.
    #[inline(always)]
    pub(super) fn cut(&mut self) -> Loss {
        self.end_block();
        let zero = self.level.zero_f64();
        let [dot, noise, excess] = self.folded();
        (self.dot, self.noise, self.excess) = (zero, zero, zero);
        self.cut.dot += dot;
        self.cut.noise += noise;
        self.cut.excess += excess;
        Loss { signal: dot + excess + noise, noise }
    }

    #[inline(always)]
    fn folded(&self) -> [f64; 3] {
        let l = self.level;
        [self.dot, self.noise, self.excess].map(|sum| fold(l.array_f64(sum), |a, b| a + b))
    }

    #[inline(always)]
    pub(super) fn finish(mut self) -> ErrorSums {
        self.end_block();
        let [dot, noise, excess] = self.folded();
        let EndedChannels { dot: d, noise: n, excess: e } = self.cut;
        let (dot, noise, excess) = (d + dot, n + noise, e + excess);
        // What the filling took away is wrapped around until these are added.
        let sum = |counts| self.level.array_u32(counts).into_iter().map(u64::from).sum();
        let zero_before = self.zero_before.wrapping_add(sum(self.block.zero_before));
        let zero_after = self.zero_after.wrapping_add(sum(self.block.zero_after));
        ErrorSums {
            count: self.count,
            sum: fold(self.level.array_f64(self.sum), |a, b| a + b),
            signal: dot + excess + noise,
            noise,
            dot,
            reconstructed: dot - excess,
            max_abs_error: self.level.largest(self.block.max_abs_error).into(),
            non_zero: self.count - zero_before,
            zeroed: zero_after - zero_before,
            levels: self.watch.seen(),
        }
    }
}
