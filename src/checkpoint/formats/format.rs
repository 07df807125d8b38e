//! The file formats of checkpoints, detected by the first bytes.

use crate::checkpoint::Source;
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::{burnpack, foreign, gguf, numpy, pytorch, safetensors, zip};

/// The file format of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Hugging Face's safetensors.
    Safetensors,
    /// llama.cpp's GGUF.
    Gguf,
    /// Burn's burnpack.
    Burnpack,
    /// Files of `torch.save`.
    PyTorch,
    /// A NumPy array.
    Npy,
    /// A ZIP archive of NumPy arrays.
    Npz,
}

impl Format {
    /// The name to show.
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

    /// Detects the format of a file.
    ///
    /// # Errors
    ///
    /// The format is unknown, or the file cannot be read.
    pub(crate) fn of(source: &Source) -> Result<Format> {
        let fail = |problem| Err(ReadError::new(source.path(), problem));
        if source.size() < 8 {
            return fail(Problem::TooShort { found: source.size() });
        }
        let mut first = [0; 9];
        let length = source.size().min(9) as usize;
        if let Some(first) = first.get_mut(..length) {
            source.read_exact(&source.open()?, first, 0)?;
        }
        let [a, b, c, d, e, f, g, h, brace] = first;
        let header = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if brace == b'{' && header <= safetensors::HEADER_LIMIT {
            // A header length can look like the start of a ZIP archive or a pickle, so this check
            // comes first.
            return Ok(Format::Safetensors);
        }
        if first.starts_with(&numpy::MAGIC) {
            return Ok(Format::Npy);
        }
        if [zip::MAGIC, zip::EMPTY_MAGIC].contains(&[a, b, c, d]) {
            let members = zip::members(source)?;
            return match (pytorch::has_pickle(&members), numpy::is_archive(source, &members)) {
                (true, _) => Ok(Format::PyTorch),
                (_, true) => Ok(Format::Npz),
                _ => {
                    let what = pytorch::describe_archive(&members);
                    fail(Problem::Foreign(what.unwrap_or_else(|| foreign::describe_zip(&members))))
                }
            };
        }
        match [a, b, c, d] {
            gguf::MAGIC => Ok(Format::Gguf),
            burnpack::MAGIC => Ok(Format::Burnpack),
            _ if pytorch::is_pickle(source)? => Ok(Format::PyTorch),
            _ => match foreign::describe(source)? {
                Some(what) => fail(Problem::Foreign(what)),
                None => Ok(Format::Safetensors),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_detected_by_their_first_bytes() {
        let of = |bytes: &[u8]| Format::of(&Source::memory("m", bytes.to_vec().leak()));
        // `{` is also the low byte of 123 tensors.
        for (start, format) in [
            (&b"GGUF\x03\0\0\0{\0\0\0"[..], Format::Gguf),
            (b"NRUB\x01\0\0\0{\0\0\0", Format::Burnpack),
            (b"\x93NUMPY\x01\0{\0", Format::Npy),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9", Format::PyTorch),
            (b"\x80\x02\0\0\0\0\0\0{", Format::Safetensors),
            (b"PK\x03\x04\0\0\0\0{", Format::Safetensors),
            (b"\x10\0\0\0\0\0\0\0", Format::Safetensors),
        ] {
            assert_eq!(of(start).expect("known"), format, "{start:?}");
        }
        assert!(of(b"GGUF").expect_err("short").to_string().contains("too few"));
    }
}
