//! The files beside the weights: config, tokenizer, whatever the model's directory holds.

use crate::checkpoint::config::{NESTED, QUANTIZATION_FILES, QUANTIZATION_KEYS};
use crate::checkpoint::{Checkpoint, python_json};
use crate::export::error::SaveError;
use crate::export::output_plan::{OutputPlan, SidecarFile, TextFile};
use crate::export::request::{Request, Task};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Adds every file of the model's directory but its weights and their index. Links are
/// followed as far as they stay inside, as a Hugging Face snapshot is made of them; the
/// copies are plain files.
pub(super) fn collect(
    checkpoint: &Checkpoint,
    request: &Request,
    output_plan: &mut OutputPlan,
) -> Result<(), SaveError> {
    let Some(root) = checkpoint.directory() else { return Ok(()) };
    let mut skipped: HashSet<PathBuf> = HashSet::new();
    skipped.extend(checkpoint.shards().iter().map(|s| s.source.path().to_owned()));
    skipped.extend(checkpoint.index().map(|index| index.path.clone()));
    skipped.extend(output_plan.files.iter().map(|file| root.join(&file.name)));
    skipped.extend(output_plan.texts.iter().map(|text| root.join(&text.name)));
    if matches!(request.task, Task::Dequantize { .. }) {
        skipped.extend(QUANTIZATION_FILES.map(|(name, _)| root.join(name)));
    }
    let within = reach(root).map_err(|e| SaveError::Io { path: root.to_owned(), source: e })?;
    // An output inside the model's directory must not swallow itself.
    let out = std::path::absolute(&request.out).unwrap_or_else(|_| request.out.clone());
    let mut pending = vec![PathBuf::new()];
    let mut visited = HashSet::new();
    while let Some(relative) = pending.pop() {
        let directory = root.join(&relative);
        let fail = |source| SaveError::Io { path: directory.clone(), source };
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
            let Ok(real) = source.canonicalize() else {
                let shown = source.display();
                output_plan.warnings.push(format!("{shown} leads nowhere and is not copied"));
                continue;
            };
            if !real.starts_with(&within) {
                let (shown, real) = (source.display(), real.display());
                output_plan.warnings.push(format!(
                    "{shown} leads out of the model's directory, to {real}, and is not copied"
                ));
                continue;
            }
            let fail = |e| SaveError::Io { path: source.clone(), source: e };
            let metadata = std::fs::metadata(&real).map_err(fail)?;
            if metadata.is_dir() {
                pending.push(relative);
            } else if metadata.is_file() {
                output_plan.sidecar_files.push(SidecarFile {
                    name: relative,
                    bytes: metadata.len(),
                    source,
                });
            } else {
                let shown = source.display();
                output_plan
                    .warnings
                    .push(format!("{shown} is not a regular file and is not copied"));
            }
        }
    }
    output_plan.sidecar_files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// The directory that what goes along must lie in: the model's own, or, for a snapshot of a
/// Hugging Face cache, the model's whole part of the cache, into which its links lead.
fn reach(root: &Path) -> std::io::Result<PathBuf> {
    let real = root.canonicalize()?;
    let hub = real.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    let is_model = |path: &&Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"))
    };
    Ok(hub.filter(is_model).map_or(real.clone(), Path::to_owned))
}

/// The config without what it says of quantization; `None` if it says nothing of it.
pub(super) fn plain_config(checkpoint: &Checkpoint) -> Result<Option<TextFile>, SaveError> {
    let Some(config) = checkpoint.model_config()? else { return Ok(None) };
    let mut json = config.json().clone();
    // `shift_remove` keeps the order of the rest.
    let mut said = QUANTIZATION_KEYS.iter().filter_map(|&key| json.shift_remove(key)).count();
    if let Some(Value::Object(nested)) = json.get_mut(NESTED) {
        said += QUANTIZATION_KEYS.iter().filter_map(|&key| nested.shift_remove(key)).count();
    }
    let text = pretty(&json);
    Ok((said > 0).then(|| TextFile { name: "config.json".into(), text }))
}

/// A config as it is written.
pub(super) fn pretty(json: &Map<String, Value>) -> String {
    // Strings and numbers always serialize.
    python_json::from_json(serde_json::to_string_pretty(json).unwrap_or_default()) + "\n"
}

fn is_temporary(path: &Path) -> bool {
    path.to_string_lossy().ends_with(crate::export::atomic_output::SUFFIX)
}
