//! What is wrong or odd with a tensor, and what that means for its quantization.

use crate::quantization::{Analysis, QuantizationScheme, Scales, Statistics};
use crate::tensor::DType;
use std::fmt;
use std::sync::Arc;

/// How many times the largest channel's range must exceed every other's before it is said
/// to set the tensor's scale: from 4 on it costs the others two bits.
pub const OUTLIER: f32 = 4.0;

/// Something to know of a tensor before it is quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum Diagnostic {
    Nan {
        count: u64,
        first: u64,
    },
    Inf {
        count: u64,
        first: u64,
    },
    /// Every element is zero.
    Zero,
    /// Every element is this value, which is not zero.
    Constant(f64),
    /// So many output channels are all zeros.
    DeadChannels(u64),
    /// One output channel's range is so many times that of every other.
    OutlierChannel {
        channel: u64,
        times: f32,
    },
    /// Its values are so small that their scale would be zero in F32.
    Underflow,
    /// Values beyond ±65504, the largest of F16.
    BeyondF16 {
        absmax: f64,
    },
    /// It holds the same bytes as the tensor of this name, which is found out by comparing
    /// tensors with each other.
    Duplicate(Arc<str>),
}

/// The kinds of flags by the words they are searched by, the gravest first.
pub const DIAGNOSTIC_NAMES: [&str; 9] =
    ["nan", "inf", "zero", "constant", "underflow", "beyond-f16", "outlier", "dead", "duplicate"];

impl Diagnostic {
    /// The word it is searched by, one of [`DIAGNOSTIC_NAMES`].
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

    /// What it means for quantization, in a sentence.
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
                "tied weights, or a copy: quantize both alike, or they are no longer the same"
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

/// The flags of a tensor of `dtype` that was analysed, the gravest first. Channels are
/// known only where a per-channel int8 scheme by min-max was among the questions.
pub fn flags(dtype: &DType, analysis: &Analysis) -> Vec<Diagnostic> {
    let mut flags = Vec::new();
    if let Some(statistics) = &analysis.statistics {
        of_values(dtype, statistics, &mut flags);
    }
    for outcome in &analysis.outcomes {
        let Ok(quantized) = &outcome.result else { continue };
        let scales = &quantized.scales;
        match outcome.quantizer.scheme {
            QuantizationScheme::PerTensor(..)
                if scales.underflowing > 0 && !flags.contains(&Diagnostic::Underflow) =>
            {
                flags.push(Diagnostic::Underflow);
            }
            QuantizationScheme::PER_CHANNEL => of_channels(scales, &mut flags),
            _ => {}
        }
    }
    let grave = |flag: &Diagnostic| DIAGNOSTIC_NAMES.iter().position(|&name| name == flag.name());
    flags.sort_by_key(grave);
    flags
}

fn of_values(dtype: &DType, s: &Statistics, flags: &mut Vec<Diagnostic>) {
    let first = s.first_non_finite.unwrap_or_default();
    if s.nan > 0 {
        flags.push(Diagnostic::Nan { count: s.nan, first });
    }
    if s.inf > 0 {
        flags.push(Diagnostic::Inf { count: s.inf, first });
    }
    if s.count > 1 && s.is_finite() && s.min == s.max {
        flags.push(if s.min == 0.0 { Diagnostic::Zero } else { Diagnostic::Constant(s.min) });
    }
    if s.absmax > 65504.0 && *dtype != DType::F16 {
        flags.push(Diagnostic::BeyondF16 { absmax: s.absmax });
    }
}

fn of_channels(scales: &Scales, flags: &mut Vec<Diagnostic>) {
    if scales.zero > 0 && scales.zero < scales.count {
        flags.push(Diagnostic::DeadChannels(scales.zero));
    }
    let times = scales.max / scales.second;
    if scales.count - scales.zero > 1 && times >= OUTLIER {
        flags.push(Diagnostic::OutlierChannel { channel: scales.largest, times });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AnalysisSpec, Calibration, Quantizer, Rounding, measure};
    use super::*;
    use crate::tensor::{FloatType, Shape};

    fn names(rows: &[[f32; 4]]) -> Vec<&'static str> {
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL];
        let quantizer = |scheme| Quantizer { calibration: Calibration::MinMax, scheme };
        let questions = AnalysisSpec::errors(schemes.map(quantizer).to_vec(), Rounding::HalfEven);
        let shape = Shape::new([rows.len() as u64, 4]).expect("fits");
        let analysis = measure(&questions, FloatType::F32, &shape, &bytes);
        flags(&DType::F32, &analysis).iter().map(Diagnostic::name).collect()
    }

    #[test]
    fn every_oddity_has_its_flag() {
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
    fn every_flag_is_found_by_a_word_and_says_what_it_means() {
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
        assert_eq!(all.each_ref().map(|flag| flag.name()), DIAGNOSTIC_NAMES);
        assert!(all.iter().all(|flag| !flag.meaning().is_empty() && !flag.to_string().is_empty()));
    }
}
