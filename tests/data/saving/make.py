"""Write the configurations and tensor shapes of tiny models (transformers 5.24).

    python make.py

Each folder is a case of `tests/saving/targets.rs`, which fills the tensors with values.
"""

import json
import struct
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "interop"))

from zoo import ZOO

CASES = {
    "lookup-tables": ["ctrl", "sam", "bark"],
    "moe-int8-experts": ["mixtral", "olmoe", "nllb-moe"],
    "nested-router": ["granitemoe", "granitemoe-hybrid", "hunyuan-moe", "longcat-flash", "qwen2-moe"],
    "tied-head-stored": ["llama-tied", "gemma3", "bert"],
    "not-loadable": ["dinov2", "llama4"],
}


def shapes(path):
    """The shapes of the tensors in a safetensors file, by name."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {name: entry["shape"] for name, entry in sorted(header.items()) if name != "__metadata__"}


def main():
    architectures = {architecture.name: architecture for architecture in ZOO}
    for case, names in CASES.items():
        for name in names:
            folder = HERE / case / name
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as made:
                architectures[name].build().save_pretrained(made)
                text = json.dumps(shapes(Path(made) / "model.safetensors"), separators=(",", ":"))
                (folder / "tensors.json").write_text(text.replace("],", "],\n") + "\n")
                (folder / "config.json").write_text((Path(made) / "config.json").read_text())


if __name__ == "__main__":
    main()
