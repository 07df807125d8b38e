//! How the inspector is to run.

use crate::app::settings::Settings;
use crate::job::cache::Cache;
use std::path::PathBuf;

/// How the inspector is to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Worker threads; all cores if `None`.
    pub threads: Option<usize>,
    /// Where findings are kept, if they are.
    pub cache: Option<Cache>,
    pub settings: Settings,
    /// Captured activations to open at the start.
    pub activations: Vec<PathBuf>,
    /// The file that keeps marks and cursor for the next time; none if `None`.
    pub session: Option<PathBuf>,
    /// The file for the debug log; none if `None`.
    pub log: Option<PathBuf>,
    /// Relative paths typed on the screen start here; the empty path is the working directory.
    pub directory: PathBuf,
}
