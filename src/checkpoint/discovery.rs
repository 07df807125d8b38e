//! From the path a person gives to the files that make up the checkpoint.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::json_text::Text;
use crate::checkpoint::name_index::ByName;
use crate::tensor::{Name, Names};
use foldhash::HashMap;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The files of one checkpoint.
#[derive(Debug)]
pub(super) struct Files {
    /// Shards in the order of their names; one for a single file.
    pub shards: Vec<PathBuf>,
    pub index: Option<(Index, WeightMap)>,
    /// The directory that is the model, with its config and tokenizer; `None` for a file
    /// that stands alone.
    pub directory: Option<PathBuf>,
}

/// A `*.index.json`.
#[derive(Debug)]
pub struct Index {
    pub path: PathBuf,
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// What an index says: which shard holds which tensor.
#[derive(Debug)]
pub(super) struct WeightMap {
    /// Each tensor once, with the number of its shard.
    pub tensors: Vec<(Name, u32)>,
    places: ByName,
    /// Shards as the index writes them, in the order of their names.
    pub shards: Vec<String>,
}

impl WeightMap {
    /// The place of a tensor in [`WeightMap::tensors`].
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        let name_of = |at: u32| self.tensors.get(at as usize).map_or("", |(name, _)| name);
        self.places.get(name, name_of).map(|at| at as usize)
    }

    /// Numbers the shards by their names. What is said last of a tensor counts.
    fn new(listed: Vec<(Name, u32)>, shards: Vec<Cow<str>>) -> WeightMap {
        let mut order: Vec<usize> = (0..shards.len()).collect();
        order.sort_by(|&a, &b| shards[a].cmp(&shards[b]));
        let mut number = vec![0; shards.len()];
        (0..).zip(&order).for_each(|(new, &old)| number[old] = new);
        let mut tensors: Vec<(Name, u32)> = Vec::with_capacity(listed.len());
        let mut places = ByName::with_capacity(listed.len());
        for (name, shard) in listed {
            let name_of = |at: u32| tensors.get(at as usize).map_or("", |(name, _)| name);
            match places.insert(&name, tensors.len() as u32, name_of) {
                None => tensors.push((name, number[shard as usize])),
                Some(at) => tensors[at as usize].1 = number[shard as usize],
            }
        }
        let shards = order.into_iter().map(|at| shards[at].clone().into_owned()).collect();
        WeightMap { tensors, places, shards }
    }
}

const INDEX_LIMIT: u64 = 1 << 30;

/// Finds the checkpoint at `path`: a file, an index, or a directory with one of them.
pub(super) fn discover(path: &Path) -> Result<Files> {
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
    let revision =
        crate::checkpoint::config::text(&path.join("refs/main")).and_then(|text| text.ok());
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
    let bad = |why: String| CheckpointError::new(path, Problem::Index(why));
    let length = std::fs::metadata(path).map_err(|e| CheckpointError::new(path, e))?.len();
    if length > INDEX_LIMIT {
        return Err(bad(format!("it has {length} bytes, more than the limit of {INDEX_LIMIT}")));
    }
    let bytes = std::fs::read(path).map_err(|e| CheckpointError::new(path, e))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| bad(e.to_string()))?;
    let Json { weight_map, metadata } =
        serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let map = WeightMap::new(weight_map.tensors, weight_map.shards);
    if map.tensors.is_empty() {
        return Err(bad("its weight_map is empty".into()));
    }
    let mut shards = Vec::with_capacity(map.shards.len());
    for name in &map.shards {
        let mut components = Path::new(name).components();
        let inside = components.all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || name.is_empty() {
            return Err(CheckpointError::new(path, Problem::ShardPath(name.clone())));
        }
        shards.push(parent.join(name));
    }
    let index = Index { path: path.to_owned(), metadata };
    Ok(Files { shards, index: Some((index, map)), directory: Some(parent.to_owned()) })
}

#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    weight_map: RawMap<'a>,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
}

/// Tensors as they are listed, each with the number of its shard in the order of their first
/// mention.
#[derive(Default)]
struct RawMap<'a> {
    tensors: Vec<(Name, u32)>,
    shards: Vec<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for RawMap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = RawMap<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut raw = RawMap::default();
                let mut names = Names::default();
                let mut numbers: HashMap<Cow<'de, str>, u32> = HashMap::default();
                while let Some((Text(name), Text(shard))) = map.next_entry()? {
                    let number = match numbers.get(&shard) {
                        Some(&number) => number,
                        None => {
                            let number = raw.shards.len() as u32;
                            raw.shards.push(shard.clone());
                            numbers.insert(shard, number);
                            number
                        }
                    };
                    raw.tensors.push((names.push(&name), number));
                }
                names.finish();
                Ok(raw)
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}
