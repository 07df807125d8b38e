//! The measured metrics of each tensor, compact enough for 100,000 tensors.

use crate::app::sparkline::{Sparkline, sparkline};
use crate::quantization::{
    Analysis, Calibration, Diagnostic, ErrorStatistics, Loss, NotQuantizable, Outcome,
    QuantizationScheme, Quantized, Quantizer, Statistics, ValueHistogram, diagnostics,
};
use crate::tensor::DType;
use std::borrow::Cow;

/// The schemes that are measured whatever the target is.
pub use crate::plan::budget::SCHEMES;

/// The name of a scheme on the screen.
pub fn scheme_name(scheme: QuantizationScheme) -> Cow<'static, str> {
    match SCHEMES.iter().position(|&s| s == scheme) {
        Some(0) => "per tensor".into(),
        Some(1) => "per channel".into(),
        Some(2) => "block 128".into(),
        Some(3) => "block 64".into(),
        Some(4) => "block 32".into(),
        _ => scheme.to_string().into(),
    }
}

/// The name of a scheme in a sentence, with the type where the name does not say it.
pub fn typed_scheme_name(scheme: QuantizationScheme) -> String {
    let name = scheme_name(scheme);
    if scheme.is_scaled_int8() { format!("int8 {name}") } else { name.into_owned() }
}

/// The calibrations that a key cycles through.
pub const CALIBRATIONS: [Calibration; 4] = [
    Calibration::MinMax,
    Calibration::Mse,
    Calibration::Percentile(99.99),
    Calibration::Percentile(99.9),
];

/// The name of a calibration on the screen.
pub fn calibration_name(calibration: Calibration) -> String {
    match calibration {
        Calibration::MinMax => "min–max".to_owned(),
        Calibration::Mse => "least MSE".to_owned(),
        Calibration::Percentile(percent) => format!("percentile {percent}"),
        Calibration::Clip(share) => format!("clip at {:.1} %", share * 100.0),
        Calibration::Magnitude(magnitude) => format!("magnitude {magnitude}"),
        Calibration::Learned => "learned scales".to_owned(),
    }
}

/// The calibration after `calibration` in [`CALIBRATIONS`], cyclically. Scales learned in training
/// come last, if there are any.
pub fn next_calibration(calibration: Calibration, learned: bool) -> Calibration {
    let at = CALIBRATIONS.iter().position(|&c| c == calibration).map_or(0, |i| i + 1);
    match CALIBRATIONS.get(at) {
        Some(&next) => next,
        None if learned => Calibration::Learned,
        None => CALIBRATIONS[0],
    }
}

/// The error of a scheme on a tensor, or why the tensor cannot have the scheme.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Cost {
    /// The error that was measured.
    Error {
        error: ErrorStatistics,
        /// Signal and noise power.
        loss: Loss,
        /// The loss of each expert, if the tensor holds the experts of a layer.
        experts: Box<[Loss]>,
        scales: u64,
        largest_scale: f32,
    },
    /// The tensor cannot be quantized with the scheme.
    Impossible(NotQuantizable),
}

/// Everything measured of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMetrics {
    /// The statistics of its values.
    pub statistics: Statistics,
    /// Diagnostics, most serious first.
    pub flags: Vec<Diagnostic>,
    /// A small histogram; `None` if it has no finite values.
    pub sparkline: Option<Sparkline>,
    /// The histogram, while there is memory for it.
    pub histogram: Option<Box<ValueHistogram>>,
    /// The errors with min-max calibration, in the order of [`SCHEMES`].
    costs: [Option<Cost>; SCHEMES.len()],
    /// The errors of other schemes, and with other calibrations.
    others: Vec<(Quantizer, Cost)>,
}

impl TensorMetrics {
    /// Collects the metrics of an analysis; `None` if it has no statistics.
    pub fn of(dtype: &DType, analysis: Analysis) -> Option<TensorMetrics> {
        let mut metrics = TensorMetrics {
            statistics: analysis.statistics?,
            flags: Vec::new(),
            sparkline: None,
            histogram: None,
            costs: Default::default(),
            others: Vec::new(),
        };
        metrics.add(dtype, analysis);
        Some(metrics)
    }

    /// Adds a further analysis of the same tensor.
    pub fn add(&mut self, dtype: &DType, analysis: Analysis) {
        for flag in diagnostics(dtype, &analysis) {
            if self.flags.iter().all(|known| known.name() != flag.name()) {
                self.flags.push(flag);
            }
        }
        analysis.outcomes.iter().for_each(|outcome| self.record_outcome(outcome));
        if let Some(histogram) = analysis.histogram {
            self.sparkline = Some(sparkline(&histogram, self.statistics.absmax));
            self.histogram = Some(Box::new(histogram));
        }
    }

