//! The formats of a report.

use crate::report::contents::Report;
use crate::report::{csv, html, json};
use std::io::{self, Write};
use std::path::Path;

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A page that a browser opens without a network.
    Html,
    /// One record per tensor.
    Csv,
    /// The document of `analyze --schemes`, with further keys.
    Json,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 3] = [Format::Html, Format::Csv, Format::Json];

    /// The file name extension.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Html => "html",
            Format::Csv => "csv",
            Format::Json => "json",
        }
    }

    /// The format of a path by its extension; `None` if it is none of them.
    pub fn of(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Format::ALL.into_iter().find(|format| format.extension() == extension)
    }
}

impl Report {
    /// Writes the report in `format`.
    pub fn write(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Html => html::write(self, out),
            Format::Csv => csv::write(self, out),
            Format::Json => json::write(self, out),
        }
    }
}
