//! The detail of the tensor or the module under the cursor.

use crate::activations::ActivationMode;
use crate::app::figures::{bytes, count, counted, decibels, parameters, percent, value};
use crate::app::pager::wrap;
use crate::app::table::{RATINGS, Row};
use crate::app::tensor_metrics::{
    Cost, Measurement, SCHEMES, TensorMetrics, calibration_name, scheme_name, typed_scheme_name,
};
use crate::app::tree::{NodeId, TreeItem};
use crate::app::{Action, App, CalibrationState, ExpertView, Tab, names, outputs};
use crate::checkpoint::{ActivationRange, UnmatchedObserver};
use crate::plan::experts::ExpertErrors;
use crate::quantization;
use crate::quantization::{ErrorStatistics, QuantizationScheme};
use crate::tensor::TensorId;
use crate::ui::theme::Theme;
use crate::ui::{channels, histogram, layout, schemes, values, widgets};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Width of a block of figures, and the gap between two.
const BLOCK_WIDTH: u16 = 36;
const BLOCK_GAP: u16 = 4;
/// The minimum number of rows for a useful histogram.
const MIN_HISTOGRAM_ROWS: u16 = 8;

pub(super) fn draw(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) {
    caption(buf, area, app, theme);
    let body = layout::detail_body(area);
    let body = full_name(buf, area, body, app, theme);
    match app.table.current() {
        None => {}
        Some(Row { item: TreeItem::Module(node), .. }) => module(buf, body, app, node, theme),
        Some(Row { item: TreeItem::Tensor(id), .. }) => tensor(buf, body, app, id, theme),
    }
}

/// Writes a name that the caption cuts in full where there is room. Returns the area below it.
fn full_name(buf: &mut Buffer, area: Rect, body: Rect, app: &App, theme: &Theme) -> Rect {
    let room = layout::tabs(area).first().map_or(area.width, |(_, place)| place.x - area.x);
    let name = app.table.current().map(|row| names::visible(app.full_name(row)).into_owned());
    let longest = usize::from(room.saturating_sub(5));
    let has_room = app.tab == Tab::Overview && (app.zoomed || area.height >= 30);
    let name = name.filter(|name| has_room && names::width(name) > longest);
    let rows = name.map_or(Vec::new(), |name| wrap(&name, body.width.into()));
    for (y, row) in (0..).zip(&rows) {
        widgets::line(buf, body, y, &Line::styled(row.clone(), theme.strong));
    }
    let used = if rows.is_empty() { 0 } else { rows.len() as u16 + 1 };
    let used = used.min(body.height);
    Rect { y: body.y + used, height: body.height - used, ..body }
}

fn caption(buf: &mut Buffer, area: Rect, app: &App, theme: &Theme) {
    let tabs = layout::tabs(area);
    let room = tabs.first().map_or(area.width, |(_, place)| place.x - area.x);
    let name = app.table.current().map(|row| names::visible(app.full_name(row)).into_owned());
    let name = name.unwrap_or_default();
    let name = names::shorten(&name, usize::from(room.saturating_sub(5)));
    let rule = Rect { height: 1, ..area };
    widgets::rule(buf, rule, &Line::styled(name.as_ref(), theme.strong), &Line::default(), theme);
    if app.current_tensor().is_none() {
        return;
    }
    for (tab, place) in tabs {
        let style = if tab == app.tab { theme.accent } else { theme.dim };
        let title = Line::styled(format!(" {} ", tab.title()), style);
        widgets::over(buf, place.x, place.y, &title, place.width);
    }
}

fn tensor(buf: &mut Buffer, area: Rect, app: &App, id: TensorId, theme: &Theme) {
    let sentence = |text: &str, style: Style, buf: &mut Buffer| {
        for (y, row) in (1..).zip(wrap(text, area.width.min(96).into())) {
            widgets::line(buf, area, y, &Line::styled(row, style));
        }
    };
    match app.tab {
        Tab::Values => return values::draw(buf, area, app, id, theme),
        Tab::Channels => return channels::draw(buf, area, app, id, theme),
        _ => {}
    }
    match app.model.measurement(id) {
        Measurement::Done(metrics) => match app.tab {
            Tab::Values | Tab::Channels => {}
            Tab::Histogram => histogram::draw(buf, area, app, id, metrics, theme),
            Tab::Overview => overview(buf, area, app, id, metrics, theme),
            Tab::Schemes if app.model.checkpoint.packed_format(id).is_none() => {
                schemes::draw(buf, area, app, id, theme);
            }
            Tab::Schemes => {
                sentence("Stored quantized: there is no scheme to choose.", theme.dim, buf)
            }
        },
        Measurement::Unreadable(why) => sentence(why, theme.bad, buf),
        Measurement::Waiting => {
            let not_measured =
                format!("Not measured: {} calibrates.", app.key_of(Action::Calibrate));
            let text = match app.calibration {
                CalibrationState::Running { .. } => "Calibrating: this tensor comes next.",
                _ => &not_measured,
            };
            sentence(text, theme.dim, buf);
        }
        Measurement::NotFloat => {
            let tensor = app.model.checkpoint.tensor(id);
            let why = app.model.reason(id).map(ToString::to_string).unwrap_or_default();
            let text = format!(
                "{} values of {}, {}. Not measured: {why}.",
                count(tensor.parameters()),
                names::visible(tensor.dtype.name()),
                bytes(tensor.bytes),
            );
            sentence(&text, theme.dim, buf);
        }
    }
}

