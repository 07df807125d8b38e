//! Opening recorded inputs, and taking over what the layers' outputs lose.

use super::Effects;
use crate::app::event::Effect;
use crate::app::outputs::Outputs;
use crate::app::overlay::Overlay;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::{Action, App};
use std::path::PathBuf;

impl App {
    pub(super) fn ask_for_activations(&mut self) {
        let files = self.model.outputs.as_ref().map(|outputs| outputs.files.as_slice());
        let before = files.and_then(|files| files.first());
        let text = before.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        self.overlay = Some(Overlay::Prompt(Prompt::new(Purpose::Activations, text)));
    }

    /// Measures in the background; the table shows the column when it is done.
    pub(super) fn open_activations(&mut self, files: Vec<PathBuf>, effects: &mut Effects) {
        effects.push(Effect::MeasureOutputs(files));
        self.say("measuring what the layers' outputs lose…");
    }

    pub(super) fn outputs_measured(&mut self, outcome: Result<Outputs, String>) {
        match outcome {
            Ok(outputs) => {
                let text = outputs.describe(&self.key_of(Action::SortNext));
                if outputs.is_doubtful() {
                    self.warn(text)
                } else {
                    self.say(text)
                }
                self.model.outputs = Some(outputs);
                self.table.reorder(&self.model);
            }
            Err(why) => self.show_error("No activations", why, "The weights' errors still stand."),
        }
    }
}
