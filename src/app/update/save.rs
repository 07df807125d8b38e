//! The save dialogs.

use crate::app::action::Action;
use crate::app::command_line::command_line;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::meter::Meter;
use crate::app::overlay::{Overlay, SavedModel};
use crate::app::pager::Line;
use crate::app::save;
use crate::app::save::{Refusal, SaveDialog, SaveKind, Saving};
use crate::app::state::App;
use crate::export::LoadCheck;
use crate::export::{SaveError, Task};
use crate::job::JobError;
use crate::plan::target::{Container, LinearScheme};
use crate::text::names;
use std::path::Path;

impl App {
    pub(super) fn open_save(&mut self, effects: &mut Effects) {
        if self.model.plan().is_empty() {
            return self.say(format!("nothing is marked: {}", self.how_to_mark()));
        }
        effects.push(Effect::ReviewFormats);
        self.show_save(effects);
    }

    /// Opens the dialog on the format of the plan's target.
    pub(super) fn show_save(&mut self, effects: &mut Effects) {
        let plan = self.model.plan();
        let container = self.model.container();
        let linear = Container::CompressedTensors(LinearScheme::W8A8);
        let holds_inputs = plan.target.is_default() || container == linear;
        let kind = if plan.inputs.is_static() && holds_inputs {
            SaveKind::Static
        } else {
            SaveKind::Quantize(container)
        };
        let dialog = SaveDialog::new(kind, &self.model);
        self.overlay = Some(Overlay::Save(dialog));
        self.preview_save(effects);
    }

    /// Requests what the save in the dialog would write.
    pub(super) fn preview_save(&mut self, effects: &mut Effects) {
        let Some(Overlay::Save(dialog)) = &mut self.overlay else { return };
        dialog.preview = match dialog.request(&self.model, &self.formats, true) {
            Ok(request) => {
                effects.push(Effect::PreviewSave(request));
                None
            }
            Err(why) => Some(Err(Refusal { why, fix: None })),
        };
    }

    /// Changes the marks as the refusal in the dialog suggests.
    pub(super) fn fix(&mut self, effects: &mut Effects) {
        let Some(Overlay::Save(dialog)) = &mut self.overlay else { return };
        dialog.problem = None;
        let Some(fix) = dialog.fix().cloned() else {
            return self.say("there is nothing to fix");
        };
        self.model.replace(fix.plan);
        self.plan_changed();
        self.preview_save(effects);
    }

    /// Switches error compensation in the dialog, or otherwise the search for clips.
    pub(super) fn switch_rounding(&mut self, compensation: bool, effects: &mut Effects) {
        let Some(Overlay::Save(dialog)) = &mut self.overlay else { return };
        if !dialog.offers_rounding(&self.model) {
            let opens = self.key_of(Action::Activations);
            return self.say(format!(
                "only W4A16, W4A16_ASYM and W8A16/127.5 of compressed-tensors are rounded for recorded inputs, once {opens} has opened them"
            ));
        }
        dialog.problem = None;
        dialog.switch_rounding(compensation, &self.model);
        self.preview_save(effects);
    }

    pub(super) fn open_dequantize(&mut self, effects: &mut Effects) {
        if !self.model.can_become_floats() {
            return self.say("no tensor is quantized: this is the float model already");
        }
        let dialog = SaveDialog::new(SaveKind::Dequantize(None), &self.model);
        self.overlay = Some(Overlay::Save(dialog));
        self.preview_save(effects);
    }

    pub(super) fn save(&mut self, mut dialog: SaveDialog, force: bool, effects: &mut Effects) {
        if dialog.path.value().trim().is_empty() {
            dialog.problem = Some("Type a path.".to_owned());
            self.overlay = Some(Overlay::Save(dialog));
            return;
        }
        if self.measuring_outputs.is_some() && dialog.waits_for_inputs(&self.model) {
            let wait = "The inputs are still being calibrated. Wait, or choose another format.";
            dialog.problem = Some(wait.to_owned());
            self.overlay = Some(Overlay::Save(dialog));
            return;
        }
        dialog.problem = None;
        let request = match dialog.request(&self.model, &self.formats, force) {
            Ok(request) => request,
            Err(why) => {
                dialog.problem = Some(why);
                self.overlay = Some(Overlay::Save(dialog));
                return;
            }
        };
        effects.push(Effect::Save(request.clone()));
        self.overlay = Some(Overlay::Saving(Saving {
            request,
            dialog,
            phase: "starting",
            meter: Meter::default(),
            cancelled: false,
        }));
    }

