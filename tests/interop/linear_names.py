"""List the nn.Linear modules of every architecture that transformers knows.

    linear_names.py OUT.json [MODEL_TYPE ...]

Each architecture is built from its default configuration on PyTorch's meta device, which needs no
memory, and its modules are listed under their names in checkpoints. OUT.json maps each
model_type to

    linear         modules that are nn.Linear and that a compressed-tensors checkpoint can hold: the
                   weight and its scale reach the same parameter
    routers        such modules that choose experts
    heads          such modules outside the base model, and output embeddings
    not_loadable   nn.Linear modules whose scale does not reach the parameter, with the reason
    not_linear     all other weights of two or more dimensions, with the type of their module
    fused_experts  expert weights of three dimensions: their axes, and the names in checkpoints
    converted      checkpoint tensors that loading splits, joins or transposes, with the results
    refused        why no compressed-tensors checkpoint of this architecture loads at all
    tied           heads that share the embedding's storage by default

Layer numbers become `*`. A name starts after the first layer number and is matched at the end of a
module's name, at a dot; where two names match, the longer one decides.
"""

import contextlib
import gc
import io
import json
import logging
import os
import re
import signal
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.integrations.compressed_tensors import CompressedTensorsDequantize
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer
from transformers.utils.quantization_config import CompressedTensorsConfig

logging.disable(logging.WARNING)

SECONDS_PER_CLASS = 60
# FalconLinear equals nn.Linear except for the order of operations.
LINEAR_CLASSES = {"Linear", "FalconLinear"}
ROUTER_WORDS = {"gate", "router", "shared_expert_gate", "wg", "shared_gate"}

QUANTIZATION_CONFIG = {
    "quantization_status": "compressed",
    "format": "int-quantized",
    "dequantize": True,
    "ignore": [],
    "config_groups": {
        "group_0": {
            "targets": ["re:.*q_proj$"],
            "format": "int-quantized",
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        }
    },
}


def model_classes():
    """All model classes by model_type, the base model first."""
    classes = {}
    mappings = [name for name in dir(modeling_auto) if re.fullmatch(r"MODEL_.*MAPPING_NAMES", name)]
    mappings.sort(key=lambda name: name != "MODEL_MAPPING_NAMES")
    for mapping in mappings:
        for model_type, names in getattr(modeling_auto, mapping).items():
            names = [names] if isinstance(names, str) else names
            known = classes.setdefault(model_type, [])
            known.extend(name for name in names if name not in known)
    return classes


def default_config(model_type, model_class, shallow):
    """The default configuration of a class, with two layers where `shallow` and possible."""
    config_class = model_class.config_class or CONFIG_MAPPING[model_type]
    if shallow:
        with contextlib.suppress(Exception):
            return config_class(num_hidden_layers=2)
    return config_class()


