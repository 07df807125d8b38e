//! The files beside the weights: config, tokenizer, whatever the model's directory holds.

use super::blueprint::{Blueprint, Companion};
use super::error::ExportError;
use super::request::Request;
use crate::checkpoint::Checkpoint;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Adds every file of the model's directory but its weights and their index. Links are
/// followed, as a Hugging Face snapshot is made of them; the copies are plain files.
pub fn collect(
    checkpoint: &Checkpoint,
    request: &Request,
    blueprint: &mut Blueprint,
) -> Result<(), ExportError> {
    let Some(root) = checkpoint.directory() else { return Ok(()) };
    let mut skipped: HashSet<PathBuf> = HashSet::new();
    skipped.extend(checkpoint.shards().iter().map(|s| s.source.path().to_owned()));
    skipped.extend(checkpoint.index().map(|index| index.path.clone()));
    skipped.extend(blueprint.files.iter().map(|file| root.join(&file.name)));
    // An output inside the model's directory must not swallow itself.
    let out = std::path::absolute(&request.out).unwrap_or_else(|_| request.out.clone());
    let mut pending = vec![PathBuf::new()];
    let mut visited = HashSet::new();
    while let Some(relative) = pending.pop() {
        let directory = root.join(&relative);
        let fail = |source| ExportError::Write { path: directory.clone(), source };
        if !visited.insert(directory.canonicalize().map_err(fail)?) {
            continue;
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(fail)? {
            names.push(entry.map_err(fail)?.file_name());
        }
        names.sort();
        for name in names {
            let relative = relative.join(&name);
            let source = root.join(&relative);
            let is_output = std::path::absolute(&source).is_ok_and(|path| path == out);
            if skipped.contains(&source) || is_output || is_temporary(&source) {
                continue;
            }
            let fail = |e| ExportError::Write { path: source.clone(), source: e };
            let metadata = std::fs::metadata(&source).map_err(fail)?;
            if metadata.is_dir() {
                pending.push(relative);
            } else if metadata.is_file() {
                blueprint.companions.push(Companion {
                    name: relative,
                    bytes: metadata.len(),
                    source,
                });
            } else {
                let shown = source.display();
                blueprint.warnings.push(format!("{shown} is not a regular file and is not copied"));
            }
        }
    }
    blueprint.companions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

fn is_temporary(path: &Path) -> bool {
    path.to_string_lossy().ends_with(super::staging::SUFFIX)
}
