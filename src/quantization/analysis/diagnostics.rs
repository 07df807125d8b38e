//! Unusual properties of a tensor that affect its quantization.

use crate::quantization::analysis::results::Analysis;
use crate::quantization::scales::Scales;
use crate::quantization::scheme::QuantizationScheme;
use crate::quantization::statistics::Statistics;
use crate::tensor::DType;
use std::fmt;
use std::sync::Arc;

/// A channel is an outlier if its range is at least this many times that of every other
/// channel. A ratio of 4 costs the other channels two bits of a per-tensor scheme.
pub const OUTLIER_RATIO: f32 = 4.0;

/// Something to know about a tensor before quantizing it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Diagnostic {
    /// Elements that are NaN; `first` is the index of the first element that is NaN or
    /// infinite.
    Nan { count: u64, first: u64 },
    /// Elements that are infinite; `first` is the index of the first element that is NaN or
    /// infinite.
    Inf { count: u64, first: u64 },
    /// Every element is zero.
    Zero,
    /// Every element has this value, which is not zero.
    Constant(f64),
    /// This many output channels consist of zeros.
    DeadChannels(u64),
    /// One output channel has `times` the range of every other channel.
    OutlierChannel { channel: u64, times: f32 },
    /// The values are so small that their scale would be zero in F32.
    Underflow,
    /// Values exceed ±65504, the largest finite F16.
    BeyondF16 { absmax: f64 },
    /// The bytes equal those of the tensor with this name.
    Duplicate(Arc<str>),
}

/// The names of all diagnostics, most severe first.
pub const DIAGNOSTIC_NAMES: [&str; 9] =
    ["nan", "inf", "zero", "constant", "underflow", "beyond-f16", "outlier", "dead", "duplicate"];

impl Diagnostic {
    /// The name to search for, one of [`DIAGNOSTIC_NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Diagnostic::Nan { .. } => "nan",
            Diagnostic::Inf { .. } => "inf",
            Diagnostic::Zero => "zero",
            Diagnostic::Constant(_) => "constant",
            Diagnostic::Underflow => "underflow",
            Diagnostic::BeyondF16 { .. } => "beyond-f16",
            Diagnostic::OutlierChannel { .. } => "outlier",
            Diagnostic::DeadChannels(_) => "dead",
            Diagnostic::Duplicate(_) => "duplicate",
        }
    }

    /// What the diagnostic means for quantization, as a sentence.
    pub fn meaning(&self) -> &'static str {
        match self {
            Diagnostic::Nan { .. } | Diagnostic::Inf { .. } => {
                "such values have no scale: the tensor cannot be quantized, and the model may be broken"
            }
            Diagnostic::Zero => {
                "int8 holds it exactly; it may never have been trained, or been pruned"
            }
            Diagnostic::Constant(_) => {
                "int8 holds it exactly, or nearly; it carries no information"
            }
            Diagnostic::Underflow => {
                "its scale is the smallest there is, and its values become zero"
            }
            Diagnostic::BeyondF16 { .. } => {
                "they become infinite in F16: keep scales and floats in BF16 or F32"
            }
            Diagnostic::OutlierChannel { .. } => {
                "it sets the scale of the whole tensor: quantize per channel"
            }
            Diagnostic::DeadChannels(_) => "they cost nothing in int8; they may have been pruned",
            Diagnostic::Duplicate(_) => {
                "tied weights, or a copy: quantize both with the same scheme, or they will differ"
            }
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Diagnostic::Nan { count, first } => {
                write!(f, "{count} NaN, the first at index {first}")
            }
            Diagnostic::Inf { count, first } => {
                write!(f, "{count} infinite, the first non-finite at index {first}")
            }
            Diagnostic::Zero => f.write_str("all zeros"),
            Diagnostic::Constant(value) => write!(f, "every value is {value}"),
            Diagnostic::DeadChannels(1) => f.write_str("1 output channel is all zeros"),
            Diagnostic::DeadChannels(n) => write!(f, "{n} output channels are all zeros"),
            Diagnostic::OutlierChannel { channel, times } => {
                write!(f, "channel {channel} spans {times:.1} times the range of any other")
            }
            Diagnostic::Underflow => f.write_str("its scale underflows"),
            Diagnostic::Duplicate(name) => write!(f, "the same bytes as {name}"),
            Diagnostic::BeyondF16 { absmax } => write!(f, "its largest magnitude is {absmax:.4e}"),
        }
    }
}

