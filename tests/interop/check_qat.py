"""Read what PyTorch's own fake quantization leaves in a checkpoint.

    check_qat.py QUANTSCOPE DIRECTORY

Trains a small network with `prepare_qat` and one with `prepare_qat_fx`, whose default scales
are one for each output channel, and watches a third with the observers that
`add_quant_dequant` puts before each layer. What quantscope saves of the first two must have the
learned scales and the integers they give, to the bit; of the third it must find the range of
each layer's inputs, of the second it must say that it does not know whose they are.
DIRECTORY is for what is made on the way.
"""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

warnings.simplefilter("ignore")
import torch.ao.quantization as quantization  # noqa: E402
from torch.ao.quantization.quantize_fx import prepare_qat_fx  # noqa: E402

BACKEND = "fbgemm"


class Eager(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant = quantization.QuantStub()
        self.conv = nn.Conv2d(3, 8, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8 * 6 * 6, 10)
        self.dequant = quantization.DeQuantStub()

    def forward(self, x):
        x = self.relu(self.conv(self.quant(x)))
        return self.dequant(self.fc(x.flatten(1)))


def trained(model, shape):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        loss = model(torch.randn(16, *shape)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def eager():
    model = Eager().train()
    model.qconfig = quantization.get_default_qat_qconfig(BACKEND)
    return trained(quantization.prepare_qat(model), (3, 8, 8))


def graph():
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).train()
    mapping = quantization.get_default_qat_qconfig_mapping(BACKEND)
    return trained(prepare_qat_fx(model, mapping, (torch.randn(1, 16),)), (16,))


def wrapped():
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model.qconfig = quantization.default_qconfig
    quantization.propagate_qconfig_(model)
    model = quantization.prepare(quantization.add_quant_dequant(model))
    for _ in range(5):
        model(torch.randn(8, 16))
    return model


class Check:
    def __init__(self, quantscope, directory):
        self.quantscope, self.directory = quantscope, Path(directory)
        self.failed = False

    def run(self, *arguments):
        command = [self.quantscope, *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def saved(self, name, model):
        path = self.directory / f"{name}.safetensors"
        state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
        save_file(state, path)
        return path, {name: tensor.numpy() for name, tensor in state.items()}

    def observed(self, path):
        document = json.loads(self.run("inspect", path, "--json"))
        return {t["name"]: t["observed"] for t in document["tensors"] if "observed" in t}

    def tell(self, good, what):
        print("ok" if good else "FAILED", what)
        self.failed |= not good

    def learned(self, name, model):
        path, state = self.saved(name, model)
        out = self.directory / f"{name}-int8.safetensors"
        self.run("quantize", path, "-o", out, "--force")
        self.run("verify", out, "--against", path)
        found, same, count = load_file(out), True, 0
        for weight in [name for name in state if f"{name}_fake_quant.scale" in state]:
            scale = state[f"{weight}_fake_quant.scale"]
            by_channel = scale.reshape([-1] + [1] * (state[weight].ndim - 1))
            levels = np.clip(np.rint(state[weight] / by_channel), -127, 127).astype(np.int8)
            same &= np.array_equal(found[weight], levels)
            same &= np.array_equal(found[f"{weight}_scale"].ravel(), scale)
            count += len(scale)
        self.tell(same and count > 2, f"{name}: {count} learned scales of channels, to the bit")
        return path, state

    def inputs(self, name, model):
        path, state = self.saved(name, model)
        found = self.observed(path)
        same = len(found) == 2
        for weight, observed in found.items():
            stub = weight.replace("module.weight", "quant.activation_post_process")
            ends = {end: float(state[f"{stub}.{end}_val"]) for end in ("min", "max")}
            same &= observed["input"] == ends
        self.tell(same, f"{name}: the inputs of {len(found)} layers as their observers saw them")


def main():
    torch.manual_seed(0)
    check = Check(*sys.argv[1:])
    path, state = check.learned("eager", eager())
    ends = {
        end: float(state[f"fc.activation_post_process.activation_post_process.{end}_val"])
        for end in ("min", "max")
    }
    output = check.observed(path)["fc.weight"]["output"]
    check.tell(output == ends, "eager: the output of a layer as its observer saw it")
    path, _ = check.learned("graph", graph())
    said = check.run("inspect", path)
    unplaced = all(not seen["input"] for seen in check.observed(path).values())
    good = unplaced and "which is not in the file" in said
    check.tell(good, "graph: numbered observers, said to be of no layer that is known")
    check.inputs("wrapped", wrapped())
    return check.failed


if __name__ == "__main__":
    sys.exit(main())
