//! What quantizing loses: sums over the elements and their dequantized counterparts.
//!
//! A block's sums are in the elements' precision, sixteen of each; the blocks' are added
//! up in f64. No product is fused with its sum, so they are the same on every machine.

use super::Quantization;
use super::dispatch::{Kernel, Level, run};
use super::lanes::{
    Element, Float, LANES, Lanes, Narrow, Steps, by_single, by_type, fold, map, zip,
};
use super::levels::Watch;
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
    by_grid!(how.qtype, how.rounding, |grid| run(ErrorOf { dtype, bytes, how, grid }))
}

pub(super) struct ErrorOf<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub how: Quantization,
    /// That of `how`.
    pub grid: G,
}

impl<G: Grid> Kernel for ErrorOf<'_, G> {
    type Output = ErrorSums;
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, level: L) -> ErrorSums {
        let ErrorOf { dtype, bytes, how, grid } = self;
        let sums = if is_ordinary(how.scale) {
            let divisor = Divisor::new(level, how.scale, how.qtype.max());
            by_single!(dtype, E => {
                let mut pass = Pass::new();
                pass.group::<E, L, G>(level, grid, bytes, &divisor);
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
struct Block {
    dot: Lanes<f32>,
    noise: Lanes<f32>,
    /// Σd·x̂
    excess: Lanes<f32>,
    max_abs_error: Lanes<f32>,
    /// Elements that are zero, and that become zero.
    zero_before: Lanes<u32>,
    zero_after: Lanes<u32>,
}

impl Block {
    #[inline(always)]
    fn new() -> Self {
        Block {
            dot: [0.0; LANES],
            noise: [0.0; LANES],
            excess: [0.0; LANES],
            max_abs_error: [0.0; LANES],
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
        x: Lanes<f32>,
        divisor: &Divisor,
        watch: &Watch,
    ) -> Lanes<u32> {
        let (q, codes) = grid.round(divisor.quotient(level, x));
        let hat = map(q, |q| divisor.scale * q);
        let d = zip(x, hat, |x, hat| x - hat);
        self.dot = zip(self.dot, zip(x, hat, |x, hat| x * hat), |s, p| s + p);
        self.noise = zip(self.noise, d, |s, d| s + d * d);
        self.excess = zip(self.excess, zip(d, hat, |d, hat| d * hat), |s, p| s + p);
        self.max_abs_error = zip(self.max_abs_error, d, |m, d| m.most(d.abs()));
        self.zero_before = zip(self.zero_before, x, |n, x| n + u32::from(x == 0.0));
        self.zero_after = zip(self.zero_after, q, |n, q| n + u32::from(q == 0.0));
        level.unseen(watch, codes, q)
    }
}

/// A sweep over elements, group after group.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    block: Block,
    /// Elements in the block.
    filled: usize,
    watch: Watch,
    sums: [Lanes<f64>; 3],
    max_abs_error: Lanes<f32>,
    count: u64,
    zero_before: u64,
    zero_after: u64,
}

impl Pass {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Pass {
            block: Block::new(),
            filled: 0,
            watch: Watch::new(),
            sums: [[0.0; LANES]; 3],
            max_abs_error: [0.0; LANES],
            count: 0,
            zero_before: 0,
            zero_after: 0,
        }
    }

    /// Adds the elements of a group that share a scale.
    #[inline(always)]
    pub(super) fn group<E: Narrow, L: Level, G: Grid>(
        &mut self,
        level: L,
        grid: G,
        bytes: &[u8],
        divisor: &Divisor,
    ) {
        for run in bytes.chunks(RUN * E::SIZE) {
            let unseen = self.run::<E, _, _>(level, grid, run, divisor);
            if fold(unseen, |a, b| a | b) & 1 != 0 {
                self.see::<E, _, _>(level, grid, run, divisor);
            }
            self.end_full_block();
        }
    }

    /// Adds a few elements to the block; bit 0 of a lane says that a level may be new.
    #[inline(always)]
    pub(super) fn run<E: Narrow, L: Level, G: Grid>(
        &mut self,
        level: L,
        grid: G,
        run: &[u8],
        divisor: &Divisor,
    ) -> Lanes<u32> {
        let mut unseen = [0; LANES];
        let mut block = self.block;
        let steps = Steps::<E>::of(run);
        for i in 0..steps.len() {
            let x = steps.load(level, i);
            let new = block.step(level, grid, x, divisor, &self.watch);
            unseen = zip(unseen, new, |a, b| a | b);
        }
        if steps.tail > 0 {
            // The zeros that filled up the lanes add nothing to any sum, but to these.
            for i in 0..LANES {
                block.zero_before[i] -= u32::from(i >= steps.tail);
                block.zero_after[i] -= u32::from(i >= steps.tail);
            }
        }
        self.block = block;
        self.filled += run.len() / E::SIZE;
        unseen
    }

    /// Takes the levels of these elements as seen.
    #[inline(always)]
    pub(super) fn see<E: Narrow, L: Level, G: Grid>(
        &mut self,
        level: L,
        grid: G,
        run: &[u8],
        divisor: &Divisor,
    ) {
        let steps = Steps::<E>::of(run);
        for i in 0..steps.len() {
            let x = steps.load(level, i);
            let (q, codes) = grid.round(divisor.quotient(level, x));
            let unseen = level.unseen(&self.watch, codes, q);
            if fold(unseen, |a, b| a | b) & 1 != 0 {
                self.watch.add(grid, &codes[..steps.count(i)]);
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
        let block = std::mem::replace(&mut self.block, Block::new());
        let sums = [block.dot, block.noise, block.excess];
        for (total, sum) in self.sums.iter_mut().zip(sums) {
            *total = zip(*total, sum, |total, sum| total + f64::from(sum));
        }
        self.max_abs_error = zip(self.max_abs_error, block.max_abs_error, Float::most);
        self.zero_before += u64::from(fold(block.zero_before, |a, b| a + b));
        self.zero_after += u64::from(fold(block.zero_after, |a, b| a + b));
        self.count += self.filled as u64;
        self.filled = 0;
    }

    #[inline(always)]
    pub(super) fn finish(mut self) -> ErrorSums {
        self.end_block();
        let [dot, noise, excess] = self.sums.map(|lanes| fold(lanes, |a, b| a + b));
        ErrorSums {
            count: self.count,
            signal: dot + excess + noise,
            noise,
            dot,
            reconstructed: dot - excess,
            max_abs_error: fold(self.max_abs_error, Float::most).into(),
            non_zero: self.count - self.zero_before,
            zeroed: self.zero_after - self.zero_before,
            levels: self.watch.seen(),
        }
    }
}
