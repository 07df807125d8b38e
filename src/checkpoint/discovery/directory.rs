//! Selects the files in a directory that are the model.
//!
//! Every file, set of shards and index is a [`Candidate`] with a rank. The best candidate is
//! opened, in the way that loaders open it, and the others are reported. Several candidates of the
//! best rank are ambiguous.

use crate::checkpoint::config::Config;
use crate::checkpoint::discovery::candidate::{
    Candidate, Content, Family, Role, VARIANTS, candidate, index_name, is_mlx_part, list_names,
};
use crate::checkpoint::discovery::files::CheckpointFiles;
use crate::checkpoint::discovery::index;
use crate::checkpoint::discovery::numbered::{self, NumberedName};
use crate::checkpoint::discovery::{hints, hub_cache, sharded};
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::files;
use crate::path_error::IoContext;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

/// Finds the checkpoint in a directory.
///
/// # Errors
///
/// There is none, there are several and no rule prefers one, or files of the selected one are
/// missing.
pub(super) fn choose(directory: &Path) -> Result<CheckpointFiles> {
    if hub_cache::is_repository(directory) {
        let (snapshot, note) = hub_cache::snapshot(directory)?;
        let mut files = choose(&snapshot).map_err(|error| match error.problem {
            Problem::EmptyDirectory(_) => {
                ReadError::new(directory, Problem::SnapshotWithoutWeights)
            }
            _ => error,
        })?;
        files.notes.extend(note);
        return Ok(files);
    }
    let listing = Listing::read(directory)?;
    if let Some(files) = named_by_config(directory, &listing) {
        return Ok(files);
    }
    let (mut candidates, unreadable) = candidates(directory, &listing);
    candidates.sort_by(|a, b| a.rank.cmp(&b.rank).then_with(|| a.label.cmp(&b.label)));
    let Some(best) = candidates.first() else {
        return Err(unreadable.unwrap_or_else(|| nothing(directory, &listing)));
    };
    let is_tied = |other: &&Candidate| {
        other.rank.is_tied(&best.rank) && other.base != best.base && !best.rank.is_favourite()
    };
    let tied: Vec<&Candidate> = candidates.iter().skip(1).filter(is_tied).collect();
    if !tied.is_empty() {
        let all = std::iter::once(best).chain(tied);
        let mut names: Vec<String> = all.map(|candidate| candidate.label.clone()).collect();
        names.sort();
        let mut gguf = names.iter().filter(|name| Family::of(name) == Some(Family::Gguf));
        if let Some(error) =
            gguf.find_map(|name| numbered::renamed_gguf_part(&directory.join(name)))
        {
            return Err(error);
        }
        return Err(ReadError::new(directory, Problem::Ambiguous(names)));
    }
    let is_unindexed = matches!(best.content, Content::Shards { .. });
    for candidate in candidates.iter().filter(|_| is_unindexed) {
        // The shards may be renamed ones of this index, or those of another model.
        if let Content::Index { parsed, missing } = &candidate.content
            && candidate.rank.family == best.rank.family
            && !missing.is_empty()
        {
            return Err(sharded::missing_shards(directory, parsed, missing.clone()));
        }
    }
    let mut notes = notes(&candidates, directory);
    match unreadable {
        // The index may say which of the shards to use.
        Some(error) if is_unindexed => return Err(error),
        error => notes.extend(error.map(|error| format!("an index was not used: {error}"))),
    }
    let mut files = candidates.swap_remove(0).open(directory)?;
    files.notes.extend(notes);
    Ok(files)
}

/// The names in a directory.
struct Listing {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
    /// A broken link to weights.
    broken_link: Option<String>,
}

