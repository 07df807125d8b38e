//! Arrays of elements that the compiler turns into vectors, and how bytes become them.

use crate::quantization::kernels::f16_bits;
use crate::quantization::kernels::rounding::Divisor;
use crate::quantization::kernels::simd::Level;
use half::{bf16, f16};
use std::ops::{Div, Mul};

/// Elements handled side by side: one AVX-512 vector of f32, two of AVX2, four of SSE2.
/// Every sum has this many independent parts whatever the vector, so that the order of
/// additions is the same on every machine.
pub(super) const LANES: usize = 16;

pub(super) type Lanes<T> = [T; LANES];

/// Elements of sixteen bits that take as much room as [`LANES`] singles.
pub(super) const PAIR: usize = 2 * LANES;

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
pub(super) trait Float: Copy + Mul<Output = Self> + Div<Output = Self> {
    fn from_f32(x: f32) -> Self;
    fn f64(self) -> f64;
}

macro_rules! float {
    ($($t:ident)*) => {$(
        impl Float for $t {
            fn from_f32(x: f32) -> Self {
                x.into()
            }
            fn f64(self) -> f64 {
                self.into()
            }
        }
    )*};
}
float!(f32 f64);

/// An element type the kernels are generic over.
pub(super) trait Element: Copy {
    type Wide: Float;
    const SIZE: usize;

    /// The element whose little-endian bytes are `raw`; 0 for another number of bytes.
    fn read(raw: &[u8]) -> Self::Wide;

    /// The bytes of [`LANES`] elements.
    type Raw: Copy;

    /// All whole [`LANES`] elements of `bytes`, and the bytes after them.
    fn split(bytes: &[u8]) -> (&[Self::Raw], &[u8]);

    /// The up to [`LANES`] elements of `bytes`, and zeros.
    fn pad(bytes: &[u8]) -> Self::Raw;

    /// What was split.
    fn bytes(raw: &[Self::Raw]) -> &[u8];
}

/// Elements in steps of [`LANES`], the last one filled up with zeros.
pub(super) struct Steps<'a, E: Element> {
    whole: &'a [E::Raw],
    last: E::Raw,
    /// Elements of the last, if it is not whole.
    pub(super) tail: usize,
}

impl<'a, E: Element> Steps<'a, E> {
    #[inline(always)]
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let (whole, tail) = E::split(bytes);
        Steps { whole, last: E::pad(tail), tail: tail.len() / E::SIZE }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.whole.len() + usize::from(self.tail > 0)
    }

    /// The steps that hold no filling.
    #[inline(always)]
    pub(super) fn whole(&self) -> &'a [E::Raw] {
        self.whole
    }

    /// Elements of a step that are not filling.
    #[inline(always)]
    pub(super) fn count(&self, step: usize) -> usize {
        if step < self.whole.len() { LANES } else { self.tail }
    }

    /// The last one for every step past the end.
    #[inline(always)]
    pub(super) fn at(&self, step: usize) -> &E::Raw {
        self.whole.get(step).unwrap_or(&self.last)
    }
}

/// An element type computed in f32.
pub(super) trait Narrow: Element<Wide = f32> {
    /// How many of its bits are significant.
    const SIGNIFICANT: u32;

    fn load<L: Level>(level: L, raw: &Self::Raw) -> L::F32;

    /// The singles of [`PAIR`] elements; the order is the type's.
    fn load_pair<L: Level>(level: L, raw: &[Self::Raw; 2]) -> [L::F32; 2];

    /// Lanes of which the largest is the largest magnitude. NaN is ignored.
    #[inline(always)]
    fn absmax_of_pairs<L: Level>(l: L, pairs: &[[Self::Raw; 2]]) -> L::F32 {
        absmax_by_value::<Self, L>(l, pairs)
    }

    /// Whether multiplying by the reciprocal is known to round every element to the level
    /// that dividing does, halves to the even, up to the level `qmax`.
    #[inline(always)]
    fn reciprocal_will_do<L: Level>(_level: L, _by: &Divisor, _qmax: f32) -> bool {
        false
    }
}

#[inline(always)]
pub(super) fn absmax_by_value<E: Narrow, L: Level>(l: L, pairs: &[[E::Raw; 2]]) -> L::F32 {
    // Two, as one would wait for itself.
    let mut most = [l.splat(0.0); 2];
    for raw in pairs {
        let [a, b] = E::load_pair(l, raw);
        // The second operand is kept where the first is NaN.
        most = [l.max(l.abs(a), most[0]), l.max(l.abs(b), most[1])];
    }
    l.max(most[0], most[1])
}

macro_rules! element {
    ($t:ty, $wide:ty, $size:literal) => {
        impl Element for $t {
            type Wide = $wide;
            const SIZE: usize = $size;
            type Raw = Lanes<[u8; $size]>;

            #[inline(always)]
            fn read(raw: &[u8]) -> $wide {
                raw.try_into().map(<$t>::from_le_bytes).unwrap_or_default().into()
            }
            #[inline(always)]
            fn split(bytes: &[u8]) -> (&[Self::Raw], &[u8]) {
                let (whole, tail) = bytes.as_chunks::<$size>().0.as_chunks();
                (whole, tail.as_flattened())
            }
            #[inline(always)]
            fn pad(bytes: &[u8]) -> Self::Raw {
                let mut padded = [[0; $size]; LANES];
                for (padded, word) in padded.iter_mut().zip(bytes.as_chunks().0) {
                    *padded = *word;
                }
                padded
            }
            #[inline(always)]
            fn bytes(raw: &[Self::Raw]) -> &[u8] {
                raw.as_flattened().as_flattened()
            }
        }
    };
}
element!(f64, f64, 8);
element!(f32, f32, 4);
element!(f16, f32, 2);
element!(bf16, f32, 2);

macro_rules! narrow {
    ($($t:ty: $load:ident, |$l:ident, $raw:ident| $pair:expr $(, by $halves:ident)?;)*) => {$(
        impl Narrow for $t {
            const SIGNIFICANT: u32 = <$t>::MANTISSA_DIGITS;

            #[inline(always)]
            fn load<L: Level>(level: L, raw: &Self::Raw) -> L::F32 {
                level.$load(raw)
            }
            #[inline(always)]
            fn load_pair<L: Level>($l: L, $raw: &[Self::Raw; 2]) -> [L::F32; 2] {
                $pair
            }
            $(
                #[inline(always)]
                fn absmax_of_pairs<L: Level>(level: L, pairs: &[[Self::Raw; 2]]) -> L::F32 {
                    $halves::absmax::<Self, L>(level, pairs)
                }
                #[inline(always)]
                fn reciprocal_will_do<L: Level>(level: L, by: &Divisor, qmax: f32) -> bool {
                    $halves::reciprocal_will_do::<Self, L>(level, by, qmax)
                }
            )?
        }
    )*};
}
narrow! {
    f32: load_f32, |l, raw| [l.load_f32(&raw[0]), l.load_f32(&raw[1])];
    f16: load_f16, |l, raw| [l.load_f16(&raw[0]), l.load_f16(&raw[1])], by f16_bits;
    bf16: load_bf16, |l, raw| l.singles(l.load_u16(raw)), by f16_bits;
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