/// A figure with its label and a comment.
struct Figure {
    label: &'static str,
    text: String,
    word: Option<(String, Style)>,
}

fn figure(label: &'static str, text: String) -> Figure {
    Figure { label, text, word: None }
}

impl Figure {
    fn word(mut self, word: impl Into<String>, style: Style) -> Figure {
        self.word = Some((word.into(), style));
        self
    }
}

/// Draws labels on the left, figures aligned right, and comments after them.
fn block(buf: &mut Buffer, area: Rect, title: &str, figures: &[Figure], theme: &Theme) {
    widgets::line(buf, area, 0, &Line::styled(title, theme.dim));
    for (y, figure) in (1..).zip(figures) {
        let mut spans = vec![
            Span::styled(format!("{:<14}", figure.label), theme.dim),
            Span::raw(format!("{:>11}", figure.text)),
        ];
        if let Some((word, style)) = &figure.word {
            spans.push(Span::styled(format!("  {word}"), *style));
        }
        widgets::line(buf, area, y, &Line::from(spans));
    }
}

fn overview(
    buf: &mut Buffer,
    area: Rect,
    app: &App,
    id: TensorId,
    metrics: &TensorMetrics,
    theme: &Theme,
) {
    let [first, second, third] = thirds(area);
    let quantizer = app.model.quantizer_of(id);
    let scheme = quantizer.scheme;
    block(buf, first, "values", &statistics(metrics, theme), theme);
    if let Some(layout) = app.model.checkpoint.packed_format(id) {
        return stored(buf, second, app, id, &layout.name(), theme);
    }
    if app.model.becomes_f16(id) {
        let columns = app.model.checkpoint.tensor(id).shape.row_len();
        let size = bytes(app.model.bytes(id, scheme));
        let why = format!(
            "A mark makes it F16 ({size}), as llama.cpp does: its {columns} columns are not a multiple of 32."
        );
        widgets::line(buf, second, 0, &Line::styled("F16", theme.dim));
        for (y, row) in (1..).zip(wrap(&why, BLOCK_WIDTH.into())) {
            widgets::line(buf, second, y, &Line::raw(row));
        }
        return;
    }
    let title = match quantizer.calibration {
        quantization::Calibration::MinMax => {
            format!("{}, weight error", typed_scheme_name(scheme))
        }
        other => format!("{}, {}", typed_scheme_name(scheme), calibration_name(other)),
    };
    let mut error = match metrics.cost_of(quantizer) {
        Some(Cost::Error { error, scales, largest_scale, .. }) => {
            errors(error, scheme, (*scales, *largest_scale), theme)
        }
        Some(Cost::Impossible(why)) => {
            widgets::line(buf, second, 0, &Line::styled(title.as_str(), theme.dim));
            for (y, row) in (1..).zip(wrap(&why.to_string(), BLOCK_WIDTH.into())) {
                widgets::line(buf, second, y, &Line::styled(row, theme.bad));
            }
            return;
        }
        None => vec![figure("SQNR", "…".to_owned())],
    };
    // The output error is shown beside the weight error.
    let place = 1.min(error.len());
    error.splice(place..place, output_errors(app, id, theme));
    block(buf, second, &title, &error, theme);
    if third.height >= 6 {
        let used = comparison(buf, third, app, id, metrics, theme);
        let notes = learned(app, id).into_iter().chain(observed(app, id)).chain(experts(app, id));
        let rows = notes.flat_map(|text| wrap(&text, third.width.into()));
        // Below the schemes and what is said of them, or a blank line.
        let below = used.max(2 + shown_schemes(app).len() as u16);
        for (y, row) in (below..third.height).zip(rows) {
            widgets::line(buf, third, y, &Line::styled(row, theme.mark));
        }
    }
    let below = area.height.saturating_sub(12);
    if third.y == area.y && below > 0 {
        let rest = Rect { y: area.y + 12, height: below, ..area };
        let used = diagnostics(buf, rest, metrics, theme);
        let used = used + 1;
        let rest = Rect { y: rest.y + used, height: below.saturating_sub(used), ..area };
        if app.zoomed && rest.height >= MIN_HISTOGRAM_ROWS {
            histogram::draw(buf, rest, app, id, metrics, theme);
        }
    }
}

