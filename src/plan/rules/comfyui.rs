//! Which tensors ComfyUI can read quantized, according to its `comfy/ops.py`,
//! `comfy/utils.py` and `comfy/model_detection.py`.

use crate::checkpoint::Checkpoint;
use crate::plan::eligibility::{Obstacle, obstacle};
use crate::plan::rules::eligibility::{Eligibility, Reason};
use crate::tensor::TensorId;

/// Name prefixes of the image decoder in a checkpoint that also has other parts.
const VAE_PREFIXES: [&str; 2] = ["first_stage_model.", "vae."];

/// Name prefixes of text encoders in a checkpoint that also has other parts.
const TEXT_ENCODER_PREFIXES: [&str; 3] = ["cond_stage_model.", "conditioner.", "text_encoders."];

/// Tensor names that only the diffusers library uses. A model from diffusers has all names of
/// one row. ComfyUI renames the weights of such models while loading, but not their scales and
/// markers.
const DIFFUSERS_NAMES: [&[&str]; 6] = [
    &["joint_transformer_blocks.0.attn.add_k_proj.weight"],
    &["adaln_single.emb.timestep_embedder.linear_1.bias", "pos_embed.proj.bias"],
    &["noise_refiner.0.attention.norm_k.weight"],
    &["x_embedder.weight", "single_transformer_blocks.0.attn.to_q.weight"],
    &["transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"],
    &["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
];

/// Returns whether ComfyUI cannot hold a tensor as a quantized one. It holds matrices that are
/// the weight of a module outside the image decoder.
pub(super) fn cannot_hold(name: &str, rank: usize) -> bool {
    rank != 2
        || !name.ends_with(".weight")
        || VAE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns whether a tensor is quantized for ComfyUI, which reads only the markers of Linear and
/// Embedding modules.
pub(super) fn eligibility(checkpoint: &Checkpoint, id: TensorId) -> Eligibility {
    let tensor = checkpoint.tensor(id);
    let name = tensor.name.as_str();
    let obstacle = obstacle(checkpoint, id);
    if let Some(obstacle) = &obstacle
        && *obstacle != Obstacle::Embedding
    {
        return Eligibility::Never(Reason::Obstacle(obstacle.clone()));
    }
    if !name.ends_with(".weight") {
        return Eligibility::Never(Reason::NotAModuleWeight);
    }
    if tensor.shape.rank() != 2 {
        return Eligibility::Never(Reason::Convolution(tensor.shape.rank()));
    }
    let starts_with = |prefix: &&str| name.starts_with(prefix);
    if VAE_PREFIXES.iter().any(starts_with) {
        return Eligibility::Never(Reason::ImageDecoder);
    }
    if TEXT_ENCODER_PREFIXES.iter().any(starts_with) {
        return Eligibility::ByName(Reason::TextEncoder);
    }
    match obstacle {
        Some(obstacle) => Eligibility::ByName(Reason::Obstacle(obstacle)),
        None => Eligibility::ByDefault,
    }
}

/// Returns a tensor name that shows that the model has the names of the diffusers library.
pub(super) fn diffusers_name(checkpoint: &Checkpoint) -> Option<&'static str> {
    let has = |name: &&str| checkpoint.tensors().iter().any(|tensor| tensor.name == **name);
    let row = DIFFUSERS_NAMES.iter().find(|names| names.iter().all(has))?;
    row.last().copied()
}
