//! Why a job failed.

use super::Stopped;
use crate::checkpoint::ReadError;
use crate::export::{KeptOutput, SaveError};
use crate::path_error::PathError;

/// Why a job ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The checkpoint could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The output could not be planned, written or verified.
    #[error("{0}")]
    Save(#[from] SaveError),
    /// A job that does not write was stopped.
    #[error("{0}")]
    Stopped(#[from] Stopped),
    /// A save was stopped; OUT is unchanged.
    #[error("{0}; nothing was written")]
    SaveStopped(Stopped),
    /// A save failed or was stopped. OUT is unchanged, and the finished pieces are kept.
    #[error("{error}; {kept}")]
    Unfinished {
        /// Why the save ended.
        error: Box<JobError>,
        /// The unfinished output that the next save resumes.
        kept: KeptOutput,
    },
}

impl From<PathError> for JobError {
    fn from(error: PathError) -> Self {
        JobError::Save(error.into())
    }
}

impl JobError {
    /// Whether the pieces finished before this error can be correct.
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
