//! Where a person's files are, as the XDG base directory specification says. Knows nothing
//! else of the crate.

use std::path::PathBuf;

/// A kind of files, each with its own place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What a person sets.
    Config,
    /// What is taken up the next time.
    State,
    /// What can be found out again.
    Cache,
}

/// Where Hugging Face's hub keeps what it downloads, as its own variables say.
pub fn hugging_face() -> Option<PathBuf> {
    let set =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|p| !p.as_os_str().is_empty());
    set("HF_HUB_CACHE")
        .or_else(|| Some(set("HF_HOME")?.join("hub")))
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface/hub")))
}

/// Quantscope's directory for such files; `None` where there is no home.
pub fn of(kind: Kind) -> Option<PathBuf> {
    let (variable, under_home) = match kind {
        Kind::Config => ("XDG_CONFIG_HOME", ".config"),
        Kind::State => ("XDG_STATE_HOME", ".local/state"),
        Kind::Cache => ("XDG_CACHE_HOME", ".cache"),
    };
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set.or_else(|| Some(std::env::home_dir()?.join(under_home)))?;
    Some(base.join("quantscope"))
}
