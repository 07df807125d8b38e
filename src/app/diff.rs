//! Comparison with another checkpoint: which tensors were added, removed and changed, and by how
//! much.

use crate::app::meter::Meter;
use crate::app::prompt::Prompt;
use crate::app::scroll::{Motion, ScrollList};
use crate::job::diff::{Change, Compared};
use crate::text::figures::{count, decibels, value};
use crate::text::names;

#[derive(Debug)]
pub struct DiffView {
    /// The prompt to return to if the comparison fails.
    pub prompt: Prompt,
    pub state: DiffState,
}

#[derive(Debug)]
pub enum DiffState {
    Comparing(Meter),
    Done(Differences),
}

/// The outcome, largest difference first.
#[derive(Debug)]
pub struct Differences {
    pub rows: Vec<Compared>,
    pub counts: Counts,
    /// Width of the longest name, in columns.
    pub widest: usize,
    list: ScrollList,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub added: usize,
    pub removed: usize,
    pub reshaped: usize,
    pub changed: usize,
    pub identical: usize,
}

impl Differences {
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
        Differences { rows, counts, widest, list }
    }

    pub fn cursor(&self) -> usize {
        self.list.cursor() as usize
    }

    /// The first visible row.
    pub fn top(&self) -> usize {
        self.list.top() as usize
    }

    pub fn current(&self) -> Option<&Compared> {
        self.rows.get(self.cursor())
    }

    /// One line per tensor, for the clipboard.
    pub fn plain(&self) -> String {
        let line = |row: &Compared| format!("{}: {}", row.name, describe(&row.change));
        self.rows.iter().map(|row| names::visible(&line(row)).into_owned() + "\n").collect()
    }

    pub fn move_cursor(&mut self, motion: Motion) {
        self.list.move_cursor(motion);
    }

    /// Puts the cursor on a row; true if it was there already.
    pub fn move_to(&mut self, row: usize) -> bool {
        let before = self.cursor();
        self.list.go_to(row as u64);
        self.cursor() == before
    }

    pub fn set_height(&mut self, height: usize) {
        self.list.set_height(height);
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
            let kind = match from == to {
                true => from.to_string(),
                false => format!("{from} → {to}"),
            };
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
