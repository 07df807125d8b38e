//! Names of files and what is in directories.

use crate::checkpoint::io::files;
use std::collections::BTreeSet;
use std::path::Path;

/// Whether the name of `path` ends in `.extension`, in upper or lower case.
pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// The names in a directory, in order; empty if it cannot be read.
pub(crate) fn names_in(directory: &Path) -> BTreeSet<String> {
    files::names(directory).map(|names| names.into_keys().collect()).unwrap_or_default()
}
