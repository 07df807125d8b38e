"""How long quantscope and llama.cpp take to quantize the same file to each block type.

    python bench_ggml.py QUANTSCOPE DIRECTORY LIBLLAMA [TYPE …]

Needs numpy and gguf, and a libllama that exports llama_model_quantize (npm's
@node-llama-cpp/linux-x64). The file has 50 million parameters in F16. Both use two threads, and
the best of two runs counts. quantscope writes, reopens the output and compares it: with the
source, which quantizes everything again, and with the digests that it took while writing.
"""

import ctypes as C
import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np

# type -> the mix of llama.cpp that makes all tensors of that type with `pure`
TYPES = {"q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_K": 10, "q3_K": 12, "q4_K": 15,
         "q5_K": 17, "q6_K": 18, "iq4_nl": 25, "iq3_s": 26, "iq4_xs": 30, "tq1_0": 36, "tq2_0": 37}
THREADS, LAYERS = 2, 8


class Params(C.Structure):  # struct llama_model_quantize_params, its end left out
    _fields_ = [("threads", C.c_int32), ("file_type", C.c_int), ("output", C.c_int), ("embedding", C.c_int),
                ("requantize", C.c_bool), ("quantize_output", C.c_bool), ("only_copy", C.c_bool),
                ("pure", C.c_bool), ("rest", C.c_uint8 * 256)]


def model(path, width=1024, feed=2048, vocabulary=1024):
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(LAYERS); w.add_context_length(256); w.add_embedding_length(width)
    w.add_feed_forward_length(feed); w.add_head_count(8); w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocabulary)
    add = lambda name, *shape: w.add_tensor(name + ".weight", (rng.standard_normal(shape) * 0.02).astype(np.float16))
    add("token_embd", vocabulary, width); add("output", vocabulary, width)
    w.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}", width, width)
        add(f"blk.{layer}.ffn_gate", feed, width); add(f"blk.{layer}.ffn_up", feed, width)
        add(f"blk.{layer}.ffn_down", width, feed)
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def seconds(work):
    """Wall time and processor time of the faster of two runs, children included."""
    best = None
    for _ in range(2):
        start, before = time.perf_counter(), os.times()
        work()
        wall, after = time.perf_counter() - start, os.times()
        used = sum(after[:4]) - sum(before[:4])
        best = min(best or (wall, used), (wall, used))
    return best


def main():
    quantscope, directory, library, *types = sys.argv[1:]
    directory, library = Path(directory), Path(library)
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("libggml-base.so", "libggml.v0.5.0.so"):
        if (library.parent / name).exists():
            C.CDLL(str(library.parent / name), mode=C.RTLD_GLOBAL)
    llama = C.CDLL(str(library))
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.argtypes = [C.c_char_p, C.c_char_p, C.POINTER(Params)]
    llama.llama_backend_init()
    log = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)(lambda *_: None)
    llama.llama_log_set(log, None)
    source, out = directory / "bench.gguf", directory / "bench-out.gguf"
    if not source.exists():
        model(source)
    print("seconds, wall (processor)   llama.cpp    quantscope, digests    quantscope, full")
    for name in types or TYPES:
        def theirs():
            params = llama.llama_model_quantize_default_params()
            params.threads, params.file_type, params.pure = THREADS, TYPES[name], True
            if llama.llama_model_quantize(str(source).encode(), str(out).encode(), C.byref(params)):
                sys.exit(f"llama_model_quantize fails for {name}")
        def ours(against):
            subprocess.run([quantscope, "quantize", source, "--scheme", name, "-o", out, "--force", "--quiet",
                            "--threads", str(THREADS), "--verify", against], check=True, capture_output=True)
        cells = [seconds(theirs), seconds(lambda: ours("digests")), seconds(lambda: ours("full"))]
        print(f"{name:24}" + "".join(f"{wall:8.2f} ({used:.2f})      " for wall, used in cells), flush=True)
    out.unlink(missing_ok=True)


main()
