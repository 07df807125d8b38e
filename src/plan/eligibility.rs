//! Which tensors are quantized by default, which only if named, and which never.

use crate::checkpoint::{Checkpoint, Content, Role, Stored, qat};
use crate::tensor::TensorId;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Why a tensor is quantized only if it is named, or never.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Obstacle {
    /// Its elements cannot be read; the text is the reason.
    Unreadable(String),
    /// It is state of an optimizer.
    OptimizerState,
    /// It belongs neither to the network nor to the optimizer state.
    NotNetwork,
    /// It is a part of a tensor whose class is not decoded.
    PartOfTensor,
    /// It is an expanded view: several of its elements share one element of the file.
    Expanded,
    /// It has no elements.
    Empty,
    /// Its elements are not F64, F32, F16 or BF16.
    NotFloat(String),
    /// It is already stored quantized, in the named packed format.
    AlreadyQuantized(String),
    /// It is a scalar or vector, such as a bias. These are small and sensitive.
    FewDimensions,
    /// It is a table that is looked up by row.
    Embedding,
    /// It is an observer of quantization-aware training, not part of the network.
    Observer,
    /// It is a parameter of a normalisation.
    Norm,
    /// It is a bias with two or more dimensions, such as those of all experts of a layer.
    Bias,
    /// It holds NaN or infinities, so it has no scale. Known only after calibration.
    NonFinite { nan: u64, inf: u64, first: u64 },
}

impl Obstacle {
    /// Returns whether the tensor can still be quantized if it is named.
    pub fn can_be_overruled(&self) -> bool {
        matches!(
            self,
            Obstacle::FewDimensions | Obstacle::Embedding | Obstacle::Norm | Obstacle::Bias
        )
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Obstacle::Observer => {
                f.write_str("it is an observer of fake quantization, not part of the network")
            }
            Obstacle::Unreadable(why) => f.write_str(why),
            Obstacle::OptimizerState => f.write_str("it is optimizer state"),
            Obstacle::NotNetwork => f.write_str("it is not part of the network"),
            Obstacle::PartOfTensor => {
                f.write_str("it is a part of a tensor whose class quantscope does not decode")
            }
            Obstacle::Expanded => {
                f.write_str("it is an expanded view, whose elements repeat those of its storage")
            }
            Obstacle::Empty => f.write_str("it has no elements"),
            Obstacle::NotFloat(dtype) => {
                write!(f, "its type is {}, expected F64, F32, F16 or BF16", dtype.escape_debug())
            }
            Obstacle::AlreadyQuantized(layout) => write!(f, "it is quantized already ({layout})"),
            Obstacle::FewDimensions => f.write_str("it has fewer than two dimensions"),
            Obstacle::Embedding => f.write_str("it is an embedding"),
            Obstacle::Norm => f.write_str("it belongs to a norm"),
            Obstacle::Bias => f.write_str("it is a bias"),
            Obstacle::NonFinite { nan, inf, first } => write!(
                f,
                "it holds {nan} NaN and {inf} Inf, the first at index {first}; such values have no scale"
            ),
        }
    }
}

/// Returns why a tensor is not quantized by default, as far as the headers show; `None` if it
/// is.
pub fn obstacle(checkpoint: &Checkpoint, id: TensorId) -> Option<Obstacle> {
    let tensor = checkpoint.tensor(id);
    if let Content::Packed(layout) = checkpoint.content(id) {
        return Some(Obstacle::AlreadyQuantized(layout.name()));
    }
    if let Some(why) = checkpoint.unreadable(id) {
        return Some(Obstacle::Unreadable(why.to_owned()));
    }
    match checkpoint.role(id) {
        Role::Network => {}
        Role::Optimizer => return Some(Obstacle::OptimizerState),
        Role::Other => return Some(Obstacle::NotNetwork),
        Role::Part => return Some(Obstacle::PartOfTensor),
    }
    if checkpoint.plain(id).is_some_and(Stored::repeats) {
        return Some(Obstacle::Expanded);
    }
    if qat::is_observer(&tensor.name) {
        return Some(Obstacle::Observer);
    }
    if tensor.dtype.float().is_none() {
        return Some(Obstacle::NotFloat(tensor.dtype.name().to_owned()));
    }
    if tensor.parameters() == 0 {
        return Some(Obstacle::Empty);
    }
    let name = tensor.name.to_ascii_lowercase();
    if is_norm(&name) {
        return Some(Obstacle::Norm);
    }
    if tensor.shape.rank() < 2 {
        return Some(Obstacle::FewDimensions);
    }
    if is_bias(&name) {
        return Some(Obstacle::Bias);
    }
    (is_embedding(&name) && is_table(checkpoint, id)).then_some(Obstacle::Embedding)
}

