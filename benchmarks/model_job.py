"""The work of benchmarks/model.py, written to a folder so that either side can do it alone."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

# Conversations of a batch: frames first, then words; every side reads the same arrays.
SIZES = {
    "5m": {
        "batch": 8,
        "length": 512,
        "model": {
            "vision": {
                "depth": 2,
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_heads": 4,
                "window_size": 56,
                "fullatt_block_indexes": (1,),
            },
            "text": {
                "vocab_size": 2048,
                "hidden_size": 256,
                "intermediate_size": 704,
                "num_hidden_layers": 5,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "mrope_section": (8, 12, 12),
            },
        },
    },
    "100m": {
        "batch": 4,
        "length": 512,
        "model": {
            "vision": {
                "depth": 4,
                "hidden_size": 256,
                "intermediate_size": 768,
                "num_heads": 4,
                "window_size": 56,
                "fullatt_block_indexes": (1, 3),
            },
            "text": {
                "vocab_size": 8192,
                "hidden_size": 768,
                "intermediate_size": 2304,
                "num_hidden_layers": 13,
                "num_attention_heads": 12,
                "num_key_value_heads": 4,
                "mrope_section": (8, 12, 12),
            },
        },
    },
}
FRAMES, HEIGHT, WIDTH = 8, 56, 112  # of each conversation; pixels
NEW_TOKENS = 32  # greedy tokens of the sampling part
LEARNING_RATE = 1e-4


def write_job(folder: Path, size: str, seed: int = 0) -> int:
    """Writes weights (hub names), batch and configs of a size; returns the number of parameters."""
    import jax  # not at the top: the reference's side reads this file and runs without JAX

    from medscope_jax.models import count_params, export_hf, init_params, model_config
    from medscope_jax.models.hf import hf_config

    job = SIZES[size]
    model = model_config(job["model"])
    params = init_params(model, jax.random.key(seed))
    weights = {name: np.asarray(a) for name, a in export_hf(params, model).items()}
    save_file(weights, folder / "weights.safetensors")
    rng = np.random.default_rng(seed)
    merge, patch = model.vision.spatial_merge_size, model.vision.patch_size
    tokens_per_frame = (HEIGHT // patch // merge) * (WIDTH // patch // merge)
    batch, length = job["batch"], job["length"]
    # The last four ids are the reference's special ones.
    tokens = rng.integers(0, model.text.vocab_size - 4, (batch, length), dtype=np.int32)
    index = np.full((batch, length), -1, np.int32)
    # A word before and after each frame, as the chat form has: the reference tells them apart so.
    for frame in range(FRAMES):
        start = 1 + frame * (tokens_per_frame + 2)
        block = frame * tokens_per_frame + np.arange(tokens_per_frame)
        index[:, start : start + tokens_per_frame] = block
    frames = rng.integers(0, 256, (batch, FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    arrays = {"tokens": tokens, "visual_index": index, "frames": frames}
    save_file(arrays, folder / "batch.safetensors")
    facts = {"size": size, "hf_config": hf_config(model)}
    (folder / "job.json").write_text(json.dumps(facts))
    return count_params(model)


def read_job(folder: Path) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(facts, weights, batch) of a folder."""
    facts = json.loads((folder / "job.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    return facts, weights, load_file(folder / "batch.safetensors")
