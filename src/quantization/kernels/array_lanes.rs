//! Arrays of lanes that the compiler turns into vectors.

/// Number of elements processed in parallel: one AVX-512 vector of f32, two of AVX2, four of SSE2.
/// Every sum has this many partial sums on every machine, so the order of additions is always the
/// same.
pub(super) const LANES: usize = 16;

pub(super) type Lanes<T> = [T; LANES];

/// Number of 16-bit elements that take as much space as [`LANES`] f32.
pub(super) const PAIR: usize = 2 * LANES;

/// 1.5 · 2²³, whose unit in the last place is 1. Adding it to a small number rounds the number
/// to an integer, half to even, and leaves the integer in the low bits.
pub(super) const ROUNDING_MAGIC: f32 = 12_582_912.0;

/// Rounds a number of magnitude below 2²² to an integer, half to even. Zero becomes positive.
#[inline(always)]
pub(crate) fn round_half_even(x: f32) -> f32 {
    (x + ROUNDING_MAGIC) - ROUNDING_MAGIC
}

/// Returns the low byte of an integer of magnitude below 2²².
#[inline(always)]
pub(crate) fn integer_byte(x: f32) -> u8 {
    (x + ROUNDING_MAGIC).to_bits() as u8
}

/// Copies fewer than [`LANES`] elements to lanes; the others are zero.
#[inline(always)]
pub(super) fn padded(rest: &[f32]) -> Lanes<f32> {
    let mut lanes = [0.0; LANES];
    lanes.iter_mut().zip(rest).for_each(|(to, &x)| *to = x);
    lanes
}

/// Applies `f` to every lane.
#[inline(always)]
pub(super) fn map<T: Copy, V: Copy + Default>(a: Lanes<T>, f: impl Fn(T) -> V) -> Lanes<V> {
    let mut out = [V::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i]);
    }
    out
}

/// Applies `f` to the lanes of two arrays.
#[inline(always)]
pub(super) fn zip<T: Copy, U: Copy, V: Copy + Default>(
    a: Lanes<T>,
    b: Lanes<U>,
    f: impl Fn(T, U) -> V,
) -> Lanes<V> {
    let mut out = [V::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

/// Combines all lanes pairwise, always in the same order.
#[inline(always)]
pub(super) fn fold<T: Copy>(mut a: Lanes<T>, f: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            a[i] = f(a[i], a[i + width]);
        }
        width /= 2;
    }
    a[0]
}

/// Converts f16 to f32 without F16C instructions; exact. Integer arithmetic handles all but
/// the subnormals, whose leading zeros one f32 subtraction removes.
#[inline(always)]
pub(super) fn widen_f16(values: Lanes<u16>) -> Lanes<f32> {
    map(values, |h| {
        let sign = u32::from(h & 0x8000) << 16;
        let magnitude = u32::from(h & 0x7FFF) << 13;
        let subnormal =
            (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
        // The bias of the exponent grows by 112, and once more for infinity and NaN.
        let normal = magnitude + (112 << 23);
        let special = magnitude + (224 << 23);
        let finite = if magnitude < 1 << 23 { subnormal } else { normal };
        f32::from_bits(sign | if magnitude >= 31 << 23 { special } else { finite })
    })
}

/// Converts f32 to f16 without F16C instructions, rounded to nearest even.
#[inline(always)]
pub(super) fn narrow_f16(values: Lanes<f32>) -> Lanes<u16> {
    map(values, |x| {
        let sign = (x.to_bits() >> 16) & 0x8000;
        let magnitude = x.to_bits() & 0x7FFF_FFFF;
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd) >> 13;
        // The unit in the last place of 0.5f32 is the smallest f16.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(126 << 23);
        let nan = 0x7E00 | (magnitude >> 13) & 0x3FF;
        let finite = if magnitude < 113 << 23 { subnormal } else { normal };
        let infinite = if magnitude > 255 << 23 { nan } else { 0x7C00 };
        (sign | if magnitude >= 143 << 23 { infinite } else { finite }) as u16
    })
}

/// Converts f32 to the bits of bf16, rounded to nearest even. No lane may be NaN.
#[inline(always)]
pub(super) fn narrow_bf16(values: Lanes<f32>) -> Lanes<u32> {
    map(values, |x| x.to_bits().wrapping_add(0x7FFF + ((x.to_bits() >> 16) & 1)) >> 16)
}