impl Listing {
    fn read(directory: &Path) -> Result<Listing> {
        let mut listing =
            Listing { files: BTreeSet::new(), folders: BTreeSet::new(), broken_link: None };
        for (name, is_directory) in files::names(directory).context(directory)? {
            // Hidden files are copies, such as `._model.safetensors` of macOS.
            if name.starts_with('.') {
                continue;
            }
            match is_directory {
                Some(true) => _ = listing.folders.insert(name),
                Some(false) => _ = listing.files.insert(name),
                None if Family::of(&name).is_some() => listing.broken_link = Some(name),
                None => {}
            }
        }
        Ok(listing)
    }
}

/// Returns the weight file that `config.json` names (transformers 5: `transformers_weights`).
fn named_by_config(directory: &Path, listing: &Listing) -> Option<CheckpointFiles> {
    let config = listing.files.contains("config.json").then(|| Config::read(directory));
    let config = config?.ok()??;
    let name = config.json().get("transformers_weights")?.as_str()?.to_owned();
    if !listing.files.contains(&name) || Family::of(&name) != Some(Family::Safetensors) {
        return None;
    }
    let others = listing.files.iter().filter(|other| Family::of(other).is_some());
    let others: Vec<&str> = others.map(String::as_str).filter(|other| *other != name).collect();
    let mut notes =
        vec![format!("{name} was opened because config.json names it (transformers_weights)")];
    if !others.is_empty() {
        notes.push(format!("not opened: {}", others.join(", ")));
    }
    Some(CheckpointFiles {
        shards: vec![directory.join(&name)],
        index: None,
        directory: Some(directory.to_owned()),
        notes,
    })
}

/// Returns all candidates in a directory, and the error of an index that cannot be read.
fn candidates(directory: &Path, listing: &Listing) -> (Vec<Candidate>, Option<ReadError>) {
    let mut found = Vec::new();
    let mut unreadable = None;
    let mut in_an_index: HashSet<String> = HashSet::new();
    for name in &listing.files {
        let Some((base, family)) = index_name(name) else { continue };
        let parsed = match index::read(&directory.join(name)) {
            Ok(parsed) => parsed,
            Err(error) => {
                unreadable.get_or_insert(error);
                continue;
            }
        };
        let missing = parsed.missing(directory);
        // An index that lists only the file with its own base name describes that file.
        let whole = format!("{base}.safetensors");
        let describes_whole = parsed.map.shards.iter().all(|shard| *shard == whole);
        in_an_index.extend(parsed.map.shards.iter().map(|s| s.trim_start_matches("./").to_owned()));
        if !describes_whole && listing.files.contains(&whole) {
            in_an_index.remove(&whole);
        }
        let content = Content::Index { parsed: Box::new(parsed), missing };
        found.push(candidate(name.clone(), base, family, content));
    }
    let mut sets: BTreeMap<(String, u32, String), Vec<String>> = BTreeMap::new();
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut ranks = Vec::new();
    for name in listing.files.iter().filter(|name| !in_an_index.contains(*name)) {
        let Some((stem, family)) = Family::split(name) else { continue };
        if numbered::is_rank_file(name) {
            ranks.push(name.clone());
            continue;
        }
        match NumberedName::parse(name).filter(|numbered| numbered.count > 1) {
            Some(numbered) => {
                let NumberedName { prefix, count, suffix, .. } = numbered;
                sets.entry((prefix, count, suffix)).or_default().push(name.clone());
            }
            // Names written by mlx before it had indexes: weights.00.safetensors, weights.01 …
            None if family == Family::Safetensors && is_mlx_part(stem) => {
                parts.entry("weights".to_owned()).or_default().push(name.clone());
            }
            None => found.push(candidate(name.clone(), stem, family, Content::File)),
        }
    }
    for ((prefix, count, _), names) in sets {
        let Some(first) = names.first().cloned() else { continue };
        let Some(family) = Family::of(&first) else { continue };
        let content = match (family, NumberedName::parse(&first)) {
            (Family::Gguf, Some(numbered)) => Content::Split(numbered),
            _ => Content::Shards { names, count: Some(count) },
        };
        found.push(candidate(first, &prefix, family, content));
    }
    for (base, names) in parts {
        let Some(first) = names.first().cloned() else { continue };
        let content = Content::Shards { names, count: None };
        found.push(candidate(first, &base, Family::Safetensors, content));
    }
    if let Some(first) = ranks.first().cloned() {
        found.push(candidate(first, "shard", Family::Safetensors, Content::Ranks(ranks)));
    }
    let bases: HashSet<(Family, String)> =
        found.iter().map(|candidate| (candidate.rank.family, candidate.base.clone())).collect();
    for candidate in &mut found {
        let Some((base, variant)) = candidate.base.rsplit_once('.') else { continue };
        let is_beside = bases.contains(&(candidate.rank.family, base.to_owned()));
        if candidate.rank.role == Role::Model
            && (is_beside && candidate.rank.family != Family::Gguf || VARIANTS.contains(&variant))
        {
            candidate.rank.role = Role::Variant;
        }
    }
    (found, unreadable)
}

