//! Where the work of a job runs: on a thread of its own, or wherever a test wants it.

use std::io;
use std::thread::JoinHandle;

/// Runs the work of jobs.
pub trait Executor {
    /// Runs `work`, now or later. `name` says what it is, for debuggers and panic messages.
    /// Returns the thread that runs it, if there is one to be joined.
    fn execute(
        &mut self,
        name: &str,
        work: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Option<JoinHandle<()>>>;
}

/// Runs each job on a new thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadExecutor;

impl Executor for ThreadExecutor {
    fn execute(
        &mut self,
        name: &str,
        work: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Option<JoinHandle<()>>> {
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map(Some)
    }
}
