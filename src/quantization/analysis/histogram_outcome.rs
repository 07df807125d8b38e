//! The outcome of a quantizer with one scale, computed from a histogram of the values.

use crate::quantization::analysis::results::{Outcome, Quantized};
use crate::quantization::analysis::spec::AnalysisSpec;
use crate::quantization::kernels::Quantization;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::value_histogram::ValueHistogram;

impl AnalysisSpec {
    /// The outcome of a quantizer with one scale for the whole tensor, computed from the
    /// tensor's histogram without reading the tensor again. Exact if the histogram is.
    pub fn outcome_of(&self, histogram: &ValueHistogram, quantizer: Quantizer) -> Outcome {
        Outcome { quantizer, result: self.quantized(histogram, quantizer) }
    }

    fn quantized(
        &self,
        histogram: &ValueHistogram,
        quantizer: Quantizer,
    ) -> Result<Quantized, NotQuantizable> {
        let range = histogram.range();
        if !range.is_finite() {
            let first = range.first_non_finite.unwrap_or(0);
            return Err(NotQuantizable::NonFinite { nan: range.nan, inf: range.inf, first });
        }
        let mut result = Quantized::empty(self);
        if range.count == 0 {
            return Ok(result);
        }
        let qtype = quantizer.scheme.quantization_type();
        let calibration = quantizer.calibration;
        let clip = calibration.clip_of_histogram(histogram, range.absmax(), qtype, self.rounding);
        let scale = quantizer.scale_for(clip, self.scale_storage.scale_type(histogram.dtype()))?;
        result.scales.push(clip, scale);
        if self.has_errors() {
            let params = Quantization { scale, qtype, rounding: self.rounding };
            result.add(&histogram.error(params));
        }
        Ok(result)
    }
}
