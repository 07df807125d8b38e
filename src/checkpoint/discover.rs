//! From the path a person gives to the files that make up the checkpoint.

use super::error::{CheckpointError, Problem, Result};
use foldhash::HashMap;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The files of one checkpoint.
#[derive(Debug)]
pub struct Files {
    /// Shards in the order of their names; one for a single file.
    pub shards: Vec<PathBuf>,
    pub index: Option<Index>,
    /// The directory that is the model, with its config and tokenizer; `None` for a file
    /// that stands alone.
    pub directory: Option<PathBuf>,
}

/// A `*.index.json`: which shard holds which tensor.
#[derive(Debug)]
pub struct Index {
    pub path: PathBuf,
    /// Tensor name to shard file name.
    pub weight_map: HashMap<String, String>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

const INDEX_LIMIT: u64 = 1 << 30;

/// Finds the checkpoint at `path`: a file, an index, or a directory with one of them.
pub fn discover(path: &Path) -> Result<Files> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => CheckpointError::new(path, Problem::NotFound),
        _ => CheckpointError::new(path, e),
    })?;
    if metadata.is_dir() {
        return directory(path);
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if has_extension(path, "json") {
        return indexed(path, parent);
    }
    let is_model = parent.join("config.json").is_file();
    Ok(Files {
        shards: vec![path.to_owned()],
        index: None,
        directory: is_model.then(|| parent.to_owned()),
    })
}

/// Whether a directory holds a checkpoint.
pub fn has_model(path: &Path) -> bool {
    match directory(path) {
        Ok(_) => true,
        Err(e) => matches!(e.problem, Problem::Ambiguous(_)),
    }
}

fn directory(path: &Path) -> Result<Files> {
    if let Some(snapshot) = hub_snapshot(path) {
        return directory(&snapshot);
    }
    let fail = |e| CheckpointError::new(path, Problem::Io(e));
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    let ending = |suffix: &str| {
        let found: Vec<String> = names.iter().filter(|n| n.ends_with(suffix)).cloned().collect();
        found
    };
    let one = |found: Vec<String>, favourite: &str| match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(path.join(only))),
        _ if names.contains(favourite) => Ok(Some(path.join(favourite))),
        _ => Err(CheckpointError::new(path, Problem::Ambiguous(found))),
    };
    // The first kind that is there: safetensors are what a model with several is read from.
    for (suffix, favourite) in KINDS {
        let Some(found) = one(ending(suffix), favourite)? else { continue };
        if has_extension(&found, "json") {
            return indexed(&found, path);
        }
        return Ok(Files { shards: vec![found], index: None, directory: Some(path.to_owned()) });
    }
    Err(CheckpointError::new(path, Problem::EmptyDirectory))
}

/// What ends the names of checkpoints in a directory, and which is meant among several.
const KINDS: [(&str, &str); 9] = [
    (".safetensors.index.json", "model.safetensors.index.json"),
    (".safetensors", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin"),
    (".gguf", "model.gguf"),
    (".bpk", "model.bpk"),
    (".pt", "model.pt"),
    (".pth", "model.pth"),
    (".npz", "model.npz"),
];

/// The snapshot that `refs/main` names in a Hugging Face cache folder `models--org--name`.
fn hub_snapshot(path: &Path) -> Option<PathBuf> {
    let snapshots = path.join("snapshots");
    let revision = super::config::text(&path.join("refs/main")).and_then(|text| text.ok());
    match revision {
        Some(revision) => {
            let name = Path::new(revision.trim());
            let plain = name.components().all(|c| matches!(c, Component::Normal(_)));
            Some(snapshots.join(name)).filter(|s| plain && s.is_dir())
        }
        None => None,
    }
}

fn indexed(path: &Path, parent: &Path) -> Result<Files> {
    #[derive(Deserialize)]
    struct Json {
        weight_map: HashMap<String, String>,
        #[serde(default)]
        metadata: serde_json::Map<String, serde_json::Value>,
    }
    let bad = |why: String| CheckpointError::new(path, Problem::Index(why));
    let length = std::fs::metadata(path).map_err(|e| CheckpointError::new(path, e))?.len();
    if length > INDEX_LIMIT {
        return Err(bad(format!("it has {length} bytes, more than the limit of {INDEX_LIMIT}")));
    }
    let bytes = std::fs::read(path).map_err(|e| CheckpointError::new(path, e))?;
    let json: Json = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let names: BTreeSet<&String> = json.weight_map.values().collect();
    if names.is_empty() {
        return Err(bad("its weight_map is empty".into()));
    }
    let mut shards = Vec::with_capacity(names.len());
    for name in names {
        let mut components = Path::new(name).components();
        let inside = components.all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || name.is_empty() {
            return Err(CheckpointError::new(path, Problem::ShardPath(name.clone())));
        }
        shards.push(parent.join(name));
    }
    let index =
        Index { path: path.to_owned(), weight_map: json.weight_map, metadata: json.metadata };
    Ok(Files { shards, index: Some(index), directory: Some(parent.to_owned()) })
}

pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}
