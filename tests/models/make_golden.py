"""Makes golden_qwen.npz with transformers: what the tests without PyTorch compare against.

    python -m tests.models.make_golden

Weights, frames and conversations are not stored: model_cases makes them again from their seeds.
"""

from pathlib import Path

import numpy as np

from medscope_jax.models import frame_grid
from tests.models import model_cases

TARGET = Path(__file__).with_name("golden_qwen.npz")
MODELS = {"tied": {}, "untied": {"kv_heads": 1, "tied": False, "window": 84, "full": (0, 2)}}
SIZES = ((28, 56), (84, 140))  # pixels; windows of 2 or 3 tokens a side do not divide the second
LENGTHS = (24, 40)  # of the conversations, padded to the longest


def golden_case(name: str, size: tuple[int, int]):
    """(config, weights, frames, (tokens, frame, valid), grid) of one golden case."""
    config = model_cases.tiny_config(**MODELS[name])
    grid = frame_grid(config, *size)
    rows = [
        model_cases.random_conversation(config, 6, grid[0] * grid[1], length, seed)
        for seed, length in enumerate(LENGTHS)
    ]
    weights = model_cases.random_state_dict(config, seed=7)
    frames = model_cases.random_frames(6, *size, seed=8)
    return config, weights, frames, model_cases.pad_rows(rows, max(LENGTHS)), grid


def main() -> None:
    """Runs the reference on every case and stores features, positions and logits."""
    from tests.models import torch_reference

    values = {}
    for name in MODELS:
        for size in SIZES:
            config, weights, frames, rows, grid = golden_case(name, size)
            model = torch_reference.build(config, weights)
            case = f"{name}-{size[0]}x{size[1]}"
            values[f"{case}/frames"] = torch_reference.features(model, config, frames[:, None])
            pairs = frames.reshape(3, 2, *frames.shape[1:])
            values[f"{case}/pairs"] = torch_reference.features(model, config, pairs)
            values[f"{case}/positions"] = torch_reference.positions(model, config, *rows, grid)
            values[f"{case}/logits"] = torch_reference.logits(model, config, *rows, frames)
    np.savez_compressed(TARGET, **values)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
