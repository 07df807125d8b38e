//! One event at a time: what it changes and what is to be done about it.

mod budget;
mod calibrate;
mod detail_tabs;
mod diff;
mod find;
mod marks;
mod outputs;
mod recipe;
mod report;
mod save;
mod values;

use super::budget::Budget;
use super::diff::DiffState;
use super::event::{Effect, Event, Target, Viewport};
use super::filter::Filter;
use super::keys::{Context, Key};
use super::overlay::{GoTo, Help, Overlay, Tone};
use super::pager::{Line, Pager};
use super::prompt::{Prompt, Purpose};
use super::table::Motion;
use super::{Action, App, Calibration, Status, Tab, texts};
use crate::job::save::News;
use tui_input::InputRequest;

type Effects = Vec<Effect>;

/// Changes the state as the event demands; gives what must be done in the world.
pub fn update(app: &mut App, event: Event) -> Effects {
    let mut effects = Effects::new();
    match event {
        Event::Opened => {
            app.calibrate(0, &mut effects);
            if !app.activations.is_empty() {
                let files = app.activations.clone();
                app.open_activations(files, &mut effects);
            }
        }
        Event::Key(key) => app.key(key, &mut effects),
        Event::Paste(text) => app.paste(&text),
        Event::Click(target) => app.click(target, &mut effects),
        Event::Drag(target) => app.drag(target, &mut effects),
        Event::Wheel(rows) => app.wheel(rows, &mut effects),
        Event::Resized(viewport) => app.resize(viewport),
        Event::Tick { now, calibration, save, diff, outputs } => {
            app.tick(now, calibration, save, diff, outputs);
        }
        Event::Found { generation, tensor, found } if generation == app.generation => {
            if app.model.learn(tensor, found) {
                let name = &app.model.checkpoint.tensor(tensor).name;
                app.warn(format!("unmarked {name}: it turned out to have no scale"));
            }
            app.unsettled = true;
        }
        Event::CalibrationEnded { generation, meter } if generation == app.generation => {
            app.calibration_ended(meter, &mut effects);
        }
        Event::CalibrationFailed { generation, why } if generation == app.generation => {
            app.settle();
            app.calibration = Calibration::Failed;
            match app.overlay {
                // The save goes on, and its window with it.
                Some(Overlay::Saving(_)) => app.warn(format!("calibration failed: {why}")),
                _ => {
                    let key = app.key_of(Action::Calibrate);
                    let then = format!("What is measured so far stays. {key} calibrates anew.");
                    app.show_error("Calibration failed", why, &then);
                }
            }
        }
        Event::Found { .. } | Event::CalibrationEnded { .. } | Event::CalibrationFailed { .. } => {}
        Event::LaidOut(laid_out) => {
            if let Some(Overlay::Save(dialog)) = &mut app.overlay {
                dialog.laid_out = Some(laid_out);
            }
        }
        Event::Save(News::Phase(phase)) => {
            if let Some(Overlay::Saving(saving)) = &mut app.overlay {
                saving.phase = phase;
            }
        }
        Event::Save(News::Finished(outcome)) => app.save_finished(*outcome),
        Event::SaveFailed(why) => {
            app.overlay = None;
            app.show_error("The save failed", why, "Nothing was written.");
        }
        Event::Config(config) => {
            if let Some(Overlay::Text(_, pager)) = &mut app.overlay {
                let scroll = pager.scroll() as isize;
                *pager = texts::metadata(&app.model.checkpoint, Some(&config));
                let (width, height) = app.viewport.text;
                pager.scroll_by(scroll, width, height);
            }
        }
        Event::Values(request, found) => app.values.take(request, found),
        Event::Counted(tensor, counted) => app.histogram.take(tensor, counted),
        Event::Clipped(request, found) => app.histogram.take_measured(request, found),
        Event::Duplicates(found) => {
            app.model.note_duplicates(&found);
            app.settle();
        }
        Event::SchemesCompared(tensor, found) => app.comparison.take(tensor, found),
        Event::Channels(request, found) => app.channels.take(request, found),
        Event::Measured { tensor, found } => {
            app.model.learn(tensor, found);
            app.measured(tensor);
        }
        Event::RecipeWritten(outcome) => app.recipe_written(outcome),
        Event::ReportWritten(outcome) => app.report_written(outcome),
        Event::RecipeRead(outcome) => app.recipe_read(outcome),
        Event::Outputs(news) => app.outputs_news(news),
        Event::Compared(outcome) => app.compared(outcome),
    }
    app.hurry(&mut effects);
    app.measure_marks(&mut effects);
    app.look(&mut effects);
    effects
}

