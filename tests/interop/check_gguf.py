"""Write a GGUF with gguf-py, and read quantscope's outputs with it.

    check_gguf.py make MODEL GGUF               MODEL's tensors as F32, F16 and BF16 in turn
    check_gguf.py check GGUF Q8_0 FLOATS        `quantscope quantize --format gguf`, and
                                                `quantscope dequantize --dtype f32` of that

All metadata must be unchanged except the file type. Blocks must equal those of gguf-py's
quantizer bit for bit, other tensors must be unchanged, and FLOATS must equal the output of
gguf-py's decoder.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, quants
from safetensors.torch import load_file

FLOATS = [Type.F32, Type.F16, Type.BF16]
# The keys that describe the tensor types, which must change with them.
PATCHED = {"general.file_type": 7, "general.quantization_version": 2}


def make(model, path):
    writer = GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(6)
    writer.add_float32("x.f32", 1.5)
    writer.add_bool("x.bool", True)
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_array("tokenizer.ggml.tokens", ["[PAD]", "naïve ✓", ""])
    writer.add_custom_alignment(64)
    tensors = load_file(Path(model) / "model.safetensors")
    for number, (name, tensor) in enumerate(sorted(tensors.items())):
        if not tensor.is_floating_point():
            continue
        values = tensor.numpy()
        # Vectors stay F32, as in llama.cpp's converters.
        kind = FLOATS[number % 3] if values.ndim > 1 else Type.F32
        stored = quants.quantize(values, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def values(reader):
    return {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }


def check(source_path, path, floats_path):
    source, found = GGUFReader(source_path), GGUFReader(path)
    problems = []
    before, after = values(source), values(found)
    for key in before.keys() | after.keys():
        expected = PATCHED.get(key, before.get(key))
        if after.get(key) != expected:
            problems.append(f"{key}: {after.get(key)!r}, expected {expected!r}")
    originals = {tensor.name: tensor for tensor in source.tensors}
    floats = load_file(floats_path)
    if [t.name for t in found.tensors] != list(originals) or floats.keys() != originals.keys():
        problems.append("the tensors are not those of the source, in its order")
    quantized = 0
    for tensor in found.tensors:
        original = originals[tensor.name]
        if list(tensor.shape) != list(original.shape):
            problems.append(f"{tensor.name}: shape {tensor.shape}, expected {original.shape}")
        if tensor.tensor_type == Type.Q8_0:
            quantized += 1
            x = quants.dequantize(original.data, original.tensor_type)
            expected = quants.quantize(x.reshape(original.shape[::-1]), Type.Q8_0)
            decoded = quants.dequantize(tensor.data, Type.Q8_0)
        elif tensor.tensor_type == original.tensor_type:
            expected = decoded = original.data
        else:
            problems.append(f"{tensor.name}: {tensor.tensor_type.name}")
            continue
        if tensor.data.tobytes() != np.ascontiguousarray(expected).tobytes():
            problems.append(f"{tensor.name}: its bytes are not gguf-py's")
        given_back = floats[tensor.name].contiguous().flatten().view(torch.uint8).numpy()
        if given_back.tobytes() != np.ascontiguousarray(decoded).tobytes():
            problems.append(f"{tensor.name}: the floats are not gguf-py's")
    if not quantized:
        problems.append("nothing was quantized")
    print(
        f"{'FAILED' if problems else 'ok'} {Path(path).name}: {quantized} of {len(originals)} "
        f"tensors Q8_0 to the bit, {len(after)} key-values the same but the file's type"
    )
    for problem in problems:
        print(f"    {problem}")
    return bool(problems)


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    sys.exit({"make": make, "check": check}[command](*paths))
