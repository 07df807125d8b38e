"""Tiny models with random weights of many architectures, from transformers' own configurations.

    zoo.py        builds every model, runs it once and prints its size

An architecture is a name, the class and configuration of a model, and one input for it. Widths are
multiples of 32 so that every scheme has a group size that divides them.
"""

import sys
from dataclasses import dataclass, field

import torch
import transformers

WIDTH, HEADS, LAYERS, VOCABULARY, EXPERTS = 64, 4, 2, 128, 4

TOKENS = torch.arange(3, 35).reshape(2, 16)
IMAGE_TOKEN = 100


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def pixels(size, batch=2):
    return {"pixel_values": noise(batch, 3, size, size)}


TEXT = {"input_ids": TOKENS}
TEXT_TO_TEXT = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :8]}
WAVE = {"input_values": noise(2, 800)}


def image_and_text(image_tokens, **extra):
    """One prompt of image placeholders and eight words."""
    placeholders = torch.full((1, image_tokens), IMAGE_TOKEN)
    return {"input_ids": torch.cat([placeholders, TOKENS[:1, :8]], 1), **extra}


@dataclass
class Architecture:
    """A model class, the arguments of its configuration, and an input."""

    name: str
    model: str
    config: str
    arguments: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=lambda: TEXT)

    def build(self):
        """The model with seeded random weights."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.arguments)
        return getattr(transformers, self.model)(config).eval()


# Arguments shared by many configurations ---------------------------------------------------------

ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 128,
}
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {**ENCODER, **SPECIAL_TOKENS, "num_key_value_heads": 2}
HEAD_DIM = {"head_dim": 16}
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": 32,
    "patch_size": 8,
}
SPEECH = {
    "vocab_size": 32,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "conv_dim": (32, 32),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH,
    "decoder_ffn_dim": 2 * WIDTH,
    "max_position_embeddings": 64,
    **SPECIAL_TOKENS,
    "decoder_start_token_id": 1,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 16,
    "d_ff": 2 * WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS_PER_TOKEN = {"num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": EXPERTS, **EXPERTS_PER_TOKEN}
QWEN_EXPERTS = {"num_experts": EXPERTS, **EXPERTS_PER_TOKEN, "moe_intermediate_size": WIDTH}
LATENT_ATTENTION = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
DEEPSEEK = {
    "moe_intermediate_size": WIDTH,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    **EXPERTS_PER_TOKEN,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
MULTIMODAL_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}


def without(arguments, *names):
    return {name: value for name, value in arguments.items() if name not in names}


def only(arguments, *names):
    return {name: arguments[name] for name in names}


# The zoo -----------------------------------------------------------------------------------------


def causal(name, stem, arguments=DECODER, config=None, model=None, inputs=TEXT, **extra):
    """A language model that predicts the next token."""
    return Architecture(
        name, model or f"{stem}ForCausalLM", config or f"{stem}Config", {**arguments, **extra}, inputs
    )


def masked(name, stem, arguments=ENCODER, head="ForMaskedLM", inputs=TEXT, **extra):
    """An encoder of text."""
    return Architecture(name, f"{stem}{head}", f"{stem}Config", {**arguments, **extra}, inputs)


def seq2seq(name, stem, arguments, head="ForConditionalGeneration", inputs=TEXT_TO_TEXT, **extra):
    """An encoder and a decoder."""
    return Architecture(name, f"{stem}{head}", f"{stem}Config", {**arguments, **extra}, inputs)


def vision(name, stem, arguments=VISION, head="ForImageClassification", size=32, inputs=None, **extra):
    """An encoder of images."""
    inputs = inputs or pixels(size)
    return Architecture(name, f"{stem}{head}", f"{stem}Config", {**arguments, **extra}, inputs)


DENSE = [
    causal("llama", "Llama"),
    causal("llama-tied", "Llama", tie_word_embeddings=True),
    causal("mistral", "Mistral"),
    causal("ministral", "Ministral", **HEAD_DIM),
    causal("qwen2", "Qwen2"),
    causal("qwen3", "Qwen3", **HEAD_DIM),
    causal("gemma", "Gemma", **HEAD_DIM),
    causal("gemma2", "Gemma2", **HEAD_DIM, query_pre_attn_scalar=16, sliding_window=16),
    causal("gemma3", "Gemma3", config="Gemma3TextConfig", **HEAD_DIM, query_pre_attn_scalar=16, sliding_window=16),
    causal("phi", "Phi"),
    causal("phi3", "Phi3"),
    causal("cohere", "Cohere"),
    causal("cohere2", "Cohere2"),
    causal("granite", "Granite"),
    causal("starcoder2", "Starcoder2"),
    causal("stablelm", "StableLm"),
    causal("olmo", "Olmo"),
    causal("olmo2", "Olmo2"),
    causal("olmo3", "Olmo3", sliding_window=16),
    causal("nemotron", "Nemotron"),
    causal("helium", "Helium", **HEAD_DIM),
    causal("glm", "Glm", **HEAD_DIM),
    causal("glm4", "Glm4", **HEAD_DIM),
    causal("smollm3", "SmolLM3"),
    causal("ernie4_5", "Ernie4_5", **HEAD_DIM),
    causal("exaone4", "Exaone4", sliding_window=16),
    causal("hunyuan-dense", "HunYuanDenseV1", **HEAD_DIM),
    causal("seed-oss", "SeedOss", **HEAD_DIM),
    causal("arcee", "Arcee"),
    causal("persimmon", "Persimmon", without(DECODER, "num_key_value_heads")),
    causal("falcon", "Falcon", without(DECODER, "num_key_value_heads", "intermediate_size")),
    causal("bloom", "Bloom", only(ENCODER, "vocab_size", "hidden_size"), n_layer=LAYERS, n_head=HEADS),
    causal("gpt-neox", "GPTNeoX", without(DECODER, "num_key_value_heads")),
    causal("gptj", "GPTJ", GPT2, rotary_dim=8),
    causal("gpt-neo", "GPTNeo", only(ENCODER, "vocab_size", "hidden_size", "max_position_embeddings"),
           num_layers=LAYERS, num_heads=HEADS, attention_types=[[["global", "local"], 1]], bos_token_id=1, eos_token_id=2),
    causal("gpt2", "GPT2", GPT2, model="GPT2LMHeadModel"),
    causal("gpt-bigcode", "GPTBigCode", GPT2),
    causal("codegen", "CodeGen", GPT2, rotary_dim=8),
    causal("opt", "OPT", without(ENCODER, "intermediate_size"), ffn_dim=2 * WIDTH, word_embed_proj_dim=32, **SPECIAL_TOKENS),
    causal("xglm", "XGLM", only(ENCODER, "vocab_size", "max_position_embeddings"),
           d_model=WIDTH, ffn_dim=2 * WIDTH, num_layers=LAYERS, attention_heads=HEADS, **SPECIAL_TOKENS),
    causal("mpt", "Mpt", {"vocab_size": VOCABULARY}, d_model=WIDTH, n_heads=HEADS, n_layers=LAYERS, max_seq_len=64),
    causal("ctrl", "CTRL", without(GPT2, "bos_token_id", "eos_token_id"), model="CTRLLMHeadModel", dff=2 * WIDTH),
    causal("biogpt", "BioGpt", {**ENCODER, **SPECIAL_TOKENS}),
]

MIXTURES_OF_EXPERTS = [
    causal("mixtral", "Mixtral", **LOCAL_EXPERTS),
    causal("qwen2-moe", "Qwen2Moe", **QWEN_EXPERTS, shared_expert_intermediate_size=WIDTH),
    causal("qwen3-moe", "Qwen3Moe", **HEAD_DIM, **QWEN_EXPERTS),
    causal("olmoe", "Olmoe", num_experts=EXPERTS, **EXPERTS_PER_TOKEN),
    causal("flex-olmo", "FlexOlmo", num_experts=EXPERTS, **EXPERTS_PER_TOKEN),
    causal("deepseek-v2", "DeepseekV2", {**DECODER, "num_key_value_heads": HEADS}, **DEEPSEEK, **LATENT_ATTENTION),
    causal("deepseek-v3", "DeepseekV3", {**DECODER, "num_key_value_heads": HEADS}, **DEEPSEEK, **LATENT_ATTENTION),
    causal("glm4-moe", "Glm4Moe", **HEAD_DIM, **DEEPSEEK),
    causal("dots1", "Dots1", **HEAD_DIM, **DEEPSEEK),
    causal("gpt-oss", "GptOss", **HEAD_DIM, **LOCAL_EXPERTS, sliding_window=16),
    causal("llama4", "Llama4", config="Llama4TextConfig", **HEAD_DIM, num_local_experts=EXPERTS,
           num_experts_per_tok=1, intermediate_size_mlp=2 * WIDTH, attention_chunk_size=32),
    causal("granitemoe", "GraniteMoe", **LOCAL_EXPERTS),
    causal("granitemoe-shared", "GraniteMoeShared", **LOCAL_EXPERTS, shared_intermediate_size=WIDTH),
    causal("granitemoe-hybrid", "GraniteMoeHybrid", **LOCAL_EXPERTS, shared_intermediate_size=WIDTH,
           layer_types=["mamba", "attention"], mamba_n_heads=4, mamba_d_head=32, mamba_d_state=16, mamba_chunk_size=8),
    causal("ernie4_5-moe", "Ernie4_5_Moe", moe_num_experts=EXPERTS, moe_k=2, moe_intermediate_size=WIDTH,
           moe_num_shared_experts=1, moe_layer_start_index=0, moe_layer_interval=1),
    causal("hunyuan-moe", "HunYuanMoEV1", **HEAD_DIM, num_experts=EXPERTS, moe_topk=2),
    causal("phimoe", "Phimoe", **LOCAL_EXPERTS),
    causal("minimax", "MiniMax", **HEAD_DIM, **LOCAL_EXPERTS, block_size=8),
    causal("lfm2-moe", "Lfm2Moe", **QWEN_EXPERTS, num_dense_layers=0, layer_types=["conv", "full_attention"]),
    causal("longcat-flash", "LongcatFlash", {**without(DECODER, "intermediate_size", "num_key_value_heads"), **LATENT_ATTENTION},
           num_layers=1, ffn_hidden_size=2 * WIDTH, head_dim=8, moe_topk=2, n_routed_experts=EXPERTS,
           zero_expert_num=1, expert_ffn_hidden_size=WIDTH),
    causal("jetmoe", "JetMoe", kv_channels=16, **LOCAL_EXPERTS),
    causal("jamba", "Jamba", without(DECODER, "max_position_embeddings"), num_experts=EXPERTS, **EXPERTS_PER_TOKEN,
           attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
           mamba_d_state=8, mamba_dt_rank=8, use_mamba_kernels=False),
    causal("qwen3-next", "Qwen3Next", **HEAD_DIM, **QWEN_EXPERTS, shared_expert_intermediate_size=WIDTH,
           linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
           layer_types=["linear_attention", "full_attention"]),
    seq2seq("switch-transformers", "SwitchTransformers", T5, num_experts=EXPERTS, expert_capacity=64,
            num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
    seq2seq("nllb-moe", "NllbMoe", BART, num_experts=EXPERTS, expert_capacity=64, encoder_sparse_step=2, decoder_sparse_step=2),
]

STATE_SPACE = [
    causal("mamba", "Mamba", only(ENCODER, "vocab_size", "hidden_size", "num_hidden_layers"), state_size=8, time_step_rank=4),
    causal("mamba2", "Mamba2", only(ENCODER, "vocab_size", "hidden_size", "num_hidden_layers"),
           state_size=8, num_heads=8, head_dim=16, n_groups=2, chunk_size=8),
    causal("falcon-mamba", "FalconMamba", only(ENCODER, "vocab_size", "hidden_size", "num_hidden_layers"),
           state_size=8, time_step_rank=4),
    causal("recurrent-gemma", "RecurrentGemma", DECODER, lru_width=WIDTH, attention_window_size=16,
           block_types=["recurrent", "attention"]),
    causal("lfm2", "Lfm2", layer_types=["conv", "full_attention"]),
]

TEXT_ENCODERS = [
    masked("bert", "Bert"),
    masked("bert-classifier", "Bert", head="ForSequenceClassification", num_labels=3),
    masked("roberta", "Roberta", pad_token_id=0),
    masked("roberta-classifier", "Roberta", head="ForSequenceClassification", num_labels=3, pad_token_id=0),
    masked("xlm-roberta", "XLMRoberta", pad_token_id=0),
    masked("electra", "Electra", embedding_size=32),
    masked("distilbert", "DistilBert", {"vocab_size": VOCABULARY}, head="ForSequenceClassification",
           dim=WIDTH, hidden_dim=2 * WIDTH, n_layers=LAYERS, n_heads=HEADS),
    masked("albert", "Albert", embedding_size=32),
    masked("mpnet", "MPNet"),
    masked("deberta", "Deberta"),
    masked("deberta-v2", "DebertaV2"),
    masked("modernbert", "ModernBert", {**ENCODER, "intermediate_size": 96, **SPECIAL_TOKENS}, cls_token_id=1, sep_token_id=2),
    masked("roformer", "RoFormer"),
    masked("convbert", "ConvBert", embedding_size=WIDTH, head_ratio=2, conv_kernel_size=3),
    masked("esm", "Esm", pad_token_id=0, mask_token_id=3),
]

ENCODER_DECODERS = [
    seq2seq("t5", "T5", T5),
    seq2seq("umt5", "UMT5", T5),
    seq2seq("bart", "Bart", BART),
    seq2seq("mbart", "MBart", BART),
    seq2seq("pegasus", "Pegasus", BART),
    seq2seq("marian", "Marian", BART, head="MTModel"),
    seq2seq("m2m100", "M2M100", BART),
    seq2seq("blenderbot", "Blenderbot", BART),
    seq2seq("whisper", "Whisper", without(BART, "max_position_embeddings"), num_mel_bins=16, max_source_positions=50,
            max_target_positions=32, begin_suppress_tokens=None,
            inputs={"input_features": noise(2, 16, 100), "decoder_input_ids": TOKENS[:, :8]}),
]

VISION_AND_AUDIO = [
    vision("vit", "ViT", num_labels=5),
    vision("deit", "DeiT", num_labels=5),
    vision("beit", "Beit", num_labels=5),
    vision("dinov2", "Dinov2", without(VISION, "intermediate_size"), head="Model"),
    vision("swin", "Swin", {}, size=64, image_size=64, embed_dim=32, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=5),
    vision("segformer", "Segformer", {}, size=64, depths=[1, 1], hidden_sizes=[32, 64], num_encoder_blocks=2,
           num_attention_heads=[1, 2], sr_ratios=[2, 1], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2], num_labels=5),
    vision("convnext", "ConvNext", {}, hidden_sizes=[32, 64], depths=[1, 1], num_stages=2, num_labels=5),
    vision("resnet", "ResNet", {}, size=64, embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", num_labels=5),
    vision("mobilenet-v2", "MobileNetV2", {}, size=64, image_size=64, depth_multiplier=0.35, num_labels=5),
    vision("sam", "Sam", {}, head="Model", inputs={**pixels(64), "input_points": torch.tensor([[[[10.0, 20.0]]], [[[30.0, 40.0]]]])},
           vision_config={"hidden_size": WIDTH, "output_channels": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                          "image_size": 64, "patch_size": 16, "mlp_dim": 2 * WIDTH, "window_size": 2, "global_attn_indexes": [1],
                          "num_pos_feats": 16},
           prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
           mask_decoder_config={"hidden_size": 32, "mlp_dim": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                                "iou_head_hidden_dim": 32}),
    vision("clip", "CLIP", {}, head="Model", inputs={**TEXT, **pixels(32)}, projection_dim=32, vision_config=VISION,
           text_config={**ENCODER, **SPECIAL_TOKENS}),
    vision("siglip", "Siglip", {}, head="Model", inputs={**TEXT, **pixels(32)}, vision_config=VISION,
           text_config={**ENCODER, **SPECIAL_TOKENS, "projection_size": WIDTH}),
    vision("wav2vec2", "Wav2Vec2", SPEECH, head="ForCTC", inputs=WAVE),
    vision("hubert", "Hubert", SPEECH, head="ForCTC", inputs=WAVE),
    vision("wavlm", "WavLM", SPEECH, head="ForCTC", inputs=WAVE),
    vision("ast", "AST", without(VISION, "image_size"), head="ForAudioClassification", inputs={"input_values": noise(2, 32, 16)},
           max_length=32, num_mel_bins=16, frequency_stride=4, time_stride=4),
    Architecture("bark", "BarkSemanticModel", "BarkSemanticConfig",
                 {"block_size": 64, "input_vocab_size": VOCABULARY, "output_vocab_size": VOCABULARY, "num_layers": LAYERS,
                  "num_heads": HEADS, "hidden_size": WIDTH}),
]

QWEN_VISION_INPUT = {
    "input_ids": torch.cat([torch.tensor([[101]]), torch.full((1, 4), IMAGE_TOKEN), TOKENS[:1, :8]], 1),
    "pixel_values": noise(16, 3 * 2 * 8 * 8),
    "image_grid_thw": torch.tensor([[1, 4, 4]]),
    "mm_token_type_ids": torch.cat([torch.zeros(1, 1), torch.ones(1, 4), torch.zeros(1, 8)], 1).int(),
}
QWEN_IMAGE_TOKENS = {"image_token_id": IMAGE_TOKEN, "video_token_id": 103, "vision_start_token_id": 101, "vision_end_token_id": 102}
QWEN_TEXT = {**DECODER, "rope_scaling": {"type": "mrope", **MULTIMODAL_ROPE}}


def multimodal(name, stem, inputs, head="ForConditionalGeneration", **arguments):
    """A language model that also reads images."""
    return Architecture(name, f"{stem}{head}", f"{stem}Config", arguments, inputs)


MULTIMODAL = [
    multimodal("llava", "Llava", image_and_text(16, **pixels(32, 1)),
               text_config={"model_type": "llama", **DECODER}, vision_config={"model_type": "clip_vision_model", **VISION},
               image_token_id=IMAGE_TOKEN, vision_feature_select_strategy="default", vision_feature_layer=-1),
    multimodal("gemma3-vision", "Gemma3",
               image_and_text(4, **pixels(32, 1), token_type_ids=torch.cat([torch.ones(1, 4), torch.zeros(1, 8)], 1).long()),
               text_config={**DECODER, **HEAD_DIM, "sliding_window": 32}, vision_config={"model_type": "siglip_vision_model", **VISION},
               mm_tokens_per_image=4, image_token_id=IMAGE_TOKEN, boi_token_id=101, eoi_token_id=102),
    multimodal("paligemma", "PaliGemma", image_and_text(16, **pixels(32, 1), token_type_ids=torch.zeros(1, 24).long()),
               text_config={"model_type": "gemma", **DECODER, **HEAD_DIM},
               vision_config={"model_type": "siglip_vision_model", **VISION, "projection_dim": WIDTH},
               image_token_id=IMAGE_TOKEN, projection_dim=WIDTH),
    multimodal("qwen2-vl", "Qwen2VL", QWEN_VISION_INPUT, **QWEN_IMAGE_TOKENS, text_config=QWEN_TEXT,
               vision_config={"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": HEADS, "patch_size": 8, "mlp_ratio": 2}),
    multimodal("qwen2_5-vl", "Qwen2_5_VL", QWEN_VISION_INPUT, **QWEN_IMAGE_TOKENS, text_config=QWEN_TEXT,
               vision_config={"depth": 2, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "num_heads": HEADS, "patch_size": 8,
                              "intermediate_size": 108, "fullatt_block_indexes": [1], "window_size": 32}),
    multimodal("mistral3", "Mistral3", image_and_text(4, **pixels(32, 1), image_sizes=torch.tensor([[32, 32]])),
               text_config={"model_type": "mistral", **DECODER, **HEAD_DIM},
               vision_config={"model_type": "pixtral", **VISION}, image_token_index=IMAGE_TOKEN, spatial_merge_size=2,
               vision_feature_layer=-1),
    multimodal("blip2", "Blip2", image_and_text(4, **pixels(32, 1)), vision_config=VISION,
               qformer_config={**ENCODER, "encoder_hidden_size": WIDTH}, num_query_tokens=4, image_token_index=IMAGE_TOKEN,
               text_config={"model_type": "opt", **without(ENCODER, "intermediate_size"), "ffn_dim": 2 * WIDTH,
                            "word_embed_proj_dim": WIDTH, **SPECIAL_TOKENS}),
    Architecture("vit-gpt2", "VisionEncoderDecoderModel", "VisionEncoderDecoderConfig",
                 {"encoder": {"model_type": "vit", **VISION}, "decoder": {"model_type": "gpt2", **GPT2, "add_cross_attention": True}},
                 {**pixels(32), "decoder_input_ids": TOKENS[:, :8]}),
]

ZOO = [
    *DENSE,
    *MIXTURES_OF_EXPERTS,
    *STATE_SPACE,
    *TEXT_ENCODERS,
    *ENCODER_DECODERS,
    *VISION_AND_AUDIO,
    *MULTIMODAL,
]


def outputs(model, inputs):
    """All floating-point outputs of a model, flat."""
    found = []

    def collect(value):
        if torch.is_tensor(value) and value.is_floating_point():
            found.append(value.float().flatten())
        elif isinstance(value, dict):
            for part in value.values():
                collect(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                collect(part)

    with torch.no_grad():
        torch.manual_seed(0)
        result = model(**inputs)
    wanted = [key for key in result if "logit" in key or key.endswith("_embeds") or key == "pred_masks"]
    for key in wanted or ["last_hidden_state"]:
        collect(result[key])
    return torch.cat(found)


def main():
    failed = 0
    for architecture in ZOO:
        try:
            model = architecture.build()
            size = sum(parameter.numel() for parameter in model.parameters())
            finite = bool(outputs(model, architecture.inputs).isfinite().all())
            print(f"{architecture.name}: {size} parameters{'' if finite else ', NOT FINITE'}", flush=True)
        except Exception as error:
            failed += 1
            print(f"{architecture.name}: FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
    print(f"{len(ZOO)} architectures, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