    pub(super) fn save_finished(
        &mut self,
        outcome: Result<crate::export::Receipt, JobError>,
        effects: &mut Effects,
    ) {
        let open = self.find_overlay(|overlay| matches!(overlay, Overlay::Saving(_)));
        let Some(open) = open else { return };
        // The window is replaced by what follows, also while the help covers it.
        let Overlay::Saving(saving) = std::mem::replace(open, Overlay::Leave(None)) else { return };
        if let (Ok(_), Task::Quantize { plan, .. }) = (&outcome, &saving.request.task)
            && !plan.target.is_default()
        {
            let loaders = plan.target.loaders().to_vec();
            effects.push(Effect::CheckSaved(saving.request.out.clone(), loaders));
        }
        let next = self.after_save(saving, outcome);
        match next {
            Some(next) => {
                let open = self.find_overlay(|overlay| matches!(overlay, Overlay::Leave(None)));
                if let Some(open) = open {
                    *open = next;
                }
            }
            None => self.remove_overlay(|overlay| matches!(overlay, Overlay::Leave(None))),
        }
    }

    /// Adds to the receipt whether the saved model will load.
    pub(super) fn saved_checked(&mut self, out: &Path, checked: Result<LoadCheck, String>) {
        let receipt = self.find_overlay(
            |overlay| matches!(overlay, Overlay::Receipt(saved, _) if saved.out == out),
        );
        let Some(Overlay::Receipt(_, pager)) = receipt else { return };
        let mut lines = Vec::new();
        match checked {
            Ok(checked) => {
                lines.push(Line::field("checked", checked.conclusion()));
                for finding in &checked.findings {
                    let sentence = names::visible(&finding.sentence).into_owned();
                    lines.push(Line::field(finding.severity.name(), sentence));
                }
            }
            Err(why) => lines.push(Line::field("not checked", why)),
        }
        // After what was written, before the errors of the tensors.
        let end = pager.lines.iter().position(|line| *line == Line::Blank);
        let at = end.unwrap_or(pager.lines.len());
        let known = |line: &Line| match line {
            Line::Field(_, sentence) => pager
                .lines
                .iter()
                .any(|other| matches!(other, Line::Field(_, known) if known == sentence)),
            _ => false,
        };
        lines.retain(|line| !known(line));
        pager.lines.splice(at..at, lines);
        let plain = pager.plain();
        if let Some(receipt) = self.receipts.last_mut() {
            *receipt = plain;
        }
    }

    /// Records a save that has ended, and returns the window that shows its result.
    fn after_save(
        &mut self,
        mut saving: Saving,
        outcome: Result<crate::export::Receipt, JobError>,
    ) -> Option<Overlay> {
        match outcome {
            Ok(receipt) => {
                let pager = save::receipt(&receipt, &self.model);
                let mut changed = false;
                if let Task::Quantize { plan, .. } = &saving.request.task {
                    // Recipes carry how inputs are quantized, so the plan records it.
                    changed = self.model.replace(plan.clone());
                    self.model.record_saved(plan);
                }
                if changed {
                    self.plan_changed();
                }
                self.receipts.push(pager.plain());
                let (checkpoint, rules) = (&self.model.checkpoint, self.model.rules());
                let recorded = self.model.outputs.as_ref().map(|outputs| &outputs.files[..]);
                let recorded = recorded.unwrap_or_default();
                let command = command_line(checkpoint, rules, &saving.request, recorded);
                let saved = SavedModel { out: saving.request.out, command };
                Some(Overlay::Receipt(Box::new(saved), pager))
            }
            Err(JobError::Save(SaveError::Exists(_))) if !saving.request.force => {
                Some(Overlay::Replace(saving.dialog))
            }
            Err(JobError::SaveStopped(why)) if saving.cancelled => {
                self.warn(format!("{why}: nothing was written"));
                None
            }
            Err(JobError::Unfinished { kept, .. }) if saving.cancelled => {
                self.warn(format!("cancelled: {kept}"));
                None
            }
            Err(error) => {
                if let JobError::Save(SaveError::NoParent { parent, .. }) = &error {
                    saving.dialog.missing = Some(parent.clone());
                }
                saving.dialog.problem = Some(error.to_string());
                Some(Overlay::Save(saving.dialog))
            }
        }
    }
}
