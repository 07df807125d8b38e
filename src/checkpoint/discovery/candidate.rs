//! Possible sources of weights in a directory, and the order in which loaders prefer them.

use crate::checkpoint::discovery::files::CheckpointFiles;
use crate::checkpoint::discovery::index::Parsed;
use crate::checkpoint::discovery::numbered::{self, NumberedName};
use crate::checkpoint::discovery::sharded;
use crate::checkpoint::error::Result;
use std::path::Path;

/// The families of weight files by extension, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
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

    pub(super) fn of(name: &str) -> Option<Family> {
        Family::split(name).map(|(_, family)| family)
    }

    /// Splits a name into the name without its extension and the family of the extension.
    pub(super) fn split(name: &str) -> Option<(&str, Family)> {
        let lower = name.to_ascii_lowercase();
        Family::ENDINGS.iter().find_map(|(ending, family)| {
            let length = lower.strip_suffix(ending)?.len();
            Some((name.get(..length)?, *family))
        })
    }
}

/// The purpose of a file according to its name, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
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
pub(super) const VARIANTS: [&str; 7] = ["fp16", "fp32", "bf16", "fp8", "int8", "ema", "non_ema"];

/// The preference of a candidate; the smallest is opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Whether files are missing.
    incomplete: bool,
    pub(super) family: Family,
    pub(super) role: Role,
    /// Index in [`PREFERRED_BASES`].
    favourite: usize,
    form: u8,
}

impl Rank {
    /// Returns whether no rule prefers one of two candidates.
    pub(super) fn is_tied(&self, other: &Rank) -> bool {
        let is_training = self.role == Role::Training && other.role == Role::Training;
        is_training
            || (self.incomplete, self.family, self.role)
                == (other.incomplete, other.family, other.role)
                && self.favourite == other.favourite
    }

    pub(super) fn is_favourite(&self) -> bool {
        self.favourite < PREFERRED_BASES.len()
    }
}

/// One possible source of weights in the directory.
pub(super) struct Candidate {
    pub(super) rank: Rank,
    /// The name in messages: that of a file.
    pub(super) label: String,
    /// The name without numbers and extensions.
    pub(super) base: String,
    pub(super) content: Content,
}

/// The files of a candidate.
pub(super) enum Content {
    File,
    /// Shards without an index; `Some(count)` if their names contain their number.
    Shards {
        names: Vec<String>,
        count: Option<u32>,
    },
    Split(NumberedName),
    /// Files of the ranks of `torch.distributed.checkpoint`, which hold parts of tensors.
    Ranks(Vec<String>),
    Index {
        parsed: Box<Parsed>,
        missing: Vec<String>,
    },
}

impl Candidate {
    pub(super) fn open(self, directory: &Path) -> Result<CheckpointFiles> {
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
                    format!(
                        "only {found} of {count} shards are here; missing: {}",
                        list_names(&missing)
                    )
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
pub(super) fn list_names(names: &[String]) -> String {
    const MAX_LISTED: usize = 8;
    let shown = names.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        n if n > MAX_LISTED => format!("{shown} and {} more", n - MAX_LISTED),
        _ => shown,
    }
}

/// Returns base and family of an index's name: `model.safetensors.index.json`, or with a variant
/// `model.safetensors.index.fp16.json`.
pub(super) fn index_name(name: &str) -> Option<(&str, Family)> {
    let stem = name.strip_suffix(".json")?;
    let (file, after) = stem.split_once(".index")?;
    if !(after.is_empty() || after.starts_with('.')) {
        return None;
    }
    Family::split(file).filter(|(_, family)| matches!(family, Family::Safetensors | Family::Bin))
}

/// Returns whether a name is that of a shard written by mlx before it had indexes.
pub(super) fn is_mlx_part(stem: &str) -> bool {
    let number = stem.strip_prefix("weights.").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// Ranks a possible source of weights.
pub(super) fn candidate(label: String, base: &str, family: Family, content: Content) -> Candidate {
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
