//! File names and directory listings.

use crate::checkpoint::io::files;
use std::collections::BTreeSet;
use std::path::Path;

/// Returns whether the name of `path` ends in `.extension`, ignoring case.
pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// Returns the sorted names in a directory; empty if it cannot be read.
pub(crate) fn names_in(directory: &Path) -> BTreeSet<String> {
    files::names(directory).map(|names| names.into_keys().collect()).unwrap_or_default()
}
