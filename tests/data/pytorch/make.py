"""Creates the PyTorch fixtures with torch 2; run it in this directory.

zip.pt, legacy.pt     one state_dict in both of torch.save's formats
wrapped.pt            a training checkpoint with a state_dict in it
code.pt               a pickle that would run a program
expected.safetensors  the tensors of zip.pt and legacy.pt, without shared storage
sharded/              two .bin files and their index
"""

import argparse
import collections
import json
import os
import pickle

import torch
from safetensors.torch import save_file

torch.manual_seed(5)
weight = torch.randn(6, 8)
state = collections.OrderedDict({
    "embed.weight": weight,
    "head.weight": weight,
    "head.transposed": weight.t(),
    "head.slice": weight[1:5, 2:7],
    "head.step": weight[::2, ::3],
    "conv.weight": torch.randn(4, 3, 2, 2).to(torch.bfloat16),
    "conv.last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "norm.weight": torch.ones(8, dtype=torch.float16),
    "norm.batches": torch.tensor(7),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 4),
    "double": torch.randn(3, dtype=torch.float64),
    "ints": torch.arange(12, dtype=torch.int32).reshape(3, 4).t(),
})
state._metadata = collections.OrderedDict({"": {"version": 1}})
torch.save(state, "zip.pt")
torch.save(state, "legacy.pt", _use_new_zipfile_serialization=False)
save_file({name: tensor.clone().contiguous() for name, tensor in state.items()},
          "expected.safetensors")

training = {
    "epoch": 3,
    "loss": 0.5,
    "args": argparse.Namespace(lr=1e-3),
    "state_dict": {"a": torch.nn.Parameter(torch.randn(2, 2)), "b.c": torch.randn(3)},
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
}
torch.save(training, "wrapped.pt")


class Code:
    def __reduce__(self):
        return os.system, ("true",)


torch.save({"weight": torch.zeros(2), "hook": Code()}, "code.pt")

os.makedirs("sharded", exist_ok=True)
parts = [{"a.weight": torch.randn(4, 32)}, {"b.weight": torch.randn(3, 32), "b.bias": torch.randn(3)}]
names = [f"pytorch_model-{n:05}-of-00002.bin" for n in (1, 2)]
for name, part in zip(names, parts):
    torch.save(part, f"sharded/{name}")
weight_map = {key: name for name, part in zip(names, parts) for key in part}
with open("sharded/pytorch_model.bin.index.json", "w") as file:
    json.dump({"metadata": {"total_size": 908}, "weight_map": weight_map}, file, indent=2)
