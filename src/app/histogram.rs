//! The histogram of one tensor's values, and a clip that can be moved over it.

use crate::app::job_answer::JobAnswer;
use crate::app::sparkline::hides_rest;
use crate::app::tensor_metrics::TensorMetrics;
use crate::job::clip::{ClipMeasurement, Request};
use crate::quantization::{
    AnalysisSpec, Calibration, ErrorStatistics, QuantizationScheme, Quantizer, Rounding,
    ScaleStorage, ValueHistogram,
};
use crate::tensor::TensorId;

/// Number of clip positions. Each is a sixteenth of an octave below the one before.
const CLIP_POSITIONS: u32 = 64;

/// The histogram of a tensor, and the selected clip.
#[derive(Debug, Default)]
pub struct HistogramView {
    of: Option<TensorId>,
    /// The position of the clip; at 0 nothing is clipped.
    position: u32,
    /// Whether the user changed how bar heights follow from the counts.
    pub other_scale: bool,
    /// The histogram, built for this view because the tensor's metrics do not hold it.
    counted: JobAnswer<TensorId, ValueHistogram>,
    /// The error with the clip at its position.
    pub clipped: Option<Clipped>,
    /// Position and rounding of the latest request to measure a clip.
    measuring: Option<(u32, Rounding)>,
    /// The clip with the least error.
    pub best: Option<Clipped>,
}

/// The error of quantizing a tensor per tensor with a clip. An estimate from histogram bins until
/// all elements have been measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clipped {
    /// The clip as a share of the largest magnitude.
    pub share: f64,
    /// The clip as a magnitude.
    pub clip: f64,
    /// The scale of the clip.
    pub scale: f32,
    /// The error with this scale.
    pub error: ErrorStatistics,
    /// Number of elements beyond the clip.
    pub beyond: u64,
    /// Whether the figures come from all elements and not from histogram bins.
    pub exact: bool,
}

impl HistogramView {
    /// Whether bar heights are logarithms of the counts: by default if a few bars would hide the
    /// rest.
    pub fn is_log(&self, counts: &[f64]) -> bool {
        hides_rest(counts) != self.other_scale
    }

    /// The clip's position as a share of the largest magnitude.
    pub fn share(&self) -> f64 {
        let share = (-f64::from(self.position) / 16.0).exp2();
        (share * 1e4).round() / 1e4
    }

    /// The calibration for the clip's position.
    pub fn calibration(&self) -> Calibration {
        match self.position {
            0 => Calibration::MinMax,
            _ => Calibration::Clip(self.share()),
        }
    }

    /// Shows a tensor. The clip starts where the tensor's mark has it.
    pub fn show(&mut self, id: TensorId, calibration: Calibration) {
        if self.of == Some(id) {
            return;
        }
        let other_scale = self.other_scale;
        *self = HistogramView { of: Some(id), other_scale, ..HistogramView::default() };
        if let Calibration::Clip(share) = calibration {
            self.set_clip(share);
        }
    }

    /// Moves the clip by one position. False at the end of its range.
    pub fn move_clip(&mut self, narrower: bool) -> bool {
        let to = if narrower {
            (self.position + 1).min(CLIP_POSITIONS)
        } else {
            self.position.saturating_sub(1)
        };
        std::mem::replace(&mut self.position, to) != to
    }

    /// Moves the clip to the position nearest to a share of the largest magnitude.
    pub fn set_clip(&mut self, share: f64) {
        let place = (-share.max(f64::MIN_POSITIVE).log2() * 16.0).round().max(0.0);
        self.position = (place as u32).min(CLIP_POSITIONS);
    }

    /// Forgets the tensor.
    pub fn clear(&mut self) {
        let other_scale = self.other_scale;
        *self = HistogramView { other_scale, ..HistogramView::default() };
    }

