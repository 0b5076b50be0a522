"""The reference: transformers' Qwen2.5-VL on given weights. Only this file needs PyTorch."""

import numpy as np
import torch
import transformers

from medscope_jax.models import ModelConfig
from medscope_jax.models.hf.hf_config import hf_config

# What Qwen's image processor subtracts and divides by, on a 0 to 1 scale.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def build(config: ModelConfig, weights: dict[str, np.ndarray]) -> torch.nn.Module:
    """The reference model in float32 with these weights (hub names)."""
    model = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(**hf_config(config), attn_implementation="eager")
    )
    state = {_module_name(name): torch.from_numpy(array) for name, array in weights.items()}
    if config.text.tie_word_embeddings:
        state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def _module_name(name: str) -> str:
    if name.startswith("visual."):
        return "model." + name
    return name.replace("model.", "model.language_model.", 1)


def pixel_values(config: ModelConfig, clips: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches, grid_thw) of clips uint8 [N, t, H, W, 3], in the processor's order.

    A clip of one frame stands in both slots of the temporal patch, as the processor does.
    """
    vision = config.vision
    clips = np.broadcast_to(clips, (len(clips), vision.temporal_patch_size, *clips.shape[2:]))
    count, slots, height, width, channels = clips.shape
    patch, merge = vision.patch_size, vision.spatial_merge_size
    rows, columns = height // patch, width // patch
    x = (clips / 255.0 - MEAN) / STD
    x = x.transpose(0, 1, 4, 2, 3).reshape(
        count, slots, channels, rows // merge, merge, patch, columns // merge, merge, patch
    )
    x = x.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(count * rows * columns, -1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor([[1, rows, columns]] * count)


def features(model, config: ModelConfig, clips: np.ndarray) -> np.ndarray:
    """Visual tokens [N, S, D] of clips uint8 [N, t, H, W, 3], encoded in one call."""
    patches, grid = pixel_values(config, clips)
    with torch.no_grad():
        tokens = model.model.visual(patches, grid_thw=grid).pooler_output
    return tokens.reshape(len(clips), -1, config.text.hidden_size).numpy()


def inputs(model, tokens, index, valid, tokens_per_frame: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and mm_token_type_ids of padded conversations [B, L]."""
    is_frame = torch.tensor(index >= 0)
    ids = torch.tensor(tokens, dtype=torch.long)
    return {
        "input_ids": torch.where(is_frame, model.config.image_token_id, ids),
        "attention_mask": torch.tensor(valid, dtype=torch.long),
        "mm_token_type_ids": is_frame.long(),
    }


def shown_frames(index: np.ndarray, tokens_per_frame: int) -> np.ndarray:
    """Indices of the frames that conversations show, in reading order, row after row."""
    flat = index[(index >= 0) & (index % tokens_per_frame == 0)]
    return flat // tokens_per_frame


def positions(model, config, tokens, index, valid, grid: tuple[int, int]) -> np.ndarray:
    """M-RoPE position ids [3, B, L] by the reference's get_rope_index."""
    merge, size = config.vision.spatial_merge_size, grid[0] * grid[1]
    count = len(shown_frames(index, size))
    thw = torch.tensor([[1, grid[0] * merge, grid[1] * merge]] * count).reshape(count, 3)
    out, _ = model.model.get_rope_index(
        **inputs(model, tokens, index, valid, size), image_grid_thw=thw
    )
    return out.numpy()


def logits(model, config, tokens, index, valid, frames: np.ndarray) -> np.ndarray:
    """Logits [B, L, V] with every shown frame of `frames` [T, H, W, 3] encoded afresh."""
    unit = config.vision.patch_size * config.vision.spatial_merge_size
    size = (frames.shape[1] // unit) * (frames.shape[2] // unit)
    shown = shown_frames(index, size)
    images = {}
    if len(shown):
        patches, grid = pixel_values(config, frames[shown][:, None])
        images = {"pixel_values": patches, "image_grid_thw": grid}
    with torch.no_grad():
        out = model(**inputs(model, tokens, index, valid, size), **images, use_cache=False)
    return out.logits.numpy()
