//! Scales learned in quantization-aware training, and the schemes that can use them.

use crate::quantization::calibration::Calibration;
use crate::quantization::preset::Preset;
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::quantizer::Quantizer;
use crate::quantization::scheme::QuantizationScheme;
use std::fmt;

/// The fake quantization of a weight at the end of quantization-aware training.
#[derive(Clone, Debug, PartialEq)]
pub struct QatScales {
    /// One scale for the whole weight, or one for each output channel; all are normal and
    /// positive.
    pub scales: Vec<f32>,
    /// The first zero point that is not zero; `None` if all of them are zero.
    pub zero_point: Option<f64>,
    /// The largest quantized value according to the recorded range: 7 for int4, 127 for int8.
    /// Up to one more if training used one more negative level.
    pub levels: Option<f64>,
}

/// Why a scheme cannot use learned scales and is calibrated by min-max instead.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum QatMismatch {
    /// Training used a zero point.
    #[error("its zero point is {0}, and symmetric {1} has none")]
    ZeroPoint(f64, &'static str),
    /// Training used one scale per channel, the scheme has one.
    #[error("it learned one for each channel: use a per-channel or per-block scheme")]
    OneScale,
    /// Training used more levels than the scheme has.
    #[error("it was trained for values up to ±{0:.0} scales, and {1} ends at ±{2}")]
    Range(f64, &'static str, f32),
    /// The scheme has float values.
    #[error("its scale is for integers")]
    Floats,
    /// The preset computes its own scales.
    #[error("{0} has scales of its own")]
    Preset(Preset),
}

impl QatScales {
    /// Checks that a scheme can use the scales unchanged.
    ///
    /// # Errors
    ///
    /// - The scheme is not one of integers.
    /// - Training used a zero point, or more levels than the scheme has.
    /// - There is one scale per channel, and the scheme has one for the tensor.
    pub fn fits(&self, scheme: QuantizationScheme) -> Result<(), QatMismatch> {
        if let Some(preset) = scheme.preset() {
            return Err(QatMismatch::Preset(preset));
        }
        let qtype = scheme.quantization_type();
        if matches!(qtype, QuantizationType::F8E4M3 | QuantizationType::F4E2M1) {
            return Err(QatMismatch::Floats);
        }
        if let Some(zero) = self.zero_point {
            return Err(QatMismatch::ZeroPoint(zero, qtype.name()));
        }
        if self.scales.len() > 1 && matches!(scheme, QuantizationScheme::PerTensor(..)) {
            return Err(QatMismatch::OneScale);
        }
        // One more negative level is acceptable: elements there saturate.
        let qmax = qtype.max();
        match self.levels {
            Some(levels) if levels > f64::from(qmax) + 1.5 => {
                Err(QatMismatch::Range(levels, qtype.name(), qmax))
            }
            _ => Ok(()),
        }
    }

    /// The type that training simulated, for display.
    fn trained_for(&self) -> String {
        match self.levels {
            Some(levels) if (6.9..8.1).contains(&levels) => "int4".to_owned(),
            Some(levels) if (126.5..128.1).contains(&levels) => "int8".to_owned(),
            Some(levels) => format!("±{levels:.0}"),
            None => "fewer bits".to_owned(),
        }
    }
}

impl fmt::Display for QatScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trained for {}", self.trained_for())?;
        match *self.scales.as_slice() {
            [scale] => write!(f, ", scale {scale}")?,
            _ => write!(f, ", {} scales", self.scales.len())?,
        }
        self.zero_point.map_or(Ok(()), |zero| write!(f, ", zero point {zero}"))
    }
}

impl Quantizer {
    /// The quantizer with [`Calibration::Learned`] replaced by min-max, unless the learned
    /// scales of the tensor fit the scheme. Presets are always calibrated by min-max.
    pub fn resolved(self, learned: Option<&QatScales>) -> Quantizer {
        let fits = learned.is_some_and(|learned| learned.fits(self.scheme).is_ok());
        match self.calibration {
            _ if self.scheme.preset().is_some() => {
                Quantizer { calibration: Calibration::MinMax, ..self }
            }
            Calibration::Learned if !fits => Quantizer { calibration: Calibration::MinMax, ..self },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(scales: &[f32]) -> QatScales {
        QatScales { scales: scales.to_vec(), zero_point: None, levels: Some(7.5) }
    }

    fn by_learned(scheme: &str) -> Quantizer {
        let scheme = scheme.parse().expect("a scheme");
        Quantizer { calibration: Calibration::Learned, scheme }
    }

    #[test]
    fn scales_that_do_not_fit_are_replaced_by_min_max() {
        let resolved =
            |known: &QatScales, scheme| by_learned(scheme).resolved(Some(known)).calibration;
        let channels = learned(&[0.1, 0.2]);
        assert_eq!(resolved(&channels, "per-channel"), Calibration::Learned);
        assert_eq!(resolved(&channels, "per-tensor"), Calibration::MinMax);
        assert_eq!(resolved(&channels, "per-channel/fp8"), Calibration::MinMax);
        let shifted = QatScales { zero_point: Some(3.0), ..channels.clone() };
        let why = shifted.fits(QuantizationScheme::PER_CHANNEL).expect_err("no zero points");
        assert_eq!(why.to_string(), "its zero point is 3, and symmetric int8 has none");
        // Scales of int8 would clip nearly everything at int4, those of int16 at int8.
        let fine = |levels| QatScales { levels: Some(levels), ..learned(&[0.1]) };
        assert_eq!(resolved(&fine(127.5), "per-tensor"), Calibration::Learned);
        assert_eq!(resolved(&fine(128.0), "per-tensor"), Calibration::Learned);
        assert_eq!(resolved(&fine(8.0), "per-tensor/int4"), Calibration::Learned);
        assert_eq!(resolved(&fine(127.5), "per-tensor/int4"), Calibration::MinMax);
        assert_eq!(resolved(&fine(32767.5), "per-tensor"), Calibration::MinMax);
        let none = by_learned("per-tensor").resolved(None);
        assert_eq!(none.calibration, Calibration::MinMax);
    }
}
