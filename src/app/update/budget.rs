//! Moves along the budget's curve; the marks follow.

use crate::app::action::Action;
use crate::app::budget::{Budget, NoBudget};
use crate::app::overlay::Overlay;
use crate::app::scroll::Motion;
use crate::app::state::App;
use crate::text::figures::{bytes, counted, decibels};
use tui_input::Input;

impl App {
    pub(super) fn open_budget(&mut self) {
        match Budget::new(&self.model) {
            Ok(budget) => {
                self.zoomed = false;
                self.overlay = Some(Overlay::Budget(Box::new(budget)));
            }
            Err(NoBudget::NothingQuantizable) => {
                self.say("no tensor is quantizable, so there is no budget");
            }
            Err(NoBudget::NothingMeasured) => {
                self.say("nothing is measured yet: the budget needs the error of each scheme");
            }
        }
    }

    /// Changes the budget and applies its marks to the table.
    pub(super) fn with_budget(
        &mut self,
        change: impl FnOnce(&mut Budget, &crate::app::model::Model),
    ) {
        let mut all = self.covered.iter_mut().chain(&mut self.overlay);
        let Some(budget) = all.find_map(Overlay::as_budget) else { return };
        change(budget, &self.model);
        let plan = budget.plan();
        if plan != *self.model.plan() {
            self.model.try_out(plan);
            self.plan_changed();
        }
    }

    pub(super) fn move_budget(&mut self, motion: Motion) {
        self.with_budget(|budget, _| match motion {
            Motion::Up => budget.chosen = budget.chosen.saturating_sub(1),
            Motion::Down => {
                budget.chosen = (budget.chosen + 1).min(budget.schemes.len().saturating_sub(1));
            }
            Motion::HalfUp | Motion::PageUp => budget.step(false, 1),
            Motion::HalfDown | Motion::PageDown => budget.step(true, 1),
            Motion::First => budget.go_to(0.0),
            Motion::Last => budget.go_to(1.0),
        });
    }

    /// Handles Enter: keeps the marks as one undo step.
    pub(super) fn accept_budget(&mut self, budget: Budget) {
        let plan = budget.plan();
        self.model.try_out(budget.before);
        if self.model.replace(plan) {
            let totals = self.model.totals();
            let marked = counted(totals.marked, "tensor");
            let undo = self.key_of(Action::Undo);
            self.say(format!("{marked} marked: {} in all; {undo} undoes it", bytes(totals.after)));
        }
        self.plan_changed();
    }

    /// Starts to type a size or an error, with a first character.
    pub(super) fn type_size(&mut self, first: Option<char>) {
        if let Some(Overlay::Budget(budget)) = &mut self.overlay {
            budget.typing = Some(Input::new(first.map(String::from).unwrap_or_default()));
        }
    }

    /// Handles Enter on a typed size: moves to it. The budget stays open.
    pub(super) fn accept_size(&mut self, mut budget: Budget) {
        let text = budget.typing.as_ref().map(|input| input.value().to_owned());
        let text = text.unwrap_or_default();
        let found = budget.go_to_text(&text, &self.model);
        if found.is_ok() {
            budget.typing = None;
        }
        self.overlay = Some(Overlay::Budget(Box::new(budget)));
        match found {
            Err(why) => self.warn(why),
            Ok(()) => {
                self.with_budget(|_, _| {});
                let mean = self.model.quality().mean.map_or(String::new(), |db| {
                    let word = self.model.thresholds.rate(db).name();
                    format!(", mean {} {word}", decibels(db))
                });
                let size = bytes(self.model.totals().after);
                self.say(format!("{}: {size}{mean}", text.trim()));
            }
        }
    }

    /// Handles Esc: restores the previous marks.
    pub(super) fn cancel_budget(&mut self, budget: Budget) {
        self.model.try_out(budget.before);
        self.plan_changed();
    }
}
