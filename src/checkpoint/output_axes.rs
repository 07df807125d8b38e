//! The axes of output channels of weights whose name and shape do not determine them.
//!
//! Most weights are `[out, in, …]`. Transposed convolutions and the `Conv1D` of GPT-2 are `[in,
//! out, …]`; some architectures store the experts of a layer as `[experts, in, out]`. The bias of
//! the layer, the configuration and the names of modules show which of these a weight is. Without
//! such evidence it counts as `[out, in, …]`.

use crate::checkpoint::config::Config;
use crate::checkpoint::stored::Stored;
use crate::tensor::{ChannelAxes, Shape};
use foldhash::HashMap;

/// Architectures whose attention and MLP are `Conv1D`.
pub(crate) const CONV1D_ARCHITECTURES: [&str; 7] = [
    "gpt2",
    "openai-gpt",
    "imagegpt",
    "decision_transformer",
    "clvp",
    "clvp_decoder",
    "clvp_encoder",
];

/// Layers that are `Conv1D`, with weights `[in, out]`, in these architectures.
pub(crate) const CONV1D_LAYERS: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

/// Architectures whose checkpoints hold experts as `[experts, in, out]`.
const TRANSPOSED_EXPERTS: [&str; 9] = [
    "gpt_oss",
    "llama4",
    "llama4_text",
    "aria",
    "aria_text",
    "openai_privacy_filter",
    "qwen3_vl_moe",
    "qwen3_vl_moe_text",
    "qwen3_omni_moe_talker_text",
];

/// Names of modules that are transposed convolutions in any model.
const TRANSPOSED_CONVOLUTIONS: [&str; 10] = [
    "deconv",
    "deconv1",
    "deconv2",
    "deconv3",
    "convtr",
    "convt_pre",
    "conv_transpose",
    "conv_transpose1",
    "conv_transpose2",
    "transposed_convolution",
];

/// Modules that are transposed convolutions in some architectures: the last component of the
/// module's name that is not a number, and the architectures.
const TRANSPOSED_MODULES: [(&str, &[&str]); 3] = [
    ("fpn1", &["beit", "data2vec-vision"]),
    ("fpn2", &["beit", "data2vec-vision"]),
    // The same list has an ordinary convolution with a kernel of 3.
    ("resize", &["dpt", "depth_anything", "prompt_depth_anything", "zoedepth", "chmv2"]),
];

/// The evidence about axes other than a weight's name and shape.
pub(crate) struct OutputAxes<'s> {
    /// The number of elements of each bias, by the name of its module.
    biases: HashMap<&'s str, u64>,
    model_types: Vec<String>,
    hidden_sizes: Vec<u64>,
}

impl<'s> OutputAxes<'s> {
    pub(crate) fn new(config: Option<&Config>, stored: &'s [Stored]) -> OutputAxes<'s> {
        let bias = |stored: &'s Stored| {
            let module = stored.name.strip_suffix(".bias")?;
            (stored.shape.rank() == 1).then(|| (module, stored.shape.elements()))
        };
        let biases = stored.iter().filter_map(bias).collect();
        let (mut model_types, mut hidden_sizes) = (Vec::new(), Vec::new());
        for part in config.into_iter().flat_map(Config::parts) {
            model_types
                .extend(part.get("model_type").and_then(|it| it.as_str()).map(str::to_owned));
            hidden_sizes.extend(part.get("hidden_size").and_then(serde_json::Value::as_u64));
        }
        OutputAxes { biases, model_types, hidden_sizes }
    }

    /// Returns `shape` with the axes of the output channels of the weight with this name.
    pub(crate) fn counted(&self, name: &str, shape: Shape) -> Shape {
        let axes = match ChannelAxes::for_tensor(name, shape.dims()) {
            ChannelAxes::FirstTwo => self.of_experts(name, shape.dims()),
            ChannelAxes::First => self.of_layer(name, shape.dims()),
            other => other,
        };
        shape.with_channel_axes(axes)
    }

    fn is(&self, architectures: &[&str]) -> bool {
        self.model_types.iter().any(|it| architectures.contains(&it.as_str()))
    }

    /// Returns the axes of a tensor of experts. One side of each matrix is the model's hidden size:
    /// the inputs of the first projections, the outputs of the last one. If both sides are, the
    /// architecture decides.
    fn of_experts(&self, name: &str, dims: &[u64]) -> ChannelAxes {
        let &[_, rows, columns] = dims else { return ChannelAxes::FirstTwo };
        let is_hidden = |side: u64| self.hidden_sizes.contains(&side);
        let gives_hidden = name.contains("down_proj");
        if !gives_hidden && !name.contains("gate") && !name.contains("up_proj") {
            return ChannelAxes::FirstTwo;
        }
        let transposed = match (is_hidden(rows), is_hidden(columns)) {
            (true, false) => !gives_hidden,
            (false, true) => gives_hidden,
            (true, true) => self.is(&TRANSPOSED_EXPERTS),
            (false, false) => false,
        };
        if transposed { ChannelAxes::FirstAndLast } else { ChannelAxes::FirstTwo }
    }

