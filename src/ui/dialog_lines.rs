//! The lines of a dialog, fitted to the screen, and its keys.

use crate::app::keys::Context;
use crate::app::pager::wrap;
use crate::app::{Action as A, App};
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use std::ops::Range;

/// Width of dialogs, in columns.
pub(super) const WIDTH: u16 = crate::ui::layout::DIALOG_WIDTH;

/// Draws the lines of a dialog from top to bottom.
pub(super) struct DialogLines<'a> {
    pub lines: Vec<Line<'a>>,
    /// Lines that are left out if there is no room for all: explanations.
    optional: Range<usize>,
    pub width: usize,
}

impl<'a> DialogLines<'a> {
    pub(super) fn new(screen: Rect) -> DialogLines<'a> {
        let window = crate::ui::layout::window(screen.as_size(), WIDTH, 1);
        let width = usize::from(window.width.saturating_sub(6));
        DialogLines { lines: Vec::new(), optional: 0..0, width }
    }

    pub(super) fn push(&mut self, line: impl Into<Line<'a>>) {
        self.lines.push(line.into());
    }

    pub(super) fn extend(&mut self, lines: Vec<Line<'a>>) {
        self.lines.extend(lines);
    }

    pub(super) fn blank(&mut self) {
        self.lines.push(Line::default());
    }

    pub(super) fn wrapped(&mut self, text: &str, style: Style) {
        for row in wrap(text, self.width) {
            self.lines.push(Line::styled(row, style));
        }
    }

    /// Adds an explanation, which is left out if there is no room for it.
    pub(super) fn explain(&mut self, text: &str, style: Style) {
        let start = self.lines.len();
        self.wrapped(text, style);
        self.optional = start..self.lines.len();
    }

    /// Leaves out empty lines, then the explanation, until the lines fit. The first line stays,
    /// because it has the text that is typed.
    fn fit(&mut self, rows: usize) {
        while self.lines.len() > rows {
            let blank = self.lines.iter().rposition(|line| line.width() == 0);
            let Some(at) = blank.filter(|at| *at > 0) else { break };
            self.lines.remove(at);
            if at < self.optional.start {
                self.optional = self.optional.start - 1..self.optional.end - 1;
            }
        }
        while self.lines.len() > rows && !self.optional.is_empty() {
            self.optional.end -= 1;
            self.lines.remove(self.optional.end);
        }
    }

    pub(super) fn draw(
        mut self,
        buf: &mut Buffer,
        screen: Rect,
        title: &str,
        style: Style,
        theme: &Theme,
    ) -> Rect {
        self.fit(usize::from(screen.height.saturating_sub(6)));
        let height = self.lines.len() as u16;
        let inside = widgets::window(buf, screen, WIDTH, height, title, style, theme);
        for (y, line) in (0..).zip(&self.lines) {
            widgets::line(buf, inside, y, line);
        }
        inside
    }
}

/// The actions of a dialog, each with its keys, in as many rows as they need.
pub(super) fn keys<'a>(
    app: &App,
    context: Context,
    hints: &[(&[A], &'static str)],
    width: usize,
    theme: &Theme,
) -> Vec<Line<'a>> {
    let mut rows: Vec<Line> = Vec::new();
    for (actions, word) in hints {
        let own = actions.iter().map(|&action| app.settings.keys.name(context, action));
        let own: Vec<String> = own.collect();
        let spans = [
            Span::styled(own.join(" "), theme.accent),
            Span::styled(format!(" {word}  "), theme.dim),
        ];
        let needed: usize = spans.iter().map(Span::width).sum();
        match rows.last_mut() {
            // The gap after the last hint may be cut.
            Some(row) if row.width() + needed <= width + 2 => row.spans.extend(spans),
            _ => rows.push(Line::from(spans.to_vec())),
        }
    }
    rows
}
