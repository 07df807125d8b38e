//! The loops over elements: little-endian bytes of one float type in, sums or bytes out.
//!
//! Every function is total: trailing bytes that do not fill an element are ignored, no
//! length or alignment is assumed, and the results do not depend on the machine. They are
//! written over small arrays of lanes (`lanes`), which each instruction set (`dispatch`)
//! compiles to its vectors. The plain loops they are tested against are in `reference`.

mod convert;
mod cuts;
mod dequantize;
mod dispatch;
mod error;
mod f8;
mod group;
mod halves;
mod histogram;
mod lanes;
mod level;
mod levels;
mod loss;
mod moments;
mod quantize;
#[cfg(test)]
mod reference;
mod rounding;
#[cfg(test)]
mod tests;
mod weighted;
mod written;

pub use convert::convert;
pub use cuts::Cuts;
pub use dequantize::dequantize;
pub use error::{error, error_by_channel};
pub use f8::{
    F8E4M3_MAX, f8e4m3_from, f8e4m3_value, f8e4m3fnuz_value, f8e5m2_value, f8e5m2fnuz_value,
    f8e8m0_value,
};
pub use group::{
    GroupFindings, GroupQuantization, Layout, NoScale, Wanted, block_errors, group_absmax,
    group_error, group_quantize,
};
pub use histogram::Counts;
pub use levels::{Seen, SeenByAll};
pub use loss::{GroupLosses, block_losses, group_loss, loss_by_channel};
pub use moments::{moments, range};
pub use quantize::quantize;
pub use rounding::round_one;
pub use weighted::{Weighted, weighted_error, weighted_noise};
pub use written::error_of_written;

use super::{QuantizationType, Rounding};

/// One way to quantize an element: by which scale, onto what, rounding how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    pub qtype: QuantizationType,
    pub rounding: Rounding,
}
