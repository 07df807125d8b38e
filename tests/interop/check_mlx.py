"""Load `--for mlx` directories in mlx-lm.

    check_mlx.py FLOATS OUT ...

Each OUT is an output of `quantscope quantize --for mlx`, and FLOATS/NAME, with the name of OUT, is
the output of `quantscope dequantize --dtype f32` for it. Every quantized weight, decoded with
scales and biases in F32, must equal the floats bit for bit, and the logits must be those of the
dequantized model in mlx-lm. Runs with the versions of requirements-mlx.txt.
"""

import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.utils import load_model

TOKENS = mx.array((np.arange(24).reshape(2, 12) * 7 % 251).tolist())


def check(floats, out):
    model, config = load_model(out)
    plain, _ = load_model(floats)
    problems = []
    size, bits = config["quantization"]["group_size"], config["quantization"]["bits"]
    quantized = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.QuantizedLinear)
    }
    expected = dict(plain.named_modules())
    for name, module in quantized.items():
        if (module.bits, module.group_size) != (bits, size):
            problems.append(f"{name} has {module.bits} bits in groups of {module.group_size}")
        scales, biases = (x.astype(mx.float32) for x in (module.scales, module.biases))
        weight = mx.dequantize(module.weight, scales, biases, group_size=size, bits=bits)
        if not np.array_equal(np.array(weight), np.array(expected[name].weight)):
            problems.append(f"{name} differs")
    # In F32, so that only sums differ.
    model.set_dtype(mx.float32)
    plain.set_dtype(mx.float32)
    a, b = np.array(model(TOKENS)), np.array(plain(TOKENS))
    error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    if error > 1e-5 or not quantized:
        problems.append(f"logits differ by {error:.2e}")
    print(f"{out.name}: {len(quantized)} quantized, logits {error:.2e}", *problems, sep="\n  ")
    return not problems


def main():
    floats, *outs = map(Path, sys.argv[1:])
    # A list rather than a generator, so that all are checked even after a failure.
    sys.exit(0 if all([check(floats / out.name, out) for out in outs]) else 1)


if __name__ == "__main__":
    main()
