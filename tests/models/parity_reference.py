"""transformers' Qwen2.5-VL on parity_cases: every image and video shown is encoded afresh."""

import numpy as np
import torch

from medscope_jax.models import ModelConfig
from tests.models import parity_cases, torch_reference
from tests.models.parity_cases import Conversations

MINVERSION = "5.23"  # older ones cut second_per_grid_ts to whole seconds


def patches(config: ModelConfig, clip: np.ndarray) -> tuple[torch.Tensor, list[int]]:
    """(pixel values, grid_thw in patches) of one clip uint8 [T, H, W, 3]."""
    if len(clip) > 1:
        clip = np.concatenate([clip, clip[-1:]]) if len(clip) % 2 else clip
        clip = clip.reshape(-1, 2, *clip.shape[1:])
    else:
        clip = clip[:, None]
    pixels, grid = torch_reference.pixel_values(config, clip)
    return pixels, [len(clip), *grid[0, 1:].tolist()]


def tower(model, config: ModelConfig, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(visual tokens [t * S, D], every block's output [depth, t * P, D']) of one clip."""
    pixels, grid = patches(config, clip)
    states: list[np.ndarray] = []

    def keep(_module, _inputs, output):
        states.append(output.numpy())

    hooks = [block.register_forward_hook(keep) for block in model.model.visual.blocks]
    with torch.no_grad():
        tokens = model.model.visual(pixels, grid_thw=torch.tensor([grid])).pooler_output
    for hook in hooks:
        hook.remove()
    return tokens.numpy(), np.stack(states)


def inputs(config: ModelConfig, said: Conversations) -> dict[str, torch.Tensor]:
    """Everything that the reference's forward and generate take."""
    clips = parity_cases.make_clips()
    out = {
        "input_ids": torch.tensor(said.tokens, dtype=torch.long),
        "attention_mask": torch.tensor(said.valid, dtype=torch.long),
        "mm_token_type_ids": torch.tensor(said.kinds, dtype=torch.long),
    }
    names = {
        "images": ("pixel_values", "image_grid_thw"),
        "videos": ("pixel_values_videos", "video_grid_thw"),
    }
    for field, (pixels_name, grid_name) in names.items():
        if shown := getattr(said, field):
            pixels, grids = zip(*[patches(config, clips[clip]) for clip in shown], strict=True)
            out |= {pixels_name: torch.cat(pixels), grid_name: torch.tensor(grids)}
    if said.seconds:
        out["second_per_grid_ts"] = torch.tensor(said.seconds)
    return out


def positions(model, config: ModelConfig, said: Conversations) -> np.ndarray:
    """Positions [3, B, L] by get_rope_index."""
    given = inputs(config, said)
    given = {name: v for name, v in given.items() if not name.startswith("pixel_values")}
    return model.model.get_rope_index(**given)[0].numpy()


def logits(model, config: ModelConfig, said: Conversations) -> np.ndarray:
    """Logits [B, L, V]."""
    with torch.no_grad():
        return model(**inputs(config, said), use_cache=False).logits.float().numpy()


def generate(model, config: ModelConfig, said: Conversations, steps: int) -> np.ndarray:
    """Greedy continuations [B, steps] of left-padded conversations, by the model's generate."""
    given = inputs(config, said)
    with torch.no_grad():
        out = model.generate(
            **given, max_new_tokens=steps, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return out[:, given["input_ids"].shape[1] :].numpy()
