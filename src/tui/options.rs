//! The options of the inspector.

use crate::app::settings::Settings;
use crate::job::cache::Cache;
use std::path::PathBuf;

/// The options of the inspector.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Worker threads; all cores if `None`.
    pub threads: Option<usize>,
    /// The cache of analyses, if it is used.
    pub cache: Option<Cache>,
    /// The user's settings.
    pub settings: Settings,
    /// Captured activations to open when the inspector starts.
    pub activations: Vec<PathBuf>,
    /// The session file, if the session is saved.
    pub session: Option<PathBuf>,
    /// The file that keeps the recently opened models; `None` keeps none.
    pub recent: Option<PathBuf>,
    /// The cache of the Hugging Face hub, whose models are offered.
    pub hub: Option<PathBuf>,
    /// The file for the debug log; `None` writes none.
    pub log: Option<PathBuf>,
    /// Relative paths typed on the screen start here; the empty path is the working directory.
    pub directory: PathBuf,
}
