//! Plans the copies of config, tokenizer, code, and all other files in the model's directory that
//! are not weights.

use crate::checkpoint::config::{QUANTIZATION_FILES, QUANTIZATION_KEYS, float_type};
use crate::checkpoint::io::files::{self, PathTarget};
use crate::checkpoint::io::remote_path::is_remote;
use crate::checkpoint::{Checkpoint, python_json};
use crate::export::error::SaveError;
use crate::export::output_plan::{OutputPlan, TextFile};
use crate::export::request::{Request, Task};
use crate::export::sidecar_file::{LeftOutFiles, SidecarFile};
use crate::export::weight_copies::WeightCopies;
use crate::path_error::IoContext;
use crate::tensor::FloatType;
use globset::{Glob, GlobMatcher};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Plans copies of all files in the model's directory except the weights, their index, and other
/// copies of the weights. Links that stay inside the directory are followed, because a Hugging Face
/// snapshot consists of links; the copies are plain files.
pub(super) fn collect(
    checkpoint: &Checkpoint,
    request: &Request,
    output_plan: &mut OutputPlan,
) -> Result<(), SaveError> {
    let Some(root) = checkpoint.directory() else { return Ok(()) };
    let unfit = |e: globset::Error| SaveError::Unfit {
        path: request.out.clone(),
        why: format!("--copy: {e}"),
    };
    let matchers = request.copy.iter().map(|pattern| Ok(Glob::new(pattern)?.compile_matcher()));
    let copy = matchers.collect::<Result<Vec<_>, _>>().map_err(unfit)?;
    let mut found = Sidecars {
        root,
        boundary: if is_remote(root) { None } else { Some(boundary(root).context(root)?) },
        replaced: replaced(checkpoint, root, request, output_plan),
        // An output inside the model's directory must not include itself.
        out: std::path::absolute(&request.out).unwrap_or_else(|_| request.out.clone()),
        used: vec![false; copy.len()],
        copy,
        copies: WeightCopies::new(checkpoint),
        files: Vec::new(),
        left_out: LeftOutFiles::default(),
        warnings: Vec::new(),
    };
    found.walk()?;
    let Sidecars { mut files, left_out, warnings, used, .. } = found;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    output_plan.sidecar_files = files;
    output_plan.warnings.extend(warnings);
    output_plan.warnings.extend(left_out.warning());
    let unused = request.copy.iter().zip(used).filter(|(_, used)| !used);
    output_plan
        .warnings
        .extend(unused.map(|(pattern, _)| format!("--copy {pattern} matches no file")));
    output_plan.left_out = left_out;
    Ok(())
}

/// Returns the source's files that the output replaces or drops.
fn replaced(
    checkpoint: &Checkpoint,
    root: &Path,
    request: &Request,
    output_plan: &OutputPlan,
) -> HashSet<PathBuf> {
    let mut replaced: HashSet<PathBuf> = HashSet::new();
    replaced.extend(checkpoint.shards().iter().map(|s| s.source.path().to_owned()));
    replaced.extend(checkpoint.index().map(|index| index.path.clone()));
    replaced.extend(output_plan.files.iter().map(|file| root.join(&file.name)));
    replaced.extend(output_plan.texts.iter().map(|text| root.join(&text.name)));
    if matches!(request.task, Task::Dequantize { .. }) {
        replaced.extend(QUANTIZATION_FILES.map(|(name, _)| root.join(name)));
    }
    replaced
}

/// A walk through the model's directory.
struct Sidecars<'c> {
    root: &'c Path,
    /// The directory that links must not leave; `None` on a server, which has no links.
    boundary: Option<PathBuf>,
    replaced: HashSet<PathBuf>,
    out: PathBuf,
    /// Files that the user wants to copy in any case.
    copy: Vec<GlobMatcher>,
    /// Which of these patterns match a file.
    used: Vec<bool>,
    copies: WeightCopies<'c>,
    files: Vec<SidecarFile>,
    left_out: LeftOutFiles,
    warnings: Vec<String>,
}