/// Returns whether a tensor with the name of an embedding can be a table that is looked up by
/// row. The weight of a layer with a bias is a matrix that multiplies, and one of four or more
/// dimensions is the kernel of a convolution.
fn is_table(checkpoint: &Checkpoint, id: TensorId) -> bool {
    let tensor = checkpoint.tensor(id);
    let Some(module) = tensor.name.strip_suffix(".weight") else { return true };
    tensor.shape.rank() < 4 && checkpoint.find(&format!("{module}.bias")).is_none()
}

/// Returns whether a tensor is quantized by default: it has floats, two or more dimensions, and
/// is neither an embedding nor a norm.
pub fn quantizable(checkpoint: &Checkpoint, id: TensorId) -> bool {
    obstacle(checkpoint, id).is_none()
}

/// Returns whether the name is that of an embedding table in a common architecture, such as
/// `embed_tokens`, `word_embeddings`, `wte` or `token_embd`. An output head is not one, nor is
/// `cls_token`, nor a layer of a sequence such as `time_embed.0`.
fn is_embedding(name: &str) -> bool {
    components(name).any(|part| {
        part.starts_with(b"embed")
            || part.ends_with(b"embed")
            || part.ends_with(b"embd")
            || part.ends_with(b"embedding")
            || part.ends_with(b"embeddings")
            || part.ends_with(b"_embed_tokens")
            || part.ends_with(b"bias_table")
            || matches!(part, b"wte" | b"wpe" | b"relative_attention_bias" | b"shared")
    }) && !is_projection_inside_embedding(name)
        && !components(name).any(|part| part == b"embed_out")
        && !is_layer_of_sequence(name)
        && !name.ends_with("_token")
}

/// Returns whether the name is that of a numbered layer under a name in the singular, such as
/// `time_embed.0.weight`: a sequence of layers. Lists of tables have names such as
/// `point_embeddings.0.weight` and `embed_tokens.0.weight`.
fn is_layer_of_sequence(name: &str) -> bool {
    let Some(module) = name.strip_suffix(".weight") else { return false };
    let Some((parent, number)) = module.rsplit_once('.') else { return false };
    parent.ends_with("embed") && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether the name is that of a layer inside an embedding module that multiplies, such
/// as `embeddings.projection.weight`. Only an explicit `proj`, `dense`, `conv` or `linear`
/// counts, because other names are ambiguous.
fn is_projection_inside_embedding(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    parts.next();
    parts.next().is_some_and(|module| {
        ["proj", "dense", "conv", "linear"].iter().any(|word| module.contains(word))
    })
}

/// Returns whether the name is that of a bias, such as `experts.gate_up_proj_bias`. A module that
/// is called a bias, such as `relative_attention_bias`, has a weight.
fn is_bias(name: &str) -> bool {
    // None of the ends has a separator, so they need not be looked for in the last component.
    ["bias", "biases", "_bias_u", "_bias_v"].iter().any(|end| name.ends_with(end))
}

fn is_norm(name: &str) -> bool {
    // The word contains no separator, so searching the whole name is enough.
    static NORM: LazyLock<Finder> = LazyLock::new(|| Finder::new("norm"));
    NORM.find(name.as_bytes()).is_some()
        || components(name)
            .any(|part| part.starts_with(b"ln_") || part == b"ln" || part.starts_with(b"bn"))
}

fn components(name: &str) -> impl Iterator<Item = &[u8]> {
    name.as_bytes().split(|byte| matches!(byte, b'.' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_and_norms_are_recognised_by_name() {
        for name in [
            "model.embed_tokens.weight",
            "bert.embeddings.word_embeddings.weight",
            "transformer.wte.weight",
            "token_embd.weight",
            "embeddings.position_embeddings.weight",
            "prompt_encoder.point_embeddings.0.weight",
            "decoder.embed_tokens.3.weight",
            "pos_embed",
            "layers.0.blocks.1.attn.relative_position_bias_table",
        ] {
            assert!(is_embedding(name), "{name}");
        }
        for name in [
            "lm_head.weight",
            "embed_out.weight",
            "layers.0.mlp.up_proj.weight",
            "vision.embeddings.proj.weight",
            "time_embed.0.weight",
            "model.diffusion_model.time_embed.2.weight",
            "cls_token",
            "vit.embeddings.cls_token",
            "backbone.layers.0.mixer.a_log",
        ] {
            assert!(!is_embedding(name), "{name}");
        }
        for name in [
            "model.layers.0.mlp.experts.gate_up_proj_bias",
            "blk.0.ffn_up_exps.bias",
            "transformer.layer.0.rel_attn.r_w_bias",
            "encoder.layers.0.self_attn.pos_bias_u",
        ] {
            assert!(is_bias(name), "{name}");
        }
        assert!(!is_bias("encoder.block.0.layer.0.selfattention.relative_attention_bias.weight"));
        for name in
            ["encoder.layer.0.output.LayerNorm.weight", "model.norm.weight", "h.0.ln_1.weight"]
        {
            assert!(is_norm(&name.to_lowercase()), "{name}");
        }
    }
}