    /// The histogram of a tensor: the one its metrics hold, or the one built for this view.
    pub fn histogram<'a>(
        &'a self,
        id: TensorId,
        metrics: &'a TensorMetrics,
    ) -> Option<Result<&'a ValueHistogram, &'a str>> {
        if let Some(held) = &metrics.histogram {
            return Some(Ok(held));
        }
        self.counted.answer(|tensor| *tensor == id)
    }

    /// The tensor whose histogram has to be built now, if any.
    pub fn request(&mut self, id: TensorId, metrics: &TensorMetrics) -> Option<TensorId> {
        match metrics.histogram {
            Some(_) => None,
            None => self.counted.request(id),
        }
    }

    /// Takes the histogram that was built.
    pub fn receive(&mut self, id: TensorId, counted: Result<ValueHistogram, String>) {
        self.counted.receive(id, counted);
    }

    /// The clip to measure now, if only an estimate is known and it was not requested yet.
    pub fn request_clip(
        &mut self,
        tensor: TensorId,
        rounding: Rounding,
        scale_storage: ScaleStorage,
    ) -> Option<Request> {
        let clipped = self.clipped.filter(|clipped| !clipped.exact && self.of == Some(tensor))?;
        let calibration = self.calibration();
        let clip = beyond(clipped.clip);
        let request = Request { tensor, calibration, clip, rounding, scale_storage };
        let stands = Some((self.position, rounding));
        let asked = std::mem::replace(&mut self.measuring, stands) == stands;
        (!asked).then_some(request)
    }

    /// Replaces the estimate with the measured error. Outdated measurements are dropped; if the
    /// measurement failed, the estimate stays.
    pub fn receive_clip(
        &mut self,
        request: Request,
        found: Result<Option<ClipMeasurement>, String>,
    ) {
        let asked = self.measuring.map(|(_, rounding)| (self.of, self.calibration(), rounding));
        let answers = asked == Some((Some(request.tensor), request.calibration, request.rounding));
        if let (true, Some(clipped), Ok(Some(found))) = (answers, &mut self.clipped, found) {
            let ClipMeasurement { scale, error, beyond } = found;
            *clipped = Clipped { scale, error, beyond, exact: true, ..*clipped };
        }
    }

    /// Estimates the error of the clip, if it is not known yet.
    pub fn estimate(
        &mut self,
        id: TensorId,
        metrics: &TensorMetrics,
        rounding: Rounding,
        scale_storage: ScaleStorage,
    ) {
        let share = self.share();
        if self.clipped.is_some_and(|clipped| clipped.share == share) && self.best.is_some() {
            return;
        }
        let Some(Ok(histogram)) = self.histogram(id, metrics) else { return };
        let spec = AnalysisSpec { scale_storage, ..AnalysisSpec::errors(Vec::new(), rounding) };
        let clipped = clip(histogram, metrics, self.calibration(), &spec);
        let best = self.best.or_else(|| clip(histogram, metrics, Calibration::Mse, &spec));
        (self.clipped, self.best) = (clipped, best);
    }
}

fn clip(
    histogram: &ValueHistogram,
    metrics: &TensorMetrics,
    calibration: Calibration,
    spec: &AnalysisSpec,
) -> Option<Clipped> {
    let scheme = QuantizationScheme::PER_TENSOR;
    let outcome = spec.outcome_of(histogram, Quantizer { calibration, scheme });
    let found = outcome.result.ok()?;
    let scale = found.scales.max;
    let absmax = metrics.statistics.absmax;
    let clip = match calibration {
        Calibration::MinMax => absmax,
        Calibration::Clip(share) => absmax * share,
        _ => f64::from(scale) * f64::from(scheme.quantization_type().max()),
    };
    Some(Clipped {
        share: match calibration {
            Calibration::MinMax => 1.0,
            Calibration::Clip(share) => share,
            _ if absmax > 0.0 => clip / absmax,
            _ => 1.0,
        },
        clip,
        scale,
        error: found.error?.statistics(),
        beyond: histogram.count_beyond(beyond(clip)),
        exact: histogram.is_exact(),
    })
}

/// The magnitude from which an element counts as clipped. Tolerates the rounding of the clip.
fn beyond(clip: f64) -> f64 {
    clip * (1.0 + 1e-7)
}
