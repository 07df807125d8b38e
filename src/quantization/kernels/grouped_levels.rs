//! Quantizes rows whose groups have scales and zero points that are already known, with quotients
//! that are rounded to the type of the weight.

use crate::quantization::kernels::array_lanes::{LANES, padded};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::rounding::{
    Grid, IntegersHalfEven, nearest_minifloats, round_to_bf16, round_to_f16,
};
use crate::quantization::kernels::simd::{Kernel, Simd};
use crate::tensor::FloatType;
use crate::tensor::minifloat::Minifloat;

/// The levels that quotients are rounded to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LevelRule {
    /// Integers, rounded half to even after the zero point is added.
    Integers {
        low: f32,
        high: f32,
    },
    Minifloat(Minifloat),
}

/// How the groups of a row are quantized.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupedLevels {
    pub rule: LevelRule,
    /// The type that quotients are rounded to; F64 counts as F32.
    pub quotient_type: FloatType,
    /// Whether dequantized values are rounded to BF16.
    pub restores_bf16: bool,
    /// Number of elements in a group.
    pub group: usize,
}

/// Quantizes a row. `groups` has the scale and the zero point of each group. Writes the code of
/// each element, whose low bits are an integer in two's complement or a minifloat, and its
/// dequantized value. `codes` and `restored` must be as long as `x`.
pub(crate) fn quantize_groups(
    params: GroupedLevels,
    x: &[f32],
    groups: impl Iterator<Item = (f32, f32)>,
    codes: &mut [u8],
    restored: &mut [f32],
) {
    macro_rules! run_with {
        ($rule:expr) => {
            match params.quotient_type {
                FloatType::BF16 => {
                    run(Row { params, rule: $rule, to: ToBf16, x, groups, codes, restored })
                }
                FloatType::F16 => {
                    run(Row { params, rule: $rule, to: ToF16, x, groups, codes, restored })
                }
                FloatType::F32 | FloatType::F64 => {
                    run(Row { params, rule: $rule, to: ToF32, x, groups, codes, restored });
                }
            }
        };
    }
    match params.rule {
        LevelRule::Integers { low, high } => run_with!(Integers { low, high }),
        LevelRule::Minifloat(format) => run_with!(format),
    }
}

/// Rounding of quotients to a type.
trait RoundTo: Copy {
    fn round<S: Simd>(self, simd: S, x: S::F32) -> S::F32;
}

#[derive(Clone, Copy)]
struct ToF32;

#[derive(Clone, Copy)]
struct ToBf16;

#[derive(Clone, Copy)]
struct ToF16;

impl RoundTo for ToF32 {
    #[inline(always)]
    fn round<S: Simd>(self, _: S, x: S::F32) -> S::F32 {
        x
    }
}

impl RoundTo for ToBf16 {
    #[inline(always)]
    fn round<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        round_to_bf16(simd, x)
    }
}

impl RoundTo for ToF16 {
    #[inline(always)]
    fn round<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        round_to_f16(simd, x)
    }
}

/// Rounding of quotients to levels.
trait Levels: Copy {
    /// Whether zero points are added to the quotients before rounding.
    const HAS_ZERO_POINTS: bool;

    /// Returns the levels, and vectors with their codes in the low eight bits.
    fn round<S: Simd>(self, simd: S, quotients: S::F32) -> (S::F32, S::U32);
}

#[derive(Clone, Copy)]
struct Integers {
    low: f32,
    high: f32,
}

impl Levels for Integers {
    const HAS_ZERO_POINTS: bool = true;

    #[inline(always)]
    fn round<S: Simd>(self, simd: S, quotients: S::F32) -> (S::F32, S::U32) {
        let clamped = simd.min(simd.max(quotients, simd.splat(self.low)), simd.splat(self.high));
        IntegersHalfEven.round(simd, clamped)
    }
}

impl Levels for Minifloat {
    const HAS_ZERO_POINTS: bool = false;

    #[inline(always)]
    fn round<S: Simd>(self, simd: S, quotients: S::F32) -> (S::F32, S::U32) {
        nearest_minifloats(simd, self, quotients)
    }
}

