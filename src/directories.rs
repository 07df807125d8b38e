//! The user's directories, by the XDG base directory specification. Imports nothing else of
//! the crate.

use etcetera::base_strategy::{BaseStrategy, Xdg};
use std::path::PathBuf;

/// A purpose of files, each with its own directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryKind {
    /// Settings written by the user.
    Config,
    /// Sessions that are restored.
    State,
    /// Results that can be computed again.
    Cache,
}

/// The download cache of the Hugging Face hub, from its environment variables.
pub fn hugging_face() -> Option<PathBuf> {
    set("HF_HUB_CACHE").or_else(|| Some(hugging_face_home()?.join("hub")))
}

/// The directory of Hugging Face's software: its cache and the user's token.
pub(crate) fn hugging_face_home() -> Option<PathBuf> {
    set("HF_HOME")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))
}

/// The path in an environment variable that is not empty.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty())
}

/// The program's directory for files of `kind`; `None` if there is no home directory.
pub fn of(kind: DirectoryKind) -> Option<PathBuf> {
    let base = Xdg::new().ok()?;
    let directory = match kind {
        DirectoryKind::Config => base.config_dir(),
        DirectoryKind::State => base.state_dir()?,
        DirectoryKind::Cache => base.cache_dir(),
    };
    Some(directory.join("quantscope"))
}
