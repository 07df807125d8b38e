//! Errors of saving. After any of them OUT is unchanged.

use crate::checkpoint::ReadError;
use crate::path_error::PathError;
use crate::quantization::NotQuantizable;
use std::io;
use std::path::{Path, PathBuf};

/// Why an output could not be planned, written or verified.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum SaveError {
    /// The source, or the output when it was reopened, could not be read.
    #[error("{0}")]
    Source(#[from] ReadError),
    /// A tensor has no finite scale.
    #[error("{}, tensor '{}': {why}", path.display(), tensor.escape_debug())]
    NotQuantizable { path: PathBuf, tensor: String, why: NotQuantizable },
    /// OUT exists and must not be replaced.
    #[error("{} exists already; choose another path, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// OUT is a file of the source, or a directory that contains one.
    #[error("{}: is the checkpoint itself; the source is never written, choose another path", .0.display())]
    IsSource(PathBuf),
    /// The directory of OUT does not exist.
    #[error("{}: its directory {} does not exist; create it first", out.display(), parent.display())]
    NoParent { out: PathBuf, parent: PathBuf },
    /// The file system of OUT has too little free space.
    #[error("{}: {free} bytes are free there, {needed} are needed", out.display())]
    NoSpace { out: PathBuf, needed: u64, free: u64 },
    /// The operating system reported an error for a path.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The request is invalid.
    #[error("{}: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
    /// A tensor of the output differs from the plan.
    #[error("{}, tensor '{}': the output differs from the plan: {why}", path.display(), tensor.escape_debug())]
    TensorDiffers { path: PathBuf, tensor: String, why: String },
    /// A file of the output differs from the plan.
    #[error("{}: the output differs from the plan: {why}", path.display())]
    FileDiffers { path: PathBuf, why: String },
}

impl SaveError {
    /// Replaces the path `from`, or a path inside it, by the same path at `to`.
    pub fn renamed(self, from: &Path, to: &Path) -> SaveError {
        let renamed = |path: PathBuf| match path.strip_prefix(from) {
            Ok(inside) if inside.as_os_str().is_empty() => to.to_owned(),
            Ok(inside) => to.join(inside),
            Err(_) => path,
        };
        match self {
            SaveError::TensorDiffers { path, tensor, why } => {
                SaveError::TensorDiffers { path: renamed(path), tensor, why }
            }
            SaveError::FileDiffers { path, why } => {
                SaveError::FileDiffers { path: renamed(path), why }
            }
            other => other,
        }
    }
}

impl From<PathError> for SaveError {
    fn from(PathError { path, source }: PathError) -> Self {
        SaveError::Io { path, source }
    }
}
