//! `analyze --sample`: estimates from a part of each tensor.

use super::error::Error;
use super::job_runner::JobRunner;
use super::options::WorkArgs;
use super::output::{output, width};
use super::table::{Column, Table};
use crate::checkpoint::Checkpoint;
use crate::job::sample::{self, Estimate};
use crate::quantization::{AnalysisSpec, ErrorDetail, Quantizer, Thresholds};
use crate::report::document::ErrorFigures;
use crate::tensor::TensorId;
use crate::text::{figures, names};
use serde::Serialize;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

/// The share of each tensor that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let percent = text.trim().strip_suffix('%');
        let number = percent.unwrap_or(text).trim().parse::<f64>().ok();
        let share = number.map(|number| if percent.is_some() { number / 100.0 } else { number });
        share.filter(|share| *share > 0.0 && *share <= 1.0).map(Share).ok_or_else(|| {
            let text = text.escape_debug();
            format!("invalid share '{text}': expected more than 0% and at most 100%, such as 5%")
        })
    }
}

/// A sample, as it was asked for.
pub(super) struct Sampling<'a> {
    pub checkpoint: &'a Arc<Checkpoint>,
    pub spec: AnalysisSpec,
    pub share: Share,
    /// The number of tensors to print.
    pub rows: usize,
    pub work: &'a WorkArgs,
}

/// One scheme's estimate of a tensor.
#[derive(Serialize)]
struct EstimateFigures {
    scheme: String,
    #[serde(flatten)]
    error: ErrorFigures,
    /// `null` where there is no SQNR, or fewer than two pieces were measured.
    sqnr_db_standard_error: Option<f64>,
}

#[derive(Serialize)]
struct SampledTensor<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [u64],
    /// Elements that were measured.
    sampled: u64,
    /// Whether these are all, so that the figures are exact.
    exact: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    estimates: Vec<EstimateFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    path: std::borrow::Cow<'a, str>,
    sampled_share: f64,
    tensors: Vec<SampledTensor<'a>>,
}

/// The estimate of a tensor, or why it could not be read.
type Sampled = (TensorId, Result<Estimate, Error>);

