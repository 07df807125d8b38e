//! Quantizes rows whose groups have scales and zero points that are already known, with quotients
//! that are rounded to the type of the weight.

use crate::quantization::kernels::array_lanes::{LANES, Lanes, ROUNDING_MAGIC};
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::rounding::nearest_minifloats;
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
        let bits = simd.bits(x);
        let odd = simd.and(simd.shift_right(bits, 16), simd.u32s([1; LANES]));
        let half = simd.add_u32(simd.u32s([0x7FFF; LANES]), odd);
        let kept = simd.u32s([0xFFFF_0000; LANES]);
        simd.with_bits(simd.and(simd.add_u32(bits, half), kept))
    }
}

impl RoundTo for ToF16 {
    #[inline(always)]
    fn round<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        simd.f32s(simd.widen_f16(simd.narrow_f16(simd.array(x))))
    }
}

/// Rounding of quotients to levels.
trait Levels: Copy {
    /// Returns the levels, and vectors with their codes in the low eight bits.
    fn round<S: Simd, R: RoundTo>(
        self,
        simd: S,
        to: R,
        quotients: S::F32,
        zero: S::F32,
    ) -> (S::F32, S::U32);
}

#[derive(Clone, Copy)]
struct Integers {
    low: f32,
    high: f32,
}

impl Levels for Integers {
    #[inline(always)]
    fn round<S: Simd, R: RoundTo>(
        self,
        simd: S,
        to: R,
        quotients: S::F32,
        zero: S::F32,
    ) -> (S::F32, S::U32) {
        let shifted = to.round(simd, simd.add(quotients, zero));
        let clamped = simd.min(simd.max(shifted, simd.splat(self.low)), simd.splat(self.high));
        let magic = simd.splat(ROUNDING_MAGIC);
        let sum = simd.add(clamped, magic);
        (simd.sub(sum, magic), simd.bits(sum))
    }
}

impl Levels for Minifloat {
    #[inline(always)]
    fn round<S: Simd, R: RoundTo>(
        self,
        simd: S,
        _: R,
        quotients: S::F32,
        _: S::F32,
    ) -> (S::F32, S::U32) {
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
                let (level, code) = rule.round(simd, to, quotients, zero);
                let value = simd.mul(simd.sub(level, zero), scale);
                let value = if params.restores_bf16 { ToBf16.round(simd, value) } else { value };
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

#[inline(always)]
fn padded(rest: &[f32]) -> Lanes<f32> {
    let mut lanes = [0.0; LANES];
    lanes.iter_mut().zip(rest).for_each(|(to, &x)| *to = x);
    lanes
}
