//! The scales that training with fake quantization learned of a weight, and which schemes can
//! take them over.

use crate::quantization::{Calibration, QuantizationScheme, QuantizationType, Quantizer};
use crate::tensor::Shape;
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

/// The quantizer of each group of a tensor's elements: the same, but for scales that were
/// learned.
#[derive(Clone, Copy, Debug)]
pub struct PerGroup<'l> {
    quantizer: Quantizer,
    learned: Option<&'l QatScales>,
    /// Groups of one output channel.
    in_channel: u64,
}

impl<'l> PerGroup<'l> {
    /// `learned`: what is known to have been learned of the tensor.
    pub fn new(quantizer: Quantizer, shape: &Shape, learned: Option<&'l QatScales>) -> Self {
        let quantizer = quantizer.settled(learned);
        let learned = learned.filter(|_| quantizer.calibration == Calibration::Learned);
        let groups = quantizer.scheme.groups(shape).count();
        PerGroup { quantizer, learned, in_channel: (groups / shape.channels().max(1)).max(1) }
    }

    /// Of no group in particular; [`Calibration::Learned`] only where scales are taken over.
    pub fn quantizer(&self) -> Quantizer {
        self.quantizer
    }

    /// Of a group: one with a learned scale is clipped at a magnitude.
    pub fn of(&self, group: u64) -> Quantizer {
        let Some(learned) = self.learned else { return self.quantizer };
        let scale = match *learned.scales.as_slice() {
            [scale] => Some(scale),
            ref scales => scales.get((group / self.in_channel) as usize).copied(),
        };
        let most = f64::from(self.quantizer.scheme.quantization_type().max());
        // The product of two f32 is exact in f64.
        let clip = scale.map(|scale| Calibration::Magnitude(f64::from(scale) * most));
        Quantizer { calibration: clip.unwrap_or_default(), ..self.quantizer }
    }
}

impl Quantizer {
    /// The same with min-max in the place of [`Calibration::Learned`], unless `learned` fits
    /// the scheme.
    pub fn settled(self, learned: Option<&QatScales>) -> Quantizer {
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
    fn every_group_of_a_channel_has_the_scale_of_the_channel() {
        let shape = Shape::new([3, 2, 5, 5]).expect("fits");
        let known = learned(&[0.1, 0.2, 0.3]);
        for scheme in ["per-channel", "per-block:5", "per-block:32", "per-channel/int4"] {
            let each = PerGroup::new(by_learned(scheme), &shape, Some(&known));
            let groups = each.quantizer().scheme.groups(&shape);
            for (group, elements) in groups.segments(0..shape.elements()) {
                let scale = known.scales[(elements.start / shape.channel_len()) as usize];
                let quantizer = each.of(group);
                let Calibration::Magnitude(clip) = quantizer.calibration else {
                    panic!("{scheme} {group}: {quantizer:?}")
                };
                let found = quantizer.scale_for(clip, crate::tensor::FloatType::F32);
                assert_eq!(found, Ok(scale), "{scheme} {group}");
            }
        }
        let one = learned(&[0.1]);
        let each = PerGroup::new(by_learned("per-channel"), &shape, Some(&one));
        assert_eq!(each.of(0), each.of(2));
    }

    #[test]
    fn what_does_not_fit_is_calibrated_by_min_max() {
        let settled =
            |known: &QatScales, scheme| by_learned(scheme).settled(Some(known)).calibration;
        let channels = learned(&[0.1, 0.2]);
        assert_eq!(settled(&channels, "per-channel"), Calibration::Learned);
        assert_eq!(settled(&channels, "per-tensor"), Calibration::MinMax);
        assert_eq!(settled(&channels, "per-channel/fp8"), Calibration::MinMax);
        let shifted = QatScales { zero_point: Some(3.0), ..channels.clone() };
        let why = shifted.fits(QuantizationScheme::PER_CHANNEL).expect_err("no zero points");
        assert_eq!(why.to_string(), "its zero point is 3, and symmetric int8 has none");
        // Scales of int8 would clip nearly everything at int4, those of int16 at int8.
        let fine = |levels| QatScales { levels: Some(levels), ..learned(&[0.1]) };
        assert_eq!(settled(&fine(127.5), "per-tensor"), Calibration::Learned);
        assert_eq!(settled(&fine(128.0), "per-tensor"), Calibration::Learned);
        assert_eq!(settled(&fine(8.0), "per-tensor/int4"), Calibration::Learned);
        assert_eq!(settled(&fine(127.5), "per-tensor/int4"), Calibration::MinMax);
        assert_eq!(settled(&fine(32767.5), "per-tensor"), Calibration::MinMax);
        let none = by_learned("per-tensor").settled(None);
        assert_eq!(none.calibration, Calibration::MinMax);
    }
}
