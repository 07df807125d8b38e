//! Marks: by hand, by preset, by scheme; undo and redo.

use crate::app::action::Action;
use crate::app::filter::{Filter, TensorSubject, Vocabulary};
use crate::app::overlay::{MarkPrompt, Overlay, PresetChoice, Presets};
use crate::app::state::App;
use crate::app::table::Column;
use crate::app::tensor_metrics::Measurement;
use crate::app::tree::TreeItem;
use crate::plan::rules::{Eligibility, Reason};
use crate::plan::{MarkPreset, Plan};
use crate::tensor::TensorId;
use crate::text::figures::{count, counted};
use rayon::prelude::*;

impl App {
    /// Updates the table after the plan changed.
    pub(super) fn plan_changed(&mut self) {
        self.table.keep_cursor();
        match self.table.sort.column {
            // The SQNR follows the scheme of the mark.
            Column::Scheme => self.table.reorder(&self.model),
            _ => self.table.update_totals(&self.model),
        }
    }

    pub(super) fn mark_current(&mut self) {
        let Some(row) = self.table.current() else { return };
        if self.table.range().is_some() {
            let tensors = self.table.chosen_tensors();
            self.table.end_range();
            self.mark_all(&tensors, "in the range");
            return self.plan_changed();
        }
        match row.item {
            TreeItem::Tensor(id) => self.mark_tensor(id),
            TreeItem::Module(_) => {
                let tensors = self.table.tensors_of(row.item);
                self.mark_all(&tensors, "in this module");
            }
        }
        self.plan_changed();
    }

    pub(super) fn mark_tensor(&mut self, id: TensorId) {
        let unit = self.model.loaded_with(id);
        let tensors = counted(unit.len(), "tensor");
        if self.model.is_marked(id) {
            if unit.len() > 1 {
                self.say(format!("unmarked {tensors}: they are loaded as one layer"));
            }
            self.model.unmark(&unit);
            return;
        }
        match self.model.eligibility(id).clone() {
            Eligibility::ByDefault => {}
            Eligibility::ByName(why) => {
                self.warn(format!("marked, although usually not quantized: {why}"));
            }
            Eligibility::Never(why) => return self.warn(self.refusal_to_mark(&why)),
        }
        if let Measurement::Unreadable(why) = self.model.measurement(id) {
            return self.warn(format!("cannot be quantized: {why}"));
        }
        if unit.len() > 1 && self.status.is_none() {
            self.say(format!("marked {tensors}: they are loaded as one layer"));
        }
        self.model.mark(&unit);
    }

    /// Why a tensor cannot be marked: for any target, or for the chosen one.
    pub(super) fn refusal_to_mark(&self, why: &Reason) -> String {
        match why {
            Reason::Obstacle(obstacle) if !obstacle.can_be_overruled() => {
                format!("cannot be quantized: {why}")
            }
            _ => format!("cannot be quantized for {}: {why}", self.model.plan().target),
        }
    }

    /// Marks the quantizable tensors, or unmarks all if those are marked already.
    pub(super) fn mark_all(&mut self, tensors: &[TensorId], scope: &str) {
        let quantizable: Vec<TensorId> =
            tensors.par_iter().copied().filter(|&id| self.may_mark(id)).collect();
        let marked = tensors.par_iter().filter(|&&id| self.model.is_marked(id)).count();
        if quantizable.is_empty() && marked == 0 {
            return self.say(format!("no quantizable tensor {scope}"));
        }
        if quantizable.iter().all(|&id| self.model.is_marked(id)) {
            self.model.unmark(tensors);
            self.say(format!("unmarked {}", counted(marked, "tensor")));
        } else {
            self.model.mark(&quantizable);
            let left = match tensors.len() - quantizable.len() {
                0 => String::new(),
                n => {
                    format!("; {} not quantizable (vectors, norms, embeddings …)", count(n as u64))
                }
            };
            self.say(format!("marked {}{left}", counted(quantizable.len(), "tensor")));
        }
    }

    /// Begins a range at the cursor, or ends it.
    pub(super) fn toggle_range(&mut self) {
        if self.table.end_range() {
            return self.say("the range was ended");
        }
        self.table.begin_range();
        let [mark, scheme, end] =
            [Action::Mark, Action::Schemes, Action::Back].map(|a| self.key_of(a));
        self.say(format!(
            "range: move to its other end; {mark} marks it, {scheme} chooses its scheme, {end} ends it"
        ));
    }

    pub(super) fn open_mark_by(&mut self) {
        if !self.model.has_floats() {
            return self.say("there is no float tensor to mark");
        }
        self.overlay = Some(Overlay::MarkBy(MarkPrompt::default()));
    }

    /// Finds what the pattern to mark by matches.
    pub(super) fn match_pattern(&mut self) {
        let Some(Overlay::MarkBy(prompt)) = &mut self.overlay else { return };
        let Some(mut filter) = prompt.filter.parse(&Vocabulary::TENSORS) else { return };
        let model = &self.model;
        filter.resolve_tensors(&Filter::everything(), model);
        let mut matcher = filter.matcher();
        let matches: Vec<TensorId> = if filter.is_everything() {
            Vec::new()
        } else {
            let matches = |id: &TensorId| matcher.matches(&TensorSubject { model, id: *id });
            model.checkpoint.ids().filter(matches).collect()
        };
        let quantizable = matches.iter().filter(|&&id| self.may_mark(id)).count();
        if let Some(Overlay::MarkBy(prompt)) = &mut self.overlay {
            (prompt.matches, prompt.quantizable) = (matches, quantizable);
        }
    }

