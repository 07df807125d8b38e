//! The header: the open model, and the progress of its measurements.

use crate::app::figures::{bytes, counted, duration, parameters, rate};
use crate::app::tensor_metrics::SCHEMES;
use crate::app::{Action, App, CalibrationState, Meter, model_name, names};
use crate::plan::default_calibration;
use crate::quantization::{Calibration as By, QuantizationScheme};
use crate::ui::theme::Theme;
use crate::ui::widgets;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) {
    let checkpoint = &app.model.checkpoint;
    let shards = match checkpoint.shards().len() {
        0 | 1 => String::new(),
        n => format!(", {n} files"),
    };
    let name = model_name(checkpoint);
    let mut left = Line::from(vec![
        Span::styled(" quantscope", theme.accent),
        Span::styled("  ", theme.dim),
        Span::styled(names::visible(&name).into_owned(), theme.strong),
        Span::styled(format!("  {}{shards}", checkpoint.format().name()), theme.dim),
    ]);
    let target = &app.model.plan().target;
    let loaders: Vec<&str> = target.loaders().iter().map(|loader| loader.name()).collect();
    let for_whom = match (loaders.is_empty(), target.is_default()) {
        (true, true) => "no target".to_owned(),
        (true, false) => target.container().name().to_owned(),
        (false, _) => format!("for {}", loaders.join(", ")),
    };
    let style = if target.is_default() { theme.dim } else { theme.mark };
    let for_whom = Span::styled(format!("  {for_whom}"), style);
    let format = Span::styled(format!(" ({})", target.container()), theme.dim);
    let inventory = &app.model.inventory;
    let tensors = counted(checkpoint.tensors().len(), "tensor");
    let parameters = parameters(inventory.parameters);
    let size = bytes(app.model.totals().before);
    let right = match area.width {
        0..80 => format!("{tensors}  {size} "),
        _ => format!("{tensors}  {parameters} parameters  {size} "),
    };
    let room = usize::from(area.width).saturating_sub(right.chars().count() + for_whom.width());
    // The name is cut last.
    if left.width() >= room {
        left.spans.pop();
    }
    let about = Span::styled(format!("  {}", app.about()), theme.dim);
    let has_room =
        if target.is_default() { left.width() + about.width() < room } else { left.width() < room };
    if has_room {
        left.push_span(for_whom);
        let room = usize::from(area.width).saturating_sub(right.chars().count());
        if !loaders.is_empty() && left.width() + format.width() < room {
            left.push_span(format);
        }
    }
    if left.width() + about.width() + right.chars().count() < area.width.into() {
        left.push_span(about);
    }
    widgets::ends(buf, area, 0, &left, &Line::raw(right));
    let mut dtypes: Vec<String> = inventory
        .dtypes
        .iter()
        .take(4)
        .map(|(dtype, count)| format!("{count} × {}", names::visible(dtype)))
        .collect();
    if inventory.dtypes.len() > 4 {
        dtypes.push("…".to_owned());
    }
    let left = match (&app.measuring_outputs, &app.calibration) {
        // The scheme of the table is measured in the first round.
        (Some(_), CalibrationState::Running { round: 0, .. }) | (None, _) => {
            calibration(app, area.width, theme)
        }
        (Some(meter), _) => outputs(app, meter, area.width, theme),
    };
    // The caption of a narrow screen has no room for the name of the tensor.
    let is_busy = app.measuring_outputs.is_some()
        || matches!(app.calibration, CalibrationState::Running { .. });
    let whole = app.table.current().filter(|_| app.zoomed && area.width < 80 && !is_busy);
    if let Some(row) = whole {
        let name = names::visible(app.full_name(row)).into_owned();
        let name = names::shorten(&name, usize::from(area.width.saturating_sub(2)));
        widgets::line(buf, area, 1, &Line::styled(format!(" {name}"), theme.strong));
        return;
    }
    let right = Line::styled(format!("{} ", dtypes.join("  ")), theme.dim);
    if left.width() + right.width() < area.width.into() {
        widgets::ends(buf, area, 1, &left, &right)
    } else {
        widgets::line(buf, area, 1, &left)
    }
}

