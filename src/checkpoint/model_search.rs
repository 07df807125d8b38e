//! Searches for models in a directory and its subdirectories. Tensor files are not opened, except
//! the headers of split GGUF files and the first bytes of `.bin` files; indexes are read.

use crate::checkpoint::discovery::{CheckpointFiles, discover};
use crate::checkpoint::error::Problem;
use crate::checkpoint::formats::format::Format;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A checkpoint found by [`find_models`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundModel {
    /// The path to open.
    pub path: PathBuf,
    /// Guessed from the extension; checked when the file is opened.
    pub format: Format,
    /// Total size of its files in bytes.
    pub bytes: u64,
}

/// The result of [`find_models`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Models {
    /// Sorted by path.
    pub found: Vec<FoundModel>,
    /// Whether every subdirectory was searched, as far as permissions and limits allow.
    pub complete: bool,
}

/// Maximum depth of searched subdirectories.
const MAX_DEPTH: usize = 6;
/// Maximum number of directory entries.
const MAX_ENTRIES: usize = 20_000;

/// Finds the models in a directory and its subdirectories. Does not follow links to directories, so
/// that the search ends, and skips hidden directories.
pub fn find_models(root: &Path) -> Models {
    let mut models = Models { found: Vec::new(), complete: true };
    let mut entries = 0;
    let mut pending = VecDeque::from([(root.to_owned(), 0)]);
    while let Some((directory, depth)) = pending.pop_front() {
        let is_model = add_models(&directory, &mut models.found);
        let is_hub = directory.join("snapshots").is_dir();
        if is_hub || (is_model && depth > 0) {
            continue;
        }
        let Ok(read) = std::fs::read_dir(&directory) else { continue };
        let mut below = Vec::new();
        for entry in read.flatten() {
            entries += 1;
            if entries > MAX_ENTRIES {
                models.complete = false;
                break;
            }
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if !hidden && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below.push(entry.path());
            }
        }
        if depth >= MAX_DEPTH && !below.is_empty() {
            models.complete = false;
            continue;
        }
        below.sort();
        pending.extend(below.into_iter().map(|path| (path, depth + 1)));
    }
    models.found.sort_by(|a, b| a.path.cmp(&b.path));
    models
}

/// Adds the model in a directory, or all of them if there are several. Returns whether there is
/// one.
fn add_models(directory: &Path, found: &mut Vec<FoundModel>) -> bool {
    match discover(directory) {
        Ok(files) => {
            found.extend(found_model(directory, &files));
            true
        }
        Err(error) => match error.problem {
            Problem::Ambiguous(names) => {
                let several = names.iter().map(|name| directory.join(name));
                found.extend(several.filter_map(|path| found_model(&path, &discover(&path).ok()?)));
                true
            }
            _ => false,
        },
    }
}

fn found_model(path: &Path, files: &CheckpointFiles) -> Option<FoundModel> {
    let first = files.shards.first()?;
    let format = format_by_extension(first)?;
    if !is_model_file(first) {
        return None;
    }
    // Missing shards are reported when the model is opened.
    let size = |shard: &PathBuf| std::fs::metadata(shard).map_or(0, |found| found.len());
    let bytes = files.shards.iter().map(size).fold(0u64, u64::saturating_add);
    Some(FoundModel { path: path.to_owned(), format, bytes })
}

/// Returns false for a `.bin` file of another program. PyTorch writes zip archives and pickles.
fn is_model_file(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase());
    let name = name.unwrap_or_default();
    if !name.ends_with(".bin") || name.contains("model") {
        return true;
    }
    let mut start = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && (start == *b"PK" || start[0] == PICKLE_PROTOCOL)
}

/// The first byte of a pickle of protocol 2 or later.
const PICKLE_PROTOCOL: u8 = 0x80;

fn format_by_extension(path: &Path) -> Option<Format> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match ending.as_str() {
        "safetensors" => Format::Safetensors,
        "gguf" => Format::Gguf,
        "bpk" => Format::Burnpack,
        "bin" | "pt" | "pth" => Format::PyTorch,
        "npy" => Format::Npy,
        "npz" => Format::Npz,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(path: PathBuf, bytes: usize) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, vec![0; bytes]).expect("written");
    }

    fn listed(root: &Path) -> Vec<(String, Format, u64)> {
        let models = find_models(root);
        let short = |found: FoundModel| {
            let path =
                found.path.strip_prefix(root).expect("inside the root").display().to_string();
            (path, found.format, found.bytes)
        };
        models.found.into_iter().map(short).collect()
    }

    #[test]
    fn bin_files_of_other_programs_are_not_models() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        for (name, start) in [("a.bin", &b"PK\x03\x04"[..]), ("b.bin", b"\x80\x02"), ("c.bin", b"")]
        {
            fs::create_dir_all(root.join(name)).expect("created");
            fs::write(root.join(name).join(name), start).expect("written");
        }
        let names: Vec<String> = listed(root).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["a.bin", "b.bin"]);
    }

    #[test]
    fn models_are_found_in_directories_and_the_hub_with_their_sizes() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        file(root.join("one/model.safetensors"), 10);
        file(root.join("several/a.gguf"), 20);
        file(root.join("several/b.gguf"), 30);
        file(root.join("models--org--name/blobs/0123"), 40);
        file(root.join("models--org--name/refs/main"), 0);
        fs::write(root.join("models--org--name/refs/main"), "abc").expect("written");
        fs::create_dir_all(root.join("models--org--name/snapshots/abc")).expect("directories");
        #[cfg(unix)]
        std::os::unix::fs::symlink(
            "../../blobs/0123",
            root.join("models--org--name/snapshots/abc/model.safetensors"),
        )
        .expect("linked");
        file(root.join(".hidden/model.safetensors"), 50);
        file(root.join("notes/readme.txt"), 60);
        assert_eq!(
            listed(root),
            [
                ("models--org--name".to_owned(), Format::Safetensors, 40),
                ("one".to_owned(), Format::Safetensors, 10),
                ("several/a.gguf".to_owned(), Format::Gguf, 20),
                ("several/b.gguf".to_owned(), Format::Gguf, 30),
            ]
        );
        assert!(find_models(root).complete);
    }

    #[cfg(unix)]
    #[test]
    fn circular_links_are_not_followed_and_depth_is_limited() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        std::os::unix::fs::symlink(root, root.join("circle")).expect("linked");
        file(root.join("a/b/c/d/e/f/g/h/model.gguf"), 1);
        file(root.join("near/model.gguf"), 2);
        assert_eq!(listed(root), [("near".to_owned(), Format::Gguf, 2)]);
        assert!(!find_models(root).complete);
        assert_eq!(
            find_models(&root.join("nowhere")),
            Models { complete: true, ..Models::default() }
        );
    }
}
