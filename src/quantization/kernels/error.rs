//! What quantizing loses: sums over the elements and their dequantized counterparts.
//!
//! A block's sums are in the elements' precision, sixteen of each; the blocks' are added
//! up in f64. No product is fused with its sum, so they are the same on every machine.

use super::Quantization;
use super::dispatch::{Kernel, Level, run};
use super::lanes::{Element, Float, LANES, Lanes, by_type, fold, map, zip};
use super::levels::Watch;
use super::rounding::{Divisor, Grid, by_grid, round_one};
use crate::quantization::ErrorSums;
use crate::tensor::FloatType;

/// Elements between two looks for levels not seen before.
pub(super) const RUN: usize = 256;
/// Elements whose sums are in f32.
pub(super) const BLOCK: usize = 4 * RUN;

/// What quantizing every element loses. The elements must be finite.
///
/// x̂ = scale · q is rounded to f32 (to f64 for F64) before it is compared.
pub fn error(dtype: FloatType, bytes: &[u8], how: Quantization) -> ErrorSums {
    run(ErrorOf { dtype, bytes, how })
}

pub(super) struct ErrorOf<'a> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub how: Quantization,
}

impl Kernel for ErrorOf<'_> {
    type Output = ErrorSums;

    #[inline(always)]
    fn run<L: Level>(self, level: L) -> ErrorSums {
        let ErrorOf { dtype, bytes, how } = self;
        by_type!(dtype, error_of(level, bytes, &how))
    }
}

#[inline(always)]
fn error_of<E: Element, L: Level>(level: L, bytes: &[u8], how: &Quantization) -> ErrorSums {
    let Some(divisor) = Divisor::<E::Wide>::new(how.scale, how.qtype.max()) else {
        return careful::<E>(bytes, how);
    };
    let sums = by_grid!(how.qtype, how.rounding, |grid| {
        let mut pass = Pass::<E::Wide>::new();
        pass.group::<E, _, _>(level, grid, bytes, &divisor);
        pass.finish()
    });
    // Elements beyond all reason have squares beyond f32.
    let finite = sums.signal.is_finite() && sums.noise.is_finite();
    if finite { sums } else { careful::<E>(bytes, how) }
}

