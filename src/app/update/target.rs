//! The target: the list, and what another target changes.

use crate::app::action::Action;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::formats::FormatFit;
use crate::app::overlay::Overlay;
use crate::app::state::App;
use crate::app::target_list::TargetList;
use crate::plan::rules::TargetRules;
use crate::plan::target::Target;

impl App {
    pub(super) fn open_targets(&mut self, effects: &mut Effects) {
        if !self.model.has_floats() {
            return self.say("there is no float tensor to quantize for a target");
        }
        effects.push(Effect::ReviewFormats);
        let list = self.target_list();
        self.cover(Overlay::Targets(list));
    }

    fn target_list(&self) -> TargetList {
        let source = self.model.checkpoint.format();
        TargetList::new(&self.model.plan().target, source, &self.formats)
    }

    /// Records which formats fit the checkpoint, for the dialog that is open.
    pub(super) fn formats_reviewed(&mut self, formats: Vec<FormatFit>, effects: &mut Effects) {
        if formats == self.formats {
            return;
        }
        self.formats = formats;
        let list = self.target_list();
        match &mut self.overlay {
            Some(Overlay::Targets(open)) => *open = list,
            Some(Overlay::Save(_)) => self.preview_save(effects),
            _ => {}
        }
    }

    pub(super) fn step_target_scheme(&mut self, forward: bool) {
        if let Some(Overlay::Targets(list)) = &mut self.overlay {
            list.step_scheme(forward);
        }
    }

    pub(super) fn toggle_loader(&mut self) {
        let Some(Overlay::Targets(list)) = &mut self.overlay else { return };
        if let Err(why) = list.toggle() {
            self.warn(why);
        }
    }

    /// Enter: asks for the rules of the chosen target. Impossible targets stay in the list.
    pub(super) fn take_target(&mut self, list: TargetList, effects: &mut Effects) {
        match list.target() {
            Err(why) => {
                self.overlay = Some(Overlay::Targets(list));
                self.warn(why);
            }
            Ok(target) => {
                effects.push(Effect::ReadRules(target));
            }
        }
    }

    /// Takes over the rules of a target: one that was chosen, or the one that the plan has since
    /// an undo, a recipe or a session.
    pub(super) fn rules_read(
        &mut self,
        target: Target,
        rules: Result<TargetRules, String>,
        effects: &mut Effects,
    ) {
        let rules = match rules {
            Ok(rules) => rules,
            Err(why) => return self.warn(format!("the target {target} is not known: {why}")),
        };
        self.requested_rules = None;
        self.comparison.clear();
        let before = self.model.scale_storage();
        if self.model.plan().target == target {
            if *self.model.rules() == rules {
                self.say(format!("the target is {target} already"));
            }
            self.model.set_rules(rules);
        } else {
            let changes = self.model.retarget(rules);
            let undo = self.key_of(Action::Undo);
            self.say(if changes.is_empty() {
                format!("target {target}; all marks fit")
            } else {
                format!("target {target}: {}; {undo} undoes it", changes.join("; "))
            });
        }
        if self.model.scale_storage() != before {
            self.recalibrate(effects);
            self.reopen_activations(effects);
        }
        self.table.keep_cursor();
        self.table.measurements_changed(&self.model);
        self.calibrate_for_target(effects);
        if matches!(self.overlay, Some(Overlay::Save(_))) {
            self.show_save(effects);
        }
    }

    /// Requests the rules of the plan's target unless they are the current ones.
    pub(super) fn follow_target(&mut self, effects: &mut Effects) {
        let target = &self.model.plan().target;
        if target != self.model.rules().target() && self.requested_rules.as_ref() != Some(target) {
            self.requested_rules = Some(target.clone());
            effects.push(Effect::ReadRules(target.clone()));
        }
    }
}