    /// Records the outcome of a quantizer.
    pub fn record_outcome(&mut self, outcome: &Outcome) {
        let quantizer = outcome.quantizer;
        let cost = match &outcome.result {
            Ok(found @ Quantized { scales, error: Some(error), .. }) => Cost::Error {
                error: error.statistics(),
                loss: error.into(),
                experts: found.experts().into(),
                scales: scales.count,
                largest_scale: scales.max,
            },
            Ok(_) => return,
            Err(why) => Cost::Impossible(why.clone()),
        };
        let place = SCHEMES.iter().position(|&scheme| scheme == quantizer.scheme);
        match (quantizer.calibration, place) {
            (Calibration::MinMax, Some(place)) => self.costs[place] = Some(cost),
            _ => {
                self.others.retain(|(other, _)| *other != quantizer);
                self.others.push((quantizer, cost));
            }
        }
    }

    /// The error with min-max calibration; `None` while the scheme is not measured.
    pub fn cost(&self, scheme: QuantizationScheme) -> Option<&Cost> {
        self.cost_of(Quantizer { calibration: Calibration::MinMax, scheme })
    }

    /// The error of a quantizer; `None` while it is not measured.
    pub fn cost_of(&self, quantizer: Quantizer) -> Option<&Cost> {
        let place = SCHEMES.iter().position(|&scheme| scheme == quantizer.scheme);
        match (quantizer.calibration, place) {
            (Calibration::MinMax, Some(place)) => self.costs[place].as_ref(),
            _ => self.others.iter().find(|(other, _)| *other == quantizer).map(|(_, cost)| cost),
        }
    }

    /// The error statistics with min-max calibration.
    pub fn error(&self, scheme: QuantizationScheme) -> Option<&ErrorStatistics> {
        self.cost(scheme)?.error()
    }

    /// The error of a quantizer, if it was measured.
    pub fn error_of(&self, quantizer: Quantizer) -> Option<&ErrorStatistics> {
        self.cost_of(quantizer)?.error()
    }
}

impl Cost {
    /// The error; `None` if the tensor cannot have the scheme.
    pub fn error(&self) -> Option<&ErrorStatistics> {
        match self {
            Cost::Error { error, .. } => Some(error),
            Cost::Impossible(_) => None,
        }
    }
}

/// The state of a tensor's measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Measurement {
    /// The tensor has no float elements, so there is nothing to measure.
    #[default]
    NotFloat,
    /// Not measured yet.
    Waiting,
    /// Measured.
    Done(Box<TensorMetrics>),
    /// The tensor could not be read; the text says why.
    Unreadable(String),
}

impl Measurement {
    /// The figures, if the tensor was measured.
    pub fn metrics(&self) -> Option<&TensorMetrics> {
        match self {
            Measurement::Done(metrics) => Some(metrics),
            _ => None,
        }
    }
}

/// The SQNR of a tensor as its row shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sqnr {
    /// In decibels.
    Decibels(f64),
    /// The tensor has no scale: NaN, infinities, or values beyond F32.
    Impossible,
    /// Its shape does not fit the scheme.
    DoesNotFit,
    /// It becomes F16, because no block divides its rows.
    F16,
    /// The tensor could not be read.
    Unreadable,
    /// The tensor is stored quantized; the file does not contain its error.
    Stored,
    /// Not measured yet.
    Waiting,
    /// The tensor has no floats.
    Nothing,
}

impl Sqnr {
    /// The SQNR of a tensor with a quantizer.
    pub fn of(measurement: &Measurement, quantizer: Quantizer) -> Sqnr {
        match measurement {
            Measurement::NotFloat => Sqnr::Nothing,
            Measurement::Waiting => Sqnr::Waiting,
            Measurement::Unreadable(_) => Sqnr::Unreadable,
            Measurement::Done(metrics) => match metrics.cost_of(quantizer) {
                Some(Cost::Error { error, .. }) => Sqnr::Decibels(error.sqnr_db),
                Some(Cost::Impossible(
                    NotQuantizable::DoesNotFit { .. } | NotQuantizable::SchemeDoesNotFit { .. },
                )) => Sqnr::DoesNotFit,
                Some(Cost::Impossible(_)) => Sqnr::Impossible,
                None => Sqnr::Waiting,
            },
        }
    }

    /// The SQNR in decibels, if there is one.
    pub fn decibels(self) -> Option<f64> {
        match self {
            Sqnr::Decibels(db) => Some(db),
            _ => None,
        }
    }
}
