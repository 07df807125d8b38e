//! The loops over elements: little-endian bytes of one float type in, sums or bytes out.
//!
//! Every function is total: trailing bytes that do not fill an element are ignored, no
//! length or alignment is assumed, and the results do not depend on the machine. They are
//! written over small arrays of lanes (`lanes`), which each instruction set (`dispatch`)
//! compiles to its vectors. The plain loops they are tested against are in `reference`.

mod array_lanes;
mod channel_sums;
mod compare;
mod convert;
mod dequantize;
mod dispatch;
mod error;
mod f16_bits;
mod group;
mod histogram;
mod level_tracker;
mod loss;
mod moments;
mod quantize;
#[cfg(test)]
mod reference;
mod rounding;
mod simd;
#[cfg(test)]
mod tests;
mod weighted;

pub use channel_sums::ChannelSums;
pub use compare::error_of_written;
pub use convert::convert;
pub use dequantize::dequantize;
pub use error::{error, error_by_channel};
pub use group::{
    GroupFindings, GroupQuantization, Layout, NoScale, Wanted, block_errors, group_absmax,
    group_error, group_quantize,
};
pub use histogram::Counts;
pub use level_tracker::{Seen, SeenByAll};
pub use loss::{GroupLosses, block_losses, group_loss, loss_by_channel};
pub use moments::{moments, range};
pub use quantize::quantize;
pub use rounding::round_one;
pub use weighted::{Weighted, weighted_error, weighted_noise};

use crate::quantization::{QuantizationType, Rounding};

/// One way to quantize an element: by which scale, onto what, rounding params.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    pub qtype: QuantizationType,
    pub rounding: Rounding,
}