/// Progress of the output measurements.
fn outputs<'a>(app: &App, meter: &Meter, width: u16, theme: &Theme) -> Line<'a> {
    let mut spans = vec![Span::styled(" measuring outputs ", theme.accent)];
    let cells = if width >= 100 { 20 } else { 8 };
    spans.extend(widgets::bar(meter.share(), cells, theme.accent, theme));
    spans.push(Span::raw(format!(" {:>3.0} %", meter.share() * 100.0)));
    if let Some(outputs) = &app.model.outputs {
        let layers = counted(outputs.recorded.len(), "layer");
        spans.push(Span::raw(format!("  {} of {layers}", outputs.found.len())));
    }
    spans.push(Span::styled(format!("  {}", progress(meter)), theme.dim));
    Line::from(spans)
}

fn calibration<'a>(app: &App, width: u16, theme: &Theme) -> Line<'a> {
    match &app.calibration {
        CalibrationState::NothingToDo if app.model.checkpoint.tensors().is_empty() => {
            Line::styled(" nothing to calibrate: there are no tensors", theme.dim)
        }
        CalibrationState::NothingToDo => {
            Line::styled(" nothing to calibrate: no tensor holds floats", theme.dim)
        }
        CalibrationState::Running { round, schemes, meter } => {
            let word = match (round, schemes.contains(&QuantizationScheme::PER_CHANNEL)) {
                (0, _) => " calibrating ".to_owned(),
                (1, true) => " measuring per channel ".to_owned(),
                (1, false) => " measuring blocks ".to_owned(),
                _ => format!(" measuring {} of the target ", counted(schemes.len(), "scheme")),
            };
            let mut spans = vec![Span::styled(word, theme.accent)];
            let cells = if width >= 100 { 20 } else { 8 };
            spans.extend(widgets::bar(meter.share(), cells, theme.accent, theme));
            spans.push(Span::raw(format!(" {:>3.0} %", meter.share() * 100.0)));
            spans.push(Span::styled(format!("  {}", progress(meter)), theme.dim));
            Line::from(spans)
        }
        CalibrationState::Done { .. } => {
            let further = app.model.schemes().iter().filter(|scheme| !SCHEMES.contains(scheme));
            let schemes = SCHEMES.len() + further.count();
            let calibrated = match default_calibration(&app.model.checkpoint) {
                By::Learned => "min–max and learned scales",
                _ => "min–max",
            };
            Line::from(vec![
                Span::styled(" calibrated", theme.good),
                Span::styled(
                    format!("  {calibrated}, every element, {schemes} schemes measured"),
                    theme.dim,
                ),
            ])
        }
        CalibrationState::Stopped { meter } => Line::from(vec![
            Span::styled(" stopped", theme.warning),
            Span::styled(
                format!(
                    " at {:.0} %; {} calibrates again",
                    meter.share() * 100.0,
                    app.key_of(Action::Calibrate)
                ),
                theme.dim,
            ),
        ]),
        CalibrationState::Failed => Line::from(vec![
            Span::styled(" calibration failed", theme.bad),
            Span::styled(
                format!("; {} calibrates again", app.key_of(Action::Calibrate)),
                theme.dim,
            ),
        ]),
    }
}

/// `37.2 MB of 90.9 MB, 1.31 GB/s, 0.20 s left`
pub(super) fn progress(meter: &Meter) -> String {
    let mut text = format!("{} of {}", bytes(meter.done), bytes(meter.total));
    if let (Some(left), 1..) = (meter.left(), meter.done) {
        text += &format!("  {}  {} left", rate(meter.rate()), duration(left));
    }
    text
}
