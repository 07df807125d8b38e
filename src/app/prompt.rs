//! A line of text that is asked for, and what it is for.

use crate::tensor::TensorId;
use tui_input::Input;

/// What the text is taken as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A place in a tensor.
    Index(TensorId),
    WriteRecipe,
    ReadRecipe,
    WriteReport,
    /// The path of a checkpoint to compare with.
    Diff,
    /// The path of captures.
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

    /// What is to be typed and what then happens.
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
    /// Why the text did not do.
    pub problem: Option<String>,
    /// The file is there already and the person has been told.
    pub replace: bool,
}

impl Prompt {
    pub fn new(purpose: Purpose, text: impl Into<String>) -> Prompt {
        Prompt { purpose, input: Input::new(text.into()), problem: None, replace: false }
    }

    pub fn text(&self) -> &str {
        self.input.value().trim()
    }

    /// Another text is another question.
    pub fn edited(&mut self) {
        self.problem = None;
        self.replace = false;
    }
}
