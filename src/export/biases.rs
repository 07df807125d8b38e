//! The biases of formats whose elements are `code * scale + bias`.

use crate::quantization::Preset;
use crate::tensor::{FloatType, read_f64, write_f64};

/// The ratio of bias to scale where codes of int4 are stored with 8 added.
const INT4_FACTOR: f32 = -8.0;

/// Returns the ratio of bias to scale of a preset.
pub(crate) fn preset_factor(preset: Preset) -> f32 {
    match preset {
        Preset::W4A16(_) => INT4_FACTOR,
        _ => 0.0,
    }
}

/// Replaces the content of `out` by the biases of stored scales of type `dtype`: `factor` times
/// each. Returns the first scale whose bias is beyond the type.
pub(crate) fn write_biases(
    factor: f32,
    dtype: FloatType,
    scales: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), f64> {
    out.clear();
    for i in 0..scales.len() / dtype.size() {
        let scale = read_f64(dtype, scales, i).unwrap_or(f64::NAN);
        write_f64(dtype, f64::from(factor) * scale, out);
        if read_f64(dtype, out, i).is_some_and(f64::is_infinite) {
            return Err(scale);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_beyond_its_type_is_an_error() {
        let (mut scales, mut out) = (Vec::new(), Vec::new());
        [0.5, 9000.0].into_iter().for_each(|scale| write_f64(FloatType::F16, scale, &mut scales));
        assert_eq!(write_biases(-8.0, FloatType::F16, &scales, &mut out), Err(9000.0));
        assert_eq!(write_biases(-8.0, FloatType::F16, &scales[..2], &mut out), Ok(()));
        assert_eq!(read_f64(FloatType::F16, &out, 0), Some(-4.0));
    }
}
