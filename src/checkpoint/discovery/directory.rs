//! Selects the files in a directory that are the model.
//!
//! Every file, set of shards and index is a [`Candidate`] with a [`Rank`]. The best candidate is
//! opened, in the way that loaders open it, and the others are reported. Several candidates of the
//! best rank are ambiguous.

use crate::checkpoint::config::Config;
use crate::checkpoint::discovery::files::CheckpointFiles;
use crate::checkpoint::discovery::index::{self, Parsed};
use crate::checkpoint::discovery::numbered::{self, NumberedName};
use crate::checkpoint::discovery::{hints, hub_cache, sharded};
use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::io::files;
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
                CheckpointError::new(directory, Problem::SnapshotWithoutWeights)
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
        return Err(CheckpointError::new(directory, Problem::Ambiguous(names)));
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
        let fail = |e| CheckpointError::new(directory, Problem::Io(e));
        let mut listing =
            Listing { files: BTreeSet::new(), folders: BTreeSet::new(), broken_link: None };
        for (name, is_directory) in files::names(directory).map_err(fail)? {
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

/// The families of weight files by extension, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Family {
    Safetensors,
    Bin,
    Gguf,
    Burnpack,
    Torch,
    Npz,
    Npy,
}

impl Family {
    const ENDINGS: [(&'static str, Family); 12] = [
        (".safetensors", Family::Safetensors),
        (".bin", Family::Bin),
        (".gguf", Family::Gguf),
        (".bpk", Family::Burnpack),
        (".pt", Family::Torch),
        (".pth", Family::Torch),
        (".th", Family::Torch),
        (".ckpt", Family::Torch),
        (".pth.tar", Family::Torch),
        (".pt.tar", Family::Torch),
        (".npz", Family::Npz),
        (".npy", Family::Npy),
    ];

    fn of(name: &str) -> Option<Family> {
        Family::split(name).map(|(_, family)| family)
    }

    /// Splits a name into the name without its extension and the family of the extension.
    fn split(name: &str) -> Option<(&str, Family)> {
        let lower = name.to_ascii_lowercase();
        Family::ENDINGS.iter().find_map(|(ending, family)| {
            let length = lower.strip_suffix(ending)?.len();
            Some((name.get(..length)?, *family))
        })
    }
}

/// The purpose of a file according to its name, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Model,
    /// A copy in another precision, such as `model.fp16`.
    Variant,
    /// Weights for another purpose: an adapter, a vision part, or another framework's format.
    Side,
    /// The state of an optimizer, a scheduler or a random generator.
    Training,
}

/// Base names that loaders look for, in order of preference.
const PREFERRED_BASES: [&str; 5] =
    ["model", "diffusion_pytorch_model", "pytorch_model", "adapter_model", "pytorch_lora_weights"];

/// Variants that loaders know by name.
const VARIANTS: [&str; 7] = ["fp16", "fp32", "bf16", "fp8", "int8", "ema", "non_ema"];

/// The preference of a candidate; the smallest is opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Whether files are missing.
    incomplete: bool,
    family: Family,
    role: Role,
    /// Index in [`PREFERRED_BASES`].
    favourite: usize,
    form: u8,
}

impl Rank {
    /// Returns whether no rule prefers one of two candidates.
    fn is_tied(&self, other: &Rank) -> bool {
        let is_training = self.role == Role::Training && other.role == Role::Training;
        is_training
            || (self.incomplete, self.family, self.role)
                == (other.incomplete, other.family, other.role)
                && self.favourite == other.favourite
    }

    fn is_favourite(&self) -> bool {
        self.favourite < PREFERRED_BASES.len()
    }
}

/// One possible source of weights in the directory.
struct Candidate {
    rank: Rank,
    /// The name in messages: that of a file.
    label: String,
    /// The name without numbers and extensions.
    base: String,
    content: Content,
}

enum Content {
    File,
    /// Shards without an index; `Some(count)` if their names contain their number.
    Shards {
        names: Vec<String>,
        count: Option<u32>,
    },
    Split(NumberedName),
    /// CheckpointFiles of the ranks of `torch.distributed.checkpoint`, which hold parts of tensors.
    Ranks(Vec<String>),
    Index {
        parsed: Box<Parsed>,
        missing: Vec<String>,
    },
}

impl Candidate {
    fn open(self, directory: &Path) -> Result<CheckpointFiles> {
        let files = |names: Vec<String>, notes| CheckpointFiles {
            shards: names.iter().map(|name| directory.join(name)).collect(),
            index: None,
            directory: Some(directory.to_owned()),
            notes,
        };
        match self.content {
            Content::File => {
                let variant = (self.rank.role == Role::Variant)
                    .then(|| self.base.rsplit_once('.').map_or("", |(_, variant)| variant));
                let note = variant.map(|variant| {
                    format!("{} is the variant {variant}; the model itself is not here", self.label)
                });
                Ok(files(vec![self.label], note.into_iter().collect()))
            }
            Content::Shards { names, count } => {
                let found = names.len();
                let missing = count.filter(|&count| count as usize != found).map(|count| {
                    let named = names.first().and_then(|name| NumberedName::parse(name));
                    let all = named
                        .into_iter()
                        .flat_map(|n| (1..=count.min(10_000)).map(move |number| n.name(number)));
                    let missing: Vec<String> = all.filter(|name| !names.contains(name)).collect();
                    format!("only {found} of {count} shards are here; missing: {}", list(&missing))
                });
                let note = missing.unwrap_or_else(|| {
                    format!("there is no index; {found} shards were opened as one model")
                });
                Ok(files(names, vec![note]))
            }
            Content::Split(numbered) => {
                if !numbered::is_gguf_part(&directory.join(&self.label), &numbered)? {
                    return Ok(files(vec![self.label], Vec::new()));
                }
                let shards = numbered.all_in(directory)?;
                Ok(CheckpointFiles { shards, ..files(Vec::new(), Vec::new()) })
            }
            Content::Ranks(names) => Ok(files(names, Vec::new())),
            Content::Index { parsed, missing } if missing.is_empty() => {
                Ok(sharded::into_files(*parsed, directory))
            }
            Content::Index { parsed, missing } => {
                Err(sharded::missing_shards(directory, &parsed, missing))
            }
        }
    }
}

