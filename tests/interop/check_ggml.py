"""GGUF block types against ggml itself.

    python check_ggml.py QUANTSCOPE DIRECTORY [--models DIRECTORY] [--llama LIBLLAMA]

Needs numpy, gguf and xllamacpp (2026.10 or later; it exports ggml's and llama.cpp's functions).

rows    Every block type, on rows of several widths, equals ggml_quantize_chunk byte for byte, and
        `dequantize` gives ggml's floats.
logits  A tiny Llama and a tiny Mixtral, and with --models the models that `gguf_kl.py train` makes,
        load in llama.cpp in every mix and in types without a mix. The logits are those of a model in
        numpy that has the weights of `dequantize` and rounds the inputs of each quantized layer to
        8 bits as ggml does; and llama.cpp's logits of the F32 model that `dequantize` makes are
        those of the same numpy model without that rounding.
floats  With --llama: llama.cpp makes the same models in all mixes F32 itself
        (llama_model_quantize to F32). All tensors are those of `dequantize` bit for bit, and the
        logits of the two F32 models in llama.cpp are the same.
mixes   With --llama, a libllama that exports llama_model_quantize (npm's
        @node-llama-cpp/linux-x64): the tensor types and bytes of whole files are the same, for a
        Llama, Mixtrals with 8 and 4 experts, Qwen2-MoE with a shared expert and Qwen3-MoE with 16
        experts, with and without an importance matrix.

With --only, only these parts.
"""

import argparse
import ctypes as C
import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import xllamacpp
from gguf import GGMLQuantizationType as T

BLOCKS = ["Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
          "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_M", "TQ1_0", "TQ2_0",
          "MXFP4", "NVFP4"]
IDS = {"IQ2_XXS": 16, "IQ2_XS": 17, "IQ1_S": 19, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
       "Q5_K": 13, "Q6_K": 14, "IQ3_XXS": 18, "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23,
       "IQ1_M": 29, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40, "Q1_0": 41, "Q2_0": 42}
NAMES = {number: name for name, number in IDS.items()}
WIDTHS = [32, 64, 96, 128, 224, 256, 320, 512, 1280, 2304]
MIXES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q3_K_M": 12, "Q2_K": 10, "IQ4_XS": 30, "Q4_K_S": 14,
         "Q5_K_S": 16, "Q3_K_S": 11, "Q3_K_L": 13, "Q6_K": 18, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3,
         "Q5_0": 8, "Q5_1": 9, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "TQ1_0": 36, "TQ2_0": 37,
         "MXFP4_MOE": 38, "Q1_0": 40, "Q2_0": 41}
# llama-quantize refuses these without importance.
LOW_MIXES = {"IQ2_XXS": 19, "IQ2_XS": 20, "Q2_K_S": 21, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24,
             "IQ2_S": 28, "IQ2_M": 29, "IQ1_M": 31}


class Traits(C.Structure):  # struct ggml_type_traits
    _fields_ = [("name", C.c_char_p), ("block", C.c_int64), ("interleave", C.c_int64),
                ("size", C.c_size_t), ("is_quantized", C.c_bool),
                ("to_float", C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_int64)),
                ("from_float", C.c_void_p)]


def open_ggml():
    lib = C.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    lib.ggml_row_size.restype = C.c_size_t
    lib.ggml_row_size.argtypes = [C.c_int, C.c_int64]
    lib.ggml_quantize_chunk.restype = C.c_size_t
    lib.ggml_quantize_chunk.argtypes = [C.c_int, C.c_void_p, C.c_void_p] + [C.c_int64] * 3 + [C.c_void_p]
    lib.ggml_get_type_traits.restype = C.POINTER(Traits)
    return lib


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments}\n{done.stdout}{done.stderr}")


