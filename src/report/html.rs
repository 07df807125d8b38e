//! Writes the report as one HTML page. It needs no network and no other file, can be read
//! without scripts, and has a light and a dark theme.

use super::plots;
use super::{Report, Row};
use crate::activations::{ActivationMode, Basis};
use crate::plan::budget::Point;
use crate::quantization::{Diagnostic, Rating};
use crate::text::{figures, names};
use std::borrow::Cow;
use std::io::{self, Write};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// Escapes an untrusted text for use between tags and in attributes.
fn safe(text: &str) -> Cow<'_, str> {
    let visible = names::visible(text);
    if !visible.contains(['&', '<', '>', '"', '\'']) {
        return visible;
    }
    let mut out = String::with_capacity(visible.len() + 16);
    for c in visible.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out.into()
}

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    head(report, out)?;
    summary(report, out)?;
    budget(report, out)?;
    diagnostics(report, out)?;
    table(report, out)?;
    write!(out, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n")
}

/// The head of the page. Its security policy forbids the browser to load anything.
fn head(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let name = report.checkpoint.name();
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n<meta name=\"generator\" content=\"quantscope {version}\">\n<title>{name} – quantscope</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        version = env!("CARGO_PKG_VERSION"),
        name = safe(&name),
    )
}

fn summary(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let (checkpoint, totals) = (&report.checkpoint, report.totals());
    let marked = report.rows.iter().filter(|row| row.marked).count();
    let measured = report.rows.iter().filter(|row| row.statistics.is_some()).count();
    let share = totals.bytes_quantized as f64 / totals.bytes.max(1) as f64;
    let ratings = [Rating::Excellent, Rating::Good, Rating::Fair, Rating::Poor];
    let counts: Vec<String> = ratings
        .into_iter()
        .map(|rating| {
            let has = |row: &&Row| {
                row.reason.is_none()
                    && row.sqnr_db().map(|db| report.thresholds.rate(db)) == Some(rating)
            };
            let (n, word) = (report.rows.iter().filter(has).count(), rating.word());
            format!("<span class=\"{word}\">{n} {word}</span>")
        })
        .collect();
    let thresholds = &report.thresholds;
    write!(
        out,
        "<header>\n<h1>{name}</h1>\n<p class=\"dim\">Quantization error of each tensor in symmetric int8, measured by quantscope {version}. {judged}</p>\n<dl>\n<dt>path</dt><dd><code>{path}</code></dd>\n<dt>format</dt><dd>{format}</dd>\n<dt>tensors</dt><dd>{tensors}, {parameters} parameters, {bytes}; {measured} measured</dd>\n<dt>scheme</dt><dd>{scheme}</dd>\n<dt>calibration</dt><dd>{calibration}, rounding {rounding}</dd>\n<dt>marked ●</dt><dd>{marked_tensors}: {bytes} → {after} ({share})</dd>\n<dt>quantizable</dt><dd>{counts}</dd>\n<dt>ratings</dt><dd>SQNR = 10·log₁₀(Σx² / Σ(x−x̂)²): excellent from {excellent} dB, good from {good}, fair from {fair}, poor below</dd>\n</dl>\n</header>\n",
        version = env!("CARGO_PKG_VERSION"),
        judged = explanation(report),
        name = safe(&checkpoint.name()),
        path = safe(&checkpoint.path().to_string_lossy()),
        format = safe(checkpoint.format().name()),
        tensors = totals.tensors,
        parameters = figures::parameters(totals.parameters),
        bytes = figures::bytes(totals.bytes),
        scheme = report.quantizer.scheme,
        calibration = report.quantizer.calibration,
        rounding = report.rounding.name(),
        marked_tensors = figures::counted(marked, "tensor"),
        after = figures::bytes(totals.bytes_quantized),
        share = figures::percent(share),
        counts = counts.join(", "),
        excellent = thresholds.excellent,
        good = thresholds.good,
        fair = thresholds.fair,
    )
}

/// What the figures mean.
fn explanation(report: &Report) -> String {
    if !report.has_outputs {
        return "The figures are errors of the weights, over all elements. The error of the model's output also depends on its activations.".to_owned();
    }
    let diagonal =
        report.rows.iter().filter_map(Row::output).any(|output| output.basis == Basis::Diagonal);
    let mark = if diagonal {
        " ~ marks the diagonal approximation from mean squares per feature, without inputs."
    } else {
        ""
    };
    format!(
        "SQNR and the errors are those of the weights, over all elements. The columns output, dynamic and static are errors of the layers' outputs on the recorded inputs: ‖Wx − Ŵx̂‖² / ‖Wx‖² in dB, lower is better, with only the weights quantized, with inputs quantized with a scale per token, and with inputs quantized with one calibrated scale. Tensors are sorted by output.{mark}"
    )
}

