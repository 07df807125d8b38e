//! The models that were opened lately, kept from one run to the next: one path a line.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Maximum number of kept models.
const MAX_MODELS: usize = 20;

/// The models kept in a file, the last one first. A missing or unreadable file holds none.
pub(super) fn load(file: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(PathBuf::from).take(MAX_MODELS).collect()
}

/// Puts a model in front of the others. A path that is not text on one line is not kept.
pub(super) fn add(file: &Path, model: &Path) -> std::io::Result<()> {
    let Some(text) = model.to_str().filter(|text| !text.contains(['\n', '\r'])) else {
        return Ok(());
    };
    let others = load(file).into_iter().filter(|other| other != model).take(MAX_MODELS - 1);
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut out = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(out, "{text}")?;
    for other in others {
        writeln!(out, "{}", other.display())?;
    }
    out.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_model_is_first_and_none_is_kept_twice() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("state/recent-models");
        assert_eq!(load(&file), Vec::<PathBuf>::new());
        for model in ["/a", "/b", "/a", "/c\nd"] {
            add(&file, Path::new(model)).expect("written");
        }
        assert_eq!(load(&file), [PathBuf::from("/a"), PathBuf::from("/b")]);
        (0..30).for_each(|n| add(&file, Path::new(&format!("/{n}"))).expect("written"));
        assert_eq!(load(&file).len(), MAX_MODELS);
    }
}
