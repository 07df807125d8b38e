//! Why a job failed.

use super::Stopped;
use crate::checkpoint::CheckpointError;
use crate::export::SaveError;

/// Why a job ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The checkpoint could not be read.
    #[error("{0}")]
    Read(#[from] CheckpointError),
    /// The output could not be planned, written or verified.
    #[error("{0}")]
    Save(#[from] SaveError),
    /// A job that does not write was stopped.
    #[error("{0}")]
    Stopped(#[from] Stopped),
    /// A save was stopped; OUT is unchanged.
    #[error("{0}; nothing was written")]
    SaveStopped(Stopped),
}
