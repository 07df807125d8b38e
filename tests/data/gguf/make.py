"""Creates the GGUF fixtures with gguf-py 0.19 and numpy; run it in this directory.

blocks.gguf       one tensor of every block type that is decoded
blocks.safetensors  the same tensors decoded by gguf-py, in F32
floats.gguf       tensors in F32, F16 and BF16, including some that Q8_0 cannot hold
floats-q8_0.gguf  the same quantized by gguf-py to Q8_0, as a converter writes it
synth-a32.gguf    created separately: every metadata type, and F32, F16, BF16 and Q4_0 tensors
"""

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES
from safetensors.numpy import save_file

rng = np.random.default_rng(7)
QUANTIZED = [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.MXFP4]
# gguf-py can read but not write these types, so the blocks are random. The numbers are the
# offsets of their F16 scales, which must stay finite.
RANDOM = {T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
          T.IQ4_NL: [0], T.IQ4_XS: [0]}


def random_blocks(qtype, halves):
    elements, size = GGML_QUANT_SIZES[qtype]
    rows = 2 if elements == 256 else 4
    blocks = rng.integers(0, 256, (rows, size), dtype=np.uint8)
    for at in halves:
        scales = rng.normal(0, 0.01, rows).astype(np.float16)
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(rows, 2)
    return blocks


def blocks():
    writer = GGUFWriter("blocks.gguf", "llama")
    expected = {}
    for qtype in QUANTIZED:
        data = quants.quantize(rng.normal(0, 1, (2, 64)).astype(np.float32), qtype)
        writer.add_tensor(qtype.name, data, raw_dtype=qtype)
        expected[qtype.name] = quants.dequantize(data, qtype)
    for qtype, halves in RANDOM.items():
        data = random_blocks(qtype, halves)
        writer.add_tensor(qtype.name, data, raw_dtype=qtype)
        expected[qtype.name] = quants.dequantize(data, qtype)
    # gguf-py does not decode Q8_K: a scale in F32, 256 values, 16 sums of two bytes.
    data = rng.integers(0, 256, (2, 292), dtype=np.uint8)
    scales = rng.normal(0, 0.01, 2).astype(np.float32)
    data[:, :4] = scales.view(np.uint8).reshape(2, 4)
    writer.add_tensor("Q8_K", data, raw_dtype=T.Q8_K)
    expected["Q8_K"] = scales[:, None] * data[:, 4:260].view(np.int8).astype(np.float32)
    for qtype in [T.IQ2_XXS, T.TQ1_0]:
        elements, size = GGML_QUANT_SIZES[qtype]
        writer.add_tensor(qtype.name, np.zeros((2, size), np.uint8), raw_dtype=qtype)
    finish(writer)
    save_file(expected, "blocks.safetensors")


def floats():
    weights = rng.normal(0, 0.02, (6, 96)).astype(np.float32)
    weights[1, :32] = 0
    # Ties: multiples of one half, in a block with scale 1.
    weights[2, :32] = np.arange(32, dtype=np.float32) + 0.5
    weights[2, 0] = -127
    weights[3, 32:64] *= 1e-30
    tensors = {
        "blk.0.attn_q.weight": (weights, T.F32),
        "blk.0.ffn_up.weight": (weights[:, :64].astype(np.float16), T.F16),
        "blk.0.ffn_down.weight": (quants.quantize(weights[:, :32], T.BF16), T.BF16),
        "blk.0.odd.weight": (weights[:, :33].copy(), T.F32),
        "blk.0.attn_norm.weight": (weights[0], T.F32),
        "blk.0.ffn_gate_inp.weight": (weights[:, :64].copy(), T.F32),
        "output.weight": (quants.quantize(weights, T.Q5_1), T.Q5_1),
    }
    big = {"blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"}
    for name, file_type in [("floats.gguf", 1), ("floats-q8_0.gguf", 7)]:
        writer = GGUFWriter(name, "llama")
        writer.add_name("floats")
        writer.add_file_type(file_type)
        writer.add_quantization_version(2)
        writer.add_token_list(["<s>", "a", "b"])
        writer.add_custom_alignment(64)
        for tensor, (data, qtype) in tensors.items():
            if tensor in big and file_type == 7:
                data = quants.quantize(quants.dequantize(data, qtype), T.Q8_0)
                qtype = T.Q8_0
            writer.add_tensor(tensor, data, raw_dtype=qtype)
        finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


blocks()
floats()
