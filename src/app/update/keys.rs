//! Handles keys.

use crate::app::action::Action;
use crate::app::budget::Budget;
use crate::app::calibration::CalibrationState;
use crate::app::effects::Effects;
use crate::app::event::Effect;
use crate::app::filter::Vocabulary;
use crate::app::keys::{Context, Key};
use crate::app::overlay::{GoTo, Help, Overlay, Tone};
use crate::app::scheme_list::Scope;
use crate::app::scroll::Motion;
use crate::app::state::App;
use crate::app::tab::Tab;
use crate::app::texts;
use tui_input::InputRequest;

impl App {
    pub(super) fn key(&mut self, key: Key, effects: &mut Effects) {
        self.status = None;
        let context = self.context();
        let count = self.count.take();
        match (self.settings.keys.action(context, key), key) {
            (Some(Action::Move(motion @ (Motion::Up | Motion::Down))), _) if count.is_some() => {
                (0..count.unwrap_or(1)).for_each(|_| self.move_by(motion, effects));
            }
            (Some(action), _) => self.act(action, effects),
            (None, Key::Char(c)) if context == Context::Table && c.is_ascii_digit() => {
                let digit = c.to_digit(10).unwrap_or(0) as usize;
                let number = count.unwrap_or(0).saturating_mul(10).saturating_add(digit);
                self.count = Some(number.min(self.table.rows().len()));
                self.say(format!("{number} rows up or down"));
            }
            (None, Key::Char(c)) if context.takes_text() => self.edit(InputRequest::InsertChar(c)),
            (None, Key::Char(c)) if context == Context::Budget && c.is_ascii_digit() => {
                self.type_size(Some(c));
            }
            (None, key) => {
                if self.unbound.insert((context, key)) {
                    let help = self.settings.keys.name(context, Action::Help);
                    self.say(format!("{key} does nothing here; {help} shows the keys"));
                }
            }
        }
    }

    pub(super) fn paste(&mut self, text: &str) {
        for c in text.chars().filter(|c| !c.is_control()) {
            self.edit(InputRequest::InsertChar(c));
        }
    }

    pub(super) fn edit(&mut self, request: InputRequest) {
        let Some(overlay) = &mut self.overlay else { return };
        let Some(input) = overlay.input() else { return };
        let changed = input.handle(request).is_some_and(|change| change.value);
        if changed {
            if let Some(filter) = overlay.filter_input() {
                filter.edited();
            }
            self.edited();
        }
    }

    /// Updates the overlay after its text was edited.
    pub(super) fn edited(&mut self) {
        let Some(overlay) = &mut self.overlay else { return };
        match overlay {
            Overlay::Filter(prompt) => {
                if let Some(filter) = prompt.filter.parse(&Vocabulary::TENSORS) {
                    self.filter_text = prompt.filter.text().to_owned();
                    self.table.set_filter(filter, &self.model);
                }
            }
            Overlay::MarkBy(_) => self.match_pattern(),
            Overlay::Diff(view) => view.filter(&self.model),
            Overlay::GoTo(go_to) => go_to.search(&self.model),
            Overlay::Help(help) => help.chosen = 0,
            Overlay::Save(dialog) => (dialog.problem, dialog.missing) = (None, None),
            Overlay::Open(dialog) => (dialog.problem, dialog.chosen) = (None, None),
            Overlay::Prompt(prompt) => prompt.edited(),
            _ => {}
        }
    }

