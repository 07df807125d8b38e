"""How long quantscope and llama.cpp take to quantize the same file to each block type.

    python bench_ggml.py QUANTSCOPE DIRECTORY LIBLLAMA [TYPE …]

Needs numpy and gguf, and a libllama that exports llama_model_quantize (npm's
@node-llama-cpp/linux-x64). The file has 34 million parameters in F16 (64 MiB). llama.cpp writes a
file of that type; `analyze` measures the type's error; `quantize --verify digests` writes the file,
reopens it and compares it with the digests that it took while writing.

Prints the processor time of each with one thread, and the wall time with two, in turn: the least
of up to three runs. IQ1, IQ2 and IQ3_XXS are measured with
an importance matrix in both programs. NVFP4 has no mix in llama.cpp.
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
TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q8_0": 7, "q2_K": 10, "q3_K": 12, "q4_K": 15,
         "q5_K": 17, "q6_K": 18, "iq4_nl": 25, "iq4_xs": 30, "mxfp4": 38, "tq1_0": 36, "tq2_0": 37,
         "q1_0": 40, "q2_0": 41, "iq3_s": 26, "iq3_xxs": 23, "iq2_s": 29, "iq2_xs": 20,
         "iq2_xxs": 19, "iq1_m": 31, "iq1_s": 24}
WITH_IMPORTANCE = {"iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"}
LAYERS, WIDTH, FEED = 3, 1024, 2048


class Params(C.Structure):  # struct llama_model_quantize_params, its end left out
    _fields_ = [("threads", C.c_int32), ("file_type", C.c_int), ("output", C.c_int), ("embedding", C.c_int),
                ("requantize", C.c_bool), ("quantize_output", C.c_bool), ("only_copy", C.c_bool),
                ("pure", C.c_bool), ("keep_split", C.c_bool), ("dry_run", C.c_bool),
                ("imatrix", C.c_void_p), ("rest", C.c_uint8 * 256)]


class ImportanceData(C.Structure):  # struct llama_model_imatrix_data
    _fields_ = [("name", C.c_char_p), ("data", C.POINTER(C.c_float)), ("size", C.c_size_t)]


def shapes():
    yield "token_embd", (1024, WIDTH)
    yield "output", (1024, WIDTH)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}", (WIDTH, WIDTH)
        yield f"blk.{layer}.ffn_gate", (FEED, WIDTH)
        yield f"blk.{layer}.ffn_up", (FEED, WIDTH)
        yield f"blk.{layer}.ffn_down", (WIDTH, FEED)


def model(path):
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(LAYERS); w.add_context_length(256); w.add_embedding_length(WIDTH)
    w.add_feed_forward_length(FEED); w.add_head_count(8); w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(1024)
    for name, shape in shapes():
        w.add_tensor(name + ".weight", (rng.standard_normal(shape) * 0.02).astype(np.float16))
    for name in ["output_norm"] + [f"blk.{i}.{n}" for i in range(LAYERS) for n in ("attn_norm", "ffn_norm")]:
        w.add_tensor(name + ".weight", np.ones(WIDTH, np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def importance(path):
    """Writes an importance matrix and returns it as llama_model_quantize takes it."""
    rng = np.random.default_rng(2)
    means = {name + ".weight": rng.gamma(0.5, 1, shape[1]).astype(np.float32) for name, shape in shapes()}
    w = gguf.GGUFWriter(path, "imatrix")
    w.add_type("imatrix"); w.add_array("imatrix.datasets", ["none.txt"])
    w.add_uint32("imatrix.chunk_count", 1); w.add_uint32("imatrix.chunk_size", 512)
    entries = (ImportanceData * (len(means) + 1))()
    for entry, (name, values) in zip(entries, means.items()):
        w.add_tensor(name + ".in_sum2", values[None]); w.add_tensor(name + ".counts", np.ones((1, 1), np.float32))
        entry.name, entry.size, entry.data = name.encode(), values.size, values.ctypes.data_as(C.POINTER(C.c_float))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return means, entries


def seconds(work):
    """Wall time and processor time, children included."""
    start, before = time.perf_counter(), os.times()
    work()
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[:4]) - sum(before[:4])


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
    source, out, matrix = (directory / name for name in ("bench.gguf", "bench-out.gguf", "bench-imatrix.gguf"))
    model(source)
    kept, entries = importance(matrix)
    print("             processor seconds, one thread                    wall seconds, two threads")
    print("type      llama.cpp  analyze       quantize         llama.cpp  analyze       quantize")
    for name in types or TYPES:
        known = ["--activations", matrix] if name in WITH_IMPORTANCE else []
        def theirs(threads):
            params = llama.llama_model_quantize_default_params()
            params.threads, params.file_type, params.pure = threads, TYPES[name], True
            params.imatrix = C.addressof(entries) if known else None
            if llama.llama_model_quantize(str(source).encode(), str(out).encode(), C.byref(params)):
                raise ValueError(f"llama_model_quantize fails for {name}")
        def ours(threads, command, *options):
            option = "--schemes" if command == "analyze" else "--scheme"
            subprocess.run([quantscope, command, source, option, name, "--quiet", "--threads", str(threads),
                            *known, *options], check=True, capture_output=True)
        def row(threads, which):
            jobs = [lambda: theirs(threads), lambda: ours(threads, "analyze", "--no-cache"),
                    lambda: ours(threads, "quantize", "-o", out, "--force", "--verify", "digests")]
            runs = [[seconds(job)[which] for job in jobs]]
            while len(runs) < 3 and runs[0][0] < 8:
                runs.append([seconds(job)[which] for job in jobs])
            base, *rest = (min(column) for column in zip(*runs))
            return f"{base:9.2f}  " + "  ".join(f"{x:6.2f} ({x / base:4.2f} x)" for x in rest)
        try:
            print(f"{name:9} {row(1, 1)}  {row(2, 0)}", flush=True)
        except ValueError as error:
            print(f"{name:9} {error}", flush=True)
    out.unlink(missing_ok=True)


main()
