//! A prompt for one line of text.

use crate::tensor::TensorId;
use std::path::PathBuf;
use tui_input::Input;

/// The purpose of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The index of an element.
    Index(TensorId),
    /// The path of a recipe to write.
    WriteRecipe,
    /// The path of a recipe to read.
    ReadRecipe,
    /// The path of a report to write.
    WriteReport,
    /// The path of a checkpoint to compare with.
    Diff,
    /// The path of captured activations.
    Activations,
}

impl Purpose {
    /// The title of the window.
    pub fn title(self) -> &'static str {
        match self {
            Purpose::Index(_) => "Go to an element",
            Purpose::WriteRecipe => "Write the plan as a recipe",
            Purpose::ReadRecipe => "Read a recipe",
            Purpose::WriteReport => "Export the tensors shown",
            Purpose::Diff => "Compare with another checkpoint",
            Purpose::Activations => "Open recorded activations",
        }
    }

    /// Whether the text is a path.
    pub fn is_path(self) -> bool {
        !matches!(self, Purpose::Index(_))
    }

    /// Explains what to type and what it does.
    pub fn explanation(self) -> &'static str {
        match self {
            Purpose::Index(_) => "Its index, or one index per axis: 3, 17.",
            Purpose::WriteRecipe => {
                "A TOML file. Read it here again, or give it to `quantscope quantize --recipe` for the same bytes."
            }
            Purpose::ReadRecipe => "Replaces the current marks; one undo brings them back.",
            Purpose::WriteReport => "A path that ends in .html (a page with plots), .csv or .json.",
            Purpose::Diff => {
                "A file or directory of any format. Errors are measured against this model."
            }
            Purpose::Activations => {
                "A file from assets/record_activations.py or an imatrix of llama.cpp; demo: for the demo's."
            }
        }
    }
}

/// A prompt for a line of text.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What the text is for.
    pub purpose: Purpose,
    /// The typed text.
    pub input: Input,
    /// Why the text was not accepted.
    pub problem: Option<String>,
    /// The file exists and the user was asked once already.
    pub replace: bool,
    /// The directory that has to be created first.
    pub missing: Option<PathBuf>,
}

impl Prompt {
    /// Opens a prompt with a text to edit.
    pub fn new(purpose: Purpose, text: impl Into<String>) -> Prompt {
        let input = Input::new(text.into());
        Prompt { purpose, input, problem: None, replace: false, missing: None }
    }

    /// The typed text.
    pub fn text(&self) -> &str {
        self.input.value().trim()
    }

    /// Forgets the problem and the question, which were about the previous text.
    pub fn edited(&mut self) {
        self.problem = None;
        self.replace = false;
        self.missing = None;
    }
}
