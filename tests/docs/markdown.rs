//! Reads the code blocks and links of Markdown files.

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block of code.
pub(crate) struct Block {
    /// The info string after the opening fence.
    pub info: String,
    /// The 1-based number of the line after the fence.
    pub line: usize,
    pub text: String,
}

/// A Markdown file of this repository.
pub(crate) struct Document {
    /// The path relative to the repository.
    pub name: String,
    pub text: String,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Document {
    pub(crate) fn read(path: &Path) -> Document {
        let name = path.strip_prefix(root()).expect("below the repository");
        let text = fs::read_to_string(path).expect("a text file");
        Document { name: name.display().to_string(), text }
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (index, line) in self.text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(info)) => {
                    let info = info.trim().to_owned();
                    open = Some(Block { info, line: index + 2, text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block of code is not closed", self.name);
        blocks
    }

    /// The targets of all links and images.
    pub(crate) fn links(&self) -> Vec<&str> {
        let targets = self.text.split("](").skip(1);
        targets.filter_map(|rest| rest.split(')').next()).collect()
    }
}

pub(crate) fn readme() -> Document {
    Document::read(&root().join("README.md"))
}

/// The pages of the manual, sorted by name.
pub(crate) fn guide() -> Vec<Document> {
    let entries = fs::read_dir(root().join("src/guide")).expect("the folder of the manual");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut pages: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    pages.sort();
    assert!(pages.len() > 10, "the pages of the manual were not found");
    pages.iter().map(|path| Document::read(path)).collect()
}
