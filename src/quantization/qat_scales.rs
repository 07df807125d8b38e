//! The scales that training with fake quantization learned of a weight, and which schemes can
//! take them over.

use crate::quantization::{Calibration, QuantizationScheme, QuantizationType, Quantizer};
use std::fmt;

/// What a layer's weight was rounded by at the end of its training.
#[derive(Clone, Debug, PartialEq)]
pub struct QatScales {
    /// One for the whole weight, or one for each output channel; normal and positive.
    pub scales: Vec<f32>,
    /// The first zero point that is not 0; `None` where zero is exact everywhere.
    pub zero_point: Option<f64>,
    /// The largest quantized value, as the range that was observed tells: 7 of int4, 127 of
    /// int8; up to one more where the training had one level more below zero.
    pub levels: Option<f64>,
}

/// Why a scheme is calibrated anew instead of taking what was learned.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NotTaken {
    #[error("its zero point is {0}, and symmetric {1} has none")]
    ZeroPoint(f64, &'static str),
    #[error("it learned one for each channel, which per-channel and blocks take over")]
    OneScale,
    #[error("it was trained for values up to ±{0:.0} scales, and {1} ends at ±{2}")]
    Range(f64, &'static str, f32),
    #[error("its scale is one of integers")]
    Floats,
}

impl QatScales {
    /// Whether a scheme can take the scales over as they are.
    pub fn fits(&self, scheme: QuantizationScheme) -> Result<(), NotTaken> {
        let qtype = scheme.quantization_type();
        if qtype == QuantizationType::F8E4M3 {
            return Err(NotTaken::Floats);
        }
        if let Some(zero) = self.zero_point {
            return Err(NotTaken::ZeroPoint(zero, qtype.name()));
        }
        if self.scales.len() > 1 && matches!(scheme, QuantizationScheme::PerTensor(..)) {
            return Err(NotTaken::OneScale);
        }
        // One level more below zero is clipped as any value beyond is.
        let most = qtype.max();
        match self.levels {
            Some(levels) if levels > f64::from(most) + 1.5 => {
                Err(NotTaken::Range(levels, qtype.name(), most))
            }
            _ => Ok(()),
        }
    }

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
    /// The same with min-max in the place of [`Calibration::Learned`], unless `learned` fits
    /// the scheme.
    pub fn resolved(self, learned: Option<&QatScales>) -> Quantizer {
        let taken = learned.is_some_and(|learned| learned.fits(self.scheme).is_ok());
        match self.calibration {
            Calibration::Learned if !taken => {
                Quantizer { calibration: Calibration::MinMax, ..self }
            }
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
    fn what_does_not_fit_is_calibrated_by_min_max() {
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
