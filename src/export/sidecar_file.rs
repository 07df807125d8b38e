//! Files in the model's directory other than weights: copied, and left out.

use crate::text::figures;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A file such as a config or a tokenizer.
#[derive(Clone, Debug, PartialEq)]
pub struct SidecarFile {
    /// Path relative to the model's directory and to the output's.
    pub name: PathBuf,
    /// The file to copy.
    pub source: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
}

/// Files that are not copied because they hold other copies of the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeftOutFiles {
    /// The files.
    pub files: Vec<SidecarFile>,
    named: BTreeSet<PathBuf>,
    bytes: u64,
}

impl LeftOutFiles {
    /// Adds a file. `named` is the path to show: the file's, or that of a directory that is left
    /// out.
    pub(crate) fn add(&mut self, file: SidecarFile, named: PathBuf) {
        self.bytes += file.bytes;
        self.named.insert(if named == file.name { named } else { named.join("") });
        self.files.push(file);
    }

    /// Returns the paths to show, relative to the model's directory.
    pub fn names(&self) -> Vec<String> {
        self.named.iter().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Returns a sentence for the user; `None` if there are no such files.
    pub fn warning(&self) -> Option<String> {
        (!self.files.is_empty()).then(|| {
            format!(
                "not copied, as they hold other copies of the weights or belong to one ({}): {}; --copy GLOB copies a file anyway",
                figures::bytes(self.bytes),
                self.names().join(", ")
            )
        })
    }
}