# name -> (number of the type, bytes), read without gguf-py, which lacks the newest types
def stored(path, lib):
    data = Path(path).read_bytes()
    at = 8
    def number(kind):
        nonlocal at
        size = np.dtype(kind).itemsize
        at += size
        return int(np.frombuffer(data, kind, 1, at - size)[0])
    def text():
        nonlocal at
        length = number("u8")
        at += length
        return data[at - length:at].decode()
    def skip(kind):
        nonlocal at
        if kind == 8:
            text()
        elif kind == 9:
            inner, length = number("u4"), number("u8")
            for _ in range(length):
                skip(inner)
        else:
            at += {0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 4: 4, 5: 4, 6: 4}.get(kind, 8)
    tensors, keys, alignment = number("u8"), number("u8"), 32
    for _ in range(keys):
        text()
        skip(number("u4"))
    infos = []
    for _ in range(tensors):
        name = text()
        dims = [number("u8") for _ in range(number("u4"))]
        infos.append((name, dims, number("u4"), number("u8")))
    start = -(-at // alignment) * alignment
    found = {}
    for name, dims, kind, offset in infos:
        size = lib.ggml_row_size(kind, dims[0]) * int(np.prod(dims[1:], initial=1))
        found[name] = (kind, data[start + offset:start + offset + size])
    return found


def load(path):
    """The tensors of a safetensors file of F32 and F16, as F32."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    entries.pop("__metadata__", None)
    kinds = {"F32": np.float32, "F16": np.float16}
    return {name: np.frombuffer(data, kinds[e["dtype"]], offset=start + e["data_offsets"][0],
                                count=int(np.prod(e["shape"]))).reshape(e["shape"]).astype(np.float32)
            for name, e in entries.items()}


def check_rows(quantscope, directory, lib):
    rng = np.random.default_rng(20)
    rows = {}
    for width in WIDTHS:
        x = rng.standard_normal((6, width)).astype(np.float32) * 0.02
        x[1] *= 1e-3
        x[2, rng.integers(width)] = 3
        x[3, :width // 2] = 0
        x[4] = np.round(x[4] * 128) / 128
        x[5] = rng.laplace(0, 0.05, width)
        rows[f"blk.{width}.attn_q.weight"] = np.ascontiguousarray(x)
    source = directory / "rows.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    for name, x in rows.items():
        writer.add_tensor(name, x)
    writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file()
    writer.close()
    wrong = 0
    for block in BLOCKS:
        out, floats = directory / f"rows-{block}.gguf", directory / f"rows-{block}.safetensors"
        run(quantscope, "quantize", source, "--scheme", block.lower(), "-o", out, "--force", "--quiet")
        run(quantscope, "dequantize", out, "-o", floats, "--force", "--quiet")
        restored = load(floats)
        kinds = {}
        for name, (kind, raw) in stored(out, lib).items():
            x = rows[name]
            if kind == 0:
                continue  # no block divides these rows
            expected = np.zeros(len(raw), np.uint8)
            lib.ggml_quantize_chunk(kind, x.ctypes.data, expected.ctypes.data, 0, *x.shape, None)
            decoded = np.empty_like(x)
            lib.ggml_get_type_traits(kind).contents.to_float(expected.ctypes.data, decoded.ctypes.data, x.size)
            kinds.setdefault(NAMES[kind], []).append(x.shape[1])
            if raw != expected.tobytes():
                wrong += 1
                print(f"  {block}: {name} as {NAMES[kind]} differs from ggml")
            elif (decoded.view(np.uint32) != restored[name].view(np.uint32)).any():
                wrong += 1
                print(f"  {block}: {name} decodes to other floats")
        print(f"{block}: {', '.join(f'{kind} {widths}' for kind, widths in kinds.items())}")
    return wrong


WIDTH, VOCABULARY, HEADS, KEYS = 256, 384, 8, 2


def tiny_llama(path, layers=8, width=WIDTH, feed=512, vocabulary=VOCABULARY, heads=HEADS, keys=KEYS,
               experts=0, architecture="llama"):
    rng = np.random.default_rng(3)
    w = gguf.GGUFWriter(path, architecture)
    w.add_name("tiny"); w.add_block_count(layers); w.add_context_length(256)
    w.add_embedding_length(width); w.add_feed_forward_length(feed); w.add_head_count(heads)
    w.add_head_count_kv(keys); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(10000.0)
    w.add_vocab_size(vocabulary); w.add_rope_dimension_count(width // heads)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if experts:
        w.add_expert_count(experts); w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(feed); w.add_expert_shared_feed_forward_length(feed)
    w.add_key_length(width // heads); w.add_value_length(width // heads)
    tokens = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    w.add_tokenizer_model("llama"); w.add_tokenizer_pre("default")
    w.add_token_list(tokens + ["w%d" % i for i in range(vocabulary - 259)])
    w.add_token_scores([0.0] * 3 + [-1000.0] * (vocabulary - 3))
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocabulary - 259))
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0)
    def add(name, shape, scale=0.06):
        x = np.ones(shape) if len(shape) == 1 else rng.standard_normal(shape) * scale
        floats = len(shape) == 1 or "ffn_gate_inp" in name
        w.add_tensor(name, x.astype(np.float32 if floats else np.float16))
    add("token_embd.weight", (vocabulary, width), 0.5)
    add("output_norm.weight", (width,)); add("output.weight", (vocabulary, width))
    kv = keys * width // heads
    dense = [("ffn_gate", (feed, width)), ("ffn_up", (feed, width)), ("ffn_down", (width, feed))]
    merged = [(name + "_exps", (experts, *shape)) for name, shape in dense]
    ffn = merged + [("ffn_gate_inp", (experts, width))] if experts else dense
    if architecture == "qwen2moe":
        ffn += [(name + "_shexp", shape) for name, shape in dense] + [("ffn_gate_inp_shexp", (width,))]
        for layer in range(layers):
            for name, length in [("attn_q", width), ("attn_k", kv), ("attn_v", kv)]:
                add(f"blk.{layer}.{name}.bias", (length,))
    if architecture == "qwen3moe":
        ffn += [("attn_q_norm", (width // heads,)), ("attn_k_norm", (width // heads,))]
    for layer in range(layers):
        for name, shape in [("attn_q", (width, width)), ("attn_k", (kv, width)), ("attn_v", (kv, width)),
                            ("attn_output", (width, width)), *ffn,
                            ("attn_norm", (width,)), ("ffn_norm", (width,))]:
            add(f"blk.{layer}.{name}.weight", shape)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


class Opaque(C.Structure):
    """A struct of parameters that is only passed on; the largest of them is smaller."""
    _fields_ = [("words", C.c_uint32 * 128)]


class Batch(C.Structure):
    _fields_ = [("tokens", C.c_int32)] + [(f"p{i}", C.c_void_p) for i in range(6)]


def logits(lib, path, texts):
    """The logits of each token of some texts, which are independent of each other."""
    lib.llama_model_default_params.restype = Opaque
    lib.llama_context_default_params.restype = Opaque
    lib.llama_model_load_from_file.restype = C.c_void_p
    lib.llama_model_load_from_file.argtypes = [C.c_char_p, Opaque]
    lib.llama_init_from_model.restype = C.c_void_p
    lib.llama_init_from_model.argtypes = [C.c_void_p, Opaque]
    lib.llama_batch_get_one.restype = Batch
    lib.llama_batch_get_one.argtypes = [C.c_void_p, C.c_int32]
    lib.llama_decode.argtypes = [C.c_void_p, Batch]
    lib.llama_get_logits_ith.restype = C.POINTER(C.c_float)
    lib.llama_get_logits_ith.argtypes = [C.c_void_p, C.c_int32]
    lib.llama_free.argtypes = lib.llama_model_free.argtypes = [C.c_void_p]
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp does not load {path}")
    # Keys and values in F32, without flash attention: their rounding to F16 would change how the
    # inputs of later layers are rounded to 8 bits.
    params = lib.llama_context_default_params()
    flash, keys, values = 13, 26, 27  # words of struct llama_context_params
    if (params.words[keys], params.words[values]) != (1, 1):
        sys.exit("struct llama_context_params has changed")
    params.words[flash] = params.words[keys] = params.words[values] = 0
    rows = []
    for text in texts:
        context = lib.llama_init_from_model(model, params)
        for token in text:
            one = (C.c_int32 * 1)(token)
            if lib.llama_decode(context, lib.llama_batch_get_one(one, 1)):
                sys.exit(f"llama.cpp does not run {path}")
            rows.append(np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (VOCABULARY,)).copy())
        lib.llama_free(context)
    lib.llama_model_free(model)
    return np.stack(rows)


def round_inputs(x, kind):
    """As ggml rounds the inputs of a layer of that type: quantize_row_q8_K and _q8_0. The products
    are those of ggml's code for AVX2: a row of the token embedding times a scale has many ties."""
    if kind not in (0, 1):  # F32, F16
        eight_k = NAMES[kind].startswith(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1", "IQ2", "IQ3", "IQ4_XS", "TQ"))
        blocks = x.reshape(-1, 256 if eight_k else 32)
        if eight_k:
            largest = np.take_along_axis(blocks, abs(blocks).argmax(-1, keepdims=True), -1)
            scale = np.float32(-127) / largest
            x = np.minimum(np.rint(scale * blocks), 127) * (np.float32(1) / scale)
        else:
            largest = abs(blocks).max(-1, keepdims=True)
            d = (largest / np.float32(127)).astype(np.float16).astype(np.float32)
            x = np.rint(blocks * (np.float32(127) / largest)) * d
    return x.reshape(-1)


def block_minima(kind, raw, shape):
    """The minimum of each block of a Q4_1 or Q5_1 tensor; None for other types."""
    size = {"Q4_1": 20, "Q5_1": 24}.get(NAMES.get(kind))
    if size:
        minima = np.frombuffer(raw, np.uint8).reshape(-1, size)[:, 2:4].copy().view(np.float16)
        return minima.astype(np.float32).reshape(*shape[:-1], shape[-1] // 32)


def sum_errors(x):
    """How far the sums of blocks in ggml's quantize_row_q8_1, which are F16, are from those of the
    rounded inputs. They are multiplied with the minima of Q4_1 and Q5_1."""
    blocks = x.reshape(-1, 32)
    scale = abs(blocks).max(-1) / np.float32(127)
    whole = np.rint(blocks * (np.float32(1) / scale)[:, None]).sum(-1)
    half = lambda y: y.astype(np.float16).astype(np.float32)
    return half(scale * whole) - half(scale) * whole


def parameters(path):
    """The parameters of a Llama or Mixtral that numpy_llama needs."""
    fields = gguf.GGUFReader(path).fields
    number = lambda key: int(fields[f"llama.{key}"].contents()) if f"llama.{key}" in fields else 0
    return {"layers": number("block_count"), "heads": number("attention.head_count"),
            "keys": number("attention.head_count_kv"), "active": number("expert_used_count")}


def numpy_llama(weights, blocks, tokens, layers, heads, keys, active):
    """Logits of each token; `blocks` has the type and bytes of each weight whose inputs are rounded."""
    w = {name.removesuffix(".weight"): value.astype(np.float32) for name, value in weights.items()}
    size, out = w["token_embd"].shape[1] // heads, []
    kinds = {name.removesuffix(".weight"): kind for name, (kind, _) in blocks.items()}
    minima = {name.removesuffix(".weight"): block_minima(*block, weights[name].shape)
              for name, block in blocks.items()}
    cache = [([], []) for _ in range(layers)]
    frequency = 10000.0 ** (-np.arange(0, size, 2) / size)

    def norm(x, name):
        mean = np.float32(np.sum(np.square(x.astype(np.float32)), dtype=np.float64) / x.size)
        return x.astype(np.float32) * (np.float32(1) / np.sqrt(mean + np.float32(1e-5))) * w[name]

    def linear(x, name, expert=None):
        part = slice(None) if expert is None else expert
        y = w[name][part] @ round_inputs(x, kinds.get(name, 0))
        return y if minima.get(name) is None else y + minima[name][part] @ sum_errors(x)

    def rope(x, place):
        a, b, turn = x[:, 0::2], x[:, 1::2], place * frequency
        return np.stack([a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)], -1).reshape(x.shape)

    def feed_forward(h, p, suffix="", expert=None):
        gate = linear(h, f"{p}ffn_gate{suffix}", expert)
        up = linear(h, f"{p}ffn_up{suffix}", expert)
        return linear(gate / (1 + np.exp(-gate)) * up, f"{p}ffn_down{suffix}", expert)

    def mixture(h, p):
        scores = linear(h, p + "ffn_gate_inp")
        shares = np.exp(scores - scores.max())
        chosen = np.argsort(-shares)[:active]
        total = shares[chosen].sum()
        return sum(shares[e] / total * feed_forward(h, p, "_exps", e) for e in chosen)

    for place, token in enumerate(tokens):
        x = w["token_embd"][token]
        for layer in range(layers):
            p, (past_keys, past_values) = f"blk.{layer}.", cache[layer]
            h = norm(x, p + "attn_norm")
            q = rope(linear(h, p + "attn_q").reshape(heads, size), place)
            past_keys.append(rope(linear(h, p + "attn_k").reshape(keys, size), place).astype(np.float32))
            past_values.append(linear(h, p + "attn_v").reshape(keys, size).astype(np.float32))
            k, v = (np.repeat(np.stack(c, 1).astype(np.float32), heads // keys, 0) for c in (past_keys, past_values))
            scores = np.einsum("hd,htd->ht", q, k) / np.sqrt(size)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            y = np.einsum("ht,htd->hd", scores / scores.sum(-1, keepdims=True), v)
            x = x + linear(y.reshape(-1).astype(np.float32), p + "attn_output")
            h = norm(x, p + "ffn_norm")
            x = x + (mixture(h, p) if active else feed_forward(h, p))
        out.append(linear(norm(x, "output_norm"), "output"))
    return np.stack(out)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def each_model(directory, lib, models):
    """The models, each with an importance matrix."""
    tiny_llama(directory / "tiny.gguf", layers=LAYERS)
    tiny_llama(directory / "tiny-mixtral.gguf", layers=LAYERS, feed=256, experts=8)
    found = [directory / "tiny.gguf", directory / "tiny-mixtral.gguf"]
    if models:
        found += [path for path in sorted(models.glob("*.gguf")) if not path.stem.endswith(".imatrix")]
    for source in found:
        matrix = source.with_suffix(".imatrix.gguf")
        if not (models and source.parent == models):
            importance_matrix(matrix, source, lib)
        yield source, matrix


def each_mix(quantscope, directory, source, matrix):
    """The model in every mix, and the floats that `dequantize` makes of it."""
    without = ["q8_0", "nvfp4", *MIXES]
    for scheme in [*without, *LOW_MIXES]:
        out, floats = directory / f"{source.stem}-quantized.gguf", directory / f"{source.stem}.safetensors"
        known = [] if scheme in without else ["--activations", matrix]
        run(quantscope, "quantize", source, "--scheme", scheme, "-o", out, "--force", "--quiet", *known)
        run(quantscope, "dequantize", out, "-o", floats, "--force", "--quiet")
        yield scheme, out, load(floats)


def check_logits(quantscope, directory, lib, models):
    lib.llama_backend_init()
    return sum(check_model(quantscope, directory, lib, source, matrix)
               for source, matrix in each_model(directory, lib, models))


def to_floats(llama, source, out):
    """llama.cpp makes a quantized file F32. In a process of its own, as it has another ggml."""
    code = ("import sys, check_ggml as c; llama = c.open_llama(c.Path(sys.argv[1]));"
            "params = llama.llama_model_quantize_default_params(); params.words[1] = 0;"
            "c.C.memset(c.C.byref(params, 16), 1, 1);"  # allow_requantize
            "sys.exit(llama.llama_model_quantize(*(a.encode() for a in sys.argv[2:]), c.C.byref(params)))")
    done = subprocess.run([sys.executable, "-c", code, llama, source, out], capture_output=True,
                          text=True, cwd=Path(__file__).parent)
    if done.returncode:
        sys.exit(f"llama.cpp does not make {source} F32\n{done.stderr[-2000:]}")


def check_floats(quantscope, directory, lib, models, llama):
    lib.llama_backend_init()
    wrong = 0
    for source, matrix in each_model(directory, lib, models):
        for scheme, out, weights in each_mix(quantscope, directory, source, matrix):
            theirs, plain = directory / "theirs.gguf", directory / "plain.gguf"
            to_floats(llama, out, theirs)
            with_tensors(plain, source, weights)
            tensors = stored(theirs, lib)
            differ = [name for name, (kind, raw) in tensors.items()
                      if kind != 0 or raw != weights[name].tobytes()]
            a, b = (logits(lib, path, TEXTS) for path in (theirs, plain))
            failed = bool(differ) or bool(cosines(a, b).min() < LEAST_COSINE)
            print(f"{source.stem} {scheme}: {len(tensors)} tensors, {len(differ)} differ; least cosine of logits"
                  f" {cosines(a, b).min():.7f}, largest difference {abs(a - b).max():g}{' DIFFERS' * failed}",
                  flush=True)
            wrong += failed
    return wrong


LAYERS = 2
LEAST_COSINE = 0.99999
TEXTS = [[1, *(ord(c) + 3 for c in text)] for text in ("for", "def", "self", "ret", "    ", "imp", "x=1", "# a")]


def check_model(quantscope, directory, lib, source, matrix):
    """Prints a line for each mix and returns the number of those that differ. An input close to the
    middle of two steps may be rounded to another step, which the rest of its text inherits: so half
    of the tokens must agree, and all of them must agree with llama.cpp's model of floats."""
    wrong, shape = 0, parameters(source)
    for scheme, out, weights in each_mix(quantscope, directory, source, matrix):
        plain = directory / "plain.gguf"
        with_tensors(plain, source, weights)
        a, b = (logits(lib, path, TEXTS) for path in (out, plain))
        rounded, exact = (np.concatenate([numpy_llama(weights, blocks, text, **shape) for text in TEXTS])
                          for blocks in (stored(out, lib), {}))
        same, floats_same, both = cosines(a, rounded), cosines(b, exact), cosines(a, b)
        failed = not (np.median(same) >= LEAST_COSINE and floats_same.min() >= LEAST_COSINE)
        print(f"{source.stem} {scheme}: loads; cosine of logits, median and least: {np.median(same):.7f}"
              f" {same.min():.7f} with the dequantized weights and inputs rounded to 8 bits;"
              f" {np.median(floats_same):.7f} {floats_same.min():.7f} of the dequantized model with its floats;"
              f" {np.median(both):.6f} {both.min():.6f} of the two in llama.cpp{' DIFFERS' * failed}", flush=True)
        wrong += failed
    return wrong


def with_tensors(path, source, tensors):
    """Writes the source's keys with these tensors in F32."""
    reader = gguf.GGUFReader(source)
    w = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            w.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        w.add_tensor(tensor.name, tensors[tensor.name].astype(np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


class ImportanceData(C.Structure):  # struct llama_model_imatrix_data
    _fields_ = [("name", C.c_char_p), ("data", C.POINTER(C.c_float)), ("size", C.c_size_t)]


def importance_matrix(path, source, lib):
    """An importance matrix in which the last expert of each layer received no inputs. Returns what
    llama-quantize makes of it."""
    rng = np.random.default_rng(5)
    w, means = gguf.GGUFWriter(path, "imatrix"), {}
    w.add_type("imatrix"); w.add_array("imatrix.datasets", ["none.txt"]); w.add_uint32("imatrix.chunk_count", 4)
    for tensor in gguf.GGUFReader(source).tensors:
        shape = [int(n) for n in tensor.shape]
        if len(shape) < 2 or "token_embd" in tensor.name or "ffn_gate_inp" in tensor.name:
            continue
        experts = shape[2] if len(shape) > 2 else 1
        sums = (rng.gamma(0.5, 1, (experts, shape[0])) * 100).astype(np.float32)
        counts = rng.integers(1, 90, (experts, 1)).astype(np.float32)
        if experts > 1:
            counts[-1], sums[-1] = 0, 0
        w.add_tensor(tensor.name + ".in_sum2", sums); w.add_tensor(tensor.name + ".counts", counts)
        means[tensor.name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)).astype(np.float32)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return means


def open_llama(llama):
    """A libllama that exports llama_model_quantize."""
    for name in ("libggml-base.so", "libggml.v0.5.0.so"):
        if (llama.parent / name).exists():
            C.CDLL(str(llama.parent / name), mode=C.RTLD_GLOBAL)
    other = C.CDLL(str(llama))
    other.llama_model_quantize_default_params.restype = Opaque
    other.llama_model_quantize.argtypes = [C.c_char_p, C.c_char_p, C.POINTER(Opaque)]
    other.llama_backend_init()
    return other


def check_mixes(quantscope, directory, lib, llama):
    other = open_llama(llama)
    wrong = 0
    for architecture, experts, feed in [("llama", 0, 512), ("llama", 8, 256), ("llama", 4, 256),
                                        ("qwen2moe", 8, 256), ("qwen3moe", 16, 256)]:
        source = directory / f"source-{architecture}-{experts}.gguf"
        matrix = source.with_suffix(".imatrix.gguf")
        tiny_llama(source, feed=feed, experts=experts, architecture=architecture)
        means = importance_matrix(matrix, source, lib)
        for known in (False, True):
            print(f"{architecture}, {experts} experts, importance: {'yes' if known else 'no'}", flush=True)
            wrong += compare_mixes(quantscope, directory, lib, other, source, matrix if known else None, means)
    return wrong


def file_type_of(path):
    """general.file_type, read without gguf-py, which lacks the newest types."""
    key, data = b"general.file_type", Path(path).read_bytes()
    at = data.index(key) + len(key) + 4
    return int.from_bytes(data[at:at + 4], "little")


def compare_mixes(quantscope, directory, lib, other, source, matrix, means):
    wrong = 0
    known = (ImportanceData * (len(means) + 1))()
    for entry, (name, values) in zip(known, means.items()):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(C.POINTER(C.c_float))
    options = ["--activations", matrix] if matrix else []
    for mix, file_type in (MIXES | LOW_MIXES if matrix else MIXES).items():
        ours, theirs = directory / "ours.gguf", directory / "theirs.gguf"
        run(quantscope, "quantize", source, "--scheme", mix, "-o", ours, "--force", "--quiet", *options)
        params = other.llama_model_quantize_default_params()
        params.words[1] = file_type
        if matrix:
            C.cast(C.byref(params, 24), C.POINTER(C.c_void_p))[0] = C.addressof(known)
        if other.llama_model_quantize(str(source).encode(), str(theirs).encode(), C.byref(params)):
            print(f"{mix}: llama_model_quantize fails")
            wrong += 1
            continue
        a, b = stored(ours, lib), stored(theirs, lib)
        types = [name for name in b if a[name][0] != b[name][0]]
        data = [name for name in b if a[name] != b[name]]
        kind = file_type_of(ours)
        print(f"{mix}: {len(b)} tensors, types differ in {len(types)}, bytes in {len(data)}, file type {kind}")
        if types:
            print(*(f"  {name}: {NAMES.get(a[name][0])}, llama.cpp {NAMES.get(b[name][0])}" for name in types), sep="\n")
        wrong += len(data) + (kind != file_type)
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantscope"); parser.add_argument("directory", type=Path)
    parser.add_argument("--llama", type=Path); parser.add_argument("--models", type=Path)
    parser.add_argument("--only", choices=["rows", "logits", "floats", "mixes"], action="append")
    a = parser.parse_args()
    a.directory.mkdir(parents=True, exist_ok=True)
    lib = open_ggml()
    parts, wrong = a.only or ["rows", "logits", "floats", "mixes"], 0
    if "rows" in parts:
        wrong += check_rows(a.quantscope, a.directory, lib)
    if "logits" in parts:
        wrong += check_logits(a.quantscope, a.directory, lib, a.models)
    if a.llama and "floats" in parts:
        wrong += check_floats(a.quantscope, a.directory, lib, a.models, a.llama)
    if a.llama and "mixes" in parts:
        wrong += check_mixes(a.quantscope, a.directory, lib, a.llama)
    print(f"differences: {wrong}")
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
