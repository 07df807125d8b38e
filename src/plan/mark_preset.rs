//! Ready-made selections of tensors to mark, by the role of their layer.

use crate::checkpoint::Checkpoint;
use crate::plan::rules::TargetRules;
use crate::tensor::TensorId;

/// A set of tensors to mark, chosen by their role among those quantized by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkPreset {
    /// Everything quantizable.
    AllQuantizable,
    /// Two-dimensional weights.
    Linear,
    /// Projections of attention blocks.
    Attention,
    /// Feed-forward blocks.
    Mlp,
    /// All but the first and the last quantizable tensor or fusion unit, which often lose most.
    Inner,
}

impl MarkPreset {
    /// All presets, in the order of the dialog.
    pub const ALL: [MarkPreset; 5] = [
        MarkPreset::AllQuantizable,
        MarkPreset::Linear,
        MarkPreset::Attention,
        MarkPreset::Mlp,
        MarkPreset::Inner,
    ];

    /// The name in the dialog.
    pub fn name(self) -> &'static str {
        match self {
            MarkPreset::AllQuantizable => "all quantizable",
            MarkPreset::Linear => "all linear layers",
            MarkPreset::Attention => "attention",
            MarkPreset::Mlp => "MLP",
            MarkPreset::Inner => "all but first and last",
        }
    }

    /// Returns the tensors to mark for a target, in the checkpoint's order. Only tensors that
    /// are quantized by default are selected, and fusion units are never split.
    pub fn select(self, checkpoint: &Checkpoint, rules: &TargetRules) -> Vec<TensorId> {
        let by_default = |id: &TensorId| rules.reason(checkpoint, *id).is_none();
        let mut groups = rules.units().grouped(checkpoint.ids().filter(by_default));
        let named = |ids: &[TensorId], words: &[&str]| {
            ids.iter().any(|&id| {
                let name = checkpoint.tensor(id).name.to_lowercase();
                words.iter().any(|word| name.contains(word))
            })
        };
        match self {
            MarkPreset::AllQuantizable => {}
            MarkPreset::Linear => {
                groups.retain(|ids| ids.iter().all(|&id| checkpoint.tensor(id).shape.rank() == 2));
            }
            MarkPreset::Attention => groups.retain(|ids| named(ids, &["attn", "attention"])),
            MarkPreset::Mlp => groups.retain(|ids| {
                !named(ids, &["attn", "attention"])
                    && named(
                        ids,
                        &[
                            "mlp",
                            "ffn",
                            "feed_forward",
                            "intermediate",
                            "output.dense",
                            "fc",
                            "experts",
                        ],
                    )
            }),
            MarkPreset::Inner => {
                groups.pop();
                if !groups.is_empty() {
                    groups.remove(0);
                }
            }
        }
        let mut ids = groups.concat();
        ids.sort_unstable();
        ids
    }
}
