"""Compare tensors decoded by quantscope with the values of each format's owner.

Usage: check_reading.py QUANTSCOPE DIRECTORY, where DIRECTORY holds the fixtures of
fixtures/make_*.py. Each with expected.safetensors is dequantized to F32 and must be
equal bit for bit; rotated values may differ by 1e-6 of a row's absolute maximum.
"""

import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

# Formats that quantscope recognises but does not decode, although expected values exist.
NAMED = ("comfy-w4a8",)

ROTATED = ("comfy-int8-convrot", "comfy-convrot-w4a4")


def dequantized(quantscope, fixture, directory):
    """The float tensors that quantscope decodes from a fixture."""
    out = pathlib.Path(directory) / f"{fixture.name}.safetensors"
    command = [quantscope, "dequantize", fixture / "model.safetensors", "-o", out, "--dtype", "f32", "--quiet"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise ValueError(ran.stderr.strip())
    return load_file(out)


def difference(name, found, expected):
    """Describe the difference between two tensors; None if they are equal."""
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    found, expected = found.float(), expected.float()
    if torch.equal(found.view(torch.int32), expected.view(torch.int32)):
        return None
    worst = (found - expected).abs()
    if name in ROTATED and bool((worst <= 1e-6 * expected.abs().amax(-1, keepdim=True)).all()):
        return None
    return f"largest difference {worst.max().item()}"


def main(quantscope, root):
    compared = failed = 0
    fixtures = sorted(path.parent for path in pathlib.Path(root).glob("**/expected.safetensors"))
    fixtures = [fixture for fixture in fixtures if fixture.name not in NAMED]
    with tempfile.TemporaryDirectory() as directory:
        for fixture in fixtures:
            try:
                found = dequantized(quantscope, fixture, directory)
            except ValueError as error:
                print(f"{fixture.name}: {error}")
                failed += 1
                continue
            for name, expected in load_file(fixture / "expected.safetensors").items():
                wrong = difference(fixture.name, found[name], expected) if name in found else "it is missing"
                compared += 1
                if wrong:
                    print(f"{fixture.name}: {name}: {wrong}")
                    failed += 1
    print(f"{compared} tensors of {len(fixtures)} files compared, {failed} differ")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