/// Describes the learned scales of the tensor, and whether its scheme uses them.
fn learned(app: &App, id: TensorId) -> Option<String> {
    let learned = app.model.checkpoint.learned(id)?;
    let scheme = app.model.scheme_of(id);
    Some(match learned.fits(scheme) {
        Ok(()) => format!("{learned}; marks use them"),
        Err(why) => format!("{learned}; not used: {why}"),
    })
}

/// Describes where the expert of the tensor stands in its layer, and the layer.
fn experts(app: &App, id: TensorId) -> Vec<String> {
    let Some(ExpertView { errors, expert, .. }) = app.model.experts_of_tensor(id) else {
        return Vec::new();
    };
    let Some(errors) = errors else {
        return vec!["experts of the layer: not all are measured".to_owned()];
    };
    let count = errors.experts.len();
    let of_expert = expert.and_then(|expert| {
        let (db, place) = (errors.sqnr_db_of(expert)?, errors.place_of(expert)?);
        let place = match place {
            1 => "the worst".to_owned(),
            n => format!("number {n} from the worst"),
        };
        Some(format!("expert {expert}, all weights: {}, {place} of {count}", decibels(db)))
    });
    let layer =
        format!("all {count} experts: {}, {}", decibels(errors.sqnr_db()), span_of(&errors));
    of_expert.into_iter().chain([layer]).collect()
}

