//! Errors of subcommands: one sentence on standard error, and an exit code.

use crate::activations::ActivationsError;
use crate::checkpoint::CheckpointError;
use crate::export::SaveError;
use crate::job::JobError;
use crate::plan::target::TargetError;
use crate::plan::{Decibels, RecipeError, SelectionError};
use crate::text::{figures, names};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("{0}")]
    Selection(#[from] SelectionError),
    #[error("{0}")]
    Recipe(#[from] RecipeError),
    #[error("{}, tensor '{}': {why}", path.display(), tensor.escape_debug())]
    Tensor { path: PathBuf, tensor: String, why: String },
    #[error("{}: {why}", path.display())]
    Target { path: PathBuf, why: TargetError },
    #[error("{}: no choice of schemes brings it to {}; the smallest takes {} ({smallest} bytes)", path.display(), figures::bytes(*.wanted), figures::bytes(*.smallest))]
    Budget { path: PathBuf, wanted: u64, smallest: u64 },
    #[error("{}: its tensors take {}, which is within {} already; there is nothing to quantize", path.display(), figures::bytes(*.now), figures::bytes(*.wanted))]
    WithinBudget { path: PathBuf, wanted: u64, now: u64 },
    #[error("{}: no scheme keeps {least} in any tensor; there is nothing to quantize", path.display())]
    NoneKeeps { path: PathBuf, least: Decibels },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Export(#[from] SaveError),
    #[error("{0}")]
    Save(#[from] JobError),
    #[error("{0}")]
    Activations(#[from] ActivationsError),
    #[error("{count} of the layers' outputs could not be measured; {first}")]
    Unmeasured { count: usize, first: String },
    #[error("{count} of the tensors could not be read; {first}")]
    Unread { count: usize, first: String },
    #[error("no line of the manual contains '{word}'")]
    NotInManual { word: String },
    /// Writing failed. A closed pipe is not an error for the caller; see [`Error::exit`].
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    #[error("interrupted; nothing was written")]
    Interrupted { signal: u8 },
    #[error("cannot start the job: {0}")]
    Start(io::Error),
    #[error("cannot start worker threads; try a lower --threads")]
    NoThreads,
    #[error("a worker panicked: {0}; this is a defect of quantscope, please report it")]
    Panicked(String),
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Output(error.into())
    }
}

impl Error {
    /// Prints the error and returns the exit code.
    pub fn exit(&self) -> ExitCode {
        match self {
            Error::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Error::Interrupted { signal } => {
                fail(self);
                ExitCode::from(128 + signal)
            }
            _ => fail(self),
        }
    }
}

/// Prints an error on standard error. Control characters are escaped, because names in the
/// message come from files.
pub fn fail(error: &dyn Display) -> ExitCode {
    let sentence = error.to_string();
    // If standard error is closed there is nowhere to report it.
    let _ = writeln!(io::stderr(), "error: {}", names::visible(&sentence));
    ExitCode::FAILURE
}
