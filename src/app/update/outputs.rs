//! Opens captured activations and records output errors.

use crate::app::action::Action;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::meter::Meter;
use crate::app::outputs::OutputsEvent;
use crate::app::overlay::Overlay;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::state::App;
use crate::text::figures::counted;
use std::path::PathBuf;

impl App {
    pub(super) fn ask_for_activations(&mut self) {
        let files = self.model.outputs.as_ref().map(|outputs| outputs.files.as_slice());
        let before = files.and_then(|files| files.first());
        let text = before.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        self.overlay = Some(Overlay::Prompt(Prompt::new(Purpose::Activations, text)));
    }

    /// Starts the measurement; rows fill in as layers are measured.
    pub(super) fn open_activations(&mut self, files: Vec<PathBuf>, effects: &mut Effects) {
        self.activations.clone_from(&files);
        effects.push(Effect::MeasureOutputs(files));
        self.measuring_outputs = Some(Meter::default());
        let stop = self.key_of(Action::Calibrate);
        self.say(format!("measuring output errors; {stop} stops it"));
    }

    /// Measures the output errors again, if captures are open or being opened.
    pub(super) fn reopen_activations(&mut self, effects: &mut Effects) {
        let files = match (&self.measuring_outputs, &self.model.outputs) {
            (Some(_), _) => self.activations.clone(),
            (None, Some(outputs)) => outputs.files.clone(),
            (None, None) => return,
        };
        self.open_activations(files, effects);
    }

    pub(super) fn outputs_event(&mut self, news: OutputsEvent, effects: &mut Effects) {
        match news {
            OutputsEvent::Opened(outputs) => {
                self.model.outputs = Some(outputs);
                self.table.reorder(&self.model);
            }
            OutputsEvent::Found(id, found) => {
                if let Some(outputs) = &mut self.model.outputs {
                    outputs.found.insert(id, found);
                }
                self.ranking_is_stale = true;
            }
            OutputsEvent::Ended(ended) => {
                self.measuring_outputs = None;
                if self.model.offer_recorded_fp8() {
                    self.comparison.clear();
                    self.calibrate_for_target(effects);
                }
                self.update_ranking();
                match ended {
                    Ok(()) => self.report_outputs(),
                    // Keep the overlay that is open: it may be a save.
                    Err(why) if self.overlay.is_some() => {
                        self.warn(format!("no activations: {why}"));
                    }
                    Err(why) => {
                        let then = "Weight errors are not affected.";
                        self.show_error("No activations", why, then);
                    }
                }
            }
        }
    }

    fn report_outputs(&mut self) {
        let Some(outputs) = &self.model.outputs else { return };
        let text = outputs.describe(&self.key_of(Action::SortNext));
        if outputs.is_doubtful() { self.warn(text) } else { self.say(text) }
    }

    /// Stops the measurement and keeps its results. False if none is running.
    pub(super) fn stop_measuring_outputs(&mut self, effects: &mut Effects) -> bool {
        if self.measuring_outputs.take().is_none() {
            return false;
        }
        effects.push(Effect::StopOutputs);
        self.update_ranking();
        let again = self.key_of(Action::Activations);
        let outputs = self.model.outputs.as_ref();
        let (done, all) = outputs.map_or((0, 0), |o| (o.found.len(), o.recorded.len()));
        let layers = counted(all, "layer");
        self.say(format!(
            "stopped: outputs of {done} of {layers} measured; {again} measures again"
        ));
        true
    }
}
