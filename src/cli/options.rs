//! Options that several subcommands share.

use super::error::Error;
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::job::cache::Cache;
use crate::plan::Selection;
use crate::plan::{default_calibration, default_scheme};
use crate::quantization::{Calibration, QuantizationScheme, Quantizer, Rounding};
use crate::text::names;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// A .safetensors file, a *.index.json, or a directory with one of them; `demo:` is the
    /// built-in demo
    pub model: PathBuf,
}

impl ModelArgs {
    pub(super) fn open(&self) -> Result<Arc<Checkpoint>, Error> {
        open(&self.model)
    }
}

/// Opens a checkpoint, or the demo.
pub(super) fn open(model: &Path) -> Result<Arc<Checkpoint>, Error> {
    let checkpoint = Arc::new(demo::open_model(model)?);
    for note in checkpoint.notes() {
        eprintln!(
            "warning: {}: {}",
            names::visible(&model.display().to_string()),
            names::visible(note)
        );
    }
    // The program ends with its command; taking apart a hundred thousand names before that
    // would only take time.
    std::mem::forget(checkpoint.clone());
    Ok(checkpoint)
}

#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// Only tensors whose whole name matches; `*` crosses dots. A plain name also takes a
    /// vector, a norm or an embedding. May be given several times
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Not the tensors whose whole name matches. May be given several times
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
}

impl SelectionArgs {
    pub(super) fn selection(&self) -> Selection {
        Selection { include: self.include.clone(), exclude: self.exclude.clone() }
    }
}

#[derive(Debug, Args)]
pub(super) struct SchemeArgs {
    /// Which elements share a scale; if not given, per-tensor, or per-channel where training
    /// with fake quantization learned a scale for each
    #[arg(long, value_name = "per-tensor|per-channel|per-block:N", value_parser = int8_scheme)]
    scheme: Option<QuantizationScheme>,
}

impl SchemeArgs {
    pub(super) fn scheme(&self, checkpoint: &Checkpoint) -> QuantizationScheme {
        self.scheme.unwrap_or_else(|| default_scheme(checkpoint))
    }
}

/// A scheme that can be saved.
pub(super) fn int8_scheme(text: &str) -> Result<QuantizationScheme, String> {
    let expected = "expected per-tensor, per-channel or per-block:N";
    match text.parse::<QuantizationScheme>() {
        Ok(scheme) if scheme.is_scaled_int8() => Ok(scheme),
        _ => Err(expected.to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct CalibrationArgs {
    /// Which magnitude is mapped onto the largest integer, and what is beyond it clipped:
    /// the largest of all; that which P percent of the values do not exceed; that which
    /// gives the least mean squared error; this share of the largest; or what training with
    /// fake quantization learned, where it did, and else the largest. If not given, learned
    /// where a weight was trained so, else min-max
    #[arg(long, value_name = "min-max|percentile:P|mse|clip:S|learned")]
    calibration: Option<Calibration>,
}

impl CalibrationArgs {
    pub(super) fn quantizer(
        &self,
        checkpoint: &Checkpoint,
        scheme: QuantizationScheme,
    ) -> Quantizer {
        let usual = || default_calibration(checkpoint);
        Quantizer { calibration: self.calibration.unwrap_or_else(usual), scheme }
    }
}

#[derive(Debug, Args)]
pub(super) struct RoundingArgs {
    /// How a value half-way between two integers is rounded
    #[arg(long, value_name = "WAY", default_value = "half-even", value_parser = choice(&ROUNDINGS))]
    pub rounding: Rounding,
}

const ROUNDINGS: [Choice<Rounding>; 2] = [
    (
        "half-even",
        "to the even one, as PyTorch, compressed-tensors and Burn 0.23",
        Rounding::HalfEven,
    ),
    ("half-away", "away from zero, as Burn up to 0.22", Rounding::HalfAway),
];

#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// Worker threads; all cores if not given. The result is the same for any number
    #[arg(long, value_name = "N", value_parser = thread_count())]
    threads: Option<u16>,
    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

impl WorkArgs {
    pub(super) fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

/// At least one; more than a thousand is a mistake.
pub(super) fn thread_count() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=1024)
}

#[derive(Debug, Args)]
pub struct CacheArgs {
    /// Measure everything, whatever was found out about the model before, and keep nothing
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    pub fn cache(&self) -> Option<Cache> {
        if self.no_cache { None } else { Cache::of_user() }
    }
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// A path that ends in .safetensors is one file; any other is a directory with the
    /// source's shards
    #[arg(long = "output", short, value_name = "OUT")]
    pub out: PathBuf,
    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,
    /// Copy files that match GLOB into the directory OUT, even if they hold another copy of
    /// the weights. Paths are relative to MODEL; `*` crosses slashes. May be given several
    /// times
    #[arg(long, value_name = "GLOB")]
    pub copy: Vec<String>,
}

/// A value with its name and what it means.
pub(super) type Choice<T> = (&'static str, &'static str, T);

/// One of a few named values.
pub(super) fn choice<T, const N: usize>(
    choices: &[Choice<T>; N],
) -> impl TypedValueParser<Value = T> + use<T, N>
where
    T: Copy + Send + Sync + 'static,
{
    let choices = *choices;
    let names = choices.map(|(name, help, _)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(names).try_map(move |chosen| {
        let found = choices.iter().find(|(name, ..)| *name == chosen);
        found.map(|(.., value)| *value).ok_or_else(|| format!("unknown value '{chosen}'"))
    })
}
