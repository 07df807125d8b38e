//! The loaders that are to open the output, and the format that is written for them.
//!
//! Knows no checkpoint and no plan; `plan/rules` applies a target to both.

mod container;
mod loader;
mod selection;

pub(crate) use container::comfyui_marker;
pub use container::{Container, LinearScheme};
pub use loader::Loader;
pub use selection::{Target, TargetError};
