//! Standard output, with a large buffer, and the width of the terminal.

use super::error::Error;
use crate::checkpoint::Checkpoint;
use crate::export::write_text;
use crate::path_error::IoContext;
use std::io::{BufWriter, IsTerminal, StdoutLock, Write, stdout};
use std::path::Path;

pub(super) type Output = BufWriter<StdoutLock<'static>>;

const BUFFER_BYTES: usize = 256 * 1024;

/// Standard output. The caller must flush it, so that no error is lost.
pub(super) fn output() -> Output {
    BufWriter::with_capacity(BUFFER_BYTES, stdout().lock())
}

/// Prints a text unchanged.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = output();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a text to `path`: to standard output if it is `-`, directly if it is a pipe or a
/// device, and atomically if it is a file. An existing file is replaced only if `force` is
/// set.
pub(super) fn write(
    source: &Checkpoint,
    path: &Path,
    force: bool,
    text: &str,
) -> Result<(), Error> {
    if path == Path::new("-") || path == Path::new("/dev/stdout") {
        return print(text);
    }
    let is_stream = path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir());
    if is_stream {
        let open = std::fs::OpenOptions::new().write(true).open(path);
        let written = open.and_then(|mut stream| stream.write_all(text.as_bytes()));
        return Ok(written.context(path)?);
    }
    // If an interrupted command resumes, it has already written the file.
    if path.is_file() && std::fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    Ok(write_text(source, path, force, |out| out.write_all(text.as_bytes()))?)
}

/// Columns of the terminal; `None` if the output is not a terminal and must not depend on one.
pub(super) fn width() -> Option<usize> {
    if !stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}
