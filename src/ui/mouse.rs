//! Finds the target under the mouse.

use crate::app::overlay::Overlay;
use crate::app::{App, MouseTarget, Tab};
use crate::ui::columns::{MARK_WIDTH, columns};
use crate::ui::hints;
use crate::ui::layout::{body, curve, detail_body, histogram, list, of, plot, tabs};
use ratatui::layout::{Position, Rect, Size};

/// The target of a drag. On the budget's curve and on the histogram, positions past the ends
/// count as the ends.
pub(crate) fn drag(size: Size, app: &App, at: Position) -> Option<MouseTarget> {
    let layout = of(size, body(app))?;
    if app.bar_held {
        return Some(bar(layout.rows, at));
    }
    // A drag that started elsewhere does not move the scroll bar.
    let on_bar = layout.rows.contains(at) && at.x + 1 == layout.rows.right();
    let at = Position { x: at.x - u16::from(on_bar), ..at };
    let detail = layout.detail;
    let plot = match (detail, &app.overlay) {
        (Some(detail), Some(Overlay::Budget(_))) => curve(detail).map(plot),
        (Some(detail), None) if app.tab == Tab::Histogram && detail.contains(at) => {
            Some(histogram(detail_body(detail))[0])
        }
        _ => None,
    };
    let within = |low: u16, length: u16, at: u16| at.clamp(low, low + length.max(1) - 1);
    let at = plot.map_or(at, |plot| {
        let (x, y) = (within(plot.x, plot.width, at.x), within(plot.y, plot.height, at.y));
        Position::new(x, y)
    });
    hit(size, app, at)
}

/// The position on the table's scroll bar; past the ends counts as the ends.
fn bar(rows: Rect, at: Position) -> MouseTarget {
    let line = at.y.saturating_sub(rows.y).min(rows.height.saturating_sub(1));
    MouseTarget::Bar(f64::from(line) / f64::from(rows.height.max(2) - 1))
}

/// The target at a position of the screen.
pub(crate) fn hit(size: Size, app: &App, at: Position) -> Option<MouseTarget> {
    let layout = of(size, body(app))?;
    if layout.hints.contains(at) {
        return hints::at(app, layout.hints.width, at.x).map(MouseTarget::Hint);
    }
    if let Some(number) = list(size, app).and_then(|list| list.at(at)) {
        return Some(MouseTarget::Choice(number));
    }
    let overflows = app.table.rows().len() > usize::from(layout.rows.height);
    if layout.rows.contains(at) && at.x + 1 == layout.rows.right() && overflows {
        return Some(bar(layout.rows, at));
    }
    if layout.rows.contains(at) {
        let line = usize::from(at.y - layout.rows.y);
        return Some(if at.x - layout.rows.x < MARK_WIDTH {
            MouseTarget::Mark(line)
        } else {
            MouseTarget::Row(line)
        });
    }
    if layout.titles.contains(at) {
        let x = at.x - layout.titles.x;
        let places = columns(layout.titles.width, &app.table.widest, &app.columns());
        let place = places.iter().rev().find(|place| x >= place.x)?;
        return Some(MouseTarget::Title(place.column));
    }
    let detail = layout.detail?;
    if let Some(Overlay::Budget(_)) = app.overlay {
        let plot = plot(curve(detail)?);
        let share = f64::from(at.x.checked_sub(plot.x)?) / f64::from(plot.width.max(2) - 1);
        return plot.contains(at).then_some(MouseTarget::Curve(share));
    }
    if app.tab == Tab::Values && at.y >= detail.y + 2 && detail.contains(at) {
        return Some(MouseTarget::Value(usize::from(at.y - detail.y - 2)));
    }
    let [plot, _] = histogram(detail_body(detail));
    if app.tab == Tab::Histogram && plot.contains(at) {
        let column = f64::from(at.x - plot.x) + 0.5;
        return Some(MouseTarget::Clip((2.0 * column / f64::from(plot.width) - 1.0).abs()));
    }
    tabs(detail)
        .into_iter()
        .find(|(_, place)| place.contains(at))
        .map(|(tab, _)| MouseTarget::Tab(tab))
}
