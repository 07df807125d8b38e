//! One event at a time: what it changes and what is to be done about it.

use super::event::{Effect, Event, Meter, ROUNDS, Target, Viewport};
use super::facts::{Known, next_scheme, scheme_name};
use super::figures::{count, counted};
use super::filter::Filter;
use super::keys::{self, Key};
use super::overlay::{FilterPrompt, GoTo, Help, Overlay, PresetChoice, Presets, Tone};
use super::pager::{Line, Pager};
use super::save::{self, SaveDialog, SaveKind, Saving};
use super::table::{Column, Motion, Sort};
use super::tree::Item;
use super::{Action, App, Calibration, Status, Tab, texts};
use crate::export::{ExportError, OutputFormat, Task};
use crate::job::save::{News, SaveError};
use crate::plan::Preset;
use crate::tensor::TensorId;
use std::time::Duration;
use tui_input::InputRequest;

/// How long the ranking stays as it is while findings come in.
const SETTLE: Duration = Duration::from_millis(200);

type Effects = Vec<Effect>;

/// Changes the state as the event demands; gives what must be done in the world.
pub fn update(app: &mut App, event: Event) -> Effects {
    let mut effects = Effects::new();
    match event {
        Event::Opened => app.calibrate(0, &mut effects),
        Event::Key(key) => app.key(key, &mut effects),
        Event::Paste(text) => app.paste(&text),
        Event::Click(target) if app.overlay.is_none() => app.click(target),
        Event::Click(_) => {}
        Event::Wheel(rows) => app.wheel(rows, &mut effects),
        Event::Resized(viewport) => app.resize(viewport),
        Event::Tick { now, calibration, save } => app.tick(now, calibration, save),
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
                _ => app.show_error(
                    "Calibration failed",
                    why,
                    "What is measured so far stays. Press c to calibrate anew.",
                ),
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
    }
    app.hurry(&mut effects);
    effects
}

