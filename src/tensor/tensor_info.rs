//! A tensor's id, and its properties according to the headers.

use crate::tensor::dtype::DType;
use crate::tensor::name::Name;
use crate::tensor::shape::Shape;

/// Index of a tensor in its checkpoint, valid while the checkpoint is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub u32);

impl TensorId {
    /// The id as an index for slices.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tensor as listed in a checkpoint's headers.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The name.
    pub name: Name,
    /// The type of its elements in the file.
    pub dtype: DType,
    /// The shape, with the channel axes.
    pub shape: Shape,
    /// Size in the checkpoint in bytes, including all its stored tensors.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements; a scalar has one.
    pub fn parameters(&self) -> u64 {
        self.shape.elements()
    }

    /// The module of the tensor: its name without the last component.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(module, _)| module)
    }
}
