//! Positions of all panes. Pure functions, shared by drawing, scrolling and the mouse.

use crate::app::budget::Budget;
use crate::app::diff::DiffState;
use crate::app::keys::Context;
use crate::app::overlay::{GoTo, Overlay};
use crate::app::pager::wrap;
use crate::app::{Action, App, Tab, Viewport};
use ratatui::layout::{Position, Rect, Size};

/// The smallest screen that is drawn.
pub const MIN_SIZE: Size = Size { width: 60, height: 15 };

/// From this width on, the detail is beside the table.
const MIN_SIDE_DETAIL_WIDTH: u16 = 168;
/// From this height on, the detail is below the table.
const MIN_BOTTOM_DETAIL_HEIGHT: u16 = 24;
const DETAIL_WIDTH: u16 = 58;
const DETAIL_HEIGHT: u16 = 11;

/// The panes of the screen. Rules have rows of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Model, size and target.
    pub header: Rect,
    /// The rule above the table, with its description.
    pub caption: Rect,
    /// The titles of the table's columns.
    pub titles: Rect,
    /// The rows of the table.
    pub rows: Rect,
    /// The detail with its rule of tabs.
    pub detail: Option<Rect>,
    /// The rule above the plan, with the status message.
    pub status: Rect,
    /// The line with the marks.
    pub plan: Rect,
    /// The line with the keys.
    pub hints: Rect,
}

/// The panes in the middle of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MiddlePane {
    /// The table, with the detail if there is room.
    Split,
    /// The detail alone.
    Detail,
    /// The table, with the budget below it.
    Budget,
}

/// The panes in the middle for the current state.
pub fn body(app: &App) -> MiddlePane {
    let pane = app.overlays().find_map(|overlay| match overlay {
        Overlay::Budget(_) => Some(MiddlePane::Budget),
        Overlay::Diff(_) => Some(MiddlePane::Detail),
        _ => None,
    });
    pane.unwrap_or(if app.zoomed { MiddlePane::Detail } else { MiddlePane::Split })
}

/// Returns `None` if the screen is smaller than [`MIN_SIZE`].
pub fn of(size: Size, body_of: MiddlePane) -> Option<Layout> {
    if size.width < MIN_SIZE.width || size.height < MIN_SIZE.height {
        return None;
    }
    let line = |y, height| Rect::new(0, y, size.width, height);
    let bottom = size.height - 3;
    let mut body = Rect::new(0, 2, size.width, bottom - 2);
    let mut detail = None;
    if body_of == MiddlePane::Detail {
        detail = Some(body);
        body.height = 0;
    } else if body_of == MiddlePane::Budget {
        // A small screen shows the budget alone.
        let rows = if size.height < MIN_BUDGET_WITH_TABLE_HEIGHT { 0 } else { BUDGET_ROWS };
        let height = BUDGET_HEIGHT.max(size.height / 3).min(body.height.saturating_sub(rows));
        body.height -= height;
        detail = Some(Rect::new(0, body.bottom(), size.width, height));
    } else if size.width >= MIN_SIDE_DETAIL_WIDTH {
        // On a wider screen, three quarters of the additional columns go to the detail, because the
        // table needs fewer.
        let detail_width = DETAIL_WIDTH + (size.width - MIN_SIDE_DETAIL_WIDTH) / 4 * 3;
        body.width -= detail_width + 1;
        detail = Some(Rect::new(body.right() + 1, body.y, detail_width, body.height));
    } else if size.height >= MIN_BOTTOM_DETAIL_HEIGHT {
        body.height -= DETAIL_HEIGHT;
        detail = Some(Rect::new(0, body.bottom(), size.width, DETAIL_HEIGHT));
    }
    let part = |from: u16, height: u16| {
        let from = from.min(body.height);
        Rect::new(body.x, body.y + from, body.width, height.min(body.height - from))
    };
    Some(Layout {
        header: line(0, 2),
        caption: part(0, 1),
        titles: part(1, 1),
        rows: part(2, body.height.saturating_sub(2)),
        detail,
        status: line(bottom, 1),
        plan: line(bottom + 1, 1),
        hints: line(bottom + 2, 1),
    })
}

/// The visible rows of everything that scrolls.
pub fn viewport(size: Size, app: &App) -> Viewport {
    let layout = of(size, body(app));
    let table = layout.map_or(1, |layout| layout.rows.height);
    // Below the rule of tabs and the column titles.
    let detail = layout.and_then(|layout| layout.detail).map_or(0, |detail| detail.height);
    let rows = detail.saturating_sub(2).into();
    let text = inside(text_window(size));
    let text = (text.width.into(), text.height.into());
    let channels = usize::from(detail.saturating_sub(1 + ROWS_ABOVE_CHANNELS));
    Viewport { table: table.into(), values: rows, channels, diff: rows, text }
}

