//! What quantizing loses: sums over the elements and their dequantized counterparts.
//!
//! A block's sums are in the elements' precision, sixteen of each; the blocks' are added
//! up in f64. No product is fused with its sum, so they are the same on every machine.

use super::cuts::Cuts;
use super::dispatch::{Kernel, run};
use super::halves::{Half, count_at_most, count_zeros, last_at_most, pairs, reciprocal_will_do};
use super::lanes::{Element, Float, LANES, Narrow, PAIR, Steps, by_type, fold};
use super::level::Level;
use super::levels::{Seen, Watch};
use super::moments::moments;
use super::rounding::{Divisor, Grid, IntegersHalfEven, by_grid, is_ordinary, round_one};
use super::{Quantization, QuantizationType, Rounding};
use crate::quantization::{ErrorSums, Loss};
use crate::tensor::FloatType;
use half::{bf16, f16};

/// Elements between two looks for levels not seen before.
pub(super) const RUN: usize = 256;
/// Elements whose sums are in f32, or a few more.
pub(super) const BLOCK: usize = 4 * RUN;

/// What quantizing every element loses. The elements must be finite.
///
/// x̂ = scale · q is rounded to f32 (to f64 for F64) before it is compared.
pub fn error(dtype: FloatType, bytes: &[u8], how: Quantization) -> ErrorSums {
    error_by_channel(dtype, bytes, how, None, &mut Seen::default()).0
}

/// The same after other elements, whose levels were `seen` and are among the sums' levels;
/// and what each output channel loses, where they are cut.
pub fn error_by_channel(
    dtype: FloatType,
    bytes: &[u8],
    how: Quantization,
    cuts: Option<Cuts>,
    seen: &mut Seen,
) -> (ErrorSums, Vec<Loss>) {
    let watch = &mut seen.0;
    let found = by_grid!(how.qtype, how.rounding, |grid| {
        run(ErrorOf::<_, false> { dtype, bytes, how, grid, cuts, watch })
    });
    (found.sums, found.channels)
}

/// The same with Σx, and Σx² in f64 throughout: all that a mean and a standard deviation need,
/// with one look at the elements.
pub fn error_and_sum(
    dtype: FloatType,
    bytes: &[u8],
    how: Quantization,
    seen: &mut Seen,
) -> (ErrorSums, f64) {
    let is_swept = dtype != FloatType::F64
        && how.qtype != QuantizationType::F8E4M3
        && how.rounding == Rounding::HalfEven;
    if is_swept {
        let (grid, cuts, watch) = (IntegersHalfEven, None, &mut seen.0);
        let found = run(ErrorOf::<_, true> { dtype, bytes, how, grid, cuts, watch });
        return (found.sums, found.sum);
    }
    let (mut sums, _) = error_by_channel(dtype, bytes, how, None, seen);
    let moments = moments(dtype, bytes);
    sums.signal = moments.sum_sq;
    (sums, moments.sum)
}

/// What a sweep finds.
pub(super) struct Found {
    pub sums: ErrorSums,
    pub channels: Vec<Loss>,
    /// Σx, where it is asked for.
    pub sum: f64,
}

/// With `MOMENTS` Σx and Σx² are added up in f64, element by element.
pub(super) struct ErrorOf<'a, G, const MOMENTS: bool> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub how: Quantization,
    /// That of `how`.
    pub grid: G,
    pub cuts: Option<Cuts>,
    /// The levels that were seen before.
    pub watch: &'a mut Watch,
}

impl<G: Grid, const MOMENTS: bool> Kernel for ErrorOf<'_, G, MOMENTS> {
    type Output = Found;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(mut self, level: L) -> Self::Output {
        let dtype = self.dtype;
        let found = match dtype {
            _ if !is_ordinary(self.how.scale) => None,
            FloatType::F64 => None,
            _ => Some(self.sweep(level)),
        };
        match found {
            // Elements beyond all reason have squares beyond f32.
            Some(found) if found.sums.signal.is_finite() && found.sums.noise.is_finite() => found,
            _ => self.careful(),
        }
    }
}

