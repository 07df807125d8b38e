//! Names of files and what is in directories.

use std::collections::BTreeSet;
use std::path::Path;

/// Whether the name of `path` ends in `.extension`, in upper or lower case.
pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// The names in a directory, in order; empty if it cannot be read.
pub(crate) fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
