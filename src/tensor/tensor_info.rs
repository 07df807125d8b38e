//! The identity of a tensor and what headers say about it.

use crate::tensor::dtype::DType;
use crate::tensor::name::Name;
use crate::tensor::shape::Shape;

/// The index of a tensor in its checkpoint, stable while the checkpoint is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub u32);

impl TensorId {
    /// The index for slices.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tensor as a checkpoint's headers list it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The name.
    pub name: Name,
    /// The type of its elements in the file.
    pub dtype: DType,
    /// The shape, with the channel axes.
    pub shape: Shape,
    /// Bytes in the checkpoint, of all its stored tensors.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements; a scalar has one.
    pub fn parameters(&self) -> u64 {
        self.shape.elements()
    }

    /// The module that the tensor belongs to: its name without the last component.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(module, _)| module)
    }
}
