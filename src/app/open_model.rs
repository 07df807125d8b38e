//! The dialog that opens another model: a path, and models to choose from.

use crate::app::picker::ModelChoice;
use std::path::PathBuf;
use tui_input::Input;

/// The dialog that opens another model.
#[derive(Debug, Default)]
pub struct OpenModel {
    /// The typed path.
    pub input: Input,
    /// Every known model: recently opened ones first, then those that were found.
    pub known: Vec<ModelChoice>,
    /// The index of the row under the cursor among those that match; `None` selects the typed path.
    pub chosen: Option<usize>,
    /// Why the model did not open.
    pub problem: Option<String>,
    /// Whether models are still being searched for.
    pub searching: bool,
}

impl OpenModel {
    /// The known models whose names contain every typed word.
    pub fn choices(&self) -> Vec<&ModelChoice> {
        let typed = self.input.value().to_lowercase();
        let fits = |choice: &&ModelChoice| {
            let name = format!("{} {}", choice.name, choice.path.display()).to_lowercase();
            typed.split_whitespace().all(|word| name.contains(word))
        };
        self.known.iter().filter(fits).collect()
    }

    /// Moves the cursor: from the typed path into the list and back.
    pub fn step(&mut self, down: bool) {
        let count = self.choices().len();
        self.chosen = match (self.chosen, down) {
            (None, true) => (count > 0).then_some(0),
            (Some(at), true) => Some((at + 1).min(count.saturating_sub(1))),
            (Some(0) | None, false) => None,
            (Some(at), false) => Some(at - 1),
        };
    }

    /// The path that Enter opens: the chosen model, the only one that matches, or the typed path.
    /// `None` if nothing is typed or chosen.
    pub fn path(&self) -> Option<PathBuf> {
        let typed = self.input.value().trim();
        let choices = self.choices();
        match (self.chosen, choices.as_slice()) {
            (Some(at), choices) => choices.get(at).map(|choice| choice.path.clone()),
            (None, _) if typed.is_empty() => None,
            (None, [only]) if !self.searching => Some(only.path.clone()),
            (None, _) => Some(PathBuf::from(typed)),
        }
    }
}
