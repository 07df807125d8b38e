//! The list of schemes: the schemes of the target, the error and size of each, and the marks that
//! choosing one changes.

use crate::app::model::Model;
use crate::app::tensor_metrics::{Cost, scheme_name};
use crate::quantization::QuantizationScheme;
use crate::tensor::TensorId;
use crate::text::figures::counted;
use rayon::prelude::*;

/// The marks that choosing a scheme changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tensors of the row. Unmarked ones become marked.
    Row,
    /// The marked tensors among those shown.
    MarkedAndShown,
    /// Every mark, the scheme of the table, and new marks.
    All,
}

impl Scope {
    const ALL: [Scope; 3] = [Scope::Row, Scope::MarkedAndShown, Scope::All];
}

/// The error and size of a group of tensors under a scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchemeFigures {
    /// The mean SQNR of the measured tensors in dB.
    pub mean: Option<f64>,
    /// Size in bytes, including scales.
    pub bytes: u64,
    /// The number of tensors that cannot have the scheme. They are not included in the figures.
    pub refused: usize,
}

impl SchemeFigures {
    fn of(model: &Model, tensors: &[TensorId], scheme: QuantizationScheme) -> SchemeFigures {
        let mut figures = SchemeFigures::default();
        let (mut sum, mut measured, mut exact) = (0.0, 0, 0);
        for &id in tensors {
            if model.scheme_obstacle(id, scheme).is_some() {
                figures.refused += 1;
                continue;
            }
            figures.bytes = figures.bytes.saturating_add(model.bytes(id, scheme));
            match model.cost(id, scheme) {
                // An infinite SQNR would make the mean infinite.
                Some(Cost::Error { error, .. }) if error.sqnr_db.is_finite() => {
                    sum += error.sqnr_db;
                    measured += 1;
                }
                Some(Cost::Error { .. }) => exact += 1,
                _ => {}
            }
        }
        figures.mean = match (measured, exact) {
            (0, 0) => None,
            (0, _) => Some(f64::INFINITY),
            (n, _) => Some(sum / f64::from(n)),
        };
        figures
    }
}

/// A scheme, and its figures for the row, the marked tensors and all shown tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemeChoice {
    /// The scheme.
    pub scheme: QuantizationScheme,
    /// Its figures for the row.
    pub row: SchemeFigures,
    /// Its figures for the marked tensors.
    pub marked: SchemeFigures,
    /// Its figures for the tensors shown.
    pub shown: SchemeFigures,
}

/// The tensors of the row that the list was opened on.
#[derive(Clone, Debug, PartialEq)]
pub struct RowTensors {
    /// Describes the row: `this tensor`, `this module`.
    pub name: String,
    /// The tensors of the row.
    pub tensors: Vec<TensorId>,
    /// Why none of the tensors can be quantized; `None` if some can.
    pub refusal: Option<String>,
}

/// The list of schemes.
#[derive(Debug)]
pub struct SchemeList {
    /// The schemes.
    pub choices: Vec<SchemeChoice>,
    /// The scheme under the cursor.
    pub chosen: usize,
    /// The tensors that get the chosen scheme.
    pub scope: Scope,
    /// The row for which the list was opened.
    pub row: RowTensors,
    /// The marked tensors.
    pub marked: Vec<TensorId>,
    /// The tensors shown that can be quantized.
    pub shown: Vec<TensorId>,
}

impl SchemeList {
    /// The list with the cursor on the scheme that the scope has now.
    pub fn new(model: &Model, row: RowTensors, shown: Vec<TensorId>, scope: Scope) -> SchemeList {
        let marked = model.plan().iter().map(|(id, _)| id).collect();
        let mut list = SchemeList { choices: Vec::new(), chosen: 0, scope, row, marked, shown };
        list.measure(model);
        let now = match (scope, list.row.tensors.first()) {
            (Scope::Row, Some(&id)) => model.scheme_of(id),
            _ => model.scheme(),
        };
        let at = list.choices.iter().position(|choice| choice.scheme == now);
        list.chosen = at.unwrap_or(0);
        list
    }

    /// Computes the figures from what is measured now.
    pub fn measure(&mut self, model: &Model) {
        let choice = |&scheme: &QuantizationScheme| {
            let of = |tensors| SchemeFigures::of(model, tensors, scheme);
            let (marked, (row, shown)) = rayon::join(
                || of(&self.marked),
                || rayon::join(|| of(&self.row.tensors), || of(&self.shown)),
            );
            SchemeChoice { scheme, row, marked, shown }
        };
        self.choices = model.schemes().par_iter().map(choice).collect();
    }

    /// The scheme under the cursor.
    pub fn current(&self) -> Option<&SchemeChoice> {
        self.choices.get(self.chosen)
    }

    /// Describes what Enter does, with the name of its key, or why it does nothing. The flag is
    /// false if it does nothing.
    pub fn text(&self, model: &Model, key: &str) -> (String, bool) {
        let obstacle = self.current().and_then(|choice| {
            let mut tensors = self.row.tensors.iter();
            tensors.find_map(|&id| model.scheme_obstacle(id, choice.scheme))
        });
        match (self.scope, obstacle) {
            (Scope::Row, Some(why)) => (format!("not for this row: {why}"), false),
            _ => (format!("{key} {}", self.describe(model)), true),
        }
    }

    /// The marked tensors among those shown.
    pub fn marked_and_shown(&self, model: &Model) -> Vec<TensorId> {
        self.shown.iter().copied().filter(|&id| model.is_marked(id)).collect()
    }

    /// Chooses the next or the previous scope.
    pub fn step_scope(&mut self, forward: bool) {
        let at = Scope::ALL.iter().position(|&scope| scope == self.scope).unwrap_or(0);
        let step = if forward { 1 } else { Scope::ALL.len() - 1 };
        self.scope =
            Scope::ALL.into_iter().nth((at + step) % Scope::ALL.len()).unwrap_or(Scope::Row);
    }

    /// Describes the effect of Enter in a sentence.
    pub fn describe(&self, model: &Model) -> String {
        let Some(choice) = self.current() else { return String::new() };
        let scheme = scheme_name(choice.scheme);
        match self.scope {
            Scope::Row => {
                let row = &self.row;
                let marked = row.tensors.iter().filter(|&&id| model.is_marked(id)).count();
                match (&row.refusal, row.tensors.len() - marked) {
                    (Some(why), _) => why.clone(),
                    (None, 0) => format!("makes {} {scheme}", row.name),
                    (None, _) => format!("marks {} as {scheme}", row.name),
                }
            }
            Scope::MarkedAndShown => match self.marked_and_shown(model).len() {
                0 => "no tensor is marked and shown".to_owned(),
                n => format!("makes {} among the tensors shown {scheme}", counted(n, "mark")),
            },
            Scope::All => match self.marked.len() {
                0 => format!("shows the table in {scheme}; new marks get it"),
                1 => format!("makes the mark {scheme}, and the table"),
                n => format!("makes all {} {scheme}, and the table", counted(n, "mark")),
            },
        }
    }
}
