//! Completion of a path that is being typed.

use crate::app::Completion;
use crate::tui::files::resolve;
use std::path::{Path, PathBuf};

/// Completes `text` as far as the entries of its directory agree. Relative paths start at
/// `directory`.
pub(super) fn complete(text: &str, directory: &Path) -> Completion {
    let (parent, start) = match text.rfind(['/', std::path::MAIN_SEPARATOR]) {
        Some(at) => text.split_at(at + 1),
        None => ("", text),
    };
    let nothing = Completion { text: text.to_owned(), candidates: Vec::new() };
    // The working directory is the empty path, which cannot be read.
    let inside = match resolve(Path::new(parent), directory) {
        empty if empty.as_os_str().is_empty() => PathBuf::from("."),
        inside => inside,
    };
    let Ok(entries) = std::fs::read_dir(inside) else {
        return nothing;
    };
    let mut candidates: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // Hidden entries are offered only if the dot is typed.
            let hidden = name.starts_with('.') && !start.starts_with('.');
            let is_directory = std::fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
            let end = if is_directory { "/" } else { "" };
            (name.starts_with(start) && !hidden).then(|| format!("{name}{end}"))
        })
        .collect();
    candidates.sort_unstable();
    let Some(first) = candidates.first() else { return nothing };
    let common = candidates.iter().fold(first.as_str(), |common, name| {
        let same = common.chars().zip(name.chars()).take_while(|(a, b)| a == b);
        let length: usize = same.map(|(c, _)| c.len_utf8()).sum();
        common.get(..length).unwrap_or_default()
    });
    Completion { text: format!("{parent}{common}"), candidates }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_completed_as_far_as_names_agree() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["model-a.safetensors", "model-b.safetensors", ".hidden"] {
            std::fs::write(directory.path().join(name), "").expect("written");
        }
        std::fs::create_dir(directory.path().join("sub")).expect("created");
        let complete = |text| complete(text, directory.path());
        assert_eq!(complete("m").text, "model-");
        assert_eq!(complete("m").candidates, ["model-a.safetensors", "model-b.safetensors"]);
        assert_eq!(complete("model-a").text, "model-a.safetensors");
        assert_eq!(complete("s").text, "sub/");
        assert_eq!(complete("nothing").text, "nothing");
        assert_eq!(complete(".h").text, ".hidden");
        assert_eq!(super::complete("Cargo.to", Path::new("")).text, "Cargo.toml");
        assert_eq!(complete("no/such/").candidates, Vec::<String>::new());
    }
}
