//! What rounding a layer requires of its recorded inputs: their second moments and the factor of
//! these, on all cores.

use super::entry_chunks::EntryChunks;
use crate::activations::{Activations, ActivationsError, Source};
use crate::checkpoint::Checkpoint;
use crate::export::{OutputPlan, Request, SaveError, Task};
use crate::job::error::JobError;
use crate::job::{Progress, Stopped};
use crate::plan::RoundingByInputs;
use crate::quantization::InputRounding;
use crate::quantization::compensation::{RecordedInputs, SecondMoments};
use crate::tensor::TensorId;
use rayon::prelude::*;
use std::path::Path;

/// Fails if a tensor is to be rounded for its recorded inputs but they are not open.
pub(super) fn check_inputs(checkpoint: &Checkpoint, request: &Request) -> Result<(), SaveError> {
    let Task::Quantize { plan, .. } = &request.task else { return Ok(()) };
    let Some(id) = plan.by_inputs.without_inputs() else { return Ok(()) };
    let name = checkpoint.tensor(id).name.escape_debug();
    let why = format!(
        "'{name}' is to be rounded for its layer's recorded inputs: name the recording with --activations"
    );
    Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why })
}

/// The pieces of an output in the order in which they are written. A tensor that is rounded for its
/// inputs is written by itself, so that the factor of one layer is in memory at a time.
pub(super) struct WriteOrder<'w> {
    pub(super) checkpoint: &'w Checkpoint,
    pub(super) request: &'w Request,
    pub(super) output_plan: &'w OutputPlan,
    pub(super) pieces: &'w [EntryChunks],
    pub(super) threads: Option<usize>,
    pub(super) progress: &'w Progress,
}

impl WriteOrder<'_> {
    /// Calls `write` with the numbers of pieces that are written together, and with what their
    /// rounding requires if it depends on recorded inputs.
    pub(super) fn each(
        &self,
        phase: &dyn Fn(&'static str),
        mut write: impl FnMut(&[usize], Option<&RecordedInputs>) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let planned = match &self.request.task {
            Task::Quantize { plan, .. } => Some(&plan.by_inputs),
            Task::Dequantize { .. } => None,
        };
        let rounded = |number: usize| {
            let piece = self.pieces.get(number)?;
            let entry = self.output_plan.files.get(piece.file)?.entries.get(piece.entry)?;
            let (tensor, quantizer) = entry.quantizer()?;
            Some((tensor, planned?.get(tensor)?, quantizer.scheme.preset()?))
        };
        let (alone, together): (Vec<usize>, Vec<usize>) =
            (0..self.pieces.len()).partition(|&number| rounded(number).is_some());
        let activations = planned.and_then(RoundingByInputs::activations);
        if let (Some(activations), false) = (activations, alone.is_empty()) {
            phase("rounding for the inputs");
            for number in alone {
                let Some((tensor, rounding, preset)) = rounded(number) else { continue };
                let columns = self.checkpoint.tensor(tensor).shape.channel_len() as usize;
                let group = preset.columns_of_group(columns);
                let layer = Layer { tensor, columns, group, rounding };
                let path = self.checkpoint.path();
                let found = recorded_inputs(activations, layer, path, self.threads, self.progress)?;
                write(&[number], found.as_ref())?;
            }
            phase("writing");
        }
        write(&together, None)
    }
}

/// A weight that is rounded for its layer's inputs.
struct Layer {
    tensor: TensorId,
    columns: usize,
    /// Columns that share a scale.
    group: usize,
    rounding: InputRounding,
}

/// Computes what rounding requires. `None` if the layer's inputs are all zero or were not
/// recorded. Takes eight bytes for each pair of columns.
fn recorded_inputs(
    activations: &Activations,
    layer: Layer,
    path: &Path,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Option<RecordedInputs>, JobError> {
    let inputs = activations.get(layer.tensor).map(|recording| &recording.source);
    let Some(Source::Inputs(inputs)) = inputs else { return Ok(None) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
    let pool = pool.map_err(|error| Stopped::NoThreads(error.to_string()))?;
    let wanted = || !progress.is_cancelled();
    let parts = |matrix: &mut [f32], size: usize, each: &(dyn Fn(usize, &mut [f32]) + Sync)| {
        // Once the job is cancelled, nobody looks at the result.
        let each = |(at, part): (usize, &mut [f32])| {
            if wanted() {
                each(at, part);
            }
        };
        pool.install(|| matrix.par_chunks_mut(size.max(1)).enumerate().for_each(each));
    };
    let mut moments = SecondMoments::new(layer.columns);
    let mut stream = activations.stream();
    let read = stream.each(inputs, &wanted, |samples| moments.add(samples.values, &parts));
    match read {
        Ok(()) => {}
        Err(ActivationsError::Cancelled) => return Err(Stopped::Cancelled.into()),
        Err(error) => {
            let (path, why) = (path.to_owned(), error.to_string());
            return Err(SaveError::Unfit { path, why }.into());
        }
    }
    let InputRounding { compensates, searches_clips } = layer.rounding;
    let groups = searches_clips.then(|| moments.of_groups(layer.group));
    let compensation = moments.compensation(&parts);
    progress.check()?;
    Ok(compensation.map(|compensation| RecordedInputs { compensation, compensates, groups }))
}
