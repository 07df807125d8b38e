"""Load layers whose columns the groups do not divide, in transformers and compressed-tensors.

    check_columns.py QUANTSCOPE DIRECTORY

A tiny Llama has down projections of 208 columns, which groups of 128, 64 and 32 do not divide.
`quantscope quantize` leaves such layers in float: the output must load with no missing or
unexpected key and with the weights of `dequantize`. The script also tries what could be written
instead, and prints what the loader makes of it:

* a group that is not whole, which compressed-tensors would have to pad;
* a second config group with one scale for each channel, for these layers only, with and without
  `dequantize: true` in config.json.

The check fails if one of these loads where quantscope's manual says that it does not. DIRECTORY
is for temporary files.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
COLUMNS = 208
SCHEMES = ("W8A16", "W4A16", "W4A16_ASYM")
LAYER = "down_proj"


def make(path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=COLUMNS,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)


def quantscope(program, *arguments):
    command = [program, *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def load(path):
    """The weights of the Linear layers as the loader computes with them."""
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    wrong = [key for keys in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[keys]]
    if wrong:
        raise ValueError(f"wrong keys, the first {wrong[0]}")
    # A model that is kept quantized becomes floats in its first forward pass.
    model(torch.arange(8)[None])
    return {name: module.weight.detach() for name, module in model.named_modules() if hasattr(module, "weight")}


def equal(found, floats):
    expected = load(floats)
    return all(torch.equal(found[name].float(), weight.float()) for name, weight in expected.items())


def check_own(program, source, directory, scheme):
    out, floats = directory / scheme, directory / f"{scheme}-floats"
    quantscope(program, "quantize", source, "-o", out, "--force", "--for", "transformers", "--scheme", scheme)
    quantscope(program, "dequantize", out, "-o", floats, "--force")
    names = load_file(out / "model.safetensors").keys()
    is_float = all(name.endswith(f"{LAYER}.weight") for name in names if LAYER in name)
    packed = sum(name.endswith("_packed") for name in names)
    good = is_float and packed > 0 and equal(load(out), floats)
    print(f"{'ok' if good else 'FAILED'} {scheme}: {packed} layers quantized, {LAYER} in float, weights as dequantized")
    return good


def with_channels(quantized, source, out, dequantize):
    """A copy of an output with its float layers in a second group with one scale for each channel."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(quantized, out)
    tensors, floats = load_file(out / "model.safetensors"), load_file(source / "model.safetensors")
    arguments = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    expected = {}
    for name in [name for name in tensors if name.endswith(f"{LAYER}.weight")]:
        weight = floats[name]
        scale = (weight.float().abs().amax(1, keepdim=True) / 127).to(weight.dtype)
        values = quantize(weight, scale, None, arguments, dtype=torch.int8)
        del tensors[name]
        tensors[f"{name}_packed"] = pack_to_int32(values, 8)
        tensors[f"{name}_scale"] = scale
        tensors[f"{name}_shape"] = torch.tensor(weight.shape)
        expected[name.removesuffix(".weight")] = values.to(weight.dtype) * scale
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    quantization = config["quantization_config"]
    first = quantization["config_groups"]["group_0"]
    second = json.loads(json.dumps(first))
    second["targets"] = [f"re:.*\\.{LAYER}$"]
    second["weights"] |= {"strategy": "channel", "group_size": None}
    quantization["config_groups"]["group_1"] = second
    quantization.pop("dequantize", None)
    if dequantize:
        quantization["dequantize"] = True
    (out / "config.json").write_text(json.dumps(config))
    return expected


def attempt(path, expected):
    """What the loader makes of an output: `loads`, or why not."""
    try:
        found = load(path)
    except Exception as error:  # noqa: BLE001: any error is the answer
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    same = all(torch.equal(found[name].float(), weight.float()) for name, weight in expected.items())
    return "loads" if same else "loads other values"


def partial_group():
    """What compressed-tensors makes of a group that is not whole."""
    arguments = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="group", group_size=128)
    try:
        quantize(torch.ones(4, COLUMNS), torch.ones(4, 2), None, arguments, dtype=torch.int8)
    except ValueError as error:
        return str(error)
    return "accepted"


def main():
    program, directory = sys.argv[1], Path(sys.argv[2])
    source = directory / "source"
    make(source)
    good = all([check_own(program, source, directory, scheme) for scheme in SCHEMES])
    print(f"   a group that is not whole: {partial_group()}")
    for dequantize in (False, True):
        out = directory / "channels"
        expected = with_channels(directory / "W8A16", source, out, dequantize)
        result = attempt(out, expected)
        key = "dequantize: true" if dequantize else "no dequantize"
        print(f"   a second group per channel, {key} in config.json: {result}")
        good &= (result == "loads") != dequantize
    good &= partial_group() != "accepted"
    return not good


if __name__ == "__main__":
    sys.exit(main())
