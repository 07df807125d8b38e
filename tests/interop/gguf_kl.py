"""KL divergence of GGUF mixes and of budgets of the same size, on tiny trained models.

    python gguf_kl.py train DIRECTORY [NAME …]              (torch, gguf)
    python gguf_kl.py measure QUANTSCOPE DIRECTORY          (numpy, gguf, xllamacpp)

train    Trains four Llamas of 0.9 to 3 million parameters, and a Mixtral of 4 million with 8 experts,
         on bytes of Python's standard library, seeded, and writes each as F16 GGUF, with an
         importance matrix of its training text. A second run continues with the models that are
         missing.
measure  For each model and mix: the mix, and `--max-bytes` of the mix's size. The divergence is
         that of llama.cpp's perplexity program: the mean over the second half of each context of
         sum p (ln p - ln q) in nats, where p is the F16 model's and q the quantized model's.
"""

import ctypes as C
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import gguf
import numpy as np

# name, layers, width, feed, heads, key heads, experts, seed, steps, examples of a step
MODELS = [("a", 2, 256, 256, 8, 2, 0, 1, 300, 12), ("b", 2, 256, 512, 8, 8, 0, 2, 300, 12),
          ("c", 3, 256, 256, 4, 4, 0, 3, 300, 12), ("d", 2, 512, 512, 8, 4, 0, 4, 300, 12),
          ("moe", 2, 256, 256, 8, 4, 8, 5, 120, 8)]
MIXES = ["Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K"]
ACTIVE = 2  # experts of each token
VOCABULARY, CONTEXT, FIRST = 384, 128, 3
EVALUATED = 8  # contexts


