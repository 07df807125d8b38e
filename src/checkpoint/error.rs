//! Errors of reading checkpoints, as sentences that say what to do.

use crate::path_error::PathError;
use std::io;
use std::path::{Path, PathBuf};

/// An error with the path of the file and the name of the tensor, if there is one.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", path.display(), tensor.as_ref().map(|t| format!(", tensor '{}'", t.escape_debug())).unwrap_or_default())]
pub struct ReadError {
    /// The file or directory.
    pub path: PathBuf,
    /// The name of the tensor, if the problem concerns one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a checkpoint. The message says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Problem {
    /// The operating system reported an error.
    #[error("{}", io_sentence(.0))]
    Io(#[from] io::Error),
    /// Nothing is at the path.
    #[error("there is no such file or directory")]
    NotFound,
    /// Nothing is at the path, which looks like the name of a repository on the Hub.
    #[error(
        "there is no such file or directory; hf://{0} opens the model of that name on the Hugging Face Hub"
    )]
    NotFoundButOnHub(String),
    /// The directory contains no checkpoint; the text says what it contains instead.
    #[error("no checkpoint in this directory{}", hint_or_expected(.0.as_deref()))]
    EmptyDirectory(Option<String>),
    /// The directory contains several checkpoints, with these names.
    #[error("several checkpoints in this directory, name one of them: {}", .0.join(", "))]
    Ambiguous(Vec<String>),
    /// Several subdirectories contain a model.
    #[error("several models below this directory, name one of them: {}", .0.join(", "))]
    SeveralDirectories(Vec<String>),
    /// A repository in the Hub's cache has no snapshot.
    #[error("this cached repository has no snapshot; the download is incomplete, start it again")]
    NoSnapshot,
    /// A snapshot in the Hub's cache contains no weights.
    #[error("its snapshot holds no weights; download them first")]
    SnapshotWithoutWeights,
    /// A link leads to a missing file.
    #[error(
        "this link leads to a file that is not there; the download is incomplete, start it again"
    )]
    BrokenLink,
    /// Files of a numbered set are missing.
    #[error("only {found} of {count} parts are here, missing: {}; put all parts into one directory", .missing.join(", "))]
    MissingFiles { found: usize, count: usize, missing: Vec<String> },
    /// Shards named in an index are missing. `renamed` is a file that may be one of them.
    #[error(
        "{} of its {count} shards {} missing: {}{}",
        .missing.len(),
        if .missing.len() == 1 { "is" } else { "are" },
        .missing.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
        .renamed.as_ref().map_or("; download them into the same directory".to_owned(), |name| format!("; the directory holds {name}, which the index does not name (renamed?)"))
    )]
    MissingShards { count: usize, missing: Vec<String>, renamed: Option<String> },
    /// The file has another format, described by the text.
    #[error("this is {0}; expected a checkpoint: safetensors, GGUF, burnpack, PyTorch, NPY or NPZ")]
    Foreign(String),
    /// The file is too short for any format.
    #[error("{}", too_short(*.found))]
    TooShort { found: u64 },
    /// The header would end after the end of the file.
    #[error(
        "the header claims {claimed} bytes, the file has {found} after the first 8; it is cut off or not safetensors"
    )]
    HeaderTooLong { claimed: u64, found: u64 },
    /// The header exceeds a limit.
    #[error("the header claims {claimed} bytes, more than the format's limit of {limit}")]
    HeaderLimit { claimed: u64, limit: u64 },
    /// The header is not valid JSON, or not of the expected form.
    #[error("the header is not UTF-8 JSON of the safetensors form: {0}")]
    HeaderJson(String),
    /// A tensor is listed twice.
    #[error("the header names this tensor twice")]
    DuplicateTensor,
    /// A shape has too many elements.
    #[error("shape {shape:?} has more elements than fit 64 bits")]
    ShapeOverflow { shape: Vec<u64> },
    /// The data ends before it starts.
    #[error("data offsets {start}..{end} are not in order")]
    OffsetsReversed { start: u64, end: u64 },
    /// The size of the data does not fit shape and type.
    #[error("shape and type need {expected} bytes, its data offsets hold {found}")]
    SizeMismatch { expected: String, found: u64 },
    /// There is a gap or an overlap between tensors.
    #[error(
        "its data starts at byte {found} of the data section, expected {expected}: tensors must follow each other with no hole and no overlap"
    )]
    NotContiguous { expected: u64, found: u64 },
    /// The file does not end where the data ends.
    #[error(
        "the tensors end at byte {expected} of the file, it has {found}; it was cut off or something was appended"
    )]
    FileLength { expected: u64, found: u64 },
    /// The index is invalid.
    #[error("not a valid index of shards: {0}")]
    Index(String),
    /// The index names a file outside its directory.
    #[error("the index names the shard '{}', which leads out of the model's directory", .0.escape_debug())]
    ShardPath(String),
    /// A tensor is in two shards.
    #[error("two shards, '{}' and '{}', hold it, and no index says which one to use", .0.escape_debug(), .1.escape_debug())]
    InTwoShards(String, String),
    /// The file lists too many tensors.
    #[error("more than {0} tensors")]
    TooManyTensors(u64),
    /// The file was changed while it was open.
    #[error("the file has changed since it was opened; open it again")]
    Changed,
    /// The file was truncated while it was open.
    #[error("the data ends {missing} bytes early; the file has become shorter since it was opened")]
    Shrunk { missing: u64 },
    /// A worker thread panicked.
    #[error("a worker panicked over it: {0}; this is a defect of quantscope, please report it")]
    Panicked(String),
    /// The stored data of a tensor is invalid.
    #[error("{0}")]
    Layout(String),
    /// The config is invalid.
    #[error("it is not a JSON object: {0}; it is needed to know how the model is quantized")]
    Config(String),
    /// The file is not valid for its format.
    #[error("not a valid {format} file: {why}")]
    Malformed { format: &'static str, why: String },
    /// The file ends inside the header.
    #[error("the header ends {missing} bytes early, at byte {at}; the file is cut off")]
    HeaderCutOff { at: u64, missing: u64 },
    /// The file ends inside the data of a tensor.
    #[error(
        "its data ends at byte {end} of the data section, which has {found}; the file is cut off"
    )]
    DataCutOff { end: u64, found: u64 },
    /// The data of two tensors overlaps.
    #[error(
        "its data ends at byte {end} of the data section, after the next tensor's data begins at {next}"
    )]
    Overlap { end: u64, next: u64 },
    /// Shards have different formats.
    #[error("it is a {other} file among shards of {first}")]
    MixedFormats { first: &'static str, other: &'static str },
}

