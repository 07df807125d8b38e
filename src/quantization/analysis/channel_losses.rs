//! The quantization loss of each output channel.

use crate::quantization::loss::Loss;
use serde::{Deserialize, Serialize};

/// Which losses of output channels to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelDetail {
    /// Nothing.
    #[default]
    None,
    /// The channel with the largest loss.
    Worst,
    /// The loss of every channel.
    All,
}

/// The losses of a tensor's output channels.
///
/// They are collected in order, and a channel may arrive in several parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelLosses {
    keep_all: bool,
    /// The current channel, which is incomplete.
    open: Option<(u64, Loss)>,
    worst: Option<(u64, Loss)>,
    all: Vec<Loss>,
}

impl ChannelLosses {
    /// Collects losses according to `detail`; `None` for [`ChannelDetail::None`].
    pub(crate) fn new(detail: ChannelDetail) -> Option<ChannelLosses> {
        let keep_all = detail == ChannelDetail::All;
        (detail != ChannelDetail::None)
            .then(|| ChannelLosses { keep_all, ..ChannelLosses::default() })
    }

    /// Adds a part of channel number `channel`, which is the current one or the next.
    pub(crate) fn add(&mut self, channel: u64, part: Loss) {
        match &mut self.open {
            Some((open, sum)) if *open == channel => sum.merge(&part),
            _ => {
                self.end_channel();
                self.open = Some((channel, part));
            }
        }
    }

    /// Completes the current channel.
    pub(crate) fn end_channel(&mut self) {
        let Some((channel, loss)) = self.open.take() else { return };
        if self.worst.is_none_or(|(_, worst)| loss.sqnr() < worst.sqnr()) {
            self.worst = Some((channel, loss));
        }
        if self.keep_all {
            self.all.push(loss);
        }
    }

    /// Returns the channel with the lowest SQNR (the first if there are several) and its SQNR in
    /// dB.
    pub fn worst(&self) -> Option<(u64, f64)> {
        self.worst.map(|(channel, loss)| (channel, loss.sqnr_db()))
    }

    /// The loss of every channel, in order; empty unless created with [`ChannelDetail::All`].
    pub fn all(&self) -> &[Loss] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_in_several_parts_are_summed_and_the_worst_is_found() {
        let mut losses = ChannelLosses::new(ChannelDetail::All).expect("is computed");
        let part = |signal, noise| Loss { signal, noise };
        losses.add(0, part(100.0, 1.0));
        losses.add(1, part(50.0, 1.0));
        losses.add(1, part(50.0, 9.0));
        losses.add(2, part(5.0, 0.0));
        losses.end_channel();
        assert_eq!(losses.worst(), Some((1, 10.0)));
        assert_eq!(losses.all(), [part(100.0, 1.0), part(100.0, 10.0), part(5.0, 0.0)]);
        assert_eq!(ChannelLosses::new(ChannelDetail::None), None);
    }
}
