//! Opens another model, and handles the actions on a saved model.

use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::open_model::OpenModel;
use crate::app::overlay::{Overlay, SavedModel};
use crate::app::picker::ModelChoice;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::state::App;
use std::path::PathBuf;

impl App {
    pub(super) fn open_models(&mut self, effects: &mut Effects) {
        let dialog = OpenModel { searching: true, ..OpenModel::default() };
        self.cover(Overlay::Open(Box::new(dialog)));
        effects.push(Effect::FindModels);
    }

    pub(super) fn models_found(&mut self, found: Vec<ModelChoice>) {
        let open = self.find_overlay(|overlay| matches!(overlay, Overlay::Open(_)));
        if let Some(Overlay::Open(dialog)) = open {
            dialog.known = found;
            dialog.searching = false;
        }
    }

    /// Enter: opens the chosen or typed model, after a question if marks would be lost.
    pub(super) fn accept_model(&mut self, mut dialog: Box<OpenModel>, effects: &mut Effects) {
        match dialog.path() {
            None => dialog.problem = Some("Type a path, or choose a model.".to_owned()),
            Some(path) => self.leave_for(path, effects),
        }
        if self.overlay.is_none() {
            self.overlay = Some(Overlay::Open(dialog));
        } else {
            // The question covers the dialog.
            self.covered.push(Overlay::Open(dialog));
        }
    }

    /// Opens another model; asks first if there are marks that are not saved anywhere.
    pub(super) fn leave_for(&mut self, path: PathBuf, effects: &mut Effects) {
        if self.model.has_unsaved_marks() && !self.settings.session {
            self.cover(Overlay::Leave(Some(path)))
        } else {
            effects.push(Effect::OpenModel(path))
        }
    }

    pub(super) fn open_failed(&mut self, path: &std::path::Path, why: String) {
        let open = self.find_overlay(|overlay| matches!(overlay, Overlay::Open(_)));
        match open {
            Some(Overlay::Open(dialog)) => dialog.problem = Some(why),
            _ => self.show_error(&format!("{} does not open", path.display()), why, ""),
        }
    }

    fn saved(&self) -> Option<&SavedModel> {
        match &self.overlay {
            Some(Overlay::Receipt(saved, _)) => Some(saved),
            _ => None,
        }
    }

    pub(super) fn open_result(&mut self, effects: &mut Effects) {
        if let Some(out) = self.saved().map(|saved| saved.out.clone()) {
            self.leave_for(out, effects);
        }
    }

    /// Compares the saved model with this one.
    pub(super) fn compare_result(&mut self, effects: &mut Effects) {
        let Some(out) = self.saved().map(|saved| saved.out.clone()) else { return };
        self.overlay = None;
        let prompt = Prompt::new(Purpose::Diff, out.to_string_lossy().into_owned());
        self.compare(prompt, effects);
    }

    pub(super) fn copy_command(&mut self, effects: &mut Effects) {
        if let Some(command) = self.saved().map(|saved| saved.command.clone()) {
            self.say("the command line was copied, if the terminal allows it");
            effects.push(Effect::Copy(command));
        }
    }
}
