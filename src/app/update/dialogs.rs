//! Accepts and closes overlays.

use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::filter::Filter;
use crate::app::overlay::{Help, Overlay};
use crate::app::prompt::{Prompt, Purpose};
use crate::app::state::App;

impl App {
    /// Handles Enter, and yes.
    pub(super) fn accept(&mut self, effects: &mut Effects) {
        match self.overlay.take() {
            Some(Overlay::Filter(prompt)) => self.keep_filter(prompt),
            Some(Overlay::MarkBy(prompt)) => {
                self.overlay = Some(Overlay::MarkBy(prompt));
                self.take_pattern(true);
            }
            Some(Overlay::GoTo(go_to)) => self.go_to(&go_to),
            Some(Overlay::Presets(presets)) => {
                self.overlay = Some(Overlay::Presets(presets));
                self.accept_preset(true);
            }
            Some(Overlay::Columns(columns)) => self.order_by_chosen(&columns),
            Some(Overlay::Targets(list)) => self.take_target(list, effects),
            Some(Overlay::Schemes(list)) => self.take_scheme(list),
            Some(Overlay::Save(dialog)) => self.save(dialog, false, effects),
            Some(Overlay::Replace(dialog)) => self.save(dialog, true, effects),
            Some(Overlay::Open(dialog)) => self.accept_model(dialog, effects),
            Some(Overlay::Leave(None)) => effects.push(Effect::Quit),
            Some(Overlay::Leave(Some(path))) => effects.push(Effect::OpenModel(path)),
            Some(Overlay::Prompt(prompt)) => self.accept_text(prompt, effects),
            Some(Overlay::Help(help)) => self.run_chosen(&help, effects),
            Some(Overlay::Budget(budget)) if budget.typing.is_some() => self.accept_size(*budget),
            Some(Overlay::Budget(budget)) => self.accept_budget(*budget),
            Some(Overlay::Diff(mut view)) if view.typing.is_some() => {
                if let Some(typed) = view.typing.take() {
                    self.filter_history.record(typed.text());
                }
                self.overlay = Some(Overlay::Diff(view));
            }
            Some(Overlay::Diff(view)) => self.leave_diff(*view),
            other => self.overlay = other,
        }
        if self.overlay.is_none() {
            self.uncover();
        }
    }

    /// Handles Enter in the help: closes it and runs the action of the key under the cursor.
    fn run_chosen(&mut self, help: &Help, effects: &mut Effects) {
        self.uncover();
        let bindings = help.bindings(&self.settings.keys);
        let Some(binding) = bindings.get(help.chosen) else { return };
        if self.context().layers().contains(&binding.context) {
            self.act(binding.action, effects)
        } else {
            let place = binding.context.title();
            self.say(format!("'{}' works elsewhere: {place}", binding.help));
        }
    }

    /// Uses the text of a prompt.
    pub(super) fn accept_text(&mut self, mut prompt: Prompt, effects: &mut Effects) {
        if prompt.text().is_empty() {
            prompt.problem = Some(match prompt.purpose {
                Purpose::Index(_) => "Type an index.".to_owned(),
                _ => "Type a path.".to_owned(),
            });
            self.overlay = Some(Overlay::Prompt(prompt));
            return;
        }
        prompt.problem = None;
        match prompt.purpose {
            Purpose::WriteRecipe => self.write_recipe(prompt, effects),
            Purpose::WriteReport => self.write_report(prompt, effects),
            Purpose::ReadRecipe => self.read_recipe(prompt, effects),
            Purpose::Diff => self.compare(prompt, effects),
            Purpose::Activations => {
                self.open_activations(vec![prompt.text().into()], effects);
            }
            Purpose::Index(id) => {
                if let Err(why) = self.go_to_element(id, prompt.text()) {
                    prompt.problem = Some(why);
                    self.overlay = Some(Overlay::Prompt(prompt));
                }
            }
        }
    }

    /// Handles Esc, and no.
    pub(super) fn close(&mut self, effects: &mut Effects) {
        match self.overlay.take() {
            Some(Overlay::Filter(prompt)) => {
                let filter = Filter::parse(&prompt.before).unwrap_or_default();
                self.filter_text = prompt.before;
                self.table.set_filter(filter, &self.model);
            }
            Some(Overlay::Replace(dialog)) => self.overlay = Some(Overlay::Save(dialog)),
            Some(Overlay::Budget(mut budget)) => match budget.typing.take() {
                Some(_) => self.overlay = Some(Overlay::Budget(budget)),
                None => self.cancel_budget(*budget),
            },
            Some(Overlay::Diff(mut view)) => {
                if view.show_all() {
                    self.overlay = Some(Overlay::Diff(view))
                } else {
                    self.close_diff(&view, effects)
                }
            }
            _ => {}
        }
        if self.overlay.is_none() {
            self.uncover();
        }
    }

    /// Returns the overlay that is `wanted`, even if others cover it.
    pub(super) fn find_overlay(
        &mut self,
        wanted: impl Fn(&Overlay) -> bool,
    ) -> Option<&mut Overlay> {
        let mut all = self.covered.iter_mut().chain(&mut self.overlay);
        all.find(|overlay| wanted(overlay))
    }

    /// Closes the overlay that is `wanted`, even if others cover it.
    pub(super) fn remove_overlay(&mut self, wanted: impl Fn(&Overlay) -> bool) {
        self.covered.retain(|overlay| !wanted(overlay));
        if self.overlay.as_ref().is_some_and(wanted) {
            self.uncover();
        }
    }

    /// Opens an overlay over the one that is open.
    pub(super) fn cover(&mut self, overlay: Overlay) {
        self.covered.extend(self.overlay.replace(overlay));
    }

    /// Closes the overlay that receives the keys; the one below it receives them again.
    pub(super) fn uncover(&mut self) {
        self.overlay = self.covered.pop();
    }
}
