//! Handles the list of schemes and the Schemes tab.

use crate::app::action::Action;
use crate::app::overlay::Overlay;
use crate::app::scheme_list::{RowTensors, SchemeList, Scope};
use crate::app::state::App;
use crate::app::tensor_metrics::{Measurement, scheme_name};
use crate::app::tree::TreeItem;
use crate::plan::rules::Eligibility;
use crate::quantization::QuantizationScheme;
use crate::tensor::TensorId;
use crate::text::figures::counted;

impl App {
    /// Opens the list for the row under the cursor, or for the whole table.
    pub(super) fn open_schemes(&mut self, scope: Scope) {
        if !self.model.has_floats() {
            return self.say("there is no float tensor to quantize");
        }
        if self.model.schemes().is_empty() {
            let target = self.key_of(Action::Target);
            return self.say(format!("the target has no scheme to choose; {target} changes it"));
        }
        let Some(row) = self.row_tensors() else { return };
        // A format with one scheme for all marks cannot hold a single mark of another.
        let one = self.model.plan().target.container().has_one_scheme();
        let scope = if one && !self.model.plan().is_empty() { Scope::All } else { scope };
        let list = SchemeList::new(&self.model, row, self.markable_shown(), scope);
        self.overlay = Some(Overlay::Schemes(list));
    }

    /// The tensors that a scheme for the current row changes.
    fn row_tensors(&self) -> Option<RowTensors> {
        let row = self.table.current()?;
        match row.item {
            _ if self.table.range().is_some() => {
                Some(self.group(self.table.chosen_tensors(), "of the range"))
            }
            TreeItem::Tensor(id) => Some(self.tensor_row(id)),
            TreeItem::Module(_) => {
                Some(self.group(self.table.tensors_of(row.item), "of this module"))
            }
        }
    }

    /// The marked tensors among several, or all that can be marked if none is.
    fn group(&self, all: Vec<TensorId>, place: &str) -> RowTensors {
        let (marked, others): (Vec<TensorId>, Vec<TensorId>) =
            all.into_iter().partition(|&id| self.model.is_marked(id));
        let tensors = if marked.is_empty() {
            others.into_iter().filter(|&id| self.may_mark(id)).collect()
        } else {
            marked
        };
        let refusal = tensors.is_empty().then(|| format!("no tensor {place} is quantizable"));
        let name = format!("the {} {place}", counted(tensors.len(), "tensor"));
        RowTensors { name, tensors, refusal }
    }

    fn tensor_row(&self, id: TensorId) -> RowTensors {
        let refusal = match (self.model.eligibility(id), self.model.measurement(id)) {
            (Eligibility::Never(why), _) => Some(self.refusal_to_mark(why)),
            (_, Measurement::Unreadable(why)) => Some(format!("cannot be quantized: {why}")),
            _ => None,
        };
        let tensors = if refusal.is_none() { self.model.loaded_with(id) } else { Vec::new() };
        let name = match tensors.len() {
            0 | 1 => "this tensor".to_owned(),
            n => format!("this tensor and {} loaded with it", n - 1),
        };
        RowTensors { name, tensors, refusal }
    }

    /// Enter in the list. It stays open where nothing can be changed.
    pub(super) fn take_scheme(&mut self, list: SchemeList) {
        let Some(choice) = list.current() else { return };
        let scheme = choice.scheme;
        match list.scope {
            Scope::Row => match &list.row.refusal {
                None => {
                    self.table.end_range();
                    self.set_scheme_of(&list.row.tensors, scheme);
                }
                Some(why) => {
                    self.warn(why.clone());
                    self.overlay = Some(Overlay::Schemes(list));
                }
            },
            Scope::MarkedAndShown => match list.marked_and_shown(&self.model) {
                tensors if tensors.is_empty() => {
                    self.warn(list.describe(&self.model));
                    self.overlay = Some(Overlay::Schemes(list));
                }
                tensors => self.set_scheme_of(&tensors, scheme),
            },
            Scope::All => {
                self.model.choose_scheme(scheme);
                if !list.marked.is_empty() {
                    self.set_scheme_of(&list.marked, scheme);
                } else {
                    self.say(format!(
                        "scheme of the table and of new marks: {}",
                        scheme_name(scheme)
                    ));
                }
                self.update_ranking();
            }
        }
    }

    /// Sets the scheme of tensors as one undo step, and marks those that are not marked.
    fn set_scheme_of(&mut self, tensors: &[TensorId], scheme: QuantizationScheme) {
        let refused = |&id: &TensorId| Some((id, self.model.scheme_obstacle(id, scheme)?));
        let first = tensors.iter().find_map(refused);
        let fitting: Vec<TensorId> = tensors
            .iter()
            .copied()
            .filter(|&id| self.model.scheme_obstacle(id, scheme).is_none())
            .collect();
        let name = scheme_name(scheme);
        if fitting.is_empty() {
            let why = first.map_or(String::new(), |(_, why)| format!(": {why}"));
            return self.warn(format!("not {name}{why}"));
        }
        self.model.mark_as(&fitting, scheme);
        let marked = counted(fitting.len(), "mark");
        let undo = self.key_of(Action::Undo);
        match (first, tensors.len() - fitting.len()) {
            (Some((id, why)), n) if n > 0 => {
                let left = self.model.checkpoint.tensor(id).name.to_string();
                self.warn(format!("{marked} now {name}; {n} left as before, {left}: {why}"));
            }
            _ => self.say(format!("{marked} now {name}; {undo} undoes it")),
        }
        self.plan_changed();
    }

    /// Handles Enter in the Schemes tab: sets the tensor's scheme to the one under the cursor.
    pub(super) fn choose_scheme_of_tab(&mut self) {
        let Some(id) = self.current_tensor() else { return };
        if self.model.checkpoint.packed_format(id).is_some() {
            return self.say("stored quantized: there is no scheme to choose");
        }
        let Some(scheme) = self.scheme_in_tab(id) else { return };
        if !self.model.schemes().contains(&scheme) {
            let target = self.model.plan().target.container();
            return self.warn(format!("{target} does not hold {}", scheme_name(scheme)));
        }
        let row = self.tensor_row(id);
        match row.refusal {
            Some(why) => self.warn(why),
            None => self.set_scheme_of(&row.tensors, scheme),
        }
    }

    /// Moves the cursor of the Schemes tab.
    pub(super) fn step_scheme_in_tab(&mut self, rows: isize) {
        let Some(id) = self.current_tensor() else { return };
        let all = self.model.scheme_rows();
        let now = self.scheme_in_tab(id);
        let at = all.iter().position(|&scheme| Some(scheme) == now).unwrap_or(0);
        let to = at.saturating_add_signed(rows).min(all.len().saturating_sub(1));
        if let Some(&scheme) = all.get(to) {
            self.comparison.choose(id, scheme);
        }
    }
}
