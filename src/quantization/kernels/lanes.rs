//! Arrays of elements that the compiler turns into vectors, and how bytes become them.

use super::dispatch::Level;
use half::{bf16, f16};
use std::ops::{Add, Div, Mul, Sub};

/// Elements handled side by side: one AVX-512 vector of f32, two of AVX2, four of SSE2.
/// Every sum has this many independent parts whatever the vector, so that the order of
/// additions is the same on every machine.
pub(super) const LANES: usize = 16;

pub(super) type Lanes<T> = [T; LANES];

#[inline(always)]
pub(super) fn map<T: Copy, V: Copy + Default>(a: Lanes<T>, f: impl Fn(T) -> V) -> Lanes<V> {
    let mut out = [V::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i]);
    }
    out
}

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

/// Combines the lanes pairwise, always in the same order.
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

/// What elements are computed in: f32, and f64 for f64.
pub(super) trait Float:
    Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    const INFINITY: Self;

    fn from_f32(x: f32) -> Self;
    fn f64(self) -> f64;
    fn abs(self) -> Self;

    /// The smaller; `self` if `other` is NaN. One instruction, unlike `f32::min`.
    #[inline(always)]
    fn least(self, other: Self) -> Self {
        if other < self { other } else { self }
    }

    /// The larger; `self` if `other` is NaN.
    #[inline(always)]
    fn most(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

macro_rules! float {
    ($t:ident) => {
        impl Float for $t {
            const INFINITY: Self = $t::INFINITY;

            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                x.into()
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $t::abs(self)
            }
        }
    };
}
float!(f32);
float!(f64);

/// An element type the kernels are generic over.
pub(super) trait Element: Copy {
    type Wide: Float;
    const SIZE: usize;

    /// The element whose little-endian bytes are `raw`; 0 for another number of bytes.
    fn read(raw: &[u8]) -> Self::Wide;

    /// The elements of `raw`, which holds [`LANES`] of them.
    fn load<L: Level>(level: L, raw: &[u8]) -> Lanes<Self::Wide>;

    /// The up to [`LANES`] elements of `raw`, and zeros.
    #[inline(always)]
    fn load_padded<L: Level>(level: L, raw: &[u8]) -> Lanes<Self::Wide> {
        if raw.len() == LANES * Self::SIZE {
            return Self::load(level, raw);
        }
        let mut padded = [0; LANES * 8];
        let filled = raw.len().min(LANES * Self::SIZE);
        padded[..filled].copy_from_slice(&raw[..filled]);
        Self::load(level, &padded[..LANES * Self::SIZE])
    }
}

/// The `N`-byte words of `raw`, zeros where it is too short.
#[inline(always)]
fn words<const N: usize>(raw: &[u8]) -> Lanes<[u8; N]> {
    let mut out = [[0; N]; LANES];
    let (words, _) = raw.as_chunks::<N>();
    if let Some(words) = words.first_chunk::<LANES>() {
        out = *words;
    }
    out
}

/// An element type computed in f32.
pub(super) trait Narrow: Element<Wide = f32> {}

impl<E: Element<Wide = f32>> Narrow for E {}

impl Element for f32 {
    type Wide = f32;
    const SIZE: usize = 4;

    #[inline(always)]
    fn read(raw: &[u8]) -> f32 {
        raw.try_into().map(f32::from_le_bytes).unwrap_or_default()
    }
    #[inline(always)]
    fn load<L: Level>(_: L, raw: &[u8]) -> Lanes<f32> {
        map(words::<4>(raw), f32::from_le_bytes)
    }
}

impl Element for bf16 {
    type Wide = f32;
    const SIZE: usize = 2;

    #[inline(always)]
    fn read(raw: &[u8]) -> f32 {
        raw.try_into().map(bf16::from_le_bytes).unwrap_or_default().into()
    }
    #[inline(always)]
    fn load<L: Level>(_: L, raw: &[u8]) -> Lanes<f32> {
        map(words::<2>(raw), |w| f32::from_bits(u32::from(u16::from_le_bytes(w)) << 16))
    }
}

