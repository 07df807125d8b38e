//! What can be wrong with a checkpoint, as sentences for the person who must act.

use std::io;
use std::path::{Path, PathBuf};

/// An error with the file it was met in, and the tensor if there is one.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", path.display(), tensor.as_ref().map(|t| format!(", tensor '{}'", t.escape_debug())).unwrap_or_default())]
pub struct CheckpointError {
    pub path: PathBuf,
    pub tensor: Option<String>,
    pub problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{}", io_sentence(.0))]
    Io(#[from] io::Error),
    #[error("there is no such file or directory")]
    NotFound,
    #[error(
        "there is no such file or directory; hf://{0} opens the model of that name on the Hugging Face Hub"
    )]
    NotFoundButOnHub(String),
    #[error("no checkpoint in this directory{}", hint_or_expected(.0.as_deref()))]
    EmptyDirectory(Option<String>),
    #[error("several checkpoints in this directory, name one of them: {}", .0.join(", "))]
    Ambiguous(Vec<String>),
    #[error("several models below this directory, name one of them: {}", .0.join(", "))]
    SeveralDirectories(Vec<String>),
    #[error("this cached repository has no snapshot; the download is incomplete, start it again")]
    NoSnapshot,
    #[error("its snapshot holds no weights; download them first")]
    SnapshotWithoutWeights,
    #[error(
        "this link leads to a file that is not there; the download is incomplete, start it again"
    )]
    BrokenLink,
    #[error("only {found} of {count} parts are here, missing: {}; put all parts into one directory", .missing.join(", "))]
    MissingFiles { found: usize, count: usize, missing: Vec<String> },
    #[error(
        "{} of its {count} shards {} missing: {}{}",
        .missing.len(),
        if .missing.len() == 1 { "is" } else { "are" },
        .missing.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
        .renamed.as_ref().map_or("; download them into the same directory".to_owned(), |name| format!("; the directory holds {name}, which the index does not name (renamed?)"))
    )]
    MissingShards { count: usize, missing: Vec<String>, renamed: Option<String> },
    #[error("this is {0}; expected a checkpoint: safetensors, GGUF, burnpack, PyTorch, NPY or NPZ")]
    Foreign(String),
    #[error("{}", too_short(*.found))]
    TooShort { found: u64 },
    #[error(
        "the header claims {claimed} bytes, the file has {found} after the first 8; it is cut off or not safetensors"
    )]
    HeaderTooLong { claimed: u64, found: u64 },
    #[error("the header claims {claimed} bytes, more than the format's limit of {limit}")]
    HeaderLimit { claimed: u64, limit: u64 },
    #[error("the header is not UTF-8 JSON of the safetensors form: {0}")]
    HeaderJson(String),
    #[error("the header names this tensor twice")]
    DuplicateTensor,
    #[error("shape {shape:?} has more elements than fit 64 bits")]
    ShapeOverflow { shape: Vec<u64> },
    #[error("data offsets {start}..{end} are not in order")]
    OffsetsReversed { start: u64, end: u64 },
    #[error("shape and type need {expected} bytes, its data offsets hold {found}")]
    SizeMismatch { expected: String, found: u64 },
    #[error(
        "its data starts at byte {found} of the data section, expected {expected}: tensors must follow each other with no hole and no overlap"
    )]
    NotContiguous { expected: u64, found: u64 },
    #[error(
        "the tensors end at byte {expected} of the file, it has {found}; it was cut off or something was appended"
    )]
    FileLength { expected: u64, found: u64 },
    #[error("not a valid index of shards: {0}")]
    Index(String),
    #[error("the index names the shard '{}', which leads out of the model's directory", .0.escape_debug())]
    ShardPath(String),
    #[error("two shards, '{}' and '{}', hold it and no index says which counts", .0.escape_debug(), .1.escape_debug())]
    InTwoShards(String, String),
    #[error("more than {0} tensors")]
    TooManyTensors(u64),
    #[error("the file has changed since it was opened; open it again")]
    Changed,
    #[error("the data ends {missing} bytes early; the file has become shorter since it was opened")]
    Shrunk { missing: u64 },
    #[error("a worker panicked over it: {0}; this is a defect of quantscope, please report it")]
    Panicked(String),
    #[error("{0}")]
    Layout(String),
    #[error("it is not a JSON object: {0}; it is needed to know how the model is quantized")]
    Config(String),
    #[error("not a valid {format} file: {why}")]
    Malformed { format: &'static str, why: String },
    #[error("the header ends {missing} bytes early, at byte {at}; the file is cut off")]
    HeaderCutOff { at: u64, missing: u64 },
    #[error(
        "its data ends at byte {end} of the data section, which has {found}; the file is cut off"
    )]
    DataCutOff { end: u64, found: u64 },
    #[error(
        "its data ends at byte {end} of the data section, where the next tensor's has begun at {next}"
    )]
    Overlap { end: u64, next: u64 },
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

impl CheckpointError {
    /// Whether the directory that was named holds no model of its own, or several.
    pub fn is_a_choice(&self) -> bool {
        matches!(
            self.problem,
            Problem::EmptyDirectory(_) | Problem::Ambiguous(_) | Problem::SeveralDirectories(_)
        )
    }

    pub fn new(path: &Path, problem: impl Into<Problem>) -> Self {
        CheckpointError { path: path.to_owned(), tensor: None, problem: problem.into() }
    }

    /// The same, met with a tensor.
    pub fn about(self, tensor: &str) -> Self {
        CheckpointError { tensor: Some(tensor.to_owned()), ..self }
    }

    pub fn of_tensor(path: &Path, tensor: &str, problem: impl Into<Problem>) -> Self {
        CheckpointError::new(path, problem).about(tensor)
    }
}

pub type Result<T, E = CheckpointError> = std::result::Result<T, E>;
