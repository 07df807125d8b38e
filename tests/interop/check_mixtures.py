"""Save MiniLM in presets, in mixtures of the same size, and with error compensation.

    check_mixtures.py QUANTSCOPE SOURCE DIRECTORY

Records what reaches SOURCE's linear layers for 64 sentences. Saves SOURCE in each preset, and as
the mixture that `--max-bytes` chooses for the size of each, by the errors of the weights and by
those of the layers' outputs. Embeds 32 other sentences with the floats that each output stands
for, and prints the mean cosine to those of SOURCE: for the size of each 4-bit preset, the better
mixture must not be worse than that preset.

Then rounds to W4A16 with `--error-compensation`: it must lower the output error on the inputs of
the other sentences in nine of ten layers. DIRECTORY is for what is made on the way.
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


def main():
    quantscope, source, directory = sys.argv[1:]
    saves, failed = Saves(quantscope, source, directory), False
    recorded = record(saves.float, samples(saves.tokenizer, RECORDED), rows=ROWS)
    captures = Path(directory) / "captures.safetensors"
    save_file(recorded, captures, metadata=describe(saves.float))
    inputs = record(saves.float, samples(saves.tokenizer, HELD_OUT), rows=ROWS)
    inputs = {name: x for name, x in inputs.items() if ".layer." in name}

    print("preset        MB     cosine    mixture by weights  by outputs  holds, by outputs")
    for preset in PRESETS:
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

    _, nearest = saves.save("nearest", "--scheme", "W4A16")
    options = ["--scheme", "W4A16", "--error-compensation", "--activations", captures]
    _, compensated = saves.save("compensated", *options)
    before, after = (output_errors(saves, floats, inputs) for floats in (nearest, compensated))
    lower = sum(after[layer] < before[layer] for layer in before)
    print(f"error compensation lowers the output error on other inputs in {lower} of {len(before)} layers;")
    cosines = [saves.cosine(floats) for floats in (nearest, compensated)]
    print(f"mean cosine {cosines[0]:.5f} rounded to nearest, {cosines[1]:.5f} compensated")
    if lower < 0.9 * len(before):
        print("FAILED error compensation")
        failed = True
    print("FAILED" if failed else "ok mixtures and error compensation")
    return failed


if __name__ == "__main__":
    sys.exit(main())
