//! The size of a directory's files.

use std::fs;
use std::path::Path;

/// Bytes of all files below a directory. `on_disk` counts the blocks that are written, because
/// unfinished files have their full length from the start.
pub(super) fn bytes_below(directory: &Path, on_disk: bool) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path(), on_disk),
        Ok(found) if on_disk => written_bytes(&found),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[cfg(unix)]
fn written_bytes(file: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.len().min(file.blocks().saturating_mul(512))
}

#[cfg(not(unix))]
fn written_bytes(file: &fs::Metadata) -> u64 {
    file.len()
}
