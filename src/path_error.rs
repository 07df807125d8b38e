//! I/O errors with the path that they concern.

use std::io;
use std::path::{Path, PathBuf};

/// An I/O error with the path of the file or directory. The error type of each layer is made
/// from it, so that `?` converts it.
#[derive(Debug)]
pub(crate) struct PathError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Adds a path to an I/O error.
pub(crate) trait IoContext<T> {
    /// Replaces the I/O error by a [`PathError`] with `path`.
    fn context(self, path: impl AsRef<Path>) -> Result<T, PathError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, path: impl AsRef<Path>) -> Result<T, PathError> {
        self.map_err(|source| PathError { path: path.as_ref().to_owned(), source })
    }
}
