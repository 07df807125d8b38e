//! A text that can be scrolled: metadata, the legend, a receipt or an error.

use crate::text::names;
use unicode_width::UnicodeWidthChar;

/// One paragraph of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A heading.
    Heading(String),
    /// A label and its value.
    Field(String, String),
    /// A paragraph, which is wrapped.
    Text(String),
    /// Not wrapped, cut at the edge: JSON, tables.
    Verbatim(String),
    /// An empty line.
    Blank,
}

impl Line {
    /// A label and its value.
    pub fn field(label: &str, value: impl Into<String>) -> Line {
        Line::Field(label.to_owned(), value.into())
    }

    /// A paragraph.
    pub fn text(text: impl Into<String>) -> Line {
        Line::Text(text.into())
    }
}

/// Width of the labels of fields, in columns.
const LABEL_WIDTH: usize = 22;

/// A row of the text on the screen.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A heading.
    Heading(String),
    /// The label is empty on rows that continue a value.
    Field(String, String),
    /// A line of text.
    Text(String),
    /// An empty line.
    Blank,
}

/// A text that can be scrolled.
#[derive(Clone, Debug, PartialEq)]
pub struct Pager {
    /// The title of the window.
    pub title: String,
    /// The text.
    pub lines: Vec<Line>,
    scroll: usize,
}

impl Pager {
    /// Opens a text at its start.
    pub fn new(title: impl Into<String>, lines: Vec<Line>) -> Pager {
        Pager { title: title.into(), lines, scroll: 0 }
    }

    /// Number of rows above the visible ones.
    pub fn scroll(&self) -> usize {
        self.scroll
    }

    /// Scrolls by `rows` in a window of `width` × `height`, at most to the end.
    pub fn scroll_by(&mut self, rows: isize, width: usize, height: usize) {
        let last = self.rows(width).len().saturating_sub(height);
        self.scroll = self.scroll.saturating_add_signed(rows).min(last);
    }

    /// The whole text, wrapped to `width` columns.
    pub fn rows(&self, width: usize) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            match line {
                Line::Heading(text) => rows.push(Row::Heading(text.clone())),
                Line::Blank => rows.push(Row::Blank),
                Line::Verbatim(text) => rows.push(Row::Text(names::visible(text).into_owned())),
                Line::Text(text) => rows.extend(wrap(text, width).into_iter().map(Row::Text)),
                Line::Field(label, value) => {
                    let mut label = label.clone();
                    for part in wrap(value, width.saturating_sub(LABEL_WIDTH)) {
                        rows.push(Row::Field(std::mem::take(&mut label), part));
                    }
                }
            }
        }
        rows
    }

    /// The text for the clipboard and for standard output.
    pub fn plain(&self) -> String {
        let mut out = format!("{}\n", self.title);
        for line in &self.lines {
            match line {
                Line::Blank => out.push('\n'),
                Line::Heading(text) | Line::Text(text) | Line::Verbatim(text) => {
                    out.push_str(&names::visible(text));
                    out.push('\n');
                }
                Line::Field(label, value) => {
                    let value = names::visible(value);
                    out.push_str(&format!("  {label:<14}  {value}\n"));
                }
            }
        }
        out
    }

    /// Width of the longest label.
    pub fn label_width(&self) -> usize {
        LABEL_WIDTH
    }
}

/// Wraps a text at spaces; words longer than a row are broken.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut rows = Vec::new();
    for paragraph in text.split('\n') {
        let paragraph = names::visible(paragraph);
        let mut row = String::new();
        let mut used = 0;
        for word in paragraph.split_inclusive(' ') {
            let needed = names::width(word.trim_end());
            if used > 0 && used + needed > width {
                rows.push(std::mem::take(&mut row).trim_end().to_owned());
                used = 0;
            }
            for c in word.chars() {
                let columns = c.width().unwrap_or(0);
                if used + columns > width && c != ' ' {
                    rows.push(std::mem::take(&mut row));
                    used = 0;
                }
                row.push(c);
                used += columns;
            }
        }
        rows.push(row.trim_end().to_owned());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_breaks_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("abcdefghijkl m", 8), ["abcdefgh", "ijkl m"]);
        assert_eq!(wrap("a\n\nb", 8), ["a", "", "b"]);
    }

    #[test]
    fn scrolling_stops_at_the_end() {
        let mut pager = Pager::new("t", vec![Line::Blank; 10]);
        pager.scroll_by(100, 20, 4);
        assert_eq!(pager.scroll(), 6);
        pager.scroll_by(-100, 20, 4);
        assert_eq!(pager.scroll(), 0);
    }
}
