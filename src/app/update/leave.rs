//! Going back, cancelling, quitting, and copying to the clipboard.

use crate::app::action::Action;
use crate::app::diff::DiffState;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::filter::Filter;
use crate::app::overlay::Overlay;
use crate::app::state::App;

impl App {
    pub(super) fn back(&mut self) {
        if self.table.end_range() {
            self.say("the range was ended");
        } else if self.zoomed {
            self.zoomed = false;
        } else if !self.filter_text.is_empty() {
            self.filter_text.clear();
            self.table.set_filter(Filter::everything(), &self.model);
        } else {
            let [quit, help] = [Action::Quit, Action::Help].map(|action| self.key_of(action));
            self.say(format!("{quit} quits, {help} shows every key"));
        }
    }

    /// Cancels the save that is running. False if there is none.
    pub(super) fn cancel_save(&mut self, effects: &mut Effects) -> bool {
        let saving = self.find_overlay(|overlay| matches!(overlay, Overlay::Saving(_)));
        let Some(Overlay::Saving(saving)) = saving else { return false };
        saving.cancelled = true;
        effects.push(Effect::CancelSave);
        true
    }

    pub(super) fn quit(&mut self, effects: &mut Effects) {
        if self.cancel_save(effects) {
            return;
        }
        // The second request quits without asking again.
        let asked = matches!(self.overlay, Some(Overlay::Leave(None)));
        if self.model.has_unsaved_marks() && !asked {
            self.cover(Overlay::Leave(None))
        } else {
            effects.push(Effect::Quit)
        }
    }

    pub(super) fn copy(&mut self, effects: &mut Effects) {
        let text = match &self.overlay {
            Some(Overlay::Text(_, pager) | Overlay::Receipt(_, pager)) => pager.plain(),
            Some(Overlay::Diff(view)) => match &view.state {
                DiffState::Done(differences) => differences.plain(),
                DiffState::Comparing(_) => return,
            },
            _ => match self.table.current() {
                Some(row) => self.full_name(row).to_owned(),
                None => return,
            },
        };
        self.say("copied to the clipboard, if the terminal allows it");
        effects.push(Effect::Copy(text));
    }
}
