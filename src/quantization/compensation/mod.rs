//! Rounding with error compensation, as in GPTQ (Frantar et al., 2022): the error that rounding a
//! column causes in a layer's outputs is compensated by the columns that are not rounded yet.
//!
//! [`Compensation`] holds what this requires of the layer's recorded inputs X: the triangular
//! factor U of (XᵀX + λ)⁻¹ = UᵀU. `presets/compensated.rs` rounds with it. Everything here runs on
//! the calling thread, or on those that the caller's [`Parts`] uses; the order of all sums is
//! fixed, so results depend neither on the threads nor on the processor.

mod factor;
mod product;
mod second_moments;

pub(crate) use factor::Compensation;
pub(crate) use product::{Product, add_product};
pub(crate) use second_moments::SecondMoments;
