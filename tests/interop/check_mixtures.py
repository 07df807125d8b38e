"""Save MiniLM in presets, in mixtures of the same size, and with error compensation.

    check_mixtures.py QUANTSCOPE SOURCE DIRECTORY [only]

Records what reaches SOURCE's linear layers for 64 sentences. Saves SOURCE in each preset, and as
the mixture that `--max-bytes` chooses for the size of each, by the errors of the weights and by
those of the layers' outputs. Embeds 32 other sentences with the floats that each output stands
for, and prints the mean cosine to those of SOURCE: for the size of each 4-bit preset, the better
mixture must not be worse than that preset.

Then rounds to W4A16, W4A16_ASYM and W8A16 with `--clip-search`, with `--error-compensation` and
with both: at W4A16 each must lower the output error on the inputs of the other sentences in nine
of ten layers. DIRECTORY is for what is made on the way; `only` after it leaves the mixtures out.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "assets"))
from check_static import HELD_OUT, RECORDED  # noqa: E402
from record_activations import describe, record  # noqa: E402

ROWS = 2048
PRESETS = ["W4A16", "W4A16_ASYM", "MXFP4A16", "NVFP4A16", "FP8_BLOCK", "FP8_DYNAMIC", "W8A8", "MXFP8A16"]
FOUR_BITS = PRESETS[:4]
ROUNDED_FOR_INPUTS = ["W4A16", "W4A16_ASYM", "W8A16/127.5"]


def embeddings(model, tokenizer, sentences):
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)


def samples(tokenizer, sentences):
    return [dict(tokenizer(sentence, return_tensors="pt")) for sentence in sentences]


class Saves:
    def __init__(self, quantscope, source, directory):
        self.quantscope, self.source, self.directory = quantscope, source, Path(directory)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.float = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
        self.expected = embeddings(self.float, self.tokenizer, HELD_OUT)

    def save(self, name, *options):
        """The receipt of a save, and the floats that it stands for."""
        out, floats = self.directory / name, self.directory / f"{name}-floats"
        quantize = [self.quantscope, "quantize", self.source, "-o", out, "--force", "--json", "--quiet", *options]
        receipt = json.loads(subprocess.run(quantize, check=True, capture_output=True, text=True).stdout)
        dequantize = [self.quantscope, "dequantize", out, "-o", floats, "--force", "--quiet"]
        subprocess.run(dequantize, check=True, capture_output=True)
        return receipt, floats

    def cosine(self, floats):
        model = AutoModel.from_pretrained(floats, dtype=torch.float32).eval()
        found = embeddings(model, self.tokenizer, HELD_OUT)
        return torch.nn.functional.cosine_similarity(self.expected, found).mean().item()


def tensor_bytes(directory):
    tensors = load_file(Path(directory) / "model.safetensors")
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def held(receipt):
    types = {}
    for one in receipt["quantized"]:
        types[one["scheme"]] = types.get(one["scheme"], 0) + 1
    return ", ".join(f"{scheme} {count}" for scheme, count in sorted(types.items()))


def output_errors(saves, floats, inputs):
    """The output error of each layer on recorded inputs, as a share of the output."""
    original, written = (load_file(Path(d) / "model.safetensors") for d in (saves.source, floats))
    errors = {}
    for name, x in inputs.items():
        layer = name.removesuffix(".input") + ".weight"
        w, q = (t[layer].double() for t in (original, written))
        x = x.double().reshape(-1, x.shape[-1])
        errors[layer] = ((x @ (w - q).T).square().sum() / (x @ w.T).square().sum()).item()
    return errors


def rounded_for_inputs(saves, scheme, captures, inputs):
    """Prints what error compensation and a search for clips change, each alone and together."""
    ways = {
        "nearest": [],
        "clips": ["--clip-search"],
        "compensated": ["--error-compensation"],
        "both": ["--clip-search", "--error-compensation"],
    }
    before, failed = None, False
    for way, options in ways.items():
        options = [*options, "--activations", captures] if options else []
        _, floats = saves.save(way, "--scheme", scheme, *options)
        errors, cosine = output_errors(saves, floats, inputs), saves.cosine(floats)
        before = before or errors
        lower = sum(errors[layer] < before[layer] for layer in before)
        mean = 10 * torch.tensor(list(errors.values())).log10().mean().item()
        print(f"{scheme:<12} {way:<12} {lower:2} of {len(before)} layers lower, mean output error {mean:.2f} dB, cosine {cosine:.5f}")
        if scheme == "W4A16" and options and lower < 0.9 * len(before):
            print(f"FAILED {way}: the output error on other inputs is lower in too few layers")
            failed = True
    return failed


def main():
    quantscope, source, directory, *only = sys.argv[1:]
    saves, failed = Saves(quantscope, source, directory), False
    recorded = record(saves.float, samples(saves.tokenizer, RECORDED), rows=ROWS)
    captures = Path(directory) / "captures.safetensors"
    save_file(recorded, captures, metadata=describe(saves.float))
    inputs = record(saves.float, samples(saves.tokenizer, HELD_OUT), rows=ROWS)
    inputs = {name: x for name, x in inputs.items() if ".layer." in name}

    print("preset        MB     cosine    mixture by weights  by outputs  holds, by outputs")
    for preset in [] if only else PRESETS:
        _, floats = saves.save(preset, "--scheme", f"{preset}/127.5" if preset == "W8A8" else preset)
        size, cosine = tensor_bytes(saves.directory / preset), saves.cosine(floats)
        budget = ["--schemes", ",".join(PRESETS), "--max-bytes", str(size)]
        _, by_weights = saves.save("mixed", *budget)
        by_weights = saves.cosine(by_weights)
        receipt, by_outputs = saves.save("mixed", *budget, "--activations", captures)
        by_outputs = saves.cosine(by_outputs)
        print(f"{preset:<12} {size / 1e6:5.1f}  {cosine:.5f}   {by_weights:.5f}             {by_outputs:.5f}     {held(receipt)}")
        if preset in FOUR_BITS and max(by_weights, by_outputs) < cosine - 1e-5:
            print(f"FAILED {preset}: the mixtures of its size are worse")
            failed = True

    for scheme in ROUNDED_FOR_INPUTS:
        failed |= rounded_for_inputs(saves, scheme, captures, inputs)
    print("FAILED" if failed else "ok mixtures, clips and error compensation")
    return failed


if __name__ == "__main__":
    sys.exit(main())
