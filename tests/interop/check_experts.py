"""Record the inputs of tiny models, and compare names and widths with the checkpoint's.

    check_experts.py

Every layer must be recorded under its name in the checkpoint, also those that transformers
renames, joins or splits while loading: experts, image encoders. Only embeddings, routers and
experts that received no token may be missing.
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
MIXTURES = (
    "mixtral", "qwen2-moe", "qwen3-moe", "qwen3-next", "olmoe", "flex-olmo", "deepseek-v2", "deepseek-v3", "glm4-moe",
    "dots1", "ernie4_5-moe", "hunyuan-moe", "phimoe", "minimax", "lfm2-moe", "longcat-flash", "jamba",
)
OTHERS = ("llama", "bert", "vit", "clip", "whisper", "llava", "gemma3-vision", "qwen2_5-vl", "mistral3", "blip2")
# Heads that are tied to the embedding are not stored.
HEADS = ("lm_head", "proj_out", "cls.predictions.decoder")


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
    # Convolutions are recorded in full; their names are enough here.
    found = {n.removesuffix(".input"): t.shape[-1] for n, t in recorded.items() if t.dim() == 2}
    expected = columns(model)
    wrong = sorted(n for n, width in found.items() if expected.get(n) != width and not n.endswith(HEADS))
    missing = sorted(name for name in expected.keys() - found.keys() if ".experts." in name)
    print(f"{architecture.name}: {len(found)} of {len(expected)}, wrong {wrong[:3]}, missing {missing[:3]}")
    has_experts = any(".experts." in name for name in found)
    return not wrong and len(found) > 1 and has_experts == (architecture.name in MIXTURES)


if __name__ == "__main__":
    sys.exit(not all([check(a) for a in ZOO if a.name in MIXTURES + OTHERS]))
