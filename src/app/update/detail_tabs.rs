//! What the tabs show of the tensor under the cursor, and the clip that slides.

use crate::app::action::Action;
use crate::app::calibration::CalibrationState;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::state::App;
use crate::app::tab::Tab;
use crate::app::tensor_metrics::{Cost, Known, calibration_name, next_calibration};
use crate::job::channels::Request;
use crate::quantization::{QuantizationScheme, Quantizer};
use crate::tensor::TensorId;
use crate::text::figures::{counted, decibels};

impl App {
    /// Asks for what the open tab needs and does not have.
    pub(super) fn look(&mut self, effects: &mut Effects) {
        match self.tab {
            // On the whole screen there is room for the histogram below the figures.
            Tab::Overview if self.zoomed => self.look_at_histogram(effects),
            Tab::Overview => {}
            Tab::Schemes => self.compare_schemes(effects),
            Tab::Values => self.look_into(effects),
            Tab::Histogram => self.look_at_histogram(effects),
            Tab::Channels => self.look_at_channels(effects),
        }
    }

    fn look_at_histogram(&mut self, effects: &mut Effects) {
        let Some(id) = self.current_tensor() else { return };
        let Known::Facts(facts) = self.model.known(id) else { return };
        self.histogram.show(id, self.model.quantizer_of(id).calibration);
        effects.extend(self.histogram.request(id, facts).map(Effect::Count));
        let rounding = self.model.plan().rounding;
        self.histogram.estimate(id, facts, rounding);
        effects.extend(self.histogram.request_clip(id, rounding).map(Effect::MeasureClip));
    }

    fn compare_schemes(&mut self, effects: &mut Effects) {
        let Some(id) = self.current_tensor() else { return };
        if self.model.known(id).facts().is_some() {
            effects.extend(self.comparison.request(id).map(Effect::CompareSchemes));
        }
    }

    fn look_at_channels(&mut self, effects: &mut Effects) {
        let Some(id) = self.current_tensor() else { return };
        self.channels.show(id);
        let shape = &self.model.checkpoint.tensor(id).shape;
        if shape.rank() < 2 || shape.elements() == 0 {
            return;
        }
        let Known::Facts(facts) = self.model.known(id) else { return };
        let Some(Cost::Error { largest_scale, .. }) = facts.cost(QuantizationScheme::PER_TENSOR)
        else {
            return;
        };
        let rounding = self.model.plan().rounding;
        let request = Request { tensor: id, shared: *largest_scale, rounding };
        effects.extend(self.channels.request(request).map(Effect::ReadChannels));
    }

    /// Moves the clip; the first time only shows where it is.
    pub(super) fn slide(&mut self, narrower: bool) {
        if self.tab != Tab::Histogram {
            self.tab = Tab::Histogram;
            return;
        }
        if self.current_tensor().is_some() && !self.histogram.slide(narrower) {
            self.say(if narrower { "no clip is narrower" } else { "nothing is clipped" });
        }
    }

    /// Marks the tensor per tensor with the clip as it stands.
    pub(super) fn keep_clip(&mut self) {
        if self.tab != Tab::Histogram {
            return self.say("the histogram's clip is kept for a tensor's mark: Tab shows it");
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

    /// The next calibration for the marks of this row.
    pub(super) fn next_calibration(&mut self) {
        let Some(row) = self.table.current() else { return };
        let mut tensors = self.table.tensors_of(row.item);
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
        self.model.set_calibration(tensors.iter().copied(), calibration);
        let marked = counted(tensors.len(), "mark");
        self.say(format!("{marked} calibrated by {} now", calibration_name(calibration)));
        self.plan_changed();
    }

    /// Asks for the cost of marks that no calibration has measured.
    pub(super) fn measure_marks(&mut self, effects: &mut Effects) {
        // Answered from the counted values, or after the calibration.
        let calibrating = matches!(self.calibration, CalibrationState::Running { round: 0, .. });
        if !calibrating && std::mem::take(&mut self.postponed) {
            self.model.ask_anew();
        }
        let (answered, mut left) = self.model.unmeasured();
        match answered {
            true if calibrating => self.unsettled = true,
            true => self.settle(),
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
        effects.push(Effect::Measure(left));
    }

    /// A mark's cost has been measured, or could not be.
    pub(super) fn measured(&mut self, id: TensorId) {
        self.measuring.remove(&id);
        self.unsettled = true;
        // Of many the last one settles the order, or time.
        if self.measuring.is_empty()
            && !matches!(self.calibration, CalibrationState::Running { .. })
        {
            self.settle();
        }
    }

    /// To the next tensor with something odd about it, or the one before.
    pub(super) fn find_flag(&mut self, forward: bool) {
        let model = &self.model;
        let odd = |id: TensorId| match model.known(id) {
            Known::Facts(facts) => !facts.flags.is_empty(),
            Known::Unreadable(_) => true,
            Known::Nothing | Known::Waiting => false,
        };
        match self.table.find(forward, odd) {
            Some(place) => self.table.move_to(place),
            None => self.say("nothing odd in the rows shown"),
        }
    }
}
