//! From elements to their quantized values.

use super::Quantization;
use super::dispatch::{Kernel, run};
use super::halves::{Half, last_at_most, magnitudes, pairs};
use super::lanes::{Element, Float, Lanes, Narrow, PAIR, Steps, by_type};
use super::level::Level;
use super::rounding::{Divisor, Grid, IntegersHalfAway, IntegersHalfEven, is_ordinary, round_one};
use crate::quantization::{QuantizationType, Rounding};
use crate::tensor::FloatType;
use half::{bf16, f16};

/// Elements for which it pays to look for a way that is quicker for each.
const MANY: usize = 4096;
/// Elements between two looks for one beyond the last level.
const RUN: usize = 1024;

/// Quantizes every element to one of −127 … 127; stops at the shorter of the two. The
/// elements must be finite.
pub fn quantize(dtype: FloatType, bytes: &[u8], scale: f32, rounding: Rounding, out: &mut [i8]) {
    let how = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    match rounding {
        Rounding::HalfEven => run(QuantizeTo { dtype, bytes, how, grid: IntegersHalfEven, out }),
        Rounding::HalfAway => run(QuantizeTo { dtype, bytes, how, grid: IntegersHalfAway, out }),
    }
}

pub(super) struct QuantizeTo<'a, G> {
    pub dtype: FloatType,
    pub bytes: &'a [u8],
    pub how: Quantization,
    /// That of `how`.
    pub grid: G,
    pub out: &'a mut [i8],
}

impl<G: Grid> Kernel for QuantizeTo<'_, G> {
    type Output = ();
    const RARE: bool = G::RARE;

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let QuantizeTo { dtype, bytes, how, grid, out } = self;
        if is_ordinary(how.scale) {
            let divisor = Divisor::new(level, how.scale, how.qtype.max());
            match dtype {
                FloatType::BF16 => halves::<bf16, L, G>(level, grid, bytes, &divisor, out),
                FloatType::F16 => halves::<f16, L, G>(level, grid, bytes, &divisor, out),
                FloatType::F32 => group::<f32, L, G>(level, grid, bytes, &divisor, out),
                FloatType::F64 => careful(dtype, bytes, &how, out),
            }
        } else {
            careful(dtype, bytes, &how, out);
        }
    }
}

/// Exact for any type and scale, one by one.
pub(super) fn careful(dtype: FloatType, bytes: &[u8], how: &Quantization, out: &mut [i8]) {
    by_type!(dtype, E => {
        let scale = <E as Element>::Wide::from_f32(how.scale);
        for (raw, out) in bytes.chunks_exact(E::SIZE).zip(out) {
            *out = round_one((E::read(raw) / scale).f64(), how).1 as i8;
        }
    })
}

/// Quantizes elements of sixteen bits that share a scale: where that is known to come to the
/// same, many of them by multiplying and without a clamp.
#[inline(always)]
fn halves<E: Half, L: Level, G: Grid>(
    l: L,
    grid: G,
    bytes: &[u8],
    divisor: &Divisor,
    out: &mut [i8],
) {
    let last = divisor.levels();
    let by_reciprocal =
        G::IS_HALF_EVEN && bytes.len() >= MANY * E::SIZE && E::reciprocal_will_do(l, divisor, last);
    if !by_reciprocal {
        return group::<E, L, G>(l, grid, bytes, divisor, out);
    }
    let inverse = l.splat(divisor.inverse);
    let unclamped = l.splat_u16(last_at_most::<E>(divisor, last));
    for (bytes, out) in bytes.chunks(RUN * E::SIZE).zip(out.chunks_mut(RUN)) {
        let (pairs, _) = pairs::<E>(bytes);
        let (whole, tail) = bytemuck::cast_slice_mut::<i8, u8>(out).as_chunks_mut::<PAIR>();
        let mut largest = l.splat_u16(0);
        for (raw, out) in pairs.iter().zip(&mut *whole) {
            largest = l.max_u16(largest, magnitudes(l, l.load_u16(raw)));
            let [a, b] = E::load_pair(l, raw);
            let (_, a) = grid.round(l, l.mul(a, inverse));
            let (_, b) = grid.round(l, l.mul(b, inverse));
            *out = E::low8(l, [a, b]);
        }
        let is_all = tail.is_empty() && whole.len() <= pairs.len();
        if !is_all || l.count_at_most(largest, unclamped) as usize != PAIR {
            group::<E, L, G>(l, grid, bytes, divisor, out);
        }
    }
}

/// Quantizes elements that share a scale.
#[inline(always)]
pub(super) fn group<E: Narrow, L: Level, G: Grid>(
    level: L,
    grid: G,
    bytes: &[u8],
    divisor: &Divisor,
    out: &mut [i8],
) {
    let steps = Steps::<E>::of(bytes);
    let (whole, rest) = out.as_chunks_mut();
    let count = whole.len().min(steps.whole().len());
    // Whole steps apart: a length that may vary makes each a call that copies memory.
    for (raw, out) in steps.whole().iter().zip(&mut *whole) {
        *out = values::<E, L, G>(level, grid, raw, divisor);
    }
    let out = whole.get_mut(count).map_or(rest, |out| out.as_mut_slice());
    if count < steps.len() {
        let values = values::<E, L, G>(level, grid, steps.at(count), divisor);
        for (out, value) in out.iter_mut().zip(&values[..steps.count(count)]) {
            *out = *value;
        }
    }
}

#[inline(always)]
fn values<E: Narrow, L: Level, G: Grid>(
    level: L,
    grid: G,
    raw: &E::Raw,
    divisor: &Divisor,
) -> Lanes<i8> {
    let (_, codes) = grid.round(level, divisor.quotient(level, E::load(level, raw)));
    level.low8(codes).map(u8::cast_signed)
}
