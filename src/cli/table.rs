//! Aligned tables. In a pipe a table is as wide as its cells. On a terminal names and notes are
//! shortened, and less important columns are left out if they do not fit.

use crate::text::names;
use rayon::prelude::*;
use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// How a column is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Left-aligned, and shortened in the middle if space is short.
    Name,
    /// Left-aligned, and cut at the end if space is short.
    Note,
    Left,
    Right,
    /// Right-aligned, and left out if space is short, last column first.
    Optional,
    /// Left-aligned, and left out if space is short, last column first.
    OptionalLeft,
}

/// A table with typed columns.
#[derive(Debug)]
pub(super) struct Table<'t> {
    columns: Vec<(&'t str, Column)>,
    parts: Vec<Rows>,
}

/// Rows of cells.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// All cells end to end, so that thousands of rows take few allocations.
    text: String,
    ends: Vec<usize>,
}

impl Rows {
    /// Appends a cell; cells are added row by row.
    pub(super) fn cell(&mut self, content: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{content}");
        self.ends.push(self.text.len());
    }

    /// Calls `show` with the cells of each row.
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

/// Parts that are formatted in parallel before they are printed.
const PARALLEL_PARTS: usize = 8;

/// Blanks between two columns.
const COLUMN_GAP: usize = 2;

/// The least width of a name, enough to tell the layers of a model apart.
const NAME_MIN: usize = 36;

/// The least width of a note.
const NOTE_MIN: usize = 16;

impl<'t> Table<'t> {
    pub(super) fn new(columns: &[(&'t str, Column)]) -> Table<'t> {
        Table { columns: columns.to_vec(), parts: Vec::new() }
    }

    /// Adds the next cell, row by row.
    pub(super) fn cell(&mut self, content: impl Display) {
        match self.parts.last_mut() {
            Some(part) => part.cell(content),
            None => {
                let mut part = Rows::default();
                part.cell(content);
                self.parts.push(part);
            }
        }
    }

    /// Appends rows.
    pub(super) fn append(&mut self, part: Rows) {
        self.parts.push(part);
    }

    /// Prints the table, in at most `width` columns if given.
    pub(super) fn print(&self, out: &mut impl Write, width: Option<usize>) -> io::Result<()> {
        let natural = self.natural_widths();
        let widths = match width {
            Some(limit) => self.fitted(&natural, limit),
            None => natural,
        };
        let titles: Vec<&str> = self.columns.iter().map(|(title, _)| *title).collect();
        self.print_row(out, &titles, &widths)?;
        for parts in self.parts.chunks(PARALLEL_PARTS) {
            let lines: Vec<io::Result<Vec<u8>>> =
                parts.par_iter().map(|part| self.lines(part, &widths)).collect();
            for lines in lines {
                out.write_all(&lines?)?;
            }
        }
        Ok(())
    }

    /// Formats the rows of a part.
    fn lines(&self, part: &Rows, widths: &[usize]) -> io::Result<Vec<u8>> {
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
        let of_part = |part: &Rows| {
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

    /// Column widths that fit `limit`; 0 for a column that is left out.
    fn fitted(&self, natural: &[usize], limit: usize) -> Vec<usize> {
        let mut widths = natural.to_vec();
        let floor = |column| match column {
            Column::Name => NAME_MIN,
            Column::Note => NOTE_MIN,
            _ => usize::MAX,
        };
        // The width of the table with names and notes at their least width.
        let least = |widths: &[usize]| -> usize {
            let cells =
                widths.iter().zip(&self.columns).map(|(&w, &(_, column))| w.min(floor(column)));
            cells
                .filter(|&w| w > 0)
                .map(|w| w + COLUMN_GAP)
                .sum::<usize>()
                .saturating_sub(COLUMN_GAP)
        };
        for at in (0..widths.len()).rev() {
            let optional = matches!(self.columns[at].1, Column::Optional | Column::OptionalLeft);
            if optional && least(&widths) > limit {
                widths[at] = 0;
            }
        }
        let mut spare = limit.saturating_sub(least(&widths));
        for (width, &(_, column)) in widths.iter_mut().zip(&self.columns) {
            let short = (*width).min(floor(column));
            let given = (*width - short).min(spare);
            spare -= given;
            *width = short + given;
        }
        widths
    }

    fn print_row(&self, out: &mut impl Write, cells: &[&str], widths: &[usize]) -> io::Result<()> {
        let mut pending = 0;
        let mut first = true;
        for ((cell, &width), &(_, column)) in cells.iter().zip(widths).zip(&self.columns) {
            if width == 0 {
                continue;
            }
            if !std::mem::take(&mut first) {
                pending += COLUMN_GAP;
            }
            let (mut cell, mut own) = (Cow::Borrowed(*cell), names::width(cell));
            if own > width {
                cell = shortened(&cell, width, column).into_owned().into();
                own = names::width(&cell);
            }
            let blank = width.saturating_sub(own);
            let (before, after) = match column {
                Column::Right | Column::Optional => (blank, 0),
                _ => (0, blank),
            };
            // Blanks are written only before another cell, so that no line ends with one.
            pending += before;
            if !cell.is_empty() {
                write_blanks(out, std::mem::take(&mut pending))?;
                out.write_all(cell.as_bytes())?;
            }
            pending += after;
        }
        out.write_all(b"\n")
    }
}

fn write_blanks(out: &mut impl Write, mut count: usize) -> io::Result<()> {
    const SOME: &[u8] = &[b' '; 64];
    while count > 0 {
        let part = SOME.get(..count).unwrap_or(SOME);
        out.write_all(part)?;
        count -= part.len();
    }
    Ok(())
}

/// Shortens a cell to `width` columns.
fn shortened(cell: &str, width: usize, column: Column) -> Cow<'_, str> {
    match column {
        Column::Name => names::shorten(cell, width),
        _ => names::cut(cell, width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn printed(width: Option<usize>) -> String {
        let mut table = Table::new(&[
            ("tensor", Column::Name),
            ("shape", Column::Left),
            ("SQNR", Column::Right),
            ("max error", Column::Optional),
            ("note", Column::Note),
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
    fn without_a_limit_the_table_is_as_wide_as_its_cells() {
        insta::assert_snapshot!(printed(None), @r"
        tensor                                  shape      SQNR  max error  note
        model.layers.0.self_attn.q_proj.weight  [2, 2]  31.2 dB      0.001
        größe                                   [2, 2]  31.2 dB      0.001  it is an embedding table
        ");
    }

    #[test]
    fn on_a_terminal_no_line_is_wider_than_the_terminal() {
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