/// The diagnostics of an analysed tensor of type `dtype`, most severe first. Those about
/// channels need the scales of a per-channel int8 scheme calibrated by min-max.
pub fn diagnostics(dtype: &DType, analysis: &Analysis) -> Vec<Diagnostic> {
    let mut all = Vec::new();
    if let Some(statistics) = &analysis.statistics {
        of_values(dtype, statistics, &mut all);
    }
    for outcome in &analysis.outcomes {
        let Ok(quantized) = &outcome.result else { continue };
        let scales = &quantized.scales;
        match outcome.quantizer.scheme {
            QuantizationScheme::PerTensor(..)
                if scales.underflowing > 0 && !all.contains(&Diagnostic::Underflow) =>
            {
                all.push(Diagnostic::Underflow);
            }
            QuantizationScheme::PER_CHANNEL => of_channels(scales, &mut all),
            _ => {}
        }
    }
    let severity = |one: &Diagnostic| DIAGNOSTIC_NAMES.iter().position(|&name| name == one.name());
    all.sort_by_key(severity);
    all
}

fn of_values(dtype: &DType, s: &Statistics, all: &mut Vec<Diagnostic>) {
    let first = s.first_non_finite.unwrap_or_default();
    if s.nan > 0 {
        all.push(Diagnostic::Nan { count: s.nan, first });
    }
    if s.inf > 0 {
        all.push(Diagnostic::Inf { count: s.inf, first });
    }
    if s.count > 1 && s.is_finite() && s.min == s.max {
        all.push(if s.min == 0.0 { Diagnostic::Zero } else { Diagnostic::Constant(s.min) });
    }
    if s.absmax > 65504.0 && *dtype != DType::F16 {
        all.push(Diagnostic::BeyondF16 { absmax: s.absmax });
    }
}

fn of_channels(scales: &Scales, all: &mut Vec<Diagnostic>) {
    if scales.zero > 0 && scales.zero < scales.count {
        all.push(Diagnostic::DeadChannels(scales.zero));
    }
    let times = scales.max / scales.second;
    if scales.count - scales.zero > 1 && times >= OUTLIER_RATIO {
        all.push(Diagnostic::OutlierChannel { channel: scales.largest, times });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::analysis::in_memory::analyze;
    use crate::quantization::analysis::spec::AnalysisSpec;
    use crate::quantization::calibration::Calibration;
    use crate::quantization::quantizer::Quantizer;
    use crate::quantization::scheme::Rounding;
    use crate::tensor::{FloatType, Shape};

    fn names(rows: &[[f32; 4]]) -> Vec<&'static str> {
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL];
        let quantizer = |scheme| Quantizer { calibration: Calibration::MinMax, scheme };
        let spec = AnalysisSpec::errors(schemes.map(quantizer).to_vec(), Rounding::HalfEven);
        let shape = Shape::new([rows.len() as u64, 4]).expect("fits");
        let analysis = analyze(&spec, FloatType::F32, &shape, &bytes);
        diagnostics(&DType::F32, &analysis).iter().map(Diagnostic::name).collect()
    }

    #[test]
    fn unusual_tensors_have_their_diagnostics() {
        let plain = [1.0, -0.5, 0.25, 0.125];
        assert!(names(&[plain, plain]).is_empty());
        assert_eq!(names(&[plain, [f32::NAN, 1.0, f32::INFINITY, 0.0]]), ["nan", "inf"]);
        assert_eq!(names(&[[0.0; 4], [0.0; 4]]), ["zero"]);
        assert_eq!(names(&[[0.5; 4], [0.5; 4]]), ["constant"]);
        assert_eq!(names(&[plain, [0.0; 4]]), ["dead"]);
        assert_eq!(names(&[plain, plain, plain.map(|x| x * 5.0)]), ["outlier"]);
        assert_eq!(names(&[plain.map(|x| x * 1e5), plain.map(|x| x * 1e5)]), ["beyond-f16"]);
        assert_eq!(names(&[[1e-44, 0.0, 0.0, 0.0], [0.0; 4]]), ["underflow", "dead"]);
    }

    #[test]
    fn every_diagnostic_has_a_name_and_a_meaning() {
        let all = [
            Diagnostic::Nan { count: 1, first: 0 },
            Diagnostic::Inf { count: 1, first: 0 },
            Diagnostic::Zero,
            Diagnostic::Constant(1.0),
            Diagnostic::Underflow,
            Diagnostic::BeyondF16 { absmax: 1e5 },
            Diagnostic::OutlierChannel { channel: 3, times: 7.25 },
            Diagnostic::DeadChannels(2),
            Diagnostic::Duplicate("embed".into()),
        ];
        assert_eq!(all.each_ref().map(|one| one.name()), DIAGNOSTIC_NAMES);
        assert!(all.iter().all(|one| !one.meaning().is_empty() && !one.to_string().is_empty()));
    }
}