fn hint_or_expected(hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!(": {hint}"),
        None => ": expected model.safetensors, a *.safetensors.index.json, or a file that ends in .safetensors, .bin, .pt, .pth, .ckpt, .gguf, .bpk or .npz".to_owned(),
    }
}

fn too_short(found: u64) -> String {
    match found {
        0 => "the file is empty, too few bytes for a header; the download did not start".to_owned(),
        1 => "the file has 1 byte, too few for a header; it may not have been downloaded whole"
            .to_owned(),
        _ => format!(
            "the file has {found} bytes, too few for a header of 8; it may not have been downloaded whole"
        ),
    }
}

fn io_sentence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied; it must be readable".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory, expected a file".to_owned(),
        _ => error.to_string(),
    }
}

impl ReadError {
    /// Returns whether the user has to choose a model: the opened directory has none of its own, or
    /// several.
    pub fn needs_a_choice(&self) -> bool {
        matches!(
            self.problem,
            Problem::EmptyDirectory(_) | Problem::Ambiguous(_) | Problem::SeveralDirectories(_)
        )
    }

    /// Creates an error about a file.
    pub fn new(path: &Path, problem: impl Into<Problem>) -> Self {
        ReadError { path: path.to_owned(), tensor: None, problem: problem.into() }
    }

    /// Adds the name of the tensor.
    pub fn about(self, tensor: &str) -> Self {
        ReadError { tensor: Some(tensor.to_owned()), ..self }
    }

    /// Creates an error about a tensor of a file.
    pub fn of_tensor(path: &Path, tensor: &str, problem: impl Into<Problem>) -> Self {
        ReadError::new(path, problem).about(tensor)
    }
}

impl From<PathError> for ReadError {
    fn from(PathError { path, source }: PathError) -> Self {
        ReadError { path, tensor: None, problem: Problem::Io(source) }
    }
}

/// The result of reading a checkpoint.
pub type Result<T, E = ReadError> = std::result::Result<T, E>;
