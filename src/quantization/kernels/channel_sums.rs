//! Losses of individual output channels.

use crate::quantization::loss::Loss;
use crate::quantization::statistics::ErrorSums;

/// The ends of output channels in a run of consecutive elements. Channels consist of whole rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBounds {
    /// Elements up to the end of the channel in which the run starts.
    pub first: usize,
    /// Elements of every later channel.
    pub length: usize,
}

impl ChannelBounds {
    /// Bounds that lie beyond any elements in memory, so that all of them are one channel.
    pub(super) const NONE: ChannelBounds = ChannelBounds { first: usize::MAX, length: usize::MAX };

    /// The bytes of each channel; the first and the last may be incomplete. `size` is the
    /// number of bytes of an element.
    pub(super) fn slices(self, bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
        let first = self.first.saturating_mul(size).min(bytes.len());
        let (first, rest) = bytes.split_at(first);
        let length = self.length.max(1).saturating_mul(size);
        std::iter::once(first).filter(|first| !first.is_empty()).chain(rest.chunks(length))
    }
}

/// Collects the loss of each channel during a sweep over the elements. Collects nothing if there
/// are no bounds.
#[derive(Debug)]
pub(super) struct ChannelSums {
    /// Number of remaining elements of the current channel.
    left: usize,
    length: usize,
    channels: Vec<Loss>,
    /// The loss of elements of the current channel that were measured outside the sweep.
    aside: Loss,
}

impl ChannelSums {
    pub(super) fn new(bounds: Option<ChannelBounds>) -> ChannelSums {
        let ChannelBounds { first, length } = bounds.unwrap_or(ChannelBounds::NONE);
        ChannelSums { left: first, length, channels: Vec::new(), aside: Loss::default() }
    }

    /// Advances by the elements of a group. Returns whether the channel ends after it.
    #[inline(always)]
    pub(super) fn ends_after(&mut self, elements: usize) -> bool {
        self.left = self.left.saturating_sub(elements);
        self.left == 0
    }

    /// Whether the channel ends before `elements` more elements.
    #[inline(always)]
    pub(super) fn ends_within(&self, elements: usize) -> bool {
        self.left < elements
    }

    /// Ends the current channel; `swept` is its loss in the sweep.
    #[inline(never)]
    pub(super) fn end(&mut self, swept: Loss) {
        let mut channel = swept;
        channel.merge(&std::mem::take(&mut self.aside));
        self.channels.push(channel);
        self.left = self.length;
    }

    /// Adds the errors of elements that were measured outside the sweep.
    #[cold]
    pub(super) fn set_aside(&mut self, sums: &ErrorSums) {
        self.aside.merge(&sums.into());
    }

    /// The losses of all channels in order; the last channel may be incomplete. `rest` is its
    /// loss in the sweep.
    pub(super) fn finish(mut self, rest: Loss) -> Vec<Loss> {
        let has_bounds = self.length != usize::MAX;
        if has_bounds && self.left != self.length {
            self.end(rest);
        }
        self.channels
    }
}
