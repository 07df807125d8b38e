//! Writes the report as one HTML page that stands alone. It can be read without scripts, and has
//! a light and a dark theme.
//!
//! `maud` escapes every text; [`visible`](names::visible) also escapes invisible characters.

use crate::activations::{ActivationMode, Basis};
use crate::plan::budget::Point;
use crate::quantization::{Diagnostic, QuantizationScheme, Rating};
use crate::report::contents::{Report, Row};
use crate::report::experts::ReportedExperts;
use crate::report::plots;
use crate::text::{figures, names};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::io::{self, Write};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Forbids the browser to load anything, whatever the page contains.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The most warnings and points of the curve that are listed.
const LISTED_WARNINGS: usize = 20;
const LISTED_POINTS: usize = 10;

/// Writes the page. Rows of the two large tables are written one at a time.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let start = html! { (DOCTYPE) (PreEscaped("<html lang=\"en\">")) (head(report)) };
    write_markup(out, start)?;
    out.write_all(b"<body>\n")?;
    for section in [summary, plan, warnings, budget] {
        write_markup(out, section(report))?;
    }
    write_schemes(report, out)?;
    write_markup(out, experts(report))?;
    write_markup(out, channels(report))?;
    write_markup(out, diagnostics(report))?;
    write_tensors(report, out)?;
    write_markup(out, html! { script { (PreEscaped(SCRIPT)) } })?;
    out.write_all(b"</body>\n</html>\n")
}

fn write_markup(out: &mut dyn Write, markup: Markup) -> io::Result<()> {
    out.write_all(markup.into_string().as_bytes())?;
    out.write_all(b"\n")
}

/// A table that can be sorted and filtered.
struct LargeTable {
    id: &'static str,
    title: &'static str,
    introduction: Markup,
    head: Markup,
}

impl LargeTable {
    fn write(self, rows: impl Iterator<Item = Markup>, out: &mut dyn Write) -> io::Result<()> {
        let LargeTable { id, title, introduction, head } = self;
        out.write_all(b"<section>\n")?;
        write_markup(out, html! { h2 { (title) } (introduction) })?;
        writeln!(out, "<div class=\"scroll\"><table id=\"{id}\" class=\"sortable\">")?;
        write_markup(out, html! { thead { tr { (head) } } })?;
        out.write_all(b"<tbody>\n")?;
        for row in rows {
            write_markup(out, row)?;
        }
        out.write_all(b"</tbody>\n</table></div>\n</section>\n")
    }
}

fn head(report: &Report) -> Markup {
    let name = report.checkpoint.name();
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta http-equiv="Content-Security-Policy" content=(POLICY);
            meta name="generator" content=(format!("quantscope {}", env!("CARGO_PKG_VERSION")));
            title { (names::visible(&name)) " – quantscope" }
            style { (PreEscaped(STYLE)) }
        }
    }
}

/// A table that scrolls sideways on small screens.
fn scrolling(table: Markup) -> Markup {
    html! { div class="scroll" { (table) } }
}

fn summary(report: &Report) -> Markup {
    let (checkpoint, totals) = (&report.checkpoint, report.totals());
    let measured = report.rows.iter().filter(|row| row.statistics.is_some()).count();
    let thresholds = &report.thresholds;
    html! {
        header {
            h1 { (names::visible(&checkpoint.name())) }
            p class="dim" {
                "Quantization error of each tensor in symmetric int8, measured by quantscope "
                (env!("CARGO_PKG_VERSION")) ". " (explanation(report))
            }
            dl {
                dt { "path" } dd { code { (names::visible(&checkpoint.path().to_string_lossy())) } }
                dt { "format" } dd { (names::visible(checkpoint.format().name())) }
                dt { "tensors" }
                dd {
                    (totals.tensors) ", " (figures::parameters(totals.parameters)) " parameters, "
                    (figures::bytes(totals.bytes)) "; " (measured) " measured"
                }
                dt { "scheme" } dd { (report.quantizer.scheme) }
                dt { "calibration" }
                dd { (report.quantizer.calibration) ", rounding " (report.rounding.name()) }
                dt { "marked ●" } dd { (marked_size(report)) }
                dt { "quantizable" } dd { (rating_counts(report)) }
                dt { "ratings" }
                dd {
                    "SQNR = 10·log₁₀(Σx² / Σ(x−x̂)²): excellent from " (thresholds.excellent)
                    " dB, good from " (thresholds.good) ", fair from " (thresholds.fair)
                    ", poor below"
                }
            }
        }
    }
}