/// A window of at most `width` × `height`, centered on the screen.
pub fn window(size: Size, width: u16, height: u16) -> Rect {
    let width = width.min(size.width.saturating_sub(2));
    let height = height.min(size.height.saturating_sub(2));
    Rect::new((size.width - width) / 2, (size.height - height) / 2, width, height)
}

/// The window of texts and of the help.
pub fn text_window(size: Size) -> Rect {
    window(size, 100, size.height.saturating_sub(4))
}

/// Rows of text below a list, so that its window keeps its height while the cursor moves.
const TEXT_ROWS: u16 = 3;

/// The text below the open list, wrapped to rows. If the list does not fit above it, the text has
/// as many rows as it needs.
pub fn text_below(size: Size, app: &App) -> Vec<String> {
    let (text, rows) = match app.overlay.as_ref() {
        Some(Overlay::Schemes(list)) => {
            let key = app.settings.keys.name(Context::Schemes, Action::Accept);
            (list.text(&app.model, &key).0, list.choices.len() + 1)
        }
        Some(Overlay::Targets(list)) => (list.text().0, list.choices.len()),
        _ => return Vec::new(),
    };
    let mut text = wrap(&text, inside(window(size, DIALOG_WIDTH, 1)).width.into());
    if rows as u16 + TEXT_ROWS + 8 <= size.height {
        text.resize(text.len().max(TEXT_ROWS.into()), String::new());
    }
    text
}

/// Width of dialogs, in columns.
pub const DIALOG_WIDTH: u16 = 92;

/// A list to choose from: its area, and its first visible entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// The cells of the pane.
    pub area: Rect,
    /// The first visible item.
    pub first: usize,
    /// Number of visible items.
    pub count: usize,
}

impl List {
    /// A list in a window with a number of rows above and below it.
    fn in_window(size: Size, count: usize, chosen: usize, [above, below]: [u16; 2]) -> List {
        let lines = (count as u16).saturating_add(above + below + 4);
        let inside = inside(window(size, DIALOG_WIDTH, lines));
        let rows = inside.height.saturating_sub(above + below).max(1);
        let area = Rect { y: inside.y + above, height: rows, ..inside };
        List { area, first: (chosen + 1).saturating_sub(rows.into()), count }
    }

    /// The visible entries.
    pub fn seen(&self) -> std::ops::Range<usize> {
        self.first..self.count.min(self.first + usize::from(self.area.height))
    }

    /// The entry at a position.
    pub(super) fn at(&self, at: Position) -> Option<usize> {
        let line = usize::from(at.y.checked_sub(self.area.y)?);
        self.area.contains(at).then_some(self.first + line).filter(|n| self.seen().contains(n))
    }
}

/// The list that is open.
pub fn list(size: Size, app: &App) -> Option<List> {
    match app.overlay.as_ref()? {
        Overlay::Presets(presets) => {
            Some(List::in_window(size, presets.choices.len(), presets.chosen, [0, 2]))
        }
        Overlay::Columns(columns) => {
            Some(List::in_window(size, columns.choices.len(), columns.chosen, [0, 2]))
        }
        Overlay::Schemes(list) => {
            let below = text_below(size, app).len() as u16 + 2;
            Some(List::in_window(size, list.choices.len(), list.chosen, [1, below]))
        }
        Overlay::Targets(targets) => Some(List::in_window(
            size,
            targets.choices.len(),
            targets.chosen,
            [0, text_below(size, app).len() as u16 + 2],
        )),
        Overlay::GoTo(go_to) => {
            // Keep the height while the user types.
            let list = List::in_window(size, GoTo::MAX_LISTED_NAMES, go_to.chosen, [2, 1]);
            Some(List { count: go_to.names.len(), ..list })
        }
        Overlay::Budget(budget) => {
            let figures = budget_figures(of(size, MiddlePane::Budget)?.detail?);
            Some(budget_schemes(figures, budget))
        }
        Overlay::Diff(view) => match &view.state {
            DiffState::Comparing(_) => None,
            DiffState::Done(differences) => {
                let detail = of(size, MiddlePane::Detail)?.detail?;
                let height = detail.height.saturating_sub(2);
                let area = Rect { y: detail.y + 2, height, ..detail };
                Some(List { area, first: differences.top(), count: differences.shown.len() })
            }
        },
        _ => None,
    }
}

/// The area of a window without border and margin.
pub fn inside(window: Rect) -> Rect {
    Rect {
        x: window.x + 3,
        y: window.y + 2,
        width: window.width.saturating_sub(6),
        height: window.height.saturating_sub(4),
    }
}

/// The area of a window with its border and margin.
pub fn outside(inside: Rect) -> Rect {
    Rect {
        x: inside.x.saturating_sub(3),
        y: inside.y.saturating_sub(2),
        width: inside.width + 6,
        height: inside.height + 4,
    }
}

