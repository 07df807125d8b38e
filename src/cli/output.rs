//! Standard output: buffered widely, its width known when a terminal shows it.

use super::error::Error;
use crate::text::names;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write, stdout};

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

/// Writes a value as JSON, with all that a terminal would obey or hide escaped in it: it
/// means the same, and names from files stay harmless wherever it is shown.
pub fn json(out: &mut impl Write, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Visible))
}

struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| names::is_hidden(*c)) {
            let (before, after) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_and_harmless() {
        let text = "\u{202e}größe\u{9b}31m\n\"\u{1b}\u{e0041}\u{7f}";
        let mut written = Vec::new();
        json(&mut written, text).expect("memory");
        let written = String::from_utf8(written).expect("text");
        assert_eq!(written, r#""\u202egröße\u009b31m\n\"\u001b\udb40\udc41\u007f""#);
        assert_eq!(serde_json::from_str::<String>(&written).expect("a string"), text);
    }
}
