//! Rounding for a layer's recorded inputs X.
//!
//! With error compensation, as in GPTQ (Frantar et al., 2022), the error that rounding a column
//! causes in a layer's outputs is compensated by the columns that are not rounded yet. A search
//! for clips needs the second moments of each group of columns.
//!
//! [`Compensation`] holds what compensation requires: the triangular factor U of
//! (XᵀX + λ)⁻¹ = UᵀU. `presets/compensated.rs` rounds with it, and measures the output error by it;
//! `presets/clip_search.rs` chooses clips. Everything here runs on
//! the calling thread, or on those that the caller's [`Parts`] uses; the order of all sums is
//! fixed, so results depend neither on the threads nor on the processor.

mod factor;
mod product;
mod second_moments;

pub(crate) use factor::Compensation;
pub(crate) use product::{Product, add_product};
pub(crate) use second_moments::{GroupMoments, SecondMoments};

/// How a tensor is rounded for its layer's recorded inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct InputRounding {
    /// The error of a column is compensated by the columns after it.
    pub compensates: bool,
    /// Each group has the clip with the least output error.
    pub searches_clips: bool,
}

/// What rounding for a layer's recorded inputs requires of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecordedInputs {
    /// Gives the output error, and compensates errors.
    pub compensation: Compensation,
    /// Whether errors are compensated.
    pub compensates: bool,
    /// The moments of each group of columns, if clips are searched.
    pub groups: Option<GroupMoments>,
}
