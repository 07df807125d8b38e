//! Whether a saved model will load: what is missing, contradictory or beyond a loader, found
//! from headers and `config.json`.
//!
//! One file for each idea. What loaders can take comes from the tables of `plan/rules`; which
//! files are copies of the weights from `weight_copies`. Reads no tensor data.

mod config_groups;
mod finding;
mod loader_limits;
mod missing_parts;
mod report;
mod saved_format;
mod stale_copies;
mod unexpected;

pub use finding::{Finding, Severity};
pub use report::LoadCheck;
