"""Compute the figures of `single/model.safetensors` with NumPy, for `reference.json`.

Ranges and scales in float32, error sums in float64; int8 symmetric, per tensor.
    python reference.py > reference.json
"""

import json
import pathlib
import struct

import numpy as np

data = (pathlib.Path(__file__).parent / "single/model.safetensors").read_bytes()
(length,) = struct.unpack("<Q", data[:8])
header = json.loads(data[8 : 8 + length])
header.pop("__metadata__", None)

tensors = {}
for name, tensor in header.items():
    start, end = (8 + length + offset for offset in tensor["data_offsets"])
    assert tensor["dtype"] == "BF16"
    bits = np.frombuffer(data[start:end], "<u2").astype("<u4") << 16
    x = bits.view("<f4")
    scale = np.float32(np.abs(x).max()) / np.float32(127)
    q = np.clip(np.rint(x / scale), -127, 127).astype(np.float32)
    hat = (scale * q).astype(np.float64)
    wide = x.astype(np.float64)
    signal, noise = np.sum(wide**2), np.sum((wide - hat) ** 2)
    tensors[name] = {
        "min": float(x.min()),
        "max": float(x.max()),
        "mean": float(wide.mean()),
        "std": float(wide.std()),
        "scale": float(scale),
        "mse": float(noise / x.size),
        "max_abs_error": float(np.abs(wide - hat).max()),
        "sqnr_db": float(10 * np.log10(signal / noise)) if noise else None,
        "cosine_similarity": float(np.sum(wide * hat) / np.sqrt(signal * np.sum(hat**2))),
        "zeroed": float(np.sum((x != 0) & (q == 0)) / np.sum(x != 0)),
        "levels_used": int(np.unique(q).size),
    }
print(json.dumps(tensors, indent=1))
