//! The leading axes of a weight that enumerate its output channels.

/// The leading axes of a weight whose slices are its output channels.
///
/// Elements of one output channel share a scale in per-channel schemes, so every channel must
/// be a contiguous run of elements in storage order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelAxes {
    /// `[out, …]`: one channel for each slice along axis 0.
    #[default]
    First,
    /// `[experts, out, in]`: one channel for each row of each expert's matrix.
    FirstTwo,
}

impl ChannelAxes {
    /// The axes for a tensor with this name and these dimensions.
    ///
    /// [`ChannelAxes::FirstTwo`] needs both a rank of three and a name that says the experts
    /// of a layer are stored in one tensor: `….experts.gate_up_proj` (Hugging Face) or
    /// `blk.0.ffn_down_exps.weight` (GGUF). In `experts.0.conv.weight` the number shows that
    /// the tensor belongs to one expert.
    pub fn for_tensor(name: &str, dims: &[u64]) -> ChannelAxes {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let mut parts = name.split('.').peekable();
        let mut holds_all_experts = false;
        while let Some(part) = parts.next() {
            let all_in_one = part == "experts" && parts.peek().is_some_and(|next| !is_number(next));
            holds_all_experts |= all_in_one || part.ends_with("_exps");
        }
        match holds_all_experts && dims.len() == 3 {
            true => ChannelAxes::FirstTwo,
            false => ChannelAxes::First,
        }
    }

    /// Number of leading axes.
    pub fn count(self) -> usize {
        match self {
            ChannelAxes::First => 1,
            ChannelAxes::FirstTwo => 2,
        }
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
}
