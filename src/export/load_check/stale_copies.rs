//! Finds files with other copies of the weights.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::io::files;
use crate::checkpoint::io::remote_path::is_remote;
use crate::export::load_check::finding::Finding;
use crate::export::weight_copies::WeightCopies;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Maximum number of searched directories.
const MAX_DIRECTORIES: usize = 1000;

/// Returns a finding for each copy. Returns none for a model that is a single file.
pub(super) fn find(checkpoint: &Checkpoint) -> Vec<Finding> {
    let Some(root) = checkpoint.opened_directory() else {
        return Vec::new();
    };
    let mut own: BTreeSet<PathBuf> =
        checkpoint.shards().iter().map(|shard| shard.source.path().to_owned()).collect();
    own.extend(checkpoint.index().map(|index| index.path.clone()));
    let copies = WeightCopies::new(checkpoint);
    let mut found: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files_below(root) {
        let Ok(relative) = file.strip_prefix(root) else { continue };
        if !own.contains(&file) {
            found.extend(copies.find(relative, &file));
        }
    }
    let finding = |copy: &PathBuf| {
        let mut shown = copy.to_string_lossy().escape_debug().to_string();
        if files::is_directory(&root.join(copy)) {
            shown.push('/');
        }
        Finding::warns(format!(
            "{shown} may be another copy of the weights, which some loaders read instead; remove it"
        ))
    };
    found.iter().map(finding).collect()
}

/// Lists the files in a directory and its subdirectories, without following links to directories.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    let mut visited = 0;
    while let Some(directory) = pending.pop() {
        visited += 1;
        if visited > MAX_DIRECTORIES {
            break;
        }
        if is_remote(&directory) {
            for (name, is_directory) in files::names(&directory).unwrap_or_default() {
                let below = if is_directory == Some(true) { &mut pending } else { &mut found };
                below.push(directory.join(name));
            }
            continue;
        }
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found
}
