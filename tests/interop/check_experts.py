"""Record the inputs of tiny mixtures of experts, and compare names and widths with the checkpoint's.

    check_experts.py

Every expert layer must be recorded under its name in the checkpoint. Only embeddings and routers
may be missing.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "assets"))

from record_activations import record
from safetensors import safe_open

from zoo import ZOO

logging.disable(logging.WARNING)
MODELS = (
    "mixtral", "qwen2-moe", "qwen3-moe", "qwen3-next", "olmoe", "flex-olmo", "deepseek-v2", "deepseek-v3", "glm4-moe",
    "dots1", "ernie4_5-moe", "hunyuan-moe", "phimoe", "minimax", "lfm2-moe", "longcat-flash", "jamba",
)


def columns(model):
    """The columns of each matrix that the model's checkpoint stores, by module."""
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        with safe_open(Path(directory) / "model.safetensors", "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    return {name.removesuffix(".weight"): shape[1] for name, shape in matrices.items()}


def check(architecture):
    model = architecture.build().eval()
    recorded = record(model, [architecture.inputs] * 2, rows=64)
    found = {name.removesuffix(".input"): tensor.shape[-1] for name, tensor in recorded.items()}
    expected = columns(model)
    # A tied head is not stored, and routers may have another name.
    named = {name: width for name, width in found.items() if ".experts." in name or name in expected}
    wrong = sorted(name for name, width in named.items() if expected.get(name) != width)
    missing = sorted(name for name in expected.keys() - found.keys() if ".experts." in name)
    print(f"{architecture.name}: {len(found)} of {len(expected)}, wrong {wrong[:3]}, missing {missing[:3]}")
    # An expert that received no token is not recorded.
    return not wrong and any(".experts." in name for name in found)


if __name__ == "__main__":
    sys.exit(not all([check(a) for a in ZOO if a.name in MODELS]))
