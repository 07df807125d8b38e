//! The axes of a weight that enumerate its output channels.

/// The axes of a weight along which its output channels are counted.
///
/// Elements of one output channel share a scale in per-channel schemes. Channels counted along
/// leading axes are contiguous runs of elements in storage order; those of
/// [`ChannelAxes::Second`] and [`ChannelAxes::FirstAndLast`] are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelAxes {
    /// `[out, …]`: one channel for each slice along axis 0.
    #[default]
    First,
    /// `[experts, out, in]`: one channel for each row of each expert's matrix.
    FirstTwo,
    /// `[in, out, …]`: a transposed convolution, or the `Conv1D` of GPT-2.
    Second,
    /// `[experts, in, out]`: one channel for each column of each expert's matrix.
    FirstAndLast,
}

impl ChannelAxes {
    /// Returns the axes that the name and the dimensions of a tensor indicate.
    ///
    /// [`ChannelAxes::FirstTwo`] needs both a rank of three and a name that says the experts of a
    /// layer are stored in one tensor: `….experts.gate_up_proj` (Hugging Face) or
    /// `blk.0.ffn_down_exps.weight` (GGUF). In `experts.0.conv.weight` the number shows that the
    /// tensor belongs to one expert.
    pub fn for_tensor(name: &str, dims: &[u64]) -> ChannelAxes {
        if dims.len() != 3 {
            return ChannelAxes::First;
        }
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let mut parts = name.split('.').peekable();
        let mut holds_all_experts = false;
        while let Some(part) = parts.next() {
            let all_in_one = part == "experts" && parts.peek().is_some_and(|next| !is_number(next));
            holds_all_experts |= all_in_one || part.ends_with("_exps");
        }
        if holds_all_experts { ChannelAxes::FirstTwo } else { ChannelAxes::First }
    }

    /// Number of leading axes that enumerate contiguous rows. The rows are output channels if those
    /// are contiguous, and inputs otherwise.
    pub fn count(self) -> usize {
        match self {
            ChannelAxes::First | ChannelAxes::Second => 1,
            ChannelAxes::FirstTwo | ChannelAxes::FirstAndLast => 2,
        }
    }

    /// The axis whose index is the output channel of a layer, or of one expert.
    pub fn output_axis(self) -> usize {
        match self {
            ChannelAxes::First => 0,
            ChannelAxes::FirstTwo | ChannelAxes::Second => 1,
            ChannelAxes::FirstAndLast => 2,
        }
    }

    /// Returns the order of the axes that puts those of the output channels first, for a tensor
    /// with `rank` axes. `None` if they are first already.
    pub fn channel_major(self, rank: usize) -> Option<Vec<usize>> {
        let swapped = match (self, rank) {
            (ChannelAxes::Second, 2..) => (0, 1),
            (ChannelAxes::FirstAndLast, 3) => (1, 2),
            _ => return None,
        };
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(swapped.0, swapped.1);
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_axes_under_the_name_of_all_experts_count_two() {
        for name in [
            "model.layers.0.mlp.experts.gate_up_proj",
            "model.layers.0.mlp.experts.down_proj.weight",
            "experts.down_proj",
            "blk.0.ffn_gate_exps.weight",
        ] {
            assert_eq!(ChannelAxes::for_tensor(name, &[4, 8, 16]), ChannelAxes::FirstTwo, "{name}");
            assert_eq!(ChannelAxes::for_tensor(name, &[4, 8]), ChannelAxes::First, "{name}");
        }
        for name in [
            "model.layers.0.mlp.experts.3.conv.weight",
            "shared_experts.down_proj",
            "encoder.conv.weight",
            "experts",
            "",
        ] {
            assert_eq!(ChannelAxes::for_tensor(name, &[4, 8, 16]), ChannelAxes::First, "{name}");
        }
    }

    #[test]
    fn channel_major_order_puts_output_channels_first() {
        assert_eq!(ChannelAxes::First.channel_major(4), None);
        assert_eq!(ChannelAxes::FirstTwo.channel_major(3), None);
        assert_eq!(ChannelAxes::Second.channel_major(1), None);
        assert_eq!(ChannelAxes::Second.channel_major(4), Some(vec![1, 0, 2, 3]));
        assert_eq!(ChannelAxes::FirstAndLast.channel_major(3), Some(vec![0, 2, 1]));
    }
}
