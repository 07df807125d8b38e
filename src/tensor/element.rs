//! Single elements, for reading a value here and there; whole slices go through
//! `quantization::kernels`.

use super::FloatType;
use half::{bf16, f16};

/// The element at `index` of little-endian `bytes`; `None` past the end.
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
        FloatType::F16 => out.extend(f16::from_f64(value).to_le_bytes()),
        FloatType::BF16 => out.extend(bf16::from_f64(value).to_le_bytes()),
    }
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
}
