//! Small drawing functions that the panes share.

use crate::app::figures;
use crate::ui::layout;
use crate::ui::theme::Theme;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Widget};
use tui_input::Input;

/// Draws a line of text `y` rows below the top of an area.
pub(super) fn line(buf: &mut Buffer, area: Rect, y: u16, line: &Line) {
    if y < area.height {
        buf.set_line(area.x, area.y + y, line, area.width);
    }
}

/// Draws texts at both ends of a row; the left one is cut if they do not fit.
pub(super) fn ends(buf: &mut Buffer, area: Rect, y: u16, left: &Line, right: &Line) {
    if y >= area.height {
        return;
    }
    let right_width = (right.width() as u16).min(area.width);
    let room = area.width.saturating_sub(right_width + 1);
    buf.set_line(area.x, area.y + y, left, room);
    buf.set_line(area.right() - right_width, area.y + y, right, right_width);
}

/// Draws a rule with a text near each end.
pub(super) fn rule(buf: &mut Buffer, area: Rect, left: &Line, right: &Line, theme: &Theme) {
    for x in area.left()..area.right() {
        buf[(x, area.y)].set_symbol("─").set_style(theme.faint);
    }
    let right_width = if right.width() == 0 { 0 } else { right.width() as u16 + 2 };
    if right_width > 0 && right_width + 4 <= area.width {
        over(buf, area.right() - right_width - 2, area.y, &framed(right), right_width);
    }
    if left.width() > 0 {
        let room = area.width.saturating_sub(right_width + 3);
        cut(buf, area.x + 1, area.y, &framed(left), room);
    }
}

/// Cuts a line to a width and marks the cut.
pub(super) fn cut(buf: &mut Buffer, x: u16, y: u16, line: &Line, room: u16) {
    over(buf, x, y, line, room);
    if line.width() > usize::from(room) && room > 1 {
        buf.set_string(x + room - 1, y, "…", line.style);
    }
}

/// Replaces a row, including its style.
pub(super) fn over(buf: &mut Buffer, x: u16, y: u16, line: &Line, width: u16) {
    for x in x..x + width.min(line.width() as u16) {
        buf[(x, y)].reset();
    }
    buf.set_line(x, y, line, width);
}

fn framed<'a>(text: &Line<'a>) -> Line<'a> {
    let mut spans = vec![Span::raw(" ")];
    spans.extend(text.spans.iter().map(|span| span.clone().patch_style(text.style)));
    spans.push(Span::raw(" "));
    Line::from(spans)
}

/// Opens an empty window over everything else. Returns the area inside.
pub(super) fn window(
    buf: &mut Buffer,
    screen: Rect,
    width: u16,
    height: u16,
    title: &str,
    style: Style,
    theme: &Theme,
) -> Rect {
    let area = layout::window(screen.as_size(), width, height + 4);
    frame(buf, area, title, style, theme)
}

/// Opens an empty window at a given area.
pub(super) fn frame(
    buf: &mut Buffer,
    area: Rect,
    title: &str,
    style: Style,
    theme: &Theme,
) -> Rect {
    // Dim what is behind the window.
    let screen = buf.area;
    for cell in &mut buf.content {
        let symbol = cell.symbol().to_owned();
        cell.reset();
        cell.set_symbol(&symbol).set_style(theme.faint);
    }
    let area = area.intersection(screen);
    Clear.render(area, buf);
    Block::bordered().border_type(BorderType::Rounded).border_style(theme.faint).render(area, buf);
    let title = Line::styled(format!(" {title} "), style);
    over(buf, area.x + 2, area.y, &title, area.width.saturating_sub(4));
    layout::inside(area)
}

/// Draws a text input, scrolled so that its cursor is visible. Returns the cursor's position.
pub(super) fn input(buf: &mut Buffer, area: Rect, input: &Input, theme: &Theme) -> Position {
    let width = area.width.saturating_sub(1).max(1);
    let scroll = input.visual_scroll(width.into());
    let mut skipped = 0;
    let shown: String = input
        .value()
        .chars()
        .skip_while(|c| {
            let skip = skipped < scroll;
            skipped += unicode_width::UnicodeWidthChar::width(*c).unwrap_or(0);
            skip
        })
        .collect();
    buf.set_stringn(area.x, area.y, &shown, area.width.into(), theme.strong);
    let at = input.visual_cursor().saturating_sub(scroll) as u16;
    Position::new(area.x + at.min(area.width.saturating_sub(1)), area.y)
}

/// A bar that is filled to a share.
pub(super) fn bar<'a>(share: f64, width: usize, filled: Style, theme: &Theme) -> [Span<'a>; 2] {
    let cells = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    [Span::styled("━".repeat(cells), filled), Span::styled("─".repeat(width - cells), theme.faint)]
}

/// A column in eighths of a row.
pub(super) fn column(eighths: u8) -> char {
    const COLUMNS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    COLUMNS[usize::from(eighths.min(8))]
}

/// An SQNR as a bar that is full at 50 dB.
pub(super) fn gauge<'a>(db: f64, width: usize, theme: &Theme) -> [Span<'a>; 2] {
    bar(db / 50.0, width, theme.rate(db).1, theme)
}

/// An SQNR and its rating: ` 31.2 dB  good`.
pub(super) fn rating<'a>(db: f64, theme: &Theme) -> [Span<'a>; 2] {
    let (word, style) = theme.rate(db);
    [
        Span::styled(format!("{:>8}", figures::decibels(db)), style),
        Span::styled(format!("  {word:<9}"), style),
    ]
}