impl<G: Grid, const MOMENTS: bool> ErrorOf<'_, G, MOMENTS> {
    #[inline(always)]
    fn sweep<L: Level>(&mut self, level: L) -> Found {
        let &mut ErrorOf { dtype, bytes, how, grid, cuts, ref mut watch } = self;
        let divisor = Divisor::new(level, how.scale, how.qtype.max());
        let mut pass = Pass::<L, MOMENTS>::after(level, **watch);
        let mut channels = Vec::new();
        // All in one where nothing is cut.
        let whole = Cuts { first: usize::MAX, length: usize::MAX };
        for channel in cuts.unwrap_or(whole).slices(bytes, dtype.size()) {
            match dtype {
                FloatType::BF16 => pass.halves::<bf16, G>(grid, channel, &divisor),
                FloatType::F16 => pass.halves::<f16, G>(grid, channel, &divisor),
                FloatType::F32 => pass.group::<f32, G>(grid, channel, &divisor),
                FloatType::F64 => {}
            }
            if cuts.is_some() {
                channels.push(pass.cut());
            }
        }
        **watch = pass.watch;
        Found { sum: pass.sum(), sums: pass.finish(), channels }
    }

    fn careful(&self) -> Found {
        let ErrorOf { dtype, bytes, ref how, cuts, .. } = *self;
        let Some(cuts) = cuts else {
            let sum = if MOMENTS { moments(dtype, bytes).sum } else { 0.0 };
            return Found { sums: careful(dtype, bytes, how), channels: Vec::new(), sum };
        };
        let mut all = ErrorSums::default();
        let channels = cuts.slices(bytes, dtype.size()).map(|channel| {
            let sums = careful(dtype, channel, how);
            all.merge(&sums);
            Loss::from(&sums)
        });
        let channels = channels.collect();
        Found { sums: all, channels, sum: 0.0 }
    }
}

/// Exact for any type, scale and elements, one by one.
pub(super) fn careful(dtype: FloatType, bytes: &[u8], how: &Quantization) -> ErrorSums {
    by_type!(dtype, E => careful_of::<E>(bytes, how))
}

