//! The output error from mean squares only: Σ ΔWᵢⱼ² E[xⱼ²] / Σ Wᵢⱼ² E[xⱼ²]. It is exact if the
//! features are uncorrelated and have mean zero, and an approximation otherwise.

use crate::activations::channel_range::{ChannelRange, OutputSums, QuantizedChannels};
use crate::tensor::Shape;

/// Mean squares of a layer's inputs, and the shape of the weight that they belong to.
pub struct Diagonal<'a> {
    mean_square: &'a [f32],
    shape: &'a Shape,
}

impl<'a> Diagonal<'a> {
    /// `mean_square` has one value per input feature, or per expert and input feature.
    pub fn new(shape: &'a Shape, mean_square: &'a [f32]) -> Diagonal<'a> {
        Diagonal { mean_square, shape }
    }

    /// The index of the input feature that element `index` of an output channel multiplies.
    fn feature(&self, channel: u64, index: u64) -> u64 {
        let features = self.mean_square.len() as u64;
        match *self.shape.dims() {
            // Experts: one matrix per expert.
            [experts, _, inputs] if features == experts * inputs && experts > 1 => {
                let per_expert = (self.shape.channels() / experts).max(1);
                channel / per_expert * inputs + index % inputs.max(1)
            }
            [outputs, inputs, ..] if self.shape.rank() > 2 => {
                let taps = (self.shape.channel_len() / inputs.max(1)).max(1);
                let groups = (features / inputs.max(1)).max(1);
                let per_group = (outputs / groups).max(1);
                channel / per_group * inputs + index / taps
            }
            _ => index,
        }
    }

    /// The sums of some channels. `width` is the number of elements of one channel.
    pub(super) fn sums(
        &self,
        original: &[f32],
        channels: &QuantizedChannels,
        width: usize,
        part: &ChannelRange,
    ) -> OutputSums {
        let mut sums = OutputSums::default();
        let width = width.max(1);
        let rows = original.chunks(width).zip(channels.lost.chunks(width));
        for (channel, (original, lost)) in part.channels.clone().zip(rows) {
            for (index, (w, lost)) in (0..).zip(original.iter().zip(lost)) {
                let feature = self.feature(channel, index) as usize;
                let square = self.mean_square.get(feature).copied().unwrap_or(0.0);
                let times = |x: f32| f64::from(x) * f64::from(x) * f64::from(square);
                sums.signal += times(*w);
                sums.noise[0] += times(*lost);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ChannelAxes;

    /// Three experts of two rows and four inputs each, with a mean square per expert and input.
    #[test]
    fn each_expert_has_its_own_mean_squares() {
        let mean_square: Vec<f32> = (0..12).map(|n| n as f32).collect();
        let by_expert = Shape::new([3, 2, 4]).expect("fits");
        let by_row = by_expert.clone().with_channel_axes(ChannelAxes::FirstTwo);
        let of_experts = Diagonal::new(&by_expert, &mean_square);
        let of_rows = Diagonal::new(&by_row, &mean_square);
        for (expert, row, input) in [(0, 0, 0), (1, 0, 3), (1, 1, 3), (2, 1, 2)] {
            let feature = expert * 4 + input;
            assert_eq!(of_experts.feature(expert, row * 4 + input), feature);
            assert_eq!(of_rows.feature(expert * 2 + row, input), feature);
        }
    }
}
