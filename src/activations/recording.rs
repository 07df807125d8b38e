//! What was recorded of one layer: its inputs, or a summary of them.

use crate::activations::convolution::Convolution;
use crate::activations::error::ActivationsError;
use crate::checkpoint::Checkpoint;
use crate::quantization::kernels;
use crate::tensor::{FloatType, TensorId};

/// What was recorded of the layer of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    pub kind: LayerKind,
    pub source: Source,
}

/// What a layer does with its weight.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerKind {
    /// `[out, in]` times the last axis.
    Linear,
    Convolution(Convolution),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Inputs(Inputs),
    Summary(Summary),
}

/// The inputs themselves, in the order they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    pub batches: Vec<Batch>,
}

impl Inputs {
    /// Elements of all samples.
    pub fn elements(&self) -> u64 {
        self.batches.iter().map(|batch| batch.samples.saturating_mul(batch.unit)).sum()
    }

    /// Rows of a linear layer, images of a convolution.
    pub fn samples(&self) -> u64 {
        self.batches.iter().map(|batch| batch.samples).sum()
    }
}

/// One tensor of inputs: `samples` times `unit` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub(super) file: usize,
    pub(super) tensor: TensorId,
    pub samples: u64,
    /// Elements of one sample: the features of a linear layer, `[channels, spatial…]` of a
    /// convolution.
    pub unit: u64,
    /// The axes after the channels; none of a linear layer.
    pub spatial: Vec<usize>,
}

/// Figures per feature instead of inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The mean of the squares of each feature; of a tensor of experts, those of each.
    pub mean_square: Option<Vec<f32>>,
    /// The largest magnitude of all features, if ranges were recorded.
    pub absmax: Option<f64>,
}

/// A small tensor's elements; `None` if they are no floats.
pub(super) fn floats(
    file: &Checkpoint,
    id: TensorId,
) -> Result<Option<Vec<f32>>, ActivationsError> {
    let mut reader = file.reader();
    let Some((dtype, bytes)) = reader.elements(id, 0..file.tensor(id).parameters())? else {
        return Ok(None);
    };
    let mut narrow = Vec::new();
    kernels::convert(dtype, bytes, FloatType::F32, &mut narrow);
    let (numbers, _) = narrow.as_chunks::<4>();
    Ok(Some(numbers.iter().map(|&raw| f32::from_le_bytes(raw)).collect()))
}
