//! Comparison with another checkpoint: which tensors were added, removed and changed, and by how
//! much.

use crate::app::filter::{Filter, Metric, Property, Subject, TensorSubject, Vocabulary, begins};
use crate::app::filter_input::FilterInput;
use crate::app::meter::Meter;
use crate::app::model::Model;
use crate::app::prompt::Prompt;
use crate::app::scroll::{Motion, ScrollList};
use crate::job::diff::{Change, Compared};
use crate::text::figures::{count, decibels, value};
use crate::text::names;
use rayon::prelude::*;

/// The comparison with another checkpoint.
#[derive(Debug)]
pub struct DiffView {
    /// The prompt to return to if the comparison fails.
    pub prompt: Prompt,
    /// How far it is.
    pub state: DiffState,
    /// The filter while it is typed.
    pub typing: Option<FilterInput>,
}

impl DiffView {
    /// Opens a comparison.
    pub fn new(prompt: Prompt, state: DiffState) -> DiffView {
        DiffView { prompt, state, typing: None }
    }

    /// Begins to type a filter, with the present one.
    pub(crate) fn type_filter(&mut self) {
        if let DiffState::Done(differences) = &self.state {
            self.typing = Some(FilterInput::new(&differences.filter_text));
        }
    }

    /// Applies the filter that is typed, if it is valid.
    pub(crate) fn filter(&mut self, model: &Model) {
        let DiffState::Done(differences) = &mut self.state else { return };
        let Some(typing) = &mut self.typing else { return };
        if let Some(filter) = typing.parse(&Vocabulary::DIFFERENCES) {
            let text = typing.text().to_owned();
            differences.set_filter(filter, text, model);
        }
    }

    /// Ends the typing and the filter. False if there was neither.
    pub(crate) fn show_all(&mut self) -> bool {
        let typed = self.typing.take().is_some();
        let filtered = match &mut self.state {
            DiffState::Done(differences) => differences.show_all(),
            DiffState::Comparing(_) => false,
        };
        typed || filtered
    }
}

/// How far a comparison is.
#[derive(Debug)]
pub enum DiffState {
    /// It is running.
    Comparing(Meter),
    /// It has ended.
    Done(Differences),
}

/// The outcome, largest difference first.
#[derive(Debug)]
pub struct Differences {
    /// All tensors, largest difference first.
    pub rows: Vec<Compared>,
    /// Indices of the rows that pass the filter, in order.
    pub shown: Vec<usize>,
    /// The filter as typed.
    pub filter_text: String,
    /// How many tensors there are of each kind.
    pub counts: Counts,
    /// Width of the longest name, in columns.
    pub widest: usize,
    list: ScrollList,
}

/// Number of tensors by kind of difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Only in the other checkpoint.
    pub added: usize,
    /// Only in this checkpoint.
    pub removed: usize,
    /// With another shape.
    pub reshaped: usize,
    /// With other values.
    pub changed: usize,
    /// With the same values.
    pub identical: usize,
}

impl Differences {
    /// Sorts and counts the differences.
    pub fn new(mut rows: Vec<Compared>) -> Differences {
        rows.sort_by(|a, b| rank(&a.change).total_cmp(&rank(&b.change)));
        let mut counts = Counts::default();
        for row in &rows {
            *match row.change {
                Change::Added { .. } => &mut counts.added,
                Change::Removed { .. } => &mut counts.removed,
                Change::Reshaped { .. } => &mut counts.reshaped,
                Change::Common { identical: true, .. } => &mut counts.identical,
                Change::Common { .. } => &mut counts.changed,
            } += 1;
        }
        let widest = rows.iter().map(|row| names::width(&row.name)).max().unwrap_or(0);
        let list = ScrollList::new(rows.len() as u64);
        let shown = (0..rows.len()).collect();
        Differences { rows, shown, filter_text: String::new(), counts, widest, list }
    }

    fn set_filter(&mut self, mut filter: Filter, text: String, model: &Model) {
        let names = self.rows.par_iter().map(|row| row.name.as_str());
        filter.resolve(&Filter::everything(), names);
        let mut matcher = filter.matcher();
        let matches = |at: &usize| match self.rows.get(*at) {
            Some(row) => matcher.matches(&Difference { row, model }),
            None => false,
        };
        self.shown = (0..self.rows.len()).filter(matches).collect();
        self.filter_text = text;
        self.list.set_len(self.shown.len() as u64);
        self.list.go_to(0);
    }

