//! Writes JSON that is safe to show on a terminal.

use super::names;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use std::io::{self, Write};

/// Writes a value as JSON. Control characters and invisible characters in strings are escaped,
/// so that names from files cannot control the terminal.
pub(crate) fn write(
    out: &mut impl Write,
    value: &(impl Serialize + ?Sized),
) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Visible))
}

struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if names::is_printable_ascii(fragment) {
            return writer.write_all(fragment.as_bytes());
        }
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
    fn hidden_characters_are_escaped_and_the_value_is_the_same() {
        let text = "\u{202e}größe\u{9b}31m\n\"\u{1b}\u{e0041}\u{7f}";
        let mut written = Vec::new();
        write(&mut written, text).expect("memory");
        let written = String::from_utf8(written).expect("text");
        assert_eq!(written, r#""\u202egröße\u009b31m\n\"\u001b\udb40\udc41\u007f""#);
        assert_eq!(serde_json::from_str::<String>(&written).expect("a string"), text);
    }
}
