//! The quantization loss of each output channel, and of each expert of a layer.

use crate::quantization::loss::Loss;
use crate::tensor::Shape;
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

/// The losses of a tensor's output channels, and of each expert if the tensor holds the experts
/// of a layer.
///
/// They are collected in order, and a channel may arrive in several parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelLosses {
    keep_all: bool,
    keep_worst: bool,
    /// The current channel, which is incomplete.
    open: Option<(u64, Loss)>,
    worst: Option<(u64, Loss)>,
    all: Vec<Loss>,
    /// The loss of each expert; empty unless the tensor holds several.
    experts: Vec<Loss>,
    /// Number of consecutive channels that belong to one expert.
    channels_per_expert: u64,
}

impl ChannelLosses {
    /// Collects losses of a tensor according to `detail`, and those of its experts. `None` if
    /// there is nothing to collect.
    pub(crate) fn new(detail: ChannelDetail, shape: &Shape) -> Option<ChannelLosses> {
        let experts = shape.experts().filter(|_| shape.elements() > 0).unwrap_or(0);
        // Without details the slices of the experts are collected as if they were channels.
        let channels = if detail == ChannelDetail::None { experts } else { shape.channels() };
        let is_empty = detail == ChannelDetail::None && experts == 0;
        (!is_empty).then(|| ChannelLosses {
            keep_all: detail == ChannelDetail::All,
            keep_worst: detail != ChannelDetail::None,
            experts: vec![Loss::default(); usize::try_from(experts).unwrap_or_default()],
            channels_per_expert: channels.checked_div(experts).unwrap_or(0).max(1),
            ..ChannelLosses::default()
        })
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
        let is_worse = || self.worst.is_none_or(|(_, worst)| loss.sqnr() < worst.sqnr());
        if self.keep_worst && is_worse() {
            self.worst = Some((channel, loss));
        }
        let expert = channel.checked_div(self.channels_per_expert).unwrap_or(0) as usize;
        if let Some(expert) = self.experts.get_mut(expert) {
            expert.merge(&loss);
        }
        if self.keep_all {
            self.all.push(loss);
        }
    }

    /// Returns the channel with the lowest SQNR (the first if there are several) and its SQNR in
    /// dB; `None` if created with [`ChannelDetail::None`].
    pub fn worst(&self) -> Option<(u64, f64)> {
        self.worst.map(|(channel, loss)| (channel, loss.sqnr_db()))
    }

    /// The loss of every channel, in order; empty unless created with [`ChannelDetail::All`].
    pub fn all(&self) -> &[Loss] {
        &self.all
    }

    /// The loss of every expert, in order; empty unless the tensor holds the experts of a layer.
    pub fn experts(&self) -> &[Loss] {
        &self.experts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ChannelAxes;

    #[test]
    fn channels_in_several_parts_are_summed_and_the_worst_is_found() {
        let shape = Shape::new([3, 2]).expect("fits");
        let mut losses = ChannelLosses::new(ChannelDetail::All, &shape).expect("is computed");
        let part = |signal, noise| Loss { signal, noise };
        losses.add(0, part(100.0, 1.0));
        losses.add(1, part(50.0, 1.0));
        losses.add(1, part(50.0, 9.0));
        losses.add(2, part(5.0, 0.0));
        losses.end_channel();
        assert_eq!(losses.worst(), Some((1, 10.0)));
        assert_eq!(losses.all(), [part(100.0, 1.0), part(100.0, 10.0), part(5.0, 0.0)]);
        assert_eq!(losses.experts(), []);
        assert_eq!(ChannelLosses::new(ChannelDetail::None, &shape), None);
    }

    #[test]
    fn channels_of_an_expert_are_summed() {
        let shape = Shape::new([2, 2, 3]).expect("fits").with_channel_axes(ChannelAxes::FirstTwo);
        let loss = |noise| Loss { signal: 100.0, noise };
        let of = |detail, noises: &[f64]| {
            let mut losses = ChannelLosses::new(detail, &shape).expect("is computed");
            for (channel, &noise) in (0..).zip(noises) {
                losses.add(channel, loss(noise));
            }
            losses.end_channel();
            losses
        };
        let both = [Loss { signal: 200.0, noise: 3.0 }, Loss { signal: 200.0, noise: 7.0 }];
        let found = of(ChannelDetail::Worst, &[1.0, 2.0, 4.0, 3.0]);
        assert_eq!((found.experts(), found.worst().map(|worst| worst.0)), (&both[..], Some(2)));
        // Each expert is one part.
        let found = of(ChannelDetail::None, &[3.0, 7.0]);
        assert_eq!((found.experts(), found.worst()), (&[loss(3.0), loss(7.0)][..], None));
    }
}
