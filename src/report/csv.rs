//! Writes the report as CSV (RFC 4180): one record per tensor, figures with all digits.
//!
//! Spreadsheets evaluate a cell that begins with `=`, `+`, `-`, `@` or a tab as a formula, and
//! names may come from untrusted files. Such a text gets an apostrophe before it, which marks it
//! as text. Numbers are not changed.

use super::{Report, Row};
use crate::activations::ActivationMode;
use crate::text::names;
use std::borrow::Cow;
use std::io::{self, Write};

const COLUMNS: [&str; 31] = [
    "name",
    "dtype",
    "shape",
    "parameters",
    "bytes",
    "marked",
    "scheme",
    "calibration",
    "bytes_quantized",
    "sqnr_db",
    "word",
    "relative_error",
    "rmse",
    "mse",
    "max_abs_error",
    "cosine_similarity",
    "zeroed",
    "levels_used",
    "scales",
    "largest_scale",
    "min",
    "max",
    "absmax",
    "mean",
    "std",
    "zeros",
    "nan",
    "inf",
    "flags",
    "duplicate_of",
    "not_quantizable",
];

/// Further columns if activations were given.
const OUTPUTS: [&str; 8] = [
    "output_relative",
    "output_db",
    "output_dynamic_relative",
    "output_dynamic_db",
    "output_static_relative",
    "output_static_db",
    "output_basis",
    "input_scale",
];

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(COLUMNS.join(",").as_bytes())?;
    if report.has_outputs {
        out.write_all(b",")?;
        out.write_all(OUTPUTS.join(",").as_bytes())?;
    }
    out.write_all(b"\r\n")?;
    report.rows.iter().try_for_each(|row| record(report, row, out))
}

fn record(report: &Report, row: &Row, out: &mut dyn Write) -> io::Result<()> {
    let tensor = report.checkpoint.tensor(row.tensor);
    let mut cells: Vec<Cow<'_, str>> = vec![
        text(&tensor.name),
        text(tensor.dtype.name()),
        text(&tensor.shape.to_string()).into_owned().into(),
        tensor.parameters().to_string().into(),
        tensor.bytes.to_string().into(),
        row.marked.to_string().into(),
        row.quantizer.scheme.to_string().into(),
        row.quantizer.calibration.to_string().into(),
        row.quantizer.scheme.bytes(&tensor.shape, 4).to_string().into(),
    ];
    let figures: [String; 11] = row.cost().map_or(Default::default(), |cost| {
        let e = &cost.error;
        [
            number(e.sqnr_db),
            report.thresholds.rate(e.sqnr_db).word().to_owned(),
            number(e.relative_error),
            number(e.rmse),
            number(e.mse),
            number(e.max_abs_error),
            number(e.cosine_similarity),
            number(e.zeroed),
            e.levels_used.to_string(),
            cost.scales.to_string(),
            number(cost.largest_scale.into()),
        ]
    });
    cells.extend(figures.map(Cow::from));
    let statistics: [String; 8] = row.statistics.as_ref().map_or(Default::default(), |s| {
        let [min, max, absmax, mean, std] = [s.min, s.max, s.absmax, s.mean, s.std].map(number);
        [min, max, absmax, mean, std, s.zeros.to_string(), s.nan.to_string(), s.inf.to_string()]
    });
    cells.extend(statistics.map(Cow::from));
    let flags: Vec<&str> = row.flags.iter().map(|flag| flag.name()).collect();
    cells.push(flags.join(" ").into());
    cells.push(text(row.duplicate_of().unwrap_or_default()));
    cells.push(text(row.reason.as_deref().unwrap_or_default()));
    if report.has_outputs {
        let error = row.output();
        for mode in ActivationMode::ALL {
            let relative = error.and_then(|error| error.ratio(mode));
            // An exact output has no value in dB.
            let db = error.and_then(|error| error.db(mode)).filter(|db| db.is_finite());
            cells.extend([relative, db].map(|x| x.map(number).unwrap_or_default().into()));
        }
        cells.push(error.map_or("", |error| error.basis.name()).into());
        cells.push(row.input_scale.map(|s| number(s.into())).unwrap_or_default().into());
    }
    out.write_all(cells.join(",").as_bytes())?;
    out.write_all(b"\r\n")
}

/// A number with all digits; NaN is an empty cell.
fn number(x: f64) -> String {
    match x {
        x if x.is_nan() => String::new(),
        x if x != 0.0 && !(1e-5..1e15).contains(&x.abs()) => format!("{x:e}"),
        x => x.to_string(),
    }
}

/// A cell with an untrusted text.
fn text(text: &str) -> Cow<'_, str> {
    let text = names::visible(text);
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let quoted = text.contains(['"', ',', '\n', '\r', ';']) || text.starts_with([' ', '\'']);
    if !formula && !quoted && text.trim_end() == text {
        return text;
    }
    let apostrophe = if formula { "'" } else { "" };
    format!("\"{apostrophe}{}\"", text.replace('"', "\"\"")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_and_never_formulas() {
        assert_eq!(text("encoder.weight"), "encoder.weight");
        assert_eq!(text("a,b\"c"), "\"a,b\"\"c\"");
        assert_eq!(text("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
        for start in ["=", "+", "-", "@"] {
            assert!(text(&format!("{start}1")).starts_with("\"'"));
        }
        assert_eq!(text("a\nb"), "a\\nb");
    }

    #[test]
    fn numbers_keep_all_digits() {
        assert_eq!(number(-0.1), "-0.1");
        assert_eq!(number(1.5e-7), "1.5e-7");
        assert_eq!(number(f64::NAN), "");
        assert_eq!(number(f64::INFINITY), "inf");
    }
}
