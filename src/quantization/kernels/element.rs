//! Element types, and loading of little-endian bytes into lanes.

use crate::quantization::kernels::array_lanes::{LANES, Lanes};
use crate::quantization::kernels::rounding::Divisor;
use crate::quantization::kernels::simd::Simd;
use half::{bf16, f16};
use std::ops::{Div, Mul};

/// The type elements are computed in: f32, or f64 for f64.
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

/// An element type that kernels are generic over.
pub(super) trait Element: Copy {
    /// The type the elements are computed in.
    type Wide: Float;
    /// Bytes of an element.
    const SIZE: usize;

    /// Reads an element from its little-endian bytes; zero if `raw` has another length.
    fn read(raw: &[u8]) -> Self::Wide;

    /// The bytes of [`LANES`] elements.
    type Raw: Copy;

    /// Splits `bytes` into steps of [`LANES`] elements and the bytes after the last full step.
    fn split(bytes: &[u8]) -> (&[Self::Raw], &[u8]);

    /// Up to [`LANES`] elements of `bytes`, padded with zeros.
    fn pad(bytes: &[u8]) -> Self::Raw;

    /// The bytes of several steps; the inverse of [`Element::split`].
    fn bytes(raw: &[Self::Raw]) -> &[u8];
}

/// Elements in steps of [`LANES`]. The last step is padded with zeros.
pub(super) struct Steps<'a, E: Element> {
    whole: &'a [E::Raw],
    last: E::Raw,
    /// Elements of the last step, or 0 if there is no partial step.
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

    /// The steps without padding.
    #[inline(always)]
    pub(super) fn whole(&self) -> &'a [E::Raw] {
        self.whole
    }

    /// Elements of a step without the padding.
    #[inline(always)]
    pub(super) fn count(&self, step: usize) -> usize {
        if step < self.whole.len() { LANES } else { self.tail }
    }

    /// Step number `step`; the padded one for every index past the full steps.
    #[inline(always)]
    pub(super) fn at(&self, step: usize) -> &E::Raw {
        self.whole.get(step).unwrap_or(&self.last)
    }
}

/// An element type that is computed in f32.
pub(super) trait Narrow: Element<Wide = f32> {
    /// Bits of the significand, with the implicit one.
    const SIGNIFICANT_BITS: u32;

    fn load<S: Simd>(simd: S, raw: &Self::Raw) -> S::F32;

    /// Loads [`PAIR`] elements; their order in the two vectors depends on the type.
    fn load_pair<S: Simd>(simd: S, raw: &[Self::Raw; 2]) -> [S::F32; 2];

    /// Lanes whose maximum is the largest magnitude. NaN is ignored.
    #[inline(always)]
    fn absmax_of_pairs<S: Simd>(simd: S, pairs: &[[Self::Raw; 2]]) -> S::F32 {
        absmax_by_value::<Self, S>(simd, pairs)
    }

    /// Returns whether multiplying by the reciprocal of the scale is known to round every element
    /// to the same level as division does (half to even, up to level `qmax`).
    #[inline(always)]
    fn reciprocal_rounds_alike<S: Simd>(_level: S, _by: &Divisor, _qmax: f32) -> bool {
        false
    }
}

/// Returns lanes whose maximum is the largest magnitude, comparing values. NaN is ignored.
#[inline(always)]
pub(super) fn absmax_by_value<E: Narrow, S: Simd>(simd: S, pairs: &[[E::Raw; 2]]) -> S::F32 {
    // Two accumulators break the dependency between consecutive instructions.
    let mut largest = [simd.splat(0.0); 2];
    for raw in pairs {
        let [a, b] = E::load_pair(simd, raw);
        // `max` returns the second operand where the first is NaN.
        largest = [simd.max(simd.abs(a), largest[0]), simd.max(simd.abs(b), largest[1])];
    }
    simd.max(largest[0], largest[1])
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

impl Narrow for f32 {
    const SIGNIFICANT_BITS: u32 = f32::MANTISSA_DIGITS;

    #[inline(always)]
    fn load<S: Simd>(simd: S, raw: &Self::Raw) -> S::F32 {
        simd.load_f32(raw)
    }
    #[inline(always)]
    fn load_pair<S: Simd>(simd: S, raw: &[Self::Raw; 2]) -> [S::F32; 2] {
        [simd.load_f32(&raw[0]), simd.load_f32(&raw[1])]
    }
}

/// Evaluates an expression with `$E` as the [`Element`] type that a `FloatType` names.
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

/// [`by_type!`] for the types computed in f32, as `Some`; `None` for F64.
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
