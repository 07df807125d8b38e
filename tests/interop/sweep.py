"""Quantize a tiny model of every architecture for transformers, and load the output.

    sweep.py QUANTSCOPE DIRECTORY [--only NAME] [--markdown FILE]

For each architecture of zoo.py and for W8A8 and W8A16, `quantscope quantize --for transformers`
must have one of three results:

    loads exactly   transformers finds no missing, unexpected or mismatched key, its weights are bit
                    for bit those of `quantscope dequantize`, and so are the model's outputs
    refused         no output; one sentence gives the reason
    warned          written, with a warning that transformers does not load it as intended

Anything else is a failure of this check. DIRECTORY is for temporary files.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch
import transformers

from zoo import ZOO, outputs

logging.disable(logging.WARNING)
transformers.logging.disable_progress_bar()

SCHEMES = ("W8A8", "W8A16")
LOADS, REFUSED, WARNED, FAILED = "loads exactly", "refused", "warned", "FAILED"


@dataclass
class Outcome:
    kind: str
    detail: str = ""
    quantized: int = 0


def run(quantscope, *arguments):
    return subprocess.run([quantscope, *map(str, arguments)], capture_output=True, text=True)


def load(model_class, path):
    """The model at `path`, and the problems that transformers had with its keys."""
    model, info = model_class.from_pretrained(path, output_loading_info=True)
    return model.eval(), {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}


def different(model, reference):
    """Names of the tensors that differ between two models."""
    found, expected = model.state_dict(), reference.state_dict()
    return sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found or name not in expected or not same(found[name], expected[name])
    )


def same(left, right):
    return left.shape == right.shape and left.dtype == right.dtype and torch.equal(left, right)


def compare(architecture, source, quantized, floats):
    """Describe how the quantized model in transformers differs from the expected one, or None."""
    model_class = getattr(transformers, architecture.model)
    _, known = load(model_class, source)
    try:
        model, problems = load(model_class, quantized)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    if problems != known:
        return f"keys: {json.dumps(problems)[:400]}"
    reference, _ = load(model_class, floats)
    names = different(model, reference)
    if names:
        return f"{len(names)} tensors differ from the dequantized ones: {names[:4]}"
    if not torch.equal(outputs(model, architecture.inputs), outputs(reference, architecture.inputs)):
        return "outputs differ from the dequantized model's"
    return None


def names_loader(warning):
    return "transformers" in warning


def check(quantscope, architecture, scheme, source, directory):
    quantized, floats = directory / "quantized", directory / "floats"
    for path in (quantized, floats):
        shutil.rmtree(path, ignore_errors=True)
    target = ["--for", "transformers", "--scheme", scheme]
    saved = run(quantscope, "quantize", source, "-o", quantized, "--quiet", "--json", *target)
    if saved.returncode != 0:
        written = quantized.exists() or saved.returncode != 1
        return Outcome(FAILED if written else REFUSED, saved.stderr.strip())
    document = json.loads(saved.stdout)
    restored = run(quantscope, "dequantize", quantized, "-o", floats, "--quiet")
    if restored.returncode != 0:
        return Outcome(FAILED, f"dequantize: {restored.stderr.strip()}")
    count = len([key for key in tensor_names(quantized) if key.endswith(".weight_scale")])
    wrong = compare(architecture, source, quantized, floats)
    if wrong is None:
        return Outcome(LOADS, quantized=count)
    warned = [warning for warning in document["warnings"] if names_loader(warning)]
    if warned:
        return Outcome(WARNED, warned[0], count)
    return Outcome(FAILED, wrong, count)


def tensor_names(directory):
    from safetensors import safe_open

    names = []
    for path in sorted(Path(directory).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names.extend(file.keys())
    return names


def print_row(name, scheme, outcome):
    detail = f": {outcome.detail}" if outcome.detail else ""
    print(f"{name:22} {scheme:6} {outcome.kind}, {outcome.quantized} layers{detail}", flush=True)


def write_markdown(path, rows):
    """The table for the manual."""
    lines = ["| architecture | W8A8 | W8A16 |", "|---|---|---|"]
    for name, outcomes in rows.items():
        cells = [f"{o.kind}, {o.quantized} layers" if o.kind == LOADS else f"{o.kind}: {o.detail}" for o in outcomes]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    Path(path).write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantscope")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", action="append", metavar="NAME")
    parser.add_argument("--markdown", metavar="FILE")
    arguments = parser.parse_args()

    rows, counts = {}, {}
    for architecture in ZOO:
        if arguments.only and architecture.name not in arguments.only:
            continue
        directory = arguments.directory / architecture.name
        source = directory / "source"
        architecture.build().save_pretrained(source)
        rows[architecture.name] = []
        for scheme in SCHEMES:
            outcome = check(arguments.quantscope, architecture, scheme, source, directory)
            rows[architecture.name].append(outcome)
            counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
            print_row(architecture.name, scheme, outcome)
        shutil.rmtree(directory)
    print(f"{len(rows)} architectures: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    if arguments.markdown:
        write_markdown(arguments.markdown, rows)
    return FAILED in counts


if __name__ == "__main__":
    sys.exit(main())
