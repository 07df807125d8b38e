//! What a target means for one checkpoint: which tensors are offered and why not, which form
//! a fusion unit, and whether a plan loads.
//!
//! What is known of each loader is one row of the table in `facts`. Imports `checkpoint`,
//! `tensor`, `plan/target` and the marks; must not know how a format is written.

mod architecture;
mod comfyui;
mod conversions;
mod eligibility;
mod facts;
mod fit;
mod known_architectures;
mod linear_names;
mod llama_cpp;
mod roles;
#[allow(clippy::module_inception, reason = "the file holds the type of that name")]
mod rules;
mod selected;
mod units;

pub use architecture::Architecture;
pub use eligibility::{Eligibility, Reason};
pub use facts::{Condition, Consequence, FACTS, Fact};
pub use fit::FittedPlan;
pub(crate) use llama_cpp::kept_part;
pub use rules::{Review, TargetRules};
pub use units::{FusionUnit, FusionUnits, UnitKind};

pub(crate) use roles::experts_of;
