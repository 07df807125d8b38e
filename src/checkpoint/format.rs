//! The formats a checkpoint's files come in, told apart by their first bytes.

use super::error::{CheckpointError, Problem, Result};
use super::{Source, burnpack, gguf, numpy, pytorch, zip};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    Gguf,
    Burnpack,
    PyTorch,
    Npy,
    Npz,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Gguf => "GGUF",
            Format::Burnpack => "burnpack",
            Format::PyTorch => "PyTorch",
            Format::Npy => "NPY",
            Format::Npz => "NPZ",
        }
    }

    /// The format of a file.
    pub(super) fn of(source: &Source) -> Result<Format> {
        let fail = |problem| Err(CheckpointError::new(source.path(), problem));
        if source.size() < 8 {
            return fail(Problem::TooShort { found: source.size() });
        }
        let mut first = [0; 9];
        let length = source.size().min(9) as usize;
        if let Some(first) = first.get_mut(..length) {
            source.read_exact(&source.open()?, first, 0)?;
        }
        if first.ends_with(b"{") {
            // The length of a header can look like any of the others.
            return Ok(Format::Safetensors);
        }
        if first.starts_with(&numpy::MAGIC) {
            return Ok(Format::Npy);
        }
        if first.starts_with(&zip::MAGIC) {
            let members = zip::members(source)?;
            let holds = |suffix: &str| members.iter().any(|m| m.name.ends_with(suffix));
            return match (holds(pytorch::PICKLE), holds(numpy::SUFFIX)) {
                (true, _) => Ok(Format::PyTorch),
                (_, true) => Ok(Format::Npz),
                _ => fail(Problem::UnknownFormat),
            };
        }
        let [a, b, c, d, ..] = first;
        match [a, b, c, d] {
            gguf::MAGIC => Ok(Format::Gguf),
            burnpack::MAGIC => Ok(Format::Burnpack),
            [0x80, 2..=5, ..] => Ok(Format::PyTorch),
            _ => Ok(Format::Safetensors),
        }
    }
}
