//! The role of a tensor, told by its name.

/// Parts of a path that stand for the choice of experts.
const ROUTERS: [&str; 6] = ["gate", "gates", "router", "routers", "shared_expert_gate", "wg"];

/// Modules at the end of a network that give its answer.
const HEADS: [&str; 22] = [
    "lm_head",
    "embed_out",
    "lm_loss",
    "generator_lm_head",
    "text_lm_head",
    "audio_lm_head",
    "vocab_projector",
    "seq_relationship",
    "classifier",
    "score",
    "qa_outputs",
    "proj_out",
    "output_projection",
    "pred_layer",
    "logits_proj",
    "class_labels_classifier",
    "distillation_classifier",
    "cls_classifier",
    "lm_heads",
    "codec_head",
    "head",
    "output",
];

/// Heads whose name is also that of an inner layer: only at the top of the path.
const HEADS_AT_TOP: [&str; 4] = ["proj_out", "head", "output", "decoder"];

/// Lookup tables whose names do not say so.
const TABLES: [&str; 17] = [
    "emb",
    "tok_emb",
    "pos_emb",
    "mask_tokens",
    "iou_token",
    "obj_score_token",
    "hf_token",
    "hq_token",
    "presence_token",
    "input_embeds_layer",
    "position_embeds_layer",
    "queries_embedder",
    "query_tokens",
    "row_embedder",
    "column_embedder",
    "tokens_embed",
    "positions_embed",
];

/// Parts of a path that belong to an image encoder or to what joins it to the language model.
const VISION: [&str; 10] = [
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "visual",
    "vision_embed_tokens",
    "vpm",
    "vision_backbone",
    "multi_modal_projector",
    "mm_projector",
    "vision_projection",
];

/// Layers that are `Conv1D`, with weights `[in, out]`, in the architectures below.
const CONV1D: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

/// Architectures whose attention and MLP are `Conv1D`.
pub(super) const CONV1D_ARCHITECTURES: [&str; 7] = [
    "gpt2",
    "openai-gpt",
    "imagegpt",
    "decision_transformer",
    "clvp",
    "clvp_decoder",
    "clvp_encoder",
];

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// The last part of a module's path that is not a number.
fn last(module: &str) -> &str {
    module.rsplit('.').find(|part| !is_number(part)).unwrap_or_default()
}

/// Whether a layer chooses experts: a router or gate anywhere in its path.
pub(super) fn is_router(module: &str) -> bool {
    module.split('.').any(|part| {
        ROUTERS.contains(&part)
            || part.ends_with("_router")
            || part.starts_with("router_")
            || part.ends_with("expert_gate")
            || part.ends_with("experts_gate")
    })
}

/// Whether a module gives the network's answer: a language model's head or a classifier.
pub(super) fn is_head(module: &str) -> bool {
    let inside_layer = module.split('.').any(is_number) && {
        // `classifier.1` and `lm_heads.0` are heads; `layers.1.classifier` is not.
        let mut parts = module.split('.');
        let number = parts.position(is_number).unwrap_or_default();
        let before = module.split('.').nth(number.wrapping_sub(1)).unwrap_or_default();
        !HEADS.contains(&before)
    };
    if inside_layer {
        return false;
    }
    let name = last(module);
    let depth = module.split('.').filter(|part| !is_number(part)).count();
    if HEADS_AT_TOP.contains(&name) {
        // `cls.predictions.decoder` is the head of BERT and its kin.
        return depth == 1
            || name == "decoder" && module.contains("predictions")
            || module.ends_with("lm_head.decoder");
    }
    HEADS.contains(&name) || module.split('.').any(|part| part == "lm_head" || part == "pred_layer")
}

/// Whether a module gives a language model's answer: one row for each entry of the
/// vocabulary.
pub(super) fn is_language_head(module: &str) -> bool {
    const CLASSIFIERS: [&str; 6] = [
        "classifier",
        "score",
        "qa_outputs",
        "seq_relationship",
        "distillation_classifier",
        "cls_classifier",
    ];
    is_head(module) && !CLASSIFIERS.contains(&last(module))
}