impl Sampling<'_> {
    /// Measures and prints the estimates, worst first.
    pub(super) fn run(
        self,
        tensors: Vec<TensorId>,
        json: bool,
        thresholds: &Thresholds,
    ) -> Result<(), Error> {
        let spec = AnalysisSpec { errors: ErrorDetail::Full, ..self.spec.clone() };
        let (checkpoint, threads) = (self.checkpoint.clone(), self.work.threads());
        let job = || sample::start(checkpoint, spec, tensors, self.share.0, threads);
        let mut runner = JobRunner::start(job, "sampling", self.work.quiet)?;
        let mut found: Vec<Sampled> = Vec::new();
        while let Some(finding) = runner.next()? {
            let (id, estimate) = finding?;
            found.push((id, estimate.map_err(Error::from)));
        }
        drop(runner);
        let rank = |(_, estimate): &Sampled| match estimate {
            Ok(estimate) => sqnr_db(estimate, 0).unwrap_or(f64::INFINITY),
            Err(_) => f64::INFINITY,
        };
        found.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then(a.0.cmp(&b.0)));
        if json {
            self.document(&found)?
        } else {
            self.table(&found, thresholds)?
        }
        let count = found.iter().filter(|(_, estimate)| estimate.is_err()).count();
        match found.into_iter().find_map(|(_, estimate)| estimate.err()) {
            Some(first) => Err(Error::Unread { count, first: first.to_string() }),
            None => Ok(()),
        }
    }

    fn document(&self, found: &[Sampled]) -> Result<(), Error> {
        let tensors = found.iter().take(self.rows).map(|(id, estimate)| {
            let tensor = self.checkpoint.tensor(*id);
            let estimated = estimate.as_ref().ok();
            SampledTensor {
                name: &tensor.name,
                dtype: tensor.dtype.name(),
                shape: tensor.shape.dims(),
                sampled: estimated.map_or(0, |estimate| estimate.elements),
                exact: estimated.is_some_and(|found| found.is_exact(self.checkpoint, *id)),
                estimates: estimated.map(|found| self.figures(found)).unwrap_or_default(),
                error: estimate.as_ref().err().map(Error::to_string),
            }
        });
        let document = Document {
            path: self.checkpoint.path().to_string_lossy(),
            sampled_share: self.share.0,
            tensors: tensors.collect(),
        };
        let mut out = output();
        crate::text::json::write(&mut out, &document)?;
        writeln!(out)?;
        Ok(out.flush()?)
    }

    fn figures(&self, estimate: &Estimate) -> Vec<EstimateFigures> {
        let outcomes = estimate.analysis.outcomes.iter().zip(&estimate.standard_errors);
        let measured = outcomes.filter_map(|(outcome, &standard_error)| {
            let error = outcome.result.as_ref().ok()?.error?;
            let Quantizer { scheme, .. } = outcome.quantizer;
            Some(EstimateFigures {
                scheme: scheme.to_string(),
                error: ErrorFigures::of(&error.statistics()),
                sqnr_db_standard_error: standard_error,
            })
        });
        measured.collect()
    }

    fn table(&self, found: &[Sampled], thresholds: &Thresholds) -> Result<(), Error> {
        let schemes: Vec<String> =
            self.spec.quantizers.iter().map(|quantizer| quantizer.scheme.to_string()).collect();
        let mut columns =
            vec![("tensor", Column::Name), ("shape", Column::Left), ("sampled", Column::Right)];
        for scheme in &schemes {
            let title = if schemes.len() == 1 { "SQNR (estimate)" } else { scheme.as_str() };
            columns.extend([(title, Column::Right), ("", Column::Left)]);
        }
        let mut table = Table::new(&columns);
        for (id, estimate) in found.iter().take(self.rows) {
            let tensor = self.checkpoint.tensor(*id);
            table.cell(names::visible(&tensor.name));
            table.cell(&tensor.shape);
            let Ok(estimate) = estimate else {
                table.cell("unreadable");
                (0..2 * schemes.len()).for_each(|_| table.cell(""));
                continue;
            };
            let share = estimate.elements as f64 / tensor.parameters().max(1) as f64;
            table.cell(figures::percent(share));
            for place in 0..schemes.len() {
                let sqnr = sqnr_db(estimate, place);
                let standard_error = estimate.standard_errors.get(place).copied().flatten();
                table.cell(match (sqnr, standard_error) {
                    (Some(db), Some(standard_error)) if db.is_finite() => {
                        format!("{} ± {standard_error:.2}", figures::decibels(db))
                    }
                    (Some(db), _) => figures::decibels(db),
                    (None, _) => String::new(),
                });
                table.cell(sqnr.map_or("", |db| thresholds.rate(db).name()));
            }
        }
        let mut out = output();
        table.print(&mut out, width())?;
        writeln!(
            out,
            "Estimates from {} of each tensor, ± one standard error. They are not kept.",
            figures::percent(self.share.0)
        )?;
        Ok(out.flush()?)
    }
}

/// The SQNR for the quantizer at `index` of the spec.
fn sqnr_db(estimate: &Estimate, index: usize) -> Option<f64> {
    let outcome = estimate.analysis.outcomes.get(index)?;
    Some(outcome.result.as_ref().ok()?.loss()?.sqnr_db())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_as_people_write_them() {
        assert_eq!("5%".parse(), Ok(Share(0.05)));
        assert_eq!("0.25".parse(), Ok(Share(0.25)));
        assert_eq!("100 %".parse(), Ok(Share(1.0)));
        for wrong in ["0%", "101%", "-5%", "five", "", "NaN"] {
            let why = wrong.parse::<Share>().expect_err(wrong);
            assert!(why.contains("such as 5%"), "{why}");
        }
    }
}
