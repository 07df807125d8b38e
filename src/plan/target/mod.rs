//! What the user chose to open the output with: loaders, and the format they open.
//!
//! Knows no checkpoint and no plan; `plan/rules` applies a target to both.

mod container;
mod loader;
mod selection;

pub use container::{Container, LinearScheme};
pub use loader::Loader;
pub use selection::{Target, TargetError};
