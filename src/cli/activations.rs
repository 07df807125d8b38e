//! `--activations`: recorded inputs, and what quantizing loses in the layers' outputs.

use super::error::Error;
use super::job_runner::Watch;
use super::options::{Choice, WorkArgs};
use crate::activations::{ActivationMode, Activations, ActivationsError, Basis, OutputError};
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::job::output::{self, Found, Request};
use crate::plan::effective_quantizer;
use crate::plan::quantizable;
use crate::quantization::{Calibration, Quantizer, Rounding};
use crate::report::document::{OutputFigures, Tensor};
use crate::tensor::TensorId;
use crate::text::names;
use clap::Args;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct ActivationArgs {
    /// What reaches the layers, as assets/record_activations.py records it, or an importance
    /// matrix of llama.cpp; `demo:` is what is built in for the demo. After MODEL, for it
    /// takes all paths that follow
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub activations: Vec<PathBuf>,
    /// With --activations: how the range of the inputs is chosen for static quantization
    #[arg(
        long,
        value_name = "min-max|percentile:P|mse|clip:S",
        default_value_t = Calibration::MinMax,
        value_parser = input_calibration,
        requires = "activations"
    )]
    pub activation_calibration: Calibration,
}

/// A calibration of inputs: what training learned of them is not among the captures.
fn input_calibration(text: &str) -> Result<Calibration, String> {
    match text.parse::<Calibration>()? {
        Calibration::Learned => Err("recorded inputs have no learned scales".to_owned()),
        calibration => Ok(calibration),
    }
}

/// How activations are quantized, in the Burn Book's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActivationScheme {
    Dynamic,
    Static,
}

pub(super) const ACTIVATION_SCHEMES: [Choice<ActivationScheme>; 2] = [
    ("dynamic", "as they come, a scale for each token", ActivationScheme::Dynamic),
    (
        "static",
        "by one scale for each layer, calibrated on --activations",
        ActivationScheme::Static,
    ),
];

impl ActivationArgs {
    /// Opens the captures, if any are given.
    pub(super) fn open(&self, checkpoint: &Checkpoint) -> Result<Option<Arc<Activations>>, Error> {
        if self.activations.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(demo::open_activations(&self.activations, checkpoint)?)))
    }

    /// Measures the outputs of `tensors` that were recorded.
    pub(super) fn measure(
        &self,
        checkpoint: &Arc<Checkpoint>,
        activations: &Arc<Activations>,
        tensors: Vec<TensorId>,
        quantizers: Vec<Quantizer>,
        rounding: Rounding,
        work: &WorkArgs,
    ) -> Result<Outputs, Error> {
        let calibration = self.activation_calibration;
        let request = Request { tensors: tensors.clone(), quantizers, rounding, calibration };
        let (model, captures) = (checkpoint.clone(), activations.clone());
        let job = || output::start(model, captures, request, work.threads());
        let mut watch = Watch::start(job, "measuring outputs", work.quiet)?;
        let mut found = HashMap::new();
        while let Some((id, result)) = watch.next()? {
            found.insert(id, result);
        }
        let (checkpoint, activations) = (checkpoint.clone(), activations.clone());
        Ok(Outputs { checkpoint, activations, tensors, found })
    }
}

impl Outputs {
    /// The calibrated scale of each layer's inputs; the first layer that could not be read
    /// is an error.
    pub(super) fn input_scales(self) -> Result<BTreeMap<TensorId, f32>, Error> {
        self.conclude()?;
        let scale =
            |(id, found): (TensorId, Result<Found, _>)| Some((id, found.ok()?.input_scale?));
        Ok(self.found.into_iter().filter_map(scale).collect())
    }
}

/// What is known of the layers' outputs.
pub(super) struct Outputs {
    checkpoint: Arc<Checkpoint>,
    activations: Arc<Activations>,
    tensors: Vec<TensorId>,
    found: HashMap<TensorId, Result<Found, ActivationsError>>,
}

impl Outputs {
    /// ‖Wx − Ŵx̂‖² / ‖Wx‖².
    pub(super) fn ratio(
        &self,
        id: TensorId,
        quantizer: Quantizer,
        way: ActivationMode,
    ) -> Option<f64> {
        self.error(id, quantizer)?.ratio(way)
    }

    /// The order by it: the worst first, what is exact after every figure, what has none at
    /// the end.
    pub(super) fn rank(&self, id: TensorId, quantizer: Quantizer, way: ActivationMode) -> f64 {
        let db = self.error(id, quantizer).and_then(|error| error.db(way));
        db.map_or(f64::INFINITY, |db| -db.max(-f64::MAX))
    }

    /// Tensors that are quantized by default and whose inputs were not recorded.
    fn missing(&self, checkpoint: &Checkpoint) -> Vec<TensorId> {
        let unrecorded = |id: &TensorId| self.activations.get(*id).is_none();
        let ids = self.tensors.iter().copied();
        ids.filter(|&id| quantizable(checkpoint, id)).filter(unrecorded).collect()
    }