/// Points of the curve that are listed below it.
const LISTED_POINTS: usize = 10;

fn budget(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Some(points) = report.curve() else { return Ok(()) };
    let uniform: Vec<(String, Point)> =
        report.uniform().into_iter().map(|(scheme, p)| (format!("all {scheme}"), p)).collect();
    write!(
        out,
        "<section>\n<h2>Budget: bytes against error</h2>\n<p class=\"dim\">Each point of the curve chooses a scheme, or float, for every quantizable tensor, such that no other choice of the same size has a smaller error. The error is Σ(x−x̂)²/Σx² of the weights{outputs}, averaged over parameters; the SQNR is this ratio in dB. Circles mark one scheme for all tensors.</p>\n<div class=\"scroll\">{}</div>\n<div class=\"scroll\"><table>\n<thead><tr><th>choice</th><th class=\"number\">bytes</th><th class=\"number\">error</th><th class=\"number\">SQNR</th><th></th></tr></thead>\n<tbody>\n",
        plots::curve(&points, &uniform),
        outputs = if report.has_outputs {
            " or, if known, ‖Wx−Ŵx‖²/‖Wx‖² of the layer's output"
        } else {
            ""
        },
    )?;
    let (most, least) = match (points.first(), points.last()) {
        (Some(first), Some(last)) => (first.bytes, last.bytes),
        _ => return Ok(()),
    };
    let mut listed: Vec<(String, Point)> = (0..=LISTED_POINTS)
        .filter_map(|step| {
            let bytes = most - (most - least) / LISTED_POINTS as u64 * step as u64;
            let within = match step {
                LISTED_POINTS => points.last(),
                _ => points.iter().find(|point| point.bytes <= bytes),
            };
            Some(("on the curve".to_owned(), *within?))
        })
        .collect();
    listed.dedup();
    listed.extend(uniform);
    for (choice, point) in listed {
        let db = -10.0 * point.error.log10();
        let word = report.thresholds.rate(db).word();
        writeln!(
            out,
            "<tr><td>{choice}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"{word}\">{word}</td></tr>",
            figures::bytes(point.bytes),
            plots::percent(point.error),
            figures::decibels(db),
        )?;
    }
    out.write_all(b"</tbody>\n</table></div>\n</section>\n")
}

fn diagnostics(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let flagged = || report.rows.iter().filter(|row| !row.flags.is_empty());
    out.write_all(b"<section>\n<h2>Diagnostics</h2>\n")?;
    if flagged().next().is_none() {
        return out.write_all(b"<p>No tensor has a diagnostic.</p>\n</section>\n");
    }
    out.write_all(b"<div class=\"scroll\"><table>\n<thead><tr><th>tensor</th><th>diagnostic</th><th>found</th><th>meaning</th></tr></thead>\n<tbody>\n")?;
    for row in flagged() {
        for flag in &row.flags {
            writeln!(
                out,
                "<tr><td class=\"name\">{}</td><td>{}</td><td>{}</td><td class=\"note\">{}</td></tr>",
                safe(&report.checkpoint.tensor(row.tensor).name),
                flag.name(),
                safe(&flag.to_string()),
                safe(flag.meaning()),
            )?;
        }
    }
    out.write_all(b"</tbody>\n</table></div>\n</section>\n")
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
    ("", "text"),
    ("scheme", "text"),
    ("rel. error", "number"),
    ("max error", "number"),
    ("zeroed", "number"),
    ("levels", "number"),
];

/// Those of outputs come after the word, where there are any.
fn columns(report: &Report) -> Vec<(&'static str, &'static str)> {
    let (before, after) = COLUMNS.split_at(10);
    let outputs = [("output", "number"), ("dynamic", "number"), ("static", "number")];
    let outputs = outputs.into_iter().filter(|_| report.has_outputs);
    before.iter().copied().chain(outputs).chain(after.iter().copied()).collect()
}

