//! Exports the table.

use crate::app::effects::Effects;
use crate::app::event::{Effect, NotWritten};
use crate::app::overlay::Overlay;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::save::model_name;
use crate::app::state::App;
use crate::report::Format;
use crate::text::figures::counted;
use crate::text::names;
use std::path::PathBuf;

impl App {
    pub(super) fn open_report(&mut self) {
        if self.table.shown_count() == 0 {
            return self.say("no tensor is shown, so there is nothing to export");
        }
        let path = format!("{}-report.html", model_name(&self.model.checkpoint));
        self.overlay = Some(Overlay::Prompt(Prompt::new(Purpose::WriteReport, path)));
    }

    pub(super) fn write_report(&mut self, mut prompt: Prompt, effects: &mut Effects) {
        let (path, replace) = (PathBuf::from(prompt.text()), prompt.replace);
        match Format::of(&path) {
            Some(format) => effects.push(Effect::WriteReport { path, format, replace }),
            None => {
                prompt.problem = Some("The path must end in .html, .csv or .json.".to_owned());
            }
        }
        self.overlay = Some(Overlay::Prompt(prompt));
    }

    pub(super) fn report_written(&mut self, outcome: Result<(), NotWritten>) {
        let prompt = self.find_overlay(|overlay| matches!(overlay, Overlay::Prompt(_)));
        let Some(Overlay::Prompt(prompt)) = prompt else { return };
        match outcome {
            Ok(()) => {
                let path = names::visible(prompt.text()).into_owned();
                self.remove_overlay(|overlay| matches!(overlay, Overlay::Prompt(_)));
                let tensors = counted(self.table.shown_count(), "tensor");
                let waiting = self.table.shown().filter(|&id| self.model.is_waiting(id)).count();
                match waiting {
                    0 => self.say(format!("{tensors} exported to {path}")),
                    n => self.warn(format!("{tensors} exported to {path}; {n} not measured yet")),
                }
            }
            Err(NotWritten::Exists) => {
                prompt.problem = Some("The file exists. Press Enter again to replace it.".into());
                prompt.replace = true;
            }
            Err(NotWritten::NoDirectory { parent, why }) => {
                (prompt.problem, prompt.missing) = (Some(why), Some(parent));
            }
            Err(NotWritten::Failed(why)) => prompt.problem = Some(why),
        }
    }
}
