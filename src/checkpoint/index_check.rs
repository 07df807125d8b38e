//! Compares shards with their index.

use crate::checkpoint::discovery::{Index, WeightMap};
use crate::checkpoint::stored::{Stored, TENSORS_PER_TASK};
use rayon::prelude::*;

/// Compares the shards with the index. If a tensor is in several shards, only the one named in the
/// index is kept. Disagreements are added to `notes`. Returns whether the index names every tensor,
/// so that each occurs once.
pub(super) fn compare_with_index(
    index: &Index,
    map: &WeightMap,
    stored: &mut Vec<Stored>,
    notes: &mut Vec<String>,
) -> bool {
    let mut held = vec![false; map.tensors.len()];
    let mut unlisted = Vec::new();
    let mut elsewhere = Vec::new();
    let places = stored.par_iter().with_min_len(TENSORS_PER_TASK).map(|s| map.position(&s.name));
    let mut places = places.collect::<Vec<_>>().into_iter();
    stored.retain(|s| match places.next().flatten() {
        Some(place) => {
            let here = map.tensors[place].1 == s.shard;
            held[place] |= here;
            if !here {
                elsewhere.push(s.name.to_string());
            }
            here
        }
        None => {
            unlisted.push(s.name.to_string());
            true
        }
    });
    let missing = map.tensors.iter().zip(held).filter(|(_, held)| !held);
    let missing: Vec<String> = missing.map(|((name, _), _)| name.to_string()).collect();
    let name = index.path.file_name().unwrap_or(index.path.as_os_str()).to_string_lossy();
    if !missing.is_empty() {
        notes.push(format!(
            "the index {name} is stale: it lists {} that its shards do not hold where it says: {}",
            counted(missing.len()),
            some_of(&missing)
        ));
    }
    if !elsewhere.is_empty() {
        notes.push(format!(
            "{} also in a shard that the index {name} does not name for them; loaders may take those instead: {}",
            if elsewhere.len() == 1 { "1 tensor is".to_owned() } else { format!("{} tensors are", elsewhere.len()) },
            some_of(&elsewhere)
        ));
    }
    if !unlisted.is_empty() {
        notes.push(format!(
            "the shards hold {} that the index {name} does not list: {}",
            counted(unlisted.len()),
            some_of(&unlisted)
        ));
    }
    unlisted.is_empty()
}

fn counted(tensors: usize) -> String {
    if tensors == 1 { "1 tensor".to_owned() } else { format!("{tensors} tensors") }
}

/// Formats the first few names for a note.
fn some_of(names: &[String]) -> String {
    const MAX_NAMED: usize = 3;
    let shown: Vec<String> =
        names.iter().take(MAX_NAMED).map(|name| format!("'{}'", name.escape_debug())).collect();
    let rest = if names.len() > MAX_NAMED { ", …" } else { "" };
    shown.join(", ") + rest
}
