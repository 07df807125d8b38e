//! The values of a tensor: each element, its bytes, and the result of quantizing it.

use crate::app::figures::{count, exact, value};
use crate::app::pager::wrap;
use crate::app::{App, names};
use crate::job::element_window::{Element, Quantized, Window};
use crate::tensor::{Scalar, Shape, TensorId};
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// A column of the values. Columns that do not fit are left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Index,
    Value,
    Code,
    Dequantized,
    Error,
    Raw,
    Place,
    Word,
    Scale,
}

/// The columns from left to right.
const LEFT_TO_RIGHT: [Column; 9] = [
    Column::Index,
    Column::Place,
    Column::Raw,
    Column::Value,
    Column::Code,
    Column::Dequantized,
    Column::Error,
    Column::Word,
    Column::Scale,
];
/// The columns by importance; the last is left out first.
const BY_IMPORTANCE: [Column; 9] = [
    Column::Value,
    Column::Index,
    Column::Code,
    Column::Dequantized,
    Column::Error,
    Column::Raw,
    Column::Place,
    Column::Word,
    Column::Scale,
];

impl Column {
    fn title(self) -> &'static str {
        match self {
            Column::Index => "index",
            Column::Value => "value",
            Column::Code => "q",
            Column::Dequantized => "dequantized",
            Column::Error => "error",
            Column::Raw => "bytes",
            Column::Place => "place",
            Column::Word => "",
            Column::Scale => "scale",
        }
    }
}

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, id: TensorId, theme: &Theme) {
    let mut say = |text: &str, style: Style| {
        for (y, row) in (1..).zip(wrap(text, area.width.min(96).into())) {
            widgets::line(buf, area, y, &Line::styled(row, style));
        }
    };
    let seen = app.values.visible();
    let window = match app.values.window(id) {
        _ if app.model.checkpoint.tensor(id).parameters() == 0 => {
            return say("No elements.", theme.dim);
        }
        Some(Err(why)) => return say(why, theme.bad),
        Some(Ok(window)) => window,
        None => return say("reading …", theme.dim),
    };
    let shape = &app.model.checkpoint.tensor(id).shape;
    let here: Vec<&Element> = window.elements.iter().collect();
    let quantized = here.iter().any(|element| element.quantized.is_some());
    let widths = widths(window, shape, quantized);
    let columns = fitting(&widths, area.width.saturating_sub(2));
    titles(buf, area, &columns, app, id, theme);
    let focused = app.zoomed;
    for (y, index) in (1..area.height).zip(seen) {
        let element = index.checked_sub(window.start).and_then(|at| here.get(at as usize));
        let mut x = area.x + 2;
        for &(column, width) in &columns {
            let (text, style) = match element {
                Some(element) => cell(column, index, element, shape, theme),
                None if column == Column::Index => (count(index), theme.dim),
                None => ("…".to_owned(), theme.faint),
            };
            let text = match column {
                Column::Word | Column::Place => format!("{text:<width$}"),
                _ => format!("{text:>width$}"),
            };
            buf.set_stringn(x, area.y + y, text, width, style);
            x += width as u16 + 2;
        }
        if focused && index == app.values.cursor() {
            let row = Rect { x: area.x.saturating_sub(2), y: area.y + y, height: 1, ..area };
            crate::ui::tensors::highlight(buf, Rect { width: row.width + 4, ..row }, theme);
        }
    }
}

/// The width of each column, from left to right.
fn widths(window: &Window, shape: &Shape, quantized: bool) -> Vec<(Column, usize)> {
    let last = shape.elements().saturating_sub(1);
    let raw = window.elements.first().map_or(0, |element| element.raw.bytes().len());
    let place: Vec<u64> = shape.dims().iter().map(|dim| dim.saturating_sub(1)).collect();
    let width_of = |column| match column {
        Column::Index => count(last).chars().count().max(5),
        Column::Place => place_text(&place).chars().count().max(5),
        Column::Raw => (raw * 3).saturating_sub(1),
        Column::Value | Column::Dequantized => 14,
        Column::Code => 4,
        Column::Error => 10,
        Column::Word => 7,
        Column::Scale => 10,
    };
    let there = |column: &Column| match column {
        Column::Code | Column::Dequantized | Column::Error | Column::Word | Column::Scale => {
            quantized
        }
        Column::Raw => raw > 0,
        Column::Place => shape.rank() > 1,
        Column::Index | Column::Value => true,
    };
    LEFT_TO_RIGHT.into_iter().filter(there).map(|column| (column, width_of(column))).collect()
}

