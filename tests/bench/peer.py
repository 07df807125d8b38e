"""The same jobs in NumPy, for comparison: `peer.py range|report|quantize MODEL.safetensors [OUT]`.

range: the minimum and maximum of every tensor. report: the figures of `analyze` per tensor:
moments and the error of symmetric int8. quantize: writes the int8 values and the scale of every
tensor to OUT and syncs it.
"""

import json
import os
import sys

import numpy as np


def tensors(path):
    data = np.memmap(path, np.uint8, "r")
    length = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8 : 8 + length]))
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + at for at in tensor["data_offsets"])
        raw = data[start:end]
        if tensor["dtype"] == "BF16":
            x = (np.asarray(raw).view("<u2").astype("<u4") << 16).view("<f4")
        elif tensor["dtype"] in ("F32", "F16"):
            x = np.asarray(raw).view({"F32": "<f4", "F16": "<f2"}[tensor["dtype"]])
        else:
            continue
        yield name, x


def report(x):
    x = x.astype(np.float32)
    scale = np.float32(max(abs(float(x.min())), abs(float(x.max()))) / 127)
    q = np.clip(np.rint(x / scale), -127, 127)
    wide, back = x.astype(np.float64), (q * scale).astype(np.float64)
    signal, noise = np.square(wide).sum(), np.square(wide - back).sum()
    cosine = (wide * back).sum() / np.sqrt(signal * np.square(back).sum())
    return (
        x.min(), x.max(), wide.mean(), wide.std(), (x == 0).sum(), np.isnan(x).sum(),
        scale, noise / x.size, np.abs(wide - back).max(), 10 * np.log10(signal / noise),
        cosine, ((x != 0) & (q == 0)).sum(), np.unique(q).size,
    )


def quantize(model, out):
    with open(out, "wb") as file:
        for _, x in tensors(model):
            x = x.astype(np.float32)
            scale = np.float32(max(abs(float(x.min())), abs(float(x.max()))) / 127)
            file.write(np.clip(np.rint(x / scale), -127, 127).astype(np.int8))
            file.write(scale)
        file.flush()
        os.fsync(file.fileno())


if sys.argv[1] == "quantize":
    quantize(sys.argv[2], sys.argv[3])
    sys.exit()
for name, x in tensors(sys.argv[2]):
    print(name, *((x.min(), x.max()) if sys.argv[1] == "range" else report(x)))
