//! What can go wrong with a save, as sentences; whatever it is, OUT is as it was.

use crate::checkpoint::CheckpointError;
use crate::quantization::NotQuantizable;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("{0}")]
    Source(#[from] CheckpointError),
    #[error("{}, tensor '{}': {why}", path.display(), tensor.escape_debug())]
    NotQuantizable { path: PathBuf, tensor: String, why: NotQuantizable },
    #[error("{} exists already; choose another path, or --force to replace it", .0.display())]
    Exists(PathBuf),
    #[error("{}: is the checkpoint itself; the source is never written, choose another path", .0.display())]
    IsSource(PathBuf),
    #[error("{}: its directory {} does not exist; create it first", out.display(), parent.display())]
    NoParent { out: PathBuf, parent: PathBuf },
    #[error("{}: {free} bytes are free there, {needed} are needed", out.display())]
    NoSpace { out: PathBuf, needed: u64, free: u64 },
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
    #[error("{}, tensor '{}': what was written is not what the plan promised: {why}", path.display(), tensor.escape_debug())]
    Mismatch { path: PathBuf, tensor: String, why: String },
    #[error("{}: what was written is not what the plan promised: {why}", path.display())]
    Differs { path: PathBuf, why: String },
}

impl SaveError {
    /// The same of a file that is to be known by another name.
    pub fn renamed(self, from: &Path, to: &Path) -> SaveError {
        match self {
            SaveError::Mismatch { path, tensor, why } if path == from => {
                SaveError::Mismatch { path: to.to_owned(), tensor, why }
            }
            SaveError::Differs { path, why } => match path.strip_prefix(from) {
                Ok(inside) if inside.as_os_str().is_empty() => {
                    SaveError::Differs { path: to.to_owned(), why }
                }
                Ok(inside) => SaveError::Differs { path: to.join(inside), why },
                Err(_) => SaveError::Differs { path, why },
            },
            other => other,
        }
    }
}