fn fitting(widths: &[(Column, usize)], room: u16) -> Vec<(Column, usize)> {
    let mut room = usize::from(room);
    let mut kept = Vec::new();
    for wanted in BY_IMPORTANCE {
        let Some(&(column, width)) = widths.iter().find(|(column, _)| *column == wanted) else {
            continue;
        };
        if width + 2 > room {
            break;
        }
        room -= width + 2;
        kept.push(column);
    }
    widths.iter().copied().filter(|(column, _)| kept.contains(column)).collect()
}

fn titles(
    buf: &mut Buffer,
    area: Rect,
    columns: &[(Column, usize)],
    app: &App,
    id: TensorId,
    theme: &Theme,
) {
    let mut spans = vec![Span::raw("  ")];
    for &(column, width) in columns {
        let title = column.title();
        spans.push(Span::raw(match column {
            Column::Word | Column::Place => format!("{title:<width$}  "),
            _ => format!("{title:>width$}  "),
        }));
    }
    let left = Line::from(spans).style(theme.dim);
    let note = match app.model.checkpoint.packed_format(id) {
        Some(layout) => format!("decoded from {}", names::visible(&layout.name())),
        None if app.zoomed => String::new(),
        None => "Enter scrolls".to_owned(),
    };
    let right = Line::styled(note, theme.faint);
    if left.width() + right.width() < area.width.into() {
        widgets::ends(buf, area, 0, &left, &right)
    } else {
        widgets::line(buf, area, 0, &left)
    }
}

fn cell(
    column: Column,
    index: u64,
    element: &Element,
    shape: &Shape,
    theme: &Theme,
) -> (String, Style) {
    let figure = |text: fn(&Quantized) -> String, style| match &element.quantized {
        Some(quantized) => (text(quantized), style),
        None => ("–".to_owned(), theme.faint),
    };
    match column {
        Column::Index => (count(index), theme.dim),
        Column::Place => (place_text(&shape.coordinates(index)), theme.dim),
        Column::Raw => {
            let bytes = element.raw.bytes().iter().map(|byte| format!("{byte:02x}"));
            (bytes.collect::<Vec<_>>().join(" "), theme.dim)
        }
        Column::Value => match element.value {
            Some(Scalar::Float(x)) if !x.is_finite() => (exact(x), theme.bad),
            Some(Scalar::Float(x)) => (exact(x), theme.text),
            Some(Scalar::Integer(n)) => (n.to_string().replace('-', "−"), theme.text),
            Some(Scalar::Bool(b)) => (b.to_string(), theme.text),
            None => ("–".to_owned(), theme.faint),
        },
        Column::Code => figure(|q| q.q.to_string().replace('-', "−"), theme.strong),
        Column::Dequantized => figure(|q| exact(q.dequantized), theme.text),
        Column::Error => figure(|q| value(q.error), theme.dim),
        Column::Scale => figure(|q| value(q.scale.into()), theme.dim),
        Column::Word => word(element, theme),
    }
}

/// Names an effect of quantization on an element other than rounding.
fn word(element: &Element, theme: &Theme) -> (String, Style) {
    let (Some(Scalar::Float(x)), Some(quantized)) = (element.value, &element.quantized) else {
        return (String::new(), theme.faint);
    };
    let steps = x.abs() / f64::from(quantized.scale);
    match quantized.q {
        0 if x != 0.0 => ("zeroed".to_owned(), theme.warning),
        -127 | 127 if steps >= 127.5 => ("clipped".to_owned(), theme.bad),
        -127 | 127 => ("largest".to_owned(), theme.dim),
        _ => (String::new(), theme.faint),
    }
}

fn place_text(place: &[u64]) -> String {
    let numbers: Vec<String> = place.iter().map(u64::to_string).collect();
    format!("[{}]", numbers.join(", "))
}