/// The number of marked tensors, and the size of the checkpoint with them quantized.
fn marked_size(report: &Report) -> String {
    let totals = report.totals();
    let marked = report.rows.iter().filter(|row| row.marked).count();
    let share = totals.bytes_quantized as f64 / totals.bytes.max(1) as f64;
    format!(
        "{}: {} → {} ({})",
        figures::counted(marked, "tensor"),
        figures::bytes(totals.bytes),
        figures::bytes(totals.bytes_quantized),
        figures::percent(share)
    )
}

fn rating_counts(report: &Report) -> Markup {
    let ratings = [Rating::Excellent, Rating::Good, Rating::Fair, Rating::Poor];
    let count = |rating: Rating| {
        let has = |row: &&Row| {
            let rated = row.sqnr_db().map(|db| report.thresholds.rate(db));
            row.reason.is_none() && rated == Some(rating)
        };
        report.rows.iter().filter(has).count()
    };
    html! {
        @for (at, rating) in ratings.into_iter().enumerate() {
            @if at > 0 { ", " }
            span class=(rating.name()) { (count(rating)) " " (rating.name()) }
        }
    }
}

/// The explanation of the figures.
fn explanation(report: &Report) -> String {
    if !report.has_outputs {
        return "The figures are errors of the weights, over all elements. The error of the model's output also depends on its activations.".to_owned();
    }
    let mut outputs = report.rows.iter().filter_map(Row::output);
    let mark = if outputs.any(|output| output.basis == Basis::Diagonal) {
        " ~ marks the diagonal approximation from mean squares per feature, without inputs."
    } else {
        ""
    };
    format!(
        "SQNR and the errors are those of the weights, over all elements. The columns output, dynamic and static are errors of the layers' outputs on the recorded inputs: ‖Wx − Ŵx̂‖² / ‖Wx‖² in dB, lower is better, with only the weights quantized, with inputs quantized with a scale per token, and with inputs quantized with one calibrated scale. Tensors are sorted by output.{mark}"
    )
}

