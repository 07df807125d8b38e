//! Ready-made selections by the role a tensor plays.

use crate::checkpoint::Checkpoint;
use crate::plan::rules::TargetRules;
use crate::tensor::TensorId;

/// A selection by role, over the tensors that are quantizable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Everything quantizable.
    AllQuantizable,
    /// Two-dimensional weights.
    Linear,
    /// Projections of attention blocks.
    Attention,
    /// Feed-forward blocks.
    Mlp,
    /// All but the first and the last quantizable tensor or unit, which often cost most.
    Inner,
}

impl Preset {
    pub const ALL: [Preset; 5] =
        [Preset::AllQuantizable, Preset::Linear, Preset::Attention, Preset::Mlp, Preset::Inner];

    pub fn name(self) -> &'static str {
        match self {
            Preset::AllQuantizable => "all quantizable",
            Preset::Linear => "all linear layers",
            Preset::Attention => "attention",
            Preset::Mlp => "MLP",
            Preset::Inner => "all but first and last",
        }
    }

    /// The tensors that it selects for a target, in the checkpoint's order: of those that are
    /// quantized by default, and of each unit all or none.
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
            Preset::AllQuantizable => {}
            Preset::Linear => {
                groups.retain(|ids| ids.iter().all(|&id| checkpoint.tensor(id).shape.rank() == 2));
            }
            Preset::Attention => groups.retain(|ids| named(ids, &["attn", "attention"])),
            Preset::Mlp => groups.retain(|ids| {
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
            Preset::Inner => {
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