struct Row<'a, L, R, G> {
    params: GroupedLevels,
    rule: L,
    to: R,
    x: &'a [f32],
    groups: G,
    codes: &'a mut [u8],
    restored: &'a mut [f32],
}

impl<L: Levels, R: RoundTo, G: Iterator<Item = (f32, f32)>> Kernel for Row<'_, L, R, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Row { params, rule, to, x, groups, codes, restored } = self;
        let group = params.group.max(1);
        let slices = x.chunks(group).zip(codes.chunks_mut(group)).zip(restored.chunks_mut(group));
        for (((x, codes), restored), (scale, zero)) in slices.zip(groups) {
            let (scale, zero) = (simd.splat(scale), simd.splat(zero));
            let (x, x_rest) = x.as_chunks::<LANES>();
            let (codes, codes_rest) = codes.as_chunks_mut::<LANES>();
            let (restored, restored_rest) = restored.as_chunks_mut::<LANES>();
            let steps = x.len().min(codes.len()).min(restored.len());
            for step in 0..=steps {
                let is_last = step == steps;
                if is_last && x_rest.is_empty() {
                    break;
                }
                let elements = if is_last { padded(x_rest) } else { x[step] };
                let quotients = to.round(simd, simd.div(simd.f32s(elements), scale));
                let quotients = if L::HAS_ZERO_POINTS {
                    to.round(simd, simd.add(quotients, zero))
                } else {
                    quotients
                };
                let (level, code) = rule.round(simd, quotients);
                let value = simd.mul(simd.sub(level, zero), scale);
                let value = if params.restores_bf16 { round_to_bf16(simd, value) } else { value };
                let (code, value) = (simd.low8(code), simd.array(value));
                if is_last {
                    codes_rest.iter_mut().zip(code).for_each(|(to, code)| *to = code);
                    restored_rest.iter_mut().zip(value).for_each(|(to, value)| *to = value);
                } else {
                    (codes[step], restored[step]) = (code, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::dispatch::{Isa, run_at};

    const GROUPS: [(f32, f32); 3] = [(0.25, 0.0), (1e-3, -3.0), (7.0, 5.0)];

    /// Three groups of 24 elements, so that each ends in half a vector.
    fn elements() -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits((state & 0x83FF_FFFF) + (120 << 23))
        };
        let rare = [0.0, -0.0, 1e30, -1e30, 1e-40];
        rare.into_iter().chain(std::iter::from_fn(|| Some(next()))).take(72).collect()
    }

    fn assert_alike<L: Levels, R: RoundTo>(rule: LevelRule, levels: L, to: R) {
        let params =
            GroupedLevels { rule, quotient_type: FloatType::F32, restores_bf16: true, group: 24 };
        let x = elements();
        let quantized = |isa| {
            let (mut codes, mut restored) = (vec![0; 72], vec![0.0; 72]);
            let groups = GROUPS.into_iter();
            let (codes_out, restored_out) = (&mut codes[..], &mut restored[..]);
            let row = Row {
                params,
                rule: levels,
                to,
                x: &x,
                groups,
                codes: codes_out,
                restored: restored_out,
            };
            run_at(isa, row)?;
            let bits: Vec<u32> = restored.iter().map(|x| x.to_bits()).collect();
            Some((codes, bits))
        };
        let expected = quantized(Isa::Baseline);
        assert!(expected.is_some());
        for isa in Isa::ALL {
            let found = quantized(*isa);
            assert!(found.is_none() || found == expected, "{isa:?} {rule:?}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_codes() {
        let (low, high) = (-8.0, 7.0);
        assert_alike(LevelRule::Integers { low, high }, Integers { low, high }, ToF16);
        assert_alike(LevelRule::Integers { low, high }, Integers { low, high }, ToBf16);
        for format in [Minifloat::E4M3, Minifloat::E2M1] {
            assert_alike(LevelRule::Minifloat(format), format, ToF32);
            assert_alike(LevelRule::Minifloat(format), format, ToBf16);
        }
    }
}
