//! Standard output: buffered widely, its width known when a terminal shows it.

use super::error::Error;
use std::io::{BufWriter, IsTerminal, StdoutLock, Write, stdout};

pub type Output = BufWriter<StdoutLock<'static>>;

const BUFFER: usize = 256 * 1024;

/// Standard output. Whoever writes to it flushes it, so that no error is lost.
pub fn output() -> Output {
    BufWriter::with_capacity(BUFFER, stdout().lock())
}

/// Prints a text as it is.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = output();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Columns of the terminal; `None` when the output goes elsewhere and must be stable.
pub fn width() -> Option<usize> {
    if !stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}
