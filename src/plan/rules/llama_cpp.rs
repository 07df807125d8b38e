//! The tensors that llama.cpp's quantizer leaves unchanged, as in `tensor_allows_quantization` of
//! its `llama-quant.cpp` (with ggml 0.26). Its kernels read some of them only as floats.

/// Parts of the names of tensors that are left unchanged.
const KEPT: [&str; 37] = [
    "_norm.weight",
    // Routers of experts.
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // Gemma 3n.
    "altup",
    "laurel",
    "per_layer_model_proj",
    // Short convolutions.
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // RWKV's small matrices.
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // Positions and token types.
    "attn_rel_b.weight",
    ".position_embd",
    "position_embd.weight",
    "token_types.weight",
    // Image and audio encoders.
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// The ending of the name of every quantizable tensor.
const ENDING: &str = "weight";

/// Returns the part of a tensor's name that makes llama.cpp leave it unchanged; `None` if llama.cpp
/// quantizes the tensor. The part is empty for a name that does not end in `weight`.
pub(crate) fn kept_part(name: &str) -> Option<&'static str> {
    if !name.ends_with(ENDING) {
        return Some("");
    }
    KEPT.into_iter().find(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_table_are_left_unchanged() {
        for (name, kept) in [
            ("blk.0.attn_q.weight", None),
            ("blk.0.ffn_gate.weight", None),
            ("blk.0.time_mix_key.weight", None),
            ("blk.0.ssm_in.weight", None),
            ("token_embd.weight", None),
            ("blk.0.ssm_a", Some("")),
            ("blk.0.attn_q.bias", Some("")),
            ("blk.0.time_mix_w1.weight", Some("time_mix_w1.weight")),
            ("enc.blk.0.attn_rel_b.weight", Some("attn_rel_b.weight")),
            ("v.patch_embd.weight", Some(".patch_embd")),
            ("position_embd.weight", Some("position_embd.weight")),
            ("altup_proj.weight", Some("altup")),
        ] {
            assert_eq!(kept_part(name), kept, "{name}");
        }
    }
}
