"""Record the inputs of the layers of a PyTorch model.

The error of a layer's output depends on the layer's input. This module runs a
model over some samples with a forward hook on every selected layer, and keeps
for each layer `<module>` either

* the inputs themselves: `<module>.input`, [samples, features...], or
* with `summary=True` three figures per feature, for any number of samples:
  `<module>.input.min`, `<module>.input.max` and
  `<module>.input.mean_square`, all float32.

Features are the last axis of a linear layer's input, and the channels (axis 1,
or axis 0 without a batch axis) of a convolution's input. The figures are taken
over all other axes.

    from record_activations import describe, record
    from safetensors.torch import save_file

    tensors = record(model, samples)              # samples: any iterable
    save_file(tensors, "activations.safetensors", metadata=describe(model))
    # quantscope analyze MODEL --activations activations.safetensors

`describe` returns the stride, padding, dilation and groups of each convolution, which the
weights do not contain. It returns no metadata for a model without convolutions.

Layers that transformers renames, joins or splits while loading are recorded under their names
in the checkpoint. Experts that transformers 5 keeps in one parameter per layer are recorded one by one, under
their names in the checkpoint, if the checkpoint stores one tensor per expert. Experts that it
stores in one tensor too are not recorded.

A sample has the arguments of one call of the model: a tensor, a tuple of positional
arguments, or a dict of keyword arguments (as a Hugging Face tokenizer returns).
Samples include the batch axis, so a batch of 32 is one sample for this module
and 32 in the file.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# The metadata key for the geometry of convolutions.
METADATA_KEY = "quantscope.convolutions"

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)


def record(model, samples, layers=LAYERS, summary=False, dtype=None, rows=None):
    """Return the recorded tensors of `model` over `samples`, ready to save.

    `layers` are the module types to record. `dtype` is the type in which full
    inputs are stored (default: unchanged). A layer that runs several times in one
    call of the model is recorded each time; one that never runs is left out. Full
    inputs of a layer must agree in all axes but the first: for texts of different
    lengths use `rows`, `summary`, or padding.

    `rows` limits the inputs of linear layers: at most this number of rows (tokens)
    is kept, a pseudo-random sample that is the same each time. Inputs of
    convolutions are kept in full.
    """
    def recorder(module):
        if summary:
            return _Summary(module)
        if rows is not None and isinstance(module, nn.Linear):
            return _Rows(rows, dtype)
        return _Inputs(dtype)

    recorders = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, layers):
            recorders[name] = recorder(module)
            hooks.append(module.register_forward_pre_hook(_hook(recorders[name])))
    merged = _Experts(model, recorder) if nn.Linear in layers else nullcontext()

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), merged:
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

    stored = _stored_names(model, layers)
    if nn.Linear in layers:
        recorders |= merged.recorders
    tensors = {}
    for module, recorder in recorders.items():
        for name in stored.get(module, [module]):
            prefix = f"{name}.input" if name else "input"
            for suffix, tensor in recorder.tensors().items():
                tensors[prefix + suffix] = tensor
    return tensors


def describe(model):
    """Return the metadata to save with recorded tensors: the geometry of convolutions."""
    stored = _stored_names(model, CONVOLUTIONS)
    moves = {
        stored_name: {
            "stride": list(module.stride),
            "padding": _padding(name, module),
            "dilation": list(module.dilation),
            "groups": module.groups,
        }
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS)
        for stored_name in stored.get(name, [name])
    }
    return {METADATA_KEY: json.dumps(moves)} if moves else {}


def _padding(name, module):
    """The zero padding before and after each axis."""
    if module.padding_mode != "zeros":
        raise ValueError(f"{name}: padding with {module.padding_mode}, only zeros are known")
    if module.padding == "valid":
        return [[0, 0] for _ in module.kernel_size]
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
        return [[total // 2, total - total // 2] for total in totals]
    return [[n, n] for n in module.padding]


class _Experts(TorchFunctionMode):
    """Records the inputs of each expert when a parameter holds all experts of a layer."""

    def __init__(self, model, recorder):
        super().__init__()
        self.model = model
        self.recorders = {}
        # The names of experts, by the address of their weights.
        self.names = {}
        parameters = {name: p for name, p in model.named_parameters() if p.dim() == 3}
        markers = {}
        for number, (name, parameter) in enumerate(parameters.items()):
            experts = torch.arange(len(parameter)) + number * 2**20
            markers[name] = experts[:, None, None].expand(-1, 2, 1).contiguous()
        for name, marker in _names_in_checkpoint(model, markers).items():
            if marker.dim() != 2 or not name.endswith(".weight"):
                continue
            number, expert = divmod(int(marker[0, 0]), 2**20)
            weight = list(parameters.values())[number][expert]
            module = name.removesuffix(".weight")
            self.names.setdefault(weight.data_ptr(), []).append(module)
            self.recorders[module] = recorder(nn.Linear(1, 1))

    def __enter__(self):
        self.before = getattr(self.model.config, "_experts_implementation", None) if self.names else None
        if self.before is not None:
            self.model.set_experts_implementation("eager")
        return super().__enter__()

    def __exit__(self, *error):
        if self.before is not None:
            self.model.set_experts_implementation(self.before)
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            x, weight = args[:2]
            for name in self.names.get(weight.data_ptr(), ()):
                self.recorders[name].add(x.detach())
        return function(*args, **(kwargs or {}))


def _stored_names(model, layers):
    """The names in the checkpoint of each module, where they are not that of the module.

    A joined layer has the names of its parts, which have the same input. Several layers that are
    one in the checkpoint also have the same input: its name belongs to the first of them.
    """
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, layers) and isinstance(getattr(module, "weight", None), torch.Tensor)
    }
    # The first element of a weight in the checkpoint tells whose weight it is.
    markers = {}
    for number, (name, module) in enumerate(modules.items()):
        shape = len(module.weight), *[1] * (module.weight.dim() - 1)
        markers[f"{name}.weight"] = torch.full(shape, number)
    try:
        stored = _names_in_checkpoint(model, markers)
    except (RuntimeError, ValueError, IndexError):
        # A conversion that needs the weights themselves.
        return {}
    names = {}
    for name, marker in stored.items():
        if name.endswith(".weight") and marker.numel():
            module = list(modules)[int(marker.flatten()[0])]
            names.setdefault(module, []).append(name.removesuffix(".weight"))
    return names


def _names_in_checkpoint(model, tensors):
    """The tensors of a transformers model as stored in its checkpoint; empty for other models."""
    try:
        from transformers import PreTrainedModel
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return {}
    return revert_weight_conversion(model, tensors) if isinstance(model, PreTrainedModel) and tensors else {}


def _hook(recorder):
    def hook(_module, args):
        recorder.add(args[0].detach())

    return hook


class _Inputs:
    def __init__(self, dtype):
        self.dtype = dtype
        self.parts = []

    def add(self, x):
        # A copy, because the model may change its activations in place.
        self.parts.append(x.to("cpu", self.dtype or x.dtype, copy=True))

    def tensors(self):
        return {"": torch.cat(self.parts)} if self.parts else {}


class _Rows:
    """A sample of at most `rows` rows: those with the smallest random numbers."""

    def __init__(self, most, dtype):
        self.most = most
        self.dtype = dtype
        self.lots = torch.Generator().manual_seed(0)
        self.kept = None

    def add(self, x):
        rows = x.reshape(-1, x.shape[-1]).to("cpu", self.dtype or x.dtype, copy=True)
        lots = torch.rand(len(rows), generator=self.lots, dtype=torch.float64)
        if self.kept is not None:
            rows = torch.cat((self.kept[0], rows))
            lots = torch.cat((self.kept[1], lots))
        smallest = lots.argsort(stable=True)[: self.most].sort().values
        self.kept = rows[smallest], lots[smallest]

    def tensors(self):
        return {"": self.kept[0]} if self.kept is not None and len(self.kept[0]) else {}


class _Summary:
    def __init__(self, module):
        # The number of axes after the channel axis; the feature axis of a linear layer is the last.
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
