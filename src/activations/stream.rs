//! Reads recorded inputs, a few samples at a time.

use crate::activations::error::{ActivationsError, Fault};
use crate::activations::recording::Inputs;
use crate::checkpoint::{Checkpoint, Reader};
use crate::quantization::kernels;
use crate::tensor::FloatType;

/// Bytes of inputs that are read at a time, unless one sample has more.
const BLOCK_BYTES: u64 = 1 << 20;

/// A reader of the capture files for one thread. Buffers are reused.
pub struct Stream<'a> {
    files: &'a [Checkpoint],
    readers: Vec<Option<Reader<'a>>>,
    narrow: Vec<u8>,
    values: Vec<f32>,
}

/// Some samples of one layer, end to end.
pub struct Samples<'s> {
    pub values: &'s [f32],
    /// The values as little-endian bytes.
    pub bytes: &'s [u8],
    /// Elements of one sample.
    pub unit: usize,
    /// The axes after the channels; empty for a linear layer.
    pub spatial: &'s [usize],
}

impl<'a> Stream<'a> {
    pub(super) fn new(files: &'a [Checkpoint]) -> Stream<'a> {
        let readers = files.iter().map(|_| None).collect();
        Stream { files, readers, narrow: Vec::new(), values: Vec::new() }
    }

    /// Calls `visit` with all samples of a layer in order, as f32. The number of samples per call
    /// depends only on their size. `wanted` returns false once the job is cancelled.
    pub fn each(
        &mut self,
        inputs: &Inputs,
        wanted: &dyn Fn() -> bool,
        mut visit: impl FnMut(Samples),
    ) -> Result<(), ActivationsError> {
        for batch in &inputs.batches {
            let (Some(file), Some(place)) =
                (self.files.get(batch.file), self.readers.get_mut(batch.file))
            else {
                continue;
            };
            let reader = place.get_or_insert_with(|| file.reader());
            let at_once = (BLOCK_BYTES / batch.unit.saturating_mul(4).max(1)).max(1);
            let mut sample = 0;
            while sample < batch.samples {
                if !wanted() {
                    return Err(ActivationsError::Cancelled);
                }
                let end = sample.saturating_add(at_once).min(batch.samples);
                let range = sample * batch.unit..end * batch.unit;
                let first = range.start;
                sample = end;
                let Some((dtype, bytes)) = reader.elements(batch.tensor, range)? else { continue };
                kernels::convert(dtype, bytes, FloatType::F32, &mut self.narrow);
                self.values.clear();
                let numbers = self.narrow.as_chunks::<4>().0.iter();
                self.values.extend(numbers.map(|&raw| f32::from_le_bytes(raw)));
                if let Some(at) = self.values.iter().position(|value| !value.is_finite()) {
                    let value = self.values.get(at).copied().unwrap_or(f32::NAN).into();
                    return Err(ActivationsError::Recorded {
                        path: file.path().to_owned(),
                        name: file.tensor(batch.tensor).name.to_string(),
                        fault: Box::new(Fault::NonFinite { index: first + at as u64, value }),
                    });
                }
                let (unit, spatial) = (batch.unit as usize, batch.spatial.as_slice());
                let (values, bytes) = (self.values.as_slice(), self.narrow.as_slice());
                visit(Samples { values, bytes, unit, spatial });
            }
        }
        Ok(())
    }

    /// An error about a layer's inputs, with the file and name of the first batch.
    pub(super) fn fault(&self, inputs: &Inputs, fault: Fault) -> ActivationsError {
        let first = inputs.batches.first().and_then(|batch| {
            let file = self.files.get(batch.file)?;
            Some((file.path().to_owned(), file.tensor(batch.tensor).name.to_string()))
        });
        let (path, name) = first.unwrap_or_default();
        ActivationsError::Recorded { path, name, fault: Box::new(fault) }
    }
}
