//! A prompt for one line of text.

use crate::tensor::TensorId;
use tui_input::Input;

/// What the text is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The index of an element.
    Index(TensorId),
    WriteRecipe,
    ReadRecipe,
    WriteReport,
    /// The path of a checkpoint to compare with.
    Diff,
    /// The path of captured activations.
    Activations,
}

impl Purpose {
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

    /// Explains what to type and what it does.
    pub fn explanation(self) -> &'static str {
        match self {
            Purpose::Index(_) => "Its index, or its place along every axis: 3, 17.",
            Purpose::WriteRecipe => {
                "A TOML file that can be read here again, and that `quantscope quantize --recipe` replays to the same bytes."
            }
            Purpose::ReadRecipe => {
                "Its marks take the place of those there are, as one step that can be undone."
            }
            Purpose::WriteReport => {
                "A path that ends in .html (a page with the plots, for any browser), .csv or .json."
            }
            Purpose::Diff => {
                "A file or directory of any format. This model is the measure; the other is judged by it."
            }
            Purpose::Activations => {
                "What assets/record_activations.py records, or an imatrix of llama.cpp; demo: for the demo's."
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Prompt {
    pub purpose: Purpose,
    pub input: Input,
    /// Why the text was not accepted.
    pub problem: Option<String>,
    /// The file exists and the user was asked once already.
    pub replace: bool,
}

impl Prompt {
    pub fn new(purpose: Purpose, text: impl Into<String>) -> Prompt {
        Prompt { purpose, input: Input::new(text.into()), problem: None, replace: false }
    }

    pub fn text(&self) -> &str {
        self.input.value().trim()
    }

    /// Forgets the problem and the question, which were about the previous text.
    pub fn edited(&mut self) {
        self.problem = None;
        self.replace = false;
    }
}