impl App {
    fn say(&mut self, text: impl Into<String>) {
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
        match (keys::action(self.context(), key), key) {
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
            Overlay::GoTo(go_to) => go_to.search(&self.model.checkpoint),
            Overlay::Help(help) => help.scroll = 0,
            Overlay::Save(dialog) => dialog.problem = None,
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
            Action::NextSchemeForAll => self.next_scheme_for_all(),
            Action::Undo => self.travel("undone", "nothing to undo", |model| model.undo()),
            Action::Redo => self.travel("done again", "nothing to redo", |model| model.redo()),

            Action::Filter => self.open_filter(),
            Action::NextMatch => self.find(true),
            Action::PreviousMatch => self.find(false),
            Action::GoTo => {
                let mut go_to = GoTo::default();
                go_to.search(&self.model.checkpoint);
                self.overlay = Some(Overlay::GoTo(go_to));
            }
            Action::SortNext => self.sort_by(neighbour(self.table.sort.column, 1)),
            Action::SortPrevious => {
                self.sort_by(neighbour(self.table.sort.column, Column::ALL.len() - 1));
            }
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
            Action::Legend => self.overlay = Some(Overlay::Text(Tone::Plain, texts::legend())),
            Action::Help => self.overlay = Some(Overlay::Help(Help::default())),
            Action::Copy => self.copy(effects),
            Action::Calibrate => self.toggle_calibration(effects),

            Action::Save => self.open_save(effects),
            Action::Dequantize => self.open_dequantize(effects),

            Action::Accept => self.accept(effects),
            Action::Add => self.take_preset(false),
            Action::Close => self.close(),
            Action::Cancel => {
                if let Some(Overlay::Saving(saving)) = &mut self.overlay {
                    saving.cancelled = true;
                    effects.push(Effect::CancelSave);
                }
            }
            Action::Edit(request) => self.edit(request),

            Action::Quit => self.quit(effects),
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
        let step = |at: usize, count: usize| {
            at.saturating_add_signed(rows.signum()).min(count.saturating_sub(1))
        };
        match &mut self.overlay {
            None | Some(Overlay::Filter(_)) => self.table.move_cursor(motion),
            Some(Overlay::Text(_, pager)) => pager.scroll_by(rows, width, height),
            Some(Overlay::Help(help)) => {
                let last = help.lines().len().saturating_sub(height);
                help.scroll = help.scroll.saturating_add_signed(rows).min(last);
            }
            Some(Overlay::GoTo(go_to)) => go_to.chosen = step(go_to.chosen, go_to.names.len()),
            Some(Overlay::Presets(presets)) => {
                presets.chosen = step(presets.chosen, presets.choices.len());
            }
            Some(Overlay::Save(dialog)) => {
                dialog.step(rows > 0, &self.model.checkpoint);
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
            Some(Overlay::Save(dialog)) => self.save(dialog, false, effects),
            Some(Overlay::Replace(dialog)) => self.save(dialog, true, effects),
            Some(Overlay::Quit) => effects.push(Effect::Quit),
            other => self.overlay = other,
        }
    }

    /// Esc, or no.
    fn close(&mut self) {
        match self.overlay.take() {
            Some(Overlay::Filter(prompt)) => {
                let filter = Filter::parse(&prompt.before).unwrap_or_default();
                self.filter_text = prompt.before;
                self.table.set_filter(filter, &self.model);
            }
            Some(Overlay::Replace(dialog)) => self.overlay = Some(Overlay::Save(dialog)),
            _ => {}
        }
    }

    fn back(&mut self) {
        if self.zoomed {
            self.zoomed = false;
        } else if !self.filter_text.is_empty() {
            self.filter_text.clear();
            self.table.set_filter(Filter::Everything, &self.model);
        } else {
            self.say("q quits, ? shows every key");
        }
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
            _ => match self.table.current() {
                Some(row) => self.full_name(row).to_owned(),
                None => return,
            },
        };
        self.say("copied to the clipboard, where the terminal allows it");
        effects.push(Effect::Copy(text));
    }

    fn click(&mut self, target: Target) {
        self.status = None;
        match target {
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
            Target::Tab(tab) => self.tab = tab,
        }
    }

    fn wheel(&mut self, rows: isize, effects: &mut Effects) {
        let (width, height) = self.viewport.text;
        match &mut self.overlay {
            None | Some(Overlay::Filter(_)) => self.table.scroll(rows),
            Some(Overlay::Text(_, pager)) => pager.scroll_by(rows, width, height),
            Some(_) => self.move_by(if rows > 0 { Motion::Down } else { Motion::Up }, effects),
        }
    }

    fn resize(&mut self, viewport: Viewport) {
        self.viewport = viewport;
        self.table.set_height(viewport.table);
        if let Some(Overlay::Text(_, pager)) = &mut self.overlay {
            pager.scroll_by(0, viewport.text.0, viewport.text.1);
        }
    }

    fn calibrate(&mut self, round: usize, effects: &mut Effects) {
        if !self.model.has_floats() {
            self.calibration = Calibration::NothingToDo;
            return;
        }
        self.generation += 1;
        self.hurried.clear();
        self.calibration = Calibration::Running { round, meter: Meter::default() };
        effects.push(Effect::Calibrate { generation: self.generation, schemes: ROUNDS[round] });
    }

    fn calibration_ended(&mut self, meter: Meter, effects: &mut Effects) {
        self.settle();
        let Calibration::Running { round, .. } = self.calibration else { return };
        if round + 1 < ROUNDS.len() {
            self.calibrate(round + 1, effects);
        } else {
            self.calibration = Calibration::Done { meter };
        }
    }

    fn toggle_calibration(&mut self, effects: &mut Effects) {
        match self.calibration {
            Calibration::Running { meter, .. } => {
                // Findings still on their way belong to a calibration that no longer counts.
                self.generation += 1;
                self.calibration = Calibration::Stopped { meter };
                self.settle();
                self.say("stopped; c calibrates anew");
                effects.push(Effect::StopCalibration);
            }
            Calibration::NothingToDo => self.say("there is no float tensor to calibrate"),
            _ => {
                self.model.forget();
                self.settle();
                self.calibrate(0, effects);
            }
        }
    }

    fn tick(&mut self, now: Duration, calibration: Option<Meter>, save: Option<Meter>) {
        if let (Calibration::Running { meter, .. }, Some(now)) =
            (&mut self.calibration, calibration)
        {
            *meter = now;
        }
        if let (Some(Overlay::Saving(saving)), Some(now)) = (&mut self.overlay, save) {
            saving.meter = now;
        }
        if self.unsettled && now.saturating_sub(self.settled) >= SETTLE {
            self.settled = now;
            self.settle();
        }
    }

    /// Ranks by what is known now.
    fn settle(&mut self) {
        self.unsettled = false;
        self.model.weigh();
        match self.table.sort.column {
            Column::Sqnr => self.table.reorder(&self.model),
            _ => self.table.sum_up(&self.model),
        }
    }

    /// Asks for what is on the screen first.
    fn hurry(&mut self, effects: &mut Effects) {
        if !matches!(self.calibration, Calibration::Running { round: 0, .. }) {
            return;
        }
        let waiting = |id: &TensorId| *self.model.known(*id) == Known::Waiting;
        let wanted: Vec<TensorId> = self.table.visible_tensors().filter(waiting).collect();
        let new = wanted.iter().any(|id| !self.hurried.contains(id));
        if new {
            self.hurried.clone_from(&wanted);
            effects.push(Effect::Hurry(wanted));
        }
    }

    /// Orders by a column, the other way round if it is ordered by it already.
    fn sort_by(&mut self, column: Column) {
        let now = self.table.sort;
        let sort = match now.column == column {
            true => Sort { descending: !now.descending, ..now },
            false => Sort::by(column),
        };
        self.table.set_sort(sort, &self.model);
        self.say(format!("ordered {}", sort.describe()));
    }

    fn open_filter(&mut self) {
        let before = self.filter_text.clone();
        let input = tui_input::Input::new(before.clone());
        self.overlay = Some(Overlay::Filter(FilterPrompt { input, before, problem: None }));
    }

    fn keep_filter(&mut self, prompt: FilterPrompt) {
        if let Some(why) = &prompt.problem {
            let why = why.clone();
            self.overlay = Some(Overlay::Filter(prompt));
            return self.warn(why);
        }
        self.search = self.table.filter.clone();
        if !self.filter_text.is_empty() {
            let shown = counted(self.table.shown_count(), "tensor");
            self.say(format!("{shown} shown; Esc shows all again, n and N still find"));
        }
    }

    fn find(&mut self, forward: bool) {
        if matches!(self.search, Filter::Everything) {
            return self.say("nothing searched for yet: / searches");
        }
        let mut matcher = self.search.matcher();
        let found = self.table.find(forward, &self.model, |name| matcher.matches(name));
        match found {
            Some(place) => self.table.move_to(place),
            None => self.say("no match in the rows shown"),
        }
    }

    fn go_to(&mut self, go_to: &GoTo) {
        let Some(&id) = go_to.names.get(go_to.chosen) else {
            return self.say("no tensor of that name");
        };
        if !self.table.is_shown(id) {
            self.filter_text.clear();
            self.table.set_filter(Filter::Everything, &self.model);
        }
        self.table.go_to(id, &self.model);
    }

    /// The plan is another: the modules' sums follow.
    fn plan_changed(&mut self) {
        match self.table.sort.column {
            // A mark may carry another scheme, so another SQNR.
            Column::Scheme => self.table.reorder(&self.model),
            _ => self.table.sum_up(&self.model),
        }
    }

    fn mark_current(&mut self) {
        let Some(row) = self.table.current() else { return };
        match row.item {
            Item::Tensor(id) => self.mark_tensor(id),
            Item::Module(_) => {
                let tensors = self.table.tensors_of(row.item);
                self.mark_all(&tensors, "in this module");
            }
        }
        self.plan_changed();
    }

    fn mark_tensor(&mut self, id: TensorId) {
        if self.model.is_marked(id) {
            self.model.unmark([id]);
            return;
        }
        match self.model.obstacle(id).cloned() {
            None => {}
            Some(why) if why.can_be_overruled() => {
                self.warn(format!("marked, though {why}: usually left as it is"));
            }
            Some(why) => return self.warn(format!("cannot be quantized: {why}")),
        }
        if let Known::Unreadable(why) = self.model.known(id) {
            return self.warn(format!("cannot be quantized: {why}"));
        }
        self.model.mark([id]);
    }

    /// Marks what is quantizable; unmarks all when that is marked already.
    fn mark_all(&mut self, tensors: &[TensorId], whence: &str) {
        let quantizable: Vec<TensorId> =
            tensors.iter().copied().filter(|&id| self.may_mark(id)).collect();
        let marked = tensors.iter().filter(|&&id| self.model.is_marked(id)).count();
        if quantizable.is_empty() && marked == 0 {
            return self.say(format!("nothing quantizable {whence}"));
        }
        if quantizable.iter().all(|&id| self.model.is_marked(id)) {
            self.model.unmark(tensors.iter().copied());
            self.say(format!("unmarked {}", counted(marked, "tensor")));
        } else {
            self.model.mark(quantizable.iter().copied());
            let left = match tensors.len() - quantizable.len() {
                0 => String::new(),
                n => {
                    format!("; {} (vectors, norms, embeddings …) left as they are", count(n as u64))
                }
            };
            self.say(format!("marked {}{left}", counted(quantizable.len(), "tensor")));
        }
    }

    fn may_mark(&self, id: TensorId) -> bool {
        self.model.quantizable(id) && !matches!(self.model.known(id), Known::Unreadable(_))
    }

    fn mark_shown(&mut self) {
        let shown: Vec<TensorId> = self.table.shown().collect();
        self.mark_all(&shown, "among the tensors shown");
        self.plan_changed();
    }

    fn invert(&mut self) {
        let shown: Vec<TensorId> = self
            .table
            .shown()
            .filter(|&id| self.may_mark(id) || self.model.is_marked(id))
            .collect();
        if self.model.invert(shown) {
            let marked = counted(self.model.plan().len(), "tensor");
            self.say(format!("inverted: {marked} marked now"));
        }
        self.plan_changed();
    }

    fn travel(&mut self, done: &str, nothing: &str, travel: fn(&mut super::Model) -> bool) {
        let changed = travel(&mut self.model);
        let (past, future) = self.model.undo_depth();
        match changed {
            true => self.say(format!("{done}; {past} to undo, {future} to redo")),
            false => self.say(nothing),
        }
        self.plan_changed();
    }

    fn open_presets(&mut self) {
        if !self.model.has_floats() {
            return self.say("there is no float tensor to mark");
        }
        let presets = Preset::ALL.into_iter().map(Some).chain([None]);
        let choices = presets
            .map(|preset| {
                let mut tensors =
                    preset.map_or(Vec::new(), |preset| preset.select(&self.model.checkpoint));
                tensors.retain(|&id| self.may_mark(id));
                let bytes = tensors.iter().map(|&id| self.model.checkpoint.tensor(id).bytes).sum();
                PresetChoice { preset, tensors, bytes }
            })
            .collect();
        self.overlay = Some(Overlay::Presets(Presets { choices, chosen: 0 }));
    }

    fn take_preset(&mut self, replace: bool) {
        let Some(Overlay::Presets(presets)) = self.overlay.take() else { return };
        let Some(choice) = presets.choices.get(presets.chosen) else { return };
        let keep: std::collections::HashSet<TensorId> = choice.tensors.iter().copied().collect();
        match replace {
            true => self.model.mark_only(&keep),
            false => self.model.mark(choice.tensors.iter().copied()),
        };
        let marked = counted(self.model.plan().len(), "tensor");
        self.say(format!("{}: {marked} marked now", choice.name()));
        self.plan_changed();
    }

    fn next_scheme(&mut self) {
        let Some(row) = self.table.current() else { return };
        let mut tensors = self.table.tensors_of(row.item);
        tensors.retain(|&id| self.model.is_marked(id));
        let Some(&first) = tensors.first() else {
            return self.say("nothing is marked here: Space marks, X changes the whole table");
        };
        let scheme = next_scheme(self.model.scheme_of(first));
        self.model.set_scheme(tensors.iter().copied(), scheme);
        let marked = counted(tensors.len(), "mark");
        self.say(format!("{marked} now {}", scheme_name(scheme)));
        self.plan_changed();
    }

    fn next_scheme_for_all(&mut self) {
        self.model.scheme = next_scheme(self.model.scheme);
        let all: Vec<TensorId> = self.model.plan().iter().map(|(id, _)| id).collect();
        self.model.set_scheme(all, self.model.scheme);
        self.say(format!("the table and all marks are {} now", scheme_name(self.model.scheme)));
        self.settle();
    }

    fn open_save(&mut self, effects: &mut Effects) {
        if self.model.plan().is_empty() {
            return self.say("nothing is marked: Space marks this row, a all shown, p by role");
        }
        let kind = SaveKind::Quantize(OutputFormat::default());
        let dialog = SaveDialog::new(kind, &self.model.checkpoint);
        self.overlay = Some(Overlay::Save(dialog));
        self.lay_out(effects);
    }

    /// Asks what the save in the dialog would write.
    fn lay_out(&mut self, effects: &mut Effects) {
        if let Some(Overlay::Save(dialog)) = &mut self.overlay {
            dialog.laid_out = None;
            effects.push(Effect::LayOut(dialog.request(&self.model, true)));
        }
    }

    fn open_dequantize(&mut self, effects: &mut Effects) {
        if !save::holds_quantized(&self.model.checkpoint) {
            return self.say("nothing here is quantized: it is the float model already");
        }
        let dialog = SaveDialog::new(SaveKind::Dequantize(None), &self.model.checkpoint);
        self.overlay = Some(Overlay::Save(dialog));
        self.lay_out(effects);
    }

    fn save(&mut self, mut dialog: SaveDialog, force: bool, effects: &mut Effects) {
        if dialog.path.value().trim().is_empty() {
            dialog.problem = Some("Where to? Type a path.".to_owned());
            self.overlay = Some(Overlay::Save(dialog));
            return;
        }
        dialog.problem = None;
        let request = dialog.request(&self.model, force);
        effects.push(Effect::Save(request.clone()));
        self.overlay = Some(Overlay::Saving(Saving {
            request,
            dialog,
            phase: "starting",
            meter: Meter::default(),
            cancelled: false,
        }));
    }

    fn save_finished(&mut self, outcome: Result<crate::export::Receipt, SaveError>) {
        let mut saving = match self.overlay.take() {
            Some(Overlay::Saving(saving)) => saving,
            other => {
                self.overlay = other;
                return;
            }
        };
        match outcome {
            Ok(receipt) => {
                if let Task::Quantize { plan, .. } = &saving.request.task {
                    self.model.note_saved(plan);
                }
                let pager = save::receipt(&receipt, &self.model);
                self.receipts.push(pager.plain());
                self.overlay = Some(Overlay::Text(Tone::Good, pager));
            }
            Err(SaveError::Export(ExportError::Exists(_))) if !saving.request.force => {
                self.overlay = Some(Overlay::Replace(saving.dialog));
            }
            Err(SaveError::Stopped(why)) if saving.cancelled => {
                self.warn(format!("{why}: nothing was written"));
            }
            Err(error) => {
                saving.dialog.problem = Some(error.to_string());
                self.overlay = Some(Overlay::Save(saving.dialog));
            }
        }
    }
}

fn neighbour(column: Column, step: usize) -> Column {
    let at = Column::ALL.iter().position(|&c| c == column).unwrap_or(0);
    Column::ALL[(at + step) % Column::ALL.len()]
}
