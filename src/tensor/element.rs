//! Reading and writing of single elements. For whole slices use `quantization::kernels`.

use super::FloatType;
use half::{bf16, f16};

/// Returns the element at `index` of little-endian `bytes`; `None` past the end.
pub fn read_f64(dtype: FloatType, bytes: &[u8], index: usize) -> Option<f64> {
    let size = dtype.size();
    let start = index.checked_mul(size)?;
    let raw = bytes.get(start..start.checked_add(size)?)?;
    Some(match dtype {
        FloatType::F64 => f64::from_le_bytes(raw.try_into().ok()?),
        FloatType::F32 => f32::from_le_bytes(raw.try_into().ok()?).into(),
        FloatType::F16 => f16::from_le_bytes(raw.try_into().ok()?).into(),
        FloatType::BF16 => bf16::from_le_bytes(raw.try_into().ok()?).into(),
    })
}

/// Appends `value`, rounded to nearest even, to little-endian `out`.
pub fn write_f64(dtype: FloatType, value: f64, out: &mut Vec<u8>) {
    match dtype {
        FloatType::F64 => out.extend(value.to_le_bytes()),
        FloatType::F32 => out.extend((value as f32).to_le_bytes()),
        FloatType::F16 => out.extend(f16::from_f32(to_odd(value)).to_le_bytes()),
        FloatType::BF16 => out.extend(bf16::from_f32(to_odd(value)).to_le_bytes()),
    }
}

/// Returns `value` as an f32 whose last bit is set if anything was cut off, so that rounding it
/// again gives the same result as rounding `value` directly. `half`'s own `from_f64` ignores the
/// lower half of the mantissa and treats values just above a tie as ties.
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back == value || value.is_nan() {
        return nearest;
    }
    let towards_zero = nearest.to_bits() - u32::from(back.abs() > value.abs());
    f32::from_bits(towards_zero | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for dtype in [FloatType::F64, FloatType::F32, FloatType::F16, FloatType::BF16] {
            let mut bytes = Vec::new();
            for v in [0.0, -1.5, 0.25, f64::INFINITY] {
                write_f64(dtype, v, &mut bytes);
            }
            let back: Vec<_> = (0..5).map(|i| read_f64(dtype, &bytes, i)).collect();
            assert_eq!(back, [Some(0.0), Some(-1.5), Some(0.25), Some(f64::INFINITY), None]);
        }
    }

    fn written(dtype: FloatType, value: f64) -> u16 {
        let mut bytes = Vec::new();
        write_f64(dtype, value, &mut bytes);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    /// A value just above or below the middle of two halves is not a tie.
    #[test]
    fn halves_are_rounded_once() {
        for (dtype, step, unit) in
            [(FloatType::BF16, 2f64.powi(-7), 0x3F80), (FloatType::F16, 2f64.powi(-10), 0x3C00)]
        {
            for sign in [1.0, -1.0] {
                let bits = |n: u16| if sign < 0.0 { 0x8000 | (unit + n) } else { unit + n };
                for (odd, even) in [(0, 0), (1, 2)] {
                    let tie = 1.0 + (f64::from(odd) + 0.5) * step;
                    assert_eq!(written(dtype, sign * tie), bits(even), "{dtype:?} {tie}");
                    for little in [2f64.powi(-20), 2f64.powi(-23), 2f64.powi(-40), f64::EPSILON] {
                        let (below, above) = (sign * (tie - little), sign * (tie + little));
                        assert_eq!(written(dtype, below), bits(odd), "{dtype:?} {below}");
                        assert_eq!(written(dtype, above), bits(odd + 1), "{dtype:?} {above}");
                    }
                }
            }
        }
        for huge in [1e39, f64::MAX, f64::INFINITY] {
            assert_eq!(written(FloatType::BF16, huge), 0x7F80);
            assert_eq!(written(FloatType::F16, -huge), 0xFC00);
        }
        for tiny in [f64::MIN_POSITIVE, 1e-46, 1e-42] {
            assert_eq!(written(FloatType::F16, -tiny), 0x8000);
        }
        // Half the smallest subnormal is a tie and becomes zero; anything above it does not.
        assert_eq!(written(FloatType::F16, 2f64.powi(-25)), 0);
        assert_eq!(written(FloatType::F16, 2f64.powi(-25) * (1.0 + 2f64.powi(-30))), 1);
        assert_eq!(written(FloatType::BF16, 2f64.powi(-134)), 0);
        assert_eq!(written(FloatType::BF16, 2f64.powi(-134) * (1.0 + 2f64.powi(-10))), 1);
        assert!(bf16::from_bits(written(FloatType::BF16, f64::NAN)).is_nan());
    }
}
