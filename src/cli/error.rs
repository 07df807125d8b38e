//! Errors of subcommands: one sentence on standard error, and an exit code.

use crate::activations::ActivationsError;
use crate::checkpoint::ReadError;
use crate::export::SaveError;
use crate::job::JobError;
use crate::path_error::PathError;
use crate::plan::target::TargetError;
use crate::plan::{Decibels, RecipeError, SelectionError};
use crate::text::{figures, names};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why a subcommand failed, by layer: reading, the request, saving, background work, results.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A checkpoint could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// Recorded inputs could not be read or do not fit the checkpoint.
    #[error("{0}")]
    Activations(#[from] ActivationsError),
    /// A file beside the checkpoint could not be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The settings could not be read.
    #[error("{0}")]
    Settings(String),

    /// The arguments do not fit each other or the model.
    #[error("{0}")]
    Usage(#[from] UsageError),
    /// Tensors meet a condition of `--fail-on`.
    #[error("{}: {} --fail-on; first '{}': {why}", path.display(), failing(*count), tensor.escape_debug())]
    Condition { path: PathBuf, count: usize, tensor: String, why: String },
    /// `diff --exit-code` found differences.
    #[error("{} and {} differ: {what}", a.display(), b.display())]
    Different { a: PathBuf, b: PathBuf, what: String },

    /// A saved model will not load.
    #[error("{}: {conclusion}", path.display())]
    WontLoad { path: PathBuf, conclusion: String },

    /// The output could not be planned, written or verified.
    #[error("{0}")]
    Save(#[from] SaveError),
    /// A job failed.
    #[error("{0}")]
    Job(#[from] JobError),
    /// A signal arrived.
    #[error("interrupted")]
    Interrupted { signal: u8 },
    /// A signal arrived during a save; OUT is unchanged.
    #[error("{}", interrupted_save(unfinished.as_deref()))]
    SaveInterrupted { signal: u8, unfinished: Option<Box<JobError>> },
    /// The thread of a job could not be started.
    #[error("cannot start the job: {0}")]
    Start(io::Error),
    /// Worker threads could not be started.
    #[error("cannot start worker threads; try a lower --threads")]
    NoThreads,
    /// A worker panicked.
    #[error("a worker panicked: {0}; this is a defect of quantscope, please report it")]
    Panicked(String),

    /// Some output errors could not be measured.
    #[error("{count} of the layers' outputs could not be measured; {first}")]
    Unmeasured { count: usize, first: String },
    /// Some tensors could not be read.
    #[error("{count} of the tensors could not be read; {first}")]
    Unread { count: usize, first: String },
    /// `help --search` found nothing.
    #[error("no line of the manual contains '{word}'")]
    NotInManual { word: String },
    /// Writing failed. A closed pipe is not an error for the caller; see [`Error::exit`].
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// A mistake in the arguments of a subcommand that the parser cannot find without the model.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A pattern selects nothing.
    #[error("{0}")]
    Selection(#[from] SelectionError),
    /// A recipe is invalid or does not fit the checkpoint.
    #[error("{0}")]
    Recipe(#[from] RecipeError),
    /// A tensor does not have what was requested.
    #[error("{}, tensor '{}': {why}", path.display(), tensor.escape_debug())]
    Tensor { path: PathBuf, tensor: String, why: String },
    /// Options do not fit each other or the file that they name.
    #[error("{}: {why}", path.display())]
    Options { path: PathBuf, why: String },
    /// The target does not fit the checkpoint.
    #[error("{}: {why}", path.display())]
    Target { path: PathBuf, why: TargetError },
    /// No choice of schemes is small enough.
    #[error("{}: no choice of schemes brings it to {}; the smallest takes {} ({smallest} bytes)", path.display(), figures::bytes(*.wanted), figures::bytes(*.smallest))]
    Budget { path: PathBuf, wanted: u64, smallest: u64 },
    /// The model is small enough already.
    #[error("{}: its tensors take {}, which is within {} already; there is nothing to quantize", path.display(), figures::bytes(*.now), figures::bytes(*.wanted))]
    WithinBudget { path: PathBuf, wanted: u64, now: u64 },
    /// No scheme is good enough for any tensor.
    #[error("{}: no scheme keeps {least} in any tensor; there is nothing to quantize", path.display())]
    NoneKeeps { path: PathBuf, least: Decibels },
    /// No tensor has this name.
    #[error("{}: no tensor is named '{}'{}", path.display(), name.escape_debug(), suggestion(nearest))]
    NoSuchTensor { path: PathBuf, name: String, nearest: Vec<String> },
}

impl UsageError {
    /// Options that do not fit each other or the file at `path`.
    pub fn options(path: &Path, why: impl Into<String>) -> Self {
        UsageError::Options { path: path.to_owned(), why: why.into() }
    }
}

impl From<PathError> for Error {
    fn from(PathError { path, source }: PathError) -> Self {
        Error::File { path, source }
    }
}

impl From<SelectionError> for Error {
    fn from(error: SelectionError) -> Self {
        UsageError::from(error).into()
    }
}

impl From<RecipeError> for Error {
    fn from(error: RecipeError) -> Self {
        UsageError::from(error).into()
    }
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
            Error::Interrupted { signal } | Error::SaveInterrupted { signal, .. } => {
                fail(self);
                ExitCode::from(128 + signal)
            }
            _ => fail(self),
        }
    }
}

fn interrupted_save(unfinished: Option<&JobError>) -> String {
    match unfinished {
        Some(JobError::Unfinished { kept, .. }) => format!("interrupted; {kept}"),
        _ => "interrupted; nothing was written".to_owned(),
    }
}

/// `1 tensor fails`, `3 tensors fail`.
fn failing(count: usize) -> String {
    let verb = if count == 1 { "fails" } else { "fail" };
    format!("{} {verb}", figures::counted(count, "tensor"))
}

/// The end of a sentence that suggests names, most similar first.
fn suggestion(nearest: &[String]) -> String {
    let quoted: Vec<String> =
        nearest.iter().map(|name| format!("'{}'", name.escape_debug())).collect();
    match quoted.split_first() {
        None => String::new(),
        Some((first, [])) => format!("; the nearest name is {first}"),
        Some((first, others)) => {
            format!("; the nearest name is {first}, then {}", others.join(", "))
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