/// Whether a module is a lookup table under one of the names that do not say so.
pub(super) fn is_table(module: &str) -> bool {
    let name = last(module);
    TABLES.contains(&name) || name.ends_with("_emb") || name.ends_with("_embeds_layer")
}

/// Whether a module predicts further tokens.
pub(super) fn is_multi_token_prediction(module: &str, layers_before: Option<u64>) -> bool {
    let mut parts = module.split('.').peekable();
    while let Some(part) = parts.next() {
        if part == "mtp" || part.starts_with("mtp_") || part.contains("nextn") {
            return true;
        }
        let next = parts.peek().and_then(|next| next.parse::<u64>().ok());
        if part == "layers" && layers_before.zip(next).is_some_and(|(n, layer)| layer >= n) {
            return true;
        }
    }
    false
}

/// Whether a module belongs to an image encoder.
pub(super) fn is_vision(module: &str) -> bool {
    module.split('.').any(|part| VISION.contains(&part))
}

/// Whether a module's name is that of a `Conv1D` in an architecture that has them.
pub(super) fn is_conv1d_name(module: &str) -> bool {
    CONV1D.contains(&last(module))
}

/// The path of the list that an expert's layer belongs to, up to `experts`; `None` for what
/// is no expert of its own.
pub(crate) fn experts_of(name: &str) -> Option<&str> {
    let mut start = 0;
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        let end = start + part.len();
        let numbered =
            parts.peek().is_some_and(|next| is_number(next) || next.starts_with("expert_"));
        if part.ends_with("experts") && numbered {
            return name.get(..end);
        }
        start = end + 1;
    }
    None
}

/// Whether a tensor holds all experts of a layer at once.
pub(super) fn is_fused_experts(name: &str, rank: usize) -> bool {
    rank == 3 && name.split('.').any(|part| part.contains("expert") || part == "block_sparse_moe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_are_found_anywhere_in_the_path() {
        for module in [
            "model.layers.0.block_sparse_moe.router.layer",
            "model.layers.0.mlp.gate.wg",
            "decoder.block.1.layer.2.mlp.router.classifier",
            "model.layers.0.mlp.shared_expert_gate",
            "model.layers.0.mlp.gate",
        ] {
            assert!(is_router(module), "{module}");
        }
        for module in ["model.layers.0.mlp.gate_proj", "layers.0.self_attn.output_gate"] {
            assert!(!is_router(module), "{module}");
        }
    }

    #[test]
    fn heads_stand_outside_the_layers() {
        for module in [
            "lm_head",
            "embed_out",
            "cls.predictions.decoder",
            "language_model.lm_head",
            "proj_out",
            "classifier",
            "classifier.1",
            "lm_heads.3",
            "lm_head.dense",
            "output",
        ] {
            assert!(is_head(module), "{module}");
        }
        for module in [
            "model.layers.0.classifier",
            "transformer.h.0.proj_out",
            "bert.encoder.layer.0.output.dense",
            "model.decoder",
            "model.layers.0.attention.output",
        ] {
            assert!(!is_head(module), "{module}");
        }
    }

    #[test]
    fn experts_of_a_layer_share_a_path() {
        let name = "model.layers.3.mlp.experts.12.up_proj.weight";
        assert_eq!(experts_of(name), Some("model.layers.3.mlp.experts"));
        assert_eq!(
            experts_of("block.1.mlp.experts.expert_0.wi.weight"),
            Some("block.1.mlp.experts")
        );
        assert_eq!(experts_of("model.layers.3.mlp.shared_experts.up_proj.weight"), None);
    }

    #[test]
    fn layers_past_the_last_predict_further_tokens() {
        assert!(is_multi_token_prediction("mtp.fc", None));
        assert!(is_multi_token_prediction("model.layers.61.eh_proj", Some(61)));
        assert!(!is_multi_token_prediction("model.layers.60.mlp.up_proj", Some(61)));
    }
}
