"""Save tiny models with the presets of compressed-tensors, and load them in transformers.

    check_presets.py QUANTSCOPE LLAMA DIRECTORY [NAME ...]

LLAMA is the folder with a tiny Llama in one file and in shards. Qwen3 with tied embeddings and a
Qwen3 mixture of experts, stored one by one, are made in DIRECTORY. Each is saved with every preset,
and the first three with mixtures too, of which those of two presets must hold both. It must load with no key missing, unexpected or mismatched.
The weights that compressed-tensors decompresses must be bit for bit those of `quantscope dequantize`,
and the logits of the model with these weights equal to those of the dequantized one.
"""

import json
import logging
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

PRESETS = ["W4A16", "W4A16_ASYM", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16", "MXFP8A16"]
# A budget, and what it chooses from.
MIXTURES = {
    "int4-int8": ("8bpw", "W4A16,W8A16"),
    "int4-fp8": ("8bpw", "W4A16,FP8_DYNAMIC"),
    "fp8-float": ("12bpw", "FP8_DYNAMIC"),
    "fp4-fp8": ("8bpw", "NVFP4A16,FP8_DYNAMIC"),
    "all": ("7.5bpw", "W4A16,NVFP4A16,MXFP4A16,FP8_BLOCK,MXFP8A16"),
}
# Experts that are stored one by one.
OF_EXPERTS = ["W4A16", "FP8_DYNAMIC"]
SIZES = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 32,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}


class Heard(logging.Handler):
    """Collects the warnings that transformers logs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def make(model_class, config_class, path, **more):
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**SIZES, **more)
    getattr(transformers, model_class)(config).to(torch.bfloat16).save_pretrained(path)
    return path


def load(path, **options):
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
    return model.eval(), {kind: keys for kind, keys in info.items() if keys}


def decompressed(model):
    """The weights of all modules, those that stay compressed as compressed-tensors decompresses them."""
    weights = dict(model.state_dict())
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        state = {key: value.data for key, value in module.named_parameters(recurse=False)}
        state |= dict(module.named_buffers(recurse=False))
        if scheme is not None and "weight_scale" in state:
            compressor = BaseCompressor.get_value_from_registry(scheme.format)
            weights[f"{name}.weight"] = compressor.decompress(state, scheme)["weight"]
    return weights


def logits(model):
    with torch.no_grad():
        return model(torch.arange(64).reshape(2, 32)).logits.float()


def quantscope(program, *arguments):
    command = [program, *map(str, arguments), "--quiet", "--force"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def check(program, name, source, options, directory, heard):
    quantized, floats = directory / name / "quantized", directory / name / "floats"
    (directory / name).mkdir(parents=True, exist_ok=True)
    quantscope(program, "quantize", source, "-o", quantized, "--for", "transformers", *options)
    quantscope(program, "dequantize", quantized, "-o", floats)
    heard.messages.clear()
    # Only compressed layers use the scales of inputs.
    static = {"quantization_config": CompressedTensorsConfig(dequantize=False)}
    model, problems = load(quantized, **(static if "static" in options else {}))
    warned = [m for m in heard.messages if "missing" in m.lower() or "unexpected" in m.lower()]
    expected, _ = load(floats)
    theirs, ours = decompressed(model), expected.state_dict()
    differ = [key for key in ours if key not in theirs or not torch.equal(ours[key], theirs[key])]
    # Layers that stay compressed quantize their inputs too, so the weights go into a plain model.
    plain, _ = load(floats)
    plain.load_state_dict({key: theirs[key] for key in ours if key in theirs}, strict=False)
    same = torch.equal(logits(plain), logits(expected))
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    is_mixed = "--max-bytes" not in options or "," not in options[-1] or len(config["config_groups"]) > 1
    good = not problems and not warned and not differ and same and is_mixed
    print(f"{'ok' if good else 'FAILED'} {name}: {len(ours)} tensors as dequantized", flush=True)
    for problem in [*problems.items(), *warned, *differ, *([] if is_mixed else ["not a mixture"])]:
        print(f"    {problem}")
    return good


def captures(source, path):
    """Write inputs of each projection, as record_activations.py records them."""
    tensors = {}
    for name, weight in load_file(f"{source}/model.safetensors").items():
        if "proj" in name:
            inputs = torch.randn(1, 8, weight.shape[1]) * 2
            tensors[name.removesuffix("weight") + "input"] = inputs
    save_file(tensors, path)
    return path


def main():
    program, llama, directory, *names = sys.argv[1:]
    directory = Path(directory)
    heard = Heard()
    transformers.logging.get_logger("transformers").addHandler(heard)
    qwen = make("Qwen3ForCausalLM", "Qwen3Config", directory / "qwen3", tie_word_embeddings=True)
    experts = make("Qwen3MoeForCausalLM", "Qwen3MoeConfig", directory / "qwen3-moe", **EXPERTS)
    cases = {}
    for model, source in {"llama": f"{llama}/single", "sharded": f"{llama}/sharded", "qwen3": qwen}.items():
        cases |= {f"{model}-{preset}": (source, ["--scheme", preset]) for preset in PRESETS}
        for mixture, (size, schemes) in MIXTURES.items():
            cases[f"{model}-{mixture}"] = (source, ["--max-bytes", size, "--schemes", schemes])
    (directory / "out").mkdir(parents=True, exist_ok=True)
    recorded = captures(f"{llama}/single", directory / "out" / "captures.safetensors")
    static = ["--scheme", "FP8", "--activation-scheme", "static", "--activations", recorded]
    cases["llama-FP8"] = (f"{llama}/single", static)
    by_inputs = ["--clip-search", "--error-compensation", "--activations", recorded]
    for preset in ["W4A16", "W4A16_ASYM"]:
        cases[f"llama-{preset}-clips"] = (f"{llama}/single", ["--scheme", preset, *by_inputs])
    cases |= {f"experts-{preset}": (experts, ["--scheme", preset]) for preset in OF_EXPERTS}
    chosen = {name: case for name, case in cases.items() if not names or name in names}
    good = [check(program, name, *case, directory / "out", heard) for name, case in chosen.items()]
    return not all(good)


if __name__ == "__main__":
    sys.exit(main())
