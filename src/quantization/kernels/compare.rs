//! Error of written quantized values, computed only if they are correct.

use crate::quantization::kernels::code_check::ReferenceCodes;
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::error::{ErrorOf, error_by_channel};
use crate::quantization::kernels::level_tracker::SeenLevels;
use crate::quantization::kernels::params::Quantization;
use crate::quantization::kernels::quantize::quantize;
use crate::quantization::kernels::rounding::{IntegersHalfEven, is_ordinary};
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::scheme::Rounding;
use crate::quantization::statistics::ErrorSums;
use crate::tensor::FloatType;

/// Returns the error of quantizing the elements to int8 by `scale` if the result equals `written`,
/// else `None`. For `seen` see `error_by_channel`.
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
    let reference = ReferenceCodes(bytemuck::cast_slice(written));
    let (grid, seen_levels) = (IntegersHalfEven, &mut seen.0);
    let found = run(ErrorOf { dtype, bytes, params, grid, bounds: None, seen_levels, reference });
    found.codes_match.then_some(found.sums)
}
