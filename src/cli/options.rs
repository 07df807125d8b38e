//! Options that several subcommands share.

use super::error::Error;
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::export::{Request, Task, VerifiedAgainst};
use crate::job::cache::Cache;
use crate::plan::target::LinearScheme;
use crate::plan::{Selection, default_calibration, default_scheme};
use crate::quantization::{Calibration, QuantizationScheme, Quantizer, Rounding};
use crate::text::names;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// A checkpoint file, an index, or a directory; `demo:` is the built-in demo
    pub model: PathBuf,
}

impl ModelArgs {
    pub(super) fn open(&self) -> Result<Arc<Checkpoint>, Error> {
        open(&self.model)
    }

    /// Opens the checkpoint that is to be saved in another form.
    pub(super) fn open_to_save(&self, save: &SaveArgs) -> Result<Arc<Checkpoint>, Error> {
        let checkpoint = demo::open_model(&self.model)?;
        Ok(opened(
            &self.model,
            if save.training_state { checkpoint.keeping_training_state() } else { checkpoint },
        ))
    }
}

/// Opens a checkpoint or the demo, and prints its notes as warnings.
pub(super) fn open(model: &Path) -> Result<Arc<Checkpoint>, Error> {
    Ok(opened(model, demo::open_model(model)?))
}

/// Prints a checkpoint's notes.
pub(super) fn opened(model: &Path, checkpoint: Checkpoint) -> Arc<Checkpoint> {
    let checkpoint = Arc::new(checkpoint);
    for note in checkpoint.notes() {
        eprintln!(
            "warning: {}: {}",
            names::visible(&model.display().to_string()),
            names::visible(note)
        );
    }
    // Never dropped: freeing a hundred thousand names before exiting would only take time.
    std::mem::forget(checkpoint.clone());
    checkpoint
}

#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// Select tensors whose full name matches; `*` also matches dots. A name without wildcards
    /// selects even a vector, a norm or an embedding. Can be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave out tensors whose full name matches. Can be repeated
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
    /// Which elements share a scale. Default: per-tensor, or per-channel if the model has
    /// learned scales per channel
    #[arg(long, value_name = "per-tensor|per-channel|per-block:N", value_parser = scheme_text)]
    scheme: Option<SchemeText>,
}

/// A scheme of `--scheme`.
#[derive(Clone, Copy, Debug)]
struct SchemeText {
    scheme: QuantizationScheme,
    /// Whether the name leaves the block size to the model, as W8A16 does.
    fits_rows: bool,
}

fn scheme_text(text: &str) -> Result<SchemeText, String> {
    let scheme =
        int8_scheme(text).map_err(|expected| match text.parse::<QuantizationScheme>() {
            Ok(other) => {
                format!("{expected}; `quantscope analyze --schemes {other}` measures this one")
            }
            Err(_) => expected,
        })?;
    Ok(SchemeText { scheme, fits_rows: text == LinearScheme::W8A16.name() })
}

impl SchemeArgs {
    /// The scheme that the user chose, if one was.
    pub(super) fn given(&self) -> Option<QuantizationScheme> {
        self.scheme.map(|given| given.scheme)
    }

    /// Whether a scheme with blocks was chosen whose size depends on the model.
    pub(super) fn fits_rows(&self) -> bool {
        self.scheme.is_some_and(|given| given.fits_rows)
    }

    pub(super) fn scheme(&self, checkpoint: &Checkpoint) -> QuantizationScheme {
        self.given().unwrap_or_else(|| default_scheme(checkpoint))
    }
}

/// Parses an int8 scheme.
pub(super) fn int8_scheme(text: &str) -> Result<QuantizationScheme, String> {
    let expected = "expected per-tensor, per-channel or per-block:N";
    match text.parse::<QuantizationScheme>() {
        Ok(scheme) if scheme.is_scaled_int8() => Ok(scheme),
        _ => Err(expected.to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct CalibrationArgs {
    /// How the clip is chosen, the magnitude that is mapped to the largest integer. min-max: the
    /// largest magnitude. percentile:P: the magnitude that P percent of the values do not
    /// exceed. mse: the clip with the least mean squared error. clip:S: the share S of the
    /// largest magnitude. learned: the scale from quantization-aware training, or min-max if
    /// there is none. Default: learned if the model has learned scales, else min-max
    #[arg(long, value_name = "min-max|percentile:P|mse|clip:S|learned")]
    calibration: Option<Calibration>,
}

impl CalibrationArgs {
    /// Whether the user chose one.
    pub(super) fn is_given(&self) -> bool {
        self.calibration.is_some()
    }

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
    /// How a value halfway between two integers is rounded
    #[arg(long, value_name = "MODE", default_value = "half-even", value_parser = choice(&ROUNDINGS))]
    pub rounding: Rounding,
}

const ROUNDINGS: [Choice<Rounding>; 2] = [
    ("half-even", "to even, like PyTorch, compressed-tensors and Burn 0.23", Rounding::HalfEven),
    ("half-away", "away from zero, like Burn up to 0.22", Rounding::HalfAway),
];

#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// Worker threads; default: all cores. Results do not depend on it
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

/// Parses a number of threads.
pub(super) fn thread_count() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=1024)
}

/// Whether to use the cache of analyses.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// Do not use the cache of earlier results: measure everything and store nothing
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    /// The user's cache; `None` if it is switched off or the system has no cache directory.
    pub fn cache(&self) -> Option<Cache> {
        if self.no_cache { None } else { Cache::of_user() }
    }
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CsvArgs {
    /// Print CSV instead of a table
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// Where to save: one file if OUT ends in .safetensors, otherwise a directory with the
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
    /// Save the optimizer state and whatever else a training checkpoint carries, not only the
    /// network
    #[arg(long)]
    pub training_state: bool,
    /// What the output is compared with before it is renamed to OUT. The default is the source, or
    /// the digests if MODEL is on a server, so that it is not fetched twice
    #[arg(long, value_name = "HOW", value_parser = choice(&VERIFIED_AGAINST))]
    pub verify: Option<VerifiedAgainst>,
}

impl SaveArgs {
    /// The request to save the result of a task.
    pub(super) fn request(&self, task: Task) -> Request {
        Request { task, out: self.out.clone(), force: self.force, copy: self.copy.clone() }
    }
}

const VERIFIED_AGAINST: [Choice<VerifiedAgainst>; 2] = [
    ("full", "the source, which is read again", VerifiedAgainst::Source),
    ("digests", "the digests taken while the output was written", VerifiedAgainst::Digests),
];

/// A possible value of an option: its name, its help, and the value.
pub(super) type Choice<T> = (&'static str, &'static str, T);

/// Parses one of `choices`.
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