@contextlib.contextmanager
def time_limit(seconds):
    def stop(_signal, _frame):
        raise TimeoutError(f"not built within {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def build(model_type, class_name, shallow):
    model_class = getattr(transformers, class_name)
    config = default_config(model_type, model_class, shallow)
    with time_limit(SECONDS_PER_CLASS), torch.device("meta"), torch.no_grad():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return model_class(config)


def pattern(name, base_prefix):
    """A module's name after its first layer number, with further numbers as `*`."""
    parts = name.split(".")
    first_number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if first_number is not None and first_number + 1 < len(parts):
        parts = parts[first_number + 1 :]
    elif parts[0] == base_prefix and len(parts) > 1:
        parts = parts[1:]
    return ".".join("*" if part.isdigit() else part for part in parts)


class Loader:
    """transformers' own renaming of checkpoint keys for a model with compressed tensors."""

    def __init__(self, model):
        quantizer = CompressedTensorsHfQuantizer(CompressedTensorsConfig(**QUANTIZATION_CONFIG))
        quantizer.validate_environment()
        self.state = model.state_dict()
        self.prefix = model.base_model_prefix
        self.refusal = None
        try:
            conversions = get_model_conversion_mapping(model, hf_quantizer=quantizer)
        except ValueError as error:
            self.refusal = re.sub(r", '[\w.]*weight_(scale|zero_point|global_scale|packed|shape)'", "", str(error))
            conversions = get_model_conversion_mapping(model)
        self.renamings = [step for step in conversions if isinstance(step, WeightRenaming)]
        self.converters = [step for step in conversions if isinstance(step, WeightConverter)]
        # Before these join or change weights, they drop what is not quantized.
        self.dropping = {
            source
            for step in self.converters
            if len(step.operations) > 1 and isinstance(step.operations[0], CompressedTensorsDequantize)
            for source in step.source_patterns
        }

    def parameter(self, key):
        """The parameter into which a checkpoint key is loaded."""
        return rename_source_key(key, self.renamings, self.converters, self.prefix, self.state)[0]

    def drops(self, key):
        """Whether loading drops a float tensor of this name once anything is quantized."""
        return rename_source_key(key, self.renamings, self.converters, self.prefix, self.state)[1] in self.dropping

    def why_not_loadable(self, checkpoint_name, parameter):
        """Why the tensors of a packed weight do not all reach `parameter`, or None."""
        if self.refusal is not None:
            return None
        for tensor in ("weight", "weight_scale", "weight_packed", "weight_shape"):
            reached = self.parameter(f"{checkpoint_name}.{tensor}")
            if reached != parameter:
                return f"{tensor} is renamed to '{reached}', expected '{parameter}'"
        return None


def kind_of(model, parameter):
    """The type of the module that owns a parameter."""
    owner, _, leaf = parameter.rpartition(".")
    module = model.get_submodule(owner)
    if leaf == "weight":
        return "Linear" if type(module).__name__ in LINEAR_CLASSES else type(module).__name__
    return f"{type(module).__name__}.{leaf}"


def is_router(name):
    parts = name.split(".")
    return any(part in ROUTER_WORDS or "router" in part for part in parts[-2:])


def output_embeddings(model):
    """Names of the output embedding's module."""
    try:
        found = model.get_output_embeddings()
    except Exception:
        return set()
    return {name for name, module in model.named_modules() if module is found and found is not None}


class Heads:
    """The modules of a model that are its output head."""

    def __init__(self, model, base_children):
        self.outputs = output_embeddings(model)
        self.base = model.base_model_prefix if model.base_model is not model else None
        self.base_children = base_children

    def __contains__(self, module_name):
        if module_name in self.outputs:
            return True
        if self.base is not None:
            return not module_name.startswith(self.base + ".")
        return bool(self.base_children) and module_name.split(".")[0] not in self.base_children


def axes(shape, parameter, hidden_size):
    """The order of a fused expert tensor's axes. The axis with the hidden size is the input."""
    if len(shape) != 3 or hidden_size is None:
        return "unknown"
    first, second = shape[1] == hidden_size, shape[2] == hidden_size
    if first == second:
        return "unknown"
    reads_hidden = "down" not in parameter and "output" not in parameter
    return "[experts, out, in]" if second == reads_hidden else "[experts, in, out]"


class Listing:
    """The entry of OUT.json for one model_type."""

    def __init__(self):
        self.linear, self.routers, self.heads, self.tied = set(), set(), set(), set()
        self.not_loadable, self.not_linear, self.fused_experts, self.converted = {}, {}, {}, {}
        self.refusal, self.problems = None, []

    def add_model(self, model, base_children):
        loader = Loader(model)
        self.refusal = self.refusal or loader.refusal
        checkpoint = revert_weight_conversion(model, loader.state)
        dropped = sorted({pattern(key, loader.prefix) for key in checkpoint if loader.drops(key)})
        # Experts can all be quantized; whatever else is joined stays float.
        dropped = [name for name in dropped if "experts.*" not in name]
        if dropped and self.refusal is None:
            self.refusal = f"drops float weights that it joins: {', '.join(dropped)}"
        names = {id(tensor): key for key, tensor in checkpoint.items()}
        heads = Heads(model, base_children)
        changed = []
        for parameter, tensor in loader.state.items():
            if tensor.dim() < 2:
                continue
            key = names.get(id(tensor))
            if key is None:
                changed.append(parameter)
            else:
                self._add(model, loader, heads, key, parameter)
        self._add_changed(model, loader, checkpoint, changed)
        for key in getattr(model, "all_tied_weights_keys", None) or {}:
            if key.removesuffix(".weight") in heads.outputs:
                self.tied.add(pattern(key.removesuffix(".weight"), loader.prefix))

    def _add(self, model, loader, heads, key, parameter):
        """A parameter that the checkpoint stores unchanged."""
        name = pattern(key.removesuffix(".weight"), loader.prefix)
        kind = kind_of(model, parameter)
        if kind != "Linear":
            self.not_linear[name] = kind
            if "Expert" in kind and loader.state[parameter].dim() == 3:
                self._add_experts(model, parameter, {key: loader.state[parameter]}, loader.prefix)
            return
        reason = loader.why_not_loadable(key.removesuffix(".weight"), parameter)
        if reason is not None:
            self.not_loadable[name] = reason
        elif parameter.removesuffix(".weight") in heads:
            self.heads.add(name)
        elif is_router(name):
            self.routers.add(name)
        else:
            self.linear.add(name)

    def _add_changed(self, model, loader, checkpoint, changed):
        """Parameters that loading creates from several checkpoint tensors, or from a converted one."""
        sources = {}
        for key, tensor in checkpoint.items():
            sources.setdefault(loader.parameter(key), {})[key] = tensor
        for parameter in changed:
            found = sources.get(parameter, {})
            kind = kind_of(model, parameter)
            if loader.state[parameter].dim() == 3:
                self._add_experts(model, parameter, found, loader.prefix)
                continue
            for key in found:
                name = pattern(key.removesuffix(".weight"), loader.prefix)
                self.converted[name] = {"to": pattern(parameter, loader.prefix), "module": kind}

    def _add_experts(self, model, parameter, stored, prefix):
        hidden_size = getattr(model.config.get_text_config(), "hidden_size", None)
        shapes = {len(tensor.shape) for tensor in stored.values()}
        entry = {
            "module": kind_of(model, parameter),
            "axes": axes(model.get_parameter(parameter).shape, parameter, hidden_size),
            "in_checkpoint": sorted({pattern(key, prefix) for key in stored}),
            "dimensions_in_checkpoint": max(shapes, default=0),
        }
        if shapes == {3}:
            tensor = next(iter(stored.values()))
            entry["axes_in_checkpoint"] = axes(tensor.shape, next(iter(stored)), hidden_size)
        self.fused_experts[pattern(parameter, prefix)] = entry

    def _settle_axes(self):
        """Fused experts of an architecture have the same order: a known one determines an unknown one."""
        for field in ("axes", "axes_in_checkpoint"):
            known = {entry.get(field) for entry in self.fused_experts.values()} - {None, "unknown"}
            for entry in self.fused_experts.values():
                if len(known) == 1 and entry.get(field) == "unknown":
                    entry[field] = next(iter(known))

    def as_json(self):
        self._settle_axes()
        linear = self.linear - self.heads
        ambiguous = (linear | self.routers | self.heads) & (self.not_linear.keys() | self.converted.keys())
        listed = {
            "linear": sorted(linear),
            "routers": sorted(self.routers),
            "heads": sorted(self.heads),
            "tied": sorted(self.tied),
            "not_loadable": dict(sorted(self.not_loadable.items())),
            "not_linear": dict(sorted(self.not_linear.items())),
            "fused_experts": dict(sorted(self.fused_experts.items())),
            "converted": dict(sorted(self.converted.items())),
            "refused": self.refusal,
            "ambiguous": sorted(ambiguous),
            "problems": self.problems,
        }
        return {name: value for name, value in listed.items() if value or name == "linear"}


def add_classes(listings, model_type, class_names):
    """List all classes of a model_type, each under the model_type of its own configuration."""
    base_config, base_children = None, set()
    for index, class_name in enumerate(class_names):
        try:
            model = build(model_type, class_name, shallow=index > 0)
            own_base = base_children if type(model.config) is base_config else set()
            listings.setdefault(model.config.model_type, Listing()).add_model(model, own_base)
            if index == 0:
                base_config = type(model.config)
                base_children = {name for name, _ in model.named_children()}
            del model
        except Exception as error:
            problem = f"{class_name}: {type(error).__name__}: {str(error)[:300]}"
            listings.setdefault(model_type, Listing()).problems.append(problem)
        gc.collect()


def main():
    out, *wanted = sys.argv[1:]
    classes = model_classes()
    listings = {}
    for model_type in wanted or sorted(classes):
        add_classes(listings, model_type, classes[model_type])
        print(model_type, len(listings), flush=True)
    document = {name: listing.as_json() for name, listing in sorted(listings.items())}
    Path(out).write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
