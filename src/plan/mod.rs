//! Plans: which tensors get which scheme, for which loaders, and the resulting size.
//!
//! Pure data over a checkpoint's index: reads no tensor and writes no file. Imported by
//! `report`, `export`, `job`, `cli` and `app`, and must not import them.

pub(crate) mod budget;
mod budget_goal;
mod choices;
mod defaults;
mod eligibility;
pub mod experts;
pub mod gguf_baseline;
pub mod gguf_mix;
mod gguf_mix_names;
mod history;
mod inputs;
mod mark_preset;
mod marks;
pub mod recipe;
mod rounding_by_inputs;
pub mod rules;
mod schemes;
mod selection;
pub mod target;

pub use budget_goal::{BudgetGoal, Decibels};
pub use defaults::{default_calibration, default_scheme, effective_quantizer};
pub use eligibility::{Obstacle, obstacle, quantizable};
pub use history::History;
pub use inputs::{InputQuantization, observed_input_scales};
pub use mark_preset::MarkPreset;
pub use marks::{Plan, Totals};
pub use recipe::RecipeError;
pub use rounding_by_inputs::RoundingByInputs;
pub use schemes::{IMPORTANCE_SCHEMES, PRESET_SCHEMES};
pub use selection::{Selection, SelectionError};

pub(crate) use schemes::{composition, dividing_block};