/// Returns sentences about candidates that were not opened. The best candidate comes first.
fn notes(candidates: &[Candidate], directory: &Path) -> Vec<String> {
    let Some((best, others)) = candidates.split_first() else { return Vec::new() };
    let mut notes = Vec::new();
    let mut left_out = Vec::new();
    for other in others.iter().filter(|other| other.rank.role != Role::Training) {
        match &other.content {
            Content::Index { missing, parsed } if !missing.is_empty() => {
                let count = parsed.map.shards.len();
                let refuses = match other.base.as_str() {
                    "diffusion_pytorch_model" => {
                        "; diffusers refuses this directory until the index is removed"
                    }
                    _ if other.rank.family < best.rank.family => {
                        "; transformers refuses this directory until the index is removed"
                    }
                    _ => "",
                };
                notes.push(format!(
                    "the index {} is stale: {} of its {count} shards {} missing ({}){refuses}",
                    other.label,
                    missing.len(),
                    if missing.len() == 1 { "is" } else { "are" },
                    list_names(missing)
                ));
            }
            Content::Index { parsed, .. } => {
                let describes_best = parsed.map.shards.iter().all(|s| *s == best.label);
                if !describes_best {
                    left_out.push(format!(
                        "{} with {}",
                        other.label,
                        list_names(&parsed.map.shards)
                    ));
                }
            }
            Content::File => left_out.push(other.label.clone()),
            Content::Shards { names, .. } => {
                left_out.push(format!("{} ({} shards)", other.label, names.len()));
            }
            Content::Split(numbered) => {
                left_out.push(format!("{} ({} parts)", other.label, numbered.count));
            }
            Content::Ranks(names) => {
                left_out.push(format!("{} ({} files of ranks)", other.label, names.len()));
            }
        }
    }
    if !left_out.is_empty() {
        notes.push(format!("{} was opened; not opened: {}", best.label, list_names(&left_out)));
    }
    if files::is_file(&directory.join("model_index.json")) {
        notes.push(
            "model_index.json describes a pipeline: its folders are models of their own".into(),
        );
    }
    notes
}

/// Returns the error for a directory without a checkpoint.
fn nothing(directory: &Path, listing: &Listing) -> ReadError {
    if let Some(name) = &listing.broken_link {
        return ReadError::new(&directory.join(name), Problem::BrokenLink);
    }
    let has_model = |name: &&String| choose(&directory.join(name)).is_ok();
    let several: Vec<String> = if listing.files.contains("model_index.json") {
        listing.folders.iter().filter(has_model).cloned().collect()
    } else {
        let names = listing.folders.iter();
        names.filter(|name| hub_cache::is_repository_name(name)).cloned().collect()
    };
    let problem = if several.is_empty() {
        Problem::EmptyDirectory(hints::hint(directory, &listing.files, &listing.folders))
    } else {
        Problem::SeveralDirectories(several)
    };
    ReadError::new(directory, problem)
}
