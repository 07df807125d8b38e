//! Writes the plan to a recipe, and reads one.

use crate::app::action::Action;
use crate::app::effects::Effects;
use crate::app::event::{Effect, NotWritten};
use crate::app::overlay::Overlay;
use crate::app::prompt::{Prompt, Purpose};
use crate::app::save::model_name;
use crate::app::state::App;
use crate::plan::{Plan, recipe};
use crate::text::figures::counted;
use crate::text::names;
use std::path::PathBuf;

impl App {
    pub(super) fn open_write_recipe(&mut self) {
        if self.model.plan().is_empty() {
            return self.say(format!("nothing is marked: {}", self.how_to_mark()));
        }
        let path = self.recipe_path();
        self.overlay = Some(Overlay::Prompt(Prompt::new(Purpose::WriteRecipe, path)));
    }

    pub(super) fn open_read_recipe(&mut self) {
        if !self.model.has_floats() {
            return self.say("there is no float tensor to mark");
        }
        let path = self.recipe_path();
        self.overlay = Some(Overlay::Prompt(Prompt::new(Purpose::ReadRecipe, path)));
    }

    fn recipe_path(&self) -> String {
        format!("{}-recipe.toml", model_name(&self.model.checkpoint))
    }

    pub(super) fn write_recipe(&mut self, prompt: Prompt, effects: &mut Effects) {
        let text = recipe::to_toml(self.model.plan(), &self.model.checkpoint);
        let (path, replace) = (PathBuf::from(prompt.text()), prompt.replace);
        self.overlay = Some(Overlay::Prompt(prompt));
        effects.push(Effect::WriteRecipe { path, text, replace });
    }

    pub(super) fn read_recipe(&mut self, prompt: Prompt, effects: &mut Effects) {
        effects.push(Effect::ReadRecipe(PathBuf::from(prompt.text())));
        self.overlay = Some(Overlay::Prompt(prompt));
    }

    pub(super) fn recipe_written(&mut self, outcome: Result<(), NotWritten>) {
        let Some(Overlay::Prompt(prompt)) = &mut self.overlay else { return };
        match outcome {
            Ok(()) => {
                let path = names::visible(prompt.text()).into_owned();
                self.overlay = None;
                let plan = self.model.plan().clone();
                self.model.record_saved(&plan);
                let tensors = counted(plan.len(), "tensor");
                self.say(format!("the plan with {tensors} was written to {path}"));
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

    pub(super) fn recipe_read(&mut self, outcome: Result<Plan, String>) {
        let Some(Overlay::Prompt(prompt)) = &mut self.overlay else { return };
        let plan = match outcome {
            Ok(plan) => plan,
            Err(why) => {
                prompt.problem = Some(why);
                return;
            }
        };
        let path = names::visible(prompt.text()).into_owned();
        self.overlay = None;
        let read = plan.len();
        let changed = self.model.replace(plan);
        let marked = self.model.plan().len();
        match (changed, read - marked.min(read)) {
            (false, _) => self.say("the recipe has the same marks as the plan"),
            (true, 0) => {
                let tensors = counted(marked, "tensor");
                let undo = self.key_of(Action::Undo);
                self.say(format!("{tensors} marked by {path}; {undo} undoes it"));
            }
            (true, n) => {
                let left = counted(n, "tensor");
                self.warn(format!("{left} in {path} have no scale and were not marked"));
            }
        }
        self.plan_changed();
    }
}