/// Formats up to eight names and the number of further ones.
fn list(names: &[String]) -> String {
    const MAX_LISTED: usize = 8;
    let shown = names.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        n if n > MAX_LISTED => format!("{shown} and {} more", n - MAX_LISTED),
        _ => shown,
    }
}

/// Returns all candidates in a directory, and the error of an index that cannot be read.
fn candidates(directory: &Path, listing: &Listing) -> (Vec<Candidate>, Option<CheckpointError>) {
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
            None if family == Family::Safetensors && mlx_part(stem) => {
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

/// Returns base and family of an index's name: `model.safetensors.index.json`, or with a variant
/// `model.safetensors.index.fp16.json`.
fn index_name(name: &str) -> Option<(&str, Family)> {
    let stem = name.strip_suffix(".json")?;
    let (file, after) = stem.split_once(".index")?;
    if !(after.is_empty() || after.starts_with('.')) {
        return None;
    }
    Family::split(file).filter(|(_, family)| matches!(family, Family::Safetensors | Family::Bin))
}

fn mlx_part(stem: &str) -> bool {
    let number = stem.strip_prefix("weights.").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

fn candidate(label: String, base: &str, family: Family, content: Content) -> Candidate {
    // transformers prefers a whole file to an index, diffusers an index to a whole file.
    let is_diffusers = base == "diffusion_pytorch_model";
    let form = match (&content, is_diffusers) {
        (Content::Index { .. }, true) => 0,
        (Content::File, _) => 1,
        (Content::Index { .. }, false) => 2,
        (Content::Shards { .. } | Content::Split(_) | Content::Ranks(_), _) => 3,
    };
    let incomplete = match &content {
        Content::Index { missing, .. } => !missing.is_empty(),
        _ => false,
    };
    let is_variant_index =
        matches!(content, Content::Index { .. }) && !label.ends_with(".index.json");
    let role = if is_variant_index { Role::Variant } else { role(base, &label, family) };
    let place = PREFERRED_BASES.iter().position(|favourite| *favourite == base);
    let favourite = place.unwrap_or(PREFERRED_BASES.len());
    let rank = Rank { incomplete, family, role, favourite, form };
    Candidate { rank, label, base: base.to_owned(), content }
}

/// Returns the purpose of a file.
fn role(base: &str, label: &str, family: Family) -> Role {
    let lower = base.to_ascii_lowercase();
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| lower.starts_with(prefix));
    let training =
        ["optimizer", "scheduler", "rng_state", "random_states", "training_args", "scaler"];
    let side = match family {
        Family::Gguf => {
            starts(&["mmproj"]) || lower.contains("imatrix") || lower.contains("mmproj-")
        }
        Family::Safetensors => starts(&["consolidated", "adapter_model"]),
        // OpenVINO's weights have the same extension.
        Family::Bin => starts(&["openvino_"]),
        _ => false,
    };
    match () {
        () if starts(&training) => Role::Training,
        () if side || label.starts_with("tokenizer") => Role::Side,
        () => Role::Model,
    }
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
                    list(missing)
                ));
            }
            Content::Index { parsed, .. } => {
                let describes_best = parsed.map.shards.iter().all(|s| *s == best.label);
                if !describes_best {
                    left_out.push(format!("{} with {}", other.label, list(&parsed.map.shards)));
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
        notes.push(format!("{} was opened; not opened: {}", best.label, list(&left_out)));
    }
    if files::is_file(&directory.join("model_index.json")) {
        notes.push(
            "model_index.json describes a pipeline: its folders are models of their own".into(),
        );
    }
    notes
}

/// Returns the error for a directory without a checkpoint.
fn nothing(directory: &Path, listing: &Listing) -> CheckpointError {
    if let Some(name) = &listing.broken_link {
        return CheckpointError::new(&directory.join(name), Problem::BrokenLink);
    }
    let has_model = |name: &&String| choose(&directory.join(name)).is_ok();
    let several: Vec<String> = match listing.files.contains("model_index.json") {
        true => listing.folders.iter().filter(has_model).cloned().collect(),
        false => {
            let names = listing.folders.iter();
            names.filter(|name| hub_cache::is_repository_name(name)).cloned().collect()
        }
    };
    let problem = match several.is_empty() {
        false => Problem::SeveralDirectories(several),
        true => Problem::EmptyDirectory(hints::hint(directory, &listing.files, &listing.folders)),
    };
    CheckpointError::new(directory, problem)
}
