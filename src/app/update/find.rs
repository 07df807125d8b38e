//! Sorts, filters, searches, and moves to a tensor by name.

use crate::app::action::Action;
use crate::app::filter::{Filter, TensorSubject, Vocabulary, complete};
use crate::app::filter_input::FilterInput;
use crate::app::overlay::{Columns, FilterPrompt, GoTo, Overlay};
use crate::app::settings::DEFAULT_COLUMNS;
use crate::app::state::App;
use crate::app::table::{Column, Sort};
use crate::tensor::TensorId;
use crate::text::figures::counted;

impl App {
    /// Orders by a column; reverses the order if the column is the current one.
    pub(super) fn sort_by(&mut self, column: Column) {
        let now = self.table.sort;
        let sort = if now.column == column {
            Sort { descending: !now.descending, ..now }
        } else {
            Sort::by(column)
        };
        self.table.set_sort(sort, &self.model);
        self.say(format!("ordered {}", sort.describe()));
    }

    /// Orders by the next or the previous column that exists.
    pub(super) fn sort_by_neighbour(&mut self, forward: bool) {
        let mut columns = Column::ALL.to_vec();
        columns.retain(|&column| column != Column::Output || self.model.outputs.is_some());
        // Scheme columns come next to the SQNR, as in the table.
        let at = columns.iter().position(|&column| column == Column::Values);
        let shown = self.settings.columns.iter().copied().filter(|column| column.is_of_schemes());
        let at = at.unwrap_or(columns.len());
        columns.splice(at..at, shown);
        let at = columns.iter().position(|&column| column == self.table.sort.column).unwrap_or(0);
        let step = if forward { 1 } else { columns.len() - 1 };
        self.sort_by(columns[(at + step) % columns.len()]);
    }

    /// Opens the list of columns.
    pub(super) fn open_columns(&mut self) {
        let mut choices: Vec<Column> =
            DEFAULT_COLUMNS.into_iter().chain(Column::of_schemes(self.model.schemes())).collect();
        let own = self.settings.columns.iter().filter(|column| !choices.contains(column));
        let own: Vec<Column> = own.copied().collect();
        choices.extend(own);
        self.overlay = Some(Overlay::Columns(Columns { choices, chosen: 0 }));
    }

    /// Shows or hides the selected column.
    pub(super) fn toggle_column(&mut self) {
        let Some(Overlay::Columns(columns)) = &self.overlay else { return };
        let Some(&column) = columns.choices.get(columns.chosen) else { return };
        self.own_columns = true;
        let shown = &mut self.settings.columns;
        match shown.iter().position(|&other| other == column) {
            Some(place) => drop(shown.remove(place)),
            None => shown.push(column),
        }
    }

    /// Shows the selected column and orders by it.
    pub(super) fn order_by_chosen(&mut self, columns: &Columns) {
        let Some(&column) = columns.choices.get(columns.chosen) else { return };
        if !self.settings.columns.contains(&column) {
            self.own_columns = true;
            self.settings.columns.push(column);
        }
        self.sort_by(column);
    }

    pub(super) fn open_filter(&mut self) {
        let before = self.filter_text.clone();
        let filter = FilterInput::new(&before);
        self.overlay = Some(Overlay::Filter(FilterPrompt { filter, before }));
    }

    /// Replaces the filter that is typed by an older or a newer one.
    pub(super) fn recall_filter(&mut self, older: bool) {
        let Some(filter) = self.overlay.as_mut().and_then(Overlay::filter_input) else { return };
        if filter.recall(&self.filter_history, older) {
            self.edited()
        } else {
            self.say(if older { "no older filter" } else { "no newer filter" })
        }
    }

    /// Completes the last term of the filter that is typed.
    pub(super) fn complete_filter(&mut self) {
        let vocabulary = match &self.overlay {
            Some(Overlay::Diff(_)) => Vocabulary::DIFFERENCES,
            _ => Vocabulary::TENSORS,
        };
        let Some(filter) = self.overlay.as_mut().and_then(Overlay::filter_input) else { return };
        let tensors = self.model.checkpoint.tensors();
        let names = tensors.iter().map(|tensor| tensor.name.as_str());
        let packed = |id| self.model.checkpoint.packed_format(id);
        let dtypes = tensors.iter().map(|tensor| tensor.dtype.name().to_owned());
        let packed =
            self.model.checkpoint.ids().filter_map(packed).map(|layout| layout.name().to_string());
        let completed = complete(filter.text(), &vocabulary, names, dtypes.chain(packed));
        if completed.text != filter.text() {
            filter.input = completed.text.into();
            filter.edited();
            self.edited();
        }
        self.say_candidates(&completed.candidates, "nothing begins like this");
    }

    /// Adds or removes the condition that shows only tensors that are quantized by default.
    pub(super) fn toggle_quantizable_only(&mut self) {
        const CONDITION: &str = "is:quantizable";
        let mut terms: Vec<&str> = self.filter_text.split_whitespace().collect();
        let before = terms.len();
        terms.retain(|term| *term != CONDITION);
        if terms.len() == before {
            terms.push(CONDITION);
        }
        let text = terms.join(" ");
        let Ok(filter) = Filter::parse(&text) else { return };
        self.filter_text = text;
        self.table.set_filter(filter, &self.model);
        let shown = counted(self.table.shown_count(), "tensor");
        self.say(format!("{shown} shown"));
    }

    pub(super) fn keep_filter(&mut self, prompt: FilterPrompt) {
        if let Some(why) = &prompt.filter.problem {
            let why = why.clone();
            self.overlay = Some(Overlay::Filter(prompt));
            return self.warn(why);
        }
        self.search = self.table.filter.clone();
        self.filter_history.record(&self.filter_text);
        if !self.filter_text.is_empty() {
            let shown = counted(self.table.shown_count(), "tensor");
            let [all, next, previous] =
                [Action::Back, Action::NextMatch, Action::PreviousMatch].map(|a| self.key_of(a));
            self.say(format!(
                "{shown} shown; {all} clears the filter, {next} and {previous} repeat the search"
            ));
        }
    }

    pub(super) fn find(&mut self, forward: bool) {
        if self.search.is_everything() {
            return self.say(format!("no search yet: {} starts one", self.key_of(Action::Filter)));
        }
        let mut matcher = self.search.matcher();
        let model = &self.model;
        let found = self.table.find(forward, |id| matcher.matches(&TensorSubject { model, id }));
        match found {
            Some(place) => self.table.move_to(place),
            None => self.say("no match in the rows shown"),
        }
    }

    pub(super) fn go_to(&mut self, go_to: &GoTo) {
        if let Some(why) = &go_to.problem {
            return self.warn(why.clone());
        }
        let Some(&id) = go_to.names.get(go_to.chosen) else {
            return self.say("no tensor of that name");
        };
        self.show(id);
    }

    /// Puts the cursor on a tensor; clears the filter if it hides the tensor.
    pub(super) fn show(&mut self, id: TensorId) {
        if !self.table.is_shown(id) {
            self.filter_text.clear();
            self.table.set_filter(Filter::everything(), &self.model);
        }
        self.table.go_to(id, &self.model);
    }
}