    fn of_layer(&self, name: &str, dims: &[u64]) -> ChannelAxes {
        let (Some(module), &[first, second, ..]) = (name.strip_suffix(".weight"), dims) else {
            return ChannelAxes::First;
        };
        // A bias has one number for each output.
        match self.biases.get(module) {
            Some(&outputs) if outputs == second && outputs != first => return ChannelAxes::Second,
            Some(&outputs) if outputs != second => return ChannelAxes::First,
            _ => {}
        }
        let last = module.rsplit('.').find(|part| !part.bytes().all(|b| b.is_ascii_digit()));
        let last = last.unwrap_or_default();
        let is_transposed = match dims {
            [_, _] => self.is(&CONV1D_ARCHITECTURES) && CONV1D_LAYERS.contains(&last),
            [_, _, kernel @ ..] if kernel.len() <= 3 => {
                let in_architecture = |(name, architectures): &(&str, &[&str])| {
                    *name == last
                        && self.is(architectures)
                        && kernel.iter().all(|side| side.is_multiple_of(2))
                };
                TRANSPOSED_CONVOLUTIONS.contains(&last)
                    || TRANSPOSED_MODULES.iter().any(in_architecture)
            }
            _ => false,
        };
        if is_transposed { ChannelAxes::Second } else { ChannelAxes::First }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(model_type: &str, hidden: u64, biases: &[(&'static str, u64)]) -> OutputAxes<'static> {
        OutputAxes {
            biases: biases.iter().copied().collect(),
            model_types: vec![model_type.to_owned()],
            hidden_sizes: vec![hidden],
        }
    }

    fn of(known: &OutputAxes, name: &str, dims: &[u64]) -> ChannelAxes {
        known.counted(name, Shape::new(dims).expect("fits")).channel_axes()
    }

    #[test]
    fn a_bias_says_along_which_axis_outputs_lie() {
        let known = axes("", 0, &[("up", 4), ("conv", 8), ("square", 8), ("grouped", 16)]);
        assert_eq!(of(&known, "up.weight", &[8, 4, 2, 2]), ChannelAxes::Second);
        assert_eq!(of(&known, "conv.weight", &[8, 4, 3, 3]), ChannelAxes::First);
        assert_eq!(of(&known, "square.weight", &[8, 8, 2, 2]), ChannelAxes::First);
        assert_eq!(of(&known, "grouped.weight", &[8, 8, 2]), ChannelAxes::First);
        assert_eq!(of(&known, "other.weight", &[8, 4]), ChannelAxes::First);
    }

    #[test]
    fn names_decide_where_both_sides_are_equal() {
        let known = axes("gpt2", 0, &[("h.0.attn.c_proj", 8), ("deconv1", 8)]);
        assert_eq!(of(&known, "h.0.attn.c_proj.weight", &[8, 8]), ChannelAxes::Second);
        assert_eq!(of(&known, "h.0.attn.q_proj.weight", &[8, 8]), ChannelAxes::First);
        assert_eq!(of(&known, "deconv1.weight", &[8, 8, 4, 4]), ChannelAxes::Second);
        assert_eq!(of(&known, "neck.deconv.0.weight", &[8, 16, 4, 4]), ChannelAxes::Second);
        let llama = axes("llama", 0, &[]);
        assert_eq!(of(&llama, "h.0.attn.c_proj.weight", &[8, 8]), ChannelAxes::First);
        let contradicted = axes("gpt2", 0, &[("h.0.mlp.c_fc", 32)]);
        assert_eq!(of(&contradicted, "h.0.mlp.c_fc.weight", &[32, 8]), ChannelAxes::First);
        let beit = axes("beit", 0, &[]);
        assert_eq!(of(&beit, "fpn1.0.weight", &[8, 8, 2, 2]), ChannelAxes::Second);
        assert_eq!(of(&beit, "fpn1.0.weight", &[8, 8, 3, 3]), ChannelAxes::First);
    }

    #[test]
    fn the_configuration_decides_how_experts_lie() {
        let known = axes("mixtral", 8, &[]);
        let (up, down) = ("layers.0.mlp.experts.gate_up_proj", "layers.0.mlp.experts.down_proj");
        assert_eq!(of(&known, up, &[4, 32, 8]), ChannelAxes::FirstTwo);
        assert_eq!(of(&known, up, &[4, 8, 32]), ChannelAxes::FirstAndLast);
        assert_eq!(of(&known, down, &[4, 8, 16]), ChannelAxes::FirstTwo);
        assert_eq!(of(&known, down, &[4, 16, 8]), ChannelAxes::FirstAndLast);
        assert_eq!(of(&known, down, &[4, 8, 8]), ChannelAxes::FirstTwo);
        assert_eq!(of(&axes("gpt_oss", 8, &[]), down, &[4, 8, 8]), ChannelAxes::FirstAndLast);
        assert_eq!(of(&axes("gpt_oss", 9, &[]), down, &[4, 16, 8]), ChannelAxes::FirstTwo);
        assert_eq!(of(&known, "layers.0.mlp.experts.router", &[4, 8, 32]), ChannelAxes::FirstTwo);
    }
}
