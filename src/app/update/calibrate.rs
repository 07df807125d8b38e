//! The calibration in the background: its rounds, its progress, and which tensors come first.

use crate::app::action::Action;
use crate::app::budget::Budget;
use crate::app::calibration::{CalibrationState, rounds};
use crate::app::diff::DiffState;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::meter::Meter;
use crate::app::overlay::Overlay;
use crate::app::state::App;
use crate::app::tensor_metrics::Measurement;
use crate::tensor::TensorId;
use std::time::Duration;

/// The minimum time between two updates of the ranking while findings come in.
const RANKING_INTERVAL: Duration = Duration::from_millis(200);

impl App {
    /// Starts to measure every tensor.
    pub(super) fn calibrate(&mut self, effects: &mut Effects) {
        self.calibrated.clear();
        if !self.model.has_floats() {
            self.calibration = CalibrationState::NothingToDo;
            return;
        }
        self.begin_round(effects);
    }

    /// Starts the next round with schemes that are not measured yet. Returns false if there is
    /// none.
    fn begin_round(&mut self, effects: &mut Effects) -> bool {
        let rounds = rounds(self.model.initial_scheme(), self.model.schemes()).map(|schemes| {
            let left = schemes.into_iter().filter(|scheme| !self.calibrated.contains(scheme));
            left.collect::<Vec<_>>()
        });
        let next = (0..).zip(rounds).find(|(_, schemes)| !schemes.is_empty());
        let Some((round, schemes)) = next else { return false };
        self.generation += 1;
        self.prioritized.clear();
        let (generation, meter) = (self.generation, Meter::default());
        let running = CalibrationState::Running { round, schemes: schemes.clone(), meter };
        self.calibration = running;
        let shared_absmax = self.model.shared_absmax();
        effects.push(Effect::Calibrate { generation, schemes, shared_absmax });
        true
    }

    /// Measures the schemes of another target, once all others are measured.
    pub(super) fn calibrate_for_target(&mut self, effects: &mut Effects) {
        if let CalibrationState::Done { .. } = self.calibration {
            self.begin_round(effects);
        }
    }

    pub(super) fn calibration_ended(&mut self, meter: Meter, effects: &mut Effects) {
        self.update_ranking();
        let CalibrationState::Running { round, schemes, .. } = &mut self.calibration else {
            return;
        };
        let round = *round;
        self.calibrated.append(schemes);
        if !self.begin_round(effects) {
            self.calibration = CalibrationState::Done { meter };
        }
        // All statistics are known after the second round.
        if round == 1 {
            let candidates = self.model.duplicate_candidates();
            if !candidates.is_empty() {
                effects.push(Effect::FindDuplicates(candidates));
            }
        }
    }

    pub(super) fn toggle_calibration(&mut self, effects: &mut Effects) {
        match self.calibration {
            CalibrationState::Running { meter, .. } => {
                // Findings that are still in the channel belong to an outdated generation.
                self.generation += 1;
                self.calibration = CalibrationState::Stopped { meter };
                self.update_ranking();
                self.say(format!("stopped; {} calibrates again", self.key_of(Action::Calibrate)));
                effects.push(Effect::StopCalibration);
            }
            CalibrationState::NothingToDo => self.say("there is no float tensor to calibrate"),
            _ => self.recalibrate(effects),
        }
    }

    /// Forgets all measurements and calibrates every tensor again.
    pub(super) fn recalibrate(&mut self, effects: &mut Effects) {
        self.model.clear_measurements();
        self.values.clear();
        self.histogram.clear();
        self.channels.clear();
        self.comparison.clear();
        self.measuring.clear();
        self.update_ranking();
        self.calibrate(effects);
    }

    pub(super) fn tick(
        &mut self,
        now: Duration,
        calibration: Option<Meter>,
        save: Option<Meter>,
        diff: Option<Meter>,
        outputs: Option<Meter>,
    ) {
        if let (CalibrationState::Running { meter, .. }, Some(now)) =
            (&mut self.calibration, calibration)
        {
            *meter = self.rates.calibration.update(now);
        }
        if let Some(now) = save {
            let meter = self.rates.save.update(now);
            let saving = self.find_overlay(|overlay| matches!(overlay, Overlay::Saving(_)));
            if let Some(Overlay::Saving(saving)) = saving {
                saving.meter = meter;
            }
        }
        if let Some(now) = diff {
            let now = self.rates.diff.update(now);
            let diff = self.find_overlay(|overlay| matches!(overlay, Overlay::Diff(_)));
            if let Some(Overlay::Diff(view)) = diff
                && let DiffState::Comparing(meter) = &mut view.state
            {
                *meter = now;
            }
        }
        if let (Some(meter), Some(now)) = (&mut self.measuring_outputs, outputs) {
            *meter = self.rates.outputs.update(now);
        }
        if self.ranking_is_stale && now.saturating_sub(self.ranking_updated) >= RANKING_INTERVAL {
            self.ranking_updated = now;
            self.update_ranking();
        }
    }

    /// Updates the ranking with the latest measurements.
    pub(super) fn update_ranking(&mut self) {
        self.ranking_is_stale = false;
        self.model.update_quality();
        self.with_budget(Budget::follow);
        let list = self.covered.iter_mut().chain(&mut self.overlay).find_map(Overlay::as_schemes);
        if let Some(list) = list {
            list.measure(&self.model);
        }
        self.table.measurements_changed(&self.model);
    }

    /// Requests that visible tensors are measured first.
    pub(super) fn prioritize_visible(&mut self, effects: &mut Effects) {
        if !matches!(self.calibration, CalibrationState::Running { round: 0, .. }) {
            return;
        }
        let waiting = |id: &TensorId| *self.model.measurement(*id) == Measurement::Waiting;
        let wanted: Vec<TensorId> = self.table.visible_tensors().filter(waiting).collect();
        let new = wanted.iter().any(|id| !self.prioritized.contains(id));
        if new {
            self.prioritized.clone_from(&wanted);
            effects.push(Effect::Prioritize(wanted));
        }
    }
}
