//! What a tensor is: its element type, its shape, its place in a checkpoint.
//!
//! Knows nothing of files, of quantization or of screens; everything may import it.

mod block;
mod channel_axes;
mod dtype;
mod element;
pub(crate) mod minifloat;
mod name;
mod scalar;
mod shape;

pub use block::BlockType;
pub use channel_axes::ChannelAxes;
pub use dtype::{DType, FloatType};
pub use element::{read_f64, write_f64};
pub use name::{Name, Names};
pub use scalar::Scalar;
pub use shape::{Dims, Shape};

/// A tensor's place in its checkpoint's index: stable while the checkpoint is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub u32);

impl TensorId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a checkpoint's headers say of one tensor, before any of its data is read.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: Name,
    /// The type its elements have in the file.
    pub dtype: DType,
    pub shape: Shape,
    /// Bytes it takes in the checkpoint, all its parts together.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements; a scalar has one.
    pub fn parameters(&self) -> u64 {
        self.shape.elements()
    }

    /// The module the tensor belongs to: its name without the last component.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(module, _)| module)
    }
}
