//! `--activations`: recorded inputs, and what quantizing loses in the layers' outputs.

use super::error::Error;
use super::options::WorkArgs;
use super::text;
use super::watch::Watch;
use crate::activations::{Activations, ActivationsError, Basis, OutputError, Way};
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::job::output::{self, Found, Request};
use crate::plan::quantizable;
use crate::quantization::{Calibration, Quantizer, Rounding};
use crate::tensor::TensorId;
use clap::Args;
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct ActivationArgs {
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
        requires = "activations"
    )]
    pub activation_calibration: Calibration,
}

impl ActivationArgs {
    /// Opens the captures, if any are given.
    pub fn open(&self, checkpoint: &Checkpoint) -> Result<Option<Arc<Activations>>, Error> {
        if self.activations.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(demo::open_activations(&self.activations, checkpoint)?)))
    }

    /// Measures the outputs of `tensors` that were recorded.
    pub fn measure(
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
        Ok(Outputs { activations: activations.clone(), tensors, found })
    }
}

/// What is known of the layers' outputs.
pub struct Outputs {
    activations: Arc<Activations>,
    tensors: Vec<TensorId>,
    found: HashMap<TensorId, Result<Found, ActivationsError>>,
}

/// An output error, with what it is computed from.
pub struct Figure<'a> {
    pub found: &'a Found,
    pub error: &'a OutputError,
}

impl Outputs {
    pub fn get(&self, id: TensorId) -> Option<&Result<Found, ActivationsError>> {
        self.found.get(&id)
    }

    /// What the layer's output loses by a quantizer.
    pub fn error(&self, id: TensorId, quantizer: Quantizer) -> Option<Figure<'_>> {
        let found = self.found.get(&id)?.as_ref().ok()?;
        Some(Figure { found, error: found.error(quantizer)? })
    }

    /// The order by it: the worst first, what is exact after every figure, what has none at
    /// the end.
    pub fn rank(&self, id: TensorId, quantizer: Quantizer, way: Way) -> f64 {
        let db = self.error(id, quantizer).and_then(|figure| figure.error.db(way));
        db.map_or(f64::INFINITY, |db| -db.max(-f64::MAX))
    }

    /// Tensors that are quantized by default and whose inputs were not recorded.
    fn missing(&self, checkpoint: &Checkpoint) -> Vec<TensorId> {
        let unrecorded = |id: &TensorId| self.activations.get(*id).is_none();
        let ids = self.tensors.iter().copied();
        ids.filter(|&id| quantizable(checkpoint, id)).filter(unrecorded).collect()
    }

    /// Below a table: what the figures are, and what they lack.
    pub fn print(&self, checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
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
            let name = text::printable(&checkpoint.tensor(first).name);
            let count = missing.len();
            writeln!(out, "No inputs were recorded for {count} quantizable tensors, first '{name}'.")?;
        }
        if let [(path, name), ..] = self.activations.unmatched() {
            let (path, name) = (path.to_string_lossy(), text::printable(name));
            let count = self.activations.unmatched().len();
            writeln!(
                out,
                "Recorded for no layer of this model: {count} names, first '{name}' in {}.",
                text::printable(&path)
            )?;
        }
        Ok(())
    }

    fn basis(&self, basis: Basis) -> bool {
        let errors = self.found.values().flatten().flat_map(|found| &found.errors);
        errors.filter_map(|(_, error)| error.as_ref().ok()).any(|error| error.basis == basis)
    }

    /// An error if a layer could not be measured; the rest has been shown all the same.
    pub fn conclude(&self) -> Result<(), Error> {
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

    /// For a document: the names that are of no layer.
    pub fn unmatched(&self) -> Unmatched<'_> {
        let name = |(path, name): &'_ (PathBuf, String)| -> (String, String) {
            (path.to_string_lossy().into_owned(), name.clone())
        };
        let all = self.activations.unmatched().iter().map(name);
        Unmatched {
            unmatched: all.map(|(file, name)| UnmatchedName { file, name }).collect(),
            phantom: std::marker::PhantomData,
        }
    }
}
