//! Checks from headers and `config.json` whether a saved model will load: what is missing,
//! contradictory, or not supported by a loader.
//!
//! One file per check. The limits of loaders come from the tables in `plan/rules`, the list of
//! files that are copies of the weights from `weight_copies`. Reads no tensor data.

mod config_groups;
mod file_names;
mod finding;
mod loader_limits;
mod missing_parts;
mod report;
mod saved_format;
mod stale_copies;
mod unexpected;

pub use finding::{Finding, Severity};
pub use report::LoadCheck;
