//! `--activations`: recorded layer inputs, and the error of the layers' outputs.

use super::error::Error;
use super::job_runner::JobRunner;
use super::options::{Choice, WorkArgs};
use crate::activations::{ActivationMode, Activations, ActivationsError, Basis, OutputError};
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::job::output::{self, LayerOutput, Request};
use crate::plan::effective_quantizer;
use crate::plan::quantizable;
use crate::quantization::{AnalysisSpec, Calibration, Loss, Quantizer};
use crate::report::document::{OutputFigures, Tensor};
use crate::tensor::TensorId;
use crate::text::{figures, names};
use clap::Args;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
pub(super) struct ActivationArgs {
    /// Recorded layer inputs from assets/record_activations.py, or an importance matrix of
    /// llama.cpp; `demo:` is the recording for the demo. Several files may follow, so give it
    /// after MODEL
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub activations: Vec<PathBuf>,
    /// How the clip of the inputs is chosen for static quantization
    #[arg(
        long,
        value_name = "min-max|percentile:P|mse|clip:S",
        default_value_t = Calibration::MinMax,
        value_parser = input_calibration,
        requires = "activations"
    )]
    pub activation_calibration: Calibration,
}

/// Parses a calibration of inputs. Recorded inputs have no learned scales.
fn input_calibration(text: &str) -> Result<Calibration, String> {
    match text.parse::<Calibration>()? {
        Calibration::Learned => Err("recorded inputs have no learned scales".to_owned()),
        calibration => Ok(calibration),
    }
}

/// How activations are quantized, in the Burn Book's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActivationScheme {
    Dynamic,
    Static,
}

pub(super) const ACTIVATION_SCHEMES: [Choice<ActivationScheme>; 2] = [
    ("dynamic", "one scale per token, computed at run time", ActivationScheme::Dynamic),
    ("static", "one scale per layer, calibrated on --activations", ActivationScheme::Static),
];

impl ActivationArgs {
    /// Opens the captures, if any were given.
    pub(super) fn open(&self, checkpoint: &Checkpoint) -> Result<Option<Arc<Activations>>, Error> {
        if self.activations.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(demo::open_activations(&self.activations, checkpoint)?)))
    }

    /// Measures the output errors of `tensors` whose inputs were recorded, with the quantizers of
    /// `spec`. `weighted` returns the loss that was weighted by the importance when the tensor was
    /// measured with the quantizer of that index, which is not measured again.
    pub(super) fn measure(
        &self,
        checkpoint: &Arc<Checkpoint>,
        activations: &Arc<Activations>,
        tensors: Vec<TensorId>,
        spec: &AnalysisSpec,
        weighted: &dyn Fn(TensorId, usize) -> Option<Loss>,
        work: &WorkArgs,
    ) -> Result<Outputs, Error> {
        let calibration = self.activation_calibration;
        let importance = activations.importance(checkpoint);
        let mut request = Request {
            tensors: Vec::new(),
            quantizers: Vec::new(),
            rounding: spec.rounding,
            scale_storage: spec.scale_storage,
            calibration,
            importance,
        };
        let (mut found, mut unknown) = (HashMap::new(), BTreeSet::new());
        for &id in &tensors {
            let Some(recording) = activations.get(id) else { continue };
            let same = recording.is_importance(request.importance.get(id));
            let known = |place| weighted(id, place).filter(|_| same);
            let mut errors = Vec::new();
            for (place, &quantizer) in spec.quantizers.iter().enumerate() {
                if let Some(loss) = known(place) {
                    let quantizer = effective_quantizer(checkpoint, id, quantizer);
                    errors.push((quantizer, Ok(OutputError::weighted(loss))));
                } else {
                    unknown.insert(place);
                }
            }
            if errors.len() < spec.quantizers.len() || spec.quantizers.is_empty() {
                request.tensors.push(id);
            }
            if !errors.is_empty() {
                found.insert(id, Ok(LayerOutput { input_scale: None, errors }));
            }
        }
        let all = spec.quantizers.iter().enumerate();
        let asked = all.filter(|(place, _)| unknown.contains(place));
        request.quantizers = asked.map(|(_, &quantizer)| quantizer).collect();
        if !request.tensors.is_empty() {
            let (model, captures) = (checkpoint.clone(), activations.clone());
            let job = || output::start(model, captures, request, work.threads());
            let mut runner = JobRunner::start(job, "measuring outputs", work.quiet)?;
            while let Some((id, result)) = runner.next()? {
                if let (Some(Ok(known)), Ok(more)) = (found.get_mut(&id), &result) {
                    known.errors.extend(more.errors.iter().cloned());
                } else {
                    found.insert(id, result);
                }
            }
        }
        let (checkpoint, activations) = (checkpoint.clone(), activations.clone());
        Ok(Outputs { checkpoint, activations, tensors, found })
    }
}

