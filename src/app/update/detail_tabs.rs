//! The data of the detail tabs, and the clip of the histogram.

use crate::app::action::Action;
use crate::app::calibration::CalibrationState;
use crate::app::comparison::comparison;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::state::App;
use crate::app::tab::Tab;
use crate::app::tensor_metrics::{Cost, Measurement, calibration_name, next_calibration};
use crate::job::channels::Request;
use crate::quantization::{QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use crate::text::figures::{counted, decibels};

impl App {
    /// Requests the data that the open tab shows and does not have yet.
    pub(super) fn request_tab_data(&mut self, effects: &mut Effects) {
        match self.tab {
            // The full-screen overview has room for the histogram.
            Tab::Overview if self.zoomed => self.request_histogram(effects),
            Tab::Overview => {}
            Tab::Schemes => self.request_scheme_comparison(effects),
            Tab::Values => self.request_values(effects),
            Tab::Histogram => self.request_histogram(effects),
            Tab::Channels => self.request_channels(effects),
        }
    }

    fn request_histogram(&mut self, effects: &mut Effects) {
        let Some(id) = self.current_tensor() else { return };
        let Measurement::Done(metrics) = self.model.measurement(id) else { return };
        self.histogram.show(id, self.model.quantizer_of(id).calibration);
        effects.extend(self.histogram.request(id, metrics).map(Effect::BuildHistogram));
        let rounding = self.model.plan().rounding;
        let scale_storage = self.model.scale_storage();
        self.histogram.estimate(id, metrics, rounding, scale_storage);
        let request = self.histogram.request_clip(id, rounding, scale_storage);
        effects.extend(request.map(Effect::MeasureClip));
    }

    fn request_scheme_comparison(&mut self, effects: &mut Effects) {
        let Some(id) = self.current_tensor() else { return };
        if self.model.measurement(id).metrics().is_some() {
            let request = self.comparison.request(id);
            effects.extend(request.map(|id| Effect::CompareSchemes(id, comparison(&self.model))));
        }
    }

    fn request_channels(&mut self, effects: &mut Effects) {
        let Some(id) = self.current_tensor() else { return };
        self.channels.show(id);
        let shape = &self.model.checkpoint.tensor(id).shape;
        if shape.rank() < 2 || shape.elements() == 0 {
            return;
        }
        let Measurement::Done(metrics) = self.model.measurement(id) else { return };
        let Some(Cost::Error { largest_scale, .. }) = metrics.cost(QuantizationScheme::PER_TENSOR)
        else {
            return;
        };
        let rounding = self.model.plan().rounding;
        let scale_storage = self.model.scale_storage();
        let request = Request { tensor: id, shared: *largest_scale, rounding, scale_storage };
        effects.extend(self.channels.request(request).map(Effect::ReadChannels));
    }

    /// Moves the clip; the first key press only opens the tab.
    pub(super) fn move_clip(&mut self, narrower: bool) {
        if self.tab != Tab::Histogram {
            self.tab = Tab::Histogram;
            return;
        }
        if self.current_tensor().is_some() && !self.histogram.move_clip(narrower) {
            self.say(if narrower { "no clip is narrower" } else { "nothing is clipped" });
        }
    }

    /// Marks the tensor per tensor with the current clip.
    pub(super) fn keep_clip(&mut self) {
        if self.tab != Tab::Histogram {
            return self.say("first open the Histogram tab, where the clip is chosen");
        }
        let Some(id) = self.current_tensor() else { return };
        let Some(clipped) = self.histogram.clipped else {
            return self.say("there is nothing to clip here");
        };
        match self.model.obstacle(id) {
            Some(why) if !why.can_be_overruled() => {
                return self.warn(format!("cannot be quantized: {why}"));
            }
            _ => {}
        }
        let calibration = self.histogram.calibration();
        let scheme = QuantizationScheme::PER_TENSOR;
        self.model.mark_with(id, Quantizer { calibration, scheme });
        let (name, db) = (calibration_name(calibration), decibels(clipped.error.sqnr_db));
        let about = if clipped.exact { "" } else { "≈ " };
        self.say(format!("marked per tensor, {name}: {about}{db}"));
        self.plan_changed();
    }

    /// Changes the calibration of this row's marks to the next one.
    pub(super) fn next_calibration(&mut self) {
        let mut tensors = self.table.chosen_tensors();
        tensors.retain(|&id| self.model.is_marked(id));
        let Some(&first) = tensors.first() else {
            let [mark, then] = [Action::Mark, Action::NextCalibration].map(|a| self.key_of(a));
            return self.say(format!(
                "nothing is marked here: {mark} marks, then {then} changes its calibration"
            ));
        };
        let quantizer = self.model.quantizer_of(first);
        let learned = self.model.checkpoint.learned(first);
        let learned = learned.is_some_and(|learned| learned.fits(quantizer.scheme).is_ok());
        let calibration = next_calibration(quantizer.calibration, learned);
        self.model.set_calibration(&tensors, calibration);
        let marked = counted(tensors.len(), "mark");
        self.say(format!("{marked} now calibrated by {}", calibration_name(calibration)));
        self.plan_changed();
    }

    /// Requests the errors of marks that the calibration does not measure.
    pub(super) fn measure_marks(&mut self, effects: &mut Effects) {
        // While the first round runs, wait: histograms may make a measurement unnecessary.
        let calibrating = matches!(self.calibration, CalibrationState::Running { round: 0, .. });
        if !calibrating && std::mem::take(&mut self.postponed) {
            self.model.recheck_marks();
        }
        let (answered, mut left) = self.model.unmeasured();
        match answered {
            true if calibrating => self.ranking_is_stale = true,
            true => self.update_ranking(),
            false => {}
        }
        left.retain(|(id, quantizer)| self.measuring.get(id) != Some(quantizer));
        if left.is_empty() {
            return;
        }
        if calibrating {
            self.postponed = true;
            return;
        }
        self.measuring.extend(left.iter().copied());
        effects.push(Effect::MeasureMarks(left, self.model.scale_storage()));
    }

    /// Records that a mark's error was measured, or could not be.
    pub(super) fn measured(&mut self, id: TensorId) {
        self.measuring.remove(&id);
        self.ranking_is_stale = true;
        // The ranking is updated by the last of many marks, or by the next tick.
        if self.measuring.is_empty()
            && !matches!(self.calibration, CalibrationState::Running { .. })
        {
            self.update_ranking();
        }
    }

    /// Moves to the next or the previous tensor with a diagnostic.
    pub(super) fn find_flag(&mut self, forward: bool) {
        let model = &self.model;
        let odd = |id: TensorId| match model.measurement(id) {
            Measurement::Done(metrics) => !metrics.flags.is_empty(),
            Measurement::Unreadable(_) => true,
            Measurement::NotFloat | Measurement::Waiting => false,
        };
        match self.table.find(forward, odd) {
            Some(place) => self.table.move_to(place),
            None => self.say("no diagnostics in the rows shown"),
        }
    }
}
