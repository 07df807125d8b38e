//! Ready-made selections by the role a tensor plays.

use crate::checkpoint::Checkpoint;
use crate::plan::eligibility::quantizable;
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
    /// All but the first and the last quantizable tensor, which often cost most.
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

    /// The tensors it selects, in the checkpoint's order.
    pub fn select(self, checkpoint: &Checkpoint) -> Vec<TensorId> {
        let mut ids: Vec<_> = checkpoint.ids().filter(|&id| quantizable(checkpoint, id)).collect();
        let named = |id: &TensorId, words: &[&str]| {
            let name = checkpoint.tensor(*id).name.to_lowercase();
            words.iter().any(|word| name.contains(word))
        };
        match self {
            Preset::AllQuantizable => {}
            Preset::Linear => ids.retain(|&id| checkpoint.tensor(id).shape.rank() == 2),
            Preset::Attention => ids.retain(|id| named(id, &["attn", "attention"])),
            Preset::Mlp => ids.retain(|id| {
                !named(id, &["attn", "attention"])
                    && named(
                        id,
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
                ids.pop();
                if !ids.is_empty() {
                    ids.remove(0);
                }
            }
        }
        ids
    }
}