impl Outputs {
    /// The calibrated scale of each layer's inputs. Fails if a layer could not be read.
    pub(super) fn input_scales(self) -> Result<BTreeMap<TensorId, f32>, Error> {
        self.conclude()?;
        let scale =
            |(id, found): (TensorId, Result<LayerOutput, _>)| Some((id, found.ok()?.input_scale?));
        Ok(self.found.into_iter().filter_map(scale).collect())
    }
}

/// The measured output errors.
pub(super) struct Outputs {
    checkpoint: Arc<Checkpoint>,
    activations: Arc<Activations>,
    tensors: Vec<TensorId>,
    found: HashMap<TensorId, Result<LayerOutput, ActivationsError>>,
}

impl Outputs {
    /// ‖Wx − Ŵx̂‖² / ‖Wx‖².
    pub(super) fn ratio(
        &self,
        id: TensorId,
        quantizer: Quantizer,
        mode: ActivationMode,
    ) -> Option<f64> {
        self.error(id, quantizer)?.ratio(mode)
    }

    /// The sort key of a tensor: worst first, then exact ones, then those without an error.
    pub(super) fn rank(&self, id: TensorId, quantizer: Quantizer, mode: ActivationMode) -> f64 {
        let db = self.error(id, quantizer).and_then(|error| error.db(mode));
        db.map_or(f64::INFINITY, |db| -db.max(-f64::MAX))
    }

    /// Tensors that are quantized by default and whose inputs were not recorded.
    fn missing(&self, checkpoint: &Checkpoint) -> Vec<TensorId> {
        let unrecorded = |id: &TensorId| self.activations.get(*id).is_none();
        let ids = self.tensors.iter().copied();
        ids.filter(|&id| quantizable(checkpoint, id)).filter(unrecorded).collect()
    }

    /// Prints the lines below a table: what the figures mean, and what was not recorded.
    pub(super) fn print(&self, checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
        if !self.activations.have_inputs() {
            writeln!(
                out,
                "Weighted errors are the sum of w(x-x')^2 over the sum of wx^2 in dB; lower is better. The\nweight w of a column is the mean square of its inputs. ggml's block types are made by it."
            )?;
        } else {
            writeln!(
                out,
                "Output errors are |Wx - W'x'|^2 / |Wx|^2 in dB on the recorded inputs; lower is better.\nColumns: only weights quantized; inputs quantized too with a scale per token (dynamic);\ninputs quantized with one calibrated scale (static)."
            )?;
        }
        if self.basis(Basis::Diagonal) {
            writeln!(
                out,
                "~ marks the diagonal approximation from mean squares per feature, without inputs."
            )?;
        }
        let missing = self.missing(checkpoint);
        if let Some(&first) = missing.first() {
            let name = names::visible(&checkpoint.tensor(first).name);
            let tensors = figures::counted(missing.len(), "quantizable tensor");
            writeln!(out, "No inputs were recorded for {tensors}, first '{name}'.")?;
        }
        if let [(path, name), ..] = self.activations.unmatched() {
            let (path, name) = (path.to_string_lossy(), names::visible(name));
            let count = self.activations.unmatched().len();
            writeln!(
                out,
                "{count} recorded names match no layer of this model, first '{name}' in {}.",
                names::visible(&path)
            )?;
        }
        Ok(())
    }