/// The worst and the best expert, their mean and their spread.
fn span_of(errors: &ExpertErrors) -> String {
    let expert = |what: &str, of: Option<(u64, f64)>| {
        of.map(|(expert, db)| format!("{what} {expert} with {}", decibels(db)))
    };
    let one = |what: &str, db: Option<f64>| db.map(|db| format!("{what} {}", decibels(db)));
    let parts = [
        expert("worst", errors.worst()),
        expert("best", errors.best()),
        one("mean", errors.mean_db()),
        one("spread", errors.spread_db()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Describes the activation observers of the layer, or the range that this observer recorded.
fn observed(app: &App, id: TensorId) -> Vec<String> {
    let checkpoint = &app.model.checkpoint;
    let range = |seen: ActivationRange| format!("{} … {}", value(seen.min), value(seen.max));
    if let Some(observed) = checkpoint.observed(id) {
        let scale = observed.input_scale().map_or(String::new(), |s| value(s.into()));
        let input = observed.input.map(|s| format!("inputs seen: {}, scale {scale}", range(s)));
        let output = observed.output.map(|s| format!("outputs seen: {}", range(s)));
        return input.into_iter().chain(output).collect();
    }
    let name = &checkpoint.tensor(id).name;
    let within = |observer: &&UnmatchedObserver| {
        name.strip_prefix(&observer.name).is_some_and(|rest| rest.starts_with('.'))
    };
    let observer = checkpoint.unmatched_observers().iter().find(within);
    let notes = observer.map(|observer| {
        let seen = range(observer.range);
        format!("saw {seen}; only the graph says of which layer, and it is not in the file")
    });
    notes.into_iter().collect()
}

/// The output error of the layer under each scheme, if activations were recorded.
fn output_errors(app: &App, id: TensorId, theme: &Theme) -> Vec<Figure> {
    let Some(outputs) = &app.model.outputs else { return Vec::new() };
    if let Some(why) = outputs.failure(id) {
        return vec![figure("output", "none".to_owned()).word(names::visible(why), theme.bad)];
    }
    let Some(error) = app.model.output(id) else { return Vec::new() };
    let modes = ActivationMode::ALL.iter().zip(["output", "– dynamic", "– static"]);
    let modes = modes.filter_map(|(&mode, label)| Some(figure(label, outputs::text(error, mode)?)));
    modes.collect()
}

/// Draws the tensor's diagnostics and what they mean. Returns the number of rows used.
fn diagnostics(buf: &mut Buffer, area: Rect, metrics: &TensorMetrics, theme: &Theme) -> u16 {
    let mut y = 0;
    for flag in &metrics.flags {
        let text = format!("! {flag}: {}", flag.meaning());
        for row in wrap(&text, area.width.min(110).into()) {
            widgets::line(buf, area, y, &Line::styled(row, theme.warning));
            y += 1;
        }
    }
    y
}

fn stored(buf: &mut Buffer, area: Rect, app: &App, id: TensorId, layout: &str, theme: &Theme) {
    let title = format!("stored as {}", names::visible(layout));
    widgets::line(buf, area, 0, &Line::styled(title, theme.dim));
    let size = bytes(app.model.checkpoint.tensor(id).bytes);
    let text = format!(
        "Stored quantized, {size} with scales. The error is not in the file. {} writes the floats back.",
        app.key_of(Action::Dequantize)
    );
    for (y, row) in (1..).zip(wrap(&text, area.width.into())) {
        widgets::line(buf, area, y, &Line::raw(row));
    }
}

/// Areas for values, error and schemes: side by side if there is room, otherwise below each other.
fn thirds(area: Rect) -> [Rect; 3] {
    let part = |x: u16, y: u16, width: u16| {
        Rect::new(area.x + x, area.y + y, width, area.height).intersection(area)
    };
    let step = BLOCK_WIDTH + BLOCK_GAP;
    if area.width >= 3 * step - 8 {
        [0, 1, 2].map(|n| part(n * step, 0, BLOCK_WIDTH))
    } else if area.height >= 29 {
        [0, 11, 21].map(|y| part(0, y, area.width))
    } else {
        let half = (area.width / 2).min(step);
        [part(0, 0, half - 1), part(half, 0, BLOCK_WIDTH), part(0, 11, area.width)]
    }
}

fn statistics(metrics: &TensorMetrics, theme: &Theme) -> Vec<Figure> {
    let s = &metrics.statistics;
    let share = |n: u64| percent(n as f64 / s.count as f64);
    let bad = |label, n: u64| match n {
        0 => figure(label, "0".to_owned()),
        n => figure(label, count(n)).word(share(n), theme.bad),
    };
    vec![
        figure("min", value(s.min)),
        figure("max", value(s.max)),
        figure("absmax", value(s.absmax)),
        figure("mean", value(s.mean)),
        figure("std", value(s.std)),
        figure("zeros", count(s.zeros)).word(share(s.zeros), theme.dim),
        bad("NaN", s.nan),
        bad("±Inf", s.inf),
        figure("elements", count(s.count)),
    ]
}

fn errors(
    error: &ErrorStatistics,
    scheme: QuantizationScheme,
    (scales, largest_scale): (u64, f32),
    theme: &Theme,
) -> Vec<Figure> {
    let (word, style) = theme.rate(error.sqnr_db);
    let levels = scheme.levels();
    let scale = match scales {
        1 => figure("scale", value(largest_scale.into())),
        n => figure("largest scale", value(largest_scale.into()))
            .word(format!("of {}", count(n)), theme.dim),
    };
    // Blocks of ggml have levels and scales of their own.
    let of_scales = match scheme.ggml() {
        Some(_) => Vec::new(),
        None => vec![
            figure("levels used", error.levels_used.to_string())
                .word(format!("of {levels}"), theme.dim),
            scale,
        ],
    };
    let mut figures = vec![
        figure("SQNR", decibels(error.sqnr_db)).word(word, style),
        figure("relative error", percent(error.relative_error)),
        figure("RMSE", value(error.rmse)),
        figure("largest error", value(error.max_abs_error)),
        figure("cosine", cosine(error.cosine_similarity)),
        figure("zeroed", percent(error.zeroed)),
    ];
    figures.extend(of_scales);
    figures
}

/// A cosine with enough digits to distinguish it from 1.
fn cosine(x: f64) -> String {
    match x {
        x if x.is_nan() => "none".to_owned(),
        x => format!("{x:.7}"),
    }
}

/// The schemes that the overview compares: those of int8, or what the target holds instead.
fn shown_schemes(app: &App) -> &[QuantizationScheme] {
    let target = app.model.schemes();
    if target.iter().all(|scheme| SCHEMES.contains(scheme)) { &SCHEMES } else { target }
}

/// The SQNR and size of every scheme, and what another scheme would recover. Returns the number of
/// rows used.
fn comparison(
    buf: &mut Buffer,
    area: Rect,
    app: &App,
    id: TensorId,
    metrics: &TensorMetrics,
    theme: &Theme,
) -> u16 {
    let now = app.model.scheme_of(id);
    let learned = app.model.checkpoint.learned(id).is_some();
    let shown = shown_schemes(app);
    let title = match (shown == SCHEMES, learned) {
        (true, true) => "int8 schemes, learned",
        (true, false) => "int8 schemes, min–max",
        (false, _) => "schemes of the target",
    };
    widgets::line(buf, area, 0, &Line::styled(title, theme.dim));
    for (y, &scheme) in (1..).zip(shown) {
        let style = if scheme == now { theme.strong } else { theme.dim };
        let mut spans = vec![Span::styled(format!("{:<12}", scheme_name(scheme)), style)];
        match app.model.error(id, scheme) {
            Some(error) => {
                let (_, style) = theme.rate(error.sqnr_db);
                spans.push(Span::styled(format!("{:>8}", decibels(error.sqnr_db)), style));
            }
            None => spans.push(Span::styled(format!("{:>8}", "…"), theme.faint)),
        }
        let size = app.model.bytes(id, scheme);
        spans.push(Span::styled(format!("  {:>9}", bytes(size)), style));
        widgets::line(buf, area, y, &Line::from(spans));
    }
    let mut y = 1 + shown.len() as u16;
    let reason = app.model.reason(id).filter(|_| !app.model.is_marked(id));
    let reason = reason.map(|reason| (format!("left as it is: {reason}"), theme.dim));
    let flags = metrics.flags.iter().map(|flag| (format!("! {flag}"), theme.warning));
    let advice = Some((schemes::advice(app, id), theme.text)).filter(|(text, _)| !text.is_empty());
    for (text, style) in flags.chain(reason).chain(advice) {
        for row in wrap(&text, area.width.min(60).into()) {
            widgets::line(buf, area, y, &Line::styled(row, style));
            y += 1;
        }
    }
    y
}

fn module(buf: &mut Buffer, area: Rect, app: &App, node: NodeId, theme: &Theme) {
    let totals = app.table.totals(node);
    let mut figures = vec![
        figure("tensors", count(totals.tensors as u64)),
        figure("parameters", parameters(totals.parameters)),
        figure("bytes", bytes(totals.bytes)),
        figure("quantizable", count(totals.quantizable as u64)),
        figure("marked", count(totals.marked as u64)),
    ];
    if let Some(worst) = totals.worst {
        let (word, style) = theme.rate(worst);
        figures.push(figure("worst SQNR", decibels(worst)).word(word, style));
    }
    if let Some(worst) = totals.worst_output {
        let text = format!("{worst:.1} dB").replace('-', "−");
        figures.push(figure("worst output", text));
    }
    if totals.waiting > 0 {
        figures.push(figure("to measure", counted(totals.waiting, "tensor")));
    }
    let [first, second, third] = thirds(area);
    block(buf, first, "module", &figures, theme);
    let words: Vec<Figure> = RATINGS
        .into_iter()
        .zip(totals.ratings)
        .rev()
        .map(|(rating, n)| {
            let text = if n == 0 { "–".to_owned() } else { count(n as u64) };
            let bar = "━".repeat((n * 8).div_ceil(totals.tensors.max(1)));
            figure(rating.name(), text).word(bar, theme.rating(rating))
        })
        .collect();
    block(buf, second, "tensors by weight error", &words, theme);
    let path = app.table.current().map(|row| app.full_name(row)).unwrap_or_default();
    if let Some(view) = app.model.experts_of_module(path) {
        expert_layer(buf, third, &view, theme);
    }
}

/// The errors of a layer of experts, and of the expert that the module is part of.
fn expert_layer(buf: &mut Buffer, area: Rect, view: &ExpertView, theme: &Theme) {
    let title = "experts of the layer";
    let Some(errors) = &view.errors else {
        return block(buf, area, title, &[figure("SQNR", "…".to_owned())], theme);
    };
    let rated = |label, db: f64, more: Option<String>| {
        let (word, style) = theme.rate(db);
        let word = more.map_or(word.to_owned(), |more| format!("{word}, {more}"));
        figure(label, decibels(db)).word(word, style)
    };
    let count = errors.experts.len();
    let number = |expert: u64| Some(format!("expert {expert}"));
    let mut figures =
        vec![figure("experts", count.to_string()), rated("all together", errors.sqnr_db(), None)];
    let own = view.expert.and_then(|expert| {
        let place = format!("{} of {count}", errors.place_of(expert)?);
        Some(rated("this expert", errors.sqnr_db_of(expert)?, Some(place)))
    });
    figures.extend(own);
    figures.extend(errors.worst().map(|(expert, db)| rated("worst", db, number(expert))));
    figures.extend(errors.best().map(|(expert, db)| rated("best", db, number(expert))));
    figures.extend(errors.mean_db().map(|db| figure("mean", decibels(db))));
    figures.extend(errors.spread_db().map(|db| figure("spread", decibels(db))));
    block(buf, area, title, &figures, theme);
}
