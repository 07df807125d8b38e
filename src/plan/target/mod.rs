//! The loaders that are to open the output, and what they can and cannot take.
//!
//! [`Target`] is what the user chose; [`TargetRules`] applies it to one checkpoint: which
//! tensors are offered and why not, which tensors form a fusion unit, and whether a plan
//! loads. What is known of each loader is one row of the table in `facts`. Imports
//! `checkpoint`, `tensor` and the plan itself; must not know how a format is written.

mod architecture;
mod container;
mod eligibility;
mod facts;
mod known_architectures;
mod linear_names;
mod loader;
mod roles;
mod rules;
mod selected;
mod selection;
mod units;

pub use architecture::Architecture;
pub use container::{Container, LinearScheme};
pub use eligibility::{Eligibility, Reason};
pub use facts::{Condition, Consequence, FACTS, Fact};
pub use loader::Loader;
pub use rules::{Review, TargetRules};
pub use selection::{Target, TargetError};
pub use units::{FusionUnit, FusionUnits, UnitKind};