/// The area of each tab's title on the rule of the detail.
pub fn tabs(detail: Rect) -> Vec<(Tab, Rect)> {
    let widths = Tab::ALL.map(|tab| tab.title().chars().count() as u16 + 3);
    let mut x = detail.right().saturating_sub(widths.iter().sum::<u16>() + 2);
    Tab::ALL
        .into_iter()
        .zip(widths)
        .map(|(tab, width)| {
            let place = Rect::new(x, detail.y, width, 1);
            x += width;
            (tab, place)
        })
        .collect()
}

/// Width of the budget's figures, in columns.
pub const BUDGET_FIGURES: u16 = 46;
/// Minimum rows of the budget, and of the table above it on small screens.
const BUDGET_HEIGHT: u16 = 15;
const BUDGET_ROWS: u16 = 4;
/// Below this height the budget takes the place of the table.
const MIN_BUDGET_WITH_TABLE_HEIGHT: u16 = 20;

/// Rows above the list of channels: title, strip, labels and column titles.
const ROWS_ABOVE_CHANNELS: u16 = 4;

/// The area of the budget's figures.
pub fn budget_figures(area: Rect) -> Rect {
    Rect {
        x: area.x + 2,
        y: area.y + 1,
        width: BUDGET_FIGURES.min(area.width.saturating_sub(4)),
        height: area.height.saturating_sub(1),
    }
}

/// Below this height the budget leaves out what the point consists of.
const MIN_BUDGET_WITH_COMPOSITION_HEIGHT: u16 = 10;

/// Lines of figures above the schemes of the budget: size, error, last step and, if there is
/// room, what the point consists of.
pub fn lines_above_schemes(figures: Rect) -> u16 {
    if figures.height < MIN_BUDGET_WITH_COMPOSITION_HEIGHT { 3 } else { 4 }
}

/// The list of schemes within the budget's figures.
pub fn budget_schemes(figures: Rect, budget: &Budget) -> List {
    let count = budget.schemes.len();
    let above = lines_above_schemes(figures);
    // A line compares the marks with the curve, and one llama.cpp's mixes.
    let below = 1 + u16::from(!budget.mixes.is_empty());
    let room = figures.height.saturating_sub(above + below);
    let height = room.max(1).min(count as u16);
    let area = Rect { y: figures.y + above, height, ..figures };
    let first = (budget.chosen + 1).saturating_sub(height.into());
    List { area: area.intersection(figures), first, count }
}

/// The area of the budget's curve and axes, if there is room.
pub fn curve(area: Rect) -> Option<Rect> {
    let x = area.x + BUDGET_FIGURES + 3;
    let width = area.right().checked_sub(x + 2)?;
    let height = area.height.checked_sub(1)?;
    (width >= 24 && height >= 5).then(|| Rect::new(x, area.y + 1, width, height))
}

/// The area of the curve without its axes.
pub fn plot(curve: Rect) -> Rect {
    const AXIS_LABEL_WIDTH: u16 = 9;
    Rect {
        x: curve.x + AXIS_LABEL_WIDTH,
        y: curve.y,
        width: curve.width.saturating_sub(AXIS_LABEL_WIDTH),
        height: curve.height.saturating_sub(2),
    }
}

/// The detail below its rule.
pub fn detail_body(detail: Rect) -> Rect {
    Rect {
        x: detail.x + 2,
        y: detail.y + 1,
        width: detail.width.saturating_sub(4),
        height: detail.height.saturating_sub(1),
    }
}

/// The areas of the histogram and of the clip's figures: side by side if there is room.
pub fn histogram(body: Rect) -> [Rect; 2] {
    const FIGURES_WIDTH: u16 = 40;
    if body.width >= FIGURES_WIDTH + 40 {
        let figures = Rect { x: body.right() - FIGURES_WIDTH, width: FIGURES_WIDTH, ..body };
        return [Rect { width: body.width - FIGURES_WIDTH - 3, ..body }, figures];
    }
    let half = body.height / 2;
    [Rect { height: half, ..body }, Rect { y: body.y + half, height: half, ..body }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panes_fill_the_screen_and_do_not_overlap() {
        for (width, height) in [(60, 15), (80, 24), (120, 36), (200, 50), (300, 100)] {
            for body in [MiddlePane::Split, MiddlePane::Detail, MiddlePane::Budget] {
                let size = Size { width, height };
                let l = of(size, body).expect("large enough");
                let panes = [l.header, l.caption, l.titles, l.rows, l.status, l.plan, l.hints];
                let area: u32 = panes.iter().copied().chain(l.detail).map(|pane| pane.area()).sum();
                let between = if l.detail.is_some_and(|d| d.x > 0) {
                    u32::from(l.detail.expect("there").height)
                } else {
                    0
                };
                assert_eq!(area + between, u32::from(width) * u32::from(height));
            }
        }
        assert_eq!(of(Size { width: 59, height: 40 }, MiddlePane::Split), None);
    }
}