    /// Ends the filter. False if there was none.
    fn show_all(&mut self) -> bool {
        let before = self.current_index();
        self.shown = (0..self.rows.len()).collect();
        self.list.set_len(self.shown.len() as u64);
        self.list.go_to(before.unwrap_or(0) as u64);
        !std::mem::take(&mut self.filter_text).is_empty()
    }

    /// The row under the cursor among all rows.
    fn current_index(&self) -> Option<usize> {
        self.shown.get(self.cursor()).copied()
    }

    /// Index of the row under the cursor.
    pub fn cursor(&self) -> usize {
        self.list.cursor() as usize
    }

    /// The first visible row.
    pub fn top(&self) -> usize {
        self.list.top() as usize
    }

    /// The row under the cursor.
    pub fn current(&self) -> Option<&Compared> {
        self.rows.get(self.current_index()?)
    }

    /// One line per tensor that is shown, for the clipboard.
    pub fn plain(&self) -> String {
        let line = |row: &Compared| format!("{}: {}", row.name, describe(&row.change));
        let rows = self.shown.iter().filter_map(|&at| self.rows.get(at));
        rows.map(|row| names::visible(&line(row)).into_owned() + "\n").collect()
    }

    /// Moves the cursor.
    pub fn move_cursor(&mut self, motion: Motion) {
        self.list.move_cursor(motion);
    }

    /// Puts the cursor on a row; true if it was there already.
    pub fn move_to(&mut self, row: usize) -> bool {
        let before = self.cursor();
        self.list.go_to(row as u64);
        self.cursor() == before
    }

    /// Sets the number of visible rows.
    pub fn set_height(&mut self, height: usize) {
        self.list.set_height(height);
    }
}

/// A row of a comparison, for filters. Conditions that are not about the difference test this
/// model's tensor.
struct Difference<'d> {
    row: &'d Compared,
    model: &'d Model,
}

impl Difference<'_> {
    fn here(&self) -> Option<TensorSubject<'_>> {
        let id = self.model.checkpoint.find(&self.row.name)?;
        Some(TensorSubject { model: self.model, id })
    }
}

impl Subject for Difference<'_> {
    fn name(&self) -> &str {
        &self.row.name
    }

    fn metric(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Sqnr => self.row.change.sqnr_db(),
            _ => self.here()?.metric(metric),
        }
    }

    fn is(&self, property: Property) -> bool {
        match (&self.row.change, property) {
            (Change::Common { identical, .. }, Property::Changed) => !identical,
            (Change::Common { identical, .. }, Property::Identical) => *identical,
            (Change::Added { .. }, Property::Added) => true,
            (Change::Removed { .. }, Property::Removed) => true,
            (Change::Reshaped { .. }, Property::Reshaped) => true,
            _ => false,
        }
    }

    fn dtype_begins(&self, wanted: &str) -> bool {
        match &self.row.change {
            Change::Common { from, to, .. } => {
                begins(from.name(), wanted) || begins(to.name(), wanted)
            }
            Change::Added { dtype, .. } | Change::Removed { dtype, .. } => {
                begins(dtype.name(), wanted)
            }
            Change::Reshaped { .. } => {
                self.here().is_some_and(|tensor| tensor.dtype_begins(wanted))
            }
        }
    }
}

/// The sort key: tensors on one side only, then the worst SQNR, identical tensors last.
fn rank(change: &Change) -> f64 {
    match change {
        Change::Added { .. } | Change::Removed { .. } | Change::Reshaped { .. } => {
            f64::NEG_INFINITY
        }
        Change::Common { identical: true, .. } => f64::NAN,
        change => change.sqnr_db().filter(|db| !db.is_nan()).unwrap_or(f64::INFINITY),
    }
}

/// Describes a difference in a few words.
pub(crate) fn describe(change: &Change) -> String {
    match change {
        Change::Added { dtype, shape } => format!("only in the other: {dtype} {shape}"),
        Change::Removed { dtype, shape } => format!("only in this one: {dtype} {shape}"),
        Change::Reshaped { from, to } => format!("shape changed: {from} → {to}"),
        Change::Common { identical: true, .. } => "identical".to_owned(),
        Change::Common { from, to, difference, .. } => {
            let kind = if from == to { from.to_string() } else { format!("{from} → {to}") };
            match difference {
                None => format!("{kind}, bytes differ"),
                Some(d) if d.differing == 0 => format!("{kind}, equal values"),
                Some(d) => {
                    let error = d.sums.statistics();
                    let (db, largest) = (decibels(error.sqnr_db), value(error.max_abs_error));
                    format!("{kind}, {db}, {} differ by up to {largest}", count(d.differing))
                }
            }
        }
    }
}