    /// The name of the errors. Errors from mean squares alone are weighted errors of the weights.
    pub(super) fn title(&self) -> &'static str {
        if self.activations.have_inputs() { "output" } else { "weighted" }
    }

    fn basis(&self, basis: Basis) -> bool {
        let errors = self.found.values().flatten().flat_map(|found| &found.errors);
        errors.filter_map(|(_, error)| error.as_ref().ok()).any(|error| error.basis == basis)
    }

    /// Returns an error if a layer could not be measured. The others have been printed.
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

    /// The captures, for the JSON document.
    pub(super) fn summary(&self) -> Summary<'_> {
        let unmatched = self.activations.unmatched().iter();
        Summary {
            unmatched: unmatched
                .map(|(path, name)| Unmatched { file: path.to_string_lossy(), name })
                .collect(),
        }
    }

    /// The figures of one layer for the JSON document; `None` if it was not recorded.
    pub(super) fn figures(&self, id: TensorId, quantizer: Quantizer) -> Option<OutputFigures> {
        let found = self.found.get(&id)?.as_ref();
        let reason = found.err().map(|error| error.to_string());
        let scale = found.ok().and_then(|found| found.input_scale);
        Some(OutputFigures::of(self.error(id, quantizer), scale, reason))
    }

    /// The output error of a layer with `quantizer`.
    pub(super) fn error(&self, id: TensorId, quantizer: Quantizer) -> Option<&OutputError> {
        let effective = effective_quantizer(&self.checkpoint, id, quantizer);
        self.found.get(&id)?.as_ref().ok()?.error(effective)
    }

    /// Why a recorded layer could not be measured.
    pub(super) fn failure(&self, id: TensorId) -> Option<String> {
        Some(self.found.get(&id)?.as_ref().err()?.to_string())
    }

    /// The calibrated scale of a layer's inputs.
    pub(super) fn input_scale(&self, id: TensorId) -> Option<f32> {
        self.found.get(&id)?.as_ref().ok()?.input_scale
    }

    /// Three table cells: the output error in each [`ActivationMode`].
    pub(super) fn cells(&self, id: TensorId, quantizer: Quantizer) -> [String; 3] {
        let error = self.error(id, quantizer);
        ActivationMode::ALL
            .map(|mode| error.and_then(|error| error.shown(mode)).unwrap_or_default())
    }
}

/// The captures in the JSON document.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    unmatched: Vec<Unmatched<'a>>,
}

#[derive(Serialize)]
struct Unmatched<'a> {
    file: Cow<'a, str>,
    name: &'a str,
}

/// A tensor of the JSON document; `output` is null for a layer that was not recorded.
#[derive(Serialize)]
pub(super) struct WithOutput<'a> {
    #[serde(flatten)]
    pub tensor: Tensor<'a>,
    pub output: Option<OutputFigures>,
}

/// The sort key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    Sqnr,
    Output(ActivationMode),
}

pub(super) const SORTS: [Choice<SortBy>; 4] = [
    ("sqnr", "error of the weights", SortBy::Sqnr),
    (
        "output",
        "error of the layer's output, only weights quantized",
        SortBy::Output(ActivationMode::Weights),
    ),
    (
        "output-dynamic",
        "error of the layer's output, inputs quantized with a scale per token",
        SortBy::Output(ActivationMode::Dynamic),
    ),
    (
        "output-static",
        "error of the layer's output, inputs quantized with one calibrated scale",
        SortBy::Output(ActivationMode::Static),
    ),
];