fn table(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(
        b"<section>\n<h2>Tensors, ranked</h2>\n<div class=\"scroll\"><table id=\"tensors\">\n<thead><tr>",
    )?;
    for (title, kind) in columns(report) {
        let class = if kind == "number" { " class=\"number\"" } else { "" };
        let order = if kind.is_empty() { String::new() } else { format!(" data-kind=\"{kind}\"") };
        write!(out, "<th scope=\"col\"{class}{order}>{title}</th>")?;
    }
    out.write_all(b"<th scope=\"col\">notes</th></tr></thead>\n<tbody>\n")?;
    report.rows.iter().try_for_each(|row| line(report, row, out))?;
    out.write_all(b"</tbody>\n</table></div>\n</section>\n")
}

fn line(report: &Report, row: &Row, out: &mut dyn Write) -> io::Result<()> {
    let tensor = report.checkpoint.tensor(row.tensor);
    let class = if row.marked { " class=\"marked\"" } else { "" };
    let dtype = tensor.dtype.name();
    write!(
        out,
        "<tr{class}><td class=\"name\">{}</td><td>{}</td>",
        safe(&tensor.name),
        safe(dtype)
    )?;
    let parameters = tensor.parameters() as f64;
    number(out, Some(parameters), |_| figures::shape(&tensor.shape))?;
    number(out, Some(tensor.bytes as f64), |_| figures::bytes(tensor.bytes))?;
    let cost = row.cost();
    let after = cost.map(|cost| cost.quantizer.scheme.bytes(&tensor.shape, 4));
    number(out, after.map(|n| n as f64), |_| after.map(figures::bytes).unwrap_or_default())?;
    write!(out, "<td>{}</td>", row.histogram.as_ref().map(plots::histogram).unwrap_or_default())?;
    let statistics = row.statistics.as_ref().filter(|s| s.count > s.nan + s.inf);
    number(out, statistics.map(|s| s.min), figures::value)?;
    number(out, statistics.map(|s| s.max), figures::value)?;
    let error = cost.map(|cost| &cost.error);
    number(out, error.map(|e| e.sqnr_db), figures::decibels)?;
    let word = error.map_or("", |e| report.thresholds.rate(e.sqnr_db).word());
    write!(out, "<td class=\"{word}\">{word}</td>")?;
    if report.has_outputs {
        for mode in ActivationMode::ALL {
            let output = row.output();
            let shown = |_| output.and_then(|output| output.shown(mode)).unwrap_or_default();
            number(out, output.and_then(|output| output.db(mode)), shown)?;
        }
    }
    let scheme = cost.map(|cost| cost.quantizer);
    let scheme = scheme.map_or(String::new(), |quantizer| {
        if quantizer.calibration == report.quantizer.calibration {
            quantizer.scheme.to_string()
        } else {
            format!("{}, {}", quantizer.scheme, quantizer.calibration)
        }
    });
    write!(out, "<td>{scheme}</td>")?;
    number(out, error.map(|e| e.relative_error), figures::percent)?;
    number(out, error.map(|e| e.max_abs_error), figures::value)?;
    number(out, error.map(|e| e.zeroed), figures::percent)?;
    number(out, error.map(|e| e.levels_used.into()), |levels| format!("{levels}"))?;
    writeln!(out, "<td class=\"note\">{}</td></tr>", safe(&note(row)))
}

/// A cell with a figure, sorted by its exact value; empty if there is none.
fn number(
    out: &mut dyn Write,
    value: Option<f64>,
    shown: impl FnOnce(f64) -> String,
) -> io::Result<()> {
    let Some(value) = value.filter(|value| !value.is_nan()) else {
        return out.write_all(b"<td class=\"number\" data-v=\"\"></td>");
    };
    let ordered = match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => format!("{value:e}"),
    };
    write!(out, "<td class=\"number\" data-v=\"{ordered}\">{}</td>", shown(value))
}

/// Why the tensor is not quantized, and its diagnostics.
fn note(row: &Row) -> String {
    // NaN and infinities are given as the reason already.
    let further = row.flags.iter().filter(|flag| {
        row.reason.is_none() || !matches!(flag, Diagnostic::Nan { .. } | Diagnostic::Inf { .. })
    });
    let reason = row.reason.clone().into_iter();
    let unmeasured = row.unmeasured.as_ref().map(|why| format!("output not measured: {why}"));
    reason
        .chain(further.map(Diagnostic::to_string))
        .chain(unmeasured)
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_texts_are_escaped() {
        assert_eq!(safe("encoder.weight"), "encoder.weight");
        assert_eq!(safe("<script>&\"'"), "&lt;script&gt;&amp;&quot;&#39;");
        assert_eq!(safe("a\u{202e}b\n"), "a\\u{202e}b\\n");
    }
}
