//! `verify`: whether a saved checkpoint is what its source and its plan promised.

use super::document::ErrorFigures;
use super::error::Error;
use super::options::{OutputArgs, WorkArgs, open};
use super::output::{Output, output};
use super::receipt::Quantized;
use super::watch::Watch;
use crate::checkpoint::Checkpoint;
use crate::export::Match;
use crate::job::verify::{self, Verification, Verified};
use crate::quantization::{QuantizationScheme, Thresholds};
use crate::text::{figures, names};
use clap::Args;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Verify {
    /// The checkpoint that was saved
    out: PathBuf,
    /// The checkpoint it was made from; `demo:` is the built-in demo
    #[arg(long, value_name = "MODEL")]
    against: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    work: WorkArgs,
}

impl Verify {
    pub fn run(self, words: &Thresholds) -> Result<(), Error> {
        let (written, source) = (open(&self.out)?, open(&self.against)?);
        let job = || verify::start(written.clone(), source.clone(), self.work.threads());
        let verification = Watch::start(job, "verifying", self.work.quiet)?.only()??;
        let found = Found::new(&written, &source, &verification);
        let mut out = output();
        match self.output.json {
            true => {
                super::output::json(&mut out, &found)?;
                writeln!(out)?;
            }
            false => found.print(&mut out, words)?,
        }
        Ok(out.flush()?)
    }
}

/// What every tensor was found to be.
#[derive(Serialize)]
struct Found<'a> {
    out: Cow<'a, str>,
    against: Cow<'a, str>,
    tensors: usize,
    identical: usize,
    dequantized: usize,
    quantized: Vec<Quantized<'a>>,
    #[serde(skip)]
    worst: Option<(f64, &'a str)>,
}

impl<'a> Found<'a> {
    fn new(out: &'a Checkpoint, source: &'a Checkpoint, verification: &Verification) -> Self {
        let tensors = &verification.tensors;
        let name = |tensor: &Verified| source.tensor(tensor.source).name.as_str();
        let measured = tensors
            .iter()
            .filter_map(|tensor| Some((tensor, scheme(out, tensor)?, tensor.error?.statistics())));
        let worst = measured.clone().min_by(|(.., a), (.., b)| a.sqnr_db.total_cmp(&b.sqnr_db));
        let quantized = measured.map(|(tensor, scheme, error)| Quantized {
            name: name(tensor),
            scheme: scheme.to_string(),
            error: ErrorFigures::of(&error),
        });
        let count = |is: fn(&Match) -> bool| tensors.iter().filter(|t| is(&t.how)).count();
        Found {
            out: out.path().to_string_lossy(),
            against: source.path().to_string_lossy(),
            tensors: tensors.len(),
            identical: count(|how| *how == Match::Identical),
            dequantized: count(|how| matches!(how, Match::Dequantized(_))),
            quantized: quantized.collect(),
            worst: worst.map(|(tensor, _, error)| (error.sqnr_db, name(tensor))),
        }
    }

    fn print(&self, out: &mut Output, words: &Thresholds) -> io::Result<()> {
        let Found { tensors, identical, dequantized, .. } = self;
        let (path, against) = (names::visible(&self.out), names::visible(&self.against));
        writeln!(out, "{path} is what {against} gives, every byte compared")?;
        writeln!(
            out,
            "{tensors} tensors: {} quantized, {dequantized} dequantized, {identical} bit for bit as they were",
            self.quantized.len()
        )?;
        if let Some((db, name)) = self.worst {
            let (db, name) = (figures::judged(db, words), names::visible(name));
            writeln!(out, "measured from the file: worst {db}, {name}")?;
        }
        Ok(())
    }
}

/// The scheme an output's tensor was quantized by.
fn scheme(out: &Checkpoint, tensor: &Verified) -> Option<QuantizationScheme> {
    match tensor.how {
        Match::FakeQuantized(quantizer, _) => Some(quantizer.scheme),
        _ => Some(out.layout(tensor.out)?.int8()?.scheme),
    }
}
