"""Create a tiny mixture of experts and the recorded inputs of its layers.

    python tests/data/activations/experts/make.py

`model.safetensors`, `config.json`
    A Qwen3-MoE of one layer with four experts, as transformers saves it: one tensor per expert.
`inputs.safetensors`
    The inputs of its layers, recorded by `assets/record_activations.py`. In memory transformers 5
    has one parameter for the experts of a layer.
`expected.json`
    The mean squares of each expert's inputs, from a hook that runs the router again.

Made with transformers 5.24.0.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "assets"))
from record_activations import record  # noqa: E402

torch.manual_seed(0)
CONFIG = Qwen3MoeConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    moe_intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    num_experts=4,
    num_experts_per_tok=2,
    max_position_embeddings=64,
)
model = Qwen3MoeForCausalLM(CONFIG).to(torch.bfloat16).eval()
tokens = torch.randint(0, 32, (1, 12))
model.save_pretrained(HERE)
(HERE / "generation_config.json").unlink(missing_ok=True)
save_file(record(model, [tokens], dtype=torch.bfloat16), HERE / "inputs.safetensors")

# The rows that reach each expert, from the router's own choice.
block = model.model.layers[0].mlp
seen = {}


def keep(_module, arguments, _output):
    seen["hidden"] = arguments[0].reshape(-1, CONFIG.hidden_size)


hook = block.register_forward_hook(keep)
with torch.no_grad():
    model(tokens)
    hook.remove()
    scores = torch.nn.functional.linear(seen["hidden"], block.gate.weight)
    chosen = scores.float().softmax(-1).topk(CONFIG.num_experts_per_tok, -1).indices
expected = {}
for expert in range(CONFIG.num_experts):
    rows = seen["hidden"][(chosen == expert).any(-1)]
    expected[f"model.layers.0.mlp.experts.{expert}"] = {
        "rows": len(rows),
        "mean_square": rows.double().square().mean(0).tolist() if len(rows) else [],
    }
(HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
