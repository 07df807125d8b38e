//! What transformers does to the weights of particular architectures while loading, by
//! `model_type`.
//!
//! Collected with transformers 5.24 by `tests/interop/linear_names.py`, which builds every
//! architecture on the meta device and follows each weight and its scale through the renaming
//! and conversion rules. `tests/interop/sweep.py` checks it with real files.

use ModuleKind::{Converted, Other, Renamed};

/// The kind of a module that has the name of a Linear layer but cannot be quantized as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ModuleKind {
    /// Its weight is split, joined or transposed while loading, but not its scale.
    Converted,
    /// Its weight is renamed while loading, but not its scale.
    Renamed,
    /// An instance of this class.
    Other(&'static str),
}

/// Returns whether compressed-tensors files of the architecture never load. One of its rules
/// splits a weight, which cannot be combined with scales, or joins weights and drops those that
/// are float, such as the convolutions of linear attention.
pub(super) fn is_refused(model_type: &str) -> bool {
    REFUSED.binary_search(&model_type).is_ok()
}

/// Returns whether transformers merges separately stored experts into one tensor per layer.
pub(super) fn merges_experts(model_type: &str) -> bool {
    MERGES_EXPERTS.binary_search(&model_type).is_ok()
}

/// Returns the actual kind of a module that only has the name of a Linear layer; `None` if it is
/// a Linear layer. If two names of the table match, the longer one decides.
pub(super) fn exception(model_type: &str, module: &str) -> Option<ModuleKind> {
    let at = EXCEPTIONS.binary_search_by_key(&model_type, |(name, _)| name).ok()?;
    let (_, modules) = EXCEPTIONS.get(at)?;
    let matching = modules.iter().filter(|(name, _)| ends_with(module, name));
    matching.max_by_key(|(name, _)| name.len()).map(|&(_, kind)| kind)
}

/// Returns whether a module's path ends in these components; `*` matches any number.
fn ends_with(module: &str, end: &str) -> bool {
    let mut parts = module.rsplit('.');
    end.rsplit('.').all(|wanted| {
        parts.next().is_some_and(|part| match wanted {
            "*" => !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()),
            wanted => part == wanted,
        })
    })
}

/// Sorted.
#[rustfmt::skip]
const REFUSED: [&str; 29] = [
    "bailing_hybrid", "depth_anything", "depth_pro", "dinov2", "dinov2_with_registers",
    "ernie4_5_vl_moe", "glm5_next", "glm5_next_text", "gradium_phonon_tts", "hrm_text",
    "inkling2", "inkling2_loop", "inkling2_loop_text", "inkling2_text", "inkling_mm_model",
    "kimi_linear", "minimax_m3_vl", "molmo2", "molmo2_text", "nemo_speechlm", "olmo_hybrid",
    "prompt_depth_anything", "qianfan_ocr", "sapiens2", "step3p7", "tipsv2", "tipsv2_dpt",
    "tipsv2_vision_model", "unlimited_ocr",
];

/// Sorted.
#[rustfmt::skip]
const MERGES_EXPERTS: [&str; 57] = [
    "afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2",
    "deepseek_v3", "deepseek_v32", "deepseek_v4", "dots1", "dots3_note", "dots3_note_text",
    "ernie4_5_moe", "ernie4_5_vl_moe", "exaone_moe", "flex_olmo", "flint", "glm4_moe",
    "glm4_moe_lite", "glm4v_moe", "glm5_next", "glm5_next_text", "glm_moe_dsa",
    "hunyuan_v1_moe", "hy_v3", "inkling2_loop", "inkling2_loop_text", "jamba", "kimi_k25",
    "kimi_linear", "kolibri1", "laguna", "lfm2_moe", "longcat_flash", "mellum", "mimo_v2_flash",
    "minimax", "minimax_m2", "minimax_m3_vl", "mistral_large4", "mistral_large4_text",
    "mixtral", "nemo_speechlm", "nemotron_h", "nemotron_h_omni", "olmoe", "phimoe", "qwen2_moe",
    "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_thinker",
    "qwen4_exp_text", "solar_open", "unlimited_ocr",
];

