//! Aligned tables. Piped, a table is as wide as its cells; on a terminal its name column
//! and its notes are shortened and columns that matter less give way.

use crate::text::names;
use rayon::prelude::*;
use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// How a column is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Shortened in its middle where space is scarce.
    Name,
    /// Shortened at its end.
    Note,
    Left,
    Right,
    /// Right-aligned, and left out where space is scarce; the last one first.
    Optional,
    /// The same, left-aligned.
    OptionalLeft,
}

/// Rows of as many cells as there are columns.
#[derive(Debug)]
pub(super) struct Table<'t> {
    columns: Vec<(&'t str, Kind)>,
    parts: Vec<Part>,
}

/// Some of the rows.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// All cells end to end: thousands of rows are a few allocations.
    text: String,
    ends: Vec<usize>,
}

impl Part {
    /// Adds the next cell, row by row.
    pub(super) fn cell(&mut self, content: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{content}");
        self.ends.push(self.text.len());
    }

    /// Shows each row's cells.
    fn each_row<'p>(&'p self, columns: usize, mut show: impl FnMut(&[&'p str])) {
        let mut start = 0;
        let mut cells = Vec::with_capacity(columns);
        for ends in self.ends.chunks(columns) {
            cells.clear();
            for &end in ends {
                cells.push(&self.text[start..end]);
                start = end;
            }
            show(&cells);
        }
    }
}

/// Parts that are laid out at once.
const AT_ONCE: usize = 8;

const GAP: usize = 2;
/// Enough to tell the layers of a model apart.
const NAME_MIN: usize = 36;
const NOTE_MIN: usize = 16;

impl<'t> Table<'t> {
    pub(super) fn new(columns: &[(&'t str, Kind)]) -> Table<'t> {
        Table { columns: columns.to_vec(), parts: Vec::new() }
    }

    /// Adds the next cell, row by row.
    pub(super) fn cell(&mut self, content: impl Display) {
        match self.parts.last_mut() {
            Some(part) => part.cell(content),
            None => {
                let mut part = Part::default();
                part.cell(content);
                self.parts.push(part);
            }
        }
    }

    /// Adds rows made elsewhere.
    pub(super) fn append(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// Prints it, within `width` columns if they are limited.
    pub(super) fn print(&self, out: &mut impl Write, width: Option<usize>) -> io::Result<()> {
        let natural = self.natural_widths();
        let widths = match width {
            Some(limit) => self.fitted(&natural, limit),
            None => natural,
        };
        let titles: Vec<&str> = self.columns.iter().map(|(title, _)| *title).collect();
        self.print_row(out, &titles, &widths)?;
        for parts in self.parts.chunks(AT_ONCE) {
            let lines: Vec<io::Result<Vec<u8>>> =
                parts.par_iter().map(|part| self.lines(part, &widths)).collect();
            for lines in lines {
                out.write_all(&lines?)?;
            }
        }
        Ok(())
    }

    /// The rows of a part as they are printed.
    fn lines(&self, part: &Part, widths: &[usize]) -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        let mut printed = Ok(());
        part.each_row(self.columns.len(), |cells| {
            if printed.is_ok() {
                printed = self.print_row(&mut lines, cells, widths);
            }
        });
        printed.map(|()| lines)
    }

    fn natural_widths(&self) -> Vec<usize> {
        let titles = || self.columns.iter().map(|(title, _)| names::width(title)).collect();
        let of_part = |part: &Part| {
            let mut widths: Vec<usize> = titles();
            part.each_row(self.columns.len(), |cells| {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(names::width(cell));
                }
            });
            widths
        };
        let larger =
            |a: Vec<usize>, b: Vec<usize>| a.into_iter().zip(b).map(|(a, b)| a.max(b)).collect();
        self.parts.par_iter().map(of_part).reduce(titles, larger)
    }

    /// Widths that fit `limit`; 0 for a column that is left out.
    fn fitted(&self, natural: &[usize], limit: usize) -> Vec<usize> {
        let mut widths = natural.to_vec();
        let floor = |kind| match kind {
            Kind::Name => NAME_MIN,
            Kind::Note => NOTE_MIN,
            _ => usize::MAX,
        };
        // What the table needs when names and notes are as short as they may be.
        let least = |widths: &[usize]| -> usize {
            let cells = widths.iter().zip(&self.columns).map(|(&w, &(_, kind))| w.min(floor(kind)));
            cells.filter(|&w| w > 0).map(|w| w + GAP).sum::<usize>().saturating_sub(GAP)
        };
        for at in (0..widths.len()).rev() {
            let optional = matches!(self.columns[at].1, Kind::Optional | Kind::OptionalLeft);
            if optional && least(&widths) > limit {
                widths[at] = 0;
            }
        }
        let mut spare = limit.saturating_sub(least(&widths));
        for (width, &(_, kind)) in widths.iter_mut().zip(&self.columns) {
            let short = (*width).min(floor(kind));
            let given = (*width - short).min(spare);
            spare -= given;
            *width = short + given;
        }
        widths
    }

    fn print_row(&self, out: &mut impl Write, cells: &[&str], widths: &[usize]) -> io::Result<()> {
        let mut pending = 0;
        let mut first = true;
        for ((cell, &width), &(_, kind)) in cells.iter().zip(widths).zip(&self.columns) {
            if width == 0 {
                continue;
            }
            if !std::mem::take(&mut first) {
                pending += GAP;
            }
            let cell = shortened(cell, width, kind);
            let blank = width.saturating_sub(names::width(&cell));
            let (before, after) = match kind {
                Kind::Right | Kind::Optional => (blank, 0),
                _ => (0, blank),
            };
            // Blanks are held back until something follows them: no line ends in one.
            pending += before;
            if !cell.is_empty() {
                blanks(out, std::mem::take(&mut pending))?;
                out.write_all(cell.as_bytes())?;
            }
            pending += after;
        }
        out.write_all(b"\n")
    }
}

fn blanks(out: &mut impl Write, mut count: usize) -> io::Result<()> {
    const SOME: &[u8] = &[b' '; 64];
    while count > 0 {
        let part = SOME.get(..count).unwrap_or(SOME);
        out.write_all(part)?;
        count -= part.len();
    }
    Ok(())
}

/// A cell in so many columns; it holds nothing that a terminal would obey.
fn shortened(cell: &str, width: usize, kind: Kind) -> Cow<'_, str> {
    match kind {
        Kind::Name => names::shorten(cell, width),
        _ => names::cut(cell, width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn printed(width: Option<usize>) -> String {
        let mut table = Table::new(&[
            ("tensor", Kind::Name),
            ("shape", Kind::Left),
            ("SQNR", Kind::Right),
            ("max error", Kind::Optional),
            ("note", Kind::Note),
        ]);
        for (name, note) in
            [("model.layers.0.self_attn.q_proj.weight", ""), ("größe", "it is an embedding table")]
        {
            for cell in [name, "[2, 2]", "31.2 dB", "0.001", note] {
                table.cell(cell);
            }
        }
        let mut out = Vec::new();
        table.print(&mut out, width).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn piped_it_is_as_wide_as_its_cells() {
        insta::assert_snapshot!(printed(None), @r"
        tensor                                  shape      SQNR  max error  note
        model.layers.0.self_attn.q_proj.weight  [2, 2]  31.2 dB      0.001
        größe                                   [2, 2]  31.2 dB      0.001  it is an embedding table
        ");
    }

    #[test]
    fn on_a_terminal_nothing_is_wider_than_it() {
        for width in 71..120 {
            for line in printed(Some(width)).lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
        insta::assert_snapshot!(printed(Some(71)), @r"
        tensor                                shape      SQNR  note
        model.layers.0.se…attn.q_proj.weight  [2, 2]  31.2 dB
        größe                                 [2, 2]  31.2 dB  it is an embedd…
        ");
    }
}
