//! Outputs made by several machines: the tensors that each worker writes, and the fragment that it
//! leaves for `join`.
//!
//! Shares are derived from the headers only, so workers need not communicate. `job` runs the
//! workers and the join.

pub(crate) mod bucket_output;
mod disk_bytes;
pub(crate) mod fragment;
pub(crate) mod identity;
mod number;
pub(crate) mod shares;
mod survey;

pub use number::{Partition, PartitionError};
pub use survey::{ShareProgress, ShareState, Survey};
