//! Saving in the background.

use super::{Job, Progress};
use crate::checkpoint::Checkpoint;
use crate::export::{ExportError, Receipt, Request};
use std::sync::Arc;

/// What a save tells while it works.
#[derive(Debug)]
pub enum News {
    /// A new phase begins: what is done now, in a word or two.
    Phase(&'static str),
    Finished(Box<Result<Receipt, ExportError>>),
}

/// Starts a save. Progress counts bytes read and bytes written, verification included.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
    threads: Option<usize>,
) -> std::io::Result<Job<News>> {
    Job::start("save", Arc::new(Progress::default()), move |progress, sender| {
        let phase = |name| _ = sender.send(News::Phase(name));
        let outcome = crate::export::run(&checkpoint, &request, threads, progress, &phase);
        let _ = sender.send(News::Finished(Box::new(outcome)));
    })
}
