"""Load int8 directories in transformers, and compare them with the source.

    check_llama.py SOURCE FLOATS INT8 ...

SOURCE is the float model. Each INT8 is an output of `quantscope quantize --format
compressed-tensors`, and the directory FLOATS has the output of `quantscope dequantize` for each
INT8 under the same name. Each INT8 must load without missing, unexpected or mismatched keys and
without warnings about them, its weights must equal FLOATS bit for bit, and its logits must be
close to those of the source.
"""

import logging
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

NEAR = 0.999


class Heard(logging.Handler):
    """Collects the warnings that transformers logs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def load(path):
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    return model.eval(), {kind: keys for kind, keys in info.items() if keys}


def main():
    source_path, floats_root, *outputs = sys.argv[1:]
    heard = Heard()
    transformers.logging.get_logger("transformers").addHandler(heard)
    tokens = torch.arange(64).reshape(2, 32)
    source, _ = load(source_path)
    with torch.no_grad():
        expected = source(tokens).logits.float().flatten()
    failed = False
    for output in outputs:
        heard.messages.clear()
        model, problems = load(output)
        warned = [m for m in heard.messages if "missing" in m.lower() or "unexpected" in m.lower()]
        floats, _ = load(Path(floats_root) / Path(output).name)
        theirs, ours = model.state_dict(), floats.state_dict()
        differ = [name for name in ours if not torch.equal(ours[name], theirs.get(name, ours[name] + 1))]
        with torch.no_grad():
            cosine = torch.nn.functional.cosine_similarity(
                expected, model(tokens).logits.float().flatten(), dim=0
            ).item()
        good = not problems and not warned and not differ and cosine >= NEAR
        failed |= not good
        print(
            f"{'ok' if good else 'FAILED'} {Path(output).name}: "
            f"{len(ours)} tensors as dequantized, logits' cosine {cosine:.6f}"
        )
        for problem in [*problems.items(), *warned, *differ]:
            print(f"    {problem}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
