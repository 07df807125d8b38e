//! Sums told apart by the output channels that the elements lie in.

use crate::quantization::loss::Loss;
use crate::quantization::statistics::ErrorSums;

/// Where output channels end in consecutive elements. Each holds whole rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBounds {
    /// Elements up to the end of the channel that is under way.
    pub first: usize,
    /// Elements of every channel after it.
    pub length: usize,
}

impl ChannelBounds {
    /// The bytes of each channel; the last may be a part.
    pub(super) fn slices(self, bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
        let first = self.first.saturating_mul(size).min(bytes.len());
        let (first, rest) = bytes.split_at(first);
        let length = self.length.max(1).saturating_mul(size);
        std::iter::once(first).filter(|first| !first.is_empty()).chain(rest.chunks(length))
    }
}

/// What each channel loses, as the elements go by. It bounds nothing where nothing is asked.
#[derive(Debug)]
pub(super) struct ChannelSums {
    /// Elements that the channel still has.
    left: usize,
    length: usize,
    channels: Vec<Loss>,
    /// What was added up outside the sweep, of the channel under way.
    aside: Loss,
}

impl ChannelSums {
    pub(super) fn new(bounds: Option<ChannelBounds>) -> ChannelSums {
        // No elements in memory are as many.
        let ChannelBounds { first, length } =
            bounds.unwrap_or(ChannelBounds { first: usize::MAX, length: usize::MAX });
        ChannelSums { left: first, length, channels: Vec::new(), aside: Loss::default() }
    }

    /// Goes on by the elements of a group, and tells whether the channel ends with it.
    #[inline(always)]
    pub(super) fn ends_after(&mut self, elements: usize) -> bool {
        self.left = self.left.saturating_sub(elements);
        self.left == 0
    }

    /// Whether the channel ends before as many elements have gone by.
    #[inline(always)]
    pub(super) fn ends_within(&self, elements: usize) -> bool {
        self.left < elements
    }

    /// Ends the channel, of which the sweep says `error`.
    #[inline(never)]
    pub(super) fn end(&mut self, error: Loss) {
        let mut channel = error;
        channel.merge(&std::mem::take(&mut self.aside));
        self.channels.push(channel);
        self.left = self.length;
    }

    #[cold]
    pub(super) fn set_aside(&mut self, sums: &ErrorSums) {
        self.aside.merge(&sums.into());
    }

    /// All channels in order, the last of which may go on; `rest` is what the sweep says of
    /// it.
    pub(super) fn finish(mut self, rest: Loss) -> Vec<Loss> {
        let asked = self.length != usize::MAX;
        if asked && self.left != self.length {
            self.end(rest);
        }
        self.channels
    }
}
