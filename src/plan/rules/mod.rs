//! The rules of a target for one checkpoint: which tensors can be quantized and why others
//! cannot, which tensors form a fusion unit, and whether a plan loads.
//!
//! Each known limit of a loader is one row of the table in `loader_limits`. Imports `checkpoint`,
//! `tensor`, `plan/target` and the marks; must not know how a format is written.

mod architecture;
mod comfyui;
mod conversions;
mod eligibility;
mod fit;
mod known_architectures;
mod linear_names;
mod llama_cpp;
mod loader_limits;
mod roles;
#[allow(clippy::module_inception, reason = "the file holds the type of that name")]
mod rules;
mod selected;
mod units;

pub use architecture::Architecture;
pub use eligibility::{Eligibility, Reason};
pub use fit::FittedPlan;
pub(crate) use llama_cpp::kept_part;
pub use loader_limits::{Condition, Consequence, LOADER_LIMITS, LoaderLimit};
pub use rules::{Review, TargetRules};
pub use units::{FusionUnit, FusionUnits, UnitKind};

pub(crate) use roles::experts_of;