impl Sidecars<'_> {
    fn walk(&mut self) -> Result<(), SaveError> {
        let mut pending = vec![PathBuf::new()];
        let mut visited = HashSet::new();
        while let Some(relative) = pending.pop() {
            let directory = self.root.join(&relative);
            if self.boundary.is_some()
                && !visited.insert(directory.canonicalize().context(&directory)?)
            {
                continue;
            }
            for name in self.names(&directory)? {
                pending.extend(self.add(relative.join(&name))?);
            }
        }
        Ok(())
    }

    /// Returns the sorted names in a directory.
    fn names(&self, directory: &Path) -> Result<Vec<OsString>, SaveError> {
        if self.boundary.is_none() {
            let names = files::names(directory).context(directory)?;
            return Ok(names.into_keys().map(OsString::from).collect());
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).context(directory)? {
            names.push(entry.context(directory)?.file_name());
        }
        names.sort();
        Ok(names)
    }

    /// Adds a file to the copied or left out files. Returns a directory to descend into.
    fn add(&mut self, relative: PathBuf) -> Result<Option<PathBuf>, SaveError> {
        let source = self.root.join(&relative);
        let is_output = std::path::absolute(&source).is_ok_and(|path| path == self.out);
        if self.replaced.contains(&source) || is_output || is_temporary(&source) {
            return Ok(None);
        }
        let Some(boundary) = &self.boundary else {
            return match files::find(&source).context(&source)? {
                PathTarget::Directory(_) => Ok(Some(relative)),
                PathTarget::Local(_, metadata) => {
                    Ok(self.add_file(relative, source, metadata.len()))
                }
                PathTarget::Remote(file) => Ok(self.add_file(relative, source, file.size())),
            };
        };
        let shown = source.display();
        let Ok(real) = source.canonicalize() else {
            self.warnings.push(format!("{shown} leads nowhere and is not copied"));
            return Ok(None);
        };
        if !real.starts_with(boundary) {
            let real = real.display();
            self.warnings.push(format!(
                "{shown} leads out of the model's directory, to {real}, and is not copied"
            ));
            return Ok(None);
        }
        let metadata = std::fs::metadata(&real).context(&source)?;
        if metadata.is_dir() {
            return Ok(Some(relative));
        }
        if !metadata.is_file() {
            self.warnings.push(format!("{shown} is not a regular file and is not copied"));
            return Ok(None);
        }
        Ok(self.add_file(relative, source, metadata.len()))
    }

    fn add_file(&mut self, relative: PathBuf, source: PathBuf, bytes: u64) -> Option<PathBuf> {
        let is_wanted = self.wants(&relative);
        let copy_of_weights = if is_wanted { None } else { self.copies.find(&relative, &source) };
        let file = SidecarFile { name: relative, bytes, source };
        match copy_of_weights {
            Some(named) => self.left_out.add(file, named),
            None => self.files.push(file),
        }
        None
    }

    /// Returns whether the user wants to copy a file in any case.
    fn wants(&mut self, relative: &Path) -> bool {
        let mut is_wanted = false;
        for (matcher, used) in self.copy.iter().zip(&mut self.used) {
            if matcher.is_match(relative) {
                *used = true;
                is_wanted = true;
            }
        }
        is_wanted
    }
}

/// Returns the directory that must contain copied files: the model's own. In a Hugging Face cache,
/// the links of a snapshot lead to another folder of the same repository, so there it is the
/// repository's folder.
fn boundary(root: &Path) -> std::io::Result<PathBuf> {
    let real = root.canonicalize()?;
    let hub = real.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    let is_model = |path: &&Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"))
    };
    Ok(hub.filter(is_model).map_or(real.clone(), Path::to_owned))
}

/// Returns the config of a dequantized model: without quantization settings, and with the type of
/// its stored weights, if it is the same for all. `None` if nothing changes.
pub(super) fn plain_config(
    checkpoint: &Checkpoint,
    dtype: Option<FloatType>,
) -> Result<Option<TextFile>, SaveError> {
    let Some(config) = checkpoint.model_config()? else { return Ok(None) };
    let mut json = config.json().clone();
    let mut changes = remove_quantization(&mut json);
    if let Some((dtype, before)) = dtype.zip(config.dtype()) {
        changes += replace_dtype(&mut json, before, dtype);
        // Parts of a model with another type keep it.
        let parts = json.values_mut().filter_map(Value::as_object_mut);
        changes += parts.map(|part| replace_dtype(part, before, dtype)).sum::<usize>();
    }
    Ok((changes > 0).then(|| TextFile { name: "config.json".into(), text: pretty(&json) }))
}

/// Removes the quantization settings from a config and the parts in it. Returns the number of
/// removed settings.
fn remove_quantization(json: &mut Map<String, Value>) -> usize {
    // `shift_remove` keeps the order of the rest.
    let removed = QUANTIZATION_KEYS.iter().filter_map(|&key| json.shift_remove(key)).count();
    let parts = json.values_mut().filter_map(Value::as_object_mut);
    removed + parts.map(remove_quantization).sum::<usize>()
}

/// Replaces the type of the weights where it is `before`. Returns the number of replacements.
fn replace_dtype(json: &mut Map<String, Value>, before: FloatType, dtype: FloatType) -> usize {
    if before == dtype {
        return 0;
    }
    let name = match dtype {
        FloatType::F16 => "float16",
        FloatType::BF16 => "bfloat16",
        FloatType::F32 => "float32",
        FloatType::F64 => "float64",
    };
    let mut changes = 0;
    for key in ["dtype", "torch_dtype"] {
        if let Some(Value::String(present)) = json.get_mut(key)
            && float_type(present) == Some(before)
        {
            *present = name.to_owned();
            changes += 1;
        }
    }
    changes
}

/// Formats a config for writing.
pub(super) fn pretty(json: &Map<String, Value>) -> String {
    // Serializing strings and numbers cannot fail.
    python_json::from_json(serde_json::to_string_pretty(json).unwrap_or_default()) + "\n"
}

fn is_temporary(path: &Path) -> bool {
    path.to_string_lossy().ends_with(crate::export::output_path::SUFFIX)
}