    /// Marks or unmarks what the pattern matches, as one undo step.
    pub(super) fn take_pattern(&mut self, mark: bool) {
        let Some(Overlay::MarkBy(prompt)) = &self.overlay else { return };
        if let Some(why) = prompt.filter.problem.clone() {
            return self.warn(why);
        }
        let (text, matches) = (prompt.filter.text().trim().to_owned(), prompt.matches.clone());
        if matches.is_empty() {
            return self.warn(if text.is_empty() {
                "type a pattern, such as attn or *.mlp.*".to_owned()
            } else {
                format!("no tensor matches {text}")
            });
        }
        let (tensors, verb): (Vec<TensorId>, _) = if mark {
            let fits = |id: &TensorId| self.may_mark(*id) && !self.model.is_marked(*id);
            (matches.iter().copied().filter(fits).collect(), "marked")
        } else {
            let marked = |id: &TensorId| self.model.is_marked(*id);
            (matches.iter().copied().filter(marked).collect(), "unmarked")
        };
        self.filter_history.record(&text);
        self.overlay = None;
        let matching = counted(matches.len(), "tensor");
        if tensors.is_empty() {
            let why = if mark { "more can be marked" } else { "is marked" };
            return self.say(format!("{matching} match {text}; none of them {why}"));
        }
        if mark {
            self.model.mark(&tensors)
        } else {
            self.model.unmark(&tensors)
        };
        let undo = self.key_of(Action::Undo);
        let changed = count(tensors.len() as u64);
        self.say(format!("{verb} {changed} of {matching} that match {text}; {undo} undoes it"));
        self.plan_changed();
    }

    pub(super) fn may_mark(&self, id: TensorId) -> bool {
        self.model.quantizable(id)
            && !matches!(self.model.measurement(id), Measurement::Unreadable(_))
    }

    /// The tensors shown that are marked or may be, in the order of the file.
    pub(super) fn markable_shown(&self) -> Vec<TensorId> {
        let markable = |id: &TensorId| self.may_mark(*id) || self.model.is_marked(*id);
        self.table.shown_in_file_order().filter(markable).collect()
    }

    pub(super) fn mark_shown(&mut self) {
        let shown: Vec<TensorId> = self.table.shown_in_file_order().collect();
        self.mark_all(&shown, "among the tensors shown");
        self.plan_changed();
    }

    pub(super) fn invert(&mut self) {
        if self.model.invert(&self.markable_shown()) {
            let marked = counted(self.model.plan().len(), "tensor");
            self.say(format!("inverted: {marked} marked"));
        }
        self.plan_changed();
    }

    pub(super) fn step_history(
        &mut self,
        done: &str,
        nothing: &str,
        step: fn(&mut crate::app::model::Model) -> bool,
    ) {
        let before = self.model.plan().clone();
        let changed = step(&mut self.model);
        let (past, future) = self.model.undo_depth();
        let what = difference(&before, self.model.plan());
        if changed {
            self.say(format!("{done}: {what}; {past} to undo, {future} to redo"))
        } else {
            self.say(nothing)
        }
        self.plan_changed();
    }

    pub(super) fn open_presets(&mut self) {
        if !self.model.has_floats() {
            return self.say("there is no float tensor to mark");
        }
        let presets = MarkPreset::ALL.into_iter().map(Some).chain([None]);
        let choices = presets
            .map(|preset| {
                let mut tensors = preset.map_or(Vec::new(), |preset| {
                    preset.select(&self.model.checkpoint, self.model.rules())
                });
                tensors.retain(|&id| self.may_mark(id));
                let bytes = tensors.iter().map(|&id| self.model.checkpoint.tensor(id).bytes).sum();
                PresetChoice { preset, tensors, bytes }
            })
            .collect();
        self.overlay = Some(Overlay::Presets(Presets { choices, chosen: 0 }));
    }

    pub(super) fn accept_preset(&mut self, replace: bool) {
        let Some(Overlay::Presets(presets)) = self.overlay.take() else { return };
        let Some(choice) = presets.choices.get(presets.chosen) else { return };
        if replace {
            self.model.mark_only(&choice.tensors)
        } else {
            self.model.mark(&choice.tensors)
        };
        let marked = counted(self.model.plan().len(), "tensor");
        self.say(format!("{}: {marked} marked", choice.name()));
        self.plan_changed();
    }
}

/// Describes the difference between two plans.
fn difference(before: &Plan, after: &Plan) -> String {
    let kinds =
        before.differing(after).map(|id| match (before.is_marked(id), after.is_marked(id)) {
            (false, true) => (1, 0, 0),
            (true, false) => (0, 1, 0),
            _ => (0, 0, 1),
        });
    let sum =
        |a: (usize, usize, usize), b: (usize, usize, usize)| (a.0 + b.0, a.1 + b.1, a.2 + b.2);
    let (marked, unmarked, changed) = kinds.reduce(|| (0, 0, 0), sum);
    let mut parts: Vec<String> = [(marked, "marked"), (unmarked, "unmarked")]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, verb)| format!("{} {verb}", counted(n, "tensor")))
        .collect();
    if changed > 0 {
        parts.push(format!("{} changed", counted(changed, "mark")));
    }
    if before.target != after.target {
        parts.push(format!("target {}", after.target));
    }
    if parts.is_empty() { "no mark changed".to_owned() } else { parts.join(", ") }
}
