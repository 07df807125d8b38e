//! Handles the mouse.

use crate::app::budget::Budget;
use crate::app::diff::DiffState;
use crate::app::effects::Effects;
use crate::app::event::MouseTarget;
use crate::app::overlay::Overlay;
use crate::app::state::App;

impl App {
    pub(super) fn click(&mut self, target: MouseTarget, effects: &mut Effects) {
        self.status = None;
        self.bar_held = matches!(target, MouseTarget::Bar(_)) && self.overlay.is_none();
        match target {
            MouseTarget::Hint(key) => self.key(key, effects),
            MouseTarget::Choice(number) => self.choose(number, effects),
            MouseTarget::Curve(share) => self.with_budget(|budget, _| budget.go_to(share)),
            _ if self.overlay.is_some() => {}
            MouseTarget::Value(line) => self.values.click(line),
            MouseTarget::Row(line) => {
                let before = self.table.cursor();
                if self.table.click(line) && self.table.cursor() == before {
                    self.table.toggle_fold(&self.model);
                }
            }
            MouseTarget::Mark(line) => {
                if self.table.click(line) {
                    self.mark_current();
                }
            }
            MouseTarget::Title(column) => self.sort_by(column),
            MouseTarget::Bar(share) => self.table.scroll_to(share),
            MouseTarget::Tab(tab) => self.tab = tab,
            MouseTarget::Clip(share) => self.histogram.set_clip(share),
        }
    }

    /// Handles a click on an entry of a list. A change that can be reverted happens on the first
    /// click, anything else on the second.
    pub(super) fn choose(&mut self, number: usize, effects: &mut Effects) {
        let again = match &mut self.overlay {
            Some(Overlay::Presets(presets)) => {
                std::mem::replace(&mut presets.chosen, number) == number
            }
            Some(Overlay::Schemes(list)) => std::mem::replace(&mut list.chosen, number) == number,
            Some(Overlay::Targets(list)) => std::mem::replace(&mut list.chosen, number) == number,
            Some(Overlay::Columns(columns)) => {
                columns.chosen = number;
                return self.toggle_column();
            }
            Some(Overlay::Budget(budget)) => {
                budget.chosen = number;
                return self.with_budget(Budget::toggle);
            }
            Some(Overlay::GoTo(go_to)) => {
                go_to.chosen = number;
                true
            }
            Some(Overlay::Diff(view)) => match &mut view.state {
                DiffState::Done(differences) => differences.move_to(number),
                DiffState::Comparing(_) => false,
            },
            _ => false,
        };
        if again {
            self.accept(effects);
        }
    }

    /// Handles a drag: follows the mouse where a position is chosen, and ignores places where a
    /// click would change a mark or the order.
    pub(super) fn drag(&mut self, target: MouseTarget, effects: &mut Effects) {
        match target {
            MouseTarget::Curve(_) | MouseTarget::Clip(_) | MouseTarget::Value(_) => {
                self.click(target, effects)
            }
            MouseTarget::Bar(share) if self.bar_held => self.table.scroll_to(share),
            MouseTarget::Row(line) | MouseTarget::Mark(line) if self.overlay.is_none() => {
                self.table.click(line);
            }
            _ => {}
        }
    }
}