/// The exceptions of one architecture, by the end of the module's path.
type Exceptions = (&'static str, &'static [(&'static str, ModuleKind)]);

/// Sorted by `model_type`.
#[rustfmt::skip]
const EXCEPTIONS: [Exceptions; 61] = [
    ("aria", &[
        ("multi_modal_projector.cross_attn.multihead_attn.out_proj", Other("NonDynamicallyQuantizableLinear")),
        ("multi_modal_projector.query", Other("AriaProjector")),
    ]),
    ("bridgetower", &[
        ("attn.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("cohere2_vision", &[
        ("vision_tower.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("colmodernvbert", &[
        ("vision_model.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("deepseek_v4", &[
        ("attn.wo_a", Other("DeepseekV4GroupedLinear")),
        ("head", Renamed),
    ]),
    ("deepseek_vl", &[
        ("vision_model.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("deepseek_vl_hybrid", &[
        ("vision_model.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("dory", &[
        ("lm_head", Other("DoryLMHead")),
    ]),
    ("eomt", &[
        ("query", Other("Embedding")),
    ]),
    ("eomt_dinov3", &[
        ("query", Other("Embedding")),
    ]),
    ("gemma3", &[
        ("vision_tower.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("gradium_phonon_tts", &[
        ("self_attn.in_proj", Converted),
    ]),
    ("granite_speech", &[
        ("projector.query", Other("GraniteSpeechEncoderProjector")),
    ]),
    ("granite_speech_plus", &[
        ("projector.query", Other("GraniteSpeechPlusEncoderProjector")),
    ]),
    ("granitemoe", &[
        ("block_sparse_moe.router.layer", Renamed),
    ]),
    ("granitemoehybrid", &[
        ("block_sparse_moe.router.layer", Renamed),
    ]),
    ("granitemoeshared", &[
        ("block_sparse_moe.input_linear", Other("GraniteMoeSharedExperts")),
        ("block_sparse_moe.output_linear", Other("GraniteMoeSharedExperts")),
        ("block_sparse_moe.router.layer", Renamed),
    ]),
    ("gte", &[
        ("attention.qkv_proj", Converted),
    ]),
    ("hrm_text", &[
        ("mlp.gate_up_proj", Converted),
    ]),
    ("ibert", &[
        ("attention.output.dense", Other("QuantLinear")),
        ("attention.self.key", Other("QuantLinear")),
        ("attention.self.query", Other("QuantLinear")),
        ("attention.self.value", Other("QuantLinear")),
        ("intermediate.dense", Other("QuantLinear")),
        ("output.dense", Other("QuantLinear")),
    ]),
    ("idefics", &[
        ("lm_head", Other("IdeficsDecoupledLinear")),
    ]),
    ("inkling2", &[
        ("attn.k_sconv.weight_proj", Renamed),
        ("attn.rel_logits_proj.proj", Other("Inkling2RelativePositionBias")),
        ("attn.v_sconv.weight_proj", Renamed),
    ]),
    ("inkling2_loop", &[
        ("attn.k_sconv.weight_proj", Renamed),
        ("attn.rel_logits_proj.proj", Other("Inkling2LoopRelativePositionBias")),
        ("attn.v_sconv.weight_proj", Renamed),
        ("controllers.attn.down_weight", Renamed),
        ("controllers.attn.forget_weight", Renamed),
        ("controllers.attn.gain_weight", Renamed),
        ("controllers.k.down_weight", Renamed),
        ("controllers.k.forget_weight", Renamed),
        ("controllers.k.gain_weight", Renamed),
        ("controllers.mlp.down_weight", Renamed),
        ("controllers.mlp.forget_weight", Renamed),
        ("controllers.mlp.gain_weight", Renamed),
        ("controllers.v.down_weight", Renamed),
        ("controllers.v.forget_weight", Renamed),
        ("controllers.v.gain_weight", Renamed),
    ]),
    ("inkling2_loop_text", &[
        ("attn.k_sconv.weight_proj", Renamed),
        ("attn.rel_logits_proj.proj", Other("Inkling2LoopRelativePositionBias")),
        ("attn.v_sconv.weight_proj", Renamed),
        ("controllers.attn.down_weight", Renamed),
        ("controllers.attn.forget_weight", Renamed),
        ("controllers.attn.gain_weight", Renamed),
        ("controllers.k.down_weight", Renamed),
        ("controllers.k.forget_weight", Renamed),
        ("controllers.k.gain_weight", Renamed),
        ("controllers.mlp.down_weight", Renamed),
        ("controllers.mlp.forget_weight", Renamed),
        ("controllers.mlp.gain_weight", Renamed),
        ("controllers.v.down_weight", Renamed),
        ("controllers.v.forget_weight", Renamed),
        ("controllers.v.gain_weight", Renamed),
    ]),
    ("inkling2_text", &[
        ("attn.k_sconv.weight_proj", Renamed),
        ("attn.rel_logits_proj.proj", Other("Inkling2RelativePositionBias")),
        ("attn.v_sconv.weight_proj", Renamed),
    ]),
    ("inkling_mm_model", &[
        ("attn.rel_logits_proj.proj", Other("InklingRelativeLogits")),
    ]),
    ("inkling_text", &[
        ("mlp.shared_experts.down_proj", Other("InklingSharedExperts")),
        ("mlp.shared_experts.gate_proj", Other("InklingSharedExperts")),
        ("mlp.shared_experts.up_proj", Other("InklingSharedExperts")),
        ("self_attn.rel_logits_proj.proj", Other("InklingRelativeLogits")),
    ]),
    ("jina_embeddings_v3", &[
        ("mixer.Wqkv", Converted),
    ]),
    ("kimi_k25", &[
        ("wqkv", Converted),
    ]),
    ("lara_mini", &[
        ("linear_attn.in_proj", Converted),
    ]),
    ("lasr_ctc", &[
        ("ctc_head", Other("LasrEncoderCTCHead")),
    ]),
    ("lfm2_vl", &[
        ("vision_tower.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("mask2former", &[
        ("cross_attn.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("maskformer", &[
        ("blocks.*.attention.output.dense", Renamed),
        ("blocks.*.attention.self.key", Renamed),
        ("blocks.*.attention.self.query", Renamed),
        ("blocks.*.attention.self.value", Renamed),
        ("blocks.*.intermediate.dense", Renamed),
        ("blocks.*.output.dense", Renamed),
    ]),
    ("minimax_m3_vl", &[
        ("block_sparse_moe.shared_experts.gate_proj", Converted),
        ("block_sparse_moe.shared_experts.up_proj", Converted),
    ]),
    ("mistral_large4", &[
        ("attention.wk", Converted),
        ("attention.wq", Converted),
    ]),
    ("modernvbert", &[
        ("vision_model.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("molmo2", &[
        ("mlp.ff_proj", Converted),
        ("self_attn.att_proj", Converted),
    ]),
    ("molmo2_text", &[
        ("mlp.ff_proj", Converted),
        ("self_attn.att_proj", Converted),
    ]),
    ("nemotron_h_omni", &[
        ("attn.qkv", Converted),
    ]),
    ("nomic_bert", &[
        ("attn.Wqkv", Converted),
    ]),
    ("oneformer", &[
        ("cross_attn.multihead_attn.out_proj", Other("NonDynamicallyQuantizableLinear")),
        ("multihead_attn.out_proj", Other("NonDynamicallyQuantizableLinear")),
        ("self_attn.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("parakeet_ctc", &[
        ("ctc_head", Other("ParakeetEncoderCTCHead")),
    ]),
    ("phi4_multimodal", &[
        ("embed_tokens_extend.image_embed.img_processor.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("pi0", &[
        ("paligemma_with_expert.gemma_expert.lm_head", Other("GemmaTextScaledWordEmbedding")),
    ]),
    ("qianfan_ocr", &[
        ("attn.qkv", Converted),
    ]),
    ("qwen4_exp_text", &[
        ("attn_hyper_connection.block_inject_weight", Renamed),
        ("mlp_hyper_connection.block_inject_weight", Renamed),
    ]),
    ("radio", &[
        ("attn.qkv", Converted),
    ]),
    ("sapiens2", &[
        ("ffn.w12", Converted),
    ]),
    ("shieldgemma2", &[
        ("model.vision_tower.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("siglip", &[
        ("vision_model.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("siglip2", &[
        ("vision_model.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("siglip2_vision_model", &[
        ("head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("siglip_vision_model", &[
        ("head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("t5gemma2", &[
        ("encoder.vision_tower.head.attention.out_proj", Other("NonDynamicallyQuantizableLinear")),
    ]),
    ("tipsv2", &[
        ("attn.qkv", Converted),
    ]),
    ("tipsv2_dpt", &[
        ("attn.qkv", Converted),
    ]),
    ("tipsv2_vision_model", &[
        ("attn.qkv", Converted),
    ]),
    ("unlimited_ocr", &[
        ("self_attn.qkv_proj", Converted),
    ]),
    ("videomt", &[
        ("query", Other("Embedding")),
    ]),
    ("xlnet", &[
        ("rel_attn.k", Other("XLNetRelativeAttention")),
        ("rel_attn.o", Other("XLNetRelativeAttention")),
        ("rel_attn.q", Other("XLNetRelativeAttention")),
        ("rel_attn.v", Other("XLNetRelativeAttention")),
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_for_the_binary_search() {
        assert!(REFUSED.is_sorted() && MERGES_EXPERTS.is_sorted());
        assert!(EXCEPTIONS.is_sorted_by_key(|(name, _)| name));
        assert!(is_refused("dinov2") && !is_refused("dinov3_vit"));
        assert!(merges_experts("mixtral") && !merges_experts("switch_transformers"));
    }

    #[test]
    fn exceptions_are_found_by_the_end_of_the_path() {
        let found = |model_type, module| exception(model_type, module);
        let wqkv = "encoder.layers.3.attn.Wqkv";
        assert_eq!(found("nomic_bert", wqkv), Some(Converted));
        assert_eq!(found("modernbert", wqkv), None);
        let swin = "encoder.layers.0.blocks.1.attention.self.query";
        assert_eq!(found("maskformer", swin), Some(Renamed));
        assert_eq!(found("maskformer", "blocks.x.attention.self.query"), None);
        let layer = "encoder.layer.0.attention.self.query";
        assert_eq!(found("ibert", layer), Some(Other("QuantLinear")));
    }
}
