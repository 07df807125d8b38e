"""Load quantscope's outputs with the safetensors library and PyTorch, and compare them.

    check_safetensors.py SOURCE INT8 FLOATS FAKE

SOURCE is the float model, INT8 the output of `quantize`, FLOATS the output of `dequantize` for
INT8, and FAKE the output of `quantize --format fake-quantized`. Each is a file, or a directory
with shards and their index. INT8 times its scales, rounded to the type of FLOATS, must equal
FLOATS; FLOATS must equal FAKE; all other tensors must equal those of SOURCE. All comparisons are
bit for bit.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open


def load(path):
    """All tensors by name, each opened in the file that the index names."""
    path = Path(path)
    if path.is_dir():
        indices = sorted(path.glob("*.index.json"))
        if not indices:
            return load(path / "model.safetensors")
        index = json.loads(indices[0].read_text())
        where = {name: path / shard for name, shard in index["weight_map"].items()}
    else:
        with safe_open(path, "pt") as file:
            where = {name: path for name in file.keys()}
    tensors = {}
    for shard in sorted(set(where.values())):
        with safe_open(shard, "pt") as file:
            names = [name for name, place in where.items() if place == shard]
            assert sorted(names) == sorted(file.keys()), f"{shard} is not as the index says"
            tensors.update({name: file.get_tensor(name) for name in names})
    if path.is_dir() and (size := index["metadata"]["total_size"]):
        found = sum(t.numel() * t.element_size() for t in tensors.values())
        assert size == found, f"total_size is {size}, the tensors have {found} bytes"
    return tensors


def same(a, b):
    a, b = a.contiguous(), b.contiguous()
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
        a.flatten().view(torch.uint8), b.flatten().view(torch.uint8)
    )


def main():
    names = sys.argv[1:]
    source, int8, floats, fake = map(load, names)
    problems = []
    if not source.keys() == floats.keys() == fake.keys():
        problems.append("the names differ")
    quantized = 0
    for name, original in source.items():
        scale = int8.get(f"{name}_scale")
        if scale is None:
            problems += [
                f"{name} of {where} is not the source's"
                for where, tensors in zip(names[1:], (int8, floats, fake))
                if not same(tensors[name], original)
            ]
            continue
        quantized += 1
        q = int8[name].float()
        rows = scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(1, 1)
        expected = (q.reshape(rows.shape[0], -1) * rows).reshape(q.shape).to(original.dtype)
        if not same(floats[name], expected):
            problems.append(f"{name}: the floats are not the values times their scales")
        if not same(fake[name], expected):
            problems.append(f"{name}: fake-quantized is not the same")
    if not quantized:
        problems.append("nothing was quantized")
    print(
        f"{'FAILED' if problems else 'ok'} {Path(names[1]).name}: {quantized} of {len(source)} "
        f"tensors int8, dequantized and fake-quantized, to the bit"
    )
    for problem in problems:
        print(f"    {problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
