//! The loops over elements: little-endian bytes of one float type in, sums or bytes out.
//!
//! Every function is total: trailing bytes that do not fill an element are ignored, no length
//! or alignment is assumed, and the results do not depend on the machine. Loops are written
//! with the vector operations of `simd`; `dispatch` compiles each for every instruction set
//! and picks one at run time. The tests compare them with the plain loops in `reference`.
//!
//! Only `quantization` and the folders above it that write or compare bytes may import this
//! folder; it knows neither files nor threads.

mod array_lanes;
mod channel_sums;
mod code_check;
mod compare;
mod convert;
mod dequantize;
mod dispatch;
mod element;
mod error;
mod f16_bits;
mod group;
mod group_ranges;
mod grouped_levels;
mod histogram;
mod level_tracker;
mod loss;
mod moments;
mod params;
mod quantize;
#[cfg(test)]
mod reference;
mod restored;
mod rounding;
mod simd;
#[cfg(test)]
mod tests;
mod weighted;

pub use channel_sums::ChannelBounds;
pub use compare::error_if_codes_match;
pub use dequantize::dequantize;
pub use error::error;
pub use group::{
    GroupDetail, GroupErrors, GroupLayout, GroupQuantization, ScaleOverflow, block_errors,
    group_error,
};
pub use level_tracker::SeenLevels;
pub use moments::{moments, range};
pub use params::Quantization;
pub use quantize::quantize;

pub(crate) use array_lanes::{integer_byte, round_half_even};
pub(crate) use convert::{convert, widen};
pub(crate) use dispatch::{Loop, run_loop};
pub(crate) use error::error_by_channel;
pub(crate) use group::group_absmax;
pub(crate) use group_ranges::group_ranges;
pub(crate) use grouped_levels::{GroupedLevels, LevelRule, quantize_groups};
pub(crate) use histogram::PatternCounts;
pub(crate) use level_tracker::SharedSeenLevels;
pub(crate) use loss::{GroupLosses, block_losses, group_loss, loss_by_channel};
pub(crate) use restored::{restored_error, restored_loss};
pub(crate) use rounding::round_one;
pub(crate) use weighted::{Weighted, weighted_error, weighted_noise};
