//! Writes CSV records (RFC 4180).
//!
//! Spreadsheets evaluate a cell that begins with `=`, `+`, `-`, `@` or a tab as a formula, and
//! names may come from untrusted files. Such a text gets an apostrophe before it, which marks it
//! as text. Numbers are not changed.

use crate::text::names;
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

/// A CSV file that is written cell by cell.
pub(crate) struct CsvWriter<W: Write> {
    writer: csv::Writer<W>,
}

impl<W: Write> CsvWriter<W> {
    /// Begins a file with a row of titles.
    pub(crate) fn new<'t>(out: W, titles: impl Iterator<Item = &'t str>) -> io::Result<Self> {
        let writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
        let mut csv = CsvWriter { writer };
        for title in titles {
            csv.value(title)?;
        }
        csv.end_row()?;
        Ok(csv)
    }

    /// A cell with a trusted value.
    pub(crate) fn value(&mut self, value: impl Display) -> io::Result<()> {
        Ok(self.writer.write_field(value.to_string())?)
    }

    /// A cell with an untrusted text.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        Ok(self.writer.write_field(guarded(text).as_ref())?)
    }

    /// A cell with a number and all its digits; empty if it is unknown or NaN.
    pub(crate) fn number(&mut self, number: Option<f64>) -> io::Result<()> {
        self.value(number.map(digits).unwrap_or_default())
    }

    pub(crate) fn end_row(&mut self) -> io::Result<()> {
        Ok(self.writer.write_record(None::<&[u8]>)?)
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A text that no spreadsheet evaluates.
fn guarded(text: &str) -> Cow<'_, str> {
    let text = names::visible(text);
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}").into()
    } else {
        text
    }
}

fn digits(x: f64) -> String {
    match x {
        x if x.is_nan() => String::new(),
        x if x != 0.0 && !(1e-5..1e15).contains(&x.abs()) => format!("{x:e}"),
        x => x.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        let mut csv = CsvWriter::new(&mut out, ["name", "n"].into_iter()).expect("memory");
        csv.text(text).and_then(|()| csv.value(1)).and_then(|()| csv.end_row()).expect("memory");
        csv.finish().expect("memory");
        let out = String::from_utf8(out).expect("text");
        out.strip_prefix("name,n\r\n")
            .and_then(|rest| rest.strip_suffix(",1\r\n"))
            .expect(&out)
            .to_owned()
    }

    #[test]
    fn texts_are_quoted_and_never_formulas() {
        assert_eq!(written("encoder.weight"), "encoder.weight");
        assert_eq!(written("a,b\"c"), "\"a,b\"\"c\"");
        assert_eq!(written("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
        for start in ["=", "+", "-", "@"] {
            assert!(written(&format!("{start}1")).starts_with('\''));
        }
        assert_eq!(written("a\nb"), "a\\nb");
    }

    #[test]
    fn numbers_keep_all_digits() {
        assert_eq!(digits(-0.1), "-0.1");
        assert_eq!(digits(1.5e-7), "1.5e-7");
        assert_eq!(digits(f64::NAN), "");
        assert_eq!(digits(f64::INFINITY), "inf");
    }
}
