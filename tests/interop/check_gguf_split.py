"""Open quantscope's outputs of a split GGUF model with gguf-py and llama.cpp.

    check_gguf_split.py QUANTSCOPE DIRECTORY

Writes a small Llama in three parts into DIRECTORY, quantizes it into one file and into the
same parts, and loads both in llama.cpp (xllamacpp). Both must have every tensor once and give
the same tokens.
"""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import xllamacpp
from gguf import GGUFReader, GGUFWriter

WIDTH, LAYERS, VOCABULARY, INNER = 64, 2, 96, 128


def make(directory):
    """Write the parts of a Llama with random weights, and return the path of the first."""
    random = np.random.default_rng(0)
    writer = GGUFWriter(directory / "m.gguf", "llama", split_max_tensors=8)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{n:02X}>" for n in range(10)]
    tokens += [f"▁{chr(97 + n % 26)}{n}" for n in range(VOCABULARY - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3] + [6] * 10 + [1] * (VOCABULARY - 13))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def add(name, *shape):
        writer.add_tensor(name, (random.standard_normal(shape) * 0.1).astype(np.float32))

    add("token_embd.weight", VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm.weight", WIDTH)
        for part in "q", "k", "v", "output":
            add(f"blk.{layer}.attn_{part}.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_norm.weight", WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", INNER, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
    add("output_norm.weight", WIDTH)
    add("output.weight", VOCABULARY, WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(directory.glob("m-*.gguf"))


def tokens(path):
    """The first tokens that llama.cpp generates."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_predict = 8
    params.n_ctx = 64
    params.warmup = False
    params.sampling.temp = 0
    params.sampling.seed = 1
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": [1, 20, 30, 40], "max_tokens": 8, "temperature": 0})
    return answer["choices"][0]["text"] if "choices" in answer else answer["content"]


def main(quantscope, directory):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parts = make(directory)
    joined, same = directory / "joined.gguf", directory / "parts"
    for out in joined, same:
        command = [quantscope, "quantize", parts[0], "-o", out, "--format", "gguf", "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    expected = sorted(t.name for part in parts for t in GGUFReader(part).tensors)
    problems = []
    found_parts = sorted(same.glob("*.gguf"))
    if [p.name for p in found_parts] != [p.name for p in parts]:
        problems.append(f"parts are {[p.name for p in found_parts]}")
    for name, files in ("joined", [joined]), ("parts", found_parts):
        readers = [GGUFReader(file) for file in files]
        if sorted(t.name for r in readers for t in r.tensors) != expected:
            problems.append(f"{name}: not every tensor once")
    if any(key.startswith("split.") for key in GGUFReader(joined).fields):
        problems.append("joined: split keys are left")
    answers = {path: tokens(path) for path in (parts[0], joined, found_parts[0])}
    if len({answers[joined], answers[found_parts[0]]}) != 1:
        problems.append(f"llama.cpp's answers differ: {answers}")
    print(f"{'FAILED' if problems else 'ok'} {len(parts)} parts: {len(expected)} tensors, {answers[joined]!r}")
    for problem in problems:
        print(f"    {problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
