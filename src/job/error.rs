//! Why a job failed.

use super::Stopped;
use crate::checkpoint::CheckpointError;
use crate::export::{KeptOutput, SaveError};

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
    /// A save failed or was stopped; OUT is unchanged, and what was finished is kept.
    #[error("{error}; {kept}")]
    Unfinished {
        /// What ended it.
        error: Box<JobError>,
        /// What the next save goes on from.
        kept: KeptOutput,
    },
}

impl JobError {
    /// Whether what a save has finished before this error can be right.
    pub(super) fn leaves_sound_output(&self) -> bool {
        !matches!(
            self,
            JobError::Save(
                SaveError::TensorDiffers { .. }
                    | SaveError::FileDiffers { .. }
                    | SaveError::NotQuantizable { .. }
                    | SaveError::Unfit { .. }
            )
        )
    }
}