    /// Below a table: what the figures are, and what they lack.
    pub(super) fn print(&self, checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "The output errors are |Wx - W'x'|^2 / |Wx|^2 in dB on the recorded inputs, the lower\nthe better: with the weights quantized, with the inputs too as they come (dynamic), and\nwith the inputs by one calibrated scale (static)."
        )?;
        if self.basis(Basis::Diagonal) {
            writeln!(
                out,
                "~ is the diagonal approximation, from mean squares per feature instead of inputs."
            )?;
        }
        let missing = self.missing(checkpoint);
        if let Some(&first) = missing.first() {
            let name = names::visible(&checkpoint.tensor(first).name);
            let count = missing.len();
            writeln!(
                out,
                "No inputs were recorded for {count} quantizable tensors, first '{name}'."
            )?;
        }
        if let [(path, name), ..] = self.activations.unmatched() {
            let (path, name) = (path.to_string_lossy(), names::visible(name));
            let count = self.activations.unmatched().len();
            writeln!(
                out,
                "Recorded for no layer of this model: {count} names, first '{name}' in {}.",
                names::visible(&path)
            )?;
        }
        Ok(())
    }

    fn basis(&self, basis: Basis) -> bool {
        let errors = self.found.values().flatten().flat_map(|found| &found.errors);
        errors.filter_map(|(_, error)| error.as_ref().ok()).any(|error| error.basis == basis)
    }

    /// An error if a layer could not be measured; the rest has been shown all the same.
    pub(super) fn conclude(&self) -> Result<(), Error> {
        let mut failed: Vec<_> =
            self.found.iter().filter_map(|(id, found)| Some((id, found.as_ref().err()?))).collect();
        failed.sort_by_key(|(id, _)| **id);
        match failed.first() {
            None => Ok(()),
            Some((_, first)) => {
                Err(Error::Unmeasured { count: failed.len(), first: first.to_string() })
            }
        }
    }

    /// For a document.
    pub(super) fn summary(&self) -> Summary<'_> {
        let unmatched = self.activations.unmatched().iter();
        Summary {
            unmatched: unmatched
                .map(|(path, name)| Unmatched { file: path.to_string_lossy(), name })
                .collect(),
        }
    }

    /// For a document, what is known of one layer; `None` if it was not recorded.
    pub(super) fn figures(&self, id: TensorId, quantizer: Quantizer) -> Option<OutputFigures> {
        let found = self.found.get(&id)?.as_ref();
        let reason = found.err().map(|error| error.to_string());
        let scale = found.ok().and_then(|found| found.input_scale);
        Some(OutputFigures::of(self.error(id, quantizer), scale, reason))
    }

    /// What the layer's output loses by a quantizer.
    pub(super) fn error(&self, id: TensorId, quantizer: Quantizer) -> Option<&OutputError> {
        let settled = effective_quantizer(&self.checkpoint, id, quantizer);
        self.found.get(&id)?.as_ref().ok()?.error(settled)
    }

    /// Why a layer has no figures though it was recorded.
    pub(super) fn failure(&self, id: TensorId) -> Option<String> {
        Some(self.found.get(&id)?.as_ref().err()?.to_string())
    }

    /// The calibrated scale of a layer's inputs.
    pub(super) fn input_scale(&self, id: TensorId) -> Option<f32> {
        self.found.get(&id)?.as_ref().ok()?.input_scale
    }

    /// Three cells of a table: what the layer's output loses each way.
    pub(super) fn cells(&self, id: TensorId, quantizer: Quantizer) -> [String; 3] {
        let error = self.error(id, quantizer);
        ActivationMode::ALL.map(|way| error.and_then(|error| error.shown(way)).unwrap_or_default())
    }
}

/// What the captures are, in a document.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    unmatched: Vec<Unmatched<'a>>,
}

#[derive(Serialize)]
struct Unmatched<'a> {
    file: Cow<'a, str>,
    name: &'a str,
}

/// A tensor of the document; `output` is null for a layer that was not recorded.
#[derive(Serialize)]
pub(super) struct WithOutput<'a> {
    #[serde(flatten)]
    pub tensor: Tensor<'a>,
    pub output: Option<OutputFigures>,
}

/// What a table is ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    Sqnr,
    Output(ActivationMode),
}

pub(super) const SORTS: [Choice<SortBy>; 4] = [
    ("sqnr", "the error of the weights", SortBy::Sqnr),
    (
        "output",
        "that of the layer's output, only weights quantized",
        SortBy::Output(ActivationMode::Weights),
    ),
    (
        "output-dynamic",
        "with inputs quantized as they come",
        SortBy::Output(ActivationMode::Dynamic),
    ),
    (
        "output-static",
        "with inputs by one calibrated scale",
        SortBy::Output(ActivationMode::Static),
    ),
];
