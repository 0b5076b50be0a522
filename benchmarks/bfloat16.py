"""What bfloat16 costs, ours and PyTorch's: python -m benchmarks.bfloat16 [--json FILE]

The same random weights and the same conversations (text, images of three sizes, videos, a tool
conversation) run in float32 and in bfloat16, by our model and by transformers' in PyTorch with
either of its kinds of attention. Each is compared with its own float32: the largest and mean
difference of the logits over all positions that are no padding, and how often the likeliest token
stays the same. In PyTorch the rotary frequencies stay float32, as from_pretrained keeps them. Needs
torch and transformers.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from medscope_jax import models
from medscope_jax.arguments import Parser
from medscope_jax.errors import run_main
from medscope_jax.models import ModelConfig, TextConfig, VisionConfig
from tests.models import parity_cases, parity_model_cases

CONFIG = ModelConfig(
    vision=VisionConfig(
        depth=8,
        hidden_size=160,
        intermediate_size=432,
        num_heads=4,
        fullatt_block_indexes=(3, 7),
        out_hidden_size=448,
    ),
    text=TextConfig(
        vocab_size=4096,
        hidden_size=448,
        intermediate_size=1184,
        num_hidden_layers=8,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    ),
)
ATTENTION = ("eager", "sdpa")  # of transformers


def our_logits(config: ModelConfig, weights: dict, said) -> np.ndarray:
    """Our logits [B, L, V], in the config's dtype."""
    params = models.import_hf(weights, config)
    bank, rows = parity_model_cases.make_bank(params, config)
    return parity_model_cases.logits(params, config, said, bank, rows)


def their_logits(config: ModelConfig, weights: dict, said, dtype: str, attention: str):
    """The reference's logits [B, L, V] with parameters and activations of a dtype."""
    import torch

    from tests.models import parity_reference, torch_reference

    model = torch_reference.build(config, weights)
    model.set_attn_implementation(attention)
    for parameter in model.parameters():  # not its buffers: the rotary frequencies are among them
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return parity_reference.logits(model, config, said)


def divergence(exact: np.ndarray, rounded: np.ndarray) -> dict[str, float]:
    """How far logits [N, V] are from the float32 ones."""
    gap = np.abs(exact - rounded)
    same = exact.argmax(axis=-1) == rounded.argmax(axis=-1)
    return {"max": float(gap.max()), "mean": float(gap.mean()), "top1": float(same.mean())}


def measure(config: ModelConfig, weights: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Divergence of bfloat16 from the same program's float32: "ours", "eager", "sdpa".

    "float32" is ours from PyTorch's in float32, for scale.
    """
    rows = list(parity_cases.ROWS.values())
    said = parity_cases.lay_out(config, rows, parity_cases.LENGTH, left=False)
    narrow = dataclasses.replace(config, dtype="bfloat16", param_dtype="bfloat16")
    exact = our_logits(config, weights, said)[said.valid]
    out = {"ours": divergence(exact, our_logits(narrow, weights, said)[said.valid])}
    for attention in ATTENTION:
        theirs, rounded = (
            their_logits(config, weights, said, dtype, attention)[said.valid]
            for dtype in ("float32", "bfloat16")
        )
        out[attention] = divergence(theirs, rounded)
    return out | {"float32": divergence(theirs, exact)}


def main(argv: list[str]) -> None:
    """Measures and prints a table; --json FILE keeps the numbers."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    arguments = parser.parse_args(argv)
    results = measure(CONFIG, parity_cases.random_weights(CONFIG, boost=1))
    table = Table("model", "largest", "mean", "same likeliest token")
    names = {
        "ours": "ours",
        "eager": "PyTorch, eager attention",
        "sdpa": "PyTorch, scaled-dot-product attention",
        "float32": "ours from PyTorch, both in float32",
    }
    for key, name in names.items():
        row = results[key]
        table.add_row(name, f"{row['max']:.2g}", f"{row['mean']:.2g}", f"{row['top1']:.1%}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run_main(main)