/// Exact for any scale and elements, one by one.
pub(super) fn careful<E: Element>(bytes: &[u8], how: &Quantization) -> ErrorSums {
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
struct Block<W> {
    dot: Lanes<W>,
    noise: Lanes<W>,
    /// Σd·x̂
    excess: Lanes<W>,
    max_abs_error: Lanes<W>,
    /// Elements that are zero, and that become zero.
    zero_before: Lanes<u32>,
    zero_after: Lanes<u32>,
}

impl<W: Float> Block<W> {
    #[inline(always)]
    fn new() -> Self {
        Block {
            dot: [W::default(); LANES],
            noise: [W::default(); LANES],
            excess: [W::default(); LANES],
            max_abs_error: [W::default(); LANES],
            zero_before: [0; LANES],
            zero_after: [0; LANES],
        }
    }

    /// Adds elements; returns what the level says of their codes.
    #[inline(always)]
    fn step<L: Level, G: Grid>(
        &mut self,
        level: L,
        grid: G,
        x: Lanes<W>,
        divisor: &Divisor<W>,
        watch: &Watch,
    ) -> Lanes<u32> {
        let zero = W::default();
        let (q, codes) = grid.round(divisor.quotient(level, x));
        let hat = map(q, |q| divisor.scale * q);
        let d = zip(x, hat, |x, hat| x - hat);
        self.dot = zip(self.dot, zip(x, hat, |x, hat| x * hat), |s, p| s + p);
        self.noise = zip(self.noise, d, |s, d| s + d * d);
        self.excess = zip(self.excess, zip(d, hat, |d, hat| d * hat), |s, p| s + p);
        self.max_abs_error = zip(self.max_abs_error, d, |m, d| m.most(d.abs()));
        self.zero_before = zip(self.zero_before, x, |n, x| n + u32::from(x == zero));
        self.zero_after = zip(self.zero_after, q, |n, q| n + u32::from(q == zero));
        level.unseen(watch, codes, map(q, W::f32))
    }
}

/// A sweep over elements, group after group.
pub(super) struct Pass<W> {
    block: Block<W>,
    pub(super) watch: Watch,
    sums: [Lanes<f64>; 3],
    max_abs_error: Lanes<W>,
    count: u64,
    zero_before: u64,
    zero_after: u64,
}

impl<W: Float> Pass<W> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Pass {
            block: Block::new(),
            watch: Watch::new(),
            sums: [[0.0; LANES]; 3],
            max_abs_error: [W::default(); LANES],
            count: 0,
            zero_before: 0,
            zero_after: 0,
        }
    }

    /// Adds the elements of a group that share a scale.
    #[inline(always)]
    pub(super) fn group<E: Element<Wide = W>, L: Level, G: Grid>(
        &mut self,
        level: L,
        grid: G,
        bytes: &[u8],
        divisor: &Divisor<W>,
    ) {
        for block in bytes.chunks(BLOCK * E::SIZE) {
            for run in block.chunks(RUN * E::SIZE) {
                let unseen = self.run::<E, _, _>(level, grid, run, divisor);
                if fold(unseen, |a, b| a | b) & 1 != 0 {
                    self.see::<E, _, _>(level, grid, run, divisor);
                }
            }
            self.end_block();
        }
    }

    /// Adds a few elements to the block; bit 0 of a lane says that a level may be new.
    #[inline(always)]
    pub(super) fn run<E: Element<Wide = W>, L: Level, G: Grid>(
        &mut self,
        level: L,
        grid: G,
        run: &[u8],
        divisor: &Divisor<W>,
    ) -> Lanes<u32> {
        let mut unseen = [0; LANES];
        let mut block = self.block;
        let mut chunks = run.chunks_exact(LANES * E::SIZE);
        for raw in &mut chunks {
            let x = E::load(level, raw);
            let new = block.step(level, grid, x, divisor, &self.watch);
            unseen = zip(unseen, new, |a, b| a | b);
        }
        let tail = chunks.remainder().len() / E::SIZE;
        if tail > 0 {
            let x = E::load_padded(level, &chunks.remainder()[..tail * E::SIZE]);
            let new = block.step(level, grid, x, divisor, &self.watch);
            unseen = zip(unseen, new, |a, b| a | b);
            // The zeros that fill up the lanes add nothing to any sum, but to these.
            for i in 0..LANES {
                block.zero_before[i] -= u32::from(i >= tail);
                block.zero_after[i] -= u32::from(i >= tail);
            }
        }
        self.block = block;
        self.count += (run.len() / E::SIZE) as u64;
        unseen
    }

    /// Takes the levels of these elements as seen.
    #[inline(always)]
    pub(super) fn see<E: Element<Wide = W>, L: Level, G: Grid>(
        &mut self,
        level: L,
        grid: G,
        run: &[u8],
        divisor: &Divisor<W>,
    ) {
        for raw in run.chunks(LANES * E::SIZE) {
            let count = raw.len() / E::SIZE;
            let x = E::load_padded(level, raw);
            let (q, codes) = grid.round(divisor.quotient(level, x));
            let unseen = level.unseen(&self.watch, codes, map(q, W::f32));
            if fold(unseen, |a, b| a | b) & 1 != 0 {
                self.watch.add(grid, &codes[..count]);
            }
        }
    }

    /// Adds the block's sums to the total.
    #[inline(always)]
    pub(super) fn end_block(&mut self) {
        let block = std::mem::replace(&mut self.block, Block::new());
        let sums = [block.dot, block.noise, block.excess];
        for (total, sum) in self.sums.iter_mut().zip(sums) {
            *total = zip(*total, sum, |total, sum| total + sum.f64());
        }
        self.max_abs_error = zip(self.max_abs_error, block.max_abs_error, Float::most);
        self.zero_before += u64::from(fold(block.zero_before, |a, b| a + b));
        self.zero_after += u64::from(fold(block.zero_after, |a, b| a + b));
    }

    #[inline(always)]
    pub(super) fn finish(self) -> ErrorSums {
        let [dot, noise, excess] = self.sums.map(|lanes| fold(lanes, |a, b| a + b));
        ErrorSums {
            count: self.count,
            signal: dot + excess + noise,
            noise,
            dot,
            reconstructed: dot - excess,
            max_abs_error: fold(self.max_abs_error, Float::most).f64(),
            non_zero: self.count - self.zero_before,
            zeroed: self.zero_after - self.zero_before,
            levels: self.watch.seen(),
        }
    }
}
