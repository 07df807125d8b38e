"""Create the captures beside this file, and their output errors computed with NumPy.

    python tests/data/activations/make.py

`layers.safetensors`, `inputs.safetensors`
    Convolutions of one to three axes with strides, dilations, groups and asymmetric padding,
    and a linear layer, with inputs recorded by `assets/record_activations.py`.
`summary.safetensors`
    The same inputs as summaries.
`imatrix.gguf`, `imatrix.dat`
    An importance matrix of `tests/data/gguf/floats.gguf` in both formats of llama.cpp.
`expected.json`
    ||Wx - W'x'||^2 / ||Wx||^2 of these and of the demo, computed in float64 from the
    definitions alone; `diagonal` from the summaries.

Needs numpy, torch, safetensors and gguf.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "assets"))
from record_activations import METADATA_KEY, describe, record  # noqa: E402


# Quantization in float32, by definition ------------------------------------------


def rounded(x, scale, levels=127):
    q = np.clip(np.round(x / scale), -levels, levels)
    return (q * scale).astype(np.float32)


def scale_of(x, levels=127):
    absmax = np.float32(np.abs(x).max())
    return max(np.float32(absmax / np.float32(levels)), np.finfo(np.float32).tiny)


def weights(w, scheme, levels):
    if scheme == "per-tensor":
        return rounded(w, scale_of(w, levels), levels)
    if scheme == "per-channel":
        return np.stack([rounded(row, scale_of(row, levels), levels) for row in w])
    block = int(scheme.removeprefix("per-block:"))
    rows = w.reshape(w.shape[0], -1) if w.ndim > 2 and w.shape[-1] < block else w.reshape(-1, w.shape[-1])
    out = np.empty_like(rows)
    for row, made in zip(rows, out):
        for at in range(0, len(row), block):
            part = row[at : at + block]
            made[at : at + block] = rounded(part, scale_of(part, levels), levels)
    return out.reshape(w.shape)


# Layers, in float64 -----------------------------------------------------------


def linear(w, x):
    return x.reshape(-1, x.shape[-1]).astype(np.float64) @ w.astype(np.float64).T


def convolution(w, x, moves):
    """A convolution by definition, one kernel tap after the other."""
    axes = w.ndim - 2
    x = x.reshape((-1,) + x.shape[-axes - 1 :]).astype(np.float64)
    x = np.pad(x, [(0, 0), (0, 0)] + [tuple(p) for p in moves["padding"]])
    kernel = w.shape[2:]
    count = [
        (x.shape[2 + a] - moves["dilation"][a] * (kernel[a] - 1) - 1) // moves["stride"][a] + 1
        for a in range(axes)
    ]
    groups = moves["groups"]
    per_in, per_out = w.shape[1], w.shape[0] // groups
    out = np.zeros((x.shape[0], w.shape[0], *count))
    for tap in np.ndindex(*kernel):
        at = tuple(
            slice(tap[a] * moves["dilation"][a], None)
            for a in range(axes)
        )
        seen = x[(slice(None), slice(None), *at)]
        seen = seen[(slice(None), slice(None), *(slice(0, (count[a] - 1) * moves["stride"][a] + 1, moves["stride"][a]) for a in range(axes)))]
        for g in range(groups):
            part = seen[:, g * per_in : (g + 1) * per_in]
            taps = w[(slice(g * per_out, (g + 1) * per_out), slice(None), *tap)].astype(np.float64)
            out[:, g * per_out : (g + 1) * per_out] += np.einsum("nc...,oc->no...", part, taps)
    return out


def ratios(w, x, moves, scheme, levels):
    layer = (lambda w, x: linear(w, x)) if w.ndim == 2 else (lambda w, x: convolution(w, x, moves))
    made = weights(w, scheme, levels)
    whole = layer(w, x)
    signal = (whole**2).sum()
    units = x.reshape(-1, x.shape[-1]) if w.ndim == 2 else x.reshape((-1,) + x.shape[-w.ndim + 1 :])
    dynamic = np.stack([rounded(unit, scale_of(unit)) for unit in units])
    ways = {"weights": units, "dynamic": dynamic, "static": rounded(units, scale_of(units))}
    return {way: ((whole - layer(made, seen)) ** 2).sum() / signal for way, seen in ways.items()}


def diagonal(w, mean_square, scheme, levels):
    made = weights(w, scheme, levels)
    lost = (w.astype(np.float64) - made) ** 2
    squares = mean_square.astype(np.float64)
    if w.ndim == 2:
        shape = squares
    else:
        groups = len(squares) // w.shape[1]
        shape = np.repeat(squares.reshape(groups, -1), w.shape[0] // groups, axis=0)
        shape = shape.reshape(shape.shape + (1,) * (w.ndim - 2))
    return {"weights": (lost * shape).sum() / (w.astype(np.float64) ** 2 * shape).sum()}


# Files --------------------------------------------------------------------------


def tensors(path):
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k).float().numpy() for k in file.keys()}, file.metadata() or {}


CASES = [("per-tensor", 127), ("per-channel", 127), ("per-block:32", 127)]


def errors(model, inputs):
    stored, _ = tensors(model)
    seen, metadata = tensors(inputs)
    moves = json.loads(metadata.get(METADATA_KEY, "{}"))
    return {
        scheme: {
            f"{name.removesuffix('.input')}.weight": ratios(
                stored[f"{name.removesuffix('.input')}.weight"], x,
                moves.get(name.removesuffix(".input")), scheme, levels,
            )
            for name, x in seen.items()
        }
        for scheme, levels in CASES
    }


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2)
        self.plane = nn.Conv2d(3, 10, (2, 4), stride=(1, 3), padding=(1, 0))
        self.same = nn.Conv2d(2, 5, (4, 3), padding="same", dilation=(1, 2))
        self.space = nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 2), groups=2)
        self.wide = nn.Linear(90, 600)
        self.token = nn.Linear(33, 7)

    def forward(self, x):
        for name, layer in self.named_children():
            layer(x[name])
        return x


def main():
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = Layers()
    sample = lambda *shape: torch.randn(shape) * torch.linspace(0.1, 3, shape[-1]) + 0.2
    samples = [
        {"x": {
            "line": sample(3, 4, 17), "plane": sample(2, 3, 9, 11), "same": sample(2, 2, 7, 6),
            "space": sample(1, 2, 4, 6, 5), "wide": sample(3, 90), "token": sample(2, 5, 33),
        }}
        for _ in range(2)
    ]
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, HERE / "layers.safetensors", metadata={"format": "pt"})
    moves = describe(model)
    whole = record(model, samples)
    whole["token.input"] = whole["token.input"].bfloat16()
    save_file(whole, HERE / "inputs.safetensors", metadata=moves)
    summary = record(model, samples, summary=True)
    save_file(summary, HERE / "summary.safetensors", metadata=moves)

    stored = {k: v.numpy() for k, v in state.items()}
    expected = {
        "demo": errors(ROOT / "assets/demo.safetensors", ROOT / "assets/demo_activations.safetensors"),
        "layers": errors(HERE / "layers.safetensors", HERE / "inputs.safetensors"),
        "diagonal": {
            scheme: {
                f"{m}.weight": diagonal(stored[f"{m}.weight"], summary[f"{m}.input.mean_square"].numpy(), scheme, levels)
                for m in dict(model.named_children())
            }
            for scheme, levels in CASES
        },
    }

    source = GGUFReader(ROOT / "tests/data/gguf/floats.gguf")
    generator = np.random.default_rng(5)
    matrices = {
        t.name: t.data.reshape(tuple(reversed(t.shape.tolist())))
        for t in source.tensors
        if t.tensor_type.name == "F32" and len([d for d in t.shape if d > 1]) == 2
    }
    writer = GGUFWriter(HERE / "imatrix.gguf", "", use_temp_file=False)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["made up"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 512)
    legacy, expected["imatrix"] = b"", {"per-tensor": {}}
    entries = 0
    for name, values in matrices.items():
        mean = generator.exponential(2.0, values.shape[1]).astype(np.float32)
        counts = np.float32(1024)
        writer.add_tensor(f"{name}.in_sum2", (mean * counts)[None])
        writer.add_tensor(f"{name}.counts", counts.reshape(1, 1))
        legacy += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 2, len(mean))
        legacy += (mean * np.float32(2)).tobytes()
        expected["imatrix"]["per-tensor"][name] = diagonal(values, mean, "per-tensor", 127)
        entries += 1
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (HERE / "imatrix.dat").write_bytes(
        struct.pack("<i", entries) + legacy + struct.pack("<ii", 2, 7) + b"made up"
    )
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
