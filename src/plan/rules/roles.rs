//! The role of a tensor, derived from its name.

use crate::checkpoint::output_axes::CONV1D_LAYERS;

/// Path components of layers that choose experts.
const ROUTERS: [&str; 6] = ["gate", "gates", "router", "routers", "shared_expert_gate", "wg"];

/// Names of modules that compute a network's output.
const HEADS: [&str; 23] = [
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
    "output_layer",
    "head",
    "output",
];

/// Names that are heads only at the top of the path, because inner layers have them too.
const HEADS_AT_TOP: [&str; 4] = ["proj_out", "head", "output", "decoder"];

/// Names of lookup tables that do not contain `embed`.
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

/// Path components of image encoders, and of the layers that connect them to the language model.
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

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

/// Returns the last component of a module's path that is not a number.
fn last(module: &str) -> &str {
    module.rsplit('.').find(|part| !is_number(part)).unwrap_or_default()
}

/// Returns whether a layer chooses experts: its path contains a router or gate.
pub(super) fn is_router(module: &str) -> bool {
    module.split('.').any(|part| {
        ROUTERS.contains(&part)
            || part.ends_with("_router")
            || part.starts_with("router_")
            || part.ends_with("expert_gate")
            || part.ends_with("experts_gate")
    })
}

/// Returns whether a module computes the network's output, as a language model's head or a
/// classifier does.
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
        // `cls.predictions.decoder` is the head of BERT and similar models.
        return depth == 1
            || name == "decoder" && module.contains("predictions")
            || module.ends_with("lm_head.decoder");
    }
    // The last layer of a head with several.
    let of_head = |parent: &str| parent == "classifier" || parent == "classification_head";
    if name == "out_proj" && module.rsplit('.').nth(1).is_some_and(of_head) {
        return true;
    }
    HEADS.contains(&name) || module.split('.').any(|part| part == "lm_head" || part == "pred_layer")
}

/// Returns whether a module is a language model's head, with one row per vocabulary entry.
pub(super) fn is_language_head(module: &str) -> bool {
    const CLASSIFIERS: [&str; 7] = [
        "classifier",
        "out_proj",
        "score",
        "qa_outputs",
        "seq_relationship",
        "distillation_classifier",
        "cls_classifier",
    ];
    is_head(module) && !CLASSIFIERS.contains(&last(module))
}

/// Returns whether a module has one of the names in `TABLES`, or an ending of such names.
pub(super) fn is_table(module: &str) -> bool {
    let name = last(module);
    TABLES.contains(&name) || name.ends_with("_emb") || name.ends_with("_embeds_layer")
}

/// Returns whether a module belongs to multi-token prediction.
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

/// Returns whether a module belongs to an image encoder.
pub(super) fn is_vision(module: &str) -> bool {
    module.split('.').any(|part| VISION.contains(&part))
}

/// Returns whether a module has the name of a `Conv1D` layer.
pub(super) fn is_conv1d_name(module: &str) -> bool {
    CONV1D_LAYERS.contains(&last(module))
}

/// Returns the path up to `experts` for a layer of one expert; `None` for other layers.
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

/// Returns whether a tensor holds all experts of a layer.
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
    fn heads_are_found_only_outside_of_layers() {
        for module in [
            "lm_head",
            "embed_out",
            "cls.predictions.decoder",
            "language_model.lm_head",
            "proj_out",
            "classifier",
            "classifier.1",
            "classifier.out_proj",
            "model.classification_head.out_proj",
            "transformer.output_layer",
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
            "classifier.dense",
            "model.decoder.layers.0.self_attn.out_proj",
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
    fn layers_after_num_hidden_layers_are_multi_token_prediction() {
        assert!(is_multi_token_prediction("mtp.fc", None));
        assert!(is_multi_token_prediction("model.layers.61.eh_proj", Some(61)));
        assert!(!is_multi_token_prediction("model.layers.60.mlp.up_proj", Some(61)));
    }
}
