//! Values that were written, beside what their elements give: whether they are the same is
//! found out on the way, while the error is measured.

use crate::quantization::kernels::code_check::ReferenceCodes;
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::error::{ErrorOf, error_by_channel};
use crate::quantization::kernels::level_tracker::SeenLevels;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::quantize::quantize;
use crate::quantization::kernels::rounding::{IntegersHalfEven, is_ordinary};
use crate::quantization::scheme::{QuantizationType, Rounding};
use crate::quantization::statistics::ErrorSums;
use crate::tensor::FloatType;

/// What quantizing the elements to int8 by `scale` loses, as `error_by_channel` has it, if that
/// gives just these values; `None` if it does not.
pub fn error_if_codes_match(
    dtype: FloatType,
    bytes: &[u8],
    (scale, rounding): (f32, Rounding),
    written: &[i8],
    seen: &mut SeenLevels,
) -> Option<ErrorSums> {
    if written.len() != bytes.len() / dtype.size() {
        return None;
    }
    let params = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    if dtype == FloatType::F64 || rounding != Rounding::HalfEven || !is_ordinary(scale) {
        let mut values = vec![0; written.len()];
        quantize(dtype, bytes, scale, rounding, &mut values);
        return (values == written).then(|| error_by_channel(dtype, bytes, params, None, seen).0);
    }
    let beside = ReferenceCodes(bytemuck::cast_slice(written));
    let (grid, watch) = (IntegersHalfEven, &mut seen.0);
    let found = run(ErrorOf { dtype, bytes, params, grid, bounds: None, watch, beside });
    found.are_same.then_some(found.sums)
}
