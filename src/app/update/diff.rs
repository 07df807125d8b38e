//! Comparison with another checkpoint.

use crate::app::action::Action;
use crate::app::diff::{DiffState, DiffView, Differences};
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::meter::Meter;
use crate::app::overlay::Overlay;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::state::App;
use crate::job::diff::Compared;
use crate::text::figures::counted;
use crate::text::names;
use std::path::PathBuf;

impl App {
    pub(super) fn open_diff(&mut self) {
        let before = self.compared_with.clone();
        self.overlay = Some(Overlay::Prompt(Prompt::new(Purpose::Diff, before)));
    }

    pub(super) fn compare(&mut self, prompt: Prompt, effects: &mut Effects) {
        self.compared_with = prompt.text().to_owned();
        effects.push(Effect::Diff(PathBuf::from(prompt.text())));
        let state = DiffState::Comparing(Meter::default());
        self.overlay = Some(Overlay::Diff(Box::new(DiffView::new(prompt, state))));
    }

    pub(super) fn compared(&mut self, outcome: Result<Vec<Compared>, String>) {
        let height = self.viewport.diff;
        let open = self.find_overlay(|overlay| matches!(overlay, Overlay::Diff(_)));
        let Some(open @ Overlay::Diff(_)) = open else { return };
        let Overlay::Diff(view) = open else { return };
        match outcome {
            Ok(rows) => {
                let mut differences = Differences::new(rows);
                differences.set_height(height);
                view.state = DiffState::Done(differences);
            }
            Err(why) => {
                let mut prompt = view.prompt.clone();
                prompt.problem = Some(why);
                *open = Overlay::Prompt(prompt);
            }
        }
    }

    /// Handles Enter on a difference: moves to its tensor in the table, if the model has it.
    pub(super) fn leave_diff(&mut self, view: DiffView) {
        let DiffState::Done(differences) = &view.state else {
            self.overlay = Some(Overlay::Diff(Box::new(view)));
            return;
        };
        let Some(name) = differences.current().map(|row| row.name.clone()) else { return };
        match self.model.checkpoint.find(&name) {
            Some(id) => self.show(id),
            None => {
                self.overlay = Some(Overlay::Diff(Box::new(view)));
                self.say(format!("this model has no tensor {}", names::visible(&name)));
            }
        }
    }

    /// Handles Esc: closes the comparison, and cancels one that is running.
    pub(super) fn close_diff(&mut self, view: &DiffView, effects: &mut Effects) {
        match &view.state {
            DiffState::Comparing(_) => {
                effects.push(Effect::CancelDiff);
                self.say("comparison cancelled");
            }
            DiffState::Done(differences) => {
                let rows = counted(differences.rows.len(), "tensor");
                let key = self.key_of(Action::Diff);
                self.say(format!("{rows} compared; {key} compares again"));
            }
        }
    }
}