impl App {
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.status = Some(Status { text: text.into(), warning: false });
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.status = Some(Status { text: text.into(), warning: true });
    }

    fn show_error(&mut self, title: &str, what: String, then: &str) {
        let lines = vec![Line::text(what), Line::Blank, Line::text(then)];
        self.overlay = Some(Overlay::Text(Tone::Bad, Pager::new(title, lines)));
    }

    fn key(&mut self, key: Key, effects: &mut Effects) {
        self.status = None;
        match (self.settings.keys.action(self.context(), key), key) {
            (Some(action), _) => self.act(action, effects),
            (None, Key::Char(c)) => self.edit(InputRequest::InsertChar(c)),
            _ => {}
        }
    }

    fn paste(&mut self, text: &str) {
        for c in text.chars().filter(|c| !c.is_control()) {
            self.edit(InputRequest::InsertChar(c));
        }
    }

    fn edit(&mut self, request: InputRequest) {
        let Some(overlay) = &mut self.overlay else { return };
        let Some(input) = overlay.input() else { return };
        let changed = input.handle(request).is_some_and(|change| change.value);
        if !changed {
            return;
        }
        match overlay {
            Overlay::Filter(prompt) => {
                let text = prompt.input.value().to_owned();
                match Filter::parse(&text) {
                    Ok(filter) => {
                        prompt.problem = None;
                        self.filter_text = text;
                        self.table.set_filter(filter, &self.model);
                    }
                    Err(why) => prompt.problem = Some(why),
                }
            }
            Overlay::GoTo(go_to) => go_to.search(&self.model),
            Overlay::Help(help) => help.scroll = 0,
            Overlay::Save(dialog) => dialog.problem = None,
            Overlay::Prompt(prompt) => prompt.edited(),
            _ => {}
        }
    }

    fn act(&mut self, action: Action, effects: &mut Effects) {
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
            Action::NextScheme => self.next_scheme(),
            Action::NextCalibration => self.next_calibration(),
            Action::NarrowClip => self.slide(true),
            Action::WidenClip => self.slide(false),
            Action::KeepClip => self.keep_clip(),
            Action::ToggleLog => self.histogram.log = !self.histogram.log,
            Action::NextFlag => self.find_flag(true),
            Action::PreviousFlag => self.find_flag(false),
            Action::NextSchemeForAll => self.next_scheme_for_all(),
            Action::Undo => self.travel("undone", "nothing to undo", |model| model.undo()),
            Action::Redo => self.travel("done again", "nothing to redo", |model| model.redo()),

            Action::Filter => self.open_filter(),
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
            Action::Help => self.overlay = Some(Overlay::Help(Help::default())),
            Action::Copy => self.copy(effects),
            Action::Calibrate => {
                if !self.stop_measuring_outputs(effects) {
                    self.toggle_calibration(effects);
                }
            }

            Action::Budget => self.open_budget(),
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
                _ => self.with_budget(Budget::toggle),
            },

            Action::Save => self.open_save(effects),
            Action::Dequantize => self.open_dequantize(effects),

            Action::Accept => self.accept(effects),
            Action::Add => self.take_preset(false),
            Action::Close => self.close(effects),
            Action::Cancel => _ = self.cancel_save(effects),
            Action::Stop => {
                if !self.cancel_save(effects) && !self.stop_measuring_outputs(effects) {
                    match self.calibration {
                        Calibration::Running { .. } => self.toggle_calibration(effects),
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
        }
    }

    fn move_by(&mut self, motion: Motion, effects: &mut Effects) {
        let (width, height) = self.viewport.text;
        let page = height.saturating_sub(1).max(1) as isize;
        let rows = match motion {
            Motion::Up => -1,
            Motion::Down => 1,
            Motion::PageUp | Motion::HalfUp => -page,
            Motion::PageDown | Motion::HalfDown => page,
            Motion::First => isize::MIN,
            Motion::Last => isize::MAX,
        };
        match self.context() {
            Context::Values => return self.values.move_cursor(motion),
            Context::Channels => return self.channels.move_by(motion),
            _ => {}
        }
        let step = |at: usize, count: usize| {
            at.saturating_add_signed(rows.signum()).min(count.saturating_sub(1))
        };
        match &mut self.overlay {
            None | Some(Overlay::Filter(_)) => self.table.move_cursor(motion),
            Some(Overlay::Text(_, pager)) => pager.scroll_by(rows, width, height),
            Some(Overlay::Help(help)) => {
                let last = help.lines(&self.settings.keys).len().saturating_sub(height);
                help.scroll = help.scroll.saturating_add_signed(rows).min(last);
            }
            Some(Overlay::GoTo(go_to)) => go_to.chosen = step(go_to.chosen, go_to.names.len()),
            Some(Overlay::Presets(presets)) => {
                presets.chosen = step(presets.chosen, presets.choices.len());
            }
            Some(Overlay::Columns(columns)) => {
                columns.chosen = step(columns.chosen, columns.choices.len());
            }
            Some(Overlay::Budget(_)) => self.move_budget(motion),
            Some(Overlay::Diff(view)) => {
                if let DiffState::Done(differences) = &mut view.state {
                    differences.move_cursor(motion, self.viewport.diff);
                }
            }
            Some(Overlay::Save(dialog)) => {
                dialog.step(rows > 0, &self.model);
                dialog.problem = None;
                self.lay_out(effects);
            }
            _ => {}
        }
    }

    /// Enter, or yes.
    fn accept(&mut self, effects: &mut Effects) {
        match self.overlay.take() {
            Some(Overlay::Filter(prompt)) => self.keep_filter(prompt),
            Some(Overlay::GoTo(go_to)) => self.go_to(&go_to),
            Some(Overlay::Presets(presets)) => {
                self.overlay = Some(Overlay::Presets(presets));
                self.take_preset(true);
            }
            Some(Overlay::Columns(columns)) => self.order_by_chosen(&columns),
            Some(Overlay::Save(dialog)) => self.save(dialog, false, effects),
            Some(Overlay::Replace(dialog)) => self.save(dialog, true, effects),
            Some(Overlay::Quit) => effects.push(Effect::Quit),
            Some(Overlay::Prompt(prompt)) => self.take_text(prompt, effects),
            Some(Overlay::Budget(budget)) => self.keep_budget(*budget),
            Some(Overlay::Diff(view)) => self.leave_diff(*view),
            other => self.overlay = other,
        }
    }

    /// A text that was asked for is there.
    fn take_text(&mut self, mut prompt: Prompt, effects: &mut Effects) {
        if prompt.text().is_empty() {
            prompt.problem = Some(match prompt.purpose {
                Purpose::Index(_) => "Which one? Type an index.".to_owned(),
                _ => "Which one? Type a path.".to_owned(),
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

    /// Esc, or no.
    fn close(&mut self, effects: &mut Effects) {
        match self.overlay.take() {
            Some(Overlay::Filter(prompt)) => {
                let filter = Filter::parse(&prompt.before).unwrap_or_default();
                self.filter_text = prompt.before;
                self.table.set_filter(filter, &self.model);
            }
            Some(Overlay::Replace(dialog)) => self.overlay = Some(Overlay::Save(dialog)),
            Some(Overlay::Budget(budget)) => self.drop_budget(*budget),
            Some(Overlay::Diff(view)) => self.close_diff(&view, effects),
            _ => {}
        }
    }

    fn back(&mut self) {
        if self.zoomed {
            self.zoomed = false;
        } else if !self.filter_text.is_empty() {
            self.filter_text.clear();
            self.table.set_filter(Filter::everything(), &self.model);
        } else {
            let [quit, help] = [Action::Quit, Action::Help].map(|action| self.key_of(action));
            self.say(format!("{quit} quits, {help} shows every key"));
        }
    }

    /// Cancels the save that is under way; false if there is none.
    fn cancel_save(&mut self, effects: &mut Effects) -> bool {
        let Some(Overlay::Saving(saving)) = &mut self.overlay else { return false };
        saving.cancelled = true;
        effects.push(Effect::CancelSave);
        true
    }

    fn quit(&mut self, effects: &mut Effects) {
        if let Some(Overlay::Saving(_)) = self.overlay {
            return self.act(Action::Cancel, effects);
        }
        // Who asks a second time means it.
        let asked = matches!(self.overlay, Some(Overlay::Quit));
        match self.model.has_unsaved_marks() && !asked {
            true => self.overlay = Some(Overlay::Quit),
            false => effects.push(Effect::Quit),
        }
    }

    fn copy(&mut self, effects: &mut Effects) {
        let text = match &self.overlay {
            Some(Overlay::Text(_, pager)) => pager.plain(),
            Some(Overlay::Diff(view)) => match &view.state {
                DiffState::Done(differences) => differences.plain(),
                DiffState::Comparing(_) => return,
            },
            _ => match self.table.current() {
                Some(row) => self.full_name(row).to_owned(),
                None => return,
            },
        };
        self.say("copied to the clipboard, where the terminal allows it");
        effects.push(Effect::Copy(text));
    }

    fn click(&mut self, target: Target, effects: &mut Effects) {
        self.status = None;
        self.bar_held = matches!(target, Target::Bar(_)) && self.overlay.is_none();
        match target {
            Target::Hint(key) => self.key(key, effects),
            Target::Choice(number) => self.choose(number, effects),
            Target::Curve(share) => self.with_budget(|budget, _| budget.go_to(share)),
            _ if self.overlay.is_some() => {}
            Target::Value(line) => self.values.click(line),
            Target::Row(line) => {
                let before = self.table.cursor();
                if self.table.click(line) && self.table.cursor() == before {
                    self.table.toggle_fold(&self.model);
                }
            }
            Target::Mark(line) => {
                if self.table.click(line) {
                    self.mark_current();
                }
            }
            Target::Title(column) => self.sort_by(column),
            Target::Bar(share) => self.table.scroll_to(share),
            Target::Tab(tab) => self.tab = tab,
            Target::Clip(share) => self.histogram.slide_to(share),
        }
    }

    /// A click on one of a list: what it can be taken back by is done at once, anything else
    /// by a second click.
    fn choose(&mut self, number: usize, effects: &mut Effects) {
        let again = match &mut self.overlay {
            Some(Overlay::Presets(presets)) => {
                std::mem::replace(&mut presets.chosen, number) == number
            }
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

    /// Goes along with the mouse where that chooses a place, and does nothing where a click
    /// would change a mark or the order.
    fn drag(&mut self, target: Target, effects: &mut Effects) {
        match target {
            Target::Curve(_) | Target::Clip(_) | Target::Value(_) => self.click(target, effects),
            Target::Bar(share) if self.bar_held => self.table.scroll_to(share),
            Target::Row(line) | Target::Mark(line) if self.overlay.is_none() => {
                self.table.click(line);
            }
            _ => {}
        }
    }

    fn wheel(&mut self, rows: isize, effects: &mut Effects) {
        let (width, height) = self.viewport.text;
        match &mut self.overlay {
            None if self.zoomed && self.tab == Tab::Values => self.values.scroll(rows),
            None if self.zoomed && self.tab == Tab::Channels => self.channels.scroll(rows),
            None | Some(Overlay::Filter(_)) => self.table.scroll(rows),
            Some(Overlay::Text(_, pager)) => pager.scroll_by(rows, width, height),
            Some(_) => self.move_by(if rows > 0 { Motion::Down } else { Motion::Up }, effects),
        }
    }

    fn resize(&mut self, viewport: Viewport) {
        self.viewport = viewport;
        self.table.set_height(viewport.table);
        self.values.set_height(viewport.values);
        self.channels.set_height(viewport.channels);
        if let Some(Overlay::Diff(view)) = &mut self.overlay
            && let DiffState::Done(differences) = &mut view.state
        {
            differences.keep_in_view(viewport.diff);
        }
        if let Some(Overlay::Text(_, pager)) = &mut self.overlay {
            pager.scroll_by(0, viewport.text.0, viewport.text.1);
        }
    }
}
