"""Record what reaches the layers of a PyTorch model.

The error that matters is the one in a layer's output, and it depends on the
layer's input. This module runs a model over some samples with a forward hook on
every chosen layer, and keeps per layer `<module>` either

* the inputs themselves: `<module>.input`, [samples, features...], or
* with `summary=True` only three figures per feature, however many samples there
  are: `<module>.input.min`, `<module>.input.max` and
  `<module>.input.mean_square`, all float32.

A *feature* is what one input weight of the layer is multiplied with: the last
axis of a linear layer's input, the channel (axis 1, or axis 0 without a batch
axis) of a convolution's. The figures are taken over every other axis.

    from record_activations import record
    from safetensors.torch import save_file

    tensors = record(model, samples)              # samples: any iterable
    save_file(tensors, "activations.safetensors")

A sample is what one call of the model takes: a tensor, a tuple of positional
arguments, or a dict of keyword arguments (as a Hugging Face tokenizer returns).
Samples have their batch axis, so a batch of 32 is one sample for this module
and 32 in the file.
"""

from collections.abc import Mapping

import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)


def record(model, samples, layers=LAYERS, summary=False, dtype=None):
    """Return the recorded tensors of `model` over `samples`, ready to save.

    `layers` are the module types to record. `dtype` is the type that full
    inputs are stored in (default: as they come). A layer that runs several
    times in one call of the model is recorded each time; one that never runs is
    left out. Full inputs of one layer must agree in all but the first axis:
    with texts of different lengths use `summary`, or pad them.
    """
    recorders = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, layers):
            recorders[name] = _Summary(module) if summary else _Inputs(dtype)
            hooks.append(module.register_forward_pre_hook(_hook(recorders[name])))

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for sample in samples:
                if isinstance(sample, Mapping):
                    model(**sample)
                elif isinstance(sample, tuple):
                    model(*sample)
                else:
                    model(sample)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)

    tensors = {}
    for name, recorder in recorders.items():
        prefix = f"{name}.input" if name else "input"
        for suffix, tensor in recorder.tensors().items():
            tensors[prefix + suffix] = tensor
    return tensors


def _hook(recorder):
    def hook(_module, args):
        recorder.add(args[0].detach())

    return hook


class _Inputs:
    def __init__(self, dtype):
        self.dtype = dtype
        self.parts = []

    def add(self, x):
        # A copy: the model may go on to change its activations in place.
        self.parts.append(x.to("cpu", self.dtype or x.dtype, copy=True))

    def tensors(self):
        return {"": torch.cat(self.parts)} if self.parts else {}


class _Summary:
    def __init__(self, module):
        # How many axes follow the channel; a linear layer's feature is last.
        self.trailing = len(module.kernel_size) if isinstance(module, CONVOLUTIONS) else 0
        self.count = 0

    def add(self, x):
        rows = x.movedim(x.dim() - 1 - self.trailing, -1)
        rows = rows.reshape(-1, rows.shape[-1]).to("cpu", torch.float64)
        if len(rows) == 0:
            return
        low, high, squares = rows.amin(0), rows.amax(0), rows.square().sum(0)
        if self.count == 0:
            self.low, self.high, self.squares = low, high, squares
        else:
            self.low = torch.minimum(self.low, low)
            self.high = torch.maximum(self.high, high)
            self.squares = self.squares + squares
        self.count += len(rows)

    def tensors(self):
        if self.count == 0:
            return {}
        return {
            ".min": self.low.float(),
            ".max": self.high.float(),
            ".mean_square": (self.squares / self.count).float(),
        }