/// The marked tensors, by scheme.
fn plan(report: &Report) -> Markup {
    let Some(plan) = &report.plan else { return html! {} };
    let mut groups: Vec<(String, usize, u64, u64)> = Vec::new();
    for row in report.rows.iter().filter(|row| row.marked) {
        let tensor = report.checkpoint.tensor(row.tensor);
        let name = format!("{}, {}", row.quantizer.scheme, row.quantizer.calibration);
        let after = report.container.bytes(row.quantizer.scheme, tensor);
        match groups.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, count, before, sum)) => {
                (*count, *before, *sum) = (*count + 1, *before + tensor.bytes, *sum + after);
            }
            None => groups.push((name, 1, tensor.bytes, after)),
        }
    }
    html! {
        section id="plan" {
            h2 { "Plan" }
            dl {
                @if let Some(recipe) = &plan.recipe {
                    dt { "recipe" } dd { code { (names::visible(recipe)) } }
                }
                dt { "target" } dd { (names::visible(&plan.target)) }
                dt { "marked ●" } dd { (marked_size(report)) }
            }
            (scrolling(html! {
                table {
                    thead { tr {
                        th { "scheme" } th class="number" { "tensors" }
                        th class="number" { "float" } th class="number" { "quantized" }
                    } }
                    tbody {
                        @for (name, count, before, after) in &groups {
                            tr {
                                td { (name) } td class="number" { (count) }
                                td class="number" { (figures::bytes(*before)) }
                                td class="number" { (figures::bytes(*after)) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// Notes of the checkpoint, and marked tensors with a poor rating or non-finite elements.
fn warnings(report: &Report) -> Markup {
    let mut warnings: Vec<String> = report.checkpoint.notes().to_vec();
    for row in &report.rows {
        let name = &report.checkpoint.tensor(row.tensor).name;
        let rating = row.sqnr_db().map(|db| (report.thresholds.rate(db), figures::decibels(db)));
        if let (true, Some((Rating::Poor, db))) = (row.marked, rating) {
            warnings.push(format!("{name} is marked, but its rating is poor: {db}"));
        }
        for flag in &row.flags {
            if matches!(flag, Diagnostic::Nan { .. } | Diagnostic::Inf { .. }) {
                warnings.push(format!("{name}: {flag}"));
            }
        }
        if let Some(why) = &row.unmeasured {
            warnings.push(format!("{name}: the output of its layer was not measured: {why}"));
        }
    }
    let further = warnings.len().saturating_sub(LISTED_WARNINGS);
    html! {
        section id="warnings" {
            h2 { "Warnings" }
            @if warnings.is_empty() {
                p { "There are no warnings." }
            } @else {
                ul {
                    @for warning in warnings.iter().take(LISTED_WARNINGS) {
                        li { (names::visible(warning)) }
                    }
                    @if further > 0 { li { "and " (further) " more" } }
                }
            }
        }
    }
}

fn budget(report: &Report) -> Markup {
    let Some(points) = report.curve() else { return html! {} };
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return html! {} };
    let uniform: Vec<(String, Point)> =
        report.uniform().into_iter().map(|(scheme, p)| (format!("all {scheme}"), p)).collect();
    let mut listed: Vec<(String, Point)> = (0..=LISTED_POINTS)
        .filter_map(|step| {
            let step_bytes = (first.bytes - last.bytes) / LISTED_POINTS as u64;
            let bytes = first.bytes - step_bytes * step as u64;
            let within = match step {
                LISTED_POINTS => points.last(),
                _ => points.iter().find(|point| point.bytes <= bytes),
            };
            Some(("on the curve".to_owned(), *within?))
        })
        .collect();
    listed.dedup();
    let plot = plots::curve(&points, &uniform);
    listed.extend(uniform);
    html! {
        section id="budget" {
            h2 { "Budget: bytes against error" }
            p class="dim" {
                "Each point of the curve chooses a scheme, or float, for every quantizable tensor, such that no other choice of the same size has a smaller error. The error is Σ(x−x̂)²/Σx² of the weights"
                @if report.has_outputs { " or, if known, ‖Wx−Ŵx‖²/‖Wx‖² of the layer's output" }
                ", averaged over parameters; the SQNR is this ratio in dB. Circles mark one scheme for all tensors."
            }
            (scrolling(plot))
            (scrolling(html! {
                table {
                    thead { tr {
                        th { "choice" } th class="number" { "bytes" } th class="number" { "error" }
                        th class="number" { "SQNR" } th { "rating" }
                    } }
                    tbody {
                        @for (choice, point) in &listed {
                            @let db = -10.0 * point.error.log10();
                            @let word = report.thresholds.rate(db).name();
                            tr {
                                td { (choice) }
                                td class="number" { (figures::bytes(point.bytes)) }
                                td class="number" { (plots::percent(point.error)) }
                                td class="number" { (figures::decibels(db)) }
                                td class=(word) { (word) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// The schemes of the report side by side, for every quantizable tensor.
fn write_schemes(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut schemes: Vec<QuantizationScheme> = Vec::new();
    for cost in report.choosable().flat_map(|row| &row.costs) {
        if !schemes.contains(&cost.quantizer.scheme) {
            schemes.push(cost.quantizer.scheme);
        }
    }
    if schemes.len() < 2 {
        return Ok(());
    }
    let table = LargeTable {
        id: "schemes",
        title: "Schemes side by side",
        introduction: html! {
            p class="dim" {
                "SQNR of each quantizable tensor. The best scheme of a tensor is bold, the scheme of its other figures underlined."
            }
        },
        head: html! {
            th scope="col" data-kind="text" { "tensor" }
            th scope="col" class="number" data-kind="number" { "bytes" }
            @for scheme in &schemes {
                th scope="col" class="number" data-kind="number" { (scheme) }
            }
        },
    };
    table.write(report.choosable().map(|row| scheme_row(report, row, &schemes)), out)
}

fn scheme_row(report: &Report, row: &Row, schemes: &[QuantizationScheme]) -> Markup {
    let tensor = report.checkpoint.tensor(row.tensor);
    let db = |scheme: QuantizationScheme| row.cost_by(scheme).map(|cost| cost.error.sqnr_db);
    let best = schemes.iter().filter_map(|&scheme| db(scheme)).fold(f64::NEG_INFINITY, f64::max);
    html! {
        tr class=[row.marked.then_some("marked")] {
            td class="name" { (names::visible(&tensor.name)) }
            (number(Some(tensor.bytes as f64), |_| figures::bytes(tensor.bytes)))
            @for &scheme in schemes {
                @let value = db(scheme).filter(|db| !db.is_nan());
                @let is_best = value == Some(best);
                @let is_used = row.quantizer.scheme == scheme;
                td class={ "number" @if is_best { " best" } @if is_used { " used" } }
                    data-v=(value.map(sort_key).unwrap_or_default())
                {
                    (value.map(figures::decibels).unwrap_or_default())
                }
            }
        }
    }
}

/// The layers of experts, each with all its experts.
fn experts(report: &Report) -> Markup {
    let found = ReportedExperts::of(report);
    if found.is_empty() {
        return html! {};
    }
    let expert = |of: Option<(u64, f64)>| {
        of.map(|(expert, db)| format!("{expert}: {}", figures::decibels(db))).unwrap_or_default()
    };
    let rated = |db: f64| report.thresholds.rate(db).name();
    html! {
        section id="experts" {
            h2 { "Experts" }
            p class="dim" {
                "SQNR of the weights. That of a layer is over the elements of all its experts together; mean and spread are over the experts."
            }
            (scrolling(html! {
                table {
                    thead { tr {
                        th { "layer" } th { "scheme" } th class="number" { "experts" }
                        th class="number" { "SQNR" } th { "worst" } th { "best" }
                        th class="number" { "mean" } th class="number" { "spread" }
                    } }
                    tbody {
                        @for (layer, errors, scheme) in found.all() {
                            tr {
                                td class="name" { (names::visible(&layer.path)) }
                                td {
                                    @if let Some(scheme) = scheme { (scheme) } @else { "several" }
                                }
                                td class="number" {
                                    (errors.experts.len())
                                    @if errors.unknown > 0 {
                                        " of " (errors.experts.len() + errors.unknown)
                                    }
                                }
                                td class={ "number " (rated(errors.sqnr_db())) } {
                                    (figures::decibels(errors.sqnr_db()))
                                }
                                td { (expert(errors.worst())) }
                                td { (expert(errors.best())) }
                                (number(errors.mean_db(), figures::decibels))
                                (number(errors.spread_db(), figures::decibels))
                            }
                        }
                    }
                }
            }))
            @for (layer, errors, _) in found.all() {
                details {
                    summary { (names::visible(&layer.path)) }
                    p {
                        @for (at, (number, loss)) in errors.experts.iter().enumerate() {
                            @if at > 0 { ", " }
                            (number) ": "
                            span class=(rated(loss.sqnr_db())) {
                                (figures::decibels(loss.sqnr_db()))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The output channels of the worst tensors.
fn channels(report: &Report) -> Markup {
    if report.channels.is_empty() {
        return html! {};
    }
    html! {
        section id="channels" {
            h2 { "Channels of the worst tensors" }
            p class="dim" {
                "SQNR of each output channel, sorted by magnitude, largest first. Filled: with a scale of its own. Line: with the scale of the whole tensor. A wide gap means that per-channel scales help."
            }
            @for of_tensor in &report.channels {
                @let name = &report.checkpoint.tensor(of_tensor.tensor).name;
                figure {
                    figcaption {
                        code { (names::visible(name)) } ", "
                        (figures::counted(of_tensor.channels.len(), "channel"))
                        @if let Some((index, channel)) = of_tensor.worst() {
                            "; worst: " (index) " with " (figures::decibels(channel.shared_db))
                            ", " (figures::decibels(channel.own_db)) " with a scale of its own"
                        }
                    }
                    (scrolling(plots::channels(&of_tensor.channels)))
                }
            }
        }
    }
}

fn diagnostics(report: &Report) -> Markup {
    let flagged: Vec<&Row> = report.rows.iter().filter(|row| !row.flags.is_empty()).collect();
    html! {
        section id="diagnostics" {
            h2 { "Diagnostics" }
            @if flagged.is_empty() {
                p { "No tensor has a diagnostic." }
            } @else {
                (scrolling(html! {
                    table {
                        thead { tr {
                            th { "tensor" } th { "diagnostic" } th { "found" } th { "meaning" }
                        } }
                        tbody {
                            @for row in &flagged {
                                @for flag in &row.flags {
                                    tr {
                                        td class="name" {
                                            (names::visible(&report.checkpoint.tensor(row.tensor).name))
                                        }
                                        td { (flag.name()) }
                                        td { (names::visible(&flag.to_string())) }
                                        td class="note" { (names::visible(flag.meaning())) }
                                    }
                                }
                            }
                        }
                    }
                }))
            }
        }
    }
}

/// Titles of the table's columns, and how their cells are sorted.
const COLUMNS: [(&str, &str); 15] = [
    ("tensor", "text"),
    ("dtype", "text"),
    ("shape", "number"),
    ("bytes", "number"),
    ("as int8", "number"),
    ("values", ""),
    ("min", "number"),
    ("max", "number"),
    ("SQNR", "number"),
    ("rating", "text"),
    ("scheme", "text"),
    ("rel. error", "number"),
    ("max error", "number"),
    ("zeroed", "number"),
    ("levels", "number"),
];

/// The columns, with those of outputs after the rating.
fn columns(report: &Report) -> Vec<(&'static str, &'static str)> {
    let (before, after) = COLUMNS.split_at(10);
    let outputs = [("output", "number"), ("dynamic", "number"), ("static", "number")];
    let outputs = outputs.into_iter().filter(|_| report.has_outputs);
    before.iter().copied().chain(outputs).chain(after.iter().copied()).collect()
}

fn write_tensors(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let table = LargeTable {
        id: "tensors",
        title: "Tensors, worst first",
        introduction: html! {},
        head: html! {
            @for (title, kind) in columns(report) {
                th scope="col" class=[(kind == "number").then_some("number")]
                    data-kind=[(!kind.is_empty()).then_some(kind)] { (title) }
            }
            th scope="col" { "notes" }
        },
    };
    table.write(report.rows.iter().map(|row| tensor_row(report, row)), out)
}

fn tensor_row(report: &Report, row: &Row) -> Markup {
    let tensor = report.checkpoint.tensor(row.tensor);
    let cost = row.cost();
    let after = cost.map(|cost| report.container.bytes(cost.quantizer.scheme, tensor));
    let statistics = row.statistics.as_ref().filter(|s| s.count > s.nan + s.inf);
    let error = cost.map(|cost| &cost.error);
    let word = error.map_or("", |e| report.thresholds.rate(e.sqnr_db).name());
    let scheme = cost.map_or(String::new(), |cost| {
        if cost.quantizer.calibration == report.quantizer.calibration {
            cost.quantizer.scheme.to_string()
        } else {
            format!("{}, {}", cost.quantizer.scheme, cost.quantizer.calibration)
        }
    });
    html! {
        tr class=[row.marked.then_some("marked")] {
            td class="name" { (names::visible(&tensor.name)) }
            td { (names::visible(tensor.dtype.name())) }
            (number(Some(tensor.parameters() as f64), |_| figures::shape(&tensor.shape)))
            (number(Some(tensor.bytes as f64), |_| figures::bytes(tensor.bytes)))
            (number(after.map(|n| n as f64), |_| after.map(figures::bytes).unwrap_or_default()))
            td { (row.histogram.as_ref().map(plots::histogram).unwrap_or_default()) }
            (number(statistics.map(|s| s.min), figures::value))
            (number(statistics.map(|s| s.max), figures::value))
            (number(error.map(|e| e.sqnr_db), figures::decibels))
            td class=(word) { (word) }
            @if report.has_outputs {
                @for mode in ActivationMode::ALL {
                    @let output = row.output();
                    (number(
                        output.and_then(|output| output.db(mode)),
                        |_| output.and_then(|output| output.shown(mode)).unwrap_or_default(),
                    ))
                }
            }
            td { (scheme) }
            (number(error.map(|e| e.relative_error), figures::percent))
            (number(error.map(|e| e.max_abs_error), figures::value))
            (number(error.map(|e| e.zeroed), figures::percent))
            (number(error.map(|e| e.levels_used.into()), |levels| levels.to_string()))
            td class="note" { (names::visible(&note(row))) }
        }
    }
}

/// A cell with a figure, sorted by its exact value; empty if there is none.
fn number(value: Option<f64>, shown: impl FnOnce(f64) -> String) -> Markup {
    let value = value.filter(|value| !value.is_nan());
    html! {
        td class="number" data-v=(value.map(sort_key).unwrap_or_default()) {
            (value.map(shown).unwrap_or_default())
        }
    }
}

/// A number as JavaScript parses it.
fn sort_key(value: f64) -> String {
    match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => format!("{value:e}"),
    }
}

/// Why the tensor is not quantized, and its diagnostics.
fn note(row: &Row) -> String {
    // NaN and infinities are given as the reason already.
    let further = row.flags.iter().filter(|flag| {
        row.reason.is_none() || !matches!(flag, Diagnostic::Nan { .. } | Diagnostic::Inf { .. })
    });
    let reason = row.reason.clone().into_iter();
    let unmeasured = row.unmeasured.as_ref().map(|why| format!("output not measured: {why}"));
    let notes = reason.chain(further.map(Diagnostic::to_string)).chain(unmeasured);
    notes.collect::<Vec<_>>().join("; ")
}
