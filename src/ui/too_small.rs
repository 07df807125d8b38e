//! The message on a screen that is too small for the inspector.

use crate::ui::layout;
use crate::ui::theme::Theme;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Says how much room is needed and how much there is.
pub(super) fn too_small(buf: &mut Buffer, area: Rect, theme: &Theme) {
    let (width, height) = (layout::MIN_SIZE.width, layout::MIN_SIZE.height);
    let lines = [
        "the terminal is too small".to_owned(),
        format!("needs {width}×{height}, has {}×{}", area.width, area.height),
    ];
    let top = area.height.saturating_sub(lines.len() as u16) / 2;
    for (line, y) in lines.iter().zip(area.y + top..area.bottom()) {
        let left = area.width.saturating_sub(line.chars().count() as u16) / 2;
        let style = if y == area.y + top { theme.strong } else { theme.dim };
        buf.set_stringn(area.x + left, y, line, (area.width - left).into(), style);
    }
}
