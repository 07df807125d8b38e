"""Save small models as W8A8 and W4A16, run them in vLLM on the CPU, and compare with their float versions.

    check_vllm.py QUANTSCOPE MINILM DIRECTORY [NAME ...]

Each model is trained briefly on a text, so that its next tokens are unambiguous, and then saved
with `quantscope quantize --for vllm`, as W8A8 and as W4A16. vLLM must run the layers quantized,
and must generate the same tokens as from the output of `quantscope dequantize`.
DIRECTORY is for temporary files.

MINILM is the sentence encoder all-MiniLM-L6-v2, saved as W8A8. Embeddings show every rounding, and
tokens do not. W8A8 rounds each layer's inputs too, which the dequantized model does not do: its
embeddings must be as far from those of the dequantized model as rounding alone moves them. That is
found with the dequantized model in float32 and its layers' inputs rounded to int8 by token.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

import torch
import transformers

TEXT = Path(__file__).resolve().parents[2] / "LICENSE-MIT"
STEPS, WINDOW, BATCH = 200, 48, 8
PROMPT_STARTS = (100, 300, 500, 700)
NEW_TOKENS = 12
# The least cosine of embeddings, and how far it may be from that of rounding alone.
NEAR, ALIKE = 0.99, 0.002

DECODER = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# The model class, its configuration and the differences from DECODER.
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "qwen3-tied": ("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {"head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {}),
    # Groups do not divide the columns of its down projections, which stay float in W4A16.
    "llama-208": ("LlamaForCausalLM", "LlamaConfig", {"intermediate_size": 208}),
}
# The names of the schemes in vLLM.
SCHEMES = {"W8A8": "W8A8Int8", "W4A16": "WNA16"}
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A cat sleeps on the warm window sill.",
    "Rust compiles to native machine code.",
]


# Creating the models -----------------------------------------------------------------------------


def windows(tokens, generator):
    starts = torch.randint(len(tokens) - WINDOW, (BATCH,), generator=generator)
    return torch.stack([tokens[start : start + WINDOW] for start in starts])


def make_model(name, path):
    """A model in bfloat16 that was overfitted on the text."""
    model_class, config_class, extra = MODELS[name]
    torch.set_num_threads(1)  # threads do not help with tiny matrices
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**DECODER, **extra})
    model = getattr(transformers, model_class)(config)
    tokens = torch.tensor(list(TEXT.read_bytes()))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        batch = windows(tokens, generator)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.to(torch.bfloat16).save_pretrained(path)
    return loss.item()


# Running them ------------------------------------------------------------------------------------


def quantized_layers(model):
    """The number of layers that vLLM runs quantized, by the name of the scheme."""
    schemes = [type(getattr(module, "scheme", None)).__name__ for module in model.modules()]
    names = [scheme.removeprefix("CompressedTensors") for scheme in schemes]
    return {name: names.count(name) for name in set(names) & set(SCHEMES.values())}


def run_in_vllm(path, result):
    """Run the model at `path` in vLLM, and write the results to the file `result`."""
    from vllm import LLM, SamplingParams

    # The int8 kernel for CPUs supports no other type of activations.
    settings = {"dtype": "bfloat16", "enforce_eager": True, "disable_log_stats": True}
    settings |= {"max_model_len": 128, "max_num_seqs": 4}
    config = json.loads((Path(path) / "config.json").read_text())
    if "CausalLM" not in config["architectures"][0]:
        llm = LLM(path, runner="pooling", **settings)
        found = {"embeddings": [list(output.outputs.embedding) for output in llm.embed(SENTENCES)]}
    else:
        llm = LLM(path, skip_tokenizer_init=True, **settings)
        text = list(TEXT.read_bytes())
        prompts = [{"prompt_token_ids": text[start : start + WINDOW]} for start in PROMPT_STARTS]
        sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, detokenize=False)
        found = {"tokens": [list(output.outputs[0].token_ids) for output in llm.generate(prompts, sampling)]}
    found["layers"] = llm.apply_model(quantized_layers)[0]
    Path(result).write_text(json.dumps(found))


def in_vllm(path):
    """Run the model at `path` in vLLM in a separate process, and return the results."""
    result = Path(path).with_suffix(".json")
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--run", str(path), str(result)]
    process = subprocess.run(command, capture_output=True, text=True)
    if not result.exists():
        lines = [line for line in process.stderr.splitlines() if "Error" in line] or process.stderr.splitlines()
        raise SystemExit(f"FAILED {path}: {lines[-1] if lines else process.returncode}")
    return json.loads(result.read_text())


# Comparing ---------------------------------------------------------------------------------------


def quantscope(program, *arguments):
    subprocess.run([program, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def round_inputs(_layer, inputs):
    """The inputs of a layer after int8 with a scale for each token."""
    scale = inputs[0].abs().amax(-1, keepdim=True).clamp(min=1e-10) / 127
    return ((inputs[0] / scale).round().clamp(-128, 127) * scale,)


def embeddings(path, rounds_inputs):
    """The embeddings of transformers in float32, with the inputs of the encoder's layers rounded or not."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32)
    for name, layer in model.named_modules():
        if rounds_inputs and isinstance(layer, torch.nn.Linear) and "encoder" in name:
            layer.register_forward_pre_hook(round_inputs)
    found = []
    for sentence in SENTENCES:
        with torch.no_grad():
            states = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state
        found.append(states.mean(1)[0])
    return torch.stack(found)


def least_cosine(left, right):
    return torch.nn.functional.cosine_similarity(left, right).min().item()


def compare(found, expected, floats):
    """Compare the results of two models in vLLM. Return whether they agree, and the results."""
    if "embeddings" in found:
        least = least_cosine(torch.tensor(found["embeddings"]), torch.tensor(expected["embeddings"]))
        rounding = least_cosine(embeddings(floats, True), embeddings(floats, False))
        good = least >= NEAR and abs(least - rounding) <= ALIKE
        return good, f"cosine of embeddings at least {least:.4f}, of rounding inputs alone {rounding:.4f}"
    left, right = sum(found["tokens"], []), sum(expected["tokens"], [])
    equal = sum(a == b for a, b in zip(left, right, strict=True))
    return left == right, f"{equal} of {len(right)} generated tokens equal"


def check(program, name, scheme, source, directory):
    quantized, floats = directory / f"quantized-{scheme}", directory / f"floats-{scheme}"
    target = ["--for", "vllm", "--scheme", scheme]
    quantscope(program, "quantize", source, "-o", quantized, "--force", *target)
    quantscope(program, "dequantize", quantized, "-o", floats, "--force")
    found, expected = in_vllm(quantized), in_vllm(floats)
    same, what = compare(found, expected, floats)
    layers = found["layers"].get(SCHEMES[scheme], 0)
    good = same and layers > 0 and not expected["layers"]
    print(f"{'ok' if good else 'FAILED'} {name} {scheme}: {what}, {layers} layers quantized", flush=True)
    return good


def main():
    program, minilm, directory, *names = sys.argv[1:]
    good = True
    for name in names or [*MODELS, "minilm"]:
        place = Path(directory) / name
        place.mkdir(parents=True, exist_ok=True)
        source = minilm
        if name in MODELS:
            source = place / "source"
            if not source.exists():
                print(f"{name}: loss {make_model(name, source):.4f}", flush=True)
        for scheme in SCHEMES if name in MODELS else ["W8A8"]:
            good &= check(program, name, scheme, source, place)
    return not good


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run_in_vllm(*sys.argv[2:])
    else:
        sys.exit(main())