def text():
    """Bytes of the standard library's sources: the end is kept for the evaluation."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return b"\n".join(path.read_bytes() for path in files)[:3_000_000]


def tokens(data):
    return np.frombuffer(data, np.uint8).astype(np.int64) + FIRST


def held_out():
    ids = tokens(text()[-200_000:])
    step = len(ids) // EVALUATED
    return [np.concatenate([[1], ids[i * step:i * step + CONTEXT - 1]]) for i in range(EVALUATED)]


def train(directory, names):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    data = torch.from_numpy(tokens(text()[:-200_000]))
    for name, layers, width, feed, heads, keys, experts, seed, steps, batch in MODELS:
        if (directory / f"{name}.gguf").exists() or names and name not in names:
            continue
        torch.manual_seed(seed)
        size, kv = width // heads, keys * width // heads
        shapes = {"token_embd": (VOCABULARY, width), "output_norm": (width,), "output": (VOCABULARY, width)}
        for i in range(layers):
            block = {"attn_norm": (width,), "ffn_norm": (width,), "attn_q": (width, width),
                     "attn_k": (kv, width), "attn_v": (kv, width), "attn_output": (width, width)}
            dense = {"ffn_gate": (feed, width), "ffn_up": (feed, width), "ffn_down": (width, feed)}
            if experts:
                block["ffn_gate_inp"] = (experts, width)
                dense = {n + "_exps": (experts, *s) for n, s in dense.items()}
            shapes |= {f"blk.{i}.{n}": s for n, s in (block | dense).items()}
        weights = {n: (torch.ones(s) if len(s) == 1 else torch.randn(s) * s[-1] ** -0.5).requires_grad_()
                   for n, s in shapes.items()}
        position = torch.arange(CONTEXT)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
        cos, sin = position.cos(), position.sin()
        squares = {}

        def linear(x, name):
            if squares is not None and not torch.is_grad_enabled():
                total, count = squares.get(name, (0, 0))
                flat = x.reshape(-1, x.shape[-1])
                squares[name] = (total + flat.square().sum(0), count + len(flat))
            return x @ weights[name].T

        def each_expert(x, name, chosen):
            """x has the inputs of each expert, or the same for all; chosen has its tokens."""
            x = x.expand(experts, *x.shape[-2:])
            if squares is not None and not torch.is_grad_enabled():
                total, count = squares.get(name, (0, 0))
                mask = chosen.T[..., None].float()
                squares[name] = (total + (x.square() * mask).sum(1), count + mask.sum(1))
            return torch.einsum("etn,emn->etm", x, weights[name])

        def feed_forward(h, p):
            if not experts:
                return linear(F.silu(linear(h, p + "ffn_gate")) * linear(h, p + "ffn_up"), p + "ffn_down")
            flat = h.reshape(-1, h.shape[-1])
            share = (flat @ weights[p + "ffn_gate_inp"].T).softmax(-1)
            top, which = share.topk(ACTIVE, -1)
            used = torch.zeros_like(share).scatter(-1, which, top / top.sum(-1, keepdim=True))
            x, chosen = flat[None], used > 0
            x = F.silu(each_expert(x, p + "ffn_gate_exps", chosen)) * each_expert(x, p + "ffn_up_exps", chosen)
            x = each_expert(x, p + "ffn_down_exps", chosen)
            return torch.einsum("te,etn->tn", used, x).reshape(h.shape)

        def rope(x):
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

        def norm(x, name):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weights[name]

        def forward(ids):
            x = weights["token_embd"][ids]
            for i in range(layers):
                p = f"blk.{i}."
                h = norm(x, p + "attn_norm")
                split = lambda y, n: y.view(*ids.shape, n, size).transpose(1, 2)
                q = rope(split(linear(h, p + "attn_q"), heads))
                k = rope(split(linear(h, p + "attn_k"), keys)).repeat_interleave(heads // keys, 1)
                v = split(linear(h, p + "attn_v"), keys).repeat_interleave(heads // keys, 1)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + linear(y.transpose(1, 2).reshape(*ids.shape, width), p + "attn_output")
                h = norm(x, p + "ffn_norm")
                x = x + feed_forward(h, p)
            return linear(norm(x, "output_norm"), "output")

        optimizer = torch.optim.AdamW(weights.values(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        def sample():
            at = torch.randint(len(data) - CONTEXT - 1, (batch,))
            return torch.stack([data[i:i + CONTEXT + 1] for i in at])
        for step in range(steps):
            ids = sample()
            loss = F.cross_entropy(forward(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad(); loss.backward(); optimizer.step(); schedule.step()
        with torch.no_grad():
            for _ in range(8):
                forward(sample()[:, :-1])
        write_importance(directory / f"{name}.imatrix.gguf", squares)
        unfinished = directory / f"{name}.gguf.unfinished"
        write(unfinished, weights, layers, width, feed, heads, keys, experts)
        unfinished.rename(directory / f"{name}.gguf")
        print(f"{name}: {sum(w.numel() for w in weights.values())} parameters, loss {loss.item():.3f}", flush=True)


def write(path, weights, layers, width, feed, heads, keys, experts):
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(path.name.split(".")[0]); w.add_block_count(layers); w.add_context_length(CONTEXT)
    w.add_embedding_length(width); w.add_feed_forward_length(feed); w.add_head_count(heads)
    w.add_head_count_kv(keys); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(10000.0)
    w.add_vocab_size(VOCABULARY); w.add_rope_dimension_count(width // heads)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if experts:
        w.add_expert_count(experts); w.add_expert_used_count(ACTIVE)
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    w.add_tokenizer_model("llama"); w.add_tokenizer_pre("default")
    w.add_token_list(names + ["w%d" % i for i in range(VOCABULARY - len(names))])
    w.add_token_scores([0.0] * 3 + [-1000.0] * (VOCABULARY - 3))
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - len(names)))
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0)
    for name, tensor in weights.items():
        x = tensor.detach().numpy()
        floats = x.ndim == 1 or "ffn_gate_inp" in name
        w.add_tensor(f"{name}.weight", x.astype(np.float32 if floats else np.float16))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def write_importance(path, squares):
    w = gguf.GGUFWriter(path, "imatrix")
    w.add_type("imatrix"); w.add_array("imatrix.datasets", ["stdlib"])
    w.add_uint32("imatrix.chunk_count", 8); w.add_uint32("imatrix.chunk_size", CONTEXT)
    for name, (total, count) in squares.items():
        total = total.numpy().astype(np.float32)
        w.add_tensor(f"{name}.weight.in_sum2", total.reshape(-1, total.shape[-1]))
        w.add_tensor(f"{name}.weight.counts", np.array(count, np.float32).reshape(-1, 1))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


class Opaque(C.Structure):
    _fields_ = [("words", C.c_uint32 * 128)]


class Batch(C.Structure):
    _fields_ = [("tokens", C.c_int32)] + [(f"p{i}", C.c_void_p) for i in range(6)]


def open_llama():
    import xllamacpp
    lib = C.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
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
    lib.llama_model_free.argtypes = [C.c_void_p]
    lib.llama_free.argtypes = [C.c_void_p]
    lib.llama_backend_init()
    return lib


def log_probabilities(lib, path):
    """Of each next token in the second half of each context."""
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp does not load {path}")
    rows = []
    for ids in held_out():
        context = lib.llama_init_from_model(model, lib.llama_context_default_params())
        for place, token in enumerate(ids):
            one = (C.c_int32 * 1)(int(token))
            if lib.llama_decode(context, lib.llama_batch_get_one(one, 1)):
                sys.exit(f"llama.cpp does not run {path}")
            if place >= CONTEXT // 2:
                x = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (VOCABULARY,))
                x = x.astype(np.float64)
                x = x - x.max()
                rows.append(x - np.log(np.exp(x).sum()))
        lib.llama_free(context)
    lib.llama_model_free(model)
    return np.stack(rows)


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments}\n{done.stdout}{done.stderr}")
    return done.stdout


def measure(quantscope, directory):
    lib = open_llama()
    print("model  mix      importance      bytes   KL mix  KL budget  ratio  budget's types")
    better = {}
    for name, *_ in MODELS:
        source = directory / f"{name}.gguf"
        if not source.exists():
            continue
        p = log_probabilities(lib, source)
        kl = lambda path: float((np.exp(p) * (p - log_probabilities(lib, path))).sum(-1).mean())
        for importance in ([], ["--activations", directory / f"{name}.imatrix.gguf"]):
            for mix in MIXES:
                fixed, chosen = directory / "mix.gguf", directory / "budget.gguf"
                run(quantscope, "quantize", source, "--scheme", mix, "-o", fixed, "--force", "--quiet", *importance)
                size = int(json.loads(run(quantscope, "inspect", fixed, "--json"))["totals"]["bytes"])
                run(quantscope, "quantize", source, "--format", "gguf", "--max-bytes", size, "-o", chosen,
                    "--force", "--quiet", *importance)
                found = json.loads(run(quantscope, "inspect", chosen, "--json"))
                kinds = {}
                for tensor in found["tensors"]:
                    if len(tensor["shape"]) > 1:
                        kinds[tensor["dtype"]] = kinds.get(tensor["dtype"], 0) + 1
                a, b = kl(fixed), kl(chosen)
                known = "yes" if importance else "no"
                better.setdefault((mix, known), []).append(b < a)
                print(f"{name:6} {mix:8} {known:10} {size:10} {a:8.5f} {b:10.5f} {b / a:6.2f}  "
                      + ", ".join(f"{k} {n}" for k, n in sorted(kinds.items())), flush=True)
    for (mix, known), wins in better.items():
        print(f"{mix}, importance {known}: the budget is better for {sum(wins)} of {len(wins)} models")


def main():
    command, *rest = sys.argv[1:]
    if command == "train":
        Path(rest[0]).mkdir(parents=True, exist_ok=True)
        train(Path(rest[0]), rest[1:])
    else:
        measure(rest[0], Path(rest[1]))


main()
