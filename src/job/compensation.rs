//! The second moments of a layer's recorded inputs and their factor, on all cores.

use crate::activations::{Activations, ActivationsError, Source};
use crate::export::SaveError;
use crate::job::error::JobError;
use crate::job::{Progress, Stopped};
use crate::quantization::compensation::{Compensation, SecondMoments};
use crate::tensor::TensorId;
use rayon::prelude::*;
use std::path::Path;

/// Computes what rounding with compensation requires for a weight with this many columns. `None` if
/// the layer's inputs are all zero or were not recorded. Takes eight bytes for each pair of
/// columns.
pub(super) fn compensation(
    activations: &Activations,
    (tensor, columns): (TensorId, usize),
    path: &Path,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Option<Compensation>, JobError> {
    let inputs = activations.get(tensor).map(|recording| &recording.source);
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
    let mut moments = SecondMoments::new(columns);
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
    let found = moments.compensation(&parts);
    progress.check()?;
    Ok(found)
}
