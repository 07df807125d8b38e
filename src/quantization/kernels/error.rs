//! What quantizing loses: sums over the elements and their dequantized counterparts.
//!
//! A block's sums are in the elements' precision, sixteen of each; the blocks' are added
//! up in f64. No product is fused with its sum, so they are the same on every machine.

use super::Quantization;
use super::dispatch::{Kernel, run};
use super::lanes::{Element, Float, LANES, Narrow, Steps, by_single, by_type, fold};
use super::level::Level;
use super::levels::{Seen, Watch};
use super::rounding::{Divisor, Grid, by_grid, is_ordinary, round_one};
use crate::quantization::ErrorSums;
use crate::tensor::FloatType;

/// Elements between two looks for levels not seen before.
pub(super) const RUN: usize = 256;
/// Elements whose sums are in f32, or a few more.
pub(super) const BLOCK: usize = 4 * RUN;

/// What quantizing every element loses. The elements must be finite.
///
/// x̂ = scale · q is rounded to f32 (to f64 for F64) before it is compared.
pub fn error(dtype: FloatType, bytes: &[u8], how: Quantization) -> ErrorSums {
    error_after(dtype, bytes, how, &mut Seen::default())
}

/// The same after other elements, whose levels were `seen`; they are among the sums' levels.
pub fn error_after(
    dtype: FloatType,
    bytes: &[u8],
    how: Quantization,
    seen: &mut Seen,
) -> ErrorSums {
    let [watch, ..] = &mut seen.0;
    by_grid!(how.qtype, how.rounding, |grid| run(ErrorOf { dtype, bytes, how, grid, watch }))
}

pub(super) struct ErrorOf<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub how: Quantization,
    /// That of `how`.
    pub grid: G,
    /// The levels that were seen before.
    pub watch: &'a mut Watch,
}

impl<G: Grid> Kernel for ErrorOf<'_, G> {
    type Output = ErrorSums;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, level: L) -> ErrorSums {
        let ErrorOf { dtype, bytes, how, grid, watch } = self;
        let sums = if is_ordinary(how.scale) {
            let divisor = Divisor::new(level, how.scale, how.qtype.max());
            by_single!(dtype, E => {
                let mut pass = Pass::after(level, *watch);
                pass.group::<E, G>(grid, bytes, &divisor);
                *watch = pass.watch;
                pass.finish()
            })
        } else {
            None
        };
        match sums {
            // Elements beyond all reason have squares beyond f32.
            Some(sums) if sums.signal.is_finite() && sums.noise.is_finite() => sums,
            _ => careful(dtype, bytes, &how),
        }
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
#[derive(Clone, Copy)]
struct Block<L: Level> {
    dot: L::F32,
    noise: L::F32,
    /// Σd·x̂
    excess: L::F32,
    max_abs_error: L::F32,
    /// Elements that are zero, and that become zero.
    zero_before: L::U32,
    zero_after: L::U32,
}

impl<L: Level> Block<L> {
    #[inline(always)]
    fn new(l: L) -> Self {
        let (zero, none) = (l.splat(0.0), l.u32s([0; LANES]));
        Block {
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
        let hat = l.mul(l.splat(divisor.scale), q);
        let d = l.sub(x, hat);
        self.dot = l.add(self.dot, l.mul(x, hat));
        self.noise = l.add(self.noise, l.mul(d, d));
        self.excess = l.add(self.excess, l.mul(d, hat));
        self.max_abs_error = l.max(l.abs(d), self.max_abs_error);
        self.zero_before = l.count_zeros(self.zero_before, x);
        self.zero_after = l.count_zeros(self.zero_after, q);
        l.unseen(watch, codes, q)
    }
}

/// A sweep over elements, group after group.
#[derive(Clone, Copy)]
pub(super) struct Pass<L: Level> {
    level: L,
    block: Block<L>,
    /// Elements in the block.
    filled: usize,
    pub(super) watch: Watch,
    dot: L::F64,
    noise: L::F64,
    excess: L::F64,
    max_abs_error: L::F32,
    count: u64,
    zero_before: u64,
    zero_after: u64,
}

impl<L: Level> Pass<L> {
    #[inline(always)]
    pub(super) fn after(l: L, watch: Watch) -> Self {
        Pass {
            level: l,
            block: Block::new(l),
            filled: 0,
            watch,
            dot: l.zero_f64(),
            noise: l.zero_f64(),
            excess: l.zero_f64(),
            max_abs_error: l.splat(0.0),
            count: 0,
            zero_before: 0,
            zero_after: 0,
        }
    }

    /// Adds the elements of a group that share a scale.
    #[inline(always)]
    pub(super) fn group<E: Narrow, G: Grid>(&mut self, grid: G, bytes: &[u8], divisor: &Divisor) {
        for run in bytes.chunks(RUN * E::SIZE) {
            let unseen = self.run::<E, G>(grid, run, divisor);
            if self.level.any_bit0(unseen) {
                self.see::<E, G>(grid, run, divisor);
            }
            self.end_full_block();
        }
    }

    /// Adds a few elements to the block; bit 0 of a lane says that a level may be new.
    #[inline(always)]
    pub(super) fn run<E: Narrow, G: Grid>(
        &mut self,
        grid: G,
        run: &[u8],
        divisor: &Divisor,
    ) -> L::U32 {
        let l = self.level;
        let mut unseen = l.u32s([0; LANES]);
        let mut block = self.block;
        let steps = Steps::<E>::of(run);
        for i in 0..steps.len() {
            let x = E::load(l, steps.at(i));
            unseen = l.or(unseen, block.step(l, grid, x, divisor, &self.watch));
        }
        self.block = block;
        self.filled += run.len() / E::SIZE;
        if steps.tail > 0 {
            // The zeros that filled up the lanes add nothing to any sum, but to these.
            let filling = (LANES - steps.tail) as u64;
            self.zero_before = self.zero_before.wrapping_sub(filling);
            self.zero_after = self.zero_after.wrapping_sub(filling);
        }
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

    #[inline(always)]
    pub(super) fn end_full_block(&mut self) {
        if self.filled >= BLOCK {
            self.end_block();
        }
    }

    /// Adds the block's sums to the total.
    #[inline(always)]
    fn end_block(&mut self) {
        let l = self.level;
        let block = std::mem::replace(&mut self.block, Block::new(l));
        self.dot = l.add_f64(self.dot, l.widen(block.dot));
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

    #[inline(always)]
    pub(super) fn finish(mut self) -> ErrorSums {
        self.end_block();
        let l = self.level;
        let [dot, noise, excess] =
            [self.dot, self.noise, self.excess].map(|sum| fold(l.array_f64(sum), |a, b| a + b));
        ErrorSums {
            count: self.count,
            signal: dot + excess + noise,
            noise,
            dot,
            reconstructed: dot - excess,
            max_abs_error: l.largest(self.max_abs_error).into(),
            non_zero: self.count - self.zero_before,
            zeroed: self.zero_after - self.zero_before,
            levels: self.watch.seen(),
        }
    }
}
