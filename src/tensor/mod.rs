//! Element types, shapes and tensor names. Imports nothing; every folder may import it.

mod block;
mod channel_axes;
mod dtype;
mod element;
pub(crate) mod minifloat;
mod name;
mod scalar;
mod shape;
mod tensor_info;

pub use block::BlockType;
pub use channel_axes::ChannelAxes;
pub use dtype::{DType, FloatType};
pub use element::{read_f64, write_f64};
pub use name::{Name, Names};
pub use scalar::Scalar;
pub use shape::{Dims, Shape};
pub use tensor_info::{TensorId, TensorInfo};