    pub(super) fn act(&mut self, action: Action, effects: &mut Effects) {
        let (table, model) = (&mut self.table, &self.model);
        match action {
            Action::Move(motion) => self.move_by(motion, effects),
            Action::FoldOrLeave => table.fold_or_leave(model),
            Action::UnfoldOrEnter => table.unfold_or_enter(model),
            Action::FoldAll => table.fold_all(true, model),
            Action::UnfoldAll => table.fold_all(false, model),
            Action::ToggleTree => table.set_tree(!table.as_tree, model),
            Action::Open => {
                if !table.toggle_fold(model) {
                    self.zoomed = !self.zoomed && self.table.current().is_some();
                }
            }
            Action::Back => self.back(),

            Action::Mark => self.mark_current(),
            Action::MarkShown => self.mark_shown(),
            Action::Invert => self.invert(),
            Action::Presets => self.open_presets(),
            Action::Schemes => self.open_schemes(Scope::Row),
            Action::NextCalibration => self.next_calibration(),
            Action::NarrowClip => self.move_clip(true),
            Action::WidenClip => self.move_clip(false),
            Action::KeepClip => self.keep_clip(),
            Action::ToggleLog => self.histogram.other_scale = !self.histogram.other_scale,
            Action::NextFlag => self.find_flag(true),
            Action::PreviousFlag => self.find_flag(false),
            Action::SchemesForAll => self.open_schemes(Scope::All),
            Action::NextScope | Action::PreviousScope => {
                if let Some(Overlay::Schemes(list)) = &mut self.overlay {
                    list.step_scope(action == Action::NextScope);
                }
            }
            Action::TakeScheme => self.choose_scheme_of_tab(),
            Action::Undo => self.step_history("undone", "nothing to undo", |model| model.undo()),
            Action::Redo => self.step_history("redone", "nothing to redo", |model| model.redo()),

            Action::Filter => match &mut self.overlay {
                Some(Overlay::Diff(view)) => view.type_filter(),
                _ => self.open_filter(),
            },
            Action::OlderFilter => self.recall_filter(true),
            Action::NewerFilter => self.recall_filter(false),
            Action::Range => self.toggle_range(),
            Action::MarkBy => self.open_mark_by(),
            Action::UnmarkBy => self.take_pattern(false),
            Action::QuantizableOnly => self.toggle_quantizable_only(),
            Action::NextMatch => self.find(true),
            Action::PreviousMatch => self.find(false),
            Action::GoTo => {
                let mut go_to = GoTo::default();
                go_to.search(&self.model);
                self.overlay = Some(Overlay::GoTo(go_to));
            }
            Action::SortNext => self.sort_by_neighbour(true),
            Action::SortPrevious => self.sort_by_neighbour(false),
            Action::Columns => self.open_columns(),
            Action::SortReverse => self.sort_by(self.table.sort.column),

            Action::NextTab | Action::PreviousTab => {
                let step = if action == Action::NextTab { 1 } else { Tab::ALL.len() - 1 };
                let at = Tab::ALL.iter().position(|&tab| tab == self.tab).unwrap_or(0);
                self.tab = Tab::ALL[(at + step) % Tab::ALL.len()];
            }
            Action::Metadata => {
                let pager = texts::metadata(&self.model.checkpoint, None);
                self.overlay = Some(Overlay::Text(Tone::Plain, pager));
                effects.push(Effect::ReadConfig);
            }
            Action::Legend => {
                let opens = self.key_of(Action::Activations);
                let legend = texts::legend(&self.model.thresholds, &opens);
                self.overlay = Some(Overlay::Text(Tone::Plain, legend));
            }
            Action::Help => {
                let context = self.context();
                if context != Context::Help {
                    self.cover(Overlay::Help(Help::new(context)));
                }
            }
            Action::Copy => self.copy(effects),
            Action::Calibrate => {
                if !self.stop_measuring_outputs(effects) {
                    self.toggle_calibration(effects);
                }
            }

            Action::Budget => self.open_budget(),
            Action::TypeSize => self.type_size(None),
            Action::WriteRecipe => self.open_write_recipe(),
            Action::WriteReport => self.open_report(),
            Action::ReadRecipe => self.open_read_recipe(),
            Action::Diff => self.open_diff(),
            Action::Activations => self.ask_for_activations(),

            Action::GoToElement => self.open_index(),
            Action::NextRow => self.values.move_row(true),
            Action::PreviousRow => self.values.move_row(false),
            Action::NextTensor => self.next_tensor(true),
            Action::PreviousTensor => self.next_tensor(false),

            Action::Smaller => self.with_budget(|budget, _| budget.step(true, 0)),
            Action::Larger => self.with_budget(|budget, _| budget.step(false, 0)),
            Action::Toggle => match self.overlay {
                Some(Overlay::Columns(_)) => self.toggle_column(),
                Some(Overlay::Targets(_)) => self.toggle_loader(),
                _ => self.with_budget(Budget::toggle),
            },

            Action::OpenModel => self.open_models(effects),
            Action::OpenResult => self.open_result(effects),
            Action::CompareResult => self.compare_result(effects),
            Action::CopyCommand => self.copy_command(effects),
            Action::Complete => self.complete(effects),
            Action::CreateDirectory => self.create_directory(effects),
            Action::Target => self.open_targets(effects),
            Action::NextTargetScheme => self.step_target_scheme(true),
            Action::PreviousTargetScheme => self.step_target_scheme(false),
            Action::Fix => self.fix(effects),
            Action::ErrorCompensation | Action::ClipSearch => {
                self.switch_rounding(action == Action::ErrorCompensation, effects);
            }
            Action::Save => self.open_save(effects),
            Action::Dequantize => self.open_dequantize(effects),

            Action::Accept => self.accept(effects),
            Action::Add => self.accept_preset(false),
            Action::Close => self.close(effects),
            Action::Cancel => _ = self.cancel_save(effects),
            Action::Stop => {
                if !self.cancel_save(effects) && !self.stop_measuring_outputs(effects) {
                    match self.calibration {
                        CalibrationState::Running { .. } => self.toggle_calibration(effects),
                        _ => self.say("nothing runs in the background"),
                    }
                }
            }
            Action::Edit(request) => self.edit(request),

            Action::Quit => self.quit(effects),
            Action::ToggleMouse => {
                self.settings.mouse = !self.settings.mouse;
                let whose =
                    if self.settings.mouse { "here" } else { "the terminal's, to select text" };
                self.say(format!("the mouse is {whose}"));
                effects.push(Effect::Mouse(self.settings.mouse));
            }
            Action::Suspend => effects.push(Effect::Suspend),
            Action::Redraw => effects.push(Effect::Redraw),
            // Shares are listed before a model is open.
            Action::Refresh => {}
        }
    }
}