fn careful_of<E: Element>(bytes: &[u8], how: &Quantization) -> ErrorSums {
    let mut sums = ErrorSums::default();
    let scale = E::Wide::from_f32(how.scale);
    for raw in bytes.chunks_exact(E::SIZE) {
        let element = E::read(raw);
        let (q, code) = round_one((element / scale).f64(), how);
        let hat = (scale * E::Wide::from_f32(q)).f64();
        let x = element.f64();
        let d = x - hat;
        sums.count += 1;
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
///
/// With `MOMENTS` Σx² is had anyway, and Σx·x̂ follows.
#[derive(Clone, Copy)]
struct Block<L: Level, const MOMENTS: bool> {
    sum: L::F64,
    square: L::F64,
    dot: L::F32,
    noise: L::F32,
    /// Σd·x̂
    excess: L::F32,
    max_abs_error: L::F32,
    /// Elements that are zero, and that become zero.
    zero_before: L::U32,
    zero_after: L::U32,
}

impl<L: Level, const MOMENTS: bool> Block<L, MOMENTS> {
    #[inline(always)]
    fn new(l: L) -> Self {
        let (zero, none) = (l.splat(0.0), l.u32s([0; LANES]));
        Block {
            sum: l.zero_f64(),
            square: l.zero_f64(),
            dot: zero,
            noise: zero,
            excess: zero,
            max_abs_error: zero,
            zero_before: none,
            zero_after: none,
        }
    }

    /// Adds elements; returns what the level says of their codes.
    #[inline(always)]
    fn step<G: Grid>(
        &mut self,
        l: L,
        grid: G,
        x: L::F32,
        divisor: &Divisor,
        watch: &Watch,
    ) -> L::U32 {
        let (q, codes) = grid.round(l, divisor.quotient(l, x));
        self.add(l, x, q, divisor);
        self.zero_before = l.count_zeros(self.zero_before, x);
        self.zero_after = l.count_zeros(self.zero_after, q);
        l.unseen(watch, codes, q)
    }

    /// Adds elements to the sums by their levels.
    #[inline(always)]
    fn add(&mut self, l: L, x: L::F32, q: L::F32, divisor: &Divisor) {
        let hat = l.mul(l.splat(divisor.scale), q);
        let d = l.sub(x, hat);
        if MOMENTS {
            let x = l.widen(x);
            self.sum = l.add_f64(self.sum, x);
            self.square = l.add_square(self.square, x);
        } else {
            self.dot = l.add(self.dot, l.mul(x, hat));
        }
        self.noise = l.add(self.noise, l.mul(d, d));
        self.excess = l.add(self.excess, l.mul(d, hat));
        self.max_abs_error = l.max_abs(d, self.max_abs_error);
    }
}

/// What is counted of elements of sixteen bits.
#[derive(Clone, Copy, Default)]
struct Counted {
    zero_before: u32,
    zero_after: u32,
    /// Those up to the bound that was asked for.
    known: u32,
}

impl Counted {
    #[inline(always)]
    fn add<L: Level>(&mut self, l: L, patterns: L::U16, zero: L::U16, bound: L::U16) {
        self.zero_before += count_zeros(l, patterns);
        self.zero_after += count_at_most(l, patterns, zero);
        self.known += count_at_most(l, patterns, bound);
    }
}

/// The sums of the channels that were cut off.
#[derive(Clone, Copy, Default)]
struct CutOff {
    dot: f64,
    noise: f64,
    excess: f64,
}

/// A sweep over elements, group after group.
#[derive(Clone, Copy)]
pub(super) struct Pass<L: Level, const MOMENTS: bool = false> {
    level: L,
    block: Block<L, MOMENTS>,
    /// Elements in the block.
    filled: usize,
    pub(super) watch: Watch,
    sum: L::F64,
    square: L::F64,
    dot: L::F64,
    noise: L::F64,
    excess: L::F64,
    max_abs_error: L::F32,
    /// Of the channels that were cut off.
    cut: CutOff,
    count: u64,
    zero_before: u64,
    zero_after: u64,
}

impl<L: Level, const MOMENTS: bool> Pass<L, MOMENTS> {
    #[inline(always)]
    pub(super) fn after(l: L, watch: Watch) -> Self {
        Pass {
            level: l,
            block: Block::new(l),
            filled: 0,
            watch,
            sum: l.zero_f64(),
            square: l.zero_f64(),
            dot: l.zero_f64(),
            noise: l.zero_f64(),
            excess: l.zero_f64(),
            max_abs_error: l.splat(0.0),
            cut: CutOff::default(),
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
            let room = (BLOCK - self.filled.min(BLOCK - 1)) * E::SIZE;
            let (part, after_it) = left.split_at(room.min(left.len()));
            left = after_it;
            let (pairs, rest) = pairs::<E>(part);
            for run in pairs.chunks(2 * RUN / PAIR) {
                let mut fast = self.block;
                let mut counts = Counted::default();
                let bound = seen.unwrap_or(zero);
                if by_reciprocal {
                    for raw in run {
                        counts.add(l, l.load_u16(raw), zero, bound);
                        for x in E::load_pair(l, raw) {
                            let q = grid.nearest(l, l.mul(x, l.splat(divisor.inverse)));
                            fast.add(l, x, q, divisor);
                        }
                    }
                }
                if seen.is_none() || counts.known as usize != run.len() * PAIR {
                    let mut is_clamped = false;
                    for raw in run {
                        let patterns = l.load_u16(raw);
                        let inside = |bound| count_at_most(l, patterns, bound) as usize == PAIR;
                        if !seen.is_some_and(inside) {
                            let elements = raw.as_flattened().as_flattened();
                            self.see::<E, G>(grid, elements, divisor);
                            is_clamped |= !inside(unclamped);
                        }
                    }
                    seen = self.bound::<E>(divisor);
                    if is_clamped || !by_reciprocal {
                        (fast, counts) = (self.block, Counted::default());
                        for raw in run {
                            counts.add(l, l.load_u16(raw), zero, zero);
                            for x in E::load_pair(l, raw) {
                                let q = grid.nearest(l, divisor.quotient(l, x));
                                fast.add(l, x, q, divisor);
                            }
                        }
                    }
                }
                self.block = fast;
                self.zero_before = self.zero_before.wrapping_add(counts.zero_before.into());
                self.zero_after = self.zero_after.wrapping_add(counts.zero_after.into());
            }
            self.filled += pairs.len() * PAIR;
            self.group::<E, G>(grid, rest, divisor);
            if self.filled >= BLOCK {
                self.end_block();
            }
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
        let mut block = self.block;
        for (group, divisor) in groups {
            for run in group.chunks(RUN * E::SIZE) {
                let (whole, tail) = E::split(run);
                for raw in whole {
                    let x = E::load(l, raw);
                    unseen = l.or(unseen, block.step(l, grid, x, &divisor, &watch));
                }
                if !tail.is_empty() {
                    let x = E::load(l, &E::pad(tail));
                    unseen = l.or(unseen, block.step(l, grid, x, &divisor, &watch));
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
        self.block = block;
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
                self.watch.add(grid, &l.array_u32(codes)[..steps.count(i)]);
            }
        }
    }

    /// Adds the block's sums to the total.
    #[inline(always)]
    fn end_block(&mut self) {
        let l = self.level;
        let block = std::mem::replace(&mut self.block, Block::new(l));
        if MOMENTS {
            self.sum = l.add_f64(self.sum, block.sum);
            self.square = l.add_f64(self.square, block.square);
        } else {
            self.dot = l.add_f64(self.dot, l.widen(block.dot));
        }
        self.noise = l.add_f64(self.noise, l.widen(block.noise));
        self.excess = l.add_f64(self.excess, l.widen(block.excess));
        self.max_abs_error = l.max(block.max_abs_error, self.max_abs_error);
        for (total, counts) in
            [(&mut self.zero_before, block.zero_before), (&mut self.zero_after, block.zero_after)]
        {
            let counts = fold(l.array_u32(counts), |a, b| a + b);
            // What the filling took away is wrapped around until its block is added.
            *total = total.wrapping_add(counts.into());
        }
        self.count += self.filled as u64;
        self.filled = 0;
    }

    /// What the elements since the last cut lose.
    #[inline(always)]
    pub(super) fn cut(&mut self) -> Loss {
        self.end_block();
        let zero = self.level.zero_f64();
        let [dot, noise, excess] = self.folded();
        (self.square, self.dot) = (zero, zero);
        (self.noise, self.excess) = (zero, zero);
        self.cut.dot += dot;
        self.cut.noise += noise;
        self.cut.excess += excess;
        Loss { signal: dot + excess + noise, noise }
    }

    /// Σx, with `MOMENTS`.
    #[inline(always)]
    fn sum(&mut self) -> f64 {
        self.end_block();
        fold(self.level.array_f64(self.sum), |a, b| a + b)
    }

    #[inline(always)]
    fn folded(&self) -> [f64; 3] {
        let l = self.level;
        let sums = [self.square, self.dot, self.noise, self.excess];
        let [square, dot, noise, excess] = sums.map(|sum| fold(l.array_f64(sum), |a, b| a + b));
        [if MOMENTS { square - excess - noise } else { dot }, noise, excess]
    }

    #[inline(always)]
    pub(super) fn finish(mut self) -> ErrorSums {
        self.end_block();
        let [dot, noise, excess] = self.folded();
        let CutOff { dot: d, noise: n, excess: e } = self.cut;
        let (dot, noise, excess) = (d + dot, n + noise, e + excess);
        ErrorSums {
            count: self.count,
            signal: dot + excess + noise,
            noise,
            dot,
            reconstructed: dot - excess,
            max_abs_error: self.level.largest(self.max_abs_error).into(),
            non_zero: self.count - self.zero_before,
            zeroed: self.zero_after - self.zero_before,
            levels: self.watch.seen(),
        }
    }
}
