//! Names under which models hold Linear layers.
//!
//! Collected from the module definitions of transformers 5.23, with those of diffusers and of
//! common model code outside it.

/// Whether a module's path ends in the name of a Linear layer. In a sequence such as
/// `mlp.0` or `net.2` the sequence's name counts.
pub(super) fn is_linear(module: &str) -> bool {
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let name = module.rsplit('.').find(|part| !is_number(part));
    name.is_some_and(|name| NAMES.binary_search(&name).is_ok())
}

/// Sorted.
#[rustfmt::skip]
const NAMES: [&str; 540] = [
    "W_pack", "Wi", "Wk", "Wo", "Wq", "Wqkv", "Wv", "a_proj", "acoustic_linear_1",
    "acoustic_linear_2", "action_in_proj", "action_out_proj", "action_time_mlp_in",
    "action_time_mlp_out", "adaln_linear", "adaln_proj", "add_k_proj", "add_q_proj", "add_v_proj",
    "additional_fc", "aggregation_classifier", "altup_projections", "altup_unembed_projections",
    "atom_linear", "atom_to_token_linear", "att", "att_proj", "attention_out",
    "attention_weights", "attn_gate", "attn_layer", "attn_out", "attn_proj",
    "audio_enc_to_dec_proj", "audio_latent_proj", "audio_lm_head", "audio_prompt_proj", "b_proj",
    "base_forecast_block", "base_pt_block", "bbox_projection", "bias_proj", "block_inject_weight",
    "box_fc", "box_linear_embeddings", "boxes_direct_project", "boxes_pos_enc_project",
    "bpe_head", "c_attn", "c_fc", "c_proj", "char_head", "class_embed", "class_labels_classifier",
    "class_predictor", "classifier", "cls", "cls_classifier", "codec_head", "concat_linear",
    "concat_modality_proj", "cond_proj", "continuous_position_bias_mlp", "conv_after_patches",
    "conv_kernel_layer", "conv_out", "conv_out_layer", "coords_linear", "correction_coefs",
    "cross_attn_key_content_proj", "cross_attn_key_pos_proj", "cross_attn_query_content_proj",
    "cross_attn_query_pos_proj", "cross_attn_query_pos_sine_proj", "cross_attn_value_proj",
    "cross_modal_image_transform", "cross_modal_text_transform", "ctc_head", "ctc_proj",
    "data_proj", "decoder", "decoder_class_head", "decoder_embed", "decoder_embeddings",
    "decoder_order_head", "decoder_pred", "decoder_projector", "dense", "dense0", "dense1",
    "dense2", "dense_0", "dense_1", "dense_4h_to_h", "dense_h_to_4h", "dense_prediction",
    "dist_head", "distillation_classifier", "distogram_head", "down_proj", "down_proj_for_speech",
    "down_proj_for_vision_speech", "downproject", "dt_proj", "duration_delta_proj", "e2e_query",
    "e2w_query", "eh_proj", "embed_action", "embed_out", "embed_proj", "embed_return",
    "embed_state", "embedding_hidden_mapping_in", "embedding_proj_layer", "embedding_projection",
    "embedding_transformation", "embeddings_project", "enc_out_class_embed", "enc_output",
    "enc_score_head", "enc_to_dec_proj", "encode_proj", "encoder_class_head", "encoder_projector",
    "encoder_to_decoder", "encoder_vision_features", "end_classifier", "entity_embedding_dense",
    "eos_head", "esm_s_mlp", "f_a_proj", "f_b_proj", "f_proj", "fc", "fc1", "fc11", "fc12",
    "fc13", "fc1_latent_proj", "fc2", "fc2_latent_proj", "fc3", "fc_encoder", "fc_in", "fc_out",
    "feat_out", "feature_extractor", "feature_projection", "feed_forward", "ff", "ff_out",
    "ff_proj", "ffn", "ffn_output", "ffw_layer_1", "ffw_layer_2", "fgate_preact", "film_add",
    "film_mul", "final", "final_layer", "final_proj", "final_projection", "forget_gate_proj",
    "fused_qkv_proj", "g_a_proj", "g_b_proj", "g_proj", "gate_proj", "gate_up_proj",
    "generator_lm_head", "gru_rel_pos_linear", "head", "head_linear", "head_logits_proj",
    "head_weights_proj", "hidden_layers", "hidden_to_hidden", "high_res_vision_proj",
    "ifgate_preact", "igate_preact", "image_projection", "image_to_mm_projection",
    "img_projection_down", "img_projection_up", "in_proj", "in_proj_a", "in_proj_b", "in_proj_ba",
    "in_proj_qkv", "in_proj_qkvz", "in_proj_z", "index_qk_proj", "initial_token_classifier",
    "inner2emb", "input_layer", "input_linear", "input_proj", "input_proj_linear",
    "input_projection", "input_projections", "input_to_hidden", "inputs_embeds_projector",
    "intermediate", "intermediate_dense", "inverse_trans_compression", "inverse_trans_expansion",
    "itm_head", "k", "k_content_proj", "k_head", "k_lin", "k_linear", "k_pos_proj", "k_proj",
    "key", "key_global", "key_msa", "key_proj", "key_protein", "key_structure",
    "kv_a_proj_with_mqa", "kv_b_proj", "kv_proj", "label_features_projection",
    "language_projection", "layer1", "layer2", "layer3", "layer_0", "layer_1", "layer_2",
    "layers", "layout_key", "layout_query", "layout_value", "lddt_head", "lin1", "lin2", "linear",
    "linear1", "linear2", "linear_1", "linear_2", "linear_3", "linear_a_g", "linear_a_p",
    "linear_b", "linear_b_g", "linear_b_p", "linear_end", "linear_fc1", "linear_fc2", "linear_g",
    "linear_hidden", "linear_in", "linear_initial", "linear_k", "linear_kv", "linear_kv_points",
    "linear_left", "linear_o", "linear_out", "linear_pos", "linear_proj", "linear_q",
    "linear_q_points", "linear_qkv", "linear_right", "linear_start", "linear_v", "linear_x",
    "linear_y", "linear_z", "lm_head", "lm_heads", "lm_loss", "logit_fc", "logits_dense",
    "logits_proj", "map_inputs_layer", "map_scale_compression", "map_scale_expansion",
    "matchability", "memory_proj", "merge_linear_1", "merge_linear_2", "merger", "merging_layer",
    "message_fc", "message_gate_proj", "mlp", "mlp_fc2", "mlp_gate", "modality_projection",
    "multi_modal_projector", "multimodal_projector", "neck", "net", "net_0", "noise_proj",
    "noisy_images_proj", "norm_linear", "num_speakers_proj", "o", "o_a_proj", "o_b_proj",
    "o_proj", "ogate_preact", "out", "out_lin", "out_linear", "out_mid", "out_proj",
    "out_text_proj", "out_vision_proj", "output", "output_dense", "output_fc1", "output_fc2",
    "output_gate", "output_layer", "output_linear", "output_proj", "output_projection",
    "pae_head", "pair_bias_proj", "pair_init_1", "pair_init_2", "pair_proj", "patch_dense",
    "patch_embed", "patch_embedding", "patch_embedding_projection", "patch_projection",
    "pde_head", "per_layer_input_gate", "per_layer_model_projection", "per_layer_projection",
    "pointwise_conv", "pointwise_conv1", "pointwise_conv2", "pointwise_lin1", "pointwise_lin2",
    "pooler", "pos_key_proj", "pos_proj", "pos_q_proj", "pos_query_proj", "pos_trans", "post",
    "post_expert_proj", "post_proj", "post_projection", "pre_classifier", "pre_expert_proj",
    "pre_projection", "predict_action", "predict_return", "predict_state", "prediction_coefs",
    "predictor_embeddings", "prob_out", "proj", "proj1", "proj2", "proj_bundle", "proj_down",
    "proj_emit", "proj_gate", "proj_in", "proj_mlp", "proj_out", "proj_up", "proj_up_gate",
    "proj_up_gate_z", "project_hid", "project_in", "project_inputs", "project_k", "project_out",
    "project_q", "project_v", "projection", "projection_in", "projection_key", "projection_layer",
    "projection_out", "projection_query", "projection_value", "projector", "prompt_trans",
    "protein_projector", "ptm_head", "pwconv1", "pwconv2", "q", "q_a_proj", "q_attn", "q_b_proj",
    "q_content_proj", "q_gate_proj", "q_head", "q_lin", "q_linear", "q_pos_proj",
    "q_pos_sine_proj", "q_proj", "qa_classifier", "qa_outputs", "qkv", "qkv_linear",
    "qkv_opreact", "qkv_proj", "query", "query_features_proj", "query_global", "query_key",
    "query_key_value", "query_proj", "query_updater", "r_proj", "rank_output", "readout",
    "receptance", "reduces", "reduction", "regression", "relative_k_proj", "residual_layer",
    "sampling_offsets", "score", "seasonality_projection", "self_attn_key_content_proj",
    "self_attn_key_pos_proj", "self_attn_proj", "self_attn_query_content_proj",
    "self_attn_query_pos_proj", "self_attn_value_proj", "semantic_linear_1", "semantic_linear_2",
    "seq_relationship", "shift_proj", "single_proj", "single_to_pair", "single_to_pair_prod_in1",
    "single_to_pair_prod_in2", "single_to_pair_prod_out", "single_to_pair_transpose",
    "single_to_token", "sink_proj", "spatial_proj", "speaker_embeds_layer", "speaker_proj",
    "start_classifier", "state_proj", "summary", "task_project", "temporal_dense",
    "temporal_positional_encoding_projection_layer", "text_lm_head", "text_proj",
    "text_projection", "text_to_mm_projection", "thinker_to_talker_proj", "time_emb_proj",
    "time_mlp", "to_add_out", "to_k", "to_key", "to_kv", "to_out", "to_q", "to_qkv", "to_query",
    "to_v", "token_bonds", "token_embedding_projection", "token_to_atom_linear", "transformation",
    "trunk2sm_s", "trunk2sm_z", "unembedding_projection", "up", "up_proj", "up_proj_for_speech",
    "up_proj_for_vision_speech", "v", "v_head", "v_lin", "v_proj", "v_proj_current",
    "v_proj_delayed", "value", "value_global", "value_msa", "value_proj", "value_projection",
    "value_protein", "value_structure", "values_text_proj", "values_vision_proj",
    "video_patch_projection", "vision_head", "vision_proj", "vision_projection", "visn_fc",
    "visual_proj", "visual_projection", "vocab_projector", "vocab_transform", "w1", "w12", "w2",
    "w2e_query", "w3", "w_0", "w_1", "w_out", "weight_proj", "weights_proj", "wi", "wi_0", "wi_1",
    "wk", "wkv", "wkv_a", "wkv_b", "wo", "wo_a", "wo_b", "wp_head", "wq", "wq_a", "wq_b", "wqkv",
    "wv", "x_proj", "xpath_unitseq2_inner",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_by_the_last_name_in_their_path() {
        assert!(NAMES.is_sorted());
        for module in ["model.layers.0.self_attn.q_proj", "visual.merger.mlp.0", "a.net.2", "fc1"] {
            assert!(is_linear(module), "{module}");
        }
        for module in ["transformer.w", "mask_decoder.mask_tokens", "tok_emb", "conv.0", ""] {
            assert!(!is_linear(module), "{module}");
        }
    }
}
