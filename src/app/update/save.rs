//! The save dialogs.

use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::meter::Meter;
use crate::app::overlay::{Overlay, Tone};
use crate::app::save;
use crate::app::save::{SaveDialog, SaveKind, Saving};
use crate::app::state::App;
use crate::checkpoint::Format;
use crate::export::{OutputFormat, SaveError, Task};
use crate::job::JobError;

impl App {
    pub(super) fn open_save(&mut self, effects: &mut Effects) {
        if self.model.plan().is_empty() {
            return self.say(format!("nothing is marked: {}", self.how_to_mark()));
        }
        let format = match self.model.checkpoint.format() {
            Format::Gguf => OutputFormat::Gguf,
            _ => OutputFormat::default(),
        };
        let kind = match self.model.plan().inputs.is_static() {
            true => SaveKind::Static,
            false => SaveKind::Quantize(format),
        };
        let dialog = SaveDialog::new(kind, &self.model.checkpoint);
        self.overlay = Some(Overlay::Save(dialog));
        self.lay_out(effects);
    }

    /// Requests what the save in the dialog would write.
    pub(super) fn lay_out(&mut self, effects: &mut Effects) {
        if let Some(Overlay::Save(dialog)) = &mut self.overlay {
            dialog.laid_out = None;
            effects.push(Effect::LayOut(dialog.request(&self.model, true)));
        }
    }

    pub(super) fn open_dequantize(&mut self, effects: &mut Effects) {
        if !save::can_become_floats(&self.model.checkpoint) {
            return self.say("no tensor is quantized: this is the float model already");
        }
        let dialog = SaveDialog::new(SaveKind::Dequantize(None), &self.model.checkpoint);
        self.overlay = Some(Overlay::Save(dialog));
        self.lay_out(effects);
    }

    pub(super) fn save(&mut self, mut dialog: SaveDialog, force: bool, effects: &mut Effects) {
        if dialog.path.value().trim().is_empty() {
            dialog.problem = Some("Type a path.".to_owned());
            self.overlay = Some(Overlay::Save(dialog));
            return;
        }
        if dialog.kind == SaveKind::Static && self.measuring_outputs.is_some() {
            let wait = "The inputs are still being calibrated. Wait, or choose another format.";
            dialog.problem = Some(wait.to_owned());
            self.overlay = Some(Overlay::Save(dialog));
            return;
        }
        dialog.problem = None;
        let request = dialog.request(&self.model, force);
        effects.push(Effect::Save(request.clone()));
        self.overlay = Some(Overlay::Saving(Saving {
            request,
            dialog,
            phase: "starting",
            meter: Meter::default(),
            cancelled: false,
        }));
    }

    pub(super) fn save_finished(&mut self, outcome: Result<crate::export::Receipt, JobError>) {
        let mut saving = match self.overlay.take() {
            Some(Overlay::Saving(saving)) => saving,
            other => {
                self.overlay = other;
                return;
            }
        };
        match outcome {
            Ok(receipt) => {
                let pager = save::receipt(&receipt, &self.model);
                let mut changed = false;
                if let Task::Quantize { plan, .. } = &saving.request.task {
                    // Recipes carry how inputs are quantized, so the plan records it.
                    changed = self.model.replace(plan.clone());
                    self.model.note_saved(plan);
                }
                if changed {
                    self.plan_changed();
                }
                self.receipts.push(pager.plain());
                self.overlay = Some(Overlay::Text(Tone::Good, pager));
            }
            Err(JobError::Save(SaveError::Exists(_))) if !saving.request.force => {
                self.overlay = Some(Overlay::Replace(saving.dialog));
            }
            Err(JobError::SaveStopped(why)) if saving.cancelled => {
                self.warn(format!("{why}: nothing was written"));
            }
            Err(error) => {
                saving.dialog.problem = Some(error.to_string());
                self.overlay = Some(Overlay::Save(saving.dialog));
            }
        }
    }
}
