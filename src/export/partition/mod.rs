//! Outputs that several machines make together: which worker writes which tensors, and the
//! fragment that each worker leaves for `join`.
//!
//! Shares follow from the headers alone, so workers need not talk to each other. `job` runs the
//! workers and the join.

pub(crate) mod fragment;
pub(crate) mod identity;
mod number;
pub(crate) mod shares;

pub use number::{Partition, PartitionError};