impl Element for f16 {
    type Wide = f32;
    const SIZE: usize = 2;

    #[inline(always)]
    fn read(raw: &[u8]) -> f32 {
        raw.try_into().map(f16::from_le_bytes).unwrap_or_default().into()
    }
    #[inline(always)]
    fn load<L: Level>(level: L, raw: &[u8]) -> Lanes<f32> {
        level.widen_f16(map(words::<2>(raw), u16::from_le_bytes))
    }
}

impl Element for f64 {
    type Wide = f64;
    const SIZE: usize = 8;

    #[inline(always)]
    fn read(raw: &[u8]) -> f64 {
        raw.try_into().map(f64::from_le_bytes).unwrap_or_default()
    }
    #[inline(always)]
    fn load<L: Level>(_: L, raw: &[u8]) -> Lanes<f64> {
        map(words::<8>(raw), f64::from_le_bytes)
    }
}

/// Evaluates an expression with `$E` as the [`Element`] that a `FloatType` names.
macro_rules! by_type {
    ($dtype:expr, $E:ident => $body:expr) => {{
        use $crate::tensor::FloatType;
        match $dtype {
            FloatType::F64 => {
                type $E = f64;
                $body
            }
            FloatType::F32 => {
                type $E = f32;
                $body
            }
            FloatType::F16 => {
                type $E = half::f16;
                $body
            }
            FloatType::BF16 => {
                type $E = half::bf16;
                $body
            }
        }
    }};
}
pub(super) use by_type;

/// The same for the types computed in f32; `None` for F64.
macro_rules! by_single {
    ($dtype:expr, $E:ident => $body:expr) => {{
        use $crate::tensor::FloatType;
        match $dtype {
            FloatType::F64 => None,
            FloatType::F32 => {
                type $E = f32;
                Some($body)
            }
            FloatType::F16 => {
                type $E = half::f16;
                Some($body)
            }
            FloatType::BF16 => {
                type $E = half::bf16;
                Some($body)
            }
        }
    }};
}
pub(super) use by_single;

/// IEEE half to single precision without F16C: exact, in integer arithmetic but for
/// subnormals, whose leading zeros one subtraction removes.
#[inline(always)]
pub(super) fn widen_f16(halves: Lanes<u16>) -> Lanes<f32> {
    map(halves, |h| {
        let sign = u32::from(h & 0x8000) << 16;
        let magnitude = u32::from(h & 0x7FFF) << 13;
        let subnormal =
            (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
        // The exponent's bias grows by 112, and once more where it says infinity or NaN.
        let normal = magnitude + (112 << 23);
        let special = magnitude + (224 << 23);
        let finite = if magnitude < 1 << 23 { subnormal } else { normal };
        f32::from_bits(sign | if magnitude >= 31 << 23 { special } else { finite })
    })
}

/// IEEE single to half precision without F16C, to nearest even.
#[inline(always)]
pub(super) fn narrow_f16(singles: Lanes<f32>) -> Lanes<u16> {
    map(singles, |x| {
        let sign = (x.to_bits() >> 16) & 0x8000;
        let magnitude = x.to_bits() & 0x7FFF_FFFF;
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd) >> 13;
        // The unit in the last place of 0.5 is the smallest half.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(126 << 23);
        let nan = 0x7E00 | (magnitude >> 13) & 0x3FF;
        let finite = if magnitude < 113 << 23 { subnormal } else { normal };
        let infinite = if magnitude > 255 << 23 { nan } else { 0x7C00 };
        (sign | if magnitude >= 143 << 23 { infinite } else { finite }) as u16
    })
}

/// The bits of f32 as bf16, to nearest even. No element may be NaN.
#[inline(always)]
pub(super) fn narrow_bf16(singles: Lanes<f32>) -> Lanes<u32> {
    map(singles, |x| x.to_bits().wrapping_add(0x7FFF + ((x.to_bits() >> 16) & 1)) >> 16)
}
