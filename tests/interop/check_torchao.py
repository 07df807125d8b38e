"""Load `--for torchao` directories in transformers with torchao.

    check_torchao.py SOURCE FLOATS OUT ...

Each OUT is an output of `quantscope quantize SOURCE --for torchao`, and FLOATS/NAME, with the
name of OUT, is the output of `quantscope dequantize` for it. Every quantized weight must be an
Int8Tensor whose `dequantize` gives the floats bit for bit, every other weight must be that of
the source, and the logits must be those of the dequantized model.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchao.quantization import Int8Tensor
from transformers import AutoModelForCausalLM


def tensors(directory):
    found = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        found |= load_file(file)
    return found


def check(source, floats, out):
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    problems = [f"{key}: {value}" for key, value in info.items() if value]
    original, expected = tensors(source), tensors(floats)
    quantized = 0
    for name, parameter in model.named_parameters():
        weight = parameter.data
        if isinstance(weight, Int8Tensor):
            quantized += 1
            same = torch.equal(weight.dequantize(expected[name].dtype), expected[name])
        else:
            same = torch.equal(weight, original[name])
        if not same:
            problems.append(f"{name} differs")
    plain = AutoModelForCausalLM.from_pretrained(floats)
    ids = torch.arange(24).reshape(2, 12) * 7 % model.config.vocab_size
    with torch.no_grad():
        a, b = model(ids).logits.float(), plain(ids).logits.float()
    error = ((a - b).norm() / b.norm()).item()
    # The layer does not round the dequantized weight, so logits are only close.
    if error > 0.02 or not quantized:
        problems.append(f"logits differ by {error:.5f}")
    print(f"{out.name}: {quantized} quantized, logits {error:.5f}", *problems, sep="\n  ")
    return not problems


def main():
    source, floats, *outs = map(Path, sys.argv[1:])
    # A list rather than a generator, so that all are checked even after a failure.
    sys.exit(0 if all([check(source, floats / out.name, out) for out in outs]) else 1)


if __name__ == "__main__":
    main()
