"""Load `--for comfyui` outputs as ComfyUI does, with its own package comfy-kitchen.

    check_comfyui.py QUANTSCOPE DIRECTORY

ComfyUI is not a package, so this script repeats `_load_quantized_module` (comfy/ops.py, 0.38):
the marker `comfy_quant` selects the layout class, and `weight` and its scales become a
QuantizedTensor with it. Its values must equal those of `quantscope dequantize` bit for bit, and
the outputs of a Linear layer must equal those of the floats up to the rounding of its inputs.
NVFP4 must be what comfy-kitchen itself makes of the source. The same for mixtures of these. DIRECTORY is for temporary files.
"""

import json
import subprocess
import sys
from pathlib import Path

import comfy_kitchen  # noqa: F401
import torch
from comfy_kitchen.tensor import QuantizedTensor, get_layout_class
from safetensors.torch import load_file, save_file

# As registered by ComfyUI's comfy/quant_ops.py.
LAYOUTS = {
    "int8_tensorwise": ("TensorWiseINT8Layout", torch.int8),
    "float8_e4m3fn": ("TensorCoreFP8Layout", torch.float8_e4m3fn),
    "nvfp4": ("TensorCoreNVFP4Layout", torch.uint8),
}
PREFIX = "model.diffusion_model.double_blocks.0."
LAYERS = ("img_attn.qkv", "img_mlp.0", "img_mlp.2")
# Budgets; without schemes they choose from all.
MIXTURES = {
    "fp8-nvfp4": ["--max-bytes", "15kB", "--schemes", "FP8,NVFP4_COMFYUI"],
    "all": ["--max-bytes", "15kB"],
    "fp8-float": ["--max-bytes", "24kB", "--schemes", "FP8"],
}
FLOAT = {PREFIX + "conv.weight", PREFIX + "norm.weight", "first_stage_model.fc.weight"}


def make(path):
    """A small diffusion model in one file."""
    torch.manual_seed(0)
    save_file(
        {
            PREFIX + "img_attn.qkv.weight": torch.randn(96, 64).bfloat16(),
            PREFIX + "img_mlp.0.weight": torch.randn(48, 80).half() / 50,
            PREFIX + "img_mlp.0.bias": torch.randn(48).half(),
            PREFIX + "img_mlp.2.weight": torch.randn(80, 48) * 3,
            PREFIX + "conv.weight": torch.randn(8, 4, 3, 3),
            PREFIX + "norm.weight": torch.randn(64),
            "first_stage_model.fc.weight": torch.randn(16, 16),
        },
        path,
    )


def loaded(tensors, layer, compute_dtype):
    """The weight of a layer as ComfyUI's Linear holds it, and its format."""
    marker = json.loads(tensors.pop(f"{layer}.comfy_quant").numpy().tobytes())
    layout, storage = LAYOUTS[marker["format"]]
    weight, scale = tensors.pop(f"{layer}.weight"), tensors.pop(f"{layer}.weight_scale")
    assert weight.dtype == storage
    shape, scales = tuple(weight.shape), {"scale": scale}
    if marker["format"] == "nvfp4":
        shape = (shape[0], shape[1] * 2)
        assert scale.dtype == torch.float8_e4m3fn
        scales = {"scale": tensors.pop(f"{layer}.weight_scale_2"), "block_scale": scale}
    else:
        assert scale.dtype == torch.float32
        assert scale.shape in [(), (weight.shape[0], 1)], scale.shape
    params = get_layout_class(layout).Params(**scales, orig_dtype=compute_dtype, orig_shape=shape)
    return QuantizedTensor(weight, layout, params), marker["format"]


def is_own(weight, original):
    """Whether comfy-kitchen makes the same of the original weight."""
    layout = get_layout_class("TensorCoreNVFP4Layout")
    q, params = layout.quantize(original)
    found = layout.get_plain_tensors(weight)
    expected = (q, params.scale, params.block_scale)
    bits = lambda x: x.contiguous().view(torch.uint8) if x.dim() else x
    return all(torch.equal(bits(a), bits(b)) for a, b in zip(found, expected))


def main():
    quantscope, directory = sys.argv[1], Path(sys.argv[2])
    source = directory / "model.safetensors"
    make(source)
    failed = 0
    uniform = ("per-channel", "per-tensor", "FP8", "NVFP4_COMFYUI")
    cases = {scheme: ["--scheme", scheme] for scheme in uniform} | MIXTURES
    for scheme, options in cases.items():
        out, floats = directory / f"{scheme}.safetensors", directory / f"{scheme}-floats.safetensors"
        run = lambda *command: subprocess.run([quantscope, *map(str, command), "--quiet"], check=True, stdout=subprocess.DEVNULL)
        run("quantize", source, "--output", out, "--for", "comfyui", *options)
        run("dequantize", out, "--output", floats, "--dtype", "f32")
        tensors, expected, original = load_file(out), load_file(floats), load_file(source)
        layers = [name.removesuffix(".comfy_quant") for name in tensors if name.endswith(".comfy_quant")]
        assert len(layers) == 3 or scheme in MIXTURES, layers
        formats = sorted({json.loads(tensors[f"{layer}.comfy_quant"].numpy().tobytes())["format"] for layer in layers})
        if scheme in MIXTURES:
            print(f"{scheme}: {', '.join(formats)}, {3 - len(layers)} layers of floats")
        if scheme in MIXTURES and len(formats) + (len(layers) < 3) < 2:
            print(f"{scheme}: not a mixture, {formats}")
            failed += 1
        for layer in layers:
            weight, kind = loaded(tensors, layer, torch.float32)
            if kind == "nvfp4" and not is_own(weight, original[f"{layer}.weight"]):
                print(f"{scheme} {layer}: not what comfy-kitchen makes")
                failed += 1
            equal = torch.equal(weight.dequantize(), expected[f"{layer}.weight"])
            x = torch.randn(4, weight.shape[1])
            y = torch.nn.functional.linear(x, weight)
            exact = x @ expected[f"{layer}.weight"].T
            error = ((y - exact).norm() / exact.norm()).item()
            print(f"{scheme} {layer}: values {'equal' if equal else 'DIFFER'}, output {error:.4f}")
            failed += not equal or error > 0.02
        rest = {name: tensor for name, tensor in tensors.items()}
        floating = {f"{PREFIX}{layer}.weight" for layer in LAYERS if f"{PREFIX}{layer}" not in layers}
        copies = FLOAT | {PREFIX + "img_mlp.0.bias"} | floating
        same = set(rest) == copies and all(torch.equal(rest[name], original[name]) for name in rest)
        print(f"{scheme}: {len(rest)} other tensors {'as they were' if same else 'DIFFER'}")
        failed += not same
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
