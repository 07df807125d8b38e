//! The shares of an output that several workers make.

use crate::app::figures::{bytes, counted};
use crate::app::keymap::KeyMap;
use crate::app::keys::Context;
use crate::app::names;
use crate::app::pager::wrap;
use crate::app::settings::{Glyphs, Settings};
use crate::app::shares::SharesView;
use crate::export::ShareProgress;
use crate::ui::theme::Theme;
use crate::ui::{ascii, layout, picker, tensors, too_small, widgets};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

/// Rows above the list: title, summary, and column titles.
const ROWS_ABOVE: u16 = 3;
/// Maximum rows of the advice and its command.
const MAX_ADVICE_ROWS: usize = 6;

/// What is written below the list, wrapped to a width.
fn advice(view: &SharesView, width: u16) -> (Vec<String>, Vec<String>) {
    let width = usize::from(width.saturating_sub(2));
    let (mut text, command) = view.advice();
    if let Some(problem) = view.problem.as_ref().filter(|_| !view.joined) {
        text = problem.clone();
    }
    if let Some(problem) = &view.survey.problem {
        text = problem.clone();
    }
    let text = wrap(&names::visible(&text), width);
    let mut command = command.map_or(Vec::new(), |command| wrap(&command, width));
    command.truncate(MAX_ADVICE_ROWS.saturating_sub(text.len()));
    (text, command)
}

/// Visible rows of the list on a screen.
pub(crate) fn height(area: Rect, view: &SharesView) -> usize {
    let (text, command) = advice(view, area.width);
    // A rule above the advice, and the hints below it.
    let below = (text.len() + command.len()) as u16 + 2;
    usize::from(area.height.saturating_sub(ROWS_ABOVE + below)).max(1)
}

pub(crate) fn draw(frame: &mut Frame, view: &SharesView, settings: &Settings, theme: &Theme) {
    let area = frame.area();
    render(frame.buffer_mut(), area, view, &settings.keys, theme);
    if settings.glyphs == Glyphs::Ascii {
        ascii::translate(frame.buffer_mut());
    }
}

/// Draws the list into a buffer.
pub(crate) fn render(
    buf: &mut Buffer,
    area: Rect,
    view: &SharesView,
    keys: &KeyMap,
    theme: &Theme,
) {
    if area.width < layout::MIN_SIZE.width || area.height < layout::MIN_SIZE.height {
        too_small::too_small(buf, area, theme);
        return;
    }
    let out = names::visible(&view.survey.out.to_string_lossy()).into_owned();
    let room = usize::from(area.width).saturating_sub(24);
    let title = Line::from(vec![
        Span::styled(" quantscope", theme.accent),
        Span::styled(format!("  shares of {}", names::shorten(&out, room)), theme.strong),
    ]);
    widgets::line(buf, area, 0, &title);
    widgets::line(buf, area, 1, &Line::styled(format!(" {}", view.summary()), theme.text));
    if let Some(first) = view.help {
        picker::key_list(buf, area, keys, Context::Shares, first, theme);
        return;
    }
    let titles = format!("    {:<12}{:<10}{:>9}  {}", "share", "state", "bytes", "tensors");
    widgets::line(buf, area, 2, &Line::styled(titles, theme.dim));
    let rows = height(area, view);
    let first = (view.cursor + 1).saturating_sub(rows);
    let shown = view.survey.shares.iter().enumerate().skip(first).take(rows);
    for (y, (number, share)) in (area.y + ROWS_ABOVE..).zip(shown) {
        let style = match share.progress {
            ShareProgress::Done { .. } => theme.good,
            ShareProgress::Running { .. } => theme.accent,
            ShareProgress::Stopped | ShareProgress::Missing => theme.warning,
            ShareProgress::Damaged(_) => theme.bad,
        };
        let (size, tensors) = match &share.progress {
            ShareProgress::Done { bytes: size, changed, unchanged } => {
                let tensors = match changed + unchanged {
                    0 => String::new(),
                    _ => format!("{} changed, {unchanged} copied", counted(*changed, "tensor")),
                };
                (bytes(*size), tensors)
            }
            ShareProgress::Running { bytes: size } => (bytes(*size), "so far".to_owned()),
            _ => Default::default(),
        };
        let row = Rect { y, height: 1, ..area };
        let line = Line::from(vec![
            Span::raw(format!("    {:<12}", share.partition.to_string())),
            Span::styled(format!("{:<10}", share.progress.word()), style),
            Span::raw(format!("{size:>9}  ")),
            Span::styled(tensors, theme.dim),
        ]);
        widgets::line(buf, row, 0, &line);
        if number == view.cursor {
            tensors::highlight(buf, row, theme);
        }
    }
    let (text, command) = advice(view, area.width);
    let first = area.bottom() - 1 - (text.len() + command.len()) as u16;
    let rule = Rect { y: first - 1, height: 1, ..area };
    let said = view.said.clone().unwrap_or_default();
    widgets::rule(buf, rule, &Line::styled(said, theme.warning), &Line::default(), theme);
    let text = text.into_iter().map(|row| Line::styled(format!(" {row}"), theme.text));
    let command = command.into_iter().map(|row| Line::styled(format!(" {row}"), theme.strong));
    for (y, line) in (first..).zip(text.chain(command)) {
        widgets::line(buf, Rect { y, height: 1, ..area }, 0, &line);
    }
    picker::hints_below(buf, area, keys, Context::Shares, theme);
}
