//! The kernels as plain f64 loops, which the tests compare the fast ones with.

use crate::quantization::kernels::params::Quantization;
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;
use crate::quantization::statistics::{ErrorSums, Moments};
use crate::tensor::FloatType;
use crate::tensor::minifloat::{E2M1_VALUES, f8e4m3_value};
use half::{bf16, f16};

/// An element type that the loops are generic over.
trait Element: Copy {
    const SIZE: usize;
    fn read(raw: &[u8]) -> Self;
    fn f64(self) -> f64;
    /// The quotient `self / scale` in the precision the element is computed in.
    fn quotient(self, scale: f32) -> f64;
    /// The dequantized value `scale * q` in the precision the element is computed in.
    fn product(scale: f32, q: f32) -> f64;
}

macro_rules! element {
    ($t:ty, $size:literal) => {
        impl Element for $t {
            const SIZE: usize = $size;
            fn read(raw: &[u8]) -> Self {
                raw.try_into().map(<$t>::from_le_bytes).unwrap_or_default()
            }
            fn f64(self) -> f64 {
                self.into()
            }
            fn quotient(self, scale: f32) -> f64 {
                (f32::from(self) / scale).into()
            }
            fn product(scale: f32, q: f32) -> f64 {
                (scale * q).into()
            }
        }
    };
}
element!(f32, 4);
element!(f16, 2);
element!(bf16, 2);

impl Element for f64 {
    const SIZE: usize = 8;
    fn read(raw: &[u8]) -> Self {
        raw.try_into().map(f64::from_le_bytes).unwrap_or_default()
    }
    fn f64(self) -> f64 {
        self
    }
    fn quotient(self, scale: f32) -> f64 {
        self / f64::from(scale)
    }
    fn product(scale: f32, q: f32) -> f64 {
        f64::from(scale) * f64::from(q)
    }
}

macro_rules! dispatch {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            FloatType::F64 => $f::<f64>($($arg),*),
            FloatType::F32 => $f::<f32>($($arg),*),
            FloatType::F16 => $f::<f16>($($arg),*),
            FloatType::BF16 => $f::<bf16>($($arg),*),
        }
    };
}

/// Min, max, Σx, Σx², zeros and the non-finite elements.
pub(super) fn moments(dtype: FloatType, bytes: &[u8]) -> Moments {
    dispatch!(dtype, moments_of(bytes))
}

fn moments_of<E: Element>(bytes: &[u8]) -> Moments {
    let mut m = Moments::default();
    for raw in bytes.chunks_exact(E::SIZE) {
        let x = E::read(raw).f64();
        if x.is_finite() {
            m.range.min = m.range.min.min(x);
            m.range.max = m.range.max.max(x);
            m.sum += x;
            m.sum_sq += x * x;
            m.zeros += u64::from(x == 0.0);
        } else {
            m.range.nan += u64::from(x.is_nan());
            m.range.inf += u64::from(x.is_infinite());
            m.range.first_non_finite.get_or_insert(m.range.count);
        }
        m.range.count += 1;
    }
    m
}

/// The error sums of quantizing elements, which must be finite.
pub(super) fn error(dtype: FloatType, bytes: &[u8], params: Quantization) -> ErrorSums {
    dispatch!(dtype, error_of(bytes, params))
}

fn error_of<E: Element>(bytes: &[u8], params: Quantization) -> ErrorSums {
    let mut sums = ErrorSums::default();
    for raw in bytes.chunks_exact(E::SIZE) {
        let e = E::read(raw);
        let x = e.f64();
        let (q, code) = round(e.quotient(params.scale), params);
        let hat = E::product(params.scale, q);
        let d = x - hat;
        sums.count += 1;
        sums.sum += x;
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

/// The level nearest to a quotient, and its code.
pub(super) fn round(quotient: f64, params: Quantization) -> (f32, u8) {
    match params.qtype {
        QuantizationType::QInt8 | QuantizationType::QInt4 => {
            let max = f64::from(params.qtype.max());
            let r = match params.rounding {
                Rounding::HalfEven => quotient.round_ties_even(),
                Rounding::HalfAway => quotient.round(),
            };
            let q = r.clamp(-max, max);
            (q as f32, q as i8 as u8)
        }
        QuantizationType::F8E4M3 => {
            let code = f8e4m3_from(quotient as f32);
            (f8e4m3_value(code), code)
        }
        QuantizationType::F4E2M1 => {
            let quotient = quotient as f32;
            let code = nearest(quotient, 8, |code| E2M1_VALUES[usize::from(code)]);
            let signed = if code > 0 && quotient.is_sign_negative() { code | 8 } else { code };
            (E2M1_VALUES[usize::from(signed)], signed)
        }
    }
}

/// The E4M3 code nearest to `x`, found by trying all codes.
fn f8e4m3_from(x: f32) -> u8 {
    let nearest = nearest(x, 0x7F, f8e4m3_value);
    if nearest > 0 && x.is_sign_negative() { nearest | 0x80 } else { nearest }
}

/// The code below `codes` whose value is nearest to the magnitude of `x`; of two that are
/// equally near, the even one.
fn nearest(x: f32, codes: u8, value: impl Fn(u8) -> f32) -> u8 {
    let distance = |code: u8| (f64::from(x.abs()) - f64::from(value(code))).abs();
    let by_distance =
        |&a: &u8, &b: &u8| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2)));
    (0..codes).min_by(by_distance).unwrap_or(0)
}

/// Quantizes elements to int8; stops at the end of the shorter slice.
pub(super) fn quantize(
    dtype: FloatType,
    bytes: &[u8],
    scale: f32,
    rounding: Rounding,
    out: &mut [i8],
) {
    dispatch!(dtype, quantize_of(bytes, scale, rounding, out))
}

fn quantize_of<E: Element>(bytes: &[u8], scale: f32, rounding: Rounding, out: &mut [i8]) {
    let params = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    for (raw, out) in bytes.chunks_exact(E::SIZE).zip(out) {
        *out = round(E::read(raw).quotient(scale), params).1 as i8;
    }
}

/// Appends `scale * q` to `out` as little-endian elements of type `to`. The product is rounded
/// to f32 (to f64 for F64) and then to `to`.
pub(super) fn dequantize(q: &[i8], scale: f32, to: FloatType, out: &mut Vec<u8>) {
    for &q in q {
        let product = scale * f32::from(q);
        match to {
            FloatType::F64 => out.extend((f64::from(scale) * f64::from(q)).to_le_bytes()),
            FloatType::F32 => out.extend(product.to_le_bytes()),
            FloatType::F16 => out.extend(f16::from_f32(product).to_le_bytes()),
            FloatType::BF16 => out.extend(bf16::from_f32(product).to_le_bytes()),
        }
    }
}
