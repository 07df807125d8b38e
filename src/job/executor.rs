//! Runs jobs: on new threads, or inline in tests.

use std::io;
use std::thread::JoinHandle;

/// Runs jobs.
pub trait Executor {
    /// Runs `work`, now or later. Debuggers and panic messages show `name`. Returns the thread
    /// to join, if there is one.
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
