//! The recording of one layer: its inputs or a summary of them.

use crate::activations::convolution::Convolution;
use crate::activations::error::ActivationsError;
use crate::checkpoint::Checkpoint;
use crate::quantization::kernels;
use crate::tensor::{FloatType, TensorId};

/// The recording of the layer of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The operation of the layer.
    pub kind: LayerKind,
    /// The inputs or their summary.
    pub source: Source,
}

impl Recording {
    /// Whether all that is known of the layer is `importance`, the importance of its weight.
    pub fn is_importance(&self, importance: Option<&[f32]>) -> bool {
        let Source::Summary(summary) = &self.source else { return false };
        let (kind, same) = (&self.kind, summary.mean_square.as_deref() == importance);
        same && importance.is_some() && summary.absmax.is_none() && *kind == LayerKind::Linear
    }
}

/// The operation of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerKind {
    /// Multiplies the last axis of its input with `[out, in]`.
    Linear,
    /// A convolution with this geometry.
    Convolution(Convolution),
}

/// The recorded data.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The inputs themselves.
    Inputs(Inputs),
    /// A summary of the inputs.
    Summary(Summary),
}

/// The inputs, in the order of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// The recorded tensors.
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
    /// Number of samples.
    pub samples: u64,
    /// Elements of one sample: the features of a linear layer, `[channels, spatial…]` of a
    /// convolution.
    pub unit: u64,
    /// The axes after the channels; empty for a linear layer.
    pub spatial: Vec<usize>,
}

/// Figures per feature instead of inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The mean square of each feature; for a tensor of experts, of each expert and feature.
    pub mean_square: Option<Vec<f32>>,
    /// The largest magnitude of all features, if ranges were recorded.
    pub absmax: Option<f64>,
}

/// The elements of a small tensor; `None` if it is not a float tensor.
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
