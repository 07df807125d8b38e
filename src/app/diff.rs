//! This checkpoint beside another: what was added, removed and changed, and by how much.

use super::figures::{count, decibels, value};
use super::meter::Meter;
use super::names;
use super::prompt::Prompt;
use super::table::Motion;
use crate::job::diff::{Change, Compared};

#[derive(Debug)]
pub struct DiffView {
    /// To come back to when it fails.
    pub prompt: Prompt,
    pub state: DiffState,
}

#[derive(Debug)]
pub enum DiffState {
    Comparing(Meter),
    Done(Differences),
}

/// The outcome, the greatest difference first.
#[derive(Debug)]
pub struct Differences {
    pub rows: Vec<Compared>,
    pub counts: Counts,
    /// Columns of the longest name.
    pub widest: usize,
    cursor: usize,
    top: usize,
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
        Differences { rows, counts, widest, cursor: 0, top: 0 }
    }

    pub fn cursor(&self) -> usize {
        self.cursor
    }

    pub fn top(&self) -> usize {
        self.top
    }

    pub fn current(&self) -> Option<&Compared> {
        self.rows.get(self.cursor)
    }

    /// One line for each, as it is copied.
    pub fn plain(&self) -> String {
        let line = |row: &Compared| format!("{}: {}", row.name, describe(&row.change));
        self.rows.iter().map(|row| names::visible(&line(row)).into_owned() + "\n").collect()
    }

    pub fn move_cursor(&mut self, motion: Motion, height: usize) {
        let height = height.max(1);
        let (page, half) = (height.saturating_sub(1).max(1), (height / 2).max(1));
        let last = self.rows.len().saturating_sub(1);
        self.cursor = match motion {
            Motion::Up => self.cursor.saturating_sub(1),
            Motion::Down => self.cursor + 1,
            Motion::HalfUp => self.cursor.saturating_sub(half),
            Motion::HalfDown => self.cursor + half,
            Motion::PageUp => self.cursor.saturating_sub(page),
            Motion::PageDown => self.cursor + page,
            Motion::First => 0,
            Motion::Last => last,
        }
        .min(last);
        self.keep_in_view(height);
    }

    /// Puts the cursor on a row; true when it was there already.
    pub fn move_to(&mut self, row: usize) -> bool {
        let row = row.min(self.rows.len().saturating_sub(1));
        std::mem::replace(&mut self.cursor, row) == row
    }

    pub fn keep_in_view(&mut self, height: usize) {
        let height = height.max(1);
        self.top = self.top.min(self.rows.len().saturating_sub(height));
        self.top = self.top.clamp((self.cursor + 1).saturating_sub(height), self.cursor);
    }
}

/// What is there on one side only comes first, then the worst SQNR; what is equal last.
fn rank(change: &Change) -> f64 {
    match change {
        Change::Added { .. } | Change::Removed { .. } | Change::Reshaped { .. } => {
            f64::NEG_INFINITY
        }
        Change::Common { identical: true, .. } => f64::NAN,
        change => change.sqnr_db().filter(|db| !db.is_nan()).unwrap_or(f64::INFINITY),
    }
}

/// A difference in a few words.
pub(crate) fn describe(change: &Change) -> String {
    match change {
        Change::Added { dtype, shape } => format!("only there: {dtype} {shape}"),
        Change::Removed { dtype, shape } => format!("only here: {dtype} {shape}"),
        Change::Reshaped { from, to } => format!("another shape: {from} → {to}"),
        Change::Common { identical: true, .. } => "identical".to_owned(),
        Change::Common { from, to, difference, .. } => {
            let kind = match from == to {
                true => from.to_string(),
                false => format!("{from} → {to}"),
            };
            match difference {
                None => format!("{kind}, other bytes"),
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
