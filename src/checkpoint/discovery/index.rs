//! The index of a sharded checkpoint: `model.safetensors.index.json`.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::files;
use crate::checkpoint::json_text::Text;
use crate::checkpoint::name_index::NameIndex;
use crate::checkpoint::python_json;
use crate::path_error::IoContext;
use crate::tensor::{Name, Names};
use foldhash::HashMap;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The content of a `*.index.json`.
#[derive(Debug)]
pub struct Index {
    /// Path of the index.
    pub path: PathBuf,
    /// The `metadata` object.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// The `weight_map` of an index: the shard of each tensor.
#[derive(Debug)]
pub(crate) struct WeightMap {
    /// Each tensor once, with the index of its shard.
    pub tensors: Vec<(Name, u32)>,
    positions: NameIndex,
    /// Names of the shards as written in the index, sorted.
    pub shards: Vec<String>,
}

impl WeightMap {
    /// Returns the position of a tensor in [`WeightMap::tensors`].
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        let name_of = |at: u32| self.tensors.get(at as usize).map_or("", |(name, _)| name);
        self.positions.get(name, name_of).map(|at| at as usize)
    }

    /// Sorts the shards by name. Of two entries for a tensor, the last one is used.
    fn new(listed: Vec<(Name, u32)>, shards: Vec<Cow<str>>) -> WeightMap {
        let mut order: Vec<usize> = (0..shards.len()).collect();
        order.sort_by(|&a, &b| shards[a].cmp(&shards[b]));
        let mut number = vec![0; shards.len()];
        (0..).zip(&order).for_each(|(new, &old)| number[old] = new);
        let mut tensors: Vec<(Name, u32)> = Vec::with_capacity(listed.len());
        let mut positions = NameIndex::with_capacity(listed.len());
        for (name, shard) in listed {
            let name_of = |at: u32| tensors.get(at as usize).map_or("", |(name, _)| name);
            match positions.insert(&name, tensors.len() as u32, name_of) {
                None => tensors.push((name, number[shard as usize])),
                Some(at) => tensors[at as usize].1 = number[shard as usize],
            }
        }
        // Some shards may be named only by replaced entries.
        let mut used = vec![false; shards.len()];
        tensors.iter().for_each(|(_, shard)| used[*shard as usize] = true);
        let mut renumbered = vec![0; shards.len()];
        let mut next = 0;
        for (place, is_used) in used.iter().enumerate() {
            renumbered[place] = next;
            next += u32::from(*is_used);
        }
        tensors.iter_mut().for_each(|(_, shard)| *shard = renumbered[*shard as usize]);
        let in_order = order.into_iter().zip(used).filter(|(_, is_used)| *is_used);
        let shards = in_order.map(|(at, _)| shards[at].clone().into_owned()).collect();
        WeightMap { tensors, positions, shards }
    }
}

/// Maximum size of an index in bytes.
const INDEX_LIMIT: u64 = 1 << 30;

/// Reads the index at `path`.
pub(super) fn read(path: &Path) -> Result<Parsed> {
    let bad = |why: String| ReadError::new(path, Problem::Index(why));
    let length = files::size(path).context(path)?;
    if length > INDEX_LIMIT {
        return Err(bad(format!("it has {length} bytes, more than the limit of {INDEX_LIMIT}")));
    }
    let bytes = files::read(path).context(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| bad(e.to_string()))?;
    let text = python_json::to_json(text);
    let Json { weight_map, metadata } =
        serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let map = WeightMap::new(weight_map.tensors, weight_map.shards);
    if map.tensors.is_empty() {
        return Err(bad("its weight_map is empty".into()));
    }
    for name in &map.shards {
        let mut components = Path::new(name).components();
        let inside = components.all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || name.is_empty() {
            return Err(ReadError::new(path, Problem::ShardPath(name.clone())));
        }
    }
    let metadata = match metadata {
        Some(serde_json::Value::Object(metadata)) => metadata,
        _ => serde_json::Map::new(),
    };
    let index = Index { path: path.to_owned(), metadata };
    Ok(Parsed { index, map })
}

/// A parsed index with checked shard names.
pub(super) struct Parsed {
    pub index: Index,
    pub map: WeightMap,
}

impl Parsed {
    /// Returns the shards that are not in `directory`.
    pub(super) fn missing(&self, directory: &Path) -> Vec<String> {
        let is_missing = |name: &&String| !files::is_file(&directory.join(name));
        self.map.shards.iter().filter(is_missing).cloned().collect()
    }
}

#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    weight_map: RawMap<'a>,
    #[serde(default)]
    metadata: Option<serde_json::Value>,
}

/// Tensors as listed, each with the number of its shard in order of first occurrence.
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
