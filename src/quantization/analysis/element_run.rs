//! A run of consecutive elements, and how groups and output channels divide it.

use crate::quantization::groups::Groups;
use crate::quantization::kernels::ChannelBounds;
use crate::quantization::loss::Loss;
use crate::tensor::FloatType;

/// Consecutive elements of a tensor.
#[derive(Clone, Copy)]
pub(super) struct ElementRun<'b> {
    /// The index in the tensor of the first element.
    pub start: u64,
    pub dtype: FloatType,
    /// The little-endian elements.
    pub bytes: &'b [u8],
}

impl<'b> ElementRun<'b> {
    /// Number of elements.
    pub(super) fn len(self) -> u64 {
        (self.bytes.len() / self.dtype.size()) as u64
    }

    /// Splits the run by groups; returns the number of the group with each part.
    pub(super) fn by_group(
        self,
        groups: &Groups,
    ) -> impl Iterator<Item = (u64, ElementRun<'b>)> + use<'b> {
        groups.slices(self.start, self.dtype, self.bytes).map(move |slice| {
            (slice.group, ElementRun { start: slice.start, dtype: self.dtype, bytes: slice.bytes })
        })
    }

    /// Splits the run into up to two parts so that the second starts a row. The kernels for
    /// groups require a run that starts a row or is inside one.
    pub(super) fn split_at_row_start(
        self,
        groups: &Groups,
    ) -> impl Iterator<Item = ElementRun<'b>> + use<'b> {
        let size = self.dtype.size();
        let in_row = self.start % groups.row_len();
        let rest = if in_row == 0 { 0 } else { groups.row_len() - in_row };
        let split = (rest as usize).saturating_mul(size).min(self.bytes.len());
        let (rest, rows) = self.bytes.split_at(split);
        let rows = ElementRun { start: self.start + (split / size) as u64, bytes: rows, ..self };
        let parts = [ElementRun { bytes: rest, ..self }, rows];
        parts.into_iter().filter(|part| !part.bytes.is_empty())
    }

    /// Where output channels end in the run; `channels` are groups that are whole rows.
    pub(super) fn channel_bounds(self, channels: &Groups) -> ChannelBounds {
        let length = channels.row_len();
        let narrow = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        ChannelBounds { first: narrow(length - self.start % length), length: narrow(length) }
    }

    /// Numbers the losses of the channels in the run, which come in order.
    pub(super) fn number_channels(
        self,
        channels: Option<&Groups>,
        losses: Vec<Loss>,
    ) -> impl Iterator<Item = (u64, Loss)> {
        (channels.map_or(0, |channels| channels.of(self.start))..).zip(losses)
    }
}
