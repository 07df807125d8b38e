//! Names of numbered files: `model-00001-of-00003.safetensors`.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::gguf;
use crate::checkpoint::io::files;
use crate::checkpoint::io::source::Source;
use std::path::{Path, PathBuf};

/// A file name with its number and the total number of files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NumberedName {
    /// The text before the hyphen and the number.
    pub prefix: String,
    /// Starts at 1.
    pub number: u32,
    pub count: u32,
    /// Number of digits in the name.
    pub digits: usize,
    /// The text after the numbers, including its dot.
    pub suffix: String,
}

impl NumberedName {
    /// Parses `PREFIX-NNNNN-of-MMMMM.SUFFIX`; `None` for any other name.
    pub(super) fn parse(name: &str) -> Option<NumberedName> {
        let (before, after) = name.split_once("-of-")?;
        let (prefix, number) = before.rsplit_once('-')?;
        let digits = after.find(|c: char| !c.is_ascii_digit())?;
        let (count, suffix) = after.split_at_checked(digits)?;
        let is_number = |text: &str| text.len() >= 2 && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(number) || !is_number(count) || !suffix.starts_with('.') {
            return None;
        }
        let (number, count) = (number.parse().ok()?, count.parse().ok()?);
        let is_inside = (1..=count).contains(&number);
        is_inside.then(|| NumberedName {
            prefix: prefix.to_owned(),
            number,
            count,
            digits,
            suffix: suffix.to_owned(),
        })
    }

    /// Returns the name of another file in the same set.
    pub(super) fn name(&self, number: u32) -> String {
        let NumberedName { prefix, count, digits, suffix, .. } = self;
        format!("{prefix}-{number:0digits$}-of-{count:0digits$}{suffix}")
    }

    /// Returns the paths of the whole set in `directory`.
    ///
    /// # Errors
    ///
    /// Some files are missing; the error names them.
    pub(super) fn all_in(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        // A name may claim billions of files, so the search stops after some missing ones.
        let mut present = Vec::new();
        let mut missing = Vec::new();
        for number in 1..=self.count {
            let name = self.name(number);
            let path = directory.join(&name);
            if files::is_file(&path) {
                present.push(path)
            } else {
                missing.push(name)
            }
            if missing.len() > MAX_NAMED {
                break;
            }
        }
        if missing.is_empty() {
            return Ok(present);
        }
        let (found, count) = (present.len(), self.count as usize);
        Err(ReadError::new(directory, Problem::MissingFiles { found, count, missing }))
    }
}

/// Returns whether a name is that of a part stored by one rank of `torch.distributed.checkpoint`:
/// `shard-00001-model-00001-of-00002.safetensors`.
pub(super) fn is_rank_file(name: &str) -> bool {
    let Some((rank, file)) = name.strip_prefix("shard-").and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    let is_number = !rank.is_empty() && rank.bytes().all(|b| b.is_ascii_digit());
    let numbered = NumberedName::parse(file);
    is_number && numbered.is_some_and(|n| n.prefix == "model" && n.suffix == ".safetensors")
}

/// Maximum number of missing files that an error names.
const MAX_NAMED: usize = 8;

/// Returns whether the GGUF file at `path` is a part of a split model, according to its header.
/// False for a whole model whose name happens to be numbered.
///
/// # Errors
///
/// The file cannot be read, or its header and its name give different numbers.
pub(super) fn is_gguf_part(path: &Path, numbered: &NumberedName) -> Result<bool> {
    let Some(split) = gguf::read(&Source::file(path)?)?.split() else { return Ok(false) };
    if split.count != u64::from(numbered.count) || split.number != u64::from(numbered.number - 1) {
        return Err(ReadError::new(
            path,
            Problem::Malformed {
                format: "GGUF",
                why: format!(
                    "its name says part {} of {}, its header says part {} of {} (split.no {}, split.count {}); give the file its original name",
                    numbered.number,
                    numbered.count,
                    split.number.saturating_add(1),
                    split.count,
                    split.number,
                    split.count
                ),
            },
        ));
    }
    Ok(true)
}

/// Returns the error for a part of a split GGUF model whose name does not contain its number;
/// `None` for any other file, and for one that cannot be read.
pub(super) fn renamed_gguf_part(path: &Path) -> Option<ReadError> {
    let split = gguf::read(&Source::file(path).ok()?).ok()?.split()?;
    let is_numbered = NumberedName::parse(&path.to_string_lossy()).is_some();
    (!is_numbered).then(|| ReadError::new(path, split.renamed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_are_parsed_and_formatted() {
        let part = NumberedName::parse("model.fp16-00002-of-00013.safetensors").expect("numbered");
        assert_eq!((part.prefix.as_str(), part.number, part.count), ("model.fp16", 2, 13));
        assert_eq!(part.name(11), "model.fp16-00011-of-00013.safetensors");
        assert_eq!(part.name(part.number), "model.fp16-00002-of-00013.safetensors");
        for other in [
            "model.safetensors",
            "model-00000-of-00002.safetensors",
            "model-00003-of-00002.safetensors",
            "model-1-of-2.gguf",
            "one-of-two.gguf",
            "model-00001-of-00002",
            "model-00001-of-99999999999.gguf",
        ] {
            assert_eq!(NumberedName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn files_of_ranks_are_recognized_by_name() {
        for name in
            ["shard-00001-model-00001-of-00001.safetensors", "shard-12-model-02-of-03.safetensors"]
        {
            assert!(is_rank_file(name), "{name}");
        }
        for name in [
            "model-00001-of-00002.safetensors",
            "shard-a-model-00001-of-00001.safetensors",
            "shard-00001-model-00001-of-00001.bin",
            "shard-00001-other-00001-of-00001.safetensors",
            "shard-00001.safetensors",
        ] {
            assert!(!is_rank_file(name), "{name}");
        }
    }
}
